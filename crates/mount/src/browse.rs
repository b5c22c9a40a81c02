//! The folders above the restore points, and what lies below as items.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use fuser::FileType;
use jiff::tz::TimeZone;
use kuramori_model::tree::FileTime;
use kuramori_repo::{
    Result, disk,
    format::{
        blob::BlobId,
        node::{Node, NodeKind, unix_mode},
        tree::Tree,
    },
    reading::Reader,
    repository::{Indexed, Repository},
    store::{FileId, FileKind},
};

/// Folders that stay in memory, and how many items they may have together.
const TREES_MAX: usize = 256;
const NODES_MAX: usize = 200_000;

/// What stands at a place.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// The root.
    Root,
    /// `by-system`.
    Systems,
    /// `by-id`.
    Ids,
    /// A system's folder.
    System(OsString),
    /// A folder of a restore point.
    Folder(BlobId),
    /// A file by its node.
    File(Arc<Node>),
    /// A disk by the tree of its segments.
    Disk(BlobId),
    /// A link.
    Link(Vec<u8>),
    /// A device, pipe or socket.
    Special,
}

/// What is told of an item besides what it is.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) kind: FileType,
    pub(crate) perm: u16,
    pub(crate) size: u64,
    pub(crate) links: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) device: u32,
    /// Last read, last change of content, last change of metadata.
    pub(crate) times: [SystemTime; 3],
    pub(crate) xattrs: Arc<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Facts {
    /// A folder of ours: anybody may look; what lies in it has modes of its own.
    pub(crate) fn folder(time: SystemTime) -> Self {
        Self {
            kind: FileType::Directory,
            perm: 0o555,
            size: 0,
            links: 2,
            owner: (0, 0),
            device: 0,
            times: [time; 3],
            xattrs: Arc::default(),
        }
    }

    pub(crate) fn of(node: &Node) -> Self {
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            kind: kind_of(node.kind),
            perm: u16::try_from(unix_mode(node.mode) & 0o7777).unwrap_or(0),
            size: if node.kind == NodeKind::Symlink { node.link_target.len() as u64 } else { node.size },
            links: short(node.links.max(1)),
            owner: (node.uid, node.gid),
            device: short(node.device),
            times: [time_of(node.atime), time_of(node.mtime), time_of(node.ctime)],
            xattrs: Arc::new(node.xattrs.clone()),
        }
    }
}

pub(crate) fn kind_of(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Dir => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Device => FileType::BlockDevice,
        NodeKind::CharDevice => FileType::CharDevice,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
    }
}

fn time_of(time: FileTime) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let start = SystemTime::UNIX_EPOCH;
    let seconds = if time.seconds < 0 { start.checked_sub(whole) } else { start.checked_add(whole) };
    seconds.and_then(|time| time.checked_add(nanos)).unwrap_or(start)
}

/// One restore point.
#[derive(Debug, Clone)]
struct Point {
    tree: BlobId,
    system: OsString,
    name: OsString,
    time: SystemTime,
    stamp: jiff::Timestamp,
}

#[derive(Debug, Default)]
struct Points {
    by_file: HashMap<FileId, Point>,
    by_system: BTreeMap<OsString, BTreeMap<OsString, FileId>>,
    by_id: BTreeMap<OsString, FileId>,
    looked: Option<Duration>,
}

#[derive(Debug, Default)]
struct Trees {
    /// The one that was used last stands last.
    held: Vec<(BlobId, Arc<Tree>)>,
    nodes: usize,
}

/// All restore points of a repository.
#[derive(Debug)]
pub(crate) struct Browser {
    pub(crate) reader: Reader,
    zone: TimeZone,
    points: Mutex<Points>,
    trees: Mutex<Trees>,
}

