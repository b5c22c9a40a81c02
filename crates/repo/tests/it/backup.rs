//! Writing, judged by Debian's `restic`: what it checks and restores is what the source held.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kuramori_model::{
    clock::{Random, SeededRandom},
    fault::Fault,
    tree::{Entry, EntryKind, FileTime, Meta, Sink, TreePath},
};
use kuramori_repo::{
    Cancel, Error, Indexed, Repository,
    backup::{Backup, Committed, Draft, Options},
    chunk::Chunking,
    format::{blob::BlobKind, node::NodeKind},
    local::{Selection, snapshot_paths},
    store::FileKind,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::common::{Place, restic};

pub(crate) fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SeededRandom::new(seed).fill(&mut bytes);
    bytes
}

pub(crate) fn draft() -> Draft {
    Draft { hostname: "pacs".to_owned(), username: "dump".to_owned(), ..Draft::default() }
}

/// Backs up local paths against the newest parent.
pub(crate) fn back_up(repo: &Repository<Indexed>, paths: &[PathBuf], selection: &Selection) -> Committed {
    let parent = repo.find_parent("pacs", &snapshot_paths(paths).unwrap()).unwrap();
    let mut backup = repo.backup(Options { parent, ..Options::default() }).unwrap();
    let paths = backup.add_paths(paths, selection).unwrap();
    backup.commit(Draft { paths, excludes: selection.excludes.clone(), ..draft() }).unwrap()
}

/// Everything that a person could compare: kind, mode, owner, time, content or target, attributes.
fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(dir: &Path, root: &Path, picture: &mut BTreeMap<PathBuf, String>) {
        for entry in fs_err::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs_err::symlink_metadata(&path).unwrap();
            let mut text = vec![
                format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid()),
                format!("{}.{:09} rdev {}", meta.mtime(), meta.mtime_nsec(), meta.rdev()),
            ];
            if meta.is_symlink() {
                text.push(format!("-> {}", fs_err::read_link(&path).unwrap().display()));
            } else {
                for name in xattr::list(&path).unwrap() {
                    text.push(format!("{}={:?}", name.display(), xattr::get(&path, &name).unwrap()));
                }
            }
            if meta.is_file() {
                let content = kuramori_repo::format::blob::BlobId::of(&fs_err::read(&path).unwrap());
                text.push(format!("links {} {content}", meta.nlink()));
            }
            let text = text.join(" ");
            picture.insert(path.strip_prefix(root).unwrap().to_owned(), text);
            if meta.is_dir() {
                walk(&path, root, picture);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

/// A folder with every kind of thing that a department keeps.
fn odd_source(root: &Path) {
    let write = |name: &[u8], bytes: &[u8]| {
        let path = root.join(std::ffi::OsStr::from_bytes(name));
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, bytes).unwrap();
        path
    };
    write(b"empty", b"");
    write(b"one", b"1");
    let large = write(b"dump/large.bin", &random(1, 9 << 20));
    fs_err::hard_link(&large, root.join("dump/second-name")).unwrap();
    write(b"dump/text.sql", "INSERT INTO orders VALUES (1);\n".repeat(100_000).as_bytes());
    write("画像/患者　様.dcm".as_bytes(), &random(2, 600_000));
    write(b"odd \xff\xfe\n\"\\<&>", b"raw name");
    let suid = write(b"suid", b"x");
    fs_err::set_permissions(suid, std::fs::Permissions::from_mode(0o6751)).unwrap();
    let marked = write(b"marked", b"with attributes");
    xattr::set(&marked, "user.kuramori.test", b"\x00\xff").unwrap();
    for number in 0..300 {
        write(format!("many/{number:04}").as_bytes(), format!("file {number}").as_bytes());
    }
    fs_err::create_dir_all(root.join("deep/er/and/deeper")).unwrap();
    fs_err::set_permissions(root.join("deep"), std::fs::Permissions::from_mode(0o1775)).unwrap();
    symlink("one", root.join("link")).unwrap();
    symlink(std::ffi::OsStr::from_bytes(b"to/\xe3\x81/nowhere"), root.join("raw-link")).unwrap();
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), 0x103).unwrap();
    mknodat(CWD, root.join("disk"), FileType::BlockDevice, Mode::from_raw_mode(0o660), 0x700).unwrap();
    mknodat(CWD, root.join("socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap();
    std::os::unix::fs::chown(root.join("one"), Some(1234), Some(4321)).unwrap();
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 6 },
        last_modification: rustix::fs::Timespec { tv_sec: -3, tv_nsec: 123_456_789 },
    };
    rustix::fs::utimensat(CWD, root.join("one"), &times, rustix::fs::AtFlags::empty()).unwrap();
}

