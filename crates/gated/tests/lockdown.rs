//! A lock that was acknowledged holds, whatever happens to the gate's process and disk afterwards; only
//! enough officers end it.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod rig;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use kuramori_model::{
    clock::SeededRandom,
    gate::{Reply, Request},
};
use rig::{
    Rig,
    gate::{Process, Setup},
    long, wait,
};

/// A disk that takes its time before and after each write and flush of the gate's files (`DISK_MS`), so that
/// a kill falls between any two of them; and one that says "written" and forgets the lock (`DISK_FORGETS`).
const DISK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int ours(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return strstr(path, "/gate.jsonl") || strstr(path, "/gate.latch");
}
static void rest(void) { usleep(1000 * atoi(getenv("DISK_MS"))); }
ssize_t write(int fd, const void *bytes, size_t n) {
  ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
  if (!ours(fd)) return real(fd, bytes, n);
  rest();
  ssize_t done = getenv("DISK_FORGETS") && memmem(bytes, n, "lockdown", 8) ? (ssize_t)n : real(fd, bytes, n);
  rest();
  return done;
}
static int flush(int fd, const char *name) {
  int (*real)(int) = dlsym(RTLD_NEXT, name);
  if (!ours(fd)) return real(fd);
  rest();
  int done = real(fd);
  rest();
  return done;
}
int fsync(int fd) { return flush(fd, "fsync"); }
int fdatasync(int fd) { return flush(fd, "fdatasync"); }
"#;

fn disk(rig: &Rig) -> PathBuf {
    let (source, library) = (rig.path("disk.c"), rig.path("disk.so"));
    fs_err::write(&source, DISK).unwrap();
    rig::sh(&format!("cc -O1 -shared -fPIC -o {} {} -ldl", library.display(), source.display()));
    library
}

/// Orders the lock on a thread of its own; true if the order was acknowledged.
fn order(rig: &Rig) -> std::thread::JoinHandle<bool> {
    let mut stream = UnixStream::connect(rig.path("gate.sock")).unwrap();
    std::thread::spawn(move || {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut line = serde_json::to_vec(&Request::Lockdown { reason: "drill".into() }).unwrap();
        line.push(b'\n');
        let mut answer = String::new();
        let asked = stream.write_all(&line).and_then(|()| BufReader::new(stream).read_line(&mut answer));
        asked.is_ok() && matches!(serde_json::from_str(&answer), Ok(Reply::Status(_)))
    })
}

/// Starts the gate and waits until it knows what its log and latch say.
fn started(rig: &Rig, setup: &Setup, variables: &[(&str, String)]) -> Process {
    let gated = rig.gated_with(setup, variables);
    let start = rig::now_ms();
    while ["no answer", "boot"].contains(&rig.state().as_str()) {
        let log = fs_err::read_to_string(rig.path("gated.log")).unwrap_or_default();
        assert!(rig::now_ms() - start < 20_000, "the gate does not remember: {}\n{log}", rig.state());
        std::thread::sleep(Duration::from_millis(20));
    }
    gated
}

/// Locked is what only the quorum ends.
fn assert_held(rig: &Rig, when: &str) {
    let state = rig.state();
    assert!(state == "lockdown" || state == "fault_open", "{when}: {state}");
    assert_eq!(rig.refused(&Request::Release { release: None }), "gate.release-invalid", "{when}");
    assert_eq!(rig.refused(&rig.release(1)), "gate.release-invalid", "{when}");
    assert_eq!(rig.refused(&Request::Open { token: Box::new(rig.token(5)) }), "gate.locked", "{when}");
}

