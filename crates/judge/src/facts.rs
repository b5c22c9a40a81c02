//! What a run has seen of its source: the facts that a judgement rests on, as the catalog stores them.
//!
//! Every reader fills in what it can know and leaves the rest empty. New facts are added with
//! `#[serde(default)]`, so that the facts of old runs stay readable.

use jiff::Timestamp;
use kuramori_model::ids::{RunId, Sequence};
use serde::{Deserialize, Serialize};

/// What one run read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunFacts {
    /// Bytes of content that the restore point holds (before deduplication).
    pub bytes: u64,
    /// Nobody told how many: another product's result without a size. `bytes` is 0 then and says nothing.
    pub size_untold: bool,
    /// Files in the restore point.
    pub files: u64,
    /// Bytes that were new to the repository, if the writer tells.
    pub added: Option<u64>,
    /// Items that could not be read.
    pub faults: u64,
    /// Digest over names and content (for example the tree's id): equal means the same dump.
    pub digest: Option<String>,
    /// Which instance it is: PostgreSQL's system identifier, the share's and folder's id.
    pub identity: Option<String>,
    /// The vendor's marker that says "the dump is finished".
    pub marker: Option<Marker>,
    /// The newest change among the dump's files, by the source's own clock.
    pub newest: Option<Timestamp>,
    /// When the sender says that it was taken; for people only, never for order or age.
    pub sent: Option<Timestamp>,
    /// Files that changed while they were read or after the marker was written.
    pub moved: u64,
    /// Items that were changed although their name promises that they never change (pictures by their UID).
    pub replaced: u64,
    /// How long the department's own service took to answer before and during the run, in microseconds.
    pub felt: Option<Felt>,
    /// Why the reader believes that the data ends too early (missing end mark, announced size not reached).
    pub truncated: Option<String>,
}

/// How much the department felt, in microseconds of its own service's answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Felt {
    /// The median before the run.
    pub before_p50_us: u64,
    /// 99 of 100 before the run.
    pub before_p99_us: u64,
    /// The median during the run.
    pub during_p50_us: u64,
    /// 99 of 100 during the run.
    pub during_p99_us: u64,
    /// Questions during the run that were not answered.
    pub unanswered: u64,
    /// Seconds in which the reader slowed down for it.
    pub slowed_s: u64,
}

/// A marker file or end record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Marker {
    /// Its name.
    pub name: String,
    /// When it was written, by the source's own clock.
    pub written: Option<Timestamp>,
    /// Digest of its content, or of name and time where it is empty: the same twice is yesterday's.
    pub digest: Option<String>,
}

/// A restore point that the receiver has committed, with what was read for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The receiver's order.
    pub sequence: Sequence,
    /// The receiver's time.
    pub received: Timestamp,
    /// Whether everything was read.
    pub complete: bool,
    /// The run that made it; none for a stock restic client.
    pub run: Option<RunId>,
    /// What was read.
    pub facts: RunFacts,
}
