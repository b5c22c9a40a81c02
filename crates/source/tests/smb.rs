//! Reads from a real Samba.
#![allow(clippy::unwrap_used, reason = "a test's helper may panic, too")]

mod common;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{
    Folder, Nothing, cancel_after, control, digests, once_after,
    samba::{Holder, PASSWORD, Samba, touch},
    speed,
};
use kuramori_model::{
    clock::{Clock, Random, SeededRandom, SystemClock},
    fault::{Exit, Fault},
    tree::TreePath,
};
use kuramori_source::{
    Control, Error, Phase, Report, Source,
    config::{MarkerConfig, SmbConfig, Span},
    report::Origin,
    smb::SmbSource,
};
use rustix::process::{Signal, kill_process_group};

const SECOND: Duration = Duration::from_secs(1);

fn read(config: SmbConfig, sink: &mut Folder, control: &Control) -> Result<Report, Error> {
    SmbSource::new(config).read(sink, control)
}

/// Tells a thread to end when it goes out of sight, also after a failure.
#[derive(Default)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn marker() -> MarkerConfig {
    MarkerConfig {
        pattern: "DUMP_OK_*.txt".into(),
        folder: String::new(),
        wait: Span(Duration::ZERO),
        poll: Span(SECOND / 10),
        settle: Span(SECOND / 2),
        max_age: Span(SECOND * 3600 * 20),
        slack: Span(SECOND * 2),
        names_files: false,
    }
}

fn origin(report: &Report) -> kuramori_source::report::SmbOrigin {
    let Origin::Smb(origin) = &report.origin else { panic!("{report:?}") };
    origin.clone()
}

#[test]
fn twenty_thousand_files_come_whole_and_the_second_run_reads_none() {
    let samba = Samba::start();
    let random = SeededRandom::new(20_000);
    println!("seed 20000");
    let mut bytes = 0;
    for folder in 0..200 {
        let folder = samba.dump().join(format!("患者{folder:03}/検査"));
        fs_err::create_dir_all(&folder).unwrap();
        for file in 0..100 {
            let size = match random.below(20) {
                0 => 0,
                1 => random.below(200_000),
                _ => random.below(12_000),
            };
            let mut content = vec![0; usize::try_from(size).unwrap()];
            random.fill(&mut content);
            bytes += size;
            fs_err::write(folder.join(format!("眼底写真_{file:02}.dcm")), content).unwrap();
        }
    }
    let temp = tempfile::tempdir().unwrap();
    let mut sink = Folder::new(&temp.path().join("a"));
    let report = read(samba.config(), &mut sink, &control()).unwrap();
    assert_eq!((report.files, report.bytes, report.fault_count), (20_000, bytes, 0));
    assert_eq!(report.items, 20_400);
    assert_eq!(digests(&samba.dump()), digests(&sink.root));
    assert_eq!(sink.sealed.len(), 400, "each folder is sealed once");
    println!("to a folder: {}", speed(&report));
    let report = SmbSource::new(samba.config()).read(&mut Nothing, &control()).unwrap();
    println!("to nowhere: {}", speed(&report));
    let mut again = Folder::new(&temp.path().join("b"));
    again.known.clone_from(&sink.put);
    let changed = samba.dump().join("患者007/検査/眼底写真_07.dcm");
    fs_err::write(&changed, b"new").unwrap();
    let report = read(samba.config(), &mut again, &control()).unwrap();
    println!("unchanged: {:.2} s", report.seconds);
    assert_eq!((report.files, report.kept, again.put.len()), (20_000, 19_999, 1));
}

