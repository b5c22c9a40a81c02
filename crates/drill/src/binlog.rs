//! A second between two dumps of MariaDB or MySQL: which dump, which binary log, and the load that stops there.
//!
//! As with [`crate::moment`], a restore point says which times it reaches, and the newest dump before the wished
//! time is taken. An empty server in a place without a way out loads the dump and then plays the log up to the
//! time; its data folder, stopped in order, is what the restore leaves besides dump and log.

use std::path::Path;

use jiff::Timestamp;
use kuramori_model::{
    binlog::{FOLDER, FORMAT, INDEX, Index, Mark, number},
    clock::Clock,
    ids::Sequence,
    units::Bytes,
};
use kuramori_repo::{Cancel, Indexed, Repository, progress::Progress};
use serde::{Deserialize, Serialize};

use crate::{
    DrillError, Result,
    cell::Cell,
    choose::Choice,
    moment::Proven,
    profile::Profile,
    reach::{Asked, Way, best, bring, known, read_list},
    service::{Stage, mariadb_recover},
};

/// Where the loaded server's data is put below the restored folder.
pub const DATA: &str = "mysql";
/// How long load and log may take at most, in seconds.
const LOAD_S: u64 = 24 * 3600;

/// What is done to reach a second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Second {
    /// The wished time; the log is played up to the first change at or behind it.
    pub to: Timestamp,
    /// The dump that is loaded first.
    pub dump: Mark,
    /// From here on every second can be reached with this dump and log.
    pub earliest: Timestamp,
    /// Until here.
    pub latest: Timestamp,
    /// The restore point whose log is used besides, by its number; none if the dump's own is enough.
    pub log_of: Option<Sequence>,
    /// That restore point's snapshot.
    pub log_snapshot: Option<String>,
    /// The log's files that are played.
    pub files: Vec<String>,
    /// Seconds that the source's own zone was ahead of UTC.
    pub utc_offset: Option<i32>,
    /// Most memory that the loading server may take.
    pub memory: Bytes,
}

/// Chooses dump and log for a time.
///
/// # Errors
/// No log is kept, or the time cannot be reached: with the nearest times that can.
pub fn choose_second(repository: &Repository<Indexed>, asked: &Asked<'_>) -> Result<(Choice, Second)> {
    let known = known(asked, |snapshot| {
        Ok(read_list::<Index>(repository, snapshot, FOLDER, INDEX)?.filter(|index| index.format == FORMAT))
    })?;
    let mut ways = Vec::new();
    for (point, index) in &known {
        if asked.wish.point.is_some_and(|named| named != point.sequence) {
            continue;
        }
        for (other, log) in &known {
            // Both folders come together; but the file that still grew is whole only in the later one.
            let own = other.sequence == point.sequence;
            let mut both = log.clone();
            both.files.extend(index.files.iter().filter(|file| **file != index.end.at.file).cloned());
            both.files.sort_by_key(|file| number(file));
            both.files.dedup();
            if (own || other.sequence > point.sequence)
                && let Ok(latest) = both.reach(index)
            {
                let files: Vec<_> = both
                    .files
                    .into_iter()
                    .filter(|file| number(file) >= number(&index.dump.at.file))
                    .collect();
                let log = (!own).then_some(*other);
                ways.push(Way { point, log, earliest: index.dump.time, latest, with: (index, files) });
            }
        }
    }
    let (choice, way) = best(asked, &ways)?;
    let (index, files) = &way.with;
    let second = Second {
        to: asked.to,
        dump: index.dump.clone(),
        earliest: way.earliest,
        latest: way.latest,
        log_of: way.log.map(|point| point.sequence),
        log_snapshot: way.log.map(|point| point.snapshot.clone()),
        files: files.clone(),
        utc_offset: index.utc_offset,
        memory: asked.profile.memory,
    };
    Ok((choice, second))
}

/// Brings the log of the other restore point.
///
/// # Errors
/// It cannot be restored whole.
pub(crate) fn prepare(
    repository: &Repository<Indexed>,
    second: &Second,
    data: &Path,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<()> {
    let Some(snapshot) = &second.log_snapshot else { return Ok(()) };
    bring(repository, snapshot, FOLDER, data, progress, cancel)
}

/// Loads the dump and plays the log in isolation; the server's folder is below the data afterwards.
///
/// # Errors
/// No isolated place can be made, `MariaDB` is not installed, or dump or log do not load.
pub(crate) fn recover(second: &Second, data: &Path, run: &Path, clock: &dyn Clock) -> Result<Proven> {
    let wrong = DrillError::file("load the dump");
    fs_err::create_dir_all(run).map_err(&wrong)?;
    let cell = Cell::open(second.memory)?;
    let profile = Profile { patience_s: LOAD_S, memory: second.memory, ..Profile::default() };
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
    let proven = mariadb_recover(&stage, second)?;
    fs_err::rename(run.join("cluster"), data.join(DATA)).map_err(&wrong)?;
    Ok(proven)
}
