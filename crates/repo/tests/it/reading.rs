//! The reading side against repositories that a stock restic made: restore, check, mirror, forget.

use std::{
    collections::BTreeMap,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use kuramori_repo::{
    Cancel, Context, Error, Indexed, Repository, Secret,
    check::CheckOptions,
    mirror::mirror,
    progress::Progress,
    prune::PruneOptions,
    restore::RestoreOptions,
    store::{FileKind, LocalStore, Store},
};
use tempfile::TempDir;

const PASSWORD: &str = "reading";

fn restic(repository: &Path, words: &[&str]) -> String {
    let output = Command::new("restic")
        .args(["--no-cache", "-q", "-r"])
        .arg(repository)
        .args(words)
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .expect("Debian's restic is installed (scripts/setup)");
    assert!(output.status.success(), "restic {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn store(folder: &Path) -> Arc<dyn Store> {
    Arc::new(LocalStore::new(folder))
}

fn open(folder: &Path) -> Repository {
    Repository::open(store(folder), &Secret::new(PASSWORD), Context::system()).expect("the repository opens")
}

/// A source with every kind of item that a plain user's folder may have.
fn make_source(source: &Path) {
    fs_err::create_dir_all(source.join("deep/er/眼科")).unwrap();
    fs_err::write(source.join("deep/er/眼科/患者一覧.txt"), "テスト患者\n".repeat(5000)).unwrap();
    fs_err::write(source.join("empty"), "").unwrap();
    fs_err::write(source.join("-rf \"quoted\" \\name"), "odd").unwrap();
    let mut noise = vec![0_u8; 9 << 20];
    let mut state = 7_u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = state.to_be_bytes()[0];
    }
    fs_err::write(source.join("big"), &noise).unwrap();
    fs_err::write(source.join("again"), &noise[..5 << 20]).unwrap();
    let sparse = fs_err::File::create(source.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.file().write_all_at(b"in the middle", 40 << 20).unwrap();
    fs_err::hard_link(source.join("big"), source.join("deep/second name")).unwrap();
    symlink("../no/where", source.join("link")).unwrap();
    fs_err::set_permissions(source.join("again"), std::fs::Permissions::from_mode(0o4750)).unwrap();
    xattr::set(source.join("again"), "user.kuramori", b"kept\0raw").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        source.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
}

/// Everything of a tree that a restore must give back, by path.
fn look(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs_err::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() {
                kuramori_repo::store::FileId::of(&fs_err::read(&path).unwrap()).to_string()
            } else if meta.is_symlink() {
                fs_err::read_link(&path).unwrap().display().to_string()
            } else {
                String::new()
            };
            let attributes: Vec<_> = if meta.is_file() {
                xattr::list(&path)
                    .unwrap()
                    .map(|name| (name.clone(), xattr::get(&path, &name).unwrap()))
                    .collect()
            } else {
                Vec::new()
            };
            let facts = format!(
                "{:o} {}:{} {}.{} links {} {content} {attributes:?}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec(),
                if meta.is_dir() { 0 } else { meta.nlink() },
            );
            found.insert(path.strip_prefix(root).unwrap().to_owned(), facts);
            if meta.is_dir() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

struct Bench {
    scratch: TempDir,
}

impl Bench {
    /// A restic repository with one snapshot of the source.
    fn new() -> Self {
        let bench = Self { scratch: TempDir::new().unwrap() };
        make_source(&bench.source());
        restic(&bench.repository(), &["init"]);
        restic(&bench.repository(), &["backup", bench.source().to_str().unwrap()]);
        bench
    }

    fn source(&self) -> PathBuf {
        self.scratch.path().join("source")
    }

    fn repository(&self) -> PathBuf {
        self.scratch.path().join("repository")
    }

    fn indexed(&self) -> Repository<Indexed> {
        open(&self.repository()).index().expect("the index loads")
    }

    /// Flips one bit in the middle of the largest file of a kind; gives its name.
    fn damage(&self, kind: &str) -> String {
        let mut files = Vec::new();
        collect(&self.repository().join(kind), &mut files);
        let path = files.into_iter().max_by_key(|path| fs_err::metadata(path).unwrap().len()).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut bytes = fs_err::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        fs_err::write(&path, bytes).unwrap();
        path.file_name().unwrap().to_string_lossy().into_owned()
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

fn check(folder: &Path, read_data: bool) -> kuramori_repo::check::Checked {
    let options = CheckOptions { read_data, workers: 2 };
    open(folder).check(options, &Progress::default(), &Cancel::default()).expect("the check ends")
}

#[test]
fn what_restic_backed_up_is_restored_with_every_attribute() {
    let bench = Bench::new();
    let repository = bench.indexed();
    let (_, snapshot) = repository.find_snapshot("latest").unwrap();
    let target = bench.scratch.path().join("target");
    let progress = Progress::default();
    let restored =
        repository.restore(&snapshot, &RestoreOptions::to(&target), &progress, &Cancel::default()).unwrap();
    assert_eq!(restored.shortfalls, []);
    let inner = target.join(bench.source().strip_prefix("/").unwrap());
    let (truth, found) = (look(&bench.source()), look(&inner));
    assert_eq!(found, truth);
    let blocks = fs_err::metadata(inner.join("sparse")).unwrap().blocks() * 512;
    assert!(blocks < 1 << 20, "the sparse file stays sparse, it takes {blocks} bytes");
    assert_eq!(progress.stand().bytes, progress.stand().total_bytes);
}

#[test]
fn a_single_file_or_folder_goes_straight_into_the_target() {
    let bench = Bench::new();
    let repository = bench.indexed();
    let (_, snapshot) = repository.find_snapshot("latest").unwrap();
    let base = bench.source().strip_prefix("/").unwrap().to_str().unwrap().to_owned();
    for (subpath, wanted) in [("deep/er", "眼科/患者一覧.txt"), ("deep/er/眼科/患者一覧.txt", "患者一覧.txt")]
    {
        let target = bench.scratch.path().join(format!("target-{}", subpath.len()));
        let mut options = RestoreOptions::to(&target);
        options.subpath = Some(kuramori_model::tree::TreePath::new(format!("{base}/{subpath}")).unwrap());
        repository.restore(&snapshot, &options, &Progress::default(), &Cancel::default()).unwrap();
        assert!(fs_err::read_to_string(target.join(wanted)).unwrap().starts_with("テスト患者"));
    }
}

#[test]
fn a_target_that_is_not_empty_is_refused_unless_it_may_be_overwritten() {
    let bench = Bench::new();
    let repository = bench.indexed();
    let (_, snapshot) = repository.find_snapshot("latest").unwrap();
    let target = bench.scratch.path().join("target");
    let mut options = RestoreOptions::to(&target);
    repository.restore(&snapshot, &options, &Progress::default(), &Cancel::default()).unwrap();
    let refused = repository.restore(&snapshot, &options, &Progress::default(), &Cancel::default());
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    let inner = target.join(bench.source().strip_prefix("/").unwrap());
    fs_err::write(inner.join("big"), "encrypted").unwrap();
    fs_err::remove_file(inner.join("again")).unwrap();
    symlink("/etc/passwd", inner.join("again")).unwrap();
    options.overwrite = true;
    let restored = repository.restore(&snapshot, &options, &Progress::default(), &Cancel::default()).unwrap();
    assert_eq!(restored.shortfalls, []);
    assert_eq!(look(&inner), look(&bench.source()));
}

#[test]
fn a_damaged_pack_costs_its_files_and_nothing_else() {
    let bench = Bench::new();
    let pack = bench.damage("data");
    let found = check(&bench.repository(), true);
    assert!(found.damages.iter().any(|damage| damage.what.contains(&pack)), "{found:?}");
    let repository = bench.indexed();
    let (_, snapshot) = repository.find_snapshot("latest").unwrap();
    let target = bench.scratch.path().join("target");
    let restored = repository
        .restore(&snapshot, &RestoreOptions::to(&target), &Progress::default(), &Cancel::default())
        .unwrap();
    assert!(!restored.shortfalls.is_empty() && restored.shortfalls.iter().all(|item| item.damaged));
    let inner = target.join(bench.source().strip_prefix("/").unwrap());
    let (truth, found) = (look(&bench.source()), look(&inner));
    for (path, facts) in &found {
        // Folders keep their times, files are either right or absent; a hard link to a lost file is lost too.
        let links = |facts: &str| facts.split(" links ").next().unwrap_or_default().to_owned();
        assert_eq!(links(facts), links(&truth[path]), "{}", path.display());
    }
    assert!(found.len() < truth.len(), "the damaged file must not be there");
}

#[test]
fn a_check_names_the_damaged_file_of_every_kind() {
    for kind in ["data", "index", "snapshots", "keys"] {
        let bench = Bench::new();
        assert!(check(&bench.repository(), true).is_clean(), "a clean repository checks clean");
        if kind == "keys" {
            // A second key opens the repository although the first one is damaged.
            let new_password = bench.scratch.path().join("second");
            fs_err::write(&new_password, "second key").unwrap();
            restic(
                &bench.repository(),
                &["key", "add", "--new-password-file", new_password.to_str().unwrap()],
            );
            let name = bench.damage(kind);
            let secrets = [PASSWORD, "second key"];
            let opened = secrets
                .iter()
                .find_map(|password| {
                    Repository::open(store(&bench.repository()), &Secret::new(*password), Context::system())
                        .ok()
                })
                .expect("one of two keys opens");
            let options = CheckOptions { read_data: false, workers: 1 };
            let found = opened.check(options, &Progress::default(), &Cancel::default()).unwrap();
            assert!(found.damages.iter().any(|damage| damage.what.contains(&name)), "{found:?}");
            continue;
        }
        let name = bench.damage(kind);
        let found = check(&bench.repository(), true);
        assert!(found.damages.iter().any(|damage| damage.what.contains(&name)), "{kind}: {found:?}");
    }
}

#[test]
fn a_mirror_is_complete_resumes_and_refuses_a_tampered_file() {
    let bench = Bench::new();
    let copy = bench.scratch.path().join("copy");
    let (from, to) = (store(&bench.repository()), store(&copy));
    let first = mirror(&*from, &*to, &Progress::default(), &Cancel::default()).unwrap();
    assert!(first.files > 3 && first.present == 0);
    restic(&copy, &["check", "--read-data"]);
    let second = mirror(&*from, &*to, &Progress::default(), &Cancel::default()).unwrap();
    assert_eq!((second.files, second.present), (0, first.files));

    let cancelled = Cancel::default();
    cancelled.cancel();
    let third = store(&bench.scratch.path().join("third"));
    assert!(matches!(mirror(&*from, &*third, &Progress::default(), &cancelled), Err(Error::Cancelled)));

    let name = bench.damage("data");
    let fresh = store(&bench.scratch.path().join("fresh"));
    let refused = mirror(&*from, &*fresh, &Progress::default(), &Cancel::default());
    assert!(matches!(&refused, Err(Error::Damaged { file, .. }) if file.contains(&name)), "{refused:?}");
    let mut snapshots = 0;
    fresh
        .list(FileKind::Snapshot, &mut |_, _| {
            snapshots += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(snapshots, 0, "no snapshot without its packs");
}

#[test]
fn forgetting_waits_for_no_one_but_respects_locks() {
    let bench = Bench::new();
    let repository = open(&bench.repository());
    let ids = repository.list(FileKind::Snapshot).unwrap();
    let held = repository.lock(kuramori_repo::lock::LockMode::Shared, std::time::Duration::ZERO).unwrap();
    let refused = repository.remove_snapshots(&ids, std::time::Duration::ZERO);
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    drop(held);
    repository.remove_snapshots(&ids, std::time::Duration::ZERO).unwrap();
    assert!(repository.snapshots().unwrap().is_empty());
}

#[test]
fn a_prune_frees_what_nobody_needs_and_restic_agrees() {
    let bench = Bench::new();
    let options = PruneOptions {
        max_unused_percent: 0,
        max_repack_bytes: u64::MAX,
        patience: std::time::Duration::ZERO,
    };
    let prune = || {
        let pruning = open(&bench.repository()).plan_prune(&options, &Cancel::default()).unwrap();
        pruning.execute(&Progress::default(), &Cancel::default()).unwrap()
    };
    assert!(prune().is_empty(), "everything is needed");

    // The second restore point shares most blobs with the first; the first then goes.
    fs_err::write(bench.source().join("big"), "replaced").unwrap();
    fs_err::remove_file(bench.source().join("again")).unwrap();
    fs_err::remove_file(bench.source().join("deep/second name")).unwrap();
    let first = open(&bench.repository()).list(FileKind::Snapshot).unwrap();
    restic(&bench.repository(), &["backup", bench.source().to_str().unwrap()]);
    open(&bench.repository()).remove_snapshots(&first, std::time::Duration::ZERO).unwrap();
    let size = || {
        let mut files = Vec::new();
        collect(&bench.repository().join("data"), &mut files);
        files.iter().map(|file| fs_err::metadata(file).unwrap().len()).sum::<u64>()
    };
    let before = size();
    let plan = prune();
    assert!(plan.remove_packs + plan.repack_packs > 0, "{plan:?}");
    assert!(size() < before, "{before} → {}", size());
    restic(&bench.repository(), &["check", "--read-data"]);
    assert!(check(&bench.repository(), true).is_clean());
    assert!(prune().is_empty(), "a second prune finds nothing");

    let repository = bench.indexed();
    let (_, snapshot) = repository.find_snapshot("latest").unwrap();
    let target = bench.scratch.path().join("target");
    let restored = repository
        .restore(&snapshot, &RestoreOptions::to(&target), &Progress::default(), &Cancel::default())
        .unwrap();
    assert_eq!(restored.shortfalls, []);
    assert_eq!(look(&target.join(bench.source().strip_prefix("/").unwrap())), look(&bench.source()));
}

#[test]
fn nothing_is_pruned_while_somebody_works_or_when_a_restore_point_is_not_whole() {
    let bench = Bench::new();
    let options = PruneOptions {
        max_unused_percent: 0,
        max_repack_bytes: u64::MAX,
        patience: std::time::Duration::ZERO,
    };
    let repository = open(&bench.repository());
    let held = repository.lock(kuramori_repo::lock::LockMode::Shared, std::time::Duration::ZERO).unwrap();
    assert!(matches!(repository.plan_prune(&options, &Cancel::default()), Err(Error::Locked { .. })));
    drop(held);
    bench.damage("snapshots");
    assert!(matches!(repository.plan_prune(&options, &Cancel::default()), Err(Error::Damaged { .. })));
}

#[test]
fn a_restore_that_was_cut_off_goes_on_and_keeps_only_what_is_right() {
    let bench = Bench::new();
    let repository = bench.indexed();
    let (_, snapshot) = repository.find_snapshot("latest").unwrap();
    let target = bench.scratch.path().join("target");
    let mut options = RestoreOptions::to(&target);
    repository.restore(&snapshot, &options, &Progress::default(), &Cancel::default()).unwrap();
    let inner = target.join(bench.source().strip_prefix("/").unwrap());
    // As if it had been cut off: one file is short, one has foreign bytes where a hole belongs, one is gone,
    // one is a link to elsewhere. What was whole stays the same file.
    let whole = fs_err::metadata(inner.join("deep/er/眼科/患者一覧.txt")).unwrap().ino();
    let big = fs_err::OpenOptions::new().write(true).open(inner.join("big")).unwrap();
    big.set_len(big.metadata().unwrap().len() / 2).unwrap();
    fs_err::OpenOptions::new()
        .write(true)
        .open(inner.join("sparse"))
        .unwrap()
        .file()
        .write_all_at(b"foreign", 4096)
        .unwrap();
    fs_err::remove_file(inner.join("again")).unwrap();
    symlink("/etc/passwd", inner.join("again")).unwrap();
    options.resume = true;
    let restored = repository.restore(&snapshot, &options, &Progress::default(), &Cancel::default()).unwrap();
    assert_eq!(restored.shortfalls, []);
    assert_eq!(look(&inner), look(&bench.source()));
    assert_eq!(fs_err::metadata(inner.join("deep/er/眼科/患者一覧.txt")).unwrap().ino(), whole);
}
