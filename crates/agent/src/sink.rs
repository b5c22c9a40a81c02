//! The far end of a source: items become events, content becomes chunks.

use std::{collections::HashMap, io::Read, sync::Arc};

use kuramori_model::tree::{Entry, EntryKind, FileTime, Sink, SinkError, TreePath};
use kuramori_repo::chunk::{CutError, Cutter};
use kuramori_wire::message::{Event, Item, Known, short};

use crate::{AgentError, Result, queue::Queue};

/// Places that are collected before they are sent.
const PLACES: usize = 2000;

/// Sends what a source gives.
pub(crate) struct Remote {
    queue: Arc<Queue>,
    cutter: Cutter,
    /// Whether there is something to compare with.
    parent: bool,
    /// The folder of the previous restore point that was asked for last.
    folder: Option<Vec<u8>>,
    known: HashMap<Vec<u8>, Known>,
    kept: Vec<(u32, u32)>,
}

fn refused(error: AgentError) -> SinkError {
    SinkError(Box::new(error))
}

fn split(path: &TreePath) -> (&[u8], &[u8]) {
    let bytes = path.as_bytes();
    match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (b"", bytes),
    }
}

impl Remote {
    pub(crate) fn new(queue: Arc<Queue>, cutter: Cutter, parent: bool) -> Self {
        Self { queue, cutter, parent, folder: None, known: HashMap::new(), kept: Vec::new() }
    }

    /// Says that the source gave everything, and waits until the server has it.
    pub(crate) fn end(&mut self, report: String) -> Result<()> {
        self.flush()?;
        self.queue.put(Event::End { report })?;
        self.queue.finish()
    }

    /// Says that the source failed.
    pub(crate) fn failed(&mut self, code: String, why: &str) -> Result<()> {
        self.queue.put(Event::Failed { code, why: short(why) })?;
        self.queue.finish()
    }

    fn fault_at(&self, path: &[u8], why: &str) -> Result<()> {
        self.queue.put(Event::Fault { path: path.to_vec(), why: short(why) })
    }

    fn flush(&mut self) -> Result<()> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let places = std::mem::take(&mut self.kept);
        let folder = self.folder.clone().unwrap_or_default();
        self.queue.put(Event::Keep { folder, places })
    }

    fn place(&mut self, entry: &Entry) -> Result<Option<u32>> {
        let (folder, name) = split(&entry.path);
        let meta = &entry.meta;
        // The node is taken over as it stands: only who knows the time of the last change of metadata may ask.
        if !self.parent || meta.ctime == FileTime::default() || meta.inode == 0 {
            return Ok(None);
        }
        if self.folder.as_deref() != Some(folder) {
            self.flush()?;
            let items = self.queue.folder(folder)?;
            self.known = items.into_iter().map(|item| (item.name.clone(), item)).collect();
            self.folder = Some(folder.to_vec());
        }
        let size = if let EntryKind::File { size } = entry.kind { size } else { 0 };
        let same = |known: &&Known| {
            known.size == size
                && known.mtime == (meta.mtime.seconds, meta.mtime.nanos)
                && known.ctime == (meta.ctime.seconds, meta.ctime.nanos)
                && known.inode == meta.inode
        };
        Ok(self.known.get(name).filter(same).map(|known| known.place))
    }

    fn keep_entry(&mut self, entry: &Entry) -> Result<()> {
        let Some(place) = self.place(entry)? else {
            return Err(kuramori_wire::Error::Protocol(format!("`{}` is not known", entry.path)).into());
        };
        match self.kept.last_mut() {
            Some((first, count)) if *first + *count == place => *count += 1,
            _ => self.kept.push((place, 1)),
        }
        if self.kept.len() >= PLACES { self.flush() } else { Ok(()) }
    }

    fn put_entry(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<()> {
        let item = Item::from(entry);
        let queue = self.queue.clone();
        let begun = match entry.kind {
            EntryKind::File { size } => queue
                .begin(Event::File { item, content: Vec::new(), done: false })
                .map(|number| Some((number, size))),
            _ => queue.put(Event::Item(item)).map(|()| None),
        };
        let (mut number, size) = match begun {
            Ok(Some(begun)) => begun,
            Ok(None) => return Ok(()),
            // The item is missing, and that is on record; the run goes on.
            Err(error @ AgentError::TooLarge { .. }) => {
                return self.fault_at(entry.path.as_bytes(), &error.to_string());
            }
            Err(error) => return Err(error),
        };
        let outcome = self.cutter.cut_all(content, size, &mut |chunk| {
            number = queue.chunk(number, chunk)?;
            Ok::<_, AgentError>(())
        });
        match outcome {
            Ok(_) => {
                queue.close(number, true);
                Ok(())
            }
            Err(CutError::Read(error)) => {
                queue.close(number, false);
                queue.put(Event::Drop)?;
                self.fault_at(entry.path.as_bytes(), &error.to_string())
            }
            Err(CutError::Emit(error)) => Err(error),
        }
    }
}

impl Sink for Remote {
    fn known(&mut self, entry: &Entry) -> bool {
        // A session that failed says so with the next item.
        self.place(entry).ok().flatten().is_some()
    }

    fn keep(&mut self, entry: Entry) -> std::result::Result<(), SinkError> {
        self.keep_entry(&entry).map_err(refused)
    }

    fn put(&mut self, entry: Entry, content: &mut dyn Read) -> std::result::Result<(), SinkError> {
        self.put_entry(&entry, content).map_err(refused)
    }

    fn seal(&mut self, folder: &TreePath) -> std::result::Result<(), SinkError> {
        if self.folder.as_deref().is_some_and(|open| open == folder.as_bytes()) {
            self.flush().map_err(refused)?;
            self.folder = None;
        }
        self.queue.put(Event::Seal { folder: folder.as_bytes().to_vec() }).map_err(refused)
    }

    fn fault(&mut self, path: &TreePath, why: String) {
        // If this fails the session has failed.
        let _ = self.fault_at(path.as_bytes(), &why);
    }
}
