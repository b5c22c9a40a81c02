//! The agents' routes.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use crate::{
    App,
    agents::{Invitation, Record},
};

/// Longest that a token may lie around.
const HOURS: u64 = 72;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Invite {
    hours: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retire {
    force: bool,
}

pub(super) async fn list(State(app): State<App>) -> Answer<Vec<Record>> {
    Ok(Json(app.agents_list().await?))
}

pub(super) async fn invite(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(invite): Json<Invite>,
) -> Answer<Invitation> {
    let valid = Duration::from_hours(invite.hours.clamp(1, HOURS));
    Ok(Json(app.invite_agent(&name, valid).await?))
}

pub(super) async fn revoke(State(app): State<App>, Path(name): Path<String>) -> Answer<Value> {
    app.revoke_agent(&name).await?;
    Ok(Json(json!({ "revoked": name })))
}

pub(super) async fn rotate(State(app): State<App>) -> Answer<Value> {
    Ok(Json(json!({ "authority": app.rotate_authority().await? })))
}

pub(super) async fn retire(State(app): State<App>, Json(retire): Json<Retire>) -> Answer<Value> {
    Ok(Json(json!({ "retired": app.retire_authorities(retire.force).await? })))
}
