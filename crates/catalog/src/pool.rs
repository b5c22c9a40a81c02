//! The connections. One variant per engine; SQLite has one writer, so that transactions queue up here and
//! not in the file's lock, and a few readers that see a consistent state while it writes.

use std::{path::Path, time::Duration};

use sqlx::{
    SqlitePool,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{CatalogError, Result};

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");

#[derive(Debug)]
pub(crate) enum Pool {
    Sqlite { writer: SqlitePool, reader: SqlitePool },
}

impl Pool {
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let bad = |source| CatalogError::opening(path, source);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let writer =
            SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(bad)?;
        SQLITE.run(&writer).await.map_err(|source| CatalogError::migrating(path, source))?;
        let reader = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(bad)?;
        Ok(Self::Sqlite { writer, reader })
    }

    pub(crate) fn writer(&self) -> &SqlitePool {
        let Self::Sqlite { writer, .. } = self;
        writer
    }

    pub(crate) fn reader(&self) -> &SqlitePool {
        let Self::Sqlite { reader, .. } = self;
        reader
    }

    pub(crate) async fn close(&self) {
        self.reader().close().await;
        self.writer().close().await;
    }
}

/// The newest migration that this program knows.
pub(crate) fn newest_migration() -> i64 {
    SQLITE.iter().map(|migration| migration.version).max().unwrap_or(0)
}
