//! Checking a repository: is everything there that the restore points need, and is it what it was?
//!
//! Without reading data: every index file opens, every pack that it names is there with the right size,
//! every snapshot opens, every folder of every snapshot opens and every piece of every file is known. With
//! data: every pack is read whole, its bytes against its name, its header against the index, every blob
//! against its id. Damage is collected and named; nothing is changed.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use kuramori_model::fault::{Fault, chain};

use crate::{
    Cancel, Error, Result,
    format::{blob::PackedBlob, crypto, pack},
    progress::Progress,
    repository::{Indexed, Loaded, Opened, Repository},
    store::{FileId, FileKind},
};

/// What the index files say of each pack, by offset.
type PackBlobs = HashMap<FileId, Vec<PackedBlob>>;

/// How thorough a check is.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// Read every pack whole.
    pub read_data: bool,
    /// Threads that read packs.
    pub workers: usize,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The error's stable code.
    pub code: &'static str,
    /// What is wrong, naming the file.
    pub what: String,
}

/// What a check found.
#[derive(Debug, Default, serde::Serialize)]
pub struct Checked {
    /// Snapshots that open.
    pub snapshots: u64,
    /// Packs that the index names.
    pub packs: u64,
    /// Blobs that the index names.
    pub blobs: u64,
    /// Bytes of packs that were read and found right.
    pub bytes_read: u64,
    /// Packs that no index file names: left by an interrupted backup, harmless.
    pub unknown_packs: u64,
    /// What is wrong. Empty means that everything can be restored.
    pub damages: Vec<Damage>,
}

impl Checked {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.damages.is_empty()
    }

    fn note_all(&mut self, errors: &[Error]) {
        for error in errors {
            self.note(error);
        }
    }

    fn note(&mut self, error: &Error) {
        self.damages.push(Damage { code: error.code(), what: chain(error) });
    }
}

