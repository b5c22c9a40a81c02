//! The messages, in the order in which their variants were added: a variant is never removed or moved, because
//! postcard writes its number.
//!
//! A path in a message is a place in the *restore point's tree*. The agent never opens one: it sends them.

use kuramori_model::tree::{Entry, EntryKind, FileTime, Meta, TreePath};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The version that both sides speak. A side that knows several offers its newest and oldest.
pub const VERSION: u16 = 1;
/// Largest message in bytes: a folder's listing and a batch of ids fit many times.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Largest chunk in bytes: the largest that FastCDC cuts here.
pub const CHUNK_MAX: usize = 8 << 20;
/// Most ids in one `Have`.
pub const HAVE_MAX: usize = 1024;
/// Most ids of a file's content in one event.
pub const PART_MAX: usize = 4096;
/// Most ids of one file's content; the tree of a folder, which names them all, is one blob of at most 512 MiB.
pub const CONTENT_MAX: usize = 8 << 20;
/// Most items of one listing message.
pub const LISTING_MAX: usize = 2000;
/// Most items of one folder that are compared; what lies beyond is read again.
pub const FOLDER_MAX: usize = 200_000;
/// Longest text that a peer may make us keep.
pub const TEXT_MAX: usize = 4096;

/// A chunk's SHA-256.
pub type Id = [u8; 32];
/// Names one run of one unit; random, from the server.
pub type SessionId = [u8; 16];

/// Everything that is said, apart from chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Agent, first on the control connection.
    Hello(Hello),
    /// Agent, first on a session's main connection.
    Main {
        /// Which session.
        session: SessionId,
    },
    /// Agent, first on a data connection.
    Lane {
        /// Which session.
        session: SessionId,
    },
    /// Agent without a certificate: the only thing that it may say.
    Enrol {
        /// The token's secret.
        secret: [u8; 16],
        /// A PKCS #10 request, DER. Only its key counts.
        request: Vec<u8>,
    },
    /// Server: admitted.
    Welcome(Welcome),
    /// Server: read this unit now.
    Begin(Begin),
    /// Server: stop this session.
    Cancel {
        /// Which.
        session: SessionId,
    },
    /// Server: the answer to `Enrol` and `Renew`.
    Issued {
        /// The new certificate, PEM.
        certificate: String,
        /// The authorities to believe from now on, PEM.
        authorities: String,
    },
    /// Either: no. The connection ends after it.
    Refused {
        /// A stable code.
        code: String,
        /// In words.
        why: String,
    },
    /// Agent: this key instead of the one whose certificate ends soon.
    Renew {
        /// A PKCS #10 request, DER.
        request: Vec<u8>,
    },
    /// Agent: a session that it was asked for cannot begin.
    Declined {
        /// Which.
        session: SessionId,
        /// A stable code.
        code: String,
        /// In words.
        why: String,
    },
    /// Either: still here.
    Ping,
    /// Agent: the next thing that happened; numbers begin at 1 and have no gap.
    Event {
        /// Its number.
        number: u64,
        /// What.
        event: Event,
    },
    /// Agent: which of these chunks are not there?
    Have {
        /// Repeated in the answer.
        number: u64,
        /// At most [`HAVE_MAX`].
        ids: Vec<Id>,
    },
    /// Agent: what did the previous restore point hold here?
    Folder {
        /// Repeated in the answer.
        number: u64,
        /// A folder's path in the tree; empty for the root.
        path: Vec<u8>,
    },
    /// Server: everything up to this number is applied.
    Applied {
        /// The number.
        number: u64,
    },
    /// Server: the answer to `Have`.
    Missing {
        /// Of the question.
        number: u64,
        /// One bit for each id, the lowest of the first byte first; set: send it.
        bits: Vec<u8>,
    },
    /// Server: a part of the answer to `Folder`.
    Listing {
        /// Of the question.
        number: u64,
        /// Everything but folders, ascending by name.
        items: Vec<Known>,
        /// Another part follows.
        more: bool,
    },
    /// Server, on a data connection: this chunk is taken; its bytes are credit again.
    Stored {
        /// Of the chunk on this connection.
        number: u64,
        /// What the server computed.
        id: Id,
    },
    /// Agent, on a data connection: a chunk of nothing but zeros, in place of its bytes.
    Zeros {
        /// Counts with the chunks on this connection.
        number: u64,
        /// At most [`CHUNK_MAX`].
        length: u32,
    },
}

/// Who an agent says it is; its name comes from its certificate alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest version that it speaks.
    pub oldest: u16,
    /// Newest version that it speaks.
    pub newest: u16,
    /// Its program's version, for people.
    pub program: String,
    /// Its clock, seconds since 1970.
    pub now: i64,
    /// Changes with each start of the agent.
    pub start: [u8; 16],
    /// What its own file declares.
    pub units: Vec<Unit>,
}

/// One declared unit, as far as the server may know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name.
    pub name: String,
    /// `files`, `command`, `postgres` …
    pub kind: String,
}

/// The server's answer to a `Hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that is spoken from now on.
    pub version: u16,
    /// The agent's name, as the server knows it.
    pub name: String,
    /// The server's clock, seconds since 1970.
    pub now: i64,
    /// The authorities to believe, PEM.
    pub authorities: String,
    /// The agent should ask for a new certificate now.
    pub renew: bool,
}

