//! Properties of the pure machine, event by event.

#![expect(clippy::unwrap_used, reason = "fixed values of a test")]

use jiff::Timestamp;
use kuramori_gate::{
    Action, Command, Event, Gate, Policy, What,
    machine::{Flow, Kind, Latch},
    transition,
};
use kuramori_model::{
    gate::{
        BootId, CloseReason, GateState, Layer, LayerObservation, LayerState, Nonce, Purpose, Seen,
        SignedToken, SigningKey, WindowToken,
    },
    ids::WindowId,
};
use proptest::prelude::*;

fn key() -> SigningKey {
    SigningKey::from_seed(&[5; 32]).unwrap()
}

fn policy() -> Policy {
    let flow = Flow {
        purpose: Purpose::Pull,
        source: "10.0.0.2".parse().unwrap(),
        peer: "10.0.1.2:8443".parse().unwrap(),
    };
    Policy {
        layers: vec![Layer::A, Layer::C],
        dead_man_tested: vec![Layer::A],
        keys: vec![key().public()],
        flows: vec![flow],
        ..Policy::new(BootId::new("b").unwrap())
    }
}

struct Story {
    policy: Policy,
    gate: Gate,
    now: u64,
}

impl Story {
    fn new() -> Self {
        let mut story = Self { policy: policy(), gate: Gate::default(), now: 1000 };
        story.give(What::Start { epoch: 3, last_window: WindowId(7), incident: 0, latch: None });
        story
    }

    fn give(&mut self, what: What) -> Vec<Action> {
        let event = Event { at: self.now, wall: Timestamp::UNIX_EPOCH, what };
        let (gate, actions) = transition(self.gate.clone(), &self.policy, &event);
        self.gate = gate;
        actions
    }

    fn read(&mut self, layer: Layer, state: LayerState) -> Vec<Action> {
        let at = Timestamp::UNIX_EPOCH;
        let read =
            LayerObservation { layer, source: "t".into(), state, detail: "t".into(), at, boot_ms: self.now };
        self.give(What::Observed(read))
    }

    fn seen(&mut self, path_open: bool, tx_bytes: u64) -> Vec<Action> {
        let seen = Seen {
            at: Timestamp::UNIX_EPOCH,
            boot_ms: self.now,
            run: 1,
            path_open,
            unknown: false,
            unapproved: Vec::new(),
            rx_bytes: 0,
            tx_bytes,
            exposed_ms: 0,
            ok: true,
        };
        self.give(What::Seen(seen))
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += milliseconds;
    }

    fn prove(&mut self, tx_bytes: u64) {
        self.pass(500);
        self.read(Layer::A, LayerState::Closed);
        self.read(Layer::C, LayerState::Closed);
        self.seen(false, tx_bytes);
        self.pass(500);
        self.seen(false, tx_bytes);
    }

    fn token(&self, window: u64, epoch: u64) -> What {
        let token = WindowToken {
            window: WindowId(window),
            epoch,
            purpose: Purpose::Pull,
            source: "10.0.0.2".parse().unwrap(),
            peer: "10.0.1.2:8443".parse().unwrap(),
            max_seconds: 60,
            max_bytes: 1_000_000,
            budget_left_s: 600,
            nonce: Nonce([0; 16]),
            boot_id: BootId::new("b").unwrap(),
            issued_boot_ms: self.now,
            expires_boot_ms: self.now + 1000,
            issued: Timestamp::UNIX_EPOCH,
        };
        What::Open(Box::new(SignedToken::sign(token, &key())), 0)
    }

    fn open(&mut self) {
        self.prove(0);
        let what = self.token(8, 3);
        self.give(what);
        assert_eq!(self.gate.phase.name(), "arming");
        self.give(What::Logged(WindowId(8), Ok(())));
        self.pass(100);
        self.read(Layer::C, LayerState::Open);
        self.pass(100);
        self.read(Layer::A, LayerState::Open);
        assert_eq!(self.gate.phase.name(), "open");
    }
}

fn commands(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Command(layer, Command::Open { .. }) => Some(format!("open {layer}")),
            Action::Command(layer, Command::Renew { .. }) => Some(format!("renew {layer}")),
            Action::Command(layer, Command::Close) => Some(format!("close {layer}")),
            _ => None,
        })
        .collect()
}

