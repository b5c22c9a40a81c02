//! Which blobs the restore points need: the walk behind `check` and `prune`.

use std::collections::HashSet;

use crate::{
    Cancel, Error, Result,
    bits::Bits,
    format::{
        blob::{BlobId, BlobKind},
        node::NodeKind,
    },
    repository::{Indexed, Repository},
};

/// What a walk over restore points found.
#[derive(Debug)]
pub(crate) struct Live {
    /// Marked positions of data blobs in the index: every place of every needed blob.
    pub(crate) data: Bits,
    /// The same of tree blobs.
    pub(crate) trees: Bits,
    /// What is needed and cannot be had, in words that name it.
    pub(crate) flaws: Vec<Error>,
}

impl Repository<Indexed> {
    /// Walks the trees below the roots, each tree once. Damage is collected, not fatal.
    pub(crate) fn live(&self, roots: impl IntoIterator<Item = BlobId>, cancel: &Cancel) -> Result<Live> {
        let (data, trees) = self.with_index(|index| (index.len(BlobKind::Data), index.len(BlobKind::Tree)));
        let mut live = Live { data: Bits::new(data), trees: Bits::new(trees), flaws: Vec::new() };
        let mut seen = HashSet::new();
        let mut open: Vec<BlobId> = roots.into_iter().filter(|root| seen.insert(*root)).collect();
        while let Some(tree) = open.pop() {
            cancel.check()?;
            let nodes = match self.load_tree(&tree) {
                Ok(tree) => tree.nodes,
                Err(error @ (Error::Damaged { .. } | Error::Missing { .. } | Error::Io { .. })) => {
                    live.flaws.push(error);
                    continue;
                }
                Err(other) => return Err(other),
            };
            self.with_index(|index| {
                for position in index.positions(BlobKind::Tree, &tree) {
                    live.trees.insert(position);
                }
                for node in &nodes {
                    let mut length = 0;
                    for id in node.content.iter().flatten() {
                        let positions = index.positions(BlobKind::Data, id);
                        if positions.is_empty() {
                            live.flaws.push(Error::Missing {
                                file: format!("data blob {id} of a file in tree {tree}"),
                            });
                        }
                        for position in positions {
                            live.data.insert(position);
                        }
                        length += u64::from(index.plain_len(BlobKind::Data, id).unwrap_or(0));
                    }
                    if node.kind == NodeKind::File && node.content.is_some() && length != node.size {
                        live.flaws.push(Error::Damaged {
                            file: format!("file `{}` in tree {tree}", String::from_utf8_lossy(&node.name)),
                            why: format!("its pieces have {length} bytes, its size is {}", node.size),
                        });
                    }
                }
            });
            let below = nodes.iter().filter(|node| node.kind == NodeKind::Dir);
            for node in below {
                match node.subtree {
                    Some(subtree) if seen.insert(subtree) => open.push(subtree),
                    Some(_) => {}
                    None => live.flaws.push(Error::Damaged {
                        file: format!("tree blob {tree}"),
                        why: format!("the folder `{}` has no tree", String::from_utf8_lossy(&node.name)),
                    }),
                }
            }
        }
        Ok(live)
    }
}
