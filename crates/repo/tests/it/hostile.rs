//! Prune, backup and locks against a failing disk, a sleeping holder and readers who hold no lock.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kuramori_model::{
    clock::ManualClock,
    tree::{Entry, EntryKind, Meta, Sink, TreePath},
};
use kuramori_repo::{
    Context, Error, Repository,
    backup::{Draft, Options},
    format::blob::BlobKind,
    local::Selection,
    lock::LockMode,
    restore::RestoreOptions,
    store::{FileId, FileKind, LocalStore},
};

use crate::{
    backup::{back_up, draft, find_node, random},
    common::{Place, restic, secret},
    hooked::{Ask, change, check, files, hooked, prune, restore},
};

/// Two sessions that did not see each other store the same content: every blob lies in two packs.
fn twice(place: &Place) -> (PathBuf, [FileId; 2]) {
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(&source).unwrap();
    fs_err::write(source.join("random"), random(1, 3 << 20)).unwrap();
    fs_err::write(source.join("text"), "a table of orders\n".repeat(5000)).unwrap();
    place.create();
    let (a, b) = (place.open().index().unwrap(), place.open().index().unwrap());
    let mut running = [&a, &b].map(|repo| repo.backup(Options::default()).unwrap()).into_iter();
    let ids = [(); 2].map(|()| {
        let mut backup = running.next().unwrap();
        let paths = backup.add_paths(std::slice::from_ref(&source), &Selection::default()).unwrap();
        backup.commit(Draft { paths, ..draft() }).unwrap().id
    });
    (source, ids)
}

#[test]
fn a_prune_never_keeps_the_damaged_copy_of_a_blob_and_drops_the_good_one() {
    for damaged in 0..2 {
        let place = Place::new();
        let (source, ids) = twice(&place);
        let repo = place.open().index().unwrap();
        let id = find_node(&repo, ids[0], source.join("random").to_str().unwrap()).content.unwrap()[0];
        let places = repo.locations(BlobKind::Data, &id).unwrap();
        assert_eq!(places.len(), 2, "the test needs two copies");
        let bad = places[damaged];
        change(&LocalStore::new(place.repo()).path(FileKind::Pack, bad.pack), |bytes| {
            bytes[bad.blob.offset as usize + 100] ^= 1;
        });
        assert!(!check(&place.open()).is_clean(), "the damage is real");
        let plan = prune(&place.open()).unwrap();
        // Two threads share the blobs out among packs, so whole packs may be left over or only parts of some.
        assert!(plan.remove_bytes + plan.repack_freed_bytes > 3 << 20, "{plan:?}");
        for id in ids {
            let target = place.dir.path().join(format!("target-{id}"));
            let restored = restore(&place.open().index().unwrap(), id, &RestoreOptions::to(&target));
            assert_eq!(restored.shortfalls, []);
            assert_eq!(files(&target.join(source.strip_prefix("/").unwrap())), files(&source));
        }
        assert!(check(&place.open()).is_clean());
        restic(&place.repo(), &["check", "--read-data"]).unwrap();
    }
}

#[test]
fn a_prune_goes_on_when_a_pack_is_gone_whose_blobs_lie_elsewhere_and_stops_when_they_do_not() {
    let place = Place::new();
    let (source, ids) = twice(&place);
    let repo = place.open().index().unwrap();
    let id = find_node(&repo, ids[0], source.join("random").to_str().unwrap()).content.unwrap()[0];
    let places = repo.locations(BlobKind::Data, &id).unwrap();
    fs_err::remove_file(LocalStore::new(place.repo()).path(FileKind::Pack, places[0].pack)).unwrap();
    prune(&place.open()).unwrap();
    assert!(check(&place.open()).is_clean());
    let packs = place.open().list(FileKind::Pack).unwrap();
    fs_err::remove_file(LocalStore::new(place.repo()).path(FileKind::Pack, places[1].pack)).unwrap();
    assert!(matches!(prune(&place.open()), Err(Error::Missing { .. } | Error::Damaged { .. })));
    assert_eq!(place.open().list(FileKind::Pack).unwrap().len(), packs.len() - 1, "nothing was removed");
}

