//! Listing folders.

use std::{ffi::CStr, os::fd::OwnedFd, path::Path, sync::Arc};

use kuramori_model::tree::EntryKind;
use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, Stat},
    io::Errno,
};

use super::{Found, Settings, attribute_names, describe, join, show};
use crate::{
    Error, Result,
    backup::{Batch, Change, DirTask, Folder, Session, find, is_unchanged, load_tree, node_of},
    format::{node::Node, tree::Tree},
};

/// Files that are read in one go.
const BATCH: usize = 64;

/// What one folder's listing has at hand.
struct Place<'a> {
    session: &'a Session,
    folder: &'a Arc<Folder>,
    previous: Option<Arc<Tree>>,
    dir: &'a Arc<OwnedFd>,
    path: &'a Arc<std::path::PathBuf>,
    device: u64,
    settings: &'a Arc<Settings>,
}

fn open_dir(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Lists a folder: its files go to the pool in batches, its folders as tasks, the rest at once.
pub(crate) fn list_dir(session: &Session, task: DirTask) {
    let DirTask { path, folder, device, settings } = task;
    match open_dir(&path) {
        Ok(dir) => {
            let previous = folder.previous().and_then(|id| load_tree(&session.repo, id));
            let (dir, path) = (Arc::new(dir), Arc::new(path));
            let place = Place {
                session,
                folder: &folder,
                previous,
                dir: &dir,
                path: &path,
                device,
                settings: &settings,
            };
            list(&place);
        }
        Err(error) => session.fault(show(&path), std::io::Error::from(error).to_string()),
    }
    folder.seal(session);
}

fn list(place: &Place<'_>) {
    let fault = |error: Errno| {
        place.session.fault(show(place.path), std::io::Error::from(error).to_string());
    };
    let entries = match Dir::read_from(place.dir) {
        Ok(entries) => entries,
        Err(error) => return fault(error),
    };
    let mut batch = Vec::new();
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                fault(error);
                break;
            }
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if place.session.going().is_err() {
            break;
        }
        if !place.settings.excludes.is_empty()
            && place.settings.excludes.matches(&join(place.path, name.to_bytes()))
        {
            continue;
        }
        match rustix::fs::statat(place.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => place.item(name, &stat, &mut batch),
            Err(Errno::NOENT) => vanished(place.session, &join(place.path, name.to_bytes())),
            Err(error) => {
                let path = show(&join(place.path, name.to_bytes()));
                place.session.fault(path, std::io::Error::from(error).to_string());
            }
        }
        if batch.len() == BATCH {
            place.send(std::mem::take(&mut batch));
        }
    }
    if !batch.is_empty() {
        place.send(batch);
    }
}

pub(super) fn vanished(session: &Session, path: &Path) {
    session.note(show(path), "vanished before it was read".to_owned());
}