#[test]
fn boot_is_closed_and_stays_unproven_without_every_piece_of_evidence() {
    let mut story = Story::new();
    assert_eq!(story.gate.phase.name(), "sealing");
    story.pass(500);
    story.read(Layer::A, LayerState::Closed);
    story.seen(false, 0);
    story.pass(500);
    story.seen(false, 0);
    assert_eq!(story.gate.phase.name(), "sealing", "C was not read");
    story.read(Layer::C, LayerState::Closed);
    assert_eq!(story.gate.phase.name(), "closed_verified");
    let claim = story.gate.claim(&story.policy, story.now);
    assert!(claim.offline, "{claim:?}");
    // Evidence ages: without new words it is not proven any more.
    story.pass(16_000);
    story.give(What::Tick);
    assert_eq!(story.gate.phase.name(), "sealing");
}

#[test]
fn counters_that_move_and_probes_that_answer_are_not_closed() {
    let mut story = Story::new();
    story.pass(500);
    story.read(Layer::A, LayerState::Closed);
    story.read(Layer::C, LayerState::Closed);
    for bytes in 1..5 {
        story.pass(500);
        story.seen(false, bytes * 100);
        assert_eq!(story.gate.phase.name(), "sealing", "the counters move");
    }
    story.pass(500);
    story.seen(false, 400);
    assert_eq!(story.gate.phase.name(), "closed_verified");
    story.pass(500);
    let actions = story.seen(true, 400);
    assert_eq!(commands(&actions), ["close A", "close C"]);
    assert_eq!(story.gate.phase.name(), "closing");
}

#[test]
fn layers_open_from_the_outside_in_and_close_from_the_inside_out() {
    let mut story = Story::new();
    story.prove(0);
    let what = story.token(8, 3);
    let actions = story.give(what);
    assert_eq!(commands(&actions), Vec::<String>::new(), "the log comes first");
    assert_eq!(commands(&story.give(What::Logged(WindowId(8), Ok(())))), ["open C"]);
    assert_eq!(
        commands(&story.give(What::Done(Layer::C, Kind::Open))),
        Vec::<String>::new(),
        "an ACK is nothing"
    );
    story.pass(100);
    assert_eq!(commands(&story.read(Layer::C, LayerState::Open)), ["open A"]);
    story.pass(100);
    story.read(Layer::A, LayerState::Open);
    assert_eq!(story.gate.phase.name(), "open");
    story.pass(900);
    assert_eq!(commands(&story.seen(true, 0)), ["renew A"]);
    let actions = story.give(What::Close(CloseReason::Asked { reason: "done".into() }));
    assert_eq!(commands(&actions), ["close A", "close C"]);
    assert!(
        matches!(actions.first(), Some(Action::Command(Layer::A, Command::Close))),
        "closing waits for no log"
    );
}

/// Each layer with a lease has a period of its own, from the moment that it is commanded open; what has none is
/// never renewed, and nothing after the order to close.
#[test]
fn every_layer_with_a_lease_is_renewed_from_its_own_opening_on() {
    let mut story = Story::new();
    story.policy.layers = vec![Layer::A, Layer::C, Layer::D];
    story.policy.renewals = [(Layer::A, 1000), (Layer::C, 700)].into_iter().collect();
    story.pass(100);
    story.read(Layer::D, LayerState::Closed);
    story.prove(0);
    let what = story.token(8, 3);
    story.give(what);
    assert_eq!(commands(&story.give(What::Logged(WindowId(8), Ok(())))), ["open D"]);
    story.pass(100);
    assert_eq!(commands(&story.read(Layer::D, LayerState::Open)), ["open C"]);
    story.pass(100);
    assert_eq!(commands(&story.read(Layer::C, LayerState::Open)), ["open A"]);
    // A is slow to open: the port is held meanwhile.
    story.pass(599);
    assert_eq!(commands(&story.seen(false, 0)), Vec::<String>::new());
    story.pass(1);
    let actions = story.give(What::Tick);
    assert_eq!(commands(&actions), ["renew C"]);
    let Some(Action::Command(_, Command::Renew { not_after, .. })) = actions.first() else {
        panic!("{actions:?}")
    };
    assert!(
        *not_after <= story.now + story.policy.seen_ms + 700,
        "not much later than the observer's word allows"
    );
    story.pass(400);
    assert_eq!(commands(&story.give(What::Tick)), ["renew A"]);
    story.read(Layer::A, LayerState::Open);
    assert_eq!(story.gate.phase.name(), "open");
    for layer in [Layer::C, Layer::A, Layer::C] {
        story.give(What::Done(layer, Kind::Renew));
    }
    story.pass(600);
    assert_eq!(commands(&story.read(Layer::D, LayerState::Open)), ["renew C"]);
    let GateState::Open(window) = &story.gate.phase else { panic!("{:?}", story.gate.phase) };
    assert_eq!(window.renewals, 1, "those of the kernel's lease");
    story.give(What::Close(CloseReason::Asked { reason: "done".into() }));
    for _ in 0..5 {
        story.pass(1000);
        let said = commands(&story.seen(false, 0));
        assert!(!said.iter().any(|one| one.starts_with("renew")), "{said:?}");
    }
    // The next window begins anew.
    for layer in [Layer::A, Layer::C, Layer::D] {
        story.give(What::Done(layer, Kind::Close));
    }
    story.prove(0);
    story.read(Layer::D, LayerState::Closed);
    let what = story.token(9, 3);
    assert!(story.give(what).contains(&Action::Accept), "{:?}", story.gate.phase);
    assert_eq!(commands(&story.give(What::Logged(WindowId(9), Ok(())))), ["open D"]);
    story.pass(1500);
    assert_eq!(commands(&story.seen(false, 0)), Vec::<String>::new(), "nothing of the last one is renewed");
}

