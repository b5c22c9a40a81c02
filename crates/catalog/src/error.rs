//! What can go wrong with the catalog, by stable codes.

use std::path::PathBuf;

use jiff::Timestamp;
use kuramori_judge::schedule::BadSchedule;
use kuramori_model::{
    fault::{Exit, Fault, Kind},
    ids::RunId,
};

use crate::Database;

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
    /// The URL of the catalog is not one.
    #[error("`{url}` is not a catalog's URL: {why}")]
    BadUrl {
        /// As given, without a password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The database does not answer; what was committed is safe, and the same call works when it is back.
    #[error("the catalog's database does not answer")]
    Away(#[source] sqlx::Error),
    /// The database could not be opened.
    #[error("the catalog `{name}` cannot be opened")]
    Open {
        /// The database.
        name: String,
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
    #[error("the catalog `{name}` cannot be brought to this version")]
    Migrate {
        /// The database.
        name: String,
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
    #[error("the catalog `{name}` already holds {systems} systems; an import needs an empty one")]
    NotEmpty {
        /// The database.
        name: String,
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

/// What the engines' codes mean to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Full,
    Corrupt,
    Away,
    Busy,
    Other,
}

fn meaning(error: &sqlx::Error) -> Meaning {
    let Some(database) = error.as_database_error() else {
        return match error {
            // `Protocol` is also a connection that was cut in the middle of an answer.
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed => Meaning::Away,
            _ => Meaning::Other,
        };
    };
    let code = database.code().unwrap_or_default();
    if database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
        // SQLSTATE, https://www.postgresql.org/docs/15/errcodes-appendix.html
        return match code.as_ref() {
            "53100" => Meaning::Full,
            "XX001" | "XX002" => Meaning::Corrupt,
            // Too many connections, shut down, crashed, starting up, transaction ended for idling.
            "53300" | "57P01" | "57P02" | "57P03" | "25P03" => Meaning::Away,
            // Serialization, deadlock, lock not available, statement took too long.
            "40001" | "40P01" | "55P03" | "57014" => Meaning::Busy,
            code if code.starts_with("08") => Meaning::Away,
            _ => Meaning::Other,
        };
    }
    match code.parse::<i64>().map(|code| code & 0xff) {
        Ok(FULL) => Meaning::Full,
        Ok(CORRUPT | NOT_A_DATABASE) => Meaning::Corrupt,
        Ok(BUSY | IO) => Meaning::Busy,
        _ => Meaning::Other,
    }
}

impl From<sqlx::Error> for CatalogError {
    fn from(error: sqlx::Error) -> Self {
        match meaning(&error) {
            Meaning::Full => Self::Full(error),
            Meaning::Corrupt => Self::Damaged { what: "database", why: error.to_string() },
            Meaning::Away => Self::Away(error),
            Meaning::Busy | Meaning::Other => Self::Database(error),
        }
    }
}

impl CatalogError {
    /// Names the database in an error of its opening.
    pub(crate) fn opening(self, database: &Database) -> Self {
        let name = database.to_string();
        match self {
            Self::Database(source) | Self::Away(source) => Self::Open { name, source },
            Self::Damaged { what, why } => Self::Damaged { what, why: format!("{why} (`{name}`)") },
            Self::Newer { found, known, .. } => Self::Newer { name, found, known },
            Self::Migrate { source, .. } => Self::Migrate { name, source },
            other => other,
        }
    }

    pub(crate) fn migrating(source: sqlx::migrate::MigrateError) -> Self {
        match source {
            sqlx::migrate::MigrateError::VersionMissing(found) => {
                Self::Newer { name: String::new(), found, known: crate::pool::newest_migration() }
            }
            sqlx::migrate::MigrateError::Execute(error) => Self::from(error),
            source => Self::Migrate { name: String::new(), source },
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
            Self::BadUrl { .. } => "catalog.bad-url",
            Self::Away(_) => "catalog.away",
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
            Self::Database(error) => match meaning(error) {
                Meaning::Busy => Kind::Retry,
                _ if error.as_database_error().is_none() => Kind::Retry,
                _ => Kind::Bug,
            },
            Self::Open { source, .. } if meaning(source) == Meaning::Away => Kind::Retry,
            Self::Damaged { .. } | Self::BadExport { .. } => Kind::Damaged,
            Self::Away(_) | Self::Changed { .. } | Self::LeaseLost { .. } => Kind::Retry,
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
            Self::Away(_) => {
                "start the database; everything recorded before is safe, and the server goes on by itself"
            }
            Self::Open { source, .. } if meaning(source) == Meaning::Away => {
                "see that the database runs and that this machine reaches it, then start again"
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
