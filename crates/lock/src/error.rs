//! Why something is not locked, or not removed.

use std::{io, path::PathBuf};

use kuramori_model::fault::{Fault, Kind};

/// The result of the lock's work.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something is not locked, or not removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system has no immutable flag.
    #[error("files below `{}` cannot be made immutable; nothing is locked there", .0.display())]
    NoFlag(PathBuf),
    /// This process may not set the flag.
    #[error("this process may not make files immutable")]
    NoCapability,
    /// A file that is to be locked or removed is not there, or is no plain file.
    #[error("`{0}` is no stored file")]
    NoFile(String),
    /// A repository's name that could lead out of the root.
    #[error("`{0}` cannot be a repository")]
    BadRepository(String),
    /// The ledger cannot be believed.
    #[error("the ledger is damaged in line {line}: {why}")]
    Ledger {
        /// Which line.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Fewer officers signed than needed, or the order was used before.
    #[error("the order is not taken: {0}")]
    Order(String),
    /// The disk did not do what it was asked.
    #[error("cannot {0}")]
    Io(&'static str, #[source] io::Error),
}

impl Error {
    /// For `map_err`.
    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io(action, error)
    }
}

impl Fault for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::NoFlag(_) => "lock.no-flag",
            Self::NoCapability => "lock.no-capability",
            Self::NoFile(_) => "lock.no-file",
            Self::BadRepository(_) => "lock.bad-repository",
            Self::Ledger { .. } => "lock.ledger",
            Self::Order(_) => "lock.order",
            Self::Io(..) => "lock.io",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Ledger { .. } => Kind::Damaged,
            Self::Order(_) => Kind::Refused,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoFlag(_) => {
                "put the store on ext4, XFS or Btrfs; until then say that it is not locked".into()
            }
            Self::NoCapability => "start `kuramori-lockd` with CAP_LINUX_IMMUTABLE".into(),
            Self::NoFile(_) => "lock a file after it has its final name".into(),
            Self::BadRepository(_) => "use the system's short name".into(),
            Self::Ledger { .. } => "nothing is removed; compare it with a copy and have it looked at".into(),
            Self::Order(_) => "have it signed by as many officers as the configuration asks".into(),
            Self::Io(..) => return None,
        })
    }
}