#[test]
fn restic_restores_every_kind_of_item_as_it_was() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    odd_source(&source);
    let repo = place.create().index().unwrap();
    let done = back_up(&repo, std::slice::from_ref(&source), &Selection::default());
    assert_eq!(done.report, kuramori_repo::backup::Report::default());
    restic(&place.repo(), &["check", "--read-data"]).unwrap();
    let target = place.dir.path().join("target");
    restic(&place.repo(), &["restore", "latest", "--target", target.to_str().unwrap()]).unwrap();
    let restored = target.join(source.strip_prefix("/").unwrap());
    let (mut before, mut after) = (picture(&source), picture(&restored));
    // restic 0.14 restores no sockets, and writes a link's target as text.
    before.remove(Path::new("socket"));
    assert!(after.remove(Path::new("raw-link")).is_some() && before.remove(Path::new("raw-link")).is_some());
    assert_eq!(before, after);
    assert_eq!(done.summary.files_new, 300 + 9);
    let listed = restic(&place.repo(), &["ls", "latest"]).unwrap();
    assert!(listed.contains("socket"));
    // The raw target is there for whoever reads it.
    let node = find_node(&repo, done.id, &format!("{}/raw-link", source.display()));
    assert_eq!(node.link_target, b"to/\xe3\x81/nowhere");
}

pub(crate) fn find_node(
    repo: &Repository<Indexed>,
    snapshot: kuramori_repo::store::FileId,
    path: &str,
) -> kuramori_repo::format::node::Node {
    let mut tree = repo.snapshot(snapshot).unwrap().tree;
    let mut found = None;
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let nodes = repo.load_tree(&tree).unwrap().nodes;
        let node = nodes.into_iter().find(|node| node.name == part.as_bytes());
        let node = node.unwrap_or_else(|| panic!("no `{part}` of `{path}`"));
        tree = node.subtree.unwrap_or_default();
        found = Some(node);
    }
    found.unwrap()
}

pub(crate) fn content(repo: &Repository<Indexed>, node: &kuramori_repo::format::node::Node) -> Vec<u8> {
    node.content.iter().flatten().flat_map(|id| repo.load_blob(BlobKind::Data, id).unwrap()).collect()
}

#[test]
fn an_unchanged_run_reads_no_data_and_a_changed_one_only_that() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    odd_source(&source);
    let repo = place.create().index().unwrap();
    let paths = [source.clone()];
    let first = back_up(&repo, &paths, &Selection::default());
    let packs = repo.list(FileKind::Pack).unwrap().len();
    let again = back_up(&repo, &paths, &Selection::default());
    assert_eq!(again.summary.files_unmodified, 309);
    assert_eq!((again.summary.files_new, again.summary.files_changed), (0, 0));
    assert_eq!(
        (again.summary.data_blobs, again.summary.data_added_packed.min(2000)),
        (0, again.summary.data_added_packed)
    );
    assert_eq!(repo.snapshot(again.id).unwrap().parent, Some(first.id));
    let folder = |id| find_node(&repo, id, source.to_str().unwrap());
    assert_eq!(folder(again.id), folder(first.id));
    // The folders above the source belong to everybody, so their times may have changed.
    assert!(repo.list(FileKind::Pack).unwrap().len() <= packs + 1);

    fs_err::write(source.join("many/0007"), "changed").unwrap();
    fs_err::write(source.join("many/new"), "new").unwrap();
    // A fresh process, so that the index comes from the files.
    let repo = place.open().index().unwrap();
    let third = back_up(&repo, &paths, &Selection::default());
    assert_eq!((third.summary.files_changed, third.summary.files_new, third.summary.data_blobs), (1, 1, 2));
    assert_eq!(third.summary.files_unmodified, 308);
    restic(&place.repo(), &["check", "--read-data"]).unwrap();
    let dumped =
        restic(&place.repo(), &["dump", "latest", source.join("many/0007").to_str().unwrap()]).unwrap();
    assert_eq!(dumped, "changed");
}

#[test]
fn what_is_excluded_stays_out() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    odd_source(&source);
    let repo = place.create().index().unwrap();
    let selection =
        Selection { excludes: vec!["many".to_owned(), "*.sql".to_owned()], ..Selection::default() };
    let done = back_up(&repo, &[source.clone(), source.join("dump")], &selection);
    let snapshot = repo.snapshot(done.id).unwrap();
    assert_eq!(snapshot.paths, [source.to_str().unwrap()], "a path inside another is not kept twice");
    assert_eq!(snapshot.excludes, selection.excludes);
    let listed = restic(&place.repo(), &["ls", "latest"]).unwrap();
    assert!(!listed.contains("/many") && !listed.contains("text.sql") && listed.contains("large.bin"));
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    let time = FileTime { seconds: 1_700_000_000, nanos: 5 };
    let meta = Meta { mode: 0o640, mtime: time, atime: time, ctime: time, inode: 7, ..Meta::default() };
    Entry { path: TreePath::new(path).unwrap(), kind, meta }
}

