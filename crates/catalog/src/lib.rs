//! The control database: what is protected, what ran, what can be restored, what is wrong, who was told.
//!
//! **In** flow the register of departmental systems, the facts of each run, restore points in the
//! receiver's order, the vault's signed reports, findings, and notices that are owed. **Out** come typed
//! rows, claims on jobs, alarms that opened or closed, and one file ([`Catalog::export`]) from which an
//! empty machine gets everything back ([`Catalog::import`]).
//!
//! It lies in an SQLite file on one machine, or in PostgreSQL that several servers share ([`Database`]).
//!
//! **What can go wrong:** a second server on the same file (refused by name, [`CatalogError::SecondServer`]);
//! a PostgreSQL that is away ([`CatalogError::Away`]; nothing that was committed is lost, and the same calls
//! work again when it is back); a server that died or froze in the middle of a job (its lease ends in
//! accumulated time, and another takes the job over with the next epoch, [`Catalog::take_over`]); a worker that lost its job and still writes (every write of a job carries owner and epoch and is
//! compared, [`CatalogError::LeaseLost`]); a wall clock that jumps (recorded, and removals stop until a
//! person confirms the time, [`Catalog::suspended`]); a full disk or a damaged file (typed, and nothing
//! that was committed is lost: WAL with `synchronous=FULL`).
//!
//! Two times are kept. The *wall* time is for people. The *age* is the receiver's accumulated running time,
//! made from the boot clock, which only grows; leases and the age of restore points rest on it.
//!
//! **Invariant:** no SQL leaves this crate. Numbers are handed out once and never reused. Secrets are stored
//! sealed; this crate cannot open them.

mod alarm;
mod beat;
mod claim;
mod codec;
mod database;
mod error;
mod event;
mod guard;
mod lease;
mod outbox;
mod point;
mod pool;
mod result;
mod run;
mod secret;
mod sql;
mod system;
mod time;
mod transfer;
mod window;

use std::sync::Arc;

use kuramori_model::clock::Clock;

pub use crate::{
    alarm::{Alarm, AlarmChanges},
    beat::Heartbeat,
    claim::{Claim, End, Pulse},
    database::Database,
    error::CatalogError,
    event::Event,
    lease::Lease,
    outbox::{Owed, Sendable},
    point::{NewPoint, Place, Point, VaultPoint, Verdict},
    run::{Enqueued, NewRun, Progress, Reason, Run, RunFilter, RunKind, RunState},
    secret::SecretInfo,
    system::{Registered, System, Writer},
    time::{Jump, JumpKind, Stamp},
    transfer::Exported,
    window::{VaultReport, Window},
};
use crate::{
    guard::Guard,
    pool::Pool,
    sql::{On, Transaction},
};

/// What every function here returns.
pub type Result<T> = std::result::Result<T, CatalogError>;

/// The open control database. Cheap to clone; the last clone lets go of the file.
#[derive(Debug, Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Pool,
    clock: Arc<dyn Clock>,
    boot_id: String,
    database: Database,
    // Last, so that the file is closed before the next server may open it.
    _guard: Option<Guard>,
}

impl Catalog {
    /// Opens the catalog, creating and migrating it as needed. A file is held alone; a PostgreSQL database is
    /// shared with the hospital's other servers.
    pub async fn open(database: impl Into<Database>, clock: Arc<dyn Clock>) -> Result<Self> {
        let boot_id = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::open_as_booted(database, clock, boot_id.trim()).await
    }

    /// As [`open`](Self::open), with a given name of this boot: for simulations that reboot.
    pub async fn open_as_booted(
        database: impl Into<Database>,
        clock: Arc<dyn Clock>,
        boot_id: &str,
    ) -> Result<Self> {
        let database = database.into();
        let guard = match &database {
            Database::File(path) => Some(Guard::take(path)?),
            Database::Server { .. } => None,
        };
        let pool = Pool::open(&database).await?;
        let inner = Inner { pool, clock, boot_id: boot_id.to_owned(), database, _guard: guard };
        let catalog = Self { inner: Arc::new(inner) };
        catalog.tick().await?;
        catalog.move_results().await?;
        Ok(catalog)
    }

    /// Where the database lies.
    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    /// Whether other servers may work with it at this moment.
    pub fn is_shared(&self) -> bool {
        self.inner.database.is_shared()
    }

    /// Closes all connections. Without it the file is closed when the last clone goes.
    pub async fn close(self) {
        self.inner.pool.close().await;
    }

    /// Reads a setting of the platform as JSON; none if it was never set.
    pub async fn setting<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let text: Option<String> = crate::sql::query_scalar("SELECT value FROM settings WHERE name = $1")
            .bind(name)
            .fetch_optional(self.reader())
            .await?;
        text.map(|text| codec::from_json(&text, "setting")).transpose()
    }

    /// Writes a setting of the platform as JSON.
    pub async fn set_setting<T: serde::Serialize + Sync>(&self, name: &str, value: &T) -> Result<()> {
        let text = codec::to_json(value)?;
        crate::sql::query(
            "INSERT INTO settings (name, value) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(name)
        .bind(text)
        .execute(self.writer())
        .await?;
        Ok(())
    }

    fn reader(&self) -> On<'_> {
        self.inner.pool.reader()
    }

    fn writer(&self) -> On<'_> {
        self.inner.pool.writer()
    }

    async fn begin(&self) -> Result<Transaction> {
        self.inner.pool.begin().await
    }
}
