//! The receiving side that sources see.

use std::{io::Read, sync::Arc};

use kuramori_model::tree::{Earlier, Entry, EntryKind, Meta, Sink, SinkError, TreePath};

use super::{
    Backup,
    folder::Folder,
    parent::{is_unchanged, split},
    session::Change,
};
use crate::{
    Error, Result,
    format::node::{Node, NodeKind, go_mode},
};

/// A folder that no entry described.
pub(crate) const PLAIN_FOLDER: u32 = 0o755;

/// The node of an entry, without content.
pub(crate) fn node_of(name: &[u8], kind: &EntryKind, meta: &Meta) -> Node {
    let node_kind = NodeKind::of(kind);
    let mut node = Node::new(name, node_kind, meta.mode);
    node.mode = go_mode(node_kind, meta.mode);
    (node.mtime, node.atime, node.ctime) = (meta.mtime, meta.atime, meta.ctime);
    (node.uid, node.gid) = (meta.uid, meta.gid);
    node.user.clone_from(&meta.user);
    node.group.clone_from(&meta.group);
    node.inode = meta.inode;
    node.xattrs.clone_from(&meta.xattrs);
    if !matches!(kind, EntryKind::Dir | EntryKind::Fifo | EntryKind::Socket) {
        node.links = meta.links;
        // restic finds hard links by inode and device; elsewhere the device would only change the tree's hash
        // when a disk gets another number.
        node.device_id = if meta.links > 1 { meta.device_id } else { 0 };
    }
    match kind {
        EntryKind::Symlink { target } => node.link_target.clone_from(target),
        EntryKind::Device { number } | EntryKind::CharDevice { number } => node.device = *number,
        _ => {}
    }
    node
}

impl Backup {
    /// The open folder at a path, made with plain metadata if no entry named it yet.
    pub(crate) fn folder(&mut self, path: &[u8]) -> Arc<Folder> {
        // Up to the nearest open folder, then down again: a loop, because a sender chooses how deep a path is.
        let mut end = path.len();
        let mut folder = loop {
            if end == 0 {
                break Arc::clone(&self.root);
            }
            if let Some(folder) = self.folders.get(&path[..end]) {
                break Arc::clone(folder);
            }
            end = split(&path[..end]).0.len();
        };
        while end < path.len() {
            let begin = if end == 0 { 0 } else { end + 1 };
            let length = path[begin..].iter().position(|byte| *byte == b'/');
            end = length.map_or(path.len(), |length| begin + length);
            let previous = self.parent.subtree(&path[..end]);
            let node = Node::new(&path[begin..end], NodeKind::Dir, PLAIN_FOLDER);
            folder = Folder::below(&folder, node, end, previous);
            self.folders.insert(path[..end].to_vec(), Arc::clone(&folder));
        }
        folder
    }

    /// Takes a file; the inner error is the content's, and then the file does not appear.
    pub(super) fn put_file(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<std::io::Result<u64>> {
        self.check()?;
        let EntryKind::File { size: announced } = entry.kind else {
            return Err(Error::Bug { what: "only a file has content".to_owned() });
        };
        let (above, name) = split(entry.path.as_bytes());
        let folder = self.folder(above);
        let change = if self.parent.node(&entry.path).is_some() { Change::Changed } else { Change::New };
        self.session.count_found(1, announced);
        let session = Arc::clone(&self.session);
        let outcome = session.read_file(&folder, content, announced, false, &mut |size| {
            let mut node = node_of(name, &entry.kind, &entry.meta);
            node.size = size;
            node
        });
        let outcome = outcome.map_err(|error| session.cause(error))?;
        if let Ok(size) = outcome {
            session.count_file(change, size);
            if announced != 0 && size != announced {
                session.note(entry.path.to_string(), format!("announced {announced} bytes and gave {size}"));
            }
        }
        session.watch(false);
        Ok(outcome)
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.session.going().map_err(|error| self.session.cause(error))?;
        self.lock.check()
    }

    fn put_entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        match &entry.kind {
            EntryKind::File { .. } => {
                if let Err(error) = self.put_file(entry, content)? {
                    self.session.fault(entry.path.to_string(), error.to_string());
                }
            }
            EntryKind::Dir => {
                self.check()?;
                let (_, name) = split(entry.path.as_bytes());
                self.folder(entry.path.as_bytes()).describe(node_of(name, &entry.kind, &entry.meta));
            }
            _ => {
                self.check()?;
                let (above, name) = split(entry.path.as_bytes());
                self.folder(above).add(node_of(name, &entry.kind, &entry.meta));
            }
        }
        Ok(())
    }

    fn keep_entry(&mut self, entry: &Entry) -> Result<()> {
        self.check()?;
        let old = self.parent.node(&entry.path).filter(|old| is_unchanged(old, &entry.kind, &entry.meta));
        let content = old.and_then(|old| old.content).filter(|content| self.session.has_content(content));
        let (Some(content), EntryKind::File { size }) = (content, &entry.kind) else {
            return Err(Error::Invalid {
                what: format!("`{}` is not known from the previous restore point", entry.path),
                hint: "the source must ask before it leaves out a file's content".to_owned(),
            });
        };
        let (above, name) = split(entry.path.as_bytes());
        let mut node = node_of(name, &entry.kind, &entry.meta);
        node.size = *size;
        node.content = Some(content);
        self.folder(above).add(node);
        self.session.count_found(1, *size);
        self.session.count_file(Change::Unmodified, *size);
        Ok(())
    }
}

fn refused(error: Error) -> SinkError {
    SinkError(Box::new(error))
}

impl Sink for Backup {
    fn known(&mut self, entry: &Entry) -> bool {
        let old = self.parent.node(&entry.path).filter(|old| is_unchanged(old, &entry.kind, &entry.meta));
        old.and_then(|old| old.content).is_some_and(|content| self.session.has_content(&content))
    }

    fn keep(&mut self, entry: Entry) -> std::result::Result<(), SinkError> {
        self.keep_entry(&entry).map_err(refused)
    }

    fn put(&mut self, entry: Entry, content: &mut dyn Read) -> std::result::Result<(), SinkError> {
        self.put_entry(&entry, content).map_err(refused)
    }

    fn seal(&mut self, folder: &TreePath) -> std::result::Result<(), SinkError> {
        self.check().map_err(refused)?;
        let path = folder.as_bytes();
        // Whatever is open below belongs to it; `0` follows `/`.
        let (from, until) = ([path, b"/"].concat(), [path, b"0"].concat());
        let below: Vec<_> = self.folders.range(from..until).map(|(inner, _)| inner.clone()).collect();
        for inner in below {
            self.parent.forget(&inner);
            if let Some(inner) = self.folders.remove(&inner) {
                inner.seal(&self.session);
            }
        }
        self.folder(path).seal(&self.session);
        self.folders.remove(path);
        self.parent.forget(path);
        Ok(())
    }

    fn fault(&mut self, path: &TreePath, why: String) {
        self.session.fault(path.to_string(), why);
    }

    fn earlier(&mut self, path: &TreePath) -> Option<Earlier> {
        let node = self.parent.node(path).filter(|node| node.kind == NodeKind::File)?;
        let (mtime, atime, ctime) = (node.mtime, node.atime, node.ctime);
        // The low bits are the permissions in both forms.
        let meta =
            Meta { mode: node.mode & 0o777, mtime, atime, ctime, inode: node.inode, ..Meta::default() };
        Some(Earlier { size: node.size, meta })
    }

    fn earlier_content(&mut self, path: &TreePath, offset: u64, length: usize) -> Option<Vec<u8>> {
        self.parent.content(path, offset, length)
    }
}
