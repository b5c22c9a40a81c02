//! What happened, for the console's history. The tamper-evident log is another room; this is its index.

use jiff::Timestamp;
use kuramori_model::ids::SystemId;
use serde::Serialize;

use crate::{
    Catalog, Result,
    codec::{from_json, micros, number, signed, time, to_json, unsigned},
    sql,
    system::system_id,
};

/// One row of history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Its number.
    pub id: u64,
    /// When.
    pub at: Timestamp,
    /// Who: a login, `scheduler`, `vault/one`.
    pub actor: String,
    /// What, as a stable code: `system.added`.
    pub kind: String,
    /// Of which system.
    pub system: Option<SystemId>,
    /// The rest.
    pub data: serde_json::Value,
}

impl Catalog {
    /// Writes a row; gives its number.
    pub async fn add_event(
        &self,
        actor: &str,
        kind: &str,
        system: Option<&SystemId>,
        data: &serde_json::Value,
    ) -> Result<u64> {
        let mut tx = self.begin().await?;
        let id = number(&mut tx, "event").await?;
        sql::query("INSERT INTO events (id, at, actor, kind, system, data) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(id)
            .bind(micros(self.inner.clock.now()))
            .bind(actor)
            .bind(kind)
            .bind(system.map(SystemId::as_str))
            .bind(to_json(data)?)
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(unsigned(id))
    }

    /// Rows with a number above `after`, oldest first: what a live page has not seen yet.
    pub async fn events_after(&self, after: u64, limit: u32) -> Result<Vec<Event>> {
        self.read_events(
            "SELECT id, at, actor, kind, system, data FROM events WHERE id > $1 ORDER BY id LIMIT $2",
            signed(after),
            limit,
        )
        .await
    }

    /// The newest rows, newest first.
    pub async fn events(&self, limit: u32) -> Result<Vec<Event>> {
        self.read_events(
            "SELECT id, at, actor, kind, system, data FROM events WHERE id > $1 ORDER BY id DESC LIMIT $2",
            0,
            limit,
        )
        .await
    }

    /// The newest rows of one kind, newest first, of all systems or of one.
    pub async fn events_of(&self, kind: &str, system: Option<&SystemId>, limit: u32) -> Result<Vec<Event>> {
        type Raw = (i64, i64, String, String, Option<String>, String);
        let rows: Vec<Raw> = sql::query_as(
            "SELECT id, at, actor, kind, system, data FROM events
             WHERE kind = $1 AND ($2 IS NULL OR system = $2) ORDER BY id DESC LIMIT $3",
        )
        .bind(kind)
        .bind(system.map(SystemId::as_str))
        .bind(i64::from(limit))
        .fetch_all(self.reader())
        .await?;
        events(rows)
    }

    async fn read_events(&self, sql: &'static str, after: i64, limit: u32) -> Result<Vec<Event>> {
        type Raw = (i64, i64, String, String, Option<String>, String);
        let rows: Vec<Raw> =
            sql::query_as(sql).bind(after).bind(i64::from(limit)).fetch_all(self.reader()).await?;
        events(rows)
    }
}

fn events(rows: Vec<(i64, i64, String, String, Option<String>, String)>) -> Result<Vec<Event>> {
    rows.into_iter()
        .map(|(id, at, actor, kind, system, data)| {
            Ok(Event {
                id: unsigned(id),
                at: time(at)?,
                actor,
                kind,
                system: system.as_deref().map(system_id).transpose()?,
                data: from_json(&data, "event")?,
            })
        })
        .collect()
}
