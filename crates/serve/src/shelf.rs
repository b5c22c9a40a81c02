//! The folder on disk: layout, sizes, making repositories, deleting locks. All calls block.

use std::{
    fs::File as StdFile,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;

use crate::{
    FileName, Kind, Mode, RepositoryName, ServeError,
    name::{File, Target},
};

/// Where uploads grow, inside each repository so that a rename never crosses a file system. restic and
/// every other reader of the layout pass over it.
pub(crate) const INCOMING: &str = ".incoming";

/// The folder of repositories, held by one server.
#[derive(Debug)]
pub(crate) struct Shelf {
    root: PathBuf,
    /// Open folder with an exclusive lock: two servers would not know each other's quotas.
    _held: StdFile,
}

impl Shelf {
    /// Takes the folder for this server and removes what a killed one left half done.
    pub(crate) fn open(root: &Path, mode: Mode) -> Result<Self, ServeError> {
        let folder = |source: io::Error| ServeError::Folder { folder: root.to_owned(), source };
        let held = StdFile::from(fs_err::File::open(root).map_err(folder)?);
        match rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(ServeError::Busy { folder: root.to_owned() }),
            other => other.map_err(|error| folder(error.into()))?,
        }
        if mode == Mode::Receiver && fs_err::read_dir(root).map_err(folder)?.next().is_some() {
            return Err(ServeError::NotEmpty { folder: root.to_owned() });
        }
        let shelf = Self { root: root.to_owned(), _held: held };
        for repository in shelf.repositories().map_err(folder)? {
            shelf.clear_incoming(&repository).map_err(folder)?;
        }
        Ok(shelf)
    }

    /// The folder of a repository.
    pub(crate) fn repository(&self, name: &RepositoryName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Where a file lies.
    pub(crate) fn path(&self, repository: &RepositoryName, file: File) -> PathBuf {
        self.repository(repository).join(file.path())
    }

    /// The folders that have a repository's name, in order.
    pub(crate) fn repositories(&self) -> io::Result<Vec<RepositoryName>> {
        let mut names = Vec::new();
        for entry in fs_err::read_dir(&self.root)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().and_then(|name| RepositoryName::new(name).ok())
                && fs_err::metadata(entry.path())?.is_dir()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Makes the folders of a repository, durably; those that exist are left alone.
    pub(crate) fn create(&self, name: &RepositoryName) -> io::Result<()> {
        let folder = self.repository(name);
        make(&folder)?;
        for kind in Kind::FOLDERS {
            let folder = folder.join(kind.folder());
            make(&folder)?;
            if kind == Kind::Data {
                for first in 0..=255_u8 {
                    make(&folder.join(format!("{first:02x}")))?;
                }
            }
            sync_folder(&folder)?;
        }
        sync_folder(&folder)?;
        sync_folder(&self.root)
    }

    /// Opens a stored file for reading.
    pub(crate) fn read(&self, repository: &RepositoryName, file: File) -> io::Result<(fs_err::File, u64)> {
        let file = fs_err::File::open(self.path(repository, file))?;
        let meta = file.metadata()?;
        if meta.is_file() { Ok((file, meta.len())) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Deletes a lock and gives its size; `None` if it was not there.
    pub(crate) fn delete_lock(&self, repository: &RepositoryName, name: FileName) -> io::Result<Option<u64>> {
        let path = self.path(repository, File::Named(Kind::Locks, name));
        match fs_err::metadata(&path).and_then(|meta| fs_err::remove_file(&path).map(|()| meta.len())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(size) => {
                path.parent().map_or(Ok(()), sync_folder)?;
                Ok(Some(size))
            }
        }
    }

    /// Bytes that this user may still write on the repository's file system.
    pub(crate) fn free(&self, repository: &RepositoryName) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(self.repository(repository))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Removes the folders of uploads that are empty now; a failure leaves them, which does no harm.
    pub(crate) fn close(&self) {
        for repository in self.repositories().unwrap_or_default() {
            let _ = fs_err::remove_dir(self.repository(&repository).join(INCOMING));
        }
    }

    fn clear_incoming(&self, repository: &RepositoryName) -> io::Result<()> {
        match fs_err::remove_dir_all(self.repository(repository).join(INCOMING)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Makes one folder that only this user may enter.
pub(crate) fn make(folder: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => {
            Err(io::Error::new(error.kind(), format!("cannot make `{}`: {error}", folder.display())))
        }
        Ok(()) => Ok(()),
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    fs_err::File::open(folder)?.sync_all()
}

impl Target {
    /// The file that a request is about.
    pub(crate) fn file(&self) -> Option<File> {
        match self {
            Self::File(_, file) => Some(*file),
            _ => None,
        }
    }
}
