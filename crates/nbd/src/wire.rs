//! The numbers of the protocol (`doc/proto.md` of the NBD project) and what goes over the wire in one piece.
//!
//! Everything is big-endian. A client's request is
//! `magic u32, flags u16, command u16, cookie u64, offset u64, length u32` and, for a write, the bytes; a
//! structured reply's chunk is `magic u32, flags u16, type u16, cookie u64, length u32` and the bytes; a simple
//! reply is `magic u32, error u32, cookie u64` and, for a read, the bytes.

/// Bytes that are read, written or kept in one go; a longer request is done in such pieces.
pub const PIECE: usize = 1 << 20;
/// Largest request for reading or writing that a server takes, in bytes: what the protocol calls the maximum
/// block size when nothing else was agreed.
pub const REQUEST_MAX: u32 = 32 << 20;
/// Longest name of an export, in bytes, by the protocol.
pub const NAME_MAX: usize = 4096;
/// Largest option of a client, or reply to one, that is read.
pub const OPTION_MAX: u32 = 64 << 10;

/// "NBDMAGIC", the first word of a server.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT", the second word of a server and the first of every option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of the reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply's chunk.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Flags of the greeting.
pub mod greeting {
    /// Options are answered in the fixed way.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// No 124 zeros after the export's data.
    pub const NO_ZEROES: u16 = 2;
}

/// What a client asks for during negotiation.
pub mod option {
    /// Ends negotiation with the export of this name, without a way to say no.
    pub const EXPORT_NAME: u32 = 1;
    /// Ends the connection.
    pub const ABORT: u32 = 2;
    /// The names of all exports.
    pub const LIST: u32 = 3;
    /// Encryption.
    pub const STARTTLS: u32 = 5;
    /// Facts about an export.
    pub const INFO: u32 = 6;
    /// Facts about an export, which is then used.
    pub const GO: u32 = 7;
    /// Replies in chunks from now on.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Which contexts of block status there are.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Which contexts of block status are wanted.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// How a server answers an option.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export.
    pub const SERVER: u32 = 2;
    /// A fact about an export.
    pub const INFO: u32 = 3;
    /// A context of block status.
    pub const META_CONTEXT: u32 = 4;
    /// Set in every answer that says no.
    pub const ERROR: u32 = 1 << 31;
    /// The option is not known.
    pub const UNSUPPORTED: u32 = ERROR + 1;
    /// Not allowed by policy.
    pub const POLICY: u32 = ERROR + 2;
    /// The option makes no sense.
    pub const INVALID: u32 = ERROR + 3;
    /// There is no such export.
    pub const UNKNOWN: u32 = ERROR + 6;
    /// The option is too long.
    pub const TOO_BIG: u32 = ERROR + 9;
}