/// An order to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The name of the run.
    pub session: SessionId,
    /// Which of the agent's own declarations. A name, never a path.
    pub unit: String,
    /// Data connections, 1 to 8.
    pub lanes: u8,
    /// Bytes that may be under way on each of them.
    pub credit: u32,
    /// FastCDC's table; empty: cut every 1 MiB.
    pub table: Vec<u64>,
    /// Whether there is a previous restore point to compare with.
    pub parent: bool,
}

/// One thing that happened while a source was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// An item without content.
    Item(Item),
    /// A file and the beginning of its content.
    File {
        /// What it is; its size is what its chunks add up to.
        item: Item,
        /// At most [`PART_MAX`] chunks, all of them stored or known.
        content: Vec<Id>,
        /// Nothing follows.
        done: bool,
    },
    /// More of the file's content.
    Content {
        /// At most [`PART_MAX`].
        content: Vec<Id>,
        /// Nothing follows.
        done: bool,
    },
    /// The file that is open could not be read to its end and must not appear.
    Drop,
    /// These items of the previous restore point are as they were.
    Keep {
        /// The folder.
        folder: Vec<u8>,
        /// First place in its listing and how many.
        places: Vec<(u32, u32)>,
    },
    /// Nothing more comes below this folder.
    Seal {
        /// The folder.
        folder: Vec<u8>,
    },
    /// This could not be read.
    Fault {
        /// Its path.
        path: Vec<u8>,
        /// Why.
        why: String,
    },
    /// The source gave everything.
    End {
        /// Its report as JSON: the consistency that it promises, where it came from, what the department felt.
        report: String,
    },
    /// The source failed; nothing may become visible.
    Failed {
        /// A stable code.
        code: String,
        /// In words.
        why: String,
    },
}

/// An item's metadata on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    path: Vec<u8>,
    kind: ItemKind,
    mode: u32,
    times: [(i64, u32); 3],
    owner: (u32, u32),
    names: (String, String),
    inode: u64,
    device: u64,
    links: u64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum ItemKind {
    File { size: u64 },
    Dir,
    Symlink { target: Vec<u8> },
    Device { number: u64 },
    CharDevice { number: u64 },
    Fifo,
    Socket,
}

/// An item of the previous restore point, as far as a change shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its place among all items of its folder.
    pub place: u32,
    /// Its name.
    pub name: Vec<u8>,
    /// Size in bytes; 0 for what has no content.
    pub size: u64,
    /// Last change of content, seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Last change of metadata.
    pub ctime: (i64, u32),
    /// Its number in the file system.
    pub inode: u64,
}

fn pair(time: FileTime) -> (i64, u32) {
    (time.seconds, time.nanos)
}

fn time((seconds, nanos): (i64, u32)) -> FileTime {
    FileTime { seconds, nanos: nanos.min(999_999_999) }
}

impl From<&Entry> for Item {
    fn from(entry: &Entry) -> Self {
        let meta = &entry.meta;
        Self {
            path: entry.path.as_bytes().to_vec(),
            kind: match &entry.kind {
                EntryKind::File { size } => ItemKind::File { size: *size },
                EntryKind::Dir => ItemKind::Dir,
                EntryKind::Symlink { target } => ItemKind::Symlink { target: target.clone() },
                EntryKind::Device { number } => ItemKind::Device { number: *number },
                EntryKind::CharDevice { number } => ItemKind::CharDevice { number: *number },
                EntryKind::Fifo => ItemKind::Fifo,
                EntryKind::Socket => ItemKind::Socket,
            },
            mode: meta.mode,
            times: [pair(meta.mtime), pair(meta.atime), pair(meta.ctime)],
            owner: (meta.uid, meta.gid),
            names: (meta.user.clone(), meta.group.clone()),
            inode: meta.inode,
            device: meta.device_id,
            links: meta.links,
            xattrs: meta.xattrs.clone(),
        }
    }
}

impl Item {
    /// The entry, if it stays inside a tree.
    ///
    /// # Errors
    /// [`Error::Protocol`] for a path that leaves the tree.
    pub fn entry(self) -> Result<Entry> {
        let path = TreePath::new(self.path).map_err(|error| Error::Protocol(error.to_string()))?;
        let kind = match self.kind {
            ItemKind::File { size } => EntryKind::File { size },
            ItemKind::Dir => EntryKind::Dir,
            ItemKind::Symlink { target } => EntryKind::Symlink { target },
            ItemKind::Device { number } => EntryKind::Device { number },
            ItemKind::CharDevice { number } => EntryKind::CharDevice { number },
            ItemKind::Fifo => EntryKind::Fifo,
            ItemKind::Socket => EntryKind::Socket,
        };
        let [mtime, atime, ctime] = self.times.map(time);
        let meta = Meta {
            mode: self.mode & 0o7777,
            mtime,
            atime,
            ctime,
            uid: self.owner.0,
            gid: self.owner.1,
            user: self.names.0,
            group: self.names.1,
            inode: self.inode,
            device_id: self.device,
            links: self.links,
            xattrs: self.xattrs,
        };
        Ok(Entry { path, kind, meta })
    }
}

/// A peer's text, cut to what we keep.
pub fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').take(TEXT_MAX / 4).collect()
}
