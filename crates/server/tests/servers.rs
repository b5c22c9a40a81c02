//! Several servers on one PostgreSQL: real processes, killed and frozen in the middle of a job, and a database
//! that goes away and comes back.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test may stop it, and says its figures"
)]

#[path = "support/hospital.rs"]
mod hospital;
#[path = "../../catalog/tests/common/postgres.rs"]
mod postgres;
#[path = "support/process.rs"]
mod process;

use std::process::Command;

use hospital::{Share, Site, backup, beside, restic, same, until};
use kuramori_model::fault::{Fault, Kind};
use kuramori_server::{client::Client, run};
use postgres::Postgres;
use process::Process;
use rustix::process::Signal;
use serde_json::{Value, json};

/// Ten pulses: a server that works is not taken for dead because its machine is busy.
const LEASE: &str = "lease = \"10s\"\n";

/// One hospital with a database, a share, and two servers that have the same keys and repositories.
struct Group {
    one: Site,
    two: Site,
    share: Share,
    // Last but the folder, so that the servers end before the database.
    postgres: Postgres,
    temp: tempfile::TempDir,
}

impl Group {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let postgres = Postgres::start(temp.path());
        postgres.sql("postgres", "CREATE DATABASE catalog");
        let share = Share::start(temp.path());
        let repositories = temp.path().join("repositories");
        let store = format!(
            "catalog = \"{}\"\nrepositories = \"{}\"\n",
            postgres.url("catalog"),
            repositories.display()
        );
        let site = |name: &str| Site::with(&temp.path().join(name), &store, LEASE, "");
        let (one, two) = (site("one"), site("two"));
        one.init();
        fs_err::create_dir_all(&two.config().data).unwrap();
        for folder in ["keys", "tls"] {
            let (from, to) = (one.config().data.join(folder), two.config().data.join(folder));
            assert!(Command::new("cp").arg("-a").args([&from, &to]).status().unwrap().success());
        }
        Self { one, two, share, postgres, temp }
    }

    /// The client of the server that is not this process.
    fn other(&self, processes: &[Process; 2], owner: u32) -> Client {
        if processes[0].id() == owner { self.two.client() } else { self.one.client() }
    }
}

fn owner(run: &Value) -> Option<u32> {
    run["owner"].as_str()?.split('/').nth(1)?.parse().ok()
}

/// Starts backups until one is seen running with bytes on the way, does something to its server, and gives
/// the run's number and the server.
fn meet(group: &Group, signal: Signal, processes: &[Process; 2]) -> (u64, usize) {
    for round in 0..10 {
        group.share.fill(round, 60, 1_500_000);
        let client = group.one.client();
        let queued: Value = client.post("/v1/runs", &json!({ "system": "eye" })).unwrap();
        let number = queued["run"].as_u64().unwrap();
        let run = until("the run to begin", || {
            let run: Value = client.get(&format!("/v1/runs/{number}")).unwrap();
            (run["state"] != "queued").then_some(run)
        });
        let Some(pid) = owner(&run).filter(|_| run["state"] == "running") else { continue };
        let at = processes.iter().position(|process| process.id() == pid).unwrap();
        // Frozen first: what is seen now does not change until the signal.
        processes[at].send(Signal::STOP);
        let watcher = group.other(processes, pid);
        let look = || watcher.get::<Value>(&format!("/v1/runs/{number}")).unwrap()["state"] == "running";
        // What it had sent to the database before comes to its end there.
        if look() && settled(look) {
            processes[at].send(signal);
            println!("round {round}: server {at} got {signal:?} in the middle of run {number}");
            return (number, at);
        }
        // It was faster than the signal.
        processes[at].send(Signal::CONT);
    }
    panic!("no signal ever met a running job: the test proves nothing");
}

/// Whether it still holds after a moment.
fn settled(holds: impl FnOnce() -> bool) -> bool {
    std::thread::sleep(std::time::Duration::from_millis(300));
    holds()
}

fn complete(client: &Client, number: u64) -> Value {
    until("another server to finish the run", || {
        let run: Value = client.get(&format!("/v1/runs/{number}")).unwrap();
        assert!(!matches!(run["state"].as_str(), Some("failed" | "cancelled")), "{run}");
        (run["state"] == "complete").then_some(run)
    })
}

fn points_of(client: &Client, run: u64) -> usize {
    let points: Vec<Value> = client.get("/v1/points?system=eye&place=primary").unwrap();
    points.iter().filter(|point| point["run"] == run).count()
}

