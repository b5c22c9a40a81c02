//! What every error of ours can say about itself: a stable code, what the reader can do, an exit code.
//!
//! Each crate has its own `thiserror` enum and implements [`Fault`] for it. `Display` speaks for its own
//! layer only; [`chain`] joins the layers when a person reads.

use std::{error::Error, fmt::Write};

/// What the reader can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The same call may go through later: a network, a lock, a full queue.
    Retry,
    /// The request, the configuration or the machine must be put right first.
    Fix,
    /// A policy says no: retention, approval, a closed gate.
    Refused,
    /// Stored data is not what it was.
    Damaged,
    /// Our own mistake.
    Bug,
}

/// The process's exit codes; the numbers are a contract (`docs/exit-codes.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All that was asked for is done.
    Done = 0,
    /// Something that the user can put right.
    Fix = 1,
    /// Unexpected: a bug, or a machine in a state that we do not know.
    Unexpected = 2,
    /// Done in part: a restore point exists, but some items could not be read.
    Partial = 3,
    /// A verification found damage.
    Damaged = 4,
    /// Refused by policy.
    Refused = 5,
    /// There is no repository at that place.
    NoRepository = 10,
    /// Somebody else holds the lock.
    Locked = 11,
    /// Wrong password, certificate or login.
    Authentication = 12,
    /// Interrupted by the user.
    Interrupted = 130,
}

/// An error that can be shown to a person and told apart by a program.
pub trait Fault: Error {
    /// A stable, never translated code such as `repo.wrong-password`.
    fn code(&self) -> &'static str;

    /// What the reader can do.
    fn kind(&self) -> Kind;

    /// One sentence that says what to do next, where we know it.
    fn hint(&self) -> Option<String> {
        None
    }

    /// The exit code of a command that ends with this error.
    fn exit(&self) -> Exit {
        match self.kind() {
            Kind::Retry | Kind::Fix => Exit::Fix,
            Kind::Refused => Exit::Refused,
            Kind::Damaged => Exit::Damaged,
            Kind::Bug => Exit::Unexpected,
        }
    }
}

/// The error and all that caused it, from the outside in, joined by `: `.
///
/// A layer that only repeats the text below it is left out.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let below = cause.to_string();
        if !text.ends_with(&below) {
            let _ = write!(text, ": {below}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_names_every_layer_once() {
        assert_eq!(chain(&Outer(std::io::Error::other("inner"))), "outer: inner");
    }
}
