//! The server's data as parts (archives, manifest) that can be read one after the other.
//!
//! Version 15 and later send one stream in which the first byte of each piece says what it is; earlier
//! ones send a stream for each part.

use std::io::{self, Read};

use bytes::Bytes;
use postgres_protocol::message::backend::Message;

use super::session::Session;
use crate::{Error, control::Bucket};

/// What comes next in the stream.
pub(super) enum Part {
    Archive(String),
    Manifest,
    End,
}

/// The server's data as one part after the other; reading ends at each part's end.
pub(super) struct Copy<'a> {
    pub(super) session: &'a mut Session,
    bucket: &'a Bucket,
    /// Data has a kind in its first byte (version 15).
    tagged: bool,
    now: Bytes,
    next: Option<Part>,
    /// Why reading failed, behind the `io::Error` that a sink sees.
    pub(super) failed: Option<Error>,
}

impl<'a> Copy<'a> {
    pub(super) fn new(session: &'a mut Session, bucket: &'a Bucket, tagged: bool) -> Self {
        Self { session, bucket, tagged, now: Bytes::new(), next: None, failed: None }
    }

    /// The part that follows.
    pub(super) fn part(&mut self) -> Result<Part, Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.next.take().ok_or_else(|| self.session.line.broken("data outside of any part".into()))
    }

    /// Nothing but the stream's end may follow.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        let rest = io::copy(self, &mut io::sink());
        match self.part()? {
            Part::End if rest.is_ok_and(|rest| rest == 0) => Ok(()),
            _ => Err(self.session.line.broken("data after an archive's end".into())),
        }
    }

    /// The reason behind an error of [`Read`].
    pub(super) fn error(&mut self, error: &io::Error) -> Error {
        self.failed.take().unwrap_or_else(|| self.session.line.broken(error.to_string()))
    }

    fn advance(&mut self) -> Result<(), Error> {
        self.session.line.cancelled()?;
        let data = match self.session.receive()? {
            Message::CopyData(body) => body.into_bytes(),
            Message::CopyDone => {
                self.next = Some(Part::End);
                return Ok(());
            }
            other => return Err(self.session.unexpected(&other, "data")),
        };
        let wait = self.bucket.take(data.len() as u64);
        if !wait.is_zero() {
            self.session.line.pause(wait)?;
        }
        if !self.tagged {
            self.now = data;
            return Ok(());
        }
        match data.first() {
            Some(b'd') => self.now = data.slice(1..),
            Some(b'n') => {
                let name =
                    data.get(1..).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
                self.next = Some(Part::Archive(String::from_utf8_lossy(name).into_owned()));
            }
            Some(b'm') => self.next = Some(Part::Manifest),
            // How far it is, in bytes; we count ourselves.
            Some(b'p') => {}
            _ => return Err(self.session.line.broken("data of an unknown kind".into())),
        }
        Ok(())
    }
}

impl Read for Copy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            if self.failed.is_some() {
                return Err(io::Error::other("the stream ended early"));
            }
            if self.next.is_some() {
                return Ok(0);
            }
            if let Err(error) = self.advance() {
                let text = error.to_string();
                self.failed = Some(error);
                return Err(io::Error::other(text));
            }
        }
        let taken = buffer.len().min(self.now.len());
        buffer[..taken].copy_from_slice(&self.now.split_to(taken));
        Ok(taken)
    }
}

/// Waits for the start of a stream.
pub(super) fn begin_copy(session: &mut Session) -> Result<(), Error> {
    match session.receive()? {
        Message::CopyOutResponse(_) => Ok(()),
        other => Err(session.unexpected(&other, "the start of data")),
    }
}
