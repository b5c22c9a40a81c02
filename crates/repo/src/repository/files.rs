//! Index, snapshot and lock files: read with every check, written with a check before upload.

use std::{sync::PoisonError, time::Duration};

use super::{Core, Indexed, Repository};
use crate::{
    Error, Result,
    format::{
        self, Flaw,
        index::{self, IndexedPack},
        snapshot::Snapshot,
        unpacked,
    },
    store::{FileId, FileKind, Payload},
};

/// Largest stored file that we read, and largest JSON in one. An index of another writer may be large; a lock
/// or snapshot that is, wants to exhaust our memory.
const fn limits(kind: FileKind) -> (u64, u64) {
    match kind {
        FileKind::Lock => (64 << 10, 256 << 10),
        FileKind::Snapshot => (8 << 20, 8 << 20),
        _ => (128 << 20, 512 << 20),
    }
}

impl Core {
    /// Reads, checks the hash in the name, opens, decompresses.
    pub(crate) fn load_file(&self, kind: FileKind, id: FileId) -> Result<Vec<u8>> {
        let damaged = |flaw: Flaw| Error::damaged(kind, id, flaw.0);
        let (file_max, json_max) = limits(kind);
        let sealed = self.store.read(kind, id, file_max)?;
        if FileId::of(&sealed) != id {
            return Err(Error::damaged(kind, id, "its bytes do not have the hash in its name"));
        }
        let plain = self.cipher.open_vec(sealed).map_err(damaged)?;
        unpacked::decode(plain, json_max).map_err(damaged)
    }

    /// Seals and stores JSON; opens it again before it leaves memory (rule E2).
    pub(crate) fn save_file(&self, kind: FileKind, json: &[u8]) -> Result<FileId> {
        let bug = |flaw: Flaw| Error::Bug { what: format!("a new file of `{kind}`: {flaw}") };
        let sealed = self.seal(&unpacked::encode(json).map_err(bug)?)?;
        let (file_max, json_max) = limits(kind);
        if sealed.len() as u64 > file_max || json.len() as u64 > json_max {
            return Err(Error::Invalid {
                what: format!("a file of `{kind}` with {} bytes is too large to be read again", json.len()),
                hint: "name fewer paths, patterns and tags".to_owned(),
            });
        }
        let again = self.cipher.open_vec(sealed.clone()).and_then(|plain| unpacked::decode(plain, json_max));
        if again.map_err(bug)? != json {
            return Err(Error::Bug { what: format!("a new file of `{kind}` does not read back") });
        }
        let id = FileId::of(&sealed);
        self.store.write(kind, id, Payload::Bytes(&sealed))?;
        Ok(id)
    }

    pub(crate) fn list(&self, kind: FileKind) -> Result<Vec<FileId>> {
        let mut ids = Vec::new();
        self.store.list(kind, &mut |id, _| {
            ids.push(id);
            Ok(())
        })?;
        ids.sort_unstable();
        Ok(ids)
    }
}

impl<State> Repository<State> {
    /// The ids of all files of a kind, sorted.
    pub fn list(&self, kind: FileKind) -> Result<Vec<FileId>> {
        self.core.list(kind)
    }

    /// One snapshot.
    pub fn snapshot(&self, id: FileId) -> Result<Snapshot> {
        let json = self.core.load_file(FileKind::Snapshot, id)?;
        format::snapshot::decode(&json).map_err(|flaw| Error::damaged(FileKind::Snapshot, id, flaw.0))
    }

    /// All snapshots, oldest first. A damaged one is an error; see [`try_snapshots`](Self::try_snapshots).
    pub fn snapshots(&self) -> Result<Vec<(FileId, Snapshot)>> {
        let mut all = self
            .try_snapshots()?
            .into_iter()
            .map(|(id, read)| Ok((id, read?)))
            .collect::<Result<Vec<_>>>()?;
        all.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
        Ok(all)
    }

    /// All snapshots, by id, each readable or not: one damaged file must not hide the others.
    pub fn try_snapshots(&self) -> Result<Vec<(FileId, Result<Snapshot>)>> {
        let mut all = Vec::new();
        for id in self.core.list(FileKind::Snapshot)? {
            match self.snapshot(id) {
                // Forgotten between the listing and the reading.
                Err(Error::Missing { .. }) => {}
                read => all.push((id, read)),
            }
        }
        Ok(all)
    }

