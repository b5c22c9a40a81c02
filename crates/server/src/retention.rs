//! Generations at the primary: the judge's plan is made, shown, and carried out. Only snapshots are removed
//! here; their data goes with a later [`prune`](crate::prune). `_control` has a policy of its own: there is a
//! point after each job, and only the newest are ever needed.

use std::time::Duration;

use kuramori_catalog::{Place, Registered};
use kuramori_judge::retention::{Circumstances, Plan, plan};
use kuramori_model::{
    fault::chain,
    ids::{CONTROL_REPOSITORY, SystemId},
    units::Bytes,
};
use kuramori_repo::{
    forget::{self, Policy},
    store::FileId,
};
use serde::{Deserialize, Serialize};

use crate::{
    App, ServerError,
    app::blocking,
    error::Result,
    prune::{self, Freed},
};

/// How long to wait until nobody works in a repository; otherwise the next turn does it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Turns until the task is dropped.
pub(crate) async fn run(app: App) {
    loop {
        tokio::time::sleep(app.config.retention_every).await;
        match app.alone("retention", app.config.retention_every * 2).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                tracing::error!("retention could not begin: {}", chain(&error));
                continue;
            }
        }
        if let Err(error) = control(&app).await {
            tracing::warn!("`_control` was not put in order: {}", chain(&error));
        }
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

/// `_control`: the newest of them, one a day for a month, one a month for a year; then its space is freed.
fn control_policy(last: u32) -> Policy {
    Policy { last, daily: 30, monthly: 12, ..Policy::default() }
}

async fn control(app: &App) -> Result<()> {
    if !app.repository_folder(CONTROL_REPOSITORY).join("config").exists() {
        return Ok(());
    }
    app.catalog.removals_allowed().await?;
    let lease = app.control_lease().await?;
    let one = app.control.lock().await;
    let password = app.password(CONTROL_REPOSITORY).await?;
    let app_ = app.clone();
    let (removed, freed) = blocking(move || {
        let repository = app_.open_repository(CONTROL_REPOSITORY, &password)?;
        prune::remove_stale_locks(&repository)?;
        let groups = forget::plan(
            &repository.snapshots()?,
            &control_policy(app_.config.control_last),
            &app_.config.zone,
        )?;
        let gone: Vec<FileId> =
            groups.iter().flat_map(|group| group.remove.iter().map(|(id, _)| *id)).collect();
        repository.remove_snapshots(&gone, PATIENCE)?;
        // Small, and the vault takes it first in each window: all of it may be packed anew.
        let freed = prune::all(&repository, app_.config.prune.max_unused, PATIENCE)?;
        Ok((gone.len(), freed))
    })
    .await?;
    drop(one);
    app.control_release(lease).await?;
    if removed > 0 || freed.freed_bytes() > 0 {
        tracing::info!(
            removed,
            freed = %Bytes(freed.freed_bytes()),
            remove_packs = freed.remove_packs,
            repack_packs = freed.repack_packs,
            "`_control` is in order"
        );
        let data = serde_json::json!({ "points": removed, "prune": freed });
        app.event("retention", "control.pruned", None, &data).await?;
    }
    let kept = ControlUpkeep { at: app.clock.now(), removed, freed };
    app.catalog.set_setting(CONTROL_UPKEEP, &kept).await?;
    Ok(())
}

/// When `_control` was last put in order, for the console.
pub(crate) const CONTROL_UPKEEP: &str = "control-upkeep";

/// What was done then.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ControlUpkeep {
    pub(crate) at: jiff::Timestamp,
    /// Points that were forgotten.
    pub(crate) removed: usize,
    pub(crate) freed: Freed,
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
    blocking(move || {
        let repository = app_.open_repository(&name, &password)?;
        prune::remove_stale_locks(&repository)?;
        Ok(repository.remove_snapshots(&snapshots, PATIENCE)?)
    })
    .await?;
    // After it: a point that is still in the catalog and gone from the repository is planned and removed again.
    app.catalog.mark_removed(Place::Primary, &plan.remove).await?;
    let data = serde_json::json!({ "points": plan.remove, "generations": plan.generations });
    app.event("retention", "points.removed", Some(id), &data).await?;
    tracing::info!(system = %id, removed = plan.remove.len(), "restore points beyond the policy are removed");
    app.export_control().await?;
    Ok(())
}
