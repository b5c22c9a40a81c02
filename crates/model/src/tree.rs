//! What a source hands to a repository: the entries of a tree, one after the other.
//!
//! A source (SMB share, PostgreSQL stream, local files) calls a [`Sink`] for each item that it reads; the
//! engine implements it. Both sides know only this module, so neither room imports the other.
//!
//! Entries may come in any order. Folders that a source never names exist with plain metadata; a source
//! that walks depth first calls [`Sink::seal`] when a folder is finished, so that memory stays flat.

use std::io::Read;

/// A path inside a tree: raw bytes, `/` between the parts, relative, without empty, `.` or `..` parts.
/// Names are bytes because departmental systems have names that are not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Vec<u8>);

/// Longest path in bytes: twice as long as any that Windows shares can name.
pub const PATH_MAX: usize = 64 << 10;
/// Most parts of a path: what 4,096 bytes, the longest path of a Linux system call, can hold.
pub const DEPTH_MAX: usize = 2048;

/// A path that could leave the tree, names nothing, or is longer or deeper than any real one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{}` ({} bytes) is not a path inside a tree", String::from_utf8_lossy(.path), .length)]
pub struct BadPath {
    /// Its beginning: the words for people must not be as long as it may be.
    path: Vec<u8>,
    length: usize,
}

impl TreePath {
    /// Checks every part, their number and the length.
    pub fn new(path: impl Into<Vec<u8>>) -> Result<Self, BadPath> {
        let mut path = path.into();
        let mut depth = 0;
        let fits = path.len() <= PATH_MAX
            && path.split(|b| *b == b'/').all(|part| {
                depth += 1;
                depth <= DEPTH_MAX && !matches!(part, b"" | b"." | b"..") && !part.contains(&0)
            });
        if fits {
            return Ok(Self(path));
        }
        let length = path.len();
        path.truncate(200);
        Err(BadPath { path, length })
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The parts from the top down; never empty.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/')
    }

    /// The path of an item in this folder.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadPath> {
        Self::new([self.as_bytes(), name].join(&b'/'))
    }
}

impl std::fmt::Display for TreePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// A point in time as file systems keep it: seconds since 1970 (may be negative) and nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime {
    /// Whole seconds since 1970-01-01T00:00:00Z, rounded toward the past.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// What kind of thing an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file and the size that its source announced, in bytes; the content may turn out different.
    File {
        /// Announced size in bytes.
        size: u64,
    },
    /// A folder.
    Dir,
    /// A symbolic link and its target's raw bytes.
    Symlink {
        /// Where it points, as stored.
        target: Vec<u8>,
    },
    /// A block device by its number (`st_rdev`).
    Device {
        /// `st_rdev`.
        number: u64,
    },
    /// A character device by its number (`st_rdev`).
    CharDevice {
        /// `st_rdev`.
        number: u64,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// What a file system knows of an item besides its content. A source leaves at zero or empty what it
/// cannot see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Unix permission bits with set-uid, set-gid and sticky (`0o7777`).
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
    /// Owner's name, if known.
    pub user: String,
    /// Group's name, if known.
    pub group: String,
    /// Inode or file id; 0 where there is none.
    pub inode: u64,
    /// Device of the inode; 0 where there is none.
    pub device_id: u64,
    /// Number of hard links; 0 where unknown.
    pub links: u64,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// One item of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where in the tree.
    pub path: TreePath,
    /// What it is.
    pub kind: EntryKind,
    /// What is known of it.
    pub meta: Meta,
}

/// Why a sink can take no more: the source stops and reports it unchanged.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot take the data")]
pub struct SinkError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// The receiving side of a backup.
pub trait Sink {
    /// Whether the previous restore point of this source holds the same file (kind, size, times and inode
    /// as far as they are known), so that the source need not read it.
    fn known(&mut self, entry: &Entry) -> bool;

    /// Takes over the content of a [`known`](Sink::known) file from the previous restore point.
    fn keep(&mut self, entry: Entry) -> Result<(), SinkError>;

    /// Takes an item. `content` is read to its end for a file and ignored for everything else. A read
    /// error of `content` is recorded as [`fault`](Sink::fault) of this entry and is not a `SinkError`.
    fn put(&mut self, entry: Entry, content: &mut dyn Read) -> Result<(), SinkError>;

    /// Says that no more entries come below this folder.
    fn seal(&mut self, folder: &TreePath) -> Result<(), SinkError>;

    /// Records an item that could not be read: the restore point will be marked incomplete.
    fn fault(&mut self, path: &TreePath, why: String);

    /// The file that the previous restore point of this source has at a path; none if it has none, or if nobody
    /// here remembers it.
    fn earlier(&mut self, path: &TreePath) -> Option<Earlier> {
        let _ = path;
        None
    }

    /// Bytes of such a file, fewer at its end; none if they cannot be read. Meant for a table or a small part.
    fn earlier_content(&mut self, path: &TreePath, offset: u64, length: usize) -> Option<Vec<u8>> {
        let _ = (path, offset, length);
        None
    }
}

/// A file of the previous restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// Its size in bytes.
    pub size: u64,
    /// What it was described by.
    pub meta: Meta,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_leave_its_tree() {
        assert!(TreePath::new("a/b").is_ok());
        for bad in ["", "/a", "a/", "a//b", ".", "a/../b", "a/./b", "a\0b"] {
            assert!(TreePath::new(bad).is_err(), "{bad}");
        }
        assert!(TreePath::new("a").unwrap().join(b"..").is_err());
    }

    #[test]
    fn a_path_is_no_longer_and_no_deeper_than_a_real_one() {
        let deep = |parts: usize| vec!["a"; parts].join("/");
        assert!(TreePath::new(deep(DEPTH_MAX)).is_ok());
        let error = TreePath::new(deep(DEPTH_MAX + 1)).unwrap_err();
        assert!(error.to_string().len() < 300, "{error}");
        assert!(TreePath::new("a".repeat(PATH_MAX)).is_ok());
        assert!(TreePath::new("a".repeat(PATH_MAX + 1)).is_err());
        assert!(TreePath::new(deep(DEPTH_MAX)).unwrap().join(b"a").is_err());
    }
}
