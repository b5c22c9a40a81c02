//! The vault's own register: one SQLite file that nothing else shares, and all of the vault's SQL.
//!
//! **In** go facts of the vault's own: names seen, files taken, packs proven, points with *our* number and
//! time, windows, alarms. What the primary says about itself is only ever stored as text for people.
//! **Out** come the next step and the plan of a removal. What can go wrong: a second process (refused by a
//! lock beside the file), a crash between a file and its row ([`Register::reconcile`] takes the folder as the
//! truth about what is there, the register as the truth about what was proven).
//!
//! Calls block; they must not be made from inside an async runtime.

mod alarms;
mod approvals;
mod files;
mod points;
mod time;
mod verdicts;
mod windows;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::fs::FlockOperation;
use sqlx::{
    ConnectOptions, Connection, SqlSafeStr, SqliteConnection,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

pub use alarms::Alarm;
pub use approvals::{ApprovalRow, Code, Officer, RequestRow, RequestState};
pub use files::{FileState, Known, RepositoryRow};
pub use points::{Point, PointState};
pub use time::Time;
pub use windows::WindowRow;

use crate::error::{Error, Result};

/// The steps of the register's form; what was released is never changed, the file keeps each text's SHA-384.
const STEPS: [(i64, &str, &str); 4] = [
    (1, "register", include_str!("../migrations/0001_register.sql")),
    (2, "confirmed", include_str!("../migrations/0002_confirmed.sql")),
    (3, "approvals", include_str!("../migrations/0003_approvals.sql")),
    (4, "listed", include_str!("../migrations/0004_listed.sql")),
];

fn migrations() -> Migrator {
    let step = |(number, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(number, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(STEPS.into_iter().map(step).collect())
}

/// The open register.
#[derive(Debug)]
pub struct Register {
    runtime: tokio::runtime::Runtime,
    connection: Mutex<Option<SqliteConnection>>,
    _guard: Option<fs_err::File>,
}

impl Register {
    /// Opens the register for the one process that may write it.
    ///
    /// # Errors
    /// [`Error::Busy`] if another process has it.
    pub fn open(state: &Path) -> Result<Self> {
        fs_err::create_dir_all(state).map_err(Error::io("make the vault's state folder"))?;
        let path = state.join("register.lock");
        let guard = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let guard = guard.map_err(Error::io("open the register's lock"))?;
        rustix::fs::flock(guard.file(), FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Error::Busy(state.to_owned()))?;
        Self::connect(&file(state), false, Some(guard))
    }

    /// Opens the register to look at it, beside the process that writes.
    ///
    /// # Errors
    /// [`Error::Register`] if there is none.
    pub fn look(state: &Path) -> Result<Self> {
        Self::connect(&file(state), true, None)
    }

    fn connect(file: &Path, read_only: bool, guard: Option<fs_err::File>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(Error::io("start the register"))?;
        let mut options = SqliteConnectOptions::new()
            .filename(file)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .read_only(read_only)
            .create_if_missing(!read_only);
        if !read_only {
            options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        }
        let connection = runtime.block_on(async {
            let mut connection = options.connect().await?;
            if !read_only {
                migrations().run(&mut connection).await?;
            }
            Ok::<_, Error>(connection)
        })?;
        Ok(Self { runtime, connection: Mutex::new(Some(connection)), _guard: guard })
    }

    /// Runs one piece of work on the connection.
    fn run<T>(&self, work: impl AsyncFnOnce(&mut SqliteConnection) -> sqlx::Result<T>) -> Result<T> {
        let mut guard = self.lock();
        let connection = guard.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        Ok(self.runtime.block_on(work(connection))?)
    }

    /// Runs one piece of work as a whole or not at all.
    fn transact<T>(&self, work: impl AsyncFnOnce(&mut SqliteConnection) -> sqlx::Result<T>) -> Result<T> {
        self.run(async |connection| {
            let mut transaction = connection.begin().await?;
            let done = work(&mut transaction).await?;
            transaction.commit().await?;
            Ok(done)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<SqliteConnection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn meta(&self, key: &str) -> Result<Option<String>> {
        self.run(async |db| {
            sqlx::query_scalar("select value from meta where key = ?").bind(key).fetch_optional(db).await
        })
    }

    pub(crate) fn set_meta(&self, key: &str, value: &str) -> Result<()> {
        self.run(async |db| {
            sqlx::query(
                "insert into meta (key, value) values (?1, ?2) on conflict (key) do update set value = ?2",
            )
            .bind(key)
            .bind(value)
            .execute(db)
            .await
            .map(drop)
        })
    }
}

impl Drop for Register {
    fn drop(&mut self) {
        if let Some(connection) = self.lock().take() {
            // Nothing is lost if this fails: every commit is already durable.
            let _ = self.runtime.block_on(connection.close());
        }
    }
}

fn file(state: &Path) -> PathBuf {
    state.join("register.sqlite")
}

/// SQLite's integers are signed; no size or time of ours comes near the end.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn id(bytes: Vec<u8>) -> sqlx::Result<kuramori_repo::store::FileId> {
    bytes
        .try_into()
        .map(kuramori_repo::store::FileId)
        .map_err(|_| sqlx::Error::Decode("an id has 32 bytes".into()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_step_that_lies_there_is_taken() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let there = fs_err::read_dir(folder).map_or(0, Iterator::count);
        assert_eq!(super::STEPS.len(), there, "add the new file to STEPS");
    }
}
