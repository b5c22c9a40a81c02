//! A store that lies, fails or dies where a test says so.

use std::sync::Arc;

use kuramori_repo::{
    Result,
    store::{FileId, FileKind, LocalStore, Payload, Store},
};

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