/// A renewal that an outer layer did not take closes everything.
#[test]
fn a_layer_that_does_not_take_its_renewal_closes_the_window() {
    let mut story = Story::new();
    story.policy.renewals.insert(Layer::C, 1000);
    story.open();
    story.give(What::Failed(Layer::C, Kind::Renew, "no".into()));
    assert!(
        matches!(
            &story.gate.phase,
            GateState::Closing { reason: CloseReason::LayerFault { layer: Layer::C, .. }, .. }
        ),
        "{:?}",
        story.gate.phase
    );
}

#[test]
fn without_the_log_nothing_opens() {
    let mut story = Story::new();
    story.prove(0);
    let what = story.token(8, 3);
    story.give(what);
    let actions = story.give(What::Logged(WindowId(8), Err("full".into())));
    assert_eq!(commands(&actions), ["close A", "close C"]);
}

#[test]
fn a_silent_observer_a_used_up_window_and_used_up_bytes_close() {
    let mut story = Story::new();
    story.open();
    story.pass(2100);
    story.give(What::Tick);
    assert!(matches!(&story.gate.phase, GateState::Closing { reason: CloseReason::ObserverSilent {}, .. }));

    let mut story = Story::new();
    story.open();
    story.pass(500);
    story.seen(true, 2_000_000);
    assert!(matches!(&story.gate.phase, GateState::Closing { reason: CloseReason::Bytes {}, .. }));

    let mut story = Story::new();
    story.open();
    for _ in 0..120 {
        story.pass(500);
        story.read(Layer::A, LayerState::Open);
        story.read(Layer::C, LayerState::Open);
        story.seen(true, 0);
    }
    assert!(matches!(&story.gate.phase, GateState::Closing { reason: CloseReason::Deadline {}, .. }));
}

#[test]
fn an_older_epoch_and_a_used_window_are_refused() {
    for (window, epoch, code) in [(8, 2, "gate.token-epoch"), (7, 3, "gate.token-used")] {
        let mut story = Story::new();
        story.prove(0);
        let what = story.token(window, epoch);
        let actions = story.give(what);
        let refused = actions.iter().any(
            |action| matches!(action, Action::Refuse(why) if kuramori_model::fault::Fault::code(why) == code),
        );
        assert!(refused, "{actions:?}");
    }
}

#[test]
fn what_cannot_be_proven_closed_is_latched_over_a_restart() {
    let mut story = Story::new();
    story.open();
    story.give(What::Close(CloseReason::Asked { reason: "done".into() }));
    for _ in 0..30 {
        story.pass(500);
        story.read(Layer::A, LayerState::Closed);
        story.read(Layer::C, LayerState::Unknown);
        story.seen(false, 0);
    }
    assert!(matches!(story.gate.phase, GateState::FaultOpen { incident: 1, verified: false, .. }));
    story.prove(0);
    assert!(matches!(story.gate.phase, GateState::FaultOpen { verified: true, .. }), "proven, but latched");
    let latch = Latch { incident: 1, lockdown: false, reason: "r".into() };
    let mut next = Story::new();
    next.give(What::Start { epoch: 3, last_window: WindowId(8), incident: 1, latch: Some(latch) });
    next.prove(0);
    assert!(matches!(next.gate.phase, GateState::FaultOpen { incident: 1, verified: true, .. }));
}

