//! What can go wrong in a repository, each named with the file that it happened to.

use std::io;

use kuramori_model::fault::{Exit, Fault, Kind};

use crate::store::{FileId, FileKind};

/// The result of a repository's work.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in a repository.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no repository at the place.
    #[error("there is no repository at `{place}`")]
    NotFound {
        /// The store's place.
        place: String,
    },
    /// There already is one, or a file with this name holds other bytes.
    #[error("`{file}` already exists with other content")]
    Exists {
        /// The file or the repository.
        file: String,
    },
    /// A file that must be there is not.
    #[error("`{file}` is missing")]
    Missing {
        /// The file's place in the layout.
        file: String,
    },
    /// No key file opens with the password.
    #[error("the password opens none of the {tried} keys of `{place}`")]
    WrongPassword {
        /// The store's place.
        place: String,
        /// How many key files were tried.
        tried: usize,
    },
    /// Stored bytes are not what they must be.
    #[error("`{file}` is damaged: {why}")]
    Damaged {
        /// The file's place in the layout, with the blob's id where one is meant.
        file: String,
        /// What does not hold.
        why: String,
    },
    /// Another version of the format.
    #[error("the repository has format version {version}; this program reads and writes version 2")]
    Version {
        /// The version found.
        version: u64,
    },
    /// The store has no room.
    #[error("no room to store `{file}`")]
    Full {
        /// The file that did not fit.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else holds the repository's lock.
    #[error("the repository is locked by {holder}")]
    Locked {
        /// Who, since when.
        holder: String,
    },
    /// Our own lock is gone or could not be renewed, so nothing more may be written.
    #[error("the repository's lock was lost: {why}")]
    LockLost {
        /// What happened.
        why: String,
    },
    /// The store or a source did not do what it was asked.
    #[error("cannot {action} `{file}`")]
    Io {
        /// The verb.
        action: &'static str,
        /// The file.
        file: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A network store answered with something else than the protocol allows, or not at all.
    #[error("the store at `{place}` did not {action}")]
    Remote {
        /// The store's place.
        place: String,
        /// The verb with the file.
        action: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Whether the same call may go through later.
        retry: bool,
    },
    /// The store refuses the login.
    #[error("the store at `{place}` refuses this login to {action}")]
    Login {
        /// The store's place.
        place: String,
        /// The verb with the file.
        action: String,
    },
    /// The work was cancelled by its owner; nothing half done is visible.
    #[error("cancelled")]
    Cancelled,
    /// A request that cannot be met as it was put.
    #[error("{what}")]
    Invalid {
        /// What does not fit.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// Our own mistake: a check before upload failed, a thread died.
    #[error("internal check failed: {what}")]
    Bug {
        /// What did not hold.
        what: String,
    },
}

impl Error {
    /// Damage of a stored file.
    pub fn damaged(kind: FileKind, id: FileId, why: impl Into<String>) -> Self {
        Self::Damaged { file: file_name(kind, id), why: why.into() }
    }

    /// A stored file that is not there.
    pub fn missing(kind: FileKind, id: FileId) -> Self {
        Self::Missing { file: file_name(kind, id) }
    }

    /// An I/O error of the system; a full disk or quota becomes [`Error::Full`].
    pub fn io(action: &'static str, file: impl Into<String>, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let file = file.into();
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full { file, source },
            _ => Self::Io { action, file, source },
        }
    }
}

impl Error {
    /// The same error once more, for everybody who asks what ended a piece of work.
    pub(crate) fn repeat(&self) -> Self {
        let again = |source: &io::Error| match source.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(source.kind(), source.to_string()),
        };
        match self {
            Self::NotFound { place } => Self::NotFound { place: place.clone() },
            Self::Exists { file } => Self::Exists { file: file.clone() },
            Self::Missing { file } => Self::Missing { file: file.clone() },
            Self::WrongPassword { place, tried } => {
                Self::WrongPassword { place: place.clone(), tried: *tried }
            }
            Self::Damaged { file, why } => Self::Damaged { file: file.clone(), why: why.clone() },
            Self::Version { version } => Self::Version { version: *version },
            Self::Full { file, source } => Self::Full { file: file.clone(), source: again(source) },
            Self::Locked { holder } => Self::Locked { holder: holder.clone() },
            Self::LockLost { why } => Self::LockLost { why: why.clone() },
            Self::Io { action, file, source } => {
                Self::Io { action, file: file.clone(), source: again(source) }
            }
            Self::Remote { place, action, source, retry } => Self::Remote {
                place: place.clone(),
                action: action.clone(),
                source: source.to_string().into(),
                retry: *retry,
            },
            Self::Login { place, action } => Self::Login { place: place.clone(), action: action.clone() },
            Self::Cancelled => Self::Cancelled,
            Self::Invalid { what, hint } => Self::Invalid { what: what.clone(), hint: hint.clone() },
            Self::Bug { what } => Self::Bug { what: what.clone() },
        }
    }
}

