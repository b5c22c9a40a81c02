//! When closed is proven, when it is contradicted, and what may be said about it.

use jiff::Timestamp;
use kuramori_model::gate::{Claim, CloseReason, GateStatus, Layer, LayerState, PROTOCOL, Seen};

use super::{Gate, Policy};

/// Counters that stand still for a shorter time prove nothing, in milliseconds.
const STILL_MS: u64 = 300;

/// The guarded interface's counters, unchanged since `since`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Still {
    run: u64,
    rx: u64,
    tx: u64,
    since: u64,
}

impl Gate {
    /// Takes the observer's word; an older or future one says nothing.
    pub(super) fn take_seen(&mut self, policy: &Policy, seen: &Seen, at: u64) {
        if let Some(last) = self.seen.as_ref().filter(|last| last.run != seen.run) {
            // One that comes back after another has spoken: two at once, and one may say ok where the other
            // does not. A new one after one that has ended is no such.
            if self.former_observer == Some(seen.run) {
                self.other_observer = Some((last.run, last.boot_ms));
            }
            self.former_observer = Some(last.run);
        }
        if seen.boot_ms > at || self.seen.as_ref().is_some_and(|last| seen.boot_ms < last.boot_ms) {
            return;
        }
        if seen.boot_ms >= self.closed_at {
            // With the port down not even noise arrives; without an outer layer the wire is not ours.
            let outer = policy.layers.iter().any(|layer| layer.is_outer());
            let same = self.still.is_some_and(|still| {
                still.run == seen.run && still.tx == seen.tx_bytes && (!outer || still.rx == seen.rx_bytes)
            });
            if !same {
                let (run, rx, tx) = (seen.run, seen.rx_bytes, seen.tx_bytes);
                self.still = Some(Still { run, rx, tx, since: seen.boot_ms });
            }
        }
        self.seen = Some(seen.clone());
    }

    /// Whether closed is proven at this moment; else the first thing that is missing.
    pub(super) fn proof(&self, policy: &Policy, at: u64) -> Result<(), String> {
        for layer in &policy.layers {
            let read = self.layers.get(layer).ok_or_else(|| format!("layer {layer} was not read back"))?;
            if read.boot_ms < self.closed_at || at.saturating_sub(read.boot_ms) > policy.fresh_ms {
                return Err(format!("layer {layer}: the read-back is too old"));
            }
            if read.state != LayerState::Closed {
                return Err(format!("layer {layer} ({}): {}", read.source, read.detail));
            }
        }
        let seen = self.seen.as_ref().ok_or("the observer has not spoken")?;
        if seen.boot_ms < self.closed_at || at.saturating_sub(seen.boot_ms) > policy.fresh_ms {
            return Err("the observer's word is too old".to_owned());
        }
        if seen.unknown {
            return Err(format!("the observer cannot probe: {}", seen.unapproved.join(", ")));
        }
        if seen.path_open {
            return Err("the probe of the approved flow is answered".to_owned());
        }
        if !seen.unapproved.is_empty() {
            return Err(format!("answers that must not be: {}", seen.unapproved.join(", ")));
        }
        let still = |still: Still| still.run == seen.run && seen.boot_ms >= still.since + STILL_MS;
        if !self.still.is_some_and(still) {
            return Err("the guarded interface's counters have not stood still yet".to_owned());
        }
        Ok(())
    }

    /// Positive evidence of an open path in a gate that was commanded closed; silence is not such.
    pub(super) fn contradiction(&self, policy: &Policy) -> Option<CloseReason> {
        if let Some(seen) = self.seen.as_ref().filter(|seen| seen.boot_ms >= self.closed_at && !seen.unknown)
        {
            if seen.path_open {
                return Some(CloseReason::AccidentalPath { what: "the approved flow answers".to_owned() });
            }
            if !seen.unapproved.is_empty() {
                return Some(CloseReason::AccidentalPath { what: seen.unapproved.join(", ") });
            }
        }
        policy
            .layers
            .iter()
            .filter_map(|layer| self.layers.get(layer))
            .find(|read| read.boot_ms >= self.closed_at && read.state == LayerState::Open)
            .map(|read| CloseReason::LayerFault { layer: read.layer, what: read.detail.clone() })
    }

