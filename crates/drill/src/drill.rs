//! One drill: a restore point becomes a running system in a place without a way out, is asked, measured,
//! and everything is removed again.
//!
//! ```text
//! <work>/lock            held while a drill runs; what a killed drill left is removed by the next one
//! <work>/drill-<n>/data  the restored data
//! <work>/drill-<n>/run   sockets, configuration, logs
//! ```
//! The clock runs from the first byte until the last probe has answered: that is how long people would wait.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use kuramori_model::{
    clock::Clock,
    fault::{Fault, chain},
};
use kuramori_repo::{Cancel, Indexed, Repository, progress::Progress, restore::RestoreOptions};
use serde::{Deserialize, Serialize};

use crate::{
    DrillError, Result,
    cell::{Cell, Isolation},
    choose::Choice,
    compare,
    plan::{root, snapshot_id},
    profile::{Profile, Service},
    service::{self, Probe, Stage},
};

/// The number of the record's schema; it only grows.
pub const SCHEMA: u32 = 1;

/// What is drilled.
#[derive(Debug)]
pub struct Task<'a> {
    /// Of which system.
    pub system: &'a str,
    /// Which point and why.
    pub choice: Choice,
    /// Its opened repository.
    pub repository: &'a Repository<Indexed>,
    /// How it is brought up.
    pub profile: &'a Profile,
    /// What runs on the data.
    pub service: Service,
    /// Files and bytes that were recorded when it was backed up; none where nobody counted them.
    pub recorded: Option<(u64, u64)>,
    /// How long it may take.
    pub rto: Duration,
    /// The folder below which everything happens.
    pub work: &'a Path,
    /// The last drill of this system that passed.
    pub before: Option<&'a Record>,
    /// Who asked: `schedule`, or a name.
    pub by: &'a str,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Stops it.
    pub cancel: &'a Cancel,
}

/// How long each part took, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Until the data was there and compared with the restore point.
    pub restore_s: f64,
    /// Until the service answered.
    pub start_s: f64,
    /// Until every probe had answered.
    pub check_s: f64,
    /// All of it: what people would wait.
    pub rto_s: f64,
}

/// The evidence of one drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Of which system.
    pub system: String,
    /// Who asked.
    pub by: String,
    /// When it began.
    pub begun: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Which point, from which copy, and why.
    pub choice: Choice,
    /// What was started on the data.
    pub service: Service,
    /// Whether everything was as it has to be.
    pub passed: bool,
    /// Why not, if something kept it from being asked.
    pub failure: Option<Failure>,
    /// What each probe said.
    pub probes: Vec<Probe>,
    /// The place in which it happened; none if none could be made.
    pub isolation: Option<Isolation>,
    /// Files that came back.
    pub files: u64,
    /// Bytes that came back.
    pub bytes: u64,
    /// How long it took.
    pub times: Times,
    /// How long it may take, in seconds.
    pub rto_target_s: u64,
    /// Whether it was fast enough; a slow drill that is right passes and is marked.
    pub rto_met: bool,
    /// Whether everything was removed afterwards.
    pub cleaned: bool,
}

/// What kept a drill from its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable code.
    pub code: String,
    /// In words, with all causes.
    pub text: String,
}

impl From<&DrillError> for Failure {
    fn from(error: &DrillError) -> Self {
        Self { code: error.code().to_owned(), text: chain(error) }
    }
}

