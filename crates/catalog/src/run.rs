//! Runs: jobs that wait, work, and end. One at a time per departmental server, and the same due time once.

use jiff::Timestamp;
use kuramori_judge::facts::RunFacts;
use kuramori_model::ids::{RunId, Sequence, SystemId};
use serde::Serialize;

use crate::{
    Catalog, CatalogError, Result,
    codec::{from_json, from_name, maybe_time, micros, named, number, signed, time, unsigned},
    sql::{self, row},
    system::system_id,
};

named! {
    /// What a run does.
    RunKind {
        /// Takes a restore point.
        Backup = "backup",
        /// Reads a repository for damage.
        Check = "check",
        /// Restores.
        Restore = "restore",
        /// Exports the catalog.
        Control = "control",
        /// Frees what no restore point needs.
        Prune = "prune",
    }
}

named! {
    /// Why it exists.
    Reason {
        /// Its time came.
        Schedule = "schedule",
        /// Its time had passed, and the policy says: run it late.
        Late = "late",
        /// A person asked.
        Manual = "manual",
    }
}

named! {
    /// How far it is.
    RunState {
        /// Waits for its turn.
        Queued = "queued",
        /// Works.
        Running = "running",
        /// Ended; everything was read.
        Complete = "complete",
        /// Ended with a restore point, but some items could not be read.
        CompleteWithErrors = "complete_with_errors",
        /// Ended without a restore point.
        Failed = "failed",
        /// Stopped by a person.
        Cancelled = "cancelled",
    }
}

/// A job to be queued.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Of which system.
    pub system: SystemId,
    /// What to do.
    pub kind: RunKind,
    /// Why.
    pub reason: Reason,
    /// The due time that it belongs to; the same due time is queued once.
    pub due: Option<Timestamp>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enqueued {
    /// A new run.
    New(RunId),
    /// One was already queued or running, or this due time was already handled by it.
    Already(RunId),
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// Of which system.
    pub system: SystemId,
    /// On which departmental server.
    pub server: String,
    /// What it does.
    pub kind: RunKind,
    /// Why it exists.
    pub reason: Reason,
    /// The due time that it belongs to.
    pub due: Option<Timestamp>,
    /// How far it is.
    pub state: RunState,
    /// Who works on it.
    pub owner: Option<String>,
    /// How often it was claimed.
    pub epoch: u64,
    /// A person asked to stop it.
    pub cancel: bool,
    /// When it was queued.
    pub queued_at: Timestamp,
    /// When work began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When its worker was last heard.
    pub heartbeat_at: Option<Timestamp>,
    /// When it last came further (bytes, items or phase).
    pub progress_at: Option<Timestamp>,
    /// How far it is now.
    pub progress: Progress,
    /// What it read.
    pub facts: RunFacts,
    /// Stable code of the error that ended it.
    pub error_code: Option<String>,
    /// The error in words, with all its causes.
    pub error_text: Option<String>,
    /// The restore point that it made.
    pub point: Option<Sequence>,
    /// What it planned and did, beside the facts that the judge reads; the form belongs to its kind.
    pub detail: serde_json::Value,
}

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Stable name of the phase: `reading`, `committing`.
    pub phase: String,
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes to read, if known.
    pub bytes_total: Option<u64>,
    /// Items read.
    pub items_done: u64,
    /// Items to read, if known.
    pub items_total: Option<u64>,
}

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Only of this system.
    pub system: Option<SystemId>,
    /// Only of this kind.
    pub kind: Option<RunKind>,
    /// Only queued and running ones.
    pub open: bool,
    /// Only with a smaller number than this: the next page.
    pub before: Option<RunId>,
    /// At most this many; 0 means 100.
    pub limit: u32,
}

row! {
    pub(crate) struct Row {
        id: i64,
        system: String,
        server: String,
        kind: String,
        reason: String,
        due: Option<i64>,
        state: String,
        owner: Option<String>,
        epoch: i64,
        cancel: i64,
        queued_at: i64,
        started_at: Option<i64>,
        ended_at: Option<i64>,
        heartbeat_at: Option<i64>,
        progress_at: Option<i64>,
        phase: String,
        bytes_done: i64,
        bytes_total: Option<i64>,
        items_done: i64,
        items_total: Option<i64>,
        facts: String,
        error_code: Option<String>,
        error_text: Option<String>,
        point: Option<i64>,
        detail: String,
    }
}

impl TryFrom<Row> for Run {
    type Error = CatalogError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: RunId(unsigned(row.id)),
            system: system_id(&row.system)?,
            server: row.server,
            kind: from_name(&row.kind, "kind of run")?,
            reason: from_name(&row.reason, "reason of a run")?,
            due: maybe_time(row.due)?,
            state: from_name(&row.state, "state of a run")?,
            owner: row.owner,
            epoch: unsigned(row.epoch),
            cancel: row.cancel != 0,
            queued_at: time(row.queued_at)?,
            started_at: maybe_time(row.started_at)?,
            ended_at: maybe_time(row.ended_at)?,
            heartbeat_at: maybe_time(row.heartbeat_at)?,
            progress_at: maybe_time(row.progress_at)?,
            progress: Progress {
                phase: row.phase,
                bytes_done: unsigned(row.bytes_done),
                bytes_total: row.bytes_total.map(unsigned),
                items_done: unsigned(row.items_done),
                items_total: row.items_total.map(unsigned),
            },
            facts: from_json(&row.facts, "facts of a run")?,
            error_code: row.error_code,
            error_text: row.error_text,
            point: row.point.map(|n| Sequence(unsigned(n))),
            detail: from_json(&row.detail, "detail of a run")?,
        })
    }
}

