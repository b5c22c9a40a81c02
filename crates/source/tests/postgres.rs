//! Copies a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test's helper may panic, too")]

mod common;

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::Stdio,
    time::Duration,
};

use common::{
    Folder, Nothing, cancel_after, control, once_after,
    postgres::{Postgres, own, run, verify},
    secret, speed,
};
use kuramori_model::{
    clock::{Clock, SystemClock},
    fault::{Exit, Fault},
    units::Bytes,
};
use kuramori_source::{
    Control, Error, Report, Source,
    config::{PostgresConfig, TlsConfig},
    postgres::PostgresSource,
    report::{Origin, PostgresOrigin},
};
use rustix::process::{Signal, kill_process, kill_process_group};

const SUMS: &str = "SELECT count(*), sum(amount), sum(hashtext(name)) FROM orders";

fn read(config: PostgresConfig, sink: &mut Folder, control: &Control) -> Result<Report, Error> {
    PostgresSource::new(config).read(sink, control)
}

fn origin(report: &Report) -> PostgresOrigin {
    let Origin::Postgres(origin) = &report.origin else { panic!("{report:?}") };
    origin.clone()
}

/// A cluster with orders that do not change and pgbench's tables that may.
fn billing(scale: &str) -> Postgres {
    let postgres = Postgres::start("");
    postgres.sql("postgres", "CREATE DATABASE billing");
    postgres.sql(
        "billing",
        "CREATE TABLE orders AS SELECT n AS id, '患者' || n AS name, (n * 37) % 1000 AS amount \
         FROM generate_series(1, 50000) n",
    );
    run(postgres.client("pgbench").args(["-i", "-q", "-s", scale, "billing"]));
    postgres
}

