//! Restoring a restore point into a folder.
//!
//! 1. **Plan** ([`plan`]): walk the tree once; make the folders; note for every file which blobs it needs
//!    and at which offset; find a pack for each blob. Files come in windows, so memory stays flat.
//! 2. **Fill** ([`fill`]), while the next window is planned: go through the packs, several at a time, each in
//!    the order of its bytes, reading neighbouring blobs with one request. A blob that several files of a
//!    window need is opened once. Each blob is hashed before a byte of it is written (rule E1); pages of
//!    zeros stay holes.
//! 3. **Finish** ([`attributes`]): links, devices, owners, modes, attributes and times; folders last,
//!    because writing into them changes their times.
//!
//! One item that cannot be restored never stops the others: it is listed in the result, and a file with a
//! damaged piece is removed rather than left half right. A store that cannot be reached any more stops the
//! work instead: it says nothing about the data. Nothing is ever written through a link, wherever it came from.

mod attributes;
mod fill;
mod plan;
mod standing;

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use kuramori_model::tree::TreePath;
use rustix::fs::{Mode, OFlags};

use crate::{
    Cancel, Error, Result,
    format::snapshot::Snapshot,
    progress::Progress,
    repository::{Indexed, Repository},
};

/// What to restore and how.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The folder to restore into; made if it is not there.
    pub target: PathBuf,
    /// Restore only what lies below this path (its content goes straight into the target).
    pub subpath: Option<TreePath>,
    /// Restore into a folder that is not empty, replacing what stands in the way. Without it such a target
    /// is refused.
    pub overwrite: bool,
    /// Go on with a restore of the same restore point that was cut off: what stands there and has the right
    /// hashes is kept, everything else is written again.
    pub resume: bool,
    /// Give items their owners; needs root.
    pub owners: bool,
    /// Threads that read packs.
    pub workers: usize,
}

impl RestoreOptions {
    /// Everything into `target`, which must be empty; owners if this process is root.
    pub fn to(target: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
            subpath: None,
            overwrite: false,
            resume: false,
            owners: rustix::process::geteuid().is_root(),
            workers: std::thread::available_parallelism().map_or(2, usize::from) + 2,
        }
    }
}

/// An item that could not be restored, or not whole.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Shortfall {
    /// Its path in the restore point.
    pub path: String,
    /// Why.
    pub why: String,
    /// Whether its stored data is damaged; otherwise the target is at fault.
    pub damaged: bool,
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Restored {
    /// Files, each counted once however many names it has.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Links, devices, pipes, sockets, and further names of files.
    pub others: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// What is missing or not as it was.
    pub shortfalls: Vec<Shortfall>,
}

/// Shortfalls as they are found by many threads.
#[derive(Debug, Default)]
struct Shortfalls(Mutex<Vec<Shortfall>>);

impl Shortfalls {
    fn note(&self, path: &TreePath, error: &dyn std::error::Error, damaged: bool) {
        let why = kuramori_model::fault::chain(error);
        tracing::error!(%path, "cannot restore: {why}");
        let shortfall = Shortfall { path: path.to_string(), why, damaged };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(shortfall);
    }

    fn take(self) -> Vec<Shortfall> {
        let mut all = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }
}

/// What planner and workers share.
#[derive(Debug)]
struct Shared<'a> {
    repository: &'a Repository<Indexed>,
    options: &'a RestoreOptions,
    progress: &'a Progress,
    cancel: &'a Cancel,
    shortfalls: Shortfalls,
    target: OwnedFd,
    /// The target hands an access list down to what is made in it.
    inherits: bool,
    stopped: AtomicBool,
    failure: Mutex<Option<Error>>,
    /// Files that must not be there at the end.
    failed: Mutex<Vec<TreePath>>,
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Shared<'_> {
    fn going(&self) -> Result<()> {
        if self.stopped.load(Ordering::Acquire) { Err(Error::Cancelled) } else { self.cancel.check() }
    }

    /// Keeps the first cause and stops everybody.
    fn stop(&self, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.stopped.swap(true, Ordering::AcqRel) {
            *failure = Some(error);
        }
    }

    /// What really ended the work, in place of the error that it led to.
    fn cause(&self, error: Error) -> Error {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(error)
    }

    fn count(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A file that cannot be whole is taken away: nobody may mistake it for the real one.
    fn fail(&self, file: &Arc<plan::File>, error: &dyn std::error::Error, damaged: bool) {
        if file.fail() {
            self.progress.fault();
            self.shortfalls.note(&file.path, error, damaged);
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(file.path.clone());
            let _ = fs_err::remove_file(plan::place(self.options, &file.path));
        }
    }
}

impl Repository<Indexed> {
    /// Restores a snapshot.
    ///
    /// # Errors
    /// Only what stops the whole work: a target that cannot be used, a damaged root, a store that cannot be
    /// reached, cancellation. What happens to single items is in [`Restored::shortfalls`].
    pub fn restore(
        &self,
        snapshot: &Snapshot,
        options: &RestoreOptions,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        let target = prepare_target(options)?;
        let shared = Shared {
            repository: self,
            options,
            progress,
            cancel,
            shortfalls: Shortfalls::default(),
            inherits: attributes::hands_down(target.as_fd()),
            target,
            stopped: AtomicBool::new(false),
            failure: Mutex::default(),
            failed: Mutex::default(),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        let workers = options.workers.clamp(1, 64);
        let planned = std::thread::scope(|scope| {
            let (sender, receiver) = crossbeam_channel::bounded(workers * 4);
            for _ in 0..workers {
                let (shared, receiver) = (&shared, receiver.clone());
                scope.spawn(move || fill::work(shared, &receiver));
            }
            let planned =
                plan::make(&shared, snapshot, cancel, &mut |window| fill::hand_out(&shared, window, &sender));
            if let Err(error) = &planned {
                shared.stop(error.repeat());
            }
            planned
        });
        let rest = planned.map_err(|error| shared.cause(error))?;
        shared.going().map_err(|error| shared.cause(error))?;
        // A worker that held such a file open may have made it again.
        for path in shared.failed.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = fs_err::remove_file(plan::place(options, path));
        }
        attributes::finish(&rest, &shared);
        Ok(Restored {
            files: shared.files.into_inner(),
            folders: rest.folders.len() as u64,
            others: (rest.links.len() + rest.specials.len()) as u64,
            bytes: shared.bytes.into_inner(),
            shortfalls: shared.shortfalls.take(),
        })
    }
}

fn prepare_target(options: &RestoreOptions) -> Result<OwnedFd> {
    let target = &options.target;
    let name = || target.display().to_string();
    fs_err::create_dir_all(target).map_err(|error| Error::io("make", name(), error))?;
    let mut entries = fs_err::read_dir(target).map_err(|error| Error::io("read", name(), error))?;
    // A fresh file system has a `lost+found`; it is nobody's data.
    let foreign = entries.find(|entry| !entry.as_ref().is_ok_and(|entry| entry.file_name() == "lost+found"));
    if foreign.is_some() && !options.overwrite && !options.resume {
        return Err(Error::Invalid {
            what: format!("the target `{}` is not empty", target.display()),
            hint: "restore into an empty folder, or replace what stands there with `--overwrite`".to_owned(),
        });
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(target, flags, Mode::empty()).map_err(|error| Error::io("open", name(), error.into()))
}
