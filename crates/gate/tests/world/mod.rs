//! The small world of the model checker. All times are milliseconds of boot time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, LazyLock},
};

use jiff::Timestamp;
use kuramori_gate::{
    Action, Command, Event, Gate, Lease, Policy, What,
    keeper::enqueue,
    machine::{Entry, Flow, Kind, Latch},
    transition,
};
use kuramori_model::{
    gate::{
        BootId, CloseReason, GateState, Layer, LayerObservation, LayerState, Nonce, Purpose, Seen,
        SignedToken, SigningKey, WindowToken,
    },
    ids::WindowId,
};

const STEP: u64 = 500;
const SECONDS: u32 = 2;
/// The port's own lease, in the world where it has one.
pub(crate) const PORT_LEASE: u64 = 1000;
/// A port that somebody opened for good, or that has no lease.
pub(crate) const FOR_EVER: u64 = u64::MAX;

fn flow() -> Flow {
    Flow {
        purpose: Purpose::Pull,
        source: "10.77.10.2".parse().unwrap(),
        peer: "10.77.1.2:8443".parse().unwrap(),
    }
}

static TOKENS: LazyLock<Arc<Vec<SignedToken>>> = LazyLock::new(|| {
    let key = SigningKey::from_seed(&[4; 32]).unwrap();
    let token = |window| WindowToken {
        window: WindowId(window),
        epoch: 1,
        purpose: flow().purpose,
        source: flow().source,
        peer: flow().peer,
        max_seconds: SECONDS,
        max_bytes: 1 << 40,
        budget_left_s: 600,
        nonce: Nonce([0; 16]),
        boot_id: BootId::new("b").unwrap(),
        issued_boot_ms: 0,
        expires_boot_ms: u64::MAX,
        issued: Timestamp::UNIX_EPOCH,
    };
    Arc::new([1, 2].into_iter().map(|window| SignedToken::sign(token(window), &key)).collect())
});

/// The gate's policy with shorter waiting times, so that a run is a few seconds.
pub(crate) fn policy() -> Policy {
    Policy {
        layers: vec![Layer::A, Layer::C],
        keys: vec![SigningKey::from_seed(&[4; 32]).unwrap().public()],
        flows: vec![flow()],
        seen_ms: 1000,
        opening_ms: 2000,
        verify_ms: 2000,
        fresh_ms: 2500,
        recheck_ms: 1000,
        ..Policy::new(BootId::new("b").unwrap())
    }
}

/// The same where the switch closes its port by itself unless it is renewed.
pub(crate) fn leased() -> Policy {
    Policy { renewals: BTreeMap::from([(Layer::A, 1000), (Layer::C, STEP)]), ..policy() }
}

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Break {
    Nothing,
    /// The log says "written" and writes nothing.
    NoLog,
    /// The kernel's window element has no end.
    EndlessWindow,
    /// The lease lives 30 s.
    LongLease,
    /// The port's lease lives 30 s.
    LongPortLease,
    /// The port's renewals are lost, as in a gate that renews its own layer only.
    OnlyTheInnermost,
    /// A closing command leaves renewals waiting before it.
    FullMailbox,
    /// A renewal is done whenever its turn comes, and a frozen layer does it late.
    LateRenewal,
    /// A layer's read-back is what it was last told, not what it is.
    ReplyIsEvidence,
    /// As that, and the probe and the counters look at something else.
    ReplyAndWrongProbe,
    /// Nobody asks for a window, and the observer falls silent.
    Blind,
    /// The port's mailbox loses closing commands.
    DeafPort,
    /// A restarted gate is told that its log is empty.
    Forgetful,
}

#[derive(Debug)]
pub(crate) struct Rooms {
    pub(crate) policy: Policy,
    /// Faults per run at most.
    pub(crate) faults: u8,
    /// The length of a run.
    pub(crate) until: u64,
    pub(crate) broken: Break,
}

