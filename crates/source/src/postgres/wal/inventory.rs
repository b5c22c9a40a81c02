//! What the newest restore point is made of, so that the next one can take it over without reading it: kept in
//! the spool folder as `base.json`. The repository has the last word: only what the previous restore point is
//! [known](Sink::known) to hold is taken over, and a list that does not fit means a new base backup.

use std::io::{self, Cursor, Read};

use jiff::Timestamp;
use kuramori_model::{
    tree::{Entry, EntryKind, FileTime, Meta, Sink, SinkError, TreePath},
    wal::{Base, Lsn},
};
use serde::{Deserialize, Serialize};

use crate::report::PostgresOrigin;

/// Its name in the spool folder.
pub(super) const NAME: &str = "base.json";
/// The list before it: of the restore point that stays the newest if this one is not committed.
pub(super) const BEFORE: &str = "base.before.json";
/// The server's own settings file, to which recovery's settings are added.
const SETTINGS: &str = "postgresql.auto.conf";
/// What is added. Empty values undo what an earlier recovery of the source may have left there.
const RECOVERY: &str = "
# Added by Kuramori: recovery reads the log from kuramori_wal and goes to its end, unless a target follows.
restore_command = 'cp \"kuramori_wal/%f\" \"%p\"'
recovery_target = ''
recovery_target_name = ''
recovery_target_lsn = ''
recovery_target_xid = ''
recovery_target_time = ''
recovery_target_timeline = 'latest'
recovery_target_action = 'promote'
recovery_end_command = ''
archive_cleanup_command = ''
";

/// One item of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    /// The path's bytes in hexadecimal: names need not be UTF-8.
    path: String,
    what: What,
    #[serde(default)]
    mode: u32,
    #[serde(default)]
    mtime: (i64, u32),
    #[serde(default)]
    owner: (u32, u32, String, String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    File(u64),
    Folder,
    /// A folder is finished here.
    Seal,
}

/// The list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Inventory {
    /// When the base backup was taken, by our clock.
    pub(super) taken: Timestamp,
    pub(super) base: Base,
    /// Where the base backup before this one ended: log is kept from there on.
    pub(super) keep_from: Lsn,
    pub(super) origin: PostgresOrigin,
    /// The base backup.
    pub(super) items: Vec<Item>,
    /// Whole segments and history files.
    pub(super) wal: Vec<Item>,
    /// The index, which is another one in each restore point.
    pub(super) index: Item,
}

impl Item {
    pub(crate) fn of(path: &TreePath, kind: &EntryKind, meta: &Meta) -> Option<Self> {
        let what = match kind {
            EntryKind::File { size } => What::File(*size),
            EntryKind::Dir => What::Folder,
            _ => return None,
        };
        Some(Self {
            path: hex::encode(path.as_bytes()),
            what,
            mode: meta.mode,
            mtime: (meta.mtime.seconds, meta.mtime.nanos),
            owner: (meta.uid, meta.gid, meta.user.clone(), meta.group.clone()),
        })
    }

    fn seal(path: &TreePath) -> Self {
        let path = hex::encode(path.as_bytes());
        Self { path, what: What::Seal, mode: 0, mtime: (0, 0), owner: (0, 0, String::new(), String::new()) }
    }

    pub(super) fn tree_path(&self) -> Option<TreePath> {
        TreePath::new(hex::decode(&self.path).ok()?).ok()
    }

