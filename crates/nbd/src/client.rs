//! A client: what somebody else's server holds, as a disk.
//!
//! One request at a time on a connection; who wants several opens several connections, which is also how a server
//! reads several places at once. A server is not trusted: no length that it names allocates more than what was
//! asked for, and an answer that does not cover exactly what was asked for is an error.

use std::{
    fmt,
    io::{self, Read, Write},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kuramori_model::blocks::{BlockError, Blocks, Extent};

use crate::{
    Error, Result,
    stream::{Address, Stream},
    wire::{
        ALLOCATION, Chunk, MAGIC, NAME_MAX, OPTION_MAGIC, OPTION_MAX, OPTION_REPLY_MAGIC, PIECE, Request,
        SIMPLE_MAGIC, chunk, command, greeting, info, option, reply, transmission, u16_at, u32_at, u64_at,
    },
};

/// Answers to one option; a server with a thousand exports is one that wants to exhaust us.
const ANSWERS_MAX: usize = 1024;
/// Runs that one answer may have: 32 bits of length in sectors cannot need more for the requests that we send.
const RUNS_BYTES_MAX: u32 = 8 << 20;
/// Bytes whose block status is asked for at once.
const STATUS_MAX: u64 = 1 << 30;
/// How long a server may be silent in an answer: a store far away may be slow.
const PATIENCE: Duration = Duration::from_mins(2);

/// An export in a server's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Words for people.
    pub description: String,
}

/// A run of bytes with the same flags in a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Bytes.
    pub length: u64,
    /// What the context says of them.
    pub flags: u32,
}

struct Line {
    stream: Stream,
    cookie: u64,
    /// An answer was cut off or made no sense: nobody knows where the next one begins.
    broken: bool,
}

/// A connection to one export.
pub struct Client {
    line: Mutex<Line>,
    size: u64,
    flags: u16,
    structured: bool,
    /// Contexts that the server gave us, with their numbers.
    contexts: Vec<(u32, String)>,
    name: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("name", &self.name).field("size", &self.size).finish_non_exhaustive()
    }
}

fn protocol(what: impl Into<String>) -> Error {
    Error::Protocol(what.into())
}

impl Line {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.stream.read_exact(buffer).map_err(Error::Broken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(Error::Broken)
    }

    /// The greeting of both sides.
    fn greet(address: &Address) -> Result<Self> {
        let stream = Stream::connect(address)?;
        stream.set_patience(Some(PATIENCE)).map_err(Error::Broken)?;
        let mut line = Self { stream, cookie: 0, broken: false };
        let hello: [u8; 18] = line.bytes()?;
        if u64_at(&hello, 0) != Some(MAGIC) || u64_at(&hello, 8) != Some(OPTION_MAGIC) {
            return Err(protocol("it does not greet as a server of the newstyle protocol"));
        }
        let flags = u16_at(&hello, 16).unwrap_or(0);
        if flags & greeting::FIXED_NEWSTYLE == 0 {
            return Err(protocol("it does not speak fixed newstyle"));
        }
        let ours = greeting::FIXED_NEWSTYLE | flags & greeting::NO_ZEROES;
        line.send(&u32::from(ours).to_be_bytes())?;
        Ok(line)
    }

    fn option(&mut self, option: u32, data: &[u8]) -> Result<()> {
        let length = u32::try_from(data.len()).map_err(|_| protocol("our option is too long"))?;
        let mut out = OPTION_MAGIC.to_be_bytes().to_vec();
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(data);
        self.send(&out)
    }

    /// Answers to an option up to its end. An answer that says no is an error.
    fn answers(&mut self, option: u32, what: &str) -> Result<Vec<(u32, Vec<u8>)>> {
        let mut answers = Vec::new();
        loop {
            let head: [u8; 20] = self.bytes()?;
            let fits = u64_at(&head, 0) == Some(OPTION_REPLY_MAGIC) && u32_at(&head, 8) == Some(option);
            let (Some(kind), Some(length), true) = (u32_at(&head, 12), u32_at(&head, 16), fits) else {
                return Err(protocol("an answer that belongs to no option"));
            };
            if length > OPTION_MAX || answers.len() == ANSWERS_MAX {
                return Err(protocol("more answers to an option than anybody needs"));
            }
            let mut data = vec![0; length as usize];
            self.fill(&mut data)?;
            if kind == reply::ACK {
                return Ok(answers);
            }
            if kind & reply::ERROR != 0 {
                let why = match kind {
                    reply::UNSUPPORTED => "it does not know that".to_owned(),
                    reply::UNKNOWN => "it has no such export".to_owned(),
                    _ => format!("{} ({kind:#x})", String::from_utf8_lossy(&data)),
                };
                return Err(Error::Refused { what: what.to_owned(), why });
            }
            answers.push((kind, data));
        }
    }
}

