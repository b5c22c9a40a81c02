//! Windows: may one open now, open it, do the work, close it, and see it closed.
//!
//! Before: the gate must be *seen* closed, the day's seconds must suffice, there must be room, the log must
//! take the entry; then, and only then, the vault signs a token for one flow. While it is open a watcher looks
//! at clock and gate: near the deadline nothing new is started, at the deadline, or as soon as the gate is
//! anything but open, every puller is killed. After: close, wait for `closed_verified`, keep the gate's record
//! with its three exposures. What cannot be seen closed is an alarm.

mod passage;
mod preflight;
mod watch;

use std::time::Duration;

use kuramori_model::{
    finding::{Finding, Severity, Value},
    gate::{Purpose, WindowRecord},
    ids::WindowId,
};
use kuramori_repo::Cancel;
use serde::Serialize;

use crate::{
    approval::Grant,
    config::Peer,
    error::{Error, Result},
    pull::{Pull, Pulled, Stop},
    puller::{
        Source,
        process::{Process, meet},
    },
    vault::{Vault, Work},
};

/// How long a token may lie before it is used.
const TOKEN_MS: u64 = 10_000;
/// A shorter window is not worth opening.
const SHORTEST: u64 = 5;

/// Findings that the next window settles.
pub(crate) const OF_A_WINDOW: [&str; 6] = [
    "vault.window-not-verified",
    "vault.exposure-disagrees",
    "vault.gate-failed",
    "vault.primary-unreachable",
    "vault.primary-misbehaves",
    "vault.window-failed",
];

/// What a person or the schedule asks of a window.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Shorter than the configuration says, in seconds.
    pub max_seconds: Option<u32>,
    /// What two officers approved: its seconds and bytes are the window's, whatever the day has used up. The
    /// gate's own budget still holds.
    pub granted: Option<Grant>,
}

/// One finished window.
#[derive(Debug, Clone, Serialize)]
pub struct Finished {
    /// Its number.
    pub window: WindowId,
    /// `pull` or `restore`.
    pub purpose: Purpose,
    /// Seconds from the opening command to the closing one, by the vault's own clock.
    pub seconds: f64,
    /// The gate's record; none without a gate.
    pub record: Option<WindowRecord>,
    /// Seen closed. Never true without a gate.
    pub closed_verified: bool,
    /// What may be said about "offline", in one sentence.
    pub claim: String,
    /// Bytes that were taken or sent.
    pub bytes: u64,
    /// What two officers approved for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted: Option<Grant>,
    /// What was pulled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pulled: Option<Pulled>,
    /// What was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<crate::restore::Sent>,
    /// Why the work in the window ended early, if it did.
    pub why: Option<String>,
}

/// The sentence of a vault without a gate.
const NO_GATE: &str = "there is no gate: this store is NOT offline";

