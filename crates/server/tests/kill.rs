//! The server gets SIGKILL at seeded moments of a backup: no committed restore point is lost, nothing half done
//! is visible, and the run of the dead server is taken back.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

#[path = "support/hospital.rs"]
mod hospital;
#[path = "support/process.rs"]
mod process;

use std::{collections::HashSet, time::Duration};

use hospital::{Share, Site, backup, restic};
use kuramori_model::clock::SeededRandom;
use process::Process;
use serde_json::{Value, json};

#[test]
fn kill_9_loses_no_committed_point_and_leaves_nothing_half_done() {
    let seed = std::env::var("KURAMORI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
    let rounds = if std::env::var_os("KURAMORI_LONG").is_some() { 50 } else { 8 };
    println!("KURAMORI_SEED={seed}");
    let random = SeededRandom::new(seed);
    let temp = tempfile::tempdir().unwrap();
    let share = Share::start(temp.path());
    let site = Site::new(&temp.path().join("site"), "");
    site.init();
    let mut seen: HashSet<String> = HashSet::new();
    let mut process = Process::start(&site);
    site.client().post::<Value>("/v1/systems", &share.entry("eye")).unwrap();
    let mut interrupted = 0;
    for round in 0..rounds {
        share.fill(round, 60, 200_000);
        let client = site.client();
        client.post::<Value>("/v1/runs", &json!({ "system": "eye" })).unwrap();
        std::thread::sleep(Duration::from_millis(random.below(1200)));
        // What was acknowledged until now must be there for ever.
        let points: Vec<Value> = client.get("/v1/points?place=primary").unwrap();
        seen.extend(points.iter().map(|point| point["snapshot"].as_str().unwrap().to_owned()));
        process.signal(rustix::process::Signal::KILL);
        process = Process::start(&site);
        let runs: Vec<Value> = site.client().get("/v1/runs").unwrap();
        interrupted = runs.iter().filter(|run| run["error_code"] == "catalog.abandoned").count();
        let now: Vec<Value> = site.client().get("/v1/points?place=primary").unwrap();
        let now: HashSet<String> =
            now.iter().map(|point| point["snapshot"].as_str().unwrap().to_owned()).collect();
        assert!(seen.is_subset(&now), "round {round}: an acknowledged restore point is gone");
    }
    assert!(interrupted > 0, "no kill ever met a running job: the test proves nothing");
    let client = site.client();
    let last = backup(&client, "eye");
    assert_eq!(last["state"], "complete", "{last}");
    let points: Vec<Value> = client.get("/v1/points?place=primary").unwrap();
    let points: HashSet<&str> = points.iter().map(|point| point["snapshot"].as_str().unwrap()).collect();
    assert!(process.signal(rustix::process::Signal::TERM).success(), "SIGTERM ends cleanly");

    let (repository, password) =
        (site.repository("eye").display().to_string(), site.recovered_password("eye"));
    restic(&repository, &password, &[], &["unlock", "--remove-all"]);
    restic(&repository, &password, &[], &["check", "--read-data"]);
    let snapshots = restic(&repository, &password, &[], &["snapshots", "--json"]);
    let snapshots: Vec<Value> = serde_json::from_slice(&snapshots.stdout).unwrap();
    let there: HashSet<&str> = snapshots.iter().map(|snapshot| snapshot["id"].as_str().unwrap()).collect();
    assert_eq!(there, points, "catalog and repository know the same restore points");
    let figures = json!({ "test": "server-kill", "seed": seed, "kill_points": rounds, "met_a_running_job": interrupted,
                          "acknowledged_points": seen.len(), "points_lost": 0, "points_in_the_end": points.len() });
    println!("{figures}");
    if let Some(folder) = std::env::var_os("KURAMORI_EVIDENCE") {
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::write(std::path::Path::new(&folder).join("server-kill.json"), figures.to_string()).unwrap();
    }
}
