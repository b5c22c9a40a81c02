//! Requests: taken one at a time, done side by side, answered as they are done.

use std::{
    io::Write,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use kuramori_model::blocks::{BlockError, Blocks};

use super::{
    Shared,
    negotiate::{Agreed, Context, Deadline, negotiate},
};
use crate::{
    Error, Result,
    stream::Stream,
    wire::{Chunk, PIECE, REQUEST_MAX, Request, SIMPLE_MAGIC, chunk, command, errno, flag},
};

/// Runs in one answer about a context.
const RUNS_MAX: usize = 4096;
/// Room before the bytes of an answer for its head: chunk and offset.
const HEAD: usize = Chunk::SIZE + 8;

/// A connection after negotiation.
struct Connection<'a> {
    shared: &'a Shared,
    agreed: Agreed,
    reader: Mutex<Stream>,
    writer: Mutex<Stream>,
    closing: AtomicBool,
}

/// An answer that says no.
struct No {
    errno: u32,
    why: String,
}

impl No {
    fn invalid(why: &str) -> Self {
        Self { errno: errno::INVAL, why: why.to_owned() }
    }

    fn of(error: &BlockError, request: &Request) -> Self {
        let number = match error {
            BlockError::ReadOnly => errno::PERM,
            // By the protocol a write beyond the end is a lack of room.
            BlockError::Range { .. } if request.command == command::WRITE => errno::NOSPC,
            BlockError::Range { .. } => errno::INVAL,
            BlockError::NoSpace(_) => errno::NOSPC,
            BlockError::Failed(_) => errno::IO,
        };
        if matches!(error, BlockError::NoSpace(_) | BlockError::Failed(_)) {
            tracing::error!(
                offset = request.offset,
                length = request.length,
                "a request of an NBD client failed: {}",
                kuramori_model::fault::chain(error)
            );
        }
        // Only our own sentence goes out: what lies below names files of this machine.
        Self { errno: number, why: error.to_string() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one client to its end.
pub(super) fn connection(shared: &Shared, mut stream: Stream) -> Result<()> {
    stream.set_patience(Some(shared.limits.patience)).map_err(Error::Broken)?;
    let Some(agreed) = negotiate(shared, &mut stream)? else { return Ok(()) };
    shared.served.fetch_add(1, Ordering::Relaxed);
    let writer = stream.again().map_err(Error::Broken)?;
    let connection = Connection {
        shared,
        agreed,
        reader: Mutex::new(stream),
        writer: Mutex::new(writer),
        closing: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 1..shared.limits.requests.max(1) {
            let connection = &connection;
            let helper = std::thread::Builder::new().name("nbd".to_owned());
            // Without it the others do the work.
            threads.extend(helper.spawn_scoped(scope, move || connection.work()).ok());
        }
        let mut ended = connection.work();
        for thread in threads {
            if let Ok(other) = thread.join() {
                ended = ended.and(other);
            }
        }
        ended
    })
}

/// A request with as much of its bytes as was not written yet.
struct Taken {
    request: Request,
    /// What is already known to be wrong.
    no: Option<No>,
    /// First byte of what lies in the buffer.
    offset: u64,
}

impl Connection<'_> {
    fn blocks(&self) -> &dyn Blocks {
        &*self.agreed.export.blocks
    }

    fn work(&self) -> Result<()> {
        let mut buffer = Vec::new();
        let outcome = loop {
            match self.take(&mut buffer) {
                Ok(Some(taken)) => {
                    if let Err(error) = self.answer(taken, &mut buffer) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.closing.store(true, Ordering::Release);
        if outcome.is_err() {
            // Whoever waits for the next request has to learn it; nobody can use this connection any more.
            lock(&self.writer).shut();
        }
        outcome
    }

    /// Takes the next request. The bytes of a write lie in the buffer behind room for a head; of a long one all
    /// but the last piece are written already, because the next request begins only behind them.
    fn take(&self, buffer: &mut Vec<u8>) -> Result<Option<Taken>> {
        let reader = lock(&self.reader);
        if self.closing.load(Ordering::Acquire) {
            return Ok(None);
        }
        reader.wait().map_err(Error::Broken)?;
        if self.closing.load(Ordering::Acquire) || self.shared.stopping.load(Ordering::Acquire) {
            return Ok(None);
        }
        let limits = &self.shared.limits;
        let input = Deadline::new(&reader, &*self.shared.clock, limits.patience);
        let mut head = [0; Request::SIZE];
        match input.fill(&mut head) {
            // A client that leaves without a word between requests is no news.
            Err(Error::Broken(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.closing.store(true, Ordering::Release);
                return Ok(None);
            }
            other => other?,
        }
        let request = Request::decode(&head)
            .ok_or_else(|| Error::Protocol("a request does not begin as one".to_owned()))?;
        if request.command == command::DISCONNECT {
            self.closing.store(true, Ordering::Release);
            return Ok(None);
        }
        let mut taken = Taken { request, no: None, offset: request.offset };
        if request.command != command::WRITE {
            return Ok(Some(taken));
        }
        if request.length > REQUEST_MAX {
            return Err(Error::Protocol(format!("a write of {} bytes", request.length)));
        }
        taken.no = self.look(&request).err();
        let mut left = request.length as usize;
        loop {
            let piece = left.min(PIECE);
            buffer.resize(HEAD + piece, 0);
            // Each piece in its own time: a slow line is not a silent one.
            Deadline::new(&reader, &*self.shared.clock, limits.patience).fill(&mut buffer[HEAD..])?;
            left -= piece;
            if left == 0 {
                return Ok(Some(taken));
            }
            if taken.no.is_none() {
                let written = self.blocks().write_at(taken.offset, &buffer[HEAD..]);
                taken.no = written.err().map(|error| No::of(&error, &request));
            }
            taken.offset += piece as u64;
        }
    }

    /// What can be said of a request before it is done.
    fn look(&self, request: &Request) -> std::result::Result<(), No> {
        let allowed = match request.command {
            command::READ => flag::DF | flag::FUA,
            command::BLOCK_STATUS => flag::REQ_ONE | flag::FUA,
            command::WRITE_ZEROES => flag::FUA | flag::NO_HOLE,
            _ => flag::FUA,
        };
        if request.flags & !allowed != 0 {
            return Err(No::invalid("flags that this request does not have"));
        }
        let writes = matches!(request.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if writes && !self.blocks().is_writable() {
            return Err(No::of(&BlockError::ReadOnly, request));
        }
        match request.command {
            command::FLUSH => return Ok(()),
            command::READ
            | command::WRITE
            | command::TRIM
            | command::CACHE
            | command::WRITE_ZEROES
            | command::BLOCK_STATUS => {}
            _ => return Err(No::invalid("an unknown request")),
        }
        if request.length == 0 {
            return Err(No::invalid("a request for nothing"));
        }
        self.blocks()
            .check_range(request.offset, u64::from(request.length))
            .map_err(|error| No::of(&error, request))
    }

    fn answer(&self, taken: Taken, buffer: &mut Vec<u8>) -> Result<()> {
        let Taken { request, no, offset } = taken;
        let looked = match no {
            Some(no) => Err(no),
            None => self.look(&request),
        };
        if let Err(no) = looked {
            return self.refuse(&request, &no, None);
        }
        let blocks = self.blocks();
        let (from, length) = (request.offset, u64::from(request.length));
        let done = match request.command {
            command::READ if request.length > REQUEST_MAX => {
                return self.refuse(&request, &No::invalid("too much for one request"), None);
            }
            command::READ => return self.read(&request, buffer),
            command::BLOCK_STATUS => return self.status(&request, buffer),
            command::WRITE => blocks.write_at(offset, &buffer[HEAD..]),
            command::FLUSH => blocks.flush(),
            command::TRIM => blocks.write_zeros(from, length, true),
            command::WRITE_ZEROES => blocks.write_zeros(from, length, request.flags & flag::NO_HOLE == 0),
            _ => self.warm(from, length, buffer),
        };
        let durable = done.and_then(|()| {
            if request.flags & flag::FUA != 0 && blocks.is_writable() { blocks.flush() } else { Ok(()) }
        });
        match durable {
            Ok(()) => self.acknowledge(&request),
            Err(error) => self.refuse(&request, &No::of(&error, &request), None),
        }
    }

    /// Reads what will soon be asked for, so that it lies in the disk's own cache.
    fn warm(&self, from: u64, length: u64, buffer: &mut Vec<u8>) -> std::result::Result<(), BlockError> {
        let end = from + length.min(u64::from(REQUEST_MAX));
        let mut at = from;
        while at < end {
            let piece = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            buffer.resize(piece, 0);
            self.blocks().read_at(at, buffer)?;
            at += piece as u64;
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        lock(&self.writer).write_all(bytes).map_err(Error::Broken)
    }

    fn acknowledge(&self, request: &Request) -> Result<()> {
        if self.agreed.structured {
            let head = Chunk { flags: chunk::DONE, kind: chunk::NONE, cookie: request.cookie, length: 0 };
            self.send(&head.encode())
        } else {
            self.send(&simple(request.cookie, 0))
        }
    }

    /// Says no; in the middle of an answer in chunks with the place where it ended.
    fn refuse(&self, request: &Request, no: &No, at: Option<u64>) -> Result<()> {
        if !self.agreed.structured {
            return self.send(&simple(request.cookie, no.errno));
        }
        let words = no.why.as_bytes();
        let mut body = no.errno.to_be_bytes().to_vec();
        body.extend_from_slice(&u16::try_from(words.len()).unwrap_or(0).to_be_bytes());
        body.extend_from_slice(words);
        body.extend(at.iter().flat_map(|at| at.to_be_bytes()));
        let kind = if at.is_some() { chunk::ERROR_OFFSET } else { chunk::ERROR };
        let length = u32::try_from(body.len()).unwrap_or(0);
        let head = Chunk { flags: chunk::DONE, kind, cookie: request.cookie, length };
        self.send(&[&head.encode()[..], &body].concat())
    }

    fn read(&self, request: &Request, buffer: &mut Vec<u8>) -> Result<()> {
        if !self.agreed.structured {
            return self.read_simply(request, buffer);
        }
        let whole = request.flags & flag::DF != 0;
        if whole && request.length as usize > PIECE {
            let no = No { errno: errno::OVERFLOW, why: "too much for one chunk".to_owned() };
            return self.refuse(request, &no, None);
        }
        let end = request.offset + u64::from(request.length);
        let mut at = request.offset;
        while at < end {
            let step = self.blocks().extent(at, end - at).and_then(|extent| {
                let length = extent.length.clamp(1, end - at);
                if extent.zero && !whole {
                    return Ok((length, true));
                }
                let length = if whole { end - at } else { length.min(PIECE as u64) };
                buffer.resize(HEAD + usize::try_from(length).unwrap_or(PIECE), 0);
                self.blocks().read_at(at, &mut buffer[HEAD..])?;
                Ok((length, false))
            });
            let (length, hole) = match step {
                Ok(step) => step,
                Err(error) => return self.refuse(request, &No::of(&error, request), Some(at)),
            };
            let flags = if at + length == end { chunk::DONE } else { 0 };
            if hole {
                let head = Chunk { flags, kind: chunk::OFFSET_HOLE, cookie: request.cookie, length: 12 };
                let length = u32::try_from(length).unwrap_or(0);
                self.send(&[&head.encode()[..], &at.to_be_bytes()[..], &length.to_be_bytes()[..]].concat())?;
            } else {
                let length = u32::try_from(length + 8).unwrap_or(0);
                let head = Chunk { flags, kind: chunk::OFFSET_DATA, cookie: request.cookie, length };
                buffer[..Chunk::SIZE].copy_from_slice(&head.encode());
                buffer[Chunk::SIZE..HEAD].copy_from_slice(&at.to_be_bytes());
                self.send(buffer)?;
            }
            at += length;
        }
        Ok(())
    }

    /// For clients without structured replies. After the head there is no way to say no, so a failure in a later
    /// piece ends the connection: a client must never take wrong bytes for right ones.
    fn read_simply(&self, request: &Request, buffer: &mut Vec<u8>) -> Result<()> {
        let end = request.offset + u64::from(request.length);
        let mut at = request.offset;
        let mut writer = None;
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            buffer.resize(length, 0);
            if let Err(error) = self.blocks().read_at(at, buffer) {
                let no = No::of(&error, request);
                return match writer {
                    None => self.refuse(request, &no, None),
                    Some(_) => Err(Error::Protocol("a long read failed in its middle".to_owned())),
                };
            }
            let writer = writer.get_or_insert_with(|| lock(&self.writer));
            if at == request.offset {
                writer.write_all(&simple(request.cookie, 0)).map_err(Error::Broken)?;
            }
            writer.write_all(buffer).map_err(Error::Broken)?;
            at += length as u64;
        }
        Ok(())
    }

    fn status(&self, request: &Request, buffer: &mut Vec<u8>) -> Result<()> {
        if self.agreed.contexts.is_empty() {
            return self.refuse(request, &No::invalid("no context was agreed on"), None);
        }
        let most = if request.flags & flag::REQ_ONE != 0 { 1 } else { RUNS_MAX };
        let mut answers = Vec::new();
        for context in &self.agreed.contexts {
            match self.runs(*context, request, most) {
                Ok(runs) => answers.push((*context, runs)),
                Err(error) => return self.refuse(request, &No::of(&error, request), None),
            }
        }
        let last = answers.len() - 1;
        for (number, (context, runs)) in answers.iter().enumerate() {
            let flags = if number == last { chunk::DONE } else { 0 };
            let length = u32::try_from(4 + 8 * runs.len()).unwrap_or(0);
            let head = Chunk { flags, kind: chunk::BLOCK_STATUS, cookie: request.cookie, length };
            buffer.clear();
            buffer.extend_from_slice(&head.encode());
            buffer.extend_from_slice(&context.number().to_be_bytes());
            for (length, flags) in runs {
                buffer.extend_from_slice(&length.to_be_bytes());
                buffer.extend_from_slice(&flags.to_be_bytes());
            }
            self.send(buffer)?;
        }
        Ok(())
    }

    /// Runs of equal flags from the request's first byte on, at most so many.
    fn runs(
        &self,
        context: Context,
        request: &Request,
        most: usize,
    ) -> std::result::Result<Vec<(u32, u32)>, BlockError> {
        let blocks = self.blocks();
        let end = request.offset + u64::from(request.length);
        let mut at = request.offset;
        let mut runs: Vec<(u32, u32)> = Vec::new();
        while at < end {
            let (length, flags) = match context {
                Context::Allocation => {
                    let extent = blocks.extent(at, end - at)?;
                    (extent.length, u32::from(extent.hole) | u32::from(extent.zero) << 1)
                }
                Context::Written => {
                    let (length, written) = blocks.written(at, end - at).unwrap_or((end - at, true));
                    (length, u32::from(written))
                }
            };
            let length = length.clamp(1, end - at);
            // Within the request's own length, which has 32 bits.
            let short = u32::try_from(length).unwrap_or(u32::MAX);
            let full = runs.len() == most;
            match runs.last_mut() {
                Some((before, same)) if *same == flags => *before += short,
                _ if full => break,
                _ => runs.push((short, flags)),
            }
            at += length;
        }
        Ok(runs)
    }
}

fn simple(cookie: u64, error: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[..4].copy_from_slice(&SIMPLE_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&error.to_be_bytes());
    out[8..].copy_from_slice(&cookie.to_be_bytes());
    out
}
