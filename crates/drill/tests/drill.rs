//! Drills with the real servers, and that damaged data fails them.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its data may stop")]

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use kuramori_drill::{
    cell::{As, Cell},
    choose::{Candidate, Choice, Copy, Why},
    drill::{Record, Task, run},
    page,
    profile::{Profile, Query, Service},
};
use kuramori_judge::retention::Verdict;
use kuramori_model::{
    clock::{Clock, SystemClock},
    ids::Sequence,
    units::Bytes,
};
use kuramori_repo::{
    Cancel, Context, Indexed, Repository, Secret,
    backup::{Draft, Options},
    local::{Selection, snapshot_paths},
    store::LocalStore,
};
use kuramori_report::Language;

const POSTGRES: &str = "/usr/lib/postgresql/15/bin";

struct Bench {
    dir: tempfile::TempDir,
    repository: Repository<Indexed>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Services of their own users have to reach their data below it.
        fs_err::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let store = Arc::new(LocalStore::new(dir.path().join("repository")));
        let repository = Repository::create(store, &Secret::new("drill"), Context::system()).unwrap();
        let repository = repository.index().unwrap();
        Self { dir, repository }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Backs a folder up as it is now.
    fn backup(&self, folder: &Path) -> Choice {
        let mut session = self.repository.backup(Options::default()).unwrap();
        let paths = snapshot_paths(&[folder.to_owned()]).unwrap();
        session.add_paths(&[folder.to_owned()], &Selection::default()).unwrap();
        let done = session.commit(Draft { hostname: "test".to_owned(), paths, ..Draft::default() }).unwrap();
        Choice {
            point: Candidate {
                copy: Copy::Primary,
                sequence: Sequence(1),
                received: SystemClock.now(),
                snapshot: done.id.to_string(),
                complete: true,
                verdict: Verdict::Unknown,
                later: false,
                drilled: None,
                gone: false,
                bytes: 0,
                files: 0,
            },
            verdict: Verdict::Unknown,
            why: vec![Why::NewestNotInspected],
            passed_over: Vec::new(),
            step_back: None,
            reason: None,
        }
    }

    fn drill(&self, choice: &Choice, service: Service, profile: &Profile, before: Option<&Record>) -> Record {
        let record = run(&Task {
            system: "billing",
            choice: choice.clone(),
            repository: &self.repository,
            profile,
            service,
            recorded: None,
            rto: Duration::from_hours(1),
            work: &self.path("work"),
            before,
            by: "test",
            clock: &SystemClock,
            cancel: &Cancel::default(),
        })
        .unwrap();
        assert!(record.cleaned, "{record:#?}");
        let left: Vec<_> =
            fs_err::read_dir(self.path("work")).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["lock"], "everything is removed");
        record
    }
}

fn bad(record: &Record) -> Vec<&str> {
    record.probes.iter().filter(|probe| !probe.good).map(|probe| probe.name.as_str()).collect()
}

