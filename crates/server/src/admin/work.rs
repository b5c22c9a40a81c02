//! Runs, restore points, alarms, and what a person asks for now.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use kuramori_catalog::{
    Alarm, Enqueued, Event, Jump, NewRun, Place, Point, Reason, Run, RunFilter, RunKind, Window, Writer,
};
use kuramori_model::{
    finding::Finding,
    ids::{RunId, SystemId},
};
use serde::{Deserialize, Serialize};

use super::{Answer, Problem};
use crate::{
    App, ServerError,
    console::Facts,
    facts::Status,
    lang::{self, Catalogue},
    page, post, results, watchman,
};

pub(super) async fn status(State(app): State<App>) -> Answer<Status> {
    Ok(Json(app.status().await?))
}

#[derive(Debug, Deserialize)]
pub(super) struct Which {
    system: Option<SystemId>,
    kind: Option<RunKind>,
    #[serde(default)]
    open: bool,
    before: Option<u64>,
    #[serde(default)]
    limit: u32,
}

pub(super) async fn runs(State(app): State<App>, Query(which): Query<Which>) -> Answer<Vec<Run>> {
    let filter = RunFilter {
        system: which.system,
        kind: which.kind,
        open: which.open,
        before: which.before.map(RunId),
        limit: which.limit,
    };
    Ok(Json(app.catalog.runs(&filter).await?))
}

pub(super) async fn run(State(app): State<App>, Path(number): Path<u64>) -> Answer<Run> {
    Ok(Json(app.catalog.run(RunId(number)).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    system: SystemId,
    kind: Option<RunKind>,
}

#[derive(Debug, Serialize)]
pub(super) struct Queued {
    run: RunId,
    already: bool,
}

pub(super) async fn start(
    State(app): State<App>,
    Json(wanted): Json<Wanted>,
) -> Result<(StatusCode, Json<Queued>), Problem> {
    let system = app.catalog.system(&wanted.system).await?.system;
    let kind = match wanted.kind.unwrap_or(RunKind::Backup) {
        kind @ (RunKind::Backup | RunKind::Prune) => kind,
        other => {
            let why = format!("`{}` cannot be started by hand", other.as_str());
            return Err(ServerError::Entry { place: system.id.to_string(), why }.into());
        }
    };
    if kind == RunKind::Backup && system.writer == Writer::Restic {
        let why = "its own restic client sends the backup; start it there".to_owned();
        return Err(ServerError::Entry { place: system.id.to_string(), why }.into());
    }
    if kind == RunKind::Backup && results::only_posts(&system) {
        let why = "another product backs it up and posts its results; there is nothing to read".to_owned();
        return Err(ServerError::Entry { place: system.id.to_string(), why }.into());
    }
    let new = NewRun { system: system.id, kind, reason: Reason::Manual, due: None };
    let queued = match app.catalog.enqueue(&new).await? {
        Enqueued::New(run) => Queued { run, already: false },
        Enqueued::Already(run) => Queued { run, already: true },
    };
    app.work.notify_one();
    Ok((StatusCode::ACCEPTED, Json(queued)))
}

pub(super) async fn cancel(State(app): State<App>, Path(number): Path<u64>) -> Answer<Run> {
    Ok(Json(app.catalog.cancel(RunId(number)).await?))
}

#[derive(Debug, Deserialize)]
pub(super) struct Where {
    system: Option<SystemId>,
    place: Option<String>,
}

pub(super) async fn points(State(app): State<App>, Query(place): Query<Where>) -> Answer<Vec<Point>> {
    let places = match place.place.as_deref() {
        None => vec![Place::Primary, Place::Vault],
        Some("primary") => vec![Place::Primary],
        Some("vault") => vec![Place::Vault],
        Some(other) => {
            let why = format!("`{other}` is not `primary` or `vault`");
            return Err(ServerError::Entry { place: "place".to_owned(), why }.into());
        }
    };
    let systems = match place.system {
        Some(system) => vec![app.catalog.system(&system).await?.system.id],
        None => app.catalog.systems().await?.into_iter().map(|registered| registered.system.id).collect(),
    };
    let mut points = Vec::new();
    for system in &systems {
        for place in &places {
            points.extend(app.catalog.points(system, *place).await?);
        }
    }
    Ok(Json(points))
}

pub(super) async fn retention(
    State(app): State<App>,
    Path(id): Path<SystemId>,
) -> Answer<kuramori_judge::retention::Plan> {
    Ok(Json(app.retention(&id).await?))
}

pub(super) async fn alarms(State(app): State<App>) -> Answer<Vec<Alarm>> {
    Ok(Json(app.catalog.open_alarms().await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Person {
    by: String,
}

pub(super) async fn take(
    State(app): State<App>,
    Path(id): Path<u64>,
    Json(person): Json<Person>,
) -> Answer<serde_json::Value> {
    app.catalog.take_alarm(id, &person.by).await?;
    Ok(Json(serde_json::json!({ "taken": id, "by": person.by })))
}

#[derive(Debug, Deserialize)]
pub(super) struct After {
    #[serde(default)]
    after: u64,
}

pub(super) async fn events(State(app): State<App>, Query(after): Query<After>) -> Answer<Vec<Event>> {
    Ok(Json(app.catalog.events_after(after.after, 1000).await?))
}

pub(super) async fn windows(State(app): State<App>) -> Answer<Vec<Window>> {
    Ok(Json(app.catalog.windows(None, 200).await?))
}

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    lang: Option<String>,
}

pub(super) async fn evidence(
    State(app): State<App>,
    Query(asked): Query<Asked>,
) -> Answer<serde_json::Value> {
    let language = asked.lang.as_deref().and_then(lang::parse).unwrap_or(app.config.language);
    let status = app.status().await?;
    let catalogue = Catalogue::of(language);
    let word = |finding: &Finding, catalogue: &Catalogue| app.word(finding, &status.systems, catalogue);
    let html = page::standalone(&status, catalogue, &app.config.zone, &word)
        .map_err(|error| ServerError::Bug(error.to_string()))?;
    Ok(Json(serde_json::json!({ "at": status.at, "html": html })))
}

pub(super) async fn judge(State(app): State<App>) -> Answer<Vec<Alarm>> {
    watchman::turn(&app).await?;
    Ok(Json(app.catalog.open_alarms().await?))
}

pub(super) async fn export(State(app): State<App>) -> Answer<serde_json::Value> {
    let snapshot = app.export_control().await?;
    Ok(Json(serde_json::json!({ "snapshot": snapshot.to_string() })))
}

pub(super) async fn test_notice(State(app): State<App>) -> Answer<serde_json::Value> {
    let now = app.clock.now();
    let number = u64::try_from(now.as_microsecond()).unwrap_or(0);
    post::owe(&app, &[kuramori_notify::Notice::test(number, now, "admin")]).await?;
    app.post.notify_one();
    Ok(Json(serde_json::json!({ "owed": true })))
}

pub(super) async fn jumps(State(app): State<App>) -> Answer<Vec<Jump>> {
    Ok(Json(app.catalog.jumps().await?))
}

pub(super) async fn confirm_time(
    State(app): State<App>,
    Json(person): Json<Person>,
) -> Answer<serde_json::Value> {
    let confirmed = app.catalog.confirm_time(&person.by).await?;
    Ok(Json(serde_json::json!({ "confirmed": confirmed })))
}
