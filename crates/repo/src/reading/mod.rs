//! Reading any place of a file or disk of a restore point, without restoring it.
//!
//! ```text
//! read_at ─▶ which pieces? ─▶ cache ─┬─ there ─▶ copy
//!                  │                 └─ not ──▶ load: read, open, unfold, hash again (rule E1) ─▶ keep
//!                  └─ goes on where the last one ended? ─▶ helpers load what comes next
//! ```
//!
//! The cache has a budget in bytes that covers what is being loaded as well; several who want the same piece wait
//! for one load. Pieces of zeros are known by their id and never read. What a disk needs to be found, its lists of
//! ids, is loaded segment by segment when it is first asked for, so that a disk of terabytes opens at once.
//!
//! What can go wrong: a piece is damaged or missing in every place where it lies. Then this read fails with an
//! error that names it, nothing of it is given out, and other places can still be read.

mod cache;
mod content;

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use kuramori_model::{
    blocks::{BlockError, Blocks, Extent},
    tree::TreePath,
};

use cache::Cache;
use content::{Map, Piece};

use crate::{
    Error, Result, disk,
    format::{
        blob::{BlobId, BlobKind},
        node::{Node, NodeKind},
    },
    repository::{Indexed, Repository},
};

/// How much memory and how many threads reading takes.
#[derive(Debug, Clone, Copy)]
pub struct ReadOptions {
    /// Bytes of pieces that stay in memory, together for all files of one [`Reader`].
    pub memory: usize,
    /// Bytes that are loaded ahead of a reader who goes from front to back; at most half of `memory` is used.
    pub ahead: usize,
    /// Threads that load ahead.
    pub helpers: usize,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { memory: 64 << 20, ahead: 8 << 20, helpers: 2 }
    }
}

/// Readers of one file that each go from front to back and are told apart.
const STREAMS: usize = 8;
/// A reader whose requests overtake each other still goes from front to back.
const SLACK: u64 = 4 << 20;

#[derive(Debug)]
struct Core {
    repository: Repository<Indexed>,
    cache: Cache,
}

impl Core {
    fn load(&self, piece: Piece, patient: bool) -> Result<Option<Arc<Vec<u8>>>> {
        self.cache.get(piece, patient, &|| {
            let plain = self.repository.load_blob(BlobKind::Data, &piece.id)?;
            if plain.len() == piece.length as usize {
                Ok(plain)
            } else {
                Err(Error::Damaged {
                    file: format!("data blob {}", piece.id),
                    why: format!("it has {} bytes, the index says {}", plain.len(), piece.length),
                })
            }
        })
    }
}

#[derive(Debug)]
struct Inner {
    core: Arc<Core>,
    options: ReadOptions,
    jobs: Option<Sender<Piece>>,
    helpers: Vec<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.jobs = None;
        for helper in self.helpers.drain(..) {
            let _ = helper.join();
        }
    }
}

/// Opens files and disks of a repository's restore points; they share its cache. Clones are the same reader.
#[derive(Debug, Clone)]
pub struct Reader(Arc<Inner>);

/// A file or disk that can be read at any place, from several threads at once.
#[derive(Debug)]
pub struct OpenFile {
    reader: Reader,
    map: Map,
    streams: Mutex<Vec<Stream>>,
}

/// Somebody who reads from front to back.
#[derive(Debug, Clone, Copy)]
struct Stream {
    next: u64,
    /// Bytes that were read in a row.
    run: u64,
    /// Up to where helpers were asked.
    asked: u64,
}

fn help(core: &Core, jobs: &Receiver<Piece>) {
    for piece in jobs {
        // Whoever really wants it learns what is wrong with it.
        let _ = core.load(piece, false);
    }
}

impl Reader {
    /// Starts the helpers.
    ///
    /// # Errors
    /// [`Error::Io`] if no thread can be started.
    pub fn new(repository: Repository<Indexed>, options: ReadOptions) -> Result<Self> {
        let core = Arc::new(Core { repository, cache: Cache::new(options.memory) });
        let mut inner = Inner { core, options, jobs: None, helpers: Vec::new() };
        if options.helpers > 0 {
            let (sender, receiver) = crossbeam_channel::bounded(64);
            for number in 0..options.helpers {
                let (core, jobs) = (Arc::clone(&inner.core), receiver.clone());
                let helper = std::thread::Builder::new()
                    .name(format!("ahead-{number}"))
                    .spawn(move || help(&core, &jobs))
                    .map_err(|error| Error::io("start a thread for", "reading", error))?;
                inner.helpers.push(helper);
            }
            inner.jobs = Some(sender);
        }
        Ok(Self(Arc::new(inner)))
    }

    /// The repository that is read.
    pub fn repository(&self) -> &Repository<Indexed> {
        &self.0.core.repository
    }

    /// Bytes that the cache holds now; for tests and figures.
    pub fn held(&self) -> usize {
        self.0.core.cache.used()
    }

    /// Pieces that were loaded so far; for tests and figures.
    pub fn loads(&self) -> u64 {
        self.0.core.cache.loads()
    }

    fn with(&self, map: Map) -> OpenFile {
        OpenFile { reader: self.clone(), map, streams: Mutex::default() }
    }

