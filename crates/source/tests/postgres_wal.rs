//! Keeps a real PostgreSQL's log and brings restore points to times between them.
#![allow(clippy::unwrap_used, reason = "a test's helper may panic, too")]

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread::JoinHandle,
};

use common::{
    Folder, control,
    postgres::{Postgres, as_postgres, own, run, verify},
    until,
};
use jiff::Timestamp;
use kuramori_model::{
    fault::Fault,
    units::Bytes,
    wal::{FOLDER, INDEX, Index, Lsn, Unreachable, parse_segment},
};
use kuramori_source::{
    Cancel, Control, Error, Report, Source,
    config::{PostgresConfig, Span, WalConfig},
    postgres::{
        PostgresSource,
        wal::{Spool, State, stream},
    },
    report::{Origin, WalOrigin},
};

/// Small segments, so that a test has many.
const INIT: &[&str] = &["--wal-segsize=1"];
const SETTINGS: &str = "min_wal_size = 2MB\nmax_wal_size = 2MB\nwal_keep_size = 0\nmax_slot_wal_keep_size = 64MB\n\
                        autovacuum = off\n";

struct Bench {
    temp: tempfile::TempDir,
    sink: Folder,
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs_err::set_permissions(temp.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let sink = Folder::new(&temp.path().join("points"));
        Self { temp, sink }
    }

    fn spool(&self) -> PathBuf {
        self.temp.path().join("spool")
    }

    fn config(&self, postgres: &Postgres) -> PostgresConfig {
        let wal = WalConfig {
            slot: "kuramori".into(),
            spool: self.spool(),
            base_every: Span(std::time::Duration::from_hours(24)),
            late: Span(std::time::Duration::from_mins(10)),
            slot_limit: Bytes(1 << 30),
        };
        PostgresConfig { wal: Some(wal), ..postgres.config() }
    }

    fn state(&self) -> State {
        Spool::open(&self.spool()).unwrap().state().unwrap().unwrap()
    }

    /// One run; what it left is what the next one knows.
    fn point(&mut self, config: &PostgresConfig) -> Result<WalOrigin, Error> {
        let mut sink = Folder::new(&self.sink.root);
        sink.known.clone_from(&self.sink.known);
        let report: Report = PostgresSource::new(config.clone()).read(&mut sink, &control())?;
        assert!(sink.faults.is_empty(), "{:?}", sink.faults);
        let mut known = sink.put.clone();
        for kept in &sink.kept {
            known.insert(kept.clone(), sink.known[kept]);
        }
        // What this point does not have any more is not in its tree.
        for path in sink.known.keys().filter(|path| !known.contains_key(*path)) {
            let _ = fs_err::remove_file(sink.path(path));
        }
        let files = u64::try_from(known.len()).unwrap();
        assert_eq!((report.files, report.kept), (files, u64::try_from(sink.kept.len()).unwrap()));
        sink.known = known;
        self.sink = sink;
        let Origin::Postgres(origin) = report.origin else { panic!() };
        Ok(origin.wal.unwrap())
    }

    /// A run whose restore point is never committed: the next one knows only what the one before left.
    fn lost_point(&self, config: &PostgresConfig) {
        let mut sink = Folder::new(&self.temp.path().join("lost"));
        sink.known.clone_from(&self.sink.known);
        PostgresSource::new(config.clone()).read(&mut sink, &control()).unwrap();
    }

    /// A run whose log reaches the time, which may take a moment.
    fn point_until(&mut self, config: &PostgresConfig, time: Timestamp) -> WalOrigin {
        let mut last = None;
        until("the log", || {
            let wal = self.point(config).unwrap();
            let enough = wal.latest >= time;
            last = Some(wal);
            enough
        });
        last.unwrap()
    }

