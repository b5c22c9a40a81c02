//! One job. A backup: a departmental system's source on one side, its repository on the other, the catalog beside.
//!
//! The order is what keeps a kill at any moment harmless: the snapshot is durable first, then one transaction
//! ends the run and gives the point its number and time. A snapshot whose transaction never came is taken up
//! again by [`adopt`] at the next start; nothing that was committed is lost and nothing half done is visible.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kuramori_catalog::{
    CatalogError, Claim, End, NewPoint, Place, Progress, Reason, RunKind, RunState, Writer,
};
use kuramori_judge::{
    facts::{Felt, Marker, RunFacts},
    schedule::Timetable,
};
use kuramori_model::{
    fault::{Fault, Kind, chain},
    foreign::JobResult,
    ids::SystemId,
};
use kuramori_repo::backup::{Draft, Options};
use kuramori_source::{
    Control,
    report::{Origin, SmbOrigin},
};

use crate::{App, ServerError, app::blocking, error::Result, prune, repositories::count, results};

/// How long other work of ours in a repository may wait for an exclusive lock.
pub(crate) const LEASE: Duration = Duration::from_mins(1);
/// How long the end of a job is offered to a database that does not answer.
const OUTAGE: Duration = Duration::from_mins(10);
/// How often progress goes into the catalog.
const PULSE: Duration = Duration::from_secs(1);
/// How long a job waits for a foreign exclusive lock (an administrator's prune).
const PATIENCE: Duration = Duration::from_mins(10);
/// The tag that ties a snapshot to its run.
const RUN_TAG: &str = "kuramori.run=";

/// What stops a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Person,
    Hours,
    Shutdown,
    /// A job of the same system waits for us.
    Waiting,
    /// The lease is over.
    Lost,
}

/// How a job is seen and stopped from outside.
#[derive(Debug, Default)]
pub(crate) struct Steering {
    progress: Mutex<Progress>,
    source: kuramori_source::Cancel,
    pub(crate) engine: kuramori_repo::Cancel,
    /// The engine's own counters, for work without a source.
    pub(crate) counted: Mutex<Option<Arc<kuramori_repo::progress::Progress>>>,
    why: Mutex<Option<Stop>>,
}

impl Steering {
    fn stop(&self, why: Stop) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        self.source.cancel();
        self.engine.cancel();
    }

    pub(crate) fn phase(&self, phase: &str) {
        phase.clone_into(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner).phase);
    }

    fn progress(&self) -> Progress {
        let said = self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match self.counted.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(counted) => prune::progress(said.phase, counted),
            None => said,
        }
    }
}

/// Works a claimed run to its end and records it.
pub(crate) async fn work(app: App, claim: Claim) {
    let (run, system) = (claim.run.id, claim.run.system.clone());
    let kind = claim.run.kind.as_str();
    tracing::info!(%run, %system, kind, epoch = claim.run.epoch, "job begins");
    let steering = Arc::new(Steering::default());
    let end = {
        let job = async {
            match claim.run.kind {
                RunKind::Prune => prune::work(&app, &claim, steering.clone()).await,
                _ => backup(&app, &claim, steering.clone()).await,
            }
        };
        let pulse = pulse(&app, &claim, &steering);
        tokio::pin!(job, pulse);
        tokio::select! {
            end = &mut job => end,
            // Nothing of ours may be written once the lease is lost.
            () = &mut pulse => {
                steering.stop(Stop::Lost);
                job.await
            }
        }
    };
    let end = end.unwrap_or_else(|error| {
        let why = *steering.why.lock().unwrap_or_else(PoisonError::into_inner);
        let error = match why {
            Some(Stop::Person) => ServerError::Cancelled,
            Some(Stop::Shutdown) => ServerError::Stopping,
            Some(Stop::Hours) => ServerError::HoursEnded { system: system.to_string() },
            Some(Stop::Waiting) => ServerError::GaveWay { system: system.to_string() },
            Some(Stop::Lost) => ServerError::TakenOver,
            None => error,
        };
        // A prune that finds somebody at work, or makes room, is no failure: it comes again.
        let later = claim.run.kind == RunKind::Prune
            && matches!(
                error,
                ServerError::GaveWay { .. }
                    | ServerError::HoursEnded { .. }
                    | ServerError::Stopping
                    | ServerError::Repository(kuramori_repo::Error::Locked { .. })
            );
        let state = if later || why == Some(Stop::Person) { RunState::Cancelled } else { RunState::Failed };
        tracing::warn!(%run, %system, kind, code = error.code(), "job ends without success: {}", chain(&error));
        let error = Some((error.code().to_owned(), chain(&error)));
        End { state, facts: RunFacts::default(), error, point: None, detail: serde_json::json!({}) }
    });
    let committed = end.point.is_some();
    match record(&app, &claim, &end).await {
        Ok(Some(point)) => {
            tracing::info!(%run, %system, sequence = %point.sequence, "restore point committed");
        }
        Ok(None) => {}
        Err(error) => {
            tracing::error!(%run, %system, "the run's end could not be recorded: {}", chain(&error));
        }
    }
    if committed && let Err(error) = app.export_control().await {
        tracing::error!("the catalog could not be exported: {}", chain(&error));
    }
    // The queue may hold a job for the departmental server that is free now.
    app.work.notify_one();
}

