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

mod listing;
mod order;
mod transfer;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use kuramori_model::{
    clock::Clock,
    finding::{Finding, Severity},
};
use kuramori_repo::store::{FileId, FileKind};
use serde::Serialize;

use crate::{
    config::{Config, Limits, is_repository},
    error::{Error, Result},
    folder::Folder,
    puller::{Source, process::Kill},
    register::{FileState, Register, Time},
};
use order::{Board, Task};

/// Ends a pull: gently, or at once.
#[derive(Debug, Default)]
pub struct Stop {
    drain: AtomicBool,
    abort: AtomicBool,
    kills: Mutex<Vec<Kill>>,
}

impl Stop {
    /// Nothing new is started; what is under way may end.
    pub fn drain(&self) {
        self.drain.store(true, Ordering::SeqCst);
    }

    /// Every puller is killed now.
    pub fn abort(&self) {
        self.drain();
        self.abort.store(true, Ordering::SeqCst);
        let kills = std::mem::take(&mut *self.kills.lock().unwrap_or_else(PoisonError::into_inner));
        for kill in kills {
            kill.kill();
        }
    }

    /// Whether nothing new may be started.
    pub fn draining(&self) -> bool {
        self.drain.load(Ordering::SeqCst)
    }

    /// Whether everything must end.
    pub fn aborted(&self) -> bool {
        self.abort.load(Ordering::SeqCst)
    }

    /// Takes a puller in charge.
    pub fn watch(&self, kill: &Kill) {
        self.kills.lock().unwrap_or_else(PoisonError::into_inner).push(kill.clone());
        if self.aborted() {
            kill.kill();
        }
    }
}

/// What one repository brought.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Brought {
    /// Its name.
    pub name: String,
    /// First seen in this pull.
    pub new: bool,
    /// Packs, index files and snapshots that came.
    pub files: u64,
    /// Their bytes, without what was cut off.
    pub bytes: u64,
    /// Snapshots among them.
    pub snapshots: u64,
    /// Files that the primary listed and that are not here yet.
    pub backlog_files: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
    /// How often it was listed anew.
    pub relists: u32,
    /// Everything that was listed is here.
    pub finished: bool,
    /// Why not, if something failed.
    pub why: Option<String>,
}

/// What a pull did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Pulled {
    /// Each repository, in restore order.
    pub repositories: Vec<Brought>,
    /// Bytes of file content that came, also of transfers that were cut off.
    pub bytes: u64,
    /// What a person must hear.
    pub findings: Vec<Finding>,
}

