//! Copying a repository to another store, byte for byte, without a key.
//!
//! Lists snapshots first, then indexes, then packs, and freezes the lists; copies packs first, then indexes,
//! then snapshots. So whatever is committed meanwhile at the source is either copied whole or not at all,
//! and the copy is a repository at every moment. A file that vanished between the listing and the copying (a
//! prune at the source) restarts the listing; what was copied stays. Every file is checked against the hash in
//! its name on the way. What the target already has is not copied again; nothing is ever removed there. A file
//! of the target that has another size than the source's is damage, and the mirror says so at its end.

use std::{
    collections::HashMap,
    io::Write,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crate::{
    Cancel, Error, Result,
    error::file_name,
    progress::Progress,
    store::{FileId, FileKind, Payload, Spool, Store},
};

/// Bytes of one read.
const STEP: u32 = 4 << 20;
/// Files that are copied at the same time: one reads while another is made durable.
const WORKERS: usize = 4;
/// Listings before a source that changes all the time is given up.
const ROUNDS: usize = 5;

/// What a mirror did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Mirrored {
    /// Files that were copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were already there.
    pub present: u64,
}

/// Copies what `to` lacks. `to` is made if there is no repository; one with another `config` is refused.
pub fn mirror(from: &dyn Store, to: &dyn Store, progress: &Progress, cancel: &Cancel) -> Result<Mirrored> {
    let config = from.read_config()?;
    to.create()?;
    match to.read_config() {
        Err(Error::NotFound { .. }) => to.write_config(&config)?,
        Ok(same) if same == config => {}
        Ok(_) => {
            return Err(Error::Invalid {
                what: format!("`{}` holds another repository", to.place()),
                hint: "give each repository a folder of its own".to_owned(),
            });
        }
        Err(other) => return Err(other),
    }
    let work = Work { from, to, progress, cancel, files: AtomicU64::new(0), bytes: AtomicU64::new(0) };
    let mut round = 1;
    let (present, differing) = loop {
        match work.round() {
            Err(Error::Missing { file }) if round < ROUNDS => {
                tracing::info!(file, "vanished at the source; lists it anew");
                round += 1;
            }
            other => break other?,
        }
    };
    let done = Mirrored {
        files: work.files.into_inner(),
        bytes: work.bytes.into_inner(),
        // What an earlier round copied is no news.
        present,
    };
    match differing {
        None => Ok(done),
        Some((kind, id)) => {
            let file = format!("{}/{}", to.place(), file_name(kind, id));
            let why = "it has another size than the same file of the source".to_owned();
            Err(Error::Damaged { file, why })
        }
    }
}

/// What is to be done of one kind.
#[derive(Debug, Default)]
struct Difference {
    missing: Vec<(FileId, u64)>,
    present: u64,
    differing: Option<FileId>,
}

struct Work<'a> {
    from: &'a dyn Store,
    to: &'a dyn Store,
    progress: &'a Progress,
    cancel: &'a Cancel,
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Work<'_> {
    /// One listing and its copies. Gives how many files were there before, and one that differs.
    fn round(&self) -> Result<(u64, Option<(FileKind, FileId)>)> {
        let before = self.files.load(Ordering::Relaxed);
        let kinds = [FileKind::Snapshot, FileKind::Index, FileKind::Pack, FileKind::Key];
        let mut frozen = Vec::new();
        for kind in kinds {
            frozen.push((kind, self.compare(kind)?));
        }
        let (mut present, mut differing) = (0, None);
        for (kind, difference) in frozen.into_iter().rev() {
            present += difference.present;
            differing = differing.or(difference.differing.map(|id| (kind, id)));
            let bytes = difference.missing.iter().map(|(_, size)| size).sum();
            self.progress.plan(difference.missing.len() as u64, bytes);
            self.copy_all(kind, &difference.missing)?;
        }
        Ok((present.saturating_sub(before), differing))
    }

    fn compare(&self, kind: FileKind) -> Result<Difference> {
        let mut there = HashMap::new();
        self.to.list(kind, &mut |id, size| {
            there.insert(id, size);
            Ok(())
        })?;
        let mut difference = Difference::default();
        self.from.list(kind, &mut |id, size| {
            match there.get(&id) {
                None => difference.missing.push((id, size)),
                Some(same) if *same == size => difference.present += 1,
                Some(_) => difference.differing = Some(id),
            }
            Ok(())
        })?;
        difference.missing.sort_unstable();
        Ok(difference)
    }

    /// Copies files of one kind, some at a time; all are durable when it returns.
    fn copy_all(&self, kind: FileKind, files: &[(FileId, u64)]) -> Result<()> {
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS.min(files.len()) {
                scope.spawn(|| {
                    while let Some((id, size)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.copy(kind, *id, *size) {
                            // The others stop at their next file.
                            next.store(files.len(), Ordering::Relaxed);
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                });
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn copy(&self, kind: FileKind, id: FileId, size: u64) -> Result<()> {
        let folder = self.to.spool_dir().unwrap_or_else(std::env::temp_dir);
        let mut spool = Spool::new_in(&folder)?;
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        let mut offset = 0;
        while offset < size {
            self.cancel.check()?;
            let step = u32::try_from(size - offset).unwrap_or(STEP).min(STEP);
            let bytes = self.from.read_range(kind, id, offset, step)?;
            hash.update(&bytes);
            spool.write_all(&bytes).map_err(|error| Error::io("write", file_name(kind, id), error))?;
            offset += u64::from(step);
            self.progress.done(0, u64::from(step));
        }
        if hash.finish().as_ref() != id.0 {
            return Err(Error::damaged(kind, id, "its bytes do not have the hash in its name"));
        }
        self.to.write(kind, id, Payload::Spool(&spool))?;
        self.progress.done(1, 0);
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }
}
