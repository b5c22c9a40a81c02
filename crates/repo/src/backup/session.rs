//! What all threads of one backup share: saving a blob, counting, failing.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    io::Read,
    path::PathBuf,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    Options,
    folder::{FileWork, Folder},
    packer::Packer,
    queue::{ChunkTask, Queue},
};
use crate::{
    Error, Indexed, Repository, Result,
    chunk::{CutError, Cutter},
    format::{
        blob::{BlobId, BlobKind, PackedBlob},
        compress, crypto,
        node::Node,
        snapshot::Summary,
    },
};

/// Notes beyond this number are only counted.
const NOTES_MAX: usize = 1000;
/// Largest buffer that a thread keeps: most chunks fit. Chunks of the largest size are rare, and every thread
/// keeping room for one would cost more than the room for the whole queue.
const SCRATCH_MAX: usize = 3 << 20;
const WATCH_EVERY: Duration = Duration::from_millis(200);

/// Something about one item that a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The item.
    pub path: String,
    /// What happened.
    pub why: String,
}

/// What a backup has to report besides its numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Items that are missing: the restore point is incomplete. At most 1000 are named.
    pub faults: Vec<Note>,
    /// Items that changed or vanished while they were read, or of which something small is missing. At most
    /// 1000 are named.
    pub notes: Vec<Note>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    files_new: AtomicU64,
    files_changed: AtomicU64,
    files_unmodified: AtomicU64,
    dirs_new: AtomicU64,
    dirs_changed: AtomicU64,
    dirs_unmodified: AtomicU64,
    data_blobs: AtomicU64,
    tree_blobs: AtomicU64,
    data_added: AtomicU64,
    data_added_packed: AtomicU64,
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Buffers of one thread, used again for each blob.
#[derive(Default)]
struct Scratch {
    sealed: Vec<u8>,
    again: Vec<u8>,
    unfolded: Vec<u8>,
}

impl Scratch {
    /// The tree of a huge folder must not stay in memory for ever.
    fn shrink(&mut self) {
        for buffer in [&mut self.sealed, &mut self.again, &mut self.unfolded] {
            if buffer.capacity() > SCRATCH_MAX {
                *buffer = Vec::new();
            }
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// How a file relates to the parent snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    New,
    Changed,
    Unmodified,
}

/// The shared state of one backup.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) repo: Repository<Indexed>,
    pub(crate) options: Options,
    pub(crate) queue: Queue,
    pub(super) packer: Packer,
    cutter: Cutter,
    /// Blobs that this session is writing and that no pack holds durably yet.
    claims: [Mutex<HashSet<BlobId>>; 2],
    counters: Counters,
    failed: AtomicBool,
    /// Packs are stored even after a cancel: whoever sent their content would have to send it again.
    keep: AtomicBool,
    failure: Mutex<Option<Error>>,
    report: Mutex<Report>,
    watched: Mutex<Duration>,
}

impl Session {
    pub(super) fn new(repo: Repository<Indexed>, options: Options) -> Arc<Self> {
        let spool_dir: PathBuf = options
            .spool_dir
            .clone()
            .or_else(|| repo.core.store.spool_dir())
            .unwrap_or_else(std::env::temp_dir);
        let cutter = Cutter::new(options.chunking, &repo.core.master);
        Arc::new(Self {
            queue: Queue::new(options.memory),
            packer: Packer::new(spool_dir, options.pack_size),
            cutter,
            claims: [Mutex::default(), Mutex::default()],
            counters: Counters::default(),
            failed: AtomicBool::new(false),
            keep: AtomicBool::new(false),
            failure: Mutex::new(None),
            report: Mutex::default(),
            watched: Mutex::new(repo.core.context.clock.boot()),
            options,
            repo,
        })
    }

    /// The table by which content is cut; empty for chunks of fixed size.
    pub(super) fn gear(&self) -> Vec<u64> {
        match self.options.chunking {
            crate::chunk::Chunking::Content => self.cutter.table().to_vec(),
            crate::chunk::Chunking::Fixed => Vec::new(),
        }
    }

    /// Whether the work may go on. The threads stop with [`Error::Cancelled`], whatever happened; the
    /// owner of the backup learns the [`cause`](Self::cause).
    pub(crate) fn going(&self) -> Result<()> {
        if self.failed.load(Ordering::Acquire) { Err(Error::Cancelled) } else { self.options.cancel.check() }
    }

    /// Whether packs may still be stored.
    pub(super) fn storing(&self) -> Result<()> {
        let keep = self.keep.load(Ordering::Acquire) && !self.failed.load(Ordering::Acquire);
        if keep { Ok(()) } else { self.going() }
    }

    /// From now on packs are stored even after a cancel.
    pub(super) fn keep(&self) {
        self.keep.store(true, Ordering::Release);
    }

    /// What really ended the backup, in place of the error that it led to.
    pub(super) fn cause(&self, error: Error) -> Error {
        lock(&self.failure).as_ref().map_or(error, Error::repeat)
    }

