//! Negotiation: the client asks for an export and for what it understands, in options that are answered one by one.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use kuramori_model::clock::Clock;

use super::{Export, Shared};
use crate::{
    Error, Result,
    stream::{Stream, wait_readable},
    wire::{
        ALLOCATION, MAGIC, NAME_MAX, OPTION_MAGIC, OPTION_MAX, OPTION_REPLY_MAGIC, REQUEST_MAX, WRITTEN,
        greeting, info, option, reply, transmission, u16_at, u32_at, u64_at,
    },
};

/// Options of one client; a sane one needs seven.
const OPTIONS_MAX: usize = 64;

/// A context of block status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    Allocation,
    Written,
}

impl Context {
    const fn name(self) -> &'static str {
        match self {
            Self::Allocation => ALLOCATION,
            Self::Written => WRITTEN,
        }
    }

    /// Its number on the wire.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Allocation => 1,
            Self::Written => 2,
        }
    }

    /// The contexts that an export has.
    fn of(export: &Export) -> &'static [Self] {
        if export.blocks.written(0, 1).is_some() {
            &[Self::Allocation, Self::Written]
        } else {
            &[Self::Allocation]
        }
    }
}

/// What a client and the server agreed on.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) export: Export,
    pub(super) structured: bool,
    pub(super) contexts: Vec<Context>,
}

/// Reads with one end for everything: a client that sends a byte now and then cannot stretch it.
pub(super) struct Deadline<'a> {
    pub(super) stream: &'a Stream,
    clock: &'a dyn Clock,
    end: Duration,
}

impl<'a> Deadline<'a> {
    pub(super) fn new(stream: &'a Stream, clock: &'a dyn Clock, time: Duration) -> Self {
        Self { stream, clock, end: clock.boot() + time }
    }

    pub(super) fn fill(&self, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            let left = self.end.saturating_sub(self.clock.boot());
            let ready = !left.is_zero()
                && wait_readable(std::os::fd::AsFd::as_fd(self.stream), Some(left)).map_err(Error::Broken)?;
            if !ready {
                return Err(Error::Broken(io::ErrorKind::TimedOut.into()));
            }
            let read = match self.stream {
                Stream::Unix(stream) => (&mut &*stream).read(buffer),
                Stream::Tcp(stream) => (&mut &*stream).read(buffer),
            };
            match read {
                Ok(0) => return Err(Error::Broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Broken(error)),
            }
        }
        Ok(())
    }

    fn bytes<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

/// Negotiates. None if the client only looked, or left.
pub(super) fn negotiate(shared: &Shared, stream: &mut Stream) -> Result<Option<Agreed>> {
    let mut hello = Vec::with_capacity(18);
    hello.extend_from_slice(&MAGIC.to_be_bytes());
    hello.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    hello.extend_from_slice(&(greeting::FIXED_NEWSTYLE | greeting::NO_ZEROES).to_be_bytes());
    let mut talk = Talk { stream: stream.again().map_err(Error::Broken)? };
    talk.send(&hello)?;
    let input = Deadline::new(stream, &*shared.clock, shared.limits.negotiation);
    let flags = u32::from_be_bytes(input.bytes()?);
    let known = u32::from(greeting::FIXED_NEWSTYLE | greeting::NO_ZEROES);
    if flags & !known != 0 {
        return Err(Error::Protocol(format!("flags {flags:#x} in the greeting")));
    }
    let zeroes = flags & u32::from(greeting::NO_ZEROES) == 0;
    let mut structured = false;
    let mut contexts: Option<(Vec<u8>, Vec<Context>)> = None;
    for _ in 0..OPTIONS_MAX {
        let head: [u8; 16] = input.bytes()?;
        if u64_at(&head, 0) != Some(OPTION_MAGIC) {
            return Err(Error::Protocol("an option does not begin as one".to_owned()));
        }
        let (Some(option), Some(length)) = (u32_at(&head, 8), u32_at(&head, 12)) else { return Ok(None) };
        if length > OPTION_MAX {
            talk.reply(option, reply::TOO_BIG, b"")?;
            return Err(Error::Protocol(format!("an option of {length} bytes")));
        }
        let mut data = vec![0; length as usize];
        input.fill(&mut data)?;
        match option {
            option::EXPORT_NAME => {
                let Some(export) = shared.export(&data) else {
                    return Err(Error::Protocol("a client asks for an export that is not there".to_owned()));
                };
                let mut answer = Vec::with_capacity(134);
                answer.extend_from_slice(&export.blocks.size().to_be_bytes());
                answer.extend_from_slice(&flags_of(export).to_be_bytes());
                if zeroes {
                    answer.resize(134, 0);
                }
                talk.send(&answer)?;
                return Ok(Some(agreed(export, structured, contexts, &data)));
            }
            option::ABORT => {
                talk.reply(option, reply::ACK, b"")?;
                return Ok(None);
            }
            option::LIST if data.is_empty() => {
                for export in &shared.exports {
                    let mut answer = sized(export.name.as_bytes());
                    answer.extend_from_slice(export.description.as_bytes());
                    talk.reply(option, reply::SERVER, &answer)?;
                }
                talk.reply(option, reply::ACK, b"")?;
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                structured = true;
                talk.reply(option, reply::ACK, b"")?;
            }
            option::INFO | option::GO => {
                let Some((name, wanted)) = parse_info(&data) else {
                    talk.reply(option, reply::INVALID, b"the option is cut off")?;
                    continue;
                };
                let Some(export) = shared.export(name) else {
                    talk.reply(option, reply::UNKNOWN, b"there is no such export")?;
                    continue;
                };
                talk.facts(option, export, &wanted)?;
                talk.reply(option, reply::ACK, b"")?;
                if option == option::GO {
                    return Ok(Some(agreed(export, structured, contexts, name)));
                }
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                let setting = option == option::SET_META_CONTEXT;
                if setting {
                    contexts = None;
                }
                let Some((name, queries)) = parse_queries(&data) else {
                    talk.reply(option, reply::INVALID, b"the option is cut off")?;
                    continue;
                };
                if setting && !structured {
                    talk.reply(option, reply::INVALID, b"structured replies come first")?;
                    continue;
                }
                let Some(export) = shared.export(name) else {
                    talk.reply(option, reply::UNKNOWN, b"there is no such export")?;
                    continue;
                };
                let found: Vec<Context> = Context::of(export)
                    .iter()
                    .copied()
                    .filter(|context| fits(*context, &queries, setting))
                    .collect();
                for context in &found {
                    let mut answer = context.number().to_be_bytes().to_vec();
                    answer.extend_from_slice(context.name().as_bytes());
                    talk.reply(option, reply::META_CONTEXT, &answer)?;
                }
                talk.reply(option, reply::ACK, b"")?;
                if setting {
                    contexts = Some((name.to_vec(), found));
                }
            }
            option::LIST | option::STRUCTURED_REPLY => {
                talk.reply(option, reply::INVALID, b"the option takes no data")?;
            }
            _ => talk.reply(option, reply::UNSUPPORTED, b"")?,
        }
    }
    Err(Error::Protocol(format!("more than {OPTIONS_MAX} options")))
}

