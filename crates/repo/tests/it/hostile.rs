//! What a failing disk, a dying machine, a sleeping holder or somebody with bad intentions may do between any
//! two steps, and what must still hold.

use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use kuramori_model::{
    clock::{ManualClock, SeededRandom},
    tree::{Entry, EntryKind, Meta, Sink, TreePath},
};
use kuramori_repo::{
    Cancel, Context, Error, Indexed, Repository,
    backup::{Draft, Options},
    check::{CheckOptions, Checked},
    format::blob::BlobKind,
    local::Selection,
    lock::LockMode,
    mirror::mirror,
    progress::Progress,
    prune::PruneOptions,
    restore::{RestoreOptions, Restored},
    store::{FileId, FileKind, LocalStore},
};

use crate::{
    backup::{back_up, draft, find_node, random},
    common::{Place, restic, secret},
    hooked::{Ask, Hook, Hooked},
};

fn check(repo: &Repository) -> Checked {
    let options = CheckOptions { read_data: true, workers: 2 };
    repo.check(options, &Progress::default(), &Cancel::default()).unwrap()
}

fn prune(repo: &Repository) -> kuramori_repo::Result<kuramori_repo::prune::PrunePlan> {
    let options = PruneOptions { max_unused_percent: 0, patience: Duration::ZERO };
    repo.plan_prune(&options, &Cancel::default())?.execute(&Progress::default(), &Cancel::default())
}

fn restore(repo: &Repository<Indexed>, id: FileId, options: &RestoreOptions) -> Restored {
    let snapshot = repo.snapshot(id).unwrap();
    repo.restore(&snapshot, options, &Progress::default(), &Cancel::default()).unwrap()
}

/// Every file below a folder with its content.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs_err::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs_err::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                walk(root, &path, found);
            } else if meta.is_file() {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), fs_err::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

fn change(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs_err::read(path).unwrap();
    edit(&mut bytes);
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    fs_err::write(path, bytes).unwrap();
}

fn hooked(place: &Place, hook: Hook, context: Context) -> Repository {
    let store = Hooked { inner: LocalStore::new(place.repo()), hook };
    Repository::open(Arc::new(store), &secret(), context).unwrap()
}

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
        let paths = backup.add_paths(&[source.clone()], &Selection::default()).unwrap();
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
        assert!(plan.remove_packs > 0, "{plan:?}");
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
fn a_prune_that_dies_between_any_two_steps_costs_nothing() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(&source).unwrap();
    for number in 0..40 {
        fs_err::write(source.join(number.to_string()), random(number, 40_000)).unwrap();
    }
    let repo = place.create().index().unwrap();
    let first = back_up(&repo, &[source.clone()], &Selection::default()).id;
    for number in 0..30 {
        fs_err::remove_file(source.join(number.to_string())).unwrap();
    }
    let second = back_up(&repo, &[source.clone()], &Selection::default()).id;
    repo.remove_snapshots(&[first], Duration::ZERO).unwrap();
    let truth = files(&source);
    let mut died = 0;
    for step in 0.. {
        let copy = Place::new();
        crate::common::copy_dir(&place.repo(), &copy.repo());
        // After so many changes of the store, nothing works any more: the machine is gone.
        let left = Arc::new(AtomicU64::new(step));
        let hook: Hook = Arc::new(move |ask, kind, id| {
            let changes = matches!(ask, Ask::Write | Ask::Remove) && kind != FileKind::Lock;
            let dead = if changes {
                left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err()
            } else {
                false
            };
            if dead {
                left.store(0, Ordering::SeqCst);
                return Err(Error::io("reach", id.to_string(), std::io::Error::from_raw_os_error(5)));
            }
            Ok(())
        });
        let outcome = prune(&hooked(&copy, hook, Context::system()));
        let found = check(&copy.open());
        assert!(found.is_clean(), "after {step} steps: {found:?}");
        let target = copy.dir.path().join("target");
        let restored = restore(&copy.open().index().unwrap(), second, &RestoreOptions::to(&target));
        assert_eq!(restored.shortfalls, [], "after {step} steps");
        assert_eq!(files(&target.join(source.strip_prefix("/").unwrap())), truth, "after {step} steps");
        if outcome.is_ok() {
            break;
        }
        died += 1;
        prune(&copy.open()).unwrap();
        assert!(prune(&copy.open()).unwrap().is_empty(), "the next prune finds all of it");
        restic(&copy.repo(), &["check", "--read-data"]).unwrap();
    }
    assert!(died >= 5, "it died at {died} places only");
}