    /// Keeps the first cause and stops everybody.
    pub(crate) fn fail(&self, error: Error) {
        let mut failure = lock(&self.failure);
        if !self.failed.swap(true, Ordering::AcqRel) {
            *failure = Some(error);
        }
    }

    /// Stops everybody without a cause of our own.
    pub(crate) fn cancel(&self) {
        self.failed.store(true, Ordering::Release);
    }

    fn claims(&self, kind: BlobKind) -> MutexGuard<'_, HashSet<BlobId>> {
        lock(&self.claims[usize::from(kind == BlobKind::Tree)])
    }

    /// Hashes a blob and stores it unless it is known. Gives its id.
    pub(crate) fn save_blob(&self, kind: BlobKind, plain: &[u8]) -> Result<BlobId> {
        let id = if is_zero(plain) { zero_id(plain.len()) } else { BlobId::of(plain) };
        // The order matters: a finished pack enters the index first and leaves the claims afterwards, so a
        // blob is always in one of the two.
        if self.claims(kind).contains(&id) || self.repo.read_index().index.contains(kind, &id) {
            return Ok(id);
        }
        if !self.claims(kind).insert(id) {
            return Ok(id);
        }
        if self.repo.read_index().index.contains(kind, &id) {
            self.claims(kind).remove(&id);
            return Ok(id);
        }
        let plain_length =
            u32::try_from(plain.len()).ok().filter(|length| *length <= crate::repository::BLOB_MAX);
        let Some(plain_length) = plain_length else {
            return Err(Error::Invalid {
                what: format!("a folder with a list of {} bytes is too large to be stored", plain.len()),
                hint: "split the folder".to_owned(),
            });
        };
        SCRATCH.with_borrow_mut(|scratch| self.seal_blob(kind, id, plain, plain_length, scratch))?;
        Ok(id)
    }

    fn seal_blob(
        &self,
        kind: BlobKind,
        id: BlobId,
        plain: &[u8],
        plain_length: u32,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let bug = |flaw: crate::format::Flaw| Error::Bug { what: format!("{kind} blob {id}: {flaw}") };
        let core = &self.repo.core;
        let Scratch { sealed, again, unfolded } = scratch;
        sealed.clear();
        sealed.resize(crypto::IV, 0);
        let compressed = compress::append_if_useful(self.options.level, plain, sealed).map_err(bug)?;
        core.cipher.seal_in_place(core.context.iv(), sealed).map_err(bug)?;
        let blob = PackedBlob {
            id,
            kind,
            offset: 0,
            length: u32::try_from(sealed.len())
                .map_err(|_| Error::Bug { what: "a blob above 4 GiB".to_owned() })?,
            plain_length: compressed.then_some(plain_length),
        };
        // Rule E2: what leaves memory opens, unfolds and has the hash that names it; only hashing again also
        // notices memory that was damaged after the first hash.
        again.clear();
        again.extend_from_slice(sealed);
        core.open_in_place(&blob, again, unfolded).map_err(bug)?;
        add(&self.counters.data_added, u64::from(plain_length));
        add(&self.counters.data_added_packed, u64::from(blob.length));
        self.options.progress.stored(u64::from(blob.length));
        add(if kind == BlobKind::Data { &self.counters.data_blobs } else { &self.counters.tree_blobs }, 1);
        self.packer.append(self, blob, sealed)?;
        scratch.shrink();
        Ok(())
    }

