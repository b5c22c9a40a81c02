//! Carrying a plan out.
//!
//! The data grows in a staging folder beside the target. Whatever ends the work early (a signal, a power
//! cut, a full disk) leaves the target as it was, and the same command goes on where it stopped: every piece
//! that is there is hashed and kept if it is right. Only when everything is there does the target get its
//! new content, in one rename, and what stood there before is kept beside it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kuramori_model::clock::Clock;
use kuramori_repo::{
    Cancel, Indexed, Repository,
    progress::Progress,
    restore::{RestoreOptions, Shortfall},
};
use serde::Serialize;

use crate::{
    DrillError, Result, binlog,
    compare::{self, Compared},
    moment::{self, Proven},
    plan::{Plan, snapshot_id, subpath},
};

/// How a plan is carried out.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Put what could be restored into the place even if items are missing.
    pub accept_missing: bool,
    /// Read everything back and compare it with the restore point.
    pub verify: bool,
    /// Threads that read; 0 for as many as the machine has.
    pub workers: usize,
    /// Write the settings of a recovery to a moment, and leave the recovery itself to the first start.
    pub leave_recovery: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Done {
    /// Where the data is.
    pub target: PathBuf,
    /// Where the original is kept.
    pub kept: Option<PathBuf>,
    /// Files that came back.
    pub files: u64,
    /// Bytes that came back.
    pub bytes: u64,
    /// Whether an earlier attempt was gone on with.
    pub resumed: bool,
    /// Bytes that the earlier attempt had already brought.
    pub found_there: u64,
    /// Seconds of the restore.
    pub seconds: f64,
    /// What is missing or not as it was.
    pub shortfalls: Vec<Shortfall>,
    /// What the reading back found, if it was asked for.
    pub verified: Option<Compared>,
    /// What the server said when it recovered to the wished moment.
    pub proven: Option<Proven>,
}

/// Carries the plan out.
///
/// # Errors
/// Besides the engine's: another restore works there, or items are missing and were not accepted.
pub fn run(
    repository: &Repository<Indexed>,
    plan: &Plan,
    how: How,
    clock: &dyn Clock,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Done> {
    let target = &plan.target;
    fs_err::create_dir_all(&target.staging).map_err(DrillError::file("make the staging folder"))?;
    let _alone = alone(&target.staging)?;
    clear_recovery(&target.staging)?;
    let found_there = used(&target.staging);
    let begin = clock.boot();
    let mut options = RestoreOptions::to(&target.staging);
    options.subpath = subpath(plan.root.as_deref(), plan.part.as_deref())?;
    options.resume = true;
    if how.workers > 0 {
        options.workers = how.workers;
    }
    let snapshot = repository.snapshot(snapshot_id(&plan.choice.point.snapshot)?)?;
    let restored = repository.restore(&snapshot, &options, progress, cancel)?;
    if !restored.shortfalls.is_empty() && !how.accept_missing {
        return Err(DrillError::Short {
            count: restored.shortfalls.len(),
            staging: target.staging.clone(),
            damaged: restored.shortfalls.iter().any(|shortfall| shortfall.damaged),
        });
    }
    let verified = if how.verify {
        let compared =
            compare::compare(repository, &snapshot, options.subpath.as_ref(), &target.staging, cancel)?;
        if !compared.identical() && !how.accept_missing {
            let count = usize::try_from(compared.missing + compared.changed).unwrap_or(usize::MAX);
            return Err(DrillError::Short { count, staging: target.staging.clone(), damaged: false });
        }
        Some(compared)
    } else {
        None
    };
    let proven = match (&plan.moment, &plan.second) {
        (None, None) => None,
        (None, Some(wanted)) => {
            binlog::prepare(repository, wanted, &target.staging, progress, cancel)?;
            let load = |run: &Path| binlog::recover(wanted, &target.staging, run, clock);
            (!how.leave_recovery).then(|| load(&run_folder(&target.staging))).transpose()?
        }
        (Some(wanted), _) => {
            moment::prepare(repository, wanted, &target.staging, progress, cancel)?;
            let recover = |run: &Path| moment::recover(wanted, &target.staging, run, clock);
            (!how.leave_recovery).then(|| recover(&run_folder(&target.staging))).transpose()?
        }
    };
    let seconds = clock.boot().saturating_sub(begin).as_secs_f64();
    let kept = target.put()?;
    if proven.is_some() {
        // Not before: as long as it is there, what lies in staging is known not to be what the engine restored.
        if let Err(error) = fs_err::remove_dir_all(run_folder(&target.staging)) {
            tracing::warn!("what the recovery wrote beside the target is still there: {error}");
        }
    }
    Ok(Done {
        target: target.path.clone(),
        kept,
        files: restored.files,
        bytes: restored.bytes,
        resumed: target.resumes,
        found_there,
        seconds,
        shortfalls: restored.shortfalls,
        verified,
        proven,
    })
}

/// The folder for sockets and logs while a server recovers; it is there as long as staging is not what the
/// engine restored. What a failed recovery said stays in it.
fn run_folder(staging: &Path) -> PathBuf {
    let mut name = staging.file_name().unwrap_or_default().to_owned();
    name.push(".run");
    staging.with_file_name(name)
}

/// A recovery that was cut off has changed what was restored, and left files of its own: begin anew.
fn clear_recovery(staging: &Path) -> Result<()> {
    let run = run_folder(staging);
    if !run.exists() {
        return Ok(());
    }
    let wrong = DrillError::file("clear what a recovery left that was cut off");
    for entry in fs_err::read_dir(staging).map_err(&wrong)? {
        let path = entry.map_err(&wrong)?.path();
        if path.is_dir() && !path.is_symlink() {
            fs_err::remove_dir_all(path).map_err(&wrong)?;
        } else {
            fs_err::remove_file(path).map_err(&wrong)?;
        }
    }
    fs_err::remove_dir_all(run).map_err(&wrong)
}

/// Holds the staging folder alone until the guard goes.
fn alone(staging: &Path) -> Result<fs_err::File> {
    let folder = fs_err::File::open(staging).map_err(DrillError::file("open the staging folder"))?;
    match rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(folder),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DrillError::Busy(staging.to_owned())),
        Err(error) => Err(DrillError::file("hold the staging folder")(error.into())),
    }
}

/// Bytes that files below a folder take on its disk; holes do not count.
pub(crate) fn used(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut open) = (0, vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs_err::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(about) if about.is_dir() => open.push(entry.path()),
                Ok(about) => bytes += about.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}

/// How long a restore waits for somebody else's exclusive lock on the repository.
pub const PATIENCE: Duration = Duration::from_mins(1);
