//! The vault's own folder.
//!
//! ```text
//! root/<repository>/            restic's layout: pinned config and keys, packs, our own index files,
//!                               and the snapshots that are complete
//! root/.pulled/<repository>/    index files and snapshots as they came: compared, walked, not yet believed
//! root/.partial/<repository>/   transfers that a window's end cut off: <kind>-<name>
//! root/.quarantine/<repository>/  forged packs and snapshots, kept for whoever investigates
//! ```
//!
//! A file gets its final name only after its bytes have the hash in that name and are on the disk.

use std::{
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};
use kuramori_repo::{
    Result as RepoResult,
    store::{FileId, FileKind, LocalStore, Payload, Store},
};

use crate::error::{Error, Result};

/// Where everything lies.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
    locks: Option<crate::locks::Locks>,
}

impl Folder {
    /// Names the root; makes it if need be.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(root: &Path) -> Result<Self> {
        for part in ["", ".pulled", ".partial", ".quarantine"] {
            fs_err::create_dir_all(root.join(part)).map_err(Error::io("make the vault's folder"))?;
        }
        Ok(Self { root: root.to_owned(), locks: None })
    }

    /// The same with a lock that alone removes what it keeps.
    #[must_use]
    pub fn with_locks(self, locks: Option<crate::locks::Locks>) -> Self {
        Self { locks, ..self }
    }

    /// The lock, if there is one.
    pub fn locks(&self) -> Option<&crate::locks::Locks> {
        self.locks.as_ref()
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A repository's folder in restic's layout.
    pub fn repository(&self, repository: &str) -> PathBuf {
        self.root.join(repository)
    }

    fn pulled(&self, repository: &str) -> PathBuf {
        self.root.join(".pulled").join(repository)
    }

    /// The store of one repository, as the engine sees it.
    pub fn desk(&self, repository: &str) -> Desk {
        Desk {
            own: LocalStore::new(self.repository(repository)),
            pulled: LocalStore::new(self.pulled(repository)),
        }
    }

    /// Where a transfer grows.
    pub fn partial(&self, repository: &str, kind: FileKind, id: FileId) -> PathBuf {
        self.root.join(".partial").join(repository).join(format!("{kind}-{id}"))
    }

    /// Every transfer of a repository that was cut off.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn partials(&self, repository: &str) -> Result<Vec<PathBuf>> {
        let failed = || Error::io("list the transfers that were cut off");
        match fs_err::read_dir(self.root.join(".partial").join(repository)) {
            Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed())?.path())).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed()(error)),
        }
    }

    /// Where a taken file lies: packs, config and keys in the repository, index files and snapshots apart.
    pub fn taken(&self, repository: &str, kind: FileKind, id: FileId) -> PathBuf {
        let store = match kind {
            FileKind::Index | FileKind::Snapshot => LocalStore::new(self.pulled(repository)),
            _ => LocalStore::new(self.repository(repository)),
        };
        store.path(kind, id)
    }

    /// Gives a finished, synced transfer its final name, durably.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn take(&self, repository: &str, kind: FileKind, id: FileId, from: &Path) -> Result<()> {
        place(from, &self.taken(repository, kind, id))
    }

    /// Moves a proven snapshot among the complete ones.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn believe(&self, repository: &str, snapshot: FileId) -> Result<()> {
        let (from, to) = (self.pulled(repository), self.repository(repository));
        let (from, to) = (LocalStore::new(from), LocalStore::new(to));
        let from = from.path(FileKind::Snapshot, snapshot);
        if from.exists() { place(&from, &to.path(FileKind::Snapshot, snapshot)) } else { Ok(()) }
    }

    /// Takes a snapshot out from among the complete ones: something that it needs is gone.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn disbelieve(&self, repository: &str, snapshot: FileId) -> Result<()> {
        let (from, to) = (self.repository(repository), self.pulled(repository));
        let (from, to) = (LocalStore::new(from), LocalStore::new(to));
        let from = from.path(FileKind::Snapshot, snapshot);
        if from.exists() { place(&from, &to.path(FileKind::Snapshot, snapshot)) } else { Ok(()) }
    }

    /// Moves a forged file out of everybody's way.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn quarantine(&self, repository: &str, kind: FileKind, id: FileId) -> Result<()> {
        let to = self.root.join(".quarantine").join(repository).join(format!("{kind}-{id}"));
        for from in
            [self.taken(repository, kind, id), LocalStore::new(self.repository(repository)).path(kind, id)]
        {
            if from.exists() {
                place(&from, &to)?;
            }
        }
        Ok(())
    }

    /// Removes a file of ours, durably; one that is not there counts as removed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self, repository: &str, kind: FileKind, id: FileId) -> Result<()> {
        if let Some(locks) = &self.locks {
            locks.remove(repository, kind, id)?;
        }
        for folder in [self.repository(repository), self.pulled(repository)] {
            LocalStore::new(folder).remove(kind, id).map_err(Error::repository(repository))?;
        }
        Ok(())
    }

    /// Every file of a kind that lies here whole, taken or believed.
    ///
    /// # Errors
    /// [`Error::Repository`].
    pub fn list(&self, repository: &str, kind: FileKind) -> Result<Vec<(FileId, u64)>> {
        let mut files = Vec::new();
        let mut add = |id, size| {
            files.push((id, size));
            Ok(())
        };
        let folders = match kind {
            FileKind::Index => vec![self.pulled(repository)],
            FileKind::Snapshot => vec![self.repository(repository), self.pulled(repository)],
            _ => vec![self.repository(repository)],
        };
        for folder in folders {
            LocalStore::new(folder).list(kind, &mut add).map_err(Error::repository(repository))?;
        }
        files.sort_unstable();
        files.dedup();
        Ok(files)
    }

    /// Free bytes below the root.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn free(&self) -> Result<u64> {
        let stat =
            rustix::fs::statvfs(&self.root).map_err(|error| Error::io("ask for free space")(error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn place(from: &Path, to: &Path) -> Result<()> {
    let failed = || Error::io(format!("put `{}` into its place", to.display()));
    let folder = to.parent().unwrap_or(to);
    if !folder.is_dir() {
        fs_err::create_dir_all(folder).map_err(failed())?;
        if let Some(above) = folder.parent() {
            sync(above)?;
        }
    }
    fs_err::set_permissions(from, std::fs::Permissions::from_mode(0o400)).map_err(failed())?;
    fs_err::rename(from, to).map_err(failed())?;
    sync(folder)
}

fn sync(folder: &Path) -> Result<()> {
    let file = fs_err::File::open(folder).map_err(Error::io("open a folder"))?;
    file.sync_all().map_err(Error::io("sync a folder"))
}

/// The SHA-256 of a whole file, or of what is there of it.
///
/// # Errors
/// [`Error::Io`].
pub fn hash(path: &Path) -> Result<(Context, u64)> {
    let failed = || Error::io(format!("read `{}`", path.display()));
    let mut file = fs_err::File::open(path).map_err(failed())?;
    let mut context = Context::new(&SHA256);
    let size = pieces(&mut file, u64::MAX, failed(), &mut |piece| {
        context.update(piece);
        Ok(())
    })?;
    Ok((context, size))
}

/// Reads at most `most` bytes and gives them on piece by piece, none larger than a puller's frame. Returns how
/// many there were.
///
/// # Errors
/// The error of `each`; what the system says becomes an error by `failed`.
pub(crate) fn pieces(
    from: &mut dyn Read,
    most: u64,
    failed: impl FnOnce(std::io::Error) -> Error,
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    let mut buffer = vec![0; crate::puller::FRAME];
    let mut left = most;
    while left > 0 {
        let step = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
        match from.read(&mut buffer[..step]) {
            Ok(0) => break,
            Ok(read) => {
                each(&buffer[..read])?;
                left -= read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(most - left)
}

/// Writes a small file: temporary name, sync, rename, sync.
///
/// # Errors
/// [`Error::Io`].
pub fn write_small(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = || Error::io(format!("write `{}`", path.display()));
    let folder = path.parent().unwrap_or(path);
    fs_err::create_dir_all(folder).map_err(failed())?;
    let temporary = folder.join(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    let mut file = fs_err::File::create(&temporary).map_err(failed())?;
    file.write_all(bytes).map_err(failed())?;
    file.sync_all().map_err(failed())?;
    fs_err::rename(&temporary, path).map_err(failed())?;
    sync(folder)
}

/// A repository as the engine sees it at the vault: our own files, and behind them, by name only, the index
/// files and snapshots that came but are not believed yet. Lists show only our own.
#[derive(Debug, Clone)]
pub struct Desk {
    own: LocalStore,
    pulled: LocalStore,
}

impl Desk {
    fn holder(&self, kind: FileKind, id: FileId) -> &LocalStore {
        let apart = matches!(kind, FileKind::Index | FileKind::Snapshot);
        if apart && !self.own.path(kind, id).exists() { &self.pulled } else { &self.own }
    }
}

impl Store for Desk {
    fn place(&self) -> String {
        self.own.place()
    }

    fn create(&self) -> RepoResult<()> {
        self.own.create()
    }

    fn list(&self, kind: FileKind, each: &mut dyn FnMut(FileId, u64) -> RepoResult<()>) -> RepoResult<()> {
        self.own.list(kind, each)
    }

    fn size(&self, kind: FileKind, id: FileId) -> RepoResult<u64> {
        self.holder(kind, id).size(kind, id)
    }

    fn read(&self, kind: FileKind, id: FileId, limit: u64) -> RepoResult<Vec<u8>> {
        self.holder(kind, id).read(kind, id, limit)
    }

    fn read_range(&self, kind: FileKind, id: FileId, offset: u64, len: u32) -> RepoResult<Vec<u8>> {
        self.holder(kind, id).read_range(kind, id, offset, len)
    }

    fn write(&self, kind: FileKind, id: FileId, payload: Payload<'_>) -> RepoResult<()> {
        self.own.write(kind, id, payload)
    }

    fn remove(&self, kind: FileKind, id: FileId) -> RepoResult<()> {
        self.own.remove(kind, id)
    }
}
