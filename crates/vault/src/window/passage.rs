//! Asking the gate to open, and waiting until it is seen closed again.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use kuramori_model::{
    gate::{Nonce, Purpose, SignedToken, WindowRecord, WindowToken},
    ids::WindowId,
};

use super::TOKEN_MS;
use crate::{
    error::{Error, Result},
    gate::{Gate, is_open, is_opening},
    vault::Vault,
};

impl Vault {
    pub(super) fn open_gate(
        &self,
        gate: &Gate,
        number: WindowId,
        purpose: Purpose,
        peer: SocketAddrV4,
        seconds: u32,
        bytes: u64,
    ) -> Result<()> {
        let status = gate.status()?;
        let source = self.config.gate.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |gate| gate.source);
        let token = WindowToken {
            window: number,
            epoch: self.epoch.max(status.epoch),
            purpose,
            source,
            peer,
            max_seconds: seconds,
            max_bytes: bytes,
            budget_left_s: seconds,
            nonce: Nonce::draw(&*self.random),
            boot_id: status.boot_id,
            issued_boot_ms: status.boot_ms,
            expires_boot_ms: status.boot_ms.saturating_add(TOKEN_MS),
            issued: self.clock.now(),
        };
        self.note("window.token", &serde_json::json!({ "window": number, "token": token.hash() }))?;
        gate.open(SignedToken::sign(token, &self.key))?;
        let deadline = self.clock.boot() + self.patience();
        loop {
            let state = gate.status()?.gate;
            if is_open(&state) {
                return Ok(());
            }
            if !is_opening(&state) || self.clock.boot() > deadline {
                let message = format!("it went to `{}` instead of opening", state.name());
                return Err(Error::GateRefused { code: "gate.did-not-open".to_owned(), message });
            }
            self.clock.sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the gate is seen closed, and takes its record of the window.
    pub(super) fn see_closed(&self, gate: &Gate, number: WindowId) -> (Option<WindowRecord>, bool, String) {
        let deadline = self.clock.boot() + self.patience();
        let mut claim = "the gate does not answer: it counts as open".to_owned();
        loop {
            if let Ok(status) = gate.status() {
                claim = status.claim.sentence;
                let record =
                    gate.history(10).ok().and_then(|all| all.into_iter().find(|one| one.window == number));
                if let Some(record) = record {
                    let verified = record.closed_verified && status.gate.is_verified_closed();
                    if verified || self.clock.boot() > deadline {
                        return (Some(record), verified, claim);
                    }
                } else if matches!(status.gate, kuramori_model::gate::GateState::ClosedVerified { .. }) {
                    // Refused before it opened: there is no record, and nothing was exposed.
                    self.clock.sleep(Duration::from_millis(200));
                    let record = gate
                        .history(10)
                        .ok()
                        .and_then(|all| all.into_iter().find(|one| one.window == number));
                    return (record, true, claim);
                }
            }
            if self.clock.boot() > deadline {
                return (None, false, claim);
            }
            self.clock.sleep(Duration::from_millis(100));
        }
    }
}
