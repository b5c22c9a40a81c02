//! Freeing what no restore point needs any more: forgetting a point removes only its name, its data goes here.
//!
//! *In* go the register, the policy of `[prune]` and a repository; *out* comes a run with its plan (in the log,
//! in the run, on the console) and free space. The engine prunes plainly, under restic's exclusive lock; so
//! this is done when nobody works there: never beside a job of the same system, on a schedule of its own, in
//! the hours that the hospital chose, and it gives way as soon as a backup of that system waits.
//!
//! How much is packed anew in a day is bounded: what a vault has to fetch again is exposure of the gate.
//!
//! **Invariant:** nothing is freed while a restore point that the catalog counts is missing in the repository.
//! So what somebody removed behind our back costs no data, and generations under the floor keep theirs.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kuramori_catalog::{
    Claim, End, NewRun, Place, Progress, Reason, Run, RunFilter, RunKind, RunState, Stamp,
};
use kuramori_judge::facts::RunFacts;
use kuramori_model::{ids::SystemId, units::Bytes};
use kuramori_repo::{
    Opened, Repository,
    prune::{PruneOptions, PrunePlan},
    store::FileKind,
};
use serde::{Deserialize, Serialize};

use crate::{App, ServerError, app::blocking, error::Result, job::Steering};

/// How long to wait for others in the repository; a restic client may be at work for hours.
const PATIENCE: Duration = Duration::from_secs(20);
/// After a prune that failed or gave way, the next try.
const AGAIN: Duration = Duration::from_hours(1);
/// restic's own rule: a lock that was not renewed for this long has no holder any more.
const STALE: SignedDuration = SignedDuration::from_mins(30);
/// What counts as "today".
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// What a prune planned and did, as the run keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    /// Bytes of all packs before it.
    pub bytes_before: u64,
    /// Bytes that may be packed anew today, as the policy says.
    pub share_bytes: u64,
    /// Packs that go as a whole.
    pub remove_packs: u64,
    /// Their bytes.
    pub remove_bytes: u64,
    /// Packs whose needed part moves into new packs.
    pub repack_packs: u64,
    /// Bytes that move.
    pub repack_bytes: u64,
    /// Bytes that become free by that.
    pub repack_freed_bytes: u64,
    /// Unneeded bytes that stay for another day.
    pub unused_kept_bytes: u64,
    /// Packs that stay as they are.
    pub keep_packs: u64,
    /// Whether it was carried out, and not only planned.
    pub done: bool,
}

impl Freed {
    fn new(plan: &PrunePlan, bytes_before: u64, share_bytes: u64) -> Self {
        Self {
            bytes_before,
            share_bytes,
            remove_packs: plan.remove_packs,
            remove_bytes: plan.remove_bytes,
            repack_packs: plan.repack_packs,
            repack_bytes: plan.repack_bytes,
            repack_freed_bytes: plan.repack_freed_bytes,
            unused_kept_bytes: plan.unused_kept_bytes,
            keep_packs: plan.keep_packs,
            done: false,
        }
    }

    /// Bytes that are free afterwards.
    pub const fn freed_bytes(&self) -> u64 {
        self.remove_bytes + self.repack_freed_bytes
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({ "prune": self })
    }

    /// Out of a run's detail; none for a run of another kind, or one that never had a plan.
    pub fn of(run: &Run) -> Option<Self> {
        serde_json::from_value(run.detail.get("prune")?.clone()).ok()
    }
}

/// Queues the prunes whose time has come.
pub(crate) async fn schedule(app: &App, stamp: Stamp) -> Result<()> {
    if !app.config.prune.allowed(stamp.now, &app.config.zone) {
        return Ok(());
    }
    for registered in app.catalog.systems().await? {
        let id = registered.system.id;
        if !app.repository_folder(id.as_str()).join("config").exists() {
            continue;
        }
        let Some(due) = due(app, &id, registered.created_at).await?.filter(|due| *due <= stamp.now) else {
            continue;
        };
        let new = NewRun { system: id, kind: RunKind::Prune, reason: Reason::Schedule, due: Some(due) };
        app.catalog.enqueue(&new).await?;
    }
    Ok(())
}

/// When this system's next prune is due; none while one is queued or running.
async fn due(app: &App, id: &SystemId, since: Timestamp) -> Result<Option<Timestamp>> {
    let every = app.config.prune.every;
    let last = app.catalog.runs(&of(id, 1)).await?.into_iter().next();
    Ok(match last {
        None => Some(since + every),
        Some(run) => match (run.state, run.ended_at) {
            (RunState::Queued | RunState::Running, _) | (_, None) => None,
            (RunState::Complete, Some(ended)) => Some(ended + every),
            (_, Some(ended)) => Some(ended + every.min(AGAIN)),
        },
    })
}

fn of(id: &SystemId, limit: u32) -> RunFilter {
    RunFilter { system: Some(id.clone()), kind: Some(RunKind::Prune), limit, ..RunFilter::default() }
}

