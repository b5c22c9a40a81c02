//! Restores of registered systems through the binary, against a real share, a real server and its files.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its hospital may stop")]

#[path = "support/database.rs"]
mod database;
#[path = "restore/dwell.rs"]
mod dwell;
#[path = "restore/studies.rs"]
mod studies;
mod support;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use database::{
    mariadb::Mariadb,
    postgres::{Postgres, own},
};
use jiff::Timestamp;
use kuramori_catalog::{Catalog, Place, VaultPoint, Verdict};
use kuramori_model::{
    clock::SystemClock,
    ids::{Sequence, SystemId},
};
use serde_json::{Value, json};
use support::{
    PROGRAM, Server,
    hospital::{Share, Site, backup, free_port, restic, same, until},
    lines, text,
};

struct Bench {
    dir: tempfile::TempDir,
    share: Share,
    site: Site,
}

impl Bench {
    /// A share with a backup of it.
    fn new(files: u64, bytes: usize) -> (Self, Server) {
        let dir = tempfile::tempdir().unwrap();
        let share = Share::start(dir.path());
        share.fill(11, files, bytes);
        let site = Site::new(&dir.path().join("site"), "");
        site.init();
        let server = Server::start(&site);
        let _: Value = site.client().post("/v1/systems", &share.entry("ophthalmology")).unwrap();
        let run = backup(&site.client(), "ophthalmology");
        assert_eq!(run["state"], "complete", "{run}");
        (Self { dir, share, site }, server)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["--json", "restore", verb, "ophthalmology", "--socket"]);
        command.arg(self.site.config().socket).args(arguments).env_remove("SUDO_USER");
        command.stdin(Stdio::null());
        command
    }

    fn restore(&self, verb: &str, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
        lines(&self.command(verb, arguments).output().unwrap())
    }
}

#[test]
fn a_plan_is_shown_first_and_what_stood_there_is_kept() {
    let (bench, _server) = Bench::new(6, 70_000);
    let target = bench.path("restored");
    fs_err::create_dir(&target).unwrap();
    fs_err::write(target.join("encrypted.lock"), "give us money").unwrap();
    let to = ["--to", text(&target)];

    let (code, said) = bench.restore("plan", &to);
    assert_eq!(code, Some(0), "{said:?}");
    let plan = &said[0]["plan"];
    assert_eq!((&plan["files"], &plan["bytes"]), (&json!(6), &json!(420_000)), "{plan}");
    assert_eq!(plan["choice"]["why"], json!(["newest-not-inspected", "primary-is-nearest"]));
    assert_eq!(plan["target"]["standing"]["state"], "occupied");
    assert_eq!(plan["expected"], Value::Null, "nothing was measured yet: {plan}");
    for quiet in [vec!["--dry-run"], vec![]] {
        // Without --yes and without a terminal nothing happens.
        let (code, said) = bench.restore("run", &[&to[..], &quiet].concat());
        assert_eq!(code, Some(if quiet.is_empty() { 130 } else { 0 }), "{said:?}");
        assert!(target.join("encrypted.lock").exists() && fs_err::read_dir(&target).unwrap().count() == 1);
    }

    let (code, said) = bench.restore("run", &["--to", text(&target), "--yes", "--verify", "--by", "中山"]);
    assert_eq!(code, Some(0), "{said:?}");
    let done = &said[1]["done"];
    assert!(same(&bench.share.folder, &target));
    let kept = PathBuf::from(done["kept"].as_str().unwrap());
    assert_eq!(fs_err::read_to_string(kept.join("encrypted.lock")).unwrap(), "give us money");
    assert_eq!(done["verified"]["files"], 6, "{done}");

    // A file alone, and now there is a measurement to expect from.
    let alone = bench.path("alone");
    let (code, said) = bench.restore("run", &["--to", text(&alone), "--file", "検査-3.dat", "--yes"]);
    assert_eq!(code, Some(0), "{said:?}");
    assert!(said[0]["plan"]["expected"]["seconds"].as_f64().unwrap() > 0.0, "{said:?}");
    let one = fs_err::read(alone.join("検査-3.dat")).unwrap();
    assert_eq!(one, fs_err::read(bench.share.folder.join("検査-3.dat")).unwrap());
    assert_eq!(fs_err::read_dir(&alone).unwrap().count(), 1);

    let events: Vec<Value> = bench.site.client().get("/v1/events").unwrap();
    let of = |kind: &str| events.iter().filter(|event| event["kind"] == kind).count();
    assert_eq!((of("restore.planned"), of("restore.begun"), of("restore.ended")), (2, 3, 2), "{events:?}");
    assert!(events.iter().any(|event| event["kind"] == "restore.ended" && event["actor"] == "中山"));
}

