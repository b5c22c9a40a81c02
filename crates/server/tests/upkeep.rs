//! Forgotten restore points give their space back: on a schedule, by a plan that is on record, never beside a
//! job, and never when something is wrong.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

#[path = "support/hospital.rs"]
mod hospital;

use std::path::Path;

use hospital::{backup, beside, night, restic, same, until};
use serde_json::{Value, json};

/// Bytes of all packs of a repository.
fn packs(repository: &Path) -> u64 {
    let mut bytes = 0;
    for folder in fs_err::read_dir(repository.join("data")).unwrap() {
        for pack in fs_err::read_dir(folder.unwrap().path()).unwrap() {
            bytes += pack.unwrap().metadata().unwrap().len();
        }
    }
    bytes
}

/// The newest complete prune of a system, once there is one with a number above `after`.
fn pruned(client: &kuramori_server::client::Client, system: &str, after: u64) -> Value {
    until("a prune", || {
        let runs: Vec<Value> = client.get(&format!("/v1/runs?system={system}&kind=prune")).unwrap();
        runs.into_iter().find(|run| run["state"] == "complete" && run["id"].as_u64().unwrap() > after)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_points_give_their_space_back_on_a_schedule_with_the_plan_on_record() {
    let night = night("[prune]\nevery = \"1s\"\nmax_unused = 0\nrepack_share = 100\n").await;
    let (site, share) = (night.site.clone(), night.share.clone());
    beside(move || {
        let client = site.client();
        client.post::<Value>("/v1/systems", &share.entry("eye")).unwrap();
        for seed in 0..3 {
            share.fill(seed, 20, 100_000);
            assert_eq!(backup(&client, "eye")["state"], "complete");
        }
        let (repository, password) = (site.repository("eye"), site.recovered_password("eye"));
        let kept = pruned(&client, "eye", 0);
        assert_eq!(kept["reason"], "schedule", "{kept}");
        let full = packs(&repository);
        assert!(full > 5_900_000, "three different nights are there: {full}");
        // Snapshots go, as the retention lets them after days; but the catalog was not told yet.
        let points: Vec<Value> = client.get("/v1/points?system=eye&place=primary").unwrap();
        for point in points.iter().skip(1) {
            let snapshot = point["snapshot"].as_str().unwrap();
            fs_err::remove_file(repository.join("snapshots").join(snapshot)).unwrap();
        }
        let at = repository.display().to_string();

        // The catalog still counts them: somebody took them away behind our back.
        let refused = until("the refusal", || {
            let runs: Vec<Value> = client.get("/v1/runs?system=eye&kind=prune").unwrap();
            runs.into_iter().find(|run| run["error_code"] == "server.points-missing")
        });
        assert_eq!(refused["state"], "failed");
        assert_eq!(packs(&repository), full, "nothing was freed");
        let status: Value = client.get("/v1/status").unwrap();
        assert_eq!(status["upkeep"][0]["error_code"], "server.points-missing", "{status}");

        let sequences: Vec<u64> =
            points.iter().skip(1).map(|point| point["sequence"].as_u64().unwrap()).collect();
        site.forgotten(&sequences);
        client.post::<Value>("/v1/runs", &json!({ "system": "eye", "kind": "prune" })).unwrap();
        let run = pruned(&client, "eye", refused["id"].as_u64().unwrap());
        assert_eq!(run["state"], "complete", "{run}");
        let plan = &run["detail"]["prune"];
        assert!(plan["done"] == true && plan["remove_bytes"].as_u64().unwrap() > 3_900_000, "{run}");
        let left = packs(&repository);
        assert!(left < full / 2, "{left} of {full} bytes are left");
        restic(&at, &password, &[], &["check", "--no-lock", "--read-data"]);
        let target = site.root.join("restored");
        restic(
            &at,
            &password,
            &[],
            &["restore", "--no-lock", "latest", "--target", &target.display().to_string()],
        );
        assert!(same(&target, &share.folder), "the kept point is whole");

        let status: Value = client.get("/v1/status").unwrap();
        let eye = status["upkeep"].as_array().unwrap().iter().find(|row| row["repository"] == "eye").unwrap();
        assert_eq!(eye["plan"]["remove_packs"], plan["remove_packs"]);
        let page = hospital::page(&site, "ja");
        assert!(page.contains("保存領域の整理") && page.contains("不要パック"), "{page}");
    })
    .await;
    night.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_packs_no_more_anew_than_its_share() {
    let night = night("[prune]\nevery = \"1h\"\nmax_unused = 0\nrepack_share = 0\n").await;
    let (site, share) = (night.site.clone(), night.share.clone());
    beside(move || {
        let client = site.client();
        client.post::<Value>("/v1/systems", &share.entry("eye")).unwrap();
        share.fill(1, 20, 100_000);
        backup(&client, "eye");
        // Half of the second night is the first one's: its pack stays half needed when the first is forgotten.
        share.fill(2, 10, 100_000);
        backup(&client, "eye");
        let points: Vec<Value> = client.get("/v1/points?system=eye&place=primary").unwrap();
        let oldest = points.last().unwrap();
        let (repository, password) = (site.repository("eye"), site.recovered_password("eye"));
        let at = repository.display().to_string();
        restic(&at, &password, &[], &["forget", oldest["snapshot"].as_str().unwrap()]);
        site.forgotten(&[oldest["sequence"].as_u64().unwrap()]);
        client.post::<Value>("/v1/runs", &json!({ "system": "eye", "kind": "prune" })).unwrap();
        let run = pruned(&client, "eye", 0);
        let plan = &run["detail"]["prune"];
        assert_eq!(
            (plan["repack_packs"].as_u64(), plan["share_bytes"].as_u64()),
            (Some(0), Some(0)),
            "{run}"
        );
        assert!(plan["unused_kept_bytes"].as_u64().unwrap() > 900_000, "it would be worth it: {run}");
        restic(&at, &password, &[], &["check", "--read-data"]);
    })
    .await;
    night.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_keeps_its_newest_and_gives_space_back() {
    let night = night("[retention]\nevery = \"500ms\"\ncontrol_last = 4\n[prune]\nmax_unused = 0\n").await;
    let site = night.site.clone();
    beside(move || {
        let client = site.client();
        let count = || {
            let control = site.recovered_password("_control");
            let at = site.repository("_control").display().to_string();
            let listed = restic(&at, &control, &[], &["snapshots", "--no-lock", "--json"]);
            serde_json::from_slice::<Vec<Value>>(&listed.stdout).unwrap().len()
        };
        for _ in 0..7 {
            client.post::<Value>("/v1/export", &json!({})).unwrap();
        }
        // Today's and this month's newest are among the last four.
        until("the policy", || (count() == 4).then_some(()));
        let events: Vec<Value> = client.get("/v1/events").unwrap();
        let pruned = events.iter().rfind(|event| event["kind"] == "control.pruned").unwrap();
        assert!(pruned["data"]["prune"]["remove_packs"].as_u64().unwrap() > 0, "{pruned}");
        let control = site.recovered_password("_control");
        let at = site.repository("_control").display().to_string();
        restic(&at, &control, &[], &["check", "--no-lock", "--read-data"]);
    })
    .await;
    night.running.stop().await;
}
