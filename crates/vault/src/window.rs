//! Windows: may one open now, open it, do the work, close it, and see it closed.
//!
//! Before: the gate must be *seen* closed, the day's seconds must suffice, there must be room, the log must
//! take the entry; then, and only then, the vault signs a token for one flow. While it is open a watcher looks
//! at clock and gate: near the deadline nothing new is started, at the deadline, or as soon as the gate is
//! anything but open, every puller is killed. After: close, wait for `closed_verified`, keep the gate's record
//! with its three exposures. What cannot be seen closed is an alarm.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use kuramori_model::{
    finding::{Finding, Severity, Value},
    gate::{Nonce, Purpose, SignedToken, WindowRecord, WindowToken},
    ids::WindowId,
};
use kuramori_repo::Cancel;
use serde::Serialize;

use crate::{
    config::Peer,
    error::{Error, Result},
    gate::{Gate, is_open, is_opening},
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

/// What a person or the schedule asks of a window.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Longer or shorter than the configuration says, in seconds; longer only with `approved_by`.
    pub max_seconds: Option<u32>,
    /// An approved seeding window: who said so. The gate's own budget still holds.
    pub approved_by: Option<String>,
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
    /// Whether a window may open now, and for how many seconds at most.
    ///
    /// # Errors
    /// [`Error::Preflight`] with the reason.
    pub fn preflight(&self, options: &Options) -> Result<u32> {
        self.settle_pending()?;
        let now = self.register.tick(&*self.clock)?;
        let window = &self.config.window;
        let used = self.register.used_today(&now, f64::from(window.max_seconds))?;
        let gate_used = match &self.gate {
            None => 0.0,
            Some(gate) => {
                let status = gate.status()?;
                if !matches!(status.gate, kuramori_model::gate::GateState::ClosedVerified { .. }) {
                    return Err(Error::Preflight(format!(
                        "the gate is `{}`, not seen closed",
                        status.gate.name()
                    )));
                }
                status.used_today_s
            }
        };
        let wanted = match (options.max_seconds, &options.approved_by) {
            (Some(seconds), Some(_)) => seconds,
            (Some(seconds), None) => seconds.min(window.max_seconds),
            (None, _) => window.max_seconds,
        };
        let left = if options.approved_by.is_some() {
            u64::from(wanted)
        } else {
            let used = Duration::try_from_secs_f64(used.max(gate_used)).unwrap_or(Duration::MAX);
            window
                .daily_budget_s
                .saturating_sub(used.as_secs().saturating_add(u64::from(used.subsec_nanos() > 0)))
        };
        if left < SHORTEST {
            return Err(Error::Preflight(format!("the day's {} s are used up", window.daily_budget_s)));
        }
        let free = self.folder.free()?;
        if free < window.keep_free.0 {
            let free = kuramori_model::units::Bytes(free);
            return Err(Error::Preflight(format!(
                "only {free} are free in the vault, {} must be",
                window.keep_free
            )));
        }
        Ok(u32::try_from(left).unwrap_or(u32::MAX).min(wanted))
    }

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
        let primary = meet(&self.config.primary, &self.config.limits)?;
        let report = self.report_delivery()?;
        let puller = &self.config.puller;
        let mut pulled = None;
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
                let bytes = done.bytes;
                pulled = Some(done);
                Ok(bytes)
            },
        )?;
        let mut finished = finished;
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
            "approved_by": options.approved_by,
        });
        // No log, no open.
        self.note("window.opening", &entry)?;
        self.register.opening(number, kind, &now)?;
        let begin = self.clock.boot();
        let opened = match &self.gate {
            Some(gate) => self.open_gate(gate, number, purpose, peer.address, seconds),
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
        let opened = outcome
            .as_ref()
            .err()
            .filter(|error| matches!(error, Error::GateRefused { .. } | Error::Gate { .. }));
        if let Some(error) = opened {
            let alarm = Finding::new("vault.gate-failed", Severity::Alarm, "look-at-gate");
            findings.push(alarm.with("why", kuramori_model::fault::chain(error)));
        }
        if let Some(Error::Network(why) | Error::Refused(why)) = outcome.as_ref().err() {
            let alarm = Finding::new("vault.primary-unreachable", Severity::Alarm, "check-primary");
            findings.push(alarm.with("why", why.as_str()));
        }
        self.settle(
            &[
                "vault.window-not-verified",
                "vault.exposure-disagrees",
                "vault.gate-failed",
                "vault.primary-unreachable",
            ],
            &findings,
            &now,
        )?;
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

    fn open_gate(
        &self,
        gate: &Gate,
        number: WindowId,
        purpose: Purpose,
        peer: SocketAddrV4,
        seconds: u32,
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
            max_bytes: self.config.window.max_bytes.0,
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

    /// Runs the work; a watcher ends it in time.
    fn watched(
        &self,
        seconds: u32,
        stop: &Stop,
        cancel: &Cancel,
        work: &mut dyn FnMut() -> Result<u64>,
    ) -> Result<u64> {
        let begin = self.clock.boot();
        let deadline = begin + Duration::from_secs(u64::from(seconds));
        let drain = deadline.saturating_sub(Duration::from_secs(
            u64::from(self.config.window.drain_s).min(u64::from(seconds) / 4),
        ));
        let done = AtomicBool::new(false);
        let why = std::sync::Mutex::new(None);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut asked = begin;
                let mut drained = false;
                while !done.load(Ordering::SeqCst) {
                    let now = self.clock.boot();
                    let end = |text: String| {
                        crate::pull::lock(&why).get_or_insert(text);
                        stop.abort();
                    };
                    if cancel.is_cancelled() {
                        end("somebody asked for it".to_owned());
                    } else if now >= deadline {
                        end("its seconds are used up".to_owned());
                    } else if now >= drain && !drained {
                        drained = true;
                        stop.drain();
                        if let Some(gate) = &self.gate {
                            let _ = gate.drain();
                        }
                    }
                    if now >= asked + Duration::from_millis(400)
                        && let Some(gate) = &self.gate
                    {
                        asked = now;
                        match gate.status() {
                            Ok(status) if is_open(&status.gate) => {}
                            Ok(status) => end(format!("the gate went to `{}`", status.gate.name())),
                            Err(error) => end(kuramori_model::fault::chain(&error)),
                        }
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            let outcome = work();
            done.store(true, Ordering::SeqCst);
            outcome
        });
        match (outcome, crate::pull::lock(&why).take()) {
            (Ok(bytes), None) => Ok(bytes),
            (Ok(bytes), Some(text)) => {
                tracing::warn!(text, "the window ended before its work");
                Ok(bytes)
            }
            (Err(_), Some(text)) => Err(Error::WindowOver(text)),
            (Err(error), None) => Err(error),
        }
    }

    /// Waits until the gate is seen closed, and takes its record of the window.
    fn see_closed(&self, gate: &Gate, number: WindowId) -> (Option<WindowRecord>, bool, String) {
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

    /// Windows whose end this process did not see, because it was killed: the gate's history knows.
    fn settle_pending(&self) -> Result<()> {
        for row in self.register.windows(20)?.into_iter().filter(|row| row.verified.is_none()) {
            let (record, verified) = match &self.gate {
                None => (None, false),
                Some(gate) => {
                    let record = gate.history(200)?.into_iter().find(|record| record.window == row.window);
                    let verified = record.as_ref().is_some_and(|record| record.closed_verified)
                        || (record.is_none() && gate.status()?.gate.is_verified_closed());
                    (record, verified)
                }
            };
            let seconds = record
                .as_ref()
                .map_or(f64::from(self.config.window.max_seconds), |record| record.exposure.commanded_s);
            let kept = serde_json::json!({ "interrupted": true, "record": record });
            self.register.closed(row.window, seconds, row.bytes, verified, &kept)?;
            self.note(
                "window.interrupted",
                &serde_json::json!({ "window": row.window, "verified": verified }),
            )?;
        }
        Ok(())
    }
}
