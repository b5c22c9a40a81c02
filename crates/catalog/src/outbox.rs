//! Notices that are owed. A notice is written in the same place as everything else, before anybody tries to
//! send it; a crash between two tries sends it again (its message id is the same), and none is forgotten.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    Catalog, Result,
    codec::{from_json, length, maybe_time, micros, number, signed, time, to_json, unsigned},
    sql::{self, row},
};

/// A notice that is owed, or was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owed {
    /// Its number.
    pub id: u64,
    /// The target's name.
    pub target: String,
    /// What makes it one notice; the same again is not queued twice.
    pub dedup: String,
    /// What to send; the form belongs to the sender.
    pub payload: serde_json::Value,
    /// When it was written.
    pub created: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last try failed.
    pub last_error: Option<String>,
    /// When a target took it.
    pub sent: Option<Timestamp>,
}

/// A notice that is ours to send now.
#[derive(Debug, Clone)]
pub struct Sendable {
    /// The notice.
    pub owed: Owed,
    owner: String,
    epoch: i64,
}

row! {
    struct Row {
        id: i64,
        target: String,
        dedup: String,
        payload: String,
        created_at: i64,
        attempts: i64,
        last_error: Option<String>,
        epoch: i64,
        sent_at: Option<i64>,
    }
}

fn owed(row: Row) -> Result<Owed> {
    Ok(Owed {
        id: unsigned(row.id),
        target: row.target,
        dedup: row.dedup,
        payload: from_json(&row.payload, "notice")?,
        created: time(row.created_at)?,
        attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX),
        last_error: row.last_error,
        sent: maybe_time(row.sent_at)?,
    })
}

impl Catalog {
    /// Owes a notice from `due` on; gives whether it was new.
    pub async fn owe(
        &self,
        target: &str,
        dedup: &str,
        payload: &(impl Serialize + Sync),
        due: Timestamp,
    ) -> Result<bool> {
        let payload = to_json(payload)?;
        let mut tx = self.begin().await?;
        let there: Option<i64> = sql::query_scalar("SELECT id FROM outbox WHERE dedup = $1")
            .bind(dedup)
            .fetch_optional(&mut tx)
            .await?;
        if there.is_some() {
            return Ok(false);
        }
        let id = number(&mut tx, "notice").await?;
        sql::query(
            "INSERT INTO outbox (id, target, dedup, payload, created_at, due_at, attempts, epoch)
             VALUES ($1, $2, $3, $4, $5, $6, 0, 0)",
        )
        .bind(id)
        .bind(target)
        .bind(dedup)
        .bind(payload)
        .bind(micros(self.inner.clock.now()))
        .bind(micros(due))
        .execute(&mut tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Claims the oldest notice that is due; none if all is sent. One that its owner forgets comes back
    /// after `lease`.
    pub async fn next_owed(&self, owner: &str, lease: Duration) -> Result<Option<Sendable>> {
        let mut tx = self.begin().await?;
        let stamp = self.advance(&mut tx).await?;
        let row: Option<Row> = sql::query_as(
            "UPDATE outbox SET owner = $1, epoch = epoch + 1, lease_until = $2, attempts = attempts + 1
             WHERE id = (SELECT id FROM outbox WHERE sent_at IS NULL AND dropped_at IS NULL
                         AND due_at <= $3 AND (lease_until IS NULL OR lease_until < $4)
                         ORDER BY due_at, id LIMIT 1)
             RETURNING *",
        )
        .bind(owner)
        .bind(length(stamp.age + lease))
        .bind(micros(stamp.now))
        .bind(length(stamp.age))
        .fetch_optional(&mut tx)
        .await?;
        tx.commit().await?;
        row.map(|row| {
            let epoch = row.epoch;
            Ok(Sendable { owed: owed(row)?, owner: owner.to_owned(), epoch })
        })
        .transpose()
    }

    /// The target took it.
    pub async fn sent(&self, notice: &Sendable) -> Result<()> {
        sql::query(
            "UPDATE outbox SET sent_at = $4, lease_until = NULL, last_error = NULL
             WHERE id = $1 AND owner = $2 AND epoch = $3",
        )
        .bind(signed(notice.owed.id))
        .bind(&notice.owner)
        .bind(notice.epoch)
        .bind(micros(self.inner.clock.now()))
        .execute(self.writer())
        .await?;
        Ok(())
    }

    /// It did not go; try again at `again`.
    pub async fn unsent(&self, notice: &Sendable, error: &str, again: Timestamp) -> Result<()> {
        sql::query(
            "UPDATE outbox SET due_at = $4, lease_until = NULL, last_error = $5
             WHERE id = $1 AND owner = $2 AND epoch = $3",
        )
        .bind(signed(notice.owed.id))
        .bind(&notice.owner)
        .bind(notice.epoch)
        .bind(micros(again))
        .bind(error)
        .execute(self.writer())
        .await?;
        Ok(())
    }

    /// A person gives it up.
    pub async fn drop_owed(&self, id: u64) -> Result<()> {
        sql::query("UPDATE outbox SET dropped_at = $2 WHERE id = $1 AND sent_at IS NULL")
            .bind(signed(id))
            .bind(micros(self.inner.clock.now()))
            .execute(self.writer())
            .await?;
        Ok(())
    }

    /// Everything that is still owed, oldest first.
    pub async fn all_owed(&self) -> Result<Vec<Owed>> {
        let rows: Vec<Row> =
            sql::query_as("SELECT * FROM outbox WHERE sent_at IS NULL AND dropped_at IS NULL ORDER BY id")
                .fetch_all(self.reader())
                .await?;
        rows.into_iter().map(owed).collect()
    }

    /// When a target last took a notice; none if never.
    pub async fn last_sent(&self, target: &str) -> Result<Option<Timestamp>> {
        let at: Option<i64> = sql::query_scalar("SELECT MAX(sent_at) FROM outbox WHERE target = $1")
            .bind(target)
            .fetch_one(self.reader())
            .await?;
        maybe_time(at)
    }
}