fn named(name: &str) -> Result<Vec<u8>> {
    let length = u32::try_from(name.len()).ok().filter(|length| *length as usize <= NAME_MAX);
    let length = length.ok_or_else(|| protocol("a name of more than 4096 bytes"))?;
    Ok([&length.to_be_bytes()[..], name.as_bytes()].concat())
}

impl Client {
    /// What a server offers.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Broken`], [`Error::Protocol`], [`Error::Refused`].
    pub fn list(address: &Address) -> Result<Vec<Listed>> {
        let mut line = Line::greet(address)?;
        line.option(option::LIST, b"")?;
        let answers = line.answers(option::LIST, "a list of its exports")?;
        let mut found = Vec::new();
        for (kind, data) in answers {
            let length = u32_at(&data, 0).unwrap_or(u32::MAX) as usize;
            let name = data.get(4..4_usize.saturating_add(length));
            let (reply::SERVER, Some(name)) = (kind, name) else {
                return Err(protocol("a list that makes no sense"));
            };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.push(Listed { name: text(name), description: text(&data[4 + length..]) });
        }
        // It may not wait for our farewell.
        let _ = line.option(option::ABORT, b"");
        Ok(found)
    }

    /// Connects to an export. `contexts` are asked for besides the one of holes; what the server does not have is
    /// missing in [`contexts`](Self::contexts) afterwards.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Broken`], [`Error::Protocol`], [`Error::Refused`].
    pub fn connect(address: &Address, name: &str, contexts: &[&str]) -> Result<Self> {
        let mut line = Line::greet(address)?;
        line.option(option::STRUCTURED_REPLY, b"")?;
        let structured = match line.answers(option::STRUCTURED_REPLY, "structured replies") {
            Ok(_) => true,
            Err(Error::Refused { .. }) => false,
            Err(other) => return Err(other),
        };
        let mut given = Vec::new();
        if structured {
            let queries: Vec<&str> = std::iter::once(ALLOCATION).chain(contexts.iter().copied()).collect();
            let mut data = named(name)?;
            data.extend_from_slice(&u32::try_from(queries.len()).unwrap_or(0).to_be_bytes());
            for query in queries {
                data.extend_from_slice(&named(query)?);
            }
            line.option(option::SET_META_CONTEXT, &data)?;
            let answers = match line.answers(option::SET_META_CONTEXT, "block status") {
                Err(Error::Refused { .. }) => Vec::new(),
                other => other?,
            };
            for (kind, data) in answers {
                let (reply::META_CONTEXT, Some(number)) = (kind, u32_at(&data, 0)) else {
                    return Err(protocol("a context that makes no sense"));
                };
                given.push((number, String::from_utf8_lossy(&data[4..]).into_owned()));
            }
        }
        let data = [named(name)?, vec![0, 0]].concat();
        line.option(option::GO, &data)?;
        let mut export = None;
        for (_, data) in line.answers(option::GO, &format!("the export `{name}`"))? {
            if u16_at(&data, 0) == Some(info::EXPORT) {
                export = u64_at(&data, 2).zip(u16_at(&data, 10));
            }
        }
        let (size, flags) = export.ok_or_else(|| protocol("it does not say how large the export is"))?;
        Ok(Self { line: Mutex::new(line), size, flags, structured, contexts: given, name: name.to_owned() })
    }

    /// The contexts of block status that the server gave.
    pub fn contexts(&self) -> impl Iterator<Item = &str> {
        self.contexts.iter().map(|(_, name)| name.as_str())
    }

