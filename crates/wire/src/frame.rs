//! Frames: how messages and chunks lie in the stream.
//!
//! ```text
//! | length: u32 LE | kind: u8 | body: length bytes |
//!   kind 1: a message, postcard          length ≤ MESSAGE_MAX
//!   kind 2: a chunk: number u64 LE, then its bytes; length ≤ 8 + CHUNK_MAX
//! ```
//!
//! The length is checked before a byte of the body is kept, and the buffer grows only with bytes that came.

use std::io::{self, Read, Write};

use crate::{
    Error, Result,
    message::{CHUNK_MAX, MESSAGE_MAX, Message},
};

const HEADER: usize = 5;
const MESSAGE: u8 = 1;
const CHUNK: u8 = 2;
/// How much is taken from the connection at once.
const PIECE: usize = 64 << 10;

/// One frame.
#[expect(clippy::large_enum_variant, reason = "one of them exists per connection")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A message.
    Message(Message),
    /// Content.
    Chunk {
        /// Counts on this connection.
        number: u64,
        /// The plain bytes.
        bytes: Vec<u8>,
    },
}

/// Cuts a stream of bytes into frames, in whatever pieces it comes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    chunks: bool,
}

impl Decoder {
    /// For a connection on which chunks may come, or not.
    pub fn new(chunks: bool) -> Self {
        Self { chunks, ..Self::default() }
    }

    /// Takes in bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start >= self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that wait for the rest of their frame.
    pub fn waiting(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// The next whole frame, if it is there.
    ///
    /// # Errors
    /// [`Error::Protocol`] for a frame that is too long, of an unknown kind or not what it says; the connection
    /// is of no use afterwards.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        let rest = &self.buffer[self.start..];
        let Some((header, body)) = rest.split_at_checked(HEADER) else { return Ok(None) };
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let limit = match header[4] {
            MESSAGE => MESSAGE_MAX,
            CHUNK if self.chunks => 8 + CHUNK_MAX,
            other => return Err(Error::Protocol(format!("a frame of kind {other}"))),
        };
        if length > limit {
            return Err(Error::Protocol(format!("a frame of {length} bytes; {limit} is the limit")));
        }
        let Some(body) = body.get(..length) else { return Ok(None) };
        let frame = if header[4] == MESSAGE {
            let (message, rest) = postcard::take_from_bytes(body)
                .map_err(|error| Error::Protocol(format!("a message that cannot be read: {error}")))?;
            if !rest.is_empty() {
                return Err(Error::Protocol("a message with something behind it".to_owned()));
            }
            Frame::Message(message)
        } else {
            let Some((number, bytes)) = body.split_first_chunk::<8>() else {
                return Err(Error::Protocol("a chunk without a number".to_owned()));
            };
            Frame::Chunk { number: u64::from_le_bytes(*number), bytes: bytes.to_vec() }
        };
        self.start += HEADER + length;
        Ok(Some(frame))
    }
}

/// A message as it is sent.
///
/// # Errors
/// [`Error::Protocol`] if it would be too long for the other side.
pub fn encode(message: &Message) -> Result<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    frame = postcard::to_extend(message, frame)
        .map_err(|error| Error::Protocol(format!("a message that cannot be written: {error}")))?;
    let length = frame.len() - HEADER;
    if length > MESSAGE_MAX {
        return Err(Error::Protocol(format!("a message of {length} bytes; {MESSAGE_MAX} is the limit")));
    }
    frame[..4].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    frame[4] = MESSAGE;
    Ok(frame)
}

/// What is written before a chunk's bytes.
///
/// # Errors
/// [`Error::Protocol`] if the chunk is too long.
pub fn chunk_header(number: u64, length: usize) -> Result<[u8; HEADER + 8]> {
    if length > CHUNK_MAX {
        return Err(Error::Protocol(format!("a chunk of {length} bytes; {CHUNK_MAX} is the limit")));
    }
    let mut header = [0; HEADER + 8];
    header[..4].copy_from_slice(&u32::try_from(length + 8).unwrap_or(u32::MAX).to_le_bytes());
    header[4] = CHUNK;
    header[HEADER..].copy_from_slice(&number.to_le_bytes());
    Ok(header)
}

