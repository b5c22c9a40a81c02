//! Who may come in, and as what.

mod file;

use std::{collections::HashMap, fmt::Debug, sync::Arc};

use kuramori_model::units::Bytes;

pub use file::FileLogins;

use crate::{RepositoryName, password::PasswordHash};

/// Which repositories a login sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repositories {
    /// All, also those that come later.
    All,
    /// Only these.
    Listed(Vec<RepositoryName>),
}

impl Repositories {
    /// Whether this one is among them.
    pub fn contains(&self, repository: &RepositoryName) -> bool {
        match self {
            Self::All => true,
            Self::Listed(listed) => listed.contains(repository),
        }
    }
}

/// What a login is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A stock restic client that fills one repository and can take nothing away.
    Append {
        /// Its repository.
        repository: RepositoryName,
        /// Most that the repository may hold, in bytes on disk; `None`: what the disk holds.
        quota: Option<Bytes>,
    },
    /// The vault or the other site, which pull.
    Read {
        /// What it sees.
        repositories: Repositories,
    },
    /// The vault that pushes a restore into an empty receiver.
    Receive {
        /// What it may create.
        repositories: Repositories,
    },
}

/// One login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Its name: 1 to 64 visible ASCII characters without `:`.
    pub name: String,
    /// Its password's hash.
    pub password: PasswordHash,
    /// What it is for.
    pub role: Role,
}

/// Where logins come from.
pub trait Logins: Debug + Send + Sync {
    /// The login of this name. Called for every request on a network thread, so it answers from memory.
    fn find(&self, name: &str) -> Option<Arc<Login>>;

    /// Called about once a second on a thread that may block: looks whether the source has changed.
    /// `Ok(true)` if other logins are in force now. On an error the ones before stay in force.
    fn refresh(&self) -> Result<bool, crate::ServeError> {
        Ok(false)
    }
}

/// Logins that the caller gives.
#[derive(Debug, Default)]
pub struct MemoryLogins(HashMap<String, Arc<Login>>);

impl MemoryLogins {
    /// Takes the logins over; of two with one name the later counts.
    pub fn new(logins: impl IntoIterator<Item = Login>) -> Self {
        Self(logins.into_iter().map(|login| (login.name.clone(), Arc::new(login))).collect())
    }
}

impl Logins for MemoryLogins {
    fn find(&self, name: &str) -> Option<Arc<Login>> {
        self.0.get(name).cloned()
    }
}