#[test]
fn a_killed_servers_job_is_finished_by_the_other() {
    let group = Group::new();
    let [one, two] = [Process::start(&group.one), Process::start(&group.two)];
    group.one.client().post::<Value>("/v1/systems", &group.share.entry("eye")).unwrap();
    let processes = [one, two];
    let (number, dead) = meet(&group, Signal::KILL, &processes);
    let client = group.other(&processes, processes[dead].id());
    let run = complete(&client, number);
    assert_eq!(run["epoch"], 2, "claimed once more: {run}");
    assert_eq!(owner(&run), Some(processes[1 - dead].id()), "{run}");
    assert_eq!(points_of(&client, number), 1);
    let page: Value = client.get("/v1/evidence?lang=ja").unwrap();
    assert!(page["html"].as_str().unwrap().contains("眼科"));
    drop(processes);

    let repository = group.one.repository("eye");
    let (at, password) = (repository.display().to_string(), group.one.recovered_password("eye"));
    restic(&at, &password, &[], &["unlock", "--remove-all"]);
    restic(&at, &password, &[], &["check", "--read-data"]);
    let target = group.temp.path().join("restored");
    restic(&at, &password, &[], &["restore", "latest", "--target", &target.display().to_string()]);
    assert!(same(&target, &group.share.folder));
}

#[test]
fn a_frozen_server_that_wakes_up_late_commits_nothing() {
    let group = Group::new();
    let [one, two] = [Process::start(&group.one), Process::start(&group.two)];
    group.one.client().post::<Value>("/v1/systems", &group.share.entry("eye")).unwrap();
    let processes = [one, two];
    let (number, frozen) = meet(&group, Signal::STOP, &processes);
    let client = group.other(&processes, processes[frozen].id());
    let run = complete(&client, number);
    assert_eq!((run["epoch"].as_u64(), owner(&run)), (Some(2), Some(processes[1 - frozen].id())), "{run}");

    processes[frozen].send(Signal::CONT);
    let own = if frozen == 0 { group.one.client() } else { group.two.client() };
    // It hears that the job is not its own any more, and works on: it takes the next one when it is its turn.
    until("the woken server", || own.get::<Value>("/v1/status").ok());
    let next = backup(&own, "eye");
    assert_eq!(next["state"], "complete", "{next}");
    let after: Value = client.get(&format!("/v1/runs/{number}")).unwrap();
    assert_eq!(after, run, "the woken server changed nothing");
    assert_eq!(points_of(&client, number), 1);

    // The check above would notice: this is what a server without the fence would have written.
    let forged = format!("UPDATE runs SET epoch = 1, owner = 'frozen' WHERE id = {number}");
    group.postgres.sql("catalog", &forged);
    let seen: Value = client.get(&format!("/v1/runs/{number}")).unwrap();
    assert_ne!(seen, run);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_named_and_work_goes_on_when_it_is_back() {
    let mut group = Group::new();
    let running = run::start(group.one.config()).await.unwrap();
    let (first, group) = beside(move || {
        let client = group.one.client();
        client.post::<Value>("/v1/systems", &group.share.entry("eye")).unwrap();
        group.share.fill(1, 5, 10_000);
        assert_eq!(backup(&client, "eye")["state"], "complete");
        let points: Vec<Value> = client.get("/v1/points").unwrap();
        group.postgres.stop();
        let error = client.get::<Value>("/v1/status").unwrap_err();
        assert_eq!((error.code(), error.kind()), ("catalog.away", Kind::Retry), "{error}");
        assert!(error.hint().unwrap().contains("start the database"), "{error:?}");
        (points, group)
    })
    .await;
    let error = run::start(group.two.config()).await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("catalog.cannot-open", Kind::Retry), "{error}");
    assert!(error.to_string().contains("postgres://kuramori@"), "{error}");
    let mut group = group;
    let group = beside(move || {
        group.postgres.serve();
        let client = group.one.client();
        let points: Vec<Value> =
            until("the server to find the database again", || client.get("/v1/points").ok());
        assert_eq!(points, first, "nothing that was committed is lost");
        group.share.fill(2, 5, 10_000);
        assert_eq!(backup(&client, "eye")["state"], "complete");
        group
    })
    .await;
    running.stop().await;
    drop(group);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_other_keys_is_refused() {
    let group = Group::new();
    let running = run::start(group.one.config()).await.unwrap();
    let stranger = Site::with(
        &group.temp.path().join("stranger"),
        &format!("catalog = \"{}\"\n", group.postgres.url("catalog")),
        LEASE,
        "",
    );
    stranger.init();
    let error = run::start(stranger.config()).await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("server.other-identity", Kind::Fix), "{error}");
    let second = run::start(group.two.config()).await.unwrap();
    second.stop().await;
    running.stop().await;
}