/// What happens in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Calm,
    /// Acknowledged, no effect.
    Lie(Layer),
    /// Done, reported as failed.
    Fail(Layer),
    /// Neither done nor answered.
    Lose(Layer),
    /// The read-back says nothing.
    Unknown(Layer),
    /// The read-back is what was true a step ago.
    Stale(Layer),
    /// The layer does nothing in this step; its commands wait.
    Freeze(Layer),
    /// Both layers acknowledge without effect.
    LieAll,
    /// A dead gate stays dead.
    Stay,
    /// The port opens by itself.
    Repeat,
    Silent,
    Blind,
    DiskFull,
    /// Dies after so many commands of this step have been done.
    Crash(u8),
    AskClose,
    Lock,
    /// The first token once more.
    Replay,
}

impl Turn {
    pub(crate) const FAULTS: [Self; 25] = [
        Self::Lie(Layer::A),
        Self::Lie(Layer::C),
        Self::Fail(Layer::A),
        Self::Fail(Layer::C),
        Self::Lose(Layer::A),
        Self::Lose(Layer::C),
        Self::Unknown(Layer::A),
        Self::Unknown(Layer::C),
        Self::Stale(Layer::A),
        Self::Stale(Layer::C),
        Self::Freeze(Layer::A),
        Self::Freeze(Layer::C),
        Self::LieAll,
        Self::Stay,
        Self::Repeat,
        Self::Silent,
        Self::Blind,
        Self::DiskFull,
        Self::Crash(0),
        Self::Crash(1),
        Self::Crash(2),
        Self::Crash(3),
        Self::AskClose,
        Self::Lock,
        Self::Replay,
    ];
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Room {
    pub(crate) now: u64,
    pub(crate) faults: u8,
    /// None: dead.
    pub(crate) gate: Option<Gate>,
    boxes: [VecDeque<Command>; 2],
    // Layer A as the kernel holds it.
    pub(crate) lease_until: u64,
    window_until: u64,
    /// The port is open until then.
    pub(crate) port_until: u64,
    /// What both layers were a step ago.
    before: [bool; 2],
    /// Accepted windows, and the latch, as they are on the disk.
    pub(crate) disk: Vec<u64>,
    pub(crate) latch: Option<Latch>,
    /// What the layers and the observer really told, and when.
    told: [Option<(LayerState, u64)>; 2],
    told_seen: Option<(bool, u64)>,
    /// Windows that layer A was opened for, with their deadlines.
    pub(crate) opened: Vec<(u64, u64)>,
    /// What each layer was last told.
    commanded: [bool; 2],
    /// When a closing command first followed an opening one.
    closed_at: u64,
    rx: u64,
    asked: u8,
    pub(crate) wrong: Vec<&'static str>,
}

/// One step's fate.
struct Fate {
    turn: Turn,
    used: bool,
    done: u8,
}

impl Fate {
    fn is(&mut self, turn: Turn) -> bool {
        let is = self.turn == turn;
        self.used |= is;
        is
    }
}

fn port_lease(rooms: &Rooms) -> u64 {
    if rooms.broken == Break::LongPortLease { 30_000 } else { PORT_LEASE }
}

const fn place(layer: Layer) -> usize {
    if matches!(layer, Layer::A) { 0 } else { 1 }
}

impl Room {
    pub(crate) fn new() -> Self {
        Self {
            now: 1000,
            faults: 0,
            gate: None,
            boxes: [VecDeque::new(), VecDeque::new()],
            lease_until: 0,
            window_until: 0,
            port_until: FOR_EVER,
            before: [false, true],
            disk: Vec::new(),
            latch: None,
            told: [None, None],
            told_seen: None,
            opened: Vec::new(),
            commanded: [true, true],
            closed_at: 0,
            rx: 0,
            asked: 0,
            wrong: Vec::new(),
        }
    }

    const fn a_open(&self) -> bool {
        self.now < self.lease_until && self.now < self.window_until
    }

    pub(crate) const fn port_open(&self) -> bool {
        self.now < self.port_until
    }