/// Records the end; a database that is away is asked again, because the restore point is already durable.
async fn record(
    app: &App,
    claim: &Claim,
    end: &End,
) -> std::result::Result<Option<kuramori_catalog::Point>, CatalogError> {
    let mut waited = Duration::ZERO;
    loop {
        match app.catalog.finish(claim, end).await {
            Err(error)
                if error.kind() == Kind::Retry
                    && !matches!(error, CatalogError::LeaseLost { .. })
                    && waited < OUTAGE
                    && !*app.stopping.borrow() =>
            {
                tracing::warn!(run = %claim.run.id, "the run's end waits for the database: {}", chain(&error));
                tokio::time::sleep(PULSE).await;
                waited += PULSE;
            }
            other => return other,
        }
    }
}

/// Keeps the lease alive and carries a person's or the timetable's stop to the job. Ends when the lease is
/// lost.
async fn pulse(app: &App, claim: &Claim, steering: &Steering) {
    let table = match app.catalog.system(&claim.run.system).await {
        Ok(registered) if claim.run.kind == RunKind::Backup && claim.run.reason != Reason::Manual => {
            Timetable::new(&registered.system.schedule).ok()
        }
        _ => None,
    };
    let mut silent = Duration::ZERO;
    let mut stopping = app.stopping.subscribe();
    loop {
        tokio::select! {
            () = tokio::time::sleep(PULSE) => {}
            _ = stopping.wait_for(|stopping| *stopping), if !steering.source.is_cancelled() => steering.stop(Stop::Shutdown),
        }
        if table.as_ref().is_some_and(|table| !table.allowed(app.clock.now())) {
            steering.stop(Stop::Hours);
        }
        if claim.run.kind == RunKind::Prune {
            if claim.run.reason != Reason::Manual
                && !app.config.prune.allowed(app.clock.now(), &app.config.zone)
            {
                steering.stop(Stop::Hours);
            }
            if let Ok(true) = prune::somebody_waits(app, &claim.run.system).await {
                steering.stop(Stop::Waiting);
            }
        }
        match app.catalog.progress(claim, &steering.progress(), app.config.lease).await {
            Ok(pulse) => {
                silent = Duration::ZERO;
                if pulse.cancel {
                    steering.stop(Stop::Person);
                }
            }
            Err(kuramori_catalog::CatalogError::LeaseLost { .. }) => return,
            Err(error) => {
                tracing::warn!("progress could not be recorded: {}", chain(&error));
                silent += PULSE;
                if silent >= app.config.lease {
                    return;
                }
            }
        }
    }
}

