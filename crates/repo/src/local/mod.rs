//! Local folders as input: `repo backup PATH…`.
//!
//! Listing runs a little ahead of reading, in the same pool of threads. A file that the parent snapshot
//! holds with the same size, times and inode is taken over without being opened. What cannot be read is a
//! fault (the restore point is incomplete); what vanished between listing and reading, or changed while it
//! was read, is a note.

mod exclude;
mod give;
mod given;
mod ground;
mod names;
mod read;
mod scan;

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use kuramori_model::tree::{EntryKind, FileTime, Meta};
use rustix::fs::{FileType, Stat};

pub use give::give;
pub use given::{GiveError, Given, Hooks};
pub(crate) use read::{Found, read_batch};
pub(crate) use scan::list_dir;

use crate::{
    Error, Result,
    backup::{Backup, DirTask},
};

/// What of local folders is kept.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Patterns of what is left out: `*.tmp` for names anywhere, `/var/cache/**` for whole paths.
    pub excludes: Vec<String>,
    /// Do not go into other file systems.
    pub one_file_system: bool,
    /// Keep the time of the last read. Without it (the default, as in restic) the time of the last change
    /// stands in, so that reading a file does not change its folder's tree.
    pub access_time: bool,
}

/// The selection, made ready.
#[derive(Debug)]
pub(crate) struct Settings {
    excludes: exclude::Excludes,
    one_file_system: bool,
    access_time: bool,
    names: names::Names,
}

impl Backup {
    /// Adds local files and folders under their absolute paths and returns while they are still being read;
    /// [`commit`](Self::commit) waits. Gives the paths as the snapshot should name them.
    pub fn add_paths(&mut self, paths: &[PathBuf], selection: &Selection) -> Result<Vec<String>> {
        let settings = Arc::new(Settings {
            excludes: exclude::Excludes::new(&selection.excludes)?,
            one_file_system: selection.one_file_system,
            access_time: selection.access_time,
            names: names::Names::load(),
        });
        for root in &roots(paths)? {
            self.add_root(root, &settings)?;
        }
        snapshot_paths(paths)
    }

    fn add_root(&mut self, root: &Path, settings: &Arc<Settings>) -> Result<()> {
        let session = Arc::clone(self.session());
        let mut prefix = Vec::new();
        let mut path = PathBuf::from("/");
        let parts: Vec<_> = root.iter().skip(1).collect();
        let Some((last, above)) = parts.split_last() else {
            let device = stat(&path)?.st_dev;
            let folder = self.folder(b"");
            session.queue.push_dir(DirTask { path, folder, device, settings: Arc::clone(settings) });
            return Ok(());
        };
        for part in above {
            path.push(part);
            let known = prefix.is_empty();
            if !known {
                prefix.push(b'/');
            }
            prefix.extend_from_slice(part.as_bytes());
            let (kind, meta) = describe(&stat(&path)?, settings);
            let folder = self.folder(&prefix);
            // A symbolic link on the way stands for the folder that it leads to.
            let kind = if matches!(kind, EntryKind::Dir) { kind } else { EntryKind::Dir };
            folder.describe(crate::backup::node_of(part.as_bytes(), &kind, &meta));
        }
        path.push(last);
        let folder = self.folder(&prefix);
        scan::add_one(&session, &folder, &path, last.as_bytes(), settings)
    }
}

/// The paths as a snapshot names them: for [`crate::Repository::find_parent`] before the backup begins.
pub fn snapshot_paths(paths: &[PathBuf]) -> Result<Vec<String>> {
    Ok(roots(paths)?.iter().map(|root| show(root)).collect())
}

/// Absolute and sorted; a path inside another one is already kept with it.
fn roots(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut absolute = paths.iter().map(|path| clean(path)).collect::<Result<Vec<_>>>()?;
    absolute.sort();
    absolute.dedup();
    let mut roots: Vec<PathBuf> = Vec::new();
    for path in absolute {
        if !roots.last().is_some_and(|root| path.starts_with(root)) {
            roots.push(path);
        }
    }
    Ok(roots)
}

/// Absolute, without `.` and `..`, by the text alone.
fn clean(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path)
        .map_err(|error| Error::io("find the absolute path of", path.to_string_lossy(), error))?;
    let mut out = PathBuf::from("/");
    for part in absolute.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    Ok(out)
}

fn stat(path: &Path) -> Result<Stat> {
    rustix::fs::stat(path).map_err(|error| Error::io("read", path.to_string_lossy(), error.into()))
}

/// A file system's words for an item as ours. The link's target and attributes are not in a `stat`.
#[expect(clippy::useless_conversion, reason = "the fields' types differ between architectures")]
fn describe(stat: &Stat, settings: &Settings) -> (EntryKind, Meta) {
    let time =
        |seconds: i64, nanos: u64| FileTime { seconds, nanos: u32::try_from(nanos).unwrap_or_default() };
    let number = u64::from(stat.st_rdev);
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File { size: u64::try_from(stat.st_size).unwrap_or_default() },
        FileType::Directory => EntryKind::Dir,
        FileType::Symlink => EntryKind::Symlink { target: Vec::new() },
        FileType::BlockDevice => EntryKind::Device { number },
        FileType::CharacterDevice => EntryKind::CharDevice { number },
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket | FileType::Unknown => EntryKind::Socket,
    };
    let mtime = time(stat.st_mtime.into(), stat.st_mtime_nsec.into());
    let meta = Meta {
        mode: stat.st_mode & 0o7777,
        mtime,
        atime: if settings.access_time {
            time(stat.st_atime.into(), stat.st_atime_nsec.into())
        } else {
            mtime
        },
        ctime: time(stat.st_ctime.into(), stat.st_ctime_nsec.into()),
        uid: stat.st_uid,
        gid: stat.st_gid,
        user: settings.names.user(stat.st_uid),
        group: settings.names.group(stat.st_gid),
        inode: stat.st_ino.into(),
        device_id: stat.st_dev.into(),
        links: stat.st_nlink.into(),
        xattrs: Vec::new(),
    };
    (kind, meta)
}

/// The items of a folder by their full name, for messages and patterns.
fn join(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(name))
}

/// Messages show paths; one that is not UTF-8 is shown as near as possible.
fn show(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A list of attribute names as the kernel gives it, cut apart.
fn attribute_names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == 0).filter(|name| !name.is_empty())
}
