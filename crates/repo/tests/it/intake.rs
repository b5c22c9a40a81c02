//! Content from an agent: what it may leave open, what it may name, and what of it is kept when a run is stopped.

use kuramori_model::tree::{DEPTH_MAX, Entry, EntryKind, Meta, Sink, TreePath};
use kuramori_repo::{
    Error,
    backup::{Backup, Options},
    format::blob::BlobId,
};

use crate::{
    backup::{draft, random},
    common::Place,
};

fn link(path: &str, xattr: usize) -> Entry {
    let meta = Meta { xattrs: vec![(b"user.note".to_vec(), vec![7; xattr])], ..Meta::default() };
    let kind = EntryKind::Symlink { target: b"x".to_vec() };
    Entry { path: TreePath::new(path).unwrap(), kind, meta }
}

fn put(backup: &mut Backup, entry: Entry) -> Result<(), Error> {
    backup.put(entry, &mut std::io::empty()).unwrap();
    backup.room()
}

#[test]
fn the_deepest_path_needs_no_more_stack_than_any_other() {
    let place = Place::new();
    place.create();
    // Room for a few hundred frames: what goes down by calling itself would end the process here.
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(move || {
        let deep = vec!["a"; DEPTH_MAX - 1].join("/");
        let first = place.open().index().unwrap();
        let mut backup = first.backup(Options::default()).unwrap();
        put(&mut backup, link(&format!("{deep}/z"), 0)).unwrap();
        let id = backup.commit(draft()).unwrap().id;
        let second = place.open().index().unwrap();
        let mut backup = second.backup(Options { parent: Some(id), ..Options::default() }).unwrap();
        assert!(backup.parent_tree(format!("{deep}/b/c/d").as_bytes()).is_none());
        assert_eq!(backup.parent_tree(deep.as_bytes()).unwrap().nodes.len(), 1);
        assert_eq!(backup.keep_places(deep.as_bytes(), &[(0, 1)]).unwrap(), (0, 0));
        let again = backup.commit(draft()).unwrap();
        let tree = |id| second.snapshot(id).unwrap().tree;
        assert_eq!(tree(again.id), tree(id));
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn what_a_sender_leaves_open_is_bounded_and_what_it_finishes_is_given_back() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let mut backup = repo.backup(Options { open_folders: 1 << 20, ..Options::default() }).unwrap();
    // Three megabytes in folders that are finished, one after the other.
    for n in 0..30 {
        put(&mut backup, link(&format!("good-{n}/item"), 100_000)).unwrap();
        backup.seal(&TreePath::new(format!("good-{n}")).unwrap()).unwrap();
    }
    let taken =
        (0..30).take_while(|n| put(&mut backup, link(&format!("bad-{n}/item"), 100_000)).is_ok()).count();
    assert!((5..=11).contains(&taken), "{taken}");
    // Paths count as well: a deep one makes two thousand folders.
    let mut backup = repo.backup(Options { open_folders: 1 << 20, ..Options::default() }).unwrap();
    assert!(put(&mut backup, link(&vec!["name"; DEPTH_MAX].join("/"), 0)).is_err());
}

#[test]
fn an_item_of_the_parent_is_taken_over_once_in_whatever_order() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let mut backup = repo.backup(Options::default()).unwrap();
    for n in 0..10 {
        put(&mut backup, link(&format!("{n}"), 10)).unwrap();
    }
    let id = backup.commit(draft()).unwrap().id;
    let mut backup = repo.backup(Options { parent: Some(id), ..Options::default() }).unwrap();
    for twice in [[(0, 1), (0, 1)], [(4, 3), (2, 3)], [(0, 10), (9, 1)]] {
        let error = backup.keep_places(b"", &twice).unwrap_err();
        assert!(
            matches!(&error, Error::Invalid { what, .. } if what.contains("twice")),
            "{twice:?}: {error}"
        );
    }
    drop(backup);
    let mut backup = repo.backup(Options { parent: Some(id), ..Options::default() }).unwrap();
    backup.keep_places(b"", &[(5, 5), (0, 2), (2, 3)]).unwrap();
    let again = backup.commit(draft()).unwrap();
    assert_eq!(repo.snapshot(again.id).unwrap().tree, repo.snapshot(id).unwrap().tree);
    // Who asks for a million copies is stopped at the first one too many, also if the work was cancelled.
    let options = Options { parent: Some(id), ..Options::default() };
    let cancel = options.cancel.clone();
    let mut backup = repo.backup(options).unwrap();
    cancel.cancel();
    assert!(matches!(backup.keep_places(b"", &[(0, 10)]), Err(Error::Cancelled)));
}

#[test]
fn what_was_sent_before_a_stop_need_not_be_sent_again() {
    let place = Place::new();
    place.create();
    let repo = place.open().index().unwrap();
    let options = Options { pack_size: 4 << 20, ..Options::default() };
    let cancel = options.cancel.clone();
    let backup = repo.backup(options).unwrap();
    let intake = backup.intake(&mut std::iter::empty());
    let chunks: Vec<_> = (0..20).map(|n| random(n, 700_000)).collect();
    let ids: Vec<BlobId> = chunks.iter().map(|chunk| intake.store(chunk).unwrap()).collect();
    // The timetable, a person and a shutdown all stop the engine, too.
    cancel.cancel();
    assert!(intake.store(b"more").is_err());
    backup.abandon().unwrap();
    drop((intake, repo));

    let repo = place.open().index().unwrap();
    let backup = repo.backup(Options::default()).unwrap();
    let stranger = backup.intake(&mut std::iter::empty());
    assert_eq!(stranger.length(&ids[0]), None, "what another one sent is not known");
    let intake = backup.intake(&mut ids.iter().copied());
    let known: Vec<_> = ids.iter().map(|id| intake.length(id)).collect();
    assert_eq!(known, vec![Some(700_000); 20]);
}