#[test]
fn a_backup_under_load_passes_pg_verifybackup_and_starts_with_the_same_sums() {
    let scale = if std::env::var_os("KURAMORI_LONG").is_some() { "40" } else { "8" };
    let postgres = billing(scale);
    let space = postgres.temp.path().join("space");
    postgres.sql("postgres", &format!("CREATE TABLESPACE archive LOCATION '{}'", space.display()));
    postgres.sql("billing", "CREATE TABLE old TABLESPACE archive AS SELECT generate_series(1, 100000) AS n");
    let sums = postgres.sql("billing", SUMS);
    let mut load = postgres
        .client("pgbench")
        .args(["-c", "2", "-T", "60", "billing"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    common::until("load", || postgres.sql("billing", "SELECT count(*) FROM pgbench_history").trim() != "0");
    let mut restored = Postgres::empty();
    let mut sink = Folder::new(&restored.data());
    let report = read(postgres.config(), &mut sink, &control()).unwrap();
    let during: u64 = postgres.sql("billing", "SELECT count(*) FROM pgbench_history").trim().parse().unwrap();
    load.kill().unwrap();
    load.wait().unwrap();
    let facts = origin(&report);
    println!("{facts:#?}");
    println!("to a folder, under load: {}", speed(&report));
    let idle = PostgresSource::new(postgres.config()).read(&mut Nothing, &control()).unwrap();
    println!("to nowhere: {}", speed(&idle));
    let identifier = postgres.sql("postgres", "SELECT system_identifier FROM pg_control_system()");
    assert_eq!(facts.system_identifier, identifier.trim());
    assert!(facts.data_checksums && facts.version.starts_with("15.") && facts.timeline == 1);
    assert!(facts.lsn_start.contains('/') && facts.lsn_end.contains('/') && facts.lsn_start != facts.lsn_end);
    assert!(facts.database_bytes > 50_000_000 && report.bytes > facts.database_bytes / 2);
    assert_eq!(facts.tablespaces.len(), 1);
    assert!(!sink.sealed.is_empty() && sink.faults.is_empty());
    let left = postgres.sql("postgres", "SELECT count(*) FROM pg_replication_slots");
    assert_eq!(left.trim(), "0", "the temporary slot is gone");

    let data = restored.data();
    let control_file = fs_err::metadata(data.join("global/pg_control")).unwrap();
    assert_eq!(control_file.mode() & 0o7777, 0o600);
    assert_eq!(fs_err::metadata(data.join("base")).unwrap().mode() & 0o7777, 0o700);
    let oid = facts.tablespaces[0].oid;
    assert!(fs_err::symlink_metadata(data.join(format!("pg_tblspc/{oid}"))).unwrap().is_dir());
    own(&data);
    let verdict = verify(&data);
    let text =
        String::from_utf8_lossy(&verdict.stdout).into_owned() + &String::from_utf8_lossy(&verdict.stderr);
    assert!(verdict.status.success() && text.contains("backup successfully verified"), "{text}");

    // The original's settings, hba file included, came along; only the port differs.
    restored.serve(&facts.start_options);
    assert_eq!(restored.sql("billing", SUMS), sums);
    assert_eq!(restored.sql("billing", "SELECT count(*), sum(n) FROM old"), "100000|5000050000\n");
    let balance =
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)";
    assert_eq!(restored.sql("billing", balance).trim(), "t", "transactions are whole or absent");
    let kept: u64 = restored.sql("billing", "SELECT count(*) FROM pgbench_history").trim().parse().unwrap();
    assert!(0 < kept && kept <= during, "{kept} of {during}");

    // The same judges notice one flipped byte.
    restored.stop();
    let mut bytes = fs_err::read(data.join("PG_VERSION")).unwrap();
    bytes[0] ^= 1;
    fs_err::write(data.join("PG_VERSION"), bytes).unwrap();
    assert!(!verify(&data).status.success());
}

#[test]
fn refusals_name_what_is_wrong() {
    let postgres = Postgres::start("");
    let temp = tempfile::tempdir().unwrap();
    let attempt = |change: &dyn Fn(&mut PostgresConfig)| {
        let mut config = postgres.config();
        change(&mut config);
        let target = tempfile::tempdir_in(temp.path()).unwrap();
        read(config, &mut Folder::new(target.path()), &control())
    };
    let good = attempt(&|_| ()).unwrap();
    let identifier = origin(&good).system_identifier;
    attempt(&|c| c.expect.system_identifier = Some(identifier.clone())).unwrap();
    let error = attempt(&|c| c.expect.system_identifier = Some("7000000000000000001".into())).unwrap_err();
    assert_eq!(error.code(), "source.wrong-instance");
    assert!(error.to_string().contains(&identifier), "{error}");
    let wrong = secret(temp.path(), "wrong", "not-it");
    for user in ["kuramori", "old"] {
        let error = attempt(&|c| {
            c.user = user.into();
            c.password_file = Some(wrong.clone());
        })
        .unwrap_err();
        assert_eq!((error.code(), error.exit()), ("source.wrong-password", Exit::Authentication), "{error}");
    }
    attempt(&|c| c.user = "old".into()).unwrap();
    attempt(&|c| {
        c.user = "trusted".into();
        c.password_file = None;
    })
    .unwrap();
    let error = attempt(&|c| c.password_file = None).unwrap_err();
    assert_eq!(error.code(), "source.login-refused", "{error}");
    let error = attempt(&|c| c.user = "nobody-there".into()).unwrap_err();
    assert_eq!(error.code(), "source.login-refused", "{error}");
    assert!(error.to_string().contains("pg_hba.conf"), "{error}");
    let error = attempt(&|c| c.port = common::free_port()).unwrap_err();
    assert_eq!(error.code(), "source.unreachable", "{error}");
    // TLS that the server does not offer is no reason to go on in clear.
    let ca = temp.path().join("ca.pem");
    fs_err::write(&ca, "").unwrap();
    let tls = TlsConfig { ca_file: ca, server_name: None };
    let error = attempt(&|c| c.tls = Some(tls.clone())).unwrap_err();
    assert_eq!(error.code(), "source.tls", "{error}");
    println!("{error}");
}

#[test]
fn tls_trusts_only_the_hospitals_own_authority() {
    let temp = tempfile::tempdir().unwrap();
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = parameters.self_signed(&key).unwrap();
        let path = temp.path().join(format!("{name}.pem"));
        fs_err::write(&path, certificate.pem()).unwrap();
        (rcgen::Issuer::new(parameters, key), path)
    };
    let (issuer, trusted) = authority("hospital");
    let (_, stranger) = authority("stranger");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["billing.hospital".into()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let mut postgres = Postgres::start("");
    let data = postgres.data();
    postgres.stop();
    fs_err::write(data.join("server.crt"), certificate.pem()).unwrap();
    fs_err::write(data.join("server.key"), key.serialize_pem()).unwrap();
    fs_err::set_permissions(data.join("server.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    own(&data);
    postgres.serve(&["-c".into(), "ssl=on".into()]);
    let attempt = |ca: &std::path::Path, name: Option<&str>, user: &str| {
        let mut config = postgres.config();
        config.user = user.into();
        config.tls = Some(TlsConfig { ca_file: ca.to_owned(), server_name: name.map(str::to_owned) });
        let target = tempfile::tempdir_in(temp.path()).unwrap();
        read(config, &mut Folder::new(target.path()), &control())
    };
    let report = attempt(&trusted, Some("billing.hospital"), "kuramori").unwrap();
    assert!(origin(&report).encrypted);
    println!("TLS: {:.0} MB/s", report.bytes as f64 / 1e6 / report.seconds);
    attempt(&trusted, Some("billing.hospital"), "plain").unwrap();
    for (ca, name) in
        [(&stranger, Some("billing.hospital")), (&trusted, Some("pacs.hospital")), (&trusted, None)]
    {
        let error = attempt(ca, name, "kuramori").unwrap_err();
        assert_eq!(error.code(), "source.tls", "{error}");
    }
}

#[test]
fn the_rate_limit_holds_on_either_side() {
    let postgres = Postgres::start("");
    let temp = tempfile::tempdir().unwrap();
    let free = read(postgres.config(), &mut Folder::new(&temp.path().join("free")), &control()).unwrap();
    let wanted = free.bytes / 6;
    let ours = Control { rate: Some(wanted), ..control() };
    let report = read(postgres.config(), &mut Folder::new(&temp.path().join("ours")), &ours).unwrap();
    let rate = report.bytes as f64 / report.seconds;
    println!("our limit {wanted} B/s: {rate:.0} B/s; without: {:.0} B/s", free.bytes as f64 / free.seconds);
    assert!((rate / wanted as f64 - 1.0).abs() < 0.15, "{rate} instead of {wanted}");
    let mut config = postgres.config();
    config.max_rate = Some(Bytes(wanted));
    let report = read(config, &mut Folder::new(&temp.path().join("theirs")), &control()).unwrap();
    let rate = report.bytes as f64 / report.seconds;
    println!("the server's limit {wanted} B/s: {rate:.0} B/s");
    // The write-ahead log comes on top of what the server limits.
    assert!((0.6..1.9).contains(&(rate / wanted as f64)), "{rate} instead of {wanted}");
    assert!(free.seconds < 0.75 * report.seconds, "the limit is what slows it: {} s without", free.seconds);
}

#[test]
fn a_server_that_dies_hangs_or_a_cancelled_run_is_never_a_backup() {
    let mut postgres = billing("4");
    let temp = tempfile::tempdir().unwrap();
    let error = read(postgres.config(), &mut Folder::new(&temp.path().join("a")), &cancel_after(20 << 20))
        .unwrap_err();
    assert_eq!(error.code(), "source.cancelled", "{error}");

    let pid = postgres.pid();
    let quit = Control {
        progress: once_after(20 << 20, move || kill_process(pid, Signal::QUIT).unwrap()),
        ..control()
    };
    let mut config = postgres.config();
    // Slow enough that it is still in the middle.
    config.max_rate = Some(Bytes(40 << 20));
    let error = read(config.clone(), &mut Folder::new(&temp.path().join("b")), &quit).unwrap_err();
    assert_eq!(error.code(), "source.connection-lost", "{error}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", postgres.port)), "{error}");
    println!("{error}");

    postgres.stop();
    postgres.serve(&[]);
    let group = postgres.pid();
    let kill = Control {
        progress: once_after(20 << 20, move || kill_process_group(group, Signal::KILL).unwrap()),
        ..control()
    };
    let error = read(config.clone(), &mut Folder::new(&temp.path().join("c")), &kill).unwrap_err();
    assert_eq!(error.code(), "source.connection-lost", "{error}");

    postgres.stop();
    postgres.serve(&[]);
    let parent = postgres.pid().as_raw_nonzero().to_string();
    let sender = move || {
        let out =
            std::process::Command::new("pgrep").args(["-P", &parent, "-f", "walsender"]).output().unwrap();
        let found = String::from_utf8_lossy(&out.stdout).into_owned();
        found
            .lines()
            .filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?))
            .collect::<Vec<_>>()
    };
    let frozen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = frozen.clone();
    let freeze = Control {
        progress: once_after(20 << 20, move || {
            for pid in sender() {
                kill_process(pid, Signal::STOP).unwrap();
                record.lock().unwrap().push((pid, SystemClock.boot()));
            }
        }),
        patience: Duration::from_secs(3),
        ..control()
    };
    let error = read(config, &mut Folder::new(&temp.path().join("d")), &freeze).unwrap_err();
    let now = SystemClock.boot();
    let frozen = std::mem::take(&mut *frozen.lock().unwrap());
    for (pid, _) in &frozen {
        let _ = kill_process(*pid, Signal::CONT);
    }
    let since = frozen.iter().map(|(_, since)| *since).min().expect("a sender was frozen");
    let took = now.saturating_sub(since);
    println!("{took:?}: {error}");
    assert_eq!(error.code(), "source.stalled", "{error}");
    assert!(took < Duration::from_mins(1), "{took:?}");
}
