//! Removing data that no restore point needs, under restic's exclusive lock.
//!
//! [`Repository::plan_prune`] walks every restore point and decides; a person looks at the
//! [`PrunePlan`]; [`Pruning::execute`] does it. The lock is held from the first look to the last removal, so
//! no writer can come to rely on what goes. The order makes every crash harmless:
//!
//! 1. needed blobs of half-empty packs are stored in new packs, and those named in new index files;
//! 2. index files that name packs on their way out are replaced: the new one first, then the old one goes;
//! 3. only then the packs go.
//!
//! A crash leaves blobs twice or packs that nobody names; the next prune finds both. If any restore point
//! cannot be read whole, nothing is pruned: what it needs is not known. And where a needed blob lies in
//! several packs, the copy that stays was opened and hashed before another one may go: the first may be the
//! one that a failing disk has damaged.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::{
    Cancel, Error, Result,
    backup::{Options, Repacker},
    format::blob::{BlobId, BlobKind},
    index::Location,
    live::Live,
    lock::{LockGuard, LockMode},
    progress::Progress,
    repository::{Indexed, Opened, Repository},
    store::{FileId, FileKind},
};

/// How thorough a prune is.
#[derive(Debug, Clone, Copy)]
pub struct PruneOptions {
    /// Share of unneeded bytes, in percent of all that stays, that may remain in packs that are kept.
    pub max_unused_percent: u8,
    /// At most this many bytes of needed blobs move into new packs; the rest waits for the next prune.
    /// `u64::MAX` for no bound.
    pub max_repack_bytes: u64,
    /// How long to wait for other holders of the lock.
    pub patience: Duration,
}

/// What a prune would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PrunePlan {
    /// Packs without a needed blob, and packs that no index file names.
    pub remove_packs: u64,
    /// Their bytes.
    pub remove_bytes: u64,
    /// Packs whose needed blobs move into new packs.
    pub repack_packs: u64,
    /// Bytes of needed blobs that move.
    pub repack_bytes: u64,
    /// Bytes that become free by that.
    pub repack_freed_bytes: u64,
    /// Unneeded bytes that stay in packs that are kept.
    pub unused_kept_bytes: u64,
    /// Packs that stay.
    pub keep_packs: u64,
}

impl PrunePlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove_packs + self.repack_packs == 0
    }
}

/// A plan and the lock under which it holds.
#[derive(Debug)]
pub struct Pruning {
    repository: Repository<Indexed>,
    lock: LockGuard,
    plan: PrunePlan,
    /// Packs that go, with and without repacking.
    going: HashSet<FileId>,
    /// Needed blobs to store anew.
    moving: Vec<Location>,
}

/// What is known of a pack.
#[derive(Debug, Default, Clone, Copy)]
struct Usage {
    used: u64,
    total: u64,
}

/// Whether the store has the pack, long enough to hold the blob.
fn fits(location: &Location, there: &HashMap<FileId, u64>) -> bool {
    let end = u64::from(location.blob.offset) + u64::from(location.blob.length);
    there.get(&location.pack).is_some_and(|size| *size > end)
}

impl Repository<Opened> {
    /// Takes the exclusive lock and decides what can go.
    ///
    /// # Errors
    /// [`Error::Locked`] while somebody works here; the first flaw if a restore point is not whole.
    pub fn plan_prune(&self, options: &PruneOptions, cancel: &Cancel) -> Result<Pruning> {
        let lock = self.lock(LockMode::Exclusive, options.patience)?;
        let roots: Vec<_> = self.snapshots()?.into_iter().map(|(_, snapshot)| snapshot.tree).collect();
        let repository = self.clone().index()?;
        let mut live = repository.live(roots, cancel)?;
        if let Some(flaw) = live.flaws.drain(..).next() {
            return Err(flaw);
        }
        let mut there = HashMap::new();
        repository.store().list(FileKind::Pack, &mut |id, size| {
            there.insert(id, size);
            Ok(())
        })?;
        let (mut needed, twice, mut usage) = repository.usage(&live, &there);
        for (kind, id) in twice {
            cancel.check()?;
            let location = repository.best_copy(kind, &id, &there)?;
            usage.entry(location.pack).or_default().used += u64::from(location.blob.length);
            needed.push(location);
        }
        let (plan, going) = Repository::choose(&usage, &there, options);
        needed.retain(|location| going.contains(&location.pack));
        needed.sort_unstable_by_key(|location| (location.pack, location.blob.offset));
        Ok(Pruning { repository, lock, plan, going, moving: needed })
    }
}

/// Needed blobs with one place, needed blobs with several, and what each pack holds of the former.
type Sorted = (Vec<Location>, Vec<(BlobKind, BlobId)>, HashMap<FileId, Usage>);

impl Repository<Indexed> {
    fn usage(&self, live: &Live, there: &HashMap<FileId, u64>) -> Sorted {
        let (mut needed, mut twice, mut usage) = (Vec::new(), Vec::new(), HashMap::<_, Usage>::new());
        self.with_index(|index| {
            for (kind, bits) in [(BlobKind::Data, &live.data), (BlobKind::Tree, &live.trees)] {
                for (position, location) in index.entries(kind).enumerate() {
                    let pack = usage.entry(location.pack).or_default();
                    pack.total += u64::from(location.blob.length);
                    if !bits.contains(position) {
                        continue;
                    }
                    let places = index.positions(kind, &location.blob.id);
                    if places.len() == 1 && fits(&location, there) {
                        pack.used += u64::from(location.blob.length);
                        needed.push(location);
                    } else if places.iter().min() == Some(&position) {
                        twice.push((kind, location.blob.id));
                    }
                }
            }
        });
        (needed, twice, usage)
    }

