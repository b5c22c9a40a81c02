//! Runs the pure machine against real layers: one thread decides, one thread per layer acts, one writes the
//! log, one the latch. Nothing that can hang (a tool, a switch, a disk) can keep the deciding thread from closing.
//!
//! The first thing that happens is the closing command to every layer; reading the log comes after that and
//! cannot hold it up.
//!
//! Each layer has a mailbox in which a closing command removes every opening or renewing command that still
//! waits, and an opening or renewing command that is done too late is not done at all.
//!
//! An order to lock closes at once and is answered only when its latch is on the disk: whoever has the answer
//! may rely on the lock over any restart. A log that hangs or is full does not hold up the latch.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use kuramori_model::{
    clock::Clock,
    fault::{Fault, chain},
    gate::{GateState, Layer, LayerObservation, Reply, Request, WindowRecord},
    ids::WindowId,
};

use crate::{
    actuator::Actuator,
    fault::Refusal,
    latch,
    latch::Block,
    ledger::{Ledger, Line, Memory},
    machine::{Action, Command, Entry, Event, Gate, Kind, Latch, Policy, What, transition},
};

/// Time passes at least this often.
const TICK: Duration = Duration::from_millis(50);
/// The most windows that `history` gives.
const HISTORY: usize = 200;

/// What reaches the deciding thread.
#[derive(Debug)]
pub enum Input {
    /// Something happened.
    Event(What),
    /// Somebody asks; the answer goes to the channel.
    Ask(Request, Sender<Reply>),
    /// What log and latch remember.
    Remembered(Box<Memory>),
    /// End: close, prove it, return.
    Stop,
}

/// A line for the log, and the window that waits for it.
type Written = (Line, Option<WindowId>);

/// A block for the latch's file, and whom to tell what when it is on the disk.
type Kept = (Block, Option<(Sender<Reply>, Reply)>);

/// The running gate.
#[derive(Debug)]
pub struct Keeper {
    policy: Policy,
    clock: Arc<dyn Clock>,
    gate: Gate,
    memory: Memory,
    started: u64,
    boxes: BTreeMap<Layer, Arc<Mailbox>>,
    log: Sender<Written>,
    /// The log's thread, before it is started.
    lines: Option<(Receiver<Written>, Sender<Input>)>,
    latch: Sender<Kept>,
    /// The latch's thread, before it is started.
    blocks: Option<Receiver<Kept>>,
    input: Receiver<Input>,
}

fn milliseconds(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.boot().as_millis()).unwrap_or(u64::MAX)
}

impl Keeper {
    /// Starts the threads of the layers, each with a closing command. `input` is the other end of `sender`.
    pub fn new(
        policy: Policy,
        clock: Arc<dyn Clock>,
        layers: Vec<Box<dyn Actuator>>,
        (sender, input): (Sender<Input>, Receiver<Input>),
    ) -> Self {
        let mut boxes = BTreeMap::new();
        for actuator in layers {
            let mailbox = Arc::new(Mailbox::default());
            mailbox.push(Command::Close);
            boxes.insert(actuator.layer(), mailbox.clone());
            let (clock, sender) = (clock.clone(), sender.clone());
            std::thread::spawn(move || serve(actuator, &mailbox, &*clock, &sender));
        }
        let (log, lines) = crossbeam_channel::bounded::<Written>(1024);
        let (latch, blocks) = crossbeam_channel::bounded::<Kept>(64);
        let (gate, memory, started) = (Gate::default(), Memory::default(), milliseconds(&*clock));
        let (lines, blocks) = (Some((lines, sender)), Some(blocks));
        Self { policy, clock, gate, memory, started, boxes, log, lines, latch, blocks, input }
    }

    /// Further layers whose dead-man was shown by an acceptance test.
    pub fn tested(&mut self, layers: Vec<Layer>) {
        self.policy.dead_man_tested.extend(layers);
        self.policy.dead_man_tested.sort_unstable();
        self.policy.dead_man_tested.dedup();
    }