/// Reads frames from a connection whose reads end after a short time.
#[derive(Debug)]
pub struct FrameReader<R> {
    from: R,
    decoder: Decoder,
    piece: Vec<u8>,
    /// Bytes that came, for budgets and tests.
    pub received: u64,
}

impl<R: Read> FrameReader<R> {
    /// For a connection on which chunks may come, or not.
    pub fn new(from: R, chunks: bool) -> Self {
        Self { from, decoder: Decoder::new(chunks), piece: vec![0; PIECE], received: 0 }
    }

    /// From now on chunks may come, too.
    pub fn allow_chunks(&mut self) {
        self.decoder.chunks = true;
    }

    /// The next frame. `tick` is called whenever nothing came for a while, with whether anything came since it
    /// was called last; its error ends the waiting.
    ///
    /// # Errors
    /// [`Error::Broken`] at the connection's end, [`Error::Protocol`], or the error of `tick`.
    pub fn read(&mut self, tick: &mut dyn FnMut(bool) -> Result<()>) -> Result<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            match self.from.read(&mut self.piece) {
                Ok(0) => return Err(Error::Broken("the other side closed it".to_owned())),
                Ok(length) => {
                    self.received += length as u64;
                    self.decoder.feed(&self.piece[..length]);
                    tick(true)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    tick(false)?;
                }
                Err(error) => return Err(Error::broken(error)),
            }
        }
    }

    /// As [`read`](Self::read), where only a message may come.
    ///
    /// # Errors
    /// As there; [`Error::Refused`] if the other side says no.
    pub fn message(&mut self, tick: &mut dyn FnMut(bool) -> Result<()>) -> Result<Message> {
        match self.read(tick)? {
            Frame::Message(Message::Refused { code, why }) => {
                use crate::message::short;
                Err(Error::Refused { code: short(&code), why: short(&why) })
            }
            Frame::Message(message) => Ok(message),
            Frame::Chunk { .. } => Err(Error::Protocol("a chunk where none may come".to_owned())),
        }
    }
}

/// Writes a message.
///
/// # Errors
/// [`Error::Broken`], or [`Error::Protocol`] if it is too long.
pub fn send(to: &mut dyn Write, message: &Message) -> Result<()> {
    let frame = encode(message)?;
    to.write_all(&frame).and_then(|()| to.flush()).map_err(Error::broken)
}

