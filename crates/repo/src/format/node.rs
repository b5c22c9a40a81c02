//! Nodes: the items of a folder, and the numbers by which Go describes them.

use kuramori_model::tree::{EntryKind, FileTime};

use super::blob::BlobId;

/// Go's `FileMode` bits above the permissions.
pub mod mode {
    /// A folder.
    pub const DIR: u32 = 1 << 31;
    /// A symbolic link.
    pub const SYMLINK: u32 = 1 << 27;
    /// A device; a character device has [`CHAR_DEVICE`] as well.
    pub const DEVICE: u32 = 1 << 26;
    /// A named pipe.
    pub const FIFO: u32 = 1 << 25;
    /// A socket.
    pub const SOCKET: u32 = 1 << 24;
    /// Set-uid.
    pub const SETUID: u32 = 1 << 23;
    /// Set-gid.
    pub const SETGID: u32 = 1 << 22;
    /// A character device.
    pub const CHAR_DEVICE: u32 = 1 << 21;
    /// Sticky.
    pub const STICKY: u32 = 1 << 20;
}

/// What an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A block device.
    Device,
    /// A character device.
    CharDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl NodeKind {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::File, Self::Dir, Self::Symlink, Self::Device, Self::CharDevice, Self::Fifo, Self::Socket];

    /// The word in the tree's JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Symlink => "symlink",
            Self::Device => "dev",
            Self::CharDevice => "chardev",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }

    /// Reads the word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// The kind of a source's entry.
    pub fn of(entry: &EntryKind) -> Self {
        match entry {
            EntryKind::File { .. } => Self::File,
            EntryKind::Dir => Self::Dir,
            EntryKind::Symlink { .. } => Self::Symlink,
            EntryKind::Device { .. } => Self::Device,
            EntryKind::CharDevice { .. } => Self::CharDevice,
            EntryKind::Fifo => Self::Fifo,
            EntryKind::Socket => Self::Socket,
        }
    }

    const fn mode_bits(self) -> u32 {
        match self {
            Self::File => 0,
            Self::Dir => mode::DIR,
            Self::Symlink => mode::SYMLINK,
            Self::Device => mode::DEVICE,
            Self::CharDevice => mode::DEVICE | mode::CHAR_DEVICE,
            Self::Fifo => mode::FIFO,
            Self::Socket => mode::SOCKET,
        }
    }
}

/// Unix permission bits (`0o7777`) of a kind as Go's `FileMode`.
pub fn go_mode(kind: NodeKind, unix: u32) -> u32 {
    let mut go = kind.mode_bits() | unix & 0o777;
    for (unix_bit, go_bit) in [(0o4000, mode::SETUID), (0o2000, mode::SETGID), (0o1000, mode::STICKY)] {
        if unix & unix_bit != 0 {
            go |= go_bit;
        }
    }
    go
}

/// The Unix permission bits (`0o7777`) of a Go `FileMode`.
pub fn unix_mode(go: u32) -> u32 {
    let mut unix = go & 0o777;
    for (unix_bit, go_bit) in [(0o4000, mode::SETUID), (0o2000, mode::SETGID), (0o1000, mode::STICKY)] {
        if go & go_bit != 0 {
            unix |= unix_bit;
        }
    }
    unix
}

/// One item of a folder.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name, raw bytes.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: NodeKind,
    /// Go's `FileMode`; see [`go_mode`] and [`unix_mode`].
    pub mode: u32,
    /// Last change of content.
    pub mtime: FileTime,
    /// Last read.
    pub atime: FileTime,
    /// Last change of metadata.
    pub ctime: FileTime,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Owner's name.
    pub user: String,
    /// Group's name.
    pub group: String,
    /// Inode, 0 if unknown.
    pub inode: u64,
    /// Device of the inode: together they find hard links. 0 if unknown or not needed.
    pub device_id: u64,
    /// Size of a file in bytes.
    pub size: u64,
    /// Number of hard links.
    pub links: u64,
    /// Target of a symbolic link, raw bytes.
    pub link_target: Vec<u8>,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Attributes of other systems (`windows.*`), kept as the JSON object that was read.
    pub generic: Option<Box<serde_json::value::RawValue>>,
    /// Device number (`st_rdev`).
    pub device: u64,
    /// A file's pieces in order; `None` for everything that is not a file.
    pub content: Option<Vec<BlobId>>,
    /// A folder's tree.
    pub subtree: Option<BlobId>,
    /// What the writer noted when it could not read all of it.
    pub error: String,
}

impl Node {
    /// An item with nothing but a name, a kind and permissions.
    pub fn new(name: impl Into<Vec<u8>>, kind: NodeKind, unix: u32) -> Self {
        Self {
            name: name.into(),
            kind,
            mode: go_mode(kind, unix),
            mtime: FileTime::default(),
            atime: FileTime::default(),
            ctime: FileTime::default(),
            uid: 0,
            gid: 0,
            user: String::new(),
            group: String::new(),
            inode: 0,
            device_id: 0,
            size: 0,
            links: 0,
            link_target: Vec::new(),
            xattrs: Vec::new(),
            generic: None,
            device: 0,
            content: (kind == NodeKind::File).then(Vec::new),
            subtree: None,
            error: String::new(),
        }
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        // Field by field would forget the next field; the encoding has them all.
        super::tree::encode_node_for_compare(self) == super::tree::encode_node_for_compare(other)
    }
}
