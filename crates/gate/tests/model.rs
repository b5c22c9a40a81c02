//! Every run of a small world, not only drawn ones: the very transition function and the very mailbox rule
//! of the running gate, with a kernel lease, a switch port, an observer and a disk around them, and a number
//! of faults at any of its half-second steps. `stateright` visits all states and judges each.
//!
//! Two windows are asked for in turn. A fault is: a command that is lost, acknowledged without effect, done but
//! reported as failed; a read-back that says nothing or is half a second old; a port that opens by itself
//! (a repeated old command); an observer that is silent or cannot probe; a disk that refuses; a crash after any
//! of a step's commands; an order to close, to lock; a token that comes a second time.
//!
//! Each property has a broken variant of the gate or its surroundings that the checker must find.
//! `KURAMORI_LONG=1` allows one more fault and longer runs.

#![expect(clippy::unwrap_used, reason = "fixed values of a test")]
#![expect(clippy::print_stdout, reason = "what the checker found")]

mod world;

use kuramori_gate::machine::Policy;
use kuramori_model::gate::{GateState, Layer};
use stateright::{Checker, HasDiscoveries, Model, Property};
use world::{Break, FOR_EVER, PORT_LEASE, Room, Rooms, Turn, leased, policy};

const I1: &str = "I1 no path without a token that is on the disk, and an unexpired lease";
const I2: &str = "I2 no path after the window's deadline";
const I3: &str = "I3 no layer's lease outlives its time, is renewed late or after an order to close";
const KEPT: &str = "without a fault every lease is renewed until the window's deadline";
const I7: &str = "I7 closed is said only with fresh evidence of every layer and the probe";
const TRUE: &str = "I6 closed is never said of an open path";
const I8: &str = "I8 an order to close reaches every layer at once";
const I12: &str = "I12 nothing opens before its entry is on the disk";
const I14: &str = "I14 a window opens once, and only a newer one after it";
const LATCH: &str = "a latch outlives everything but its release";

impl Model for Rooms {
    type State = Room;
    type Action = Turn;

    fn init_states(&self) -> Vec<Room> {
        vec![Room::new()]
    }

    fn actions(&self, room: &Room, turns: &mut Vec<Turn>) {
        if room.now >= self.until {
            return;
        }
        turns.push(Turn::Calm);
        if room.faults < self.faults {
            turns.extend(Turn::FAULTS);
        }
    }

    fn next_state(&self, last: &Room, turn: Turn) -> Option<Room> {
        last.next(self, turn)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(I1, |_, room: &Room| {
                !room.path_open() || room.opened.last().is_some_and(|(window, _)| room.disk.contains(window))
            }),
            Property::always(I2, |_, room: &Room| {
                !room.path_open() || room.opened.last().is_some_and(|(_, deadline)| room.now < *deadline)
            }),
            Property::always(I3, |_, room: &Room| {
                let accident = room.port_until == FOR_EVER;
                let leases = room.lease_until <= room.now + 3000
                    && (accident || room.port_until <= room.now + PORT_LEASE);
                let wrong = ["late renewal", "renewed what was to be closed"];
                leases && !wrong.iter().any(|what| room.wrong.contains(what))
            }),
            Property::always(I7, |_, room: &Room| !room.says_closed() || room.evidence_is_good()),
            Property::always(TRUE, |_, room: &Room| !room.says_closed() || !room.path_open()),
            Property::always(I8, |_, room: &Room| !room.wrong.contains(&"a layer was not told to close")),
            Property::always(I12, |_, room: &Room| !room.wrong.contains(&"opened before the log")),
            Property::always(I14, |_, room: &Room| room.opened.windows(2).all(|pair| pair[0].0 < pair[1].0)),
            Property::always(LATCH, |_, room: &Room| room.latch.is_none() || room.is_latched()),
            Property::always(KEPT, |_, room: &Room| {
                let ended = room.opened.last().is_none_or(|(_, deadline)| room.now >= *deadline);
                let kept = room.gate.as_ref().is_none_or(|gate| match gate.phase {
                    GateState::Open(_) => room.path_open(),
                    GateState::Opening { .. } => true,
                    _ => ended,
                });
                room.faults > 0 || kept
            }),
            Property::sometimes(
                "a port outlives its first lease by renewal, or has none",
                |rooms, room: &Room| {
                    let leased = rooms.policy.renewals.contains_key(&Layer::C);
                    let opened = |deadline: u64| deadline.saturating_sub(2000);
                    let late =
                        room.opened.last().is_some_and(|(_, end)| room.now > opened(*end) + PORT_LEASE);
                    room.faults == 0 && (!leased || (late && room.path_open()))
                },
            ),
            Property::sometimes(
                "a dead gate's port closes by itself, or has no lease",
                |rooms, room: &Room| {
                    let leased = rooms.policy.renewals.contains_key(&Layer::C);
                    room.gate.is_none() && (!leased || (room.port_until > 0 && !room.port_open()))
                },
            ),
            Property::sometimes("two windows open", |_, room: &Room| room.opened.len() == 2),
            Property::sometimes("a crash while open", |_, room: &Room| {
                room.gate.is_none() && room.path_open()
            }),
            Property::sometimes("a fault is latched", |_, room: &Room| room.latch.is_some()),
        ]
    }
}

