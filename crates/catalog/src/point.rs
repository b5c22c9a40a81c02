//! Restore points in the receiver's order. The number, the time and the age are given here when a point is
//! committed; nothing that a sender says about time is believed.

use std::time::Duration;

use jiff::Timestamp;
use kuramori_judge::{
    facts::{RunFacts, Taken},
    retention::Held,
};
use kuramori_model::ids::{RunId, Sequence, SystemId};
use serde::Serialize;

use crate::{
    Catalog, CatalogError, Result, Stamp,
    codec::{
        duration, from_json, from_name, length, maybe_time, micros, named, number, signed, time, to_json,
        unsigned,
    },
    sql::{self, Transaction, row},
    system::system_id,
};

named! {
    /// Whose copy.
    Place {
        /// The consolidated store.
        Primary = "primary",
        /// The isolated second copy, as its signed reports tell.
        Vault = "vault",
    }
}

pub use kuramori_judge::retention::Verdict;

/// A restore point that a writer has finished.
#[derive(Debug, Clone)]
pub struct NewPoint {
    /// Of which system.
    pub system: SystemId,
    /// The snapshot's id (64 hexadecimal digits).
    pub snapshot: String,
    /// The run that made it; none for a stock restic client.
    pub run: Option<RunId>,
    /// Whether everything was read.
    pub complete: bool,
    /// What was read.
    pub facts: RunFacts,
}

/// A restore point that the vault reports.
#[derive(Debug, Clone)]
pub struct VaultPoint {
    /// Of which system.
    pub system: SystemId,
    /// The snapshot's id (64 hexadecimal digits).
    pub snapshot: String,
    /// The vault's number.
    pub sequence: Sequence,
    /// The vault's time.
    pub received: Timestamp,
    /// Whole in verified packs.
    pub complete: bool,
    /// The vault's inspection.
    pub verdict: Verdict,
    /// Bytes that it restores to.
    pub bytes: u64,
    /// Files that it restores to.
    pub files: u64,
    /// When a drill last restored it.
    pub drilled: Option<Timestamp>,
}

/// One restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Whose copy.
    pub place: Place,
    /// Of which system.
    pub system: SystemId,
    /// The receiver's number.
    pub sequence: Sequence,
    /// The receiver's time.
    pub received: Timestamp,
    /// The snapshot's id.
    pub snapshot: String,
    /// The run that made it.
    pub run: Option<RunId>,
    /// Bytes that it restores to.
    pub bytes: u64,
    /// Bytes that were new to the repository.
    pub added: Option<u64>,
    /// Files that it restores to.
    pub files: u64,
    /// Whether everything was read (primary) or is proven whole (vault).
    pub complete: bool,
    /// What inspection found.
    pub verdict: Verdict,
    /// What was read for it.
    pub facts: RunFacts,
    /// When a drill last restored it.
    pub drilled: Option<Timestamp>,
    /// When it was removed.
    pub removed: Option<Timestamp>,
    /// The receiver's accumulated time when it came.
    #[serde(skip)]
    pub received_age: Duration,
}

row! {
    struct Row {
        place: String,
        system: String,
        sequence: i64,
        received_at: i64,
        received_age: i64,
        snapshot: String,
        run: Option<i64>,
        bytes: i64,
        added: Option<i64>,
        files: i64,
        complete: i64,
        verdict: String,
        facts: String,
        drilled_at: Option<i64>,
        removed_at: Option<i64>,
    }
}

impl TryFrom<Row> for Point {
    type Error = CatalogError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            place: from_name(&row.place, "place")?,
            system: system_id(&row.system)?,
            sequence: Sequence(unsigned(row.sequence)),
            received: time(row.received_at)?,
            received_age: duration(row.received_age),
            snapshot: row.snapshot,
            run: row.run.map(|id| RunId(unsigned(id))),
            bytes: unsigned(row.bytes),
            added: row.added.map(unsigned),
            files: unsigned(row.files),
            complete: row.complete != 0,
            verdict: from_name(&row.verdict, "verdict")?,
            facts: from_json(&row.facts, "facts of a restore point")?,
            drilled: maybe_time(row.drilled_at)?,
            removed: maybe_time(row.removed_at)?,
        })
    }
}

