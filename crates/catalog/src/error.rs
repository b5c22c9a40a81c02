//! What can go wrong with the catalog, by stable codes.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kuramori_judge::schedule::BadSchedule;
use kuramori_model::{
    fault::{Exit, Fault, Kind},
    ids::RunId,
};

/// Why the catalog could not do it.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Another server holds the file.
    #[error("the catalog `{}` is held by another server: process {pid} on host {host}", path.display())]
    SecondServer {
        /// The database.
        path: PathBuf,
        /// The holder's process id.
        pid: String,
        /// The holder's host.
        host: String,
    },
    /// The file could not be opened.
    #[error("the catalog `{}` cannot be opened", path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// The engine's words.
        #[source]
        source: sqlx::Error,
    },
    /// The file was written by a newer program.
    #[error("the catalog `{name}` was written by a newer Kuramori (its step {found}, ours {known})")]
    Newer {
        /// The database or export.
        name: String,
        /// Newest migration in it.
        found: i64,
        /// Newest migration that we know.
        known: i64,
    },
    /// A migration failed; nothing of it was kept.
    #[error("the catalog `{}` cannot be brought to this version", path.display())]
    Migrate {
        /// The database.
        path: PathBuf,
        /// The engine's words.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// The disk is full; the write was not kept.
    #[error("no space is left for the catalog")]
    Full(#[source] sqlx::Error),
    /// The engine failed.
    #[error("the catalog's database failed")]
    Database(#[source] sqlx::Error),
    /// A stored value makes no sense.
    #[error("the catalog holds a broken {what}: {why}")]
    Damaged {
        /// What kind of record.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// There is no such record.
    #[error("there is no {what} `{name}`")]
    NoSuch {
        /// What kind of record.
        what: &'static str,
        /// As asked for.
        name: String,
    },
    /// The name is taken.
    #[error("there is already a {what} `{name}`")]
    Exists {
        /// What kind of record.
        what: &'static str,
        /// As asked for.
        name: String,
    },
    /// Somebody else changed it meanwhile.
    #[error("the {what} `{name}` was changed by somebody else meanwhile")]
    Changed {
        /// What kind of record.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It still has restore points or running work.
    #[error("the system `{name}` cannot be removed: {why}")]
    InUse {
        /// The system.
        name: String,
        /// What holds it.
        why: String,
    },
    /// The job is no longer ours.
    #[error("{run} no longer belongs to `{owner}`: its lease ended and nothing was recorded")]
    LeaseLost {
        /// The run.
        run: RunId,
        /// Who tried to write.
        owner: String,
    },
    /// The schedule can never be followed.
    #[error("the schedule of `{name}` cannot be followed")]
    Schedule {
        /// The system.
        name: String,
        /// Why.
        #[source]
        source: BadSchedule,
    },
    /// The wall clock jumped and nobody confirmed it.
    #[error("removals are suspended: the clock jumped to {seen} where {expected} was expected")]
    Suspended {
        /// What the clock said.
        seen: Timestamp,
        /// What it should have said.
        expected: Timestamp,
    },
    /// Import works on an empty machine only.
    #[error("the catalog `{}` already holds {systems} systems; an import needs an empty one", path.display())]
    NotEmpty {
        /// The database.
        path: PathBuf,
        /// How many systems it holds.
        systems: i64,
    },
    /// The export file is not one.
    #[error("line {line} of the export `{}` is not what the catalog writes: {why}", path.display())]
    BadExport {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// A file could not be read or written.
    #[error("the catalog's file cannot be used")]
    Io(#[from] std::io::Error),
    /// A value could not be written as JSON.
    #[error("a value cannot be stored as JSON")]
    Json(#[source] serde_json::Error),
}

// SQLite's primary result codes, https://www.sqlite.org/rescode.html
const BUSY: i64 = 5;
const IO: i64 = 10;
const CORRUPT: i64 = 11;
const FULL: i64 = 13;
const NOT_A_DATABASE: i64 = 26;

fn result_code(error: &sqlx::Error) -> Option<i64> {
    let code: i64 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

impl From<sqlx::Error> for CatalogError {
    fn from(error: sqlx::Error) -> Self {
        match result_code(&error) {
            Some(FULL) => Self::Full(error),
            Some(CORRUPT | NOT_A_DATABASE) => Self::Damaged { what: "database file", why: error.to_string() },
            _ => Self::Database(error),
        }
    }
}

impl CatalogError {
    pub(crate) fn opening(path: &Path, source: sqlx::Error) -> Self {
        match Self::from(source) {
            Self::Database(source) => Self::Open { path: path.to_owned(), source },
            Self::Damaged { what, why } => {
                Self::Damaged { what, why: format!("{why} (`{}`)", path.display()) }
            }
            other => other,
        }
    }

    pub(crate) fn migrating(path: &Path, source: sqlx::migrate::MigrateError) -> Self {
        match source {
            sqlx::migrate::MigrateError::VersionMissing(found) => Self::Newer {
                name: path.display().to_string(),
                found,
                known: crate::pool::newest_migration(),
            },
            sqlx::migrate::MigrateError::Execute(error) => Self::opening(path, error),
            source => Self::Migrate { path: path.to_owned(), source },
        }
    }

    pub(crate) fn no_such(what: &'static str, name: &(impl ToString + ?Sized)) -> Self {
        Self::NoSuch { what, name: name.to_string() }
    }
}

impl Fault for CatalogError {
    fn code(&self) -> &'static str {
        match self {
            Self::SecondServer { .. } => "catalog.second-server",
            Self::Open { .. } => "catalog.cannot-open",
            Self::Newer { .. } => "catalog.newer",
            Self::Migrate { .. } => "catalog.cannot-migrate",
            Self::Full(_) => "catalog.disk-full",
            Self::Database(_) => "catalog.database",
            Self::Damaged { .. } => "catalog.damaged",
            Self::NoSuch { .. } => "catalog.no-such",
            Self::Exists { .. } => "catalog.exists",
            Self::Changed { .. } => "catalog.changed",
            Self::InUse { .. } => "catalog.in-use",
            Self::LeaseLost { .. } => "catalog.lease-lost",
            Self::Schedule { .. } => "catalog.bad-schedule",
            Self::Suspended { .. } => "catalog.time-suspended",
            Self::NotEmpty { .. } => "catalog.not-empty",
            Self::BadExport { .. } => "catalog.bad-export",
            Self::Io(_) => "catalog.file",
            Self::Json(_) => "catalog.json",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Database(error) => match result_code(error) {
                Some(BUSY | IO) => Kind::Retry,
                _ if error.as_database_error().is_none() => Kind::Retry,
                _ => Kind::Bug,
            },
            Self::Damaged { .. } | Self::BadExport { .. } => Kind::Damaged,
            Self::Changed { .. } | Self::LeaseLost { .. } => Kind::Retry,
            Self::Suspended { .. } => Kind::Refused,
            Self::Json(_) => Kind::Bug,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::SecondServer { pid, host, .. } => {
                return Some(format!(
                    "stop process {pid} on {host}, or give this server a catalog of its own"
                ));
            }
            Self::Newer { .. } => "install the newer version; going back is not possible",
            Self::Full(_) => "free some space; everything recorded before is safe",
            Self::Damaged { .. } => {
                "move the file away and run `kuramori server rebuild` from the vault's copy"
            }
            Self::Changed { .. } => "read it again and repeat the change",
            Self::Suspended { .. } => "check the server's time, then confirm it on the console",
            Self::NotEmpty { .. } => "move the old file away first; it is not overwritten",
            Self::BadExport { .. } => "take the export of an earlier restore point of `_control`",
            _ => return None,
        };
        Some(text.to_owned())
    }

    fn exit(&self) -> Exit {
        match self {
            Self::SecondServer { .. } => Exit::Locked,
            _ => match self.kind() {
                Kind::Retry | Kind::Fix => Exit::Fix,
                Kind::Refused => Exit::Refused,
                Kind::Damaged => Exit::Damaged,
                Kind::Bug => Exit::Unexpected,
            },
        }
    }
}