/// Facts about an export.
pub mod info {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// Its name.
    pub const NAME: u16 = 1;
    /// Words for people.
    pub const DESCRIPTION: u16 = 2;
    /// Smallest, best and largest request.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Flags of an export.
pub mod transmission {
    /// The flags mean something.
    pub const HAS_FLAGS: u16 = 1;
    /// It cannot be written.
    pub const READ_ONLY: u16 = 1 << 1;
    /// It takes [`super::command::FLUSH`].
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// It takes [`super::flag::FUA`].
    pub const SEND_FUA: u16 = 1 << 3;
    /// It takes [`super::command::TRIM`].
    pub const SEND_TRIM: u16 = 1 << 5;
    /// It takes [`super::command::WRITE_ZEROES`].
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// It takes [`super::flag::DF`].
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers what was answered on all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// It takes [`super::command::CACHE`].
    pub const SEND_CACHE: u16 = 1 << 10;
}

/// What a client asks for afterwards.
pub mod command {
    /// Read.
    pub const READ: u16 = 0;
    /// Write.
    pub const WRITE: u16 = 1;
    /// End the connection.
    pub const DISCONNECT: u16 = 2;
    /// Make durable what was answered.
    pub const FLUSH: u16 = 3;
    /// A range is not needed any more.
    pub const TRIM: u16 = 4;
    /// A range will be read soon.
    pub const CACHE: u16 = 5;
    /// Make a range read as zeros.
    pub const WRITE_ZEROES: u16 = 6;
    /// Which parts of a range are holes, or changed.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a request.
pub mod flag {
    /// Durable before the answer.
    pub const FUA: u16 = 1;
    /// Zeros must take room.
    pub const NO_HOLE: u16 = 1 << 1;
    /// The answer in one chunk.
    pub const DF: u16 = 1 << 2;
    /// One run is enough.
    pub const REQ_ONE: u16 = 1 << 3;
}

/// Types and flags of a structured reply's chunks.
pub mod chunk {
    /// Flag: the last chunk of this reply.
    pub const DONE: u16 = 1;
    /// Nothing more.
    pub const NONE: u16 = 0;
    /// `offset u64` and bytes.
    pub const OFFSET_DATA: u16 = 1;
    /// `offset u64, length u32` of zeros.
    pub const OFFSET_HOLE: u16 = 2;
    /// `context u32` and pairs of `length u32, flags u32`.
    pub const BLOCK_STATUS: u16 = 5;
    /// `error u32, length u16` and words.
    pub const ERROR: u16 = 1 << 15 | 1;
    /// `error u32, length u16`, words, `offset u64`.
    pub const ERROR_OFFSET: u16 = 1 << 15 | 2;
}

/// Error numbers on the wire; they are Linux's.
pub mod errno {
    /// Not permitted: the export is read-only.
    pub const PERM: u32 = 1;
    /// Input or output failed.
    pub const IO: u32 = 5;
    /// The request makes no sense.
    pub const INVAL: u32 = 22;
    /// No room.
    pub const NOSPC: u32 = 28;
    /// Too much for one chunk.
    pub const OVERFLOW: u32 = 75;
    /// Not supported.
    pub const NOTSUP: u32 = 95;
    /// The server is ending.
    pub const SHUTDOWN: u32 = 108;
}

/// The context of holes and zeros; its bits are 1 for a hole and 2 for zeros.
pub const ALLOCATION: &str = "base:allocation";
/// Our own context: bit 1 where an overlay holds what was written since it was made.
pub const WRITTEN: &str = "kuramori:written";
/// Contexts of QEMU: bit 1 where the bitmap is dirty.
pub const QEMU_BITMAP: &str = "qemu:dirty-bitmap:";

/// Sixteen bits from the start of `bytes`, which must have them.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

/// A request as it lies on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// See [`flag`].
    pub flags: u16,
    /// See [`command`].
    pub command: u16,
    /// Comes back in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u32,
}

impl Request {
    /// Bytes on the wire.
    pub const SIZE: usize = 28;

    /// Writes it.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// Reads it; none if it does not begin as a request does: then nobody knows where the next one begins.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        if u32_at(bytes, 0)? != REQUEST_MAGIC {
            return None;
        }
        Some(Self {
            flags: u16_at(bytes, 4)?,
            command: u16_at(bytes, 6)?,
            cookie: u64_at(bytes, 8)?,
            offset: u64_at(bytes, 16)?,
            length: u32_at(bytes, 24)?,
        })
    }
}

/// The head of a structured reply's chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// See [`chunk`].
    pub flags: u16,
    /// See [`chunk`].
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// Bytes that follow.
    pub length: u32,
}

impl Chunk {
    /// Bytes on the wire.
    pub const SIZE: usize = 20;

    /// Writes it.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.kind.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..].copy_from_slice(&self.length.to_be_bytes());
        out
    }

    /// Reads it.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        if u32_at(bytes, 0)? != CHUNK_MAGIC {
            return None;
        }
        Some(Self {
            flags: u16_at(bytes, 4)?,
            kind: u16_at(bytes, 6)?,
            cookie: u64_at(bytes, 8)?,
            length: u32_at(bytes, 16)?,
        })
    }
}
