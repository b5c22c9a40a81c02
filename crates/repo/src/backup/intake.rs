//! Content that comes as finished chunks, from an agent that cuts for itself.
//!
//! The agent asks which chunks are missing before it sends them. "Known" must not tell more than the agent has a
//! right to: it means a part of this source's own previous restore point, or a chunk that the agent itself sent.
//! For anything else the answer is no, whatever the repository holds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
};

use kuramori_model::tree::{Entry, EntryKind};

use super::{
    Backup, Session,
    parent::split,
    session::{Change, lock},
    sink::node_of,
};
use crate::{
    Error, Result,
    bits::Bits,
    format::{
        blob::{BlobId, BlobKind},
        node::{Node, NodeKind},
        tree::Tree,
    },
    repository::BLOB_MAX,
};

/// Chunks of this session that are remembered in one generation. The older of two is forgotten: then a chunk is
/// only sent again.
const GENERATION: usize = 400_000;

/// Takes chunks; shared by the threads of all connections.
#[derive(Debug, Clone)]
pub struct Intake {
    session: Arc<Session>,
    known: Arc<Known>,
}

#[derive(Debug)]
struct Known {
    root: Option<BlobId>,
    /// Positions in the index of what the previous restore point holds; made when it is first asked for.
    parent: OnceLock<Bits>,
    /// Positions of what the agent sent in earlier, unfinished sessions.
    earlier: Bits,
    /// Positions from here on were not in the index when this session began: what lies there came in it.
    begin: usize,
    /// What came in this session, with its length.
    sent: Mutex<Recent>,
}

/// The chunks that were used last. Two generations of a size, the older of which is forgotten as a whole.
#[derive(Debug)]
struct Recent {
    size: usize,
    newer: HashMap<BlobId, u32>,
    older: HashMap<BlobId, u32>,
}

impl Recent {
    fn new(size: usize) -> Self {
        Self { size, newer: HashMap::new(), older: HashMap::new() }
    }

    fn put(&mut self, id: BlobId, length: u32) {
        if self.newer.len() >= self.size {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(id, length);
    }

    /// Its length; what is asked for is used, and stays.
    fn length(&mut self, id: &BlobId) -> Option<u32> {
        if let Some(length) = self.newer.get(id) {
            return Some(*length);
        }
        let length = self.older.remove(id)?;
        self.put(*id, length);
        Some(length)
    }
}

impl Intake {
    /// The length of a chunk that the agent may leave out.
    pub fn length(&self, id: &BlobId) -> Option<u32> {
        if let Some(length) = lock(&self.known.sent).length(id) {
            return Some(length);
        }
        let parent = self.known.parent.get_or_init(|| {
            // A parent is a convenience: what it cannot tell is sent again.
            let walked = self.session.repo.live(self.known.root, &self.session.options.cancel);
            walked.map(|live| live.data).unwrap_or_default()
        });
        let loaded = self.session.repo.read_index();
        let index = &loaded.index;
        let ours = index.positions(BlobKind::Data, id).into_iter().any(|position| {
            position >= self.known.begin || parent.contains(position) || self.known.earlier.contains(position)
        });
        (ours && index.contains(BlobKind::Data, id)).then(|| index.plain_len(BlobKind::Data, id)).flatten()
    }

    /// Hashes a chunk and stores it unless it is there. Gives the id that it really has.
    ///
    /// # Errors
    /// As any write; the backup as a whole has failed then.
    pub fn store(&self, plain: &[u8]) -> Result<BlobId> {
        self.session.going()?;
        let length = u32::try_from(plain.len()).ok().filter(|length| *length > 0 && *length <= BLOB_MAX);
        let Some(length) = length else {
            return Err(Error::Invalid {
                what: format!("a chunk of {} bytes", plain.len()),
                hint: "the sender has to cut content before it sends it".to_owned(),
            });
        };
        let id = match self.session.save_blob(BlobKind::Data, plain) {
            Ok(id) => id,
            Err(error) => {
                self.session.fail(error.repeat());
                return Err(error);
            }
        };
        lock(&self.known.sent).put(id, length);
        Ok(id)
    }

    /// Whether the backup still works.
    ///
    /// # Errors
    /// What ended it.
    pub fn check(&self) -> Result<()> {
        self.session.going().map_err(|error| self.session.cause(error))
    }
}

impl Backup {
    /// Opens the backup for chunks. `earlier` are ids that the same source sent in a session that never became a
    /// restore point; they count as far as the repository really holds them.
    pub fn intake(&self, earlier: &mut dyn Iterator<Item = BlobId>) -> Intake {
        let session = Arc::clone(self.session());
        session.keep();
        let begin = session.repo.read_index().index.len(BlobKind::Data);
        let mut bits = Bits::new(begin);
        for id in earlier {
            let loaded = session.repo.read_index();
            for position in loaded.index.positions(BlobKind::Data, &id) {
                bits.insert(position);
            }
        }
        let known = Known {
            root: self.parent.root(),
            parent: OnceLock::new(),
            earlier: bits,
            begin,
            sent: Mutex::new(Recent::new(GENERATION)),
        };
        Intake { session, known: Arc::new(known) }
    }

