//! Why a server cannot start, or stops.

use std::path::PathBuf;

use kuramori_model::fault::{Exit, Fault, Kind};

/// Why a server cannot start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The folder of repositories cannot be used.
    #[error("cannot use the folder `{}`", .folder.display())]
    Folder {
        /// The folder of repositories.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A receiver needs an empty folder, so that nothing old can pass for restored.
    #[error("the folder `{}` of a receiver is not empty", .folder.display())]
    NotEmpty {
        /// The folder of repositories.
        folder: PathBuf,
    },
    /// Another server has the folder.
    #[error("another server already serves the folder `{}`", .folder.display())]
    Busy {
        /// The folder of repositories.
        folder: PathBuf,
    },
    /// The login file cannot be used.
    #[error("cannot use the login file `{}`: {why}", .file.display())]
    Logins {
        /// The login file.
        file: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A password's hash that this server cannot check.
    #[error("`{0}` is not a password hash of the form `$scrypt$ln=14,r=8,p=1$SALT$HASH`")]
    Hash(String),
    /// A certificate or key that cannot be made or used.
    #[error("cannot {action}: {why}")]
    Certificate {
        /// The verb.
        action: &'static str,
        /// What the library said.
        why: String,
    },
    /// The address no longer accepts connections.
    #[error("the listening socket failed")]
    Listen(#[source] std::io::Error),
    /// A helper thread died.
    #[error("internal failure: {0}")]
    Bug(String),
}

impl Fault for ServeError {
    fn code(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "serve.folder",
            Self::NotEmpty { .. } => "serve.not-empty",
            Self::Busy { .. } => "serve.busy",
            Self::Logins { .. } => "serve.logins",
            Self::Hash(_) => "serve.hash",
            Self::Certificate { .. } => "serve.certificate",
            Self::Listen(_) => "serve.listen",
            Self::Bug(_) => "serve.bug",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Busy { .. } | Self::Listen(_) => Kind::Retry,
            Self::NotEmpty { .. } => Kind::Refused,
            Self::Bug(_) => Kind::Bug,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Folder { .. } => "make the folder and let this user read and write it".to_owned(),
            Self::NotEmpty { .. } => "give the receiver a new, empty folder".to_owned(),
            Self::Busy { .. } => "stop the other server, or give this one its own folder".to_owned(),
            Self::Logins { .. } => "correct the file; it must belong to root (or this user) and not be \
                writable for others"
                .to_owned(),
            Self::Hash(_) => "make the hash with `kuramori repo login`".to_owned(),
            Self::Certificate { .. } => "check the certificate and key files, or issue new ones".to_owned(),
            Self::Listen(_) | Self::Bug(_) => return None,
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Busy { .. } => Exit::Locked,
            _ => match self.kind() {
                Kind::Retry | Kind::Fix => Exit::Fix,
                Kind::Refused => Exit::Refused,
                Kind::Damaged => Exit::Damaged,
                Kind::Bug => Exit::Unexpected,
            },
        }
    }
}
