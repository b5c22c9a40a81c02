//! Proof: with the gate closed, everything that came is opened and compared.
//!
//! A file's hash in its name proves transport, not honesty: the primary holds the keys and may be owned. So
//! 1. every new pack is read whole: its bytes against its name, its header, every blob decrypted,
//!    decompressed within bounds and compared with its id ([`packs`]);
//! 2. our own index files are written from the headers of proven packs; the pulled ones are only compared;
//! 3. every new snapshot's tree is walked whole in proven packs ([`points`]). Only then is it complete, with
//!    the vault's own number and time.
//!
//! A pack with one wrong blob is quarantined as a whole: moved aside, named, remembered so that it is not
//! fetched again. No older restore point is hurt by that, because none rests on a pack that was not proven.
//!
//! **Order that survives a kill:** index file durable, then the register says `verified`; snapshot moved
//! among the complete ones, then the register says `complete`. What a kill leaves is proven once more.

mod packs;
mod points;

use std::sync::Arc;

use kuramori_model::{
    clock::Clock,
    finding::{Finding, Severity, Value},
};
use kuramori_repo::{
    Cancel, Context, Indexed, Repository, Secret,
    format::index::IndexedPack,
    store::{FileId, FileKind, Store},
};
use serde::Serialize;

use crate::{
    config::Config,
    error::{Error, Result},
    folder::Folder,
    pull::about,
    register::{FileState, Register},
};

/// Blobs of one index file; restic's own limit.
const INDEX_FULL: usize = kuramori_repo::format::index::FULL;

/// What the proof of one repository found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Proven {
    /// Its name.
    pub repository: String,
    /// Packs that were opened and found right.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their blobs.
    pub blobs: u64,
    /// Forged packs and snapshots.
    pub quarantined: Vec<String>,
    /// Files that our own disk damaged; they are fetched again.
    pub damaged: u64,
    /// Entries of pulled index files that are not so.
    pub false_entries: u64,
    /// Restore points that became complete.
    pub complete: u64,
    /// Restore points that are not complete.
    pub incomplete: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Its time was up before everything was proven; the next round goes on.
    pub unfinished: bool,
    /// When that is, in boot time.
    #[serde(skip)]
    pub(crate) until: std::time::Duration,
    /// What a person must hear.
    #[serde(skip)]
    pub findings: Vec<Finding>,
}

/// What the proof works with.
#[derive(Debug)]
pub struct Proof<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) register: &'a Register,
    pub(crate) config: &'a Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cancel: &'a Cancel,
}

