//! Walking the tree of a restore point.

use kuramori_model::tree::TreePath;

use crate::{
    Cancel, Error, Result,
    format::{
        blob::BlobId,
        node::{Node, NodeKind},
    },
    repository::{Indexed, Repository},
};

/// Deepest folder that is followed; no path of a real system is longer than 4,096 bytes.
const DEPTH_MAX: usize = 2100;

/// What [`Repository::walk`] does after a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descend {
    /// Walk into it.
    Into,
    /// Leave it out.
    Past,
}

/// A folder on the way, and what of it was not visited yet.
struct Level {
    path: Option<TreePath>,
    tree: BlobId,
    nodes: std::vec::IntoIter<Node>,
}

impl Repository<Indexed> {
    /// Calls `visit` for every node below `root`, folders before what they hold, names ascending. The
    /// answer counts for folders only. Holds one tree blob for each level of the path.
    pub fn walk(
        &self,
        root: &BlobId,
        cancel: &Cancel,
        visit: &mut dyn FnMut(&TreePath, &Node) -> Result<Descend>,
    ) -> Result<()> {
        // Levels lie on the heap: a forged tree cannot exhaust the stack.
        let mut levels =
            vec![Level { path: None, tree: *root, nodes: self.load_tree(root)?.nodes.into_iter() }];
        while let Some(level) = levels.last_mut() {
            let Some(node) = level.nodes.next() else {
                levels.pop();
                continue;
            };
            cancel.check()?;
            let tree = level.tree;
            let damaged = |why: String| Error::Damaged { file: format!("tree blob {tree}"), why };
            let path = match &level.path {
                Some(folder) => folder.join(&node.name),
                None => TreePath::new(node.name.clone()),
            };
            let path = path.map_err(|bad| damaged(bad.to_string()))?;
            if visit(&path, &node)? == Descend::Into && node.kind == NodeKind::Dir {
                let subtree =
                    node.subtree.ok_or_else(|| damaged(format!("the folder `{path}` has no tree")))?;
                if levels.len() > DEPTH_MAX {
                    return Err(damaged(format!("it lies more than {DEPTH_MAX} folders deep")));
                }
                let nodes = self.load_tree(&subtree)?.nodes.into_iter();
                levels.push(Level { path: Some(path), tree: subtree, nodes });
            }
        }
        Ok(())
    }

    /// The node at `path` below `root`.
    pub fn find_node(&self, root: &BlobId, path: &TreePath) -> Result<Node> {
        let missing = || Error::Invalid {
            what: format!("there is no `{path}` in this restore point"),
            hint: "look with `kuramori repo ls`".to_owned(),
        };
        let mut tree = *root;
        let mut parts = path.parts().peekable();
        while let Some(part) = parts.next() {
            let nodes = self.load_tree(&tree)?.nodes;
            let node = nodes.into_iter().find(|node| node.name == part).ok_or_else(missing)?;
            if parts.peek().is_none() {
                return Ok(node);
            }
            tree = node.subtree.ok_or_else(missing)?;
        }
        Err(missing())
    }
}
