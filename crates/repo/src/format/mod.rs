//! restic's repository format, version 2, as pure functions: bytes in, values or a [`Flaw`] out.
//!
//! Nothing here touches a store, a clock or a random source. Every decoder is bounded: what a forged file
//! announces is never allocated before it is checked.
//!
//! Source of the format: restic's `doc/design.rst` and its behaviour; equal input must encode to equal
//! bytes, because equal folders are found again by their hash.

pub mod blob;
pub mod compress;
pub mod config;
pub mod crypto;
pub mod gojson;
pub mod index;
pub mod key;
pub mod lock;
pub mod node;
pub mod pack;
pub mod snapshot;
pub mod tree;
pub mod unpacked;

/// Why bytes cannot be what they should be. The caller adds which file they came from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Flaw(pub String);

impl Flaw {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl From<serde_json::Error> for Flaw {
    fn from(error: serde_json::Error) -> Self {
        Self(format!("its JSON does not fit the format ({error})"))
    }
}
