//! The window in progress: its limits, its three exposures, its record.

use jiff::Timestamp;
use kuramori_model::gate::{
    CloseReason, Exposure, LayerObservation, LayerState, OpenWindow, Seen, WindowRecord, WindowToken,
};

use super::Policy;
use crate::actuator::Lease;

/// All that is kept of a window until its record is written. Boot times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Trace {
    pub(super) token: WindowToken,
    /// The seconds that both budgets leave of the token's.
    pub(super) seconds: u32,
    pub(super) accepted: (u64, Timestamp),
    /// The command that completed the path.
    pub(super) commanded: Option<(u64, Timestamp)>,
    pub(super) renewals: u64,
    /// The observer's word at admission: where its counters began.
    base: Option<Seen>,
    /// The first closing command, and why.
    pub(super) close: Option<(u64, CloseReason)>,
    first_open: Option<u64>,
    first_closed: Option<u64>,
    last_seen: Option<Seen>,
    counters_fell: bool,
}

impl Trace {
    pub(super) const fn new(
        token: WindowToken,
        seconds: u32,
        accepted: (u64, Timestamp),
        base: Option<Seen>,
    ) -> Self {
        Self {
            token,
            seconds,
            accepted,
            commanded: None,
            renewals: 0,
            base,
            close: None,
            first_open: None,
            first_closed: None,
            last_seen: None,
            counters_fell: false,
        }
    }

    pub(super) const fn lease(&self, policy: &Policy) -> Lease {
        Lease {
            source: self.token.source,
            peer: self.token.peer,
            window_s: self.seconds,
            ttl_s: policy.ttl_s,
        }
    }

    pub(super) fn deadline(&self) -> u64 {
        self.commanded.map_or(0, |(at, _)| at + u64::from(self.seconds) * 1000)
    }

    pub(super) fn deadline_reason(&self) -> CloseReason {
        if self.seconds < self.token.max_seconds { CloseReason::Budget {} } else { CloseReason::Deadline {} }
    }

    pub(super) fn view(&self) -> OpenWindow {
        OpenWindow {
            token: self.token.clone(),
            opened_boot_ms: self.commanded.map_or(0, |(at, _)| at),
            deadline_boot_ms: self.deadline(),
            renewals: self.renewals,
        }
    }

    pub(super) fn open_ms(&self, at: u64) -> u64 {
        let end = self.close.as_ref().map_or(at, |(closed, _)| *closed);
        self.commanded.map_or(0, |(opened, _)| end.saturating_sub(opened))
    }

    /// Bytes in both directions since the token was taken.
    pub(super) fn bytes(&self) -> (u64, u64) {
        match (&self.base, &self.last_seen) {
            (Some(base), Some(seen)) => {
                (seen.rx_bytes.saturating_sub(base.rx_bytes), seen.tx_bytes.saturating_sub(base.tx_bytes))
            }
            _ => (0, 0),
        }
    }

    pub(super) fn saw(&mut self, seen: &Seen) {
        let last = self.last_seen.as_ref().or(self.base.as_ref());
        // An interface that was made anew counts from nothing: how much has passed is not known any more.
        self.counters_fell |=
            last.is_some_and(|last| seen.rx_bytes < last.rx_bytes || seen.tx_bytes < last.tx_bytes);
        self.last_seen = Some(seen.clone());
    }

    pub(super) const fn counters_fell(&self) -> bool {
        self.counters_fell
    }

    /// Notes when a read-back first shows the path open and, after the closing command, first closed again.
    /// One closed layer closes the path; only the layer that completes it opens it.
    pub(super) fn read(&mut self, read: &LayerObservation, innermost: bool) {
        if let Some((closed, _)) = &self.close {
            if read.state == LayerState::Closed && read.boot_ms >= *closed {
                self.first_closed.get_or_insert(read.boot_ms);
            }
        } else if innermost
            && read.state != LayerState::Closed
            && self.commanded.is_some_and(|(opened, _)| read.boot_ms >= opened)
        {
            self.first_open.get_or_insert(read.boot_ms);
        }
    }

    /// The record, `proven` at this moment or given up.
    pub(super) fn record(
        &self,
        policy: &Policy,
        at: u64,
        wall: Timestamp,
        proven: bool,
        observations: Vec<LayerObservation>,
    ) -> WindowRecord {
        let (closed, reason) = self.close.clone().unwrap_or((at, CloseReason::Stopped {}));
        let (opened_boot_ms, opened) = self.commanded.unwrap_or(self.accepted);
        let seconds = |ms: u64| ms as f64 / 1000.0;
        let commanded_s = seconds(self.open_ms(at));
        let actuator_s =
            self.first_open.map_or(0.0, |open| seconds(self.first_closed.unwrap_or(at).saturating_sub(open)));
        let probe_s = match (&self.base, &self.last_seen) {
            // A word from before the closing does not know how long it was open.
            (Some(base), Some(seen)) if base.run == seen.run && seen.boot_ms >= closed => {
                Some(seconds(seen.exposed_ms.saturating_sub(base.exposed_ms)))
            }
            _ => None,
        };
        let grain = seconds(policy.grain_ms);
        let differs = (commanded_s - actuator_s).abs() > grain
            || probe_s.is_none_or(|probe| (probe - commanded_s).abs() > grain);
        let disagreement = self.commanded.is_some() && differs;
        let (bytes_in, bytes_out) = self.bytes();
        WindowRecord {
            window: self.token.window,
            epoch: self.token.epoch,
            purpose: self.token.purpose,
            source: self.token.source,
            peer: self.token.peer,
            token_hash: self.token.hash(),
            opened,
            closed: wall,
            opened_boot_ms,
            boot_id: policy.boot_id.clone(),
            exposure: Exposure { commanded_s, actuator_s, probe_s },
            upper_bound: false,
            bytes_in,
            bytes_out,
            renewals: self.renewals,
            close_reason: reason,
            closed_verified: proven,
            verified_after_s: proven.then(|| seconds(at.saturating_sub(closed))),
            observations,
            disagreement,
        }
    }
}
