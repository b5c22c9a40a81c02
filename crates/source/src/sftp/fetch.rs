//! Reads files with many requests in flight.
//!
//! A file goes through two stages before its turn: it is opened, and its first [`WINDOW`] bytes are asked for.
//! A file that fits into the window is asked for as a whole, with a look before and after, without waiting;
//! it is handed on only when it is whole and was still the same, so it can be tried again unseen. A bigger one is handed on while it is read; when the session breaks it is
//! opened again and, if it is still the same file, read on.

use std::{collections::VecDeque, io::Read};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    link::{Link, Slip, Trouble, slip},
    wire::{Answer, Ask, Look, STATUS_EOF, STATUS_OK},
};
use crate::{Error, Phase, Progress};

/// One read.
const PIECE: u64 = 64 << 10;
/// What of one file may be asked for and not yet taken.
pub(super) const WINDOW: u64 = 1 << 20;

/// One read of a small file: what every server gives in one answer.
const SMALL_PIECE: u64 = 32 << 10;

/// A file on its way.
pub(super) struct Flight {
    path: Vec<u8>,
    /// The size that was listed.
    size: u64,
    generation: u32,
    open: Option<u32>,
    begun: Option<Begun>,
    quick: Option<Quick>,
}

struct Begun {
    handle: Vec<u8>,
    look: Look,
    reads: VecDeque<(u64, u64, u32)>,
    /// How far was asked.
    asked: u64,
}

/// A small file of which everything was asked for at once: its look, its pieces, its look again. A server
/// works off the requests of one session in order.
struct Quick {
    before: u32,
    reads: VecDeque<(u64, u32)>,
    after: u32,
}

impl Flight {
    /// Asks for the file to be opened.
    pub(super) fn launch(link: &mut Link, path: &[u8], size: u64) -> Result<Self, Slip> {
        let open = Some(link.send(&Ask::Open(path))?);
        let generation = link.generation;
        Ok(Self { path: path.to_owned(), size, generation, open, begun: None, quick: None })
    }

    fn is_stale(&self, link: &Link) -> bool {
        self.generation != link.generation
    }

    /// The handle, once it is open; opened again after a break.
    fn handle(&mut self, link: &mut Link) -> Result<Vec<u8>, Slip> {
        let open = match self.open.take() {
            Some(id) if !self.is_stale(link) => id,
            _ => {
                self.generation = link.generation;
                link.send(&Ask::Open(&self.path))?
            }
        };
        match link.wait(open)? {
            Answer::Handle(handle) => Ok(handle),
            Answer::Status { code, words } => Err(slip(code, &words)),
            _ => Err(Slip::Item(Trouble::Other("it was not opened".into()))),
        }
    }

    /// Asks for all of a small file, or for the first pieces of a big one.
    pub(super) fn begin(&mut self, link: &mut Link) -> Result<(), Slip> {
        if self.is_stale(link) {
            // What was asked in an older session is never answered.
            (self.begun, self.quick) = (None, None);
        }
        if self.begun.is_some() || self.quick.is_some() {
            return Ok(());
        }
        let handle = self.handle(link)?;
        if self.size <= WINDOW && !link.gives_less {
            let before = link.send(&Ask::StatOpen(&handle))?;
            let mut reads = VecDeque::new();
            let mut offset = 0;
            while offset < self.size {
                let length = SMALL_PIECE.min(self.size - offset);
                let id = link.send(&Ask::Read { handle: &handle, offset, length: small(length) })?;
                reads.push_back((length, id));
                offset += length;
            }
            let after = link.send(&Ask::StatOpen(&handle))?;
            let closed = link.send(&Ask::Close(&handle))?;
            link.forget(closed);
            self.quick = Some(Quick { before, reads, after });
            return Ok(());
        }
        let Answer::Look(look) = link.ask(&Ask::StatOpen(&handle))? else {
            return Err(Slip::Item(Trouble::Other("the server does not say what was opened".into())));
        };
        let mut begun = Begun { handle, look, reads: VecDeque::new(), asked: 0 };
        begun.ask_on(link)?;
        self.begun = Some(begun);
        Ok(())
    }

