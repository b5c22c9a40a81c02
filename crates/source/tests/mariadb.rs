//! Dumps a real MariaDB and plays the dump into another one.
#![allow(clippy::unwrap_used, reason = "a test's helper may panic, too")]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use common::{Folder, control, mariadb::Mariadb, once_after, secret};
use kuramori_model::{binlog::Index, fault::Fault};
use kuramori_source::{
    Control, Error, Report, Source,
    command::CommandSource,
    config::{BinlogConfig, CommandConfig, MariadbConfig, MariadbExpect, Span},
    mariadb::{FILE, MariadbSource},
    report::Origin,
};
use rustix::process::{Signal, kill_process_group};

fn read(config: MariadbConfig, sink: &mut Folder, control: &Control) -> Result<Report, Error> {
    MariadbSource::new(config).read(sink, control)
}

/// What must come back: rows of every kind, and what acts on them.
const SCHEMA: &str = "
CREATE DATABASE 検体検査; USE 検体検査;
CREATE TABLE accounts (id INT PRIMARY KEY, amount BIGINT NOT NULL) ENGINE=InnoDB;
INSERT INTO accounts SELECT seq, 1000 FROM seq_1_to_200;
CREATE TABLE results (id INT PRIMARY KEY AUTO_INCREMENT, patient VARCHAR(40), taken DATETIME(6), image LONGBLOB,
  value DECIMAL(20,6), note TEXT, done TIMESTAMP NULL) ENGINE=InnoDB;
