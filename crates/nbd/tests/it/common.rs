//! A disk in memory, servers, and the tools of QEMU and libnbd.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, RwLock},
};

use kuramori_model::{
    blocks::{BlockError, Blocks, Extent},
    clock::{Random, SeededRandom, SystemClock},
};
use kuramori_nbd::{Address, Export, Handle, Limits, Server};
use tempfile::TempDir;

/// Zeros in whole pieces of this size count as holes.
const GRAIN: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) bytes: RwLock<Vec<u8>>,
    pub(crate) writable: bool,
}

impl Memory {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes: RwLock::new(bytes), writable: false })
    }

    /// Data and holes in turn, of odd lengths.
    pub(crate) fn patchy(seed: u64, size: usize) -> Arc<Self> {
        Self::new(patchy(seed, size))
    }
}

pub(crate) fn patchy(seed: u64, size: usize) -> Vec<u8> {
    let random = SeededRandom::new(seed);
    let mut bytes = vec![0; size];
    let mut at = 0;
    while at < size {
        let length = (random.below(900_000) as usize + 1).min(size - at);
        if random.below(3) > 0 {
            random.fill(&mut bytes[at..at + length]);
        }
        at += length;
    }
    bytes
}

impl Blocks for Memory {
    fn size(&self) -> u64 {
        self.bytes.read().unwrap().len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), BlockError> {
        self.check_range(offset, buffer.len() as u64)?;
        buffer.copy_from_slice(&self.bytes.read().unwrap()[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn extent(&self, offset: u64, length: u64) -> Result<Extent, BlockError> {
        let bytes = self.bytes.read().unwrap();
        let end = bytes.len().min((offset as usize / GRAIN + 1) * GRAIN);
        let grain = &bytes[offset as usize / GRAIN * GRAIN..end];
        let run = (end as u64 - offset).min(length);
        Ok(if grain.iter().all(|byte| *byte == 0) { Extent::hole(run) } else { Extent::data(run) })
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        self.check_range(offset, data.len() as u64)?;
        self.bytes.write().unwrap()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// A server on a unix socket in a folder of its own.
pub(crate) struct Served {
    pub(crate) dir: TempDir,
    pub(crate) handle: Handle,
}

pub(crate) fn socket(dir: &Path) -> PathBuf {
    dir.join("nbd.sock")
}

impl Served {
    pub(crate) fn new(exports: Vec<Export>, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::Unix(socket(dir.path()));
        let handle = Server::bind(&address, exports, limits, Arc::new(SystemClock)).unwrap().start().unwrap();
        Self { dir, handle }
    }

    pub(crate) fn one(blocks: Arc<dyn Blocks>) -> Self {
        Self::new(vec![export("disk", blocks)], Limits::default())
    }

    pub(crate) fn uri(&self, name: &str) -> String {
        self.handle.address().uri(name)
    }
}

pub(crate) fn export(name: &str, blocks: Arc<dyn Blocks>) -> Export {
    Export { name: name.to_owned(), description: "for a test".to_owned(), blocks }
}

/// Runs a program to its good end; gives what it printed.
pub(crate) fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("`{program}` is needed (scripts/setup test): {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {text} {errors}");
    text
}

pub(crate) fn at(path: &Path) -> &str {
    path.to_str().unwrap()
}
