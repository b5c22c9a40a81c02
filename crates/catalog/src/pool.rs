//! The connections. One variant per engine.
//!
//! On both engines one transaction that writes runs at a time, so that the rooms above need to be right only
//! once: SQLite has one writing connection, so that transactions queue up here and not in the file's lock;
//! PostgreSQL takes an advisory lock that all servers of a hospital share. A few readers see a consistent
//! state meanwhile.

use std::time::Duration;

use sqlx::{
    PgPool, SqlSafeStr, SqlStr, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    CatalogError, Database, Result,
    sql::{On, Transaction},
};

/// A migration's number, name, and text for each engine. What was released is never changed: the engines
/// keep the SHA-384 of each text that they ran.
type Step = (i64, &'static str, &'static str, &'static str);

macro_rules! step {
    ($number:literal, $name:literal, $file:literal) => {
        (
            $number,
            $name,
            include_str!(concat!("../migrations/sqlite/", $file)),
            include_str!(concat!("../migrations/postgres/", $file)),
        )
    };
}

const STEPS: [Step; 3] = [
    step!(1, "catalog", "0001_catalog.sql"),
    step!(2, "servers", "0002_servers.sql"),
    step!(3, "results", "0003_results.sql"),
];

/// The same number for every server of every version: "kuramori".
const WRITER: &str = "SELECT pg_advisory_xact_lock(7743220897106850409)";
/// How long to wait for a connection before the database counts as away.
const PATIENCE: Duration = Duration::from_secs(5);
/// PostgreSQL ends what takes longer: a statement, the wait for a lock, and the transaction of a server that
/// froze in the middle and would otherwise hold up all others.
const LIMITS: [(&str, &str); 3] =
    [("statement_timeout", "30s"), ("lock_timeout", "25s"), ("idle_in_transaction_session_timeout", "10s")];

#[derive(Debug)]
pub(crate) enum Pool {
    Sqlite { writer: SqlitePool, reader: SqlitePool },
    Postgres(PgPool),
}

impl Pool {
    pub(crate) async fn open(database: &Database) -> Result<Self> {
        let pool = match database {
            Database::File(path) => Self::sqlite(path).await,
            Database::Server { options, .. } => Self::postgres(options.as_ref().clone()).await,
        };
        pool.map_err(|error| error.opening(database))
    }

    async fn sqlite(path: &std::path::Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        migrator(|(_, _, sqlite, _)| sqlite).run(&writer).await.map_err(CatalogError::migrating)?;
        let reader = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await?;
        Ok(Self::Sqlite { writer, reader })
    }

    async fn postgres(options: PgConnectOptions) -> Result<Self> {
        let options = options.application_name("kuramori").options(LIMITS);
        let pool = PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(PATIENCE)
            .test_before_acquire(true)
            .connect_with(options)
            .await?;
        // The migrator takes a lock of its own: two servers may start at the same moment.
        migrator(|(_, _, _, postgres)| postgres).run(&pool).await.map_err(CatalogError::migrating)?;
        Ok(Self::Postgres(pool))
    }

    /// Begins a transaction that may write; waits until no other one does.
    pub(crate) async fn begin(&self) -> Result<Transaction> {
        match self {
            Self::Sqlite { writer, .. } => Ok(Transaction::Sqlite(writer.begin().await?)),
            Self::Postgres(pool) => {
                let mut tx = pool.begin().await?;
                sqlx::query(WRITER).execute(&mut *tx).await?;
                Ok(Transaction::Postgres(tx))
            }
        }
    }

    /// Begins a transaction that only reads and sees one state however long it takes.
    pub(crate) async fn look(&self) -> Result<Transaction> {
        match self {
            Self::Sqlite { reader, .. } => Ok(Transaction::Sqlite(reader.begin().await?)),
            Self::Postgres(pool) => Ok(Transaction::Postgres(
                pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?,
            )),
        }
    }

    /// For one statement that writes.
    pub(crate) fn writer(&self) -> On<'_> {
        match self {
            Self::Sqlite { writer, .. } => On::Sqlite(writer),
            Self::Postgres(pool) => On::Postgres(pool),
        }
    }

    /// For one statement that reads.
    pub(crate) fn reader(&self) -> On<'_> {
        match self {
            Self::Sqlite { reader, .. } => On::Sqlite(reader),
            Self::Postgres(pool) => On::Postgres(pool),
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite { writer, reader } => {
                reader.close().await;
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// The migrations of one engine.
fn migrator(text: impl Fn(Step) -> &'static str) -> Migrator {
    let migration = |step: Step| {
        let sql: SqlStr = text(step).into_sql_str();
        Migration::new(step.0, step.1.into(), MigrationType::Simple, sql, false)
    };
    Migrator::with_migrations(STEPS.into_iter().map(migration).collect())
}

/// The newest migration that this program knows.
pub(crate) fn newest_migration() -> i64 {
    STEPS.iter().map(|step| step.0).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_step_that_lies_there_is_taken_by_both_engines() {
        for engine in ["sqlite", "postgres"] {
            let folder = format!("{}/migrations/{engine}", env!("CARGO_MANIFEST_DIR"));
            let there = fs_err::read_dir(folder).map_or(0, Iterator::count);
            assert_eq!(super::STEPS.len(), there, "add the new file of {engine} to STEPS");
        }
    }
}
