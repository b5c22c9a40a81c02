//! What a walk over local files needs, what it tells, and how it reads.

use std::{
    io::{self, Read},
    os::fd::OwnedFd,
};

use kuramori_model::tree::{FileTime, SinkError};

use crate::Error;

/// What a walk needs from outside.
pub struct Hooks<'a> {
    /// Whether it may go on.
    pub going: &'a (dyn Fn() -> bool + Sync),
    /// Is told of each piece of content before it is used; waits to keep a pace.
    pub pace: &'a (dyn Fn(u64) + Sync),
    /// Is told of each item that is done.
    pub seen: &'a (dyn Fn(&Given, &str) + Sync),
    /// Something that a person should know and that does not make the restore point incomplete.
    pub note: &'a (dyn Fn(String, String) + Sync),
}

impl std::fmt::Debug for Hooks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// What was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Items, folders included.
    pub items: u64,
    /// Files among them.
    pub files: u64,
    /// Bytes of their content, kept files included.
    pub bytes: u64,
    /// Files that the sink knew.
    pub kept: u64,
    /// Newest change of a file.
    pub newest: FileTime,
    /// Items that could not be read.
    pub faults: u64,
    /// The first hundred of them, with the reason.
    pub listed: Vec<(String, String)>,
    /// Files that changed while they were read, each time.
    pub restless: u64,
}

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
pub enum GiveError {
    /// A named path, a pattern.
    #[error(transparent)]
    Local(#[from] Error),
    /// The sink takes no more.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// A file's content at the pace that the hooks ask for.
pub(super) struct Paced<'a> {
    pub(super) file: &'a OwnedFd,
    pub(super) hooks: &'a Hooks<'a>,
    pub(super) bytes: u64,
    pub(super) failed: Option<String>,
}

impl Read for Paced<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !(self.hooks.going)() {
            return Err(io::Error::other("cancelled"));
        }
        // Small enough that a slow pace does not come in bursts.
        let most = buffer.len().min(256 << 10);
        match rustix::io::retry_on_intr(|| rustix::io::read(self.file, &mut buffer[..most])) {
            Ok(length) => {
                self.bytes += length as u64;
                (self.hooks.pace)(length as u64);
                Ok(length)
            }
            Err(error) => {
                let error = io::Error::from(error);
                self.failed = Some(error.to_string());
                Err(error)
            }
        }
    }
}