    /// Starts the threads of log and latch: each reads what is there, then writes. Without this the gate only
    /// closes.
    pub fn remember(&mut self, path: PathBuf) {
        let (Some((lines, sender)), Some(blocks)) = (self.lines.take(), self.blocks.take()) else { return };
        let beside = latch::beside(&path);
        let (read, first) = crossbeam_channel::bounded(1);
        std::thread::spawn(move || {
            // Before anything is written there: what it said is not lost.
            let _ = read.send(latch::read(&beside));
            if let Err(error) = latch::reserve(&beside) {
                tracing::error!(%error, "no room for the latch");
            }
            for (block, caller) in blocks {
                let kept = latch::write(&beside, &block);
                if let Err(error) = &kept {
                    tracing::error!(%error, "the latch cannot be written");
                }
                if let Some((caller, reply)) = caller {
                    let not = |error: std::io::Error| refused(&Refusal::NotKept(error.to_string()));
                    let _ = caller.send(kept.map_or_else(not, |()| reply));
                }
            }
        });
        std::thread::spawn(move || {
            let latch = first.recv().unwrap_or_else(|gone| Err(std::io::Error::other(gone)));
            let memory = Memory::of(&path, latch);
            if sender.send(Input::Remembered(Box::new(memory))).is_err() {
                return;
            }
            let mut ledger = Ledger::new(path);
            for (line, window) in lines {
                let result = ledger.append(line).map_err(|error| error.to_string());
                if let Err(error) = &result {
                    tracing::error!(%error, "the gate's log cannot be written");
                }
                if let Some(window) = window {
                    let _ = sender.send(Input::Event(What::Logged(window, result)));
                }
            }
        });
    }