    /// Takes the answers of a small file.
    fn quickly(&mut self, link: &mut Link, quick: Quick) -> Result<Option<(Look, Bytes)>, Slip> {
        let look = match link.wait(quick.before)? {
            Answer::Look(look) => Some(look),
            _ => None,
        };
        let (mut content, mut trouble) = (BytesMut::new(), None);
        for (length, id) in quick.reads {
            match link.wait(id)? {
                Answer::Data(data) if data.len() as u64 == length => content.extend_from_slice(&data),
                Answer::Data(data) if !data.is_empty() => {
                    link.gives_less = true;
                    trouble.get_or_insert(Trouble::Changed);
                }
                Answer::Status { code: STATUS_EOF, .. } => drop(trouble.get_or_insert(Trouble::Changed)),
                Answer::Status { code, words } => {
                    if let Slip::Item(said) = slip(code, &words) {
                        trouble.get_or_insert(said);
                    }
                }
                _ => drop(trouble.get_or_insert(Trouble::Other("an answer of another kind".into()))),
            }
        }
        let after = link.wait(quick.after)?;
        if let Some(trouble) = trouble {
            return Err(Slip::Item(trouble));
        }
        match (look, after) {
            (Some(look), Answer::Look(after)) if look.same(&after) && look.size == content.len() as u64 => {
                Ok(Some((look, content.freeze())))
            }
            (Some(look), Answer::Look(_)) => {
                self.size = look.size;
                Err(Slip::Item(Trouble::Changed))
            }
            _ => Err(Slip::Item(Trouble::Other("the server does not say what was opened".into()))),
        }
    }

    fn close(&mut self, link: &mut Link) -> Result<(), Slip> {
        let stale = self.is_stale(link);
        if let Some(begun) = self.begun.take()
            && !stale
        {
            for (_, _, id) in begun.reads {
                link.forget(id);
            }
            let id = link.send(&Ask::Close(&begun.handle))?;
            link.forget(id);
        }
        if let Some(open) = self.open.take()
            && !stale
        {
            // Opened and not wanted: its handle is closed with the session.
            link.forget(open);
        }
        Ok(())
    }

    /// Whether it is still what it was when it was opened; closes it.
    fn unchanged(&mut self, link: &mut Link) -> Result<bool, Slip> {
        let Some(begun) = &self.begun else { return Ok(false) };
        let (handle, look) = (begun.handle.clone(), begun.look);
        let after = link.ask(&Ask::StatOpen(&handle))?;
        self.close(link)?;
        Ok(matches!(after, Answer::Look(after) if after.same(&look)))
    }

    /// The next bytes; none at the end.
    fn piece(&mut self, link: &mut Link) -> Result<Option<Bytes>, Slip> {
        let Some(begun) = &mut self.begun else { return Ok(None) };
        let Some((offset, length, id)) = begun.reads.pop_front() else { return Ok(None) };
        match link.wait(id)? {
            Answer::Data(data) if !data.is_empty() && data.len() as u64 <= length => {
                let came = data.len() as u64;
                if came < length {
                    // Servers may give less than was asked for; the rest comes before what follows.
                    let (offset, length) = (offset + came, length - came);
                    let id =
                        link.send(&Ask::Read { handle: &begun.handle, offset, length: small(length) })?;
                    begun.reads.push_front((offset, length, id));
                }
                begun.ask_on(link)?;
                Ok(Some(data))
            }
            Answer::Status { code: STATUS_EOF | STATUS_OK, .. } | Answer::Data(_) => {
                Err(Slip::Item(Trouble::Changed))
            }
            Answer::Status { code, words } => Err(slip(code, &words)),
            _ => Err(Slip::Item(Trouble::Other("an answer of another kind".into()))),
        }
    }

    /// The whole of a small file. Its look is the one under which it was opened.
    pub(super) fn whole(&mut self, link: &mut Link) -> Result<Option<(Look, Bytes)>, Slip> {
        self.begin(link)?;
        if let Some(quick) = self.quick.take() {
            return self.quickly(link, quick);
        }
        let look = match &self.begun {
            Some(begun) if begun.look.size <= WINDOW => begun.look,
            _ => return Ok(None),
        };
        let mut content = BytesMut::new();
        loop {
            match self.piece(link) {
                Ok(Some(piece)) => content.extend_from_slice(&piece),
                Ok(None) => break,
                Err(slip) => {
                    self.close(link)?;
                    return Err(slip);
                }
            }
        }
        if !self.unchanged(link)? {
            return Err(Slip::Item(Trouble::Changed));
        }
        Ok(Some((look, content.freeze())))
    }