async fn backup(app: &App, claim: &Claim, steering: Arc<Steering>) -> Result<End> {
    let registered = app.catalog.system(&claim.run.system).await?;
    let system = registered.system;
    let config: kuramori_source::Config = serde_json::from_value(system.source.clone()).map_err(|error| {
        ServerError::Entry { place: system.id.to_string(), why: format!("source: {error}") }
    })?;
    let password = app.password(system.id.as_str()).await?;
    let previous = app.catalog.setting(&marker_setting(&system.id)).await?;
    let (run, app_) = (claim.run.id, app.clone());
    let (claim_, runtime) = (claim.clone(), tokio::runtime::Handle::current());
    let id = system.id.clone();
    let outcome = blocking(move || {
        let control = Control {
            clock: app_.clock.clone(),
            cancel: steering.source.clone(),
            progress: {
                let steering = steering.clone();
                Arc::new(move |seen| {
                    let phase = serde_json::to_value(seen.phase).ok();
                    *steering.progress.lock().unwrap_or_else(PoisonError::into_inner) = Progress {
                        phase: phase
                            .as_ref()
                            .and_then(serde_json::Value::as_str)
                            .unwrap_or("reading")
                            .to_owned(),
                        bytes_done: seen.bytes,
                        bytes_total: seen.total.map(|(_, bytes)| bytes),
                        items_done: seen.items,
                        items_total: seen.total.map(|(items, _)| items),
                    };
                })
            },
            previous,
            ..Control::default()
        };
        let source = kuramori_source::open(&config)?;
        if matches!(config.innermost(), kuramori_source::Config::Foreign(foreign) if !results::is_pulled(foreign)) {
            let report = source.read(&mut results::Nothing, &control)?;
            let end = End {
                state: RunState::Complete,
                facts: RunFacts::default(),
                error: None,
                point: None,
                detail: serde_json::json!({}),
            };
            return Ok((end, None, product_result(&report)));
        }
        let about = source.describe();
        let repository = app_.open_repository(id.as_str(), &password)?;
        // Listed before the index is loaded, so that the index knows every blob of the parent.
        let repository = repository.index()?;
        let paths = vec![about.address.clone()];
        let parent = repository.find_parent(id.as_str(), &paths)?;
        let options =
            Options { parent, patience: PATIENCE, cancel: steering.engine.clone(), ..Options::default() };
        let mut session = repository.backup(options)?;
        let (report, sent) = match &config {
            kuramori_source::Config::Agent(unit) => {
                match crate::agents::read(&app_, id.as_str(), unit, &mut session, &control) {
                    Ok((report, sent)) => (report, Some(sent)),
                    Err(error) => {
                        // What it sent is kept, so that the next run need not ask for it again.
                        if let Err(other) = session.abandon() {
                            tracing::warn!(system = %id, "an unfinished run is not kept: {}", chain(&other));
                        }
                        return Err(error);
                    }
                }
            }
            _ => (source.read(&mut session, &control)?, None),
        };
        steering.phase("committing");
        // One that was given up meanwhile leaves no snapshot beside its successor's.
        let pulse = runtime.block_on(app_.catalog.progress(&claim_, &steering.progress(), app_.config.lease));
        if let Err(lost @ CatalogError::LeaseLost { .. }) = pulse {
            return Err(lost.into());
        }
        let received = app_.clock.now();
        let committed = session.commit(Draft {
            hostname: id.to_string(),
            username: "kuramori".to_owned(),
            paths,
            tags: vec![
                format!("{RUN_TAG}{}", run.0),
                // Grows with each commit into this repository; the sender has no say in it.
                format!("kuramori.seq={}", run.0),
                format!("kuramori.recv={received}"),
            ],
            time: Some(received),
            excludes: Vec::new(),
        })?;
        if let Some(sent) = sent {
            sent.done();
        }
        let complete = !committed.is_incomplete() && report.fault_count == 0;
        let snapshot = repository.snapshot(committed.id)?;
        let (facts, marker) = facts(&report, &committed, snapshot.tree.to_string());
        let state = if complete { RunState::Complete } else { RunState::CompleteWithErrors };
        let error = (!complete).then(|| {
            let first = report
                .faults
                .first()
                .map(|fault| format!("{}: {}", fault.path, fault.why))
                .unwrap_or_default();
            (
                "source.unreadable-items".to_owned(),
                format!("{} items could not be read; {first}", report.fault_count),
            )
        });
        let point = NewPoint {
            system: id,
            snapshot: committed.id.to_string(),
            run: Some(run),
            complete,
            facts: facts.clone(),
        };
        let detail = match &report.origin {
            // Which ones: whoever compares them needs the names and both digests.
            Origin::Dicom(dicom) if dicom.replaced_count > 0 => {
                serde_json::json!({ "replaced": dicom.replaced })
            }
            _ => serde_json::json!({}),
        };
        Ok((End { state, facts, error, point: Some(point), detail }, marker, product_result(&report)))
    })
    .await;
    let (end, marker, result) = match outcome {
        Err(ServerError::Source(kuramori_source::Error::ForeignFailed(result))) => {
            app.record_result(of_system(&system.id, result.as_ref().clone()), "file").await?;
            return Err(kuramori_source::Error::ForeignFailed(result).into());
        }
        outcome => outcome?,
    };
    if let Some(result) = result {
        app.record_result(of_system(&system.id, result), "file").await?;
    }
    if let Some(marker) = marker {
        // Before the end is recorded: tomorrow's run must know this marker even if we die in between.
        app.catalog.set_setting(&marker_setting(&system.id), &marker).await?;
    }
    Ok(end)
}

/// What another product said about its job, if that was read.
fn product_result(report: &kuramori_source::Report) -> Option<JobResult> {
    match &report.origin {
        Origin::Foreign(foreign) => foreign.result.clone(),
        _ => None,
    }
}

/// A result file lies in the system's own folder: whatever it calls itself, it is about this system.
fn of_system(system: &SystemId, result: JobResult) -> JobResult {
    JobResult { system: system.clone(), ..result }
}

fn marker_setting(system: &SystemId) -> String {
    format!("marker/{system}")
}

