//! The pool's work: chunks first, then files, then folders, so that little is under way at any time.

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    Session,
    folder::{FileWork, Folder},
};
use crate::{Error, format::blob::BlobKind, local, lock::LockGuard};

/// A chunk that waits for a thread.
#[derive(Debug)]
pub(crate) struct ChunkTask {
    pub(crate) plain: Vec<u8>,
    pub(crate) file: Arc<FileWork>,
    pub(crate) place: usize,
}

impl ChunkTask {
    pub(crate) fn run(self, session: &Session) {
        match session.save_blob(BlobKind::Data, &self.plain) {
            Ok(id) => self.file.stored(session, self.place, id),
            Err(error) => session.fail(error),
        }
    }
}

/// Some files of one local folder.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) dir: Arc<OwnedFd>,
    pub(crate) path: Arc<PathBuf>,
    pub(crate) folder: Arc<Folder>,
    pub(crate) files: Vec<local::Found>,
    pub(crate) settings: Arc<local::Settings>,
}

/// A local folder that has to be listed.
#[derive(Debug)]
pub(crate) struct DirTask {
    pub(crate) path: PathBuf,
    pub(crate) folder: Arc<Folder>,
    pub(crate) device: u64,
    pub(crate) settings: Arc<local::Settings>,
}

enum Task {
    Chunk(ChunkTask),
    Batch(Batch),
    Dir(DirTask),
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<ChunkTask>,
    chunk_bytes: usize,
    batches: VecDeque<Batch>,
    dirs: Vec<DirTask>,
    running: usize,
    closed: bool,
}

impl State {
    fn is_idle(&self) -> bool {
        self.running == 0 && self.chunks.is_empty() && self.batches.is_empty() && self.dirs.is_empty()
    }

    fn take(&mut self, dirs: bool) -> Option<Task> {
        if let Some(chunk) = self.chunks.pop_front() {
            self.chunk_bytes -= chunk.plain.len();
            return Some(Task::Chunk(chunk));
        }
        // Listing runs ahead of reading, but only a little: names wait in memory.
        if dirs
            && self.batches.len() < SCAN_AHEAD
            && let Some(dir) = self.dirs.pop()
        {
            return Some(Task::Dir(dir));
        }
        self.batches.pop_front().map(Task::Batch)
    }
}

/// Batches that may wait before nobody lists another folder.
const SCAN_AHEAD: usize = 8;
/// Batches that may wait before the thread that lists a folder reads some itself.
const BATCHES_MAX: usize = 128;

/// Work that waits for the pool.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    idle: Condvar,
    memory: usize,
}

impl Queue {
    pub(super) fn new(memory: usize) -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), idle: Condvar::new(), memory }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a chunk to the pool; gives it back if the budget is used up, for the caller to process.
    pub(crate) fn offer(&self, chunk: ChunkTask) -> Result<(), ChunkTask> {
        let mut state = self.lock();
        if state.chunk_bytes + chunk.plain.len() > self.memory {
            return Err(chunk);
        }
        state.chunk_bytes += chunk.plain.len();
        state.chunks.push_back(chunk);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    pub(crate) fn push_dir(&self, dir: DirTask) {
        self.lock().dirs.push(dir);
        self.wake.notify_one();
    }

    /// Queues files to read; reads others itself while too many wait.
    pub(crate) fn push_batch(&self, session: &Session, batch: Batch) {
        let mut state = self.lock();
        state.batches.push_back(batch);
        let mut help = state.batches.len() > BATCHES_MAX;
        drop(state);
        self.wake.notify_one();
        while help {
            let mut state = self.lock();
            let task = state.take(false);
            help = state.batches.len() > BATCHES_MAX;
            drop(state);
            match task {
                Some(task) => run(session, task),
                None => return,
            }
        }
    }

    /// Waits until nothing is queued and nobody works.
    ///
    /// Whoever waits here also sees that the lock is still ours; if it is not, everybody stops.
    pub(super) fn wait_idle(&self, session: &Session, guard: &LockGuard) {
        let mut state = self.lock();
        while !state.is_idle() {
            // Cancelling has no way to wake us; so look again from time to time.
            state = self
                .idle
                .wait_timeout(state, Duration::from_millis(100))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            if let Err(error) = guard.check() {
                session.fail(error);
            }
            session.watch(true);
        }
    }

    /// Lets the threads end when nothing is left.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.take(true) {
                state.running += 1;
                return Some(task);
            }
            if state.closed {
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self) {
        let mut state = self.lock();
        state.running -= 1;
        if state.is_idle() {
            self.idle.notify_all();
        }
    }
}

/// Counts a task as done even if it panics, and then fails the backup: nobody may wait forever.
struct Running<'a>(&'a Session);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Bug { what: "a thread of the backup panicked".to_owned() });
        }
        self.0.queue.done();
    }
}

fn run(session: &Session, task: Task) {
    if session.going().is_err() {
        return;
    }
    match task {
        Task::Chunk(chunk) => chunk.run(session),
        Task::Batch(batch) => local::read_batch(session, &batch),
        Task::Dir(dir) => local::list_dir(session, dir),
    }
    session.watch(false);
}

/// A thread of the pool.
pub(super) fn work(session: &Session) {
    while let Some(task) = session.queue.next() {
        let _running = Running(session);
        run(session, task);
    }
}
