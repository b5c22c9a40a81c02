//! Disks as fixed chunks in segments, whole and as what changed.

use std::{
    collections::BTreeMap,
    os::unix::fs::FileExt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use kuramori_model::{
    blocks::{BlockError, Blocks, Extent},
    clock::{Random, SeededRandom},
    tree::TreePath,
};
use kuramori_repo::{
    Repository,
    backup::{Committed, Draft, Options},
    chunk::Chunking,
    disk::{CHUNK, Dirty, DiskStored, SEGMENT, Whole},
    format::blob::BlobId,
    reading::{ReadOptions, Reader},
    repository::Indexed,
    store::FileId,
};

use super::common::{Place, restic};

/// A disk of which only what was written takes memory; it counts what is read.
#[derive(Debug)]
struct Sparse {
    size: u64,
    pages: Mutex<BTreeMap<u64, Vec<u8>>>,
    read: AtomicU64,
    /// Reading this place fails.
    bad: Option<u64>,
}

const PAGE: u64 = 64 << 10;

impl Sparse {
    fn new(size: u64) -> Self {
        Self { size, pages: Mutex::default(), read: AtomicU64::new(0), bad: None }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut pages = self.pages.lock().unwrap();
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let from = (at % PAGE) as usize;
            let (part, after) = rest.split_at(rest.len().min(PAGE as usize - from));
            let page = pages.entry(at / PAGE).or_insert_with(|| vec![0; PAGE as usize]);
            page[from..from + part.len()].copy_from_slice(part);
            (at, rest) = (at + part.len() as u64, after);
        }
    }

    fn read_count(&self) -> u64 {
        self.read.swap(0, Ordering::Relaxed)
    }
}

impl Blocks for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), BlockError> {
        self.check_range(offset, buffer.len() as u64)?;
        if self.bad.is_some_and(|bad| (offset..offset + buffer.len() as u64).contains(&bad)) {
            return Err(BlockError::failed("a bad sector"));
        }
        self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        let pages = self.pages.lock().unwrap();
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let from = (at % PAGE) as usize;
            let middle = rest.len().min(PAGE as usize - from);
            let (part, after) = rest.split_at_mut(middle);
            match pages.get(&(at / PAGE)) {
                Some(page) => part.copy_from_slice(&page[from..from + middle]),
                None => part.fill(0),
            }
            (at, rest) = (at + middle as u64, after);
        }
        Ok(())
    }

    fn extent(&self, offset: u64, length: u64) -> Result<Extent, BlockError> {
        let pages = self.pages.lock().unwrap();
        let next = pages.range(offset / PAGE..).next().map_or(self.size, |(page, _)| page * PAGE);
        Ok(if next > offset {
            Extent::hole((next - offset).min(length))
        } else {
            Extent::data(PAGE.min(length))
        })
    }
}

fn name() -> TreePath {
    TreePath::new("vm/vda").unwrap()
}

fn back_up(
    repository: &Repository<Indexed>,
    disk: &Sparse,
    parent: Option<FileId>,
    dirty: Option<&Dirty>,
) -> (Committed, DiskStored, BlobId) {
    let options = Options { chunking: Chunking::Fixed, parent, ..Options::default() };
    let mut backup = repository.backup(options).unwrap();
    let stored = backup.put_disk(&name(), disk, dirty).unwrap();
    let committed = backup.commit(Draft::default()).unwrap();
    let snapshot = repository.snapshot(committed.id).unwrap();
    let mark = repository.disk_mark(&snapshot.tree, &name()).unwrap();
    (committed, stored, mark)
}

/// A size near a border of segments or chunks.
fn odd_size(random: &SeededRandom) -> u64 {
    match random.below(4) {
        0 => random.below(5 << 20),
        1 => SEGMENT + random.below(3 << 20) - (1 << 20),
        2 => 2 * SEGMENT,
        _ => (random.below(40) + 1) << 20,
    }
}

