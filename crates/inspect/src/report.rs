//! What an inspection says.

use serde::{Deserialize, Serialize};

use crate::class::Class;

/// What is said of a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// 清浄確認済み: nothing speaks against it.
    Clean,
    /// 汚染の疑い: somebody tampered with it, or something did what tampering does.
    Suspect,
    /// Files are cut off or incomplete, without a sign of tampering.
    Corrupt,
}

impl Verdict {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Suspect => "suspect",
            Self::Corrupt => "corrupt",
        }
    }
}

/// The rules by number; see the crate's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rule {
    /// Immutable objects.
    D1,
    /// Structure.
    D2,
    /// Kinds.
    D3,
    /// Cipher text in text.
    D4,
    /// Behaviour.
    D5,
    /// Planted files.
    D6,
    /// Notes and extensions: never decides.
    D7,
    /// Little by little.
    D8,
}

/// One file that speaks against the point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Path in the restore point.
    pub path: String,
    /// By which rule.
    pub rule: Rule,
    /// Where in the file, in bytes.
    pub offset: Option<u64>,
    /// In words.
    pub why: String,
    /// What it was, as far as known.
    pub before: Option<Class>,
    /// What it is; none if it is gone.
    pub now: Option<Class>,
    /// The newest clean point that holds a good version; none for a new file.
    pub last_good: Option<u64>,
    /// The first point in which it is bad.
    pub first_bad: u64,
}

/// A rule that spoke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// Which.
    pub rule: Rule,
    /// Whether it decides the verdict or only supports it.
    pub decides: bool,
    /// How many files or events.
    pub count: u64,
    /// In words.
    pub why: String,
}

/// Counts of one inspection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Files in the point.
    pub files: u64,
    /// Files that the last clean point did not have.
    pub added: u64,
    /// Files whose content differs from the last clean point's.
    pub changed: u64,
    /// Files that are gone.
    pub removed: u64,
    /// Files that are elsewhere, unchanged.
    pub moved: u64,
    /// Files with a new name beside the old one, changed or not.
    pub renamed: u64,
    /// Changed without a new size or time of change.
    pub quiet: u64,
    /// Rewritten, and of a kind whose content no structure vouches for.
    pub rewritten: u64,
    /// Files that were read.
    pub read: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes of added and changed files.
    pub new_bytes: u64,
    /// Largest share of the changed files that changed within ten minutes.
    pub burst: f64,
}

/// The result of an inspection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The verdict; none if the byte budget ended first.
    pub verdict: Option<Verdict>,
    /// The point's number.
    pub point: u64,
    /// The last clean point that it was compared with; none for the first one, which is only checked by
    /// itself.
    pub previous: Option<u64>,
    /// The oldest clean point that it was compared with.
    pub oldest: Option<u64>,
    /// Rules that spoke, deciding ones first.
    pub hits: Vec<Hit>,
    /// Files, at most 200 of them, the most telling first.
    pub evidence: Vec<Evidence>,
    /// How many there are.
    pub evidence_total: u64,
    /// The newest clean point before the trouble began.
    pub last_good: Option<u64>,
    /// The first point in which something is bad.
    pub first_bad: Option<u64>,
    /// Counts.
    pub figures: Figures,
}

impl Report {
    /// Whether an earlier point, found clean when it came, is bad by what was found now: tampering that began
    /// at it or before it. Damage without tampering says nothing about earlier points.
    pub fn condemns(&self, earlier: u64) -> bool {
        self.verdict == Some(Verdict::Suspect)
            && earlier < self.point
            && self.first_bad.is_some_and(|first| first <= earlier)
    }

    /// Whether a rule decides this verdict.
    pub fn decided_by(&self, rule: Rule) -> bool {
        self.hits.iter().any(|hit| hit.rule == rule && hit.decides)
    }
}
