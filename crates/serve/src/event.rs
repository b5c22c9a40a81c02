//! What the server tells its owner: one event per request, one per refused connection.

use std::{fmt::Debug, net::SocketAddr};

use jiff::Timestamp;
use serde::Serialize;

use crate::{FileName, Kind, RepositoryName};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// A connection: refused by a limit, or broken before its first request.
    Connect,
    /// A login: accepted for the first time, or refused.
    Login,
    /// The login file was read again, or could not be.
    Reload,
    /// List the repositories.
    Repositories,
    /// Make a repository's folders.
    Create,
    /// Ask whether a file is there and how large.
    Head,
    /// Read a file or a part of it.
    Get,
    /// List a folder.
    List,
    /// Upload a file.
    Put,
    /// Delete a file, or everything.
    Delete,
    /// Anything that the protocol does not know.
    Other,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As asked.
    Done,
    /// The same bytes were already there; an upload that was repeated.
    Present,
    /// There is no such file.
    Missing,
    /// The login's role does not allow it, or a file would be overwritten. Worth an alarm.
    Refused,
    /// No login, or a wrong one.
    Unauthorised,
    /// Not of the protocol, or the bytes do not have the hash of their name.
    Bad,
    /// No room on the disk or in the quota.
    Full,
    /// The client went away or was too slow; nothing was stored.
    Broken,
    /// A limit of connections or of waiting logins.
    Busy,
    /// The disk or the server failed; the text says how.
    Failed(String),
}

/// One thing that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// When it ended, by the server's wall clock: for display, not for order.
    pub at: Timestamp,
    /// The client's address; `None` if no client was involved.
    pub peer: Option<SocketAddr>,
    /// Who; `None` before a login.
    pub login: Option<String>,
    /// In which repository.
    pub repository: Option<RepositoryName>,
    /// What was asked for.
    pub verb: Verb,
    /// Of which kind.
    pub kind: Option<Kind>,
    /// Which file.
    pub name: Option<FileName>,
    /// Bytes of content that moved. For an upload: in; else: out.
    pub bytes: u64,
    /// How it ended.
    pub outcome: Outcome,
}

impl Event {
    /// Whether a stock client has just committed a restore point: a new `snapshots/<id>` is durable.
    pub fn committed(&self) -> Option<(&RepositoryName, FileName)> {
        match (self.verb, self.kind, &self.outcome) {
            (Verb::Put, Some(Kind::Snapshots), Outcome::Done) => {
                Some((self.repository.as_ref()?, self.name?))
            }
            _ => None,
        }
    }

    /// Whether somebody tried what an attacker would try: deleting, overwriting, a foreign repository.
    pub fn alarming(&self) -> bool {
        self.outcome == Outcome::Refused
    }
}

/// Who is told. Called on the server's network threads, so an implementation hands the event on and
/// returns; it must not block.
pub trait Watch: Debug + Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ignore;

impl Watch for Ignore {
    fn event(&self, _: Event) {}
}