    pub(crate) const fn path_open(&self) -> bool {
        self.port_open() && self.a_open()
    }

    pub(crate) fn says_closed(&self) -> bool {
        self.gate.as_ref().is_some_and(|gate| gate.phase.is_verified_closed())
    }

    pub(crate) fn is_latched(&self) -> bool {
        self.gate.as_ref().is_none_or(|gate| {
            matches!(
                gate.phase,
                GateState::Boot {} | GateState::Lockdown { .. } | GateState::FaultOpen { .. }
            )
        })
    }

    /// By what was really told, not by what the gate remembers.
    pub(crate) fn evidence_is_good(&self) -> bool {
        let fresh = |at: u64| at >= self.closed_at && self.now - at <= policy().fresh_ms;
        self.told.iter().all(|told| told.is_some_and(|(state, at)| state == LayerState::Closed && fresh(at)))
            && self.told_seen.is_some_and(|(open, at)| !open && fresh(at))
    }

    pub(crate) fn next(&self, rooms: &Rooms, turn: Turn) -> Option<Self> {
        let mut room = self.clone();
        room.before = [self.a_open(), self.port_open()];
        room.now += STEP;
        let mut fate = Fate { turn, used: turn == Turn::Calm, done: 0 };
        if fate.is(Turn::Repeat) {
            room.port_until = FOR_EVER;
        }
        if room.gate.is_none() && !fate.is(Turn::Stay) {
            room.gate = Some(Gate::default());
            room.give(rooms, &mut fate, What::Tick);
            let what = room.start(rooms);
            room.give(rooms, &mut fate, what);
        }
        room.give(rooms, &mut fate, What::Tick);
        for (turn, what) in [
            (Turn::AskClose, What::Close(CloseReason::Asked { reason: String::new() })),
            (Turn::Lock, What::Lockdown("lock".into())),
        ] {
            if fate.is(turn) {
                room.give(rooms, &mut fate, what);
                let told = |queue: &VecDeque<Command>| queue.contains(&Command::Close);
                if !room.boxes.iter().all(told) {
                    room.wrong.push("a layer was not told to close");
                }
            }
        }
        let replay = room.asked > 0 && room.says_closed() && fate.is(Turn::Replay);
        let closed = room.gate.as_ref().is_some_and(|gate| gate.phase.name() == "closed_verified");
        if replay {
            room.give(rooms, &mut fate, What::Open(Box::new(TOKENS[0].clone()), 0));
        } else if closed
            && rooms.broken != Break::Blind
            && let Some(token) = TOKENS.get(usize::from(room.asked))
        {
            room.asked += 1;
            room.give(rooms, &mut fate, What::Open(Box::new(token.clone()), 0));
        }
        // A layer's answer may bring new commands for the other one.
        for _ in 0..4 {
            for layer in [Layer::A, Layer::C] {
                room.serve(rooms, &mut fate, layer);
            }
        }
        room.observe(rooms, &mut fate);
        for layer in [Layer::A, Layer::C] {
            room.serve(rooms, &mut fate, layer);
        }
        if fate.is(Turn::Crash(0)) {
            room.die();
        }
        room.rx += u64::from(room.path_open() && rooms.broken != Break::ReplyAndWrongProbe);
        room.faults += u8::from(turn != Turn::Calm);
        // A fault that met nothing is the calm step once more.
        fate.used.then_some(room)
    }

    fn die(&mut self) {
        self.gate = None;
        self.boxes = [VecDeque::new(), VecDeque::new()];
    }

    fn start(&self, rooms: &Rooms) -> What {
        if rooms.broken == Break::Forgetful {
            return What::Start { epoch: 0, last_window: WindowId(0), incident: 0, latch: None };
        }
        What::Start {
            epoch: u64::from(!self.disk.is_empty()),
            last_window: WindowId(self.disk.iter().copied().max().unwrap_or(0)),
            incident: self.latch.as_ref().map_or(0, |latch| latch.incident),
            latch: self.latch.clone(),
        }
    }

