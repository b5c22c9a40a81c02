//! Runs: claimed once, one per departmental server, and never written by a worker that lost them.

#![expect(clippy::unwrap_used, reason = "a helper of a test may stop it")]

mod common;

use std::time::Duration;

use common::{Engine, House, house, id, job, on_both_engines, point, system};
use kuramori_catalog::{CatalogError, End, Enqueued, Place, Progress, RunFilter, RunState};
use kuramori_judge::facts::RunFacts;
use kuramori_model::fault::{Exit, Fault};

on_both_engines! {
    one_departmental_server_is_read_by_one_job_at_a_time,
    the_same_due_time_is_queued_once_and_counts_as_handled,
    a_worker_that_was_given_up_cannot_write_any_more,
    progress_shows_whether_a_job_moves,
    a_queued_run_is_cancelled_at_once_and_a_started_server_ends_what_others_left,
    many_workers_never_share_a_job,
    the_register_refuses_what_cannot_work,
}

const LEASE: Duration = Duration::from_mins(2);

fn ended(state: RunState) -> End {
    End { state, facts: RunFacts::default(), error: None, point: None, detail: serde_json::json!({}) }
}

async fn one_departmental_server_is_read_by_one_job_at_a_time(engine: Engine) {
    let House { catalog, dir: _dir, .. } = house(engine).await;
    for name in ["billing", "claims", "pacs"] {
        assert!(matches!(catalog.enqueue(&job(name)).await.unwrap(), Enqueued::New(_)));
    }
    let first = catalog.claim("server-a", LEASE).await.unwrap().unwrap();
    let second = catalog.claim("server-a", LEASE).await.unwrap().unwrap();
    assert_eq!((first.run.system, second.run.system.as_str()), (id("billing"), "pacs"));
    assert!(catalog.claim("server-a", LEASE).await.unwrap().is_none(), "claims waits for its server");
    let point = catalog.finish(&second, &ended(RunState::Complete)).await.unwrap();
    assert!(point.is_none());
    assert!(catalog.claim("server-a", LEASE).await.unwrap().is_none(), "still: server one is busy");
    let open = catalog.runs(&RunFilter { open: true, ..RunFilter::default() }).await.unwrap();
    assert_eq!(open.len(), 2);
}

async fn the_same_due_time_is_queued_once_and_counts_as_handled(engine: Engine) {
    let House { catalog, clock, dir: _dir } = house(engine).await;
    clock.advance(Duration::from_hours(30));
    let due = "2026-11-20T16:00:00Z".parse().unwrap();
    let mut new = job("billing");
    new.due = Some(due);
    let Enqueued::New(run) = catalog.enqueue(&new).await.unwrap() else { panic!("it is new") };
    assert_eq!(catalog.enqueue(&new).await.unwrap(), Enqueued::Already(run));
    let claim = catalog.claim("a", LEASE).await.unwrap().unwrap();
    catalog.finish(&claim, &ended(RunState::Complete)).await.unwrap();
    assert_eq!(catalog.enqueue(&new).await.unwrap(), Enqueued::Already(run), "also after it ended");
    assert_eq!(catalog.system(&id("billing")).await.unwrap().handled, due);
    catalog.set_handled(&id("billing"), "2026-11-01T00:00:00Z".parse().unwrap()).await.unwrap();
    assert_eq!(catalog.system(&id("billing")).await.unwrap().handled, due, "never goes back");
}

async fn a_worker_that_was_given_up_cannot_write_any_more(engine: Engine) {
    let House { catalog, clock, dir: _dir } = house(engine).await;
    catalog.enqueue(&job("billing")).await.unwrap();
    let lost = catalog.claim("a", LEASE).await.unwrap().unwrap();
    clock.advance(LEASE.saturating_sub(Duration::from_secs(1)));
    assert!(catalog.expire().await.unwrap().is_empty(), "the lease still runs");
    catalog.progress(&lost, &Progress::default(), LEASE).await.unwrap();
    clock.jump("2030-01-01T00:00:00Z".parse().unwrap());
    assert!(catalog.expire().await.unwrap().is_empty(), "a jump of the wall clock ends no lease");
    clock.advance(LEASE + Duration::from_secs(1));
    let expired = catalog.expire().await.unwrap();
    assert_eq!(expired[0].error_code.as_deref(), Some("catalog.lease-expired"));

    catalog.enqueue(&job("billing")).await.unwrap();
    let next = catalog.claim("b", LEASE).await.unwrap().unwrap();
    let mut end = ended(RunState::Complete);
    end.point = Some(point("billing", "aa"));
    for error in [
        catalog.progress(&lost, &Progress::default(), LEASE).await.unwrap_err(),
        catalog.finish(&lost, &end).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), "catalog.lease-lost");
    }
    assert!(
        catalog.points(&id("billing"), Place::Primary).await.unwrap().is_empty(),
        "its point is not kept"
    );
    end.point = Some(point("billing", "bb"));
    let kept = catalog.finish(&next, &end).await.unwrap().unwrap();
    assert_eq!(catalog.run(next.run.id).await.unwrap().point, Some(kept.sequence));
}

