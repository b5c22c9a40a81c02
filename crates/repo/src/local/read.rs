//! Reading files.

use std::{
    ffi::{CString, OsStr},
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
};

use kuramori_model::tree::EntryKind;
use rustix::{
    fs::{Advice, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use xattr::FileExt;

use super::{attribute_names, describe, join, scan::vanished, show};
use crate::backup::{Batch, Change, Session, node_of};

/// A file that has to be read.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: CString,
    pub(crate) change: Change,
}

/// Above this size the kernel is told that we read from front to back.
const LARGE: u64 = 1 << 20;

/// Reads some files of a folder.
pub(crate) fn read_batch(session: &Session, batch: &Batch) {
    for found in &batch.files {
        if session.going().is_err() {
            return;
        }
        read_one(session, batch, found);
        session.watch(false);
    }
    batch.folder.arrive(session, None);
}

/// Reading must not change the time of the last read; only the owner may ask for that.
pub(super) fn open(dir: &OwnedFd, name: &CString) -> rustix::io::Result<OwnedFd> {
    // Not blocking: what was a file a moment ago may be a pipe by now.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        other => other,
    }
}

struct Content<'a>(&'a OwnedFd);

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        rustix::io::retry_on_intr(|| rustix::io::read(self.0, &mut *buffer)).map_err(io::Error::from)
    }
}

fn read_one(session: &Session, batch: &Batch, found: &Found) {
    let name = found.name.as_bytes();
    let path = || join(&batch.path, name);
    let fault = |error: io::Error| session.fault(show(&path()), error.to_string());
    let file = match open(&batch.dir, &found.name) {
        Ok(file) => file,
        Err(Errno::NOENT) => return vanished(session, &path()),
        Err(error) => return fault(error.into()),
    };
    let stat = match rustix::fs::fstat(&file) {
        Ok(stat) => stat,
        Err(error) => return fault(error.into()),
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return vanished(session, &path());
    }
    let (kind, mut meta) = describe(&stat, &batch.settings);
    let EntryKind::File { size } = kind else { return };
    if size > LARGE {
        // Only advice: a file system that does not take it reads as well.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
    }
    meta.xattrs = attributes(&mut |path, why| session.note(path, why), &file, &path);
    let outcome = session.read_file(&batch.folder, &mut Content(&file), size, true, &mut |read| {
        let mut node = node_of(name, &kind, &meta);
        node.size = read;
        node
    });
    match outcome {
        Ok(Ok(read)) => {
            session.count_file(found.change, read);
            if read != size || changed(&file, &stat) {
                session.note(show(&path()), "changed while it was read".to_owned());
            }
        }
        Ok(Err(error)) => fault(error),
        Err(error) => session.fail(error),
    }
}

pub(super) fn changed(file: &OwnedFd, before: &Stat) -> bool {
    rustix::fs::fstat(file).is_ok_and(|after| {
        (after.st_size, after.st_mtime, after.st_mtime_nsec)
            != (before.st_size, before.st_mtime, before.st_mtime_nsec)
    })
}

/// The extended attributes of an open file. One that cannot be read is a note.
pub(super) fn attributes(
    note: &mut dyn FnMut(String, String),
    file: &OwnedFd,
    path: &dyn Fn() -> std::path::PathBuf,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut note = |error: io::Error| note(show(&path()), format!("its attributes cannot be read: {error}"));
    let mut list = [0_u8; 1024];
    let found = match rustix::fs::flistxattr(file, &mut list) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Vec::new(),
        Ok(len) => list[..len].to_vec(),
        Err(Errno::RANGE) => {
            let Ok(len) = rustix::fs::flistxattr_query(file) else { return Vec::new() };
            let mut list = vec![0; len];
            match rustix::fs::flistxattr(file, &mut list[..]) {
                Ok(len) => list[..len].to_vec(),
                Err(error) => {
                    note(error.into());
                    return Vec::new();
                }
            }
        }
        Err(error) => {
            note(error.into());
            return Vec::new();
        }
    };
    let file = match file.try_clone() {
        Ok(file) => std::fs::File::from(file),
        Err(error) => {
            note(error);
            return Vec::new();
        }
    };
    let mut attributes = Vec::new();
    for name in attribute_names(&found) {
        match file.get_xattr(OsStr::from_bytes(name)) {
            Ok(value) => attributes.extend(value.map(|value| (name.to_vec(), value))),
            Err(error) => note(error),
        }
    }
    attributes.sort();
    attributes
}
