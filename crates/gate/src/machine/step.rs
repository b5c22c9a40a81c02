//! One event's step.

use jiff::Timestamp;
use kuramori_model::gate::{ACCIDENTAL_PATH, CloseReason, GateState, Layer, SignedRelease, SignedToken};

use super::{Action, Command, Entry, Event, Gate, Kind, Latch, Policy, Trace, What};
use crate::fault::Refusal;

/// How often a command that had no effect yet is repeated, in milliseconds.
pub(super) const RETRY_MS: u64 = 1000;
/// How often a layer is read back while we wait for it, in milliseconds.
pub(super) const LOOK_MS: u64 = 500;
/// A layer that has not reported on its closing command by then is waited for no longer, in milliseconds.
const REPORT_MS: u64 = 5000;
/// More alarms than this are only in the log.
const ALARMS: usize = 16;

/// The gate after the event, and what to do now.
pub fn transition(gate: Gate, policy: &Policy, event: &Event) -> (Gate, Vec<Action>) {
    let before = gate.phase.name();
    let mut step = Step { gate, policy, at: event.at, wall: event.wall, actions: Vec::new() };
    step.take(&event.what);
    step.settle();
    step.record();
    let to = &step.gate.phase;
    if to.name() != before {
        // Last, on purpose: closing waits for no disk. What must be written before opening is `Accepted`.
        let to = Box::new(to.clone());
        step.actions.push(Action::Log(Entry::Transition { from: before.to_owned(), to }, None));
    }
    (step.gate, step.actions)
}

pub(super) struct Step<'a> {
    pub(super) gate: Gate,
    pub(super) policy: &'a Policy,
    pub(super) at: u64,
    wall: Timestamp,
    pub(super) actions: Vec<Action>,
}

