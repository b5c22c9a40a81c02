//! A file of a restore point as a stream of bytes, one blob in memory at a time.

use std::io::{self, BufRead, Read};

use kuramori_repo::{
    Cancel, Error as RepoError, Indexed, Repository,
    format::blob::{BlobId, BlobKind},
    progress::Progress,
};

use crate::statistics::Statistics;

/// What all reading of one inspection shares.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    pub(crate) repository: &'a Repository<Indexed>,
    pub(crate) cancel: &'a Cancel,
    pub(crate) progress: &'a Progress,
    /// Bytes that may still be read.
    pub(crate) left: std::cell::Cell<u64>,
}

/// The stream. Every byte that passes is counted by [`Statistics`].
#[derive(Debug)]
pub(crate) struct Content<'a> {
    meter: &'a Meter<'a>,
    blobs: std::slice::Iter<'a, BlobId>,
    blob: Vec<u8>,
    at: usize,
    pub(crate) statistics: Statistics,
    fault: Option<RepoError>,
    spent: bool,
}

impl<'a> Content<'a> {
    pub(crate) fn new(meter: &'a Meter<'a>, blobs: &'a [BlobId]) -> Self {
        Self {
            meter,
            blobs: blobs.iter(),
            blob: Vec::new(),
            at: 0,
            statistics: Statistics::default(),
            fault: None,
            spent: false,
        }
    }

    /// Reads what no parser wanted, so that the statistics cover the whole file.
    pub(crate) fn drain(&mut self) {
        loop {
            match self.fill_buf() {
                Ok([]) | Err(_) => break,
                Ok(bytes) => {
                    let size = bytes.len();
                    self.consume(size);
                }
            }
        }
        self.statistics.end();
    }

    /// What the repository said, if a read failed.
    pub(crate) fn fault(&mut self) -> Option<RepoError> {
        self.fault.take()
    }

    /// Whether the byte budget ended inside of this file.
    pub(crate) const fn spent(&self) -> bool {
        self.spent
    }
}

impl BufRead for Content<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.blob.len() {
            if self.fault.is_some() || self.spent {
                return Err(io::Error::other("the restore point cannot be read"));
            }
            let Some(id) = self.blobs.next() else { return Ok(&[]) };
            let meter = self.meter;
            let load = || {
                meter.cancel.check()?;
                meter.repository.load_blob(BlobKind::Data, id)
            };
            match load() {
                Ok(bytes) => {
                    let size = bytes.len() as u64;
                    if size > meter.left.get() {
                        self.spent = true;
                        return Err(io::Error::other("the budget is spent"));
                    }
                    meter.left.set(meter.left.get() - size);
                    meter.progress.done(0, size);
                    (self.blob, self.at) = (bytes, 0);
                }
                Err(error) => {
                    self.fault = Some(error);
                    return Err(io::Error::other("the restore point cannot be read"));
                }
            }
        }
        Ok(&self.blob[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        let end = (self.at + amount).min(self.blob.len());
        self.statistics.take(&self.blob[self.at..end]);
        self.at = end;
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let size = bytes.len().min(buffer.len());
        buffer[..size].copy_from_slice(&bytes[..size]);
        self.consume(size);
        Ok(size)
    }
}
