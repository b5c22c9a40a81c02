//! The third pass: everything about an item besides its content.
//!
//! The order matters: an owner first (a change of owner clears set-uid bits and capabilities), then the
//! mode, then extended attributes, times last (everything before changes them).

use std::{os::fd::AsFd, os::unix::ffi::OsStrExt, path::Path};

use kuramori_model::tree::FileTime;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid};

use super::{RestoreOptions, Shortfalls, plan::Plan};
use crate::{
    Error,
    format::node::{Node, NodeKind, unix_mode},
};

/// Makes links and special files, then gives folders their attributes, the deepest first.
pub(super) fn finish(plan: &Plan, options: &RestoreOptions, shortfalls: &Shortfalls) {
    for link in &plan.links {
        let first = &plan.files[link.first];
        if first.is_failed() {
            let error =
                Error::Damaged { file: first.path.to_string(), why: "this is another name of it".to_owned() };
            shortfalls.note(&link.path, &error, true);
        } else if let Err(error) = fs_err::hard_link(&first.place, &link.place) {
            shortfalls.note(&link.path, &error, false);
        }
    }
    for (path, place, node) in &plan.specials {
        if let Err(error) = special(place, node, options) {
            shortfalls.note(path, &error, false);
        }
    }
    for (path, place, node) in plan.folders.iter().rev() {
        let finished = fs_err::File::open(place).and_then(|handle| of_file(&handle, node, options));
        if let Err(error) = finished {
            shortfalls.note(path, &error, false);
        }
    }
}

/// Owner, mode, attributes and times of an open file or folder.
pub(super) fn of_file(handle: &fs_err::File, node: &Node, options: &RestoreOptions) -> std::io::Result<()> {
    let fd = handle.file().as_fd();
    if options.owners {
        rustix::fs::fchown(fd, Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)))?;
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(unix_mode(node.mode)))?;
    for (name, value) in &node.xattrs {
        set_xattr(handle, name, value)?;
    }
    rustix::fs::futimens(fd, &times(node))?;
    Ok(())
}

fn set_xattr(handle: &fs_err::File, name: &[u8], value: &[u8]) -> std::io::Result<()> {
    use xattr::FileExt;
    let name = std::ffi::OsStr::from_bytes(name);
    handle.file().set_xattr(name, value).map_err(|error| {
        std::io::Error::new(error.kind(), format!("cannot set the attribute `{}`: {error}", name.display()))
    })
}

fn special(place: &Path, node: &Node, options: &RestoreOptions) -> std::io::Result<()> {
    let mode = Mode::from_raw_mode(unix_mode(node.mode));
    match node.kind {
        NodeKind::Symlink => {
            rustix::fs::symlinkat(std::ffi::OsStr::from_bytes(&node.link_target), CWD, place)?;
        }
        NodeKind::Device => rustix::fs::mknodat(CWD, place, FileType::BlockDevice, mode, node.device)?,
        NodeKind::CharDevice => {
            rustix::fs::mknodat(CWD, place, FileType::CharacterDevice, mode, node.device)?;
        }
        NodeKind::Fifo => rustix::fs::mknodat(CWD, place, FileType::Fifo, mode, 0)?,
        NodeKind::Socket => rustix::fs::mknodat(CWD, place, FileType::Socket, mode, 0)?,
        NodeKind::File | NodeKind::Dir => return Ok(()),
    }
    if options.owners {
        let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
        rustix::fs::chownat(CWD, place, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    // A link has no mode of its own; the others got theirs less the umask.
    if node.kind != NodeKind::Symlink {
        rustix::fs::chmodat(CWD, place, mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(CWD, place, &times(node), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn times(node: &Node) -> Timestamps {
    let spec = |time: FileTime| Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) };
    Timestamps { last_access: spec(node.atime), last_modification: spec(node.mtime) }
}
