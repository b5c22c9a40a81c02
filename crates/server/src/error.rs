//! What can go wrong while the rooms are joined. Errors of a room keep their own code, kind and hint.

use std::path::PathBuf;

use kuramori_model::fault::{Exit, Fault, Kind};

use crate::config::ConfigError;

/// What every function here returns.
pub type Result<T> = std::result::Result<T, ServerError>;

/// Why the server could not do it.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] kuramori_catalog::CatalogError),
    /// A repository.
    #[error(transparent)]
    Repository(#[from] kuramori_repo::Error),
    /// The repository server.
    #[error(transparent)]
    Serve(#[from] kuramori_serve::ServeError),
    /// An agent.
    #[error(transparent)]
    Agents(#[from] crate::agents::AgentsError),
    /// A departmental system's source.
    #[error(transparent)]
    Source(#[from] kuramori_source::Error),
    /// A wrapped secret or an identity.
    #[error(transparent)]
    Escrow(#[from] kuramori_escrow::EscrowError),
    /// A restore or a drill.
    #[error(transparent)]
    Drill(#[from] kuramori_drill::DrillError),
    /// The tamper-evident log.
    #[error(transparent)]
    Audit(#[from] kuramori_audit::Error),
    /// A notice.
    #[error(transparent)]
    Notify(#[from] kuramori_notify::NotifyError),
    /// A file of the server's own.
    #[error("cannot {action}")]
    File {
        /// The verb with its object.
        action: &'static str,
        /// What the system said; names the path.
        #[source]
        source: std::io::Error,
    },
    /// The machine already holds a server's keys; they are never written over.
    #[error("`{}` already exists", .0.display())]
    Exists(PathBuf),
    /// The server was never initialised.
    #[error("`{}` is missing: this data folder was never initialised", .0.display())]
    NotInitialised(PathBuf),
    /// Another process listens on the admin socket.
    #[error("another server listens on `{}`", .0.display())]
    SocketTaken(PathBuf),
    /// A secret that is not what it has to be.
    #[error("the secret `{name}` is not text")]
    Sealed {
        /// Its name in the catalog, or its file.
        name: String,
    },
    /// A register entry that cannot be taken.
    #[error("{place}: {why}")]
    Entry {
        /// File and line, or the system's id.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// A job was stopped because the hours in which it may read are over.
    #[error("stopped: the hours in which `{system}` may be read ended")]
    HoursEnded {
        /// Which system.
        system: String,
    },
    /// A job was stopped because the server ends.
    #[error("stopped because the server ends; nothing of this run is visible")]
    Stopping,
    /// A job was cancelled.
    #[error("stopped by a person")]
    Cancelled,
    /// A prune was stopped because somebody needs the repository.
    #[error("stopped because a job of `{system}` waits; it goes on later")]
    GaveWay {
        /// Which system.
        system: String,
    },
    /// Another server has taken the job over.
    #[error("another server has taken this job over; nothing of it was recorded here")]
    TakenOver,
    /// Another server writes into `_control` for very long.
    #[error("another server has been writing into `_control` for two minutes")]
    ControlBusy,
    /// Restore points that the catalog counts are not in the repository.
    #[error(
        "{missing} restore points of `{system}` are gone from its repository, and nobody here removed them; nothing was freed"
    )]
    PointsMissing {
        /// Which system.
        system: String,
        /// How many.
        missing: usize,
    },
    /// The catalog belongs to a server with other keys.
    #[error("the catalog belongs to a server with the key {theirs}; ours is {ours}")]
    OtherIdentity {
        /// The recipient in the catalog.
        theirs: String,
        /// The recipient of this data folder.
        ours: String,
    },
    /// A report that does not verify.
    #[error("the vault's report cannot be used: {0}")]
    Report(String),
    /// Our own mistake.
    #[error("internal error: {0}")]
    Bug(String),
}

impl From<kuramori_wire::Error> for ServerError {
    fn from(error: kuramori_wire::Error) -> Self {
        Self::Agents(error.into())
    }
}

impl ServerError {
    /// Wraps an I/O error; `fs_err` has put the path into it.
    pub fn file(action: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::File { action, source }
    }

    fn inner(&self) -> Option<&dyn Fault> {
        Some(match self {
            Self::Config(error) => error,
            Self::Catalog(error) => error,
            Self::Repository(error) => error,
            Self::Serve(error) => error,
            Self::Source(error) => error,
            Self::Agents(error) => error,
            Self::Escrow(error) => error,
            Self::Audit(error) => error,
            Self::Notify(error) => error,
            Self::Drill(error) => error,
            _ => return None,
        })
    }
}

impl Fault for ServerError {
    fn code(&self) -> &'static str {
        if let Some(inner) = self.inner() {
            return inner.code();
        }
        match self {
            Self::File { .. } => "server.file",
            Self::Exists(_) => "server.exists",
            Self::NotInitialised(_) => "server.not-initialised",
            Self::SocketTaken(_) => "server.socket-taken",
            Self::Sealed { .. } => "server.sealed",
            Self::Entry { .. } => "server.entry",
            Self::HoursEnded { .. } => "server.hours-ended",
            Self::Stopping => "server.stopping",
            Self::Cancelled => "server.cancelled",
            Self::GaveWay { .. } => "server.gave-way",
            Self::TakenOver => "server.taken-over",
            Self::ControlBusy => "server.control-busy",
            Self::PointsMissing { .. } => "server.points-missing",
            Self::OtherIdentity { .. } => "server.other-identity",
            Self::Report(_) => "server.report",
            _ => "server.bug",
        }
    }

    fn kind(&self) -> Kind {
        if let Some(inner) = self.inner() {
            return inner.kind();
        }
        match self {
            Self::Cancelled
            | Self::Stopping
            | Self::HoursEnded { .. }
            | Self::GaveWay { .. }
            | Self::TakenOver
            | Self::ControlBusy => Kind::Retry,
            Self::Exists(_) => Kind::Refused,
            Self::Sealed { .. } | Self::Report(_) | Self::PointsMissing { .. } => Kind::Damaged,
            Self::Bug(_) => Kind::Bug,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        if let Some(inner) = self.inner() {
            return inner.hint();
        }
        Some(match self {
            Self::Exists(_) => "nothing was changed; keys are never written over".to_owned(),
            Self::NotInitialised(_) => {
                "run `kuramori server init` first, or `kuramori server rebuild`".to_owned()
            }
            Self::SocketTaken(_) => {
                "stop the other server, or give this one `admin.socket` of its own".to_owned()
            }
            Self::PointsMissing { .. } => {
                "find out who removed them; their data is still there, and the vault has its copy; \
                 `kuramori repo check` shows what is whole"
                    .to_owned()
            }
            Self::OtherIdentity { .. } => {
                "servers that share a catalog need the same `keys` and `tls` folders; copy them from \
                 the first server"
                    .to_owned()
            }
            Self::HoursEnded { .. } => "widen its windows, or start it earlier".to_owned(),
            _ => return None,
        })
    }

    fn exit(&self) -> Exit {
        match (self.inner(), self) {
            (Some(inner), _) => inner.exit(),
            (None, Self::SocketTaken(_)) => Exit::Locked,
            (None, _) => match self.kind() {
                Kind::Retry | Kind::Fix => Exit::Fix,
                Kind::Refused => Exit::Refused,
                Kind::Damaged => Exit::Damaged,
                Kind::Bug => Exit::Unexpected,
            },
        }
    }
}