    fn give(&mut self, rooms: &Rooms, fate: &mut Fate, what: What) {
        let Some(gate) = self.gate.take() else { return };
        let event = Event { at: self.now, wall: Timestamp::UNIX_EPOCH, what };
        let (gate, actions) = transition(gate, &rooms.policy, &event);
        self.gate = Some(gate);
        let mut logged = None;
        for action in actions {
            match action {
                Action::Command(layer, command) => {
                    let deaf = rooms.broken == Break::DeafPort && layer == Layer::C;
                    let commanded = &mut self.commanded[place(layer)];
                    match command {
                        Command::Close if *commanded => (self.closed_at, *commanded) = (self.now, false),
                        Command::Open { .. } => *commanded = true,
                        _ => {}
                    }
                    if command == Command::Close && deaf {
                        continue;
                    }
                    if rooms.broken == Break::FullMailbox {
                        self.boxes[place(layer)].push_back(command);
                    } else {
                        enqueue(&mut self.boxes[place(layer)], command);
                    }
                }
                Action::Log(entry, window) => {
                    let keeps = matches!(entry, Entry::Accepted { .. } | Entry::Latched(_));
                    // A latch has a place of its own that a full disk does not take away.
                    let full = keeps && window.is_some() && fate.is(Turn::DiskFull);
                    match entry {
                        Entry::Accepted { token, .. } if !full && rooms.broken != Break::NoLog => {
                            self.disk.push(token.window.0);
                        }
                        Entry::Latched(latch) => self.latch = Some(latch),
                        _ => {}
                    }
                    let result = if full { Err("full".to_owned()) } else { Ok(()) };
                    logged = window.map(|window| What::Logged(window, result)).or(logged);
                }
                Action::Accept | Action::Refuse(_) => {}
            }
        }
        if let Some(what) = logged {
            self.give(rooms, fate, what);
        }
    }

    /// One layer does what waits in its mailbox, as the keeper's thread would.
    fn serve(&mut self, rooms: &Rooms, fate: &mut Fate, layer: Layer) {
        if !self.boxes[place(layer)].is_empty() && fate.is(Turn::Freeze(layer)) {
            return;
        }
        while let Some(command) = self.boxes[place(layer)].pop_front() {
            if self.gate.is_none() {
                return;
            }
            let what = match &command {
                Command::Observe => self.read(rooms, fate, layer),
                Command::Renew { not_after, .. }
                    if self.now > *not_after && rooms.broken != Break::LateRenewal =>
                {
                    None
                }
                Command::Open { not_after, .. } if self.now > *not_after => {
                    Some(What::Failed(layer, Kind::Open, "late".into()))
                }
                _ => self.act(rooms, fate, layer, &command),
            };
            fate.done += 1;
            if fate.is(Turn::Crash(fate.done)) && fate.done > 0 {
                return self.die();
            }
            if let Some(what) = what {
                self.give(rooms, fate, what);
            }
        }
    }

