//! The receiving side of one session: events in their order, ids that are known, chunks that are stored.
//!
//! Who receives keeps the agent honest: a chunk's id is what the store computed, a file's content may only name
//! chunks that the store knows for *this* session, its size is what these add up to, a path stays inside the tree.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use kuramori_model::{
    clock::Clock,
    tree::{Entry, EntryKind, TreePath},
};

use crate::{
    Error, Result,
    frame::{Frame, FrameReader, send},
    line::{Reader, Writer},
    message::{CHUNK_MAX, Event, HAVE_MAX, Id, Known, LISTING_MAX, Message, PART_MAX, short},
};

/// Events after which they are acknowledged at the latest.
const ACKNOWLEDGE: u64 = 32;
/// How often to look whether a connection came.
const TURN: Duration = Duration::from_millis(50);

/// Where chunks go; shared by all data connections.
pub trait Shelf: Send + Sync {
    /// Whether this chunk is part of the source's own previous restore point, or came in this session.
    fn known(&self, id: &Id) -> bool;

    /// Hashes and stores a chunk; gives its id.
    ///
    /// # Errors
    /// [`Error::Store`].
    fn store(&self, plain: &[u8]) -> Result<Id>;
}

/// Where items go.
pub trait Tree {
    /// What the previous restore point holds in a folder, without its folders.
    ///
    /// # Errors
    /// [`Error::Store`].
    fn listing(&mut self, folder: &[u8]) -> Result<Vec<Known>>;

    /// Takes an item without content.
    ///
    /// # Errors
    /// [`Error::Store`].
    fn item(&mut self, entry: Entry) -> Result<()>;

    /// Takes a file whose content is known chunks; gives its size.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Protocol`] for a chunk that is not known.
    fn file(&mut self, entry: Entry, content: Vec<Id>) -> Result<u64>;

    /// Takes items over from the previous restore point; gives their number and bytes.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Protocol`] for what it does not hold.
    fn keep(&mut self, folder: &[u8], places: &[(u32, u32)]) -> Result<(u64, u64)>;

    /// Nothing more comes below this folder.
    ///
    /// # Errors
    /// [`Error::Store`].
    fn seal(&mut self, folder: &TreePath) -> Result<()>;

    /// Something could not be read.
    fn fault(&mut self, path: String, why: String);

    /// Whether the store still works.
    ///
    /// # Errors
    /// [`Error::Store`].
    fn check(&self) -> Result<()>;
}

/// A main connection of a session, past its opening message.
#[derive(Debug)]
pub struct Incoming {
    /// Reads.
    pub reader: FrameReader<Reader>,
    /// Writes.
    pub writer: Writer,
}

/// What was taken so far, counted by the receiver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Items, folders included.
    pub items: u64,
    /// Files among them.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Files that were taken over.
    pub kept: u64,
    /// Items that could not be read.
    pub faults: u64,
    /// Lines that had to be brought back.
    pub reconnects: u32,
    /// Bytes that came over main connections.
    pub received: u64,
    /// Number of the last event that was applied.
    pub applied: u64,
}

/// How a session is steered.
pub struct Steer<'a> {
    /// Where the time comes from.
    pub clock: &'a dyn Clock,
    /// Whether the job is still wanted.
    pub going: &'a dyn Fn() -> bool,
    /// How long no connection may be there.
    pub grace: Duration,
    /// How long a connection may be silent before it counts as broken.
    pub patience: Duration,
    /// Is told how far it is.
    pub progress: &'a dyn Fn(&Tally),
}

impl std::fmt::Debug for Steer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steer").field("grace", &self.grace).finish_non_exhaustive()
    }
}

/// Receives a whole session; gives the source's report as the agent sent it (JSON, not believed by itself) and our
/// own count.
///
/// # Errors
/// [`Error::Silent`] if the agent stays away, [`Error::Source`] if its source failed, and what [`Tree`] and the
/// protocol refuse; then nothing of it may become a restore point.
pub fn receive(
    mains: &Receiver<Incoming>,
    tree: &mut dyn Tree,
    shelf: &dyn Shelf,
    steer: &Steer<'_>,
) -> Result<(String, Tally)> {
    let mut state = State { applied: 0, open: None, tally: Tally::default() };
    let mut next = None;
    let mut since = steer.clock.boot();
    let mut first = true;
    loop {
        let mut incoming = match next.take() {
            Some(incoming) => incoming,
            None => match mains.recv_timeout(TURN) {
                Ok(incoming) => incoming,
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Cancelled),
                Err(RecvTimeoutError::Timeout) => {
                    if !(steer.going)() {
                        return Err(Error::Cancelled);
                    }
                    tree.check()?;
                    if steer.clock.boot().saturating_sub(since) >= steer.grace {
                        return Err(Error::Silent { seconds: steer.grace.as_secs() });
                    }
                    continue;
                }
            },
        };
        state.tally.reconnects += u32::from(!std::mem::take(&mut first));
        let outcome = state.serve(&mut incoming, mains, &mut next, tree, shelf, steer);
        state.tally.received += incoming.reader.received;
        state.tally.applied = state.applied;
        match outcome {
            Ok(report) => return Ok((report, state.tally)),
            Err(error) if error.is_line() => {
                incoming.writer.close();
                since = steer.clock.boot();
            }
            Err(error) => {
                let code = kuramori_model::fault::Fault::code(&error).to_owned();
                let why = kuramori_model::fault::chain(&error);
                let _ = send(&mut incoming.writer, &Message::Refused { code, why });
                incoming.writer.close();
                return Err(error);
            }
        }
    }
}

