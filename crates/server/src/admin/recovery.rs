//! The routes of restores, drills and runbook.

use axum::{
    Json,
    extract::{Path, State},
};
use kuramori_drill::profile::Profile;
use kuramori_model::ids::SystemId;

use super::Answer;
use crate::{
    App,
    recover::{Ended, Key, Offer, Purpose},
};

pub(super) async fn offer(State(app): State<App>, Path(id): Path<SystemId>) -> Answer<Offer> {
    Ok(Json(app.offer(&id).await?))
}

pub(super) async fn key(
    State(app): State<App>,
    Path(id): Path<SystemId>,
    Json(purpose): Json<Purpose>,
) -> Answer<Key> {
    Ok(Json(app.restore_key(&id, &purpose).await?))
}

pub(super) async fn ended(
    State(app): State<App>,
    Path(id): Path<SystemId>,
    Json(ended): Json<Ended>,
) -> Answer<serde_json::Value> {
    app.restore_ended(&id, &ended).await?;
    Ok(Json(serde_json::json!({ "recorded": true })))
}

pub(super) async fn profile(State(app): State<App>, Path(id): Path<SystemId>) -> Answer<Profile> {
    app.catalog.system(&id).await?;
    Ok(Json(app.profile(&id).await?))
}

pub(super) async fn set_profile(
    State(app): State<App>,
    Path(id): Path<SystemId>,
    Json(profile): Json<Profile>,
) -> Answer<Profile> {
    app.set_profile(&id, &profile).await?;
    Ok(Json(app.profile(&id).await?))
}
