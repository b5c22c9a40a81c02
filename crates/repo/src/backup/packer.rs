//! Packs: blobs gathered on disk, stored by threads of their own.
//!
//! Once a run has stored some MiB, two packs of each kind are open and a blob goes into one of them at random,
//! so that nobody who sees sizes and order learns which file was written (eprint 2025/532). A pack grows in a spool file,
//! is hashed while it grows, and is handed to an upload thread when it is full; a bounded channel keeps
//! the number of spool files small.

use std::{
    io::{BufWriter, Write},
    path::PathBuf,
    sync::{
        Mutex, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest;
use crossbeam_channel::{Receiver, SendTimeoutError, Sender};

use super::{Session, session::lock};
use crate::{
    Error, Result,
    format::{
        blob::{BlobKind, PackedBlob},
        index::{FULL, IndexedPack},
        pack,
    },
    store::{FileId, FileKind, Payload, Spool},
};

/// More blobs than this close a pack: its index entries must fit one index file.
const BLOBS_MAX: usize = FULL;
const BUFFER: usize = 256 << 10;
/// A run that stores less than this fills one pack: a nightly increment must not leave two small ones.
const SPREAD: u64 = 4 << 20;
/// Spool files that wait for an upload thread.
const WAITING: usize = 2;
/// An index file is written at least this often, so that a killed run loses little.
const INDEX_EVERY: Duration = Duration::from_mins(10);

struct OpenPack {
    out: BufWriter<Spool>,
    digest: digest::Context,
    blobs: Vec<PackedBlob>,
    size: u64,
}

impl std::fmt::Debug for OpenPack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenPack").field("size", &self.size).finish_non_exhaustive()
    }
}

struct Upload {
    id: FileId,
    spool: Spool,
    blobs: Vec<PackedBlob>,
}

#[derive(Debug)]
pub(super) struct Packer {
    spool_dir: PathBuf,
    target: u64,
    open: [[Mutex<Option<OpenPack>>; 2]; 2],
    /// Per kind, whether enough was written to open a second pack.
    spread: [AtomicBool; 2],
    sender: Mutex<Option<Sender<Upload>>>,
    receiver: Receiver<Upload>,
}

impl OpenPack {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(spool_error)?;
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }
}

fn spool_error(error: std::io::Error) -> Error {
    Error::io("write", "a pack's spool file", error)
}

impl Packer {
    pub(super) fn new(spool_dir: PathBuf, target: u64) -> Self {
        let (sender, receiver) = crossbeam_channel::bounded(WAITING);
        Self {
            spool_dir,
            target,
            open: Default::default(),
            spread: Default::default(),
            sender: Mutex::new(Some(sender)),
            receiver,
        }
    }

    /// Puts a sealed blob into an open pack.
    pub(super) fn append(&self, session: &Session, mut blob: PackedBlob, sealed: &[u8]) -> Result<()> {
        let kind = usize::from(blob.kind == BlobKind::Tree);
        let slots = &self.open[kind];
        let mut slot = if self.spread[kind].load(Ordering::Relaxed) {
            let pick = usize::from(session.repo.core.context.number() & 1 == 1);
            match slots[pick].try_lock() {
                Ok(slot) => slot,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // The other one is as random as this one, if this one is busy.
                Err(TryLockError::WouldBlock) => lock(&slots[1 - pick]),
            }
        } else {
            lock(&slots[0])
        };
        let open = match &mut *slot {
            Some(open) => open,
            empty => empty.insert(OpenPack {
                out: BufWriter::with_capacity(BUFFER, Spool::new_in(&self.spool_dir)?),
                digest: digest::Context::new(&digest::SHA256),
                blobs: Vec::new(),
                size: 0,
            }),
        };
        blob.offset =
            u32::try_from(open.size).map_err(|_| Error::Bug { what: "a pack above 4 GiB".to_owned() })?;
        open.write(sealed)?;
        open.blobs.push(blob);
        if open.size > SPREAD {
            self.spread[kind].store(true, Ordering::Relaxed);
        }
        if open.size < self.target && open.blobs.len() < BLOBS_MAX {
            return Ok(());
        }
        let full = slot.take();
        drop(slot);
        full.map_or(Ok(()), |full| self.close(session, full))
    }

    /// Adds the header and hands the pack to the upload threads; waits while they have enough.
    fn close(&self, session: &Session, mut open: OpenPack) -> Result<()> {
        let body = open.size;
        let sealed = session.repo.core.seal(&pack::encode_header(&open.blobs))?;
        let length = u32::try_from(sealed.len()).ok().filter(|length| *length <= pack::HEADER_MAX);
        let length = length.ok_or_else(|| Error::Bug { what: "a pack's header is too long".to_owned() })?;
        // Rule E2 for the header.
        let again = session.repo.open_header(sealed.clone(), body);
        if again.as_ref() != Ok(&open.blobs) {
            return Err(Error::Bug { what: "a new pack's header does not read back".to_owned() });
        }
        open.write(&sealed)?;
        open.write(&length.to_le_bytes())?;
        let spool = open.out.into_inner().map_err(|error| spool_error(error.into_error()))?;
        let mut id = FileId::ZERO;
        id.0.copy_from_slice(open.digest.finish().as_ref());
        let sender = lock(&self.sender).clone().ok_or(Error::Cancelled)?;
        let mut upload = Upload { id, spool, blobs: open.blobs };
        loop {
            session.storing()?;
            // Not forever: nobody takes it if the upload threads are gone.
            match sender.send_timeout(upload, Duration::from_millis(200)) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Timeout(back)) => upload = back,
                Err(SendTimeoutError::Disconnected(_)) => return Err(Error::Cancelled),
            }
        }
    }

    /// Closes the packs that are still open.
    pub(super) fn close_all(&self, session: &Session) -> Result<()> {
        for slot in self.open.iter().flatten() {
            let open = lock(slot).take();
            if let Some(open) = open {
                self.close(session, open)?;
            }
        }
        Ok(())
    }

    /// Lets the upload threads end after what is queued.
    pub(super) fn close_uploads(&self) {
        lock(&self.sender).take();
    }
}

/// An upload thread.
pub(super) fn upload(session: &Session) {
    for Upload { id, spool, blobs } in &session.packer.receiver {
        if session.storing().is_err() {
            // Drained, not stored: nobody must wait for room in the channel.
            continue;
        }
        let stored =
            session.repo.core.store.write(FileKind::Pack, id, Payload::Spool(&spool)).and_then(|()| {
                let pack = IndexedPack { id, blobs };
                session.repo.add_pack(&pack, INDEX_EVERY)?;
                session.release(&pack.blobs);
                Ok(())
            });
        if let Err(error) = stored {
            session.fail(error);
        }
    }
}
