//! Local folders given to any [`Sink`], one item after the other: for an agent, whose sink is far away.
//!
//! The same items as [`Backup::add_paths`](crate::backup::Backup::add_paths) writes: modes, owners, attributes
//! with ACLs, hard links, links, devices. Depth first, names ascending, each folder sealed when it is finished.

use std::{
    ffi::{CString, OsStr},
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use kuramori_model::tree::{Entry, EntryKind, FileTime, Sink, SinkError, TreePath};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{Selection, Settings, describe, exclude, join, names, read, roots, scan, show, stat};
use crate::{Error, Result};

/// How often an item that changes while it is read is read again.
const TRIES: u32 = 3;

/// What a walk needs from outside.
pub struct Hooks<'a> {
    /// Whether it may go on.
    pub going: &'a (dyn Fn() -> bool + Sync),
    /// Is told of each piece of content before it is used; waits to keep a pace.
    pub pace: &'a (dyn Fn(u64) + Sync),
    /// Is told of each item that is done.
    pub seen: &'a (dyn Fn(&Given, &str) + Sync),
    /// Something that a person should know and that does not make the restore point incomplete.
    pub note: &'a (dyn Fn(String, String) + Sync),
}

impl std::fmt::Debug for Hooks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// What was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Items, folders included.
    pub items: u64,
    /// Files among them.
    pub files: u64,
    /// Bytes of their content, kept files included.
    pub bytes: u64,
    /// Files that the sink knew.
    pub kept: u64,
    /// Newest change of a file.
    pub newest: FileTime,
    /// Items that could not be read.
    pub faults: u64,
    /// The first hundred of them, with the reason.
    pub listed: Vec<(String, String)>,
    /// Files that changed while they were read, each time.
    pub restless: u64,
}

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
pub enum GiveError {
    /// A named path, a pattern.
    #[error(transparent)]
    Local(#[from] Error),
    /// The sink takes no more.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

struct Walk<'a> {
    base: Option<&'a Path>,
    settings: Settings,
    sink: &'a mut dyn Sink,
    hooks: &'a Hooks<'a>,
    given: Given,
}

/// Gives local files and folders under their absolute paths. With `base` they are read below that folder (a
/// mounted snapshot) and keep the names that they have without it.
///
/// # Errors
/// [`GiveError::Local`] if a named path cannot be read at all or the work was cancelled, [`GiveError::Sink`].
pub fn give(
    paths: &[PathBuf],
    base: Option<&Path>,
    selection: &Selection,
    sink: &mut dyn Sink,
    hooks: &Hooks<'_>,
) -> std::result::Result<Given, GiveError> {
    let settings = Settings {
        excludes: exclude::Excludes::new(&selection.excludes)?,
        one_file_system: selection.one_file_system,
        access_time: selection.access_time,
        names: names::Names::load(),
    };
    let mut walk = Walk { base, settings, sink, hooks, given: Given::default() };
    let mut open: Vec<TreePath> = Vec::new();
    for root in roots(paths)? {
        walk.root(&root, &mut open)?;
    }
    while let Some(folder) = open.pop() {
        walk.sink.seal(&folder)?;
    }
    Ok(walk.given)
}

impl Walk<'_> {
    fn real(&self, path: &Path) -> PathBuf {
        match self.base {
            Some(base) => base.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    fn going(&self) -> std::result::Result<(), GiveError> {
        if (self.hooks.going)() { Ok(()) } else { Err(Error::Cancelled.into()) }
    }

    fn root(&mut self, root: &Path, open: &mut Vec<TreePath>) -> std::result::Result<(), GiveError> {
        let parts: Vec<&OsStr> = root.iter().skip(1).collect();
        let Some((last, above)) = parts.split_last() else {
            let device = stat(&self.real(root))?.st_dev;
            return self.folder(root, None, device);
        };
        // What is above a named path, and what of the one before is finished.
        let mut path = PathBuf::from("/");
        let mut place: Option<TreePath> = None;
        for part in above {
            path.push(part);
            let next = tree(place.as_ref(), part.as_bytes())?;
            while open.last().is_some_and(|folder| !is_above(folder, &next)) {
                if let Some(done) = open.pop() {
                    self.sink.seal(&done)?;
                }
            }
            if open.last() != Some(&next) && !open.contains(&next) {
                let (_, meta) = describe(&stat(&self.real(&path))?, &self.settings);
                // A symbolic link on the way stands for the folder that it leads to.
                self.sink.put(Entry { path: next.clone(), kind: EntryKind::Dir, meta }, &mut io::empty())?;
                self.given.items += 1;
                open.push(next.clone());
            }
            place = Some(next);
        }
        path.push(last);
        let real = self.real(&path);
        let failed = |error: Errno| Error::io("read", show(&real), error.into());
        let above = real.parent().unwrap_or(&real);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(above, flags, Mode::empty()).map_err(failed)?;
        let found = rustix::fs::lstat(&real).map_err(failed)?;
        let name = CString::new(last.as_bytes()).map_err(|_| Error::Invalid {
            what: "a path holds a zero byte".to_owned(),
            hint: String::new(),
        })?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            drop(dir);
            return self.below(&path, place.as_ref(), last.as_bytes(), &found, found.st_dev);
        }
        self.item(&dir, &path, place.as_ref(), &name, &found)
    }

    fn fault(&mut self, place: Option<&TreePath>, path: &Path, why: String) {
        self.given.faults += 1;
        if self.given.listed.len() < 100 {
            self.given.listed.push((show(path), why.clone()));
        }
        if let Some(place) = place {
            self.sink.fault(place, why);
        } else if let Ok(root) = TreePath::new("root") {
            self.sink.fault(&root, why);
        }
    }

    /// A folder as an item, then what is in it.
    fn below(
        &mut self,
        path: &Path,
        above: Option<&TreePath>,
        name: &[u8],
        found: &Stat,
        device: u64,
    ) -> std::result::Result<(), GiveError> {
        let place = tree(above, name)?;
        let (_, mut meta) = describe(found, &self.settings);
        let real = self.real(path);
        meta.xattrs = scan::attributes(&mut |path, why| (self.hooks.note)(path, why), &real);
        self.sink.put(Entry { path: place.clone(), kind: EntryKind::Dir, meta }, &mut io::empty())?;
        self.given.items += 1;
        if !self.settings.one_file_system || found.st_dev == device {
            self.folder(path, Some(&place), found.st_dev)?;
        }
        Ok(self.sink.seal(&place)?)
    }

    /// What is in a folder: first everything but folders, then these, so that few files are open at once.
    fn folder(
        &mut self,
        path: &Path,
        place: Option<&TreePath>,
        device: u64,
    ) -> std::result::Result<(), GiveError> {
        let real = self.real(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(&real, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(error) => {
                self.fault(place, &real, io::Error::from(error).to_string());
                return Ok(());
            }
        };
        let mut names = Vec::new();
        match Dir::read_from(&dir) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                        Ok(entry) => names.push(entry.file_name().to_owned()),
                        Err(error) => {
                            self.fault(place, &real, io::Error::from(error).to_string());
                            break;
                        }
                    }
                }
            }
            Err(error) => self.fault(place, &real, io::Error::from(error).to_string()),
        }
        names.sort_unstable();
        let mut folders = Vec::new();
        for name in names {
            self.going()?;
            let path = join(path, name.as_bytes());
            if !self.settings.excludes.is_empty() && self.settings.excludes.matches(&path) {
                continue;
            }
            match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                    folders.push((name, found));
                }
                Ok(found) => self.item(&dir, &path, place, &name, &found)?,
                Err(Errno::NOENT) => self.vanished(&path),
                Err(error) => {
                    let at = tree(place, name.as_bytes())?;
                    self.fault(Some(&at), &path, io::Error::from(error).to_string());
                }
            }
        }
        drop(dir);
        for (name, found) in folders {
            self.going()?;
            self.below(&join(path, name.as_bytes()), place, name.as_bytes(), &found, device)?;
        }
        Ok(())
    }

    fn vanished(&self, path: &Path) {
        (self.hooks.note)(show(path), "vanished before it was read".to_owned());
    }

    /// Anything but a folder.
    fn item(
        &mut self,
        dir: &OwnedFd,
        path: &Path,
        above: Option<&TreePath>,
        name: &CString,
        found: &Stat,
    ) -> std::result::Result<(), GiveError> {
        let place = tree(above, name.as_bytes())?;
        let (mut kind, mut meta) = describe(found, &self.settings);
        if let EntryKind::Symlink { target } = &mut kind {
            match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(to) => *target = to.into_bytes(),
                Err(error) => {
                    self.fault(Some(&place), path, io::Error::from(error).to_string());
                    return Ok(());
                }
            }
        }
        let size = if let EntryKind::File { size } = kind { Some(size) } else { None };
        let real = self.real(path);
        let mut entry = Entry { path: place, kind, meta: meta.clone() };
        if self.sink.known(&entry) {
            self.sink.keep(entry)?;
            self.count(path, size, &meta.mtime, true);
            return Ok(());
        }
        if size.is_some() {
            return self.file(dir, path, name, &entry.path);
        }
        meta.xattrs = scan::attributes(&mut |path, why| (self.hooks.note)(path, why), &real);
        entry.meta = meta;
        self.sink.put(entry, &mut io::empty())?;
        self.count(path, None, &FileTime::default(), false);
        Ok(())
    }

    fn count(&mut self, path: &Path, size: Option<u64>, mtime: &FileTime, kept: bool) {
        self.given.items += 1;
        if let Some(size) = size {
            self.given.files += 1;
            self.given.bytes += size;
            self.given.kept += u64::from(kept);
            self.given.newest = self.given.newest.max(*mtime);
        }
        (self.hooks.seen)(&self.given, &show(path));
    }

    /// Reads a file. One that changes meanwhile was given as it was found, and that is said.
    fn file(
        &mut self,
        dir: &OwnedFd,
        path: &Path,
        name: &CString,
        place: &TreePath,
    ) -> std::result::Result<(), GiveError> {
        let mut tries = 0;
        let file = loop {
            match read::open(dir, name) {
                Ok(file) => break file,
                Err(Errno::NOENT) => {
                    self.vanished(path);
                    return Ok(());
                }
                Err(Errno::INTR | Errno::AGAIN) if tries < TRIES => tries += 1,
                Err(error) => {
                    self.fault(Some(place), path, io::Error::from(error).to_string());
                    return Ok(());
                }
            }
        };
        let before = match rustix::fs::fstat(&file) {
            Ok(before) => before,
            Err(error) => {
                self.fault(Some(place), path, io::Error::from(error).to_string());
                return Ok(());
            }
        };
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            self.vanished(path);
            return Ok(());
        }
        let (kind, mut meta) = describe(&before, &self.settings);
        meta.xattrs =
            read::attributes(&mut |path, why| (self.hooks.note)(path, why), &file, &|| path.to_owned());
        let mtime = meta.mtime;
        let mut content = Paced { file: &file, hooks: self.hooks, bytes: 0, failed: None };
        let taken = self.sink.put(Entry { path: place.clone(), kind, meta }, &mut content);
        let (bytes, failed) = (content.bytes, content.failed);
        self.going()?;
        taken?;
        if let Some(why) = failed {
            // The sink recorded it; here it is only counted.
            self.given.faults += 1;
            if self.given.listed.len() < 100 {
                self.given.listed.push((show(path), why));
            }
            return Ok(());
        }
        if read::changed(&file, &before) {
            self.given.restless += 1;
            (self.hooks.note)(show(path), "changed while it was read".to_owned());
        }
        self.count(path, Some(bytes), &mtime, false);
        Ok(())
    }
}

fn tree(above: Option<&TreePath>, name: &[u8]) -> Result<TreePath> {
    let path = match above {
        Some(above) => above.join(name),
        None => TreePath::new(name),
    };
    path.map_err(|error| Error::Invalid { what: error.to_string(), hint: String::new() })
}

/// Whether `folder` is `path` or above it.
fn is_above(folder: &TreePath, path: &TreePath) -> bool {
    path.as_bytes().strip_prefix(folder.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

struct Paced<'a> {
    file: &'a OwnedFd,
    hooks: &'a Hooks<'a>,
    bytes: u64,
    failed: Option<String>,
}

impl Read for Paced<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !(self.hooks.going)() {
            return Err(io::Error::other("cancelled"));
        }
        // Small enough that a slow pace does not come in bursts.
        let most = buffer.len().min(256 << 10);
        match rustix::io::retry_on_intr(|| rustix::io::read(self.file, &mut buffer[..most])) {
            Ok(length) => {
                self.bytes += length as u64;
                (self.hooks.pace)(length as u64);
                Ok(length)
            }
            Err(error) => {
                let error = io::Error::from(error);
                self.failed = Some(error.to_string());
                Err(error)
            }
        }
    }
}
