//! The second pass: packs are read in order and their blobs written where they belong.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use crossbeam_channel::{Receiver, Sender};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{
    Shared, attributes,
    plan::{File, Piece, Window},
};
use crate::{
    Error, Result,
    format::blob::{BlobKind, PackedBlob},
    store::{FileId, FileKind},
};

/// Largest single read; together with the number of workers it bounds the memory.
const READ_MAX: u64 = 8 << 20;
/// Bytes between two wanted blobs that are cheaper to read than a further request.
const GAP_MAX: u64 = 64 << 10;
/// Pages of zeros of this size stay holes.
const PAGE: usize = 4096;

/// Neighbouring pieces of one pack that are read together.
pub(super) struct Job {
    window: Arc<Window>,
    pieces: std::ops::Range<usize>,
    /// Some of the window's files without content.
    empty: std::ops::Range<usize>,
}

/// Cuts a window into jobs and hands them to the workers; waits while they have enough.
pub(super) fn hand_out(shared: &Shared<'_>, window: Window, jobs: &Sender<Job>) -> Result<()> {
    let window = Arc::new(window);
    let give = |pieces, empty| {
        shared.going()?;
        let job = Job { window: Arc::clone(&window), pieces, empty };
        jobs.send(job).map_err(|_| Error::Cancelled)
    };
    for start in (0..window.empty.len()).step_by(64) {
        give(0..0, start..(start + 64).min(window.empty.len()))?;
    }
    let end = |piece: &Piece| u64::from(piece.blob.offset) + u64::from(piece.blob.length);
    let pieces = &window.pieces;
    let mut first = 0;
    for at in 1..=pieces.len() {
        let cut = at == pieces.len()
            || pieces[at].pack != pieces[first].pack
            || u64::from(pieces[at].blob.offset) > end(&pieces[at - 1]) + GAP_MAX
            || end(&pieces[at]).saturating_sub(u64::from(pieces[first].blob.offset)) > READ_MAX;
        if cut {
            give(first..at, 0..0)?;
            first = at;
        }
    }
    Ok(())
}

/// A worker: does jobs until there are no more. After a failure it only takes them, so that nobody waits.
pub(super) fn work(shared: &Shared<'_>, jobs: &Receiver<Job>) {
    let mut buffers = Buffers::default();
    for job in jobs {
        if let Err(error) = shared.going().and_then(|()| buffers.work(shared, &job)) {
            shared.stop(error);
        }
    }
}

/// What one worker uses again for each job.
#[derive(Default)]
struct Buffers {
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

impl Buffers {
    fn work(&mut self, shared: &Shared<'_>, job: &Job) -> Result<()> {
        for file in &job.window.empty[job.empty.clone()] {
            match open(shared, file) {
                Ok(handle) => finish(shared, file, &handle, 0),
                Err(error) => shared.fail(file, &error, false),
            }
        }
        let pieces = &job.window.pieces[job.pieces.clone()];
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(()) };
        let start = first.blob.offset;
        let length = u64::from(last.blob.offset - start) + u64::from(last.blob.length);
        let read = self.read(shared, first.pack, start, length);
        for piece in pieces {
            let opened =
                if read { self.open(shared, piece, (piece.blob.offset - start) as usize) } else { None };
            let again;
            let plain = match opened {
                Some(plain) => plain,
                // Through every place where the blob lies; the error names what is wrong with each.
                None => match shared.repository.load_blob(BlobKind::Data, &piece.blob.id) {
                    Ok(plain) => {
                        again = plain;
                        &again
                    }
                    Err(error @ (Error::Damaged { .. } | Error::Missing { .. } | Error::Io { .. })) => {
                        for to in &job.window.destinations[piece.destinations.clone()] {
                            shared.fail(&job.window.files[to.file as usize], &error, true);
                        }
                        continue;
                    }
                    // A store that cannot be reached says nothing about the data: nothing more is touched.
                    Err(other) => return Err(other),
                },
            };
            for to in &job.window.destinations[piece.destinations.clone()] {
                write(shared, &job.window.files[to.file as usize], plain, to.offset);
            }
        }
        Ok(())
    }

