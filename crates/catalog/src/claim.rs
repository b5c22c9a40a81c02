//! Working on a run: claimed by compare-and-swap with owner, epoch and lease, so that a worker that was
//! thought dead and is not cannot write over its successor. The lease counts in accumulated time, which no
//! wall clock can move.

use std::time::Duration;

use kuramori_judge::facts::RunFacts;

use crate::{
    Catalog, CatalogError, NewPoint, Place, Point, Progress, Result, Run, RunState, Stamp,
    codec::{length, micros, signed, to_json},
    run::{Row, runs},
    sql::{self, Transaction},
};

/// A run that is ours to work on.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The run as it was claimed.
    pub run: Run,
    owner: String,
}

/// The answer to a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// A person asked to stop; end the run as [`RunState::Cancelled`].
    pub cancel: bool,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct End {
    /// One of the ended states.
    pub state: RunState,
    /// What was read.
    pub facts: RunFacts,
    /// Code and words of the error.
    pub error: Option<(String, String)>,
    /// The restore point, committed in the same transaction.
    pub point: Option<NewPoint>,
    /// What it planned and did; an empty object if there is nothing to say.
    pub detail: serde_json::Value,
}

/// What an abandoned run is told.
const LOST: &str = "its worker was no longer heard";

impl Catalog {
    /// Claims the oldest queued job whose server and system are free; none if nothing can start now.
    pub async fn claim(&self, owner: &str, lease: Duration) -> Result<Option<Claim>> {
        self.claim_of(owner, lease, false).await
    }

    /// As [`claim`](Self::claim), for the work on a repository that can wait ([`RunKind::Prune`]).
    pub async fn claim_upkeep(&self, owner: &str, lease: Duration) -> Result<Option<Claim>> {
        self.claim_of(owner, lease, true).await
    }

    async fn claim_of(&self, owner: &str, lease: Duration, upkeep: bool) -> Result<Option<Claim>> {
        let mut tx = self.begin().await?;
        let stamp = self.advance(&mut tx).await?;
        let row: Option<Row> = sql::query_as(
            "UPDATE runs SET state = 'running', owner = $1, epoch = epoch + 1, lease_until = $2,
                    started_at = $3, heartbeat_at = $3, progress_at = $3, phase = 'starting'
             WHERE state = 'queued' AND id = (
                SELECT q.id FROM runs q WHERE q.state = 'queued' AND (q.kind = 'prune') = ($4 = 1) AND NOT EXISTS (
                    SELECT 1 FROM runs o WHERE (o.server = q.server OR o.system = q.system)
                    AND o.state = 'running')
                ORDER BY q.id LIMIT 1)
             RETURNING *",
        )
        .bind(owner)
        .bind(length(stamp.age + lease))
        .bind(micros(stamp.now))
        .bind(i64::from(upkeep))
        .fetch_optional(&mut tx)
        .await?;
        tx.commit().await?;
        row.map(|row| Ok(Claim { run: row.try_into()?, owner: owner.to_owned() })).transpose()
    }

    /// A sign of life: records the progress and extends the lease.
    pub async fn progress(&self, claim: &Claim, progress: &Progress, lease: Duration) -> Result<Pulse> {
        let mut tx = self.begin().await?;
        let stamp = self.advance(&mut tx).await?;
        let cancel: Option<i64> = sql::query_scalar(
            "UPDATE runs SET lease_until = $4, heartbeat_at = $5,
                    progress_at = CASE WHEN phase = $6 AND bytes_done = $7 AND items_done = $9
                                       THEN progress_at ELSE $5 END,
                    phase = $6, bytes_done = $7, bytes_total = $8, items_done = $9, items_total = $10
             WHERE id = $1 AND owner = $2 AND epoch = $3 AND state = 'running' RETURNING cancel",
        )
        .bind(signed(claim.run.id.0))
        .bind(&claim.owner)
        .bind(signed(claim.run.epoch))
        .bind(length(stamp.age + lease))
        .bind(micros(stamp.now))
        .bind(&progress.phase)
        .bind(signed(progress.bytes_done))
        .bind(progress.bytes_total.map(signed))
        .bind(signed(progress.items_done))
        .bind(progress.items_total.map(signed))
        .fetch_optional(&mut tx)
        .await?;
        tx.commit().await?;
        cancel.map(|cancel| Pulse { cancel: cancel != 0 }).ok_or_else(|| claim.lost())
    }

