//! The tamper-evident log.
//!
//! In flow events (a gate's transition, a window, an approval); out come entries that cannot be changed,
//! removed or reordered without [`verify`] saying so, and checkpoints that another host cosigns.
//!
//! Each entry is one line: the event as JSON, a tab, and a signature. The JSON names the hash of the entry
//! before it (a SHA-256 chain), and all entries are leaves of an RFC 6962 Merkle tree. The signature is
//! over the checkpoint (origin, size, root) that the log has *with* this entry, so entry and checkpoint
//! become durable in one write, and every acknowledged state of the log is signed at once.
//!
//! What can go wrong:
//! - a crash tears the last line: [`Log::open`] sets the torn bytes aside in a file, says so in the log, and
//!   goes on; no acknowledged entry is ever set aside;
//! - somebody with the file but without the key changes it: every flip, deletion and reorder is found;
//! - somebody cuts the end off, or owns the key and rewrites everything: that is found back to the last
//!   checkpoint that the other host's [`Witness`] cosigned. What came after it can be cut unseen, which is
//!   why every window exchanges a checkpoint.
//!
//! **Invariant:** depends on nothing that it records; writes only below its own folder; an entry is on the
//! disk before [`Log::append`] returns.

mod error;
mod key;
mod log;
mod merkle;
mod note;
mod verify;
mod witness;

pub use error::{Error, Result};
pub use key::{Signer, Verifier};
pub use log::{Entry, Log};
pub use merkle::{Consistency, Frontier, Hash, consistency, leaf_hash, node_hash, root};
pub use note::{Checkpoint, SignedNote};
pub use verify::{Finding, Verification, verify};
pub use witness::Witness;
