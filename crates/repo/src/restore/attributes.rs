//! The third pass: everything about an item besides its content.
//!
//! The order matters: an owner first (a change of owner clears set-uid bits and capabilities), then the
//! mode, then extended attributes (an access list changes what the mode's group bits mean), times last
//! (everything before changes them). One step that fails never keeps the next ones from being done.

use std::{
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd},
    os::unix::ffi::OsStrExt,
};

use kuramori_model::tree::{FileTime, TreePath};
use rustix::{
    fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{
    Shared,
    fill::beneath,
    plan::{Rest, place},
};
use crate::{
    Error,
    format::node::{Node, NodeKind, unix_mode},
};

/// Access lists that a folder hands down to what is made in it.
const INHERITED: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Makes links and special files, then gives folders their attributes, the deepest first.
pub(super) fn finish(rest: &Rest, shared: &Shared<'_>) {
    for link in &rest.links {
        if link.first.is_failed() {
            let why = format!("this is another name of `{}`, which could not be restored", link.first.path);
            let error = Error::Damaged { file: link.path.to_string(), why };
            shared.shortfalls.note(&link.path, &error, true);
            continue;
        }
        let (from, to) = (link.first.path.as_bytes(), link.path.as_bytes());
        let linked = rustix::fs::linkat(&shared.target, from, &shared.target, to, AtFlags::empty());
        if let Err(error) = linked {
            shared.shortfalls.note(&link.path, &std::io::Error::from(error), false);
        }
    }
    for (path, node) in &rest.specials {
        if let Err(error) = special(path, node, shared) {
            shared.shortfalls.note(path, &error, false);
        }
    }
    for (path, node) in rest.folders.iter().rev() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let finished = beneath(shared, path.as_bytes(), flags, Mode::empty())
            .and_then(|handle| of_file(handle.as_fd(), node, shared));
        if let Err(error) = finished {
            shared.shortfalls.note(path, &error, false);
        }
    }
}

/// Collects the first of several failures.
#[derive(Default)]
struct Steps(Option<std::io::Error>);

impl Steps {
    fn step(&mut self, what: impl FnOnce() -> String, result: rustix::io::Result<()>) {
        if let (None, Err(error)) = (&self.0, result) {
            let error = std::io::Error::from(error);
            self.0 = Some(std::io::Error::new(error.kind(), format!("cannot set {}: {error}", what())));
        }
    }

    fn end(self) -> std::io::Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

fn attribute(name: &[u8]) -> String {
    format!("the attribute `{}`", OsStr::from_bytes(name).display())
}

/// Owner, mode, attributes and times of an open file or folder.
pub(super) fn of_file(file: BorrowedFd<'_>, node: &Node, shared: &Shared<'_>) -> std::io::Result<()> {
    let mut steps = Steps::default();
    if shared.options.owners {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        steps.step(|| "its owner".to_owned(), rustix::fs::fchown(file, Some(uid), Some(gid)));
    }
    if shared.inherits {
        // The target's own access list must not open up what was closed where it came from.
        for name in INHERITED {
            match rustix::fs::fremovexattr(file, name) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => steps.step(|| attribute(name.as_bytes()), Err(error)),
            }
        }
    }
    let mode = Mode::from_raw_mode(unix_mode(node.mode));
    steps.step(|| "its mode".to_owned(), rustix::fs::fchmod(file, mode));
    for (name, value) in &node.xattrs {
        let set = rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty());
        steps.step(|| attribute(name), set);
    }
    steps.step(|| "its times".to_owned(), rustix::fs::futimens(file, &times(node)));
    steps.end()
}

fn special(path: &TreePath, node: &Node, shared: &Shared<'_>) -> std::io::Result<()> {
    let place = &place(shared.options, path);
    let mode = Mode::from_raw_mode(unix_mode(node.mode));
    match node.kind {
        NodeKind::Symlink => {
            rustix::fs::symlinkat(OsStr::from_bytes(&node.link_target), CWD, place)?;
        }
        NodeKind::Device => rustix::fs::mknodat(CWD, place, FileType::BlockDevice, mode, node.device)?,
        NodeKind::CharDevice => {
            rustix::fs::mknodat(CWD, place, FileType::CharacterDevice, mode, node.device)?;
        }
        NodeKind::Fifo => rustix::fs::mknodat(CWD, place, FileType::Fifo, mode, 0)?,
        NodeKind::Socket => rustix::fs::mknodat(CWD, place, FileType::Socket, mode, 0)?,
        NodeKind::File | NodeKind::Dir => return Ok(()),
    }
    let mut steps = Steps::default();
    if shared.options.owners {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        let owned = rustix::fs::chownat(CWD, place, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        steps.step(|| "its owner".to_owned(), owned);
    }
    // A link has no mode of its own; the others got theirs less the umask.
    if node.kind != NodeKind::Symlink {
        steps.step(|| "its mode".to_owned(), rustix::fs::chmodat(CWD, place, mode, AtFlags::empty()));
    }
    for (name, value) in &node.xattrs {
        let set = rustix::fs::lsetxattr(place, name.as_slice(), value, XattrFlags::empty());
        steps.step(|| attribute(name), set);
    }
    let timed = rustix::fs::utimensat(CWD, place, &times(node), AtFlags::SYMLINK_NOFOLLOW);
    steps.step(|| "its times".to_owned(), timed);
    steps.end()
}

/// Whether what is made in a folder gets an access list from it.
pub(super) fn hands_down(folder: BorrowedFd<'_>) -> bool {
    rustix::fs::fgetxattr_query(folder, INHERITED[1]).is_ok_and(|length| length > 0)
}

fn times(node: &Node) -> Timestamps {
    let spec = |time: FileTime| Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) };
    Timestamps { last_access: spec(node.atime), last_modification: spec(node.mtime) }
}
