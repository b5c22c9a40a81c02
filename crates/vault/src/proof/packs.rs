//! Opening packs, several at a time.

use std::sync::{
    Condvar, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
    mpsc,
};

use kuramori_model::finding::Severity;
use kuramori_repo::{
    Indexed, Repository,
    check::VerifiedPack,
    format::{blob::BlobKind, index::IndexedPack},
    store::{FileId, FileKind},
};

use super::{INDEX_FULL, Proof, Proven};
use crate::{
    error::{Error, Result},
    pull::{about, lock},
    register::FileState,
};

/// An index file is written at least after this many bytes of packs, so that a kill loses little work.
const FLUSH: u64 = 4 << 30;

/// How much memory the blobs of all threads may take; each thread holds one blob at a time.
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
        let mut work: Vec<FileId> = self
            .register
            .files(name, FileKind::Pack)?
            .into_iter()
            .filter(|(_, file)| file.state == FileState::Fetched)
            .map(|(id, _)| id)
            .collect();
        work.sort_unstable();
        let budget = Budget {
            left: Mutex::new(self.config.proof.memory.0),
            changed: Condvar::new(),
            whole: self.config.proof.memory.0,
        };
        let queue = Mutex::new(work.into_iter());
        let (until, late) = (proven.until, AtomicBool::new(false));
        let (send, receive) = mpsc::sync_channel::<(FileId, kuramori_repo::Result<VerifiedPack>)>(4);
        std::thread::scope(|scope| {
            for _ in 0..self.config.proof.threads.clamp(1, 64) {
                let (send, queue, budget, late) = (send.clone(), &queue, &budget, &late);
                scope.spawn(move || {
                    while !self.cancel.is_cancelled() {
                        if self.clock.boot() > until {
                            late.store(true, Ordering::Relaxed);
                            return;
                        }
                        let Some(id) = lock(queue).next() else { return };
                        let outcome = self.largest(indexed, id).and_then(|largest| {
                            let taken = budget.take(largest);
                            let verified = indexed.verify_pack(id, None);
                            budget.give(taken);
                            verified
                        });
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
        proven.unfinished |= late.into_inner();
        self.cancel.check().map_err(Error::repository(name))
    }

    /// The memory that the largest blob of a pack needs, sealed and unfolded. A pack that announces more than
    /// a blob may have is not opened at all: a few kilobytes can unfold to gigabytes.
    fn largest(&self, indexed: &Repository<Indexed>, id: FileId) -> kuramori_repo::Result<u64> {
        let mut largest = 0;
        for blob in indexed.pack_header(id)? {
            let most = match blob.kind {
                BlobKind::Data => self.config.proof.piece,
                BlobKind::Tree => self.config.proof.folder,
            };
            let plain = u64::from(blob.plain_length.unwrap_or(0));
            let unfolded = u64::from(blob.length).max(plain);
            // A seal adds 32 bytes.
            if unfolded > most.0.saturating_add(32) {
                return Err(kuramori_repo::Error::Invalid {
                    what: format!("it has a {} blob of {unfolded} bytes; {most} are opened", blob.kind),
                    hint: String::new(),
                });
            }
            largest = largest.max(u64::from(blob.length) + plain);
        }
        Ok(largest)
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
                // It stays unproven, and with it every restore point that needs it; the others go on.
                Err(kuramori_repo::Error::Invalid { what, .. }) => {
                    tracing::error!(repository = name, %id, what, "a pack is not opened");
                    let finding = about("vault.too-large-blob", Severity::Alarm, "investigate-primary", name);
                    proven.findings.push(finding.with("file", format!("data/{id}")).with("why", what));
                }
                Err(error @ kuramori_repo::Error::Io { .. }) => {
                    let why = kuramori_model::fault::chain(&error);
                    tracing::error!(repository = name, %id, why, "a pack cannot be read");
                    let finding = about("vault.disk-damage", Severity::Alarm, "check-disk", name);
                    proven.findings.push(finding.with("file", format!("data/{id}")).with("why", why));
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
