//! Writing a restore point.
//!
//! ```text
//! source ─ chunk ─┬─▶ hash ─ known? ─ compress ─ seal ─ open again ─▶ two open packs per kind, on disk
//!                 │   (every thread of the pool)                          │ full
//! local scan ─ read ┘                                                      ▼
//!                                                     upload threads: store, sync, into the index
//! ```
//!
//! The order is the safety: packs are durable before an index file names them, index files before the
//! snapshot, and the restore point exists when the snapshot file does. Whatever dies in between leaves
//! packs that nobody names yet, never a restore point with holes.
//!
//! A folder becomes a tree blob as soon as it is sealed and everything in it is hashed; the thread that
//! finishes the last item builds it and reports to the folder above. So nobody waits for a folder, and a
//! source that seals as it goes keeps memory flat.
//!
//! A full queue never blocks a thread that could work: whoever finds no room for a chunk processes it
//! itself. That is the back-pressure and the byte budget.

mod folder;
mod intake;
mod packer;
mod parent;
mod queue;
mod repack;
mod session;
mod sink;

use std::{
    collections::BTreeMap, fmt, io::Read, path::PathBuf, sync::Arc, thread::JoinHandle, time::Duration,
};

use jiff::Timestamp;
use kuramori_model::tree::{Entry, EntryKind, FileTime, Meta, TreePath};

pub(crate) use folder::{FileWork, Folder};
pub use intake::Intake;
pub(crate) use parent::{find, is_unchanged, load_tree};
pub(crate) use queue::{Batch, ChunkTask, DirTask};
pub(crate) use repack::Repacker;
pub(crate) use session::{Change, Session, zero_id};
pub use session::{Note, Report};
pub(crate) use sink::{PLAIN_FOLDER, node_of};

use crate::{
    Cancel, Error, Indexed, Repository, Result,
    chunk::Chunking,
    format::snapshot::{self, INCOMPLETE, Snapshot, Summary},
    lock::{LockGuard, LockMode},
    progress::{Progress, Stand},
    store::{FileId, FileKind},
};

/// Something that is told how far the work is, at most five times a second.
pub type Watcher = Arc<dyn Fn(&Stand) + Send + Sync>;

/// How a backup runs. [`Options::default`] fits a server with a few cores.
#[derive(Clone)]
pub struct Options {
    /// Where content is cut.
    pub chunking: Chunking,
    /// zstd's level.
    pub level: i32,
    /// Threads that read, hash, compress and seal. `None`: one more than there are processors.
    pub threads: Option<usize>,
    /// Threads that store packs.
    pub uploads: usize,
    /// A pack is closed above this size in bytes; 4 MiB to 1 GiB.
    pub pack_size: u64,
    /// Bytes of chunks that may wait for a thread.
    pub memory: usize,
    /// Bytes of folders that a sender may leave open at once; a folder's tree is one blob, so it lies in memory
    /// until nothing more comes.
    pub open_folders: u64,
    /// Where packs grow. `None`: where the store says, else the system's temporary folder.
    pub spool_dir: Option<PathBuf>,
    /// The snapshot against which unchanged files are found; see [`Repository::find_parent`].
    pub parent: Option<FileId>,
    /// How long to wait for a foreign exclusive lock.
    pub patience: Duration,
    /// Stops the work.
    pub cancel: Cancel,
    /// Counts files, bytes and what is new. Each backup needs one of its own.
    pub progress: Arc<Progress>,
    /// Is told the progress.
    pub watcher: Option<Watcher>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            chunking: Chunking::Content,
            level: 1,
            threads: None,
            uploads: 2,
            pack_size: 64 << 20,
            memory: 32 << 20,
            open_folders: 768 << 20,
            spool_dir: None,
            parent: None,
            patience: Duration::ZERO,
            cancel: Cancel::default(),
            progress: Arc::default(),
            watcher: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("chunking", &self.chunking)
            .field("level", &self.level)
            .field("threads", &self.threads)
            .field("pack_size", &self.pack_size)
            .field("parent", &self.parent)
            .finish_non_exhaustive()
    }
}

/// What a snapshot says about itself.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// The source's machine.
    pub hostname: String,
    /// The source's user.
    pub username: String,
    /// What was kept.
    pub paths: Vec<String>,
    /// Labels besides our own.
    pub tags: Vec<String>,
    /// When; `None`: the start of the backup by the given clock.
    pub time: Option<Timestamp>,
    /// What was left out.
    pub excludes: Vec<String>,
}

/// A restore point that is durable.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its id.
    pub id: FileId,
    /// What the run did.
    pub summary: Summary,
    /// What could not be read (then the restore point is incomplete), and what changed meanwhile.
    pub report: Report,
}

impl Committed {
    /// Whether items are missing.
    pub fn is_incomplete(&self) -> bool {
        !self.report.faults.is_empty()
    }
}

/// A backup that is running. Put items into it (it is a [`kuramori_model::tree::Sink`]), then
/// [`commit`](Self::commit). Dropping it instead leaves no restore point.
#[derive(Debug)]
pub struct Backup {
    session: Arc<Session>,
    threads: Vec<JoinHandle<()>>,
    /// Folders that are not sealed yet.
    folders: BTreeMap<Vec<u8>, Arc<Folder>>,
    root: Arc<Folder>,
    parent: parent::Parent,
    started: Timestamp,
    lock: LockGuard,
}

