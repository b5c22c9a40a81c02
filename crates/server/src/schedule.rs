//! The scheduler's turn: what is due is queued, what waits is claimed, what died is taken back. When and
//! whether is the judge's pure timetable; this only carries it out.

use std::{sync::Arc, time::Duration};

use kuramori_catalog::{NewRun, Reason, RunKind, Writer};
use kuramori_judge::schedule::{Decision, Timetable};
use kuramori_model::fault::chain;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{App, error::Result, job, results};

/// How long jobs may take to give up when the server ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// Turns until the server is asked to end; then waits for running jobs to give up.
pub(crate) async fn run(app: App) {
    let mut stop = app.stopping.subscribe();
    let places = Arc::new(Semaphore::new(app.config.jobs));
    let mut jobs = JoinSet::new();
    loop {
        if let Err(error) = turn(&app, &places, &mut jobs).await {
            tracing::error!("the scheduler's turn failed: {}", chain(&error));
        }
        tokio::select! {
            () = tokio::time::sleep(app.config.tick) => {}
            () = app.work.notified() => {}
            Some(_) = jobs.join_next() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    // Jobs hear `stopping` too, record their end and let their locks go. One that does not is cut off; it
    // leaves no restore point, and the next start takes its run back.
    let _ = tokio::time::timeout(PATIENCE, async { while jobs.join_next().await.is_some() {} }).await;
}

async fn turn(app: &App, places: &Arc<Semaphore>, jobs: &mut JoinSet<()>) -> Result<()> {
    let stamp = app.catalog.tick().await?;
    for run in app.catalog.expire().await? {
        tracing::warn!(run = %run.id, system = %run.system, "a job was silent for too long and is taken back");
    }
    for registered in app.catalog.systems().await? {
        let system = &registered.system;
        if !system.enabled || system.writer != Writer::Kuramori || results::only_posts(system) {
            continue;
        }
        let decision = match Timetable::new(&system.schedule)
            .and_then(|table| table.decide(stamp.now, registered.handled))
        {
            Ok(decision) => decision,
            Err(error) => {
                tracing::error!(system = %system.id, %error, "the schedule cannot be followed");
                continue;
            }
        };
        match decision {
            Decision::Wait(_) => {}
            Decision::Run { due, late } => {
                let reason = if late { Reason::Late } else { Reason::Schedule };
                let new = NewRun { system: system.id.clone(), kind: RunKind::Backup, reason, due: Some(due) };
                app.catalog.enqueue(&new).await?;
            }
            Decision::Miss { due, alarm } => {
                app.catalog.set_handled(&system.id, due).await?;
                let data = serde_json::json!({ "due": due, "alarm": alarm });
                app.catalog.add_event("scheduler", "run.missed", Some(&system.id), &data).await?;
            }
        }
    }
    while let Ok(place) = places.clone().try_acquire_owned() {
        let Some(claim) = app.catalog.claim(&app.owner, job::LEASE).await? else { break };
        let app = app.clone();
        jobs.spawn(async move {
            job::work(app, claim).await;
            drop(place);
        });
    }
    let detail = serde_json::json!({ "owner": app.owner, "running": jobs.len() });
    app.catalog.beat("scheduler", &detail).await?;
    Ok(())
}
