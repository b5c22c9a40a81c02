//! Between proof and retention: inspection, then the lock.

use std::collections::{BTreeSet, HashSet};

use kuramori_judge::retention::Verdict;
use kuramori_model::{
    fault::chain,
    finding::{Finding, Severity},
    ids::Sequence,
    lock::{Kind, Mark, Name},
};
use kuramori_repo::{
    Cancel, Indexed, Repository,
    format::{
        blob::{BlobId, BlobKind},
        node::NodeKind,
    },
    store::{FileId, FileKind},
};

use crate::{
    error::{Error, Result},
    inspect::Inspector,
    locks::{Locks, name as lock_name},
    proof::open,
    pull::about,
    register::PointState,
    vault::{Vault, Work},
};

impl Vault {
    /// Inspects and locks what is new. Only the register and the log can fail this; everything else is an
    /// alarm.
    pub(crate) fn examine(
        &self,
        name: &str,
        cancel: &Cancel,
        work: &mut Work,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let inspector = Inspector {
            folder: &self.folder,
            register: &self.register,
            config: &self.config,
            clock: self.clock.clone(),
            cancel,
        };
        match inspector.repository(name) {
            Ok(mut judged) => {
                findings.append(&mut judged.findings);
                // At once: what follows must already find the alarm.
                let now = self.register.tick(&*self.clock)?;
                self.settle(&[], findings, &now)?;
                if let Some(locks) = self.folder.locks() {
                    self.mark_condemned(name, locks, &judged.condemned, findings)?;
                }
                if !judged.points.is_empty() {
                    self.note("vault.inspected", &judged)?;
                    work.judged.push(judged);
                }
            }
            Err(error @ (Error::Register(_) | Error::Log(_))) => return Err(error),
            Err(error) => findings.push(failed("vault.inspection-failed", name, &error)),
        }
        let Some(locks) = self.folder.locks() else { return Ok(()) };
        match self.lock_points(name, locks, cancel) {
            Err(error @ (Error::Register(_) | Error::Log(_))) => Err(error),
            Err(error) => {
                findings.push(failed("vault.lock-failed", name, &error));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Tells the lock which of the points that it knows as clean are suspect by now.
    fn mark_condemned(
        &self,
        name: &str,
        locks: &Locks,
        condemned: &[Sequence],
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        if condemned.is_empty() {
            return Ok(());
        }
        for point in self.register.points(Some(name))? {
            if condemned.contains(&point.sequence)
                && let Err(error) = locks.mark(name, point.snapshot, Mark::Suspect)
            {
                findings.push(failed("vault.lock-failed", name, &error));
            }
        }
        Ok(())
    }

    /// Locks what each new point needs, then the point itself, and tells the lock its verdict.
    fn lock_points(&self, name: &str, locks: &Locks, cancel: &Cancel) -> Result<()> {
        let done = self.register.locked_up_to(name)?;
        let points = self.register.points(Some(name))?;
        let fresh: Vec<_> = points
            .iter()
            .filter(|point| point.state == PointState::Complete && point.sequence > done)
            .collect();
        let Some(last) = fresh.iter().map(|point| point.sequence).max() else { return Ok(()) };
        let days = self.config.lock.as_ref().map_or(0, |lock| lock.days);
        locks.prepare(name)?;
        let indexed = open(&self.folder, &self.config, name)?.index().map_err(Error::repository(name))?;
        let (_, keys) = self.register.pins(name)?;
        let mut files: BTreeSet<Name> =
            keys.into_iter().filter_map(|key| lock_name(FileKind::Key, key)).collect();
        files.extend(lock_name(FileKind::Config, FileId::ZERO));
        for point in &fresh {
            let packs = packs_of(&indexed, point.tree, cancel).map_err(Error::repository(name))?;
            files.extend(packs.into_iter().filter_map(|pack| lock_name(FileKind::Pack, pack)));
        }
        locks.lock(name, &files, days)?;
        let snapshots: BTreeSet<Name> =
            fresh.iter().filter_map(|point| lock_name(FileKind::Snapshot, point.snapshot)).collect();
        locks.lock(name, &snapshots, days)?;
        for point in &fresh {
            match point.verdict {
                Verdict::Clean => locks.mark(name, point.snapshot, Mark::Clean)?,
                Verdict::Suspect => locks.mark(name, point.snapshot, Mark::Suspect)?,
                Verdict::Unknown | Verdict::Corrupt => {}
            }
        }
        self.note(
            "vault.locked",
            &serde_json::json!({ "repository": name, "packs": files.iter().filter(|f| f.kind == Kind::Data).count(),
                "points": snapshots.len(), "days": days }),
        )?;
        self.register.set_locked_up_to(name, last)
    }

    /// A person has cleared alarms: repositories without one may lose expired files again.
    pub(crate) fn tell_cleared(&self, locks: &Locks) -> Result<()> {
        for point in self.register.points(None)?.iter().filter(|point| point.verdict == Verdict::Suspect) {
            if !self.register.is_suspect(&point.repository)? {
                locks.mark(&point.repository, point.snapshot, Mark::Cleared)?;
            }
        }
        Ok(())
    }
}

fn failed(code: &str, name: &str, error: &Error) -> Finding {
    about(code, Severity::Alarm, "check-vault", name).with("why", chain(error))
}

/// Packs that a tree needs.
fn packs_of(
    indexed: &Repository<Indexed>,
    root: BlobId,
    cancel: &Cancel,
) -> kuramori_repo::Result<HashSet<FileId>> {
    let (mut packs, mut seen, mut open) = (HashSet::new(), HashSet::new(), vec![root]);
    while let Some(tree) = open.pop() {
        cancel.check()?;
        if !seen.insert(tree) {
            continue;
        }
        let mut mark = |kind, id: &BlobId| {
            indexed.with_index(|index| {
                packs.extend(index.locations(kind, id).into_iter().map(|place| place.pack));
            });
        };
        mark(BlobKind::Tree, &tree);
        for node in indexed.load_tree(&tree)?.nodes {
            node.content.iter().flatten().for_each(|id| mark(BlobKind::Data, id));
            if let (NodeKind::Dir, Some(subtree)) = (node.kind, node.subtree) {
                open.push(subtree);
            }
        }
    }
    Ok(packs)
}