/// How messages name a stored file: `snapshots/ab12…` in full, so that it can be pasted.
pub fn file_name(kind: FileKind, id: FileId) -> String {
    if kind == FileKind::Config { "config".to_owned() } else { format!("{kind}/{id}") }
}

impl Fault for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "repo.not-found",
            Self::Exists { .. } => "repo.exists",
            Self::Missing { .. } => "repo.missing",
            Self::WrongPassword { .. } => "repo.wrong-password",
            Self::Damaged { .. } => "repo.damaged",
            Self::Version { .. } => "repo.version",
            Self::Full { .. } => "repo.full",
            Self::Locked { .. } => "repo.locked",
            Self::LockLost { .. } => "repo.lock-lost",
            Self::Io { .. } => "repo.io",
            Self::Remote { .. } => "repo.remote",
            Self::Login { .. } => "repo.login",
            Self::Cancelled => "repo.cancelled",
            Self::Invalid { .. } => "repo.invalid",
            Self::Bug { .. } => "repo.bug",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Locked { .. }
            | Self::LockLost { .. }
            | Self::Cancelled
            | Self::Remote { retry: true, .. } => Kind::Retry,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                    Kind::Retry
                }
                _ => Kind::Fix,
            },
            Self::Missing { .. } | Self::Damaged { .. } => Kind::Damaged,
            Self::Exists { .. } => Kind::Refused,
            Self::Bug { .. } => Kind::Bug,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { place } => {
                format!("check the place, or make a repository there with `kuramori repo init -r {place}`")
            }
            Self::Exists { .. } => {
                "nothing was changed; use another place, or check the repository".to_owned()
            }
            Self::Missing { .. } | Self::Damaged { .. } => {
                "run `kuramori repo check --read-data`, then bring the file back from another copy".to_owned()
            }
            Self::WrongPassword { .. } => {
                "give another password, or open it with the hospital's recovery key".to_owned()
            }
            Self::Version { .. } => "upgrade it with `restic migrate upgrade_repo_v2`".to_owned(),
            Self::Full { .. } => "make room there and run it again; what was committed is safe".to_owned(),
            Self::Locked { .. } => {
                "wait until it ends; if nobody works there any more, remove the lock with `restic unlock`"
                    .to_owned()
            }
            Self::LockLost { .. } => "run it again; nothing of this run is visible".to_owned(),
            Self::Io { .. } => {
                "see that the place is mounted and this user may read and write there".to_owned()
            }
            Self::Remote { .. } => {
                "see that the server runs and can be reached, then run it again".to_owned()
            }
            Self::Login { .. } => "check the login, and whether its role allows this".to_owned(),
            Self::Invalid { hint, .. } => hint.clone(),
            Self::Cancelled => return None,
            Self::Bug { .. } => "please report this with the log; nothing of this run is visible".to_owned(),
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::NotFound { .. } => Exit::NoRepository,
            Self::Locked { .. } => Exit::Locked,
            Self::WrongPassword { .. } | Self::Login { .. } => Exit::Authentication,
            Self::Cancelled => Exit::Interrupted,
            _ => match self.kind() {
                Kind::Retry | Kind::Fix => Exit::Fix,
                Kind::Refused => Exit::Refused,
                Kind::Damaged => Exit::Damaged,
                Kind::Bug => Exit::Unexpected,
            },
        }
    }
}
