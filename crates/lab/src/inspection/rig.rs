//! A repository in a temporary folder, filled from memory and inspected like a vault does.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use kuramori_inspect::{Inspection, Point, Policy, Profile, Report, Verdict};
use kuramori_model::{
    clock::{SeededRandom, SystemClock},
    tree::{Entry, EntryKind, FileTime, Meta, Sink, TreePath},
};
use kuramori_repo::{
    Cancel, Context, Indexed, Repository, Secret,
    backup::{Draft, Options},
    progress::Progress,
    store::{FileId, LocalStore, Store},
};

/// A file of a generated source.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// All of it.
    pub(super) bytes: Arc<Vec<u8>>,
    /// Seconds since 1970.
    pub(super) time: i64,
}

/// A source at one moment.
pub(super) type Files = BTreeMap<String, File>;

/// One system's repository and what a vault remembers of it.
#[derive(Debug)]
pub struct Rig {
    repository: Repository<Indexed>,
    parent: Option<FileId>,
    sequence: u64,
    /// Points that were found clean, oldest first.
    pub clean: Vec<Point>,
    /// What is normal there.
    pub profile: Profile,
    /// What the hospital says.
    pub policy: Policy,
}

fn failed(error: impl std::error::Error) -> crate::LabError {
    crate::LabError::File(io::Error::other(kuramori_model::fault::chain(&error)))
}

impl Rig {
    /// A new repository below `folder`.
    ///
    /// # Errors
    /// What the engine says.
    pub fn new(folder: &Path, seed: u64) -> crate::Result<Self> {
        let place = folder.join(format!("repository-{seed}"));
        let store: Arc<dyn Store> = Arc::new(LocalStore::new(place));
        let context = Context {
            clock: Arc::new(SystemClock),
            random: Arc::new(SeededRandom::new(seed)),
            hostname: "lab".into(),
            username: "lab".into(),
        };
        let repository = Repository::create(store, &Secret::new("lab"), context)
            .and_then(Repository::index)
            .map_err(failed)?;
        Ok(Self {
            repository,
            parent: None,
            sequence: 0,
            clean: Vec::new(),
            profile: Profile::default(),
            policy: Policy::default(),
        })
    }

    /// Backs the source up.
    ///
    /// # Errors
    /// What the engine says.
    pub(super) fn backup(&mut self, files: &Files) -> crate::Result<Point> {
        let options = Options { parent: self.parent, threads: Some(2), uploads: 1, ..Options::default() };
        let mut backup = self.repository.backup(options).map_err(failed)?;
        for (path, file) in files {
            let time = FileTime { seconds: file.time, nanos: 0 };
            let entry = Entry {
                path: TreePath::new(path.clone().into_bytes()).map_err(failed)?,
                kind: EntryKind::File { size: file.bytes.len() as u64 },
                meta: Meta { mode: 0o644, mtime: time, atime: time, ctime: time, ..Meta::default() },
            };
            backup.put(entry, &mut file.bytes.as_slice()).map_err(failed)?;
        }
        let done = backup.commit(Draft::default()).map_err(failed)?;
        self.parent = Some(done.id);
        self.sequence += 1;
        let tree = self.repository.snapshot(done.id).map_err(failed)?.tree;
        Ok(Point { sequence: self.sequence, tree })
    }

    /// Inspects a point, and remembers it if it is clean.
    ///
    /// # Errors
    /// What inspection says.
    pub(super) fn inspect(&mut self, point: Point) -> crate::Result<Report> {
        let (report, profile) = Inspection {
            repository: &self.repository,
            point,
            previous: self.clean.last().copied(),
            oldest: self.clean.first().copied(),
            profile: &self.profile,
            policy: &self.policy,
            cancel: &Cancel::default(),
            progress: &Progress::default(),
        }
        .run()
        .map_err(failed)?;
        // What it says about earlier points counts as at a vault: nothing is compared with them any more.
        self.clean.retain(|earlier| !report.condemns(earlier.sequence));
        if report.verdict == Some(Verdict::Clean) {
            self.clean.push(point);
            self.profile = profile;
        }
        Ok(report)
    }

    /// Both at once.
    ///
    /// # Errors
    /// What engine and inspection say.
    pub(super) fn day(&mut self, files: &Files) -> crate::Result<Report> {
        let point = self.backup(files)?;
        self.inspect(point)
    }
}