    fn act(&mut self, rooms: &Rooms, fate: &mut Fate, layer: Layer, command: &Command) -> Option<What> {
        if fate.is(Turn::Lose(layer)) {
            return None;
        }
        let kind = match command {
            Command::Close => Kind::Close,
            Command::Open { .. } => Kind::Open,
            _ => Kind::Renew,
        };
        if !fate.is(Turn::Lie(layer)) && !fate.is(Turn::LieAll) {
            match (layer, command) {
                (Layer::A, Command::Close) => (self.lease_until, self.window_until) = (0, 0),
                (Layer::A, Command::Open { lease, .. }) => self.open_a(rooms, lease),
                (_, Command::Renew { not_after, .. }) => {
                    if self.now > *not_after {
                        self.wrong.push("late renewal");
                    }
                    if !self.commanded[place(layer)] {
                        self.wrong.push("renewed what was to be closed");
                    }
                    match layer {
                        Layer::A => self.lease_until = self.now + 3000,
                        _ if rooms.broken == Break::OnlyTheInnermost => {}
                        // The worst device: a renewal opens it again.
                        _ => self.port_until = self.now + port_lease(rooms),
                    }
                }
                (_, Command::Close) => self.port_until = 0,
                (_, Command::Open { .. }) => {
                    self.check_log();
                    let leased = rooms.policy.renewals.contains_key(&Layer::C);
                    self.port_until = if leased { self.now + port_lease(rooms) } else { FOR_EVER };
                }
                _ => {}
            }
        }
        Some(if fate.is(Turn::Fail(layer)) {
            if kind != Kind::Close {
                // The keeper takes back what failed before anybody hears of it.
                match layer {
                    Layer::A => (self.lease_until, self.window_until) = (0, 0),
                    _ => self.port_until = 0,
                }
            }
            What::Failed(layer, kind, "no".into())
        } else {
            What::Done(layer, kind)
        })
    }

    fn check_log(&mut self) {
        let armed = self.gate.as_ref().map(|gate| gate.last_window.0);
        if armed.is_none_or(|window| !self.disk.contains(&window)) {
            self.wrong.push("opened before the log");
        }
    }

    fn open_a(&mut self, rooms: &Rooms, lease: &Lease) {
        self.check_log();
        let ttl = if rooms.broken == Break::LongLease { 30_000 } else { u64::from(lease.ttl_s) * 1000 };
        self.lease_until = self.now + ttl;
        let deadline = self.now + u64::from(lease.window_s.min(SECONDS)) * 1000;
        self.window_until = if rooms.broken == Break::EndlessWindow { u64::MAX } else { deadline };
        let window = self.gate.as_ref().map_or(0, |gate| gate.last_window.0);
        self.opened.push((window, deadline));
    }

    fn reading(&self, layer: Layer, state: LayerState) -> LayerObservation {
        let (source, detail) = (String::new(), String::new());
        LayerObservation { layer, source, state, detail, at: Timestamp::UNIX_EPOCH, boot_ms: self.now }
    }

    fn read(&mut self, rooms: &Rooms, fate: &mut Fate, layer: Layer) -> Option<What> {
        if matches!(rooms.broken, Break::ReplyIsEvidence | Break::ReplyAndWrongProbe) {
            let told = self.commanded[place(layer)];
            let state = if told { LayerState::Open } else { LayerState::Closed };
            return Some(What::Observed(self.reading(layer, state)));
        }
        if fate.is(Turn::Lose(layer)) {
            return None;
        }
        let open = if fate.is(Turn::Stale(layer)) {
            self.before[place(layer)]
        } else if layer == Layer::A {
            self.a_open()
        } else {
            self.port_open()
        };
        let state = match open {
            _ if fate.is(Turn::Unknown(layer)) => LayerState::Unknown,
            true => LayerState::Open,
            false => LayerState::Closed,
        };
        self.told[place(layer)] = Some((state, self.now));
        Some(What::Observed(self.reading(layer, state)))
    }

    fn observe(&mut self, rooms: &Rooms, fate: &mut Fate) {
        let blind = rooms.broken == Break::Blind && self.now > 3000;
        if fate.is(Turn::Silent) || blind {
            return;
        }
        let unknown = fate.is(Turn::Blind);
        let open = (self.path_open() && rooms.broken != Break::ReplyAndWrongProbe) || unknown;
        self.told_seen = Some((open, self.now));
        let seen = Seen {
            at: Timestamp::UNIX_EPOCH,
            boot_ms: self.now,
            run: 1,
            path_open: open,
            unknown,
            unapproved: if unknown { vec!["?".to_owned()] } else { Vec::new() },
            rx_bytes: self.rx,
            tx_bytes: self.rx,
            exposed_ms: 0,
            ok: !unknown,
        };
        self.give(rooms, fate, What::Seen(seen));
    }
}
