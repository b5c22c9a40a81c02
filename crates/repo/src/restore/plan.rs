//! The first pass: folders are made, every file's pieces are found.

use std::{
    collections::HashMap,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use kuramori_model::tree::TreePath;

use super::{RestoreOptions, Shortfalls, standing};
use crate::{
    Cancel, Error, Result,
    format::{
        blob::{BlobId, BlobKind, PackedBlob},
        node::{Node, NodeKind},
        snapshot::Snapshot,
    },
    progress::Progress,
    repository::{Indexed, Repository},
    store::FileId,
    walk::Descend,
};

/// A file on its way.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: TreePath,
    pub(super) place: PathBuf,
    pub(super) node: Node,
    /// Pieces that are not written yet.
    pub(super) left: AtomicU32,
    failed: AtomicBool,
}

impl File {
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Where a blob goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Destination {
    /// Position in [`Plan::files`].
    pub(super) file: u32,
    /// First byte in the file.
    pub(super) offset: u64,
}

/// A blob of a pack and all its destinations.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) blob: PackedBlob,
    pub(super) destinations: Vec<Destination>,
}

/// A second name of a file.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) path: TreePath,
    pub(super) place: PathBuf,
    /// Position of the first name in [`Plan::files`].
    pub(super) first: usize,
}

/// Everything that is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) files: Vec<File>,
    pub(super) folders: Vec<(TreePath, PathBuf, Node)>,
    pub(super) links: Vec<Link>,
    /// Symbolic links, devices, pipes, sockets.
    pub(super) specials: Vec<(TreePath, PathBuf, Node)>,
    /// The pieces of each pack, by offset.
    pub(super) packs: Vec<(FileId, Vec<Piece>)>,
}

/// Walks the restore point. Folders exist afterwards; everything else is only planned.
pub(super) fn make(
    repository: &Repository<Indexed>,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    progress: &Progress,
    cancel: &Cancel,
    shortfalls: &Shortfalls,
) -> Result<Plan> {
    let mut planner = Planner {
        repository,
        options,
        progress,
        shortfalls,
        plan: Plan::default(),
        first_names: HashMap::new(),
        wanted: HashMap::new(),
    };
    let root = match &options.subpath {
        None => snapshot.tree,
        Some(subpath) => {
            let node = repository.find_node(&snapshot.tree, subpath)?;
            match node.subtree {
                Some(tree) => tree,
                None => {
                    let path = TreePath::new(node.name.clone())
                        .map_err(|bad| Error::Damaged { file: subpath.to_string(), why: bad.to_string() })?;
                    planner.take(&path, &node);
                    return planner.locate();
                }
            }
        }
    };
    repository.walk(&root, cancel, &mut |path, node| Ok(planner.take(path, node)))?;
    planner.locate()
}

struct Planner<'a> {
    repository: &'a Repository<Indexed>,
    options: &'a RestoreOptions,
    progress: &'a Progress,
    shortfalls: &'a Shortfalls,
    plan: Plan,
    /// The position of each file with several names, by device and inode.
    first_names: HashMap<(u64, u64), usize>,
    wanted: HashMap<BlobId, Vec<Destination>>,
}