#[test]
fn an_increment_equals_a_full_read_bit_for_bit() {
    let rounds = if std::env::var_os("KURAMORI_LONG").is_some() { 60 } else { 4 };
    for seed in 1..=rounds {
        println!("seed {seed}");
        let random = SeededRandom::new(seed);
        let place = Place::new();
        let repository = place.create().index().unwrap();
        let disk = Sparse::new(odd_size(&random));
        let scribble = || {
            let mut ranges = Vec::new();
            for _ in 0..random.below(12) {
                let at = random.below(disk.size.max(1));
                let length = (random.below(2 << 20) + 1).min(disk.size - at.min(disk.size));
                let mut data = vec![0; length as usize];
                if random.below(4) > 0 {
                    random.fill(&mut data);
                }
                disk.write(at, &data);
                // More than what changed, as a bitmap with coarse blocks says.
                ranges.push(at - at % 4096..(at + length).next_multiple_of(4096));
            }
            ranges
        };
        scribble();
        let (mut last, stored, mut mark) = back_up(&repository, &disk, None, None);
        assert_eq!(stored.whole, Some(Whole::NoMap));
        for _ in 0..4 {
            disk.read_count();
            let dirty = Dirty { since: mark, size: disk.size, ranges: scribble() };
            let chunks: std::collections::BTreeSet<u64> = dirty
                .ranges
                .iter()
                .flat_map(|range| range.start / CHUNK..range.end.min(disk.size).div_ceil(CHUNK))
                .collect();
            let (now, stored, increment) = back_up(&repository, &disk, Some(last.id), Some(&dirty));
            assert_eq!(stored.whole, None);
            assert_eq!(disk.read_count(), stored.read);
            assert!(stored.read <= chunks.len() as u64 * CHUNK, "only what changed is read");
            assert_eq!(stored.read + stored.kept + stored.holes, disk.size);
            let (_, _, full) = back_up(&repository, &disk, None, None);
            assert_eq!(increment, full, "the same bytes have the same mark");
            (last, mark) = (now, increment);
        }
        // The mark could be wrong twice in the same way; the bytes themselves cannot.
        let snapshot = repository.snapshot(last.id).unwrap();
        let reader = Reader::new(repository, ReadOptions::default()).unwrap();
        let file = reader.open_path(&snapshot.tree, &name()).unwrap();
        assert_eq!(file.size(), disk.size);
        let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut at = 0;
        while at < disk.size {
            let length = (1 << 20).min(disk.size - at) as usize;
            if !Blocks::extent(&file, at, length as u64).unwrap().zero
                || !disk.extent(at, length as u64).unwrap().zero
            {
                Blocks::read_at(&file, at, &mut ours[..length]).unwrap();
                disk.read_at(at, &mut theirs[..length]).unwrap();
                assert!(ours[..length] == theirs[..length], "at {at}");
            }
            at += length as u64;
        }
    }
}

#[test]
fn a_map_of_changes_that_does_not_fit_is_not_believed() {
    let place = Place::new();
    let repository = place.create().index().unwrap();
    let disk = Sparse::new((5 << 20) + 512);
    disk.write(0, &vec![1; 3 << 20]);
    let (first, _, mark) = back_up(&repository, &disk, None, None);
    disk.write(100, b"changed");
    // None of these maps names the change; whoever believes it loses it.
    let lie = Dirty { since: mark, size: disk.size, ranges: Vec::new() };
    let (_, stored, kept) = back_up(&repository, &disk, Some(first.id), Some(&lie));
    assert_eq!((stored.whole, kept == mark), (None, true), "the test would notice: a believed map loses it");
    let (_, _, truth) = back_up(&repository, &disk, None, None);
    for (parent, dirty, why) in [
        (None, lie.clone(), Whole::NoParent),
        (Some(first.id), Dirty { since: BlobId([3; 32]), ..lie.clone() }, Whole::OtherMark),
        (Some(first.id), Dirty { size: disk.size + 512, ..lie.clone() }, Whole::OtherSize),
    ] {
        let (_, stored, now) = back_up(&repository, &disk, parent, Some(&dirty));
        assert_eq!(stored.whole, Some(why));
        assert_eq!(now, truth);
    }
    let grown = Sparse::new(8 << 20);
    let (_, stored, _) =
        back_up(&repository, &grown, Some(first.id), Some(&Dirty { size: grown.size, ..lie }));
    assert_eq!(stored.whole, Some(Whole::OtherSize), "a disk that grew is read whole");

    // A sector that cannot be read: no restore point.
    let before = repository.snapshots().unwrap().len();
    let broken = Sparse { bad: Some(2 << 20), ..Sparse::new(3 << 20) };
    broken.write(0, &vec![7; 3 << 20]);
    let options = Options { chunking: Chunking::Fixed, ..Options::default() };
    let mut backup = repository.backup(options).unwrap();
    let error = backup.put_disk(&name(), &broken, None).unwrap_err();
    assert!(error.to_string().contains("vm/vda"), "{error}");
    assert!(backup.commit(Draft::default()).is_err());
    assert_eq!(repository.snapshots().unwrap().len(), before);
}

