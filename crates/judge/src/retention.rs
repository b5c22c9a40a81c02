//! What may be removed. (Types first; see below.)
use jiff::Timestamp;
use kuramori_model::ids::Sequence;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What inspection found in a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not inspected.
    Unknown,
    /// 清浄確認済み
    Clean,
    /// 汚染の疑い
    Suspect,
    /// Damaged.
    Corrupt,
}

impl Verdict {
    /// The stable name, as stored and as used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Clean => "clean",
            Self::Suspect => "suspect",
            Self::Corrupt => "corrupt",
        }
    }
}

/// A restore point as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The receiver's number.
    pub sequence: Sequence,
    /// The receiver's time.
    pub received: Timestamp,
    /// How long it has been there, by the receiver's accumulated time.
    pub age: Duration,
    /// Whether everything was read.
    pub complete: bool,
    /// What inspection found.
    pub verdict: Verdict,
}

/// How many generations are kept, and what must hold before one is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Newest daily generations.
    pub daily: u32,
    /// Newest weekly generations.
    pub weekly: u32,
    /// Newest monthly generations.
    pub monthly: u32,
    /// Nothing younger than this many days of the receiver's accumulated time is removed.
    pub min_days: u32,
    /// At most this many removals in one day of the receiver's accumulated time.
    pub removals_per_day: u32,
    /// Whether only an inspected, clean newer point allows a removal; otherwise a complete one that is
    /// neither suspect nor corrupt will do.
    pub needs_inspection: bool,
}

impl Default for Retention {
    fn default() -> Self {
        Self { daily: 14, weekly: 8, monthly: 6, min_days: 2, removals_per_day: 10, needs_inspection: false }
    }
}
