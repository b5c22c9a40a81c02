//! The traps of layer A, and what a broken host says about itself.

mod rig;

use std::{process::Command, time::Duration};

use kuramori_model::gate::{CloseReason, LayerState, Request};
use rig::{Rig, gate::Setup, wait};

fn layer_a(rig: &Rig) -> Option<(LayerState, String)> {
    rig.status()?.layers.first().map(|read| (read.state, read.detail.clone()))
}

#[test]
fn a_renamed_interface_is_noticed_and_bound_again() {
    let rig = Rig::new();
    rig.serve_primary();
    let _gated = rig.gated(&Setup::default());
    let _observed = rig.observed(&[]);
    rig.wait_state("closed_verified", 15);
    let vlt = rig.ns("vlt");
    rig::sh(&format!(
        "ip -n {vlt} link set v0 down && ip -n {vlt} link set v0 name x0 && ip -n {vlt} link set x0 up"
    ));
    let took =
        wait("not called closed any more", Duration::from_secs(15), || rig.state() != "closed_verified");
    println!("noticed after {took:?}");
    wait("layer A is unknown", Duration::from_secs(10), || {
        layer_a(&rig).is_some_and(|(state, _)| state == LayerState::Unknown)
    });
    assert!(!rig.status().unwrap().claim.offline);
    rig::sh(&format!(
        "ip -n {vlt} link set x0 down && ip -n {vlt} link set x0 name v0 && ip -n {vlt} link set v0 up"
    ));
    rig::sh(&format!("ip -n {vlt} route replace default via 10.77.9.1 dev v0"));
    rig.neighbours();
    rig.wait_state("closed_verified", 15);
    // Bound again for real: the host is not even seen by ARP.
    assert!(!rig.exec("prd", "ping -c1 -W1 10.77.9.2").0);
}

#[test]
fn elements_and_tables_that_are_not_ours_are_not_closed() {
    let rig = Rig::new();
    let _gated = rig.gated(&Setup::default());
    let _observed = rig.observed(&[]);
    rig.serve_primary();
    rig.wait_state("closed_verified", 15);
    for rules in [
        "add element inet gate lease { 10.77.10.2 . 10.77.1.2 . 8443 }\n\
         add element inet gate window { 10.77.10.2 . 10.77.1.2 . 8443 timeout 1h }\n",
        "table inet sneaky {\n chain x {\n  type filter hook forward priority -10; policy accept;\n }\n}\n",
        "flush chain inet gate gatefwd\n",
        "delete table netdev vaultgate\n",
        "insert rule inet gate gatefwd ct state established,related accept\n",
    ] {
        let begun = rig::now_ms();
        rig.nft("vlt", rules);
        let took = wait("noticed", Duration::from_secs(15), || rig.left("closed_verified", begun));
        println!("{took:?}: {rules}");
        rig.wait_state("closed_verified", 15);
        let (state, detail) = layer_a(&rig).unwrap();
        assert_eq!(state, LayerState::Closed, "{detail}");
    }
}

#[test]
fn without_a_log_nothing_opens() {
    let mut rig = Rig::new();
    rig.serve_primary();
    let state = rig.path("small");
    fs_err::create_dir(&state).unwrap();
    rig::sh(&format!("mount -t tmpfs -o size=64k tmpfs {}", state.display()));
    let small = Mounted(state.clone());
    let gated = rig.gated(&Setup { state: Some(state.clone()), ..Setup::default() });
    rig.adopt(gated.0.id());
    let _observed = rig.observed(&[]);
    rig.wait_state("closed_verified", 15);
    let filler = state.join("filler");
    rig::attempt(&format!("dd if=/dev/zero of={} bs=1k count=200 2>/dev/null", filler.display()));
    // What is left of the last page of the log is used up by a few alarms at most.
    let token = rig.token(30);
    let window = token.token.window;
    let mut last = None;
    for _ in 0..40 {
        let token = rig.token(30);
        if rig.ask(&Request::Open { token: Box::new(token) }).is_none() {
            continue;
        }
        std::thread::sleep(Duration::from_millis(300));
        rig.close();
        rig.wait_state("closed_verified", 15);
        let record = rig.history().remove(0);
        let full = matches!(record.close_reason, CloseReason::LogFailed { .. });
        last = Some(record);
        if full {
            break;
        }
    }
    let record = last.unwrap();
    assert!(record.window >= window);
    assert!(
        matches!(&record.close_reason, CloseReason::LogFailed { what } if what.contains("space")),
        "{record:#?}"
    );
    assert!(record.exposure.commanded_s == 0.0 && record.renewals == 0);
    // With room again it opens, and what waited is written.
    fs_err::remove_file(&filler).unwrap();
    rig.open(30);
    rig.close();
    rig.wait_state("closed_verified", 15);
    let log = fs_err::read_to_string(state.join("gate.jsonl")).unwrap();
    assert!(log.contains("log_failed"), "{log}");
    gated.kill();
    drop(small);
}

