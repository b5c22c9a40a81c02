//! A store that lies, fails or dies where a test says so, and short words for what the tests do with it.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use kuramori_repo::{
    Cancel, Context, Error, Indexed, Repository, Result,
    check::{CheckOptions, Checked},
    progress::Progress,
    prune::PruneOptions,
    restore::{RestoreOptions, Restored},
    store::{FileId, FileKind, LocalStore, Payload, Store},
};

use crate::common::{Place, secret};

/// What a caller asks a store for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    List,
    Read,
    Write,
    Remove,
}

/// Is asked before each call; an error is the call's.
pub(crate) type Hook = Arc<dyn Fn(Ask, FileKind, FileId) -> Result<()> + Send + Sync>;

/// A folder behind a hook.
#[derive(Clone)]
pub(crate) struct Hooked {
    pub(crate) inner: LocalStore,
    pub(crate) hook: Hook,
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooked")
    }
}

impl Store for Hooked {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn create(&self) -> Result<()> {
        self.inner.create()
    }

    fn list(&self, kind: FileKind, each: &mut dyn FnMut(FileId, u64) -> Result<()>) -> Result<()> {
        (self.hook)(Ask::List, kind, FileId::ZERO)?;
        self.inner.list(kind, each)
    }

    fn size(&self, kind: FileKind, id: FileId) -> Result<u64> {
        (self.hook)(Ask::Read, kind, id)?;
        self.inner.size(kind, id)
    }

    fn read(&self, kind: FileKind, id: FileId, limit: u64) -> Result<Vec<u8>> {
        (self.hook)(Ask::Read, kind, id)?;
        self.inner.read(kind, id, limit)
    }

    fn read_range(&self, kind: FileKind, id: FileId, offset: u64, len: u32) -> Result<Vec<u8>> {
        (self.hook)(Ask::Read, kind, id)?;
        self.inner.read_range(kind, id, offset, len)
    }

    fn write(&self, kind: FileKind, id: FileId, payload: Payload<'_>) -> Result<()> {
        (self.hook)(Ask::Write, kind, id)?;
        self.inner.write(kind, id, payload)
    }

    fn remove(&self, kind: FileKind, id: FileId) -> Result<()> {
        (self.hook)(Ask::Remove, kind, id)?;
        self.inner.remove(kind, id)
    }

    fn spool_dir(&self) -> Option<std::path::PathBuf> {
        self.inner.spool_dir()
    }
}

pub(crate) fn check(repo: &Repository) -> Checked {
    let options = CheckOptions { read_data: true, workers: 2 };
    repo.check(options, &Progress::default(), &Cancel::default()).unwrap()
}

pub(crate) fn prune(repo: &Repository) -> kuramori_repo::Result<kuramori_repo::prune::PrunePlan> {
    let options =
        PruneOptions { max_unused_percent: 0, max_repack_bytes: u64::MAX, patience: Duration::ZERO };
    repo.plan_prune(&options, &Cancel::default())?.execute(&Progress::default(), &Cancel::default())
}

pub(crate) fn restore(repo: &Repository<Indexed>, id: FileId, options: &RestoreOptions) -> Restored {
    let snapshot = repo.snapshot(id).unwrap();
    repo.restore(&snapshot, options, &Progress::default(), &Cancel::default()).unwrap()
}

/// Every file below a folder with its content.
pub(crate) fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs_err::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs_err::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                walk(root, &path, found);
            } else if meta.is_file() {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), fs_err::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

pub(crate) fn change(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs_err::read(path).unwrap();
    edit(&mut bytes);
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    fs_err::write(path, bytes).unwrap();
}

pub(crate) fn hooked(place: &Place, hook: Hook, context: Context) -> Repository {
    let store = Hooked { inner: LocalStore::new(place.repo()), hook };
    Repository::open(Arc::new(store), &secret(), context).unwrap()
}

/// After so many changes of the store nothing works any more: the machine is gone.
pub(crate) fn dies_after(steps: u64) -> Hook {
    let left = AtomicU64::new(steps);
    let dead = AtomicBool::new(false);
    Arc::new(move |ask, kind, id| {
        if matches!(ask, Ask::Write | Ask::Remove) && kind != FileKind::Lock {
            let next = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            dead.fetch_or(next.is_err(), Ordering::SeqCst);
        }
        if dead.load(Ordering::SeqCst) && kind != FileKind::Lock {
            return Err(Error::io("reach", id.to_string(), std::io::Error::from_raw_os_error(5)));
        }
        Ok(())
    })
}
