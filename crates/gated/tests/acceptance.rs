//! The acceptance test of a layer: it says what a device does, and what it does not.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod rig;

use kuramori_model::gate::{
    Layer,
    acceptance::{Acceptance, Outcome, Trial},
};
use rig::{Rig, console::Console, gate::Setup};

fn accept(rig: &Rig, setup: &Setup, more: &str) -> Acceptance {
    let config = rig.write_config(setup);
    let log = rig.path("acceptance.log");
    let line = format!(
        "sh -c '{} --config {} {more} 2>>{}'",
        env!("CARGO_BIN_EXE_kuramori-gated"),
        config.display(),
        log.display()
    );
    let (_, said) = rig.exec("vlt", &line);
    serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{error}: {said}\n{}", fs_err::read_to_string(&log).unwrap()))
}

fn outcome(record: &Acceptance, trial: Trial) -> Outcome {
    let found = record.findings.iter().rev().find(|one| one.trial == trial);
    found.unwrap_or_else(|| panic!("{trial:?} is missing: {record:#?}")).outcome
}

#[test]
fn the_packet_filter_is_tested_and_the_record_makes_the_claim() {
    let mut rig = Rig::new();
    rig.serve_primary();
    rig.start_snmpd();
    let setup = Setup { switch: true, declared: "[]", ttl: 3, ..Setup::default() };
    {
        let _gated = rig.gated(&setup);
        let _observed = rig.observed(&[]);
        rig.wait_state("closed_verified", 20);
        let claim = rig.status().unwrap().claim;
        assert!(!claim.offline && claim.sentence.contains("dead-man"), "nothing is tested yet: {claim:?}");
    }
    let record = accept(&rig, &setup, "--acceptance A --dead-man-within 20");
    assert!(record.passed(), "{record:#?}");
    let seconds = record.dead_man_s.unwrap();
    assert!(seconds <= 6.0, "the lease ends within 3 s, and the read-back sees it soon after: {seconds}");
    Rig::evidence(
        "gate-acceptance-a",
        &rig::figures("layer A closes by itself, lease 3 s, read back", 0, vec![seconds]),
    );
    let gated = rig.gated(&setup);
    let observed = rig.observed(&[]);
    rig.wait_state("closed_verified", 20);
    let claim = rig.status().unwrap().claim;
    assert!(claim.offline && claim.dead_man_tested == [Layer::A], "{claim:?}");
    gated.kill();
    observed.kill();
    // Another lease is another layer: the record does not speak for it.
    let _gated = rig.gated(&Setup { ttl: 2, ..setup });
    let _observed = rig.observed(&[]);
    rig.wait_state("closed_verified", 20);
    assert!(!rig.status().unwrap().claim.offline);
}

#[test]
fn a_port_without_a_dead_man_passes_and_claims_none_and_a_restart_that_opens_it_fails() {
    let mut rig = Rig::new();
    rig.start_snmpd();
    let setup = Setup { switch: true, ttl: 1, ..Setup::default() };
    let sw = rig.ns("sw");
    let restart = |state: &str| {
        format!(
            "--acceptance C --dead-man-within 4 --settle-within 6 --reboot-command \"ip -n {sw} link set port2 {state}\""
        )
    };
    let record = accept(&rig, &setup, &restart("down"));
    assert!(record.passed() && record.dead_man_s.is_none(), "{record:#?}");
    assert_eq!(outcome(&record, Trial::Killed), Outcome::Absent);
    assert_eq!(outcome(&record, Trial::StatusIsNotAhead), Outcome::Passed);
    assert_eq!(outcome(&record, Trial::Rebooted), Outcome::Passed);
    assert!(record.witness.is_some());
    if rig::long() {
        let record = accept(&rig, &setup, &restart("up"));
        assert!(!record.passed());
        assert_eq!(outcome(&record, Trial::Rebooted), Outcome::Failed);
    }
    // The agent says closed, but somebody has tied the port open: the witness disagrees.
    rig.stop_snmpd();
    rig::sh(&format!("ip -n {sw} link set port2 up"));
    rig.start_lying_snmpd();
    let record = accept(&rig, &setup, "--acceptance C --dead-man-within 4 --settle-within 6");
    assert!(!record.passed(), "{record:#?}");
    assert_eq!(outcome(&record, Trial::Closes), Outcome::Failed);
}

#[test]
fn a_switch_that_watches_the_lease_by_ping_has_a_dead_man_and_a_lying_one_fails() {
    let rig = Rig::new();
    let mut console = Console::start(&rig, "alliedware_plus");
    console.ping_poll();
    let setup = Setup { switch_ssh: Some(console.config()), ttl: 3, declared: "[]", ..Setup::default() };
    let record = accept(&rig, &setup, "--acceptance C --dead-man-within 30");
    assert!(record.passed(), "{record:#?}");
    let seconds = record.dead_man_s.unwrap();
    Rig::evidence(
        "gate-acceptance-c-ping-poll",
        &rig::figures(
            "layer C closes by its ping-poll, lease 3 s, killed and frozen, at most",
            0,
            vec![seconds],
        ),
    );
    // It says that it is shut, in all its words, and is not.
    console.stop();
    rig.exec("sw", "ip link set port2 up");
    console.serve("host");
    console.spoil("lies");
    let record = accept(&rig, &setup, "--acceptance C --dead-man-within 4 --settle-within 6");
    assert!(!record.passed() && outcome(&record, Trial::Closes) == Outcome::Failed, "{record:#?}");
}