impl Place<'_> {
    fn send(&self, files: Vec<Found>) {
        self.folder.expect();
        let batch = Batch {
            dir: Arc::clone(self.dir),
            path: Arc::clone(self.path),
            folder: Arc::clone(self.folder),
            files,
            settings: Arc::clone(self.settings),
        };
        self.session.queue.push_batch(self.session, batch);
    }

    fn item(&self, name: &CStr, stat: &Stat, batch: &mut Vec<Found>) {
        let bytes = name.to_bytes();
        let old = self.previous.as_deref().and_then(|tree| find(tree, bytes));
        let (mut kind, mut meta) = describe(stat, self.settings);
        match &mut kind {
            EntryKind::File { size } => {
                self.session.count_found(1, *size);
                if let Some(node) = old.and_then(|old| self.unchanged(old, bytes, &kind, &meta)) {
                    self.session.count_file(Change::Unmodified, node.size);
                    return self.folder.add(node);
                }
                let change = if old.is_some() { Change::Changed } else { Change::New };
                return batch.push(Found { name: name.to_owned(), change });
            }
            EntryKind::Symlink { target } => match rustix::fs::readlinkat(self.dir, name, Vec::new()) {
                Ok(found) => *target = found.into_bytes(),
                Err(error) => {
                    return self
                        .session
                        .fault(show(&join(self.path, bytes)), std::io::Error::from(error).to_string());
                }
            },
            _ => {}
        }
        let path = join(self.path, bytes);
        meta.xattrs = attributes(&mut |path, why| self.session.note(path, why), &path);
        let node = node_of(bytes, &kind, &meta);
        if !matches!(kind, EntryKind::Dir) {
            return self.folder.add(node);
        }
        let below = Folder::below(self.folder, node, 0, old.and_then(|old| old.subtree));
        if self.settings.one_file_system && stat.st_dev != self.device {
            return below.seal(self.session);
        }
        let settings = Arc::clone(self.settings);
        self.session.queue.push_dir(DirTask { path, folder: below, device: stat.st_dev, settings });
    }

    /// The node of a file that is what the parent holds. Equal ctime means equal attributes.
    fn unchanged(
        &self,
        old: &Node,
        name: &[u8],
        kind: &EntryKind,
        meta: &kuramori_model::tree::Meta,
    ) -> Option<Node> {
        let content = old.content.as_ref().filter(|_| is_unchanged(old, kind, meta))?;
        if !self.session.has_content(content) {
            return None;
        }
        let mut node = node_of(name, kind, meta);
        node.size = old.size;
        node.content = Some(content.clone());
        node.xattrs.clone_from(&old.xattrs);
        Some(node)
    }
}

/// One item that a person named.
pub(super) fn add_one(
    session: &Session,
    folder: &Arc<Folder>,
    path: &Path,
    name: &[u8],
    settings: &Arc<Settings>,
) -> Result<()> {
    let failed = |error: Errno| Error::io("read", show(path), error.into());
    let above = path.parent().unwrap_or(path);
    let dir = Arc::new(
        rustix::fs::open(above, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?,
    );
    let stat = rustix::fs::lstat(path).map_err(failed)?;
    let previous = folder.previous().and_then(|id| load_tree(&session.repo, id));
    let above = Arc::new(above.to_owned());
    let place = Place { session, folder, previous, dir: &dir, path: &above, device: stat.st_dev, settings };
    let name = std::ffi::CString::new(name)
        .map_err(|_| Error::Invalid { what: "a path holds a zero byte".to_owned(), hint: String::new() })?;
    let mut batch = Vec::new();
    place.item(&name, &stat, &mut batch);
    if !batch.is_empty() {
        place.send(batch);
    }
    Ok(())
}

/// The extended attributes of an item that is not opened. One that cannot be read is a note.
pub(super) fn attributes(note: &mut dyn FnMut(String, String), path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = [0_u8; 1024];
    let found = match rustix::fs::llistxattr(path, &mut list) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOENT) => return Vec::new(),
        Ok(len) => list[..len].to_vec(),
        Err(Errno::RANGE) => match xattr::list(path) {
            Ok(names) => names
                .flat_map(|name| [std::os::unix::ffi::OsStringExt::into_vec(name), vec![0]].concat())
                .collect(),
            Err(error) => {
                note(show(path), format!("its attributes cannot be listed: {error}"));
                return Vec::new();
            }
        },
        Err(error) => {
            note(show(path), format!("its attributes cannot be listed: {}", std::io::Error::from(error)));
            return Vec::new();
        }
    };
    let mut attributes: Vec<_> = attribute_names(&found)
        .filter_map(|name| {
            let shown = std::os::unix::ffi::OsStrExt::from_bytes(name);
            match xattr::get(path, std::convert::identity::<&std::ffi::OsStr>(shown)) {
                Ok(value) => value.map(|value| (name.to_vec(), value)),
                Err(error) => {
                    note(show(path), format!("an attribute cannot be read: {error}"));
                    None
                }
            }
        })
        .collect();
    attributes.sort();
    attributes
}
