//! What a healthy backup of one system looks like. Part of the register; the defaults fit most systems.

use kuramori_model::ids::Sequence;
use serde::{Deserialize, Serialize};

/// The limits of a judgement for one system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expectations {
    /// Fewer bytes than this are never a backup of this system.
    pub min_bytes: u64,
    /// Fewer files than this are never a backup of this system.
    pub min_files: u64,
    /// The source changes every day: the same content twice is yesterday's dump. Off for archives that may
    /// rest on a quiet day.
    pub changes_daily: bool,
    /// Whether a quiet weekend or holiday may leave the content as it was.
    pub rests_on_weekends: bool,
    /// Which instance we expect. Empty: the one that earlier points showed.
    pub identity: Option<String>,
    /// Smaller than this share of what is usual (in percent) is "much smaller", if it also lies outside of
    /// what the history explains.
    pub shrink_percent: u8,
    /// Restore points whose smaller size a person accepted as the new usual (records went to an archive):
    /// from there on earlier sizes are compared in proportion.
    pub accepted_sizes: Vec<Sequence>,
    /// Seconds without any progress after which a running job hangs.
    pub silence_s: u64,
    /// How many unreadable items are accepted before the point counts as incomplete for an alarm; they are
    /// always reported.
    pub accepted_faults: u64,
    /// Seconds by which the vault's newest point may lag behind the primary's.
    pub vault_lag_s: u64,
}

impl Default for Expectations {
    fn default() -> Self {
        Self {
            min_bytes: 1,
            min_files: 1,
            changes_daily: true,
            rests_on_weekends: false,
            identity: None,
            shrink_percent: 70,
            accepted_sizes: Vec::new(),
            silence_s: 30 * 60,
            accepted_faults: 0,
            vault_lag_s: 30 * 3600,
        }
    }
}
