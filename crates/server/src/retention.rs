//! Generations at the primary: the judge's plan is made, shown, and carried out. Only snapshots are removed
//! here; their data goes with a later prune.

use std::time::Duration;

use kuramori_catalog::{Place, Registered};
use kuramori_judge::retention::{Circumstances, Plan, plan};
use kuramori_model::{fault::chain, ids::SystemId};
use kuramori_repo::store::FileId;

use crate::{App, ServerError, app::blocking, error::Result};

/// How long to wait until nobody works in a repository; otherwise the next turn does it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Turns until the task is dropped.
pub(crate) async fn run(app: App) {
    loop {
        tokio::time::sleep(app.config.retention_every).await;
        match app.catalog.systems().await {
            Ok(systems) => {
                for registered in systems {
                    if let Err(error) = apply(&app, &registered).await {
                        tracing::warn!(system = %registered.system.id, "nothing was removed: {}", chain(&error));
                    }
                }
            }
            Err(error) => tracing::error!("retention could not begin: {}", chain(&error)),
        }
    }
}

impl App {
    /// What the policy keeps and what it would remove now. Changes nothing.
    pub async fn retention(&self, id: &SystemId) -> Result<Plan> {
        let registered = self.catalog.system(id).await?;
        self.plan(&registered).await
    }

    async fn plan(&self, registered: &Registered) -> Result<Plan> {
        let system = &registered.system;
        let held = self.catalog.held(&system.id, Place::Primary).await?;
        let at = Circumstances {
            floor: system.data.floor(),
            zone: &self.config.zone,
            removed_today: self.catalog.removed_today(&system.id, Place::Primary).await?,
            suspended: self.catalog.suspended().await?.is_some(),
        };
        Ok(plan(&held, &system.retention, &at))
    }
}

/// Carries the plan of one system out.
async fn apply(app: &App, registered: &Registered) -> Result<()> {
    let plan = app.plan(registered).await?;
    if plan.remove.is_empty() {
        return Ok(());
    }
    app.catalog.removals_allowed().await?;
    let id = &registered.system.id;
    let mut snapshots: Vec<FileId> = Vec::new();
    for sequence in &plan.remove {
        let point = app.catalog.point(Place::Primary, *sequence).await?;
        let snapshot = point.snapshot.parse();
        snapshots.push(snapshot.map_err(|_| ServerError::Bug(format!("`{}` is not an id", point.snapshot)))?);
    }
    let (app_, name, password) = (app.clone(), id.to_string(), app.password(id.as_str()).await?);
    blocking(move || Ok(app_.open_repository(&name, &password)?.remove_snapshots(&snapshots, PATIENCE)?))
        .await?;
    // After it: a point that is still in the catalog and gone from the repository is planned and removed again.
    app.catalog.mark_removed(Place::Primary, &plan.remove).await?;
    let data = serde_json::json!({ "points": plan.remove, "generations": plan.generations });
    app.catalog.add_event("retention", "points.removed", Some(id), &data).await?;
    tracing::info!(system = %id, removed = plan.remove.len(), "restore points beyond the policy are removed");
    app.export_control().await?;
    Ok(())
}
