//! What a restore needs from the server: the points and what is known of them, measured times, the key of
//! one repository, and a record that it happened.
//!
//! The data itself never passes through the server: the person's own process reads the repository, because
//! only that may give files their owners, and because a restore must not end with a server that restarts.
//! The key goes over the admin socket, which only the server's user and root can open; both can read the
//! server's identity anyway. It is given only for a point that may be used: an untrusted one needs a reason,
//! and the reason is in the history before the key is handed out.

use std::path::PathBuf;

use kuramori_catalog::{Place, Point, System};
use kuramori_drill::{
    choose::{Candidate, Choice, Copy, Wish, choose},
    estimate::Measured,
    profile::Profile,
};
use kuramori_model::ids::SystemId;
use serde::{Deserialize, Serialize};

use crate::{App, error::Result};

/// The catalog's name for what was measured.
const MEASURED: &str = "restores/measured";
/// Measurements that are kept.
const KEPT: usize = 200;

/// Everything that a plan is made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offer {
    /// The register's entry.
    pub system: System,
    /// The folder of its repository at the primary.
    pub repository: PathBuf,
    /// Its restore points in all places.
    pub candidates: Vec<Candidate>,
    /// What was measured so far, of all systems.
    pub measured: Vec<Measured>,
    /// How it is brought up.
    pub profile: Profile,
}

/// What a key is wanted for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Purpose {
    /// Who asks.
    pub by: String,
    /// `plan` or `run`.
    pub verb: String,
    /// Which point, and why if it is not trusted.
    pub wish: Wish,
    /// Where it goes.
    pub target: Option<PathBuf>,
    /// Only this file or folder.
    pub part: Option<String>,
}

/// A repository's key for one restore.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Key {
    /// The point, as the server chose it by the same rule.
    pub choice: Choice,
    /// The repository's password.
    pub password: String,
}

/// How a restore ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Who did it.
    pub by: String,
    /// The snapshot.
    pub snapshot: String,
    /// Where it went.
    pub target: PathBuf,
    /// Where the original is kept.
    #[serde(default)]
    pub kept: Option<PathBuf>,
    /// Bytes that came back.
    pub bytes: u64,
    /// Of these, bytes that were there from an earlier attempt.
    #[serde(default)]
    pub found_there: u64,
    /// Seconds.
    pub seconds: f64,
    /// Items that are missing.
    pub missing: usize,
    /// Stable code of the error that ended it.
    #[serde(default)]
    pub error: Option<String>,
}

/// The catalog's name for the snapshots that were clean until a later inspection found otherwise.
fn condemned_name(id: &SystemId) -> String {
    format!("restores/condemned/{id}")
}

/// Most snapshots that are remembered so for one system.
const CONDEMNED: usize = 1000;

fn profile_name(id: &SystemId) -> String {
    format!("recovery/{id}")
}

fn candidate(point: Point) -> Candidate {
    Candidate {
        copy: match point.place {
            Place::Primary => Copy::Primary,
            Place::Vault => Copy::Vault,
        },
        sequence: point.sequence,
        received: point.received,
        snapshot: point.snapshot,
        complete: point.complete,
        verdict: point.verdict,
        later: false,
        drilled: point.drilled,
        gone: false,
        bytes: point.bytes,
        files: point.files,
    }
}

impl App {
    /// A system's restore points in all places.
    pub async fn candidates(&self, id: &SystemId) -> Result<Vec<Candidate>> {
        let mut all = self.catalog.points(id, Place::Primary).await?;
        all.extend(self.catalog.points(id, Place::Vault).await?);
        let mut all: Vec<Candidate> = all.into_iter().map(candidate).collect();
        if let Some(later) = self.catalog.setting::<Vec<String>>(&condemned_name(id)).await? {
            for candidate in &mut all {
                candidate.later = later.contains(&candidate.snapshot);
            }
        }
        Ok(all)
    }

    /// Remembers which snapshots were found clean before they were found suspect.
    pub(crate) async fn remember_condemned(&self, id: &SystemId, snapshots: Vec<String>) -> Result<()> {
        let name = condemned_name(id);
        let mut all: Vec<String> = self.catalog.setting(&name).await?.unwrap_or_default();
        all.retain(|known| !snapshots.contains(known));
        all.extend(snapshots);
        let old = all.len().saturating_sub(CONDEMNED);
        Ok(self.catalog.set_setting(&name, &all.split_off(old)).await?)
    }

    /// A system's recovery profile; the default if none was written.
    pub async fn profile(&self, id: &SystemId) -> Result<Profile> {
        Ok(self.catalog.setting(&profile_name(id)).await?.unwrap_or_default())
    }

    /// Writes a system's recovery profile.
    pub async fn set_profile(&self, id: &SystemId, profile: &Profile) -> Result<()> {
        profile.check()?;
        self.catalog.system(id).await?;
        self.catalog.set_setting(&profile_name(id), profile).await?;
        self.event("admin", "recovery.profile", Some(id), &serde_json::json!({})).await?;
        self.export_control().await?;
        Ok(())
    }

    /// What was measured so far.
    pub async fn measured(&self) -> Result<Vec<Measured>> {
        Ok(self.catalog.setting(MEASURED).await?.unwrap_or_default())
    }

    /// Keeps a measurement.
    pub(crate) async fn measure(&self, new: Measured) -> Result<()> {
        let mut all = self.measured().await?;
        all.push(new);
        let old = all.len().saturating_sub(KEPT);
        Ok(self.catalog.set_setting(MEASURED, &all.split_off(old)).await?)
    }

    /// Everything that a plan is made from.
    pub async fn offer(&self, id: &SystemId) -> Result<Offer> {
        Ok(Offer {
            system: self.catalog.system(id).await?.system,
            repository: self.repository_folder(id.as_str()),
            candidates: self.candidates(id).await?,
            measured: self.measured().await?,
            profile: self.profile(id).await?,
        })
    }

    /// Hands out a repository's key for one plan or restore, after it is written down.
    pub async fn restore_key(&self, id: &SystemId, purpose: &Purpose) -> Result<Key> {
        let system = self.catalog.system(id).await?.system;
        let choice = choose(id.as_str(), &self.candidates(id).await?, &purpose.wish)?;
        let data = serde_json::json!({
            "point": choice.point.sequence,
            "copy": choice.point.copy,
            "snapshot": choice.point.snapshot,
            "verdict": choice.verdict,
            "why": choice.why,
            "step_back": choice.step_back,
            "reason": choice.reason,
            "target": purpose.target,
            "part": purpose.part,
        });
        let kind = if purpose.verb == "run" { "restore.begun" } else { "restore.planned" };
        self.event(&purpose.by, kind, Some(&system.id), &data).await?;
        Ok(Key { choice, password: self.password(id.as_str()).await? })
    }

    /// Writes down how a restore ended, and keeps its time as a measurement if it was whole.
    pub async fn restore_ended(&self, id: &SystemId, ended: &Ended) -> Result<()> {
        let data = serde_json::to_value(ended).map_err(|error| crate::ServerError::Bug(error.to_string()))?;
        self.event(&ended.by, "restore.ended", Some(id), &data).await?;
        if ended.error.is_none() && ended.found_there == 0 && ended.bytes > 0 {
            self.measure(Measured {
                at: self.clock.now(),
                system: id.to_string(),
                bytes: ended.bytes,
                restore_s: ended.seconds,
                start_s: None,
                check_s: None,
            })
            .await?;
        }
        Ok(())
    }
}
