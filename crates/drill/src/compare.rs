//! Is what lies in a folder what the restore point says? Read from the disk again, piece by piece, against
//! the hashes of the restore point's tree: a comparison that the restore itself had no part in.

use std::{collections::BTreeSet, io::Read, os::unix::ffi::OsStrExt, path::Path};

use kuramori_model::tree::TreePath;
use kuramori_repo::{
    Cancel, Indexed, Repository,
    format::{
        blob::{BlobId, BlobKind},
        node::{Node, NodeKind},
        snapshot::Snapshot,
    },
    walk::Descend,
};
use serde::{Deserialize, Serialize};

use crate::Result;

/// Differences that are named one by one.
const EXAMPLES: usize = 20;

/// What the comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Files that should be there.
    pub files: u64,
    /// Bytes that were read again.
    pub bytes: u64,
    /// Items that are not there.
    pub missing: u64,
    /// Files with other content or another length, items of another kind.
    pub changed: u64,
    /// Files that the restore point does not have.
    pub added: u64,
    /// The first differences.
    pub examples: Vec<String>,
}

impl Compared {
    /// Nothing is missing or changed, and something was compared.
    pub fn identical(&self) -> bool {
        self.missing + self.changed + self.added == 0
    }

    fn example(&mut self, kind: &str, path: &dyn std::fmt::Display) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("{kind}: {path}"));
        }
    }
}

/// Compares a folder with what lies below a path of a restore point.
///
/// # Errors
/// The restore point's own tree cannot be read. What is wrong in the folder is in the result.
pub fn compare(
    repository: &Repository<Indexed>,
    snapshot: &Snapshot,
    below: Option<&TreePath>,
    folder: &Path,
    cancel: &Cancel,
) -> Result<Compared> {
    let mut found = Compared::default();
    let mut known = BTreeSet::new();
    let mut look = |path: &TreePath, node: &Node| {
        known.insert(path.as_bytes().to_vec());
        one(repository, path, node, folder, &mut found);
    };
    let node = below.map(|path| repository.find_node(&snapshot.tree, path)).transpose()?;
    match node {
        Some(node) if node.subtree.is_none() => {
            if let Ok(path) = TreePath::new(node.name.clone()) {
                look(&path, &node);
            }
        }
        _ => {
            let tree = node.and_then(|node| node.subtree).unwrap_or(snapshot.tree);
            repository.walk(&tree, cancel, &mut |path, node| {
                look(path, node);
                Ok(Descend::Into)
            })?;
        }
    }
    added(folder, folder, &known, &mut found);
    Ok(found)
}

fn one(repository: &Repository<Indexed>, path: &TreePath, node: &Node, folder: &Path, found: &mut Compared) {
    let place = folder.join(Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())));
    let Ok(standing) = fs_err::symlink_metadata(&place) else {
        if node.kind == NodeKind::File {
            found.files += 1;
        }
        found.missing += 1;
        found.example("missing", path);
        return;
    };
    let same = match node.kind {
        NodeKind::Dir => standing.is_dir(),
        NodeKind::File => {
            found.files += 1;
            found.bytes += standing.len();
            standing.is_file() && standing.len() == node.size && content(repository, node, &place)
        }
        NodeKind::Symlink => standing.is_symlink(),
        _ => !standing.is_dir() && !standing.is_file(),
    };
    if !same {
        found.changed += 1;
        found.example("changed", path);
    }
}

/// Whether a file's bytes have the hashes of the restore point.
fn content(repository: &Repository<Indexed>, node: &Node, place: &Path) -> bool {
    let Ok(mut file) = fs_err::File::open(place) else { return false };
    let mut piece = Vec::new();
    for id in node.content.iter().flatten() {
        let Some(length) = repository.with_index(|index| index.plain_len(BlobKind::Data, id)) else {
            return false;
        };
        piece.resize(length as usize, 0);
        if file.read_exact(&mut piece).is_err() || BlobId::of(&piece) != *id {
            return false;
        }
    }
    matches!(file.read(&mut [0]), Ok(0))
}

fn added(root: &Path, folder: &Path, known: &BTreeSet<Vec<u8>>, found: &mut Compared) {
    let Ok(entries) = fs_err::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(inside) = path.strip_prefix(root) else { continue };
        if !known.contains(inside.as_os_str().as_bytes()) {
            found.added += 1;
            found.example("added", &inside.display());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            added(root, &path, known, found);
        }
    }
}
