//! What a pull did.

use kuramori_model::finding::Finding;
use serde::Serialize;

/// What one repository brought.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Brought {
    /// Its name.
    pub name: String,
    /// First seen in this pull.
    pub new: bool,
    /// Packs, index files and snapshots that came.
    pub files: u64,
    /// Their bytes, without what was cut off.
    pub bytes: u64,
    /// Snapshots among them.
    pub snapshots: u64,
    /// Files that the primary listed and that are not here yet.
    pub backlog_files: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
    /// How often it was listed anew.
    pub relists: u32,
    /// Everything that was listed is here.
    pub finished: bool,
    /// Why not, if something failed.
    pub why: Option<String>,
}

/// What a pull did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Pulled {
    /// Each repository, in restore order.
    pub repositories: Vec<Brought>,
    /// Bytes of file content that came, also of transfers that were cut off.
    pub bytes: u64,
    /// What a person must hear.
    pub findings: Vec<Finding>,
}

/// Examples of one finding that are kept; a primary with ten thousand damaged files must not make the record
/// of a window, and with it the report, too large to be read.
const EXAMPLES: usize = 5;

/// Adds findings, but no more than a few that only differ in their figures.
pub(super) fn gather(all: &mut Vec<Finding>, more: impl IntoIterator<Item = Finding>) {
    for finding in more {
        let key = finding.key();
        if all.iter().filter(|known| known.key() == key).count() < EXAMPLES {
            all.push(finding);
        }
    }
}