impl Step<'_> {
    fn take(&mut self, what: &What) {
        match what {
            What::Start { epoch, last_window, incident, latch } => {
                let locked = match &self.gate.phase {
                    GateState::Lockdown { reason, .. } => Some(reason.clone()),
                    _ => None,
                };
                self.gate.epoch = *epoch;
                self.gate.last_window = *last_window;
                self.gate.incident = self.gate.incident.max(*incident);
                self.gate.phase = match latch.clone() {
                    Some(Latch { incident, lockdown: true, reason }) => {
                        GateState::Lockdown { reason, incident, verified: false }
                    }
                    Some(Latch { incident, lockdown: false, reason }) => {
                        GateState::FaultOpen { why: reason, incident, verified: false }
                    }
                    None => GateState::Sealing { since_boot_ms: self.at, overdue: false },
                };
                self.command_closed();
                // Locked before the log had been read.
                if let Some(reason) = locked {
                    self.latch(true, reason);
                }
            }
            What::Tick | What::Done(_, Kind::Open) => {}
            What::Seen(seen) => {
                self.gate.take_seen(self.policy, seen, self.at);
                if let (Some(window), Some(seen)) = (self.gate.window.as_mut(), self.gate.seen.as_ref()) {
                    window.saw(seen);
                }
            }
            What::Observed(read) => {
                let newer = self.gate.layers.get(&read.layer).is_none_or(|last| last.boot_ms <= read.boot_ms);
                if newer && read.boot_ms <= self.at {
                    let innermost = self.policy.layers.first() == Some(&read.layer);
                    if let Some(window) = self.gate.window.as_mut() {
                        window.read(read, innermost);
                    }
                    self.gate.layers.insert(read.layer, read.clone());
                }
            }
            What::Done(layer, Kind::Close) | What::Failed(layer, Kind::Close, _) => {
                self.gate.pending.remove(layer);
            }
            What::Done(layer, Kind::Renew) => {
                if self.policy.layers.first() == Some(layer)
                    && let Some(window) = self.gate.window.as_mut()
                {
                    window.renewals += 1;
                }
            }
            What::Failed(layer, kind, why) => self.failed(*layer, *kind, why),
            What::Logged(window, result) => {
                if let GateState::Arming { token } = &self.gate.phase
                    && token.window == *window
                {
                    match result {
                        Ok(()) => self.open_next(None),
                        Err(what) => self.close(CloseReason::LogFailed { what: what.clone() }),
                    }
                }
            }
            What::Open(token, used_ms) => self.open(token, *used_ms),
            What::Drain => match self.gate.phase.clone() {
                GateState::Open(window) => {
                    self.gate.phase = GateState::Draining(window);
                    self.actions.push(Action::Accept);
                }
                GateState::Draining(_) => self.actions.push(Action::Accept),
                _ => self.actions.push(Action::Refuse(Refusal::NoWindow)),
            },
            What::Close(reason) => {
                match self.gate.phase {
                    GateState::Arming { .. }
                    | GateState::Opening { .. }
                    | GateState::Open(_)
                    | GateState::Draining(_) => self.close(reason.clone()),
                    // Already closed or closing: say it again, harmlessly.
                    _ => self.say_closed(),
                }
                self.actions.push(Action::Accept);
            }
            What::Lockdown(reason) => {
                if matches!(self.gate.phase, GateState::Lockdown { .. }) {
                    // Locked already: the order still closes.
                    self.say_closed();
                } else {
                    self.end_window(CloseReason::Lockdown { reason: reason.clone() });
                    self.command_closed();
                    self.latch(true, reason.clone());
                }
                self.actions.push(Action::Accept);
            }
            What::Release(signed) => self.release(signed.as_deref()),
        }
    }

    /// A command that opens or renews failed. What opens the outer layers is repeated until time is up.
    fn failed(&mut self, layer: Layer, kind: Kind, why: &str) {
        let innermost = self.policy.layers.first() == Some(&layer);
        let open = matches!(
            self.gate.phase,
            GateState::Opening { .. } | GateState::Open(_) | GateState::Draining(_)
        );
        if open && (innermost || kind == Kind::Renew) && !self.observer_lost() {
            self.close(CloseReason::LayerFault { layer, what: why.to_owned() });
        }
    }

    fn open(&mut self, signed: &SignedToken, used_ms: u64) {
        match self.gate.admit(self.policy, signed, used_ms, self.at) {
            Err(refusal) => self.actions.push(Action::Refuse(refusal)),
            Ok((token, seconds)) => {
                let (window, hash) = (token.window, token.hash());
                self.gate.epoch = token.epoch;
                self.gate.last_window = window;
                // A path that was found open at rest is told until somebody has taken note of it.
                self.gate.alarms.retain(|text| text.contains(ACCIDENTAL_PATH));
                self.gate.window =
                    Some(Trace::new(token.clone(), seconds, (self.at, self.wall), self.gate.seen.clone()));
                self.actions.push(Action::Log(
                    Entry::Accepted { token: Box::new(token.clone()), hash },
                    Some(window),
                ));
                self.gate.phase = GateState::Arming { token };
                self.actions.push(Action::Accept);
            }
        }
    }

    fn release(&mut self, signed: Option<&SignedRelease>) {
        match self.gate.admit_release(self.policy, signed, self.at) {
            Err(refusal) => self.actions.push(Action::Refuse(refusal)),
            Ok(release) => {
                let officers = signed.map(|signed| signed.signatures.iter().map(|one| one.key).collect());
                let (incident, reason) = (release.incident, release.reason.clone());
                let entry = Entry::Released { incident, reason, officers: officers.unwrap_or_default() };
                self.gate.alarms.clear();
                self.gate.phase = GateState::ClosedVerified { since_boot_ms: self.at };
                self.actions.push(Action::Log(entry, None));
                self.actions.push(Action::Accept);
            }
        }
    }

    /// Until when a layer may be opened. The innermost one completes the path: as long as the observer's word
    /// holds. An outer one opens nothing by itself, and a switch or controller needs seconds.
    pub(super) fn not_after(policy: &Policy, at: u64, layer: Layer, until_boot_ms: u64) -> u64 {
        let word = at + policy.seen_ms;
        if policy.layers.first() == Some(&layer) { word } else { until_boot_ms.max(word) }
    }

    /// Opens the next layer inward, beginning with the outermost.
    pub(super) fn open_next(&mut self, opened: Option<Layer>) {
        let next = match opened {
            None => self.policy.layers.last().copied(),
            Some(layer) => self.policy.layers.iter().rev().copied().find(|next| *next < layer),
        };
        let Some(window) = self.gate.window.as_mut() else { return };
        let Some(layer) = next else {
            self.gate.phase = GateState::Open(window.view());
            return;
        };
        if self.policy.layers.first() == Some(&layer) {
            // This command completes the path: from here on it counts as open.
            window.commanded = Some((self.at, self.wall));
        }
        if let Some(every) = self.policy.renewals.get(&layer) {
            self.gate.next_renew.insert(layer, self.at + every);
        }
        let until_boot_ms = match self.gate.phase {
            GateState::Opening { until_boot_ms, .. } => until_boot_ms,
            _ => self.at + self.policy.opening_ms,
        };
        let not_after = Self::not_after(self.policy, self.at, layer, until_boot_ms);
        self.gate.phase = GateState::Opening { token: window.token.clone(), layer, until_boot_ms };
        let command = Command::Open { lease: window.lease(self.policy), not_after };
        self.gate.next_retry = self.at + 3 * RETRY_MS;
        self.gate.next_look = self.at + LOOK_MS;
        self.actions.push(Action::Command(layer, command));
        self.actions.push(Action::Command(layer, Command::Observe));
    }

    fn end_window(&mut self, reason: CloseReason) {
        if let Some(window) = self.gate.window.as_mut() {
            window.close.get_or_insert((self.at, reason));
        }
    }

    /// Begins to close, whatever was before.
    pub(super) fn close(&mut self, reason: CloseReason) {
        let window = self.gate.window.as_ref().map(|window| window.token.window);
        self.end_window(reason.clone());
        if !matches!(reason, CloseReason::Asked { .. } | CloseReason::Stopped {}) {
            let text = serde_json::to_string(&reason).unwrap_or_default();
            self.alarm(format!("closed because of {text}"));
        }
        self.gate.phase = GateState::Closing { window, reason };
        self.command_closed();
    }

    /// Commands every layer closed, from the inside out; evidence counts from now.
    fn command_closed(&mut self) {
        self.gate.closed_at = self.at;
        self.gate.still = None;
        self.gate.next_renew.clear();
        self.gate.pending = self.policy.layers.iter().copied().collect();
        self.say_closed();
        self.gate.next_retry = self.at + RETRY_MS;
        self.gate.next_look = self.at + LOOK_MS;
    }

    fn say_closed(&mut self) {
        for layer in &self.policy.layers {
            self.actions.push(Action::Command(*layer, Command::Close));
        }
        for layer in &self.policy.layers {
            self.actions.push(Action::Command(*layer, Command::Observe));
        }
    }

    fn alarm(&mut self, text: String) {
        if !self.gate.alarms.contains(&text) {
            if self.gate.alarms.len() == ALARMS {
                self.gate.alarms.remove(0);
            }
            self.gate.alarms.push(text.clone());
        }
        self.actions.push(Action::Log(Entry::Alarm { text }, None));
    }

    fn latch(&mut self, lockdown: bool, reason: String) {
        self.gate.incident += 1;
        let incident = self.gate.incident;
        self.alarm(format!("{}: {reason}", if lockdown { "locked" } else { "closed is not proven" }));
        let latch = Latch { incident, lockdown, reason: reason.clone() };
        self.actions.push(Action::Log(Entry::Latched(latch), None));
        self.gate.phase = if lockdown {
            GateState::Lockdown { reason, incident, verified: false }
        } else {
            GateState::FaultOpen { why: reason, incident, verified: false }
        };
    }

    /// What time and evidence alone bring about; runs after every event.
    fn settle(&mut self) {
        let proof = self.gate.proof(self.policy, self.at);
        match self.gate.phase.clone() {
            // What the log remembers is not known yet; closing does not wait for it.
            GateState::Boot {} => self.insist(),
            GateState::Sealing { since_boot_ms, overdue } => match proof {
                Ok(()) => self.gate.phase = GateState::ClosedVerified { since_boot_ms: self.at },
                Err(why) => {
                    if !overdue && self.at.saturating_sub(since_boot_ms) > self.policy.verify_ms {
                        self.gate.phase = GateState::Sealing { since_boot_ms, overdue: true };
                        self.alarm(format!("closed is not proven: {why}"));
                    }
                    self.insist();
                }
            },
            GateState::ClosedVerified { .. } => match (proof, self.gate.contradiction(self.policy)) {
                (_, Some(reason)) => self.close(reason),
                (Err(why), None) => {
                    self.alarm(format!("closed is no longer proven: {why}"));
                    self.gate.phase = GateState::Sealing { since_boot_ms: self.at, overdue: false };
                    self.command_closed();
                }
                (Ok(()), None) => self.look(self.policy.recheck_ms),
            },
            GateState::Arming { .. } => {
                let since = self.gate.window.as_ref().map_or(0, |window| window.accepted.0);
                if let Err(what) = self.gate.observer_ok(self.policy, self.at) {
                    self.close(CloseReason::ObserverAlarm { what });
                } else if self.at.saturating_sub(since) > self.policy.verify_ms {
                    self.close(CloseReason::LogFailed { what: "the log does not answer".to_owned() });
                } else {
                    self.look(self.policy.recheck_ms);
                }
            }
            GateState::Opening { layer, until_boot_ms, .. } => self.opening(layer, until_boot_ms),
            GateState::Open(_) | GateState::Draining(_) => self.watch(),
            GateState::Closing { window, reason } => {
                if self.gate.pending.is_empty() || self.at.saturating_sub(self.gate.closed_at) > REPORT_MS {
                    let until_boot_ms = self.gate.closed_at + self.policy.verify_ms;
                    self.gate.phase = GateState::Verifying { window, reason, until_boot_ms };
                    self.settle();
                }
            }
            GateState::Verifying { until_boot_ms, .. } => match proof {
                Ok(()) => self.gate.phase = GateState::ClosedVerified { since_boot_ms: self.at },
                Err(why) if self.at > until_boot_ms => self.latch(false, why),
                Err(_) => self.insist(),
            },
            GateState::FaultOpen { why, incident, .. } => {
                let verified = self.hold(proof.is_ok());
                self.gate.phase = GateState::FaultOpen { why, incident, verified };
            }
            GateState::Lockdown { reason, incident, .. } => {
                let verified = self.hold(proof.is_ok());
                self.gate.phase = GateState::Lockdown { reason, incident, verified };
            }
        }
    }

    /// A latched gate goes on closing and looking.
    fn hold(&mut self, proven: bool) -> bool {
        if proven {
            self.look(self.policy.recheck_ms);
        } else {
            self.insist();
        }
        proven
    }

    /// Repeats the closing command to every layer that does not read closed, and looks.
    fn insist(&mut self) {
        if self.at >= self.gate.next_retry {
            self.gate.next_retry = self.at + RETRY_MS;
            for layer in &self.policy.layers {
                if !self.gate.reads_closed(*layer) {
                    self.actions.push(Action::Command(*layer, Command::Close));
                }
            }
        }
        self.look(LOOK_MS);
    }

    pub(super) fn look(&mut self, every: u64) {
        if self.at >= self.gate.next_look {
            self.gate.next_look = self.at + every;
            for layer in &self.policy.layers {
                self.actions.push(Action::Command(*layer, Command::Observe));
            }
        }
    }

    /// Writes the window's record when closed is proven, or when that took too long.
    fn record(&mut self) {
        let Some((closed, _)) = self.gate.window.as_ref().and_then(|window| window.close.clone()) else {
            return;
        };
        let proven = self.gate.phase.is_verified_closed();
        if !proven && self.at.saturating_sub(closed) <= self.policy.verify_ms {
            return;
        }
        let Some(window) = self.gate.window.take() else { return };
        let observations = self.gate.layers.values().cloned().collect();
        let record = window.record(self.policy, self.at, self.wall, proven, observations);
        if record.disagreement {
            let exposure = record.exposure;
            self.alarm(format!("{}: the exposures disagree: {exposure:?}", record.window));
        }
        self.actions.push(Action::Log(Entry::Window { record: Box::new(record) }, None));
    }
}
