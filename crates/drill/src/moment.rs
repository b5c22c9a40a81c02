//! A moment between restore points: which base backup, which log, and the recovery that stops there.
//!
//! A restore point of a PostgreSQL system whose log is kept says in its index which times it reaches. For a
//! wished time the newest base backup that ends before it is taken, and the log out of the same restore point
//! if that reaches so far, otherwise with the log of a later one. PostgreSQL itself then recovers to the time,
//! in a place without a way out, before the data gets its name; so a plan that cannot be carried out never
//! becomes somebody's database.
//!
//! **What can go wrong:** the time lies before the first base backup, behind the last log, or in a hole of it:
//! an error with the nearest times that can be reached.

use std::path::Path;

use jiff::{Timestamp, tz::TimeZone};
use kuramori_model::{
    clock::Clock,
    ids::Sequence,
    units::Bytes,
    wal::{Base, FOLDER, FORMAT, INDEX, Index, Lsn, parse_history, segment_name},
};
use kuramori_repo::{Cancel, Indexed, Repository, progress::Progress};
use serde::{Deserialize, Serialize};

use crate::{
    DrillError, Result,
    cell::Cell,
    choose::{Candidate, Choice},
    profile::{Profile, Service},
    reach::{Asked, Way, best, bring, known, read_list},
    service::{Stage, postgres_recover},
};

/// How long recovery may take at most, in seconds; a server that ends is noticed at once.
const RECOVERY_S: u64 = 24 * 3600;
/// A record of this size may be cut off at the end of what was durable, in bytes.
const HALF_RECORD: u64 = 1 << 20;
/// Where our own lines in the settings begin.
const OURS: &str = "# Added by Kuramori";

/// What is done to reach a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The wished time.
    pub to: Timestamp,
    /// The base backup that recovery begins with.
    pub base: Base,
    /// From here on every time can be reached with this base backup and log.
    pub earliest: Timestamp,
    /// Until here.
    pub latest: Timestamp,
    /// The position that recovery to the latest time has to come to.
    pub latest_at: Lsn,
    /// The restore point whose log is used besides, by its number; none if the base's own is enough.
    pub log_of: Option<Sequence>,
    /// That restore point's snapshot.
    pub log_snapshot: Option<String>,
    /// The first segment that recovery may read.
    pub first_segment: String,
    /// The last one.
    pub last_segment: String,
    /// The cluster's administrator.
    pub superuser: String,
    /// Most memory that the recovering server may take.
    pub memory: Bytes,
}

/// What recovery did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// Where the server says that it stopped.
    pub stopped: String,
    /// The last transaction's time, as the server logs it.
    pub last_transaction: Option<String>,
    /// Where recovery ended in the log.
    pub end: String,
    /// The timeline on which the cluster goes on.
    pub timeline: String,
}

/// A restore point's index; none if it keeps no log.
///
/// # Errors
/// It is there and cannot be read.
pub fn index(repository: &Repository<Indexed>, snapshot: &str) -> Result<Option<Index>> {
    let Some(index) = read_list::<Index>(repository, snapshot, FOLDER, INDEX)? else { return Ok(None) };
    if index.format != FORMAT {
        let how = format!("is of a format that is not known here: {}", index.format);
        return Err(DrillError::Program { program: INDEX.to_owned(), how });
    }
    Ok(Some(index))
}

/// A base backup with the log that brings it forward: its index, the one whose log ends last, and how far that
/// can be used.
type FromBase<'a> = Way<'a, (&'a Index, &'a Index, Lsn)>;

/// Chooses base backup and log for a time.
///
/// # Errors
/// No log is kept, or the time cannot be reached: with the nearest times that can.
pub fn choose_moment(repository: &Repository<Indexed>, asked: &Asked<'_>) -> Result<(Choice, Moment)> {
    let known = known(asked, |snapshot| index(repository, snapshot))?;
    let ways = ways(&known, asked.wish.point);
    let (choice, way) = best(asked, &ways)?;
    let (index, last, latest_at) = way.with;
    let bytes = index.segment_bytes;
    let superuser = match &asked.profile.service {
        Some(Service::Postgres { superuser }) => superuser.clone(),
        _ => "postgres".to_owned(),
    };
    Ok((
        choice,
        Moment {
            to: asked.to,
            base: index.base.clone(),
            earliest: way.earliest,
            latest: way.latest,
            latest_at,
            log_of: way.log.map(|point| point.sequence),
            log_snapshot: way.log.map(|point| point.snapshot.clone()),
            first_segment: segment_name(index.base.timeline, index.base.end.segment(bytes), bytes),
            last_segment: segment_name(last.end.timeline, latest_at.0.saturating_sub(1) / bytes, bytes),
            superuser,
            memory: asked.profile.memory,
        },
    ))
}

