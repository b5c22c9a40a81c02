//! Folders and files while they are written: who is still missing before the tree can be built.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::Session;
use crate::{
    Error,
    format::{
        blob::{BlobId, BlobKind},
        node::Node,
        tree,
    },
};

/// A folder that is being filled.
#[derive(Debug)]
pub(crate) struct Folder {
    above: Option<Arc<Folder>>,
    /// Bytes of all folders of this backup whose tree is not built yet, as far as they were counted.
    open: Arc<AtomicU64>,
    state: Mutex<State>,
}

/// What an open folder takes besides its items and its path.
const FOLDER: usize = size_of::<Folder>() + 64;

/// About how much memory a node takes.
fn cost(node: &Node) -> u64 {
    let xattrs: usize = node.xattrs.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
    let texts = node.name.len() + node.user.len() + node.group.len() + node.link_target.len();
    let content = node.content.as_ref().map_or(0, |content| content.len() * size_of::<BlobId>());
    (size_of::<Node>() + xattrs + texts + content) as u64
}

#[derive(Debug)]
struct State {
    /// The folder's own metadata; the root has none.
    node: Option<Node>,
    /// The tree that the parent snapshot has here.
    previous: Option<BlobId>,
    children: Vec<Node>,
    /// What of `open` is this folder's.
    cost: u64,
    /// Items that were announced and are not in `children` yet.
    missing: usize,
    sealed: bool,
    tree: Option<BlobId>,
}

impl Folder {
    /// The root of a snapshot.
    pub(crate) fn root(previous: Option<BlobId>) -> Arc<Self> {
        Self::make(None, Arc::default(), None, 0, previous)
    }

    /// A folder below another one, which now waits for it. Its owner keeps `path` bytes to find it by.
    pub(crate) fn below(above: &Arc<Self>, node: Node, path: usize, previous: Option<BlobId>) -> Arc<Self> {
        above.expect();
        let cost = cost(&node) + (path + FOLDER) as u64;
        Self::make(Some(Arc::clone(above)), Arc::clone(&above.open), Some(node), cost, previous)
    }

    fn make(
        above: Option<Arc<Self>>,
        open: Arc<AtomicU64>,
        node: Option<Node>,
        cost: u64,
        previous: Option<BlobId>,
    ) -> Arc<Self> {
        open.fetch_add(cost, Ordering::Relaxed);
        let children = Vec::new();
        let state = State { node, previous, children, cost, missing: 0, sealed: false, tree: None };
        Arc::new(Self { above, open, state: Mutex::new(state) })
    }

    /// About how many bytes of memory the open folders of this backup take.
    pub(crate) fn open_bytes(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    fn hold(&self, state: &mut State, node: Node) {
        let cost = cost(&node);
        state.cost += cost;
        self.open.fetch_add(cost, Ordering::Relaxed);
        state.children.push(node);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree that the parent snapshot has here.
    pub(crate) fn previous(&self) -> Option<BlobId> {
        self.lock().previous
    }

    /// The tree, once it is finished.
    pub(crate) fn tree(&self) -> Option<BlobId> {
        self.lock().tree
    }

    /// Gives the folder its own metadata, which came after its first item.
    pub(crate) fn describe(&self, node: Node) {
        let mut state = self.lock();
        let (before, now) = (state.node.as_ref().map_or(0, cost), cost(&node));
        state.cost = (state.cost + now).saturating_sub(before);
        self.open.fetch_add(now, Ordering::Relaxed);
        self.open.fetch_sub(before, Ordering::Relaxed);
        state.node = Some(node);
    }

    /// Announces one more item.
    pub(crate) fn expect(&self) {
        self.lock().missing += 1;
    }

    /// Puts an item that is finished and was not announced.
    pub(crate) fn add(&self, node: Node) {
        self.hold(&mut self.lock(), node);
    }

    /// Puts an announced item, or takes the announcement back.
    pub(crate) fn arrive(self: &Arc<Self>, session: &Session, node: Option<Node>) {
        let mut state = self.lock();
        if let Some(node) = node {
            self.hold(&mut state, node);
        }
        state.missing -= 1;
        let ready = state.sealed && state.missing == 0;
        drop(state);
        if ready {
            self.finish(session);
        }
    }

    /// Nothing more will be announced.
    pub(crate) fn seal(self: &Arc<Self>, session: &Session) {
        let mut state = self.lock();
        let ready = !std::mem::replace(&mut state.sealed, true) && state.missing == 0;
        drop(state);
        if ready {
            self.finish(session);
        }
    }

    /// Stores the tree and tells the folder above, up to the first one that still waits.
    fn finish(self: &Arc<Self>, session: &Session) {
        let mut folder = Arc::clone(self);
        loop {
            let mut state = folder.lock();
            let mut children = std::mem::take(&mut state.children);
            folder.open.fetch_sub(std::mem::take(&mut state.cost), Ordering::Relaxed);
            children.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            let built = tree::encode(&children)
                .map_err(|flaw| Error::Invalid {
                    what: format!("a folder of the source cannot be stored: {flaw}"),
                    hint: "the source must name every item once, before it seals the folder".to_owned(),
                })
                .and_then(|json| session.save_blob(BlobKind::Tree, &json));
            drop(children);
            let id = match built {
                Ok(id) => id,
                Err(error) => return session.fail(error),
            };
            state.tree = Some(id);
            let Some(mut node) = state.node.take() else { return };
            session.count_folder(state.previous, id);
            drop(state);
            node.subtree = Some(id);
            let Some(above) = folder.above.clone() else { return };
            let mut state = above.lock();
            above.hold(&mut state, node);
            state.missing -= 1;
            let ready = state.sealed && state.missing == 0;
            drop(state);
            if !ready {
                return;
            }
            folder = above;
        }
    }
}

/// A file whose chunks are on their way.
#[derive(Debug)]
pub(crate) struct FileWork {
    folder: Arc<Folder>,
    state: Mutex<(Vec<BlobId>, Option<Node>)>,
    /// Chunks under way, plus one while the reader still reads.
    missing: AtomicUsize,
}

impl FileWork {
    /// Announces a file to its folder.
    pub(crate) fn begin(folder: &Arc<Folder>) -> Arc<Self> {
        folder.expect();
        Arc::new(Self {
            folder: Arc::clone(folder),
            state: Mutex::new((Vec::new(), None)),
            missing: AtomicUsize::new(1),
        })
    }

    fn lock(&self) -> MutexGuard<'_, (Vec<BlobId>, Option<Node>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more chunk.
    pub(crate) fn next(&self) -> usize {
        self.missing.fetch_add(1, Ordering::AcqRel);
        let ids = &mut self.lock().0;
        ids.push(BlobId::default());
        ids.len() - 1
    }

    /// A chunk is stored or was known.
    pub(crate) fn stored(&self, session: &Session, place: usize, id: BlobId) {
        self.lock().0[place] = id;
        self.release(session);
    }

    /// The reader is at the end; `None` if the file could not be read and must not appear.
    pub(crate) fn end(&self, session: &Session, node: Option<Node>) {
        self.lock().1 = node;
        self.release(session);
    }

    fn release(&self, session: &Session) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let (ids, node) = std::mem::take(&mut *self.lock());
        let node = node.map(|mut node| {
            node.content = Some(ids);
            node
        });
        self.folder.arrive(session, node);
    }
}
