//! The packets of SFTP version 3 that reading needs (draft-ietf-secsh-filexfer-02, the version that OpenSSH
//! and nearly every other server speak). Names are raw bytes.

use kuramori_model::tree::FileTime;

/// Longest answer that is taken: a name list or a piece of a file, far above what servers send.
pub(super) const LONGEST: usize = 4 << 20;

const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const READLINK: u8 = 19;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask<'a> {
    /// Opens a file for reading, and for nothing else.
    Open(&'a [u8]),
    Close(&'a [u8]),
    Read {
        handle: &'a [u8],
        offset: u64,
        length: u32,
    },
    Stat(&'a [u8]),
    StatOpen(&'a [u8]),
    OpenFolder(&'a [u8]),
    ReadFolder(&'a [u8]),
    ReadLink(&'a [u8]),
}

impl Ask<'_> {
    pub(super) fn packet(&self, id: u32) -> Vec<u8> {
        let mut body = Vec::with_capacity(64);
        let (kind, text) = match self {
            Self::Open(path) => (OPEN, path),
            Self::Close(handle) => (CLOSE, handle),
            Self::Read { handle, .. } => (READ, handle),
            Self::Stat(path) => (LSTAT, path),
            Self::StatOpen(handle) => (FSTAT, handle),
            Self::OpenFolder(path) => (OPENDIR, path),
            Self::ReadFolder(handle) => (READDIR, handle),
            Self::ReadLink(path) => (READLINK, path),
        };
        body.push(kind);
        body.extend_from_slice(&id.to_be_bytes());
        put(&mut body, text);
        match self {
            // SSH_FXF_READ and no attributes.
            Self::Open(_) => {
                body.extend_from_slice(&1_u32.to_be_bytes());
                body.extend_from_slice(&0_u32.to_be_bytes());
            }
            Self::Read { offset, length, .. } => {
                body.extend_from_slice(&offset.to_be_bytes());
                body.extend_from_slice(&length.to_be_bytes());
            }
            _ => {}
        }
        framed(&body)
    }
}

fn put(to: &mut Vec<u8>, text: &[u8]) {
    to.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    to.extend_from_slice(text);
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(body.len() + 4);
    put(&mut packet, body);
    packet
}

/// The first packet: we speak version 3.
pub(super) fn hello() -> Vec<u8> {
    framed(&[1, 0, 0, 0, 3])
}

/// What can be seen of an item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) size: u64,
    pub(super) owner: (u32, u32),
    /// `st_mode`, with the bits that say what it is.
    pub(super) mode: u32,
    pub(super) read: u32,
    pub(super) written: u32,
}

impl Look {
    pub(super) fn is_folder(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    pub(super) fn is_link(&self) -> bool {
        self.mode & 0o170_000 == 0o120_000
    }

    /// A plain file; servers that tell no kind are believed to list files.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.mode & 0o170_000, 0o100_000 | 0)
    }

    pub(super) fn time(seconds: u32) -> FileTime {
        FileTime { seconds: i64::from(seconds), nanos: 0 }
    }

    /// Whether it is still the same content; reading alone changes the time of reading.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.size == other.size && self.written == other.written && self.mode == other.mode
    }
}

/// A listed name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: Vec<u8>,
    pub(super) look: Look,
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Hello(u32),
    Status {
        code: u32,
        words: String,
    },
    Handle(Vec<u8>),
    /// The bytes are the whole packet from the given place on.
    Data(bytes::Bytes),
    Names(Vec<Listed>),
    Look(Look),
}

pub(super) const STATUS_OK: u32 = 0;
pub(super) const STATUS_EOF: u32 = 1;
pub(super) const STATUS_MISSING: u32 = 2;
pub(super) const STATUS_DENIED: u32 = 3;

/// An answer and the request that it belongs to. `None` if it does not hold together.
pub(super) fn answer(packet: &bytes::Bytes) -> Option<(u32, Answer)> {
    let mut from = Reader { packet, at: 0 };
    let kind = from.byte()?;
    if kind == 2 {
        return Some((0, Answer::Hello(from.number()?)));
    }
    let id = from.number()?;
    let answer = match kind {
        101 => {
            let code = from.number()?;
            // Some servers leave the words out.
            let words = from.text().unwrap_or_default();
            Answer::Status { code, words: String::from_utf8_lossy(words).chars().take(300).collect() }
        }
        102 => Answer::Handle(from.text()?.to_vec()),
        103 => {
            let length = from.text()?.len();
            let end = from.at;
            Answer::Data(packet.slice(end - length..end))
        }
        104 => {
            let count = from.number()?;
            let mut names = Vec::new();
            for _ in 0..count {
                let name = from.text()?.to_vec();
                from.text()?;
                names.push(Listed { name, look: from.look()? });
            }
            Answer::Names(names)
        }
        105 => Answer::Look(from.look()?),
        _ => return None,
    };
    Some((id, answer))
}

struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.packet.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn long(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn look(&mut self) -> Option<Look> {
        let flags = self.number()?;
        let mut look = Look::default();
        if flags & 1 != 0 {
            look.size = self.long()?;
        }
        if flags & 2 != 0 {
            look.owner = (self.number()?, self.number()?);
        }
        if flags & 4 != 0 {
            look.mode = self.number()?;
        }
        if flags & 8 != 0 {
            (look.read, look.written) = (self.number()?, self.number()?);
        }
        if flags & 0x8000_0000 != 0 {
            for _ in 0..self.number()? {
                self.text()?;
                self.text()?;
            }
        }
        Some(look)
    }
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::{Random, SeededRandom};

    use super::*;

    #[test]
    fn a_read_request_is_as_the_draft_draws_it() {
        let packet = Ask::Read { handle: b"h", offset: 0x0102, length: 7 }.packet(9);
        assert_eq!(
            packet,
            [0, 0, 0, 22, 5, 0, 0, 0, 9, 0, 0, 0, 1, b'h', 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 7]
        );
        assert_eq!(Ask::Open(b"a").packet(1)[4..], [3, 0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(hello(), [0, 0, 0, 5, 1, 0, 0, 0, 3]);
    }

    #[test]
    fn broken_answers_are_refused_and_never_loop() {
        let mut good = vec![104, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0x8C, 0xFA, 0, 0, 0, 0, 0, 0, 0, 13];
        good.extend([0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0x81, 0xA4, 0, 0, 0, 1, 0, 0, 0, 2]);
        let Some((5, Answer::Names(names))) = answer(&good.clone().into()) else { panic!() };
        assert_eq!(
            (names[0].name.as_slice(), names[0].look.size, names[0].look.written),
            (&[0x8C, 0xFA][..], 7, 2)
        );
        assert!(names[0].look.is_file() && !names[0].look.is_folder());
        let random = SeededRandom::new(8);
        for _ in 0..20_000 {
            let mut bad = good.clone();
            let at = usize::try_from(random.below(bad.len() as u64)).unwrap();
            let mut byte = [0];
            random.fill(&mut byte);
            bad[at] = byte[0];
            bad.truncate(usize::try_from(random.below(bad.len() as u64 + 1)).unwrap());
            let _ = answer(&bad.into());
        }
    }
}