struct State {
    applied: u64,
    open: Option<(Entry, Vec<Id>)>,
    tally: Tally,
}

impl State {
    fn serve(
        &mut self,
        incoming: &mut Incoming,
        mains: &Receiver<Incoming>,
        next: &mut Option<Incoming>,
        tree: &mut dyn Tree,
        shelf: &dyn Shelf,
        steer: &Steer<'_>,
    ) -> Result<String> {
        let mut writer = incoming.writer.clone();
        send(&mut writer, &Message::Applied { number: self.applied })?;
        let mut told = self.applied;
        let mut heard = steer.clock.boot();
        loop {
            let applied = self.applied;
            let message = incoming.reader.message(&mut |came| {
                if !(steer.going)() {
                    return Err(Error::Cancelled);
                }
                if came {
                    heard = steer.clock.boot();
                    return Ok(());
                }
                tree.check()?;
                if told < applied {
                    told = applied;
                    send(&mut writer, &Message::Applied { number: applied })?;
                }
                if let Ok(newer) = mains.try_recv() {
                    *next = Some(newer);
                    return Err(Error::Broken("the agent came back over another line".to_owned()));
                }
                let silent = steer.clock.boot().saturating_sub(heard);
                if silent >= steer.patience {
                    Err(Error::Silent { seconds: silent.as_secs() })
                } else {
                    Ok(())
                }
            })?;
            match message {
                Message::Event { number, .. } if number <= self.applied => {}
                Message::Event { number, event } if number == self.applied + 1 => {
                    let end = self.apply(event, tree, shelf)?;
                    self.applied = number;
                    (steer.progress)(&self.tally);
                    if let Some(report) = end {
                        send(&mut writer, &Message::Applied { number })?;
                        return Ok(report);
                    }
                }
                Message::Event { number, .. } => {
                    return Err(Error::Protocol(format!("event {number} after {}", self.applied)));
                }
                Message::Have { number, ids } => {
                    if ids.len() > HAVE_MAX {
                        return Err(Error::Protocol(format!("{} ids in one question", ids.len())));
                    }
                    let mut bits = vec![0_u8; ids.len().div_ceil(8)];
                    for (place, id) in ids.iter().enumerate() {
                        if !shelf.known(id) {
                            bits[place / 8] |= 1 << (place % 8);
                        }
                    }
                    send(&mut writer, &Message::Missing { number, bits })?;
                }
                Message::Folder { number, path } => {
                    if !path.is_empty() {
                        TreePath::new(path.as_slice()).map_err(|error| Error::Protocol(error.to_string()))?;
                    }
                    let all = tree.listing(&path)?;
                    let mut parts = all.chunks(LISTING_MAX).peekable();
                    if parts.peek().is_none() {
                        send(&mut writer, &Message::Listing { number, items: Vec::new(), more: false })?;
                    }
                    while let Some(items) = parts.next() {
                        let more = parts.peek().is_some();
                        send(&mut writer, &Message::Listing { number, items: items.to_vec(), more })?;
                    }
                }
                Message::Ping => {}
                other => return Err(Error::Protocol(format!("{} in a session", name(&other)))),
            }
            if self.applied - told >= ACKNOWLEDGE {
                told = self.applied;
                send(&mut writer, &Message::Applied { number: told })?;
            }
        }
    }

