//! A stream with a position, and the flaws that reading can bring.

use std::io::{self, BufRead, Read};

use super::{Flaw, FlawKind};

/// The stream of one file.
pub(crate) struct Input<'a> {
    inner: &'a mut dyn BufRead,
    at: u64,
    length: u64,
}

impl<'a> Input<'a> {
    pub(super) fn new(inner: &'a mut dyn BufRead, length: u64) -> Self {
        Self { inner, at: 0, length }
    }

    /// Bytes read so far.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// The file's size.
    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// Bytes that are left.
    pub(super) const fn left(&self) -> u64 {
        self.length.saturating_sub(self.at)
    }

    /// Something that cannot be, here.
    pub(super) fn garbled(&self, why: impl Into<String>) -> Flaw {
        Flaw { at: self.at, kind: FlawKind::Garbled, why: why.into() }
    }

    /// The end, here, where it must not be.
    pub(super) fn cut(&self, why: impl Into<String>) -> Flaw {
        Flaw { at: self.at, kind: FlawKind::Cut, why: why.into() }
    }

    /// What a failed read means: an end too early, or bytes that a decoder refuses.
    pub(super) fn flaw(&self, error: &io::Error) -> Flaw {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            self.cut("it ends too early")
        } else {
            self.garbled(error.to_string())
        }
    }

    /// Exactly `N` bytes.
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Exactly as many bytes as the buffer has.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Flaw> {
        self.read_exact(buffer).map_err(|error| self.flaw(&error))
    }

    /// The next bytes without taking them; empty at the end.
    pub(super) fn peek(&mut self) -> Result<&[u8], Flaw> {
        let at = self.at;
        match self.inner.fill_buf() {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(Flaw { at, kind: FlawKind::Cut, why: error.to_string() }),
        }
    }

    /// One byte, none at the end.
    pub(super) fn byte(&mut self) -> Result<Option<u8>, Flaw> {
        let byte = self.peek()?.first().copied();
        if byte.is_some() {
            self.consume(1);
        }
        Ok(byte)
    }

    /// Passes `count` bytes by, giving each piece to `see`.
    pub(super) fn pass(&mut self, mut count: u64, mut see: impl FnMut(&[u8])) -> Result<(), Flaw> {
        if count > self.left() {
            return Err(self.cut(format!("{count} bytes are announced and {} are left", self.left())));
        }
        while count > 0 {
            let bytes = self.peek()?;
            if bytes.is_empty() {
                return Err(self.cut("it ends too early"));
            }
            let size = usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len());
            see(&bytes[..size]);
            self.consume(size);
            count -= size as u64;
        }
        Ok(())
    }

    /// Passes `count` bytes by.
    pub(super) fn skip(&mut self, count: u64) -> Result<(), Flaw> {
        self.pass(count, |_| ())
    }

    /// The end must be here.
    pub(super) fn end(&mut self) -> Result<(), Flaw> {
        if self.peek()?.is_empty() {
            Ok(())
        } else {
            let why = format!("{} more bytes after its end", self.left());
            Err(Flaw { at: self.at, kind: FlawKind::Trailing, why })
        }
    }

    /// The end must be here; zeros up to it (a medium's padding) are let pass.
    pub(super) fn end_or_zeros(&mut self) -> Result<(), Flaw> {
        let at = self.at;
        loop {
            let bytes = self.peek()?;
            if bytes.is_empty() {
                return Ok(());
            }
            if bytes.iter().any(|byte| *byte != 0) {
                let why = format!("{} more bytes after its end", self.length.saturating_sub(at));
                return Err(Flaw { at, kind: FlawKind::Trailing, why });
            }
            let size = bytes.len();
            self.consume(size);
        }
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.inner.read(buffer)?;
        self.at += size as u64;
        Ok(size)
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        self.at += amount as u64;
    }
}