    /// Whether several connections may write to the export at once.
    pub fn is_shared(&self) -> bool {
        self.flags & transmission::CAN_MULTI_CONN != 0
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request and its whole answer. What breaks the line ends it for good.
    fn ask<T>(
        &self,
        command: u16,
        (offset, length): (u64, u32),
        payload: &[u8],
        answer: impl FnOnce(&mut Line, u64) -> Result<T>,
    ) -> Result<T> {
        let mut line = self.line();
        if line.broken {
            return Err(Error::Broken(io::ErrorKind::NotConnected.into()));
        }
        line.cookie += 1;
        let cookie = line.cookie;
        let request = Request { flags: 0, command, cookie, offset, length };
        let outcome = line
            .send(&request.encode())
            .and_then(|()| line.send(payload))
            .and_then(|()| answer(&mut line, cookie));
        if let Err(Error::Broken(_) | Error::Protocol(_)) = &outcome {
            line.broken = true;
            line.stream.shut();
        }
        outcome
    }

    /// Reads exactly `buffer.len()` bytes.
    ///
    /// # Errors
    /// [`Error::Failed`] if the server cannot read them, else as [`connect`](Self::connect).
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        for (number, piece) in buffer.chunks_mut(PIECE).enumerate() {
            let at = offset + (number * PIECE) as u64;
            let length = u32::try_from(piece.len()).unwrap_or(0);
            self.ask(command::READ, (at, length), b"", |line, cookie| {
                if self.structured {
                    read_chunks(line, cookie, at, piece)
                } else {
                    simple(line, cookie, "read")?;
                    line.fill(piece)
                }
            })?;
        }
        Ok(())
    }

    fn plain(&self, action: &'static str, command: u16, range: (u64, u32), payload: &[u8]) -> Result<()> {
        self.ask(command, range, payload, |line, cookie| {
            if !self.structured {
                return simple(line, cookie, action);
            }
            let mut error = None;
            loop {
                let head: [u8; 4] = line.bytes()?;
                // A server may answer simply whatever has no bytes to give back.
                if head == SIMPLE_MAGIC.to_be_bytes() {
                    return simple_rest(line, cookie, action);
                }
                let (head, end) = chunk_rest(line, head, cookie)?;
                match head.kind {
                    chunk::NONE if head.length == 0 => {}
                    kind if kind & 1 << 15 != 0 => error = Some(failure(line, &head, action)?),
                    _ => return Err(protocol("a chunk that does not answer what was asked")),
                }
                if end {
                    return error.map_or(Ok(()), Err);
                }
            }
        })
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        for (number, piece) in data.chunks(PIECE).enumerate() {
            let at = offset + (number * PIECE) as u64;
            self.plain("write", command::WRITE, (at, u32::try_from(piece.len()).unwrap_or(0)), piece)?;
        }
        Ok(())
    }

    /// What a context says of a range: runs from its first byte on, at least one and at most `length` bytes.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server did not give the context, else as [`read`](Self::read).
    pub fn status(&self, context: &str, offset: u64, length: u64) -> Result<Vec<Run>> {
        let number = self.contexts.iter().find(|(_, name)| name == context).map(|(number, _)| *number);
        let number = number.ok_or_else(|| Error::Refused {
            what: format!("the context `{context}`"),
            why: "it does not have it".to_owned(),
        })?;
        let length = length.min(STATUS_MAX);
        let range = (offset, u32::try_from(length).unwrap_or(u32::MAX));
        let runs = self.ask(command::BLOCK_STATUS, range, b"", |line, cookie| {
            let (mut runs, mut error) = (Vec::new(), None);
            loop {
                let head = line.bytes()?;
                let (head, end) = chunk_rest(line, head, cookie)?;
                match head.kind {
                    chunk::NONE if head.length == 0 => {}
                    chunk::BLOCK_STATUS if head.length <= RUNS_BYTES_MAX && head.length % 8 == 4 => {
                        let mut data = vec![0; head.length as usize];
                        line.fill(&mut data)?;
                        if u32_at(&data, 0) == Some(number) && runs.is_empty() {
                            runs = data[4..]
                                .chunks_exact(8)
                                .filter_map(|pair| {
                                    Some(Run { length: u64::from(u32_at(pair, 0)?), flags: u32_at(pair, 4)? })
                                })
                                .collect();
                        }
                    }
                    kind if kind & 1 << 15 != 0 => error = Some(failure(line, &head, "tell the status")?),
                    _ => return Err(protocol("a chunk that does not answer what was asked")),
                }
                if end {
                    return error.map_or(Ok(runs), Err);
                }
            }
        })?;
        // The last run may reach beyond what was asked for; none may be empty.
        let mut left = length;
        let mut cut = Vec::with_capacity(runs.len());
        for run in runs {
            if run.length == 0 {
                return Err(protocol("an empty run"));
            }
            if left == 0 {
                break;
            }
            cut.push(Run { length: run.length.min(left), ..run });
            left -= run.length.min(left);
        }
        if cut.is_empty() { Err(protocol("an answer without a run")) } else { Ok(cut) }
    }

