//! Reads from a real OpenSSH server.
#![allow(clippy::unwrap_used, reason = "a test's helper may panic, too")]

mod common;

use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    time::Duration,
};

use common::{
    Folder, Nothing, cancel_after, control, digests, once_after,
    samba::touch,
    secret, speed,
    sshd::{PASSWORD, Sshd},
};
use kuramori_model::{
    clock::{Clock, Random, SeededRandom, SystemClock},
    fault::{Exit, Fault},
    tree::TreePath,
};
use kuramori_source::{
    Control, Error, Report, Source,
    config::{MarkerConfig, SftpConfig, Span},
    report::Origin,
    sftp::SftpSource,
};

fn read(config: SftpConfig, sink: &mut Folder, control: &Control) -> Result<Report, Error> {
    SftpSource::new(config).read(sink, control)
}

fn bytes(random: &SeededRandom, size: usize) -> Vec<u8> {
    let mut content = vec![0; size];
    random.fill(&mut content);
    content
}

#[test]
fn a_folder_comes_whole_over_sftp_with_shift_jis_names_and_the_second_run_reads_none() {
    let sshd = Sshd::start();
    println!("seed 31");
    let random = SeededRandom::new(31);
    let mut total = 0;
    for folder in 0..20 {
        let folder = sshd.dump().join(format!("患者{folder:03}/検査"));
        fs_err::create_dir_all(&folder).unwrap();
        for file in 0..100 {
            let content = bytes(&random, usize::try_from(random.below(12_000)).unwrap());
            total += content.len() as u64;
            fs_err::write(folder.join(format!("{file}.dat")), content).unwrap();
        }
    }
    for (name, size) in [("edge", 1 << 20), ("edge1", (1 << 20) + 1), ("動画.avi", 24 << 20), ("empty", 0)]
    {
        fs_err::write(sshd.dump().join(name), bytes(&random, size)).unwrap();
        total += size as u64;
    }
    // 眼底 in Shift_JIS, and a byte that no encoding has.
    let shift_jis = OsStr::from_bytes(b"\x8a\xe1\x92\xea.txt");
    for name in [shift_jis, OsStr::from_bytes(b"\xff\xfe"), OsStr::new("a b\n'\"\\.txt")] {
        fs_err::write(sshd.dump().join(name), b"name").unwrap();
        total += 4;
    }
    std::os::unix::fs::symlink("../elsewhere/動画", sshd.dump().join("link")).unwrap();
    let closed = sshd.dump().join("closed");
    fs_err::write(&closed, b"secret").unwrap();
    fs_err::set_permissions(&closed, std::fs::Permissions::from_mode(0o600)).unwrap();

    let temp = tempfile::tempdir().unwrap();
    let mut sink = Folder::new(&temp.path().join("a"));
    let report = read(sshd.config(), &mut sink, &control()).unwrap();
    assert_eq!((report.files, report.bytes, report.fault_count), (2007, total, 1), "{:?}", report.faults);
    assert_eq!(sink.faults, [("closed".to_owned(), "the account may not read it".to_owned())]);
    let mut truth = digests(&sshd.dump());
    assert!(truth.remove(b"./closed".as_slice()).is_some());
    assert_eq!(truth, digests(&sink.root));
    assert!(sink.root.join(shift_jis).exists());
    assert_eq!(fs_err::read_link(sink.root.join("link")).unwrap().to_str(), Some("../elsewhere/動画"));
    assert_eq!(sink.sealed.len(), 40, "each folder is sealed once");
    println!("to a folder: {}", speed(&report));
    let Origin::Sftp(origin) = &report.origin else { panic!() };
    assert_eq!(origin.host_key, sshd.host_key);
    let report = SftpSource::new(sshd.config()).read(&mut Nothing, &control()).unwrap();
    println!("to nowhere: {}", speed(&report));

    let mut again = Folder::new(&temp.path().join("b"));
    again.known.clone_from(&sink.put);
    fs_err::write(sshd.dump().join("患者007/検査/7.dat"), b"new").unwrap();
    let report = read(sshd.config(), &mut again, &control()).unwrap();
    println!("unchanged: {:.2} s", report.seconds);
    assert_eq!((report.files, report.kept, again.put.len()), (2007, 2006, 1));

    let excluding = SftpConfig { exclude: vec!["患者*".into(), "*.avi".into()], ..sshd.config() };
    let mut some = Folder::new(&temp.path().join("c"));
    assert_eq!(read(excluding, &mut some, &control()).unwrap().files, 6);
}