    /// Whether the observer's last "ok" is young enough to open or renew.
    pub(super) fn observer_ok(&self, policy: &Policy, at: u64) -> Result<(), String> {
        let seen = self.seen.as_ref().ok_or("it has not spoken")?;
        let age = at.saturating_sub(seen.boot_ms);
        if age > policy.seen_ms {
            return Err(format!("its last word is {age} ms old"));
        }
        // An "ok" beside something unknown or unapproved is not one.
        if !seen.ok || seen.unknown || !seen.unapproved.is_empty() {
            return Err(format!("it sees {}", seen.unapproved.join(", ")));
        }
        if let Some((run, said)) = self.other_observer
            && at.saturating_sub(said) <= policy.seen_ms
        {
            return Err(format!("two observers speak, runs {run} and {}", seen.run));
        }
        Ok(())
    }

    /// Whether this layer's newest read-back shows it closed since the closing command.
    pub(super) fn reads_closed(&self, layer: Layer) -> bool {
        self.layers
            .get(&layer)
            .is_some_and(|read| read.state == LayerState::Closed && read.boot_ms >= self.closed_at)
    }

    /// What may be said about "offline" right now.
    pub fn claim(&self, policy: &Policy, at: u64) -> Claim {
        let fresh = |layer: &&Layer| {
            self.reads_closed(**layer)
                && self
                    .layers
                    .get(layer)
                    .is_some_and(|read| at.saturating_sub(read.boot_ms) <= policy.fresh_ms)
        };
        let closed_layers: Vec<Layer> = policy.layers.iter().filter(fresh).copied().collect();
        let outer = closed_layers.iter().any(|layer| layer.is_outer());
        let tested = policy.dead_man_tested.iter().any(|layer| policy.layers.contains(layer));
        let offline = self.phase.is_verified_closed() && closed_layers.len() >= 2 && outer && tested;
        let sentence = if offline {
            let names: Vec<String> = closed_layers.iter().map(Layer::to_string).collect();
            format!("offline: layers {} are read back closed and the probe fails", names.join(" and "))
        } else if !self.phase.is_verified_closed() {
            let missing =
                self.proof(policy, at).err().unwrap_or_else(|| format!("state {}", self.phase.name()));
            format!("NOT offline: closed is not proven ({missing})")
        } else if !outer {
            "NOT offline: only a logical layer is closed; a switch port, power or a carried medium is missing"
                .to_owned()
        } else if !tested {
            "NOT offline: no layer's dead-man has been tested on this device".to_owned()
        } else {
            "NOT offline: fewer than two layers are read back closed".to_owned()
        };
        Claim { offline, closed_layers, dead_man_tested: policy.dead_man_tested.clone(), sentence }
    }

    /// How things stand; `used_ms` is the open path of the last 24 hours without the running window.
    pub fn status(&self, policy: &Policy, at: u64, wall: Timestamp, used_ms: u64) -> GateStatus {
        let running = self.window.as_ref().map_or(0, |window| window.open_ms(at));
        GateStatus {
            protocol: PROTOCOL,
            gate: self.phase.clone(),
            at: wall,
            boot_id: policy.boot_id.clone(),
            boot_ms: at,
            epoch: self.epoch,
            last_window: self.last_window,
            layers: self.layers.values().cloned().collect(),
            seen: self.seen.clone(),
            seen_age_ms: self.seen.as_ref().map(|seen| at.saturating_sub(seen.boot_ms)),
            used_today_s: (used_ms + running) as f64 / 1000.0,
            daily_budget_s: policy.daily_budget_s,
            claim: self.claim(policy, at),
            alarms: self.alarms.clone(),
        }
    }
}