    /// Ends a run; its restore point is committed in the same transaction, with the receiver's number and
    /// time, or not at all.
    pub async fn finish(&self, claim: &Claim, end: &End) -> Result<Option<Point>> {
        let mut tx = self.begin().await?;
        let stamp = self.advance(&mut tx).await?;
        let point = match &end.point {
            Some(new) => Some(Self::insert_point(&mut tx, new, stamp).await?),
            None => None,
        };
        let (code, text) = end.error.as_ref().map(|(code, text)| (code, text)).unzip();
        let done = sql::query(
            "UPDATE runs SET state = $4, ended_at = $5, heartbeat_at = $5, facts = $6, error_code = $7,
                    error_text = $8, point = $9, detail = $10, lease_until = NULL
             WHERE id = $1 AND owner = $2 AND epoch = $3 AND state = 'running'",
        )
        .bind(signed(claim.run.id.0))
        .bind(&claim.owner)
        .bind(signed(claim.run.epoch))
        .bind(end.state.as_str())
        .bind(micros(stamp.now))
        .bind(to_json(&end.facts)?)
        .bind(code)
        .bind(text)
        .bind(point.as_ref().map(|p| signed(p.sequence.0)))
        .bind(to_json(&end.detail)?)
        .execute(&mut tx)
        .await?;
        if done.rows_affected() == 0 {
            tx.rollback().await?;
            return self.already(claim, end).await;
        }
        tx.commit().await?;
        Ok(point)
    }

    /// The same end once more: its answer was lost on the way from the database, and the caller asked again.
    async fn already(&self, claim: &Claim, end: &End) -> Result<Option<Point>> {
        let run = self.run(claim.run.id).await?;
        let ours = run.owner.as_deref() == Some(claim.owner.as_str()) && run.epoch == claim.run.epoch;
        if !ours || run.state != end.state {
            return Err(claim.lost());
        }
        match (run.point, &end.point) {
            (Some(sequence), Some(_)) => Ok(Some(self.point(Place::Primary, sequence).await?)),
            (None, None) => Ok(None),
            _ => Err(claim.lost()),
        }
    }

    /// Records what a run is about to do, before it does it: its plan.
    pub async fn describe(&self, claim: &Claim, detail: &serde_json::Value) -> Result<()> {
        let done = sql::query(
            "UPDATE runs SET detail = $4 WHERE id = $1 AND owner = $2 AND epoch = $3 AND state = 'running'",
        )
        .bind(signed(claim.run.id.0))
        .bind(&claim.owner)
        .bind(signed(claim.run.epoch))
        .bind(to_json(detail)?)
        .execute(self.writer())
        .await?;
        if done.rows_affected() == 0 { Err(claim.lost()) } else { Ok(()) }
    }

    /// Queues runs whose lease is over again, so that another server finishes them with the next epoch; gives
    /// them. One that a person stopped, or that was given up `tries` times, ends as failed instead
    /// (`catalog.lease-expired`).
    pub async fn take_over(&self, tries: u64) -> Result<Vec<Run>> {
        let mut tx = self.begin().await?;
        let stamp = self.advance(&mut tx).await?;
        let rows: Vec<Row> = sql::query_as(
            "UPDATE runs SET state = 'queued', lease_until = NULL, phase = 'queued', bytes_done = 0,
                    items_done = 0
             WHERE state = 'running' AND lease_until < $1 AND cancel = 0 AND epoch < $2 RETURNING *",
        )
        .bind(length(stamp.age))
        .bind(signed(tries))
        .fetch_all(&mut tx)
        .await?;
        let mut taken = runs(rows)?;
        taken.extend(give_up(&mut tx, stamp).await?);
        tx.commit().await?;
        Ok(taken)
    }

    /// Ends the runs whose lease is over as failed (`catalog.lease-expired`) and gives them.
    pub async fn expire(&self) -> Result<Vec<Run>> {
        let mut tx = self.begin().await?;
        let stamp = self.advance(&mut tx).await?;
        let ended = give_up(&mut tx, stamp).await?;
        tx.commit().await?;
        Ok(ended)
    }

    /// For a server that starts: ends what other owners left running, without waiting for the lease, since
    /// the lock on the file shows that they are gone (`catalog.abandoned`).
    pub async fn abandon_others(&self, owner: &str) -> Result<Vec<Run>> {
        let rows: Vec<Row> = sql::query_as(
            "UPDATE runs SET state = 'failed', ended_at = $1, lease_until = NULL, error_text = $3,
                    error_code = 'catalog.abandoned'
             WHERE state = 'running' AND owner <> $2 RETURNING *",
        )
        .bind(micros(self.inner.clock.now()))
        .bind(owner)
        .bind(LOST)
        .fetch_all(self.writer())
        .await?;
        runs(rows)
    }
}

async fn give_up(tx: &mut Transaction, stamp: Stamp) -> Result<Vec<Run>> {
    let rows: Vec<Row> = sql::query_as(
        "UPDATE runs SET state = 'failed', ended_at = $1, lease_until = NULL, error_text = $3,
                error_code = 'catalog.lease-expired'
         WHERE state = 'running' AND lease_until < $2 RETURNING *",
    )
    .bind(micros(stamp.now))
    .bind(length(stamp.age))
    .bind(LOST)
    .fetch_all(tx)
    .await?;
    runs(rows)
}

impl Claim {
    /// Who holds it.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    fn lost(&self) -> CatalogError {
        CatalogError::LeaseLost { run: self.run.id, owner: self.owner.clone() }
    }
}