/// Runs a drill. Whatever goes wrong is a failed drill with its reason, because a drill that cannot be held
/// proves nothing; only cancellation is an error.
///
/// # Errors
/// It was cancelled.
pub fn run(task: &Task<'_>) -> Result<Record> {
    let begun = task.clock.now();
    let boot = task.clock.boot();
    let mut record = Record {
        schema: SCHEMA,
        system: task.system.to_owned(),
        by: task.by.to_owned(),
        begun,
        ended: begun,
        choice: task.choice.clone(),
        service: task.service.clone(),
        passed: false,
        failure: None,
        probes: Vec::new(),
        isolation: None,
        files: 0,
        bytes: 0,
        times: Times::default(),
        rto_target_s: task.rto.as_secs(),
        rto_met: false,
        cleaned: false,
    };
    let (outcome, cleaned) = match Desk::take(task.work) {
        Ok(desk) => {
            let outcome = hold(task, &desk, boot, &mut record);
            (outcome, desk.clear())
        }
        Err(error) => (Err(error), true),
    };
    record.cleaned = cleaned;
    record.ended = task.clock.now();
    record.times.rto_s = task.clock.boot().saturating_sub(boot).as_secs_f64();
    if let Err(error) = outcome {
        if task.cancel.is_cancelled() {
            return Err(error);
        }
        record.failure = Some(Failure::from(&error));
    }
    record.passed =
        record.failure.is_none() && !record.probes.is_empty() && record.probes.iter().all(|probe| probe.good);
    record.rto_met = record.passed && record.times.rto_s <= task.rto.as_secs_f64();
    Ok(record)
}

fn hold(task: &Task<'_>, desk: &Desk, boot: Duration, record: &mut Record) -> Result<()> {
    // First the place: without one nothing is restored.
    let cell = Cell::open(task.profile.memory)?;
    record.isolation = Some(cell.isolation().clone());
    let snapshot = task.repository.snapshot(snapshot_id(&task.choice.point.snapshot)?)?;
    let below = root(task.repository, &snapshot)?;
    let free = crate::target::free(&desk.folder)?;
    if free < task.choice.point.bytes {
        let (path, need) = (desk.folder.clone(), task.choice.point.bytes);
        return Err(DrillError::Space { path, need, have: free });
    }
    let mut options = RestoreOptions::to(&desk.data);
    options.subpath.clone_from(&below);
    // Gently: a drill is never as urgent as the backups that run beside it.
    options.workers = options.workers.min(3);
    let restored = task.repository.restore(&snapshot, &options, &Progress::default(), task.cancel)?;
    (record.files, record.bytes) = (restored.files, restored.bytes);
    let stage = Stage {
        cell: &cell,
        clock: task.clock,
        profile: task.profile,
        data: &desk.data,
        run: &desk.run,
        before: task.before.map_or(&[], |before| &before.probes),
        answered: std::cell::Cell::new(None),
        probes: std::cell::RefCell::default(),
    };
    if !restored.shortfalls.is_empty() {
        let first = &restored.shortfalls[0];
        let answer =
            format!("{} items are missing; {}: {}", restored.shortfalls.len(), first.path, first.why);
        stage.note("restore", "every item of the restore point", answer, false);
    }
    let compared = compare::compare(task.repository, &snapshot, below.as_ref(), &desk.data, task.cancel)?;
    let answer = if compared.identical() {
        format!("{} files, {} bytes, all as in the restore point", compared.files, compared.bytes)
    } else {
        format!(
            "{} missing, {} changed, {} added: {}",
            compared.missing,
            compared.changed,
            compared.added,
            compared.examples.join(", ")
        )
    };
    let good = compared.identical() && compared.files > 0;
    stage.note("manifest", "every file, read again, against the hashes of the restore point", answer, good);
    if let Some((files, bytes)) = task.recorded {
        let good = (compared.files, compared.bytes) == (files, bytes);
        let words = |files: u64, bytes: u64| format!("{files} files, {bytes} bytes");
        stage.probe(
            "recorded",
            "what was counted when it was backed up",
            words(compared.files, compared.bytes),
            Some(words(files, bytes)),
            good,
        );
    }
    let user = match task.service {
        Service::Postgres { .. } | Service::PostgresDump { .. } => "postgres",
        Service::MariadbDump { .. } => "mysql",
        Service::Orthanc { .. } => "orthanc",
        _ => "nobody",
    };
    cell.admit(user, &desk.folder)?;
    let restored_at = task.clock.boot();
    record.times.restore_s = restored_at.saturating_sub(boot).as_secs_f64();
    let up = service::bring_up(&stage, &task.service);
    let own = if up.is_ok() { service::own_checks(&stage, user) } else { Ok(()) };
    let end = task.clock.boot();
    let answered = stage.answered.get().unwrap_or(end);
    record.times.start_s = answered.saturating_sub(restored_at).as_secs_f64();
    record.times.check_s = end.saturating_sub(answered).as_secs_f64();
    record.probes = stage.probes.take();
    up.and(own)
}