#[derive(Debug)]
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l"]).arg(&self.0).status();
    }
}

#[test]
fn a_host_without_nftables_says_that_the_store_is_not_offline() {
    let rig = Rig::new();
    let setup = Setup { nft: "/no/such/nft".to_owned(), ..Setup::default() };
    let config = rig.write_config(&setup);
    let checked = |setup: &std::path::Path| {
        let line = format!("{} --check --config {}", env!("CARGO_BIN_EXE_kuramori-gated"), setup.display());
        rig.exec("vlt", &line)
    };
    let (ok, said) = checked(&config);
    assert!(!ok && said.contains("the store is NOT offline") && said.contains("cannot run"), "{said}");
    // The same words when it runs all the same: it never claims to be closed.
    let _gated = rig.gated(&setup);
    let _observed = rig.observed(&[]);
    wait("an answer", Duration::from_secs(10), || rig.status().is_some());
    wait("overdue", Duration::from_secs(15), || rig.status().is_some_and(|status| !status.alarms.is_empty()));
    let status = rig.status().unwrap();
    assert!(!status.claim.offline && status.claim.sentence.starts_with("NOT offline"), "{status:#?}");
    assert_eq!(rig.refused(&Request::Open { token: Box::new(rig.token(5)) }), "gate.not-closed");
    // Only a logical layer: also not offline, though everything works.
    let (ok, said) = checked(&rig.write_config(&Setup::default()));
    assert!(!ok && said.contains("only logical layers"), "{said}");
    assert!(said.contains("ok  nftables"), "{said}");
}

#[test]
fn a_stranger_does_not_get_the_socket_and_nonsense_changes_nothing() {
    let rig = Rig::new();
    // Root may open any socket file, but the kernel says who connects.
    let gated = rig.gated(&Setup { allowed_uid: 12345, ..Setup::default() });
    let socket = rig.path("gate.sock");
    wait("the socket", Duration::from_secs(10), || socket.exists());
    let mode = rig::sh(&format!("stat -c '%a %u' {}", socket.display()));
    assert_eq!(mode.trim(), "600 12345");
    assert!(rig.status().is_none(), "root is not on the list");
    gated.kill();
    let _gated = rig.gated(&Setup::default());
    wait("an answer", Duration::from_secs(10), || rig.status().is_some());
    let (_, said) = rig.exec(
        "vlt",
        &format!(
            "python3 -c \"import socket\ns=socket.socket(socket.AF_UNIX);s.connect('{}')\n\
             s.sendall(b'nonsense\\n{{\\\"verb\\\":\\\"shell\\\"}}\\n');f=s.makefile()\nprint(f.readline(),f.readline())\"",
            socket.display()
        ),
    );
    assert_eq!(said.matches("gate.request").count(), 2, "{said}");
}

#[test]
fn a_wrong_configuration_names_its_key() {
    let rig = Rig::new();
    let config = rig.write_config(&Setup::default());
    let text = fs_err::read_to_string(&config).unwrap();
    for (from, to, named) in [
        ("ttl_seconds = 3", "ttl_seconds = 30", "ttl_seconds"),
        ("ttl_seconds = 3", "tll_seconds = 3", "tll_seconds"),
        ("inside = \"pul0\"", "inside = \"pul0\\\" accept #\"", "inside"),
        ("network = \"192.0.2.0/28\"", "network = \"192.0.2.1/28\"", "network"),
        ("release_quorum = 2", "release_quorum = 3", "release_quorum"),
        ("outside = \"v0\"", "outside = \"pul0\"", "packet_filter"),
    ] {
        let wrong = text.replace(from, to);
        assert_ne!(wrong, text);
        fs_err::write(&config, wrong).unwrap();
        let line = format!("{} --config {}", env!("CARGO_BIN_EXE_kuramori-gated"), config.display());
        let (ok, said) = rig::attempt(&line);
        assert!(!ok && said.contains(named), "{to}: {said}");
    }
}
