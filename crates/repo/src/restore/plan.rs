//! The first pass: folders are made, every file's pieces are found, and handed on in windows.
//!
//! A window holds some thousand files and pieces and is filled while the next one is planned. So memory does
//! not grow with the restore point, and blobs that lie together in a pack are still read together, because
//! a backup writes neighbours into neighbouring places.

use std::{
    collections::HashMap,
    ops::Range,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use kuramori_model::tree::TreePath;

use super::{RestoreOptions, Shared, standing};
use crate::{
    Cancel, Error, Result,
    format::{
        blob::{BlobId, BlobKind, PackedBlob},
        node::{Node, NodeKind},
        snapshot::Snapshot,
    },
    repository::{Indexed, Repository},
    store::FileId,
    walk::Descend,
};

/// Files of one window.
const FILES_MAX: usize = 4096;
/// Pieces of one window; a large file goes through several.
const PIECES_MAX: usize = 16_384;

/// A file on its way.
#[derive(Debug)]
pub(super) struct File {
    /// Its place below the target.
    pub(super) path: TreePath,
    pub(super) node: Node,
    /// Pieces that are not written yet.
    pub(super) left: AtomicU32,
    failed: AtomicBool,
}

impl File {
    /// Marks the file as one that cannot be whole. Gives whether it was not marked before.
    pub(super) fn fail(&self) -> bool {
        !self.failed.swap(true, Ordering::AcqRel)
    }

    pub(super) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

/// Where a blob goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Destination {
    /// Position in [`Window::files`].
    pub(super) file: u32,
    /// First byte in the file.
    pub(super) offset: u64,
}

/// A blob of a pack and all its destinations.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) pack: FileId,
    pub(super) blob: PackedBlob,
    /// Positions in [`Window::destinations`].
    pub(super) destinations: Range<usize>,
}

/// Work that is planned and can be done without looking elsewhere.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) files: Vec<Arc<File>>,
    pub(super) destinations: Vec<Destination>,
    /// By pack and offset.
    pub(super) pieces: Vec<Piece>,
    /// Files without content: no blob leads to them.
    pub(super) empty: Vec<Arc<File>>,
}

/// A second name of a file.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) path: TreePath,
    pub(super) first: Arc<File>,
}

/// What is done after all files: links, special files, and the folders' own attributes.
#[derive(Debug, Default)]
pub(super) struct Rest {
    pub(super) folders: Vec<(TreePath, Node)>,
    pub(super) links: Vec<Link>,
    /// Symbolic links, devices, pipes, sockets.
    pub(super) specials: Vec<(TreePath, Node)>,
}

/// Walks the restore point. Folders exist afterwards; files were handed to `emit`, window by window.
pub(super) fn make(
    shared: &Shared<'_>,
    snapshot: &Snapshot,
    cancel: &Cancel,
    emit: &mut dyn FnMut(Window) -> Result<()>,
) -> Result<Rest> {
    let mut planner = Planner {
        shared,
        rest: Rest::default(),
        first_names: HashMap::new(),
        wanted: Vec::new(),
        window: Window::default(),
        emit,
    };
    let repository: &Repository<Indexed> = shared.repository;
    let root = match &shared.options.subpath {
        None => snapshot.tree,
        Some(subpath) => {
            let node = repository.find_node(&snapshot.tree, subpath)?;
            match node.subtree {
                Some(tree) => tree,
                None => {
                    let path = TreePath::new(node.name.clone())
                        .map_err(|bad| Error::Damaged { file: subpath.to_string(), why: bad.to_string() })?;
                    planner.take(&path, &node)?;
                    planner.flush()?;
                    return Ok(planner.rest);
                }
            }
        }
    };
    repository.walk(&root, cancel, &mut |path, node| planner.take(path, node))?;
    planner.flush()?;
    Ok(planner.rest)
}

struct Planner<'a> {
    shared: &'a Shared<'a>,
    rest: Rest,
    /// The first name of each file with several, by device and inode, with its content's fingerprint.
    first_names: HashMap<(u64, u64), (Arc<File>, BlobId)>,
    /// Pieces of the window, without a place yet.
    wanted: Vec<(BlobId, Destination)>,
    window: Window,
    emit: &'a mut dyn FnMut(Window) -> Result<()>,
}

/// The place of an item below the target.
pub(super) fn place(options: &RestoreOptions, path: &TreePath) -> PathBuf {
    options.target.join(Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())))
}

/// One id for a list of pieces.
fn fingerprint(content: &[BlobId]) -> BlobId {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for id in content {
        digest.update(&id.0);
    }
    let mut id = BlobId::default();
    id.0.copy_from_slice(digest.finish().as_ref());
    id
}