/// Orders the lock, kills the gate after some milliseconds, or right after the acknowledgement, and starts it
/// again. Whether it was acknowledged, and the state afterwards.
fn round(rig: &Rig, variables: &[(&str, String)], kill_after: Option<u64>) -> (bool, String) {
    let _ = fs_err::remove_dir_all(rig.path("state"));
    let gated = started(rig, &Setup::default(), variables);
    let order = order(rig);
    let acknowledged = if let Some(ms) = kill_after {
        std::thread::sleep(Duration::from_millis(ms));
        gated.kill();
        order.join().unwrap()
    } else {
        let acknowledged = order.join().unwrap();
        gated.kill();
        acknowledged
    };
    let _gated = started(rig, &Setup::default(), &[]);
    let state = rig.state();
    if acknowledged && state == "lockdown" {
        assert_held(rig, "after the restart");
    }
    (acknowledged, state)
}

#[test]
fn an_acknowledged_lock_holds_whenever_the_gate_is_killed() {
    const SEED: u64 = 41;
    println!("seed {SEED}");
    let rig = Rig::new();
    let library = disk(&rig);
    let random = SeededRandom::new(SEED);
    let slow = [
        ("LD_PRELOAD", library.display().to_string()),
        ("DISK_MS", (if long() { 7 } else { 4 }).to_string()),
    ];
    let (mut before, mut after, mut lost) = (0, 0, Vec::new());
    let rounds = if long() { 200 } else { 14 };
    for number in 0..rounds {
        let kill_after = (number % 4 != 0).then(|| random.below(if long() { 150 } else { 80 }));
        let (acknowledged, state) = round(&rig, &slow, kill_after);
        if acknowledged && state != "lockdown" {
            lost.push(format!("round {number}, killed after {kill_after:?}: {state}"));
        }
        if acknowledged { after += 1 } else { before += 1 }
    }
    println!("{rounds} rounds: {after} acknowledged, {before} killed before");
    assert!(after > 0 && before > 0, "the kills fall on both sides of the acknowledgement");
    let count = lost.len();
    Rig::evidence(
        "gate-lock-lost",
        &format!(
            r#"{{"what":"acknowledged locks lost over SIGKILL and restart, of {after}","unit":"locks","seed":{SEED},"n":{rounds},"min":{count},"median":{count},"p95":{count},"max":{count}}}"#
        ),
    );
    assert!(lost.is_empty(), "{lost:#?}");
    // A gate whose latch never reaches the disk is noticed.
    let mut forgets = slow.to_vec();
    forgets.push(("DISK_FORGETS", "1".to_owned()));
    let (acknowledged, state) = round(&rig, &forgets, None);
    assert!(acknowledged && state == "sealing", "the check sees a lock that is lost: {state}");
}

