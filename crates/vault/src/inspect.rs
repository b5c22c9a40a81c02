//! Inspection: with the gate closed, each new complete restore point gets a verdict.
//!
//! What is normal for a system is kept in `state/inspect/<repository>.json`, each report in
//! `state/inspect/<repository>-<sequence>.json`. **Order that survives a kill:** the report and the profile
//! are durable before the register has the verdict; what a kill leaves is inspected once more. A point that is
//! suspect raises an alarm. Where it shows that the tampering began in earlier points, which were found clean
//! when they came, these are suspect too, and from then on nothing is compared with them; they are marked
//! before the new point is, so that a kill in between repeats the inspection and leaves none of them clean. Until a person has looked at it, nothing of its system is removed; and it is not
//! sent to a receiver without a stated reason.

use std::{io::Write, path::PathBuf, sync::Arc};

use kuramori_inspect::{Inspection, Point as Inspected, Profile, Report, Verdict as Found};
use kuramori_judge::retention::Verdict;
use kuramori_model::{
    clock::Clock,
    finding::{Finding, Severity, Value},
    ids::Sequence,
};
use kuramori_repo::{Cancel, progress::Progress};
use serde::Serialize;

use crate::{
    config::Config,
    error::{Error, Result},
    folder::Folder,
    proof::open,
    pull::about,
    register::{Point, PointState, Register},
};

/// The alarm about a point that is suspect.
pub const SUSPECT: &str = "vault.suspect";
/// The alarm about a point that is damaged without a sign of tampering.
pub const CORRUPT: &str = "vault.corrupt";

/// What inspection said about one repository's new points.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Judged {
    /// Whose.
    pub repository: String,
    /// Each new point with its verdict.
    pub points: Vec<(Sequence, Verdict)>,
    /// Earlier points that were found clean when they came and are suspect by what a newer one showed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub condemned: Vec<Sequence>,
    /// Points for which the byte budget did not suffice.
    pub unfinished: Vec<Sequence>,
    /// Bytes read.
    pub bytes: u64,
    /// What a person must hear.
    #[serde(skip)]
    pub findings: Vec<Finding>,
}

/// Inspects.
#[derive(Debug)]
pub(crate) struct Inspector<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) register: &'a Register,
    pub(crate) config: &'a Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cancel: &'a Cancel,
}

impl Inspector<'_> {
    fn place(&self, name: &str) -> PathBuf {
        self.config.vault.state.join("inspect").join(name)
    }

    /// Every complete point without a verdict, in the vault's order.
    pub(crate) fn repository(&self, name: &str) -> Result<Judged> {
        let mut judged = Judged { repository: name.to_owned(), ..Judged::default() };
        if self.config.inspect.disabled {
            return Ok(judged);
        }
        let points = self.register.points(Some(name))?;
        let mut complete: Vec<Point> =
            points.into_iter().filter(|point| point.state == PointState::Complete).collect();
        if complete.iter().all(|point| point.verdict != Verdict::Unknown) {
            return Ok(judged);
        }
        let repository = open(self.folder, self.config, name)?.index().map_err(Error::repository(name))?;
        let policy = self.config.inspect.policy.get(name).cloned().unwrap_or_default();
        let mut profile = self.profile(name)?;
        for index in 0..complete.len() {
            if complete[index].verdict != Verdict::Unknown {
                continue;
            }
            let clean = |point: &&Point| point.verdict == Verdict::Clean;
            let of = |point: &Point| Inspected { sequence: point.sequence.0, tree: point.tree };
            let before = &complete[..index];
            let (report, learnt) = Inspection {
                repository: &repository,
                point: of(&complete[index]),
                previous: before.iter().rev().find(clean).map(of),
                oldest: before.iter().find(clean).map(of),
                profile: &profile,
                policy: &policy,
                cancel: self.cancel,
                progress: &Progress::default(),
            }
            .run()
            .map_err(|error| Error::Inspection(name.to_owned(), error))?;
            let sequence = complete[index].sequence;
            judged.bytes += report.figures.read_bytes;
            let verdict = match report.verdict {
                None => {
                    judged.unfinished.push(sequence);
                    let finding = about("vault.not-inspected", Severity::Warning, "raise-read-limit", name);
                    judged.findings.push(finding.with("point", sequence.to_string()));
                    continue;
                }
                Some(Found::Clean) => Verdict::Clean,
                Some(Found::Suspect) => Verdict::Suspect,
                Some(Found::Corrupt) => Verdict::Corrupt,
            };
            profile = learnt;
            self.store(
                &format!("{name}-{}.json", sequence.0),
                &serde_json::to_vec(&report).unwrap_or_default(),
            )?;
            self.store(&format!("{name}.json"), profile.to_json().as_bytes())?;
            for earlier in complete[..index]
                .iter_mut()
                .filter(|point| point.verdict == Verdict::Clean && report.condemns(point.sequence.0))
            {
                self.register.judged(earlier.sequence, Verdict::Suspect, &*self.clock)?;
                earlier.verdict = Verdict::Suspect;
                judged.condemned.push(earlier.sequence);
            }
            self.register.judged(sequence, verdict, &*self.clock)?;
            complete[index].verdict = verdict;
            judged.points.push((sequence, verdict));
            judged.findings.extend(finding(name, verdict, &report));
        }
        Ok(judged)
    }

    fn profile(&self, name: &str) -> Result<Profile> {
        match fs_err::read_to_string(self.place(&format!("{name}.json"))) {
            Ok(text) => Profile::from_json(&text).map_err(|error| Error::Inspection(name.to_owned(), error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Profile::default()),
            Err(error) => Err(Error::io("read what is normal for a system")(error)),
        }
    }

    /// Durable under its name, or not there.
    fn store(&self, file: &str, bytes: &[u8]) -> Result<()> {
        let path = self.place(file);
        let folder = self.config.vault.state.join("inspect");
        let write = || {
            fs_err::create_dir_all(&folder)?;
            let new = path.with_extension("new");
            let mut out = fs_err::File::create(&new)?;
            out.write_all(bytes)?;
            out.sync_all()?;
            fs_err::rename(&new, &path)?;
            fs_err::File::open(&folder)?.sync_all()
        };
        write().map_err(Error::io("keep what inspection found"))
    }
}

/// What a person hears of a verdict.
fn finding(name: &str, verdict: Verdict, report: &Report) -> Option<Finding> {
    let code = match verdict {
        Verdict::Suspect => SUSPECT,
        Verdict::Corrupt => CORRUPT,
        Verdict::Clean | Verdict::Unknown => return None,
    };
    let number = |number: u64| Value::Number(i64::try_from(number).unwrap_or(i64::MAX));
    let mut finding = about(code, Severity::Alarm, "inspect-point", name)
        .with("point", Sequence(report.point).to_string())
        .with("files", number(report.evidence_total));
    if let Some(hit) = report.hits.first() {
        finding = finding.with("why", format!("{:?}: {}", hit.rule, hit.why));
    }
    if let Some(first) = report.evidence.first() {
        finding = finding.with("file", first.path.chars().take(300).collect::<String>());
    }
    if let Some(good) = report.last_good {
        finding = finding.with("last_good", Sequence(good).to_string());
    }
    if let Some(bad) = report.first_bad {
        finding = finding.with("first_bad", Sequence(bad).to_string());
    }
    Some(finding)
}