/// What is here of a repository, known before the window opens.
#[derive(Debug, Default)]
pub(crate) struct Have {
    /// Names that are not fetched: here, dropped, or forged.
    pub(crate) packs: HashSet<FileId>,
    pub(crate) indexes: HashSet<FileId>,
    pub(crate) snapshots: HashSet<FileId>,
    pub(crate) bytes: u64,
    pub(crate) config: Option<FileId>,
    pub(crate) keys: HashSet<FileId>,
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
                bytes: row.bytes,
                config,
                keys,
            };
            have.insert(row.name, known);
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

    /// Which of the names that the primary gave are pulled, in restore order, each with whether it is new.
    fn accept(&mut self, names: Vec<String>, findings: &mut Vec<Finding>) -> Result<Vec<(String, bool)>> {
        let mut accepted = Vec::new();
        let mut fresh = 0;
        let names: HashSet<String> = names.into_iter().collect();
        let reports = self.config.report.as_ref().map(|report| report.repository.as_str());
        for name in &names {
            if Some(name.as_str()) == reports {
                continue;
            }
            if !is_repository(name) {
                let shown: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
                findings.push(
                    Finding::new("vault.bad-name", Severity::Alarm, "check-primary").with("name", shown),
                );
                continue;
            }
            let new = !self.have.contains_key(name);
            if new {
                fresh += 1;
                if fresh > self.limits.new_repositories {
                    findings.push(about("vault.too-many-new", Severity::Alarm, "check-primary", name));
                    continue;
                }
                self.register.see(name, "new", &self.now)?;
                self.have.insert(name.clone(), Have::default());
                findings.push(about("vault.new-repository", Severity::Warning, "confirm-repository", name));
            } else {
                self.register.set_state(name, "known")?;
            }
            accepted.push((name.clone(), new));
        }
        for known in self.have.keys().filter(|known| self.whole && !names.contains(*known)) {
            self.register.set_state(known, "vanished")?;
            findings.push(about("vault.repository-vanished", Severity::Alarm, "check-primary", known));
        }
        let rank = |name: &str| {
            let control = name != kuramori_model::ids::CONTROL_REPOSITORY;
            (control, self.config.order.iter().position(|known| known == name).unwrap_or(usize::MAX))
        };
        accepted.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
        Ok(accepted)
    }

    fn backlog_findings(&self, now: &Time, findings: &mut Vec<Finding>) -> Result<()> {
        for row in self.register.repositories()? {
            let Some(since) = row.backlog_since_s else { continue };
            let age = now.accumulated_s.saturating_sub(since);
            if age > self.config.window.backlog_alarm_s {
                findings.push(
                    about("vault.backlog", Severity::Alarm, "longer-window", &row.name)
                        .with("bytes", kuramori_model::finding::Value::Bytes(row.backlog_bytes))
                        .with(
                            "age",
                            kuramori_model::finding::Value::Seconds(i64::try_from(age).unwrap_or(i64::MAX)),
                        ),
                );
            }
        }
        Ok(())
    }

    fn work(
        &self,
        mut source: Option<Box<dyn Source>>,
        sources: &(dyn Fn() -> Result<Box<dyn Source>> + Sync),
        board: &Mutex<Board>,
        changed: &Condvar,
        found: &Mutex<Vec<Finding>>,
    ) {
        while let Some(task) = self.next(board, changed) {
            let outcome = match &mut source {
                Some(ready) => Ok(ready),
                None => sources().map(|made| source.insert(made)),
            }
            .and_then(|source| self.perform(&task, &mut **source, board, found));
            if let Err(Error::Puller { .. } | Error::Misbehaved(_) | Error::Network(_)) = &outcome {
                // Its process may be dead or in the middle of something.
                source = None;
            }
            self.settle(&task, outcome, board, found);
            changed.notify_all();
        }
    }

    /// The next task, or none when there is nothing left to do for any worker.
    fn next(&self, board: &Mutex<Board>, changed: &Condvar) -> Option<Task> {
        let mut guard = lock(board);
        loop {
            if self.stop.draining() {
                return None;
            }
            if let Some(task) = guard.pick() {
                return Some(task);
            }
            if guard.idle() {
                return None;
            }
            let pause = std::time::Duration::from_millis(200);
            guard = changed.wait_timeout(guard, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn perform(
        &self,
        task: &Task,
        source: &mut dyn Source,
        board: &Mutex<Board>,
        found: &Mutex<Vec<Finding>>,
    ) -> Result<()> {
        let name = lock(board).name(task.repository).to_owned();
        match task.file {
            None => {
                let mut findings = Vec::new();
                let frozen = self.list(&name, source, &mut findings);
                lock(found).extend(findings);
                lock(board).freeze(task.repository, frozen?);
            }
            Some((kind, id, size)) => {
                self.transfer(source, &name, kind, id, size)?;
                self.register.fetched(&name, kind, &[(id, size)], self.window, &self.now)?;
                lock(board).fetched(task.repository, kind, size);
            }
        }
        Ok(())
    }

    /// Takes note of how a task ended, and decides what becomes of its repository.
    fn settle(&self, task: &Task, outcome: Result<()>, board: &Mutex<Board>, found: &Mutex<Vec<Finding>>) {
        let mut board = lock(board);
        board.ended(task);
        let Err(error) = outcome else { return };
        if self.stop.aborted() || matches!(error, Error::WindowOver(_)) {
            board.put_back(task);
            return;
        }
        let name = board.name(task.repository).to_owned();
        tracing::warn!(
            repository = name,
            error = kuramori_model::fault::chain(&error),
            "a step of the pull failed"
        );
        match &error {
            Error::Vanished(_)
                if task.file.is_some() && board.relist(task.repository, self.limits.relists) => {}
            Error::Puller { .. }
            | Error::Network(_)
            | Error::Misbehaved(_)
            | Error::Vanished(_)
            | Error::WrongBytes(_)
                if board.again(task) => {}
            // One damaged file at the primary must not keep the others from coming.
            Error::WrongBytes(file) if board.skip(task) => {
                let finding = about("vault.wrong-bytes", Severity::Alarm, "check-primary", &name);
                lock(found).push(finding.with("file", file.as_str()));
            }
            _ => {
                let text = kuramori_model::fault::chain(&error);
                let mut finding = about("vault.pull-failed", Severity::Alarm, "check-primary", &name);
                if matches!(error, Error::Misbehaved(_)) {
                    finding = about("vault.primary-misbehaves", Severity::Alarm, "check-primary", &name);
                }
                lock(found).push(finding.with("why", text.clone()));
                board.give_up(task.repository, text);
            }
        }
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

/// A proven pack is gone: every restore point is walked again.
pub(crate) fn doubt(register: &Register, repository: &str) -> Result<()> {
    let files = register.files(repository, FileKind::Snapshot)?;
    let proven: Vec<FileId> =
        files.into_iter().filter(|(_, file)| file.state == FileState::Verified).map(|(id, _)| id).collect();
    register.set_files(repository, FileKind::Snapshot, &proven, FileState::Fetched, None)
}

/// Makes the register agree with the folder about what lies here.
fn reconcile(
    folder: &Folder,
    register: &Register,
    repository: &str,
    window: Option<u64>,
    now: &Time,
) -> Result<()> {
    for kind in [FileKind::Pack, FileKind::Index, FileKind::Snapshot] {
        let known = register.files(repository, kind)?;
        let here = folder.list(repository, kind)?;
        let names: HashSet<FileId> = here.iter().map(|(id, _)| *id).collect();
        let unknown: Vec<_> = here.into_iter().filter(|(id, _)| !known.contains_key(id)).collect();
        if !unknown.is_empty() {
            register.fetched(repository, kind, &unknown, window, now)?;
        }
        let lost: Vec<FileId> = known
            .iter()
            .filter(|(id, file)| {
                matches!(file.state, FileState::Fetched | FileState::Verified) && !names.contains(*id)
            })
            .map(|(id, _)| *id)
            .collect();
        if !lost.is_empty() {
            tracing::error!(repository, %kind, files = lost.len(), "files of the vault are gone; they are fetched again");
            register.forget_files(repository, kind, &lost)?;
            if kind == FileKind::Pack {
                doubt(register, repository)?;
            }
        }
    }
    Ok(())
}