#[test]
fn a_backup_never_relies_on_a_pack_that_is_gone_or_cut_short() {
    for cut in [false, true] {
        let place = Place::new();
        let source = place.dir.path().join("source");
        fs_err::create_dir_all(&source).unwrap();
        fs_err::write(source.join("a"), random(1, 2 << 20)).unwrap();
        let repo = place.create().index().unwrap();
        let first = back_up(&repo, &[source.clone()], &Selection::default());
        let id = find_node(&repo, first.id, source.join("a").to_str().unwrap()).content.unwrap()[0];
        let pack = repo.locations(BlobKind::Data, &id).unwrap()[0].pack;
        let path = LocalStore::new(place.repo()).path(FileKind::Pack, pack);
        if cut {
            change(&path, |bytes| bytes.truncate(100_000));
        } else {
            fs_err::remove_file(path).unwrap();
        }
        let repo = place.open().index().unwrap();
        let second = back_up(&repo, &[source.clone()], &Selection::default());
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
    let first = back_up(&repo, &[source.clone()], &Selection::default()).id;
    fs_err::remove_file(source.join("goes")).unwrap();
    let second = back_up(&repo, &[source.clone()], &Selection::default()).id;
    let reader = place.open().index().unwrap();
    let id = find_node(&reader, second, source.join("stays").to_str().unwrap()).content.unwrap()[0];
    repo.remove_snapshots(&[first], Duration::ZERO).unwrap();
    assert!(prune(&place.open()).unwrap().repack_packs > 0);
    assert_eq!(reader.load_blob(BlobKind::Data, &id).unwrap(), random(1, 300_000));
}

#[test]
fn the_deepest_folders_come_back() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    let mut path = source.clone();
    for _ in 0..1500 {
        path.push("d");
    }
    fs_err::create_dir_all(&path).unwrap();
    fs_err::write(path.join("bottom"), b"here").unwrap();
    let repo = place.create().index().unwrap();
    let id = back_up(&repo, &[source.clone()], &Selection::default()).id;
    let target = place.dir.path().join("t");
    assert_eq!(restore(&repo, id, &RestoreOptions::to(&target)).shortfalls, []);
    assert_eq!(files(&target.join(source.strip_prefix("/").unwrap())), files(&source));
}

#[test]
fn nothing_is_written_through_links_that_stand_in_the_target() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(source.join("inner")).unwrap();
    fs_err::write(source.join("inner/file"), b"restored").unwrap();
    fs_err::write(source.join("plain"), b"restored").unwrap();
    let repo = place.create().index().unwrap();
    let id = back_up(&repo, &[source.clone()], &Selection::default()).id;
    let target = place.dir.path().join("target");
    let outside = place.dir.path().join("outside");
    fs_err::create_dir_all(&outside).unwrap();
    fs_err::write(outside.join("file"), b"precious").unwrap();
    let base = target.join(source.strip_prefix("/").unwrap());
    fs_err::create_dir_all(&base).unwrap();
    symlink(&outside, base.join("inner")).unwrap();
    symlink(outside.join("file"), base.join("plain")).unwrap();
    let options = RestoreOptions { overwrite: true, ..RestoreOptions::to(&target) };
    assert_eq!(restore(&repo, id, &options).shortfalls, []);
    assert_eq!(fs_err::read(outside.join("file")).unwrap(), b"precious");
    assert_eq!(files(&base), files(&source));
}