    /// The snapshot whose id begins with `prefix`, or the newest one for `latest`.
    pub fn find_snapshot(&self, prefix: &str) -> Result<(FileId, Snapshot)> {
        let invalid = |what: String| Error::Invalid {
            what,
            hint: "list them with `kuramori repo snapshots` and give more of the id, or `latest`".to_owned(),
        };
        if prefix == "latest" {
            return self
                .snapshots()?
                .pop()
                .ok_or_else(|| invalid("the repository has no snapshot".to_owned()));
        }
        let mut found: Vec<_> = self
            .list(FileKind::Snapshot)?
            .into_iter()
            .filter(|id| id.to_string().starts_with(prefix))
            .collect();
        match (found.pop(), found.is_empty()) {
            (Some(id), true) if !prefix.is_empty() => Ok((id, self.snapshot(id)?)),
            (Some(_), _) => Err(invalid(format!("`{prefix}` fits more than one snapshot"))),
            (None, _) => Err(invalid(format!("there is no snapshot `{prefix}`"))),
        }
    }

    /// Writes an index file over packs that the caller has verified. Does not take them into the index in
    /// memory.
    pub fn save_index(&self, packs: &[IndexedPack]) -> Result<FileId> {
        let json = format::index::encode(packs).map_err(|flaw| Error::Bug { what: flaw.0 })?;
        self.core.save_file(FileKind::Index, &json)
    }

    /// One index file's packs.
    pub fn index_file(&self, id: FileId) -> Result<Vec<IndexedPack>> {
        let json = self.core.load_file(FileKind::Index, id)?;
        format::index::decode(&json).map_err(|flaw| Error::damaged(FileKind::Index, id, flaw.0))
    }
}

impl Repository<Indexed> {
    /// Loads index files that appeared since the last time. Gives their number.
    pub fn refresh(&self) -> Result<usize> {
        let mut fresh = 0;
        for id in self.core.list(FileKind::Index)? {
            if self.read_index().files.contains(&id) {
                continue;
            }
            match self.index_file(id) {
                Ok(packs) => {
                    let mut loaded = self.write_index();
                    if loaded.files.insert(id) {
                        for pack in &packs {
                            loaded.index.insert(pack);
                        }
                        fresh += 1;
                    }
                }
                // Replaced by a prune between the listing and the reading; its successor is listed too.
                Err(Error::Missing { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(fresh)
    }

    pub(crate) fn read_index(&self) -> std::sync::RwLockReadGuard<'_, super::Loaded> {
        self.state.index.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn write_index(&self) -> std::sync::RwLockWriteGuard<'_, super::Loaded> {
        self.state.index.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes in a pack that is durable. Writes index files when one is full or `every` has passed.
    pub(crate) fn add_pack(&self, pack: &IndexedPack, every: Duration) -> Result<()> {
        let now = self.core.context.clock.boot();
        let mut loaded = self.write_index();
        loaded.index.insert(pack);
        if loaded.unwritten.is_empty() {
            loaded.waiting_since = now;
        }
        loaded.unwritten.push(pack.clone());
        let blobs: usize = loaded.unwritten.iter().map(|pack| pack.blobs.len()).sum();
        let due = now.saturating_sub(loaded.waiting_since) >= every;
        drop(loaded);
        if blobs >= index::FULL || due { self.flush_index() } else { Ok(()) }
    }

    /// Names every stored pack in index files. A snapshot may follow: all that any session of this process
    /// found in the index is then durable.
    pub(crate) fn flush_index(&self) -> Result<()> {
        let _writing = self.core.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut packs = std::mem::take(&mut self.write_index().unwritten);
        while !packs.is_empty() {
            let mut blobs = 0;
            let fit = packs
                .iter()
                .take_while(|pack| {
                    blobs += pack.blobs.len();
                    blobs <= index::FULL
                })
                .count()
                .max(1);
            let json = index::encode(&packs[..fit]).map_err(|flaw| Error::Bug { what: flaw.0 });
            match json.and_then(|json| self.core.save_file(FileKind::Index, &json)) {
                Ok(id) => {
                    packs.drain(..fit);
                    self.write_index().files.insert(id);
                }
                Err(error) => {
                    self.write_index().unwritten.append(&mut packs);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Compares the index with the packs that the store really has: a chunk in a pack that is gone or cut
    /// short is no chunk to rely on. Gives the packs that are missed.
    pub fn compare_packs(&self) -> Result<Vec<FileId>> {
        let mut stored = Vec::new();
        self.core.store.list(FileKind::Pack, &mut |id, size| {
            stored.push((id, size));
            Ok(())
        })?;
        let missed = self.write_index().index.compare(&mut stored.into_iter());
        for pack in &missed {
            tracing::error!(%pack, "the store misses a pack that an index file names");
        }
        Ok(missed)
    }

    /// Looks into the index in memory.
    pub fn with_index<T>(&self, look: impl FnOnce(&crate::index::Index) -> T) -> T {
        look(&self.read_index().index)
    }
}