    /// The name without its folder.
    pub(crate) fn name(&self) -> Option<String> {
        let path = self.tree_path()?;
        path.parts().last().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    pub(crate) fn size(&self) -> u64 {
        if let What::File(size) = self.what { size } else { 0 }
    }

    pub(crate) fn entry(&self) -> Option<Entry> {
        let time = FileTime { seconds: self.mtime.0, nanos: self.mtime.1 };
        let meta = Meta {
            mode: self.mode,
            mtime: time,
            atime: time,
            ctime: time,
            uid: self.owner.0,
            gid: self.owner.1,
            user: self.owner.2.clone(),
            group: self.owner.3.clone(),
            links: u64::from(matches!(self.what, What::File(_))),
            ..Meta::default()
        };
        let kind = match self.what {
            What::File(size) => EntryKind::File { size },
            What::Folder => EntryKind::Dir,
            What::Seal => return None,
        };
        Some(Entry { path: self.tree_path()?, kind, meta })
    }

    /// Gives the item to the sink again, unread; false if the previous restore point does not hold it.
    pub(crate) fn again(&self, sink: &mut dyn Sink) -> Result<bool, SinkError> {
        let Some(path) = self.tree_path() else { return Ok(false) };
        if self.what == What::Seal {
            sink.seal(&path)?;
            return Ok(true);
        }
        let Some(entry) = self.entry() else { return Ok(false) };
        if self.what == What::Folder {
            sink.put(entry, &mut io::empty())?;
            return Ok(true);
        }
        if !sink.known(&entry) {
            return Ok(false);
        }
        sink.keep(entry)?;
        Ok(true)
    }
}

/// Passes a base backup on, keeps the list of it, and sets it up for recovery from the log beside it.
pub(super) struct Recorder<'a> {
    pub(super) inner: &'a mut dyn Sink,
    pub(super) items: Vec<Item>,
    pub(super) files: u64,
    pub(super) bytes: u64,
    configured: bool,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(inner: &'a mut dyn Sink) -> Self {
        Self { inner, items: Vec::new(), files: 0, bytes: 0, configured: false }
    }

    /// Puts what a base backup does not have: the sign that recovery is wanted, and its settings.
    pub(super) fn finish(&mut self, now: FileTime) -> Result<(), SinkError> {
        let meta = Meta { mode: 0o600, mtime: now, atime: now, ctime: now, links: 1, ..Meta::default() };
        for (name, text) in [("recovery.signal", ""), (SETTINGS, RECOVERY)] {
            if name == SETTINGS && self.configured {
                continue;
            }
            let Ok(path) = TreePath::new(name) else { continue };
            let kind = EntryKind::File { size: text.len() as u64 };
            self.pass(Entry { path, kind, meta: meta.clone() }, &mut text.as_bytes())?;
        }
        Ok(())
    }

    fn pass(&mut self, entry: Entry, content: &mut dyn Read) -> Result<(), SinkError> {
        let mut counted = Counted { from: content, bytes: 0 };
        let item = Item::of(&entry.path, &entry.kind, &entry.meta);
        self.inner.put(entry, &mut counted)?;
        let bytes = counted.bytes;
        if let Some(mut item) = item {
            if let What::File(size) = &mut item.what {
                *size = bytes;
                self.files += 1;
                self.bytes += bytes;
            }
            self.items.push(item);
        }
        Ok(())
    }
}

struct Counted<'a> {
    from: &'a mut dyn Read,
    bytes: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.from.read(buffer)?;
        self.bytes += taken as u64;
        Ok(taken)
    }
}

impl Sink for Recorder<'_> {
    fn known(&mut self, entry: &Entry) -> bool {
        self.inner.known(entry)
    }

    fn keep(&mut self, entry: Entry) -> Result<(), SinkError> {
        self.inner.keep(entry)
    }

    fn put(&mut self, mut entry: Entry, content: &mut dyn Read) -> Result<(), SinkError> {
        let file = matches!(entry.kind, EntryKind::File { .. });
        match entry.path.as_bytes() {
            // A copy of a standby must not wait for its primary for ever.
            b"standby.signal" | b"recovery.signal" if file => {
                return io::copy(content, &mut io::sink()).map(|_| ()).map_err(|e| SinkError(Box::new(e)));
            }
            b"postgresql.auto.conf" if file => {
                let mut text = Vec::new();
                content.read_to_end(&mut text).map_err(|error| SinkError(Box::new(error)))?;
                text.extend_from_slice(RECOVERY.as_bytes());
                entry.kind = EntryKind::File { size: text.len() as u64 };
                self.configured = true;
                return self.pass(entry, &mut Cursor::new(text));
            }
            _ => {}
        }
        self.pass(entry, content)
    }

    fn seal(&mut self, folder: &TreePath) -> Result<(), SinkError> {
        self.items.push(Item::seal(folder));
        self.inner.seal(folder)
    }

    fn fault(&mut self, path: &TreePath, why: String) {
        self.inner.fault(path, why);
    }
}
