//! The signed report: all that a closed vault says of itself.
//!
//! It is written to `state/reports/` and, in each pull window, handed to the primary as a file
//! `snapshots/<sha256>` of a repository of its own (`vault-report`), with an append-only login. A stock REST
//! server takes that; it can withhold the report, but not change it. The signature covers the bytes of
//! `report` exactly as they stand.

use std::io::Cursor;

use kuramori_audit::Verifier;
use kuramori_judge::retention::Verdict;
use kuramori_model::ids::Sequence;
use kuramori_repo::store::{FileId, FileKind};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    config::Peer,
    error::{Error, Result},
    folder::write_small,
    pull::{Stop, lock},
    puller::process::{Process, meet},
    register::{Alarm, PointState, RepositoryRow, WindowRow},
    vault::Vault,
    witness::{Carried, Cosigned},
};

/// A report is never larger; a reader refuses more.
pub const REPORT_MAX: u64 = 1 << 20;

/// What the vault says of itself.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Form of this report; only grows.
    pub format: u32,
    /// Name of the vault.
    pub vault: String,
    /// Wall clock of the vault when this was said.
    pub at: String,
    /// The vault's accumulated running time in seconds.
    pub accumulated_s: u64,
    /// Whether the wall clock ran away.
    pub clock_suspicious: bool,
    /// What may be said about "offline", and by whom.
    pub offline: bool,
    /// The sentence for it.
    pub claim: String,
    /// Seconds of open path within 24 hours.
    pub used_today_s: f64,
    /// The newest windows, newest first.
    pub windows: Vec<WindowRow>,
    /// Every repository.
    pub repositories: Vec<RepositoryReport>,
    /// What is wrong now.
    pub alarms: Vec<Alarm>,
    /// The log's newest signed checkpoint.
    pub checkpoint: String,
    /// How far server and vault have cosigned each other's logs.
    pub cosigned: Cosigned,
    /// What the server needs to cosign the checkpoint.
    pub witness: Carried,
}

/// What the vault holds of one repository.
#[derive(Debug, Clone, Serialize)]
pub struct RepositoryReport {
    /// Counters.
    #[serde(flatten)]
    pub row: RepositoryRow,
    /// Complete restore points.
    pub complete: usize,
    /// Points that are not complete.
    pub incomplete: usize,
    /// The newest complete ones, newest first.
    pub newest: Vec<crate::register::Point>,
    /// Every complete point that must not be trusted, as runs of neighbours, oldest first: also those that
    /// were found clean when they came. At most [`RUNS`].
    pub bad: Vec<BadRun>,
}

/// Runs of bad points that a report names for one repository.
pub const RUNS: usize = 50;

/// Neighbouring points of one repository with the same bad verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadRun {
    /// The first of them.
    pub from: Sequence,
    /// The last of them.
    pub until: Sequence,
    /// Suspect or corrupt.
    pub verdict: Verdict,
}

/// The runs of bad points; the newest ones if there are too many. `points` in the vault's order.
fn bad_runs(points: &[crate::register::Point]) -> Vec<BadRun> {
    let mut runs: Vec<BadRun> = Vec::new();
    let mut open = false;
    for point in points {
        let (from, verdict) = (point.sequence, point.verdict);
        if !matches!(verdict, Verdict::Suspect | Verdict::Corrupt) {
            open = false;
            continue;
        }
        match runs.last_mut().filter(|run| open && run.verdict == verdict && run.until < from) {
            Some(run) => run.until = from,
            None => runs.push(BadRun { from, until: from, verdict }),
        }
        open = true;
    }
    runs.drain(..runs.len().saturating_sub(RUNS));
    runs
}

/// A report under its signature.
#[derive(Debug, Serialize, Deserialize)]
pub struct SignedReport {
    /// The report's bytes.
    pub report: Box<RawValue>,
    /// Whose key.
    pub key: Verifier,
    /// Ed25519 over the bytes of `report`, hex.
    pub signature: String,
}

