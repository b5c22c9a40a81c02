//! Reading any place of a file of a restore point.

use std::sync::Arc;

use kuramori_model::{
    blocks::Blocks,
    clock::{Random, SeededRandom},
    tree::TreePath,
};
use kuramori_repo::{
    Cancel, Error, Repository,
    backup::{Draft, Options},
    chunk::Chunking,
    format::{blob::BlobId, snapshot::Snapshot},
    progress::Progress,
    reading::{ReadOptions, Reader},
    repository::Indexed,
    restore::RestoreOptions,
};
use proptest::prelude::*;

use super::common::Place;

/// Noise, zeros and repetitions in turn.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let random = SeededRandom::new(seed);
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        let run = (random.below(3 << 20) as usize + 1).min(length - at);
        match random.below(3) {
            0 => random.fill(&mut bytes[at..at + run]),
            1 => bytes[at..at + run].fill(random.below(256) as u8),
            _ => {}
        }
        at += run;
    }
    bytes
}

fn path(name: &str) -> TreePath {
    TreePath::new(name).unwrap()
}

fn stored(place: &Place, files: &[(&str, &[u8])], chunking: Chunking) -> (Repository<Indexed>, Snapshot) {
    let repository = place.create().index().unwrap();
    let options = Options { chunking, pack_size: 4 << 20, ..Options::default() };
    let mut backup = repository.backup(options).unwrap();
    for (name, bytes) in files {
        backup.stream(&path(name), &mut &**bytes).unwrap();
    }
    let committed = backup.commit(Draft::default()).unwrap();
    let snapshot = repository.snapshot(committed.id).unwrap();
    (repository, snapshot)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("KURAMORI_LONG").is_some() { 200 } else { 6 }))]
    #[test]
    fn any_range_reads_as_a_plain_restore_gives_it(
        seed in any::<u64>(),
        length in 0_usize..12 << 20,
        fixed in any::<bool>(),
        memory in 1_usize..12 << 20,
        helpers in 0_usize..3,
    ) {
        let place = Place::new();
        let bytes = content(seed, length);
        let chunking = if fixed { Chunking::Fixed } else { Chunking::Content };
        let (repository, snapshot) = stored(&place, &[("deep/image", &bytes), ("other", b"small")], chunking);
        let target = place.dir.path().join("restored");
        repository
            .restore(&snapshot, &RestoreOptions::to(&target), &Progress::default(), &Cancel::default())
            .unwrap();
        let truth = fs_err::read(target.join("deep/image")).unwrap();
        prop_assert!(truth == bytes);

        let reader = Reader::new(repository, ReadOptions { memory, ahead: 4 << 20, helpers }).unwrap();
        let file = reader.open_path(&snapshot.tree, &path("deep/image")).unwrap();
        prop_assert_eq!(file.size(), truth.len() as u64);
        let (file, truth) = (&file, &truth);
        std::thread::scope(|scope| {
            for number in 0..3 {
                scope.spawn(move || {
                    let random = SeededRandom::new(seed ^ number);
                    // One goes from front to back, the others jump.
                    let mut at = 0;
                    for _ in 0..25 {
                        if number > 0 {
                            at = random.below(truth.len() as u64 + 10) as usize;
                        }
                        let mut found = vec![0xa5; random.below(3 << 20) as usize];
                        let count = file.read_at(at as u64, &mut found).unwrap();
                        let end = truth.len().min(at + found.len());
                        let wanted = truth.get(at..end).unwrap_or_default();
                        assert!(found[..count] == *wanted, "{count} bytes at {at}");
                        at += count;
                    }
                });
            }
        });
        // One piece may be larger than the whole budget while it is given; it does not stay.
        prop_assert!(reader.held() <= memory.max(8 << 20), "{} of {memory} bytes are held", reader.held());
        // What it says of holes is true, and all of it is told.
        let mut at = 0;
        while at < truth.len() as u64 {
            let extent = Blocks::extent(file, at, truth.len() as u64 - at).unwrap();
            let run = &truth[at as usize..(at + extent.length) as usize];
            prop_assert!(!extent.zero || run.iter().all(|byte| *byte == 0));
            at += extent.length;
        }
        prop_assert!(Blocks::read_at(file, truth.len() as u64, &mut [0]).is_err());
    }
}

#[test]
fn a_reader_from_front_to_back_loads_each_piece_once_and_zeros_never() {
    let place = Place::new();
    let mut bytes = vec![0; 24 << 20];
    SeededRandom::new(4).fill(&mut bytes[..12 << 20]);
    let (repository, snapshot) = stored(&place, &[("image", &bytes)], Chunking::Fixed);
    let options = ReadOptions { memory: 8 << 20, ahead: 3 << 20, helpers: 2 };
    let reader = Reader::new(repository, options).unwrap();
    let file = reader.open_path(&snapshot.tree, &path("image")).unwrap();
    let mut at = 0;
    let mut step = vec![0; 100_000];
    while at < bytes.len() {
        let count = file.read_at(at as u64, &mut step).unwrap();
        assert!(step[..count] == bytes[at..at + count]);
        at += count;
        assert!(reader.held() <= options.memory);
    }
    assert_eq!(reader.loads(), 12, "twelve pieces of data, read ahead or not, and no zeros");
}

#[test]
fn a_damaged_piece_is_an_error_that_names_it_and_the_rest_still_reads() {
    let place = Place::new();
    let bytes = content(9, 12 << 20);
    let mut noise = vec![0; 6 << 20];
    SeededRandom::new(8).fill(&mut noise);
    let (repository, snapshot) = stored(&place, &[("image", &noise), ("text", &bytes)], Chunking::Fixed);
    // A bit in the middle of the piece at 3 MiB.
    let id = BlobId::of(&noise[3 << 20..4 << 20]);
    let kind = kuramori_repo::format::blob::BlobKind::Data;
    let location = repository.locations(kind, &id).unwrap()[0];
    let name = location.pack.to_string();
    let pack = place.repo().join("data").join(&name[..2]).join(&name);
    let mut stored = fs_err::read(&pack).unwrap();
    stored[location.blob.offset as usize + 500] ^= 1;
    fs_err::remove_file(&pack).unwrap();
    fs_err::write(&pack, stored).unwrap();

    let reader = Reader::new(repository, ReadOptions::default()).unwrap();
    let file = Arc::new(reader.open_path(&snapshot.tree, &path("image")).unwrap());
    let mut found = vec![0; 1 << 20];
    file.read_at(2 << 20, &mut found).unwrap();
    assert!(found == noise[2 << 20..3 << 20]);
    for _ in 0..2 {
        let error = file.read_at(3 << 20, &mut found).unwrap_err();
        assert!(matches!(&error, Error::Damaged { file, .. } if file.contains(&id.to_string())), "{error}");
    }
    file.read_at(4 << 20, &mut found).unwrap();
    assert!(found == noise[4 << 20..5 << 20]);
    assert!(matches!(reader.open_path(&snapshot.tree, &path("nowhere")), Err(Error::Invalid { .. })));
}
