//! If everything of ours is dead or frozen, the path closes all the same.

mod rig;

use std::time::Duration;

use kuramori_model::{
    clock::SeededRandom,
    gate::{CloseReason, Request},
};
use rig::{Rig, figures, gate::Setup, long, now_ms, wait};

const SEED: u64 = 77;

fn rounds() -> usize {
    if long() { 30 } else { 3 }
}

/// Kills or freezes gated at a drawn moment while bytes stream, and gives the seconds from then to the last
/// byte, each followed by a restart that must seal. `spoil` runs right after the signal.
fn last_bytes(rig: &Rig, signal: &str, rounds: usize, spoil: impl Fn(&Rig)) -> Vec<f64> {
    rig::say(&format!("seed {SEED}"));
    let random = SeededRandom::new(SEED);
    let _observed = rig.observed(&[]);
    let mut spans = Vec::new();
    for _ in 0..rounds {
        let gated = rig.gated(&Setup::default());
        rig.wait_state("closed_verified", 15);
        rig.open(120);
        let stream = rig.pull();
        wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
        std::thread::sleep(Duration::from_millis(random.below(2500)));
        assert!(now_ms() - stream.last() < 500, "bytes stream until the kill");
        let killed = now_ms();
        gated.signal(signal);
        spoil(rig);
        // Longer than the lease lives, and then until the stream has paused; a spoiled gate never pauses.
        wait("the lease's whole life", Duration::from_secs(20), || {
            let passed = now_ms() - killed;
            passed > 4500 && (now_ms() - stream.last() > 1400 || passed > 8000)
        });
        spans.push(stream.last().saturating_sub(killed) as f64 / 1000.0);
        drop(gated);
    }
    spans
}

fn judge(name: &str, spans: Vec<f64>) {
    let most = spans.iter().fold(0.0f64, |most, one| most.max(*one));
    Rig::evidence(name, &figures("last byte after the signal, lease 3 s", SEED, spans));
    assert!(most <= 3.1, "a byte {most} s after the signal");
}

#[test]
fn a_killed_gate_closes_within_the_lease() {
    let rig = Rig::new();
    rig.serve_primary();
    judge("gate-sigkill-last-byte", last_bytes(&rig, "KILL", rounds(), |_| ()));
    // The next start finds the last window unfinished and says so.
    let _observed = rig.observed(&[]);
    let _gated = rig.gated(&Setup::default());
    let sealed = rig.wait_state("closed_verified", 10);
    println!("sealed after {sealed:?}");
    wait("the dead gate's window has a record", Duration::from_secs(5), || {
        rig.history().first().is_some_and(|record| {
            record.upper_bound && record.closed_verified && record.close_reason == CloseReason::Crashed {}
        })
    });
    assert_eq!(
        rig.history().len(),
        rounds(),
        "{}",
        fs_err::read_to_string(rig.path("state/gate.jsonl")).unwrap()
    );
}

#[test]
fn a_frozen_gate_closes_within_the_lease() {
    let rig = Rig::new();
    rig.serve_primary();
    judge("gate-sigstop-last-byte", last_bytes(&rig, "STOP", rounds(), |_| ()));
}

#[test]
fn the_measurement_sees_a_rule_that_accepts_on_connection_tracking() {
    let rig = Rig::new();
    rig.serve_primary();
    let spans = last_bytes(&rig, "KILL", 1, |rig| {
        rig.nft(
            "vlt",
            "insert rule inet gate gatefwd ct state established,related accept\ndelete table netdev vaultgate\n",
        );
    });
    assert!(spans[0] > 4.0, "the mutation must outlive the lease, it lasted {} s", spans[0]);
    Rig::evidence(
        "gate-mutation-last-byte",
        &figures("last byte after the kill, with the forbidden rule", SEED, spans),
    );
}

#[test]
fn a_gate_that_wakes_up_does_not_go_on_with_its_window() {
    let rig = Rig::new();
    rig.serve_primary();
    let _observed = rig.observed(&[]);
    let gated = rig.gated(&Setup::default());
    rig.wait_state("closed_verified", 15);
    let window = rig.open(120);
    let stream = rig.pull();
    wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
    gated.signal("STOP");
    wait("the stream pauses", Duration::from_secs(8), || now_ms() - stream.last() > 2000);
    std::thread::sleep(Duration::from_secs(1));
    let woken = now_ms();
    gated.signal("CONT");
    rig.wait_state("closed_verified", 15);
    assert!(rig.record(window).closed_verified);
    assert!(stream.last() < woken, "bytes {} ms after waking up", stream.last() - woken);
}

