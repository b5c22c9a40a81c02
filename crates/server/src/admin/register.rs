//! The register's and the vaults' routes.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use kuramori_catalog::{Registered, System, Writer};
use kuramori_model::ids::SystemId;
use serde::{Deserialize, Serialize};

use super::{Answer, Problem};
use crate::{
    App,
    enrol::{Enrolment, Vault},
    import::{Import, Imported},
    logins::{Grant, REPORTS, SHELF},
    register::Entry,
    results,
};

/// What a registration made. The secrets are said once and kept nowhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Added {
    /// The entry as it is kept.
    pub system: System,
    /// For a stock restic client: what it needs.
    pub client: Option<Client>,
    /// For another backup product: what its post-job script needs.
    #[serde(default)]
    pub product: Option<Poster>,
}

/// What the post-job script of another backup product needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Poster {
    /// Where a result is posted, its SHA-256 appended.
    pub url: String,
    /// Login at the repository server.
    pub login: String,
    /// The login's password.
    pub login_password: String,
    /// PEM of the hospital's authority.
    pub authority: String,
}

/// What a stock restic client needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Client {
    /// `rest:https://login@address/system/`; the password goes into `RESTIC_REST_PASSWORD`.
    pub url: String,
    /// Login at the repository server.
    pub login: String,
    /// The login's password.
    pub login_password: String,
    /// The repository's password for this client.
    pub repository_password: String,
    /// PEM of the hospital's authority, for `--cacert`.
    pub authority: String,
}

pub(super) async fn list(State(app): State<App>) -> Answer<Vec<Registered>> {
    Ok(Json(app.catalog.systems().await?))
}

pub(super) async fn show(State(app): State<App>, Path(id): Path<SystemId>) -> Answer<Registered> {
    Ok(Json(app.catalog.system(&id).await?))
}

pub(super) async fn add(
    State(app): State<App>,
    Json(entry): Json<Entry>,
) -> Result<(StatusCode, Json<Added>), Problem> {
    Ok((StatusCode::CREATED, Json(app.register(&entry).await?)))
}

pub(super) async fn import(
    State(app): State<App>,
    Json(import): Json<Import>,
) -> Result<(StatusCode, Json<Imported>), Problem> {
    Ok((StatusCode::CREATED, Json(app.import(import).await?)))
}

#[derive(Debug, Deserialize)]
pub(super) struct Seen {
    version: u64,
}

pub(super) async fn edit(
    State(app): State<App>,
    Path(id): Path<SystemId>,
    Query(seen): Query<Seen>,
    Json(system): Json<System>,
) -> Answer<Registered> {
    if system.id != id {
        return Err(crate::ServerError::Entry {
            place: id.to_string(),
            why: "the id cannot be changed".to_owned(),
        }
        .into());
    }
    app.catalog.edit_system(&system, seen.version).await?;
    app.event("admin", "system.edited", Some(&id), &serde_json::json!({})).await?;
    app.export_control().await?;
    app.work.notify_one();
    Ok(Json(app.catalog.system(&id).await?))
}

pub(super) async fn remove(State(app): State<App>, Path(id): Path<SystemId>) -> Answer<serde_json::Value> {
    app.catalog.remove_system(&id).await?;
    app.logins.revoke(&app.catalog, id.as_str()).await?;
    app.logins.revoke(&app.catalog, &results::shelf(&id)).await?;
    app.event("admin", "system.removed", None, &serde_json::json!({ "system": id })).await?;
    app.export_control().await?;
    Ok(Json(serde_json::json!({ "removed": id })))
}

pub(super) async fn vaults(State(app): State<App>) -> Answer<Vec<Vault>> {
    Ok(Json(app.vaults().await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Introduction {
    name: String,
    report_key: String,
    #[serde(default)]
    recipient: Option<String>,
    out: std::path::PathBuf,
}

pub(super) async fn enrol(State(app): State<App>, Json(new): Json<Introduction>) -> Answer<Enrolment> {
    let vault = Vault {
        name: new.name,
        report_key: new.report_key,
        recipient: new.recipient,
        since: app.clock.now(),
    };
    Ok(Json(app.enrol(vault, &new.out).await?))
}

impl App {
    /// Registers a system: its repository first, so that an entry never stands without one.
    pub async fn register(&self, entry: &Entry) -> crate::error::Result<Added> {
        let system = entry.system(&self.zone_name())?;
        kuramori_judge::schedule::Timetable::new(&system.schedule).map_err(|source| {
            kuramori_catalog::CatalogError::Schedule { name: system.id.to_string(), source }
        })?;
        if system.id.as_str().starts_with(SHELF) || system.id.as_str() == REPORTS {
            let why =
                format!("names that begin with `{SHELF}` and `{REPORTS}` are taken by the server itself");
            return Err(crate::ServerError::Entry { place: system.id.to_string(), why });
        }
        if self.catalog.system(&system.id).await.is_ok() {
            return Err(kuramori_catalog::CatalogError::Exists {
                what: "system",
                name: system.id.to_string(),
            }
            .into());
        }
        let restic = system.writer == Writer::Restic;
        let repository_password = self.create_repository(system.id.as_str(), restic).await?;
        self.catalog.add_system(&system).await?;
        let client = match repository_password {
            Some(repository_password) => {
                let login = system.id.to_string();
                let grant = Grant::Append { repository: login.clone(), quota: entry.quota };
                let login_password =
                    self.logins.grant(&self.catalog, &login, grant, self.random.as_ref()).await?;
                Some(Client {
                    url: format!("rest:https://{login}@{}/{login}/", self.config.serve.listen),
                    login,
                    login_password,
                    repository_password,
                    authority: self.keys.authority.clone(),
                })
            }
            None => None,
        };
        let product = if results::of(&system).is_some() {
            let login = results::shelf(&system.id);
            Some(Poster {
                url: format!("https://{}/{login}/snapshots/", self.config.serve.listen),
                login_password: self.grant_results(&system.id).await?,
                login,
                authority: self.keys.authority.clone(),
            })
        } else {
            None
        };
        self.event("admin", "system.added", Some(&system.id), &serde_json::json!({})).await?;
        self.export_control().await?;
        self.work.notify_one();
        Ok(Added { system, client, product })
    }
}