    fn index(&self) -> Index {
        let json = fs_err::read(self.sink.root.join(FOLDER).join(INDEX)).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    /// A copy of the newest point, as a restore gives it.
    fn copy(&self) -> Postgres {
        let restored = Postgres::empty();
        let script = "cp -a \"$1/.\" \"$2\"";
        let mut copy = Command::new("sh");
        copy.args(["-c", script, "sh"]).arg(&self.sink.root).arg(restored.data());
        assert!(copy.status().unwrap().success());
        own(&restored.data());
        restored
    }
}

/// Streams until it is dropped.
struct Streaming {
    cancel: Cancel,
    thread: Option<JoinHandle<Result<bool, Error>>>,
}

impl Streaming {
    fn start(config: &PostgresConfig) -> Self {
        let cancel = Cancel::default();
        let control = Control { cancel: cancel.clone(), ..control() };
        let config = config.clone();
        let thread =
            std::thread::spawn(move || stream(&config, config.wal.as_ref().unwrap(), &control, None));
        Self { cancel, thread: Some(thread) }
    }

    fn stop(mut self) -> Result<bool, Error> {
        self.cancel.cancel();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Keeps a copy of the server's data, as a snapshot of its machine does.
fn save(postgres: &mut Postgres, to: &Path) {
    postgres.stop();
    run(Command::new("cp").arg("-a").arg(postgres.data()).arg(to));
    postgres.serve(&[]);
}

/// Puts the stopped server back to it.
fn put_back(postgres: &mut Postgres, from: &Path) {
    postgres.stop();
    fs_err::remove_dir_all(postgres.data()).unwrap();
    run(Command::new("cp").arg("-a").arg(from).arg(postgres.data()));
}

fn recovered(postgres: &Postgres) {
    until("recovery", || postgres.sql("postgres", "SELECT pg_is_in_recovery()").trim() == "f");
}

fn target(data: &Path, time: Timestamp) {
    let file = data.join("postgresql.auto.conf");
    let text = fs_err::read_to_string(&file).unwrap();
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
    fs_err::write(&file, format!("{text}recovery_target_time = '{time}'\n")).unwrap();
    own(&file);
}

/// Adds one more batch of rows with a sum of its own and gives a time between it and the next one.
fn batch(postgres: &Postgres, number: u32) -> Timestamp {
    postgres.sql(
        "postgres",
        &format!(
            "INSERT INTO orders SELECT {number}, {number} * 1000 + n, repeat(md5(n::text), 20) \
             FROM generate_series(1, 1200) n"
        ),
    );
    now(postgres)
}

/// The server's own time, to the microsecond.
fn now(postgres: &Postgres) -> Timestamp {
    let micros = postgres.sql("postgres", "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
    Timestamp::from_microsecond(micros.trim().parse().unwrap()).unwrap()
}

const SUMS: &str = "SELECT batch, count(*), sum(value) FROM orders GROUP BY 1 ORDER BY 1";

fn expected(until: u32) -> String {
    (1..=until).fold(String::new(), |all, n| format!("{all}{n}|1200|{}\n", 1200 * 1000 * n + 720_600))
}

fn cluster() -> Postgres {
    let postgres = Postgres::start_with(INIT, SETTINGS);
    postgres.sql("postgres", "CREATE TABLE orders (batch int, value bigint, note text)");
    postgres
}

fn slot(postgres: &Postgres) -> Lsn {
    let sql = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'kuramori'";
    postgres.sql("postgres", sql).trim().parse().unwrap()
}

#[test]
fn every_time_between_two_base_backups_can_be_reached() {
    let postgres = cluster();
    let mut bench = Bench::new();
    let config = bench.config(&postgres);
    let mut times = vec![batch(&postgres, 1)];
    let first = bench.point(&config).unwrap();
    assert!(first.base_taken && first.gaps == 0 && first.earliest > times[0], "{first:?}");
    // The stream goes on beside the jobs, ends and begins again; what is acknowledged is always here.
    for number in 2..=6 {
        let streaming = Streaming::start(&config);
        times.push(batch(&postgres, number));
        until("the stream", || bench.state().flushed >= slot(&postgres) && bench.state().trouble.is_none());
        if number == 4 {
            let wal = bench.point(&config).unwrap();
            assert!(!wal.base_taken && wal.earliest == first.earliest, "{wal:?}");
        }
        // Runs that fail at their very end cost nothing of what is here.
        if number == 5 {
            (0..3).for_each(|_| bench.lost_point(&config));
        }
        assert!(streaming.stop().unwrap());
        let (state, slot) = (bench.state(), slot(&postgres));
        assert!(slot <= state.flushed, "{slot} was acknowledged and only {} is here", state.flushed);
    }
    let wal = bench.point_until(&config, times[5]);
    assert!(!wal.base_taken && wal.earliest == first.earliest, "{wal:?}");
    let index = bench.index();
    let numbers: Vec<u64> =
        index.segments.iter().map(|name| parse_segment(name, 1 << 20).unwrap().1).collect();
    assert!(numbers.len() >= 5 && numbers.windows(2).all(|two| two[0] + 1 == two[1]), "{numbers:?}");
    assert_eq!(index.reach(&index.system_identifier, &index.base), Ok(wal.latest));
    // The log of a committed point does not stay in the spool.
    bench.point(&config).unwrap();
    let left = fs_err::read_dir(bench.spool()).unwrap().flatten();
    let left = left.filter(|e| parse_segment(&e.file_name().to_string_lossy(), 1 << 20).is_some()).count();
    assert_eq!(left, 0, "{left} segments are here twice");

    // Without a target the newest state comes, without anybody setting anything.
    let mut whole = bench.copy();
    let judged =
        as_postgres("pg_verifybackup").args(["-q", "-i", FOLDER]).arg(whole.data()).output().unwrap();
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
    assert!(!verify(&whole.data()).status.success(), "it would notice a file too many");
    whole.serve(&[]);
    until("recovery", || whole.sql("postgres", "SELECT pg_is_in_recovery()").trim() == "f");
    assert_eq!(whole.sql("postgres", SUMS), expected(6));
    drop(whole);
    for upto in [2, 5] {
        let mut restored = bench.copy();
        target(&restored.data(), times[upto - 1]);
        restored.serve(&[]);
        recovered(&restored);
        assert_eq!(restored.sql("postgres", SUMS), expected(u32::try_from(upto).unwrap()));
    }

    // A base backup that is due keeps the log since the one before: older points are brought on by it.
    let mut daily = config.clone();
    daily.wal.as_mut().unwrap().base_every = Span::default();
    (0..2).for_each(|_| bench.lost_point(&daily));
    let second = bench.point(&daily).unwrap();
    assert!(second.base_taken && second.earliest > wal.latest, "{second:?}");
    // A point claims no time before its own base backup, and none that it has not got.
    let own = bench.index();
    assert!(own.reach(&own.system_identifier, &own.base).unwrap() < own.base.time);
    bench.point_until(&config, second.earliest);
    assert!(bench.index().reach(&index.system_identifier, &index.base).unwrap() >= second.earliest);

    // Somebody else holds the slot: the server lets us in, gives no log, and does not look well by that.
    let _holds = Streaming::start(&config);
    let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
    until("the stream", || postgres.sql("postgres", active).trim() == "1");
    let other = bench.temp.path().join("other");
    let mut held = config.clone();
    held.wal.as_mut().unwrap().spool.clone_from(&other);
    let spool = Spool::open(&other).unwrap();
    let calm = State { trouble: None, ..bench.state() };
    fs_err::write(other.join("state.json"), serde_json::to_vec(&calm).unwrap()).unwrap();
    let mut since = None;
    for _ in 0..2 {
        let error = stream(&held, held.wal.as_ref().unwrap(), &control(), None).unwrap_err();
        assert!(error.to_string().contains("active"), "{error}");
        let state = spool.state().unwrap().unwrap();
        assert_eq!(state.seen, calm.seen, "no log was heard");
        let now = state.trouble.unwrap().since;
        assert_eq!(*since.get_or_insert(now), now);
    }
}

#[test]
fn a_promoted_standby_is_followed_to_its_new_timeline() {
    let postgres = cluster();
    let mut standby = Postgres::empty();
    run(as_postgres("pg_basebackup")
        .args(["-h", "127.0.0.1", "-U", "trusted", "-R", "-X", "stream", "-c", "fast"])
        .args([
            "-p".to_owned(),
            postgres.port.to_string(),
            "-D".to_owned(),
            standby.data().display().to_string(),
        ]));
    standby.serve(&["-c".into(), "hot_standby=on".into()]);
    let mut bench = Bench::new();
    let config = bench.config(&standby);
    // A standby's own log ends where it was replayed; a checkpoint makes its base backup begin there.
    let mut times = vec![batch(&postgres, 1)];
    postgres.sql("postgres", "CHECKPOINT");
    let first = bench.point(&config).unwrap();
    assert_eq!((first.base_taken, first.timeline), (true, 1));
    let streaming = Streaming::start(&config);
    times.push(batch(&postgres, 2));
    let there = "SELECT count(*) FROM orders";
    until("the standby", || standby.sql("postgres", there).trim() == "2400");
    // The old server dies with work that the standby never saw.
    drop(postgres);
    standby.sql("postgres", "SELECT pg_promote()");
    times.push(batch(&standby, 3));
    until("the new timeline", || bench.state().timeline == 2);
    times.push(batch(&standby, 4));
    drop(streaming);
    let wal = bench.point_until(&config, times[3]);
    assert_eq!((wal.base_taken, wal.timeline, wal.gaps), (false, 2, 0), "{wal:?}");
    assert!(bench.sink.root.join(FOLDER).join("00000002.history").exists());
    assert!(!bench.sink.root.join("standby.signal").exists(), "it must not wait for the dead one");
    drop(standby);
    for upto in [2, 3, 4] {
        let mut restored = bench.copy();
        if upto < 4 {
            target(&restored.data(), times[upto - 1]);
        }
        restored.serve(&[]);
        recovered(&restored);
        assert_eq!(restored.sql("postgres", SUMS), expected(u32::try_from(upto).unwrap()));
    }
}

#[test]
fn log_that_was_thrown_away_is_a_gap_on_record_and_a_new_base_backup() {
    let postgres = cluster();
    let mut bench = Bench::new();
    let config = bench.config(&postgres);
    let first = batch(&postgres, 1);
    let before = bench.point_until(&config, first);
    let index = bench.index();
    // Somebody removes the slot, and the server recycles what nobody holds.
    until("the slot", || {
        let free = "SELECT count(*) FROM pg_replication_slots WHERE active";
        postgres.sql("postgres", free).trim() == "0"
    });
    postgres.sql("postgres", "SELECT pg_drop_replication_slot('kuramori')");
    for number in 2..=5 {
        batch(&postgres, number);
        postgres.sql("postgres", "SELECT pg_switch_wal()");
        postgres.sql("postgres", "CHECKPOINT");
    }
    let state = bench.state();
    let wal = bench.point(&config).unwrap();
    assert!(wal.base_taken && wal.gaps == 1, "{wal:?}");
    let gap = bench.state().gaps[0].clone();
    assert!(gap.from == state.flushed && gap.to > gap.from && gap.reached == state.until, "{gap:?}");
    println!("{gap:?}");
    let now = bench.index();
    // The old base backup reaches up to the hole and not behind it; the new one is beyond it.
    assert_eq!(now.reach(&index.system_identifier, &index.base), Ok(gap.reached.unwrap()));
    assert!(now.base.end > gap.to && now.base.time > before.latest);
    let mut restored = bench.copy();
    restored.serve(&[]);
    recovered(&restored);
    assert_eq!(restored.sql("postgres", SUMS), expected(5));
    // Healed: the next point needs no base backup.
    let third = bench.point(&config).unwrap();
    assert!(!third.base_taken && third.gaps == 1, "{third:?}");

    // Another cluster at the same address is never mixed in.
    let other = cluster();
    let error = bench.point(&bench.config(&other)).unwrap_err();
    assert_eq!(error.code(), "source.wrong-instance", "{error}");
    // A spool that cannot be written keeps the server's log where it is.
    let mut nowhere = config.clone();
    nowhere.wal.as_mut().unwrap().spool = PathBuf::from("/proc/kuramori");
    assert_eq!(bench.point(&nowhere).unwrap_err().code(), "source.spool");
    // A list that does not fit to the previous restore point is of no use: a new base backup, and all the log
    // that is still here, whichever point it goes on from.
    let before = bench.index();
    let sixth = batch(&postgres, 6);
    bench.sink.known.clear();
    fs_err::remove_dir_all(&bench.sink.root).unwrap();
    assert!(bench.point(&config).unwrap().base_taken);
    bench.point_until(&config, sixth);
    let mut both = bench.index();
    both.segments.extend(before.segments);
    assert!(both.reach(&before.system_identifier, &before.base).unwrap() >= sixth);
    goes_back(postgres, bench);
}

/// A server that is restored to a moment, then one that is put back to a snapshot, unnoticed and overtaken.
fn goes_back(mut postgres: Postgres, mut bench: Bench) {
    let config = bench.config(&postgres);
    let mut daily = config.clone();
    daily.wal.as_mut().unwrap().base_every = Span::default();
    let (old, snapshot) = (bench.index(), bench.temp.path().join("snapshot"));
    save(&mut postgres, &snapshot);
    batch(&postgres, 7);
    assert!(bench.point(&daily).unwrap().base_taken);
    let dead = bench.index();
    put_back(&mut postgres, &snapshot);
    let settings = postgres.data().join("postgresql.auto.conf");
    fs_err::write(&settings, "restore_command = 'false'\n").unwrap();
    fs_err::write(postgres.data().join("recovery.signal"), "").unwrap();
    own(&postgres.data());
    postgres.serve(&[]);
    recovered(&postgres);
    let here = batch(&postgres, 8);
    let wal = bench.point(&config).unwrap();
    assert_eq!((wal.base_taken, wal.timeline, wal.gaps), (true, 2, 1), "{wal:?}");
    // What the base backup behind the fork holds leads nowhere; the one before it goes on along the new timeline.
    bench.point_until(&config, here);
    let now = bench.index();
    let reach = |of: &Index| now.reach(&of.system_identifier, &of.base);
    assert_eq!(reach(&dead), Err(Unreachable::Timeline { base: 1, log: 2 }));
    assert!(reach(&old).unwrap() >= here);

    for (past, batches) in [(1, 0), (2, 3)] {
        let snapshot = bench.temp.path().join(format!("snapshot-{past}"));
        save(&mut postgres, &snapshot);
        let lost = batch(&postgres, 100 + past);
        bench.point_until(&config, lost);
        let (before, state) = (bench.index(), bench.state());
        put_back(&mut postgres, &snapshot);
        postgres.serve(&[]);
        // Behind what it had sent, then before it: at the same positions on the same timeline.
        for number in 0..batches {
            batch(&postgres, 10 * past + number);
        }
        let wal = bench.point(&config).unwrap();
        assert!(wal.base_taken && wal.timeline == 2 && wal.gaps == 1 + u64::from(past), "{wal:?}");
        let gap = bench.state().gaps.pop().unwrap();
        assert!(gap.from == state.flushed && gap.reached >= state.until && gap.past + 1 == past, "{gap:?}");
        let now = bench.index();
        assert_eq!(now.reach(&before.system_identifier, &before.base), Err(Unreachable::Past));
        let last = batch(&postgres, 50 + past);
        let wal = bench.point_until(&config, last);
        assert!(!wal.base_taken && wal.gaps == 1 + u64::from(past), "{wal:?}");
    }
    let mut restored = bench.copy();
    restored.serve(&[]);
    recovered(&restored);
    assert_eq!(restored.sql("postgres", SUMS), postgres.sql("postgres", SUMS));
}
