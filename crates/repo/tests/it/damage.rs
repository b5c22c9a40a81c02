//! Damage, forgery and full disks: noticed, named, never served, nothing lost that was committed.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use kuramori_model::{
    fault::{Exit, Fault},
    tree::{Entry, EntryKind, Meta, Sink, TreePath},
};
use kuramori_repo::{
    Context, Error, Indexed, Repository, Result,
    backup::Options,
    format::blob::BlobKind,
    local::Selection,
    store::{FileId, FileKind, LocalStore},
};

use crate::{
    backup::{back_up, content, draft, find_node, random},
    common::{Place, secret},
};

fn path_of(place: &Place, kind: FileKind, id: FileId) -> PathBuf {
    LocalStore::new(place.repo()).path(kind, id)
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    fs_err::write(path, bytes).unwrap();
}

/// A repository with one small snapshot, and what reads all of it.
fn small() -> (Place, FileId) {
    let place = Place::new();
    let source = place.dir.path().join("s");
    fs_err::create_dir_all(&source).unwrap();
    fs_err::write(source.join("text"), "compressible ".repeat(200)).unwrap();
    fs_err::write(source.join("random"), random(1, 500)).unwrap();
    let repo = place.create().index().unwrap();
    let id = back_up(&repo, &[source], &Selection::default()).id;
    (place, id)
}

