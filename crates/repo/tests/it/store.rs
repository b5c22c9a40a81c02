//! The promises of a store, on a folder.

use kuramori_model::fault::Fault;
use kuramori_repo::{
    Error,
    store::{FileId, FileKind, LocalStore, Payload, Spool, Store},
};
use std::io::Write;

#[test]
fn a_name_never_gets_other_content() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path().join("new"));
    store.create().unwrap();
    store.create().unwrap();
    let id = FileId::of(b"one");
    for kind in FileKind::NAMED {
        store.write(kind, id, Payload::Bytes(b"one")).unwrap();
        store.write(kind, id, Payload::Bytes(b"one")).unwrap();
        for other in [&b"two"[..], b"longer"] {
            let error = store.write(kind, id, Payload::Bytes(other)).unwrap_err();
            assert_eq!(error.code(), "repo.exists");
            assert_eq!(store.read(kind, id, 10).unwrap(), b"one");
        }
    }
}

#[test]
fn a_spool_file_is_linked_into_its_place_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path());
    store.create().unwrap();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    for (number, spool_dir) in [(0_u8, store.spool_dir().unwrap()), (1, elsewhere.path().to_owned())] {
        let mut spool = Spool::new_in(&spool_dir).unwrap();
        let bytes = vec![number; 700_000];
        spool.write_all(&bytes).unwrap();
        let id = FileId::of(&bytes);
        store.write(FileKind::Pack, id, Payload::Spool(&spool)).unwrap();
        store.write(FileKind::Pack, id, Payload::Spool(&spool)).unwrap();
        assert_eq!(store.read(FileKind::Pack, id, 1 << 20).unwrap(), bytes);
        assert_eq!(store.read_range(FileKind::Pack, id, 699_999, 1).unwrap(), [number]);
    }
    let mut names = Vec::new();
    store
        .list(FileKind::Pack, &mut |id, size| {
            names.push((id, size));
            Ok(())
        })
        .unwrap();
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|(_, size)| *size == 700_000));
    let folders = fs_err::read_dir(dir.path().join("data")).unwrap();
    assert!(folders.map(|entry| entry.unwrap()).all(|entry| entry.file_type().unwrap().is_dir()));
}

#[test]
fn answers_name_what_is_missing_too_large_or_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path());
    store.create().unwrap();
    let id = FileId::of(b"x");
    assert!(
        matches!(store.read(FileKind::Index, id, 10), Err(Error::Missing { file }) if file == format!("index/{id}"))
    );
    assert!(matches!(store.size(FileKind::Index, id), Err(Error::Missing { .. })));
    assert!(matches!(store.read_config(), Err(Error::NotFound { .. })));
    store.write(FileKind::Index, id, Payload::Bytes(b"12345")).unwrap();
    assert!(matches!(store.read(FileKind::Index, id, 4), Err(Error::Damaged { .. })));
    assert!(matches!(store.read_range(FileKind::Index, id, 3, 3), Err(Error::Damaged { .. })));
    store.remove(FileKind::Index, id).unwrap();
    store.remove(FileKind::Index, id).unwrap();
    assert!(matches!(store.read(FileKind::Index, id, 10), Err(Error::Missing { .. })));
}

#[test]
fn foreign_names_are_left_out_of_a_listing() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::new(dir.path());
    store.create().unwrap();
    let id = FileId::of(b"x");
    store.write(FileKind::Key, id, Payload::Bytes(b"x")).unwrap();
    for name in ["README", &format!("{id}.tmp"), &id.to_string().to_uppercase()] {
        fs_err::write(dir.path().join("keys").join(name), b"?").unwrap();
    }
    let mut found = Vec::new();
    store
        .list(FileKind::Key, &mut |id, _| {
            found.push(id);
            Ok(())
        })
        .unwrap();
    assert_eq!(found, [id]);
}
