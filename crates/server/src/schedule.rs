//! The scheduler's turn: what is due is queued, what waits is claimed, what died is taken back. When and
//! whether is the judge's pure timetable; this only carries it out.

use std::{sync::Arc, time::Duration};

use kuramori_catalog::{NewRun, Reason, RunKind, Writer};
use kuramori_judge::schedule::{Decision, Timetable};
use kuramori_model::fault::chain;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{App, error::Result, job, prune, results};

/// A job whose servers died this often is given up: it may be what kills them.
const TRIES: u64 = 3;
/// How long jobs may take to give up when the server ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// Turns until the server is asked to end; then waits for running jobs to give up.
pub(crate) async fn run(app: App) {
    let mut stop = app.stopping.subscribe();
    let places = Arc::new(Semaphore::new(app.config.jobs));
    // One repository at a time is put in order, and never in a place that a backup could use.
    let upkeep = Arc::new(Semaphore::new(1));
    let mut answers = Answers::default();
    let mut jobs = JoinSet::new();
    loop {
        let outcome = turn(&app, &places, &upkeep, &mut jobs, answers.long_enough(&app)).await;
        answers.note(&app, outcome.is_ok());
        if let Err(error) = outcome {
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

/// Since when the database has answered us without a gap. After an outage all leases look old, the living
/// servers' too: they get the time of one lease to speak up before anybody takes their jobs.
#[derive(Debug, Default)]
struct Answers(Option<Duration>);

impl Answers {
    fn note(&mut self, app: &App, answered: bool) {
        self.0 = answered.then(|| self.0.unwrap_or_else(|| app.clock.boot()));
    }

    fn long_enough(&self, app: &App) -> bool {
        self.0.is_some_and(|since| app.clock.boot().saturating_sub(since) >= app.config.lease)
    }
}

/// Takes back what silent workers left: ours alone fail, of several servers another finishes the work.
async fn take_back(app: &App, settled: bool) -> Result<()> {
    let lost = match (app.catalog.is_shared(), settled) {
        (false, _) => app.catalog.expire().await?,
        (true, true) => app.catalog.take_over(TRIES).await?,
        (true, false) => Vec::new(),
    };
    for run in lost {
        let (owner, state) = (run.owner.unwrap_or_default(), run.state.as_str());
        tracing::warn!(run = %run.id, system = %run.system, owner, state, "a job was silent for too long and is taken back");
    }
    Ok(())
}

async fn turn(
    app: &App,
    places: &Arc<Semaphore>,
    upkeep: &Arc<Semaphore>,
    jobs: &mut JoinSet<()>,
    settled: bool,
) -> Result<()> {
    let stamp = app.catalog.tick().await?;
    take_back(app, settled).await?;
    if app.catalog.is_shared() {
        // Another server may have given or revoked a login.
        app.logins.load(&app.catalog).await?;
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
                // Of several servers the one that moves the mark reports.
                if app.catalog.set_handled(&system.id, due).await? {
                    let data = serde_json::json!({ "due": due, "alarm": alarm });
                    app.event("scheduler", "run.missed", Some(&system.id), &data).await?;
                }
            }
        }
    }
    while let Ok(place) = places.clone().try_acquire_owned() {
        let Some(claim) = app.catalog.claim(&app.owner, app.config.lease).await? else { break };
        let app = app.clone();
        jobs.spawn(async move {
            Box::pin(job::work(app, claim)).await;
            drop(place);
        });
    }
    prune::schedule(app, stamp).await?;
    if let Ok(place) = upkeep.clone().try_acquire_owned()
        && let Some(claim) = app.catalog.claim_upkeep(&app.owner, app.config.lease).await?
    {
        let app = app.clone();
        jobs.spawn(async move {
            Box::pin(job::work(app, claim)).await;
            drop(place);
        });
    }
    let detail = serde_json::json!({ "owner": app.owner, "running": jobs.len() });
    app.catalog.beat("scheduler", &detail).await?;
    Ok(())
}
