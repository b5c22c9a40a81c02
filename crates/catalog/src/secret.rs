//! Sealed blobs by name: repository passwords, logins, keys. Sealed before they come here.

use jiff::Timestamp;

use crate::{
    Catalog, CatalogError, Result,
    codec::{micros, time},
    sql,
};

/// What is known of a secret without opening it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SecretInfo {
    /// Its name, such as `repository/billing`.
    pub name: String,
    /// When it was stored.
    pub changed_at: Timestamp,
}

impl Catalog {
    /// Stores or replaces a sealed blob.
    pub async fn put_secret(&self, name: &str, sealed: &[u8]) -> Result<()> {
        sql::query(
            "INSERT INTO secrets (name, sealed, changed_at) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET sealed = excluded.sealed, changed_at = excluded.changed_at",
        )
        .bind(name)
        .bind(sealed)
        .bind(micros(self.inner.clock.now()))
        .execute(self.writer())
        .await?;
        Ok(())
    }

    /// The sealed blob.
    pub async fn secret(&self, name: &str) -> Result<Vec<u8>> {
        sql::query_scalar("SELECT sealed FROM secrets WHERE name = $1")
            .bind(name)
            .fetch_optional(self.reader())
            .await?
            .ok_or_else(|| CatalogError::no_such("secret", name))
    }

    /// Names only.
    pub async fn secrets(&self) -> Result<Vec<SecretInfo>> {
        let rows: Vec<(String, i64)> = sql::query_as("SELECT name, changed_at FROM secrets ORDER BY name")
            .fetch_all(self.reader())
            .await?;
        rows.into_iter().map(|(name, at)| Ok(SecretInfo { name, changed_at: time(at)? })).collect()
    }

    /// Forgets a secret; gives whether there was one.
    pub async fn remove_secret(&self, name: &str) -> Result<bool> {
        let done =
            sql::query("DELETE FROM secrets WHERE name = $1").bind(name).execute(self.writer()).await?;
        Ok(done.rows_affected() == 1)
    }
}