/// Writes a chunk.
///
/// # Errors
/// [`Error::Broken`], or [`Error::Protocol`] if it is too long.
pub fn send_chunk(to: &mut dyn Write, number: u64, bytes: &[u8]) -> Result<()> {
    let header = chunk_header(number, bytes.len())?;
    to.write_all(&header).and_then(|()| to.write_all(bytes)).and_then(|()| to.flush()).map_err(Error::broken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Begin, Event, Known};

    fn message() -> impl Strategy<Value = Message> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..60);
        let id = any::<[u8; 32]>();
        prop_oneof![
            Just(Message::Ping),
            (any::<[u8; 16]>(), bytes()).prop_map(|(secret, request)| Message::Enrol { secret, request }),
            (any::<u64>(), proptest::collection::vec(id, 0..20))
                .prop_map(|(number, ids)| Message::Have { number, ids }),
            (any::<u64>(), bytes(), proptest::collection::vec(any::<(u32, u32)>(), 0..9)).prop_map(
                |(number, folder, places)| Message::Event { number, event: Event::Keep { folder, places } }
            ),
            (any::<[u8; 16]>(), ".{0,40}", any::<u8>(), proptest::collection::vec(any::<u64>(), 0..300))
                .prop_map(|(session, unit, lanes, table)| {
                    Message::Begin(Begin { session, unit, lanes, credit: 7, table, parent: true })
                }),
            (any::<u64>(), bytes(), any::<(i64, u32)>()).prop_map(|(number, name, mtime)| {
                let known = Known { place: 1, name, size: number, mtime, ctime: mtime, inode: 3 };
                Message::Listing { number, items: vec![known; 3], more: false }
            }),
        ]
    }

    fn frame() -> impl Strategy<Value = Frame> {
        prop_oneof![
            3 => message().prop_map(Frame::Message),
            1 => (any::<u64>(), proptest::collection::vec(any::<u8>(), 0..3000))
                .prop_map(|(number, bytes)| Frame::Chunk { number, bytes }),
        ]
    }

    fn written(frames: &[Frame]) -> Vec<u8> {
        let mut out = Vec::new();
        for frame in frames {
            match frame {
                Frame::Message(message) => send(&mut out, message).unwrap(),
                Frame::Chunk { number, bytes } => send_chunk(&mut out, *number, bytes).unwrap(),
            }
        }
        out
    }

    /// Feeds in pieces; gives the frames until the bytes or the patience of the decoder end.
    fn read(bytes: &[u8], step: usize, chunks: bool) -> (Vec<Frame>, Result<()>, usize) {
        let mut decoder = Decoder::new(chunks);
        let (mut frames, mut most) = (Vec::new(), 0);
        for piece in bytes.chunks(step.max(1)) {
            decoder.feed(piece);
            loop {
                most = most.max(decoder.waiting());
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Err(error), most),
                }
            }
        }
        (frames, Ok(()), most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn frames_come_out_as_they_went_in_whatever_the_pieces(frames in proptest::collection::vec(frame(), 0..12), step in 1_usize..2000) {
            let (found, outcome, _) = read(&written(&frames), step, true);
            prop_assert!(outcome.is_ok());
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn a_cut_stream_gives_its_whole_frames_and_no_other(frames in proptest::collection::vec(frame(), 1..6), cut in any::<prop::sample::Index>(), step in 1_usize..700) {
            let bytes = written(&frames);
            let (found, outcome, _) = read(&bytes[..cut.index(bytes.len())], step, true);
            prop_assert!(outcome.is_ok());
            prop_assert!(found.len() < frames.len());
            prop_assert_eq!(&found[..], &frames[..found.len()]);
        }

        #[test]
        fn noise_never_panics_and_never_waits_for_more_than_a_frame(noise in proptest::collection::vec(any::<u8>(), 0..5000), step in 1_usize..600, chunks in any::<bool>()) {
            let (_, _, most) = read(&noise, step, chunks);
            prop_assert!(most <= HEADER + 8 + CHUNK_MAX + step);
        }

        #[test]
        fn a_flipped_bit_never_panics(frames in proptest::collection::vec(frame(), 1..6), at in any::<prop::sample::Index>(), bit in 0_u8..8, step in 1_usize..900) {
            let mut bytes = written(&frames);
            let place = at.index(bytes.len());
            bytes[place] ^= 1 << bit;
            let _ = read(&bytes, step, true);
        }
    }

    #[test]
    fn what_is_too_long_or_unknown_is_refused_before_it_is_kept() {
        let frame = |length: u32, kind: u8| [&length.to_le_bytes()[..], &[kind]].concat();
        for (bytes, chunks) in [
            (frame(u32::try_from(MESSAGE_MAX).unwrap() + 1, 1), true),
            (frame(u32::try_from(CHUNK_MAX).unwrap() + 9, 2), true),
            (frame(u32::MAX, 1), true),
            (frame(10, 2), false),
            (frame(0, 3), true),
            ([frame(3, 2), vec![0; 3]].concat(), true),
            ([frame(0, 1)].concat(), true),
        ] {
            let (_, outcome, _) = read(&bytes, 1, chunks);
            assert!(matches!(outcome, Err(Error::Protocol(_))), "{bytes:?}");
        }
        let whole = encode(&Message::Ping).unwrap();
        let mut longer = whole.clone();
        longer[0] += 1;
        longer.push(0);
        assert!(read(&longer, 3, true).1.is_err(), "something behind a message");
        let huge = Message::Refused { code: String::new(), why: "x".repeat(MESSAGE_MAX) };
        assert!(encode(&huge).is_err(), "what nobody would take is not sent");
        // A list that announces more than it holds costs nothing.
        let list = [&[13_u8, 0][..], &[0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
        let list = [&u32::try_from(list.len()).unwrap().to_le_bytes()[..], &[1], &list].concat();
        assert!(read(&list, 4, true).1.is_err());
    }
}
