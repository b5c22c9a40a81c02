//! The parent snapshot: what need not be read again.
//!
//! It may be incomplete. Rule E10 forbids to build on a restore point with holes as if it had none, and nothing
//! here does: items are taken over one by one, each only if the parent holds the very item with all its content,
//! and never a folder as a whole. What the parent misses is not known, so the source is asked for it in each run,
//! and is told as missing again until it gives it. A source with one lasting fault is therefore neither read
//! whole every night nor compared with a restore point that gets older and older. A source that gives a file and
//! reports a fault of it all the same (a study that may lack pictures) finds that out anew in each run.
//!
//! **Invariant:** an item that could not be read is in no parent; whether a snapshot is complete depends on what its
//! own run could not read, and on nothing of its parent's.

use std::{collections::HashMap, sync::Arc};

use kuramori_model::tree::{EntryKind, Meta, TreePath};

use crate::{
    Indexed, Repository, Result,
    format::{
        blob::{BlobId, BlobKind},
        node::{Node, NodeKind},
        tree::Tree,
    },
    store::FileId,
};

/// Folders of the parent that stay in memory.
const CACHED: usize = 2048;

/// The parent snapshot and the folders of it that were looked at.
#[derive(Debug)]
pub(super) struct Parent {
    repo: Repository<Indexed>,
    id: Option<FileId>,
    root: Option<BlobId>,
    folders: HashMap<Vec<u8>, Option<Arc<Tree>>>,
    open: Option<Opened>,
}

/// A file of the parent that is read in places: where each of its blobs ends, and the one read last.
#[derive(Debug)]
struct Opened {
    path: TreePath,
    ends: Vec<u64>,
    ids: Vec<BlobId>,
    last: Option<(usize, Vec<u8>)>,
}

impl Parent {
    pub(super) fn load(repo: &Repository<Indexed>, id: Option<FileId>) -> Result<Self> {
        let root = id.map(|id| repo.snapshot(id)).transpose()?.map(|snapshot| snapshot.tree);
        Ok(Self { repo: repo.clone(), id, root, folders: HashMap::new(), open: None })
    }

    pub(super) fn id(&self) -> Option<FileId> {
        self.id
    }

    pub(super) fn root(&self) -> Option<BlobId> {
        self.root
    }

    /// The tree of a folder in the parent; the empty path is the root.
    pub(super) fn folder(&mut self, path: &[u8]) -> Option<Arc<Tree>> {
        // Up to the nearest folder that was looked at, then down again: a loop, because a sender chooses how
        // deep a path is.
        let mut end = path.len();
        let mut tree = loop {
            if let Some(known) = self.folders.get(&path[..end]) {
                break known.clone();
            }
            if end == 0 {
                break self.look(b"", self.root);
            }
            end = split(&path[..end]).0.len();
        };
        while end < path.len() {
            // Below what the parent does not have there is nothing to look at, and nothing to remember.
            let above = tree?;
            let begin = if end == 0 { 0 } else { end + 1 };
            let length = path[begin..].iter().position(|byte| *byte == b'/');
            end = length.map_or(path.len(), |length| begin + length);
            let id = find(&above, &path[begin..end]).and_then(|node| node.subtree);
            tree = self.look(&path[..end], id);
        }
        tree
    }

    /// Loads a folder's tree and remembers it under its path.
    fn look(&mut self, path: &[u8], id: Option<BlobId>) -> Option<Arc<Tree>> {
        let tree = id.and_then(|id| load_tree(&self.repo, id));
        if self.folders.len() >= CACHED {
            self.folders.clear();
        }
        self.folders.insert(path.to_vec(), tree.clone());
        tree
    }

    /// The node that the parent has at a path.
    pub(super) fn node(&mut self, path: &TreePath) -> Option<Node> {
        self.root?;
        let (above, name) = split(path.as_bytes());
        self.folder(above).and_then(|tree| find(&tree, name).cloned())
    }

    /// The tree that the parent has for the folder at a path.
    pub(super) fn subtree(&mut self, path: &[u8]) -> Option<BlobId> {
        let (above, name) = split(path);
        self.folder(above).and_then(|tree| find(&tree, name)?.subtree)
    }

