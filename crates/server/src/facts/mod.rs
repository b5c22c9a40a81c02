//! What the console shows and `/api/v1/status` returns: facts with their source and age, nothing else.
//!
//! Filled from the catalog and from what the site watches; [`verdict`] turns it into the one sentence. All
//! times are points in time; ages are computed where they are shown.

pub mod verdict;

use jiff::Timestamp;
use kuramori_model::{
    class::Protection,
    finding::Finding,
    ids::{RunId, SystemId},
    units::Bytes,
};
use serde::{Deserialize, Serialize};

pub use verdict::{Cause, Level, Verdict};

/// The number of this schema; it only grows.
pub const SCHEMA: u32 = 1;

/// Everything on the first screen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When these facts were gathered.
    pub at: Timestamp,
    /// The hospital's name; may be empty.
    pub hospital: String,
    /// Could we come back, and from when.
    pub verdict: Verdict,
    /// The departmental systems in restore order.
    pub systems: Vec<System>,
    /// The gate, as far as the site can see it.
    pub gate: Gate,
    /// The vault's last signed report.
    pub report: Option<Report>,
    /// The newest windows, newest first.
    pub windows: Vec<Window>,
    /// Work that is waiting or running.
    pub running: Vec<Running>,
    /// Alarms that are still true, the loudest and oldest first.
    pub alarms: Vec<Alarm>,
    /// How notices go out, and whether they do.
    pub notices: Notices,
    /// If everything were lost now: back to when, in how long.
    #[serde(default)]
    pub answer: kuramori_drill::runbook::Answer,
    /// When each repository's space was last freed, and by what plan.
    #[serde(default)]
    pub upkeep: Vec<Upkeep>,
}

/// The last prune of one repository that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upkeep {
    /// A system's id, or `_control`.
    pub repository: String,
    /// When it ended.
    pub at: Timestamp,
    /// `complete`, `failed` or `cancelled`.
    pub state: String,
    /// The error's stable code.
    pub error_code: Option<String>,
    /// The error in words.
    pub error: Option<String>,
    /// Its plan; none if it never came to one.
    pub plan: Option<crate::prune::Freed>,
}

/// How a system's protection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The newest complete restore point is within its target.
    Ok,
    /// Older than the target, though the last run did not fail.
    Late,
    /// The last run failed or left the point incomplete, or there never was one after its time.
    Failed,
    /// New: its first backup has not been due yet.
    Waiting,
    /// Not protected: switched off in the register, or seen without being registered.
    Unregistered,
}

/// One departmental system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct System {
    /// Its id.
    pub id: SystemId,
    /// Its name in Japanese.
    pub name_ja: String,
    /// Its name in English.
    pub name_en: String,
    /// 最重要 / 重要 / 標準
    pub protection: Protection,
    /// Place in the restore order, 1 first.
    pub restore_order: u32,
    /// How it stands.
    pub state: State,
    /// Newest complete restore point in the primary.
    pub primary: Option<Point>,
    /// Newest complete, unsuspected restore point in the vault, by the vault's last signed report.
    pub vault: Option<Point>,
    /// How old a restore point may be, in seconds.
    pub rpo_s: u64,
    /// Age of the newest complete restore point in the primary, in seconds.
    pub rpo_actual_s: Option<u64>,
    /// When the next backup is due.
    pub next_due: Option<Timestamp>,
    /// The last run that ended.
    pub last_run: Option<LastRun>,
    /// What another backup product says, if one protects the system.
    #[serde(default)]
    pub foreign: Option<Foreign>,
    /// The last drill.
    #[serde(default)]
    pub drill: Option<Drill>,
}

/// Another backup product's newest word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// `veeam`, `arcserve`, `windows-server-backup`, `other`.
    pub product: String,
    /// The job's name in the product.
    pub job: String,
    /// `success`, `warning` or `failed`; empty before the first result.
    pub state: String,
    /// When the newest result came, by our clock.
    pub received: Option<Timestamp>,
    /// When the newest good result came, by our clock.
    pub good: Option<Timestamp>,
    /// What the product says it wrote; none if it does not tell.
    pub bytes: Option<Bytes>,
    /// Whether its folder becomes restore points of ours. Without that nothing can be restored from here.
    pub pulled: bool,
}

/// How the last drill went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// Its number in the history.
    pub number: u64,
    /// When it ended.
    pub at: Timestamp,
    /// Whether the system was shown to run.
    pub passed: bool,
    /// How long it took, in seconds.
    pub rto_s: f64,
    /// How long it may take, in seconds.
    pub target_s: u64,
    /// Whether it was fast enough.
    pub met: bool,
}

/// A restore point, as its receiver recorded it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// The receiver's number.
    pub sequence: u64,
    /// When the receiver committed it.
    pub received: Timestamp,
    /// Bytes of content.
    pub bytes: Bytes,
    /// The snapshot's id in the repository.
    pub snapshot: String,
    /// `unknown`, `clean`, `suspect` or `corrupt`.
    pub verdict: String,
}

