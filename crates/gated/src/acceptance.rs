//! `--acceptance`: tries one layer on the very device that it stands on, with its process killed and frozen.
//!
//! Every other layer is commanded closed first and stays so. What the device says is compared with a witness
//! that the device does not speak for: for a switch port or power outlet the carrier of the guarded
//! interface, which the kernel reads from the wire. A dead-man counts only if the layer closed by itself
//! both after SIGKILL and after SIGSTOP of the process that renewed it.
//!
//! The record lies in `<state_dir>/acceptance/<layer>.json` and is read when the gate starts.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use kuramori_gate::{Actuator, Lease, driver::nft::Nft, ledger::Memory};
use kuramori_model::{
    clock::{Clock, SystemClock},
    fault::chain,
    gate::{
        Layer, LayerState,
        acceptance::{Acceptance, Finding, Outcome, Trial},
    },
};

use crate::config::Config;

/// The device answers again after a restart within this time.
const RESTART: Duration = Duration::from_mins(10);
/// After a restart it must stay closed for this long.
const STAYS: Duration = Duration::from_secs(5);

/// What to try.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) layer: Layer,
    /// Restarts the device; without it that trial is not made.
    pub(crate) reboot: Option<String>,
    /// How long a dead-man may take.
    pub(crate) patience: Duration,
    /// A switch may take some seconds until its port is really down or up.
    pub(crate) settle: Duration,
}

struct Bench<'a> {
    wanted: &'a Wanted,
    config_path: &'a Path,
    layer: Box<dyn Actuator>,
    witness: Option<PathBuf>,
    findings: Vec<Finding>,
    /// Longer than a lease.
    longer: Duration,
    /// The device read closed while the witness still saw it open.
    ahead: Option<String>,
}

/// Tries, prints the record, keeps it.
#[expect(clippy::print_stdout, reason = "the answer to a command")]
pub(crate) fn accept(config: &Config, config_path: &Path, wanted: &Wanted) -> anyhow::Result<ExitCode> {
    // While a gate runs on these layers it must not be disturbed, nor may it disturb.
    let _alone = super::alone(&config.state_dir)?;
    not_locked(config)?;
    let (mut layer, mut link) = (None, None);
    for mut one in config.layers() {
        if let Err(error) = one.close() {
            tracing::warn!(layer = %one.layer(), error = chain(&error), "closing");
        }
        if one.layer() == wanted.layer {
            layer = Some(one);
        } else if one.layer() == Layer::B && wanted.layer.is_outer() {
            // The carrier is the witness, and a link that is down shows none. Layer A stays closed.
            one.open(&lease(config)?)?;
            link = Some(one);
        }
    }
    let mut layer = layer.with_context(|| format!("no layer {} is configured", wanted.layer))?;
    layer.expect(&lease(config)?);
    let filter = &config.packet_filter;
    let carrier = filter.sys_class_net.join(filter.outside.as_str()).join("carrier");
    // The carrier stays when a switch forgets a flow.
    let flows_only = wanted.layer == Layer::C && config.openflow.is_some();
    let witness = (wanted.layer.is_outer() && !flows_only).then_some(carrier);
    let lease = Duration::from_secs(config.ttl_seconds.into()).max(layer.deadman().unwrap_or_default());
    let longer = lease + Duration::from_secs(1);
    let mut bench = Bench { wanted, config_path, layer, witness, findings: Vec::new(), longer, ahead: None };
    let dead_man_s = bench.run();
    // Whatever happened before: closed at the end.
    let failed = |one: &Finding| one.trial == Trial::Closes && one.outcome == Outcome::Failed;
    if bench.findings.iter().any(failed) {
        // It was waited for already.
        let _ = bench.layer.close();
    } else if let Err(seen) = bench.order() {
        bench.note(Trial::Closes, Outcome::Failed, None, format!("at the end: {seen}"));
    }
    if let Some(Err(error)) = link.map(|mut link| link.close()) {
        tracing::warn!(error = chain(&error), "closing the link");
    }
    let record = Acceptance {
        layer: wanted.layer,
        source: bench.layer.source(),
        bound_to: config.bound_to(wanted.layer),
        at: SystemClock.now(),
        witness: bench.witness.as_ref().map(|path| path.display().to_string()),
        findings: bench.findings,
        dead_man_s,
    };
    let folder = config.state_dir.join("acceptance");
    fs_err::create_dir_all(&folder)?;
    let text = serde_json::to_string_pretty(&record)?;
    let (path, early) = (folder.join(format!("{}.json", wanted.layer)), folder.join("new"));
    fs_err::write(&early, &text)?;
    fs_err::rename(&early, &path)?;
    println!("{text}");
    Ok(if record.passed() { ExitCode::SUCCESS } else { ExitCode::from(4) })
}