fn put(backup: &mut Backup, path: &str, bytes: &[u8]) {
    let entry = entry(path, EntryKind::File { size: bytes.len() as u64 });
    backup.put(entry, &mut Cursor::new(bytes)).unwrap();
}

/// Fails after some bytes.
struct Broken(usize);

impl Read for Broken {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0 == 0 {
            return Err(std::io::Error::other("the share went away"));
        }
        let length = buffer.len().min(self.0);
        buffer[..length].fill(1);
        self.0 -= length;
        Ok(length)
    }
}

#[test]
fn a_source_may_put_its_items_in_any_order() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let mut backup = repo.backup(Options::default()).unwrap();
    let large = random(3, 5 << 20);
    put(&mut backup, "b/inner/large", &large);
    put(&mut backup, "a/x", b"x");
    backup.put(entry("b", EntryKind::Dir), &mut std::io::empty()).unwrap();
    put(&mut backup, "b/first", b"first");
    backup
        .put(entry("b/link", EntryKind::Symlink { target: b"first".to_vec() }), &mut std::io::empty())
        .unwrap();
    backup.seal(&TreePath::new("b").unwrap()).unwrap();
    put(&mut backup, "a/b", b"");
    put(&mut backup, "z", b"last");
    let done = backup.commit(draft()).unwrap();
    assert!(!done.is_incomplete());
    restic(&place.repo(), &["check", "--read-data"]).unwrap();
    assert_eq!(content(&repo, &find_node(&repo, done.id, "b/inner/large")), large);
    let b = find_node(&repo, done.id, "b");
    assert_eq!((b.kind, b.mtime.seconds), (NodeKind::Dir, 1_700_000_000));

    // The next point takes over what it knows.
    let mut backup = repo.backup(Options { parent: Some(done.id), ..Options::default() }).unwrap();
    let known = entry("b/inner/large", EntryKind::File { size: large.len() as u64 });
    assert!(backup.known(&known));
    let mut other = known.clone();
    other.meta.mtime.nanos += 1;
    assert!(!backup.known(&other));
    assert!(backup.keep(other).is_err());
    backup.keep(known).unwrap();
    let second = backup.commit(draft()).unwrap();
    assert_eq!((second.summary.files_unmodified, second.summary.data_blobs), (1, 0));
    assert_eq!(content(&repo, &find_node(&repo, second.id, "b/inner/large")), large);
}

#[test]
fn an_item_named_twice_is_refused() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let mut backup = repo.backup(Options::default()).unwrap();
    put(&mut backup, "a/x", b"1");
    put(&mut backup, "a/x", b"2");
    let error = backup.commit(draft()).unwrap_err();
    assert_eq!(error.code(), "repo.invalid");
    assert!(error.to_string().contains("`x`"), "{error}");
    assert!(repo.snapshots().unwrap().is_empty());
}

#[test]
fn an_unreadable_item_marks_the_restore_point_incomplete() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let mut backup = repo.backup(Options::default()).unwrap();
    put(&mut backup, "good", b"good");
    for size in [100, 3 << 20] {
        let path = format!("bad-{size}");
        backup.put(entry(&path, EntryKind::File { size: 9 }), &mut Broken(size)).unwrap();
    }
    backup.fault(&TreePath::new("locked.db").unwrap(), "in use".to_owned());
    let done = backup.commit(draft()).unwrap();
    assert!(done.is_incomplete());
    let mut named: Vec<_> = done.report.faults.iter().map(|fault| fault.path.as_str()).collect();
    named.sort_unstable();
    assert_eq!(named, ["bad-100", "bad-3145728", "locked.db"]);
    let snapshot = repo.snapshot(done.id).unwrap();
    assert!(snapshot.is_incomplete() && snapshot.tags.contains(&"kuramori.chunk=cdc-1".to_owned()));
    assert_eq!(repo.load_tree(&snapshot.tree).unwrap().nodes.len(), 1, "half a file does not appear");
    restic(&place.repo(), &["check", "--read-data"]).unwrap();

    // Rule E10: what it has need not be read again, and nothing of what it misses is taken for known.
    let again = |lost: bool| {
        let parent = repo.find_parent("pacs", &[]).unwrap();
        let mut backup = repo.backup(Options { parent, ..Options::default() }).unwrap();
        let good = entry("good", EntryKind::File { size: 4 });
        assert!(backup.known(&good));
        backup.keep(good).unwrap();
        for size in [100, 3 << 20] {
            let bad = entry(&format!("bad-{size}"), EntryKind::File { size: 9 });
            assert!(!backup.known(&bad) && backup.earlier(&bad.path).is_none(), "it was never read");
            assert!(backup.keep(bad.clone()).is_err());
            let (mut broken, mut whole) = (Broken(size), &b"123456789"[..]);
            let content: &mut dyn Read = if lost { &mut broken } else { &mut whole };
            backup.put(bad, content).unwrap();
        }
        (parent, backup.commit(draft()).unwrap())
    };
    let (parent, second) = again(true);
    assert_eq!((parent, second.report.faults.len()), (Some(done.id), 2), "still missing, still told");
    assert_eq!((second.summary.files_unmodified, second.summary.data_blobs), (1, 0));
    assert!(repo.snapshot(second.id).unwrap().is_incomplete());
    let (parent, third) = again(false);
    assert_eq!((parent, third.is_incomplete()), (Some(second.id), false));
    let tree = repo.load_tree(&repo.snapshot(third.id).unwrap().tree).unwrap();
    assert_eq!(tree.nodes.len(), 3, "complete is only what has everything");
    restic(&place.repo(), &["check", "--read-data"]).unwrap();
}

