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
//! cannot be read whole, nothing is pruned: what it needs is not known.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use crate::{
    Cancel, Error, Result,
    backup::{Options, Repacker},
    format::blob::BlobKind,
    index::Location,
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

impl Repository<Opened> {
    /// Takes the exclusive lock and decides what can go.
    ///
    /// # Errors
    /// [`Error::Locked`] while somebody works here; the first flaw if a restore point is not whole.
    pub fn plan_prune(&self, options: &PruneOptions, cancel: &Cancel) -> Result<Pruning> {
        let lock = self.lock(LockMode::Exclusive, options.patience)?;
        let roots: Vec<_> = self.snapshots()?.into_iter().map(|(_, snapshot)| snapshot.tree).collect();
        let repository = self.clone().index()?;
        let live = repository.live(roots, cancel)?;
        if let Some(flaw) = live.flaws.into_iter().next() {
            return Err(flaw);
        }
        // Of a blob in several packs, the first place counts as needed and the others as free.
        let mut needed = Vec::new();
        let mut usage: HashMap<FileId, Usage> = HashMap::new();
        repository.with_index(|index| {
            for (kind, bits) in [(BlobKind::Data, &live.data), (BlobKind::Tree, &live.trees)] {
                for (position, location) in index.entries(kind).enumerate() {
                    let pack = usage.entry(location.pack).or_default();
                    pack.total += u64::from(location.blob.length);
                    let first = bits.contains(position)
                        && index.positions(kind, &location.blob.id).iter().min() == Some(&position);
                    if first {
                        pack.used += u64::from(location.blob.length);
                        needed.push(location);
                    }
                }
            }
        });
        let (plan, going) = repository.choose(&usage, options)?;
        needed.retain(|location| going.contains(&location.pack));
        needed.sort_unstable_by_key(|location| (location.pack, location.blob.offset));
        Ok(Pruning { repository, lock, plan, going, moving: needed })
    }
}

impl Repository<Indexed> {
    fn choose(
        &self,
        usage: &HashMap<FileId, Usage>,
        options: &PruneOptions,
    ) -> Result<(PrunePlan, HashSet<FileId>)> {
        let mut plan = PrunePlan::default();
        let mut going = HashSet::new();
        let mut there = HashSet::new();
        self.store().list(FileKind::Pack, &mut |id, size| {
            there.insert(id);
            if usage.get(&id).is_none_or(|pack| pack.used == 0) {
                going.insert(id);
                plan.remove_packs += 1;
                plan.remove_bytes += size;
            }
            Ok(())
        })?;
        let mut partly = Vec::new();
        let (mut kept_total, mut unused) = (0, 0);
        for (id, pack) in usage {
            if going.contains(id) {
                continue;
            }
            if !there.contains(id) {
                if pack.used > 0 {
                    return Err(Error::missing(FileKind::Pack, *id));
                }
                // Named by an index file, gone, and not needed: only the name goes.
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
            unused -= pack.total - pack.used;
            kept_total -= pack.total - pack.used;
            plan.repack_packs += 1;
            plan.repack_bytes += pack.used;
            plan.repack_freed_bytes += pack.total - pack.used;
            plan.keep_packs -= 1;
            going.insert(id);
        }
        plan.unused_kept_bytes = unused;
        Ok((plan, going))
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
        self.replace_index()?;
        for id in &self.going {
            cancel.check()?;
            self.lock.check()?;
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
