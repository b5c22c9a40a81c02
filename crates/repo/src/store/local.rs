//! A repository in a folder, in restic's default layout (`data/<first two digits>/<id>`).
//!
//! A new file is written without a name, synced, linked into its place, and the folder is synced: a power
//! cut leaves either nothing or the whole file, and `link` refuses a name that is taken.

use std::{
    io::{self, Read},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, FileExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use fs_err::{self as fs, File};
use rustix::fs::{AtFlags, CWD, RenameFlags};

use super::{FileId, FileKind, Payload, Spool, Store};
use crate::{Error, Result, error::file_name};

/// Packs are compared with existing files in steps of this size.
const STEP: usize = 256 << 10;

/// A repository's files in a folder.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// Names the folder; touches nothing.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file lies.
    pub fn path(&self, kind: FileKind, id: FileId) -> PathBuf {
        match kind {
            FileKind::Config => self.root.join("config"),
            FileKind::Pack => {
                let name = id.to_string();
                self.root.join("data").join(&name[..2]).join(name)
            }
            _ => self.root.join(kind.folder()).join(id.to_string()),
        }
    }

    fn open(&self, kind: FileKind, id: FileId) -> Result<File> {
        File::open(self.path(kind, id)).map_err(|error| read_error(kind, id, error))
    }

    /// Whether the file that has the name already holds the same bytes.
    fn same(&self, kind: FileKind, id: FileId, payload: Payload<'_>) -> Result<bool> {
        let failed = |error| Error::io("compare", file_name(kind, id), error);
        if self.size(kind, id)? != payload.len() {
            return Ok(false);
        }
        let mut ours = payload.reader();
        let mut theirs = self.open(kind, id)?;
        let (mut a, mut b) = (vec![0; STEP], vec![0; STEP]);
        loop {
            let got = ours.read(&mut a).map_err(failed)?;
            if got == 0 {
                return Ok(true);
            }
            match theirs.read_exact(&mut b[..got]) {
                Ok(()) if a[..got] == b[..got] => {}
                Ok(()) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Gives a synced file without a name its name; `AlreadyExists` if that is taken.
    fn link(spool: &Spool, path: &Path) -> io::Result<()> {
        let source = format!("/proc/self/fd/{}", spool.file().file().as_raw_fd());
        rustix::fs::linkat(CWD, source, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
        Ok(())
    }

    /// The way for file systems without `O_TMPFILE`: a named temporary file beside the target.
    fn copy(payload: Payload<'_>, dir: &Path, path: &Path) -> io::Result<()> {
        let mut temporary = tempfile::Builder::new().prefix(".tmp-").tempfile_in(dir)?;
        io::copy(&mut payload.reader(), temporary.as_file_mut())?;
        temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o400))?;
        temporary.as_file().sync_all()?;
        match rustix::fs::renameat_with(CWD, temporary.path(), CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => {
                // The name is gone: there is nothing left for the guard to remove.
                let _ = temporary.into_temp_path().keep();
                Ok(())
            }
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                temporary.persist_noclobber(path).map(drop).map_err(|error| error.error)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn read_error(kind: FileKind, id: FileId, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::missing(kind, id),
        _ => Error::io("read", file_name(kind, id), error),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn make_dir(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

impl Store for LocalStore {
    fn place(&self) -> String {
        self.root.to_string_lossy().into_owned()
    }

    fn create(&self) -> Result<()> {
        let failed = |error| Error::io("make the folders of", self.place(), error);
        for kind in FileKind::NAMED {
            make_dir(&self.root.join(kind.folder())).map_err(failed)?;
        }
        let data = self.root.join("data");
        for first in 0..=255_u8 {
            make_dir(&data.join(hex::encode([first]))).map_err(failed)?;
        }
        let above = self.root.parent().filter(|above| !above.as_os_str().is_empty());
        sync_dir(&data)
            .and_then(|()| sync_dir(&self.root))
            .and_then(|()| sync_dir(above.unwrap_or(Path::new("."))))
            .map_err(failed)
    }

    fn list(&self, kind: FileKind, each: &mut dyn FnMut(FileId, u64) -> Result<()>) -> Result<()> {
        let dir = self.root.join(kind.folder());
        match kind {
            FileKind::Config => Ok(()),
            FileKind::Pack => {
                for first in 0..=255_u8 {
                    list_dir(&dir.join(hex::encode([first])), kind, each)?;
                }
                Ok(())
            }
            _ => list_dir(&dir, kind, each),
        }
    }

    fn size(&self, kind: FileKind, id: FileId) -> Result<u64> {
        fs::metadata(self.path(kind, id)).map(|meta| meta.len()).map_err(|error| read_error(kind, id, error))
    }

    fn read(&self, kind: FileKind, id: FileId, limit: u64) -> Result<Vec<u8>> {
        let file = self.open(kind, id)?;
        let size = file.metadata().map_err(|error| read_error(kind, id, error))?.len();
        let mut bytes = Vec::with_capacity(usize::try_from(size.min(limit)).unwrap_or(0));
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io("read", file_name(kind, id), error))?;
        if bytes.len() as u64 > limit {
            return Err(Error::damaged(kind, id, format!("larger than {limit} bytes")));
        }
        Ok(bytes)
    }

    fn read_range(&self, kind: FileKind, id: FileId, offset: u64, len: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.read_into(kind, id, offset, &mut bytes)?;
        Ok(bytes)
    }

    fn read_into(&self, kind: FileKind, id: FileId, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let file = self.open(kind, id)?;
        file.file().read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::damaged(kind, id, format!("ends before byte {}", offset + buffer.len() as u64))
            }
            _ => Error::io("read", file_name(kind, id), error),
        })
    }

    fn write(&self, kind: FileKind, id: FileId, payload: Payload<'_>) -> Result<()> {
        let path = self.path(kind, id);
        let failed = |error| Error::io("store", file_name(kind, id), error);
        let dir = path.parent().unwrap_or(&self.root);
        let attempt = || -> io::Result<()> {
            let made;
            let spool = match payload {
                Payload::Spool(spool) => spool,
                Payload::Bytes(bytes) => {
                    let mut spool = Spool::open_in(dir)?;
                    io::Write::write_all(&mut spool, bytes)?;
                    made = spool;
                    &made
                }
            };
            spool.file().set_permissions(std::fs::Permissions::from_mode(0o400))?;
            spool.file().sync_all()?;
            match Self::link(spool, &path) {
                // Another file system, or a spool file that never could have a name.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Self::copy(payload, dir, &path),
                other => other,
            }
        };
        let mut outcome = attempt();
        if matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            make_dir(dir).and_then(|()| sync_dir(dir.parent().unwrap_or(&self.root))).map_err(failed)?;
            outcome = attempt();
        }
        match outcome {
            Ok(()) => sync_dir(dir).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if self.same(kind, id, payload)? {
                    // Whoever wrote it may have died before it was durable; our caller relies on it now.
                    self.open(kind, id)?.sync_all().and_then(|()| sync_dir(dir)).map_err(failed)
                } else {
                    Err(Error::Exists { file: file_name(kind, id) })
                }
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn remove(&self, kind: FileKind, id: FileId) -> Result<()> {
        let path = self.path(kind, id);
        let failed = |error| Error::io("remove", file_name(kind, id), error);
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(path.parent().unwrap_or(&self.root)).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    fn spool_dir(&self) -> Option<PathBuf> {
        Some(self.root.join("data"))
    }
}

fn list_dir(dir: &Path, kind: FileKind, each: &mut dyn FnMut(FileId, u64) -> Result<()>) -> Result<()> {
    let failed = |error| Error::io("list", dir.to_string_lossy(), error);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match entry.metadata() {
            Ok(meta) if meta.is_file() => each(id, meta.len())?,
            Ok(_) => {}
            // Removed between the listing and the look: another session released its lock, for example.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("list", file_name(kind, id), error)),
        }
    }
    Ok(())
}