impl Repository<Indexed> {
    /// Begins a backup: takes a shared lock and starts the threads.
    pub fn backup(&self, options: Options) -> Result<Backup> {
        if !(4 << 20..=1 << 30).contains(&options.pack_size) {
            return Err(Error::Invalid {
                what: format!("packs of {} bytes are not possible", options.pack_size),
                hint: "choose 4 MiB to 1 GiB".to_owned(),
            });
        }
        let lock = self.lock(LockMode::Shared, options.patience)?;
        // What others committed while we waited counts for us, too.
        self.refresh()?;
        let missed = self.compare_packs()?;
        let parent = parent::Parent::load(self, options.parent)?;
        let started = self.core.context.clock.now();
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let count = options.threads.unwrap_or(processors + 1).max(1);
        let session = Session::new(self.clone(), options);
        for pack in missed {
            let why = "the store misses this pack; what the source still has of it is stored anew";
            session.note(format!("data/{pack}"), why.to_owned());
        }
        let root = Folder::root(parent.root());
        let mut backup =
            Backup { session, threads: Vec::new(), folders: BTreeMap::new(), root, parent, started, lock };
        for number in 0..count {
            let session = Arc::clone(&backup.session);
            backup.spawn(format!("backup-{number}"), move || queue::work(&session))?;
        }
        for number in 0..backup.session.options.uploads.max(1) {
            let session = Arc::clone(&backup.session);
            backup.spawn(format!("upload-{number}"), move || packer::upload(&session))?;
        }
        Ok(backup)
    }
}

impl Backup {
    fn spawn(&mut self, name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(work)
            .map_err(|error| Error::io("start a thread for", "backup", error))?;
        self.threads.push(thread);
        Ok(())
    }

    /// How far the work is.
    pub fn progress(&self) -> Stand {
        self.session.options.progress.stand()
    }

    /// The snapshot against which unchanged files are found.
    pub fn parent(&self) -> Option<FileId> {
        self.parent.id()
    }

    /// Puts the output of a program or another stream as one file. A read error ends the backup: half a
    /// dump is no dump. The caller checks the program's exit status *before* [`commit`](Self::commit).
    pub fn stream(&mut self, name: &TreePath, content: &mut dyn Read) -> Result<u64> {
        let now = self.session.repo.core.context.clock.now();
        let time = FileTime {
            seconds: now.as_second(),
            nanos: u32::try_from(now.subsec_nanosecond()).unwrap_or_default(),
        };
        let meta = Meta { mode: 0o600, mtime: time, atime: time, ctime: time, ..Meta::default() };
        let entry = Entry { path: name.clone(), kind: EntryKind::File { size: 0 }, meta };
        match self.put_file(&entry, content)? {
            Ok(size) => Ok(size),
            Err(error) => {
                let error = Error::io("read the stream for", name.to_string(), error);
                self.session.cancel();
                Err(error)
            }
        }
    }

    /// Makes everything durable and writes the snapshot. Until this returns there is no restore point;
    /// after it there is one.
    pub fn commit(mut self, draft: Draft) -> Result<Committed> {
        let root = self.finish_folders()?;
        let closed = self.session.packer.close_all(&self.session);
        self.stop();
        closed.and_then(|()| self.session.going()).map_err(|error| self.session.cause(error))?;
        let repo = &self.session.repo;
        repo.flush_index()?;
        // Without a lock a prune may have taken what we rely on for known: then nothing becomes visible.
        self.lock.confirm()?;
        self.session.options.cancel.check()?;

        let report = self.session.report();
        let mut summary = self.session.summary();
        summary.backup_start = self.started;
        summary.backup_end = repo.core.context.clock.now();
        let mut tags = draft.tags;
        tags.push(self.session.options.chunking.tag());
        if !report.faults.is_empty() {
            tags.push(INCOMPLETE.to_owned());
        }
        let snapshot = Snapshot {
            time: draft.time.unwrap_or(self.started),
            parent: self.parent.id(),
            tree: root,
            paths: draft.paths,
            hostname: draft.hostname,
            username: draft.username,
            uid: Some(rustix::process::getuid().as_raw()),
            gid: Some(rustix::process::getgid().as_raw()),
            excludes: draft.excludes,
            tags,
            original: None,
            program_version: concat!("kuramori ", env!("CARGO_PKG_VERSION")).to_owned(),
            summary: Some(summary),
        };
        let json = snapshot::encode(&snapshot).map_err(|flaw| Error::Bug { what: flaw.0 })?;
        let id = repo.core.save_file(FileKind::Snapshot, &json)?;
        Ok(Committed { id, summary, report })
    }

    /// Seals what is still open and waits until the root's tree is stored in a pack.
    fn finish_folders(&mut self) -> Result<crate::format::blob::BlobId> {
        let mut open: Vec<_> = std::mem::take(&mut self.folders).into_iter().collect();
        open.sort_unstable_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        for (_, folder) in open {
            folder.seal(&self.session);
        }
        self.root.seal(&self.session);
        self.session.queue.wait_idle(&self.session, &self.lock);
        self.check()?;
        self.root.tree().ok_or_else(|| Error::Bug { what: "the root folder was never finished".to_owned() })
    }

    /// Ends the threads; the upload threads store what is in their hands.
    fn stop(&mut self) {
        self.session.queue.close();
        self.session.packer.close_uploads();
        for thread in self.threads.drain(..) {
            // A panic in it has marked the session as failed.
            let _ = thread.join();
        }
    }

    /// The node that the previous restore point has at a path.
    pub(crate) fn parent_node(&mut self, path: &TreePath) -> Option<crate::format::node::Node> {
        self.parent.node(path)
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        self.session.cancel();
        self.stop();
        // Packs that are stored need not be sent again by the next run, if an index file names them.
        if let Err(error) = self.session.repo.flush_index() {
            tracing::warn!(
                "cannot keep the index of an ended backup: {}",
                kuramori_model::fault::chain(&error)
            );
        }
    }
}
