//! Who may come in: a token, a release.

use kuramori_model::{
    gate::{GateState, ReleaseToken, SignedRelease, SignedToken, WindowToken},
    ids::WindowId,
};

use super::{Gate, Policy};
use crate::fault::Refusal;

impl Gate {
    /// The token and the seconds that it may really have, or why not.
    pub(super) fn admit(
        &self,
        policy: &Policy,
        signed: &SignedToken,
        used_ms: u64,
        at: u64,
    ) -> Result<(WindowToken, u32), Refusal> {
        match &self.phase {
            GateState::Lockdown { reason, .. } => return Err(Refusal::Locked(reason.clone())),
            GateState::FaultOpen { why, .. } => return Err(Refusal::Locked(why.clone())),
            GateState::ClosedVerified { .. } => {}
            other => return Err(Refusal::NotClosed(other.name())),
        }
        let token = signed.verify(&policy.keys).map_err(Refusal::Token)?;
        // An issue time in the future is as wrong as an expiry in the past.
        if token.boot_id != policy.boot_id || at > token.expires_boot_ms || token.issued_boot_ms > at {
            return Err(Refusal::Expired);
        }
        if token.epoch < self.epoch {
            return Err(Refusal::Epoch { asked: token.epoch, last: self.epoch });
        }
        let WindowId(asked) = token.window;
        let WindowId(last) = self.last_window;
        if asked <= last {
            return Err(Refusal::Used { asked, last });
        }
        let fits = |flow: &super::Flow| {
            flow.purpose == token.purpose && flow.source == token.source && flow.peer == token.peer
        };
        if !policy.flows.iter().any(fits) {
            return Err(Refusal::Flow(format!("{} to {}", token.source, token.peer)));
        }
        let own = policy.daily_budget_s.saturating_sub(used_ms.div_ceil(1000));
        let seconds = token.max_seconds.min(token.budget_left_s).min(u32::try_from(own).unwrap_or(u32::MAX));
        if seconds == 0 {
            return Err(Refusal::Budget(policy.daily_budget_s));
        }
        self.proof(policy, at).map_err(Refusal::NotProven)?;
        self.observer_ok(policy, at).map_err(Refusal::Observer)?;
        Ok((token.clone(), seconds))
    }

    /// The release, if it fits this very incident and enough officers signed it.
    pub(super) fn admit_release<'a>(
        &self,
        policy: &Policy,
        signed: Option<&'a SignedRelease>,
        at: u64,
    ) -> Result<&'a ReleaseToken, Refusal> {
        let (GateState::Lockdown { incident, .. } | GateState::FaultOpen { incident, .. }) = &self.phase
        else {
            return Err(Refusal::NothingToRelease);
        };
        let signed = signed.ok_or_else(|| Refusal::Release("it is not signed".to_owned()))?;
        let release = signed
            .verify(&policy.officers, policy.quorum)
            .map_err(|error| Refusal::Release(error.to_string()))?;
        if release.incident != *incident {
            return Err(Refusal::Release(format!(
                "it names incident {}, this is {incident}",
                release.incident
            )));
        }
        if release.boot_id != policy.boot_id || at > release.expires_boot_ms {
            return Err(Refusal::Release("it has expired or belongs to another boot".to_owned()));
        }
        self.proof(policy, at).map_err(Refusal::NotProven)?;
        Ok(release)
    }
}