#[test]
fn big_files_empty_files_odd_names_and_deep_folders_come_as_they_are() {
    let samba = Samba::start();
    let random = SeededRandom::new(3);
    let mut big = vec![0; 96 << 20];
    random.fill(&mut big);
    fs_err::write(samba.dump().join("動画.avi"), &big).unwrap();
    fs_err::write(samba.dump().join("edge.bin"), &big[..1 << 20]).unwrap();
    fs_err::write(samba.dump().join("edge1.bin"), &big[..=1 << 20]).unwrap();
    let mut deep = samba.dump();
    for level in 0..40 {
        deep = deep.join(format!("第{level}層"));
    }
    fs_err::create_dir_all(&deep).unwrap();
    fs_err::create_dir_all(samba.dump().join("空")).unwrap();
    fs_err::write(deep.join("empty"), b"").unwrap();
    for name in ["①㈱髙﨑.txt", "𠮷野家.txt", "が.txt", "ｶﾞ.txt", "a b  c.txt", "~$x'&%#@!.doc", "é.txt"]
    {
        fs_err::write(samba.dump().join(name), name).unwrap();
    }
    // A macOS client stores `?` as U+F025; the name must come back as it is stored, not as it is shown.
    fs_err::write(samba.dump().join("who\u{F025}.txt"), b"private use").unwrap();
    let temp = tempfile::tempdir().unwrap();
    let mut sink = Folder::new(temp.path());
    let report = read(samba.config(), &mut sink, &control()).unwrap();
    assert_eq!(report.fault_count, 0, "{:?}", report.faults);
    assert_eq!(digests(&samba.dump()), digests(&sink.root));
    assert!(sink.root.join("空").is_dir());
    let origin = origin(&report);
    println!("{origin:?}");
    println!("to a folder: {}", speed(&report));
    let report = SmbSource::new(samba.config()).read(&mut Nothing, &control()).unwrap();
    println!("to nowhere: {}", speed(&report));
    assert_eq!(origin.volume_label, "OPHDUMP");
    assert_eq!(origin.dialect, "SMB 3.1.1");
    // Only a part of the share, with things left out.
    let mut config = samba.config();
    config.folder = "第0層/第1層".into();
    config.exclude = vec!["EMPT?".into()];
    let mut part = Folder::new(&temp.path().join("part"));
    let report = read(config, &mut part, &control()).unwrap();
    assert_eq!((report.files, report.items), (0, 38));
    assert!(part.root.join("第2層/第3層").is_dir());
}

#[test]
fn the_rate_limit_holds() {
    let samba = Samba::start();
    fs_err::write(samba.dump().join("big.bin"), vec![7; 6 << 20]).unwrap();
    for file in 0..400 {
        fs_err::write(samba.dump().join(format!("{file}.bin")), vec![1; 10_000]).unwrap();
    }
    let temp = tempfile::tempdir().unwrap();
    let free = read(samba.config(), &mut Folder::new(&temp.path().join("free")), &control()).unwrap();
    let limited = Control { rate: Some(2_500_000), ..control() };
    let report = read(samba.config(), &mut Folder::new(&temp.path().join("slow")), &limited).unwrap();
    let rate = report.bytes as f64 / report.seconds;
    println!("limit 2.5 MB/s: {rate:.0} B/s; without: {:.0} B/s", free.bytes as f64 / free.seconds);
    assert!((2_125_000.0..2_875_000.0).contains(&rate), "{rate}");
    assert!(free.bytes as f64 / free.seconds > 5_000_000.0, "the limit is what slows it");
}

#[test]
fn a_file_in_use_is_a_fault_and_the_rest_comes() {
    let samba = Samba::start();
    for name in ["a.mdb", "b.mdb", "c.mdb"] {
        fs_err::write(samba.dump().join(name), name).unwrap();
    }
    let temp = tempfile::tempdir().unwrap();
    let holder = Holder::hold(&samba, "b.mdb");
    let mut sink = Folder::new(&temp.path().join("a"));
    let report = read(samba.config(), &mut sink, &control()).unwrap();
    assert_eq!((report.files, report.fault_count), (2, 1));
    assert_eq!(sink.faults.len(), 1);
    assert!(sink.faults[0].0 == "b.mdb" && sink.faults[0].1.contains("in use"), "{:?}", sink.faults);
    drop(holder);
    // Given time, the retries wait until it is free.
    let holder = Holder::hold(&samba, "b.mdb");
    let release = std::thread::spawn(move || {
        std::thread::sleep(SECOND / 2);
        drop(holder);
    });
    let mut config = samba.config();
    config.retries = 40;
    let mut sink = Folder::new(&temp.path().join("b"));
    let report = read(config, &mut sink, &control()).unwrap();
    assert_eq!((report.files, report.fault_count), (3, 0));
    release.join().unwrap();
}

