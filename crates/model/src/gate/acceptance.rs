//! What an acceptance test of one layer found, on the very device that guards this vault.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Layer;

/// One trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trial {
    /// The device is the configured one and its state can be read.
    Reads,
    /// After the order to close, it reads closed and the independent witness agrees, in this order.
    Closes,
    /// After the order to open, it reads open and the witness agrees.
    Opens,
    /// It never reads closed while the witness still sees it open.
    StatusIsNotAhead,
    /// The process that holds it open is killed: does it close by itself?
    Killed,
    /// The process that holds it open is frozen: does it close by itself?
    Frozen,
    /// The device restarts: does it come up closed and stay so?
    Rebooted,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it must be.
    Passed,
    /// Not as it must be: the layer must not be relied on.
    Failed,
    /// The device does not do this; nothing is claimed of it.
    Absent,
    /// Not tried, and why is in the words.
    NotTried,
}

/// One line of the certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What was tried.
    pub trial: Trial,
    /// How it ended.
    pub outcome: Outcome,
    /// Seconds that it took, where that means something.
    pub seconds: Option<f64>,
    /// What was seen, for evidence.
    pub seen: String,
}

/// The record of one acceptance test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The layer.
    pub layer: Layer,
    /// The device as the configuration names it.
    pub source: String,
    /// The layer's configuration when it was tested: another device or port needs another test.
    pub bound_to: String,
    /// When it ended, wall clock, for people.
    pub at: Timestamp,
    /// What saw the effect besides the device's own words; none if nothing could.
    pub witness: Option<String>,
    /// The trials in their order.
    pub findings: Vec<Finding>,
    /// Seconds after which the layer closed by itself, killed and frozen, at most. None: no dead-man.
    pub dead_man_s: Option<f64>,
}

impl Acceptance {
    /// Nothing failed, and what makes a layer was really tried.
    pub fn passed(&self) -> bool {
        let passed =
            |trial| self.findings.iter().any(|one| one.trial == trial && one.outcome == Outcome::Passed);
        self.findings.iter().all(|one| one.outcome != Outcome::Failed)
            && passed(Trial::Reads)
            && passed(Trial::Closes)
            && passed(Trial::Opens)
    }

    /// Whether this test shows a dead-man of a layer that is configured like this.
    pub fn shows_dead_man(&self, bound_to: &str) -> bool {
        self.passed() && self.bound_to == bound_to && self.dead_man_s.is_some()
    }
}