/// Damage is collected; everything else (a login, a cancelled check) ends the check.
fn sort_out<T>(checked: &mut Checked, result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(
            error
            @ (Error::Damaged { .. } | Error::Missing { .. } | Error::Io { .. } | Error::Version { .. }),
        ) => {
            checked.note(&error);
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

impl Repository<Opened> {
    /// Checks the repository. Takes no lock: beside a running backup, a pack that is not indexed yet counts
    /// as unknown, which is no damage.
    pub fn check(&self, options: CheckOptions, progress: &Progress, cancel: &Cancel) -> Result<Checked> {
        let mut checked = Checked::default();
        self.check_keys(&mut checked)?;
        let mut roots = Vec::new();
        for (_, snapshot) in self.try_snapshots()? {
            if let Some(snapshot) = sort_out(&mut checked, snapshot)? {
                checked.snapshots += 1;
                roots.push(snapshot.tree);
            }
        }
        let (repository, packs) = self.load_what_opens(&mut checked)?;
        self.check_presence(&packs, &mut checked)?;
        let live = repository.live(roots, cancel)?;
        checked.note_all(&live.flaws);
        if options.read_data {
            repository.read_packs(&packs, options.workers, progress, cancel, &mut checked)?;
        }
        checked.damages.sort_by(|a, b| a.what.cmp(&b.what));
        checked.damages.dedup();
        Ok(checked)
    }

    fn check_keys(&self, checked: &mut Checked) -> Result<()> {
        for id in self.list(FileKind::Key)? {
            let read = self.store().read(FileKind::Key, id, 1 << 20).and_then(|bytes| {
                if FileId::of(&bytes) == id {
                    Ok(())
                } else {
                    Err(Error::damaged(FileKind::Key, id, "its bytes do not have the hash in its name"))
                }
            });
            sort_out(checked, read)?;
        }
        Ok(())
    }

    /// The index of all index files that open, and each pack's blobs as they say.
    fn load_what_opens(&self, checked: &mut Checked) -> Result<(Repository<Indexed>, PackBlobs)> {
        let mut loaded = Loaded::default();
        let mut packs = PackBlobs::new();
        for id in self.list(FileKind::Index)? {
            let Some(file) = sort_out(checked, self.index_file(id))? else { continue };
            for pack in file {
                loaded.index.insert(&pack);
                let blobs = packs.entry(pack.id).or_default();
                blobs.extend(pack.blobs);
            }
            loaded.files.insert(id);
        }
        for blobs in packs.values_mut() {
            blobs.sort_unstable_by_key(|blob| (blob.offset, blob.id));
            blobs.dedup();
            checked.blobs += blobs.len() as u64;
        }
        checked.packs = packs.len() as u64;
        let state = Indexed { index: std::sync::Arc::new(std::sync::RwLock::new(loaded)) };
        Ok((Repository { core: self.core.clone(), state }, packs))
    }

    /// Every pack of the index is there and as long as its blobs and its header need.
    fn check_presence(&self, packs: &PackBlobs, checked: &mut Checked) -> Result<()> {
        let mut there = HashMap::new();
        self.store().list(FileKind::Pack, &mut |id, size| {
            there.insert(id, size);
            Ok(())
        })?;
        checked.unknown_packs = there.keys().filter(|id| !packs.contains_key(id)).count() as u64;
        for (id, blobs) in packs {
            let Some(size) = there.get(id) else {
                checked.note(&Error::missing(FileKind::Pack, *id));
                continue;
            };
            let wanted = expected_size(blobs);
            if wanted != *size {
                let why = format!("it has {size} bytes, the index speaks of {wanted}");
                checked.note(&Error::damaged(FileKind::Pack, *id, why));
            }
        }
        Ok(())
    }
}

/// Size of a pack that holds exactly these blobs.
fn expected_size(blobs: &[PackedBlob]) -> u64 {
    let entries: u64 = blobs.iter().map(|blob| if blob.plain_length.is_some() { 41 } else { 37 }).sum();
    let body: u64 = blobs.iter().map(|blob| u64::from(blob.length)).sum();
    body + entries + crypto::OVERHEAD as u64 + 4
}

impl Repository<Indexed> {
    fn read_packs(
        &self,
        packs: &PackBlobs,
        workers: usize,
        progress: &Progress,
        cancel: &Cancel,
        checked: &mut Checked,
    ) -> Result<()> {
        let mut work: Vec<_> = packs.iter().collect();
        work.sort_unstable_by_key(|(id, _)| **id);
        for (_, blobs) in &work {
            progress.plan(1, expected_size(blobs));
        }
        let next = AtomicUsize::new(0);
        let found = Mutex::new((0_u64, Vec::new(), None::<Error>));
        std::thread::scope(|scope| {
            for _ in 0..workers.clamp(1, 64) {
                scope.spawn(|| {
                    while let Some((id, blobs)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let read = cancel.check().and_then(|()| self.verify_pack(**id, Some(blobs)));
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        match read {
                            Ok(verified) => {
                                progress.done(1, verified.bytes);
                                found.0 += verified.bytes;
                                found.1.extend(verified.flaws);
                            }
                            Err(
                                error @ (Error::Damaged { .. } | Error::Missing { .. } | Error::Io { .. }),
                            ) => {
                                found.1.push(error);
                            }
                            Err(other) => {
                                next.store(work.len(), Ordering::Relaxed);
                                found.2.get_or_insert(other);
                            }
                        }
                    }
                });
            }
        });
        let (bytes, flaws, fatal) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        checked.bytes_read = bytes;
        checked.note_all(&flaws);
        fatal.map_or(Ok(()), Err)
    }
}

/// A pack that was read whole.
#[derive(Debug)]
pub struct VerifiedPack {
    /// Its size in bytes.
    pub bytes: u64,
    /// What its own header says, blob by blob; only those that were found right.
    pub blobs: Vec<PackedBlob>,
    /// What is wrong with it; the bytes of such a blob are not its id's.
    pub flaws: Vec<Error>,
}

impl<State> Repository<State> {
    /// Reads a pack once from start to end: its name against its bytes, each blob of its own header against
    /// its id and, where given, against what the index says. Holds one blob at a time.
    ///
    /// # Errors
    /// A pack whose bytes do not have the hash in its name, or whose header does not open: nothing in it
    /// can be trusted.
    pub fn verify_pack(&self, id: FileId, indexed: Option<&[PackedBlob]>) -> Result<VerifiedPack> {
        let size = self.store().size(FileKind::Pack, id)?;
        let header = self.pack_header(id)?;
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let mut verified =
            VerifiedPack { bytes: size, blobs: Vec::with_capacity(header.len()), flaws: Vec::new() };
        let mut body = 0_u64;
        for blob in &header {
            let sealed = self.store().read_range(FileKind::Pack, id, u64::from(blob.offset), blob.length)?;
            hash.update(&sealed);
            body += u64::from(blob.length);
            match self.open_blob(blob, sealed) {
                Ok(_) => verified.blobs.push(*blob),
                Err(flaw) => {
                    let why = format!("{} blob {}: {flaw}", blob.kind, blob.id);
                    verified.flaws.push(Error::damaged(FileKind::Pack, id, why));
                }
            }
        }
        let tail = u32::try_from(size.saturating_sub(body))
            .ok()
            .filter(|tail| *tail <= pack::HEADER_MAX + 64)
            .ok_or_else(|| Error::damaged(FileKind::Pack, id, "its header does not cover it"))?;
        hash.update(&self.store().read_range(FileKind::Pack, id, body, tail)?);
        if hash.finish().as_ref() != id.0 {
            return Err(Error::damaged(FileKind::Pack, id, "its bytes do not have the hash in its name"));
        }
        if let Some(indexed) = indexed {
            let mut own = header;
            own.sort_unstable_by_key(|blob| (blob.offset, blob.id));
            if own != indexed {
                verified.flaws.push(Error::damaged(
                    FileKind::Pack,
                    id,
                    "the index says otherwise than its header",
                ));
            }
        }
        Ok(verified)
    }
}
