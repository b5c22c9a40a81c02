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
    /// What came in this session, with its length.
    sent: Mutex<[HashMap<BlobId, u32>; 2]>,
}

impl Intake {
    fn length(&self, id: &BlobId) -> Option<u32> {
        {
            let sent = lock(&self.known.sent);
            if let Some(length) = sent[0].get(id).or_else(|| sent[1].get(id)) {
                return Some(*length);
            }
        }
        let parent = self.known.parent.get_or_init(|| {
            // A parent is a convenience: what it cannot tell is sent again.
            let walked = self.session.repo.live(self.known.root, &self.session.options.cancel);
            walked.map(|live| live.data).unwrap_or_default()
        });
        let loaded = self.session.repo.read_index();
        let index = &loaded.index;
        let ours = index
            .positions(BlobKind::Data, id)
            .into_iter()
            .any(|position| parent.contains(position) || self.known.earlier.contains(position));
        (ours && index.contains(BlobKind::Data, id)).then(|| index.plain_len(BlobKind::Data, id)).flatten()
    }

    /// Whether the agent may leave this chunk out.
    pub fn knows(&self, id: &BlobId) -> bool {
        self.length(id).is_some()
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
        let mut sent = lock(&self.known.sent);
        if sent[0].len() >= GENERATION {
            let older = std::mem::take(&mut sent[0]);
            sent[1] = older;
        }
        sent[0].insert(id, length);
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
        let mut bits = {
            let loaded = session.repo.read_index();
            Bits::new(loaded.index.len(BlobKind::Data))
        };
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
            sent: Mutex::default(),
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

    /// Takes a file whose content is chunks that `intake` knows. Gives its size, which is what they add up to.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a chunk that is not known.
    pub fn put_content(&mut self, entry: &Entry, content: Vec<BlobId>, intake: &Intake) -> Result<u64> {
        self.check()?;
        let EntryKind::File { size: announced } = entry.kind else {
            return Err(Error::Bug { what: "only a file has content".to_owned() });
        };
        let mut size = 0;
        for id in &content {
            let length = intake.length(id).ok_or_else(|| Error::Invalid {
                what: format!("`{}` names the chunk {id}, which its source never sent", entry.path),
                hint: "run the backup again".to_owned(),
            })?;
            size += u64::from(length);
        }
        let (above, name) = super::sink::split(&entry.path);
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
        Ok(size)
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
        for (first, count) in places {
            let (first, count) = (*first as usize, *count as usize);
            let nodes = first
                .checked_add(count)
                .and_then(|end| tree.nodes.get(first..end))
                .ok_or_else(|| refused("the parent has no such items"))?;
            for node in nodes {
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
    /// As any write; also what had ended the backup before.
    pub fn abandon(mut self) -> Result<()> {
        let closed = self.session.packer.close_all(&self.session);
        self.stop();
        closed.and_then(|()| self.session.going()).map_err(|error| self.session.cause(error))?;
        self.session.repo.flush_index()
    }
}