/// A small file system of its own.
#[derive(Debug)]
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf) -> Self {
        fs_err::create_dir(&path).unwrap();
        rig::sh(&format!("mount -t tmpfs -o size=64k tmpfs {}", path.display()));
        Self(path)
    }

    fn fill(&self) {
        let filler = self.0.join("filler");
        let (_, said) = rig::attempt(&format!("dd if=/dev/zero of={} bs=1k count=200", filler.display()));
        assert!(said.contains("No space left"), "{said}");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_lock_holds_with_a_full_disk_and_one_that_cannot_be_kept_says_so() {
    let rig = Rig::new();
    let small = Small::mount(rig.path("small"));
    let setup = Setup { state: Some(small.0.clone()), ..Setup::default() };
    let gated = started(&rig, &setup, &[]);
    wait("a place for the latch", Duration::from_secs(5), || small.0.join("gate.latch").exists());
    small.fill();
    assert!(order(&rig).join().unwrap());
    gated.kill();
    // What was written of the log before is of no use either.
    let log = small.0.join("gate.jsonl");
    fs_err::OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
    let gated = started(&rig, &setup, &[]);
    assert_eq!(rig.state(), "lockdown");
    assert_held(&rig, "with a full disk");
    gated.kill();
    // No place for the latch from the beginning: it closes and locks, and says what that is worth.
    for name in ["gate.latch", "gate.jsonl", "filler"] {
        fs_err::remove_file(small.0.join(name)).unwrap();
    }
    small.fill();
    let _gated = started(&rig, &setup, &[]);
    let request = Request::Lockdown { reason: "drill".into() };
    assert_eq!(rig.refused(&request), "gate.lock-not-kept");
    assert_eq!(rig.state(), "lockdown");
    fs_err::remove_file(small.0.join("filler")).unwrap();
    assert!(order(&rig).join().unwrap(), "with room it is kept");
}

#[test]
fn a_lock_holds_though_log_or_latch_is_torn_and_only_two_officers_end_it() {
    let rig = Rig::new();
    rig.serve_primary();
    let (log, latch) = (rig.path("state/gate.jsonl"), rig.path("state/gate.latch"));
    let cut = |path: &Path, length: u64| {
        fs_err::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
    };
    let tear = |how: &str| match how {
        "the latch is cut" => cut(&latch, 40),
        "the latch is empty" => cut(&latch, 0),
        "the latch holds zeros" => fs_err::write(&latch, [0; 512]).unwrap(),
        "the latch's end is blank" => {
            let mut bytes = fs_err::read(&latch).unwrap();
            bytes[20..].fill(b' ');
            fs_err::write(&latch, bytes).unwrap();
        }
        "the log cannot be read" => {
            let _ = fs_err::remove_file(&log);
            let _ = fs_err::create_dir(&log);
        }
        "the log's last line is cut" => {
            let length = fs_err::metadata(&log).unwrap().len();
            cut(&log, length - 9);
        }
        other => unreachable!("{other}"),
    };
    for how in [
        "the latch is cut",
        "the latch is empty",
        "the latch holds zeros",
        "the latch's end is blank",
        "the log cannot be read",
        "the log's last line is cut",
    ] {
        let _ = fs_err::remove_dir_all(rig.path("state"));
        let gated = started(&rig, &Setup::default(), &[]);
        assert!(order(&rig).join().unwrap());
        gated.kill();
        if how.starts_with("the latch") {
            // Then the log has lost its end too.
            cut(&log, 0);
        }
        tear(how);
        for start in 1..=3 {
            let gated = started(&rig, &Setup::default(), &[]);
            assert_held(&rig, &format!("{how}, start {start}"));
            gated.kill();
        }
    }
    // A log that hangs does not hold up the lock, and what was locked before the log was known holds.
    let _ = fs_err::remove_dir_all(rig.path("state"));
    fs_err::create_dir(rig.path("state")).unwrap();
    rig::sh(&format!("mkfifo {}", log.display()));
    let gated = rig.gated(&Setup::default());
    wait("an answer", Duration::from_secs(10), || rig.state() == "boot");
    assert!(order(&rig).join().unwrap());
    gated.kill();
    fs_err::remove_file(&log).unwrap();
    let gated = started(&rig, &Setup::default(), &[]);
    assert_held(&rig, "ordered while the log hung");
    let config = rig.write_config(&Setup::default());
    gated.kill();
    let line =
        format!("{} --config {} --acceptance A", env!("CARGO_BIN_EXE_kuramori-gated"), config.display());
    let (ok, said) = rig.exec("vlt", &line);
    assert!(!ok && said.contains("the gate is locked"), "no test opens a layer of a locked gate: {said}");
    // Two officers end it, for good.
    let gated = started(&rig, &Setup::default(), &[]);
    let _observed = rig.observed(&[]);
    wait("closed is proven", Duration::from_secs(10), || {
        rig.status().is_some_and(|status| status.gate.is_verified_closed())
    });
    assert_held(&rig, "proven");
    rig.ask(&rig.release(2)).unwrap();
    rig.wait_state("closed_verified", 5);
    wait("the release is on the disk", Duration::from_secs(5), || {
        !fs_err::read_to_string(&latch).unwrap().contains("drill")
    });
    gated.kill();
    let _gated = started(&rig, &Setup::default(), &[]);
    rig.wait_state("closed_verified", 10);
}
