//! What can go wrong in the log, for people and for programs.

use std::path::PathBuf;

use kuramori_model::fault::{Fault, Kind};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the log did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk did not do it.
    #[error("the log could not be read or written")]
    Io(#[from] std::io::Error),
    /// An event that has no JSON form.
    #[error("the event could not be written as JSON")]
    Event(#[source] serde_json::Error),
    /// Another process appends to this log.
    #[error("`{}` is open for writing in another process", .0.display())]
    Busy(PathBuf),
    /// The log is not what was written.
    #[error("the log `{}` was changed: {what}", .path.display())]
    Tampered {
        /// Which log.
        path: PathBuf,
        /// The first thing that does not fit.
        what: String,
    },
    /// A key file or a public key that cannot be one.
    #[error("`{0}` is not a key of this log")]
    BadKey(String),
    /// A note that does not have the form of a signed checkpoint, or whose signature is wrong.
    #[error("the checkpoint is not valid: {0}")]
    BadNote(&'static str),
    /// The other log does not continue what was cosigned before.
    #[error("the log `{origin}` does not continue the checkpoint of {seen} entries that was cosigned before")]
    Forked {
        /// The other log's name.
        origin: String,
        /// Entries of the checkpoint that was cosigned last.
        seen: u64,
    },
    /// An earlier write failed: what is on the disk is unknown until the log is opened again.
    #[error("an earlier write to the log failed; open it again")]
    Broken,
}

impl Fault for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Io(_) => "audit.io",
            Self::Event(_) => "audit.event",
            Self::Busy(_) => "audit.busy",
            Self::Tampered { .. } => "audit.tampered",
            Self::BadKey(_) => "audit.bad-key",
            Self::BadNote(_) => "audit.bad-note",
            Self::Forked { .. } => "audit.forked",
            Self::Broken => "audit.broken",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Io(_) | Self::Busy(_) | Self::Broken => Kind::Retry,
            Self::Event(_) => Kind::Bug,
            Self::Tampered { .. } | Self::Forked { .. } | Self::BadNote(_) => Kind::Damaged,
            Self::BadKey(_) => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Tampered { .. } | Self::Forked { .. } => {
                Some("keep the file as it is, compare it with the checkpoints of the other host, and find out who had access".into())
            }
            Self::Busy(_) => Some("end the other process; only one may append".into()),
            _ => None,
        }
    }
}