async fn progress_shows_whether_a_job_moves(engine: Engine) {
    let House { catalog, clock, dir: _dir } = house(engine).await;
    catalog.enqueue(&job("billing")).await.unwrap();
    let claim = catalog.claim("a", LEASE).await.unwrap().unwrap();
    let at = Progress { phase: "reading".to_owned(), bytes_done: 10, ..Progress::default() };
    catalog.progress(&claim, &at, LEASE).await.unwrap();
    let moved = catalog.run(claim.run.id).await.unwrap();
    clock.advance(Duration::from_mins(1));
    catalog.progress(&claim, &at, LEASE).await.unwrap();
    let stands = catalog.run(claim.run.id).await.unwrap();
    assert_eq!(stands.progress_at, moved.progress_at);
    assert!(stands.heartbeat_at > moved.heartbeat_at);
    catalog.cancel(claim.run.id).await.unwrap();
    assert!(catalog.progress(&claim, &at, LEASE).await.unwrap().cancel);
}

async fn a_queued_run_is_cancelled_at_once_and_a_started_server_ends_what_others_left(engine: Engine) {
    let House { catalog, dir: _dir, .. } = house(engine).await;
    let Enqueued::New(run) = catalog.enqueue(&job("billing")).await.unwrap() else { panic!("it is new") };
    assert_eq!(catalog.cancel(run).await.unwrap().state, RunState::Cancelled);
    catalog.enqueue(&job("pacs")).await.unwrap();
    catalog.claim("old", LEASE).await.unwrap().unwrap();
    assert_eq!(
        catalog.abandon_others("new").await.unwrap()[0].error_code.as_deref(),
        Some("catalog.abandoned")
    );
    assert!(catalog.abandon_others("new").await.unwrap().is_empty());
}

async fn many_workers_never_share_a_job(engine: Engine) {
    let House { catalog, dir: _dir, .. } = house(engine).await;
    for n in 0..20 {
        catalog.add_system(&system(&format!("s{n}"), &format!("host-{n}"), 9)).await.unwrap();
        catalog.enqueue(&job(&format!("s{n}"))).await.unwrap();
    }
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let catalog = catalog.clone();
        tasks.spawn(async move {
            let mut got = Vec::new();
            while let Some(claim) = catalog.claim(&format!("w{worker}"), LEASE).await.unwrap() {
                got.push(claim.run.id);
            }
            got
        });
    }
    let mut all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    all.sort_unstable();
    let claimed = all.len();
    all.dedup();
    assert_eq!((claimed, all.len()), (20, 20));
}

async fn the_register_refuses_what_cannot_work(engine: Engine) {
    let House { catalog, dir: _dir, .. } = house(engine).await;
    let seen = catalog.system(&id("billing")).await.unwrap();
    assert_eq!(seen.system, system("billing", "one", 1));
    assert_eq!(catalog.add_system(&seen.system).await.unwrap_err().code(), "catalog.exists");
    let mut edited = seen.system.clone();
    "新しい名前".clone_into(&mut edited.name_ja);
    assert_eq!(catalog.edit_system(&edited, seen.version).await.unwrap(), 2);
    assert_eq!(catalog.edit_system(&edited, seen.version).await.unwrap_err().code(), "catalog.changed");
    edited.writer = kuramori_catalog::Writer::Restic;
    assert_eq!(catalog.edit_system(&edited, 2).await.unwrap_err().code(), "catalog.in-use");
    "every night".clone_into(&mut edited.schedule.cron);
    assert_eq!(catalog.edit_system(&edited, 2).await.unwrap_err().code(), "catalog.bad-schedule");
    catalog.commit_point(&point("billing", "aa")).await.unwrap();
    assert_eq!(catalog.remove_system(&id("billing")).await.unwrap_err().code(), "catalog.in-use");
    catalog.remove_system(&id("claims")).await.unwrap();
    assert_eq!(catalog.remove_system(&id("claims")).await.unwrap_err().code(), "catalog.no-such");
    let order: Vec<_> = catalog.systems().await.unwrap().into_iter().map(|s| s.system.id).collect();
    assert_eq!(order, [id("billing"), id("pacs")]);
}

#[tokio::test]
async fn a_second_server_is_refused_by_name() {
    let House { catalog, clock, dir: _dir } = house(Engine::Sqlite).await;
    let error = kuramori_catalog::Catalog::open(catalog.database(), clock.clone()).await.unwrap_err();
    assert_eq!((error.code(), error.exit()), ("catalog.second-server", Exit::Locked));
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    assert!(matches!(error, CatalogError::SecondServer { .. }));
    let path = catalog.database().clone();
    catalog.close().await;
    kuramori_catalog::Catalog::open(&path, clock).await.unwrap();
}