    fn apply(&mut self, event: Event, tree: &mut dyn Tree, shelf: &dyn Shelf) -> Result<Option<String>> {
        let within = self.open.is_some();
        match event {
            Event::Content { content, done } => {
                let Some((entry, mut all)) = self.open.take() else {
                    return Err(Error::Protocol("content without a file".to_owned()));
                };
                take(&mut all, content, shelf)?;
                self.part(entry, all, done, tree)?;
            }
            Event::Drop => {
                self.open.take().ok_or_else(|| Error::Protocol("nothing is open".to_owned()))?;
            }
            Event::Failed { code, why } => {
                return Err(Error::Source { code: short(&code), why: short(&why) });
            }
            _ if within => return Err(Error::Protocol("a file's content does not end".to_owned())),
            Event::Item(item) => {
                let entry = item.entry()?;
                if matches!(entry.kind, EntryKind::File { .. }) {
                    return Err(Error::Protocol("a file without content".to_owned()));
                }
                tree.item(entry)?;
                self.tally.items += 1;
            }
            Event::File { item, content, done } => {
                let entry = item.entry()?;
                if !matches!(entry.kind, EntryKind::File { .. }) {
                    return Err(Error::Protocol("content of what is no file".to_owned()));
                }
                let mut all = Vec::new();
                take(&mut all, content, shelf)?;
                self.part(entry, all, done, tree)?;
            }
            Event::Keep { folder, places } => {
                let (files, bytes) = tree.keep(&folder, &places)?;
                self.tally.items += files;
                self.tally.files += files;
                self.tally.kept += files;
                self.tally.bytes += bytes;
            }
            Event::Seal { folder } => {
                tree.seal(&TreePath::new(folder).map_err(|error| Error::Protocol(error.to_string()))?)?;
            }
            Event::Fault { path, why } => {
                self.tally.faults += 1;
                tree.fault(short(&String::from_utf8_lossy(&path)), short(&why));
            }
            Event::End { report } => return Ok(Some(report)),
        }
        Ok(None)
    }

    fn part(&mut self, entry: Entry, content: Vec<Id>, done: bool, tree: &mut dyn Tree) -> Result<()> {
        if !done {
            self.open = Some((entry, content));
            return Ok(());
        }
        self.tally.bytes += tree.file(entry, content)?;
        self.tally.items += 1;
        self.tally.files += 1;
        Ok(())
    }
}

fn take(all: &mut Vec<Id>, content: Vec<Id>, shelf: &dyn Shelf) -> Result<()> {
    if content.len() > PART_MAX {
        return Err(Error::Protocol(format!("{} chunks in one event", content.len())));
    }
    if !content.iter().all(|id| shelf.known(id)) {
        return Err(Error::Protocol("a file names a chunk that was never sent".to_owned()));
    }
    all.extend(content);
    Ok(())
}

/// Serves one data connection until it ends.
///
/// # Errors
/// [`Error::Broken`] at its end, [`Error::Store`] if a chunk could not be kept.
pub fn lane(
    reader: &mut FrameReader<Reader>,
    writer: &mut Writer,
    shelf: &dyn Shelf,
    going: &dyn Fn() -> bool,
) -> Result<()> {
    let mut expected = 0;
    loop {
        let frame = reader.read(&mut |_| if going() { Ok(()) } else { Err(Error::Cancelled) })?;
        match frame {
            Frame::Chunk { number, bytes } if number == expected => {
                expected += 1;
                let id = shelf.store(&bytes)?;
                send(writer, &Message::Stored { number, id })?;
            }
            Frame::Message(Message::Zeros { number, length })
                if number == expected && length as usize <= CHUNK_MAX =>
            {
                expected += 1;
                let id = shelf.store(&vec![0; length as usize])?;
                send(writer, &Message::Stored { number, id })?;
            }
            Frame::Chunk { number, .. } => {
                return Err(Error::Protocol(format!("chunk {number} instead of {expected}")));
            }
            Frame::Message(Message::Ping) => {}
            Frame::Message(other) => {
                return Err(Error::Protocol(format!("{} on a data connection", name(&other))));
            }
        }
    }
}

/// What a message is called, for errors.
pub fn name(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "a hello",
        Message::Main { .. } => "a main opening",
        Message::Lane { .. } => "a lane opening",
        Message::Enrol { .. } => "an enrolment",
        Message::Welcome(_) => "a welcome",
        Message::Begin(_) => "an order",
        Message::Cancel { .. } => "a cancellation",
        Message::Issued { .. } => "a certificate",
        Message::Refused { .. } => "a refusal",
        Message::Renew { .. } => "a renewal",
        Message::Declined { .. } => "a declined order",
        Message::Ping => "a sign of life",
        Message::Event { .. } => "an event",
        Message::Have { .. } => "a question for chunks",
        Message::Folder { .. } => "a question for a folder",
        Message::Applied { .. } => "an acknowledgement",
        Message::Missing { .. } => "an answer about chunks",
        Message::Listing { .. } => "a listing",
        Message::Stored { .. } => "a stored chunk",
        Message::Zeros { .. } => "zeros",
    }
}