#[test]
fn a_restic_gives_the_disk_back_and_a_lost_pack_is_read_again() {
    // A disk of more than one segment takes minutes where the test itself is not optimised.
    if std::env::var_os("KURAMORI_LONG").is_none() {
        return;
    }
    let place = Place::new();
    let repository = place.create().index().unwrap();
    let disk = Sparse::new(SEGMENT + (2 << 20) + 1000);
    let mut noise = vec![0; 3 << 20];
    SeededRandom::new(6).fill(&mut noise);
    disk.write(SEGMENT - (1 << 20), &noise[..2 << 20]);
    disk.write(disk.size - 1000, &noise[..1000]);
    let (first, _, mark) = back_up(&repository, &disk, None, None);
    restic(&place.repo(), &["check", "--read-data"]).unwrap();
    let target = place.dir.path().join("out");
    restic(&place.repo(), &["restore", "latest", "--target", target.to_str().unwrap()]).unwrap();
    let segments = target.join("vm/vda.segments");
    let open = |segment: &str| fs_err::File::open(segments.join(segment).join("seg")).unwrap();
    let (head, tail) = (open("000000"), open("000001"));
    assert_eq!(head.metadata().unwrap().len() + tail.metadata().unwrap().len(), disk.size);
    let read = |file: &fs_err::File, at: u64, length: usize| {
        let mut found = vec![0xff; length];
        file.file().read_exact_at(&mut found, at).unwrap();
        found
    };
    assert!(read(&head, SEGMENT - (1 << 20), 1 << 20) == noise[..1 << 20]);
    assert!(read(&tail, 0, 1 << 20) == noise[1 << 20..2 << 20]);
    assert!(read(&tail, 2 << 20, 1000) == noise[..1000]);
    assert!(read(&head, 0, 4 << 20).iter().all(|byte| *byte == 0));

    // A pack of data vanishes: the next increment reads what lay there, whatever the map says.
    let mut data = Vec::new();
    for shelf in fs_err::read_dir(place.repo().join("data")).unwrap() {
        data.extend(fs_err::read_dir(shelf.unwrap().path()).unwrap().map(|pack| pack.unwrap().path()));
    }
    data.sort_by_key(|pack| std::cmp::Reverse(fs_err::metadata(pack).unwrap().len()));
    fs_err::remove_file(&data[0]).unwrap();
    let again = place.open().index().unwrap();
    let nothing = Dirty { since: mark, size: disk.size, ranges: Vec::new() };
    let (_, stored, healed) = back_up(&again, &disk, Some(first.id), Some(&nothing));
    assert!(stored.whole.is_none() && stored.read > 0, "{stored:?}");
    assert_eq!(healed, mark);
    restic(&place.repo(), &["dump", "latest", "/vm/vda.segments/000001/seg"]).unwrap();
}

#[test]
fn an_increment_of_a_large_disk_costs_what_changed() {
    let place = Place::new();
    let repository = place.create().index().unwrap();
    let disk = Sparse::new(64 << 30);
    let random = SeededRandom::new(3);
    let changes = if std::env::var_os("KURAMORI_LONG").is_some() { 100 } else { 12 };
    let scatter = |count: u64| {
        let mut ranges = Vec::new();
        for _ in 0..count {
            let at = random.below(disk.size / CHUNK) * CHUNK;
            let mut data = vec![0; CHUNK as usize];
            random.fill(&mut data);
            disk.write(at, &data);
            ranges.push(at..at + CHUNK);
        }
        ranges
    };
    scatter(20);
    let (first, _, mark) = back_up(&repository, &disk, None, None);
    disk.read_count();
    let dirty = Dirty { since: mark, size: disk.size, ranges: scatter(changes) };
    let (now, stored, _) = back_up(&repository, &disk, Some(first.id), Some(&dirty));
    assert!(stored.whole.is_none());
    assert_eq!(disk.read_count(), stored.read);
    assert!(stored.read <= changes * CHUNK, "{stored:?}");
    let added = now.summary.data_added_packed;
    assert!(added < changes * (CHUNK + (200 << 10)), "{added} bytes were added for {changes} MiB");
}