/// Opens everything that a restore would open; a new key derivation only if the repository is not opened yet.
fn read_all(place: &Place, opened: Option<&Repository>) -> Result<()> {
    let opened = match opened {
        Some(opened) => opened.clone(),
        None => Repository::open(place.store(), &secret(), Context::system())?,
    };
    let snapshots = opened.snapshots()?;
    let repo = opened.index()?;
    for pack in repo.list(FileKind::Pack)? {
        repo.pack_header(pack)?;
    }
    let mut trees: Vec<_> = snapshots.iter().map(|(_, snapshot)| snapshot.tree).collect();
    while let Some(tree) = trees.pop() {
        for node in repo.load_tree(&tree)?.nodes {
            trees.extend(node.subtree);
            for id in node.content.iter().flatten() {
                repo.load_blob(BlobKind::Data, id)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_flipped_bit_in_any_class_of_file_is_noticed_and_named() {
    let (place, _) = small();
    read_all(&place, None).unwrap();
    let repo = place.open();
    let mut files = vec![(FileKind::Config, FileId::ZERO)];
    for kind in [FileKind::Key, FileKind::Pack, FileKind::Index, FileKind::Snapshot] {
        files.extend(repo.list(kind).unwrap().into_iter().map(|id| (kind, id)));
    }
    for (kind, id) in files {
        let opened = (!matches!(kind, FileKind::Config | FileKind::Key)).then_some(&repo);
        let path = path_of(&place, kind, id);
        let whole = fs_err::read(&path).unwrap();
        // Opening costs a key derivation, so not every bit of these in the short form.
        let long = std::env::var_os("KURAMORI_LONG").is_some();
        let steps = if long {
            4000
        } else if opened.is_some() {
            200
        } else {
            8
        };
        let bits = whole.len() * 8;
        for step in 0..steps {
            let bit = (step * bits / steps + step) % bits;
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            overwrite(&path, &changed);
            let error = read_all(&place, opened).expect_err(&format!("bit {bit} of {kind}/{id}"));
            let name = if kind == FileKind::Config { "config".to_owned() } else { id.to_string() };
            assert!(error.to_string().contains(&name), "bit {bit} of {kind}/{id}: {error}");
            assert_eq!((error.code(), error.exit()), ("repo.damaged", Exit::Damaged), "{error}");
            assert!(error.hint().is_some());
        }
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            overwrite(&path, &whole[..length]);
            let error = read_all(&place, opened).expect_err(&format!("{kind}/{id} cut to {length}"));
            assert_eq!(error.exit(), Exit::Damaged, "{error}");
        }
        fs_err::remove_file(&path).unwrap();
        assert!(read_all(&place, opened).is_err() || kind == FileKind::Snapshot, "{kind}/{id} removed");
        fs_err::write(&path, &whole).unwrap();
    }
    read_all(&place, None).unwrap();
}

#[test]
fn a_sealed_blob_put_over_another_of_equal_length_is_never_served() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let mut backup = repo.backup(Options::default()).unwrap();
    for (name, seed) in [("a", 1), ("b", 2)] {
        let entry = Entry {
            path: TreePath::new(name).unwrap(),
            kind: EntryKind::File { size: 5000 },
            meta: Meta::default(),
        };
        backup.put(entry, &mut &random(seed, 5000)[..]).unwrap();
    }
    let done = backup.commit(draft()).unwrap();
    let locate = |repo: &Repository<Indexed>, name: &str| {
        let id = find_node(repo, done.id, name).content.unwrap()[0];
        (id, repo.locations(BlobKind::Data, &id).unwrap()[0])
    };
    let ((id_a, a), (_, b)) = (locate(&repo, "a"), locate(&repo, "b"));
    assert_eq!(a.blob.length, b.blob.length);
    let (pack_a, pack_b) = (path_of(&place, FileKind::Pack, a.pack), path_of(&place, FileKind::Pack, b.pack));
    let from = b.blob.offset as usize..(b.blob.offset + b.blob.length) as usize;
    let to = a.blob.offset as usize..(a.blob.offset + a.blob.length) as usize;
    let stolen = fs_err::read(pack_b).unwrap()[from].to_vec();
    let mut bytes = fs_err::read(&pack_a).unwrap();
    bytes[to].copy_from_slice(&stolen);
    overwrite(&pack_a, &bytes);
    // Its seal holds: only the hash tells.
    assert!(
        repo.open_blob(&kuramori_repo::format::blob::PackedBlob { id: b.blob.id, ..a.blob }, stolen).is_ok()
    );
    let error = repo.load_blob(BlobKind::Data, &id_a).unwrap_err();
    assert!(error.to_string().contains(&id_a.to_string()) && error.to_string().contains(&a.pack.to_string()));
}

#[test]
fn a_damaged_place_falls_back_to_another_one() {
    let place = Place::new();
    let bytes = random(4, 3000);
    let back_up = |name: &str| {
        // A process of its own each time, and without the other's index: so the blob is stored twice.
        let repo = place.open().index().unwrap();
        let mut backup = repo.backup(Options::default()).unwrap();
        let entry = Entry {
            path: TreePath::new(name).unwrap(),
            kind: EntryKind::File { size: 3000 },
            meta: Meta::default(),
        };
        backup.put(entry, &mut &bytes[..]).unwrap();
        backup.commit(draft()).unwrap().id
    };
    place.create();
    back_up("one");
    let index = place.repo().join("index");
    let aside = place.dir.path().join("aside");
    fs_err::rename(&index, &aside).unwrap();
    fs_err::create_dir(&index).unwrap();
    let second = back_up("two");
    for entry in fs_err::read_dir(&aside).unwrap() {
        let entry = entry.unwrap();
        fs_err::rename(entry.path(), index.join(entry.file_name())).unwrap();
    }
    let repo = place.open().index().unwrap();
    let node = find_node(&repo, second, "two");
    let places = repo.locations(BlobKind::Data, &node.content.as_ref().unwrap()[0]).unwrap();
    assert_eq!(places.len(), 2);
    for damaged in &places {
        let path = path_of(&place, FileKind::Pack, damaged.pack);
        let whole = fs_err::read(&path).unwrap();
        let mut changed = whole.clone();
        changed[damaged.blob.offset as usize + 20] ^= 1;
        overwrite(&path, &changed);
        assert_eq!(content(&repo, &node), bytes);
        assert!(repo.load_blob_at(damaged).is_err());
        overwrite(&path, &whole);
    }
}

/// A file system of a few MiB in a file; unmounted when dropped.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn new(mebibytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        fs_err::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        fs_err::create_dir(dir.path().join("mnt")).unwrap();
        let run = |command: &mut Command| {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-N", "2000"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(dir.path().join("mnt")));
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_loses_nothing_that_was_committed() {
    let disk = SmallDisk::new(40);
    let store: Arc<LocalStore> = Arc::new(LocalStore::new(disk.path().join("repo")));
    let repo =
        Repository::create(Arc::clone(&store) as _, &secret(), Context::system()).unwrap().index().unwrap();
    let put = |seed: u64, mebibytes: usize| {
        let mut backup = repo.backup(Options { pack_size: 4 << 20, ..Options::default() })?;
        let bytes = random(seed, mebibytes << 20);
        let entry = Entry {
            path: TreePath::new("file").unwrap(),
            kind: EntryKind::File { size: bytes.len() as u64 },
            meta: Meta::default(),
        };
        let _ = backup.put(entry, &mut &bytes[..]);
        backup.commit(draft())
    };
    let first = put(1, 10).unwrap();
    let error = put(2, 60).unwrap_err();
    assert_eq!(error.code(), "repo.full", "{error:?}");
    assert!(error.hint().unwrap().contains("room"));
    let again = Repository::open(store, &secret(), Context::system()).unwrap();
    assert_eq!(again.snapshots().unwrap().len(), 1);
    let again = again.index().unwrap();
    assert_eq!(content(&again, &find_node(&again, first.id, "file")), random(1, 10 << 20));
    // The disk holds whole packs of the run that failed, and nothing half written.
    for pack in again.list(FileKind::Pack).unwrap() {
        again.pack_header(pack).unwrap();
    }
}

#[test]
fn files_that_vanish_or_change_while_they_are_read_are_noted() {
    let place = Place::new();
    let source = place.dir.path().join("s");
    fs_err::create_dir_all(&source).unwrap();
    // Growing all the time; and gone as soon as somebody lists: both are certain within a few runs.
    let growing = source.join("growing");
    fs_err::write(&growing, random(1, 20 << 20)).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = {
        let (stop, growing) = (Arc::clone(&stop), growing.clone());
        std::thread::spawn(move || {
            let mut file = fs_err::OpenOptions::new().append(true).open(growing).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::io::Write::write_all(&mut file, b"more").unwrap();
                std::thread::yield_now();
            }
        })
    };
    let repo = place.create().index().unwrap();
    let done = back_up(&repo, std::slice::from_ref(&source), &Selection::default());
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    assert!(!done.is_incomplete());
    assert_eq!(done.report.notes.len(), 1, "{:?}", done.report);
    assert!(done.report.notes[0].path.ends_with("growing") && done.report.notes[0].why.contains("changed"));
    let node = find_node(&repo, done.id, growing.to_str().unwrap());
    assert_eq!(content(&repo, &node).len() as u64, node.size);

    // Announced with one size, delivered with another: a truncated file.
    let mut backup = repo.backup(Options::default()).unwrap();
    let entry = Entry {
        path: TreePath::new("cut").unwrap(),
        kind: EntryKind::File { size: 100 },
        meta: Meta::default(),
    };
    backup.put(entry, &mut &b"short"[..]).unwrap();
    let done = backup.commit(draft()).unwrap();
    assert!(done.report.notes[0].why.contains("100"), "{:?}", done.report);
    assert_eq!(find_node(&repo, done.id, "cut").size, 5);
}

#[test]
fn an_unreadable_folder_is_a_fault_and_a_lost_store_an_error() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    // Root may read everything, so the unreadable thing is one that the kernel itself refuses.
    let mut backup = repo.backup(Options::default()).unwrap();
    let target = PathBuf::from(format!("/proc/{}/task/{}/mem", std::process::id(), std::process::id()));
    backup.add_paths(std::slice::from_ref(&target), &Selection::default()).unwrap();
    let done = backup.commit(draft()).unwrap();
    assert!(done.is_incomplete());
    assert_eq!(done.report.faults[0].path, target.to_str().unwrap());
    // One unreadable file does not make everything else be read again, and is told in each run.
    let beside = place.dir.path().join("beside");
    fs_err::create_dir_all(beside.join("inner")).unwrap();
    for name in ["a", "inner/b"] {
        fs_err::write(beside.join(name), name).unwrap();
    }
    let first = back_up(&repo, &[target.clone(), beside.clone()], &Selection::default());
    let second = back_up(&repo, &[target.clone(), beside], &Selection::default());
    assert!(first.is_incomplete() && second.is_incomplete());
    assert_eq!((first.summary.files_new, second.summary.files_unmodified), (2, 2), "{:?}", second.summary);
    assert_eq!(second.report.faults, first.report.faults);

    let mut backup = repo.backup(Options::default()).unwrap();
    fs_err::rename(place.repo().join("data"), place.repo().join("elsewhere")).unwrap();
    fs_err::write(place.repo().join("data"), "a file stands here").unwrap();
    let entry =
        Entry { path: TreePath::new("x").unwrap(), kind: EntryKind::File { size: 9 }, meta: Meta::default() };
    let _ = backup.put(entry, &mut &b"new bytes"[..]);
    let error = backup.commit(draft()).unwrap_err();
    assert_eq!(error.code(), "repo.io");
    assert!(error.to_string().contains("data"), "{error}");
    assert!(!matches!(error, Error::Cancelled));
    assert_eq!(repo.snapshots().unwrap().len(), 3, "the last one left none");
}