/// The judge's facts out of the reader's and the engine's reports.
fn facts(
    report: &kuramori_source::Report,
    committed: &kuramori_repo::backup::Committed,
    tree: String,
) -> (RunFacts, Option<kuramori_source::report::MarkerSeen>) {
    let share =
        |smb: &SmbOrigin| format!("{}/{}/{}/{}", smb.server_guid, smb.volume_serial, smb.share, smb.folder);
    let (identity, marker) = match &report.origin {
        Origin::Smb(smb) => (share(smb), smb.marker.clone()),
        Origin::Sftp(sftp) => (format!("{}/{}", sftp.host_key, sftp.folder), sftp.marker.clone()),
        Origin::Mariadb(mariadb) => (mariadb.identity.clone(), None),
        Origin::Dicom(dicom) => (format!("{}/{}", dicom.server, dicom.name), None),
        Origin::Command(_) => (String::new(), None),
        Origin::Files(files) => (files.machine.clone(), None),
        Origin::Foreign(foreign) => (share(&foreign.share), foreign.share.marker.clone()),
        Origin::Postgres(postgres) => (postgres.system_identifier.clone(), None),
    };
    let facts = RunFacts {
        bytes: report.bytes,
        size_untold: false,
        files: report.files,
        added: Some(committed.summary.data_added_packed),
        faults: report.fault_count,
        digest: Some(tree),
        identity: (!identity.is_empty()).then_some(identity),
        marker: marker.as_ref().map(|marker| Marker {
            name: marker.name.clone(),
            written: Some(marker.time),
            digest: Some(marker.sha256.clone()),
        }),
        newest: report.newest,
        sent: None,
        moved: 0,
        replaced: match &report.origin {
            Origin::Dicom(dicom) => dicom.replaced_count,
            _ => 0,
        },
        felt: report.felt.as_ref().map(|felt| Felt {
            before_p50_us: micros(felt.before_p50_ms),
            before_p99_us: micros(felt.before_p99_ms),
            during_p50_us: micros(felt.during_p50_ms),
            during_p99_us: micros(felt.during_p99_ms),
            unanswered: felt.unanswered,
            slowed_s: felt.slowed_s,
        }),
        truncated: None,
    };
    (facts, marker)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of an answer")]
fn micros(milliseconds: f64) -> u64 {
    (milliseconds * 1000.0).round().max(0.0) as u64
}

/// Takes up snapshots that are durable in a repository and unknown to the catalog: a server that died between
/// the two, or a restic client that committed while we were away.
pub(crate) async fn adopt(app: &App) -> Result<usize> {
    let mut adopted = 0;
    for registered in app.catalog.systems().await? {
        let system = registered.system;
        if !app.repository_folder(system.id.as_str()).join("config").exists() {
            continue;
        }
        match adopt_system(app, &system).await {
            Ok(count) => adopted += count,
            // One unreadable repository must not keep the server from starting; the judge sees the absence.
            Err(error) => {
                tracing::error!(system = %system.id, "cannot look for restore points: {}", chain(&error));
            }
        }
    }
    Ok(adopted)
}

/// As [`adopt`], for one system; in the order in which the snapshots say they were taken.
pub(crate) async fn adopt_system(app: &App, system: &kuramori_catalog::System) -> Result<usize> {
    let known: std::collections::HashSet<String> = app
        .catalog
        .points(&system.id, Place::Primary)
        .await?
        .into_iter()
        .map(|point| point.snapshot)
        .collect();
    let password = app.password(system.id.as_str()).await?;
    let (app_, id, ours) = (app.clone(), system.id.clone(), system.writer == Writer::Kuramori);
    let found = blocking(move || {
        let repository = app_.open_repository(id.as_str(), &password)?;
        let mut snapshots = repository.snapshots()?;
        snapshots.retain(|(snapshot, _)| !known.contains(&snapshot.to_string()));
        snapshots.sort_by_key(|(_, snapshot)| snapshot.time);
        let mut found = Vec::new();
        for (snapshot, document) in snapshots {
            let run = document
                .tags
                .iter()
                .find_map(|tag| tag.strip_prefix(RUN_TAG))
                .and_then(|run| run.parse().ok());
            let (mut facts, complete) = count(repository.clone(), snapshot)?;
            facts.sent = (!ours).then_some(document.time);
            let run = run.filter(|_| ours).map(kuramori_model::ids::RunId);
            found.push(NewPoint { system: id.clone(), snapshot: snapshot.to_string(), run, complete, facts });
        }
        Ok(found)
    })
    .await?;
    for point in &found {
        let point = app.catalog.commit_point(point).await?;
        tracing::info!(system = %system.id, sequence = %point.sequence, complete = point.complete, "restore point registered");
    }
    Ok(found.len())
}
