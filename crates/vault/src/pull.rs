//! One pull: list, freeze, fetch. Nothing is parsed; only names, sizes and hashes count.
//!
//! For each repository the primary is *listed* snapshots first, then index files, then packs, then keys, and
//! the lists are frozen; they are *fetched* the other way round: packs, index files, snapshots. A file that
//! vanished between listing and fetching (a prune or repack at the primary) makes that one repository be
//! listed anew; what was fetched stays. A file that the primary no longer has is never removed here.
//!
//! Every file is hashed while it comes and gets its name only if that is its hash. A transfer that the
//! window's end cuts off stays as a partial file; the next window hashes what is there and asks for the rest.
//!
//! Several workers, each with a source of its own, take the next file from [`order`]: repositories in restore
//! order, one turn in five for the others so that none starves.
//!
//! **Invariant:** `config` and `keys/*` are taken once, at enrolment, and never again.

mod accept;
mod listing;
mod order;
mod outcome;
mod reconcile;
mod stop;
mod transfer;
mod work;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::digest::Context;
use kuramori_model::{
    clock::Clock,
    finding::{Finding, Severity},
};
use kuramori_repo::store::{FileId, FileKind};

pub(crate) use self::reconcile::doubt;
use self::{order::Board, reconcile::reconcile};
pub use self::{
    outcome::{Brought, Pulled},
    stop::Stop,
};
use crate::{
    config::{Config, Limits},
    error::{Error, Result},
    folder::Folder,
    puller::Source,
    register::{Register, Time},
};

/// What is here of a repository, known before the window opens.
#[derive(Debug, Default)]
pub(crate) struct Have {
    /// Names that are not fetched: here, dropped, or forged.
    pub(crate) packs: HashSet<FileId>,
    pub(crate) indexes: HashSet<FileId>,
    pub(crate) snapshots: HashSet<FileId>,
    /// Bytes of everything that lies here, what was put aside included: what the quota counts.
    pub(crate) held: u64,
    /// A person or the configuration knows it.
    pub(crate) confirmed: bool,
    pub(crate) config: Option<FileId>,
    pub(crate) keys: HashSet<FileId>,
}

/// A cut-off transfer: the hash over what is there, and how much that is.
struct Begun {
    context: Context,
    size: u64,
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Begun({} bytes)", self.size)
    }
}

/// Everything that a pull needs. [`Pull::prepare`] reads the register and the folder *before* the window.
#[derive(Debug)]
pub struct Pull<'a> {
    folder: &'a Folder,
    register: &'a Register,
    config: &'a Config,
    limits: Limits,
    clock: Arc<dyn Clock>,
    window: Option<u64>,
    now: Time,
    have: HashMap<String, Have>,
    left: AtomicU64,
    bytes: AtomicU64,
    /// What this pull has brought already: a repository that is listed anew must not bring it twice.
    brought: Mutex<HashMap<String, HashSet<FileId>>>,
    /// Hashes of cut-off transfers, made before the window opens: gigabytes are not read while it is open.
    begun: Mutex<HashMap<PathBuf, Begun>>,
    stop: &'a Stop,
    /// The source has everything, so what it does not name has vanished.
    whole: bool,
}

impl<'a> Pull<'a> {
    /// Reads what is here. Takes the folder as the truth about what is there.
    ///
    /// # Errors
    /// [`Error::Register`], [`Error::Io`].
    pub fn prepare(
        folder: &'a Folder,
        register: &'a Register,
        config: &'a Config,
        clock: Arc<dyn Clock>,
        window: Option<u64>,
        stop: &'a Stop,
    ) -> Result<Self> {
        let now = register.tick(&*clock)?;
        let mut have = HashMap::new();
        for row in register.repositories()? {
            reconcile(folder, register, &row.name, window, &now)?;
            let names = |kind| Ok::<_, Error>(register.files(&row.name, kind)?.into_keys().collect());
            let (config, keys) = register.pins(&row.name)?;
            let known = Have {
                packs: names(FileKind::Pack)?,
                indexes: names(FileKind::Index)?,
                snapshots: names(FileKind::Snapshot)?,
                held: row.held,
                confirmed: row.confirmed,
                config,
                keys,
            };
            have.insert(row.name, known);
        }
        let mut begun = HashMap::new();
        for path in
            have.keys().map(|name| folder.partials(name)).collect::<Result<Vec<_>>>()?.into_iter().flatten()
        {
            let (context, size) = crate::folder::hash(&path)?;
            begun.insert(path, Begun { context, size });
        }
        Ok(Self {
            folder,
            register,
            limits: config.limits,
            left: AtomicU64::new(config.window.max_bytes.0),
            config,
            clock,
            window,
            now,
            have,
            bytes: AtomicU64::new(0),
            brought: Mutex::default(),
            begun: Mutex::new(begun),
            stop,
            whole: true,
        })
    }

    /// The source is a carried disk: what it does not hold has not vanished, and no window limits its bytes.
    #[must_use]
    pub fn from_disk(mut self) -> Self {
        self.whole = false;
        self.left = AtomicU64::new(u64::MAX);
        self
    }

    /// A window for which a number of bytes was approved.
    #[must_use]
    pub fn at_most(mut self, bytes: u64) -> Self {
        self.left = AtomicU64::new(bytes);
        self
    }

    /// Bytes that came so far, for whoever shows progress.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Pulls with as many workers as `sources` can be made, until everything listed is here or `stop` says so.
    ///
    /// # Errors
    /// Only if the very first listing fails; what happens to single repositories is in [`Pulled`].
    pub fn run(
        &mut self,
        workers: usize,
        sources: &(dyn Fn() -> Result<Box<dyn Source>> + Sync),
    ) -> Result<Pulled> {
        let mut findings = Vec::new();
        let mut first = sources()?;
        let names = self.accept(first.repositories()?, &mut findings)?;
        let board = Mutex::new(Board::new(names.into_iter().map(|(name, new)| Brought {
            name,
            new,
            ..Brought::default()
        })));
        let changed = Condvar::new();
        let found = Mutex::new(findings);
        let this = &*self;
        std::thread::scope(|scope| {
            let mut ready = Some(first);
            for _ in 0..workers.max(1) {
                let source = ready.take();
                let (board, changed, found) = (&board, &changed, &found);
                scope.spawn(move || this.work(source, sources, board, changed, found));
            }
        });
        let board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut pulled = Pulled {
            repositories: board.into_brought(),
            bytes: self.bytes.load(Ordering::Relaxed),
            findings: found.into_inner().unwrap_or_else(PoisonError::into_inner),
        };
        let now = self.register.tick(&*self.clock)?;
        for brought in &pulled.repositories {
            self.register.set_backlog(&brought.name, brought.backlog_files, brought.backlog_bytes, &now)?;
        }
        self.backlog_findings(&now, &mut pulled.findings)?;
        Ok(pulled)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A finding about a repository. `_control` is no system, so the name is the subject.
pub(crate) fn about(code: &str, severity: Severity, action: &str, repository: &str) -> Finding {
    let finding = Finding::new(code, severity, action).about(repository);
    match kuramori_model::ids::SystemId::new(repository) {
        Ok(system) => finding.of(&system),
        Err(_) => finding,
    }
}