impl Vault {
    /// A pull window: open, pull, close, see it closed. Then, with the gate closed: proof and retention.
    ///
    /// # Errors
    /// [`Error::Preflight`]; gate, register and log errors. A window that could not be seen closed is no error
    /// here but `closed_verified: false` and an alarm.
    pub fn pull(&self, options: &Options, cancel: &Cancel) -> Result<(Finished, Work)> {
        let seconds = self.preflight(options)?;
        let stop = Stop::default();
        let number = self.register.next_window(self.gate_last()?)?;
        // Everything that takes time is done before the gate opens.
        let mut pull = Pull::prepare(
            &self.folder,
            &self.register,
            &self.config,
            self.clock.clone(),
            Some(number.0),
            &stop,
        )?;
        if let Some(window) = options.granted.as_ref().and_then(|granted| granted.window) {
            pull = pull.at_most(window.bytes);
        }
        let primary = meet(&self.config.primary, &self.config.limits)?;
        let report = self.report_delivery()?;
        let puller = &self.config.puller;
        let mut pulled = None;
        let mut documents = None;
        let finished = self.window(
            number,
            Purpose::Pull,
            &self.config.primary,
            seconds,
            options,
            &stop,
            cancel,
            &mut || {
                let sources = || {
                    let process = Process::start(puller, &primary, self.config.limits, self.clock.clone())?;
                    stop.watch(&process.killer());
                    Ok(Box::new(process) as Box<dyn Source>)
                };
                let done = std::thread::scope(|scope| {
                    let delivery = report.as_ref().map(|report| scope.spawn(|| self.deliver(report, &stop)));
                    let done = pull.run(puller.processes, &sources);
                    if let Some(delivery) = delivery
                        && let Ok(Err(error)) = delivery.join()
                    {
                        tracing::warn!(
                            error = kuramori_model::fault::chain(&error),
                            "the report was not delivered"
                        );
                    }
                    done
                })?;
                if self.config.vault.witness.is_some() && !stop.draining() {
                    let fetched = sources().and_then(|mut source| self.fetch_checkpoints(&mut *source));
                    documents = fetched
                        .map_err(|error| {
                            tracing::warn!(
                                error = kuramori_model::fault::chain(&error),
                                "the server's checkpoints did not come"
                            );
                        })
                        .ok();
                }
                let bytes = done.bytes;
                pulled = Some(done);
                Ok(bytes)
            },
        )?;
        let mut finished = finished;
        self.take_checkpoints(&documents.unwrap_or_default())?;
        if let Some(pulled) = &pulled {
            self.settle_pull(pulled)?;
        }
        finished.pulled = pulled;
        self.finish(&finished)?;
        let work = self.work(cancel)?;
        self.write_report()?;
        Ok((finished, work))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.config.gate.as_ref().map_or(0, |gate| gate.patience_s))
    }

    pub(crate) fn gate_last(&self) -> Result<u64> {
        Ok(match &self.gate {
            Some(gate) => gate.status()?.last_window.0,
            None => 0,
        })
    }

    /// Opens, runs `work` under a watcher, closes and waits for the proof of it.
    #[expect(clippy::too_many_arguments, reason = "the one place where a window happens")]
    pub(crate) fn window(
        &self,
        number: WindowId,
        purpose: Purpose,
        peer: &Peer,
        seconds: u32,
        options: &Options,
        stop: &Stop,
        cancel: &Cancel,
        work: &mut dyn FnMut() -> Result<u64>,
    ) -> Result<Finished> {
        let now = self.register.tick(&*self.clock)?;
        let kind = if purpose == Purpose::Pull { "pull" } else { "restore" };
        let entry = serde_json::json!({
            "window": number, "purpose": purpose, "peer": peer.address, "max_seconds": seconds,
            "granted": options.granted,
        });
        // No log, no open.
        self.note("window.opening", &entry)?;
        self.register.opening(number, kind, &now)?;
        let begin = self.clock.boot();
        let opened = match &self.gate {
            Some(gate) => {
                let granted = options.granted.as_ref().and_then(|granted| granted.window);
                let bytes = granted.map_or(self.config.window.max_bytes.0, |window| window.bytes);
                self.open_gate(gate, number, purpose, peer.address, seconds, bytes)
            }
            None => Ok(()),
        };
        let outcome = opened.and_then(|()| self.watched(seconds, stop, cancel, work));
        // Whatever happened: close. A second close costs nothing.
        stop.abort();
        let (seconds, record, verified, claim) = match &self.gate {
            None => (self.clock.boot().saturating_sub(begin).as_secs_f64(), None, false, NO_GATE.to_owned()),
            Some(gate) => {
                let reason = if outcome.is_ok() { "done" } else { "the work ended early" };
                if let Err(error) = gate.close(reason) {
                    tracing::error!(
                        error = kuramori_model::fault::chain(&error),
                        "the gate did not take the close"
                    );
                }
                let seconds = self.clock.boot().saturating_sub(begin).as_secs_f64();
                let (record, verified, claim) = self.see_closed(gate, number);
                (seconds, record, verified, claim)
            }
        };
        let finished = Finished {
            window: number,
            purpose,
            seconds: record.as_ref().map_or(seconds, |record| record.exposure.commanded_s),
            record,
            closed_verified: verified,
            claim,
            bytes: *outcome.as_ref().unwrap_or(&0),
            granted: options.granted.clone(),
            pulled: None,
            sent: None,
            why: outcome.as_ref().err().map(|error| kuramori_model::fault::chain(error)),
        };
        // Durable at once; what was pulled is added by `finish`.
        self.finish(&finished)?;
        let now = self.register.tick(&*self.clock)?;
        let mut findings = Vec::new();
        if self.gate.is_some() && !verified {
            let alarm = Finding::new("vault.window-not-verified", Severity::Alarm, "look-at-gate");
            findings.push(alarm.with("window", Value::Number(i64::try_from(number.0).unwrap_or(i64::MAX))));
        }
        if finished.record.as_ref().is_some_and(|record| record.disagreement) {
            let alarm = Finding::new("vault.exposure-disagrees", Severity::Alarm, "look-at-gate");
            findings.push(alarm.with("window", Value::Number(i64::try_from(number.0).unwrap_or(i64::MAX))));
        }
        // Whatever ended the work early is heard: a window that brings nothing each night must not be silent.
        if let Err(error) = &outcome {
            let (code, action) = match error {
                Error::GateRefused { .. } | Error::Gate { .. } => ("vault.gate-failed", "look-at-gate"),
                Error::Network(_) | Error::Refused(_) => ("vault.primary-unreachable", "check-primary"),
                Error::Misbehaved(_) => ("vault.primary-misbehaves", "check-primary"),
                _ => ("vault.window-failed", "look-at-vault"),
            };
            let alarm = Finding::new(code, Severity::Alarm, action);
            findings.push(alarm.with("why", kuramori_model::fault::chain(error)));
        }
        self.settle(&OF_A_WINDOW, &findings, &now)?;
        self.note("window.closed", &finished)?;
        match outcome {
            Err(
                error @ (Error::GateRefused { .. } | Error::Gate { .. } | Error::Register(_) | Error::Log(_)),
            ) => Err(error),
            _ => Ok(finished),
        }
    }

    pub(crate) fn finish(&self, finished: &Finished) -> Result<()> {
        let record = serde_json::to_value(finished).unwrap_or_default();
        self.register.closed(
            finished.window,
            finished.seconds,
            finished.bytes,
            finished.closed_verified,
            &record,
        )
    }
}
