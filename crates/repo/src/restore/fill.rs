//! The second pass: packs are read in order and their blobs written where they belong.

use std::{
    os::unix::fs::FileExt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use fs_err::os::unix::fs::OpenOptionsExt;

use super::{
    RestoreOptions, Shortfalls, attributes,
    plan::{File, Piece, Plan},
};
use crate::{
    Cancel, Error, Result,
    format::blob::{BlobKind, PackedBlob},
    progress::Progress,
    repository::{Indexed, Repository},
    store::{FileId, FileKind},
};

/// Largest single read; together with the number of workers it bounds the memory.
const READ_MAX: u64 = 8 << 20;
/// Bytes between two wanted blobs that are cheaper to read than a further request.
const GAP_MAX: u64 = 64 << 10;
/// Pages of zeros of this size stay holes.
const PAGE: usize = 4096;

struct Filler<'a> {
    repository: &'a Repository<Indexed>,
    plan: &'a Plan,
    options: &'a RestoreOptions,
    progress: &'a Progress,
    shortfalls: &'a Shortfalls,
}

/// Neighbouring pieces of one pack that are read together.
struct Job<'a> {
    pack: FileId,
    pieces: &'a [Piece],
}

pub(super) fn fill(
    repository: &Repository<Indexed>,
    plan: &Plan,
    options: &RestoreOptions,
    progress: &Progress,
    cancel: &Cancel,
    shortfalls: &Shortfalls,
) -> Result<()> {
    let filler = Filler { repository, plan, options, progress, shortfalls };
    filler.empty_files();
    let jobs: Vec<Job<'_>> = plan.packs.iter().flat_map(|(pack, pieces)| jobs(*pack, pieces)).collect();
    let next = AtomicUsize::new(0);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..options.workers.clamp(1, 64) {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = cancel.check().and_then(|()| filler.work(job)) {
                        // The others stop at their next step.
                        next.store(jobs.len(), Ordering::Relaxed);
                        failure
                            .lock()
                            .unwrap_or_else(std::sync::PoisonError::into_inner)
                            .get_or_insert(error);
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Cuts a pack's pieces into runs that one read of at most [`READ_MAX`] covers.
fn jobs(pack: FileId, pieces: &[Piece]) -> Vec<Job<'_>> {
    let end = |piece: &Piece| u64::from(piece.blob.offset) + u64::from(piece.blob.length);
    let mut jobs = Vec::new();
    let mut first = 0;
    for at in 1..=pieces.len() {
        let cut = at == pieces.len()
            || u64::from(pieces[at].blob.offset) > end(&pieces[at - 1]) + GAP_MAX
            || end(&pieces[at]) - u64::from(pieces[first].blob.offset) > READ_MAX;
        if cut && at > first {
            jobs.push(Job { pack, pieces: &pieces[first..at] });
            first = at;
        }
    }
    jobs
}

impl Filler<'_> {
    /// Files without content have no blob that would lead to them.
    fn empty_files(&self) {
        for file in
            self.plan.files.iter().filter(|file| file.left.load(Ordering::Relaxed) == 0 && !file.is_failed())
        {
            match open(file) {
                Ok(handle) => self.finish(file, &handle),
                Err(error) => self.fail(file, &error, false),
            }
        }
    }

    fn work(&self, job: &Job<'_>) -> Result<()> {
        let (Some(first), Some(last)) = (job.pieces.first(), job.pieces.last()) else { return Ok(()) };
        let start = first.blob.offset;
        let length = last.blob.offset - start + last.blob.length;
        let read = self.repository.store().read_range(FileKind::Pack, job.pack, u64::from(start), length);
        for piece in job.pieces {
            let from = (piece.blob.offset - start) as usize;
            let sealed = match &read {
                Ok(bytes) => bytes.get(from..from + piece.blob.length as usize),
                Err(_) => None,
            };
            match self.open(&piece.blob, sealed) {
                Ok(plain) => self.write(piece, &plain),
                Err(error @ (Error::Cancelled | Error::Login { .. })) => return Err(error),
                Err(error) => {
                    for destination in &piece.destinations {
                        self.fail(&self.plan.files[destination.file as usize], &error, true);
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens the blob as it was read, or goes through every place where it lies.
    fn open(&self, blob: &PackedBlob, sealed: Option<&[u8]>) -> Result<Vec<u8>> {
        let opened = sealed.and_then(|sealed| self.repository.open_blob(blob, sealed.to_vec()).ok());
        opened.map_or_else(|| self.repository.load_blob(BlobKind::Data, &blob.id), Ok)
    }

    fn write(&self, piece: &Piece, plain: &[u8]) {
        for destination in &piece.destinations {
            let file = &self.plan.files[destination.file as usize];
            if file.is_failed() {
                continue;
            }
            let written = open(file).and_then(|handle| {
                write_without_zeros(handle.file(), plain, destination.offset)?;
                Ok(handle)
            });
            match written {
                Ok(handle) => {
                    self.progress.done(0, plain.len() as u64);
                    if file.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                        self.finish(file, &handle);
                    }
                }
                Err(error) => self.fail(file, &error, false),
            }
        }
    }

    fn finish(&self, file: &File, handle: &fs_err::File) {
        // The length makes the holes at the end.
        let finished = handle
            .set_len(file.node.size)
            .and_then(|()| attributes::of_file(handle, &file.node, self.options));
        self.progress.done(1, 0);
        if let Err(error) = finished {
            self.shortfalls.note(&file.path, &error, false);
        }
    }

    /// A file that cannot be whole is taken away: nobody may mistake it for the real one.
    fn fail(&self, file: &File, error: &dyn std::error::Error, damaged: bool) {
        if !file.is_failed() {
            file.fail();
            self.shortfalls.note(&file.path, error, damaged);
        }
        let _ = fs_err::remove_file(&file.place);
    }
}

/// Opens a file for its next piece. `O_NOFOLLOW`: a link that somebody put there leads nowhere.
fn open(file: &File) -> std::io::Result<fs_err::File> {
    fs_err::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&file.place)
}

fn write_without_zeros(file: &std::fs::File, plain: &[u8], offset: u64) -> std::io::Result<()> {
    let mut run = 0;
    let mut at = 0;
    while at < plain.len() {
        let page = &plain[at..plain.len().min(at + PAGE)];
        if page.iter().all(|byte| *byte == 0) {
            file.write_all_at(&plain[run..at], offset + run as u64)?;
            run = at + page.len();
        }
        at += page.len();
    }
    file.write_all_at(&plain[run..], offset + run as u64)
}
