//! What can go wrong at the vault, for people and for programs.

use std::path::PathBuf;

use kuramori_model::fault::{Exit, Fault, Kind};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the vault did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that cannot be used.
    #[error("`{}`: {what}", .file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// What does not fit, with line and key.
        what: String,
    },
    /// The disk did not do it.
    #[error("cannot {what}")]
    Io {
        /// The verb and its object.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another vault process works on the same register.
    #[error("another vault process has the register in `{}`", .0.display())]
    Busy(PathBuf),
    /// The register could not be read or written.
    #[error("the vault's register failed")]
    Register(#[from] sqlx::Error),
    /// The register's form is not of this program.
    #[error("the vault's register could not be brought to this version")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The audit log failed: nothing is opened without it.
    #[error("the vault's log failed")]
    Log(#[from] kuramori_audit::Error),
    /// A repository could not be read.
    #[error("the vault's copy of `{repository}` failed")]
    Repository {
        /// Its name.
        repository: String,
        /// What happened.
        #[source]
        source: kuramori_repo::Error,
    },
    /// A restore point could not be inspected.
    #[error("a restore point of `{0}` could not be inspected")]
    Inspection(String, #[source] kuramori_inspect::Error),
    /// The lock did not do it.
    #[error("the lock did not do it: {0}")]
    Lock(String),
    /// There is no password for a repository, so nothing in it can be proven.
    #[error("the vault holds no key for `{0}`")]
    NoKey(String),
    /// There is no such repository at the vault.
    #[error("the vault holds no repository `{0}`")]
    UnknownRepository(String),
    /// The gate did not answer as its protocol says.
    #[error("the gate did not {what}")]
    Gate {
        /// What was asked.
        what: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// The gate said no.
    #[error("the gate refused ({code}): {message}")]
    GateRefused {
        /// The gate's stable code.
        code: String,
        /// Its sentence.
        message: String,
    },
    /// Not enough people have said yes, or not to this.
    #[error("it is not approved")]
    Approval(#[from] kuramori_model::approval::Refusal),
    /// A window must not be opened now.
    #[error("no window is opened: {0}")]
    Preflight(String),
    /// The window ended before the work was done; the next one goes on.
    #[error("the window closed: {0}")]
    WindowOver(String),
    /// The puller's process ended or could not be started.
    #[error("the puller {what}")]
    Puller {
        /// What happened to it.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The other side answered with something that the protocol does not allow, or too much of it.
    #[error("the server at the other side {0}")]
    Misbehaved(String),
    /// A file came whole and does not have the hash in its name.
    #[error("the server at the other side sent bytes that are not `{0}`")]
    WrongBytes(String),
    /// The other side could not be reached or broke off.
    #[error("no connection: {0}")]
    Network(String),
    /// The other side refuses the login or the verb.
    #[error("the server refuses: {0}")]
    Refused(String),
    /// A file that was listed is not there any more.
    #[error("`{0}` is not there any more")]
    Vanished(String),
    /// A name at the control socket or on the command line that means nothing here.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// An I/O error with the verb and its object.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// A repository's error with its name.
    pub fn repository(repository: &str) -> impl FnOnce(kuramori_repo::Error) -> Self {
        let repository = repository.to_owned();
        move |source| Self::Repository { repository, source }
    }
}

impl Fault for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Config { .. } => "vault.config",
            Self::Io { .. } => "vault.io",
            Self::Busy(_) => "vault.busy",
            Self::Register(_) => "vault.register",
            Self::Migration(_) => "vault.migration",
            Self::Log(_) => "vault.log",
            Self::Repository { .. } => "vault.repository",
            Self::Inspection(..) => "vault.inspection-failed",
            Self::Lock(_) => "vault.lock-failed",
            Self::NoKey(_) => "vault.no-key",
            Self::UnknownRepository(_) => "vault.unknown-repository",
            Self::Gate { .. } => "vault.gate",
            Self::GateRefused { .. } => "vault.gate-refused",
            Self::Approval(refusal) => refusal.code(),
            Self::Preflight(_) => "vault.preflight",
            Self::WindowOver(_) => "vault.window-over",
            Self::Puller { .. } => "vault.puller",
            Self::Misbehaved(_) => "vault.misbehaved",
            Self::WrongBytes(_) => "vault.wrong-bytes",
            Self::Network(_) => "vault.network",
            Self::Refused(_) => "vault.refused",
            Self::Vanished(_) => "vault.vanished",
            Self::Invalid(_) => "vault.invalid",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Busy(_)
            | Self::Gate { .. }
            | Self::WindowOver(_)
            | Self::Puller { .. }
            | Self::Network(_)
            | Self::Vanished(_)
            | Self::Register(_) => Kind::Retry,
            Self::Preflight(_) | Self::GateRefused { .. } | Self::Approval(_) | Self::Lock(_) => {
                Kind::Refused
            }
            Self::Repository { source, .. } => source.kind(),
            Self::Inspection(_, source) => source.kind(),
            Self::Log(source) => source.kind(),
            Self::Misbehaved(_) | Self::WrongBytes(_) => Kind::Damaged,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Busy(_) => "stop it, or ask it through its socket (`kuramori vault status`)".to_owned(),
            Self::NoKey(name) => format!("bring the key of `{name}` to the vault as at its enrolment"),
            Self::Preflight(_) => {
                "see `kuramori vault status`; clear the cause before the next window".to_owned()
            }
            Self::Approval(refusal) => refusal.hint(),
            Self::WindowOver(_) => "nothing is lost; the next window goes on where this one ended".to_owned(),
            Self::Misbehaved(_) | Self::WrongBytes(_) => {
                "treat the primary as suspect: look at it before the next window, and keep the vault's copy"
                    .to_owned()
            }
            Self::Repository { source, .. } => return source.hint(),
            Self::Inspection(_, source) => return source.hint(),
            Self::Lock(_) => "see `kuramori-lockd --check` and its log".to_owned(),
            Self::Log(source) => return source.hint(),
            Self::Gate { .. } => "see that `kuramori-gated` runs and this user may use its socket".to_owned(),
            _ => return None,
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Busy(_) => Exit::Locked,
            Self::Repository { source, .. } => source.exit(),
            Self::UnknownRepository(_) => Exit::NoRepository,
            _ => match self.kind() {
                Kind::Retry | Kind::Fix => Exit::Fix,
                Kind::Refused => Exit::Refused,
                Kind::Damaged => Exit::Damaged,
                Kind::Bug => Exit::Unexpected,
            },
        }
    }
}