/// Bytes that were packed anew within the last day.
async fn repacked(app: &App, id: &SystemId) -> Result<u64> {
    let since = app.clock.now() - DAY;
    let runs = app.catalog.runs(&of(id, 50)).await?;
    let recent = runs.iter().filter(|run| run.ended_at.is_some_and(|ended| ended > since));
    // One that was cut off may have moved all that it planned.
    Ok(recent.filter_map(Freed::of).map(|freed| freed.repack_bytes).sum())
}

/// Whether a job of this system waits for the repository.
pub(crate) async fn somebody_waits(app: &App, id: &SystemId) -> Result<bool> {
    let open = RunFilter { system: Some(id.clone()), open: true, ..RunFilter::default() };
    Ok(app.catalog.runs(&open).await?.iter().any(|run| run.kind != RunKind::Prune))
}

/// Carries out a claimed prune.
pub(crate) async fn work(app: &App, claim: &Claim, steering: Arc<Steering>) -> Result<End> {
    let id = claim.run.system.clone();
    let known: HashSet<String> =
        app.catalog.points(&id, Place::Primary).await?.into_iter().map(|point| point.snapshot).collect();
    let password = app.password(id.as_str()).await?;
    let moved = repacked(app, &id).await?;
    let (app_, claim_, runtime) = (app.clone(), claim.clone(), tokio::runtime::Handle::current());
    let freed = blocking(move || {
        steering.phase("planning");
        let repository = app_.open_repository(id.as_str(), &password)?;
        remove_stale_locks(&repository)?;
        let there: HashSet<String> =
            repository.snapshots()?.into_iter().map(|(id, _)| id.to_string()).collect();
        let missing = known.difference(&there).count();
        if missing > 0 {
            return Err(ServerError::PointsMissing { system: id.to_string(), missing });
        }
        let bytes = size(&repository)?;
        let share = (bytes / 100 * u64::from(app_.config.prune.repack_share)).saturating_sub(moved);
        let options = PruneOptions {
            max_unused_percent: app_.config.prune.max_unused,
            max_repack_bytes: share,
            patience: PATIENCE,
        };
        let pruning = repository.plan_prune(&options, &steering.engine)?;
        let mut freed = Freed::new(pruning.plan(), bytes, share);
        tracing::info!(
            run = %claim_.run.id, system = %id, remove_packs = freed.remove_packs,
            remove = %Bytes(freed.remove_bytes), repack_packs = freed.repack_packs,
            repack = %Bytes(freed.repack_bytes), share = %Bytes(share),
            stays_unneeded = %Bytes(freed.unused_kept_bytes), "plan of the prune"
        );
        // The plan is on record before anything of it is done; a lease that was lost ends it here.
        runtime.block_on(app_.catalog.describe(&claim_, &freed.json()))?;
        steering.engine.check()?;
        steering.phase("freeing");
        let progress = Arc::new(kuramori_repo::progress::Progress::default());
        *steering.counted.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress.clone());
        pruning.execute(&progress, &steering.engine)?;
        freed.done = true;
        tracing::info!(run = %claim_.run.id, system = %id, freed = %Bytes(freed.freed_bytes()), "space is free");
        Ok(freed)
    })
    .await?;
    Ok(End {
        state: RunState::Complete,
        facts: RunFacts::default(),
        error: None,
        point: None,
        detail: freed.json(),
    })
}

/// What a prune's counters say, in the run's words.
pub(crate) fn progress(phase: String, counted: &kuramori_repo::progress::Progress) -> Progress {
    let stand = counted.stand();
    Progress {
        phase,
        bytes_done: stand.bytes,
        bytes_total: None,
        items_done: stand.items,
        items_total: Some(stand.total_items),
    }
}

/// Bytes of all packs.
pub(crate) fn size<State>(repository: &Repository<State>) -> Result<u64> {
    let mut bytes = 0;
    repository.store().list(FileKind::Pack, &mut |_, size| {
        bytes += size;
        Ok(())
    })?;
    Ok(bytes)
}

/// Removes locks of our own servers that were not renewed for half an hour, as `restic unlock` does: their
/// holder died on another machine. A holder that was only frozen finds its lock gone and stops.
pub(crate) fn remove_stale_locks(repository: &Repository<Opened>) -> Result<()> {
    let now = repository.context().clock.now();
    for (id, lock) in repository.locks()? {
        let Ok(lock) = lock else { continue };
        if lock.username == repository.context().username && now.duration_since(lock.time) > STALE {
            tracing::warn!(host = lock.hostname, pid = lock.pid, since = %lock.time, "a dead server's lock is removed");
            repository.store().remove(FileKind::Lock, id)?;
        }
    }
    Ok(())
}

/// Prunes a repository of the server's own as far as the policy says, without a bound on repacking.
pub(crate) fn all(repository: &Repository<Opened>, max_unused: u8, patience: Duration) -> Result<Freed> {
    let bytes = size(repository)?;
    let options = PruneOptions { max_unused_percent: max_unused, max_repack_bytes: u64::MAX, patience };
    let pruning = repository.plan_prune(&options, &kuramori_repo::Cancel::default())?;
    let mut freed = Freed::new(pruning.plan(), bytes, bytes);
    pruning.execute(&kuramori_repo::progress::Progress::default(), &kuramori_repo::Cancel::default())?;
    freed.done = true;
    Ok(freed)
}