impl Planner<'_> {
    fn take(&mut self, path: &TreePath, node: &Node) -> Result<Descend> {
        if let Err(error) = self.make_room(path, node.kind) {
            self.shared.shortfalls.note(path, &error, false);
            return Ok(Descend::Past);
        }
        match node.kind {
            NodeKind::Dir => self.rest.folders.push((path.clone(), node.clone())),
            NodeKind::File if node.links > 1 && node.inode != 0 => {
                let identity = (node.device_id, node.inode);
                let content = fingerprint(node.content.as_deref().unwrap_or_default());
                match self.first_names.get(&identity) {
                    // A number that was given to another file while the backup ran does not make them one.
                    Some((first, same)) if *same == content => {
                        if self.shared.options.resume {
                            let _ = fs_err::remove_file(place(self.shared.options, path));
                        }
                        self.rest.links.push(Link { path: path.clone(), first: Arc::clone(first) });
                    }
                    Some(_) => drop(self.file(path, node)?),
                    None => {
                        let file = self.file(path, node)?;
                        self.first_names.insert(identity, (file, content));
                    }
                }
            }
            NodeKind::File => drop(self.file(path, node)?),
            _ => self.rest.specials.push((path.clone(), node.clone())),
        }
        Ok(Descend::Into)
    }

    /// Makes folders; removes what stands where something else belongs.
    fn make_room(&self, path: &TreePath, kind: NodeKind) -> std::io::Result<()> {
        let options = self.shared.options;
        let replaces = options.overwrite || options.resume;
        if kind != NodeKind::Dir && !replaces {
            return Ok(());
        }
        let place = place(options, path);
        if replaces && let Ok(standing) = fs_err::symlink_metadata(&place) {
            if options.resume && standing::may_stay(&place, &standing, kind)? {
                return Ok(());
            }
            match (standing.is_dir(), kind == NodeKind::Dir) {
                (true, true) => return Ok(()),
                (true, false) => fs_err::remove_dir_all(&place)?,
                (false, _) => fs_err::remove_file(&place)?,
            }
        }
        if kind != NodeKind::Dir {
            return Ok(());
        }
        match fs_err::create_dir(&place) {
            // The `lost+found` that a fresh file system has.
            Err(error)
                if error.kind() == std::io::ErrorKind::AlreadyExists
                    && fs_err::symlink_metadata(&place)?.is_dir() =>
            {
                Ok(())
            }
            other => other,
        }
    }

    fn file(&mut self, path: &TreePath, node: &Node) -> Result<Arc<File>> {
        let content = node.content.as_deref().unwrap_or_default();
        let file = Arc::new(File {
            path: path.clone(),
            left: AtomicU32::new(u32::try_from(content.len()).unwrap_or(u32::MAX)),
            failed: AtomicBool::new(false),
            node: Node { content: None, ..node.clone() },
        });
        let lengths: Option<Vec<u32>> = self
            .shared
            .repository
            .with_index(|index| content.iter().map(|id| index.plain_len(BlobKind::Data, id)).collect());
        let whole = lengths.as_ref().map(|lengths| lengths.iter().map(|length| u64::from(*length)).sum());
        let (Some(lengths), true) = (lengths, whole == Some(node.size)) else {
            let why = if whole.is_some() {
                "its pieces do not add up to its size"
            } else {
                "no index file names one of its pieces"
            };
            let error = Error::Damaged { file: path.to_string(), why: why.to_owned() };
            self.shared.fail(&file, &error, true);
            return Ok(file);
        };
        self.shared.progress.plan(1, node.size);
        let wanted = self.wanted_pieces(path, node, &lengths);
        file.left.store(u32::try_from(wanted.len()).unwrap_or(u32::MAX), Ordering::Release);
        if wanted.is_empty() {
            self.window.empty.push(Arc::clone(&file));
        }
        let mut number = None;
        for (id, offset) in wanted {
            let place = *number.get_or_insert_with(|| {
                self.window.files.push(Arc::clone(&file));
                self.window.files.len() - 1
            });
            let place =
                u32::try_from(place).map_err(|_| Error::Bug { what: "a window is full".to_owned() })?;
            self.wanted.push((id, Destination { file: place, offset }));
            if self.wanted.len() >= PIECES_MAX {
                self.flush()?;
                number = None;
            }
        }
        if self.window.files.len() + self.window.empty.len() >= FILES_MAX {
            self.flush()?;
        }
        Ok(file)
    }

    /// The pieces of a file that have to be written, each with its first byte: all of them, unless a restore
    /// that was cut off left some that are right.
    fn wanted_pieces(&self, path: &TreePath, node: &Node, lengths: &[u32]) -> Vec<(BlobId, u64)> {
        let mut offset = 0;
        let mut pieces: Vec<_> = node
            .content
            .iter()
            .flatten()
            .zip(lengths)
            .map(|(id, length)| {
                let first = offset;
                offset += u64::from(*length);
                (*id, first)
            })
            .collect();
        if self.shared.options.resume && !pieces.is_empty() {
            let mut stands =
                standing::pieces(&place(self.shared.options, path), &pieces, node.size).into_iter();
            let kept = stands.clone().zip(lengths).filter(|(stands, _)| *stands);
            let kept: u64 = kept.map(|(_, length)| u64::from(*length)).sum();
            self.shared.progress.done(0, kept);
            pieces.retain(|_| !stands.next().unwrap_or(false));
        }
        pieces
    }

    /// Gives each wanted blob a pack, one that is needed anyway where there is a choice, and hands the
    /// window on.
    fn flush(&mut self) -> Result<()> {
        let mut window = std::mem::take(&mut self.window);
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.sort_unstable_by_key(|(id, to)| (*id, to.file, to.offset));
        window.destinations = wanted.iter().map(|(_, to)| *to).collect();
        let mut used = std::collections::HashSet::new();
        let mut start = 0;
        for same in wanted.chunk_by(|(a, _), (b, _)| a == b) {
            let id = same[0].0;
            let places = self.shared.repository.with_index(|index| index.locations(BlobKind::Data, &id));
            let chosen = places.iter().find(|place| used.contains(&place.pack)).or(places.first());
            let Some(place) = chosen else {
                return Err(Error::Bug { what: format!("blob {id} vanished from the index") });
            };
            used.insert(place.pack);
            let end = start + same.len();
            window.pieces.push(Piece { pack: place.pack, blob: place.blob, destinations: start..end });
            start = end;
        }
        window.pieces.sort_unstable_by_key(|piece| (piece.pack, piece.blob.offset));
        if window.files.is_empty() && window.empty.is_empty() {
            return Ok(());
        }
        (self.emit)(window)
    }
}
