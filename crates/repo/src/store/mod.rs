//! Where the files of a repository lie: a folder, a REST server, later S3.
//!
//! A store knows names and bytes, nothing of what they mean. Every name except `config` is the SHA-256 of
//! the stored bytes and every file is written once, so a store needs four promises only:
//!
//! 1. `write` returns after the bytes and the name are durable (a power cut does not lose them).
//! 2. A name that exists is never given other content. The same bytes under the same name succeed again,
//!    so that a lost answer can be repeated.
//! 3. Nobody sees a file that is half written.
//! 4. `list` gives only names of the right form; anything else that lies around is left out.
//!
//! A caller may use one store from many threads.

mod local;
mod rest;
mod spool;

use std::{fmt, io::Read, str::FromStr};

pub use local::LocalStore;
pub use rest::{Brake, FreeRun, RestOptions, RestStore};
pub use spool::{Spool, SpoolReader};

use crate::{Error, Result};

/// The six kinds of files in restic's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// The one `config`; it has no id, [`FileId::ZERO`] stands in where a call asks for one.
    Config,
    /// `keys/<id>`: the master key under a password.
    Key,
    /// `data/<id>`: a pack of blobs.
    Pack,
    /// `index/<id>`: which pack holds which blobs.
    Index,
    /// `snapshots/<id>`: a restore point.
    Snapshot,
    /// `locks/<id>`: somebody works here.
    Lock,
}

impl FileKind {
    /// Every kind whose files have ids.
    pub const NAMED: [Self; 5] = [Self::Key, Self::Pack, Self::Index, Self::Snapshot, Self::Lock];

    /// The folder's name in the layout and in the REST protocol (`config` for the file itself).
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Key => "keys",
            Self::Pack => "data",
            Self::Index => "index",
            Self::Snapshot => "snapshots",
            Self::Lock => "locks",
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.folder())
    }
}

/// The name of a stored file: the SHA-256 of its bytes as they lie in the store.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub [u8; 32]);

impl FileId {
    /// Stands in for the id of `config`.
    pub const ZERO: Self = Self([0; 32]);

    /// The id that these stored bytes must have.
    pub fn of(bytes: &[u8]) -> Self {
        let mut id = [0; 32];
        id.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
        Self(id)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A name that is not 64 lowercase hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an id of 64 lowercase hexadecimal digits")]
pub struct BadId(pub String);

/// Decodes 64 lowercase hexadecimal digits, the only form in which restic writes an id.
pub(crate) fn parse_hex_id(text: &str) -> std::result::Result<[u8; 32], BadId> {
    let mut id = [0; 32];
    let lower = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if lower && text.len() == 64 && hex::decode_to_slice(text, &mut id).is_ok() {
        Ok(id)
    } else {
        Err(BadId(text.chars().take(80).collect()))
    }
}

impl FromStr for FileId {
    type Err = BadId;

    fn from_str(text: &str) -> std::result::Result<Self, BadId> {
        parse_hex_id(text).map(Self)
    }
}

/// What [`Store::write`] stores.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// A small file that is already in memory.
    Bytes(&'a [u8]),
    /// A pack that grew in a spool file. The store may link the file into its place instead of copying it.
    Spool(&'a Spool),
}

impl Payload<'_> {
    /// Size in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Spool(spool) => spool.len(),
        }
    }

    /// Whether there is nothing to store; no file of a repository is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the bytes from the start; each call begins anew, so an upload can be repeated.
    pub fn reader(&self) -> Box<dyn Read + Send + '_> {
        match self {
            Self::Bytes(bytes) => Box::new(*bytes),
            Self::Spool(spool) => Box::new(spool.reader()),
        }
    }
}

/// A place that holds a repository's files.
pub trait Store: fmt::Debug + Send + Sync {
    /// Where this is, for messages; never with a password in it.
    fn place(&self) -> String;

    /// Makes the empty layout. Succeeds where it already exists; does not write `config`.
    fn create(&self) -> Result<()>;

    /// Calls `each` with the id and size of every file of a kind, in any order, without holding the list
    /// in memory where the store can avoid it. An error of `each` ends the listing and is returned.
    /// A missing folder is an empty list. `Config` lists nothing.
    fn list(&self, kind: FileKind, each: &mut dyn FnMut(FileId, u64) -> Result<()>) -> Result<()>;

    /// Size in bytes; [`Error::Missing`] if there is no such file.
    fn size(&self, kind: FileKind, id: FileId) -> Result<u64>;

    /// The whole file; [`Error::Missing`] if there is none, [`Error::Damaged`] if it is larger than `limit`
    /// bytes. The caller checks the content against the id.
    fn read(&self, kind: FileKind, id: FileId, limit: u64) -> Result<Vec<u8>>;

    /// Exactly `len` bytes from `offset`; fewer are [`Error::Damaged`] (truncated file).
    fn read_range(&self, kind: FileKind, id: FileId, offset: u64, len: u32) -> Result<Vec<u8>>;

    /// [`read_range`](Self::read_range) into a buffer of the caller's.
    fn read_into(&self, kind: FileKind, id: FileId, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let len = u32::try_from(buffer.len())
            .map_err(|_| Error::damaged(kind, id, "nobody reads so much of it at once"))?;
        let bytes = self.read_range(kind, id, offset, len)?;
        if bytes.len() != buffer.len() {
            return Err(Error::damaged(kind, id, "the store gave another number of bytes than asked for"));
        }
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    /// Stores a new file, durable when it returns. The same bytes under the same name succeed; other bytes
    /// under an existing name are [`Error::Exists`] and change nothing.
    fn write(&self, kind: FileKind, id: FileId, payload: Payload<'_>) -> Result<()>;

    /// Removes a file, durably. A file that is not there counts as removed.
    fn remove(&self, kind: FileKind, id: FileId) -> Result<()>;

    /// The stored bytes of `config`; [`Error::NotFound`] if there is no repository here.
    fn read_config(&self) -> Result<Vec<u8>> {
        match self.read(FileKind::Config, FileId::ZERO, 1 << 20) {
            Err(Error::Missing { .. }) => Err(Error::NotFound { place: self.place() }),
            other => other,
        }
    }

    /// Stores `config`, once.
    fn write_config(&self, bytes: &[u8]) -> Result<()> {
        self.write(FileKind::Config, FileId::ZERO, Payload::Bytes(bytes))
    }

    /// A folder on the file system where packs finally lie, if the store is one: a spool file made there
    /// needs no second copy.
    fn spool_dir(&self) -> Option<std::path::PathBuf> {
        None
    }
}