INSERT INTO results (patient, taken, image, value, note, done)
  SELECT CONCAT('患者𠮷', seq), '2026-11-22 01:02:03.456789', UNHEX(REPEAT(SHA2(seq, 256), 40)), seq / 7,
         CONCAT('所見\\'\"\\\\\\n;-- ', seq), FROM_UNIXTIME(1760000000 + seq) FROM seq_1_to_3000;
CREATE TABLE audit (id INT PRIMARY KEY AUTO_INCREMENT, what TEXT) ENGINE=InnoDB;
CREATE TRIGGER noted AFTER UPDATE ON results FOR EACH ROW INSERT INTO audit (what) VALUES (CONCAT('更新 ', NEW.id));
CREATE VIEW high AS SELECT id, patient FROM results WHERE value > 400;
CREATE PROCEDURE twice (IN a INT, OUT b INT) SET b = a * 2;
CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01' DO DELETE FROM audit WHERE id < 0;
CREATE DATABASE old; CREATE TABLE old.counters (n INT) ENGINE=MyISAM; INSERT INTO old.counters VALUES (7);
";

/// One line that two servers agree on only if they hold the same.
const SUMS: &str = "SELECT COUNT(*), SUM(CRC32(patient)), BIT_XOR(CRC32(image)), SUM(value), SUM(CRC32(note)), \
                    MIN(taken), SUM(UNIX_TIMESTAMP(done)) FROM 検体検査.results; SELECT COUNT(*) FROM 検体検査.high; \
                    SELECT n FROM old.counters";

#[test]
fn a_dump_under_load_is_consistent_and_another_server_gives_the_same_sums() {
    let server = Mariadb::start(true);
    server.sql(SCHEMA);
    // Money goes from account to account all the time; its sum never changes.
    let (stop, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let temp = tempfile::tempdir().unwrap();
    let mut sink = Folder::new(temp.path());
    let report = std::thread::scope(|scope| {
        let (server, moving, done) = (&server, Arc::clone(&moved), Arc::clone(&stop));
        scope.spawn(move || {
            while !done.load(Ordering::Acquire) {
                let n = moving.fetch_add(1, Ordering::AcqRel);
                let (a, b) = (n % 200 + 1, (n * 7 + 3) % 200 + 1);
                let one = format!(
                    "START TRANSACTION; UPDATE accounts SET amount = amount - 5 WHERE id = {a}; \
                         UPDATE accounts SET amount = amount + 5 WHERE id = {b}; COMMIT;"
                )
                .repeat(20);
                server.sql(&format!("USE 検体検査; {one}"));
            }
        });
        common::until("the load", || moved.load(Ordering::Acquire) > 2);
        // The dump stands still in its middle until the load has gone on beside it.
        let (goes, beside) = (Arc::clone(&moved), Arc::new(AtomicBool::new(false)));
        let seen = Arc::clone(&beside);
        let middle = once_after(1 << 20, move || {
            let before = goes.load(Ordering::Acquire);
            common::until("the load beside the dump", || goes.load(Ordering::Acquire) > before + 1);
            seen.store(true, Ordering::Release);
        });
        let slow = Control { rate: Some(2 << 20), progress: middle, ..control() };
        let report = read(server.config(), &mut sink, &slow);
        stop.store(true, Ordering::Release);
        assert!(beside.load(Ordering::Acquire), "the load went on during the dump");
        report
    })
    .unwrap();
    println!("{}: {:.2} s", common::speed(&report), report.seconds);
    let Origin::Mariadb(origin) = &report.origin else { panic!() };
    assert_eq!((origin.databases, origin.tables), (2, 4));
    assert_eq!(origin.without_transactions, ["old.counters MyISAM"]);
    assert!(report.consistency.ja.contains("1個") && origin.version.contains("MariaDB"), "{origin:?}");

    let fresh = Mariadb::start(false);
    fresh.load(&sink.root.join(FILE));
    assert_eq!(fresh.sql("SELECT SUM(amount), COUNT(*) FROM 検体検査.accounts"), "200000\t200");
    assert_eq!(fresh.sql(SUMS), server.sql(SUMS));
    assert_eq!(fresh.sql("CALL 検体検査.twice(21, @b); SELECT @b"), "42");
    fresh.sql("UPDATE 検体検査.results SET value = 1 WHERE id = 3");
    assert_eq!(fresh.sql("SELECT what FROM 検体検査.audit"), "更新 3");
    let count = "SELECT COUNT(*) FROM information_schema.events WHERE event_schema = '検体検査'";
    assert_eq!(fresh.sql(count), "1");
    // The accounts came along: the reader can log in there as well.
    fresh.sql("FLUSH PRIVILEGES");
    assert_eq!(fresh.sql("SELECT COUNT(*) FROM mysql.global_priv WHERE user = 'kuramori'"), "1");

    // Two nights with the same content are the same bytes.
    let twice = |name: &str| {
        let mut sink = Folder::new(&temp.path().join(name));
        read(server.config(), &mut sink, &control()).unwrap();
        fs_err::read(sink.root.join(FILE)).unwrap()
    };
    assert!(twice("x") == twice("y"), "an unchanged database gives the same dump");
}

#[test]
fn the_binary_log_comes_with_the_dump_and_a_hole_in_it_is_on_record() {
    let server = Mariadb::start(true);
    server.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY) ENGINE=InnoDB; INSERT INTO d.t VALUES (1);\
         CREATE TABLE d.weak (id INT PRIMARY KEY) ENGINE=MyISAM",
    );
    let temp = tempfile::tempdir().unwrap();
    let log = BinlogConfig {
        spool: temp.path().join("spool"),
        dump_every: Span(std::time::Duration::from_hours(24)),
    };
    let config = MariadbConfig { binlog: Some(log), ..server.config() };
    let root = temp.path().join("points");
    let mut known = std::collections::BTreeMap::new();
    // What is not committed is not known to the next run; neither is anything where the point is forgotten.
    let mut run = |config: &MariadbConfig, committed: bool, forgotten: bool| {
        let root = if committed { root.clone() } else { temp.path().join("lost") };
        let mut sink = Folder::new(&root);
        if !forgotten {
            sink.known.clone_from(&known);
        }
        let report = read(config.clone(), &mut sink, &control()).unwrap();
        let kept = sink.kept.iter().map(|path| (path.clone(), sink.known[path]));
        let all: std::collections::BTreeMap<_, _> = sink.put.clone().into_iter().chain(kept).collect();
        assert_eq!(report.files, u64::try_from(all.len()).unwrap());
        if committed {
            known = all;
        }
        // The table without transactions may take part twice in what the log brings back.
        assert!(report.consistency.en.contains("1 tables have no transactions"), "{:?}", report.consistency);
        assert!(report.consistency.ja.contains("1個"), "{:?}", report.consistency);
        let Origin::Mariadb(origin) = report.origin else { panic!() };
        let index: Index =
            serde_json::from_slice(&fs_err::read(root.join("binlog/index.json")).unwrap()).unwrap();
        (report.kept, origin.binlog.unwrap(), index)
    };
    let mut point = |config: &MariadbConfig| run(config, true, false);
    let (kept, first, index) = point(&config);
    assert_eq!((kept, first.files, first.lost), (0, 1, None));
    assert_eq!(index.utc_offset, Some(9 * 3600), "the server's own zone");
    for id in 2..=4 {
        server.sql(&format!("INSERT INTO d.t VALUES ({id}); FLUSH BINARY LOGS"));
        // Runs that fail at their very end do not break the log off.
        run(&config, false, false);
    }
    let mut point = |config: &MariadbConfig| run(config, true, false);
    server.sql("INSERT INTO d.t VALUES (5)");
    let (kept, second, now) = point(&config);
    assert!(kept == 1 && second.files == 4 && second.earliest == first.earliest, "{second:?}");
    assert!(now.reach(&index).unwrap() >= index.end.time && now.chain == index.chain);
    // Whole files are not read again, and what the server removes after us is no hole.
    common::until("the purge", || {
        server.sql(&format!("PURGE BINARY LOGS TO '{}'", now.end.at.file));
        server.sql("SHOW BINARY LOGS").lines().count() == 1
    });
    let (kept, third, _) = point(&config);
    assert_eq!((kept, third.files, third.lost), (4, 4, None));
    // The files are what the server wrote: its own program reads them.
    let out = std::process::Command::new("mysqlbinlog")
        .args(["--no-defaults", "--verify-binlog-checksum"])
        .args(now.files.iter().map(|name| root.join("binlog").join(name)))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(String::from_utf8_lossy(&out.stdout).matches("INSERT INTO d.t").count(), 5);

    // Removed before we read it: a hole, a new dump, and nothing of before is joined with it.
    server.sql("INSERT INTO d.t VALUES (6); FLUSH BINARY LOGS; FLUSH BINARY LOGS");
    let newest = server.sql("SHOW MASTER STATUS").split('\t').next().unwrap().to_owned();
    // A file that somebody still reads stays.
    common::until("the purge", || {
        server.sql(&format!("PURGE BINARY LOGS TO '{newest}'"));
        server.sql("SHOW BINARY LOGS").lines().count() == 1
    });
    let (kept, fourth, after) = point(&config);
    assert!(kept == 0 && fourth.lost.as_ref().unwrap().contains("no longer has"), "{fourth:?}");
    assert!(after.reach(&index).is_err() && after.reach(&after).is_ok());
    // A repository that does not know the point: a new dump, and the same log.
    let (kept, again, same) = run(&config, true, true);
    assert!(kept == 0 && again.lost.is_none() && same.reach(&after).is_ok(), "{again:?}");
    // A server that begins to count anew has another log with the same names; also when it has overtaken ours.
    let mut before = same;
    for overtakes in [false, true] {
        server.sql("RESET MASTER");
        let ours = before.end.at.clone();
        common::until("its log to be as long", || {
            server.sql("REPLACE INTO d.t VALUES (7)");
            let status = server.sql("SHOW MASTER STATUS");
            let mut words = status.split('\t');
            let (file, position) = (words.next().unwrap(), words.next().unwrap());
            if !overtakes || file > ours.file.as_str() {
                return true;
            }
            if position.parse::<u64>().unwrap() > ours.position {
                server.sql("FLUSH BINARY LOGS");
            }
            false
        });
        let (_, lost, anew) = run(&config, true, false);
        assert!(
            lost.lost.is_some() && anew.chain != before.chain && anew.reach(&before).is_err(),
            "{lost:?}"
        );
        before = anew;
    }
}

