//! The restore window: proven files go out to a clean, empty, create-only receiver, and nothing comes back.
//!
//! First a [`plan`] is shown: which points, why these, how many bytes and seconds. Then two officers approve
//! exactly that, with the receiver's pinned certificate and the window's seconds and bytes
//! ([`crate::approval`]). Only then the gate opens, egress only.
//!
//! What is sent is only what was proven here and what these points need: pinned `config` and keys, their
//! packs, an index of these packs and no others (written in `state/outgoing/` before the window), their
//! snapshots, in the order in which a reader may believe them.

pub mod plan;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use kuramori_model::gate::Purpose;
use kuramori_repo::{
    Cancel, Context, Repository, Secret,
    store::{FileId, FileKind, LocalStore, Store},
};
use serde::Serialize;

pub use self::plan::{Chosen, Plan, Which, Why};
use crate::{
    error::{Error, Result},
    pull::{Stop, lock},
    puller::process::{Process, meet},
    vault::Vault,
    window::{Finished, Options},
};

/// What was sent.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sent {
    /// To which receiver.
    pub receiver: String,
    /// Repositories that are whole there.
    pub repositories: Vec<String>,
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// The stated reason, if points went that are suspect or damaged.
    pub reason: Option<String>,
    /// The request that allowed it.
    pub request: u64,
    /// Who approved it.
    pub approved_by: Vec<String>,
}

struct Item {
    path: PathBuf,
    kind: FileKind,
    id: FileId,
    size: u64,
}

impl Item {
    fn of(store: &LocalStore, kind: FileKind, id: FileId) -> Result<Self> {
        let path = store.path(kind, id);
        let size = fs_err::metadata(&path).map_err(Error::io("look at a proven file"))?.len();
        Ok(Self { path, kind, id, size })
    }
}

impl Vault {
    /// Carries an approved restore out. The request is used up before the gate opens.
    ///
    /// # Errors
    /// [`Error::Approval`] if it is not approved, or not exactly this; [`Error::Preflight`]; network and gate
    /// errors. A window that ended early must be asked for again.
    pub fn restore(&self, plan: &Plan, request: u64, cancel: &Cancel) -> Result<Finished> {
        let peer = self.receiver(&plan.receiver)?;
        let target = meet(peer, &self.config.limits)?;
        let wanted = plan.wanted();
        // Looked at first, so that a preflight that fails uses nothing up.
        let grant = self.may(Some(request), &wanted)?;
        let options = Options { granted: Some(grant), ..Options::default() };
        let seconds = self.preflight(&options)?;
        let outgoing = self.config.vault.state.join("outgoing");
        let staged = Staging::make(&outgoing)?;
        let mut stages = Vec::new();
        for chosen in &plan.systems {
            stages.push((chosen.repository.clone(), self.stages(chosen, staged.path())?));
        }
        let number = self.register.next_window(self.gate_last()?)?;
        let grant = self.grant(Some(request), &wanted)?;
        let options = Options { granted: Some(grant.clone()), ..Options::default() };
        let stop = Stop::default();
        let mut sent = Sent {
            receiver: plan.receiver.clone(),
            request,
            reason: plan.reason.clone(),
            approved_by: grant.officers,
            ..Sent::default()
        };
        let mut finished =
            self.window(number, Purpose::Restore, peer, seconds, &options, &stop, cancel, &mut || {
                let start = || {
                    let process =
                        Process::start(&self.config.puller, &target, self.config.limits, self.clock.clone())?;
                    stop.watch(&process.killer());
                    Ok::<_, Error>(process)
                };
                let mut first = start()?;
                for (name, stages) in &stages {
                    first.create(name)?;
                    for stage in stages {
                        sent.bytes += self.send(name, stage, &mut first, &start, &stop)?;
                        sent.files += stage.len() as u64;
                    }
                    sent.repositories.push(name.clone());
                }
                Ok(sent.bytes)
            })?;
        finished.bytes = sent.bytes;
        finished.sent = Some(sent);
        self.finish(&finished)?;
        self.note("vault.restored", &finished.sent)?;
        if let Some(why) = &finished.why {
            return Err(Error::WindowOver(why.clone()));
        }
        Ok(finished)
    }

