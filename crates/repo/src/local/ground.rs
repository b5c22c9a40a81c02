//! Where named paths are read: on the running system, or below a mounted snapshot of it.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use super::show;
use crate::{Error, Result};

/// btrfs' magic number in `statfs(2)`.
const BTRFS: u32 = 0x9123_683e;
/// What a btrfs snapshot shows in place of a subvolume that it does not contain (`BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`).
const EMPTY_SUBVOLUME: u64 = 2;

/// The running system, or a snapshot's folder.
#[derive(Debug)]
pub(super) struct Ground {
    base: Option<(PathBuf, OwnedFd)>,
}

impl Ground {
    pub(super) fn new(base: Option<&Path>) -> Result<Self> {
        let open = |base: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(base, flags, Mode::empty());
            opened
                .map(|dir| (base.to_owned(), dir))
                .map_err(|error| Error::io("read", show(base), error.into()))
        };
        Ok(Self { base: base.map(open).transpose()? })
    }

    /// Where a path really lies, for messages.
    pub(super) fn real(&self, path: &Path) -> PathBuf {
        match &self.base {
            Some((base, _)) => base.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    /// Opens a folder that a person named, or one above it. Links on the way are followed, in a snapshot only as
    /// far as it reaches: one that leads to `/data` leads to the snapshot's `/data`.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Some((_, base)) = &self.base else { return rustix::fs::open(path, flags, Mode::empty()) };
        let inside = path.strip_prefix("/").unwrap_or(path);
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // The kernel asks for another try when something is renamed meanwhile.
        loop {
            match rustix::fs::openat2(base, inside, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Why the snapshot does not hold what the running system shows in this folder; none if it does, or if
    /// nothing is said of it. Such a folder is there, and empty.
    pub(super) fn lacks(
        &self,
        path: &Path,
        above: &Stat,
        dir: &OwnedFd,
        found: &Stat,
    ) -> Option<&'static str> {
        self.base.as_ref()?;
        let btrfs = || rustix::fs::fstatfs(dir).is_ok_and(|found| i64::from(BTRFS) == found.f_type);
        if found.st_ino == EMPTY_SUBVOLUME && btrfs() {
            return Some("it is a subvolume of its own, which the snapshot does not contain");
        }
        // A file system of its own in the snapshot, too. (What stands for a missing subvolume has another device.)
        if found.st_dev != above.st_dev {
            return None;
        }
        let device = |path: &Path| rustix::fs::lstat(path).map(|stat| stat.st_dev).ok();
        // By the device and not by the mount: a sandbox may mount what it lets us write a second time in its place.
        let own = device(path).zip(path.parent().and_then(device)).is_some_and(|(own, above)| own != above);
        own.then_some("on the running system a file system of its own is mounted here, which the snapshot does not contain")
    }
}
