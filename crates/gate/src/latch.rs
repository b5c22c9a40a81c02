//! The latch beside the log: one block of a file that exists before it is needed, so that a lock or a fault
//! outlives a restart although the log's disk is full.
//!
//! Format: 512 bytes, one JSON object padded with spaces: `{"incident":3,"latch":{…}}` while latched,
//! `{"incident":3}` after its release, blank before the first. It is overwritten in place and synced. What
//! cannot be read, or has another length, counts as latched, and only a release or another latch is ever
//! written over it.

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
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> std::io::Result<Option<Block>> {
    if bytes.len() != SIZE {
        return Err(std::io::Error::other(format!("the latch has {} bytes instead of {SIZE}", bytes.len())));
    }
    if bytes.iter().all(|byte| *byte == b' ') {
        return Ok(None);
    }
    serde_json::from_slice(bytes).map(Some).map_err(std::io::Error::other)
}

/// Makes sure that the block has its place on the disk: whole, or not at all. Whatever is there stays.
pub fn reserve(path: &Path) -> std::io::Result<()> {
    if fs_err::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    let early = path.with_extension("latch-new");
    write_bytes(&early, &[b' '; SIZE])?;
    fs_err::rename(&early, path)?;
    match path.parent() {
        Some(folder) => fs_err::File::open(folder)?.sync_all(),
        None => Ok(()),
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
    if file.metadata()?.len() != SIZE as u64 {
        file.set_len(SIZE as u64)?;
    }
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
        fs_err::write(&path, b"").unwrap();
        assert!(read(&path).is_err(), "emptied is not blank");
        reserve(&path).unwrap();
        assert!(read(&path).is_err(), "and no start makes it blank");
        write(&path, &Block { incident: 8, latch: None }).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().incident, 8);
    }

    /// A power cut may leave the beginning of the new block and the end of the old one, or the other way.
    #[test]
    fn however_a_write_over_a_latched_block_is_torn_it_stays_latched() {
        let folder = tempfile::tempdir().unwrap();
        let path = beside(&folder.path().join("gate.jsonl"));
        let block = |incident, reason: &str| {
            let latch = Latch { incident, lockdown: true, reason: reason.to_owned() };
            write(&path, &Block { incident, latch: Some(latch) }).unwrap();
            fs_err::read(&path).unwrap()
        };
        for (old, new) in [(block(9, "a"), block(10, "longer")), (block(7, "longer"), block(8, "b"))] {
            for cut in 0..SIZE {
                for (first, second) in [(&new, &old), (&old, &new)] {
                    let read = parse(&[&first[..cut], &second[cut..]].concat());
                    assert!(!matches!(&read, Ok(None | Some(Block { latch: None, .. }))), "{cut}: {read:?}");
                }
                assert!(parse(&new[..cut]).is_err(), "cut short at {cut}");
            }
        }
    }
}