#[test]
fn a_wrong_host_a_wrong_key_a_wrong_password_and_nobody_are_told_apart() {
    let sshd = Sshd::start();
    fs_err::write(sshd.dump().join("a"), b"a").unwrap();
    let temp = tempfile::tempdir().unwrap();
    let fails = |config: SftpConfig, code: &str| {
        let mut sink = Folder::new(&temp.path().join("x"));
        let error = read(config, &mut sink, &control()).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(sink.put.is_empty());
        error
    };
    let good = sshd.config();
    let by_password = |text: &str| SftpConfig {
        key_file: None,
        password_file: Some(secret(sshd.temp.path(), "password", text)),
        ..good.clone()
    };
    let stranger = fs_err::read_to_string(sshd.path("stranger.pub")).unwrap().trim().to_owned();
    let error =
        fails(SftpConfig { host_keys: vec![stranger.clone()], ..good.clone() }, "source.wrong-instance");
    assert!(error.to_string().contains(&stranger), "it names what was expected: {error}");
    let error =
        fails(SftpConfig { key_file: Some(sshd.path("stranger")), ..good.clone() }, "source.wrong-password");
    assert_eq!(error.exit(), Exit::Authentication);
    fails(by_password("wrong"), "source.wrong-password");
    fails(SftpConfig { port: common::free_port(), ..good.clone() }, "source.unreachable");
    fails(SftpConfig { folder: "/no/such".into(), ..good.clone() }, "source.folder-missing");
    let closed = sshd.path("closed");
    fs_err::create_dir(&closed).unwrap();
    fs_err::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    fails(SftpConfig { folder: closed.display().to_string(), ..good.clone() }, "source.access-denied");
    fs_err::set_permissions(sshd.path("client"), std::fs::Permissions::from_mode(0o644)).unwrap();
    fails(good.clone(), "source.password-file");
    fs_err::set_permissions(sshd.path("client"), std::fs::Permissions::from_mode(0o600)).unwrap();
    // The same ways work when they are right: so the refusals above are refusals.
    for config in [
        good.clone(),
        by_password(PASSWORD),
        SftpConfig { host_keys: vec![stranger, sshd.host_key.clone()], ..good },
    ] {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(read(config, &mut Folder::new(temp.path()), &control()).unwrap().files, 1);
    }
}

#[test]
fn a_line_that_breaks_in_the_middle_of_a_file_is_brought_back_and_a_changed_file_is_never_patched_together() {
    let sshd = Sshd::start();
    println!("seed 32");
    let random = SeededRandom::new(32);
    let big = sshd.dump().join("b-big.bin");
    fs_err::write(&big, bytes(&random, 48 << 20)).unwrap();
    for n in 0..40 {
        fs_err::write(sshd.dump().join(format!("c{n:02}")), bytes(&random, 5000)).unwrap();
    }
    let temp = tempfile::tempdir().unwrap();
    let listener = sshd.pid();
    let cutting = Control { progress: once_after(9 << 20, move || Sshd::cut(listener)), ..control() };
    let mut sink = Folder::new(&temp.path().join("a"));
    let report = read(sshd.config(), &mut sink, &cutting).unwrap();
    assert_eq!((report.reconnects, report.fault_count, report.files), (1, 0, 41));
    assert_eq!(digests(&sshd.dump()), digests(&sink.root));

    // The file is another one when the line is back.
    let changed = big.clone();
    let act = move || {
        fs_err::write(&changed, vec![1; 48 << 20]).unwrap();
        touch(&changed, "now + 1 hour");
        Sshd::cut(listener);
    };
    let mut sink = Folder::new(&temp.path().join("b"));
    let report =
        read(sshd.config(), &mut sink, &Control { progress: once_after(9 << 20, act), ..control() }).unwrap();
    assert_eq!((report.fault_count, report.files), (1, 40));
    assert_eq!(sink.faulted, [TreePath::new("b-big.bin").unwrap()]);

    // It stays away: an error, and soon.
    let impatient = SftpConfig { reconnects: 0, ..sshd.config() };
    let cutting = Control { progress: once_after(9 << 20, move || Sshd::cut(listener)), ..control() };
    let error = read(impatient, &mut Folder::new(&temp.path().join("c")), &cutting).unwrap_err();
    assert_eq!(error.code(), "source.connection-lost", "{error}");
    let error =
        read(sshd.config(), &mut Folder::new(&temp.path().join("d")), &cancel_after(9 << 20)).unwrap_err();
    assert_eq!(error.code(), "source.cancelled");
}

#[test]
fn over_sftp_too_the_marker_decides_whether_there_is_a_dump_and_the_rate_is_kept() {
    let sshd = Sshd::start();
    let temp = tempfile::tempdir().unwrap();
    fs_err::write(sshd.dump().join("dump.dat"), vec![3; 6 << 20]).unwrap();
    let marker = MarkerConfig { settle: Span(Duration::from_millis(200)), ..MarkerConfig::new("OK_*.txt") };
    let config = SftpConfig { marker: Some(marker), ..sshd.config() };
    let ask = |control: &Control| read(config.clone(), &mut Folder::new(&temp.path().join("x")), control);
    let code = |control: &Control| ask(control).unwrap_err().code();
    assert_eq!(code(&control()), "source.marker-missing");
    let flag = sshd.dump().join("OK_1.txt");
    fs_err::write(&flag, "done").unwrap();
    touch(&flag, "now - 3 days");
    assert_eq!(code(&control()), "source.marker-old");
    touch(&flag, "now");
    touch(&sshd.dump().join("dump.dat"), "now + 1 minute");
    assert_eq!(code(&control()), "source.marker-early");
    touch(&sshd.dump().join("dump.dat"), "now - 1 minute");
    let begun = SystemClock.boot();
    let report = ask(&Control { rate: Some(4 << 20), ..control() }).unwrap();
    let seconds = SystemClock.boot().saturating_sub(begun).as_secs_f64();
    assert!(seconds >= 1.2, "6 MiB at 4 MiB/s took {seconds:.2} s");
    let Origin::Sftp(origin) = report.origin else { panic!() };
    let seen = origin.marker.unwrap();
    assert_eq!((seen.name.as_str(), seen.size), ("OK_1.txt", 4));
    assert_eq!(code(&Control { previous: Some(seen), ..control() }), "source.marker-old");
}