    /// Every range of the disk whose flag 1 is set in a context, in order, neighbours joined: what a bitmap calls
    /// dirty.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn marked(&self, context: &str) -> Result<Vec<std::ops::Range<u64>>> {
        let mut ranges: Vec<std::ops::Range<u64>> = Vec::new();
        let mut at = 0;
        while at < self.size {
            for run in self.status(context, at, self.size - at)? {
                let end = at + run.length;
                if run.flags & 1 != 0 {
                    match ranges.last_mut() {
                        Some(last) if last.end == at => last.end = end,
                        _ => ranges.push(at..end),
                    }
                }
                at = end;
            }
        }
        Ok(ranges)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut line = self.line();
        if !line.broken {
            let cookie = line.cookie + 1;
            let bye = Request { flags: 0, command: command::DISCONNECT, cookie, offset: 0, length: 0 };
            let _ = line.send(&bye.encode());
        }
    }
}

fn simple(line: &mut Line, cookie: u64, action: &'static str) -> Result<()> {
    if line.bytes::<4>()? != SIMPLE_MAGIC.to_be_bytes() {
        return Err(protocol("an answer does not begin as one"));
    }
    simple_rest(line, cookie, action)
}

fn simple_rest(line: &mut Line, cookie: u64, action: &'static str) -> Result<()> {
    let rest: [u8; 12] = line.bytes()?;
    if u64_at(&rest, 4) != Some(cookie) {
        return Err(protocol("an answer to something that was not asked"));
    }
    match u32_at(&rest, 0) {
        Some(0) => Ok(()),
        errno => Err(Error::Failed { action, errno: errno.unwrap_or(0), why: String::new() }),
    }
}

/// The head of a chunk whose first word was read, and whether it is the last one.
fn chunk_rest(line: &mut Line, first: [u8; 4], cookie: u64) -> Result<(Chunk, bool)> {
    let mut head = [0; Chunk::SIZE];
    head[..4].copy_from_slice(&first);
    line.fill(&mut head[4..])?;
    let head = Chunk::decode(&head).ok_or_else(|| protocol("a chunk does not begin as one"))?;
    if head.cookie != cookie {
        return Err(protocol("an answer to something that was not asked"));
    }
    Ok((head, head.flags & chunk::DONE != 0))
}

/// The body of a chunk that says no.
fn failure(line: &mut Line, head: &Chunk, action: &'static str) -> Result<Error> {
    if head.length < 6 || head.length > OPTION_MAX {
        return Err(protocol("an error that makes no sense"));
    }
    let mut data = vec![0; head.length as usize];
    line.fill(&mut data)?;
    let words = usize::from(u16_at(&data, 4).unwrap_or(0));
    let why = data.get(6..6 + words).ok_or_else(|| protocol("an error that makes no sense"))?;
    let errno = u32_at(&data, 0).unwrap_or(0);
    Ok(Error::Failed { action, errno, why: String::from_utf8_lossy(why).into_owned() })
}