/// Every base backup with its own log, and with the log of each later point.
fn ways<'a>(known: &'a [(&'a Candidate, Index)], named: Option<Sequence>) -> Vec<FromBase<'a>> {
    let mut ways = Vec::new();
    for (point, index) in known {
        if named.is_some_and(|named| named != point.sequence) {
            continue;
        }
        if let Ok((at, latest)) = index.reach_to(&index.system_identifier, &index.base) {
            ways.push(Way { point, log: None, earliest: index.base.time, latest, with: (index, index, at) });
        }
        for (other, log) in known {
            if other.sequence <= point.sequence {
                continue;
            }
            // Both folders come together, so a segment of either is enough.
            let mut both = log.clone();
            // But not the one that still grew when the older point was made: its end is missing there.
            let end = index.end.lsn;
            let growing = (!end.0.is_multiple_of(index.segment_bytes)).then(|| {
                segment_name(index.end.timeline, end.segment(index.segment_bytes), index.segment_bytes)
            });
            both.segments
                .extend(index.segments.iter().filter(|name| Some(*name) != growing.as_ref()).cloned());
            if let Ok((at, latest)) = both.reach_to(&index.system_identifier, &index.base) {
                let earliest = index.base.time;
                ways.push(Way { point, log: Some(other), earliest, latest, with: (index, log, at) });
            }
        }
    }
    ways
}

/// Brings the log of the other restore point, and writes the target into the settings.
///
/// # Errors
/// The log cannot be restored whole, or a file cannot be written.
pub(crate) fn prepare(
    repository: &Repository<Indexed>,
    moment: &Moment,
    data: &Path,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<()> {
    if let Some(snapshot) = &moment.log_snapshot {
        bring(repository, snapshot, FOLDER, data, progress, cancel)?;
    }
    let time = moment.to.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
    let wrong = DrillError::file("write the recovery's settings");
    let settings = data.join(SETTINGS);
    let text = fs_err::read_to_string(&settings).map_err(&wrong)?;
    fs_err::write(&settings, format!("{text}{TARGET} = '{time}'\n")).map_err(&wrong)?;
    fs_err::write(data.join("recovery.signal"), "").map_err(&wrong)
}

const SETTINGS: &str = "postgresql.auto.conf";
const TARGET: &str = "recovery_target_time";

/// Starts the server on the data until recovery has reached the time, and ends it again.
///
/// # Errors
/// No isolated place can be made, PostgreSQL is not installed, or it cannot recover.
pub(crate) fn recover(moment: &Moment, data: &Path, run: &Path, clock: &dyn Clock) -> Result<Proven> {
    let cell = Cell::open(moment.memory)?;
    fs_err::create_dir_all(run).map_err(DrillError::file("prepare recovery"))?;
    let profile = Profile { patience_s: RECOVERY_S, memory: moment.memory, ..Profile::default() };
    let stage = Stage {
        cell: &cell,
        clock,
        profile: &profile,
        data,
        run,
        before: &[],
        answered: std::cell::Cell::new(None),
        probes: std::cell::RefCell::default(),
    };
    let wrong = DrillError::file("finish recovery");
    let settings = data.join(SETTINGS);
    let proven = match postgres_recover(&stage, &moment.superuser) {
        // Nothing was committed between the last transaction and the time, and the log has all of it.
        Err(_) if ended_early(run) && moment.to <= moment.latest => {
            let text = fs_err::read_to_string(&settings).map_err(&wrong)?;
            let rest: String = text
                .split_inclusive('\n')
                .filter(|line| !(line.starts_with(TARGET) && line.contains("+00")))
                .collect();
            fs_err::write(&settings, rest).map_err(&wrong)?;
            postgres_recover(&stage, &moment.superuser)?
        }
        other => other?,
    };
    // A server that stopped at a damaged record says nothing; only its place tells.
    if !proven.stopped.contains("recovery stopping") {
        let wanted = moment.latest_at;
        if !reached(data, &run.join("postgres.log"), wanted) {
            let how = format!("recovered only to {} and the log goes to {wanted}: it is damaged", proven.end);
            return Err(DrillError::Program { program: "postgres".to_owned(), how });
        }
    }
    // The log and the settings that led here have done their work; the cluster goes on without them.
    let text = fs_err::read_to_string(&settings).map_err(&wrong)?;
    let own = text.find(OURS).map_or(text.as_str(), |at| &text[..at]);
    fs_err::write(&settings, own).map_err(&wrong)?;
    fs_err::remove_dir_all(data.join(FOLDER)).map_err(&wrong)?;
    Ok(proven)
}

/// What recovery to the end of the log has to reach; none where no log is.
pub(crate) fn wanted_end(data: &Path) -> Option<Lsn> {
    let json = fs_err::read(data.join(FOLDER).join(INDEX)).ok()?;
    serde_json::from_slice::<Index>(&json).ok().map(|index| index.end.lsn)
}

/// Where recovery left the old timeline: the newest history file says it.
pub(crate) fn end_of_recovery(data: &Path) -> Option<Lsn> {
    let newest = fs_err::read_dir(data.join("pg_wal"))
        .ok()?
        .flatten()
        .filter(|entry| parse_history(&entry.file_name().to_string_lossy()).is_some())
        .max_by_key(fs_err::DirEntry::file_name)?;
    let text = fs_err::read_to_string(newest.path()).ok()?;
    let last = text.lines().rfind(|line| !line.trim().is_empty() && !line.starts_with('#'))?;
    last.split_whitespace().nth(1)?.parse().ok()
}

/// Whether recovery read the log to its end. Its last record may be half there, because the server had made
/// only whole pages of it durable: then nothing but zeros follow.
pub(crate) fn reached(data: &Path, log: &Path, wanted: Lsn) -> bool {
    let Some(end) = end_of_recovery(data) else { return false };
    let missing = wanted.0.saturating_sub(end.0);
    let zeros = || {
        fs_err::read_to_string(log)
            .is_ok_and(|log| log.contains("got 0") || log.contains("magic number 0000"))
    };
    missing == 0 || (missing <= HALF_RECORD && zeros())
}

/// Whether the server ended because the log has no transaction at or behind the time.
fn ended_early(run: &Path) -> bool {
    fs_err::read_to_string(run.join("postgres.log"))
        .is_ok_and(|log| log.contains("recovery ended before configured recovery target was reached"))
}