#[test]
fn a_dead_or_silent_observer_closes() {
    let rig = Rig::new();
    rig.serve_primary();
    let _gated = rig.gated(&Setup::default());
    let mut spans = Vec::new();
    for signal in ["KILL", "STOP"] {
        let observed = rig.observed(&[]);
        rig.wait_state("closed_verified", 15);
        let window = rig.open(120);
        let stream = rig.pull();
        wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
        let killed = now_ms();
        observed.signal(signal);
        wait("the stream ends", Duration::from_secs(8), || now_ms() - stream.last() > 1500);
        spans.push(stream.last().saturating_sub(killed) as f64 / 1000.0);
        // Without an observer nothing is proven: the gate says so instead of calling itself closed.
        wait("closed is not claimed", Duration::from_secs(15), || rig.state() == "fault_open");
        let record = rig.record(window);
        assert_eq!(record.close_reason, CloseReason::ObserverSilent {});
        assert!(!record.closed_verified && record.disagreement);
        drop(observed);
        let observed = rig.observed(&[]);
        wait("proven again, still latched", Duration::from_secs(10), || {
            rig.status()
                .is_some_and(|status| status.gate.is_verified_closed() && status.gate.name() == "fault_open")
        });
        rig.ask(&rig.release(2)).unwrap();
        assert_eq!(rig.state(), "closed_verified");
        drop(observed);
    }
    let most = spans.iter().fold(0.0f64, |most, one| most.max(*one));
    Rig::evidence(
        "gate-observer-silent-last-byte",
        &figures("last byte after the observer's signal", 0, spans),
    );
    assert!(most <= 3.1, "{most}");
}

#[test]
fn an_unapproved_path_closes_and_is_named() {
    let rig = Rig::new();
    rig.serve_primary();
    let _gated = rig.gated(&Setup::default());
    // A port of the puller's own network stands for a path that must not be.
    let _observed = rig.observed(&["10.77.10.1:2222"]);
    rig.wait_state("closed_verified", 15);
    let window = rig.open(120);
    let stream = rig.pull();
    wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
    // Somebody inserts a rule that lets the puller in: the read-back or the observer must notice.
    rig.nft("vlt", "insert rule inet gate gatein iifname \"pul0\" accept");
    let took = wait("closed", Duration::from_secs(10), || rig.state() != "open");
    println!("closed {took:?} after the change");
    let record = rig.record(window);
    assert!(
        matches!(record.close_reason, CloseReason::LayerFault { .. } | CloseReason::ObserverAlarm { .. }),
        "{record:#?}"
    );
    assert!(took < Duration::from_secs(5));
    // Closing put the rules right again.
    rig.wait_state("closed_verified", 15);
}

#[test]
fn the_deadline_closes_though_everybody_goes_on() {
    let rig = Rig::new();
    rig.serve_primary();
    let _gated = rig.gated(&Setup::default());
    let _observed = rig.observed(&[]);
    rig.wait_state("closed_verified", 15);
    let window = rig.open(4);
    let opened = now_ms();
    let stream = rig.pull();
    rig.wait_state("closed_verified", 15);
    let record = rig.record(window);
    assert_eq!(record.close_reason, CloseReason::Deadline {});
    assert!(stream.bytes() > 100_000);
    assert!(stream.last() - opened <= 4100, "a byte {} ms after opening", stream.last() - opened);
    assert!((3.9..4.5).contains(&record.exposure.commanded_s), "{:?}", record.exposure);
}

#[test]
fn asked_to_end_it_closes_first() {
    let rig = Rig::new();
    rig.serve_primary();
    let _observed = rig.observed(&[]);
    let mut gated = rig.gated(&Setup::default());
    rig.wait_state("closed_verified", 15);
    rig.open(60);
    let stream = rig.pull();
    wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
    gated.signal("TERM");
    let asked = now_ms();
    let mut code = None;
    wait("it ends", Duration::from_secs(13), || {
        code = gated.0.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.unwrap().code(), Some(0), "closed was proven before it ended");
    assert!(stream.last().saturating_sub(asked) < 500);
    assert!(rig.ask(&Request::Status {}).is_none());
    let log = fs_err::read_to_string(rig.path("state/gate.jsonl")).unwrap();
    assert!(log.contains(r#""close_reason":{"because":"stopped"}"#), "{log}");
}