/// The layers whose dead-man was shown on what is configured now.
pub(crate) fn shown(config: &Config) -> Vec<Layer> {
    let shown = |layer: &Layer| {
        let path = config.state_dir.join("acceptance").join(format!("{layer}.json"));
        let text = fs_err::read_to_string(path).ok()?;
        let record: Acceptance = serde_json::from_str(&text).ok()?;
        (record.layer == *layer && record.shows_dead_man(&config.bound_to(*layer))).then_some(())
    };
    [Layer::A, Layer::B, Layer::C, Layer::D].into_iter().filter(|layer| shown(layer).is_some()).collect()
}

/// `--hold`: opens one layer and renews it until somebody kills or freezes this process. It closes and ends
/// when standard input does, so with the process that began the test, and after ten minutes.
#[expect(clippy::print_stdout, reason = "the caller waits for this line")]
pub(crate) fn hold(config: &Config, wanted: Layer) -> anyhow::Result<ExitCode> {
    not_locked(config)?;
    let mut layer = config.layers().into_iter().find(|one| one.layer() == wanted).context("no such layer")?;
    let lease = lease(config)?;
    // A switch that watches this host by ping is answered as long as a lease lives, here: this process.
    let filter = Nft::new(config.packet_filter.clone(), config.ttl_seconds);
    let watched = wanted == Layer::C && config.packet_filter.ping_poll.is_some();
    let answer = || if watched { filter.answer_ping() } else { Ok(()) };
    answer()?;
    // A layer without a lease is told to renew all the same: a switch may watch this host by ping.
    let pause = config.renew_ms(if watched { Layer::A } else { wanted }, layer.deadman().unwrap_or_default());
    layer.open(&lease)?;
    println!("open");
    let gone = Arc::new(AtomicBool::new(false));
    let ended = gone.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        ended.store(true, Ordering::SeqCst);
    });
    let until = SystemClock.boot() + Duration::from_secs(lease.window_s.into());
    loop {
        if gone.load(Ordering::SeqCst) || SystemClock.boot() >= until {
            layer.close()?;
            return Ok(ExitCode::SUCCESS);
        }
        SystemClock.sleep(Duration::from_millis(pause));
        answer()?;
        layer.renew(&lease)?;
    }
}

/// A locked gate opens nothing, not even one layer for a test.
fn not_locked(config: &Config) -> anyhow::Result<()> {
    match Memory::read(&config.state_dir.join("gate.jsonl")).latch {
        None => Ok(()),
        Some(latch) => bail!("the gate is locked ({}): officers release it first", latch.reason),
    }
}

/// The first configured flow, for ten minutes: only the layer under test is open, so nothing passes.
fn lease(config: &Config) -> anyhow::Result<Lease> {
    let flow = config.flow.first().context("no `[[flow]]` is configured")?;
    Ok(Lease { source: flow.source, peer: flow.peer, window_s: 600, ttl_s: config.ttl_seconds })
}

