//! What the vault's signed reports told: windows of the gate and the reports themselves.

use std::time::Duration;

use jiff::Timestamp;
use kuramori_model::ids::WindowId;
use serde::Serialize;

use crate::{
    Catalog, CatalogError, Result,
    codec::{duration, from_json, length, maybe_time, micros, signed, time, to_json, unsigned},
    sql::{self, row},
};

/// One opening of the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Which vault.
    pub vault: String,
    /// The vault's number.
    pub id: WindowId,
    /// What it was for: `pull`, `restore`, `seed`, `test`.
    pub purpose: String,
    /// When it opened, by the vault.
    pub opened: Timestamp,
    /// When it was verified closed; none while open.
    pub closed: Option<Timestamp>,
    /// Exposure as commanded.
    pub commanded: Option<Duration>,
    /// Exposure as the actuators' read-back saw it.
    pub actuator: Option<Duration>,
    /// Exposure as the probe saw it.
    pub probe: Option<Duration>,
    /// Bytes that came in.
    pub bytes: u64,
    /// Whether closing was verified; none while unknown.
    pub closed_verified: Option<bool>,
    /// How it ended: `complete`, `interrupted`, `failed`.
    pub outcome: String,
    /// The rest of the report's entry.
    pub detail: serde_json::Value,
}

/// One signed report of a vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VaultReport {
    /// Which vault.
    pub vault: String,
    /// Its number; grows with each report.
    pub number: u64,
    /// When the vault made it, by the vault.
    pub made: Timestamp,
    /// When it reached us.
    pub received: Timestamp,
    /// Whether its signature was good.
    pub verified: bool,
    /// What it says.
    pub body: serde_json::Value,
}

row! {
    struct Row {
        vault: String,
        id: i64,
        purpose: String,
        opened_at: i64,
        closed_at: Option<i64>,
        commanded_us: Option<i64>,
        actuator_us: Option<i64>,
        probe_us: Option<i64>,
        bytes: i64,
        closed_verified: Option<i64>,
        outcome: String,
        detail: String,
    }
}

impl TryFrom<Row> for Window {
    type Error = CatalogError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            vault: row.vault,
            id: WindowId(unsigned(row.id)),
            purpose: row.purpose,
            opened: time(row.opened_at)?,
            closed: maybe_time(row.closed_at)?,
            commanded: row.commanded_us.map(duration),
            actuator: row.actuator_us.map(duration),
            probe: row.probe_us.map(duration),
            bytes: unsigned(row.bytes),
            closed_verified: row.closed_verified.map(|n| n != 0),
            outcome: row.outcome,
            detail: from_json(&row.detail, "window")?,
        })
    }
}

impl Catalog {
    /// Records a window; a later report of the same window replaces it.
    pub async fn record_window(&self, window: &Window) -> Result<()> {
        sql::query(
            "INSERT INTO windows (vault, id, purpose, opened_at, closed_at, commanded_us, actuator_us,
                                  probe_us, bytes, closed_verified, outcome, detail)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (vault, id) DO UPDATE SET closed_at = excluded.closed_at,
                commanded_us = excluded.commanded_us, actuator_us = excluded.actuator_us,
                probe_us = excluded.probe_us, bytes = excluded.bytes,
                closed_verified = excluded.closed_verified, outcome = excluded.outcome,
                detail = excluded.detail",
        )
        .bind(&window.vault)
        .bind(signed(window.id.0))
        .bind(&window.purpose)
        .bind(micros(window.opened))
        .bind(window.closed.map(micros))
        .bind(window.commanded.map(length))
        .bind(window.actuator.map(length))
        .bind(window.probe.map(length))
        .bind(signed(window.bytes))
        .bind(window.closed_verified.map(i64::from))
        .bind(&window.outcome)
        .bind(to_json(&window.detail)?)
        .execute(self.writer())
        .await?;
        Ok(())
    }

    /// Windows, newest first.
    pub async fn windows(&self, vault: Option<&str>, limit: u32) -> Result<Vec<Window>> {
        let rows: Vec<Row> = sql::query_as(
            "SELECT * FROM windows WHERE ($1 IS NULL OR vault = $1) ORDER BY opened_at DESC, id DESC LIMIT $2",
        )
        .bind(vault)
        .bind(i64::from(limit))
        .fetch_all(self.reader())
        .await?;
        rows.into_iter().map(Window::try_from).collect()
    }

    /// Records a report as it came. The same number twice is kept once; gives whether it was new.
    pub async fn record_report(&self, report: &VaultReport) -> Result<bool> {
        let done = sql::query(
            "INSERT INTO reports (vault, number, made_at, received_at, verified, body)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (vault, number) DO NOTHING",
        )
        .bind(&report.vault)
        .bind(signed(report.number))
        .bind(micros(report.made))
        .bind(micros(report.received))
        .bind(i64::from(report.verified))
        .bind(to_json(&report.body)?)
        .execute(self.writer())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// The newest report of a vault whose signature was good.
    pub async fn newest_report(&self, vault: &str) -> Result<Option<VaultReport>> {
        type Raw = (String, i64, i64, i64, i64, String);
        let row: Option<Raw> = sql::query_as(
            "SELECT vault, number, made_at, received_at, verified, body FROM reports
             WHERE vault = $1 AND verified = 1 ORDER BY number DESC LIMIT 1",
        )
        .bind(vault)
        .fetch_optional(self.reader())
        .await?;
        row.map(|(vault, number, made, received, verified, body)| {
            Ok(VaultReport {
                vault,
                number: unsigned(number),
                made: time(made)?,
                received: time(received)?,
                verified: verified != 0,
                body: from_json(&body, "vault report")?,
            })
        })
        .transpose()
    }
}
