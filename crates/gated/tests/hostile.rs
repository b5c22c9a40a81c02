//! A host that turns against its gate: tools that hang or fail, a disk that does not answer, a second
//! gate, a wall clock that jumps, an end in the middle of opening.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod rig;

use std::{os::unix::fs::PermissionsExt, os::unix::net::UnixStream, path::PathBuf, time::Duration};

use kuramori_model::gate::{CloseReason, LayerState, Request};
use rig::{PRIMARY, Rig, gate::Setup, now_ms, wait};

/// A program before `nft`: does `when` (shell; `$batch` holds the text of a batch) while the file `spoil`
/// exists, else passes everything on.
fn wrapped_nft(rig: &Rig, when: &str) -> (String, PathBuf) {
    let (program, spoil) = (rig.path("nft-wrapper"), rig.path("spoil"));
    let text = format!(
        "#!/bin/sh\nbatch=\nif [ \"$1\" = -f ]; then batch=$(cat); fi\nif [ -e {} ]; then\n{when}\nfi\n\
         if [ \"$1\" = -f ]; then printf '%s\\n' \"$batch\" | nft -f -; else exec nft \"$@\"; fi\n",
        spoil.display()
    );
    fs_err::write(&program, text).unwrap();
    fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (program.display().to_string(), spoil)
}

/// Sets both elements by hand as a dead gate would have left them, but for a minute: an open path.
fn leave_open(rig: &Rig) {
    let flow = "10.77.10.2 . 10.77.1.2 . 8443";
    rig.nft(
        "vlt",
        &format!(
            "add element inet gate lease {{ {flow} timeout 60s }}\nadd element inet gate window {{ {flow} timeout 60s }}\n\
             add element netdev vaultgate lease {{ 10.77.1.2 . 8443 timeout 60s }}\n\
             add element netdev vaultgate window {{ 10.77.1.2 . 8443 timeout 60s }}\n"
        ),
    );
}

#[test]
fn a_tool_that_hangs_or_fails_ends_the_window_within_the_lease() {
    let rig = Rig::new();
    rig.serve_primary();
    let _observed = rig.observed(&[]);
    for (name, when, reason) in [
        ("hangs", "exec sleep 60", "layer_fault"),
        ("has no buffers", "echo 'netlink: Error: No buffer space available' >&2; exit 1", "layer_fault"),
        ("is gone", "exit 127", "layer_fault"),
    ] {
        let (nft, spoil) = wrapped_nft(&rig, when);
        let gated = rig.gated(&Setup { nft, ..Setup::default() });
        rig.wait_state("closed_verified", 20);
        let window = rig.open(120);
        let stream = rig.pull();
        wait("bytes for longer than a lease", Duration::from_secs(20), || {
            stream.bytes() > 100_000 && stream.pause() < 200 && stream.age() > 3500
        });
        let spoilt = now_ms();
        fs_err::write(&spoil, "").unwrap();
        wait("the stream ends", Duration::from_secs(12), || stream.pause() > 3500);
        let span = stream.last().saturating_sub(spoilt);
        println!("`nft` {name}: last byte {span} ms later");
        assert!(
            span <= 2000 + 2000 + 1000,
            "the next read-back is due within 2 s and given up after 2 s, and then it is closed: {span} ms"
        );
        fs_err::remove_file(&spoil).unwrap();
        wait("closed is proven", Duration::from_secs(30), || {
            rig.status().is_some_and(|status| status.gate.is_verified_closed())
        });
        let record = rig.record(window);
        let said = serde_json::to_string(&record.close_reason).unwrap();
        assert!(said.contains(reason) || said.contains("observer"), "{name}: {record:#?}");
        if rig.state() == "fault_open" {
            rig.ask(&rig.release(2)).unwrap();
        }
        gated.kill();
    }
}

#[test]
fn a_disk_that_does_not_answer_keeps_nothing_from_being_sealed() {
    let rig = Rig::new();
    rig.serve_primary();
    let _observed = rig.observed(&[]);
    let gated = rig.gated(&Setup::default());
    rig.wait_state("closed_verified", 15);
    gated.kill();
    leave_open(&rig);
    assert_eq!(rig.scan_tcp("pul", &[PRIMARY]), [PRIMARY], "the path is open");
    // Opening a pipe that nobody writes to never ends: a disk that hangs.
    let log = rig.path("state/gate.jsonl");
    fs_err::remove_file(&log).unwrap();
    rig::sh(&format!("mkfifo {}", log.display()));
    let started = now_ms();
    let _gated = rig.gated(&Setup::default());
    wait("sealed", Duration::from_secs(10), || rig.scan_tcp("pul", &[PRIMARY]).is_empty());
    println!("sealed {} ms after the start", now_ms() - started);
    wait("layer A reads closed", Duration::from_secs(10), || {
        rig.status().is_some_and(|status| status.layers.iter().any(|read| read.state == LayerState::Closed))
    });
    let status = rig.status().unwrap();
    assert_eq!(status.gate.name(), "boot", "what was used is not known");
    assert!(!status.claim.offline);
    let token = rig.token(30);
    assert_eq!(rig.refused(&Request::Open { token: Box::new(token) }), "gate.not-closed");
    // Opened behind its back it closes again, without any log.
    leave_open(&rig);
    wait("sealed again", Duration::from_secs(10), || rig.scan_tcp("pul", &[PRIMARY]).is_empty());
}

