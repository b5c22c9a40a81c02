//! Walking new snapshots whole.

use std::collections::HashSet;

use kuramori_model::finding::Severity;
use kuramori_repo::{
    Error as RepoError, Indexed, Repository,
    format::{
        blob::{BlobId, BlobKind},
        node::NodeKind,
    },
    store::FileKind,
};

use super::{Proof, Proven};
use crate::{
    error::{Error, Result},
    pull::about,
    register::{FileState, PointState},
};

/// A walk ends after so many things that are not there; they are looked for in dropped packs.
const MISSING: usize = 10_000;

/// What a walk found missing.
#[derive(Debug, Default)]
struct Walk {
    visited: HashSet<BlobId>,
    missing: HashSet<BlobId>,
    why: Option<String>,
}

impl Proof<'_> {
    /// Examines every snapshot that is not complete yet.
    pub(super) fn points(
        &self,
        name: &str,
        indexed: &Repository<Indexed>,
        proven: &mut Proven,
    ) -> Result<()> {
        // Only time and name stay in memory: there may be very many.
        let mut fresh = Vec::new();
        for (id, file) in self.register.files(name, FileKind::Snapshot)? {
            if file.state != FileState::Fetched {
                continue;
            }
            match indexed.snapshot(id) {
                Ok(snapshot) => fresh.push((snapshot.time, id)),
                Err(error @ (RepoError::Damaged { .. } | RepoError::Missing { .. })) => {
                    let text = kuramori_model::fault::chain(&error);
                    self.quarantine(name, FileKind::Snapshot, id, &text, proven)?;
                }
                Err(other) => return Err(Error::repository(name)(other)),
            }
        }
        // Among those that came together the writer's time gives the order; it moves none past an earlier one.
        fresh.sort_unstable();
        let mut good = HashSet::new();
        let mut missing = HashSet::new();
        for (_, id) in fresh {
            self.cancel.check().map_err(Error::repository(name))?;
            if self.clock.boot() > proven.until {
                proven.unfinished = true;
                break;
            }
            let snapshot = indexed.snapshot(id).map_err(Error::repository(name))?;
            let walk = walk(name, indexed, snapshot.tree, &good)?;
            let now = self.register.tick(&*self.clock)?;
            if let Some(why) = walk.why {
                proven.incomplete += 1;
                // Of one that was complete before and lost something, nothing may be restored from here.
                self.folder.disbelieve(name, id)?;
                self.register.point(name, id, &snapshot, PointState::Incomplete, Some(&why), &now)?;
                proven.findings.push(
                    about("vault.point-incomplete", Severity::Warning, "next-window", name)
                        .with("snapshot", id.to_string())
                        .with("why", why),
                );
                missing.extend(walk.missing);
            } else {
                good.extend(walk.visited);
                self.folder.believe(name, id)?;
                self.register.point(name, id, &snapshot, PointState::Complete, None, &now)?;
                self.register.set_files(name, FileKind::Snapshot, &[id], FileState::Verified, None)?;
                proven.complete += 1;
            }
        }
        self.revive(name, indexed, &missing)
    }

    /// A blob that is needed and lies in a pack that our own retention dropped: the pack may come again.
    fn revive(&self, name: &str, indexed: &Repository<Indexed>, missing: &HashSet<BlobId>) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        let packs = self.register.files(name, FileKind::Pack)?;
        let mut wanted = Vec::new();
        for (id, _) in self.folder.list(name, FileKind::Index)? {
            let Ok(listed) = indexed.index_file(id) else { continue };
            for pack in listed {
                let dropped = packs.get(&pack.id).is_some_and(|file| file.state == FileState::Dropped);
                if dropped && pack.blobs.iter().any(|blob| missing.contains(&blob.id)) {
                    wanted.push(pack.id);
                }
            }
        }
        if !wanted.is_empty() {
            tracing::info!(
                repository = name,
                packs = wanted.len(),
                "packs that were dropped are needed again"
            );
            self.register.forget_files(name, FileKind::Pack, &wanted)?;
        }
        Ok(())
    }
}

/// Walks a tree; what lies below `good` was walked before without a flaw.
fn walk(name: &str, indexed: &Repository<Indexed>, root: BlobId, good: &HashSet<BlobId>) -> Result<Walk> {
    let mut walk = Walk::default();
    let mut open = vec![root];
    while let Some(tree) = open.pop() {
        if good.contains(&tree) || !walk.visited.insert(tree) {
            continue;
        }
        if walk.missing.len() >= MISSING {
            break;
        }
        let nodes = match indexed.load_tree(&tree) {
            Ok(tree) => tree.nodes,
            Err(RepoError::Missing { .. }) => {
                walk.missing.insert(tree);
                walk.why.get_or_insert_with(|| format!("folder {tree} is not here"));
                continue;
            }
            Err(RepoError::Damaged { why, .. }) => {
                walk.why.get_or_insert_with(|| format!("folder {tree} is damaged: {why}"));
                continue;
            }
            Err(other) => return Err(Error::repository(name)(other)),
        };
        for node in nodes {
            let shown = || String::from_utf8_lossy(&node.name).into_owned();
            match (node.kind, &node.content, node.subtree) {
                (NodeKind::Dir, _, Some(subtree)) => open.push(subtree),
                (NodeKind::Dir, _, None) => {
                    walk.why.get_or_insert_with(|| format!("the folder `{}` has no tree", shown()));
                }
                (NodeKind::File, None, _) => {
                    walk.why.get_or_insert_with(|| format!("the file `{}` has no content", shown()));
                }
                (NodeKind::File, Some(content), _) => {
                    let mut length = 0;
                    for id in content {
                        match indexed.with_index(|index| index.plain_len(BlobKind::Data, id)) {
                            Some(plain) => length += u64::from(plain),
                            None => {
                                walk.missing.insert(*id);
                                walk.why.get_or_insert_with(|| {
                                    format!("a piece of the file `{}` is not here", shown())
                                });
                            }
                        }
                    }
                    if walk.why.is_none() && length != node.size {
                        let why =
                            format!("the file `{}` has {length} bytes instead of {}", shown(), node.size);
                        walk.why = Some(why);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(walk)
}
