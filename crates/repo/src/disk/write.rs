//! Putting a disk into a restore point, whole or as what changed.

use std::{collections::HashMap, ops::Range, sync::Arc};

use kuramori_model::{
    blocks::{BlockError, Blocks},
    tree::{Sink, TreePath},
};

use super::{CHUNK, FILE, SEGMENT, folder_of, segment, segment_name, segments};
use crate::{
    Error, Result,
    backup::{Backup, Change, ChunkTask, FileWork},
    bits::Bits,
    chunk::Chunking,
    format::{
        blob::{BlobId, BlobKind},
        node::{Node, NodeKind},
    },
};

/// Where a disk changed since a restore point, as a hypervisor keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirty {
    /// The mark of the disk since which it counts; see [`crate::Repository::disk_mark`].
    pub since: BlobId,
    /// The disk's size then, in bytes.
    pub size: u64,
    /// Bytes that may have changed; more than really changed does no harm. In any order.
    pub ranges: Vec<Range<u64>>,
}

/// Why all of a disk was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Whole {
    /// Nobody said what changed.
    NoMap,
    /// There is no previous restore point with this disk.
    NoParent,
    /// The map counts since another restore point.
    OtherMark,
    /// The disk had another size.
    OtherSize,
    /// The previous restore point's disk cannot be read.
    ParentUnreadable,
}

/// What storing a disk took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct DiskStored {
    /// The disk's size in bytes.
    pub size: u64,
    /// Bytes that were read from it.
    pub read: u64,
    /// Bytes that were taken over from the previous restore point.
    pub kept: u64,
    /// Bytes of holes that were not read.
    pub holes: u64,
    /// Why nothing could be taken over; none for an increment.
    pub whole: Option<Whole>,
}

/// What the parent has, if the map of changes fits to it.
struct Basis {
    segments: Vec<BlobId>,
    changed: Bits,
}

/// The chunk's number, its place and its length.
fn chunks(from: u64, end: u64) -> impl Iterator<Item = (usize, u64, usize)> {
    (from / CHUNK..end.div_ceil(CHUNK)).map(move |number| {
        let at = number * CHUNK;
        // Fits: a chunk has a MiB, and their number was counted before.
        (
            usize::try_from(number).unwrap_or(usize::MAX),
            at,
            usize::try_from((end - at).min(CHUNK)).unwrap_or(0),
        )
    })
}

impl Backup {
    /// Stores a disk under `NAME.segments`. With a map of changes that fits the previous restore point only what it
    /// names is read. A disk that cannot be read ends the backup: half a disk is no disk.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the backup does not cut in fixed chunks; [`Error::Io`] if the disk cannot be read.
    pub fn put_disk(
        &mut self,
        name: &TreePath,
        disk: &dyn Blocks,
        dirty: Option<&Dirty>,
    ) -> Result<DiskStored> {
        let folder =
            folder_of(name).ok_or_else(|| Error::Bug { what: "a disk without a name".to_owned() })?;
        if self.session().options.chunking != Chunking::Fixed {
            return Err(Error::Invalid {
                what: format!("the disk `{name}` cannot be cut by its content"),
                hint: "back up disks with chunks of fixed size".to_owned(),
            });
        }
        let size = disk.size();
        let mut stored = DiskStored { size, ..DiskStored::default() };
        let basis = match self.basis(&folder, size, dirty) {
            Ok(basis) => Some(basis),
            Err(whole) => {
                stored.whole = Some(whole);
                None
            }
        };
        // An empty disk still has its folder.
        self.folder(folder.as_bytes());
        let mut zeros = HashMap::new();
        for number in 0..size.div_ceil(SEGMENT) {
            self.check()?;
            let put = self.put_segment(&folder, number, disk, basis.as_ref(), &mut zeros, &mut stored);
            if let Err(error) = put {
                self.session().cancel();
                return Err(error);
            }
        }
        self.seal(&folder).map_err(|_| Error::Cancelled)?;
        Ok(stored)
    }

