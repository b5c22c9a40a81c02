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
    message::{CHUNK_MAX, CONTENT_MAX, Event, HAVE_MAX, Id, Known, LISTING_MAX, Message, PART_MAX, short},
};

/// Events after which they are acknowledged at the latest.
const ACKNOWLEDGE: u64 = 32;
/// How often to look whether a connection came.
const TURN: Duration = Duration::from_millis(50);

/// Where chunks go; shared by all data connections.
pub trait Shelf: Send + Sync {
    /// The length of this chunk if it is part of the source's own previous restore point, or came in this session.
    fn known(&self, id: &Id) -> Option<u32>;

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

    /// Takes a file whose content is chunks that the shelf knew; `size` is what their lengths add up to.
    ///
    /// # Errors
    /// [`Error::Store`].
    fn file(&mut self, entry: Entry, content: Vec<Id>, size: u64) -> Result<()>;

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
    /// Something of whoever accepted it, to be dropped when the connection is over.
    pub held: Box<dyn std::any::Any + Send>,
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
    open: Option<Open>,
    tally: Tally,
}

/// A file whose content goes on in the next event. What a chunk's length was when it was named counts: the shelf
/// may have forgotten it before a large file ends.
struct Open {
    entry: Entry,
    content: Vec<Id>,
    size: u64,
}

impl Open {
    fn new(entry: Entry) -> Self {
        Self { entry, content: Vec::new(), size: 0 }
    }

    fn take(&mut self, content: &[Id], shelf: &dyn Shelf) -> Result<()> {
        if content.len() > PART_MAX {
            return Err(Error::Protocol(format!("{} chunks in one event", content.len())));
        }
        if self.content.len() + content.len() > CONTENT_MAX {
            return Err(Error::Protocol(format!("a file of more than {CONTENT_MAX} chunks")));
        }
        for id in content {
            let length = shelf
                .known(id)
                .ok_or_else(|| Error::Protocol("a file names a chunk that was never sent".to_owned()))?;
            self.size += u64::from(length);
        }
        self.content.extend_from_slice(content);
        Ok(())
    }
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
                        if shelf.known(id).is_none() {
                            bits[place / 8] |= 1 << (place % 8);
                        }
                    }
                    send(&mut writer, &Message::Missing { number, bits })?;
                }
                Message::Folder { number, path } => {
                    inside(&path)?;
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
                let Some(mut open) = self.open.take() else {
                    return Err(Error::Protocol("content without a file".to_owned()));
                };
                open.take(&content, shelf)?;
                self.part(open, done, tree)?;
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
                let mut open = Open::new(entry);
                open.take(&content, shelf)?;
                self.part(open, done, tree)?;
            }
            Event::Keep { folder, places } => {
                inside(&folder)?;
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

    fn part(&mut self, open: Open, done: bool, tree: &mut dyn Tree) -> Result<()> {
        if !done {
            self.open = Some(open);
            return Ok(());
        }
        self.tally.bytes += open.size;
        tree.file(open.entry, open.content, open.size)?;
        self.tally.items += 1;
        self.tally.files += 1;
        Ok(())
    }
}

/// A folder's path; empty for the root.
fn inside(folder: &[u8]) -> Result<()> {
    if folder.is_empty() {
        return Ok(());
    }
    TreePath::new(folder).map(drop).map_err(|error| Error::Protocol(error.to_string()))
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kuramori_model::tree::{DEPTH_MAX, Meta};

    use super::*;
    use crate::message::Item;

    /// Knows each chunk for one question: as a store does whose memory of a long session ends.
    #[derive(Default)]
    struct Forgets(Mutex<Vec<Id>>);

    impl Shelf for Forgets {
        fn known(&self, id: &Id) -> Option<u32> {
            let mut known = self.0.lock().unwrap();
            let place = known.iter().position(|one| one == id)?;
            known.swap_remove(place);
            Some(1000)
        }

        fn store(&self, _: &[u8]) -> Result<Id> {
            unreachable!("nothing is stored here")
        }
    }

    #[derive(Default)]
    struct Taken(Vec<(usize, u64)>);

    impl Tree for Taken {
        fn listing(&mut self, _: &[u8]) -> Result<Vec<Known>> {
            Ok(Vec::new())
        }
        fn item(&mut self, _: Entry) -> Result<()> {
            Ok(())
        }
        fn file(&mut self, _: Entry, content: Vec<Id>, size: u64) -> Result<()> {
            self.0.push((content.len(), size));
            Ok(())
        }
        fn keep(&mut self, _: &[u8], _: &[(u32, u32)]) -> Result<(u64, u64)> {
            Ok((1, 1))
        }
        fn seal(&mut self, _: &TreePath) -> Result<()> {
            Ok(())
        }
        fn fault(&mut self, _: String, _: String) {}
        fn check(&self) -> Result<()> {
            Ok(())
        }
    }

    fn state() -> State {
        State { applied: 0, open: None, tally: Tally::default() }
    }

    fn file() -> Entry {
        let path = TreePath::new("large").unwrap();
        Entry { path, kind: EntryKind::File { size: 0 }, meta: Meta::default() }
    }

    #[test]
    fn a_file_is_as_long_as_its_chunks_were_when_they_were_named() {
        let (mut state, mut tree, shelf) = (state(), Taken::default(), Forgets::default());
        let id = |n: u8| [n; 32];
        shelf.0.lock().unwrap().extend((0..30).map(id));
        let part = |from: u8| (from..from + 10).map(id).collect::<Vec<_>>();
        let first = Event::File { item: Item::from(&file()), content: part(0), done: false };
        state.apply(first, &mut tree, &shelf).unwrap();
        state.apply(Event::Content { content: part(10), done: false }, &mut tree, &shelf).unwrap();
        state.apply(Event::Content { content: part(20), done: true }, &mut tree, &shelf).unwrap();
        assert_eq!(tree.0, [(30, 30_000)]);
        assert_eq!((state.tally.files, state.tally.bytes), (1, 30_000));
        let again = Event::File { item: Item::from(&file()), content: part(0), done: true };
        assert!(matches!(state.apply(again, &mut tree, &shelf), Err(Error::Protocol(_))), "it would notice");
    }

    #[test]
    fn a_file_that_never_ends_is_refused() {
        let shelf = Forgets(Mutex::new(vec![[0; 32]; 2]));
        let mut open = Open { entry: file(), content: vec![[0; 32]; CONTENT_MAX - 1], size: 0 };
        open.take(&[[0; 32]], &shelf).unwrap();
        assert!(matches!(open.take(&[[0; 32]], &shelf), Err(Error::Protocol(_))));
    }

    #[test]
    fn a_folder_deeper_than_any_real_one_is_refused_wherever_it_is_named() {
        let (mut tree, shelf) = (Taken::default(), Forgets::default());
        for (parts, fits) in [(DEPTH_MAX, true), (DEPTH_MAX + 1, false), (20_000, false)] {
            let folder = vec!["a"; parts].join("/").into_bytes();
            let seal = state().apply(Event::Seal { folder: folder.clone() }, &mut tree, &shelf);
            assert_eq!(seal.is_ok(), fits, "{parts}");
            let keep = Event::Keep { folder: folder.clone(), places: vec![(0, 1)] };
            assert_eq!(state().apply(keep, &mut tree, &shelf).is_ok(), fits, "{parts}");
            assert_eq!(inside(&folder).is_ok(), fits, "{parts}");
        }
        assert!(inside(b"").is_ok() && inside(b"../a").is_err());
    }
}
