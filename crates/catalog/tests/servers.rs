//! Two servers on one PostgreSQL, each with clocks of its own: what is claimed is claimed once, time passes
//! once, and one that lost its job writes nothing more.

#![expect(clippy::unwrap_used, reason = "a helper of a test may stop it")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Engine, House, house, id, job, on_both_engines, point, system};
use kuramori_catalog::{Catalog, Claim, End, Enqueued, Place, RunState};
use kuramori_judge::facts::RunFacts;
use kuramori_model::{
    clock::ManualClock,
    fault::Fault,
    foreign::{JobResult, JobState},
};

const LEASE: Duration = Duration::from_mins(2);

on_both_engines! {
    a_products_results_are_recorded_once_in_order_and_come_back_from_an_export,
    a_job_that_was_taken_over_keeps_its_number_and_a_stale_epoch_cannot_commit,
    a_lease_changes_hands_only_when_it_is_over,
}

fn end(snapshot: &str) -> End {
    End {
        state: RunState::Complete,
        facts: RunFacts::default(),
        error: None,
        point: Some(point("billing", snapshot)),
        detail: serde_json::json!({}),
    }
}

async fn claim(catalog: &Catalog, owner: &str) -> Claim {
    catalog.claim(owner, LEASE).await.unwrap().unwrap()
}

async fn a_job_that_was_taken_over_keeps_its_number_and_a_stale_epoch_cannot_commit(engine: Engine) {
    let House { catalog, clock, dir } = house(engine).await;
    catalog.enqueue(&job("billing")).await.unwrap();
    let lost = claim(&catalog, "a").await;
    clock.advance(LEASE.saturating_sub(Duration::from_secs(1)));
    assert!(catalog.take_over(3).await.unwrap().is_empty(), "the lease still runs");
    clock.advance(Duration::from_secs(2));
    let taken = catalog.take_over(3).await.unwrap();
    assert_eq!((taken[0].id, taken[0].state), (lost.run.id, RunState::Queued));
    let next = claim(&catalog, "b").await;
    assert_eq!((next.run.id, next.run.epoch), (lost.run.id, 2));
    for _ in 0..2 {
        assert_eq!(catalog.finish(&lost, &end("aa")).await.unwrap_err().code(), "catalog.lease-lost");
        assert_eq!(
            catalog.describe(&lost, &serde_json::json!({"x": 1})).await.unwrap_err().code(),
            "catalog.lease-lost"
        );
    }
    assert!(catalog.points(&id("billing"), Place::Primary).await.unwrap().is_empty());
    // The same end by the owner of the epoch is kept, and asking again gives the same answer.
    let kept = catalog.finish(&next, &end("bb")).await.unwrap().unwrap();
    assert_eq!(catalog.finish(&next, &end("bb")).await.unwrap(), Some(kept));
    assert_eq!(catalog.finish(&lost, &end("aa")).await.unwrap_err().code(), "catalog.lease-lost");

    // Without the fence the stale one would commit, and this test would see it.
    catalog.enqueue(&job("billing")).await.unwrap();
    let unfenced = claim(&catalog, "a").await;
    assert!(catalog.finish(&unfenced, &end("cc")).await.unwrap().is_some());
    assert_eq!(catalog.points(&id("billing"), Place::Primary).await.unwrap().len(), 2);

    // What kills its servers again and again is given up.
    catalog.enqueue(&job("pacs")).await.unwrap();
    for _ in 0..2 {
        claim(&catalog, "a").await;
        clock.advance(LEASE * 2);
        assert_eq!(catalog.take_over(3).await.unwrap()[0].state, RunState::Queued);
    }
    claim(&catalog, "a").await;
    clock.advance(LEASE * 2);
    let given_up = catalog.take_over(3).await.unwrap();
    assert_eq!(given_up[0].state, RunState::Failed);
    assert_eq!(given_up[0].error_code.as_deref(), Some("catalog.lease-expired"));
    drop(dir);
}