    /// What goes of one system, stage by stage.
    fn stages(&self, chosen: &Chosen, outgoing: &Path) -> Result<[Vec<Item>; 4]> {
        let name = chosen.repository.as_str();
        let (_, keys) = self.register.pins(name)?;
        let store = LocalStore::new(self.folder.repository(name));
        let mut first = vec![Item::of(&store, FileKind::Config, FileId::ZERO)?];
        for key in keys {
            first.push(Item::of(&store, FileKind::Key, key)?);
        }
        let packs = chosen.sizes.iter().map(|(id, size)| Item {
            path: store.path(FileKind::Pack, *id),
            kind: FileKind::Pack,
            id: *id,
            size: *size,
        });
        // Beside copies of config and keys, an index of what goes can be sealed without touching our own.
        let staged = LocalStore::new(outgoing.join(name));
        for item in &first {
            let to = staged.path(item.kind, item.id);
            fs_err::create_dir_all(to.parent().unwrap_or(&to)).map_err(Error::io("make what goes out"))?;
            fs_err::copy(&item.path, &to).map_err(Error::io("make what goes out"))?;
        }
        fs_err::create_dir_all(staged.root().join("index")).map_err(Error::io("make what goes out"))?;
        let password = crate::keys::password(&self.config, name)?;
        let shared: Arc<dyn Store> = Arc::new(staged.clone());
        let opened = Repository::open(shared, &Secret::new(password.as_slice()), Context::system())
            .map_err(Error::repository(name))?;
        let mut indexes = Vec::new();
        let (mut from, mut blobs) = (0, 0);
        for (at, pack) in chosen.index.iter().enumerate() {
            blobs += pack.blobs.len();
            if blobs >= kuramori_repo::format::index::FULL || at + 1 == chosen.index.len() {
                let id = opened.save_index(&chosen.index[from..=at]).map_err(Error::repository(name))?;
                indexes.push(Item::of(&staged, FileKind::Index, id)?);
                (from, blobs) = (at + 1, 0);
            }
        }
        let mut snapshots = Vec::new();
        for point in &chosen.points {
            snapshots.push(Item::of(&store, FileKind::Snapshot, point.snapshot)?);
        }
        Ok([first, packs.collect(), indexes, snapshots])
    }

    /// Sends one stage with several processes and returns its bytes.
    fn send(
        &self,
        name: &str,
        items: &[Item],
        first: &mut Process,
        start: &(dyn Fn() -> Result<Process> + Sync),
        stop: &Stop,
    ) -> Result<u64> {
        let next = Mutex::new(items.iter());
        let bytes = AtomicU64::new(0);
        let failed = Mutex::new(None);
        let work = |process: &mut Process| {
            while lock(&failed).is_none() {
                let Some(item) = lock(&next).next() else { return };
                let mut one = || {
                    if stop.aborted() {
                        return Err(Error::WindowOver("it was closed".to_owned()));
                    }
                    let mut file = fs_err::File::open(&item.path).map_err(Error::io("open a proven file"))?;
                    process.put(name, item.kind, item.id, item.size, &mut file)
                };
                match one() {
                    Ok(()) => {
                        bytes.fetch_add(item.size, Ordering::Relaxed);
                    }
                    Err(error) => {
                        lock(&failed).get_or_insert(error);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let helpers = self.config.puller.processes.min(items.len()).saturating_sub(1);
            for _ in 0..helpers {
                scope.spawn(|| match start() {
                    Ok(mut process) => work(&mut process),
                    Err(error) => {
                        tracing::warn!(error = kuramori_model::fault::chain(&error), "one sender less");
                    }
                });
            }
            work(first);
        });
        match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(bytes.load(Ordering::Relaxed)),
        }
    }
}

/// A folder for what goes out; empty before and gone after.
struct Staging(PathBuf);

impl Staging {
    fn make(path: &Path) -> Result<Self> {
        if path.exists() {
            fs_err::remove_dir_all(path).map_err(Error::io("clear what went out before"))?;
        }
        fs_err::create_dir_all(path).map_err(Error::io("make what goes out"))?;
        Ok(Self(path.to_owned()))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs_err::remove_dir_all(&self.0);
    }
}
