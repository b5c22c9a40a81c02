//! What the hospital says about a system, and the limits that decide.

use kuramori_model::units::Bytes;
use serde::Deserialize;

use crate::{canary::Canaries, error::Result, pattern::Pattern};

/// What the hospital says about one system.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Paths of files that never change once written: final reports, CDA archives, WORM folders.
    pub immutable: Vec<String>,
    /// Whether DICOM instances may be deleted, as an archive with a deletion policy does. Their pixels may
    /// never change in any case.
    pub dicom_may_vanish: bool,
    /// Planted files, if the hospital has planted them.
    pub canaries: Option<Canaries>,
    /// Most bytes that one inspection reads; a restore point that needs more gets no verdict.
    pub read_limit: Bytes,
}

impl Default for Policy {
    fn default() -> Self {
        Self { immutable: Vec::new(), dicom_may_vanish: false, canaries: None, read_limit: Bytes(u64::MAX) }
    }
}

impl Policy {
    /// The patterns, checked.
    ///
    /// # Errors
    /// [`crate::Error::Pattern`].
    pub fn patterns(&self) -> Result<Vec<Pattern>> {
        self.immutable.iter().map(|text| Pattern::new(text)).collect()
    }
}

/// The limits that decide. Fixed on seeds 0 to 99 of the generated sources; not for tuning by hand, since
/// each has been weighed against the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// One file that lost its kind is enough among up to this many examined ones.
    pub(crate) single_up_to: u64,
    /// One file that is broken inside is enough among up to this many.
    pub(crate) broken_single_up_to: u64,
    /// Above, this share of the examined files.
    pub(crate) share: f64,
    /// This many are always enough.
    pub(crate) enough: u64,
    /// New files that are wrong: how unlikely by chance, given how often it happened before.
    pub(crate) chance: f64,
    /// Renames with one new ending: at least so many …
    pub(crate) renames: u64,
    /// … and this share of all files.
    pub(crate) renames_share: f64,
    /// Deletions of one extension: more than this, and more than half of them.
    pub(crate) deletions: u64,
    /// Files rewritten that no structure vouches for: at least so many.
    pub(crate) rewritten: u64,
    /// Files changed behind their time of change: at least so many.
    pub(crate) quiet: u64,
    /// Points that must be known before behaviour is compared.
    pub(crate) history: usize,
    /// Files cut off: at least so many, and this share.
    pub(crate) cut: u64,
    /// Of the examined files.
    pub(crate) cut_share: f64,
    /// CUSUM: what is let pass per point.
    pub(crate) slack: f64,
    /// CUSUM: where it alarms.
    pub(crate) sum: f64,
}

pub(crate) const LIMITS: Limits = Limits {
    single_up_to: 200,
    broken_single_up_to: 200,
    share: 0.005,
    enough: 50,
    chance: 1e-4,
    renames: 20,
    renames_share: 0.01,
    deletions: 100,
    rewritten: 20,
    quiet: 5,
    history: 3,
    cut: 3,
    cut_share: 0.01,
    slack: 0.25,
    sum: 3.0,
};
