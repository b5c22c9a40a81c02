//! The latch beside the log: one block of a file that exists before it is needed, so that a lock or a fault
//! outlives a restart although the log's disk is full.
//!
//! Format: 512 bytes, one JSON object padded with spaces: `{"incident":3,"latch":{…}}` while latched,
//! `{"incident":3}` after its release, blank before the first. It is overwritten in place and synced. What
//! cannot be read counts as latched.

use std::{
    io::{Seek, Write},
    path::{Path, PathBuf},
};

use fs_err::OpenOptions;
use serde::{Deserialize, Serialize};

use crate::machine::Latch;

/// One sector: written whole or not at all.
const SIZE: usize = 512;
/// A reason is cut to this many characters.
const REASON: usize = 80;

/// What the block says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// The newest incident that was latched or released.
    pub incident: u64,
    /// The latch that nobody released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latch: Option<Latch>,
}

/// Where the block of this log lies.
pub fn beside(log: &Path) -> PathBuf {
    log.with_extension("latch")
}

/// Reads the block. `Ok(None)`: never written. An error: it is there and says nothing that we understand.
pub fn read(path: &Path) -> std::io::Result<Option<Block>> {
    let bytes = match fs_err::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if bytes.iter().all(|byte| *byte == b' ') {
        return Ok(None);
    }
    serde_json::from_slice(&bytes).map(Some).map_err(std::io::Error::other)
}

/// Makes sure that the block has its place on the disk.
pub fn reserve(path: &Path) -> std::io::Result<()> {
    match fs_err::metadata(path) {
        Ok(found) if found.len() == SIZE as u64 => Ok(()),
        _ => write_bytes(path, &[b' '; SIZE]),
    }
}

/// Writes the block in place.
pub fn write(path: &Path, block: &Block) -> std::io::Result<()> {
    let mut block = block.clone();
    if let Some(latch) = &mut block.latch {
        latch.reason = latch.reason.chars().filter(|c| !c.is_control()).take(REASON).collect();
    }
    let mut bytes = serde_json::to_vec(&block)?;
    if bytes.len() > SIZE {
        return Err(std::io::Error::other("the latch is larger than its block"));
    }
    bytes.resize(SIZE, b' ');
    write_bytes(path, &bytes)
}

fn write_bytes(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.rewind()?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_read_as_it_was_written_and_damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = beside(&folder.path().join("gate.jsonl"));
        assert_eq!(read(&path).unwrap(), None);
        reserve(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None, "reserved, not written");
        let latch = Latch { incident: 7, lockdown: true, reason: "蔵\"\n".repeat(400) };
        write(&path, &Block { incident: 7, latch: Some(latch) }).unwrap();
        assert_eq!(fs_err::metadata(&path).unwrap().len(), SIZE as u64);
        let block = read(&path).unwrap().unwrap();
        assert!(block.incident == 7 && block.latch.is_some_and(|latch| latch.lockdown));
        let released = Block { incident: 7, latch: None };
        write(&path, &released).unwrap();
        assert_eq!(read(&path).unwrap(), Some(released), "nothing of the longer text is left");
        reserve(&path).unwrap();
        assert!(read(&path).unwrap().is_some(), "a place that exists is left as it is");
        fs_err::write(&path, b"{\"incident\":7").unwrap();
        assert!(read(&path).is_err());
    }
}
