//! A pack while it grows: a file on disk without a name, so that a killed process leaves nothing behind.

use std::{
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use fs_err::File;
use rustix::fs::{Mode, OFlags};

use crate::{Error, Result};

/// A file that grows in a spool folder and vanishes when dropped, unless a store linked it into its place.
#[derive(Debug)]
pub struct Spool {
    file: File,
    len: u64,
}

impl Spool {
    /// Makes an empty spool file on the file system of `dir`.
    ///
    /// Uses Linux's `O_TMPFILE`; where the file system knows none (NFS, some FUSE), a named file that is
    /// unlinked at once, which a store then has to copy.
    pub fn new_in(dir: &Path) -> Result<Self> {
        Self::open_in(dir).map_err(|error| Error::io("make a spool file in", dir.to_string_lossy(), error))
    }

    pub(crate) fn open_in(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match rustix::fs::open(dir, flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => std::fs::File::from(fd),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
                tempfile::tempfile_in(dir)?
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self { file: File::from_parts(file, dir.join("(spool)")), len: 0 })
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads from the start, independent of other readers and of the writer's position.
    pub fn reader(&self) -> SpoolReader<'_> {
        SpoolReader { spool: self, offset: 0 }
    }

    /// Fills `buffer` from `offset`.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.file().read_exact_at(buffer, offset)
    }

    /// The open file, for a store that links or syncs it.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Reads a [`Spool`] from its start.
#[derive(Debug)]
pub struct SpoolReader<'a> {
    spool: &'a Spool,
    offset: u64,
}

impl Read for SpoolReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.spool.file.file().read_at(buffer, self.offset)?;
        self.offset += got as u64;
        Ok(got)
    }
}