fn any_what() -> impl Strategy<Value = (u64, u8, u8)> {
    (0u64..3000, 0u8..16, 0u8..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: nothing opens or renews without a logged token, and `close`
    /// commands every layer at once, from every state.
    #[test]
    fn nothing_opens_without_a_logged_token_and_close_always_closes(events in prop::collection::vec(any_what(), 1..120)) {
        let mut story = Story::new();
        let (mut logged, mut window) = (false, 8);
        for (wait, choice, detail) in events {
            story.pass(wait);
            let layer = if detail & 1 == 0 { Layer::A } else { Layer::C };
            let actions = match choice {
                0..3 => { story.prove(0); Vec::new() }
                3..5 => {
                    window += 1;
                    let what = story.token(window, 3);
                    let actions = story.give(what);
                    if actions.contains(&Action::Accept) { logged = false; }
                    actions
                }
                5..7 => {
                    let armed = story.gate.phase.name() == "arming";
                    logged |= armed;
                    story.give(What::Logged(WindowId(window), Ok(())))
                }
                7 => story.read(layer, LayerState::Open),
                8 => story.read(layer, LayerState::Closed),
                9 => story.read(layer, LayerState::Unknown),
                10 => story.seen(detail > 1, u64::from(detail)),
                11 => story.give(What::Failed(layer, Kind::Open, "no".into())),
                12 => story.give(What::Done(layer, Kind::Close)),
                13 => {
                    let actions = story.give(What::Close(CloseReason::Asked { reason: String::new() }));
                    let said = commands(&actions);
                    prop_assert_eq!(said.iter().filter(|one| one.starts_with("close")).count() >= 2, true);
                    prop_assert!(!said.iter().any(|one| !one.starts_with("close")));
                    actions
                }
                14 if detail == 0 => story.give(What::Lockdown("l".into())),
                _ => story.give(What::Tick),
            };
            for command in commands(&actions) {
                prop_assert!(logged || command.starts_with("close"), "{} before the log", command);
            }
        }
    }
}

#[test]
fn before_its_log_is_read_it_closes_and_opens_nothing() {
    let mut story = Story { policy: policy(), gate: Gate::default(), now: 1000 };
    assert_eq!(commands(&story.give(What::Tick)), ["close A", "close C"]);
    story.read(Layer::A, LayerState::Closed);
    story.read(Layer::C, LayerState::Open);
    story.pass(1000);
    assert_eq!(commands(&story.give(What::Tick)), ["close C"], "until it reads closed");
    story.prove(0);
    let what = story.token(8, 3);
    let actions = story.give(what);
    assert!(actions.iter().any(|action| matches!(action, Action::Refuse(_))), "{actions:?}");
    // Locked meanwhile: the log does not unlock it.
    story.give(What::Lockdown("now".into()));
    story.give(What::Start { epoch: 3, last_window: WindowId(7), incident: 4, latch: None });
    assert!(matches!(story.gate.phase, GateState::Lockdown { incident: 5, .. }), "{:?}", story.gate.phase);
}

#[test]
fn two_observers_or_counters_that_fall_close_an_open_window() {
    let mut story = Story::new();
    story.open();
    story.seen(true, 1000);
    story.pass(500);
    let mut seen = story.gate.seen.clone().unwrap();
    (seen.boot_ms, seen.run) = (story.now, 2);
    story.give(What::Seen(seen));
    assert_eq!(story.gate.phase.name(), "open", "a new one after one that may have ended");
    story.pass(500);
    story.seen(true, 1000);
    assert!(
        matches!(&story.gate.phase, GateState::Closing { reason: CloseReason::ObserverAlarm { what }, .. } if what.contains("two observers")),
        "{:?}",
        story.gate.phase
    );

    let mut story = Story::new();
    story.open();
    story.pass(500);
    story.seen(true, 1000);
    story.pass(500);
    story.seen(true, 10);
    assert!(
        matches!(&story.gate.phase, GateState::Closing { reason: CloseReason::ObserverAlarm { what }, .. } if what.contains("backward")),
        "{:?}",
        story.gate.phase
    );
}

#[test]
fn an_ok_beside_something_unapproved_is_none() {
    let mut story = Story::new();
    story.open();
    story.seen(true, 0);
    story.pass(500);
    let mut seen = story.gate.seen.clone().unwrap();
    (seen.boot_ms, seen.unapproved) = (story.now, vec!["10.0.1.2:22".to_owned()]);
    story.give(What::Seen(seen));
    assert!(matches!(
        &story.gate.phase,
        GateState::Closing { reason: CloseReason::ObserverAlarm { .. }, .. }
    ));
}

/// What must be right for the gate to be closed fits into an afternoon's reading: lines of code, without
/// comments and tests. Drivers do not count; nothing that they say is believed.
#[test]
fn the_trusted_core_stays_small() {
    fn count(folder: &std::path::Path, lines: &mut usize) {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("driver") {
                    count(&path, lines);
                }
                continue;
            }
            let text = fs_err::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default().lines().map(str::trim);
            *lines += code.filter(|line| !line.is_empty() && !line.starts_with("//")).count();
        }
    }
    let mut lines = 0;
    count(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut lines);
    println!("{lines} lines");
    assert!((500..=2000).contains(&lines), "the trusted core has {lines} lines");
}
