//! What differs between two restore points, folder by folder, without reading a file.
//!
//! Equal subtrees have equal ids and are passed over unread. Within a folder a name that went and a name that
//! came are brought together if one was made from the other.

use std::collections::{BTreeMap, HashMap};

use kuramori_model::tree::TreePath;
use kuramori_repo::{
    Cancel, Error as RepoError, Indexed, Repository,
    format::{
        blob::BlobId,
        node::{Node, NodeKind},
    },
};

use crate::error::Result;

/// Deepest folder that is followed.
const DEPTH_MAX: usize = 1000;
/// A file that was encrypted under a new name may have grown by so many bytes.
const GROWTH: u64 = 4096;

/// One difference.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    /// A file without a predecessor. `like` is an older file of the same series: the same name but for digits.
    Added { new: &'a Node, like: Option<&'a Node> },
    /// A file that is gone.
    Removed { old: &'a Node },
    /// Another content at the same path.
    Changed { old: &'a Node, new: &'a Node },
    /// A new name beside the old one's place; the content may differ too.
    Renamed { old: &'a Node, old_path: TreePath, new: &'a Node },
}

/// What a node holds: a file's pieces, a folder's tree.
type Held<'a> = (&'a Option<Vec<BlobId>>, Option<&'a BlobId>);

/// Whoever is told.
pub(crate) type See<'s> = dyn FnMut(&TreePath, Change<'_>) -> Result<()> + 's;

/// Walks two trees side by side.
pub(crate) struct Walk<'a> {
    pub(crate) repository: &'a Repository<Indexed>,
    pub(crate) cancel: &'a Cancel,
    /// Whether names that end so are nothing new in this system: then sizes do not bring files together.
    pub(crate) usual: &'a dyn Fn(&[u8]) -> bool,
}