async fn a_lease_changes_hands_only_when_it_is_over(engine: Engine) {
    let House { catalog, clock, dir: _dir } = house(engine).await;
    let first = catalog.lease("judge", "a", LEASE).await.unwrap().unwrap();
    assert!(catalog.lease("judge", "b", LEASE).await.unwrap().is_none());
    clock.advance(Duration::from_mins(1));
    assert_eq!(catalog.lease("judge", "a", LEASE).await.unwrap(), Some(first.clone()), "prolonged");
    clock.advance(LEASE + Duration::from_secs(1));
    let second = catalog.lease("judge", "b", LEASE).await.unwrap().unwrap();
    assert_eq!(second.epoch, 2);
    catalog.release(&first).await.unwrap();
    assert!(catalog.lease("judge", "a", LEASE).await.unwrap().is_none(), "a lost lease gives nothing back");
    catalog.release(&second).await.unwrap();
    assert_eq!(catalog.lease("judge", "a", LEASE).await.unwrap().unwrap().epoch, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_claim_everything_once() {
    let House { catalog: one, dir, .. } = house(Engine::Postgres).await;
    let clock = Arc::new(ManualClock::new("2026-11-20T00:00:00Z".parse().unwrap()));
    let two = Catalog::open_as_booted(dir.database("catalog"), clock, "boot-2").await.unwrap();
    let due = "2026-11-20T16:00:00Z".parse().unwrap();
    for n in 0..20 {
        one.add_system(&system(&format!("s{n}"), &format!("host-{n}"), 9)).await.unwrap();
    }
    let servers = [one.clone(), two.clone()];
    let mut tasks = tokio::task::JoinSet::new();
    for (number, server) in servers.iter().cloned().enumerate() {
        tasks.spawn(async move {
            let (mut new, mut missed, mut got) = (0, 0, Vec::new());
            for n in 0..20 {
                let mut wanted = job(&format!("s{n}"));
                wanted.due = Some(due);
                new += usize::from(matches!(server.enqueue(&wanted).await.unwrap(), Enqueued::New(_)));
                let late = "2026-11-21T16:00:00Z".parse().unwrap();
                missed += usize::from(server.set_handled(&id(&format!("s{n}")), late).await.unwrap());
                if let Some(claim) = server.claim(&format!("server-{number}"), LEASE).await.unwrap() {
                    got.push(claim.run.id);
                }
            }
            while let Some(claim) = server.claim(&format!("server-{number}"), LEASE).await.unwrap() {
                got.push(claim.run.id);
            }
            (new, missed, got)
        });
    }
    let results = tasks.join_all().await;
    let (mut new, mut missed, mut all) = (0, 0, Vec::new());
    for (some, reported, got) in results {
        println!("one server queued {some}, reported {reported}, claimed {}", got.len());
        new += some;
        missed += reported;
        all.extend(got);
    }
    all.sort_unstable();
    let claimed = all.len();
    all.dedup();
    assert_eq!((new, missed, claimed, all.len()), (20, 20, 20, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn time_passes_once_for_servers_side_by_side_and_goes_on_when_one_is_gone() {
    let House { catalog: one, clock, dir } = house(Engine::Postgres).await;
    // Another machine: it was started at another time, its clock is a second ahead.
    let other = Arc::new(ManualClock::new("2026-11-20T00:00:01Z".parse().unwrap()));
    other.advance(Duration::from_hours(70));
    other.jump("2026-11-20T00:00:01Z".parse().unwrap());
    let two = Catalog::open_as_booted(dir.database("catalog"), other.clone(), "boot-2").await.unwrap();
    let begin = two.tick().await.unwrap().age;
    for _ in 0..60 {
        clock.advance(Duration::from_mins(1));
        other.advance(Duration::from_mins(1));
        one.tick().await.unwrap();
        two.tick().await.unwrap();
    }
    let hour = two.tick().await.unwrap().age.saturating_sub(begin);
    assert_eq!(hour.as_secs() / 60, 60, "one hour, not two");
    assert!(one.suspended().await.unwrap().is_none(), "two clocks a second apart are no jump");
    other.advance(Duration::from_hours(2));
    let later = two.tick().await.unwrap().age.saturating_sub(begin);
    assert_eq!(later.as_secs() / 3600, 3, "the one that is left makes time pass");
    clock.jump("2026-12-20T00:00:00Z".parse().unwrap());
    one.tick().await.unwrap();
    assert!(one.suspended().await.unwrap().is_some(), "each machine's jump is seen by itself");
    assert!(two.removals_allowed().await.is_err(), "and counts for all");
}

fn result(job: &str, minute: i64) -> JobResult {
    JobResult {
        format: kuramori_model::foreign::FORMAT.to_owned(),
        system: id("billing"),
        product: "veeam".to_owned(),
        job: job.to_owned(),
        state: JobState::Success,
        started: None,
        ended: jiff::Timestamp::from_second(1_790_000_000 + minute * 60).unwrap(),
        bytes: (minute % 2 == 0).then_some(7),
        files: Vec::new(),
        message: "夜間".to_owned(),
    }
}

async fn a_products_results_are_recorded_once_in_order_and_come_back_from_an_export(engine: Engine) {
    let House { catalog, clock, dir } = house(engine).await;
    // Everybody hears the same twenty results at once; on PostgreSQL there are two servers.
    let other = match engine {
        Engine::Sqlite => catalog.clone(),
        Engine::Postgres => {
            Catalog::open_as_booted(dir.database("catalog"), clock.clone(), "boot-2").await.unwrap()
        }
    };
    let hear = |catalog: Catalog| async move {
        let mut new = 0;
        for minute in 0..20 {
            new += u64::from(catalog.add_result(&result("nightly", minute), "mail").await.unwrap().is_some());
        }
        new
    };
    let (a, b) = (tokio::spawn(hear(catalog.clone())), tokio::spawn(hear(other.clone())));
    assert_eq!(a.await.unwrap() + b.await.unwrap(), 20, "each once");
    let known = catalog.results(&id("billing")).await.unwrap();
    assert_eq!(known.iter().map(|known| known.number).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    assert_eq!((known[0].way.as_str(), known[0].result.message.as_str()), ("mail", "夜間"));
    assert!(catalog.results(&id("pacs")).await.unwrap().is_empty());
    for minute in 20..130 {
        clock.advance(Duration::from_mins(1));
        catalog.add_result(&result("nightly", minute), "mail").await.unwrap().unwrap();
    }
    let known = other.results(&id("billing")).await.unwrap();
    assert_eq!((known.len(), known[0].number, known[99].number), (100, 31, 130), "the newest hundred");

    // What an older version kept in the settings is moved when the catalog is opened, and only once.
    let mut old: Vec<_> = known.iter().take(3).cloned().collect();
    for recorded in &mut old {
        recorded.result.system = id("pacs");
    }
    catalog.set_setting("results/pacs", &old).await.unwrap();
    catalog.set_setting("results/gone", &old).await.unwrap();
    let export = dir.path().join("export.jsonl");
    catalog.export(&export).await.unwrap();
    let again = Catalog::import(&export, dir.database("again"), clock.clone()).await.unwrap();
    assert_eq!(again.results(&id("billing")).await.unwrap(), known);
    let moved = again.results(&id("pacs")).await.unwrap();
    assert_eq!(moved.len(), 3, "with the time at which they came: {moved:?}");
    assert_eq!(moved[0].received, old[0].received);
    assert!(again.setting::<serde_json::Value>("results/pacs").await.unwrap().is_none());
    assert!(again.setting::<serde_json::Value>("results/gone").await.unwrap().is_none());
}
