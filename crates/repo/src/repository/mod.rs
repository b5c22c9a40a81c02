//! An opened repository: the store, the master key and, once loaded, the index.
//!
//! Two states as types. [`Opened`] knows the key: it lists snapshots, manages keys and locks. [`Indexed`]
//! has loaded the index files too, and only it loads blobs and writes. Snapshots are listed *before* the
//! index is loaded: then the index knows every blob of every listed snapshot.
//!
//! | beside → | backup | restore, mirror | forget, prune, key remove | check |
//! |---|---|---|---|---|
//! | **lock** | shared | shared or none | exclusive | exclusive (restic), none with `--no-lock` |

mod blobs;
mod files;
mod keys;
mod open;

use std::sync::{Arc, RwLock};

use crate::{
    Context,
    format::{config::Config, crypto::Cipher},
    index::Index,
    store::{FileId, Store},
};

pub use blobs::BLOB_MAX;
pub use keys::KeyInfo;
pub use open::Secret;

/// The state after a password opened the repository.
#[derive(Debug, Clone)]
pub struct Opened;

/// The state after the index was loaded.
#[derive(Debug, Clone)]
pub struct Indexed {
    pub(crate) index: Arc<RwLock<Loaded>>,
}

/// The index and the files that it came from.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) index: Index,
    pub(crate) files: std::collections::HashSet<FileId>,
    /// Stored packs that no index file names yet, of all sessions of this process.
    pub(crate) unwritten: Vec<crate::format::index::IndexedPack>,
    /// Boot time at which the first of them was stored.
    pub(crate) waiting_since: std::time::Duration,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) context: Context,
    pub(crate) config: Config,
    pub(crate) cipher: Cipher,
    pub(crate) master: crate::format::crypto::KeyBytes,
    /// The key file that opened it.
    pub(crate) key_id: FileId,
    /// Held while index files are written: whoever waits for it finds every earlier pack named.
    pub(crate) writing: std::sync::Mutex<()>,
}

/// A repository. Clones are cheap and share the index.
#[derive(Debug, Clone)]
pub struct Repository<State = Opened> {
    pub(crate) core: Arc<Core>,
    pub(crate) state: State,
}

impl<State> Repository<State> {
    /// The repository's id from `config`.
    pub fn id(&self) -> &str {
        &self.core.config.id
    }

    /// The opened `config`.
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// Where the files lie.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.core.store
    }

    /// Clock, random source and names.
    pub fn context(&self) -> &Context {
        &self.core.context
    }

    /// The key file that the password opened.
    pub fn key_id(&self) -> FileId {
        self.core.key_id
    }
}