    fn basis(
        &mut self,
        folder: &TreePath,
        size: u64,
        dirty: Option<&Dirty>,
    ) -> std::result::Result<Basis, Whole> {
        let dirty = dirty.ok_or(Whole::NoMap)?;
        let node = self.parent_node(folder).ok_or(Whole::NoParent)?;
        let mark = node.subtree.ok_or(Whole::NoParent)?;
        if mark != dirty.since {
            return Err(Whole::OtherMark);
        }
        let tree = self.parent_tree(folder.as_bytes()).ok_or(Whole::ParentUnreadable)?;
        let segments = segments(&tree).map_err(|_| Whole::ParentUnreadable)?;
        let last = segments.last().map(|last| segment(&self.session().repo, last).map(|node| node.size));
        let theirs = match (segments.len() as u64).checked_sub(1).zip(last) {
            Some((before, Ok(last))) => before * SEGMENT + last,
            Some((_, Err(_))) => return Err(Whole::ParentUnreadable),
            None => 0,
        };
        if dirty.size != size || theirs != size {
            return Err(Whole::OtherSize);
        }
        let mut changed = Bits::new(usize::try_from(size.div_ceil(CHUNK)).map_err(|_| Whole::OtherSize)?);
        for range in &dirty.ranges {
            if range.start < range.end {
                for (number, ..) in chunks(range.start, range.end.min(size)) {
                    changed.insert(number);
                }
            }
        }
        Ok(Basis { segments, changed })
    }

    fn put_segment(
        &mut self,
        folder: &TreePath,
        number: u64,
        disk: &dyn Blocks,
        basis: Option<&Basis>,
        zeros: &mut HashMap<usize, BlobId>,
        stored: &mut DiskStored,
    ) -> Result<()> {
        let session = Arc::clone(self.session());
        let from = number * SEGMENT;
        let end = (from + SEGMENT).min(stored.size);
        session.count_found(1, end - from);
        let name = segment_name(number);
        let mut kept: Vec<Option<BlobId>> = Vec::new();
        if let Some(basis) = basis {
            let tree = &basis.segments[usize::try_from(number).unwrap_or(usize::MAX)];
            // A list that cannot be read, or a piece that is gone: then that part is read again.
            let ids = segment(&session.repo, tree)
                .ok()
                .filter(|node| node.size == end - from)
                .and_then(|node| node.content)
                .filter(|ids| ids.len() as u64 == (end - from).div_ceil(CHUNK))
                .unwrap_or_default();
            kept = chunks(from, end)
                .zip(ids)
                .map(|((chunk, ..), id)| {
                    (!basis.changed.contains(chunk) && session.has_content(&[id])).then_some(id)
                })
                .collect();
            if !kept.is_empty() && kept.iter().all(Option::is_some) {
                let mut node = Node::new(name.as_bytes(), NodeKind::Dir, crate::backup::PLAIN_FOLDER);
                node.subtree = Some(*tree);
                self.folder(folder.as_bytes()).add(node);
                stored.kept += end - from;
                session.count_file(Change::Unmodified, end - from);
                session.watch(false);
                return Ok(());
            }
        }
        let path = folder.join(name.as_bytes()).map_err(|bad| Error::Bug { what: bad.to_string() })?;
        let file = FileWork::begin(&self.folder(path.as_bytes()));
        for (position, (_, at, length)) in chunks(from, end).enumerate() {
            session.going()?;
            let place = file.next();
            if let Some(id) = kept.get(position).copied().flatten() {
                stored.kept += length as u64;
                file.stored(&session, place, id);
                continue;
            }
            let extent = disk.extent(at, length as u64).map_err(|error| unreadable(folder, error))?;
            if extent.zero && extent.length >= length as u64 {
                let id = match zeros.get(&length) {
                    Some(id) => *id,
                    None => {
                        let id = session.save_blob(BlobKind::Data, &vec![0; length])?;
                        zeros.insert(length, id);
                        id
                    }
                };
                stored.holes += length as u64;
                file.stored(&session, place, id);
                continue;
            }
            let mut plain = vec![0; length];
            disk.read_at(at, &mut plain).map_err(|error| unreadable(folder, error))?;
            stored.read += length as u64;
            let task = ChunkTask { plain, place, file: Arc::clone(&file) };
            if let Err(task) = session.queue.offer(task) {
                task.run(&session);
            }
            session.watch(false);
        }
        let mut node = Node::new(FILE, NodeKind::File, 0o600);
        node.size = end - from;
        file.end(&session, Some(node));
        session.count_file(if basis.is_some() { Change::Changed } else { Change::New }, end - from);
        self.seal(&path).map_err(|_| Error::Cancelled)
    }
}

fn unreadable(folder: &TreePath, error: BlockError) -> Error {
    Error::io("read the disk for", folder.to_string(), std::io::Error::other(error))
}
