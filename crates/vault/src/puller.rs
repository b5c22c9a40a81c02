//! The puller: the only part of the vault that speaks with the network.
//!
//! It runs as processes of its own, started through another network namespace, without privileges and
//! without any file: what it fetches goes through its standard output to the vault, which hashes and stores
//! it. It holds one connection, one login and one request at a time, and is killed when the window closes
//! or when the vault dies (its standard input ends).
//!
//! Whatever the server does, the vault trusts only what it counts itself: [`process`] bounds the time
//! without a byte, the average rate, the length of a list and of a body. [`child`] follows no redirect, uses
//! no proxy, believes one certificate, and understands one answer to each question.
//!
//! ```text
//! vault → puller   one JSON line for each [`Ask`]; after `put` exactly `size` raw bytes
//! puller → vault   frames: tag u8 | length u32 le | payload
//!   n  names of repositories, JSON        d  bytes of the file
//!   l  entries of 40 bytes: name 32, size u64 le
//!   .  done, empty                        !  failure, JSON ([`Failure`])
//! ```

pub mod child;
pub mod process;

use kuramori_repo::store::{FileId, FileKind};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Largest payload of a frame.
pub(crate) const FRAME: usize = 256 << 10;
/// Bytes of one entry of a list.
pub(crate) const ENTRY: usize = 40;
/// Longest request line: it carries a certificate.
pub(crate) const LINE: u64 = 1 << 20;

/// What the vault asks of the puller.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Whom to speak with; always the first.
    Meet(Box<Meet>),
    /// Names of the repositories.
    Repositories {},
    /// Files of one kind.
    List {
        /// Whose.
        repository: String,
        /// `data`, `index`, `snapshots`, `keys`.
        kind: String,
        /// No more than this many.
        most: u64,
    },
    /// One file's bytes.
    Fetch {
        /// Path below the server: `pacs/data/…`.
        path: String,
        /// First byte.
        offset: u64,
        /// No more bytes than this.
        most: u64,
    },
    /// Make an empty repository.
    Create {
        /// Its name.
        repository: String,
    },
    /// Upload a file; its bytes follow the line.
    Put {
        /// Path below the server.
        path: String,
        /// Exact length.
        size: u64,
    },
}

/// Whom to speak with.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meet {
    /// `https://name:port/`.
    pub base: String,
    /// The address behind the name; nothing is ever looked up.
    pub address: std::net::SocketAddr,
    /// The name that stands in the URL and in the certificate.
    pub name: String,
    /// PEM of the only certificate that is believed.
    pub ca: String,
    /// Login.
    pub login: String,
    /// Its password.
    pub password: String,
    /// Seconds to connect.
    pub connect_s: u64,
    /// Seconds without a byte.
    pub stall_s: u64,
}

impl std::fmt::Debug for Meet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Meet({} as {})", self.base, self.login)
    }
}

/// Why the puller could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// 404.
    Missing,
    /// 401 or 403.
    Refused,
    /// No connection, or it broke.
    Network,
    /// An answer that the protocol does not allow.
    Misbehaved,
    /// The vault's own request makes no sense.
    Request,
}

/// A failure in words.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Its kind.
    pub what: What,
    /// For people; cut to 300 characters.
    pub text: String,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        // The text comes from a process that a hostile server may have taken over.
        let text: String = failure.text.chars().filter(|c| !c.is_control()).take(300).collect();
        match failure.what {
            What::Missing => Self::Vanished(text),
            What::Refused => Self::Refused(text),
            What::Network => Self::Network(text),
            What::Misbehaved => Self::Misbehaved(text),
            What::Request => Self::Invalid(text),
        }
    }
}

/// A place that can be pulled from: the primary through a puller, or a carried disk.
pub trait Source: Send {
    /// Names of all repositories.
    ///
    /// # Errors
    /// Network and protocol errors.
    fn repositories(&mut self) -> Result<Vec<String>>;

    /// Every file of a kind.
    ///
    /// # Errors
    /// [`Error::Vanished`] if there is no such repository; network and protocol errors; the error of `each`.
    fn list(
        &mut self,
        repository: &str,
        kind: FileKind,
        each: &mut dyn FnMut(FileId, u64) -> Result<()>,
    ) -> Result<()>;

    /// The bytes of a file from `offset`; at most `most` of them.
    ///
    /// # Errors
    /// [`Error::Vanished`] if it is not there any more; network and protocol errors; the error of `each`.
    fn fetch(
        &mut self,
        repository: &str,
        kind: FileKind,
        id: FileId,
        offset: u64,
        most: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()>;
}

/// The path of a file below the server.
pub(crate) fn path(repository: &str, kind: FileKind, id: FileId) -> String {
    if kind == FileKind::Config {
        format!("{repository}/config")
    } else {
        format!("{repository}/{kind}/{id}")
    }
}
