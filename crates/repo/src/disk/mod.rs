//! Disks: fixed chunks of 1 MiB in segments of 1 GiB, so that an increment touches only what changed.
//!
//! ```text
//! NAME.segments/000000/seg     the first GiB: a file whose tree blob lists 1024 ids
//! NAME.segments/000001/seg     the second …   (the last one may be short)
//! ```
//!
//! Everything besides the content is the same in every restore point, so the id of the tree of `NAME.segments` says
//! which bytes the disk has: equal disks have equal ids, whether they were read whole or as an increment. That id is
//! the disk's **mark**: a map of changed blocks names the mark since which it counts, and is trusted only if the
//! parent restore point has exactly that mark and the sizes are the same. Otherwise everything is read.
//!
//! Without this program: `cat NAME.segments/*/seg`, in the order of the names, is the disk.

mod write;

use kuramori_model::tree::TreePath;

pub use write::{Dirty, DiskStored, Whole};

use crate::{
    Error, Result,
    format::{
        blob::BlobId,
        node::{Node, NodeKind},
        tree::Tree,
    },
    repository::{Indexed, Repository},
};

/// Bytes of a segment.
pub const SEGMENT: u64 = 1 << 30;
/// Bytes of a chunk.
pub const CHUNK: u64 = 1 << 20;

const ENDING: &[u8] = b".segments";
const FILE: &[u8] = b"seg";

/// Whether this is the name of a disk's folder.
pub fn is_folder(name: &[u8]) -> bool {
    name.len() > ENDING.len() && name.ends_with(ENDING)
}

/// The folder of a disk's segments; none if the name cannot have an ending.
pub fn folder_of(disk: &TreePath) -> Option<TreePath> {
    TreePath::new([disk.as_bytes(), ENDING].concat()).ok()
}

/// Whether a folder holds the segments of a disk, and not something else under such a name.
pub fn is_disk(folder: &Tree) -> bool {
    segments(folder).is_ok_and(|segments| !segments.is_empty())
}

/// The name of a segment's folder.
fn segment_name(number: u64) -> String {
    format!("{number:06}")
}

/// The trees of a disk's segments in order; an error if one is missing or something else lies there.
pub(crate) fn segments(folder: &Tree) -> Result<Vec<BlobId>> {
    let mut found = Vec::with_capacity(folder.nodes.len());
    for (node, number) in folder.nodes.iter().zip(0_u64..) {
        match (&node.kind, node.subtree) {
            (NodeKind::Dir, Some(tree)) if node.name == segment_name(number).as_bytes() => found.push(tree),
            _ => {
                return Err(Error::Damaged {
                    file: "a disk's folder of segments".to_owned(),
                    why: format!(
                        "`{}` stands where segment {number} belongs",
                        String::from_utf8_lossy(&node.name)
                    ),
                });
            }
        }
    }
    Ok(found)
}

/// The file of one segment.
pub(crate) fn segment(repository: &Repository<Indexed>, tree: &BlobId) -> Result<Node> {
    let damaged = |why: &str| Error::Damaged { file: format!("tree blob {tree}"), why: why.to_owned() };
    let mut nodes = repository.load_tree(tree)?.nodes;
    match (nodes.pop(), nodes.is_empty()) {
        (Some(node), true) if node.name == FILE && node.kind == NodeKind::File => {
            if node.size == 0 || node.size > SEGMENT {
                return Err(damaged("a segment of an impossible size"));
            }
            Ok(node)
        }
        _ => Err(damaged("it is no segment of a disk")),
    }
}

impl Repository<Indexed> {
    /// The mark of a disk in a restore point's tree: the same for the same bytes, another for others.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such disk.
    pub fn disk_mark(&self, root: &BlobId, disk: &TreePath) -> Result<BlobId> {
        let none = || Error::Invalid {
            what: format!("there is no disk `{disk}` in this restore point"),
            hint: "look with `kuramori repo ls`".to_owned(),
        };
        let folder = folder_of(disk).ok_or_else(none)?;
        self.find_node(root, &folder)?.subtree.ok_or_else(none)
    }
}
