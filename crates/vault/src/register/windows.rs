//! Windows and the day's budget.

use kuramori_model::ids::WindowId;
use serde::Serialize;
use sqlx::{Row, sqlite::SqliteRow};

use super::{Register, Time, signed, unsigned};
use crate::error::Result;

/// One window as the vault keeps it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WindowRow {
    /// Its number.
    pub window: WindowId,
    /// `pull`, `restore` or `seed`.
    pub purpose: String,
    /// Wall clock at the opening.
    pub opened: String,
    /// Seconds of open path as commanded; none while it is open or if this process died.
    pub seconds: Option<f64>,
    /// Bytes that were taken or sent.
    pub bytes: u64,
    /// Whether closed was proven; none while unknown.
    pub verified: Option<bool>,
    /// Everything else, as JSON: the gate's own record and what was done.
    pub record: serde_json::Value,
}

impl Register {
    /// The number of the next window.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn next_window(&self, above: u64) -> Result<WindowId> {
        let newest: i64 = self.run(async |db| {
            sqlx::query_scalar("select coalesce(max(window), 0) from windows").fetch_one(db).await
        })?;
        Ok(WindowId(unsigned(newest).max(above).saturating_add(1)))
    }

    /// Takes note of a window *before* it is opened: without this row nothing opens.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn opening(&self, window: WindowId, purpose: &str, now: &Time) -> Result<()> {
        self.run(async |db| {
            sqlx::query("insert into windows (window, purpose, opened, opened_s) values (?, ?, ?, ?)")
                .bind(signed(window.0))
                .bind(purpose)
                .bind(now.wall.to_string())
                .bind(signed(now.accumulated_s))
                .execute(db)
                .await?;
            Ok(())
        })
    }

    /// Takes note of how it ended.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn closed(
        &self,
        window: WindowId,
        seconds: f64,
        bytes: u64,
        verified: bool,
        record: &serde_json::Value,
    ) -> Result<()> {
        self.run(async |db| {
            sqlx::query(
                "update windows set seconds = ?2, bytes = ?3, verified = ?4, record = ?5 where window = ?1",
            )
            .bind(signed(window.0))
            .bind(seconds)
            .bind(signed(bytes))
            .bind(verified)
            .bind(record.to_string())
            .execute(db)
            .await?;
            Ok(())
        })
    }

    /// The newest windows, newest first.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn windows(&self, most: u32) -> Result<Vec<WindowRow>> {
        self.run(async |db| {
            let rows = sqlx::query("select * from windows order by window desc limit ?")
                .bind(most)
                .fetch_all(db)
                .await?;
            rows.iter().map(window).collect()
        })
    }

    /// Seconds of open path within the last 24 hours of accumulated time. A window whose end nobody recorded
    /// counts with `unknown` seconds.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn used_today(&self, now: &Time, unknown: f64) -> Result<f64> {
        self.run(async |db| {
            sqlx::query_scalar(
                "select coalesce(sum(coalesce(seconds, ?2)), 0.0) from windows where opened_s > ?1 and purpose <> 'seed'",
            )
            .bind(signed(now.accumulated_s) - 86_400)
            .bind(unknown)
            .fetch_one(db)
            .await
        })
    }
}

fn window(row: &SqliteRow) -> sqlx::Result<WindowRow> {
    let record: String = row.try_get("record")?;
    Ok(WindowRow {
        window: WindowId(unsigned(row.try_get("window")?)),
        purpose: row.try_get("purpose")?,
        opened: row.try_get("opened")?,
        seconds: row.try_get("seconds")?,
        bytes: unsigned(row.try_get("bytes")?),
        verified: row.try_get("verified")?,
        record: serde_json::from_str(&record).unwrap_or_default(),
    })
}