impl Bench<'_> {
    fn note(&mut self, trial: Trial, outcome: Outcome, seconds: Option<f64>, seen: String) {
        tracing::info!(?trial, ?outcome, seconds, seen, "acceptance");
        self.findings.push(Finding { trial, outcome, seconds, seen });
    }

    /// True: a carrier. None: nobody can tell.
    fn witness(&self) -> Option<bool> {
        let text = fs_err::read_to_string(self.witness.as_ref()?).ok()?;
        match text.trim() {
            "1" => Some(true),
            "0" => Some(false),
            _ => None,
        }
    }

    /// Reads until the layer says `wanted` and the witness does not disagree.
    fn settle(&mut self, wanted: LayerState, limit: Duration) -> Result<f64, String> {
        let start = SystemClock.boot();
        loop {
            // The witness first: what it sees after the device's word may be newer than that word.
            let seen = self.witness();
            let reading = self.layer.observe();
            if reading.state == LayerState::Closed && seen == Some(true) && self.witness() == Some(true) {
                self.ahead = Some(reading.detail.clone());
            }
            let agrees = match self.witness() {
                Some(up) => up == (wanted == LayerState::Open),
                None => self.witness.is_none(),
            };
            let passed = SystemClock.boot().saturating_sub(start);
            if reading.state == wanted && agrees {
                return Ok(passed.as_secs_f64());
            }
            if passed > limit {
                let witness = self.witness();
                return Err(format!("{:?}: {}, carrier {witness:?}", reading.state, reading.detail));
            }
            SystemClock.sleep(Duration::from_millis(100));
        }
    }

    /// Orders closed and waits for the effect. Only a holder opens.
    fn order(&mut self) -> Result<f64, String> {
        let done = self.layer.close().map_err(|error| chain(&error));
        let settled = self.settle(LayerState::Closed, self.wanted.settle);
        done.and(settled)
    }

    fn run(&mut self) -> Option<f64> {
        // A port that was just shut may take a moment to say so.
        let start = SystemClock.boot();
        let mut reading = self.layer.observe();
        while reading.state == LayerState::Unknown
            && SystemClock.boot().saturating_sub(start) < self.wanted.settle
        {
            SystemClock.sleep(Duration::from_millis(200));
            reading = self.layer.observe();
        }
        if reading.state == LayerState::Unknown {
            self.note(Trial::Reads, Outcome::Failed, None, reading.detail);
            return None;
        }
        self.note(Trial::Reads, Outcome::Passed, None, reading.detail);
        match self.order() {
            Ok(seconds) => self.note(Trial::Closes, Outcome::Passed, Some(seconds), "closed".to_owned()),
            Err(seen) => {
                self.note(Trial::Closes, Outcome::Failed, None, seen);
                return None;
            }
        }
        let killed = self.dead_man(Trial::Killed, "-KILL");
        let frozen = killed.is_some().then(|| self.dead_man(Trial::Frozen, "-STOP")).flatten();
        if killed.is_none() && self.findings.iter().any(|one| one.trial == Trial::Opens) {
            self.note(Trial::Frozen, Outcome::Absent, None, "it does not close when killed".to_owned());
        }
        match self.ahead.take() {
            Some(seen) => self.note(Trial::StatusIsNotAhead, Outcome::Failed, None, seen),
            None if self.witness.is_some() => {
                let seen = "never closed in words before it was closed on the wire".to_owned();
                self.note(Trial::StatusIsNotAhead, Outcome::Passed, None, seen);
            }
            None => {
                let seen = "this layer has no witness but its own read-back".to_owned();
                self.note(Trial::StatusIsNotAhead, Outcome::NotTried, None, seen);
            }
        }
        self.reboot();
        Some(killed?.max(frozen?))
    }

    /// Seconds until the layer closed by itself after the signal; none if it did not.
    fn dead_man(&mut self, trial: Trial, signal: &str) -> Option<f64> {
        let first = !self.findings.iter().any(|one| one.trial == Trial::Opens);
        let holder = match self.holder() {
            Ok(holder) => holder,
            Err(error) => {
                self.note(Trial::Opens, Outcome::Failed, None, format!("{error:#}"));
                return None;
            }
        };
        match self.settle(LayerState::Open, self.wanted.settle) {
            Ok(seconds) if first => {
                self.note(Trial::Opens, Outcome::Passed, Some(seconds), "open".to_owned());
            }
            Ok(_) => {}
            Err(seen) => {
                self.note(Trial::Opens, Outcome::Failed, None, seen);
                return None;
            }
        }
        // It stays open while it is renewed: a device that closes at any rate has no dead-man to test.
        SystemClock.sleep(self.longer);
        if self.layer.observe().state != LayerState::Open {
            self.note(trial, Outcome::Failed, None, "it closed although it was renewed".to_owned());
            return None;
        }
        let done = Command::new("kill").args([signal, &holder.0.id().to_string()]).status();
        if !done.is_ok_and(|status| status.success()) {
            self.note(trial, Outcome::NotTried, None, "the holder could not be signalled".to_owned());
            return None;
        }
        let closed = self.settle(LayerState::Closed, self.wanted.patience);
        drop(holder);
        let closed_again = self.order();
        match (closed, closed_again) {
            (_, Err(seen)) => {
                self.note(Trial::Closes, Outcome::Failed, None, seen);
                None
            }
            (Ok(seconds), Ok(_)) => {
                self.note(trial, Outcome::Passed, Some(seconds), "closed by itself".to_owned());
                Some(seconds)
            }
            (Err(seen), Ok(_)) => {
                let patience = self.wanted.patience.as_secs();
                self.note(trial, Outcome::Absent, None, format!("still open after {patience} s: {seen}"));
                None
            }
        }
    }

    fn holder(&self) -> anyhow::Result<Holder> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--hold", &self.wanted.layer.to_string(), "--config"])
            .arg(self.config_path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let read = child.stdout.take().map(|pipe| BufReader::new(pipe).read_line(&mut line));
        let holder = Holder(child);
        ensure!(matches!(read, Some(Ok(_))), "the holder says nothing");
        ensure!(line.trim() == "open", "the holder could not open the layer");
        Ok(holder)
    }

    fn reboot(&mut self) {
        let Some(command) = &self.wanted.reboot else {
            let seen = "no `--reboot-command` was given".to_owned();
            return self.note(Trial::Rebooted, Outcome::NotTried, None, seen);
        };
        if let Err(error) = restart(command) {
            return self.note(Trial::Rebooted, Outcome::NotTried, None, format!("{error:#}"));
        }
        let (start, mut closed_since) = (SystemClock.boot(), None);
        loop {
            let reading = self.layer.observe();
            let now = SystemClock.boot();
            let passed = now.saturating_sub(start);
            // It was closed before: whatever opens it now is the restart.
            if reading.state == LayerState::Open || self.witness() == Some(true) {
                return self.note(
                    Trial::Rebooted,
                    Outcome::Failed,
                    None,
                    format!("open: {}", reading.detail),
                );
            }
            if reading.state == LayerState::Closed {
                let since = *closed_since.get_or_insert(now);
                if now.saturating_sub(since) >= STAYS {
                    let seconds = since.saturating_sub(start).as_secs_f64();
                    let seen = "closed from its first answer on".to_owned();
                    return self.note(Trial::Rebooted, Outcome::Passed, Some(seconds), seen);
                }
            } else {
                closed_since = None;
            }
            if passed > RESTART {
                return self.note(Trial::Rebooted, Outcome::Failed, None, reading.detail);
            }
            SystemClock.sleep(Duration::from_millis(100));
        }
    }
}

fn restart(command: &str) -> anyhow::Result<()> {
    let done =
        Command::new("sh").args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if done.success() { Ok(()) } else { bail!("the command that restarts the device failed: {done}") }
}

/// Ends with its owner.
#[derive(Debug)]
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
