//! How a system is brought up and how one sees that it works. Written once by the person who knows the
//! system (and its vendor), kept in the catalog, printed in the runbook, used by every drill.

use std::path::PathBuf;

use kuramori_model::units::Bytes;
use serde::{Deserialize, Serialize};

use crate::{DrillError, Result};

/// A system's recovery profile. Everything has a default, so that a drill runs without any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// Systems that have to be back before this one: `directory`.
    pub depends_on: Vec<String>,
    /// The folder where its data lives in production; `restore run --original` goes there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<PathBuf>,
    /// What runs on the data; by default what its source's kind suggests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// Days between two drills.
    pub every_days: u32,
    /// Days after its due time from which a drill that did not happen is an alarm.
    pub grace_days: u32,
    /// Most memory that a drill of it may take.
    pub memory: Bytes,
    /// Seconds that its service may take to answer.
    pub patience_s: u64,
    /// Files and folders (below the restored folder) that must be there.
    pub must_exist: Vec<String>,
    /// Files in the restore point that list SHA-256 sums, as `sha256sum` writes them.
    pub sums: Vec<String>,
    /// Questions to its database.
    pub query: Vec<Query>,
    /// Programs that look at the restored data; exit code 0 is good.
    pub command: Vec<Command>,
    /// How a person brings it up by hand, line by line, for the runbook.
    pub start: Vec<String>,
    /// What else a person must know, for the runbook.
    pub notes: String,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            depends_on: Vec::new(),
            original: None,
            service: None,
            every_days: 7,
            grace_days: 3,
            memory: Bytes(2 << 30),
            patience_s: 300,
            must_exist: Vec::new(),
            sums: Vec::new(),
            query: Vec::new(),
            command: Vec::new(),
            start: Vec::new(),
            notes: String::new(),
        }
    }
}

/// What runs on the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Service {
    /// Files alone: compared with the restore point.
    Files,
    /// A share: compared, then served by Samba and read through it.
    Share,
    /// A PostgreSQL cluster from a base backup.
    Postgres {
        /// Its administrator.
        #[serde(default = "postgres")]
        superuser: String,
    },
    /// A dump of a PostgreSQL database, loaded into an empty server.
    PostgresDump {
        /// The dump's file below the restored folder; `*` matches, the newest name is taken.
        file: String,
        /// The database that it is loaded into.
        #[serde(default = "postgres")]
        database: String,
    },
    /// A dump of MariaDB or MySQL, loaded into an empty server.
    MariadbDump {
        /// The dump's file below the restored folder; `*` matches, the newest name is taken.
        #[serde(default = "dump_sql")]
        file: String,
    },
    /// An Orthanc archive with its index.
    Orthanc {
        /// The folder with `index` and the files, below the restored folder.
        #[serde(default)]
        folder: String,
    },
}

fn dump_sql() -> String {
    "dump.sql".to_owned()
}

fn postgres() -> String {
    "postgres".to_owned()
}

/// A question to the system's database and what its answer must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// In which database.
    pub database: String,
    /// One SQL question with one row as its answer.
    pub sql: String,
    /// The exact answer (columns joined by `|`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<String>,
    /// The least number that the answer must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<i64>,
    /// The answer must not be smaller than in the last drill that passed: for what only grows.
    #[serde(default)]
    pub grows: bool,
}

/// A program that judges the restored data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Its name in the evidence.
    pub name: String,
    /// Program and arguments; `{data}` is the restored folder.
    pub run: Vec<String>,
}

impl Profile {
    /// Checks what cannot work.
    ///
    /// # Errors
    /// [`DrillError::Profile`] with the reason.
    pub fn check(&self) -> Result<()> {
        let bad = |why: &str| Err(DrillError::Profile(why.to_owned()));
        if self.every_days == 0 {
            return bad("`every_days` must be at least 1");
        }
        if self.memory.0 < 64 << 20 {
            return bad("`memory` must be at least 64 MiB");
        }
        if self.command.iter().any(|command| command.run.is_empty()) {
            return bad("a command without a program");
        }
        let leaves = |path: &String| path.starts_with('/') || path.split('/').any(|part| part == "..");
        if self.must_exist.iter().chain(&self.sums).any(leaves) {
            return bad("a path must stay below the restored folder");
        }
        if let Some(
            Service::PostgresDump { file: path, .. }
            | Service::MariadbDump { file: path }
            | Service::Orthanc { folder: path },
        ) = &self.service
            && leaves(path)
        {
            return bad("a path must stay below the restored folder");
        }
        if let Some(original) = &self.original
            && !original.is_absolute()
        {
            return bad("`original` must be an absolute path");
        }
        Ok(())
    }

    /// What runs on the data of a source of this kind, if the profile does not say.
    pub fn service_for(&self, source_kind: Option<&str>) -> Service {
        self.service.clone().unwrap_or_else(|| match source_kind {
            Some("mariadb") => Service::MariadbDump { file: dump_sql() },
            Some("postgres") => Service::Postgres { superuser: postgres() },
            _ => Service::Files,
        })
    }
}