    /// Opens a file by its node.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no file; [`Error::Damaged`] or [`Error::Missing`] if its pieces do not add up
    /// to its size or one is nowhere.
    pub fn open(&self, node: &Node) -> Result<OpenFile> {
        Ok(self.with(Map::of_file(self.repository(), node)?))
    }

    /// Opens a disk by the tree of its folder of segments (see [`crate::disk`]).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_disk(&self, segments: &BlobId) -> Result<OpenFile> {
        Ok(self.with(Map::of_disk(self.repository(), segments)?))
    }

    /// Opens the file or disk at a path below a restore point's tree. A disk is found with and without the ending of
    /// its folder.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Invalid`] if there is no such path.
    pub fn open_path(&self, root: &BlobId, path: &TreePath) -> Result<OpenFile> {
        let repository = self.repository();
        let node = match repository.find_node(root, path) {
            Err(error @ Error::Invalid { .. }) => {
                let folder = disk::folder_of(path).and_then(|path| repository.find_node(root, &path).ok());
                folder.ok_or(error)?
            }
            other => other?,
        };
        match (&node.kind, &node.subtree) {
            (NodeKind::Dir, Some(subtree)) if disk::is_folder(&node.name) => self.open_disk(subtree),
            _ => self.open(&node),
        }
    }
}

impl OpenFile {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.map.size()
    }

    /// An id of the content: the same for the same pieces, whichever restore point or copy of the repository they are
    /// read from.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.map.fingerprint()
    }

    /// Reads into the buffer from `offset`; fewer bytes only at the end of the file.
    ///
    /// # Errors
    /// [`Error::Damaged`] or [`Error::Missing`] if a piece cannot be had from any place where it lies; errors of the
    /// store.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let core = &self.reader.0.core;
        let end = self.size().min(offset.saturating_add(buffer.len() as u64));
        let mut at = offset;
        while at < end {
            let (piece, begin) = self.map.piece(&core.repository, at)?;
            let from = usize::try_from(at - begin).unwrap_or(usize::MAX);
            let to = piece.length.min(u32::try_from(end - begin).unwrap_or(u32::MAX)) as usize;
            let start = usize::try_from(at - offset).unwrap_or(usize::MAX);
            let target = &mut buffer[start..start + (to - from)];
            if piece.zero {
                target.fill(0);
            } else {
                let plain = core
                    .load(piece, true)?
                    .ok_or_else(|| Error::Bug { what: "the cache gave up waiting".to_owned() })?;
                target.copy_from_slice(&plain[from..to]);
            }
            at = begin + to as u64;
        }
        if at > offset {
            self.look_ahead(offset, at);
        }
        Ok(usize::try_from(at - offset.min(at)).unwrap_or(usize::MAX))
    }

    /// Asks the helpers for what a reader will want next, if it goes from front to back.
    fn look_ahead(&self, offset: u64, end: u64) {
        let Some(jobs) = &self.reader.0.jobs else { return };
        let options = &self.reader.0.options;
        let most = options.ahead.min(options.memory / 2) as u64;
        let (mut at, until) = {
            let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            let near = |stream: &Stream| offset <= stream.next + SLACK && end + SLACK >= stream.next;
            let mut stream = match streams.iter().position(near) {
                Some(place) => streams.remove(place),
                None => Stream { next: offset, run: 0, asked: 0 },
            };
            let goes_on = end > stream.next && offset >= stream.next.saturating_sub(SLACK) && stream.next > 0;
            if goes_on || (stream.next == 0 && offset == 0) {
                stream.run += end - offset;
            }
            stream.next = stream.next.max(end);
            // One read alone, at the start of a file, is no habit.
            let window = if stream.run > end - offset { stream.run.min(most) } else { 0 };
            let from = stream.asked.max(stream.next);
            let until = (stream.next + window).min(self.size());
            stream.asked = from.max(until);
            // The one that was used last stands last.
            if streams.len() == STREAMS {
                streams.remove(0);
            }
            streams.push(stream);
            (from, until)
        };
        while at < until {
            let Ok((piece, begin)) = self.map.piece(&self.reader.0.core.repository, at) else { return };
            if !piece.zero
                && let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = jobs.try_send(piece)
            {
                return;
            }
            at = begin + u64::from(piece.length);
        }
    }
}

impl Blocks for OpenFile {
    fn size(&self) -> u64 {
        Self::size(self)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::result::Result<(), BlockError> {
        self.check_range(offset, buffer.len() as u64)?;
        Self::read_at(self, offset, buffer).map_err(BlockError::failed)?;
        Ok(())
    }

    fn extent(&self, offset: u64, length: u64) -> std::result::Result<Extent, BlockError> {
        self.check_range(offset, length)?;
        let repository = &self.reader.0.core.repository;
        let (first, begin) = self.map.piece(repository, offset).map_err(BlockError::failed)?;
        let mut end = begin + u64::from(first.length);
        while end < offset + length {
            let (next, begin) = self.map.piece(repository, end).map_err(BlockError::failed)?;
            if next.zero != first.zero {
                break;
            }
            end = begin + u64::from(next.length);
        }
        let run = (end - offset).min(length);
        Ok(if first.zero { Extent::hole(run) } else { Extent::data(run) })
    }
}