/// The chunks of a read; together they have to cover the buffer, each byte once.
fn read_chunks(line: &mut Line, cookie: u64, offset: u64, buffer: &mut [u8]) -> Result<()> {
    let mut covered: Vec<(usize, usize)> = Vec::new();
    let mut error = None;
    loop {
        let head = line.bytes()?;
        let (head, end) = chunk_rest(line, head, cookie)?;
        match head.kind {
            chunk::NONE if head.length == 0 => {}
            chunk::OFFSET_DATA | chunk::OFFSET_HOLE if head.length >= 8 => {
                let at = u64::from_be_bytes(line.bytes()?);
                let hole = head.kind == chunk::OFFSET_HOLE;
                let length = match hole {
                    true if head.length != 12 => return Err(protocol("a hole that makes no sense")),
                    true => u32::from_be_bytes(line.bytes()?),
                    false => head.length - 8,
                };
                let start = at.checked_sub(offset).and_then(|start| usize::try_from(start).ok());
                let start = start.ok_or_else(|| protocol("bytes from before what was asked for"))?;
                let stop = start.checked_add(length as usize).filter(|stop| *stop <= buffer.len());
                let stop = stop.ok_or_else(|| protocol("more bytes than were asked for"))?;
                if length == 0 || covered.iter().any(|(from, to)| start < *to && stop > *from) {
                    return Err(protocol("a byte that comes twice"));
                }
                // Each chunk has a byte at least, but thousands of tiny ones are nobody's reading.
                if covered.len() > 4096 {
                    return Err(protocol("an answer in more pieces than anybody needs"));
                }
                covered.push((start, stop));
                if hole {
                    buffer[start..stop].fill(0);
                } else {
                    line.fill(&mut buffer[start..stop])?;
                }
            }
            kind if kind & 1 << 15 != 0 => error = Some(failure(line, &head, "read")?),
            _ => return Err(protocol("a chunk that does not answer what was asked")),
        }
        if end {
            break;
        }
    }
    if let Some(error) = error {
        return Err(error);
    }
    let total: usize = covered.iter().map(|(from, to)| to - from).sum();
    if total == buffer.len() { Ok(()) } else { Err(protocol("fewer bytes than were asked for")) }
}

fn refused(error: Error) -> BlockError {
    match error {
        Error::Failed { errno: crate::wire::errno::NOSPC, .. } => BlockError::NoSpace(Box::new(error)),
        Error::Failed { errno: crate::wire::errno::PERM, .. } => BlockError::ReadOnly,
        other => BlockError::failed(other),
    }
}

impl Blocks for Client {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::result::Result<(), BlockError> {
        self.check_range(offset, buffer.len() as u64)?;
        self.read(offset, buffer).map_err(refused)
    }

    fn extent(&self, offset: u64, length: u64) -> std::result::Result<Extent, BlockError> {
        if !self.contexts().any(|name| name == ALLOCATION) {
            return Ok(Extent::data(length));
        }
        let runs = self.status(ALLOCATION, offset, length).map_err(refused)?;
        let first = runs.first().copied().unwrap_or(Run { length, flags: 0 });
        Ok(Extent { length: first.length, hole: first.flags & 1 != 0, zero: first.flags & 2 != 0 })
    }

    fn is_writable(&self) -> bool {
        self.flags & transmission::READ_ONLY == 0
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> std::result::Result<(), BlockError> {
        self.check_range(offset, data.len() as u64)?;
        self.write(offset, data).map_err(refused)
    }

    fn write_zeros(&self, offset: u64, length: u64, hole: bool) -> std::result::Result<(), BlockError> {
        self.check_range(offset, length)?;
        let mut at = offset;
        while at < offset + length {
            let step = (offset + length - at).min(STATUS_MAX);
            let range = (at, u32::try_from(step).unwrap_or(u32::MAX));
            if hole && self.flags & transmission::SEND_WRITE_ZEROES != 0 {
                self.plain("write zeros", command::WRITE_ZEROES, range, b"").map_err(refused)?;
                at += step;
            } else {
                let step = step.min(PIECE as u64);
                self.write(at, &vec![0; usize::try_from(step).unwrap_or(0)]).map_err(refused)?;
                at += step;
            }
        }
        Ok(())
    }

    fn flush(&self) -> std::result::Result<(), BlockError> {
        if self.flags & transmission::SEND_FLUSH == 0 {
            return Ok(());
        }
        self.plain("flush", command::FLUSH, (0, 0), b"").map_err(refused)
    }
}
