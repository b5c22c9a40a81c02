//! Local folders given to any [`Sink`], one item after the other: for an agent, whose sink is far away.
//!
//! The same items as [`Backup::add_paths`](crate::backup::Backup::add_paths) writes: modes, owners, attributes
//! with ACLs, hard links, links, devices. Depth first, names ascending, each folder sealed when it is finished.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use kuramori_model::tree::{Entry, EntryKind, FileTime, Sink, TreePath};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    Selection, Settings, describe, exclude,
    given::{GiveError, Given, Hooks, Paced},
    ground::Ground,
    join, names, read, roots, scan, show,
};
use crate::{Error, Result};

/// How often an item that changes while it is read is read again.
const TRIES: u32 = 3;

struct Walk<'a> {
    ground: Ground,
    settings: Settings,
    sink: &'a mut dyn Sink,
    hooks: &'a Hooks<'a>,
    given: Given,
}

/// Folders on the way down that stay open. One above them is found again through `..` and has to be the same.
const OPEN: usize = 64;

/// A folder on the way down.
struct Level {
    dir: Option<OwnedFd>,
    /// What it is; the folder above has to be this one when the way leads back.
    stat: Stat,
    path: PathBuf,
    /// None: the root of the tree.
    place: Option<TreePath>,
    /// Its folders that were not walked yet.
    folders: std::vec::IntoIter<(CString, Stat)>,
}