    /// Some bytes of a file of the parent; none where they cannot be had.
    pub(super) fn content(&mut self, path: &TreePath, offset: u64, length: usize) -> Option<Vec<u8>> {
        if self.open.as_ref().is_none_or(|open| open.path != *path) {
            let ids = self.node(path)?.content?;
            let mut ends = Vec::with_capacity(ids.len());
            let mut end = 0;
            for id in &ids {
                let places = self.repo.locations(BlobKind::Data, id).ok()?;
                let blob = &places.first()?.blob;
                end += u64::from(blob.plain_len()?);
                ends.push(end);
            }
            self.open = Some(Opened { path: path.clone(), ends, ids, last: None });
        }
        let open = self.open.as_mut()?;
        let until = offset.saturating_add(length as u64).min(open.ends.last().copied().unwrap_or(0));
        let mut out = Vec::new();
        let mut at = offset;
        while at < until {
            let number = open.ends.partition_point(|end| *end <= at);
            if open.last.as_ref().is_none_or(|(last, _)| *last != number) {
                match self.repo.load_blob(BlobKind::Data, open.ids.get(number)?) {
                    Ok(bytes) => open.last = Some((number, bytes)),
                    Err(error) => {
                        tracing::warn!(%path, "the previous restore point cannot be looked into: {error}");
                        return None;
                    }
                }
            }
            let (_, bytes) = open.last.as_ref()?;
            let begin = if number == 0 { 0 } else { open.ends[number - 1] };
            let from = usize::try_from(at - begin).ok()?;
            let to = bytes.len().min(usize::try_from(until - begin).ok()?);
            out.extend(bytes.get(from..to).filter(|piece| !piece.is_empty())?);
            at = begin + to as u64;
        }
        Some(out)
    }

    /// Drops what is cached for a folder that is finished.
    pub(super) fn forget(&mut self, path: &[u8]) {
        self.folders.remove(path);
    }
}

/// The folder that a path lies in, and its name there.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let at = path.iter().rposition(|byte| *byte == b'/');
    at.map_or((&b""[..], path), |at| (&path[..at], &path[at + 1..]))
}

/// A parent is a convenience: what it cannot tell is read again.
pub(crate) fn load_tree(repo: &Repository<Indexed>, id: BlobId) -> Option<Arc<Tree>> {
    match repo.load_tree(&id) {
        Ok(tree) => Some(Arc::new(tree)),
        Err(error) => {
            tracing::warn!("reads a folder again, because the parent's does not load: {error}");
            None
        }
    }
}

pub(crate) fn find<'a>(tree: &'a Tree, name: &[u8]) -> Option<&'a Node> {
    tree.nodes.binary_search_by(|node| node.name.as_slice().cmp(name)).ok().map(|at| &tree.nodes[at])
}

/// Whether a file is what the parent holds: kind, size, times and inode, as far as the source knows them.
pub(crate) fn is_unchanged(old: &Node, kind: &EntryKind, meta: &Meta) -> bool {
    let EntryKind::File { size } = kind else { return false };
    let ctime_known = meta.ctime != kuramori_model::tree::FileTime::default();
    old.kind == NodeKind::File
        && old.size == *size
        && old.mtime == meta.mtime
        && (!ctime_known || old.ctime == meta.ctime)
        && (meta.inode == 0 || old.inode == meta.inode)
        && old.error.is_empty()
}

impl Repository<Indexed> {
    /// The newest snapshot of the same machine and paths, complete or not, to find unchanged files against.
    pub fn find_parent(&self, hostname: &str, paths: &[String]) -> Result<Option<FileId>> {
        let mut newest = None;
        for (id, snapshot) in self.try_snapshots()? {
            let Ok(snapshot) = snapshot else { continue };
            let mut theirs = snapshot.paths.clone();
            let mut ours = paths.to_vec();
            theirs.sort_unstable();
            ours.sort_unstable();
            if snapshot.hostname == hostname && theirs == ours {
                newest = newest.max(Some((snapshot.time, id)));
            }
        }
        Ok(newest.map(|(_, id)| id))
    }
}