#[test]
fn a_killed_restore_goes_on_where_it_stopped() {
    let (bench, _server) = Bench::new(120, 1 << 20);
    let target = bench.path("restored");
    let mut child = bench
        .command("run", &["--to", text(&target), "--yes", "--workers", "1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let staging = until("staging", || {
        fs_err::read_dir(bench.dir.path()).unwrap().flatten().map(|entry| entry.path()).find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".restored.restore-"))
        })
    });
    until("some files", || (fs_err::read_dir(&staging).unwrap().count() >= 10).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!target.exists(), "killed before it was whole");
    // Somebody damages a piece and adds bytes to another file meanwhile: neither may come into the target.
    let some: Vec<PathBuf> =
        fs_err::read_dir(&staging).unwrap().flatten().map(|entry| entry.path()).collect();
    fs_err::write(&some[0], vec![7; 1 << 20]).unwrap();
    fs_err::write(&some[1], vec![7; 3 << 20]).unwrap();

    let (code, said) = bench.restore("run", &["--to", text(&target), "--yes"]);
    assert_eq!(code, Some(0), "{said:?}");
    let done = &said[1]["done"];
    assert_eq!(done["resumed"], true);
    assert!(done["found_there"].as_u64().unwrap() > 1 << 20, "{done}");
    assert!(same(&bench.share.folder, &target));
    assert!(!staging.exists());
}

