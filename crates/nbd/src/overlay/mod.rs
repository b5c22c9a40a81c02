//! A disk that must not change becomes writable: what is written goes into a file beside it.
//!
//! ```text
//! 0        header: magic, version, block size, disk size, places, id of the disk below, SHA-256     4 KiB
//! 4096     one bit for each block of 4 KiB, the first block in the lowest bit of the first byte
//! data     an image of the disk as long as itself, with holes where nothing was written            at a whole MiB
//! ```
//!
//! A block whose bit is set lies here, every other one in the disk below. A write that covers a block in part
//! fills it up from below first. The order is the safety: a bit is written only after the bytes that it speaks for
//! are durable, and a flush is answered only after the bits are. Bits only ever go from 0 to 1, so a torn page of
//! them is an older page, not a wrong one. After a crash at any moment everything that was flushed is there, and
//! what was written since the last flush is there or not, sector by sector, as on any disk.
//!
//! If the kernel reports that bytes could not be made durable, nobody knows which ones it dropped: from then on
//! the overlay only reads.

mod layout;
mod marks;
mod medium;
#[cfg(test)]
mod simulation;

use std::{
    fmt, io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use kuramori_model::blocks::{BlockError, Blocks, Extent};
use rustix::fs::FlockOperation;

use crate::{Error, Result, wire::PIECE};
use layout::{BLOCK, Layout};
use marks::Marks;
use medium::{FileMedium, Medium};

/// Which disk an overlay belongs to: anything that is the same for the same content and different otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseId(pub [u8; 32]);

/// Writers of one unit of this size wait for each other.
const UNIT: u64 = 1 << 20;
const STRIPES: usize = 64;
/// Zeros are made in steps of this size, so that nobody waits long.
const ZERO_STEP: u64 = 16 << 20;
/// Pages of marks that are made durable in one go.
const BATCH: usize = 256;

#[derive(Debug, Default)]
struct Flushes {
    running: bool,
    started: u64,
    finished: u64,
}

/// A writable disk over one that is not; see the module.
pub struct Overlay {
    base: Arc<dyn Blocks>,
    size: u64,
    layout: Layout,
    medium: Box<dyn Medium>,
    marks: Marks,
    stripes: Vec<Mutex<()>>,
    flushes: Mutex<Flushes>,
    flushed: Condvar,
    broken: AtomicBool,
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay")
            .field("size", &self.size)
            .field("medium", &self.medium)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Overlay {
    /// Opens the overlay in a file, or makes it. Nobody else may use the file meanwhile.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a file that is something else or belongs to another disk; nothing is changed then.
    /// [`Error::Busy`], [`Error::Overlay`].
    pub fn open(file: &Path, base: Arc<dyn Blocks>, id: BaseId) -> Result<Self> {
        let failed = |action| move |source| Error::Overlay { action, file: file.to_owned(), source };
        let handle = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default())
            .open(file)
            .map_err(failed("open"))?;
        match rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Busy { file: file.to_owned() }),
            Err(error) => return Err(failed("lock")(error.into())),
        }
        let length = handle.metadata().map_err(failed("read"))?.len();
        let medium = FileMedium(handle);
        let layout = Layout::of(base.size());
        let mut header = vec![0; usize::try_from(length.min(layout::HEADER)).unwrap_or(0)];
        medium.read_at(0, &mut header).map_err(failed("read"))?;
        if header.iter().all(|byte| *byte == 0) && (length == 0 || length == layout.end()) {
            // New, or its making was cut off before anything could be written.
            medium
                .0
                .set_len(layout.end())
                .and_then(|()| medium.write_at(0, &layout.encode(id)))
                .and_then(|()| medium.0.sync_all())
                .and_then(|()| sync_folder(file))
                .map_err(failed("make"))?;
        } else {
            let foreign = |why: String| Error::Foreign { file: file.to_owned(), why };
            layout.check(&header, id).map_err(foreign)?;
            if length < layout.end() {
                return Err(foreign(format!("it has {length} bytes instead of {}", layout.end())));
            }
        }
        Self::over(Box::new(medium), base, layout).map_err(failed("read"))
    }

    fn over(medium: Box<dyn Medium>, base: Arc<dyn Blocks>, layout: Layout) -> io::Result<Self> {
        let marks = Marks::load(layout.blocks(), &mut |at, page| medium.read_at(layout::HEADER + at, page))?;
        Ok(Self {
            size: base.size(),
            base,
            layout,
            medium,
            marks,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            flushes: Mutex::default(),
            flushed: Condvar::new(),
            broken: AtomicBool::new(false),
        })
    }

    /// Bytes of the disk that lie in the overlay.
    pub fn held(&self) -> u64 {
        (self.marks.count() * BLOCK).min(self.size)
    }

    /// Whether nothing is read from the disk below any more.
    pub fn is_whole(&self) -> bool {
        self.marks.count() == self.layout.blocks()
    }

    /// Copies what is still missing from the disk below, the unit at `at` and what follows; gives where the next
    /// one begins, none at the end. What is written meanwhile is never overwritten. Not durable before a flush.
    ///
    /// # Errors
    /// As a read of the disk below and a write here.
    pub fn fill(&self, at: u64) -> std::result::Result<Option<u64>, BlockError> {
        let from = at - at % UNIT;
        if from >= self.size {
            return Ok(None);
        }
        let end = (from + UNIT).min(self.size);
        let mut place = from;
        while place < end {
            let (run, present) = self.run(place, end - place);
            place += if present { run } else { self.copy(place, run, end)? };
        }
        Ok((end < self.size).then_some(end))
    }

    /// Copies at most `run` bytes of blocks that lie below. Gives how many.
    fn copy(&self, place: u64, run: u64, end: u64) -> std::result::Result<u64, BlockError> {
        let extent = self.base.extent(place, run)?;
        let mut run = extent.length.clamp(1, run);
        if place + run < end {
            // One that ends inside a block would mark bytes that were not copied.
            run = (run - run % BLOCK).max(BLOCK).min(end - place);
        }
        if extent.zero && extent.length >= run {
            self.put_missing(place, run, None)?;
        } else {
            let mut buffer = vec![0; usize::try_from(run).unwrap_or(PIECE)];
            self.base.read_at(place, &mut buffer)?;
            self.put_missing(place, run, Some(&buffer))?;
        }
        Ok(run)
    }

    /// Writes what came from below, as far as nobody wrote there meanwhile.
    fn put_missing(
        &self,
        from: u64,
        length: u64,
        data: Option<&[u8]>,
    ) -> std::result::Result<(), BlockError> {
        self.usable()?;
        let _writing = lock(self.stripe(from));
        let mut at = from;
        while at < from + length {
            let (run, present) = self.run(at, from + length - at);
            if !present {
                match data {
                    Some(data) => {
                        let start = usize::try_from(at - from).unwrap_or(0);
                        let end = start + usize::try_from(run).unwrap_or(0);
                        self.medium.write_at(self.layout.data + at, &data[start..end])?;
                    }
                    None => self.punch(at, run)?,
                }
                self.mark(at, run);
            }
            at += run;
        }
        Ok(())
    }

    fn stripe(&self, at: u64) -> &Mutex<()> {
        // The remainder fits whatever a usize has.
        &self.stripes[usize::try_from(at / UNIT % STRIPES as u64).unwrap_or(0)]
    }

    fn usable(&self) -> std::result::Result<(), BlockError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(BlockError::failed(
                "the overlay could not be made durable earlier, so it takes no more writes",
            ));
        }
        Ok(())
    }

    /// The run of blocks from `at` that all lie here or all lie below.
    fn run(&self, at: u64, length: u64) -> (u64, bool) {
        let end = at + length;
        let (until, present) = self.marks.run(at / BLOCK, end.div_ceil(BLOCK));
        ((until * BLOCK).min(end) - at, present)
    }

    fn mark(&self, at: u64, length: u64) {
        self.marks.set(at / BLOCK, (at + length).div_ceil(BLOCK));
    }

    /// Makes whole blocks read as zeros here.
    fn punch(&self, at: u64, length: u64) -> io::Result<()> {
        if self.medium.punch(self.layout.data + at, length)? {
            return Ok(());
        }
        let zeros = vec![0; PIECE.min(usize::try_from(length).unwrap_or(PIECE))];
        let mut done = 0;
        while done < length {
            let step = (length - done).min(zeros.len() as u64);
            let part = &zeros[..usize::try_from(step).unwrap_or(0)];
            self.medium.write_at(self.layout.data + at + done, part)?;
            done += step;
        }
        Ok(())
    }

    /// A write within one unit, whose stripe is locked.
    fn write_unit(&self, offset: u64, data: &[u8]) -> std::result::Result<(), BlockError> {
        let end = offset + data.len() as u64;
        let (first, last) = (offset / BLOCK, (end - 1) / BLOCK);
        let head = if self.marks.has(first) { offset } else { first * BLOCK };
        let tail = if self.marks.has(last) { end } else { ((last + 1) * BLOCK).min(self.size) };
        if head == offset && tail == end {
            self.medium.write_at(self.layout.data + offset, data)?;
        } else {
            let mut whole = vec![0; usize::try_from(tail - head).unwrap_or(0)];
            let start = usize::try_from(offset - head).unwrap_or(0);
            let stop = start + data.len();
            if start > 0 {
                self.base.read_at(head, &mut whole[..start])?;
            }
            if tail > end {
                self.base.read_at(end, &mut whole[stop..])?;
            }
            whole[start..stop].copy_from_slice(data);
            self.medium.write_at(self.layout.data + head, &whole)?;
        }
        self.marks.set(first, last + 1);
        Ok(())
    }

    fn flush_now(&self) -> io::Result<()> {
        let mut from = 0;
        loop {
            // The copies are taken before the bytes are made durable: a bit that is set meanwhile waits.
            let (pages, next) = self.marks.take_dirty(from, BATCH);
            self.medium.sync()?;
            if pages.is_empty() {
                return Ok(());
            }
            for (number, page) in &pages {
                self.medium.write_at(layout::HEADER + number * page.len() as u64, page)?;
            }
            match next {
                Some(next) => from = next,
                None => return self.medium.sync(),
            }
        }
    }
}

fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::File::open(folder)?.sync_all()
}

impl Blocks for Overlay {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::result::Result<(), BlockError> {
        self.check_range(offset, buffer.len() as u64)?;
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let (run, present) = self.run(at, rest.len() as u64);
            let (part, after) = rest.split_at_mut(usize::try_from(run).unwrap_or(usize::MAX));
            if present {
                self.medium.read_at(self.layout.data + at, part)?;
            } else {
                self.base.read_at(at, part)?;
            }
            (at, rest) = (at + run, after);
        }
        Ok(())
    }

    fn extent(&self, offset: u64, length: u64) -> std::result::Result<Extent, BlockError> {
        self.check_range(offset, length)?;
        let (run, present) = self.run(offset, length);
        if !present {
            return self.base.extent(offset, run);
        }
        let (run, data) = self.medium.run(self.layout.data + offset, run);
        Ok(if data { Extent::data(run) } else { Extent::hole(run) })
    }

    fn written(&self, offset: u64, length: u64) -> Option<(u64, bool)> {
        Some(self.run(offset, length))
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> std::result::Result<(), BlockError> {
        self.check_range(offset, data.len() as u64)?;
        self.usable()?;
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let here = usize::try_from(UNIT - at % UNIT).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at(here);
            let writing = lock(self.stripe(at));
            self.write_unit(at, part)?;
            drop(writing);
            (at, rest) = (at + here as u64, after);
        }
        Ok(())
    }

    fn write_zeros(&self, offset: u64, length: u64, hole: bool) -> std::result::Result<(), BlockError> {
        self.check_range(offset, length)?;
        self.usable()?;
        let end = offset + length;
        let zeros = vec![0; usize::try_from(length).unwrap_or(PIECE).min(PIECE)];
        let write = |mut at: u64, end: u64| {
            while at < end {
                let step = (end - at).min(zeros.len() as u64);
                self.write_at(at, &zeros[..usize::try_from(step).unwrap_or(0)])?;
                at += step;
            }
            Ok(())
        };
        // Whole blocks only; the last one of the disk may be short.
        let first = offset.next_multiple_of(BLOCK).min(end);
        let last = if end == self.size { end } else { (end - end % BLOCK).max(first) };
        if !hole || first == last {
            return write(offset, end);
        }
        write(offset, first)?;
        let mut at = first;
        while at < last {
            let step = (last - at).min(ZERO_STEP - at % ZERO_STEP);
            let mut wanted: Vec<usize> = (at / UNIT..=(at + step - 1) / UNIT)
                .map(|unit| usize::try_from(unit % STRIPES as u64).unwrap_or(0))
                .collect();
            // Always in the same order, so that two of us never wait for each other.
            wanted.sort_unstable();
            wanted.dedup();
            let writing: Vec<_> = wanted.iter().map(|stripe| lock(&self.stripes[*stripe])).collect();
            self.punch(at, step)?;
            self.mark(at, step);
            drop(writing);
            at += step;
        }
        write(last, end)
    }

    fn flush(&self) -> std::result::Result<(), BlockError> {
        let mut state = lock(&self.flushes);
        // One that already runs may have begun before what we have to cover.
        let needed = state.started + 1;
        while state.finished < needed {
            self.usable()?;
            if state.running {
                state = self.flushed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.running = true;
            state.started += 1;
            let number = state.started;
            drop(state);
            let outcome = self.flush_now();
            if outcome.is_err() {
                self.broken.store(true, Ordering::Release);
            }
            state = lock(&self.flushes);
            state.running = false;
            state.finished = number;
            drop(state);
            self.flushed.notify_all();
            return outcome.map_err(BlockError::from);
        }
        self.usable()
    }
}
