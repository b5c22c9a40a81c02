//! The routes of drills and of the runbook.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use kuramori_drill::{
    choose::Wish,
    exercise::{Exercise, page as exercise_page},
    runbook::document,
};
use kuramori_model::ids::{Sequence, SystemId};
use kuramori_report::{Document, Language};
use serde::Deserialize;

use super::{Answer, Problem};
use crate::{
    App, ServerError, config,
    drills::{Held, Numbered},
    lang,
};

#[derive(Debug, Deserialize)]
pub(super) struct Which {
    system: Option<SystemId>,
    #[serde(default)]
    limit: u32,
}

pub(super) async fn list(State(app): State<App>, Query(which): Query<Which>) -> Answer<Vec<Numbered>> {
    let limit = if which.limit == 0 { 100 } else { which.limit };
    Ok(Json(app.drills(which.system.as_ref(), limit).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    system: SystemId,
    by: String,
    #[serde(default)]
    point: Option<Sequence>,
    #[serde(default)]
    reason: Option<String>,
}

/// Answers when it has ended; it goes on if the caller leaves.
pub(super) async fn hold(
    State(app): State<App>,
    Json(wanted): Json<Wanted>,
) -> Result<(StatusCode, Json<Numbered>), Problem> {
    let wish = Wish { point: wanted.point, reason: wanted.reason, ..Wish::default() };
    let drill = app.drill(&wanted.system, &wanted.by, wish).await?;
    Ok((StatusCode::CREATED, Json(drill)))
}

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    lang: Option<String>,
}

impl Asked {
    fn language(&self, app: &App) -> Language {
        match self.lang.as_deref().and_then(lang::parse).unwrap_or(app.config.language) {
            config::Language::Ja => Language::Ja,
            config::Language::En => Language::En,
        }
    }
}

fn pages(page: &Document) -> serde_json::Value {
    serde_json::json!({ "html": page.html(), "text": page.text() })
}

pub(super) async fn page(
    State(app): State<App>,
    Path(number): Path<u64>,
    Query(asked): Query<Asked>,
) -> Answer<serde_json::Value> {
    let all = app.drills(None, u32::MAX).await?;
    let Some(drill) = all.into_iter().find(|drill| drill.number == number) else {
        let why = "there is no such drill".to_owned();
        return Err(ServerError::Entry { place: format!("drill-{number}"), why }.into());
    };
    let mut answer = pages(&app.drill_page(&drill, asked.language(&app)).await?);
    answer["drill"] = serde_json::to_value(&drill).map_err(|error| ServerError::Bug(error.to_string()))?;
    Ok(Json(answer))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Automatic {
    automatic: bool,
    by: String,
}

pub(super) async fn automatic(
    State(app): State<App>,
    Json(wanted): Json<Automatic>,
) -> Answer<serde_json::Value> {
    app.set_drills_automatic(wanted.automatic, &wanted.by).await?;
    Ok(Json(serde_json::json!({ "automatic": wanted.automatic })))
}

pub(super) async fn runbook(State(app): State<App>, Query(asked): Query<Asked>) -> Answer<serde_json::Value> {
    let (book, language) = (app.book().await?, asked.language(&app));
    let mut answer = pages(&document(&book, language, &app.config.zone));
    answer["sentence"] = book.answer.sentence(language, &app.config.zone).into();
    answer["book"] = serde_json::to_value(&book).map_err(|error| ServerError::Bug(error.to_string()))?;
    Ok(Json(answer))
}

pub(super) async fn exercises(State(app): State<App>) -> Answer<Vec<Held>> {
    Ok(Json(app.exercises().await?))
}

pub(super) async fn exercise(
    State(app): State<App>,
    Query(asked): Query<Asked>,
    Json(record): Json<Exercise>,
) -> Result<(StatusCode, Json<serde_json::Value>), Problem> {
    let language = asked.language(&app);
    let number = app.record_exercise(&record).await?;
    let today = app.clock.now().to_zoned(app.config.zone.clone()).date();
    let mut answer = pages(&exercise_page(&record, &app.config.hospital, today, language));
    answer["number"] = number.into();
    Ok((StatusCode::CREATED, Json(answer)))
}
