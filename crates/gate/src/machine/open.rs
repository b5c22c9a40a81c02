//! A gate that opens or is open: every reason to close comes before the renewal.

use kuramori_model::gate::{CloseReason, GateState, Layer, LayerState};

use super::{
    Action, Command,
    step::{LOOK_MS, RETRY_MS, Step},
};

impl Step<'_> {
    pub(super) fn opening(&mut self, layer: Layer, until: u64) {
        if self.observer_lost() {
            return;
        }
        if self.at > until {
            return self.close(CloseReason::OpenTimeout {});
        }
        let commanded = self.gate.window.as_ref().and_then(|window| window.commanded).map(|(at, _)| at);
        let read = self.gate.layers.get(&layer);
        let after = commanded.unwrap_or(self.gate.closed_at);
        if read.is_some_and(|read| read.state == LayerState::Open && read.boot_ms >= after) {
            return self.open_next(Some(layer));
        }
        self.renew(until);
        if commanded.is_none()
            && self.at >= self.gate.next_retry
            && let Some(window) = &self.gate.window
        {
            let not_after = Self::not_after(self.policy, self.at, layer, until);
            let command = Command::Open { lease: window.lease(self.policy), not_after };
            self.gate.next_retry = self.at + 3 * RETRY_MS;
            self.actions.push(Action::Command(layer, command));
        }
        self.look(LOOK_MS);
    }

    /// Closes when the observer is silent or not content.
    pub(super) fn observer_lost(&mut self) -> bool {
        let Err(what) = self.gate.observer_ok(self.policy, self.at) else { return false };
        let old = |boot_ms: u64| self.at.saturating_sub(boot_ms) > self.policy.seen_ms;
        let silent = self.gate.seen.as_ref().is_none_or(|seen| seen.ok && old(seen.boot_ms));
        self.close(if silent { CloseReason::ObserverSilent {} } else { CloseReason::ObserverAlarm { what } });
        true
    }

    /// An open window: every reason to close it comes before the renewal.
    pub(super) fn watch(&mut self) {
        let Some(window) = &self.gate.window else {
            return self.close(CloseReason::Stopped {});
        };
        let deadline = window.deadline();
        let (bytes_in, bytes_out) = window.bytes();
        if self.at >= deadline {
            let reason = window.deadline_reason();
            return self.close(reason);
        }
        if bytes_in.saturating_add(bytes_out) >= window.token.max_bytes {
            return self.close(CloseReason::Bytes {});
        }
        if window.counters_fell() {
            let what = "the guarded interface's counters went backward".to_owned();
            return self.close(CloseReason::ObserverAlarm { what });
        }
        if self.observer_lost() {
            return;
        }
        for layer in &self.policy.layers {
            let bad = match self.gate.layers.get(layer) {
                None => Some("it was never read back".to_owned()),
                Some(read) if read.state != LayerState::Open => Some(read.detail.clone()),
                Some(read) if self.at.saturating_sub(read.boot_ms) > self.policy.fresh_ms => {
                    Some("its read-back is too old".to_owned())
                }
                Some(_) => None,
            };
            if let Some(what) = bad {
                return self.close(CloseReason::LayerFault { layer: *layer, what });
            }
        }
        self.renew(deadline);
        self.look(2 * RETRY_MS);
        if let Some(window) = &self.gate.window {
            let view = window.view();
            match &mut self.gate.phase {
                GateState::Open(held) | GateState::Draining(held) => *held = view,
                _ => {}
            }
        }
    }

    /// Renews each lease whose time has come, until `end` and as long as the observer's last word is good.
    fn renew(&mut self, end: u64) {
        let Some(window) = &self.gate.window else { return };
        let end = window.commanded.map_or(end, |_| window.deadline());
        if self.at >= end {
            return;
        }
        let word = self.gate.seen.as_ref().map_or(0, |seen| seen.boot_ms + self.policy.seen_ms);
        for (layer, next) in &mut self.gate.next_renew {
            if self.at < *next {
                continue;
            }
            let every = self.policy.renewals.get(layer).copied().unwrap_or(self.policy.seen_ms);
            *next = self.at + every;
            // The innermost one lets packets pass. An outer one does not by itself, and a switch needs its time:
            // a share of its own lease.
            let patience = if self.policy.layers.first() == Some(layer) { 0 } else { every };
            let not_after = end.min(word + patience);
            let command = Command::Renew { lease: window.lease(self.policy), not_after };
            self.actions.push(Action::Command(*layer, command));
        }
    }
}