#[test]
fn a_suspect_point_needs_a_reason_and_a_lost_primary_leads_to_the_vault() {
    let (bench, server) = Bench::new(3, 5000);
    let first: Vec<Value> = bench.site.client().get("/v1/points?system=ophthalmology").unwrap();
    bench.share.fill(12, 3, 6000);
    assert_eq!(backup(&bench.site.client(), "ophthalmology")["state"], "complete");
    let points: Vec<Value> = bench.site.client().get("/v1/points?system=ophthalmology").unwrap();
    assert_eq!((first.len(), points.len()), (1, 2));
    drop(server);

    // The inspection suspects the newer one; the vault holds both.
    let disk = bench.path("disk");
    assert!(
        Command::new("cp")
            .arg("-a")
            .arg(bench.site.repository("ophthalmology"))
            .arg(&disk)
            .status()
            .unwrap()
            .success()
    );
    let sequence = Sequence(points[0]["sequence"].as_u64().unwrap());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let database = bench.site.config().data.join("catalog.db");
        let catalog = Catalog::open(&database, Arc::new(SystemClock)).await.unwrap();
        catalog.set_verdict(Place::Primary, sequence, Verdict::Suspect).await.unwrap();
        for (number, point) in points.iter().rev().enumerate() {
            let new = VaultPoint {
                system: SystemId::new("ophthalmology").unwrap(),
                snapshot: point["snapshot"].as_str().unwrap().to_owned(),
                sequence: Sequence(number as u64 + 1),
                received: point["received"].as_str().unwrap().parse().unwrap(),
                complete: true,
                verdict: if number == 0 { Verdict::Clean } else { Verdict::Unknown },
                bytes: 0,
                files: 3,
                drilled: None,
            };
            catalog.record_vault_point(&new).await.unwrap();
        }
        catalog.close().await;
    });

    let direct = ["--direct", text(&bench.site.toml)];
    let (target, other) = (bench.path("restored"), bench.path("other"));
    let (code, said) = bench.restore("plan", &[&direct[..], &["--to", text(&target)]].concat());
    assert_eq!(code, Some(0), "{said:?}");
    let choice = &said[0]["plan"]["choice"];
    assert_eq!(choice["point"]["sequence"], first[0]["sequence"], "the older, clean one: {choice}");
    assert_eq!(choice["why"], json!(["newest-clean", "primary-is-nearest"]));
    assert_eq!(choice["passed_over"][0]["against"], "suspect");

    let named = sequence.0.to_string();
    let ask = [&direct[..], &["--to", text(&target), "--yes", "--point", &named]].concat();
    let (code, said) = bench.restore("run", &ask);
    assert_eq!((code, &said[0]["code"]), (Some(5), &json!("drill.needs-reason")), "{said:?}");
    assert!(!target.exists());
    let (code, said) = bench.restore("run", &[&ask[..], &["--reason", "比較のため"]].concat());
    assert_eq!(code, Some(0), "{said:?}");
    assert!(same(&bench.share.folder, &target));

    // The attacker removes the primary's snapshots: only the vault's copy is left.
    fs_err::remove_dir_all(bench.site.repository("ophthalmology").join("snapshots")).unwrap();
    let to = [&direct[..], &["--to", text(&other), "--yes"]].concat();
    let (code, said) = bench.restore("run", &to);
    assert_eq!((code, &said[0]["code"]), (Some(1), &json!("drill.not-at-hand")), "{said:?}");
    let (code, said) = bench.restore("run", &[&to[..], &["--from", text(&disk)]].concat());
    assert_eq!(code, Some(0), "{said:?}");
    assert_eq!(said[0]["plan"]["choice"]["point"]["copy"], "vault");
    assert_eq!(fs_err::metadata(other.join("検査-0.dat")).unwrap().len(), 5000, "the clean one");
    // Both are in the history with the reason.
    let server = Server::start(&bench.site);
    let events: Vec<Value> = bench.site.client().get("/v1/events").unwrap();
    assert!(
        events
            .iter()
            .any(|event| event["kind"] == "restore.begun" && event["data"]["reason"] == "比較のため")
    );
    drop(server);
}

/// A billing system whose log is kept.
struct Billing {
    dir: tempfile::TempDir,
    site: Site,
    postgres: Postgres,
}

const SUMS: &str = "SELECT batch, count(*), sum(value) FROM orders GROUP BY 1 ORDER BY 1";

impl Billing {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The database's own user recovers below it.
        fs_err::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let postgres = Postgres::start_with(&["--wal-segsize=1"], "max_slot_wal_keep_size = 64MB\n");
        postgres.sql("postgres", "CREATE TABLE orders (batch int, value bigint, note text)");
        let site = Site::new(&dir.path().join("site"), "");
        site.init();
        Self { dir, site, postgres }
    }

    fn register(&self) {
        let mut source = serde_json::to_value(self.postgres.config()).unwrap();
        source["kind"] = json!("postgres");
        source["wal"] = json!({ "slot": "kuramori", "spool": self.dir.path().join("spool"), "late": "12s" });
        let entry = json!({ "id": "billing", "name_ja": "医事会計", "source": source });
        let _: Value = self.site.client().post("/v1/systems", &entry).unwrap();
    }

    /// Rows with a sum of their own, and a time after them and before the next ones.
    fn batch(&self, number: u32) -> Timestamp {
        let text = format!(
            "INSERT INTO orders SELECT {number}, {number} * 1000 + n, repeat(md5(n::text), 20) \
             FROM generate_series(1, 1200) n"
        );
        self.postgres.sql("postgres", &text);
        let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let micros = self.postgres.sql("postgres", now).trim().parse().unwrap();
        Timestamp::from_microsecond(micros).unwrap()
    }

    fn restore(&self, verb: &str, to: &str, more: &[&str]) -> (Option<i32>, Vec<Value>) {
        let mut command = Command::new(PROGRAM);
        command.args(["--json", "restore", verb, "billing", "--to", to, "--socket"]);
        command.arg(self.site.config().socket).args(more).env_remove("SUDO_USER").stdin(Stdio::null());
        lines(&command.output().unwrap())
    }
}

