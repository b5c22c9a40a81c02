//! How much a departmental system matters, and what kind of record it holds.
//!
//! The classes are the hospital's own words (最重要, 重要, 標準); the floor of generations per kind of data
//! is the example of the Ministry's Q&A (EHR 5, others 3), not a compliance item.

use serde::{Deserialize, Serialize};

/// Protection class (最重要 / 重要 / 標準). Orders by weight: `Critical` is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    /// 標準
    Standard,
    /// 重要
    Important,
    /// 最重要
    Critical,
}

impl Protection {
    /// The stable name, as stored and as used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Important => "important",
            Self::Critical => "critical",
        }
    }
}

/// What kind of record a system holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataClass {
    /// The electronic health record (電子カルテ).
    Ehr,
    /// Every other departmental system.
    Other,
}

impl DataClass {
    /// The stable name, as stored and as used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ehr => "ehr",
            Self::Other => "other",
        }
    }

    /// The number of generations under which we warn. A floor, not the default.
    pub const fn floor(self) -> u32 {
        match self {
            Self::Ehr => 5,
            Self::Other => 3,
        }
    }
}
