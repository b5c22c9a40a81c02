//! Alarms that are still true, and those that were.

use kuramori_model::finding::Finding;
use serde::Serialize;

use super::{Register, Time};
use crate::error::Result;

/// Something that a person must hear, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// Tells it apart.
    pub key: String,
    /// What.
    pub finding: Finding,
    /// Since when, wall clock.
    pub since: String,
}

impl Register {
    /// Raises an alarm, or finds it raised already (then true stays false).
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn raise(&self, finding: &Finding, now: &Time) -> Result<bool> {
        let text = serde_json::to_string(finding).unwrap_or_default();
        self.run(async |db| {
            let done = sqlx::query(
                "insert into alarms (key, finding, since) values (?1, ?2, ?3) \
                 on conflict (key) do update set finding = ?2, since = ?3, cleared = null where cleared is not null",
            )
            .bind(finding.key())
            .bind(text)
            .bind(now.wall.to_string())
            .execute(db)
            .await?;
            Ok(done.rows_affected() == 1)
        })
    }

    /// Clears an alarm whose cause is gone. True if it was raised.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn clear(&self, key: &str, now: &Time) -> Result<bool> {
        self.run(async |db| {
            let done = sqlx::query("update alarms set cleared = ?2 where key = ?1 and cleared is null")
                .bind(key)
                .bind(now.wall.to_string())
                .execute(db)
                .await?;
            Ok(done.rows_affected() == 1)
        })
    }

    /// What is true now, oldest first.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn alarms(&self) -> Result<Vec<Alarm>> {
        self.run(async |db| {
            let rows: Vec<(String, String, String)> = sqlx::query_as(
                "select key, finding, since from alarms where cleared is null order by since, key",
            )
            .fetch_all(db)
            .await?;
            rows.into_iter()
                .map(|(key, finding, since)| {
                    let finding =
                        serde_json::from_str(&finding).map_err(|error| sqlx::Error::Decode(error.into()))?;
                    Ok(Alarm { key, finding, since })
                })
                .collect()
        })
    }
}