    /// Seals, then serves until [`Input::Stop`]; then closes and returns whether closed is proven.
    pub fn run(mut self) -> bool {
        let mut next_tick = self.clock.boot() + TICK;
        let mut stopping: Option<Duration> = None;
        loop {
            let wait = next_tick.saturating_sub(self.clock.boot());
            match self.input.recv_timeout(wait) {
                Ok(Input::Event(what)) => {
                    self.step(what);
                }
                Ok(Input::Ask(Request::Lockdown { reason }, caller)) => self.lock(reason, caller),
                Ok(Input::Ask(request, reply)) => {
                    let answer = self.answer(request);
                    let _ = reply.send(answer);
                }
                Ok(Input::Remembered(memory)) => self.start(*memory),
                Ok(Input::Stop) => {
                    self.step(What::Close(kuramori_model::gate::CloseReason::Stopped {}));
                    stopping = Some(self.clock.boot());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            let now = self.clock.boot();
            if now >= next_tick {
                self.step(What::Tick);
                next_tick = now + TICK;
            }
            if let Some(since) = stopping {
                let proven = self.gate.phase.is_verified_closed();
                // Enough for the switch's port to settle; the kernel's lease is gone long before.
                let limit = Duration::from_millis(self.policy.verify_ms + 1000);
                if proven || now.saturating_sub(since) > limit {
                    self.end_log();
                    return proven;
                }
            }
        }
    }

    /// A log that cannot be read keeps nothing from closing; but used windows are not known, so nothing opens.
    fn start(&mut self, memory: Memory) {
        self.memory = memory;
        if let Some(error) = &self.memory.missing {
            tracing::error!(%error, "the gate's log cannot be read: sealing, and opening nothing");
            self.policy.flows.clear();
        }
        if self.memory.unreadable > 0 {
            tracing::error!(lines = self.memory.unreadable, "the gate's log has damaged lines");
        }
        self.step(self.memory.start());
    }

    fn end_log(&mut self) {
        let (empty, _) = crossbeam_channel::bounded(0);
        drop(std::mem::replace(&mut self.log, empty));
        // The log's thread ends when it has written all; a moment is enough, and a dead disk must not hold us.
        self.clock.sleep(Duration::from_millis(50));
    }

    fn step(&mut self, what: What) -> Option<Refusal> {
        let event = Event { at: milliseconds(&*self.clock), wall: self.clock.now(), what };
        let gate = std::mem::take(&mut self.gate);
        let before = gate.phase.name();
        let (gate, actions) = transition(gate, &self.policy, &event);
        self.gate = gate;
        if self.gate.phase.name() != before {
            tracing::info!(from = before, to = self.gate.phase.name(), "gate");
        }
        let mut refusal = None;
        for action in actions {
            match action {
                Action::Command(layer, command) => {
                    if let Some(mailbox) = self.boxes.get(&layer) {
                        mailbox.push(command);
                    }
                }
                Action::Log(entry, window) => self.write(&event, entry, window),
                Action::Accept => {}
                Action::Refuse(why) => refusal = Some(why),
            }
        }
        self.remember_crash();
        refusal
    }

    /// Closes at once; answers when the lock is on the disk, or says that it would not outlive a restart.
    fn lock(&mut self, reason: String, caller: Sender<Reply>) {
        self.step(What::Lockdown(reason));
        let GateState::Lockdown { reason, incident, .. } = self.gate.phase.clone() else { return };
        let latch = Latch { incident, lockdown: true, reason };
        // Also when it was locked before: the first time may have failed.
        let kept = (Block { incident, latch: Some(latch) }, Some((caller, self.status())));
        if let Err(back) = self.latch.try_send(kept)
            && let (_, Some((caller, _))) = back.into_inner()
        {
            let _ = caller.send(refused(&Refusal::NotKept("the disk does not answer".to_owned())));
        }
    }

    fn write(&mut self, event: &Event, entry: Entry, window: Option<WindowId>) {
        if let Entry::Alarm { text } = &entry {
            tracing::warn!(alarm = text, "gate");
        }
        let block = match &entry {
            Entry::Latched(latch) => Some(Block { incident: latch.incident, latch: Some(latch.clone()) }),
            Entry::Released { incident, .. } => Some(Block { incident: *incident, latch: None }),
            _ => None,
        };
        if block.is_some_and(|block| self.latch.try_send((block, None)).is_err()) {
            tracing::error!("the latch takes no more blocks");
        }
        let line = Line { at: event.wall, boot_ms: event.at, boot_id: self.policy.boot_id.clone(), entry };
        // A restarted gate reads the same lines and remembers the same.
        self.memory.take(&line);
        // A log that hangs must not hold us; an acceptance that is not written is not opened.
        if self.log.try_send((line, window)).is_err() {
            tracing::error!("the gate's log takes no more entries");
            if let Some(window) = window {
                self.step(What::Logged(window, Err("the log takes no more entries".to_owned())));
            }
        }
    }

    /// A predecessor died while a window was open: its record is written as soon as the gate is sealed, so
    /// before any other window is taken.
    fn remember_crash(&mut self) {
        let Some((line, _)) = &self.memory.unfinished else { return };
        let mine = line.boot_id == self.policy.boot_id && line.boot_ms >= self.started;
        let at = milliseconds(&*self.clock);
        let proven = self.gate.phase.is_verified_closed();
        if mine || !(proven || at.saturating_sub(self.started) > self.policy.verify_ms) {
            return;
        }
        let wall = self.clock.now();
        let record = self.memory.crashed(&self.policy.boot_id, self.started, wall, proven);
        if let Some(record) = record {
            let event = Event { at, wall, what: What::Tick };
            self.write(&event, Entry::Window { record: Box::new(record) }, None);
        }
    }

    fn used_ms(&self) -> u64 {
        self.memory.used_ms(&self.policy.boot_id, milliseconds(&*self.clock))
    }

    fn answer(&mut self, request: Request) -> Reply {
        let what = match request {
            Request::Status {} => return self.status(),
            Request::History { limit } => {
                let limit = usize::try_from(limit).unwrap_or(HISTORY).min(HISTORY);
                let windows: Vec<WindowRecord> =
                    self.memory.windows.iter().rev().take(limit).cloned().collect();
                return Reply::History { windows };
            }
            Request::Open { token } => What::Open(token, self.used_ms()),
            Request::Drain {} => What::Drain,
            Request::Close { reason } => What::Close(kuramori_model::gate::CloseReason::Asked { reason }),
            // Answered by the latch's thread.
            Request::Lockdown { reason } => What::Lockdown(reason),
            Request::Release { release } => What::Release(release),
        };
        match self.step(what) {
            None => self.status(),
            Some(refusal) => refused(&refusal),
        }
    }

    fn status(&self) -> Reply {
        let at = milliseconds(&*self.clock);
        Reply::Status(Box::new(self.gate.status(&self.policy, at, self.clock.now(), self.used_ms())))
    }

    /// Where the gate is.
    pub const fn phase(&self) -> &GateState {
        &self.gate.phase
    }
}

/// A refusal as it goes over the socket.
pub fn refused(refusal: &Refusal) -> Reply {
    Reply::Refused { code: refusal.code().to_owned(), message: chain(refusal), hint: refusal.hint() }
}

/// Puts a command behind those that a layer has not done yet.
pub fn enqueue(waiting: &mut VecDeque<Command>, command: Command) {
    match command {
        // Nothing that was wanted before matters any more, and an earlier read-back would prove nothing.
        Command::Close => waiting.clear(),
        Command::Observe if waiting.back() == Some(&Command::Observe) => return,
        // A slow layer is not to do the same again for each time that it was asked.
        Command::Open { .. } => waiting.retain(|one| !matches!(one, Command::Open { .. })),
        Command::Renew { .. } => waiting.retain(|one| !matches!(one, Command::Renew { .. })),
        Command::Observe => {}
    }
    waiting.push_back(command);
}

/// One layer's waiting commands.
#[derive(Debug, Default)]
struct Mailbox {
    waiting: Mutex<VecDeque<Command>>,
    filled: Condvar,
}

impl Mailbox {
    fn push(&self, command: Command) {
        enqueue(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner), command);
        self.filled.notify_one();
    }

    fn next(&self) -> Command {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(command) = waiting.pop_front() {
                return command;
            }
            waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn serve(mut actuator: Box<dyn Actuator>, mailbox: &Mailbox, clock: &dyn Clock, sender: &Sender<Input>) {
    let layer = actuator.layer();
    let source = actuator.source();
    loop {
        let (kind, result) = match mailbox.next() {
            Command::Observe => {
                let (at, boot_ms) = (clock.now(), milliseconds(clock));
                let reading = actuator.observe();
                let read = LayerObservation {
                    layer,
                    source: source.clone(),
                    state: reading.state,
                    detail: reading.detail,
                    at,
                    boot_ms,
                };
                if sender.send(Input::Event(What::Observed(read))).is_err() {
                    return;
                }
                continue;
            }
            Command::Close => (Kind::Close, actuator.close().map_err(|error| chain(&error))),
            Command::Open { lease, not_after } => {
                let result =
                    timely(clock, not_after, || actuator.open(&lease).map_err(|error| chain(&error)));
                (Kind::Open, result)
            }
            // The machine asks again within a second if it still wants the window.
            Command::Renew { not_after, .. } if milliseconds(clock) > not_after => continue,
            Command::Renew { lease, not_after } => {
                let result =
                    timely(clock, not_after, || actuator.renew(&lease).map_err(|error| chain(&error)));
                (Kind::Renew, result)
            }
        };
        if kind != Kind::Close && result.is_err() {
            // Done too late or in part: take it back before anybody hears of it.
            let _ = actuator.close();
        }
        let what = match result {
            Ok(()) => What::Done(layer, kind),
            Err(error) => {
                tracing::warn!(%layer, ?kind, %error, "gate");
                What::Failed(layer, kind, error)
            }
        };
        if sender.send(Input::Event(what)).is_err() {
            return;
        }
    }
}

/// Does it only before `not_after`, and calls it failed if it ended later: a frozen process that wakes up
/// must not leave behind a lease that nobody wants any more.
fn timely(clock: &dyn Clock, not_after: u64, act: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let late = || milliseconds(clock) > not_after;
    if late() {
        return Err("too late, not done".to_owned());
    }
    act()?;
    if late() { Err("done too late".to_owned()) } else { Ok(()) }
}
