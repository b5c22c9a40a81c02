//! The restore window: proven files go out to a clean, empty, create-only receiver, and nothing comes back.
//!
//! The receiver's certificate is pinned in the vault's configuration. What is sent is only what was proven
//! here: pinned `config` and keys, proven packs, our own index files, complete snapshots, in the order in
//! which a reader may believe them.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use kuramori_judge::retention::Verdict;
use kuramori_model::{gate::Purpose, ids::Sequence};
use kuramori_repo::{
    Cancel,
    store::{FileId, FileKind, LocalStore, Store},
};
use serde::Serialize;

use crate::{
    error::{Error, Result},
    pull::{Stop, lock},
    puller::process::{Process, meet},
    register::{FileState, PointState},
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
    /// Points that stay because they are suspect or damaged and no reason was stated.
    pub left_out: Vec<Sequence>,
    /// The stated reason, if such points went too.
    pub reason: Option<String>,
}

struct Item {
    kind: FileKind,
    id: FileId,
    size: u64,
}

impl Vault {
    /// Sends repositories to a receiver that the configuration names. All complete restore points of each go.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a receiver that is not configured, [`Error::UnknownRepository`],
    /// [`Error::Preflight`], network and gate errors.
    pub fn restore(
        &self,
        receiver: &str,
        repositories: &[String],
        options: &Options,
        cancel: &Cancel,
    ) -> Result<Finished> {
        let peer = self.config.receivers.get(receiver);
        let peer = peer
            .ok_or_else(|| Error::Invalid(format!("no receiver `{receiver}` is configured at the vault")))?;
        let (mut plans, mut left_out) = (Vec::new(), Vec::new());
        let reason = options.reason.clone().filter(|reason| !reason.trim().is_empty());
        if let Some(reason) = &reason {
            self.note(
                "restore.reason",
                &serde_json::json!({ "receiver": receiver, "repositories": repositories, "reason": reason }),
            )?;
        }
        for name in repositories {
            if let Some(plan) = self.plan(name, reason.as_deref(), &mut left_out)? {
                plans.push((name.clone(), plan));
            }
        }
        if plans.is_empty() && !left_out.is_empty() {
            let text = "every restore point is suspect or damaged; state a reason to send them".to_owned();
            return Err(Error::Preflight(text));
        }
        let seconds = self.preflight(options)?;
        let number = self.register.next_window(self.gate_last()?)?;
        let target = meet(peer, &self.config.limits)?;
        let stop = Stop::default();
        let mut sent = Sent { receiver: receiver.to_owned(), left_out, reason, ..Sent::default() };
        let mut finished =
            self.window(number, Purpose::Restore, peer, seconds, options, &stop, cancel, &mut || {
                let start = || {
                    let process =
                        Process::start(&self.config.puller, &target, self.config.limits, self.clock.clone())?;
                    stop.watch(&process.killer());
                    Ok::<_, Error>(process)
                };
                let mut first = start()?;
                for (name, stages) in &plans {
                    first.create(name)?;
                    for stage in stages {
                        let bytes = self.send(name, stage, &mut first, &start, &stop)?;
                        sent.files += stage.len() as u64;
                        sent.bytes += bytes;
                    }
                    sent.repositories.push(name.clone());
                }
                Ok(sent.bytes)
            })?;
        finished.bytes = sent.bytes;
        finished.sent = Some(sent);
        self.finish(&finished)?;
        if let Some(why) = &finished.why {
            return Err(Error::WindowOver(why.clone()));
        }
        Ok(finished)
    }

    /// What goes, stage by stage; none if every point stays.
    fn plan(
        &self,
        name: &str,
        reason: Option<&str>,
        left_out: &mut Vec<Sequence>,
    ) -> Result<Option<[Vec<Item>; 4]>> {
        let (config, keys) = self.register.pins(name)?;
        if config.is_none() || !self.folder.repository(name).join("config").is_file() {
            return Err(Error::UnknownRepository(name.to_owned()));
        }
        let store = LocalStore::new(self.folder.repository(name));
        let item = |kind, id| {
            let size = store.size(kind, id).map_err(Error::repository(name))?;
            Ok::<_, Error>(Item { kind, id, size })
        };
        let mut first = vec![item(FileKind::Config, FileId::ZERO)?];
        for key in keys {
            first.push(item(FileKind::Key, key)?);
        }
        let packs = self.register.files(name, FileKind::Pack)?;
        let packs = packs.into_iter().filter(|(_, file)| file.state == FileState::Verified);
        let packs = packs.map(|(id, file)| Item { kind: FileKind::Pack, id, size: file.size }).collect();
        let mut indexes = Vec::new();
        store
            .list(FileKind::Index, &mut |id, size| {
                indexes.push(Item { kind: FileKind::Index, id, size });
                Ok(())
            })
            .map_err(Error::repository(name))?;
        let (mut snapshots, before) = (Vec::new(), left_out.len());
        for point in self.register.points(Some(name))?.into_iter().filter(|p| p.state == PointState::Complete)
        {
            let bad = matches!(point.verdict, Verdict::Suspect | Verdict::Corrupt);
            if bad && reason.is_none() {
                left_out.push(point.sequence);
                continue;
            }
            snapshots.push(item(FileKind::Snapshot, point.snapshot)?);
        }
        if snapshots.is_empty() && left_out.len() > before {
            return Ok(None);
        }
        if snapshots.is_empty() {
            return Err(Error::Invalid(format!("`{name}` has no complete restore point at the vault")));
        }
        Ok(Some([first, packs, indexes, snapshots]))
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
        let store = LocalStore::new(self.folder.repository(name));
        let work = |process: &mut Process| {
            while lock(&failed).is_none() {
                let Some(item) = lock(&next).next() else { return };
                let mut one = || {
                    if stop.aborted() {
                        return Err(Error::WindowOver("it was closed".to_owned()));
                    }
                    let path = store.path(item.kind, item.id);
                    let mut file = fs_err::File::open(&path).map_err(Error::io("open a proven file"))?;
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