fn rooms() -> Rooms {
    Rooms { policy: policy(), faults: 2, until: 12_000, broken: Break::Nothing }
}

fn leased_rooms() -> Rooms {
    Rooms { policy: leased(), ..rooms() }
}

#[test]
fn no_state_of_the_small_world_breaks_an_invariant() {
    holds(rooms());
}

#[test]
fn no_state_of_a_world_whose_switch_has_a_lease_too_breaks_an_invariant() {
    holds(leased_rooms());
}

fn holds(rooms: Rooms) {
    let long = std::env::var_os("KURAMORI_LONG").is_some();
    let rooms = if long { Rooms { faults: 3, until: 14_000, ..rooms } } else { rooms };
    let checker = rooms.checker().threads(2).spawn_bfs().join();
    println!("{} states, {} different", checker.state_count(), checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000, "a world that is too small shows nothing");
}

/// The checker must find a run in which `broken` breaks `property`.
fn finds(property: &'static str, broken: Break) {
    finds_in(property, Rooms { broken, ..rooms() });
}

fn finds_in(property: &'static str, rooms: Rooms) {
    let only = HasDiscoveries::AnyOf(std::iter::once(property).collect());
    let checker = rooms.checker().threads(2).finish_when(only).spawn_bfs().join();
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("`{property}` does not notice"));
    let turns: Vec<String> = path.into_actions().iter().map(|turn| format!("{turn:?}")).collect();
    println!("{property}: broken after {} steps: {}", turns.len(), turns.join(" "));
}

#[test]
fn it_finds_a_gate_that_does_not_wait_for_its_log() {
    finds(I12, Break::NoLog);
    finds(I1, Break::NoLog);
}

#[test]
fn it_finds_a_window_that_the_kernel_does_not_end() {
    finds(I2, Break::EndlessWindow);
}

#[test]
fn it_finds_a_lease_that_lives_too_long_and_one_that_is_renewed_too_late() {
    finds(I3, Break::LongLease);
    finds(I3, Break::LateRenewal);
}

#[test]
fn it_finds_a_gate_that_renews_only_its_innermost_layer() {
    finds_in(KEPT, Rooms { broken: Break::OnlyTheInnermost, ..leased_rooms() });
}

#[test]
fn it_finds_a_switch_whose_lease_lives_too_long_or_is_renewed_late_or_after_the_order_to_close() {
    for broken in [Break::LongPortLease, Break::LateRenewal, Break::FullMailbox] {
        finds_in(I3, Rooms { broken, ..leased_rooms() });
    }
}

#[test]
fn it_finds_a_gate_that_takes_a_reply_for_evidence() {
    finds(I7, Break::ReplyIsEvidence);
}

#[test]
fn it_finds_a_gate_that_trusts_old_evidence() {
    let old = Policy { fresh_ms: 60_000, recheck_ms: 50_000, ..policy() };
    finds_in(I7, Rooms { policy: old, broken: Break::Blind, ..rooms() });
}

#[test]
fn it_finds_a_gate_whose_every_witness_only_repeats_what_was_ordered() {
    finds(TRUE, Break::ReplyAndWrongProbe);
}

#[test]
fn it_finds_an_order_that_does_not_reach_a_layer() {
    finds(I8, Break::DeafPort);
}

#[test]
fn it_finds_a_gate_that_forgets_its_windows_or_its_latch_over_a_restart() {
    finds(I14, Break::Forgetful);
    finds(LATCH, Break::Forgetful);
}