#[test]
fn files_that_vanish_grow_or_are_denied_are_faults_of_their_own() {
    let samba = Samba::start();
    let dump = samba.dump();
    // `0.bin` delays the reader long enough; the others are still to come then.
    fs_err::write(dump.join("0.bin"), vec![9; 40 << 20]).unwrap();
    for file in 0..300 {
        fs_err::write(dump.join(format!("n{file:03}")), b"x").unwrap();
    }
    fs_err::write(dump.join("z-grows"), vec![1; 30 << 20]).unwrap();
    fs_err::write(dump.join("z-private"), b"secret").unwrap();
    std::fs::set_permissions(dump.join("z-private"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let temp = tempfile::tempdir().unwrap();
    let mut sink = Folder::new(temp.path());
    let gone = dump.join("n250");
    let grows = dump.join("z-grows");
    let over = Over::default();
    let was_read = over.0.clone();
    let act = once_after(8 << 20, move || {
        fs_err::remove_file(gone).unwrap();
        std::thread::spawn(move || {
            use std::io::Write;
            // Grows for as long as it is read.
            let mut file = fs_err::OpenOptions::new().append(true).open(grows).unwrap();
            while !was_read.load(Ordering::Acquire) {
                file.write_all(&[2; 100]).unwrap();
                std::thread::sleep(Duration::from_millis(10));
            }
        });
    });
    let mut config = samba.config();
    config.retry_pause = Span(Duration::from_millis(10));
    sink.slow = Some(Duration::from_millis(2));
    let report = read(config, &mut sink, &Control { progress: act, ..control() }).unwrap();
    drop(over);
    let named: BTreeSet<&str> = report.faults.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(named, BTreeSet::from(["n250", "z-grows", "z-private"]), "{:?}", report.faults);
    assert_eq!(report.fault_count, sink.faults.len() as u64);
    assert_eq!(report.files, 300);
}

#[test]
fn the_marker_decides_whether_there_is_a_dump() {
    let samba = Samba::start();
    let dump = samba.dump();
    fs_err::write(dump.join("data.bin"), b"data").unwrap();
    let temp = tempfile::tempdir().unwrap();
    let config = SmbConfig { marker: Some(marker()), ..samba.config() };
    let attempt = |config: &SmbConfig, control: &Control| {
        let mut sink = Folder::new(&temp.path().join("x"));
        read(config.clone(), &mut sink, control)
    };
    assert_eq!(attempt(&config, &control()).unwrap_err().code(), "source.marker-missing");

    // Yesterday's marker, on the very first run.
    fs_err::write(dump.join("DUMP_OK_1121.txt"), b"ok 1").unwrap();
    touch(&dump.join("data.bin"), "26 hours ago");
    touch(&dump.join("DUMP_OK_1121.txt"), "25 hours ago");
    assert_eq!(attempt(&config, &control()).unwrap_err().code(), "source.marker-old");

    // Tonight's.
    touch(&dump.join("data.bin"), "10 minutes ago");
    fs_err::write(dump.join("DUMP_OK_1122.txt"), b"ok 2").unwrap();
    let report = attempt(&config, &control()).unwrap();
    let seen = origin(&report).marker.unwrap();
    assert_eq!((seen.name.as_str(), seen.size), ("DUMP_OK_1122.txt", 4));
    let ok = digests(&dump).remove(&b"./DUMP_OK_1122.txt"[..]).unwrap();
    assert_eq!(seen.sha256, ok);

    // The same marker again is no new dump.
    let next = Control { previous: Some(seen), ..control() };
    let error = attempt(&config, &next).unwrap_err();
    assert_eq!(error.code(), "source.marker-old");
    assert!(error.to_string().contains("DUMP_OK_1122.txt"), "{error}");

    // A file newer than the marker.
    touch(&dump.join("DUMP_OK_1122.txt"), "5 minutes ago");
    fs_err::write(dump.join("late.bin"), b"late").unwrap();
    let error = attempt(&config, &control()).unwrap_err();
    assert_eq!(error.code(), "source.marker-early");
    assert!(error.to_string().contains("late.bin"), "{error}");

    // A file that still grows although its time looks old; it settles while we wait.
    touch(&dump.join("late.bin"), "10 minutes ago");
    let path = dump.join("late.bin");
    let over = Over::default();
    let settled = over.0.clone();
    let writer = std::thread::spawn(move || {
        use std::io::Write;
        while !settled.load(Ordering::Acquire) {
            fs_err::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"more").unwrap();
            touch(&path, "10 minutes ago");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    // Looks far enough apart for a writer that waits for its turn on a busy machine.
    let mut patient = config.clone();
    patient.marker.as_mut().unwrap().settle = Span(SECOND * 3 / 2);
    let error = attempt(&patient, &control()).unwrap_err();
    assert_eq!(error.code(), "source.marker-early");
    assert!(error.to_string().contains("late.bin"), "{error}");
    patient.marker.as_mut().unwrap().wait = Span(SECOND * 60);
    // It goes on for a second while it is waited for.
    let waiting = Control {
        progress: Arc::new(move |progress| {
            if progress.phase == Phase::Waiting && !over.0.load(Ordering::Acquire) {
                std::thread::sleep(SECOND);
                over.0.store(true, Ordering::Release);
            }
        }),
        ..control()
    };
    let report = attempt(&patient, &waiting).unwrap();
    drop(waiting);
    writer.join().unwrap();
    assert_eq!(report.files, 4);
    assert!(report.waited_seconds > 0.5);
}

#[test]
fn a_dump_that_begins_anew_while_it_is_read_is_no_restore_point() {
    let samba = Samba::start();
    let dump = samba.dump();
    for file in 0..3 {
        fs_err::write(dump.join(format!("{file}.bin")), vec![file; 20 << 20]).unwrap();
        touch(&dump.join(format!("{file}.bin")), "1 hour ago");
    }
    let temp = tempfile::tempdir().unwrap();
    let config = SmbConfig { marker: Some(marker()), ..samba.config() };
    let again = dump.join("DUMP_OK_1.txt");
    let restart = |act: Box<dyn FnOnce() + Send>| {
        fs_err::write(&again, b"ok").unwrap();
        touch(&again, "50 minutes ago");
        let control = Control { progress: once_after(10 << 20, act), ..control() };
        read(config.clone(), &mut Folder::new(&temp.path().join("x")), &control).unwrap_err()
    };
    let path = again.clone();
    let error = restart(Box::new(move || fs_err::remove_file(path).unwrap()));
    assert_eq!(error.code(), "source.dump-changed", "{error}");
    let path = dump.join("2.bin");
    let error = restart(Box::new(move || fs_err::write(path, b"next night's").unwrap()));
    assert_eq!(error.code(), "source.dump-changed", "{error}");
    assert!(error.to_string().contains("2.bin"), "{error}");
}

#[test]
fn refusals_name_what_is_wrong() {
    let samba = Samba::start();
    fs_err::write(samba.dump().join("a"), b"a").unwrap();
    let temp = tempfile::tempdir().unwrap();
    let attempt = |change: &dyn Fn(&mut SmbConfig)| {
        let mut config = samba.config();
        change(&mut config);
        read(config, &mut Folder::new(temp.path()), &control())
    };
    let good = attempt(&|_| ()).unwrap();
    let wrong = common::secret(samba.temp.path(), "wrong", "not-it");
    let error = attempt(&|c| c.password_file.clone_from(&wrong)).unwrap_err();
    assert_eq!((error.code(), error.exit()), ("source.wrong-password", Exit::Authentication), "{error}");
    assert!(!error.to_string().contains(PASSWORD));
    let error = attempt(&|c| c.share = "nirgends".into()).unwrap_err();
    assert_eq!(error.code(), "source.share-missing", "{error}");
    let error = attempt(&|c| c.share = "closed".into()).unwrap_err();
    assert_eq!(error.code(), "source.access-denied", "{error}");
    let error = attempt(&|c| c.folder = "無い".into()).unwrap_err();
    assert_eq!(error.code(), "source.folder-missing", "{error}");
    let error = attempt(&|c| c.port = common::free_port()).unwrap_err();
    assert_eq!(error.code(), "source.unreachable", "{error}");
    let error = attempt(&|c| c.expect.volume_serial = Some("00000001".into())).unwrap_err();
    assert_eq!(error.code(), "source.wrong-instance", "{error}");
    let known = origin(&good);
    attempt(&|c| {
        c.expect.volume_serial = Some(known.volume_serial.to_uppercase());
        c.expect.server_guid = Some(known.server_guid.clone());
    })
    .unwrap();
    fs_err::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let error = attempt(&|c| c.password_file.clone_from(&wrong)).unwrap_err();
    assert_eq!(error.code(), "source.password-file", "{error}");
}

#[test]
fn a_server_that_dies_is_named_and_one_that_comes_back_is_read_on() {
    let mut samba = Samba::start();
    let random = SeededRandom::new(77);
    for file in 0..4 {
        let mut content = vec![0; 24 << 20];
        random.fill(&mut content);
        fs_err::write(samba.dump().join(format!("{file}.bin")), content).unwrap();
    }
    fs_err::create_dir_all(samba.dump().join("sub/sub")).unwrap();
    for file in 0..500 {
        fs_err::write(samba.dump().join(format!("sub/sub/{file}")), vec![1; 3000]).unwrap();
    }
    let temp = tempfile::tempdir().unwrap();
    let group = samba.group();
    let kill = move || kill_process_group(group, Signal::KILL).unwrap();
    let mut config = samba.config();
    config.reconnect_within = Span(SECOND);
    let stop = Control { progress: once_after(30 << 20, kill), ..control() };
    let error = read(config, &mut Folder::new(&temp.path().join("a")), &stop).unwrap_err();
    assert_eq!(error.code(), "source.connection-lost", "{error}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", samba.port)), "{error}");
    assert!(error.to_string().contains(".bin"), "{error}");

    // It comes back after a moment: nothing is missing, nothing is doubled.
    samba.serve();
    let config = samba.config();
    let (back, wait) = std::sync::mpsc::channel();
    let group = samba.group();
    let stop = Control {
        progress: once_after(30 << 20, move || {
            kill_process_group(group, Signal::KILL).unwrap();
            back.send(()).unwrap();
        }),
        ..control()
    };
    let dump = samba.dump();
    let restart = std::thread::spawn(move || {
        wait.recv().unwrap();
        std::thread::sleep(SECOND / 2);
        samba.serve();
        samba
    });
    let mut sink = Folder::new(&temp.path().join("b"));
    let report = read(config, &mut sink, &stop).unwrap();
    let _samba = restart.join().unwrap();
    assert!(report.reconnects >= 1);
    assert_eq!((report.files, report.fault_count), (504, 0));
    assert_eq!(digests(&dump), digests(&sink.root));
}

#[test]
fn a_server_that_hangs_is_found_and_a_cancelled_run_ends_at_once() {
    let samba = Samba::start();
    for file in 0..4 {
        fs_err::write(samba.dump().join(format!("{file}.bin")), vec![file; 24 << 20]).unwrap();
    }
    let temp = tempfile::tempdir().unwrap();
    let error =
        read(samba.config(), &mut Folder::new(&temp.path().join("a")), &cancel_after(30 << 20)).unwrap_err();
    assert_eq!((error.code(), error.exit()), ("source.cancelled", Exit::Interrupted), "{error}");

    let group = samba.group();
    let freeze = move || kill_process_group(group, Signal::STOP).unwrap();
    let frozen = Control { progress: once_after(30 << 20, freeze), patience: SECOND * 3, ..control() };
    let begun = SystemClock.boot();
    let error = read(samba.config(), &mut Folder::new(&temp.path().join("b")), &frozen).unwrap_err();
    let took = SystemClock.boot().saturating_sub(begun);
    println!("hang found after {took:?}: {error}");
    assert_eq!(error.code(), "source.stalled", "{error}");
    assert!(took < SECOND * 60, "{took:?}");
    kill_process_group(group, Signal::CONT).unwrap();
}

#[test]
fn names_that_are_not_unicode_do_not_stop_the_listing() {
    let samba = Samba::start();
    let odd: [&[u8]; 3] = [b"half\xED\xA0\x80.txt", b"latin\xE9.txt", b"sjis\x83e\x83X\x83g.txt"];
    for name in odd {
        fs_err::write(samba.dump().join(OsStr::from_bytes(name)), b"odd").unwrap();
    }
    fs_err::write(samba.dump().join("plain.txt"), b"plain").unwrap();
    let temp = tempfile::tempdir().unwrap();
    let mut sink = Folder::new(temp.path());
    let report = read(samba.config(), &mut sink, &control()).unwrap();
    assert!(sink.root.join("plain.txt").exists());
    // Samba lists the lone surrogate and refuses to open it; we must tell. The two names that are no UTF-8
    // at all it never lists to anybody: docs/sources.md says so.
    let named: Vec<&[u8]> = sink.faulted.iter().map(TreePath::as_bytes).collect();
    assert_eq!((named, report.fault_count), (vec![odd[0]], 1), "{:?}", report.faults);
    assert_eq!(report.files, 1);
}

#[test]
fn shift_jis_names_of_an_old_server_come_as_the_same_characters() {
    let mut samba = Samba::start();
    // An old server keeps names in its own code; Samba is told so, and gives them as characters.
    let config = fs_err::read_to_string(samba.path("smb.conf")).unwrap();
    fs_err::write(samba.path("smb.conf"), config.replacen("[dump]", "unix charset = CP932\n[dump]", 1))
        .unwrap();
    samba.serve();
    // 眼底写真, ソ (whose second byte is a backslash), and a half-width ｶﾅ.
    let names: [(&[u8], &str); 3] = [
        (b"\x8a\xe1\x92\xea\x8e\xca\x90\x5e.txt", "眼底写真.txt"),
        (b"\x83\x5c.txt", "ソ.txt"),
        (b"\xb6\xc5.txt", "ｶﾅ.txt"),
    ];
    for (raw, shown) in names {
        fs_err::write(samba.dump().join(OsStr::from_bytes(raw)), shown).unwrap();
    }
    let temp = tempfile::tempdir().unwrap();
    let mut sink = Folder::new(temp.path());
    let report = read(samba.config(), &mut sink, &control()).unwrap();
    assert_eq!((report.files, report.fault_count), (3, 0), "{:?}", report.faults);
    for (_, shown) in names {
        assert_eq!(fs_err::read_to_string(sink.root.join(shown)).unwrap(), shown);
    }
}

/// The most memory that this process ever held, in MiB.
fn peak() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn one_folder_with_very_many_files_comes_in_bounded_memory() {
    let files: u64 = match std::env::var("KURAMORI_LONG").as_deref() {
        Ok("million") => 1_000_000,
        Ok(_) => 100_000,
        Err(_) => 4000,
    };
    let samba = Samba::start();
    let folder = samba.dump().join("全部");
    fs_err::create_dir(&folder).unwrap();
    for n in 0..files {
        fs_err::write(folder.join(format!("検査結果_{n:07}.dat")), n.to_le_bytes()).unwrap();
    }
    let before = peak();
    let report = SmbSource::new(samba.config()).read(&mut Nothing, &control()).unwrap();
    println!("{}; peak {before} MiB before, {} MiB after", speed(&report), peak());
    assert_eq!((report.files, report.bytes, report.fault_count), (files, files * 8, 0));
    // The listing of one folder is held: some 300 bytes per name, and nothing that grows with content.
    assert!(peak() - before < 64 + files / 2000, "{} MiB", peak() - before);
}

#[test]
fn a_port_for_a_server_is_given_once_and_is_none_of_an_outgoing_connection() {
    let ports: BTreeSet<u16> = (0..20).map(|_| common::free_port()).collect();
    assert_eq!(ports.len(), 20, "{ports:?}");
    let server = std::net::TcpListener::bind(("127.0.0.1", *ports.first().unwrap())).unwrap();
    let out = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
    assert!(out.local_addr().unwrap().port() > *ports.last().unwrap());
}