/// Gives local files and folders under their absolute paths. With `base` they are read below that folder (a
/// mounted snapshot) and keep the names that they have without it; a folder in which the running system shows
/// another file system, and the snapshot does not, is a fault.
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
    let mut walk = Walk { ground: Ground::new(base)?, settings, sink, hooks, given: Given::default() };
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
    fn going(&self) -> std::result::Result<(), GiveError> {
        if (self.hooks.going)() { Ok(()) } else { Err(Error::Cancelled.into()) }
    }

    fn root(&mut self, root: &Path, open: &mut Vec<TreePath>) -> std::result::Result<(), GiveError> {
        let failed = |walk: &Self, path: &Path, error: Errno| {
            Error::io("read", show(&walk.ground.real(path)), error.into())
        };
        let parts: Vec<&OsStr> = root.iter().skip(1).collect();
        let Some((last, above)) = parts.split_last() else {
            let dir = self.ground.open(root, OFlags::RDONLY).map_err(|error| failed(self, root, error))?;
            let stat = rustix::fs::fstat(&dir).map_err(|error| failed(self, root, error))?;
            let top = self.list(dir, stat, root.to_owned(), None)?;
            return self.down(top);
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
                // A symbolic link on the way stands for the folder that it leads to.
                let found = self.ground.open(&path, OFlags::PATH).and_then(rustix::fs::fstat);
                let found = found.map_err(|error| failed(self, &path, error))?;
                let (_, meta) = describe(&found, &self.settings);
                self.sink.put(Entry { path: next.clone(), kind: EntryKind::Dir, meta }, &mut io::empty())?;
                self.given.items += 1;
                open.push(next.clone());
            }
            place = Some(next);
        }
        let opened = self.ground.open(&path, OFlags::PATH);
        let dir = opened.map_err(|error| failed(self, &path, error))?;
        let outer = rustix::fs::fstat(&dir).map_err(|error| failed(self, &path, error))?;
        path.push(last);
        let name = CString::new(last.as_bytes()).map_err(|_| Error::Invalid {
            what: "a path holds a zero byte".to_owned(),
            hint: String::new(),
        })?;
        let found = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed(self, &path, error))?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            // The named folder itself may be another file system than what is above it.
            let level = self.enter(&dir, &outer, path, place.as_ref(), &name, &found, true)?;
            drop(dir);
            return level.map_or(Ok(()), |level| self.down(level));
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

    /// The place of an item; a fault of its folder if it would lie too deep.
    fn place(&mut self, above: Option<&TreePath>, name: &[u8], path: &Path) -> Option<TreePath> {
        match tree(above, name) {
            Ok(place) => Some(place),
            Err(error) => {
                self.fault(above, path, error.to_string());
                None
            }
        }
    }

    /// Walks down from a folder, depth first. Each folder is opened in the one above it, never by its whole path:
    /// whoever may rename what lies above must not lead us elsewhere. Levels lie on the heap.
    fn down(&mut self, top: Level) -> std::result::Result<(), GiveError> {
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            self.going()?;
            let next = level.folders.next();
            if let (Some((name, found)), Some(dir)) = (next, &level.dir) {
                let path = join(&level.path, name.to_bytes());
                let inner = self.enter(dir, &level.stat, path, level.place.as_ref(), &name, &found, false)?;
                if let Some(inner) = inner {
                    levels.push(inner);
                    if let Some(far) = levels.len().checked_sub(OPEN + 1) {
                        levels[far].dir = None;
                    }
                }
                continue;
            }
            let Some(done) = levels.pop() else { break };
            if let Some(above) = levels.last_mut().filter(|above| above.dir.is_none()) {
                above.dir = done.dir.as_ref().and_then(|dir| again(dir, &above.stat));
                if above.dir.is_none() && above.folders.len() > 0 {
                    let (place, path, missing) =
                        (above.place.clone(), above.path.clone(), above.folders.len());
                    let why = format!("it was moved while it was read; {missing} of its folders are missing");
                    self.fault(place.as_ref(), &path, why);
                }
            }
            if let Some(place) = &done.place {
                self.sink.seal(place)?;
            }
        }
        Ok(())
    }

    /// A folder as an item, and everything in it but folders. None if it has nothing more to walk.
    #[expect(clippy::too_many_arguments, reason = "a name in its folder, by descriptor and by words")]
    fn enter(
        &mut self,
        above: &OwnedFd,
        outer: &Stat,
        path: PathBuf,
        around: Option<&TreePath>,
        name: &CString,
        found: &Stat,
        named: bool,
    ) -> std::result::Result<Option<Level>, GiveError> {
        let Some(place) = self.place(around, name.as_bytes(), &path) else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(above, name, flags, Mode::empty());
        let opened = opened.and_then(|dir| rustix::fs::fstat(&dir).map(|stat| (dir, stat)));
        let stat = match &opened {
            Ok((_, stat)) => *stat,
            Err(Errno::NOENT) => {
                self.vanished(&path);
                return Ok(None);
            }
            Err(_) => *found,
        };
        let (_, mut meta) = describe(&stat, &self.settings);
        if let Ok((dir, _)) = &opened {
            let note = &mut |path, why| (self.hooks.note)(path, why);
            meta.xattrs = read::attributes(note, dir, &|| path.clone());
        }
        self.sink.put(Entry { path: place.clone(), kind: EntryKind::Dir, meta }, &mut io::empty())?;
        self.given.items += 1;
        let crossed = stat.st_dev != outer.st_dev && !named;
        match opened {
            Ok((dir, stat)) if !(self.settings.one_file_system && crossed) => {
                let lacks = self.ground.lacks(&path, outer, &dir, &stat);
                if let Some(why) = lacks.filter(|_| !self.settings.one_file_system) {
                    self.fault(Some(&place), &path, why.to_owned());
                }
                return self.list(dir, stat, path, Some(place)).map(Some);
            }
            Ok(_) => {}
            Err(error) => self.fault(Some(&place), &path, io::Error::from(error).to_string()),
        }
        self.sink.seal(&place)?;
        Ok(None)
    }

    /// What is in a folder: everything but folders at once, these later, so that few files are open.
    fn list(
        &mut self,
        dir: OwnedFd,
        stat: Stat,
        path: PathBuf,
        place: Option<TreePath>,
    ) -> std::result::Result<Level, GiveError> {
        let mut names = Vec::new();
        match Dir::read_from(&dir) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                        Ok(entry) => names.push(entry.file_name().to_owned()),
                        Err(error) => {
                            self.fault(place.as_ref(), &path, io::Error::from(error).to_string());
                            break;
                        }
                    }
                }
            }
            Err(error) => self.fault(place.as_ref(), &path, io::Error::from(error).to_string()),
        }
        names.sort_unstable();
        let mut folders = Vec::new();
        for name in names {
            self.going()?;
            let inner = join(&path, name.as_bytes());
            if !self.settings.excludes.is_empty() && self.settings.excludes.matches(&inner) {
                continue;
            }
            match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                    folders.push((name, found));
                }
                Ok(found) => self.item(&dir, &inner, place.as_ref(), &name, &found)?,
                Err(Errno::NOENT) => self.vanished(&inner),
                Err(error) => {
                    if let Some(at) = self.place(place.as_ref(), name.as_bytes(), &inner) {
                        self.fault(Some(&at), &inner, io::Error::from(error).to_string());
                    }
                }
            }
        }
        Ok(Level { dir: Some(dir), stat, path, place, folders: folders.into_iter() })
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
        let Some(place) = self.place(above, name.as_bytes(), path) else { return Ok(()) };
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
        let mut entry = Entry { path: place, kind, meta: meta.clone() };
        if self.sink.known(&entry) {
            self.sink.keep(entry)?;
            self.count(path, size, &meta.mtime, true);
            return Ok(());
        }
        if size.is_some() {
            return self.file(dir, path, name, &entry.path);
        }
        // By its folder's descriptor, for the same reason as everything else here.
        let by = Path::new("/proc/self/fd")
            .join(dir.as_raw_fd().to_string())
            .join(OsStr::from_bytes(name.as_bytes()));
        meta.xattrs = scan::attributes(&mut |_, why| (self.hooks.note)(show(path), why), &by);
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

/// The folder above an open one, if it is still the one through which the way led.
fn again(dir: &OwnedFd, expected: &Stat) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let above = rustix::fs::openat(dir, "..", flags, Mode::empty()).ok()?;
    let found = rustix::fs::fstat(&above).ok()?;
    ((found.st_dev, found.st_ino) == (expected.st_dev, expected.st_ino)).then_some(above)
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