    /// The first copy of a blob that opens and has the hash that is its id.
    fn best_copy(&self, kind: BlobKind, id: &BlobId, there: &HashMap<FileId, u64>) -> Result<Location> {
        let mut first = None;
        for location in self.with_index(|index| index.locations(kind, id)) {
            if !fits(&location, there) {
                first.get_or_insert_with(|| Error::missing(FileKind::Pack, location.pack));
                continue;
            }
            match self.load_blob_at(&location) {
                Ok(_) => return Ok(location),
                Err(error @ (Error::Damaged { .. } | Error::Missing { .. } | Error::Io { .. })) => {
                    first.get_or_insert(error);
                }
                Err(other) => return Err(other),
            }
        }
        Err(first.unwrap_or_else(|| Error::Missing { file: format!("{kind} blob {id}") }))
    }

    fn choose(
        usage: &HashMap<FileId, Usage>,
        there: &HashMap<FileId, u64>,
        options: &PruneOptions,
    ) -> (PrunePlan, HashSet<FileId>) {
        let mut plan = PrunePlan::default();
        let mut going = HashSet::new();
        for (id, size) in there {
            if usage.get(id).is_none_or(|pack| pack.used == 0) {
                going.insert(*id);
                plan.remove_packs += 1;
                plan.remove_bytes += size;
            }
        }
        let mut partly = Vec::new();
        let (mut kept_total, mut unused) = (0, 0);
        for (id, pack) in usage {
            if going.contains(id) {
                continue;
            }
            if !there.contains_key(id) {
                // Named by an index file, gone, and not needed (or held elsewhere): only the name goes.
                going.insert(*id);
                continue;
            }
            kept_total += pack.total;
            unused += pack.total - pack.used;
            plan.keep_packs += 1;
            if pack.used < pack.total {
                partly.push((*id, *pack));
            }
        }
        // The emptiest first: most room for the least work.
        partly.sort_unstable_by_key(|(id, pack)| (pack.used * 1000 / pack.total.max(1), *id));
        for (id, pack) in partly {
            if unused * 100 <= kept_total * u64::from(options.max_unused_percent) {
                break;
            }
            if plan.repack_bytes + pack.used > options.max_repack_bytes {
                continue;
            }
            unused -= pack.total - pack.used;
            kept_total -= pack.total - pack.used;
            plan.repack_packs += 1;
            plan.repack_bytes += pack.used;
            plan.repack_freed_bytes += pack.total - pack.used;
            plan.keep_packs -= 1;
            going.insert(id);
        }
        plan.unused_kept_bytes = unused;
        (plan, going)
    }
}

impl Pruning {
    /// What would be done.
    pub fn plan(&self) -> &PrunePlan {
        &self.plan
    }

    /// Does it. Interrupted anywhere, it can be begun again.
    pub fn execute(self, progress: &Progress, cancel: &Cancel) -> Result<PrunePlan> {
        progress.plan(self.plan.remove_packs + self.plan.repack_packs, self.plan.repack_bytes);
        self.repack(progress, cancel)?;
        self.lock.confirm()?;
        self.replace_index()?;
        for (number, id) in self.going.iter().enumerate() {
            cancel.check()?;
            // The store is asked from time to time, not for each pack: it would double the requests.
            if number % 64 == 0 { self.lock.confirm() } else { self.lock.check() }?;
            self.repository.store().remove(FileKind::Pack, *id)?;
            progress.done(1, 0);
        }
        Ok(self.plan)
    }

    fn repack(&self, progress: &Progress, cancel: &Cancel) -> Result<()> {
        if self.moving.is_empty() {
            return Ok(());
        }
        let repacker =
            Repacker::new(&self.repository, Options { cancel: cancel.clone(), ..Options::default() })?;
        for location in &self.moving {
            self.lock.check()?;
            // Rule E1: a blob that is not what its id says is never carried on.
            let plain = match self.repository.load_blob_at(location) {
                Err(Error::Damaged { .. }) => {
                    self.repository.load_blob(location.blob.kind, &location.blob.id)?
                }
                other => other?,
            };
            repacker.store(location.blob.kind, &plain)?;
            progress.done(0, u64::from(location.blob.length));
        }
        repacker.finish()
    }

    fn replace_index(&self) -> Result<()> {
        // The index files as the plan saw them; those that the repacking wrote name nothing that goes.
        for id in self.repository.list(FileKind::Index)? {
            let packs = self.repository.index_file(id)?;
            let kept: Vec<_> = packs.iter().filter(|pack| !self.going.contains(&pack.id)).cloned().collect();
            if kept.len() == packs.len() {
                continue;
            }
            self.lock.check()?;
            if !kept.is_empty() {
                self.repository.save_index(&kept)?;
            }
            self.repository.store().remove(FileKind::Index, id)?;
        }
        Ok(())
    }
}