    /// The table by which the sender cuts; empty for chunks of fixed size. It tells nothing about the key.
    pub fn gear(&self) -> Vec<u64> {
        self.session.gear()
    }

    /// The folder that the previous restore point has at a path; empty path: the root.
    pub fn parent_tree(&mut self, folder: &[u8]) -> Option<Arc<Tree>> {
        self.parent.folder(folder)
    }

    /// Takes a file whose content is chunks that the [`Intake`] knew when the sender named them. `size` is what
    /// their lengths add up to.
    ///
    /// # Errors
    /// [`Error::Invalid`] if too much is open.
    pub fn put_content(&mut self, entry: &Entry, content: Vec<BlobId>, size: u64) -> Result<()> {
        self.check()?;
        self.room()?;
        let EntryKind::File { size: announced } = entry.kind else {
            return Err(Error::Bug { what: "only a file has content".to_owned() });
        };
        let (above, name) = split(entry.path.as_bytes());
        let change = if self.parent.node(&entry.path).is_some() { Change::Changed } else { Change::New };
        let mut node = node_of(name, &entry.kind, &entry.meta);
        node.size = size;
        node.content = Some(content);
        self.folder(above).add(node);
        self.session().count_found(1, announced);
        self.session().count_file(change, size);
        if size != announced {
            self.session()
                .note(entry.path.to_string(), format!("announced {announced} bytes and gave {size}"));
        }
        self.session().watch(false);
        Ok(())
    }

    /// Whether the folders that are open leave room for more. A sender that never says that a folder is finished,
    /// or fills one without end, would otherwise fill the memory.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn room(&self) -> Result<()> {
        let (open, most) = (self.root.open_bytes(), self.session.options.open_folders);
        if open <= most {
            return Ok(());
        }
        Err(Error::Invalid {
            what: format!(
                "the folders that are not finished take {open} bytes of memory; {most} is the limit"
            ),
            hint: "split the folder with the most items".to_owned(),
        })
    }

    /// Takes items of the previous restore point over as they are, by their places in its folder. Gives the number
    /// of files and their bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a place that it does not have, a folder, or content that is gone.
    pub fn keep_places(&mut self, folder: &[u8], places: &[(u32, u32)]) -> Result<(u64, u64)> {
        self.check()?;
        let refused = |why: &str| Error::Invalid {
            what: format!("`{}`: {why}", String::from_utf8_lossy(folder)),
            hint: "run the backup again".to_owned(),
        };
        let tree = self.parent.folder(folder).ok_or_else(|| refused("the parent has no such folder"))?;
        let target = self.folder(folder);
        let (mut files, mut bytes) = (0, 0);
        // Each place once, whatever their order.
        let mut seen = Bits::new(tree.nodes.len());
        for (first, count) in places {
            let (first, count) = (*first as usize, *count as usize);
            let nodes = first
                .checked_add(count)
                .and_then(|end| tree.nodes.get(first..end))
                .ok_or_else(|| refused("the parent has no such items"))?;
            for (place, node) in nodes.iter().enumerate() {
                self.session.going().map_err(|error| self.session.cause(error))?;
                if !seen.insert(first + place) {
                    return Err(refused("an item is named twice"));
                }
                if node.kind == NodeKind::Dir {
                    return Err(refused("a folder cannot be taken over as a whole"));
                }
                if !self.has_all(node) {
                    return Err(refused("content of the parent is gone"));
                }
                files += u64::from(node.kind == NodeKind::File);
                bytes += node.size;
                self.session().count_found(1, node.size);
                self.session().count_file(Change::Unmodified, node.size);
                target.add(node.clone());
                self.room()?;
            }
        }
        self.session().watch(false);
        Ok((files, bytes))
    }

    /// Whether everything of an item of the parent is still stored, so that it need not be sent.
    pub fn has_all(&self, node: &Node) -> bool {
        node.error.is_empty()
            && node.content.as_deref().is_none_or(|content| self.session.has_content(content))
    }

    /// Records an item that could not be read, by its name for people.
    pub fn record_fault(&mut self, path: String, why: String) {
        self.session.fault(path, why);
    }

    /// Ends without a restore point. What came so far is made durable, packs and index, so that the next run need
    /// not get it again; without a restore point that names it, a later prune frees it.
    ///
    /// # Errors
    /// As any write; also a failure that ended the backup before, and then the index is written all the same.
    /// A cancel is none: what came before it is kept.
    pub fn abandon(mut self) -> Result<()> {
        let closed = self.session.packer.close_all(&self.session);
        self.stop();
        // Whatever ended it: packs that are stored and in no index would be sent again.
        let flushed = self.session.repo.flush_index();
        closed.and_then(|()| self.session.storing()).map_err(|error| self.session.cause(error))?;
        flushed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_that_is_used_stays_and_one_that_is_not_is_forgotten() {
        let id = |n: u32| BlobId::of(&n.to_le_bytes());
        let mut recent = Recent::new(10);
        recent.put(id(0), 7);
        for n in 1..1000 {
            recent.put(id(n), n);
            assert_eq!(recent.length(&id(0)), Some(7), "asked for after {n}");
            assert!(recent.newer.len() + recent.older.len() <= 21);
        }
        assert_eq!(recent.length(&id(999)), Some(999));
        assert_eq!(recent.length(&id(900)), None);
    }
}