    /// The blobs of a pack are durable and in the index.
    pub(super) fn release(&self, blobs: &[PackedBlob]) {
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let mut claims = self.claims(kind);
            for blob in blobs.iter().filter(|blob| blob.kind == kind) {
                claims.remove(&blob.id);
            }
        }
    }

    /// Whether every blob of a file's content is there, so that it need not be read.
    pub(crate) fn has_content(&self, content: &[BlobId]) -> bool {
        let loaded = self.repo.read_index();
        content.iter().all(|id| loaded.index.contains(BlobKind::Data, id))
    }

    /// Reads a file's content to its end and hands its chunks to the pool. The outer error ends the backup,
    /// the inner one is the source's; then the file does not appear.
    ///
    /// `finish` completes the node with the size that was read.
    pub(crate) fn read_file(
        &self,
        folder: &Arc<Folder>,
        content: &mut dyn Read,
        hint: u64,
        inline: bool,
        finish: &mut dyn FnMut(u64) -> Node,
    ) -> Result<std::io::Result<u64>> {
        if inline && hint <= self.cutter.whole() as u64 {
            return self.read_small(folder, content, hint, finish);
        }
        let file = FileWork::begin(folder);
        let outcome = self.cutter.cut_all(content, hint, &mut |plain| {
            self.going()?;
            let task = ChunkTask { plain, place: file.next(), file: Arc::clone(&file) };
            if let Err(task) = self.queue.offer(task) {
                task.run(self);
            }
            Ok(())
        });
        match outcome {
            Ok(size) => {
                file.end(self, Some(finish(size)));
                Ok(Ok(size))
            }
            Err(CutError::Read(error)) => {
                file.end(self, None);
                Ok(Err(error))
            }
            Err(CutError::Emit(error)) => Err(error),
        }
    }

    /// A file of one chunk, processed here: handing it on would cost more than the work itself.
    fn read_small(
        &self,
        folder: &Arc<Folder>,
        content: &mut dyn Read,
        hint: u64,
        finish: &mut dyn FnMut(u64) -> Node,
    ) -> Result<std::io::Result<u64>> {
        let mut ids = Vec::new();
        let outcome = self.cutter.cut_all(content, hint, &mut |plain| {
            self.going()?;
            ids.push(self.save_blob(BlobKind::Data, &plain)?);
            Ok(())
        });
        match outcome {
            Ok(size) => {
                let mut node = finish(size);
                node.content = Some(ids);
                folder.add(node);
                Ok(Ok(size))
            }
            Err(CutError::Read(error)) => Ok(Err(error)),
            Err(CutError::Emit(error)) => Err(error),
        }
    }

    pub(crate) fn count_found(&self, files: u64, bytes: u64) {
        self.options.progress.plan(files, bytes);
    }

    pub(crate) fn count_file(&self, change: Change, bytes: u64) {
        let counter = match change {
            Change::New => &self.counters.files_new,
            Change::Changed => &self.counters.files_changed,
            Change::Unmodified => &self.counters.files_unmodified,
        };
        add(counter, 1);
        self.options.progress.done(1, bytes);
    }

    pub(super) fn count_folder(&self, previous: Option<BlobId>, now: BlobId) {
        let counter = match previous {
            None => &self.counters.dirs_new,
            Some(previous) if previous == now => &self.counters.dirs_unmodified,
            Some(_) => &self.counters.dirs_changed,
        };
        add(counter, 1);
    }

    /// Records an item that is missing.
    pub(crate) fn fault(&self, path: String, why: String) {
        tracing::warn!(path, why, "cannot be backed up");
        self.options.progress.fault();
        let mut report = lock(&self.report);
        if report.faults.len() < NOTES_MAX {
            report.faults.push(Note { path, why });
        }
    }

    /// Records something that does not make the restore point incomplete.
    pub(crate) fn note(&self, path: String, why: String) {
        tracing::info!(path, why, "noticed");
        let mut report = lock(&self.report);
        if report.notes.len() < NOTES_MAX {
            report.notes.push(Note { path, why });
        }
    }

    pub(super) fn report(&self) -> Report {
        lock(&self.report).clone()
    }

    pub(super) fn summary(&self) -> Summary {
        let c = &self.counters;
        let stand = self.options.progress.stand();
        Summary {
            files_new: get(&c.files_new),
            files_changed: get(&c.files_changed),
            files_unmodified: get(&c.files_unmodified),
            dirs_new: get(&c.dirs_new),
            dirs_changed: get(&c.dirs_changed),
            dirs_unmodified: get(&c.dirs_unmodified),
            data_blobs: get(&c.data_blobs),
            tree_blobs: get(&c.tree_blobs),
            data_added: get(&c.data_added),
            data_added_packed: get(&c.data_added_packed),
            total_files_processed: stand.items,
            total_bytes_processed: stand.bytes,
            ..Summary::default()
        }
    }

    /// Tells the watcher, if it is time.
    pub(crate) fn watch(&self, waiting: bool) {
        let Some(watcher) = &self.options.watcher else { return };
        // Whoever finds somebody else telling goes on working.
        let watched = if waiting { Some(lock(&self.watched)) } else { self.watched.try_lock().ok() };
        let Some(mut watched) = watched else { return };
        let now = self.repo.core.context.clock.boot();
        if now.saturating_sub(*watched) >= WATCH_EVERY {
            *watched = now;
            watcher(&self.options.progress.stand());
        }
    }
}

/// Holes and unused space of disks: told apart at memory speed, and hashed once for each length.
fn is_zero(plain: &[u8]) -> bool {
    plain.len() >= ZEROS_MIN
        && plain[..16] == [0; 16]
        && plain.chunks(4096).all(|page| page.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Shorter runs of zeros cost as much to look up as to hash.
const ZEROS_MIN: usize = 64 << 10;
/// Lengths whose id is remembered; a source full of odd lengths must not fill the memory.
const LENGTHS_MAX: usize = 1024;

pub(crate) fn zero_id(length: usize) -> BlobId {
    static IDS: LazyLock<Mutex<HashMap<usize, BlobId>>> = LazyLock::new(Mutex::default);
    if let Some(id) = lock(&IDS).get(&length) {
        return *id;
    }
    let id = BlobId::of(&vec![0; length]);
    let mut ids = lock(&IDS);
    if ids.len() < LENGTHS_MAX {
        ids.insert(length, id);
    }
    id
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