/// How the last run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// Its number.
    pub run: RunId,
    /// `complete`, `complete_with_errors`, `failed` or `cancelled`.
    pub state: String,
    /// When.
    pub ended: Option<Timestamp>,
    /// The error's stable code.
    pub error_code: Option<String>,
    /// The error in words.
    pub error: Option<String>,
}

/// What one look at the gate said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Closed.
    Closed,
    /// Open.
    Open,
    /// No answer, or an old one. Never taken for closed.
    Unknown,
}

/// One look: what, by whom, when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// What it said.
    pub seen: Seen,
    /// Who looked where: `10.77.9.2:22`, `10.77.8.2 port2`.
    pub source: String,
    /// The reading itself, for evidence.
    pub detail: String,
    /// Who answered, where nobody should.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<String>,
    /// When.
    pub at: Timestamp,
    /// From this age on (seconds) the look counts as unknown.
    pub stale_after_s: u64,
}

impl Look {
    /// What the look is worth at `now`.
    pub fn at(&self, now: Timestamp) -> Seen {
        let age = now.duration_since(self.at).as_secs();
        if u64::try_from(age).is_ok_and(|age| age <= self.stale_after_s) { self.seen } else { Seen::Unknown }
    }
}

/// The gate as the site can observe it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// Our own probe from the production side; none if it is not set up.
    pub probe: Option<Look>,
    /// The guarded port by read-only SNMP; none if it is not set up.
    pub port: Option<Look>,
}

impl Gate {
    /// All looks taken together: open if any says open, closed only if each says closed and is fresh.
    pub fn seen(&self, now: Timestamp) -> Seen {
        let looks: Vec<Seen> =
            [&self.probe, &self.port].into_iter().flatten().map(|look| look.at(now)).collect();
        if looks.contains(&Seen::Open) {
            Seen::Open
        } else if !looks.is_empty() && looks.iter().all(|seen| *seen == Seen::Closed) {
            Seen::Closed
        } else {
            Seen::Unknown
        }
    }
}

/// The vault's last signed report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which vault.
    pub vault: String,
    /// Its number; the vault counts.
    pub number: u64,
    /// When the vault made it, by its own clock.
    pub made: Timestamp,
    /// When it reached us.
    pub received: Timestamp,
    /// Whether the signature verified with the key pinned at enrolment.
    pub verified: bool,
    /// From this age on (seconds) it counts as missing.
    pub due_s: u64,
}

impl Report {
    /// Whether the report is missing, unsigned or too old to rely on.
    pub fn overdue(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.received).as_secs();
        !self.verified || u64::try_from(age).is_ok_and(|age| age > self.due_s)
    }
}

/// One opening of the gate, from the vault's signed report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Its number.
    pub id: u64,
    /// `pull` or `restore`.
    pub purpose: String,
    /// When it was opened.
    pub opened: Timestamp,
    /// When closed was verified.
    pub closed: Option<Timestamp>,
    /// Seconds open as commanded.
    pub commanded_s: Option<f64>,
    /// Seconds open as the actuators read back.
    pub actuator_s: Option<f64>,
    /// Seconds open as probes saw it.
    pub probe_s: Option<f64>,
    /// Bytes that moved.
    pub bytes: Bytes,
    /// Whether closed was proven afterwards.
    pub closed_verified: Option<bool>,
    /// How it went, in the vault's code.
    pub outcome: String,
}

/// Work that waits or runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Its number.
    pub run: RunId,
    /// Which system.
    pub system: SystemId,
    /// `queued` or `running`.
    pub state: String,
    /// What it is doing, as a code.
    pub phase: String,
    /// Since when.
    pub since: Timestamp,
    /// Bytes read so far.
    pub bytes: Bytes,
    /// Bytes to expect, where known.
    pub bytes_total: Option<Bytes>,
    /// Items so far.
    pub items: u64,
    /// Items to expect, where known.
    pub items_total: Option<u64>,
}

impl Running {
    /// Percent done; none where the end is not known.
    pub fn percent(&self) -> Option<u8> {
        let (done, total) = match (self.bytes_total, self.items_total) {
            (Some(total), _) if total.0 > 0 => (self.bytes.0, total.0),
            (_, Some(total)) if total > 0 => (self.items, total),
            _ => return None,
        };
        u8::try_from(u128::from(done) * 100 / u128::from(total)).ok().map(|percent| percent.min(100))
    }
}

/// Something that a person must hear, still true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Its number.
    pub id: u64,
    /// What was found.
    pub finding: Finding,
    /// Since when.
    pub opened: Timestamp,
    /// Who took it.
    pub taken_by: Option<String>,
    /// When a notice of it went out; none while it is still owed.
    pub notified: Option<Timestamp>,
}

/// Whether people can be told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notices {
    /// Whether a mail relay is configured at all.
    pub mail: bool,
    /// Notices that are owed and were tried without success.
    pub failing: u64,
    /// The last error of the relay.
    pub last_error: Option<String>,
    /// When the daily "still running" notice last went out.
    pub last_heartbeat: Option<Timestamp>,
}