impl Walk<'_> {
    /// Tells every difference.
    pub(crate) fn compare(
        &self,
        old: Option<&BlobId>,
        new: Option<&BlobId>,
        see: &mut See<'_>,
    ) -> Result<()> {
        self.folder(None, old, new, 0, see)
    }

    fn load(&self, tree: Option<&BlobId>) -> Result<Vec<Node>> {
        self.cancel.check()?;
        Ok(match tree {
            Some(tree) => self.repository.load_tree(tree)?.nodes,
            None => Vec::new(),
        })
    }

    fn folder(
        &self,
        path: Option<&TreePath>,
        old: Option<&BlobId>,
        new: Option<&BlobId>,
        depth: usize,
        see: &mut See<'_>,
    ) -> Result<()> {
        if old == new {
            return Ok(());
        }
        if depth > DEPTH_MAX {
            let why = format!("it lies more than {DEPTH_MAX} folders deep");
            return Err(RepoError::Damaged { file: "a tree".into(), why }.into());
        }
        let (old_nodes, new_nodes) = (self.load(old)?, self.load(new)?);
        let at = |node: &Node| {
            let joined = match path {
                Some(path) => path.join(&node.name),
                None => TreePath::new(node.name.clone()),
            };
            joined.map_err(|bad| RepoError::Damaged { file: "a tree".into(), why: bad.to_string() })
        };
        let mut gone: Vec<&Node> = Vec::new();
        let mut came: Vec<&Node> = Vec::new();
        let mut olds = old_nodes.iter().peekable();
        for node in &new_nodes {
            while let Some(before) = olds.next_if(|before| before.name < node.name) {
                gone.push(before);
            }
            let Some(before) = olds.next_if(|before| before.name == node.name) else {
                came.push(node);
                continue;
            };
            match (before.kind, node.kind) {
                (NodeKind::Dir, NodeKind::Dir) => {
                    self.folder(
                        Some(&at(node)?),
                        before.subtree.as_ref(),
                        node.subtree.as_ref(),
                        depth + 1,
                        see,
                    )?;
                }
                (NodeKind::File, NodeKind::File) => {
                    if before.content != node.content {
                        see(&at(node)?, Change::Changed { old: before, new: node })?;
                    }
                }
                _ => {
                    gone.push(before);
                    came.push(node);
                }
            }
        }
        gone.extend(olds);
        let series = series(&old_nodes);
        let pairs = self.pairs(&gone, &came);
        for (index, node) in came.iter().enumerate() {
            let before = pairs.get(&index).map(|old| gone[*old]);
            match node.kind {
                NodeKind::Dir => {
                    let before = before.and_then(|before| before.subtree.as_ref());
                    self.folder(Some(&at(node)?), before, node.subtree.as_ref(), depth + 1, see)?;
                }
                NodeKind::File => {
                    let path = at(node)?;
                    match before {
                        Some(old) => see(&path, Change::Renamed { old, old_path: at(old)?, new: node })?,
                        None => {
                            let like = like(&series, &node.name);
                            see(&path, Change::Added { new: node, like })?;
                        }
                    }
                }
                _ => {}
            }
        }
        let paired: std::collections::HashSet<usize> = pairs.into_values().collect();
        for (index, node) in gone.iter().enumerate().filter(|(index, _)| !paired.contains(index)) {
            match node.kind {
                NodeKind::Dir => {
                    self.folder(Some(&at(node)?), node.subtree.as_ref(), None, depth + 1, see)?;
                }
                NodeKind::File => see(&at(gone[index])?, Change::Removed { old: node })?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Which of those that came was made from which that went: by content, by a name with something put
    /// behind it, by a name with another extension, and at last, for endings that nobody knows, by size.
    fn pairs(&self, gone: &[&Node], came: &[&Node]) -> HashMap<usize, usize> {
        let mut pairs = HashMap::new();
        if gone.is_empty() || came.is_empty() {
            return pairs;
        }
        let mut free: Vec<bool> = vec![true; gone.len()];
        let mut names: HashMap<&[u8], usize> = HashMap::new();
        let mut stems: HashMap<&[u8], Vec<usize>> = HashMap::new();
        let mut contents: HashMap<Held<'_>, Vec<usize>> = HashMap::new();
        for (index, node) in gone.iter().enumerate() {
            names.insert(&node.name, index);
            stems.entry(stem(&node.name)).or_default().push(index);
            contents.entry((&node.content, node.subtree.as_ref())).or_default().push(index);
        }
        for (index, node) in came.iter().enumerate() {
            let same_kind = |other: &usize| gone[*other].kind == node.kind;
            let by_content = || {
                let found = contents.get(&(&node.content, node.subtree.as_ref()))?;
                found.iter().copied().find(|other| free[*other] && same_kind(other))
            };
            let by_name = || {
                let mut name = node.name.as_slice();
                while let Some(dot) = name.iter().rposition(|byte| matches!(byte, b'.' | b'_' | b'-')) {
                    name = &name[..dot];
                    if let Some(found) =
                        names.get(name).copied().filter(|other| free[*other] && same_kind(other))
                    {
                        return Some(found);
                    }
                }
                None
            };
            let by_stem = || {
                let found = stems.get(stem(&node.name))?;
                found.iter().copied().find(|other| free[*other] && same_kind(other))
            };
            let found = by_name().or_else(by_content).or_else(by_stem);
            if let Some(found) = found {
                free[found] = false;
                pairs.insert(index, found);
            }
        }
        let mut sizes: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (index, node) in
            gone.iter().enumerate().filter(|(index, node)| free[*index] && node.kind == NodeKind::File)
        {
            sizes.entry(node.size).or_default().push(index);
        }
        for (index, node) in came.iter().enumerate() {
            if pairs.contains_key(&index) || node.kind != NodeKind::File || (self.usual)(&node.name) {
                continue;
            }
            let from = node.size.saturating_sub(GROWTH);
            if let Some((_, found)) =
                sizes.range_mut(from..=node.size).rev().find(|(_, free)| !free.is_empty())
                && let Some(found) = found.pop()
            {
                pairs.insert(index, found);
            }
        }
        pairs
    }
}

/// One old file of each series.
fn series(nodes: &[Node]) -> HashMap<Vec<u8>, &Node> {
    let files = nodes.iter().filter(|node| node.kind == NodeKind::File && node.size > 0);
    files.map(|node| (without_digits(&node.name), node)).collect()
}

/// An older file of the same series, also if something was put behind the name.
fn like<'n>(series: &HashMap<Vec<u8>, &'n Node>, name: &[u8]) -> Option<&'n Node> {
    let mut name = name;
    loop {
        if let Some(found) = series.get(&without_digits(name)) {
            return Some(found);
        }
        let dot = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0)?;
        name = &name[..dot];
    }
}

/// The name with every run of digits as one `#`.
fn without_digits(name: &[u8]) -> Vec<u8> {
    let mut short = Vec::with_capacity(name.len());
    for byte in name {
        if !byte.is_ascii_digit() {
            short.push(*byte);
        } else if short.last() != Some(&b'#') {
            short.push(b'#');
        }
    }
    short
}

/// The name without its last extension.
fn stem(name: &[u8]) -> &[u8] {
    match name.iter().rposition(|byte| *byte == b'.') {
        Some(dot) if dot > 0 => &name[..dot],
        _ => name,
    }
}
