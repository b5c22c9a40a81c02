//! A file's content on its last step: pieces that arrive become what the sink reads.

use std::io::Read;

use bytes::Bytes;
use crossbeam_channel::Receiver;

use super::{
    fetch::Piece,
    io::Io,
    link::{Failure, Trouble},
    walk::Tally,
};
use crate::{Error, Phase, Progress};

/// Shows progress while a file is read.
pub(super) struct Tick<'a> {
    pub(super) tally: &'a Tally,
    pub(super) total: Option<(u64, u64)>,
    pub(super) next: u64,
}

impl Tick<'_> {
    pub(super) fn show(&self, io: &Io, given: u64, path: &str) {
        (io.control().progress)(&Progress {
            phase: Phase::Reading,
            items: self.tally.items,
            bytes: self.tally.bytes + given,
            total: self.total,
            path,
        });
    }
}

/// Why a file ended early.
pub(super) enum Stop {
    Item(Trouble),
    Run(Error),
}

/// A file's pieces as the sink reads them.
pub(super) struct Content<'a> {
    pub(super) io: &'a Io,
    pub(super) pieces: Receiver<Piece>,
    pub(super) shown: String,
    pub(super) now: Bytes,
    pub(super) given: u64,
    pub(super) ended: bool,
    pub(super) failed: Option<Stop>,
    pub(super) tick: Tick<'a>,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.now.is_empty() {
            if self.ended {
                return Ok(0);
            }
            let stop = match self.failed {
                Some(_) => return Err(std::io::Error::other("the file's content ended early")),
                None => match self.io.wait(&self.pieces, &self.shown) {
                    Ok(Piece::Data(data, _permit)) => {
                        self.now = data;
                        continue;
                    }
                    Ok(Piece::End) => {
                        self.ended = true;
                        continue;
                    }
                    Ok(Piece::Opened(_)) => continue,
                    Ok(Piece::Failed(Failure::Item(trouble))) => Stop::Item(trouble),
                    Ok(Piece::Failed(Failure::Fatal)) => Stop::Run(self.io.fatal(&self.shown)),
                    Err(error) => Stop::Run(error),
                },
            };
            let text = match &stop {
                Stop::Item(trouble) => trouble.text(),
                Stop::Run(error) => error.to_string(),
            };
            self.failed = Some(stop);
            return Err(std::io::Error::other(text));
        }
        let length = buffer.len().min(self.now.len());
        buffer[..length].copy_from_slice(&self.now.split_to(length));
        self.given += length as u64;
        if self.given >= self.tick.next {
            self.tick.next = self.given + (8 << 20);
            self.tick.show(self.io, self.given, &self.shown);
        }
        Ok(length)
    }
}
