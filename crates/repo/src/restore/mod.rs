//! Restoring a restore point into a folder.
//!
//! 1. **Plan** ([`plan`]): walk the tree once; make the folders; note for every file which blobs it needs
//!    and at which offset; find a pack for each blob.
//! 2. **Fill** ([`fill`]): go through the packs, several at a time, each in the order of its bytes, reading
//!    neighbouring blobs with one request. A blob that several files need is opened once. Each blob is
//!    hashed before a byte of it is written (rule E1); pages of zeros stay holes.
//! 3. **Finish** ([`attributes`]): links, devices, owners, modes, attributes and times; folders last,
//!    because writing into them changes their times.
//!
//! One item that cannot be restored never stops the others: it is listed in the result, and a file with a
//! damaged piece is removed rather than left half right.

mod attributes;
mod fill;
mod plan;
mod standing;

use std::{path::PathBuf, sync::Mutex};

use kuramori_model::tree::TreePath;

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
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(shortfall);
    }

    fn take(self) -> Vec<Shortfall> {
        let mut all = self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }
}

impl Repository<Indexed> {
    /// Restores a snapshot.
    ///
    /// # Errors
    /// Only what stops the whole work: a target that cannot be used, a damaged root, cancellation. What
    /// happens to single items is in [`Restored::shortfalls`].
    pub fn restore(
        &self,
        snapshot: &Snapshot,
        options: &RestoreOptions,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        prepare_target(options)?;
        let shortfalls = Shortfalls::default();
        let plan = plan::make(self, snapshot, options, progress, cancel, &shortfalls)?;
        fill::fill(self, &plan, options, progress, cancel, &shortfalls)?;
        attributes::finish(&plan, options, &shortfalls);
        let failed = plan.files.iter().filter(|file| file.is_failed()).count() as u64;
        Ok(Restored {
            files: plan.files.len() as u64 - failed,
            folders: plan.folders.len() as u64,
            others: (plan.links.len() + plan.specials.len()) as u64,
            bytes: plan.files.iter().filter(|file| !file.is_failed()).map(|file| file.node.size).sum(),
            shortfalls: shortfalls.take(),
        })
    }
}

fn prepare_target(options: &RestoreOptions) -> Result<()> {
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
    Ok(())
}