pub(crate) fn runs(rows: Vec<Row>) -> Result<Vec<Run>> {
    rows.into_iter().map(Run::try_from).collect()
}

impl Catalog {
    /// Queues a job, once per due time and at most one open job of a kind per system; in the same step the
    /// due time counts as handled.
    pub async fn enqueue(&self, new: &NewRun) -> Result<Enqueued> {
        let mut tx = self.begin().await?;
        let server: Option<String> = sql::query_scalar("SELECT server FROM systems WHERE id = $1")
            .bind(new.system.as_str())
            .fetch_optional(&mut tx)
            .await?;
        let server = server.ok_or_else(|| CatalogError::no_such("system", &new.system))?;
        // A prune works in the repository only; the departmental server is free for others meanwhile.
        let server = match new.kind {
            RunKind::Prune => format!("repository/{}", new.system),
            _ => server,
        };
        let due = new.due.map(micros);
        let open: Option<i64> = sql::query_scalar(
            "SELECT id FROM runs WHERE system = $1 AND kind = $2
             AND (state IN ('queued', 'running') OR due = $3) ORDER BY id DESC LIMIT 1",
        )
        .bind(new.system.as_str())
        .bind(new.kind.as_str())
        .bind(due)
        .fetch_optional(&mut tx)
        .await?;
        let outcome = if let Some(id) = open {
            Enqueued::Already(RunId(unsigned(id)))
        } else {
            let id = number(&mut tx, "run").await?;
            sql::query(
                "INSERT INTO runs (id, system, server, kind, reason, due, state, epoch, cancel, queued_at,
                                   phase, bytes_done, items_done, facts)
                 VALUES ($1, $2, $3, $4, $5, $6, 'queued', 0, 0, $7, 'queued', 0, 0, '{}')",
            )
            .bind(id)
            .bind(new.system.as_str())
            .bind(server)
            .bind(new.kind.as_str())
            .bind(new.reason.as_str())
            .bind(due)
            .bind(micros(self.inner.clock.now()))
            .execute(&mut tx)
            .await?;
            Enqueued::New(RunId(unsigned(id)))
        };
        if let Some(due) = due.filter(|_| new.kind == RunKind::Backup) {
            sql::query("UPDATE systems SET handled_due = $2 WHERE id = $1 AND handled_due < $2")
                .bind(new.system.as_str())
                .bind(due)
                .execute(&mut tx)
                .await?;
        }
        tx.commit().await?;
        Ok(outcome)
    }

    /// Asks a run to stop: a queued one ends at once, a running one hears it with its next sign of life.
    pub async fn cancel(&self, id: RunId) -> Result<Run> {
        let now = micros(self.inner.clock.now());
        let row: Option<Row> = sql::query_as(
            "UPDATE runs SET cancel = 1,
                    ended_at = CASE WHEN state = 'queued' THEN $2 ELSE ended_at END,
                    state = CASE WHEN state = 'queued' THEN 'cancelled' ELSE state END
             WHERE id = $1 RETURNING *",
        )
        .bind(signed(id.0))
        .bind(now)
        .fetch_optional(self.writer())
        .await?;
        row.ok_or_else(|| CatalogError::no_such("run", &id))?.try_into()
    }

    /// One run.
    pub async fn run(&self, id: RunId) -> Result<Run> {
        let row: Option<Row> = sql::query_as("SELECT * FROM runs WHERE id = $1")
            .bind(signed(id.0))
            .fetch_optional(self.reader())
            .await?;
        row.ok_or_else(|| CatalogError::no_such("run", &id))?.try_into()
    }

    /// Runs, newest first.
    pub async fn runs(&self, filter: &RunFilter) -> Result<Vec<Run>> {
        let rows: Vec<Row> = sql::query_as(
            "SELECT * FROM runs WHERE ($1 IS NULL OR system = $1)
             AND ($2 = 0 OR state IN ('queued', 'running')) AND ($3 IS NULL OR id < $3)
             AND ($4 IS NULL OR kind = $4) ORDER BY id DESC LIMIT $5",
        )
        .bind(filter.system.as_ref().map(SystemId::as_str))
        .bind(i64::from(filter.open))
        .bind(filter.before.map(|id| signed(id.0)))
        .bind(filter.kind.map(RunKind::as_str))
        .bind(i64::from(if filter.limit == 0 { 100 } else { filter.limit }))
        .fetch_all(self.reader())
        .await?;
        runs(rows)
    }
}