/// How long the list of restore points is believed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Browser {
    pub(crate) fn new(reader: Reader, zone: TimeZone) -> Result<Self> {
        let browser = Self { reader, zone, points: Mutex::default(), trees: Mutex::default() };
        browser.with_points(|_| ())?;
        Ok(browser)
    }

    fn repository(&self) -> &Repository<Indexed> {
        self.reader.repository()
    }

    fn with_points<T>(&self, look: impl FnOnce(&Points) -> T) -> Result<T> {
        let mut points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.repository().context().clock.boot();
        if points.looked.is_none_or(|looked| now.saturating_sub(looked) >= LOOK_EVERY) {
            match self.renew(&mut points) {
                Ok(()) => points.looked = Some(now),
                // What is known stays visible while the store is away.
                Err(error) if points.looked.is_some() => {
                    tracing::warn!("cannot look for new restore points: {error}");
                    points.looked = Some(now);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(look(&points))
    }

    fn renew(&self, points: &mut Points) -> Result<()> {
        let ids = self.repository().list(FileKind::Snapshot)?;
        if ids.len() == points.by_file.len() && ids.iter().all(|id| points.by_file.contains_key(id)) {
            return Ok(());
        }
        let mut found = HashMap::with_capacity(ids.len());
        for id in ids {
            let known = match points.by_file.remove(&id) {
                Some(known) => known,
                None => match self.repository().snapshot(id) {
                    Ok(snapshot) => self.point(&snapshot.hostname, snapshot.time, snapshot.tree),
                    // One that cannot be read must not hide the others.
                    Err(error) => {
                        tracing::error!(%id, "a restore point is left out: {error}");
                        continue;
                    }
                },
            };
            found.insert(id, known);
        }
        points.by_system.clear();
        points.by_id.clear();
        // Always in the same order, so that two of the same second keep their names.
        let mut sorted: Vec<_> = found.iter().collect();
        sorted.sort_unstable_by_key(|(id, _)| **id);
        for (id, point) in sorted {
            let short: String = id.to_string().chars().take(8).collect();
            let named = points.by_system.entry(point.system.clone()).or_default();
            let mut name = point.name.clone();
            if named.contains_key(&name) {
                name.push(format!("_{short}"));
            }
            named.insert(name, *id);
            let taken = points.by_id.contains_key(OsStr::new(&short));
            let key = if taken { id.to_string() } else { short };
            points.by_id.insert(key.into(), *id);
        }
        points.by_file = found;
        Ok(())
    }

    fn point(&self, hostname: &str, stamp: jiff::Timestamp, tree: BlobId) -> Point {
        // A name that somebody chose for his machine must not leave its folder.
        let system = match hostname.replace(['/', '\0'], "_").as_str() {
            "" | "." | ".." => "unknown".to_owned(),
            name => name.to_owned(),
        };
        let name = stamp.to_zoned(self.zone.clone()).strftime("%Y-%m-%d_%H-%M-%S%z").to_string();
        let time = time_of(FileTime {
            seconds: stamp.as_second(),
            nanos: u32::try_from(stamp.subsec_nanosecond()).unwrap_or(0),
        });
        Point { tree, system: system.into(), name: name.into(), time, stamp }
    }

    fn tree(&self, id: &BlobId) -> Result<Arc<Tree>> {
        {
            let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = trees.held.iter().rposition(|(known, _)| known == id) {
                let found = trees.held.remove(place);
                let tree = Arc::clone(&found.1);
                trees.held.push(found);
                return Ok(tree);
            }
        }
        let tree = Arc::new(self.repository().load_tree(id)?);
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees.nodes += tree.nodes.len();
        trees.held.push((*id, Arc::clone(&tree)));
        while trees.held.len() > TREES_MAX || (trees.nodes > NODES_MAX && trees.held.len() > 1) {
            let (_, oldest) = trees.held.remove(0);
            trees.nodes -= oldest.nodes.len();
        }
        Ok(tree)
    }

    /// What a folder has under a name.
    pub(crate) fn child(&self, folder: &Item, name: &OsStr) -> Result<Option<(Item, Facts)>> {
        let epoch = SystemTime::UNIX_EPOCH;
        Ok(match folder {
            Item::Root => match name.as_bytes() {
                b"by-system" => Some((Item::Systems, Facts::folder(epoch))),
                b"by-id" => Some((Item::Ids, Facts::folder(epoch))),
                _ => None,
            },
            Item::Systems => self
                .with_points(|points| points.by_system.contains_key(name))?
                .then(|| (Item::System(name.to_owned()), Facts::folder(epoch))),
            Item::System(system) if name == "latest" => self.latest(system)?.map(|(target, time)| {
                let facts = Facts {
                    kind: FileType::Symlink,
                    perm: 0o777,
                    size: target.len() as u64,
                    links: 1,
                    ..Facts::folder(time)
                };
                (Item::Link(target.into_vec()), facts)
            }),
            Item::System(system) => self.with_points(|points| {
                points
                    .by_system
                    .get(system)
                    .and_then(|named| named.get(name))
                    .and_then(|id| opened(points, id))
            })?,
            Item::Ids => {
                self.with_points(|points| points.by_id.get(name).and_then(|id| opened(points, id)))?
            }
            Item::Folder(tree) => self.stored(tree, name.as_bytes())?,
            _ => None,
        })
    }

    fn latest(&self, system: &OsStr) -> Result<Option<(OsString, SystemTime)>> {
        self.with_points(|points| {
            let named = points.by_system.get(system)?.iter();
            let newest = named
                .filter_map(|(name, id)| Some((points.by_file.get(id)?, name)))
                .max_by_key(|(point, _)| point.stamp);
            newest.map(|(point, name)| (name.clone(), point.time))
        })
    }

    fn stored(&self, tree: &BlobId, name: &[u8]) -> Result<Option<(Item, Facts)>> {
        let nodes = self.tree(tree)?;
        let find = |name: &[u8]| {
            nodes
                .nodes
                .binary_search_by(|node| node.name.as_slice().cmp(name))
                .ok()
                .map(|at| &nodes.nodes[at])
        };
        if let Some(node) = find(name) {
            let item = match (node.kind, node.subtree) {
                (NodeKind::Dir, Some(subtree)) => Item::Folder(subtree),
                (NodeKind::File, _) => Item::File(Arc::new(node.clone())),
                (NodeKind::Symlink, _) => Item::Link(node.link_target.clone()),
                _ => Item::Special,
            };
            return Ok(Some((item, Facts::of(node))));
        }
        let Some(segments) = find(&[name, b".segments"].concat()).and_then(|node| node.subtree) else {
            return Ok(None);
        };
        if !disk::is_disk(&*self.tree(&segments)?) {
            return Ok(None);
        }
        let size = self.reader.open_disk(&segments)?.size();
        let facts = Facts {
            kind: FileType::RegularFile,
            perm: 0o400,
            size,
            links: 1,
            ..Facts::folder(SystemTime::UNIX_EPOCH)
        };
        Ok(Some((Item::Disk(segments), facts)))
    }

    /// The names in a folder, in an order that does not change while it is read.
    pub(crate) fn names(&self, folder: &Item) -> Result<Vec<(OsString, FileType)>> {
        let folders = |names: Vec<OsString>| {
            names.into_iter().map(|name| (name, FileType::Directory)).collect::<Vec<_>>()
        };
        Ok(match folder {
            Item::Root => folders(vec!["by-id".into(), "by-system".into()]),
            Item::Systems => folders(self.with_points(|points| points.by_system.keys().cloned().collect())?),
            Item::Ids => folders(self.with_points(|points| points.by_id.keys().cloned().collect())?),
            Item::System(system) => {
                let named = self.with_points(|points| {
                    points.by_system.get(system).map(|named| named.keys().cloned().collect::<Vec<_>>())
                })?;
                let mut names: Vec<_> = folders(named.unwrap_or_default());
                names.push(("latest".into(), FileType::Symlink));
                names
            }
            Item::Folder(tree) => {
                let tree = self.tree(tree)?;
                let has =
                    |name: &[u8]| tree.nodes.binary_search_by(|node| node.name.as_slice().cmp(name)).is_ok();
                let mut disks = Vec::new();
                for node in tree.nodes.iter().filter(|node| disk::is_folder(&node.name)) {
                    let name = node.name.strip_suffix(b".segments").unwrap_or_default();
                    if let Some(segments) = node.subtree.filter(|_| !has(name))
                        && disk::is_disk(&*self.tree(&segments)?)
                    {
                        disks.push((OsStr::from_bytes(name).to_owned(), FileType::RegularFile));
                    }
                }
                tree.nodes
                    .iter()
                    .map(|node| (OsStr::from_bytes(&node.name).to_owned(), kind_of(node.kind)))
                    .chain(disks)
                    .collect()
            }
            _ => Vec::new(),
        })
    }
}

fn opened(points: &Points, id: &FileId) -> Option<(Item, Facts)> {
    let point = points.by_file.get(id)?;
    Some((Item::Folder(point.tree), Facts::folder(point.time)))
}
