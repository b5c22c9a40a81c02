//! The file under an overlay, or what stands for it in a simulation.

use std::{fmt::Debug, fs::File, io, os::unix::fs::FileExt};

use rustix::{
    fs::{FallocateFlags, SeekFrom},
    io::Errno,
};

pub(super) trait Medium: Debug + Send + Sync {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Makes a range read as zeros without room; `false` if the medium cannot do that.
    fn punch(&self, offset: u64, length: u64) -> io::Result<bool>;
    /// Makes durable what was written before.
    fn sync(&self) -> io::Result<()>;
    /// How far the run from `offset` goes, at most `length`, and whether it may be more than zeros.
    fn run(&self, offset: u64, length: u64) -> (u64, bool);
}

#[derive(Debug)]
pub(super) struct FileMedium(pub(super) File);

impl Medium for FileMedium {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<bool> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.0, how, offset, length)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn run(&self, offset: u64, length: u64) -> (u64, bool) {
        let end = offset + length;
        // The position that this moves is used by nobody. A failure means only that we do not know.
        match rustix::fs::seek(&self.0, SeekFrom::Data(offset)) {
            Ok(data) if data > offset => (data.min(end) - offset, false),
            Err(Errno::NXIO) => (length, false),
            Ok(_) => match rustix::fs::seek(&self.0, SeekFrom::Hole(offset)) {
                Ok(hole) if hole > offset => (hole.min(end) - offset, true),
                _ => (length, true),
            },
            Err(_) => (length, true),
        }
    }
}
