//! The plan that is shown before anything is restored, and that is then carried out as it was shown.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kuramori_model::tree::TreePath;
use kuramori_repo::{
    Cancel, Indexed, Repository,
    format::{node::NodeKind, snapshot::Snapshot},
    store::FileId,
    walk::Descend,
};
use serde::{Deserialize, Serialize};

use crate::{
    DrillError, Result,
    binlog::Second,
    choose::Choice,
    estimate::{Estimate, Measured, estimate},
    moment::Moment,
    target::Target,
};

/// The number of the plan's schema; it only grows.
pub const SCHEMA: u32 = 1;

/// Everything that will happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Of which system.
    pub system: String,
    /// When the plan was made.
    pub made: Timestamp,
    /// Which point, from which copy, and why.
    pub choice: Choice,
    /// The repository's folder that is read.
    pub from: PathBuf,
    /// The folder in the restore point that becomes the target (a restic client keeps absolute paths).
    pub root: Option<String>,
    /// Only this file or folder below the root.
    pub part: Option<String>,
    /// Bytes that come back.
    pub bytes: u64,
    /// Files that come back.
    pub files: u64,
    /// Where it goes and what stands there.
    pub target: Target,
    /// How long it is expected to take; none if nothing was measured yet.
    pub expected: Option<Estimate>,
    /// How long it may take, in seconds.
    pub rto_s: u64,
    /// The moment between restore points that recovery goes on to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<Moment>,
    /// The second between dumps that the binary log is played to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second: Option<Second>,
}

/// What a plan is made from.
#[derive(Debug)]
pub struct Order<'a> {
    /// Of which system.
    pub system: &'a str,
    /// The choice.
    pub choice: Choice,
    /// The repository's folder.
    pub from: &'a Path,
    /// Only this file or folder.
    pub part: Option<&'a str>,
    /// Where to.
    pub to: &'a Path,
    /// Whether that is the original place.
    pub original: bool,
    /// What was measured so far.
    pub measured: &'a [Measured],
    /// How long it may take, in seconds.
    pub rto_s: u64,
    /// To which moment.
    pub moment: Option<Moment>,
    /// To which second.
    pub second: Option<Second>,
    /// Now.
    pub now: Timestamp,
}

/// A snapshot's id as the engine knows it.
pub(crate) fn snapshot_id(text: &str) -> Result<FileId> {
    text.parse().map_err(|_| {
        DrillError::Repository(kuramori_repo::Error::Invalid {
            what: format!("`{text}` is not a snapshot's id"),
            hint: "list them with `kuramori backup points`".to_owned(),
        })
    })
}

/// The folder inside a restore point that is the system's data: what a snapshot of a single absolute path
/// names, if the tree has it; otherwise the tree's root.
///
/// # Errors
/// The tree cannot be read.
pub fn root(repository: &Repository<Indexed>, snapshot: &Snapshot) -> Result<Option<TreePath>> {
    let [path] = snapshot.paths.as_slice() else { return Ok(None) };
    let Some(inside) = path.strip_prefix('/') else { return Ok(None) };
    let Ok(path) = TreePath::new(inside.trim_end_matches('/').as_bytes()) else { return Ok(None) };
    match repository.find_node(&snapshot.tree, &path) {
        Ok(node) if node.kind == NodeKind::Dir => Ok(Some(path)),
        Ok(_) | Err(kuramori_repo::Error::Invalid { .. }) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

/// What is restored of a snapshot: the part below the root.
pub(crate) fn subpath(root: Option<&str>, part: Option<&str>) -> Result<Option<TreePath>> {
    let joined = match (root, part.map(|part| part.trim_matches('/'))) {
        (None, None) => return Ok(None),
        (Some(root), None) => root.to_owned(),
        (None, Some(part)) => part.to_owned(),
        (Some(root), Some(part)) => format!("{root}/{part}"),
    };
    TreePath::new(joined.as_bytes()).map(Some).map_err(|error| {
        DrillError::Repository(kuramori_repo::Error::Invalid {
            what: error.to_string(),
            hint: "look with `kuramori repo ls`".to_owned(),
        })
    })
}

/// Makes the plan; reads the restore point's tree and looks at the target, changes nothing.
///
/// # Errors
/// The point cannot be read, the part is not in it, the target cannot be used, or there is too little room.
pub fn make(repository: &Repository<Indexed>, order: Order<'_>) -> Result<Plan> {
    let snapshot = repository.snapshot(snapshot_id(&order.choice.point.snapshot)?)?;
    let root = root(repository, &snapshot)?.map(|path| path.to_string());
    let part = order.part.map(|part| part.trim_matches('/').to_owned()).filter(|part| !part.is_empty());
    let (files, bytes) = size(repository, &snapshot, subpath(root.as_deref(), part.as_deref())?.as_ref())?;
    let target = Target::look(order.to, &order.choice.point.snapshot, order.original, order.now)?;
    // What a resumed restore has already written needs no room again.
    let there = if target.resumes { crate::restore::used(&target.staging) } else { 0 };
    let need = bytes.saturating_sub(there);
    if target.free < need {
        let path = target.path.parent().unwrap_or(&target.path).to_owned();
        return Err(DrillError::Space { path, need, have: target.free });
    }
    Ok(Plan {
        schema: SCHEMA,
        system: order.system.to_owned(),
        made: order.now,
        expected: estimate(order.system, bytes, order.measured),
        choice: order.choice,
        from: order.from.to_owned(),
        root,
        part,
        bytes,
        files,
        target,
        rto_s: order.rto_s,
        moment: order.moment,
        second: order.second,
    })
}

/// Files and bytes below a path.
fn size(
    repository: &Repository<Indexed>,
    snapshot: &Snapshot,
    below: Option<&TreePath>,
) -> Result<(u64, u64)> {
    let tree = match below {
        None => snapshot.tree,
        Some(path) => {
            let node = repository.find_node(&snapshot.tree, path)?;
            match node.subtree {
                Some(tree) => tree,
                None => return Ok((1, node.size)),
            }
        }
    };
    let (mut files, mut bytes) = (0, 0);
    repository.walk(&tree, &Cancel::default(), &mut |_, node| {
        if node.kind == NodeKind::File {
            files += 1;
            bytes += node.size;
        }
        Ok(Descend::Into)
    })?;
    Ok((files, bytes))
}