impl From<Point> for Taken {
    fn from(point: Point) -> Self {
        Self {
            sequence: point.sequence,
            received: point.received,
            complete: point.complete,
            run: point.run,
            facts: point.facts,
        }
    }
}

fn points(rows: Vec<Row>) -> Result<Vec<Point>> {
    rows.into_iter().map(Point::try_from).collect()
}

impl Catalog {
    /// Commits a point of the primary outside of a run (a stock restic client's). The same snapshot again
    /// gives the point that is already there.
    pub async fn commit_point(&self, new: &NewPoint) -> Result<Point> {
        let mut tx = self.begin().await?;
        let stamp = self.advance(&mut tx).await?;
        let point = Self::insert_point(&mut tx, new, stamp).await?;
        tx.commit().await?;
        Ok(point)
    }

    pub(crate) async fn insert_point(
        connection: &mut Transaction,
        new: &NewPoint,
        stamp: Stamp,
    ) -> Result<Point> {
        let there: Option<Row> =
            sql::query_as("SELECT * FROM points WHERE place = 'primary' AND system = $1 AND snapshot = $2")
                .bind(new.system.as_str())
                .bind(&new.snapshot)
                .fetch_optional(&mut *connection)
                .await?;
        if let Some(row) = there {
            return row.try_into();
        }
        let sequence = number(connection, "point").await?;
        let row: Row = sql::query_as(
            "INSERT INTO points (place, system, sequence, received_at, received_age, snapshot, run, bytes,
                                 added, files, complete, verdict, facts)
             VALUES ('primary', $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'unknown', $11) RETURNING *",
        )
        .bind(new.system.as_str())
        .bind(sequence)
        .bind(micros(stamp.now))
        .bind(length(stamp.age))
        .bind(&new.snapshot)
        .bind(new.run.map(|id| signed(id.0)))
        .bind(signed(new.facts.bytes))
        .bind(new.facts.added.map(signed))
        .bind(signed(new.facts.files))
        .bind(i64::from(new.complete))
        .bind(to_json(&new.facts)?)
        .fetch_one(connection)
        .await?;
        row.try_into()
    }

    /// Records what the vault reports of a point; newer reports overwrite what may change.
    pub async fn record_vault_point(&self, new: &VaultPoint) -> Result<()> {
        let mut tx = self.begin().await?;
        let stamp = self.advance(&mut tx).await?;
        let facts = to_json(&RunFacts { bytes: new.bytes, files: new.files, ..RunFacts::default() })?;
        sql::query(
            "INSERT INTO points (place, system, sequence, received_at, received_age, snapshot, bytes, files,
                                 complete, verdict, facts, drilled_at)
             VALUES ('vault', $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (place, system, snapshot) DO UPDATE SET complete = excluded.complete,
                verdict = excluded.verdict, bytes = excluded.bytes, files = excluded.files,
                drilled_at = excluded.drilled_at, removed_at = NULL, removed_age = NULL",
        )
        .bind(new.system.as_str())
        .bind(signed(new.sequence.0))
        .bind(micros(new.received))
        .bind(length(stamp.age))
        .bind(&new.snapshot)
        .bind(signed(new.bytes))
        .bind(signed(new.files))
        .bind(i64::from(new.complete))
        .bind(new.verdict.as_str())
        .bind(facts)
        .bind(new.drilled.map(micros))
        .execute(&mut tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The points of a system that are there, newest first by the receiver's number.
    pub async fn points(&self, system: &SystemId, place: Place) -> Result<Vec<Point>> {
        points(
            sql::query_as(
                "SELECT * FROM points WHERE system = $1 AND place = $2 AND removed_at IS NULL
                 ORDER BY sequence DESC",
            )
            .bind(system.as_str())
            .bind(place.as_str())
            .fetch_all(self.reader())
            .await?,
        )
    }

    /// The newest complete point of a system that is there.
    pub async fn newest_point(&self, system: &SystemId, place: Place) -> Result<Option<Point>> {
        let row: Option<Row> = sql::query_as(
            "SELECT * FROM points WHERE system = $1 AND place = $2 AND removed_at IS NULL AND complete = 1
             ORDER BY sequence DESC LIMIT 1",
        )
        .bind(system.as_str())
        .bind(place.as_str())
        .fetch_optional(self.reader())
        .await?;
        row.map(Point::try_from).transpose()
    }

    /// One point by its number.
    pub async fn point(&self, place: Place, sequence: Sequence) -> Result<Point> {
        let row: Option<Row> = sql::query_as("SELECT * FROM points WHERE place = $1 AND sequence = $2")
            .bind(place.as_str())
            .bind(signed(sequence.0))
            .fetch_optional(self.reader())
            .await?;
        row.ok_or_else(|| CatalogError::no_such("restore point", &sequence))?.try_into()
    }

    /// The last `limit` points of the primary, removed ones too, oldest first: the judge's history.
    pub async fn history(&self, system: &SystemId, limit: u32) -> Result<Vec<Taken>> {
        let rows: Vec<Row> = sql::query_as(
            "SELECT * FROM points WHERE system = $1 AND place = 'primary' ORDER BY sequence DESC LIMIT $2",
        )
        .bind(system.as_str())
        .bind(i64::from(limit))
        .fetch_all(self.reader())
        .await?;
        let mut taken: Vec<Taken> = points(rows)?.into_iter().map(Taken::from).collect();
        taken.reverse();
        Ok(taken)
    }

    /// The points of a system as the retention plan needs them, oldest first.
    pub async fn held(&self, system: &SystemId, place: Place) -> Result<Vec<Held>> {
        let age = self.tick().await?.age;
        let mut held: Vec<Held> = self
            .points(system, place)
            .await?
            .into_iter()
            .map(|point| Held {
                sequence: point.sequence,
                received: point.received,
                age: age.saturating_sub(point.received_age),
                complete: point.complete,
                verdict: point.verdict,
            })
            .collect();
        held.reverse();
        Ok(held)
    }

    /// How many points of a place were removed within the last day of accumulated time.
    pub async fn removed_today(&self, system: &SystemId, place: Place) -> Result<u32> {
        let age = length(self.tick().await?.age);
        let count: i64 = sql::query_scalar(
            "SELECT COUNT(*) FROM points WHERE system = $1 AND place = $2 AND removed_age > $3",
        )
        .bind(system.as_str())
        .bind(place.as_str())
        .bind(age - 86_400_000_000)
        .fetch_one(self.reader())
        .await?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Records that points are gone. What may go is asked before: [`removals_allowed`](Self::removals_allowed)
    /// and the retention plan.
    pub async fn mark_removed(&self, place: Place, sequences: &[Sequence]) -> Result<()> {
        let mut tx = self.begin().await?;
        let stamp = self.advance(&mut tx).await?;
        for sequence in sequences {
            sql::query(
                "UPDATE points SET removed_at = $3, removed_age = $4
                 WHERE place = $1 AND sequence = $2 AND removed_at IS NULL",
            )
            .bind(place.as_str())
            .bind(signed(sequence.0))
            .bind(micros(stamp.now))
            .bind(length(stamp.age))
            .execute(&mut tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Records what an inspection found.
    pub async fn set_verdict(&self, place: Place, sequence: Sequence, verdict: Verdict) -> Result<()> {
        let done = sql::query("UPDATE points SET verdict = $3 WHERE place = $1 AND sequence = $2")
            .bind(place.as_str())
            .bind(signed(sequence.0))
            .bind(verdict.as_str())
            .execute(self.writer())
            .await?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::no_such("restore point", &sequence));
        }
        Ok(())
    }

    /// Records that a drill restored it.
    pub async fn set_drilled(&self, place: Place, sequence: Sequence, at: Timestamp) -> Result<()> {
        let done = sql::query("UPDATE points SET drilled_at = $3 WHERE place = $1 AND sequence = $2")
            .bind(place.as_str())
            .bind(signed(sequence.0))
            .bind(micros(at))
            .execute(self.writer())
            .await?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::no_such("restore point", &sequence));
        }
        Ok(())
    }
}