#[test]
fn an_access_list_of_the_target_opens_nothing_that_was_closed() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(source.join("inner")).unwrap();
    fs_err::write(source.join("inner/secret"), b"x").unwrap();
    fs_err::set_permissions(source.join("inner/secret"), std::fs::Permissions::from_mode(0o640)).unwrap();
    let repo = place.create().index().unwrap();
    let id = back_up(&repo, &[source.clone()], &Selection::default()).id;
    let target = place.dir.path().join("target");
    fs_err::create_dir_all(&target).unwrap();
    // Version 2: owner, user 12345, group, mask, others; each a tag, permissions, a number.
    let mut list = 2_u32.to_le_bytes().to_vec();
    let anybody = u32::MAX;
    for (tag, rights, number) in
        [(1_u16, 7_u16, anybody), (2, 7, 12_345), (4, 5, anybody), (0x10, 7, anybody), (0x20, 0, anybody)]
    {
        list.extend(tag.to_le_bytes().into_iter().chain(rights.to_le_bytes()).chain(number.to_le_bytes()));
    }
    xattr::set(&target, "system.posix_acl_default", &list).unwrap();
    fs_err::write(target.join("lost+found"), b"shows that the list works").unwrap();
    assert!(xattr::get(target.join("lost+found"), "system.posix_acl_access").unwrap().is_some());
    fs_err::remove_file(target.join("lost+found")).unwrap();
    assert_eq!(restore(&repo, id, &RestoreOptions::to(&target)).shortfalls, []);
    let base = target.join(source.strip_prefix("/").unwrap());
    for path in ["inner/secret", "inner", ""].map(|path| base.join(path)) {
        for list in ["system.posix_acl_access", "system.posix_acl_default"] {
            assert_eq!(xattr::get(&path, list).unwrap(), None, "{}", path.display());
        }
    }
    assert_eq!(fs_err::metadata(base.join("inner/secret")).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn two_files_under_one_inode_number_stay_two() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let mut backup = repo.backup(Options::default()).unwrap();
    let contents = [("a", "first"), ("b", "second"), ("c", "first")];
    for (name, content) in contents {
        let meta = Meta { inode: 77, links: 2, mode: 0o644, ..Meta::default() };
        let size = content.len() as u64;
        let entry = Entry { path: TreePath::new(name).unwrap(), kind: EntryKind::File { size }, meta };
        backup.put(entry, &mut content.as_bytes()).unwrap();
    }
    let id = backup.commit(draft()).unwrap().id;
    let target = place.dir.path().join("target");
    assert_eq!(restore(&repo, id, &RestoreOptions::to(&target)).shortfalls, []);
    for (name, content) in contents {
        assert_eq!(fs_err::read_to_string(target.join(name)).unwrap(), content);
    }
    let inode = |name| fs_err::metadata(target.join(name)).unwrap().ino();
    assert!(inode("a") == inode("c") && inode("a") != inode("b"));
}

#[test]
fn a_store_that_goes_away_stops_a_restore_and_is_not_called_damage() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(&source).unwrap();
    for number in 0..20 {
        fs_err::write(source.join(number.to_string()), random(number, 100_000)).unwrap();
    }
    let repo = place.create().index().unwrap();
    let id = back_up(&repo, &[source], &Selection::default()).id;
    let gone = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&gone);
    let repo = hooked(
        &place,
        Arc::new(move |_, kind, _| {
            if kind == FileKind::Pack && flag.load(Ordering::SeqCst) {
                let action = "answer".to_owned();
                let source = "connection refused".into();
                return Err(Error::Remote { place: "here".to_owned(), action, source, retry: true });
            }
            Ok(())
        }),
        Context::system(),
    )
    .index()
    .unwrap();
    let snapshot = repo.snapshot(id).unwrap();
    let options = RestoreOptions::to(place.dir.path().join("target"));
    gone.store(true, Ordering::SeqCst);
    let outcome = repo.restore(&snapshot, &options, &Progress::default(), &Cancel::default());
    assert!(matches!(outcome, Err(Error::Remote { .. })), "{outcome:?}");
}

