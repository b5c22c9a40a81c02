//! Why a server, a client or an overlay cannot do its work.

use std::{io, path::PathBuf};

use kuramori_model::fault::{Exit, Fault, Kind};

/// The result of this room's work.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a server, a client or an overlay cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on or connected to.
    #[error("cannot {action} `{address}`")]
    Address {
        /// The verb.
        action: &'static str,
        /// A socket's path, or host and port.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection ended or stalled.
    #[error("the connection to the NBD peer broke")]
    Broken(#[source] io::Error),
    /// The peer sent what the protocol does not allow.
    #[error("the NBD peer breaks the protocol: {0}")]
    Protocol(String),
    /// The server refuses what was asked.
    #[error("the NBD server refuses {what}: {why}")]
    Refused {
        /// What was asked for.
        what: String,
        /// What it said.
        why: String,
    },
    /// The server answers a request with an error.
    #[error("the NBD server cannot {action}: error {errno}{}", if .why.is_empty() { String::new() } else { format!(" ({})", .why) })]
    Failed {
        /// The verb.
        action: &'static str,
        /// The number on the wire, which is Linux's.
        errno: u32,
        /// What it said.
        why: String,
    },
    /// The overlay's file cannot be used.
    #[error("cannot {action} the overlay `{}`", .file.display())]
    Overlay {
        /// The verb.
        action: &'static str,
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is no overlay, or one that belongs to another disk.
    #[error("`{}` is not an overlay of this disk: {why}", .file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// Another process has the overlay.
    #[error("another process uses the overlay `{}`", .file.display())]
    Busy {
        /// The file.
        file: PathBuf,
    },
}

impl Fault for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Address { .. } => "nbd.address",
            Self::Broken(_) => "nbd.broken",
            Self::Protocol(_) => "nbd.protocol",
            Self::Refused { .. } => "nbd.refused",
            Self::Failed { .. } => "nbd.failed",
            Self::Overlay { .. } => "nbd.overlay",
            Self::Foreign { .. } => "nbd.foreign-overlay",
            Self::Busy { .. } => "nbd.busy",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Broken(_) | Self::Busy { .. } => Kind::Retry,
            Self::Foreign { .. } => Kind::Refused,
            _ => Kind::Fix,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Address { .. } => {
                "choose an address that is free and may be used; a socket that was left behind has to be removed"
                    .to_owned()
            }
            Self::Foreign { .. } => {
                "give another file for the overlay, or the disk that it was made for; nothing was changed".to_owned()
            }
            Self::Busy { .. } => "end the other process first: two would damage it".to_owned(),
            Self::Overlay { .. } => "see that its folder is there, has room and may be written".to_owned(),
            _ => return None,
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Busy { .. } => Exit::Locked,
            _ => match self.kind() {
                Kind::Refused => Exit::Refused,
                _ => Exit::Fix,
            },
        }
    }
}
