//! If everything of ours is dead or frozen, the path closes all the same.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod rig;

use std::time::Duration;

use kuramori_model::{
    clock::SeededRandom,
    gate::{CloseReason, Request},
};
use rig::{Rig, figures, gate::Setup, long, now_ms, wait};

const SEED: u64 = 77;

fn rounds() -> usize {
    if long() { 50 } else { 1 }
}

/// Kills or freezes gated at a drawn moment while bytes stream, and gives the seconds from then to the last
/// byte, each followed by a restart that must seal. `spoil` runs right after the signal.
fn last_bytes(rig: &Rig, signal: &str, ttl: u32, rounds: usize, spoil: impl Fn(&Rig)) -> Vec<f64> {
    rig::say(&format!("seed {SEED}"));
    let random = SeededRandom::new(SEED);
    let _observed = rig.observed(&[]);
    let mut spans = Vec::new();
    let mut tries = 0;
    while spans.len() < rounds {
        tries += 1;
        assert!(tries <= 2 * rounds + 10, "the machine is too busy: {} of {tries}", spans.len());
        let gated = rig.gated(&Setup { ttl, ..Setup::default() });
        wait("closed is proven", Duration::from_secs(20), || {
            rig.status().is_some_and(|status| status.gate.is_verified_closed())
        });
        if rig.state() == "fault_open" {
            rig.ask(&rig.release(2)).unwrap();
        }
        rig.open(120);
        let stream = rig.pull();
        wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
        std::thread::sleep(Duration::from_millis(random.below(u64::from(ttl) * 800)));
        // On a busy machine a renewal can come too late, which closes the window before we do.
        if stream.pause() > 300 || rig.state() != "open" {
            continue;
        }
        let killed = now_ms();
        gated.signal(signal);
        spoil(rig);
        // Longer than the lease lives, and then until the stream has paused; a spoiled gate never pauses.
        let life = u64::from(ttl) * 1000 + 600;
        wait("the lease's whole life", Duration::from_secs(20), || {
            let passed = now_ms() - killed;
            passed > life && (stream.pause() > 600 || passed > u64::from(ttl) * 1000 + 2500)
        });
        spans.push(stream.last().saturating_sub(killed) as f64 / 1000.0);
        drop(gated);
    }
    spans
}

fn judge(name: &str, ttl: u32, spans: Vec<f64>) {
    let most = spans.iter().fold(0.0f64, |most, one| most.max(*one));
    Rig::evidence(name, &figures(&format!("last byte after the signal, lease {ttl} s"), SEED, spans));
    assert!(most <= f64::from(ttl) + 0.1, "a byte {most} s after the signal, lease {ttl} s");
}

#[test]
fn a_killed_gate_closes_within_the_lease() {
    let rig = Rig::new();
    rig.serve_primary();
    judge("gate-sigkill-last-byte", 3, last_bytes(&rig, "KILL", 3, rounds(), |_| ()));
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
    assert!(
        rig.history().len() >= rounds(),
        "{}",
        fs_err::read_to_string(rig.path("state/gate.jsonl")).unwrap()
    );
}

#[test]
fn a_frozen_gate_closes_within_the_lease() {
    let rig = Rig::new();
    rig.serve_primary();
    judge("gate-sigstop-last-byte", 3, last_bytes(&rig, "STOP", 3, rounds(), |_| ()));
}

#[test]
fn with_the_short_lease_a_killed_or_frozen_gate_closes_within_a_second() {
    let rig = Rig::new();
    rig.serve_primary();
    let rounds = if long() { 50 } else { 1 };
    for (signal, name) in [("KILL", "gate-sigkill-last-byte-1s"), ("STOP", "gate-sigstop-last-byte-1s")] {
        judge(name, 1, last_bytes(&rig, signal, 1, rounds, |_| ()));
    }
}

#[test]
fn the_measurement_sees_a_rule_that_accepts_on_connection_tracking() {
    let rig = Rig::new();
    rig.serve_primary();
    let spans = last_bytes(&rig, "KILL", 1, 1, |rig| {
        rig.nft(
            "vlt",
            "insert rule inet gate gatefwd ct state established,related accept\ndelete table netdev vaultgate\n",
        );
    });
    assert!(spans[0] > 2.0, "the mutation must outlive the lease, it lasted {} s", spans[0]);
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
    let gated = rig.gated(&Setup { ttl: 1, ..Setup::default() });
    rig.wait_state("closed_verified", 15);
    let window = rig.open(120);
    let stream = rig.pull();
    wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
    gated.signal("STOP");
    wait("the stream pauses", Duration::from_secs(8), || stream.pause() > 1000);
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
        wait("the stream ends", Duration::from_secs(8), || stream.pause() > 1500);
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
    assert!(record.exposure.commanded_s >= 3.9, "{:?}", record.exposure);
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