    /// What was opened.
    pub(super) fn look(&self) -> Option<Look> {
        self.begun.as_ref().map(|begun| begun.look)
    }

    /// Opens it again after a break, from an offset on; false if it is another file now.
    fn resume(&mut self, link: &mut Link, look: &Look, offset: u64) -> Result<bool, Slip> {
        (self.begun, self.quick, self.open) = (None, None, None);
        self.generation = link.generation;
        let Answer::Handle(handle) = link.ask(&Ask::Open(&self.path))? else { return Ok(false) };
        let Answer::Look(now) = link.ask(&Ask::StatOpen(&handle))? else { return Ok(false) };
        if !now.same(look) {
            return Ok(false);
        }
        let mut begun = Begun { handle, look: now, reads: VecDeque::new(), asked: offset };
        begun.ask_on(link)?;
        self.begun = Some(begun);
        Ok(true)
    }
}

fn small(length: u64) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Begun {
    fn ask_on(&mut self, link: &mut Link) -> Result<(), Slip> {
        let waiting: u64 = self.reads.iter().map(|(_, length, _)| length).sum();
        let mut room = WINDOW.saturating_sub(waiting);
        while self.asked < self.look.size && room > 0 {
            let length = PIECE.min(self.look.size - self.asked).min(room);
            let id =
                link.send(&Ask::Read { handle: &self.handle, offset: self.asked, length: small(length) })?;
            self.reads.push_back((self.asked, length, id));
            self.asked += length;
            room -= length;
        }
        Ok(())
    }
}

/// Why a big file ended early.
pub(super) enum Stop {
    Item(Trouble),
    Run(Error),
}

/// A big file as the sink reads it.
pub(super) struct Content<'a> {
    pub(super) link: &'a mut Link,
    pub(super) flight: Flight,
    pub(super) look: Look,
    pub(super) shown: String,
    pub(super) now: Bytes,
    /// Bytes that came from the server.
    pub(super) came: u64,
    pub(super) ended: bool,
    pub(super) failed: Option<Stop>,
    /// Items and bytes of the run before this file, for progress.
    pub(super) before: (u64, u64),
    pub(super) total: Option<(u64, u64)>,
    pub(super) next: u64,
}

impl Content<'_> {
    fn advance(&mut self) -> Result<(), Stop> {
        loop {
            let outcome = match self.flight.piece(self.link) {
                Ok(Some(piece)) => {
                    self.came += piece.len() as u64;
                    self.now = piece;
                    return Ok(());
                }
                Ok(None) if self.came == self.look.size => match self.flight.unchanged(self.link) {
                    Ok(true) => {
                        self.ended = true;
                        return Ok(());
                    }
                    Ok(false) => return Err(Stop::Item(Trouble::Changed)),
                    Err(slip) => Err(slip),
                },
                Ok(None) => Err(Slip::Item(Trouble::Changed)),
                Err(slip) => Err(slip),
            };
            match outcome {
                Ok(()) => {}
                Err(Slip::Item(trouble)) => return Err(Stop::Item(trouble)),
                Err(Slip::Broken(error)) => self.bring_back(error)?,
            }
        }
    }

    fn bring_back(&mut self, mut error: Error) -> Result<(), Stop> {
        loop {
            self.link.again(error, &self.shown).map_err(Stop::Run)?;
            match self.flight.resume(self.link, &self.look, self.came) {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(Stop::Item(Trouble::Changed)),
                Err(Slip::Item(trouble)) => return Err(Stop::Item(trouble)),
                Err(Slip::Broken(other)) => error = other,
            }
        }
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.now.is_empty() && !self.ended {
            if self.failed.is_some() {
                return Err(std::io::Error::other("the file's content ended early"));
            }
            if let Err(stop) = self.advance() {
                let text = match &stop {
                    Stop::Item(trouble) => trouble.text(),
                    Stop::Run(error) => error.to_string(),
                };
                self.failed = Some(stop);
                return Err(std::io::Error::other(text));
            }
        }
        let length = buffer.len().min(self.now.len());
        self.now.copy_to_slice(&mut buffer[..length]);
        if self.came >= self.next {
            self.next = self.came + (8 << 20);
            (self.link.control().progress)(&Progress {
                phase: Phase::Reading,
                items: self.before.0,
                bytes: self.before.1 + self.came,
                total: self.total,
                path: &self.shown,
            });
        }
        Ok(length)
    }
}
