//! The flags on files and folders.
//!
//! A file becomes immutable: nobody without the capability can remove, rename, link, write or change it, also
//! not root. The folders above, up to the root, take new names only: an immutable file alone does not keep
//! the folder that holds it from being moved away. The last folder stays as it is, so that what is not locked
//! yet (a pack that turns out to be forged) can still be put aside; it can be neither moved nor emptied.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use kuramori_model::lock::{Kind, Name};
use rustix::{
    fs::{AtFlags, FileType, IFlags, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::error::{Error, Result};

/// Guards one root with repositories in restic's layout.
#[derive(Debug)]
pub struct Guard {
    root: PathBuf,
    /// Whose new folders are, so that the vault's user can put files in; (user, group).
    owner: Option<(u32, u32)>,
}

impl Guard {
    /// For a root that exists. `owner`: the user and group that fill it.
    pub fn new(root: &Path, owner: Option<(u32, u32)>) -> Self {
        Self { root: root.to_owned(), owner }
    }

    /// Tries on a file of its own whether this file system and this process can lock. Says plainly if not.
    ///
    /// # Errors
    /// [`Error::NoFlag`], [`Error::NoCapability`].
    pub fn probe(&self) -> Result<()> {
        let root = self.open_root()?;
        let name = format!(".lock-probe-{}", std::process::id());
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The root itself may already refuse the removal of names.
        let sealed = self.open_flags(&root)?;
        set(&root, IFlags::APPEND, false, &self.root)?;
        let done = (|| {
            let file = rustix::fs::openat(&root, &*name, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|error| Error::Io("make a file in the root", error.into()))?;
            set(&file, IFlags::IMMUTABLE, true, &self.root)?;
            // A file system may take the flag and not mean it.
            let kept = rustix::fs::ioctl_getflags(&file).is_ok_and(|flags| flags.contains(IFlags::IMMUTABLE))
                && rustix::fs::unlinkat(&root, &*name, AtFlags::empty()).is_err();
            if !kept {
                return Err(Error::NoFlag(self.root.clone()));
            }
            set(&file, IFlags::IMMUTABLE, false, &self.root)
        })();
        let _ = rustix::fs::unlinkat(&root, &*name, AtFlags::empty());
        if sealed.contains(IFlags::APPEND) {
            set(&root, IFlags::APPEND, true, &self.root)?;
        }
        done
    }

    /// What an earlier probe found, as an error.
    ///
    /// # Errors
    /// [`Error::NoFlag`] if it found that nothing can be locked.
    pub fn probe_known(&self, why: Option<&str>) -> Result<()> {
        if why.is_some() { Err(Error::NoFlag(self.root.clone())) } else { Ok(()) }
    }

    fn open_flags(&self, folder: &OwnedFd) -> Result<IFlags> {
        rustix::fs::ioctl_getflags(folder).map_err(|error| refuse(error, &self.root))
    }

    fn open_root(&self) -> Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open(&self.root, flags, Mode::empty())
            .map_err(|error| Error::Io("open the root", error.into()))
    }

    /// Opens what lies below the root; follows no link and leaves the root by no way.
    fn open(&self, path: &str, flags: OFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(
            self.open_root()?,
            path,
            flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            resolve,
        )
        .map_err(|error| match error {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::XDEV => Error::NoFile(path.to_owned()),
            other => Error::Io("open a stored file", other.into()),
        })
    }

    /// Makes the folders of a repository and lets each take new names only.
    ///
    /// # Errors
    /// [`Error::BadRepository`], [`Error::NoFlag`], [`Error::NoCapability`], [`Error::Io`].
    pub fn prepare(&self, repository: &str) -> Result<()> {
        check(repository)?;
        let mut folders = vec![repository.to_owned()];
        for part in ["data", "index", "snapshots", "keys"] {
            folders.push(format!("{repository}/{part}"));
        }
        folders.extend((0..=255_u8).map(|byte| format!("{repository}/data/{byte:02x}")));
        let root = self.open_root()?;
        for folder in &folders {
            match rustix::fs::mkdirat(&root, folder.as_str(), Mode::from_raw_mode(0o770)) {
                Ok(()) => {
                    if let Some((user, group)) = self.owner {
                        let (user, group) =
                            (rustix::process::Uid::from_raw(user), rustix::process::Gid::from_raw(group));
                        rustix::fs::chownat(
                            &root,
                            folder.as_str(),
                            Some(user),
                            Some(group),
                            AtFlags::SYMLINK_NOFOLLOW,
                        )
                        .map_err(|error| Error::Io("give away a new folder", error.into()))?;
                    }
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(Error::Io("make a folder", error.into())),
            }
        }
        for folder in [format!("{repository}/data"), repository.to_owned()] {
            let open = self.open(&folder, OFlags::DIRECTORY | OFlags::RDONLY)?;
            set(&open, IFlags::APPEND, true, &self.root)?;
        }
        set(&root, IFlags::APPEND, true, &self.root)
    }

    /// Makes a file immutable, after its bytes are on the disk.
    ///
    /// # Errors
    /// [`Error::NoFile`] and what the kernel says.
    pub fn lock(&self, repository: &str, name: Name) -> Result<()> {
        let file = self.open(&path(repository, name)?, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let stat =
            rustix::fs::fstat(&file).map_err(|error| Error::Io("look at a stored file", error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::NoFile(path(repository, name)?));
        }
        rustix::fs::fsync(&file)
            .map_err(|error| Error::Io("bring a stored file to the disk", error.into()))?;
        set(&file, IFlags::IMMUTABLE, true, &self.root)
    }

    /// Whether a file is immutable.
    ///
    /// # Errors
    /// [`Error::NoFile`] and what the kernel says.
    pub fn is_locked(&self, repository: &str, name: Name) -> Result<bool> {
        let file = self.open(&path(repository, name)?, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let flags = rustix::fs::ioctl_getflags(&file).map_err(|error| refuse(error, &self.root))?;
        Ok(flags.contains(IFlags::IMMUTABLE))
    }

    /// Removes a file; one that is not there counts as removed. Only for what the ledger let go.
    ///
    /// # Errors
    /// What the kernel says; the folder is guarded again in any case.
    pub fn remove(&self, repository: &str, name: Name) -> Result<()> {
        let path = path(repository, name)?;
        let file = match self.open(&path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => file,
            Err(Error::NoFile(_)) => return Ok(()),
            Err(other) => return Err(other),
        };
        let (parent, last) = path.rsplit_once('/').unwrap_or((repository, &path));
        let folder = self.open(parent, OFlags::DIRECTORY | OFlags::RDONLY)?;
        // `config` lies in a folder that takes new names only; it is never removed, but be exact.
        let sealed = rustix::fs::ioctl_getflags(&folder).is_ok_and(|flags| flags.contains(IFlags::APPEND));
        if sealed {
            set(&folder, IFlags::APPEND, false, &self.root)?;
        }
        let done = set(&file, IFlags::IMMUTABLE, false, &self.root).and_then(|()| {
            rustix::fs::unlinkat(&folder, last, AtFlags::empty())
                .map_err(|error| Error::Io("remove an expired file", error.into()))
        });
        let guarded = if sealed { set(&folder, IFlags::APPEND, true, &self.root) } else { Ok(()) };
        let _ = rustix::fs::fsync(&folder);
        done.and(guarded)
    }
}

/// `repository/data/ab/abcd…` and so on.
fn path(repository: &str, name: Name) -> Result<String> {
    check(repository)?;
    let id = name.id.to_string();
    Ok(match name.kind {
        Kind::Data => format!("{repository}/data/{}/{id}", &id[..2]),
        Kind::Config => format!("{repository}/config"),
        kind => format!("{repository}/{}/{id}", kind.as_str()),
    })
}

/// A system's name, or that of the control export.
fn check(repository: &str) -> Result<()> {
    let good = repository == kuramori_model::ids::CONTROL_REPOSITORY
        || kuramori_model::ids::SystemId::new(repository).is_ok();
    if good { Ok(()) } else { Err(Error::BadRepository(repository.to_owned())) }
}

fn set(file: &OwnedFd, flag: IFlags, on: bool, root: &Path) -> Result<()> {
    let mut flags = rustix::fs::ioctl_getflags(file).map_err(|error| refuse(error, root))?;
    if flags.contains(flag) == on {
        return Ok(());
    }
    flags.set(flag, on);
    rustix::fs::ioctl_setflags(file, flags).map_err(|error| refuse(error, root))
}

fn refuse(error: Errno, root: &Path) -> Error {
    match error {
        Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL => Error::NoFlag(root.to_owned()),
        Errno::PERM | Errno::ACCESS => Error::NoCapability,
        other => Error::Io("set a flag", other.into()),
    }
}