fn expected(until: u32) -> String {
    (1..=until).fold(String::new(), |all, n| format!("{all}{n}|1200|{}\n", 1200 * 1000 * n + 720_600))
}

/// The rows of a restored data folder.
fn rows(data: &std::path::Path) -> String {
    let mut restored = Postgres::empty();
    fs_err::remove_dir(restored.data()).unwrap();
    let moved = Command::new("mv").arg(data).arg(restored.data()).status().unwrap();
    assert!(moved.success());
    own(&restored.data());
    restored.serve(&[]);
    until("recovery", || {
        (restored.sql("postgres", "SELECT pg_is_in_recovery()").trim() == "f").then_some(())
    });
    restored.sql("postgres", SUMS)
}

#[test]
fn a_database_comes_back_to_a_moment_between_restore_points_and_never_to_one_it_cannot_reach() {
    let mut billing = Billing::new();
    let server = Server::start(&billing.site);
    let mut times = vec![billing.batch(1)];
    billing.register();
    let run = backup(&billing.site.client(), "billing");
    assert_eq!(run["state"], "complete", "{run}");
    times.push(billing.batch(2));
    // The server dies while log comes; what it had acknowledged is in its spool.
    times.push(billing.batch(3));
    server.kill();
    times.push(billing.batch(4));
    let server = Server::start(&billing.site);
    times.push(billing.batch(5));
    let at = |time: &Timestamp| time.to_string();
    let target = billing.dir.path().join("restored");
    let to = text(&target).to_owned();
    until("the log", || {
        let run = backup(&billing.site.client(), "billing");
        assert_eq!(run["state"], "complete", "{run}");
        let (code, said) = billing.restore("plan", &to, &["--to-time", &at(&times[4])]);
        assert!(code == Some(0) || said[0]["code"] == "drill.time-unreachable", "{said:?}");
        (code == Some(0)).then_some(())
    });
    // On a busy machine it may be late for a moment; it catches up, and a gap would stay.
    until("a log without an alarm", || {
        let alarms: Vec<Value> = billing.site.client().post("/v1/judge", &json!({})).unwrap();
        let wal = |alarm: &Value| alarm["finding"]["code"].as_str().unwrap().starts_with("wal.");
        (!alarms.iter().any(wal)).then_some(())
    });

    // Log is lost while our server is away.
    let spool = billing.dir.path().join("spool");
    drop(server);
    until("the slot", || {
        let held = "SELECT count(*) FROM pg_replication_slots WHERE active";
        (billing.postgres.sql("postgres", held).trim() == "0").then_some(())
    });
    billing.postgres.sql("postgres", "SELECT pg_drop_replication_slot('kuramori')");
    for number in 6..=9 {
        billing.batch(number);
        billing.postgres.sql("postgres", "SELECT pg_switch_wal()");
        billing.postgres.sql("postgres", "CHECKPOINT");
    }
    let _server = Server::start(&billing.site);
    let run = backup(&billing.site.client(), "billing");
    assert_eq!(run["state"], "complete", "{run}");
    let state: Value = serde_json::from_slice(&fs_err::read(spool.join("state.json")).unwrap()).unwrap();
    let before_gap: Timestamp = state["gaps"][0]["reached"].as_str().unwrap().parse().unwrap();
    assert!(before_gap >= times[4], "{state}");

    // A neighbour whose log was lost, piles up without a limit and has not come for long.
    let neighbour = billing.dir.path().join("neighbour");
    fs_err::create_dir(&neighbour).unwrap();
    let state = json!({
        "system_identifier": "7", "segment_bytes": 1 << 20, "timeline": 1, "flushed": "0/5000000",
        "until": null, "server_end": "9/0", "seen": "2026-01-01T00:00:00Z", "keeps": null,
        "gaps": [{ "from": "0/4000000", "to": "0/5000000", "reached": null, "found": "2026-01-01T00:00:00Z", "why": "lost" }],
    });
    fs_err::write(neighbour.join("state.json"), state.to_string()).unwrap();
    let source = json!({
        "kind": "postgres", "server": "127.0.0.1", "port": free_port(), "user": "nobody",
        "wal": { "slot": "other", "spool": neighbour },
    });
    let entry = json!({ "id": "neighbour", "source": source });
    let _: Value = billing.site.client().post("/v1/systems", &entry).unwrap();
    // And one that answers, and has given no log for as long.
    let mute = billing.dir.path().join("mute");
    fs_err::create_dir(&mute).unwrap();
    let state = json!({
        "system_identifier": "8", "segment_bytes": 1 << 20, "timeline": 1, "flushed": "0/5000000",
        "until": null, "server_end": "0/5000000", "seen": "2100-01-01T00:00:00Z", "keeps": 1, "gaps": [],
        "trouble": { "code": "source.server", "text": "held", "since": "2026-01-01T00:00:00Z" },
    });
    fs_err::write(mute.join("state.json"), state.to_string()).unwrap();
    let source = json!({
        "kind": "postgres", "server": "127.0.0.1", "port": free_port(), "user": "nobody",
        "wal": { "slot": "other", "spool": mute },
    });
    let _: Value =
        billing.site.client().post("/v1/systems", &json!({ "id": "mute", "source": source })).unwrap();
    let alarms: Vec<Value> = billing.site.client().post("/v1/judge", &json!({})).unwrap();
    for (system, code) in [
        ("neighbour", "wal.late"),
        ("neighbour", "wal.gap"),
        ("neighbour", "wal.slot-grows"),
        ("neighbour", "wal.slot-unlimited"),
        ("mute", "wal.late"),
    ] {
        let told = |alarm: &Value| alarm["finding"]["code"] == code && alarm["finding"]["system"] == system;
        assert!(alarms.iter().any(told), "{system} {code}: {alarms:?}");
    }

    // Destroyed.
    billing.postgres.stop();
    fs_err::remove_dir_all(billing.postgres.data()).unwrap();
    let (code, said) = billing.restore("plan", &to, &["--to-time", &at(&times[2])]);
    assert_eq!(code, Some(0), "{said:?}");
    let moment = &said[0]["plan"]["moment"];
    let latest: Timestamp = moment["latest"].as_str().unwrap().parse().unwrap();
    assert!(latest >= times[2], "{moment}");
    assert_eq!(said[0]["plan"]["choice"]["why"][0], "for-time");
    for (wanted, nearest) in [
        (before_gap + jiff::SignedDuration::from_millis(1), json!(before_gap.to_string())),
        (times[0], moment["earliest"].clone()),
    ] {
        let (code, said) = billing.restore("run", &to, &["--yes", "--to-time", &at(&wanted)]);
        assert_eq!((code, &said[0]["code"]), (Some(1), &json!("drill.time-unreachable")), "{said:?}");
        assert!(said[0].to_string().contains(nearest.as_str().unwrap()), "{said:?} {nearest}");
        assert!(!target.exists());
    }
    let long = std::env::var_os("KURAMORI_LONG").is_some();
    // Something appears at the target while the database recovers: what is there is no restored copy any more,
    // and the next try does not take it for one.
    let recovering = || {
        let mut all = fs_err::read_dir(billing.dir.path()).unwrap().flatten();
        all.any(|entry| entry.file_name().to_string_lossy().ends_with(".run"))
    };
    let (code, said) = std::thread::scope(|scope| {
        scope.spawn(|| {
            until("the recovery", || recovering().then_some(()));
            fs_err::create_dir(&target).unwrap();
        });
        billing.restore("run", &to, &["--yes", "--to-time", &at(&times[2])])
    });
    assert_eq!((code, &said.last().unwrap()["code"]), (Some(1), &json!("drill.target")), "{said:?}");
    assert!(recovering(), "the next try has to know");
    fs_err::remove_dir(&target).unwrap();
    for upto in if long { 2..4 } else { 3..4 } {
        let more = ["--yes", "--verify", "--to-time", &at(&times[upto - 1])];
        let (code, said) = billing.restore("run", &to, &more);
        assert_eq!(code, Some(0), "{said:?}");
        let proven = &said[1]["done"]["proven"];
        assert!(proven["stopped"].as_str().unwrap().contains("recovery stopping before commit"), "{proven}");
        assert!(!target.join("kuramori_wal").exists() && !target.join("recovery.signal").exists());
        assert!(!recovering(), "nothing stays beside it");
        assert_eq!(rows(&target), expected(u32::try_from(upto).unwrap()));
    }
    // The last time before the hole; nothing happened between the last rows and it: all of the log up to there,
    // and no transaction behind it.
    let (code, said) = billing.restore("run", &to, &["--yes", "--to-time", &at(&before_gap)]);
    assert_eq!(code, Some(0), "{said:?}");
    assert_eq!(rows(&target), expected(5));

    // One table as of then; it never goes over one that stands there.
    let dump = billing.dir.path().join("orders.sql");
    let table = ["--database", "postgres", "--table", "orders", "--to-time", &at(&times[1])];
    let work = billing.dir.path().join("work");
    let table = [&table[..], &["--work", text(&work)]].concat();
    let (code, said) = billing.restore("table", text(&dump), &table);
    assert_eq!(code, Some(0), "{said:?}");
    let (code, said) = billing.restore("table", text(&dump), &table);
    assert_eq!((code, &said.last().unwrap()["code"]), (Some(1), &json!("drill.target")), "{said:?}");
    let other = Postgres::start("");
    let load = |database: &str| {
        let mut psql = other.client("psql");
        psql.args(["-Xq", "-d", database, "-f"]).arg(&dump).output().unwrap().status.success()
    };
    own(&dump);
    assert!(load("postgres"));
    assert_eq!(other.sql("postgres", SUMS), expected(2));
    other.sql("postgres", "DELETE FROM orders WHERE batch = 1");
    assert!(!load("postgres"), "the table stands there");
    assert_eq!(other.sql("postgres", "SELECT count(*) FROM orders"), "1200\n", "and stays as it is");

    // Without us: stock restic, PostgreSQL, and nothing else.
    let stock = billing.dir.path().join("stock");
    let repository = billing.site.repository("billing");
    let password = billing.site.recovered_password("billing");
    restic(text(&repository), &password, &[], &["restore", "latest", "--target", text(&stock)]);
    assert_eq!(rows(&stock), expected(9));

    // The stream of the destroyed one has not come for a while, and says so.
    until("the alarm", || {
        let alarms: Vec<Value> = billing.site.client().post("/v1/judge", &json!({})).unwrap();
        alarms
            .iter()
            .any(|alarm| alarm["finding"]["code"] == "wal.late" && alarm["finding"]["system"] == "billing")
            .then_some(())
    });
    if !long {
        return;
    }
    let mut drill = Command::new(PROGRAM);
    drill.args(["--json", "drill", "run", "billing", "--socket"]).arg(billing.site.config().socket);
    let (code, said) = lines(&drill.stdin(Stdio::null()).output().unwrap());
    assert_eq!(code, Some(0), "{said:?}");
    assert!(
        said.iter().any(|line| line.to_string().contains("where recovery ended in the kept log")),
        "{said:?}"
    );
}