#[test]
fn a_physical_copy_by_a_declared_command_runs_as_it_is_once_prepared() {
    let mut server = Mariadb::start(false);
    server.sql(SCHEMA);
    let (sums, weak) = (server.sql(SUMS), server.sql("SELECT n FROM old.counters"));
    let temp = tempfile::tempdir().unwrap();
    let socket = server.path("socket").display().to_string();
    let data = server.path("data").display().to_string();
    let declared = temp.path().join("commands.toml");
    let text = format!(
        "[command.lab]\nrun = [\"mariadb-backup\", \"--no-defaults\", \"--backup\", \"--stream=mbstream\", \
         \"--user=root\", \"--socket={socket}\", \"--datadir={data}\", \"--target-dir={}\"]\n",
        temp.path().join("scratch").display()
    );
    fs_err::write(&declared, text).unwrap();
    let config = CommandConfig {
        server: "lab".into(),
        name: "lab".into(),
        file: "lab.mbstream".into(),
        declared_in: declared,
    };
    let mut sink = Folder::new(&temp.path().join("point"));
    let report = CommandSource::new(config.clone()).read(&mut sink, &control()).unwrap();
    println!("{}", common::speed(&report));
    server.kill();
    // It reads the data folder and asks the server: without the server there is no copy.
    let error =
        CommandSource::new(config).read(&mut Folder::new(&temp.path().join("x")), &control()).unwrap_err();
    assert_eq!(error.code(), "source.command", "{error}");
    fs_err::remove_dir_all(server.path("data")).unwrap();
    let script = "mkdir \"$1\" && mbstream -x -C \"$1\" <\"$2\" && \
                  mariadb-backup --no-defaults --prepare --target-dir=\"$1\" && chown -R mysql: \"$1\"";
    let out = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(server.path("data"))
        .arg(sink.root.join("lab.mbstream"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    server.serve();
    assert_eq!((server.sql(SUMS), server.sql("SELECT n FROM old.counters")), (sums, weak));
}

#[test]
fn a_server_that_dies_in_the_middle_and_a_wrong_login_are_never_a_dump() {
    let mut server = Mariadb::start(true);
    server.sql(
        "CREATE DATABASE big; USE big; CREATE TABLE big.t (id INT PRIMARY KEY, x LONGBLOB) ENGINE=InnoDB;\
                INSERT INTO big.t SELECT seq, REPEAT(SHA2(seq, 512), 4000) FROM seq_1_to_60",
    );
    let temp = tempfile::tempdir().unwrap();
    let fails = |config: MariadbConfig, control: &Control, code: &str| {
        let error = read(config, &mut Folder::new(&temp.path().join("x")), control).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    };
    let good = server.config();
    let wrong = secret(server.temp.path(), "wrong", "wrong");
    fails(MariadbConfig { password_file: wrong, ..good.clone() }, &control(), "source.wrong-password");
    fails(MariadbConfig { port: common::free_port(), ..good.clone() }, &control(), "source.unreachable");
    let expect = MariadbExpect { identity: Some("another/1/x".into()) };
    fails(MariadbConfig { expect, ..good.clone() }, &control(), "source.wrong-instance");
    fails(MariadbConfig { databases: vec!["nothing".into()], ..good.clone() }, &control(), "source.server");
    // A login that may not read everything must not give a smaller dump.
    server
        .sql("CREATE USER 'weak'@'127.0.0.1' IDENTIFIED BY 'x'; GRANT SELECT ON big.* TO 'weak'@'127.0.0.1'");
    let weak = MariadbConfig {
        user: "weak".into(),
        password_file: secret(server.temp.path(), "weak", "x"),
        databases: vec!["big".into(), "mysql".into()],
        ..good.clone()
    };
    fails(weak, &control(), "source.access-denied");
    let group = server.group();
    let dying = Control {
        rate: Some(8 << 20),
        progress: once_after(8 << 20, move || kill_process_group(group, Signal::KILL).unwrap()),
        ..control()
    };
    fails(good.clone(), &dying, "source.connection-lost");
    server.serve();
    // The same way works while the server lives.
    let report = read(good, &mut Folder::new(&temp.path().join("y")), &control()).unwrap();
    assert!(report.bytes > 30 << 20);
}
