//! Opening packs, several at a time.

use std::sync::{Condvar, Mutex, PoisonError, mpsc};

use kuramori_repo::{
    Indexed, Repository,
    check::VerifiedPack,
    format::index::IndexedPack,
    store::{FileId, FileKind},
};

use super::{INDEX_FULL, Proof, Proven};
use crate::{
    error::{Error, Result},
    pull::lock,
    register::FileState,
};

/// An index file is written at least after this many bytes of packs, so that a kill loses little work.
const FLUSH: u64 = 4 << 30;

/// How much memory the blobs of all threads may take. A pack's blobs cannot be larger than the pack, sealed,
/// and as much again unsealed.
struct Budget {
    left: Mutex<u64>,
    changed: Condvar,
    whole: u64,
}

impl Budget {
    fn take(&self, wanted: u64) -> u64 {
        let wanted = wanted.min(self.whole);
        let mut left = lock(&self.left);
        while *left < wanted {
            left = self.changed.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
        *left -= wanted;
        wanted
    }

    fn give(&self, taken: u64) {
        *lock(&self.left) += taken;
        self.changed.notify_all();
    }
}

impl Proof<'_> {
    /// Opens every pack that is not proven yet.
    pub(super) fn packs(&self, name: &str, indexed: &Repository<Indexed>, proven: &mut Proven) -> Result<()> {
        let mut work: Vec<(FileId, u64)> = self
            .register
            .files(name, FileKind::Pack)?
            .into_iter()
            .filter(|(_, file)| file.state == FileState::Fetched)
            .map(|(id, file)| (id, file.size))
            .collect();
        work.sort_unstable();
        let budget = Budget {
            left: Mutex::new(self.config.proof.memory.0),
            changed: Condvar::new(),
            whole: self.config.proof.memory.0,
        };
        let queue = Mutex::new(work.into_iter());
        let (send, receive) = mpsc::sync_channel::<(FileId, kuramori_repo::Result<VerifiedPack>)>(4);
        std::thread::scope(|scope| {
            for _ in 0..self.config.proof.threads.clamp(1, 64) {
                let (send, queue, budget) = (send.clone(), &queue, &budget);
                scope.spawn(move || {
                    while !self.cancel.is_cancelled() {
                        let Some((id, size)) = lock(queue).next() else { return };
                        let taken = budget.take(size.saturating_mul(2));
                        let outcome = indexed.verify_pack(id, None);
                        budget.give(taken);
                        if send.send((id, outcome)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            // An error here drops the receiver, and the threads end by themselves.
            self.gather(name, indexed, receive, proven)
        })?;
        self.cancel.check().map_err(Error::repository(name))
    }

    fn gather(
        &self,
        name: &str,
        indexed: &Repository<Indexed>,
        receive: mpsc::Receiver<(FileId, kuramori_repo::Result<VerifiedPack>)>,
        proven: &mut Proven,
    ) -> Result<()> {
        let mut pending: Vec<IndexedPack> = Vec::new();
        let (mut blobs, mut bytes) = (0, 0);
        for (id, outcome) in receive {
            match outcome {
                Ok(pack) if pack.flaws.is_empty() => {
                    proven.packs += 1;
                    proven.bytes += pack.bytes;
                    proven.blobs += pack.blobs.len() as u64;
                    blobs += pack.blobs.len();
                    bytes += pack.bytes;
                    pending.push(IndexedPack { id, blobs: pack.blobs });
                }
                Ok(pack) => {
                    let why = pack.flaws.first().map(ToString::to_string).unwrap_or_default();
                    self.quarantine(name, FileKind::Pack, id, &why, proven)?;
                }
                Err(
                    error @ (kuramori_repo::Error::Damaged { .. } | kuramori_repo::Error::Missing { .. }),
                ) => {
                    self.quarantine(name, FileKind::Pack, id, &error.to_string(), proven)?;
                }
                Err(other) => return Err(Error::repository(name)(other)),
            }
            if blobs >= INDEX_FULL || bytes >= FLUSH {
                self.keep(name, indexed, &mut pending)?;
                (blobs, bytes) = (0, 0);
            }
        }
        self.keep(name, indexed, &mut pending)
    }

    fn keep(&self, name: &str, indexed: &Repository<Indexed>, pending: &mut Vec<IndexedPack>) -> Result<()> {
        if pending.is_empty() {
            return Ok(());
        }
        indexed.save_index(pending).map_err(Error::repository(name))?;
        let ids: Vec<FileId> = pending.drain(..).map(|pack| pack.id).collect();
        self.register.set_files(name, FileKind::Pack, &ids, FileState::Verified, None)
    }
}
