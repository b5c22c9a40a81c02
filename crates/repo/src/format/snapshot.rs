//! Snapshot files: the restore points.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Flaw, blob::BlobId};
use crate::store::FileId;

/// The content of a snapshot file. Its id is the file's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was taken, by the writer's clock: for people, never for retention of foreign writers.
    pub time: Timestamp,
    /// The snapshot against which unchanged files were found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<FileId>,
    /// The root folder.
    pub tree: BlobId,
    /// What was asked to be kept.
    #[serde(deserialize_with = "null_is_empty", default)]
    pub paths: Vec<String>,
    /// The source's machine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// The source's user.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The source's user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The source's group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Patterns of what was left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub excludes: Vec<String>,
    /// Labels; ours begin with `kuramori.`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub tags: Vec<String>,
    /// The snapshot that this one was rewritten from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<FileId>,
    /// The writing program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program_version: String,
    /// What the run did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// The tag of a restore point in which items are missing.
pub const INCOMPLETE: &str = "kuramori.incomplete";

impl Snapshot {
    /// Whether items of the source are missing (rule E4).
    pub fn is_incomplete(&self) -> bool {
        self.tags.iter().any(|tag| tag == INCOMPLETE)
    }
}

/// What a backup did, in restic's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Start of the run.
    pub backup_start: Timestamp,
    /// End of the run.
    pub backup_end: Timestamp,
    /// Files that the parent did not have.
    pub files_new: u64,
    /// Files that differ from the parent's.
    pub files_changed: u64,
    /// Files taken over from the parent unread.
    pub files_unmodified: u64,
    /// Folders that the parent did not have.
    pub dirs_new: u64,
    /// Folders that differ from the parent's.
    pub dirs_changed: u64,
    /// Folders equal to the parent's.
    pub dirs_unmodified: u64,
    /// Data blobs that were new.
    pub data_blobs: u64,
    /// Tree blobs that were new.
    pub tree_blobs: u64,
    /// Plain bytes of the new blobs.
    pub data_added: u64,
    /// Stored bytes of the new blobs.
    pub data_added_packed: u64,
    /// All files.
    pub total_files_processed: u64,
    /// Bytes of all files.
    pub total_bytes_processed: u64,
}

/// Go writes `null` for a list that it never made.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Writes the JSON of a snapshot.
pub fn encode(snapshot: &Snapshot) -> Result<Vec<u8>, Flaw> {
    Ok(serde_json::to_vec(snapshot)?)
}

/// Reads the JSON of a snapshot.
pub fn decode(json: &[u8]) -> Result<Snapshot, Flaw> {
    Ok(serde_json::from_slice(json)?)
}
