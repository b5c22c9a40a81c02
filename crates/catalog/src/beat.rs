//! Signs of life of our own parts: a scheduler that stopped is found by its silence.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    Catalog, Result,
    codec::{duration, from_json, length, micros, time, to_json, unsigned},
    sql,
};

/// The last sign of life of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Heartbeat {
    /// Which part: `scheduler`, `notify`, `serve`.
    pub name: String,
    /// When, by the wall.
    pub at: Timestamp,
    /// When, by the accumulated time.
    pub age: Duration,
    /// How many there were.
    pub beats: u64,
    /// What it said.
    pub detail: serde_json::Value,
}

impl Catalog {
    /// A sign of life.
    pub async fn beat(&self, name: &str, detail: &serde_json::Value) -> Result<()> {
        let mut tx = self.begin().await?;
        let stamp = self.advance(&mut tx).await?;
        sql::query(
            "INSERT INTO heartbeats (name, at, age, beats, detail) VALUES ($1, $2, $3, 1, $4)
             ON CONFLICT (name) DO UPDATE SET at = excluded.at, age = excluded.age,
                beats = heartbeats.beats + 1, detail = excluded.detail",
        )
        .bind(name)
        .bind(micros(stamp.now))
        .bind(length(stamp.age))
        .bind(to_json(detail)?)
        .execute(&mut tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The last sign of life of every part.
    pub async fn heartbeats(&self) -> Result<Vec<Heartbeat>> {
        let rows: Vec<(String, i64, i64, i64, String)> =
            sql::query_as("SELECT name, at, age, beats, detail FROM heartbeats ORDER BY name")
                .fetch_all(self.reader())
                .await?;
        rows.into_iter()
            .map(|(name, at, age, beats, detail)| {
                Ok(Heartbeat {
                    name,
                    at: time(at)?,
                    age: duration(age),
                    beats: unsigned(beats),
                    detail: from_json(&detail, "heartbeat")?,
                })
            })
            .collect()
    }
}