impl Planner<'_> {
    fn take(&mut self, path: &TreePath, node: &Node) -> Descend {
        let place = self.options.target.join(Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())));
        if let Err(error) = self.make_room(&place, node.kind) {
            self.shortfalls.note(path, &error, false);
            return Descend::Past;
        }
        match node.kind {
            NodeKind::Dir => self.plan.folders.push((path.clone(), place, node.clone())),
            NodeKind::File if node.links > 1 && node.inode != 0 => {
                let identity = (node.device_id, node.inode);
                if let Some(first) = self.first_names.get(&identity) {
                    if self.options.resume {
                        let _ = fs_err::remove_file(&place);
                    }
                    self.plan.links.push(Link { path: path.clone(), place, first: *first });
                } else {
                    self.first_names.insert(identity, self.plan.files.len());
                    self.file(path, place, node);
                }
            }
            NodeKind::File => self.file(path, place, node),
            _ => self.plan.specials.push((path.clone(), place, node.clone())),
        }
        Descend::Into
    }

    /// Makes folders; removes what stands where something else belongs.
    fn make_room(&self, place: &Path, kind: NodeKind) -> std::io::Result<()> {
        if (self.options.overwrite || self.options.resume)
            && let Ok(standing) = fs_err::symlink_metadata(place)
        {
            if self.options.resume && standing::may_stay(place, &standing, kind)? {
                return Ok(());
            }
            match (standing.is_dir(), kind == NodeKind::Dir) {
                (true, true) => return Ok(()),
                (true, false) => fs_err::remove_dir_all(place)?,
                (false, _) => fs_err::remove_file(place)?,
            }
        }
        if kind == NodeKind::Dir { fs_err::create_dir(place) } else { Ok(()) }
    }

    fn file(&mut self, path: &TreePath, place: PathBuf, node: &Node) {
        let number = u32::try_from(self.plan.files.len()).expect("a restore has fewer than 2^32 files");
        let content = node.content.as_deref().unwrap_or_default();
        let mut offset = 0;
        let mut known = true;
        let mut destinations = Vec::with_capacity(content.len());
        self.repository.with_index(|index| {
            for id in content {
                let Some(length) = index.plain_len(BlobKind::Data, id) else {
                    known = false;
                    return;
                };
                destinations.push((*id, Destination { file: number, offset }));
                offset += u64::from(length);
            }
        });
        let mut kept = 0;
        if self.options.resume && known && offset == node.size {
            let pieces: Vec<_> = destinations.iter().map(|(id, to)| (*id, to.offset)).collect();
            let stands = standing::pieces(&place, &pieces, node.size);
            let all = destinations.iter().zip(&stands);
            kept = all.filter(|(_, stands)| **stands).count();
            let mut stands = stands.into_iter();
            destinations.retain(|_| !stands.next().unwrap_or(false));
        }
        let file = File {
            path: path.clone(),
            place,
            left: AtomicU32::new(u32::try_from(destinations.len()).unwrap_or(u32::MAX)),
            failed: AtomicBool::new(false),
            node: Node { content: None, ..node.clone() },
        };
        if !known || offset != node.size {
            let why = if known {
                "its pieces do not add up to its size"
            } else {
                "no index file names one of its pieces"
            };
            let error = Error::Damaged { file: path.to_string(), why: why.to_owned() };
            self.shortfalls.note(path, &error, true);
            file.fail();
        } else {
            self.progress.plan(1, node.size);
            if kept > 0 {
                let missing: u64 = destinations.iter().map(|(id, _)| self.plain_len(id)).sum();
                self.progress.done(0, node.size.saturating_sub(missing));
            }
            for (id, destination) in destinations {
                self.wanted.entry(id).or_default().push(destination);
            }
        }
        self.plan.files.push(file);
    }

    fn plain_len(&self, id: &BlobId) -> u64 {
        self.repository.with_index(|index| index.plain_len(BlobKind::Data, id)).map_or(0, u64::from)
    }

    /// Gives each wanted blob a pack: one that is needed anyway where there is a choice.
    fn locate(mut self) -> Result<Plan> {
        let mut packs: HashMap<FileId, Vec<Piece>> = HashMap::new();
        for (id, destinations) in std::mem::take(&mut self.wanted) {
            let locations = self.repository.with_index(|index| index.locations(BlobKind::Data, &id));
            let chosen =
                locations.iter().find(|location| packs.contains_key(&location.pack)).or(locations.first());
            let Some(location) = chosen else {
                return Err(Error::Bug { what: format!("blob {id} vanished from the index") });
            };
            packs.entry(location.pack).or_default().push(Piece { blob: location.blob, destinations });
        }
        self.plan.packs = packs.into_iter().collect();
        self.plan.packs.sort_unstable_by_key(|(id, _)| *id);
        for (_, pieces) in &mut self.plan.packs {
            pieces.sort_unstable_by_key(|piece| piece.blob.offset);
        }
        Ok(self.plan)
    }
}