#[test]
fn a_backup_never_relies_on_a_pack_that_is_gone_or_cut_short() {
    for cut in [false, true] {
        let place = Place::new();
        let source = place.dir.path().join("source");
        fs_err::create_dir_all(&source).unwrap();
        fs_err::write(source.join("a"), random(1, 2 << 20)).unwrap();
        let repo = place.create().index().unwrap();
        let first = back_up(&repo, std::slice::from_ref(&source), &Selection::default());
        let id = find_node(&repo, first.id, source.join("a").to_str().unwrap()).content.unwrap()[0];
        let pack = repo.locations(BlobKind::Data, &id).unwrap()[0].pack;
        let path = LocalStore::new(place.repo()).path(FileKind::Pack, pack);
        if cut {
            change(&path, |bytes| bytes.truncate(100_000));
        } else {
            fs_err::remove_file(path).unwrap();
        }
        let repo = place.open().index().unwrap();
        let second = back_up(&repo, std::slice::from_ref(&source), &Selection::default());
        assert!(second.summary.data_added >= 2 << 20, "{:?}", second.summary);
        assert!(
            second.report.notes.iter().any(|note| note.path.contains(&pack.to_string())),
            "{:?}",
            second.report
        );
        let target = place.dir.path().join("target");
        // The older point is whole again, too.
        let restored = restore(&place.open().index().unwrap(), first.id, &RestoreOptions::to(&target));
        assert_eq!(restored.shortfalls, []);
        assert_eq!(files(&target.join(source.strip_prefix("/").unwrap())), files(&source));
    }
}

#[test]
fn a_lock_that_lapsed_while_the_machine_slept_is_lost_for_good() {
    let place = Place::new();
    place.create();
    let clock = Arc::new(ManualClock::new("2026-03-01T00:00:00Z".parse().unwrap()));
    let context = Context { clock: Arc::<ManualClock>::clone(&clock), ..Context::system() };
    let repo = Repository::open(place.store(), &secret(), context).unwrap();
    let guard = repo.lock(LockMode::Shared, Duration::ZERO).unwrap();
    guard.confirm().unwrap();
    clock.advance(Duration::from_mins(40));
    // Longer than the renewer needs to wake up.
    std::thread::sleep(Duration::from_millis(2500));
    for _ in 0..2 {
        assert!(matches!(guard.check(), Err(Error::LockLost { .. })), "others may have worked here alone");
    }
    assert!(matches!(guard.confirm(), Err(Error::LockLost { .. })));
}

#[test]
fn a_backup_whose_lock_somebody_removed_makes_nothing_visible() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let mut backup = repo.backup(Options::default()).unwrap();
    let entry = Entry {
        path: TreePath::new("dump").unwrap(),
        kind: EntryKind::File { size: 5000 },
        meta: Meta::default(),
    };
    backup.put(entry, &mut &random(1, 5000)[..]).unwrap();
    assert_eq!(place.open().remove_all_locks().unwrap(), 1);
    assert!(matches!(backup.commit(draft()), Err(Error::LockLost { .. })));
    assert_eq!(repo.list(FileKind::Snapshot).unwrap(), []);
}

#[test]
fn a_lock_whose_old_file_cannot_be_removed_leaves_none_behind() {
    let place = Place::new();
    place.create();
    let clock = Arc::new(ManualClock::new("2026-03-01T00:00:00Z".parse().unwrap()));
    let context = Context { clock: Arc::<ManualClock>::clone(&clock), ..Context::system() };
    let broken = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&broken);
    let repo = hooked(
        &place,
        Arc::new(move |ask, kind, id| {
            if ask == Ask::Remove && kind == FileKind::Lock && flag.load(Ordering::SeqCst) {
                return Err(Error::io("remove", id.to_string(), std::io::Error::from_raw_os_error(5)));
            }
            Ok(())
        }),
        context,
    );
    let guard = repo.lock(LockMode::Shared, Duration::ZERO).unwrap();
    for _ in 0..6 {
        let before = guard.id();
        clock.advance(Duration::from_mins(6));
        while guard.id() == before {
            std::thread::sleep(Duration::from_millis(20));
        }
        guard.check().unwrap();
    }
    assert!(repo.list(FileKind::Lock).unwrap().len() > 1, "the old files really stay");
    broken.store(false, Ordering::SeqCst);
    drop(guard);
    assert_eq!(repo.list(FileKind::Lock).unwrap(), []);
}

#[test]
fn a_reader_without_a_lock_finds_what_a_prune_moved() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(&source).unwrap();
    fs_err::write(source.join("stays"), random(1, 300_000)).unwrap();
    fs_err::write(source.join("goes"), random(2, 300_000)).unwrap();
    let repo = place.create().index().unwrap();
    let first = back_up(&repo, std::slice::from_ref(&source), &Selection::default()).id;
    fs_err::remove_file(source.join("goes")).unwrap();
    let second = back_up(&repo, std::slice::from_ref(&source), &Selection::default()).id;
    let reader = place.open().index().unwrap();
    let id = find_node(&reader, second, source.join("stays").to_str().unwrap()).content.unwrap()[0];
    repo.remove_snapshots(&[first], Duration::ZERO).unwrap();
    assert!(prune(&place.open()).unwrap().repack_packs > 0);
    assert_eq!(reader.load_blob(BlobKind::Data, &id).unwrap(), random(1, 300_000));
}