/// The drill's own folder; gone with it.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) folder: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    _alone: fs_err::File,
}

impl Desk {
    /// Takes the work folder alone and removes what a killed drill left there.
    pub(crate) fn take(work: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let wrong = DrillError::file("prepare the drill's folder");
        fs_err::create_dir_all(work).map_err(&wrong)?;
        // Services of their own users must be able to reach their data below it.
        fs_err::set_permissions(work, std::fs::Permissions::from_mode(0o711)).map_err(&wrong)?;
        let alone = fs_err::File::create(work.join("lock")).map_err(&wrong)?;
        match rustix::fs::flock(&alone, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DrillError::Busy(work.to_owned())),
            Err(error) => return Err(wrong(error.into())),
        }
        for entry in fs_err::read_dir(work).map_err(&wrong)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("drill-") {
                fs_err::remove_dir_all(entry.path()).map_err(&wrong)?;
            }
        }
        let folder = work.join(format!("drill-{}", std::process::id()));
        let (data, run) = (folder.join("data"), folder.join("run"));
        for made in [&folder, &data, &run] {
            fs_err::create_dir(made).map_err(&wrong)?;
        }
        // Restored data is nobody's business; its service is let in when it is known.
        fs_err::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).map_err(&wrong)?;
        Ok(Self { folder, data, run, _alone: alone })
    }

    /// Removes everything; whether that worked.
    fn clear(&self) -> bool {
        fs_err::remove_dir_all(&self.folder).is_ok()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs_err::remove_dir_all(&self.folder);
    }
}

/// When the next drill of a system is due, and from when on its absence is an alarm.
pub fn due(profile: &Profile, last: Option<Timestamp>, first_point: Timestamp) -> (Timestamp, Timestamp) {
    let days = |count: u32| jiff::SignedDuration::from_hours(24 * i64::from(count));
    // A new system is drilled on its second day, when its first night is over.
    let due = last.map_or_else(|| first_point + days(1), |last| last + days(profile.every_days));
    (due, due + days(profile.grace_days))
}

/// Systems in the order in which they come back: by their place, each after all that it needs. What needs
/// each other in a circle keeps its place.
pub fn order<'a>(systems: &'a [(String, u32)], needs: &BTreeMap<String, Vec<String>>) -> Vec<&'a str> {
    let mut left: Vec<&(String, u32)> = systems.iter().collect();
    left.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    let mut ordered: Vec<&str> = Vec::new();
    while !left.is_empty() {
        let ready = left.iter().position(|(id, _)| {
            needs.get(id).is_none_or(|needs| {
                needs.iter().all(|need| {
                    ordered.contains(&need.as_str())
                        || !left.iter().any(|(other, _)| other == need && other != id)
                })
            })
        });
        let (id, _) = left.remove(ready.unwrap_or(0));
        ordered.push(id);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_a_circle_does_not_hang() {
        let systems: Vec<(String, u32)> =
            [("ehr", 1), ("pacs", 2), ("directory", 9)].map(|(id, at)| (id.to_owned(), at)).to_vec();
        let mut needs = BTreeMap::new();
        assert_eq!(order(&systems, &needs), ["ehr", "pacs", "directory"]);
        needs.insert("ehr".to_owned(), vec!["directory".to_owned(), "elsewhere".to_owned()]);
        assert_eq!(order(&systems, &needs), ["pacs", "directory", "ehr"]);
        needs.insert("directory".to_owned(), vec!["ehr".to_owned()]);
        assert_eq!(order(&systems, &needs).len(), 3);
    }

    #[test]
    fn a_new_system_is_due_on_its_second_day_and_then_weekly() {
        let at = |day: i64| Timestamp::from_second(day * 86_400).unwrap();
        let profile = Profile::default();
        assert_eq!(due(&profile, None, at(0)), (at(1), at(4)));
        assert_eq!(due(&profile, Some(at(10)), at(0)), (at(17), at(20)));
    }
}
