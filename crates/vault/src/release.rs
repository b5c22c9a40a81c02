//! Leaving a lockdown or a latched fault of the gate: two officers approve, the vault vouches for it.
//!
//! Anybody may lock the gate. The gate itself latches that, over its own restarts too, and lets go only for a
//! release that names this very incident and is signed by a key of its own configuration: the vault's (then
//! the officers' approvals are judged here, by key or by paper), or the officers' own.

use std::collections::BTreeMap;

use kuramori_model::{
    approval::{Action, Refusal},
    gate::{GateState, GateStatus, Nonce, ReleaseToken, Reply, Request, SignedRelease},
};

use crate::{
    approval::Wanted,
    error::{Error, Result},
    gate::Gate,
    vault::Vault,
};

/// How long a release may lie before the gate takes it.
const RELEASE_MS: u64 = 30_000;

impl Vault {
    fn gate(&self) -> Result<&Gate> {
        self.gate.as_ref().ok_or_else(|| Error::Invalid("the vault has no gate".to_owned()))
    }

    /// What a release of the gate asks for now.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the gate is neither locked nor latched.
    pub fn wanted_release(&self) -> Result<Wanted> {
        let status = self.gate()?.status()?;
        let (GateState::Lockdown { incident, .. } | GateState::FaultOpen { incident, .. }) = status.gate
        else {
            return Err(Error::Invalid(format!(
                "the gate is `{}`: there is nothing to release",
                status.gate.name()
            )));
        };
        let params = BTreeMap::from([("state".to_owned(), status.gate.name().to_owned())]);
        Ok(Wanted { action: Action::GateRelease, target: incident.to_string(), params, window: None })
    }

    /// Releases the gate with an approved request.
    ///
    /// # Errors
    /// [`Error::Approval`]; [`Error::GateRefused`] if the gate does not see itself closed yet.
    pub fn release_gate(&self, request: u64) -> Result<GateStatus> {
        let wanted = self.wanted_release()?;
        let gate = self.gate()?;
        let status = gate.status()?;
        let incident = wanted.target.parse().map_err(|_| Refusal::Changed(request))?;
        let grant = self.grant(Some(request), &wanted)?;
        let mut release = SignedRelease::new(ReleaseToken {
            incident,
            reason: format!("request {request}: {}", grant.officers.join(", ")),
            nonce: Nonce::draw(&*self.random),
            boot_id: status.boot_id,
            expires_boot_ms: status.boot_ms.saturating_add(RELEASE_MS),
        });
        release.countersign(&self.key);
        match gate.ask(&Request::Release { release: Some(Box::new(release)) })? {
            Reply::Status(status) => {
                self.note("gate.released", &grant)?;
                Ok(*status)
            }
            _ => Err(Error::Gate {
                what: "answer with its status".to_owned(),
                source: std::io::ErrorKind::InvalidData.into(),
            }),
        }
    }
}