impl SignedReport {
    /// Reads a report and checks it against the one key that counts.
    ///
    /// # Errors
    /// [`Error::Misbehaved`] if it is not signed by `key`.
    pub fn verify(bytes: &[u8], key: &Verifier) -> Result<serde_json::Value> {
        let bad = |what: &str| Error::Misbehaved(format!("sent a report that {what}"));
        if bytes.len() as u64 > REPORT_MAX {
            return Err(bad("is too large"));
        }
        let signed: Self = serde_json::from_slice(bytes).map_err(|_| bad("is none"))?;
        let signature = hex::decode(&signed.signature).map_err(|_| bad("has no signature"))?;
        if !key.verifies(signed.report.get().as_bytes(), &signature) {
            return Err(bad("is not signed by the vault"));
        }
        serde_json::from_str(signed.report.get()).map_err(|_| bad("is none"))
    }
}

/// A report on its way.
#[derive(Debug)]
pub(crate) struct Delivery {
    repository: String,
    peer: Peer,
    bytes: Vec<u8>,
}

impl Vault {
    /// What there is to say now.
    ///
    /// # Errors
    /// [`Error::Register`].
    pub fn report(&self) -> Result<Report> {
        let now = self.register.tick(&*self.clock)?;
        let (offline, claim) = match &self.gate {
            None => (false, "there is no gate: this store is NOT offline".to_owned()),
            Some(gate) => match gate.status() {
                Ok(status) => {
                    (status.claim.offline && status.gate.is_verified_closed(), status.claim.sentence)
                }
                Err(error) => (false, format!("{}: it counts as open", kuramori_model::fault::chain(&error))),
            },
        };
        let mut repositories = Vec::new();
        for row in self.register.repositories()? {
            let mut points = self.register.points(Some(&row.name))?;
            let incomplete = points.iter().filter(|point| point.state == PointState::Incomplete).count();
            points.retain(|point| point.state == PointState::Complete);
            let complete = points.len();
            let bad = bad_runs(&points);
            let newest = points.into_iter().rev().take(5).collect();
            repositories.push(RepositoryReport { row, complete, incomplete, newest, bad });
        }
        let witness = self.carried()?;
        Ok(Report {
            format: 1,
            vault: self.config.vault.name.clone(),
            at: now.wall.to_string(),
            accumulated_s: now.accumulated_s,
            clock_suspicious: now.suspicious(),
            offline,
            claim,
            used_today_s: self.register.used_today(&now, f64::from(self.config.window.max_seconds))?,
            windows: self.register.windows(5)?,
            repositories,
            alarms: self.register.alarms()?,
            checkpoint: lock(&self.log).note().text(),
            cosigned: self.cosigned()?,
            witness,
        })
    }

    /// Signs a report and keeps it in `state/reports/`. Returns its bytes.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Register`].
    pub fn write_report(&self) -> Result<Vec<u8>> {
        let report = self.report()?;
        let text = serde_json::to_string(&report).unwrap_or_default();
        let signature = hex::encode(self.signer.sign(text.as_bytes()));
        let raw = RawValue::from_string(text).map_err(|error| Error::io("write the report")(error.into()))?;
        let signed = SignedReport { report: raw, key: self.signer.verifier(), signature };
        let bytes = serde_json::to_vec(&signed).unwrap_or_default();
        let folder = self.config.vault.state.join("reports");
        write_small(&folder.join(format!("{:012}.json", report.accumulated_s)), &bytes)?;
        write_small(&folder.join("newest.json"), &bytes)?;
        Ok(bytes)
    }

    /// Makes the report that the coming window hands over.
    pub(crate) fn report_delivery(&self) -> Result<Option<Delivery>> {
        let Some(report) = &self.config.report else { return Ok(None) };
        let peer = Peer {
            login: report.login.clone(),
            password_file: report.password_file.clone(),
            ..self.config.primary.clone()
        };
        let bytes = self.write_report()?;
        // Nothing was logged in between: this is the size that the report names.
        self.offer()?;
        Ok(Some(Delivery { repository: report.repository.clone(), peer, bytes }))
    }

    /// Hands a report over, with a puller of its own and the append-only login.
    pub(crate) fn deliver(&self, delivery: &Delivery, stop: &Stop) -> Result<()> {
        let target = meet(&delivery.peer, &self.config.limits)?;
        let mut process =
            Process::start(&self.config.puller, &target, self.config.limits, self.clock.clone())?;
        stop.watch(&process.killer());
        process.create(&delivery.repository)?;
        let id = FileId::of(&delivery.bytes);
        let size = delivery.bytes.len() as u64;
        process.put(&delivery.repository, FileKind::Snapshot, id, size, &mut Cursor::new(&delivery.bytes))
    }
}