fn agreed(
    export: &Export,
    structured: bool,
    contexts: Option<(Vec<u8>, Vec<Context>)>,
    name: &[u8],
) -> Agreed {
    // Contexts count for the export that they were asked for, by the name that was used.
    let contexts = contexts.filter(|(asked, _)| asked == name).map(|(_, found)| found).unwrap_or_default();
    Agreed { export: export.clone(), structured, contexts }
}

/// Whether a context fits one of the queries. A listing without queries wants all, and knows `namespace:`.
fn fits(context: Context, queries: &[&[u8]], setting: bool) -> bool {
    let name = context.name();
    let space = &name.as_bytes()[..=name.find(':').unwrap_or(0)];
    queries.iter().any(|query| *query == name.as_bytes() || (!setting && *query == space))
        || (!setting && queries.is_empty())
}

pub(super) fn flags_of(export: &Export) -> u16 {
    use transmission::{
        CAN_MULTI_CONN, HAS_FLAGS, READ_ONLY, SEND_CACHE, SEND_DF, SEND_FLUSH, SEND_FUA, SEND_TRIM,
        SEND_WRITE_ZEROES,
    };
    let common = HAS_FLAGS | SEND_DF | CAN_MULTI_CONN | SEND_CACHE;
    if export.blocks.is_writable() {
        common | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES
    } else {
        common | READ_ONLY
    }
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// `length u32, name, count u16, count times u16`.
fn parse_info(data: &[u8]) -> Option<(&[u8], Vec<u16>)> {
    let (name, rest) = parse_name(data)?;
    let count = usize::from(u16_at(rest, 0)?);
    if rest.len() != 2 + 2 * count {
        return None;
    }
    let wanted = (0..count).filter_map(|number| u16_at(rest, 2 + 2 * number)).collect();
    Some((name, wanted))
}

fn parse_name(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32_at(data, 0)? as usize;
    let name = data.get(4..4_usize.checked_add(length)?)?;
    (length <= NAME_MAX).then_some((name, &data[4 + length..]))
}

/// `length u32, name, count u32, count times (length u32, query)`.
fn parse_queries(data: &[u8]) -> Option<(&[u8], Vec<&[u8]>)> {
    let (name, rest) = parse_name(data)?;
    let count = u32_at(rest, 0)?;
    let mut rest = &rest[4..];
    // Each takes four bytes at least, so the option's length bounds the list.
    let mut queries = Vec::new();
    for _ in 0..count {
        let (query, after) = parse_name(rest)?;
        queries.push(query);
        rest = after;
    }
    rest.is_empty().then_some((name, queries))
}

/// The answering side.
struct Talk {
    stream: Stream,
}

impl Talk {
    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(Error::Broken)
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> Result<()> {
        let length = u32::try_from(data.len()).unwrap_or(0);
        let mut out = Vec::with_capacity(20 + data.len());
        out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(data);
        self.send(&out)
    }

    fn facts(&mut self, option: u32, export: &Export, wanted: &[u16]) -> Result<()> {
        let mut size = info::EXPORT.to_be_bytes().to_vec();
        size.extend_from_slice(&export.blocks.size().to_be_bytes());
        size.extend_from_slice(&flags_of(export).to_be_bytes());
        self.reply(option, reply::INFO, &size)?;
        for (fact, text) in [(info::NAME, &export.name), (info::DESCRIPTION, &export.description)] {
            if wanted.contains(&fact) {
                let answer = [&fact.to_be_bytes()[..], text.as_bytes()].concat();
                self.reply(option, reply::INFO, &answer)?;
            }
        }
        if wanted.contains(&info::BLOCK_SIZE) {
            let mut answer = info::BLOCK_SIZE.to_be_bytes().to_vec();
            for number in [1, 4096, REQUEST_MAX] {
                answer.extend_from_slice(&u32::to_be_bytes(number));
            }
            self.reply(option, reply::INFO, &answer)?;
        }
        Ok(())
    }
}