/// Runs a program as the postgres user.
fn postgres(words: &[&str]) -> String {
    let output = Command::new("setpriv")
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
        .args(words)
        .current_dir("/")
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A cluster with a table, its base backup with a manifest, and a dump.
struct Cluster {
    base: PathBuf,
    dump: PathBuf,
}

impl Cluster {
    fn make(bench: &Bench) -> Self {
        let home = bench.path("pg");
        fs_err::create_dir(&home).unwrap();
        assert!(Command::new("chown").args(["postgres:postgres"]).arg(&home).status().unwrap().success());
        let (data, base, dump) = (home.join("data"), home.join("base"), home.join("dumps"));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let program = |name: &str| format!("{POSTGRES}/{name}");
        let here = text(&home);
        postgres(&[
            &program("initdb"),
            "-D",
            &text(&data),
            "-A",
            "trust",
            "--data-checksums",
            "--no-sync",
            "--locale=C.UTF-8",
        ]);
        let options = format!("-c listen_addresses= -c unix_socket_directories={here} -c fsync=off");
        postgres(&[
            &program("pg_ctl"),
            "-D",
            &text(&data),
            "-w",
            "-o",
            &options,
            "-l",
            &text(&home.join("log")),
            "start",
        ]);
        let sql = "CREATE TABLE orders AS SELECT n AS id, n * 10 AS yen, repeat('医事会計', 20) AS note \
                   FROM generate_series(1, 20000) n; CREATE INDEX ON orders (id); CHECKPOINT;";
        postgres(&[&program("psql"), "-h", &here, "-q", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        postgres(&[&program("pg_basebackup"), "-h", &here, "-D", &text(&base), "-c", "fast", "--no-sync"]);
        postgres(&["mkdir", &text(&dump)]);
        let file = text(&dump.join("dump_20261122.sql"));
        postgres(&[&program("pg_dump"), "-h", &here, "-f", &file]);
        postgres(&[&program("pg_ctl"), "-D", &text(&data), "-m", "immediate", "-w", "stop"]);
        Self { base, dump }
    }
}

fn service() -> Service {
    Service::Postgres { superuser: "postgres".to_owned() }
}

fn queries() -> Profile {
    let query = |sql: &str, equals: Option<&str>, grows: bool| Query {
        database: "postgres".to_owned(),
        sql: sql.to_owned(),
        equals: equals.map(str::to_owned),
        at_least: None,
        grows,
    };
    Profile {
        query: vec![
            query("SELECT count(*), sum(yen) FROM orders", Some("20000|2000100000"), false),
            query("SELECT count(*) FROM orders", None, true),
        ],
        memory: Bytes(1 << 30),
        ..Profile::default()
    }
}

#[test]
fn a_database_drill_passes_on_whole_data_and_fails_on_a_flipped_page() {
    let bench = Bench::new();
    let cluster = Cluster::make(&bench);
    let point = bench.backup(&cluster.base);
    let whole = bench.drill(&point, service(), &queries(), None);
    assert!(whole.passed && whole.rto_met, "{whole:#?}");
    let names: Vec<&str> = whole.probes.iter().map(|probe| probe.name.as_str()).collect();
    assert_eq!(names, ["manifest", "pg_verifybackup", "query", "read_everything", "query", "query"]);
    let isolation = whole.isolation.as_ref().unwrap();
    assert_eq!(isolation.interfaces, ["lo"]);
    assert!(isolation.routes.is_empty() && isolation.namespace.0 != isolation.namespace.1);
    assert!(
        whole.times.restore_s > 0.0
            && whole.times.start_s > 0.0
            && whole.times.rto_s >= whole.times.restore_s
    );

    // One byte in the middle of the table's largest file, as a failing disk leaves it.
    let largest = largest(&cluster.base.join("base"));
    flip(&largest);
    let damaged = bench.backup(&cluster.base);
    let record = bench.drill(&damaged, service(), &queries(), Some(&whole));
    assert!(!record.passed, "{record:#?}");
    assert!(bad(&record).contains(&"pg_verifybackup"), "{:?}", bad(&record));
    // Without the manifest it is the read of every row that notices.
    fs_err::remove_file(cluster.base.join("backup_manifest")).unwrap();
    let unknown = bench.backup(&cluster.base);
    let record = bench.drill(&unknown, service(), &queries(), None);
    assert!(bad(&record).contains(&"read_everything"), "{:?} {record:#?}", bad(&record));

    // A cluster whose control file is gone does not start, and that is a failed drill with its reason.
    fs_err::remove_file(cluster.base.join("global/pg_control")).unwrap();
    let record = bench.drill(&bench.backup(&cluster.base), service(), &queries(), None);
    assert_eq!(
        record.failure.as_ref().map(|failure| failure.code.as_str()),
        Some("drill.program"),
        "{record:#?}"
    );

    let heading = page::Heading {
        hospital: "湊総合病院",
        system: "医事会計",
        number: 7,
        zone: &jiff::tz::TimeZone::UTC,
    };
    let html = page::evidence(&whole, heading, Language::Ja).html();
    assert!(html.contains("復元でき、目標時間内に稼働しました") && html.contains("20000|2000100000"));
    let text = page::evidence(&record, heading, Language::En).text();
    assert!(text.contains("could not be shown to run") && text.contains("[drill.program]"), "{text}");
    assert!(!html.contains("適合"));
}

#[test]
fn a_truncated_dump_fails_its_drill() {
    let bench = Bench::new();
    let cluster = Cluster::make(&bench);
    let dump = Service::PostgresDump { file: "dump_*.sql".to_owned(), database: "restored".to_owned() };
    let mut profile = queries();
    profile.query.iter_mut().for_each(|query| query.database = "restored".to_owned());
    let record = bench.drill(&bench.backup(&cluster.dump), dump.clone(), &profile, None);
    assert!(record.passed, "{record:#?}");
    let file = cluster.dump.join("dump_20261122.sql");
    let text = fs_err::read(&file).unwrap();
    fs_err::write(&file, &text[..text.len() * 9 / 10]).unwrap();
    let cut = bench.drill(&bench.backup(&cluster.dump), dump.clone(), &profile, Some(&record));
    assert!(!cut.passed && bad(&cut).contains(&"trailer"), "{cut:#?}");
    fs_err::remove_file(&file).unwrap();
    fs_err::write(cluster.dump.join("other"), "x").unwrap();
    let gone = bench.drill(&bench.backup(&cluster.dump), dump, &profile, Some(&record));
    assert_eq!(bad(&gone), ["dump"], "{gone:#?}");
}

#[test]
fn a_share_is_served_and_a_missing_file_is_noticed() {
    let bench = Bench::new();
    let share = bench.path("share");
    fs_err::create_dir_all(share.join("2026/11")).unwrap();
    for n in 0..5 {
        fs_err::write(share.join(format!("2026/11/検査-{n}.dat")), vec![n; 30_000 + usize::from(n)]).unwrap();
    }
    let sums =
        Command::new("sh").args(["-c", "cd \"$1\" && sha256sum 2026/11/* > SUMS", "sh"]).arg(&share).status();
    assert!(sums.unwrap().success());
    let command = |run: &[&str]| kuramori_drill::profile::Command {
        name: "vendor".to_owned(),
        run: run.iter().map(|&word| word.to_owned()).collect(),
    };
    let mut profile = Profile {
        must_exist: vec!["2026/11/検査-0.dat".to_owned()],
        sums: vec!["SUMS".to_owned()],
        command: vec![command(&["test", "-s", "{data}/2026/11/検査-4.dat"])],
        ..Profile::default()
    };
    let point = bench.backup(&share);
    let whole = bench.drill(&point, Service::Share, &profile, None);
    assert!(whole.passed, "{whole:#?}");
    let names: Vec<&str> = whole.probes.iter().map(|probe| probe.name.as_str()).collect();
    assert_eq!(names, ["manifest", "samba", "samba-read", "must_exist", "sums", "command"]);
    // The vendor's export lacks a file today, and its own list of sums says so.
    fs_err::remove_file(share.join("2026/11/検査-0.dat")).unwrap();
    profile.command.push(command(&["false"]));
    let record = bench.drill(&bench.backup(&share), Service::Share, &profile, Some(&whole));
    assert_eq!(bad(&record), ["must_exist", "sums", "command"], "{record:#?}");

    // A pack that is damaged in the repository.
    let data = bench.path("repository/data");
    let pack = largest(&data);
    fs_err::set_permissions(&pack, std::fs::Permissions::from_mode(0o600)).unwrap();
    flip(&pack);
    let record = bench.drill(&point, Service::Files, &Profile::default(), None);
    let code = record.failure.as_ref().map_or("", |failure| failure.code.as_str());
    assert!(!record.passed && (code == "repo.damaged" || bad(&record).contains(&"manifest")), "{record:#?}");
}

#[test]
fn nothing_gets_out_of_the_cell_and_nothing_outlives_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let knock = ["-c", "exec 3<>/dev/tcp/127.0.0.1/$1", "bash", &port];
    // First that the knock would be heard: outside it is.
    assert!(Command::new("bash").args(knock).stderr(Stdio::null()).status().unwrap().success());
    let cell = Cell::open(Bytes(256 << 20)).unwrap();
    assert!(!cell.run(As::Root, "bash", &knock).unwrap().status.success());
    assert!(
        !cell
            .run(As::User("postgres"), "bash", &["-c", "exec 3<>/dev/tcp/192.0.2.1/80"])
            .unwrap()
            .status
            .success()
    );
    let who = cell.run(As::User("postgres"), "id", &["-u"]).unwrap();
    assert!(who.status.success() && String::from_utf8_lossy(&who.stdout).trim() != "0", "{who:?}");
    // More memory than it may have is refused.
    let eat = "head -c 600M /dev/zero | tail -c 600M | wc -c";
    let hungry = cell.run(As::Root, "sh", &["-c", eat]).unwrap();
    assert_ne!(String::from_utf8_lossy(&hungry.stdout).trim(), "629145600", "{hungry:?}");
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut sleeper = cell.command(As::Root, "sleep");
    // A number that no other test of this machine has.
    let number = format!("4242.{}", std::process::id());
    sleeper.arg(&number);
    let mut child = cell.start(sleeper, "sleep", log.path()).unwrap();
    let alive = || {
        fs_err::read_dir("/proc").unwrap().flatten().any(|entry| {
            let line = fs_err::read(entry.path().join("cmdline"));
            line.is_ok_and(|line| line == format!("sleep\0{number}\0").as_bytes())
        })
    };
    let deadline = SystemClock.boot() + Duration::from_mins(2);
    while !alive() {
        assert!(SystemClock.boot() < deadline, "the sleeper never began");
        SystemClock.sleep(Duration::from_millis(20));
    }
    drop(cell);
    child.wait().unwrap();
    assert!(!alive(), "the end of the place is the end of everything in it");
}

#[test]
fn without_root_the_cell_is_a_user_namespace_and_without_both_the_drill_is_refused() {
    // The other halves run as somebody without rights: this test's own binary, called by itself.
    match std::env::var("KURAMORI_DRILL_INNER").as_deref() {
        Ok("cell") => {
            let cell = Cell::open(Bytes(256 << 20)).unwrap();
            assert_eq!(cell.isolation().by, "user-namespace");
            assert_eq!(cell.isolation().interfaces, ["lo"]);
            let who = cell.run(As::User("postgres"), "id", &["-u"]).unwrap();
            assert_eq!(String::from_utf8_lossy(&who.stdout).trim(), "65534");
            return;
        }
        Ok(how) => {
            let bench = Bench::new();
            let folder = bench.path("files");
            fs_err::create_dir(&folder).unwrap();
            fs_err::write(folder.join("a"), "a").unwrap();
            let choice = bench.backup(&folder);
            let record = bench.drill(&choice, Service::Files, &Profile::default(), None);
            if how == "drill" {
                assert!(record.passed && record.isolation.is_some(), "{record:#?}");
            } else {
                let code = record.failure.as_ref().map(|failure| failure.code.as_str());
                assert_eq!(code, Some("drill.not-isolated"), "{record:#?}");
                assert!(!record.passed && record.bytes == 0 && record.isolation.is_none(), "{record:#?}");
            }
            return;
        }
        Err(_) => {}
    }
    assert!(rustix::process::geteuid().is_root(), "the tests run as root");
    let dir = tempfile::tempdir().unwrap();
    fs_err::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.path().join("inner");
    fs_err::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let usual = std::env::var("PATH").unwrap();
    // Where the programs that make the place are not to be found, it cannot be had.
    for (how, path) in [("cell", usual.as_str()), ("drill", usual.as_str()), ("refused", "/nonexistent")] {
        let output = Command::new("/usr/bin/setpriv")
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
            .arg(&copy)
            .args([
                "--exact",
                "without_root_the_cell_is_a_user_namespace_and_without_both_the_drill_is_refused",
            ])
            .env("KURAMORI_DRILL_INNER", how)
            .env("PATH", path)
            .current_dir("/")
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{how}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

fn largest(folder: &Path) -> PathBuf {
    let (mut found, mut open) = ((0, PathBuf::new()), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs_err::read_dir(folder).unwrap().flatten() {
            let about = entry.metadata().unwrap();
            if about.is_dir() {
                open.push(entry.path());
            } else if about.len() > found.0 {
                found = (about.len(), entry.path());
            }
        }
    }
    found.1
}

fn flip(file: &Path) {
    let mut bytes = fs_err::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    fs_err::write(file, bytes).unwrap();
}

#[test]
fn one_table_comes_out_of_a_whole_cluster() {
    let bench = Bench::new();
    let cluster = Cluster::make(&bench);
    let choice = bench.backup(&cluster.base);
    let to = bench.path("orders.sql");
    let profile = Profile::default();
    let (progress, cancel) = (kuramori_repo::progress::Progress::default(), Cancel::default());
    let extract = |table: &str, to: &Path| {
        let wanted = kuramori_drill::table::Wanted {
            repository: &bench.repository,
            snapshot: &choice.point.snapshot,
            profile: &profile,
            superuser: "postgres",
            database: "postgres",
            table,
            work: &bench.path("work"),
            moment: None,
            to,
        };
        kuramori_drill::table::extract(&wanted, &SystemClock, &progress, &cancel)
    };
    let (path, bytes) = extract("orders", &to).unwrap();
    let text = fs_err::read_to_string(&path).unwrap();
    assert_eq!(bytes, text.len() as u64);
    assert!(
        text.contains("COPY public.orders") && text.lines().any(|line| line.starts_with("20000\t200000\t"))
    );
    assert!(extract("orders", &to).is_err(), "nothing is written over");
    assert!(extract("patients", &bench.path("none.sql")).is_err(), "there is no such table");
    assert!(!bench.path("none.sql").exists());
}

#[test]
fn a_mariadb_dump_is_loaded_and_a_cut_one_fails() {
    let bench = Bench::new();
    let folder = bench.path("maria");
    fs_err::create_dir(&folder).unwrap();
    let rows: Vec<String> = (1..=3000).map(|n| format!("({n},'検査 {n}')")).collect();
    let dump = format!(
        "CREATE DATABASE `laboratory` CHARACTER SET utf8mb4;\nUSE `laboratory`;\n\
         CREATE TABLE `results` (id INT PRIMARY KEY, text VARCHAR(40)) ENGINE=InnoDB;\n\
         INSERT INTO `results` VALUES {};\n-- Dump completed\n",
        rows.join(",")
    );
    fs_err::write(folder.join("dump.sql"), &dump).unwrap();
    let profile = Profile {
        query: vec![Query {
            database: "laboratory".to_owned(),
            sql: "SELECT count(*), max(id) FROM results".to_owned(),
            equals: Some("3000|3000".to_owned()),
            at_least: None,
            grows: false,
        }],
        ..Profile::default()
    };
    let service = || Service::MariadbDump { file: "dump.sql".to_owned() };
    let whole = bench.drill(&bench.backup(&folder), service(), &profile, None);
    assert!(whole.passed, "{whole:#?}");
    fs_err::write(folder.join("dump.sql"), &dump.as_bytes()[..dump.len() - 500]).unwrap();
    let cut = bench.drill(&bench.backup(&folder), service(), &profile, None);
    assert!(!cut.passed && bad(&cut).contains(&"trailer"), "{cut:#?}");
}

#[test]
fn an_archive_answers_with_every_instance_as_it_was_received() {
    let bench = Bench::new();
    let (home, files) = (bench.path("pacs"), bench.path("dicom"));
    let data = home.join("db");
    fs_err::create_dir_all(&data).unwrap();
    fs_err::create_dir_all(&files).unwrap();
    for n in 1..=4 {
        let text = format!(
            "(0008,0016) UI =SecondaryCaptureImageStorage\n(0008,0018) UI [1.2.826.0.1.3680043.2.1143.9.{n}]\n\
             (0008,0060) CS [OT]\n(0010,0010) PN [TEST^{n}]\n(0010,0020) LO [TEST0000{n}]\n\
             (0020,000d) UI [1.2.826.0.1.3680043.2.1143.7.{n}]\n(0020,000e) UI [1.2.826.0.1.3680043.2.1143.8.{n}]\n"
        );
        let dump = files.join(format!("{n}.txt"));
        fs_err::write(&dump, text).unwrap();
        let done = Command::new("dump2dcm").arg(&dump).arg(files.join(format!("{n}.dcm"))).output().unwrap();
        assert!(done.status.success(), "dump2dcm: {}", String::from_utf8_lossy(&done.stderr));
    }
    // The archive is filled in a cell of its own, so that its ports are nobody else's.
    let cell = Cell::open(Bytes(1 << 30)).unwrap();
    let config = home.join("orthanc.json");
    let settings = serde_json::json!({
        "StorageDirectory": data, "IndexDirectory": data, "HttpPort": 8042, "DicomPort": 4242,
        "AuthenticationEnabled": false, "Plugins": [], "DicomAet": "PACS", "DicomAlwaysAllowStore": true,
    });
    fs_err::write(&config, settings.to_string()).unwrap();
    cell.give("orthanc", &home).unwrap();
    let mut command = cell.command(As::User("orthanc"), "Orthanc");
    command.arg(&config).current_dir("/");
    let mut child = cell.start(command, "Orthanc", &bench.path("orthanc.log")).unwrap();
    let deadline = SystemClock.boot() + Duration::from_mins(1);
    while !cell.http(8042, "GET", "/system").is_ok_and(|(status, _)| status == 200) {
        let log = || fs_err::read_to_string(bench.path("orthanc.log")).unwrap_or_default();
        assert!(SystemClock.boot() < deadline, "Orthanc does not answer: {}", log());
        SystemClock.sleep(Duration::from_millis(50));
    }
    for n in 1..=4 {
        let file = files.join(format!("{n}.dcm"));
        let sent = cell
            .run(As::Root, "storescu", &["-aec", "PACS", "127.0.0.1", "4242", file.to_str().unwrap()])
            .unwrap();
        assert!(sent.status.success(), "storescu: {}", String::from_utf8_lossy(&sent.stderr));
    }
    assert_eq!(cell.http(8042, "POST", "/tools/shutdown").unwrap().0, 200);
    child.wait().unwrap();
    drop(cell);

    let service = || Service::Orthanc { folder: String::new() };
    let whole = bench.drill(&bench.backup(&data), service(), &Profile::default(), None);
    assert!(whole.passed, "{whole:#?}");
    let answers: Vec<&str> = whole.probes.iter().map(|probe| probe.answer.as_str()).collect();
    assert!(answers.contains(&"4 instances in 4 studies"), "{answers:?}");
    assert!(answers.contains(&"4 of 4 instances read, all as received"), "{answers:?}");
    // A picture is gone from the disk that is backed up, though the index still lists it.
    let mut pictures: Vec<PathBuf> = Vec::new();
    let mut open = vec![data.clone()];
    while let Some(folder) = open.pop() {
        for entry in fs_err::read_dir(folder).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else if !entry.file_name().to_string_lossy().starts_with("index") {
                pictures.push(entry.path());
            }
        }
    }
    fs_err::remove_file(&pictures[0]).unwrap();
    let record = bench.drill(&bench.backup(&data), service(), &Profile::default(), Some(&whole));
    assert!(!record.passed && bad(&record).contains(&"md5"), "{record:#?}");
}