#[test]
fn a_stream_is_one_file_and_a_broken_one_is_no_restore_point() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let dump = random(5, 7 << 20);
    let mut backup = repo.backup(Options { chunking: Chunking::Fixed, ..Options::default() }).unwrap();
    let name = TreePath::new("billing.dump").unwrap();
    assert_eq!(backup.stream(&name, &mut Cursor::new(&dump)).unwrap(), dump.len() as u64);
    let done = backup.commit(draft()).unwrap();
    assert_eq!(find_node(&repo, done.id, "billing.dump").content.unwrap().len(), 7);
    assert!(repo.snapshot(done.id).unwrap().tags.contains(&"kuramori.chunk=fixed-1".to_owned()));
    let mut backup = repo.backup(Options::default()).unwrap();
    let error = backup.stream(&name, &mut Broken(2 << 20)).unwrap_err();
    assert_eq!(error.code(), "repo.io");
    assert!(backup.commit(draft()).is_err());
    assert_eq!(repo.snapshots().unwrap().len(), 1);
    assert!(repo.list(FileKind::Lock).unwrap().is_empty());
}

#[test]
fn a_cancelled_backup_leaves_nothing_to_see_and_its_packs_to_reuse() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let cancel = Cancel::default();
    let options = Options { cancel: cancel.clone(), pack_size: 4 << 20, ..Options::default() };
    let mut backup = repo.backup(options).unwrap();
    put(&mut backup, "large", &random(8, 24 << 20));
    // Two packs are open at any time, so some of the six are certainly stored.
    while repo.list(FileKind::Pack).unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    cancel.cancel();
    assert!(matches!(backup.commit(draft()), Err(Error::Cancelled)));
    assert!(repo.snapshots().unwrap().is_empty() && repo.list(FileKind::Lock).unwrap().is_empty());
    let repo = place.open().index().unwrap();
    let reusable = repo.with_index(|index| index.len(BlobKind::Data));
    assert!(reusable > 0);
    restic(&place.repo(), &["check", "--read-data"]).unwrap();
}

#[test]
fn parallel_backups_see_each_other_and_both_are_whole() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let shared = random(9, 20 << 20);
    let ids: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3_u64)
            .map(|number| {
                let (repo, shared) = (repo.clone(), &shared);
                scope.spawn(move || {
                    let mut backup =
                        repo.backup(Options { pack_size: 4 << 20, ..Options::default() }).unwrap();
                    put(&mut backup, "shared", shared);
                    put(&mut backup, "own", &random(100 + number, 2 << 20));
                    backup.commit(draft()).unwrap().id
                })
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    restic(&place.repo(), &["check", "--read-data"]).unwrap();
    let fresh = place.open().index().unwrap();
    for id in ids {
        assert_eq!(content(&fresh, &find_node(&fresh, id, "shared")), shared);
    }
}

#[test]
fn the_watcher_is_told_and_the_memory_budget_makes_the_producer_help() {
    let place = Place::new();
    let repo = place.create().index().unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let options = Options {
        memory: 0,
        threads: Some(1),
        watcher: Some(Arc::new(move |progress| {
            assert!(progress.items <= progress.total_items);
            count.fetch_add(1, Ordering::Relaxed);
        })),
        ..Options::default()
    };
    let mut backup = repo.backup(options).unwrap();
    for number in 0..30 {
        put(&mut backup, &format!("f{number}"), &random(number, 2 << 20));
    }
    backup.commit(draft()).unwrap();
    assert!(told.load(Ordering::Relaxed) > 0);
    restic(&place.repo(), &["check", "--read-data"]).unwrap();
}
