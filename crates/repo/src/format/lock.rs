//! Lock files: who works in the repository.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Flaw;

/// The content of a lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// When it was made or last renewed, by the holder's clock.
    pub time: Timestamp,
    /// Whether nobody else may work beside.
    pub exclusive: bool,
    /// The holder's machine.
    #[serde(default)]
    pub hostname: String,
    /// The holder's user.
    #[serde(default)]
    pub username: String,
    /// The holder's process.
    #[serde(default)]
    pub pid: i64,
    /// The holder's user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The holder's group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// Writes the JSON of a lock.
pub fn encode(lock: &Lock) -> Result<Vec<u8>, Flaw> {
    Ok(serde_json::to_vec(lock)?)
}

/// Reads the JSON of a lock.
pub fn decode(json: &[u8]) -> Result<Lock, Flaw> {
    Ok(serde_json::from_slice(json)?)
}