#[test]
fn a_second_gate_closes_ends_and_takes_nothing_over() {
    let rig = Rig::new();
    rig.serve_primary();
    let _observed = rig.observed(&[]);
    let _gated = rig.gated(&Setup::default());
    rig.wait_state("closed_verified", 15);
    let mut second = rig.gated(&Setup::default());
    let mut code = None;
    wait("it ends", Duration::from_secs(20), || {
        code = second.0.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.unwrap().code(), Some(1));
    let said = fs_err::read_to_string(rig.path("gated.log")).unwrap();
    assert!(said.contains("another kuramori-gated"), "{said}");
    rig.wait_state("closed_verified", 15);
    let window = rig.open(20);
    rig.close();
    assert!(rig.record(window).closed_verified, "the first one works as before");
}

#[test]
fn an_end_in_the_middle_of_opening_leaves_nothing_open() {
    let rig = Rig::new();
    rig.serve_primary();
    let _observed = rig.observed(&[]);
    for wait_ms in [0, 20, 60] {
        let mut gated = rig.gated(&Setup::default());
        rig.wait_state("closed_verified", 15);
        let token = rig.token(60);
        rig.ask(&Request::Open { token: Box::new(token) }).unwrap();
        std::thread::sleep(Duration::from_millis(wait_ms));
        gated.signal("TERM");
        wait("it ends", Duration::from_secs(15), || gated.0.try_wait().unwrap().is_some());
        let (_, sets) = rig.exec("vlt", "nft list ruleset");
        assert!(sets.contains("policy drop") && !sets.contains("elements"), "{sets}");
        assert_eq!(rig.scan_tcp("pul", &[PRIMARY]), []);
    }
}

#[test]
fn a_wall_clock_that_jumps_ten_years_moves_neither_deadline_nor_budget() {
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
        .iter()
        .map(|folder| PathBuf::from(folder).join("faketime/libfaketime.so.1"))
        .find(|path| path.exists())
        .expect("scripts/setup installs faketime");
    let rig = Rig::new();
    rig.serve_primary();
    let _observed = rig.observed(&[]);
    let clock = rig.path("faketime");
    let jump = |years: i32| fs_err::write(&clock, format!("{years:+}y\n")).unwrap();
    jump(0);
    let variables = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    let _gated = rig.gated_with(&Setup::default(), &variables);
    rig.wait_state("closed_verified", 15);
    let before = rig.status().unwrap().at;
    jump(10);
    let after = rig.status().unwrap().at;
    assert!(
        after.duration_since(before).as_hours() > 80_000,
        "the gate's wall clock really jumps: {before} {after}"
    );
    let mut used = 0.0;
    for years in [10, -10] {
        jump(0);
        rig.wait_state("closed_verified", 15);
        let window = rig.open(3);
        let opened = now_ms();
        let stream = rig.pull();
        wait("bytes", Duration::from_secs(4), || stream.bytes() > 100_000);
        jump(years);
        wait("closed", Duration::from_secs(20), || rig.state() == "closed_verified");
        assert!(stream.last() - opened <= 3100, "a byte {} ms after opening", stream.last() - opened);
        let record = rig.record(window);
        assert_eq!(record.close_reason, CloseReason::Deadline {});
        assert!(record.exposure.commanded_s >= 2.9, "{years}: {:?}", record.exposure);
        used += record.exposure.commanded_s;
        let shown = rig.status().unwrap().used_today_s;
        assert!(shown >= used - 0.1, "{years} years: {shown} s of {used} s");
    }
}

#[test]
fn idle_callers_do_not_keep_the_order_to_close_from_getting_in() {
    if !rig::long() {
        return;
    }
    let rig = Rig::new();
    let _gated = rig.gated(&Setup::default());
    wait("an answer", Duration::from_secs(10), || rig.status().is_some());
    let idle: Vec<_> = (0..40).filter_map(|_| UnixStream::connect(rig.path("gate.sock")).ok()).collect();
    assert!(idle.len() > 16 && rig.status().is_none(), "more than the gate serves");
    wait("let go", Duration::from_secs(25), || rig.status().is_some());
}
