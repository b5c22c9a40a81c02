//! The machine dies, the store fails, or somebody else works between any two steps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kuramori_model::clock::SeededRandom;
use kuramori_repo::{
    Cancel, Context, Error, Repository,
    backup::{Draft, Options},
    local::Selection,
    mirror::mirror,
    progress::Progress,
    restore::RestoreOptions,
    store::{FileKind, LocalStore},
};

use crate::{
    backup::{back_up, draft, find_node, random},
    common::{Place, restic, secret},
    hooked::{Ask, Hook, Hooked, change, check, dies_after, files, hooked, prune, restore},
};

#[test]
fn a_prune_that_dies_between_any_two_steps_costs_nothing() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(&source).unwrap();
    for number in 0..40 {
        fs_err::write(source.join(number.to_string()), random(number, 40_000)).unwrap();
    }
    let repo = place.create().index().unwrap();
    let first = back_up(&repo, std::slice::from_ref(&source), &Selection::default()).id;
    for number in 0..30 {
        fs_err::remove_file(source.join(number.to_string())).unwrap();
    }
    let second = back_up(&repo, std::slice::from_ref(&source), &Selection::default()).id;
    repo.remove_snapshots(&[first], Duration::ZERO).unwrap();
    let truth = files(&source);
    let mut died = 0;
    for step in 0.. {
        let copy = Place::new();
        crate::common::copy_dir(&place.repo(), &copy.repo());
        let outcome = prune(&hooked(&copy, dies_after(step), Context::system()));
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
fn a_backup_that_dies_between_any_two_steps_costs_nothing() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(&source).unwrap();
    for number in 0..60 {
        fs_err::write(source.join(number.to_string()), random(number, 150_000)).unwrap();
    }
    let repo = place.create().index().unwrap();
    let first = back_up(&repo, std::slice::from_ref(&source), &Selection::default()).id;
    let before = files(&source);
    for number in 0..60 {
        fs_err::write(source.join(number.to_string()), random(1000 + number, 150_000)).unwrap();
    }
    let mut died = 0;
    for step in 0.. {
        let copy = Place::new();
        crate::common::copy_dir(&place.repo(), &copy.repo());
        let repo = hooked(&copy, dies_after(step), Context::system()).index().unwrap();
        let outcome =
            repo.backup(Options { pack_size: 4 << 20, ..Options::default() }).and_then(|mut backup| {
                let paths = backup.add_paths(std::slice::from_ref(&source), &Selection::default())?;
                backup.commit(Draft { paths, ..draft() })
            });
        drop(repo);
        let found = check(&copy.open());
        assert!(found.is_clean(), "after {step} steps: {found:?}");
        let opened = copy.open().index().unwrap();
        let snapshots = opened.list(FileKind::Snapshot).unwrap().len();
        assert_eq!(snapshots, 1 + usize::from(outcome.is_ok()), "after {step} steps");
        let target = copy.dir.path().join("target");
        assert_eq!(restore(&opened, first, &RestoreOptions::to(&target)).shortfalls, []);
        assert_eq!(files(&target.join(source.strip_prefix("/").unwrap())), before);
        // The next run takes over what was stored and named, and is whole.
        let again = back_up(&opened, std::slice::from_ref(&source), &Selection::default()).id;
        let target = copy.dir.path().join("again");
        assert_eq!(restore(&opened, again, &RestoreOptions::to(&target)).shortfalls, []);
        assert_eq!(files(&target.join(source.strip_prefix("/").unwrap())), files(&source));
        if outcome.is_ok() {
            break;
        }
        died += 1;
    }
    assert!(died >= 4, "it died at {died} places only");
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
            let paths = backup.add_paths(std::slice::from_ref(&source), &Selection::default())?;
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
    let first = back_up(&repo, std::slice::from_ref(&source), &Selection::default()).id;
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

    // One that the source still has: what was copied before the prune took it away may lie there as well.
    let here = place.open().list(FileKind::Pack).unwrap();
    let pack = *copy.open().list(FileKind::Pack).unwrap().iter().find(|pack| here.contains(pack)).unwrap();
    change(&LocalStore::new(copy.repo()).path(FileKind::Pack, pack), |bytes| bytes.truncate(1000));
    let again = mirror(&*place.store(), &*copy.store(), &Progress::default(), &Cancel::default());
    assert!(
        matches!(&again, Err(Error::Damaged { file, .. }) if file.contains(&pack.to_string())),
        "{again:?}"
    );
}