impl Proof<'_> {
    /// Proves everything new in one repository.
    ///
    /// # Errors
    /// [`Error::NoKey`] if nothing can be opened; disk and register errors. What is wrong with the data is
    /// not an error but a finding.
    pub fn repository(&self, name: &str) -> Result<Proven> {
        let begin = self.clock.boot();
        let until = begin + std::time::Duration::from_secs(self.config.proof.seconds);
        let mut proven = Proven { repository: name.to_owned(), until, ..Proven::default() };
        let opened = open(self.folder, self.config, name)?;
        let mut indexed = opened.index().map_err(Error::repository(name))?;
        if self.heal_index(name, &indexed)? {
            indexed = open(self.folder, self.config, name)?.index().map_err(Error::repository(name))?;
        }
        self.packs(name, &indexed, &mut proven)?;
        indexed.refresh().map_err(Error::repository(name))?;
        self.compare(name, &indexed, &mut proven)?;
        self.points(name, &indexed, &mut proven)?;
        if proven.unfinished {
            proven.findings.push(about("vault.proof-unfinished", Severity::Warning, "next-window", name));
        }
        proven.seconds = self.clock.boot().saturating_sub(begin).as_secs_f64();
        Ok(proven)
    }

    /// Makes register and own index agree. True if the index files were written anew.
    fn heal_index(&self, name: &str, indexed: &Repository<Indexed>) -> Result<bool> {
        let files = self.register.files(name, FileKind::Pack)?;
        let verified = |id: &FileId| files.get(id).is_some_and(|file| file.state == FileState::Verified);
        let unindexed: Vec<FileId> = indexed.with_index(|index| {
            files
                .iter()
                .filter(|(id, file)| file.state == FileState::Verified && !index.has_pack(id))
                .map(|(id, _)| *id)
                .collect()
        });
        self.register.set_files(name, FileKind::Pack, &unindexed, FileState::Fetched, None)?;
        let foreign = indexed.with_index(|index| index.packs().iter().any(|id| !verified(id)));
        if foreign {
            // A kill between the index file and the register, or a pack that was lost or dropped.
            rewrite_index(self.folder, name, indexed, &verified)?;
        }
        Ok(foreign)
    }

    /// Compares pulled index files with what we know from the packs themselves.
    fn compare(&self, name: &str, indexed: &Repository<Indexed>, proven: &mut Proven) -> Result<()> {
        let fresh: Vec<FileId> = self
            .register
            .files(name, FileKind::Index)?
            .into_iter()
            .filter(|(_, file)| file.state == FileState::Fetched)
            .map(|(id, _)| id)
            .collect();
        let files = self.register.files(name, FileKind::Pack)?;
        for id in fresh {
            self.cancel.check().map_err(Error::repository(name))?;
            match indexed.index_file(id) {
                Ok(packs) => {
                    for pack in packs {
                        // Of packs that are not here nothing can be said.
                        if files.get(&pack.id).is_none_or(|file| file.state != FileState::Verified) {
                            continue;
                        }
                        let wrong = indexed.with_index(|index| {
                            let is_so = |blob: &kuramori_repo::format::blob::PackedBlob| {
                                let places = index.locations(blob.kind, &blob.id);
                                places.iter().any(|place| place.pack == pack.id && place.blob == *blob)
                            };
                            pack.blobs.iter().filter(|blob| !is_so(blob)).count()
                        });
                        proven.false_entries += wrong as u64;
                    }
                    self.register.set_files(name, FileKind::Index, &[id], FileState::Verified, None)?;
                }
                Err(error) => {
                    let text = kuramori_model::fault::chain(&error);
                    self.quarantine(name, FileKind::Index, id, &text, proven)?;
                }
            }
        }
        if proven.false_entries > 0 {
            let count = i64::try_from(proven.false_entries).unwrap_or(i64::MAX);
            proven.findings.push(
                about("vault.false-index", Severity::Alarm, "check-primary", name)
                    .with("entries", Value::Number(count)),
            );
        }
        Ok(())
    }

    /// Moves a forged file aside, or removes one that our own disk damaged so that it is fetched again.
    fn quarantine(
        &self,
        name: &str,
        kind: FileKind,
        id: FileId,
        why: &str,
        proven: &mut Proven,
    ) -> Result<()> {
        let path = self.folder.taken(name, kind, id);
        // What is not there cannot be forged: our own disk lost it.
        if !path.exists() || crate::folder::hash(&path)?.0.finish().as_ref() != id.0 {
            tracing::error!(repository = name, %kind, %id, "the vault's own disk damaged or lost a file; it is fetched again");
            self.folder.remove(name, kind, id)?;
            self.register.forget_files(name, kind, &[id])?;
            if kind == FileKind::Pack {
                crate::pull::doubt(self.register, name)?;
            }
            proven.damaged += 1;
            proven.findings.push(
                about("vault.disk-damage", Severity::Alarm, "check-disk", name)
                    .with("file", format!("{kind}/{id}")),
            );
            return Ok(());
        }
        tracing::error!(repository = name, %kind, %id, why, "a forged file is put aside");
        self.register.set_files(name, kind, &[id], FileState::Quarantined, Some(why))?;
        self.folder.quarantine(name, kind, id)?;
        proven.quarantined.push(format!("{kind}/{id}"));
        proven.findings.push(
            about("vault.forged", Severity::Alarm, "investigate-primary", name)
                .with("file", format!("{kind}/{id}"))
                .with("why", why),
        );
        Ok(())
    }
}

/// Opens a repository of the vault with the vault's own copy of its password.
///
/// # Errors
/// [`Error::NoKey`], [`Error::UnknownRepository`], [`Error::Repository`].
pub fn open(folder: &Folder, config: &Config, name: &str) -> Result<Repository> {
    if !folder.repository(name).join("config").is_file() {
        return Err(Error::UnknownRepository(name.to_owned()));
    }
    let password = crate::keys::password(config, name)?;
    let desk: Arc<dyn Store> = Arc::new(folder.desk(name));
    Repository::open(desk, &Secret::new(password.as_slice()), Context::system())
        .map_err(Error::repository(name))
}

/// Writes our own index files anew over the packs that `keep` names: the new ones first, then the old ones go.
pub(crate) fn rewrite_index(
    folder: &Folder,
    name: &str,
    indexed: &Repository<Indexed>,
    keep: &dyn Fn(&FileId) -> bool,
) -> Result<()> {
    use kuramori_repo::format::blob::BlobKind;
    let old = indexed.list(FileKind::Index).map_err(Error::repository(name))?;
    let mut packs: std::collections::BTreeMap<FileId, Vec<_>> = std::collections::BTreeMap::new();
    indexed.with_index(|index| {
        for place in
            index.entries(BlobKind::Data).chain(index.entries(BlobKind::Tree)).filter(|p| keep(&p.pack))
        {
            packs.entry(place.pack).or_default().push(place.blob);
        }
    });
    let mut written = std::collections::HashSet::new();
    let mut pending = Vec::new();
    let mut blobs = 0;
    let count = packs.len();
    for (number, (id, mut list)) in packs.into_iter().enumerate() {
        list.sort_unstable_by_key(|blob| blob.offset);
        blobs += list.len();
        pending.push(IndexedPack { id, blobs: list });
        if blobs >= INDEX_FULL || number + 1 == count {
            written.insert(indexed.save_index(&pending).map_err(Error::repository(name))?);
            pending.clear();
            blobs = 0;
        }
    }
    for id in old.into_iter().filter(|id| !written.contains(id)) {
        folder.desk(name).remove(FileKind::Index, id).map_err(Error::repository(name))?;
    }
    Ok(())
}
