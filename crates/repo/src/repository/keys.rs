//! Several passwords for one repository.

use super::{
    Core, Repository,
    open::{KEY_SIZE_MAX, KEYS_MAX},
};
use crate::{
    Error, Result, Secret,
    format::key,
    store::{FileId, FileKind},
};

/// What a key file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// The file.
    pub id: FileId,
    /// Whether it is the one that opened the repository now.
    pub current: bool,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// By whom.
    pub username: String,
    /// Where.
    pub hostname: String,
}

impl<State> Repository<State> {
    /// Every readable key file, oldest first.
    pub fn keys(&self) -> Result<Vec<KeyInfo>> {
        let core: &Core = &self.core;
        let mut ids = Vec::new();
        core.store.list(FileKind::Key, &mut |id, _| {
            ids.push(id);
            Ok(())
        })?;
        let mut keys = Vec::new();
        for id in ids {
            let json = core.store.read(FileKind::Key, id, KEY_SIZE_MAX)?;
            let file = key::decode(&json).map_err(|flaw| Error::damaged(FileKind::Key, id, flaw.0))?;
            keys.push(KeyInfo {
                id,
                current: id == core.key_id,
                created: file.created,
                username: file.username,
                hostname: file.hostname,
            });
        }
        keys.sort_by_key(|key| (key.created, key.id));
        Ok(keys)
    }

    /// Adds a password. At most 20 key files: restic tries no more.
    pub fn add_key(&self, password: &Secret) -> Result<FileId> {
        let mut count = 0;
        self.core.store.list(FileKind::Key, &mut |_, _| {
            count += 1;
            Ok(())
        })?;
        if count >= KEYS_MAX {
            return Err(Error::Invalid {
                what: format!(
                    "the repository already has {count} keys, and restic tries no more than {KEYS_MAX}"
                ),
                hint: "remove a key that nobody uses".to_owned(),
            });
        }
        self.core.write_key(password)
    }

    /// Removes a password. The master key stays the same, so whoever read it once can still read; and the
    /// key in use cannot be removed, so the last one never is. The caller holds the exclusive lock.
    pub fn remove_key(&self, id: FileId) -> Result<()> {
        if id == self.core.key_id {
            return Err(Error::Invalid {
                what: "the key that opened the repository cannot be removed".to_owned(),
                hint: "open the repository with another password first".to_owned(),
            });
        }
        self.core.store.size(FileKind::Key, id)?;
        self.core.store.remove(FileKind::Key, id)
    }
}