    /// Reads a part of a pack; `false` if that did not work in one piece.
    fn read(&mut self, shared: &Shared<'_>, pack: FileId, start: u32, length: u64) -> bool {
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= BIGGEST) else {
            return false;
        };
        if self.sealed.len() < length {
            self.sealed.resize(length, 0);
        }
        let store = shared.repository.store();
        store.read_into(FileKind::Pack, pack, u64::from(start), &mut self.sealed[..length]).is_ok()
    }

    /// The plain bytes of a blob that was read; `None` if they are not what the id says.
    fn open(&mut self, shared: &Shared<'_>, piece: &Piece, from: usize) -> Option<&[u8]> {
        let PackedBlob { length, .. } = piece.blob;
        let sealed = self.sealed.get_mut(from..from + length as usize)?;
        shared.repository.core.open_in_place(&piece.blob, sealed, &mut self.plain).ok()
    }
}

/// A job's pieces lie within [`READ_MAX`], except for one blob that is larger by itself.
const BIGGEST: usize = crate::repository::BLOB_MAX as usize + (8 << 20);

fn write(shared: &Shared<'_>, file: &Arc<File>, plain: &[u8], offset: u64) {
    if file.is_failed() {
        return;
    }
    let written = open(shared, file).and_then(|handle| {
        let end = write_without_zeros(&handle, plain, offset)?;
        Ok((handle, end))
    });
    match written {
        Ok((handle, end)) => {
            shared.progress.done(0, plain.len() as u64);
            if file.left.fetch_sub(1, std::sync::atomic::Ordering::AcqRel) == 1 {
                // Only a file of one piece is known to have no hole at its end.
                finish(shared, file, &handle, if offset == 0 { end } else { 0 });
            }
        }
        Err(error) => shared.fail(file, &error, false),
    }
}

/// All pieces are there. `written` is the length that the file surely has.
fn finish(shared: &Shared<'_>, file: &Arc<File>, handle: &OwnedFd, written: u64) {
    // The length makes the hole at the end.
    let length = if written == file.node.size {
        Ok(())
    } else {
        rustix::fs::ftruncate(handle, file.node.size).map_err(std::io::Error::from)
    };
    let finished = attributes::of_file(handle.as_fd(), &file.node, shared);
    shared.progress.done(1, 0);
    shared.count(file.node.size);
    if let Err(error) = length.and(finished) {
        shared.shortfalls.note(&file.path, &error, false);
    }
}

/// Opens a file for its next piece. No link that somebody put on the way is followed, and no path leads out of
/// the target.
fn open(shared: &Shared<'_>, file: &File) -> std::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    beneath(shared, file.path.as_bytes(), flags, Mode::from_raw_mode(0o600))
}

/// Opens a path below the target.
pub(super) fn beneath(
    shared: &Shared<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> std::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let opened = rustix::io::retry_on_intr(|| {
        match rustix::fs::openat2(&shared.target, path, flags, mode, resolve) {
            // A sandbox that does not know the call.
            Err(rustix::io::Errno::NOSYS) => rustix::fs::openat(&shared.target, path, flags, mode),
            other => other,
        }
    });
    Ok(opened?)
}

/// Gives the end of the last byte that was written.
fn write_without_zeros(file: &OwnedFd, plain: &[u8], offset: u64) -> std::io::Result<u64> {
    let mut written = 0;
    let mut run = 0;
    let mut at = 0;
    while at < plain.len() {
        let page = &plain[at..plain.len().min(at + PAGE)];
        if is_zero(page) {
            written = write_at(file, &plain[run..at], offset + run as u64)?.max(written);
            run = at + page.len();
        }
        at += page.len();
    }
    Ok(write_at(file, &plain[run..], offset + run as u64)?.max(written))
}

fn is_zero(page: &[u8]) -> bool {
    // Most pages show at their first bytes that they are not empty.
    page.iter().take(16).all(|byte| *byte == 0) && page.iter().fold(0, |all, byte| all | byte) == 0
}

fn write_at(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> std::io::Result<u64> {
    if bytes.is_empty() {
        return Ok(0);
    }
    while !bytes.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::pwrite(file, bytes, offset))?;
        if count == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[count..];
        offset += count as u64;
    }
    Ok(offset)
}