#[test]
fn a_mirror_survives_a_prune_in_its_middle_and_names_a_copy_that_is_cut_short() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(&source).unwrap();
    for number in 0..10 {
        fs_err::write(source.join(number.to_string()), random(number, 200_000)).unwrap();
    }
    let repo = place.create().index().unwrap();
    let first = back_up(&repo, &[source.clone()], &Selection::default()).id;
    fs_err::remove_file(source.join("3")).unwrap();
    back_up(&repo, &[source], &Selection::default());
    repo.remove_snapshots(&[first], Duration::ZERO).unwrap();
    let other = place.open();
    let pruned = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&pruned);
    let from = Hooked {
        inner: LocalStore::new(place.repo()),
        hook: Arc::new(move |ask, kind, _| {
            // Everything is listed, the first pack is about to be copied.
            if ask == Ask::Read && kind == FileKind::Pack && !flag.swap(true, Ordering::SeqCst) {
                assert!(prune(&other).unwrap().repack_packs > 0);
            }
            Ok(())
        }),
    };
    let copy = Place::new();
    let done = mirror(&from, &*copy.store(), &Progress::default(), &Cancel::default()).unwrap();
    assert!(pruned.load(Ordering::SeqCst) && done.files > 0);
    assert!(check(&copy.open()).is_clean());
    restic(&copy.repo(), &["check", "--read-data"]).unwrap();

    let pack = copy.open().list(FileKind::Pack).unwrap()[0];
    change(&LocalStore::new(copy.repo()).path(FileKind::Pack, pack), |bytes| bytes.truncate(1000));
    let again = mirror(&*place.store(), &*copy.store(), &Progress::default(), &Cancel::default());
    assert!(
        matches!(&again, Err(Error::Damaged { file, .. }) if file.contains(&pack.to_string())),
        "{again:?}"
    );
}

/// A store on which each write may fail once, at random: a full disk, an I/O error.
#[test]
fn a_backup_over_a_failing_store_commits_whole_or_not_at_all() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(&source).unwrap();
    for number in 0..30 {
        fs_err::write(source.join(number.to_string()), random(number, 50_000)).unwrap();
    }
    place.create();
    let rounds = if std::env::var_os("KURAMORI_LONG").is_some() { 300 } else { 25 };
    let (mut failed, mut committed) = (0, Vec::new());
    for seed in 0..rounds {
        fs_err::write(source.join("new"), random(1000 + seed, 30_000)).unwrap();
        let seeded = SeededRandom::new(seed);
        let hook: Hook = Arc::new(move |ask, kind, id| {
            if kind == FileKind::Lock || ask == Ask::List || seeded.below(6) != 0 {
                return Ok(());
            }
            let code = if seeded.below(2) == 0 { 28 } else { 5 };
            Err(Error::io("store", id.to_string(), std::io::Error::from_raw_os_error(code)))
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let store = Arc::new(Hooked { inner: LocalStore::new(place.repo()), hook });
            let repo = Repository::open(store, &secret(), Context::system())?.index()?;
            let options = Options { pack_size: 4 << 20, ..Options::default() };
            let mut backup = repo.backup(options)?;
            let paths = backup.add_paths(&[source.clone()], &Selection::default())?;
            backup.commit(Draft { paths, ..draft() })
        }))
        .expect("never a panic");
        match outcome {
            Ok(done) => committed.push((done.id, random(1000 + seed, 30_000))),
            Err(_) => failed += 1,
        }
    }
    assert!(failed > 3 && !committed.is_empty(), "{failed} failed, {} committed", committed.len());
    let found = check(&place.open());
    assert!(found.is_clean(), "{found:?}");
    let repo = place.open().index().unwrap();
    assert_eq!(repo.list(FileKind::Snapshot).unwrap().len(), committed.len());
    for (id, content) in committed {
        let node = find_node(&repo, id, source.join("new").to_str().unwrap());
        assert_eq!(crate::backup::content(&repo, &node), content);
    }
}