#[test]
fn a_laboratory_on_mariadb_comes_back_to_a_second_between_two_restore_points() {
    let mut server = Mariadb::start(true);
    let dir = tempfile::tempdir().unwrap();
    fs_err::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let site = Site::new(&dir.path().join("site"), "");
    site.init();
    let _ours = Server::start(&site);
    server.sql(
        "CREATE DATABASE lab; CREATE TABLE lab.results (batch INT, value INT, taken DATETIME) ENGINE=InnoDB",
    );
    // The laboratory's own time is not ours, and its log tells a statement to ask for it again.
    let sums =
        "SELECT batch, COUNT(*), SUM(value), MIN(taken), MAX(taken) FROM lab.results GROUP BY 1 ORDER BY 1";
    // The log counts in whole seconds: each batch gets one of its own, and the time behind it.
    let clock =
        |server: &Mariadb| -> i64 { server.sql("SELECT FLOOR(UNIX_TIMESTAMP(NOW(6)))").parse().unwrap() };
    let batch = |server: &Mariadb, number: u32| {
        server.sql(&format!(
            "USE lab; INSERT INTO results SELECT {number}, seq * {number}, NOW() FROM seq_1_to_500"
        ));
        let (now, sum) = (clock(server), server.sql(sums));
        until("the next second", || (clock(server) > now + 1).then_some(()));
        (Timestamp::from_second(now + 1).unwrap(), sum)
    };
    server.sql("USE lab; INSERT INTO results SELECT 1, seq, NOW() FROM seq_1_to_500");
    let mut source = serde_json::to_value(server.config()).unwrap();
    source["kind"] = json!("mariadb");
    source["binlog"] = json!({ "spool": dir.path().join("spool") });
    let _: Value = site.client().post("/v1/systems", &json!({ "id": "lab", "source": source })).unwrap();
    assert_eq!(backup(&site.client(), "lab")["state"], "complete");
    // Times before the dump's end cannot be reached from it.
    let begun = clock(&server);
    until("a second behind the dump", || (clock(&server) > begun + 1).then_some(()));
    // From here on the accounts of the dump count where the log is played.
    server.sql("FLUSH PRIVILEGES");
    let (second, then) = batch(&server, 2);
    server.sql("FLUSH BINARY LOGS; CREATE USER 'later'@'localhost' IDENTIFIED BY 'x'; FLUSH PRIVILEGES");
    server.sql("USE lab; INSERT INTO results SELECT 3, seq, NOW() FROM seq_1_to_500");
    assert_eq!(backup(&site.client(), "lab")["state"], "complete");
    server.kill();

    let target = dir.path().join("restored");
    let restore = |verb: &str, more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["--json", "restore", verb, "lab", "--to", text(&target), "--socket"]);
        command.arg(site.config().socket).args(more).env_remove("SUDO_USER").stdin(Stdio::null());
        lines(&command.output().unwrap())
    };
    let (code, said) = restore("run", &["--yes", "--to-time", "2030-01-01T00:00:00Z"]);
    assert_eq!((code, &said[0]["code"]), (Some(1), &json!("drill.time-unreachable")), "{said:?}");
    assert!(!target.exists());
    let (code, said) = restore("run", &["--yes", "--verify", "--to-time", &second.to_string()]);
    assert_eq!(code, Some(0), "{said:?}");
    assert!(said[1]["done"]["proven"]["stopped"].as_str().unwrap().contains("played"), "{said:?}");
    // What is left is a server's data folder: it runs as it is, with the accounts that were there then.
    let data = server.path("data");
    fs_err::remove_dir_all(&data).unwrap();
    assert!(Command::new("mv").arg(target.join("mysql")).arg(&data).status().unwrap().success());
    server.serve();
    assert_eq!(server.sql(sums), then);
    assert_eq!(server.sql("SELECT COUNT(*) FROM mysql.global_priv WHERE user = 'later'"), "0");

    if std::env::var_os("KURAMORI_LONG").is_none() {
        return;
    }
    let mut drill = Command::new(PROGRAM);
    drill.args(["--json", "drill", "run", "lab", "--socket"]).arg(site.config().socket);
    let (code, said) = lines(&drill.stdin(Stdio::null()).output().unwrap());
    assert_eq!(code, Some(0), "{said:?}");
    assert!(said.iter().any(|line| line.to_string().contains("the binary log from the dump to")), "{said:?}");
}
