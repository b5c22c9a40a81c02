//! Retention at the vault: which restore points go, and which packs nothing needs any more.
//!
//! Order and age are the vault's own; a sender's clock has no say. Nothing is repacked: a pack goes as a whole
//! when no restore point needs anything in it, or it stays. Its name is remembered, so that the primary cannot
//! make us fetch it again for nothing; if a later restore point does need it, it may come again.
//!
//! **Order that survives a kill:** snapshot file, register; then new index files, old index files, register,
//! packs. At every point each remaining restore point is whole.

use std::{collections::HashSet, sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use kuramori_judge::retention::{Circumstances, Held, Retention, plan};
use kuramori_model::{clock::Clock, ids::Sequence};
use kuramori_repo::{
    Cancel, Error as RepoError, Indexed, Repository,
    format::{
        blob::{BlobId, BlobKind},
        node::NodeKind,
    },
    store::{FileId, FileKind},
};
use serde::Serialize;

use crate::{
    config::Config,
    error::{Error, Result},
    folder::Folder,
    proof::{open, rewrite_index},
    register::{FileState, PointState, Register},
};

/// Generations under which a repository never goes, whatever the configuration says (the EHR's floor).
const FLOOR: u32 = 5;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Whose.
    pub repository: String,
    /// Restore points that went.
    pub removed: Vec<Sequence>,
    /// Restore points that stay.
    pub points: usize,
    /// Packs that went.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Applies the retention.
#[derive(Debug)]
pub struct Keep<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) register: &'a Register,
    pub(crate) config: &'a Config,
    /// What is kept: the configuration's figures, but never less than before without approval.
    pub(crate) retention: Retention,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cancel: &'a Cancel,
}

impl Keep<'_> {
    /// Applies it to one repository. With `dry` nothing is removed.
    ///
    /// # Errors
    /// Disk, register and repository errors; nothing is half removed.
    pub fn repository(&self, name: &str, dry: bool) -> Result<Kept> {
        let now = self.register.tick(&*self.clock)?;
        let points = self.register.points(Some(name))?;
        let complete: Vec<_> = points.iter().filter(|point| point.state == PointState::Complete).collect();
        let held: Vec<Held> = complete
            .iter()
            .zip(1..)
            .map(|(point, rank)| Held {
                // Its place in the vault's order, which is not always the number that it was given.
                sequence: Sequence(rank),
                received: point.received,
                age: Register::age(&now, point.received_s),
                complete: !point.partial,
                verdict: point.verdict,
            })
            .collect();
        let zone = TimeZone::system();
        let circumstances = Circumstances {
            floor: FLOOR,
            zone: &zone,
            removed_today: self.register.removals_today(name, &now)?,
            suspended: now.suspicious(),
        };
        let ranks = plan(&held, &self.retention, &circumstances).remove;
        let at = |rank: &Sequence| usize::try_from(rank.0 - 1).ok().and_then(|at| complete.get(at));
        let remove: Vec<Sequence> = ranks.iter().filter_map(at).map(|point| point.sequence).collect();
        let mut kept = Kept {
            repository: name.to_owned(),
            points: complete.len() - remove.len(),
            removed: remove.clone(),
            ..Kept::default()
        };
        if dry {
            return Ok(kept);
        }
        if self.register.is_suspect(name)? {
            // Nothing goes before a person has looked: what is removed now could be the last good version.
            return Ok(Kept { points: complete.len(), removed: Vec::new(), ..kept });
        }
        for point in complete.iter().filter(|point| remove.contains(&point.sequence)) {
            self.folder.remove(name, FileKind::Snapshot, point.snapshot)?;
            self.register.set_files(name, FileKind::Snapshot, &[point.snapshot], FileState::Dropped, None)?;
            self.register.removed(name, &[point.sequence], &now)?;
        }
        // A removal whose sweep was killed is swept now.
        if points.iter().any(|point| point.state == PointState::Removed) || !remove.is_empty() {
            self.sweep(name, &mut kept)?;
        }
        Ok(kept)
    }

    fn sweep(&self, name: &str, kept: &mut Kept) -> Result<()> {
        let now = self.register.tick(&*self.clock)?;
        let indexed = open(self.folder, self.config, name)?.index().map_err(Error::repository(name))?;
        let Some(live) = self.live(name, &indexed)? else { return Ok(()) };
        let young = Duration::from_secs(u64::from(self.retention.min_days) * 86_400);
        let files = self.register.files(name, FileKind::Pack)?;
        // A young pack may belong to a restore point that has not come yet.
        let dead: Vec<FileId> = files
            .iter()
            .filter(|(id, file)| {
                file.state == FileState::Verified
                    && !live.contains(*id)
                    && Register::age(&now, file.fetched_s) >= young
            })
            .map(|(id, _)| *id)
            .collect();
        if !dead.is_empty() {
            let gone: HashSet<&FileId> = dead.iter().collect();
            rewrite_index(self.folder, name, &indexed, &|id| !gone.contains(id))?;
            self.register.set_files(name, FileKind::Pack, &dead, FileState::Dropped, None)?;
            kept.packs = dead.len() as u64;
            kept.bytes = dead.iter().filter_map(|id| files.get(id)).map(|file| file.size).sum();
        }
        let dropped = |id: &FileId| {
            dead.contains(id) || files.get(id).is_some_and(|file| file.state == FileState::Dropped)
        };
        for (id, _) in self.folder.list(name, FileKind::Pack)? {
            if dropped(&id) {
                self.folder.remove(name, FileKind::Pack, id)?;
            }
        }
        Ok(())
    }

    /// Packs that any restore point needs, also one that is not complete yet. None if that cannot be said for
    /// certain: then nothing is swept.
    fn live(&self, name: &str, indexed: &Repository<Indexed>) -> Result<Option<HashSet<FileId>>> {
        let mut packs = HashSet::new();
        let mut seen: HashSet<BlobId> = HashSet::new();
        let mut open = Vec::new();
        for (id, _) in self.folder.list(name, FileKind::Snapshot)? {
            match indexed.snapshot(id) {
                Ok(snapshot) => open.push(snapshot.tree),
                Err(error) => {
                    tracing::error!(repository = name, %id, "{error}; nothing is swept");
                    return Ok(None);
                }
            }
        }
        let mark = |kind, id: &BlobId, packs: &mut HashSet<FileId>| {
            indexed.with_index(|index| {
                packs.extend(index.locations(kind, id).into_iter().map(|place| place.pack));
            });
        };
        while let Some(tree) = open.pop() {
            self.cancel.check().map_err(Error::repository(name))?;
            if !seen.insert(tree) {
                continue;
            }
            mark(BlobKind::Tree, &tree, &mut packs);
            let nodes = match indexed.load_tree(&tree) {
                Ok(tree) => tree.nodes,
                // Of a point that is not complete: what is missing cannot be swept either.
                Err(RepoError::Missing { .. }) => continue,
                Err(error) => {
                    tracing::error!(repository = name, %tree, "{error}; nothing is swept");
                    return Ok(None);
                }
            };
            for node in nodes {
                for id in node.content.iter().flatten() {
                    mark(BlobKind::Data, id, &mut packs);
                }
                if let (NodeKind::Dir, Some(subtree)) = (node.kind, node.subtree) {
                    open.push(subtree);
                }
            }
        }
        Ok(Some(packs))
    }
}
