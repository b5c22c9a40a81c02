//! The vault and the lock together: what was proven is immutable, and goes only through the lock.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    time::Duration,
};

use kuramori_model::clock::{Clock, ManualClock, SystemClock, SystemRandom};
use kuramori_repo::{
    Cancel, Context, Repository, Secret,
    backup::{Draft, Options},
    local::Selection,
    store::{LocalStore, Store},
};
use kuramori_vault::{Config, Vault};

/// Everything of one test; the file system of its own goes at the end.
struct Place(tempfile::TempDir);

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().unwrap().status.success()
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mount = self.0.path().join("mnt");
        let _ = Command::new("umount").arg(&mount).output();
    }
}

struct Lockd(Child);

impl Drop for Lockd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn is_immutable(path: &Path) -> bool {
    let output = Command::new("lsattr").arg(path).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().contains('i')
}

#[test]
fn what_was_proven_is_immutable_and_goes_only_through_the_lock() {
    let place = Place(tempfile::tempdir().unwrap());
    let image = place.path("image");
    fs_err::File::create(&image).unwrap().set_len(96 << 20).unwrap();
    for folder in ["mnt", "primary", "source", "passwords"] {
        fs_err::create_dir(place.path(folder)).unwrap();
    }
    assert!(run("/usr/sbin/mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]));
    let mount = place.path("mnt");
    assert!(run("mount", &["-o", "loop", image.to_str().unwrap(), mount.to_str().unwrap()]));
    let root = mount.join("vault");
    fs_err::create_dir(&root).unwrap();

    let at = |name: &str| place.path(name).display().to_string();
    let text = format!(
        "root = \"{}\"\nstate = \"{}\"\nsocket = \"{}\"\nallowed_uids = [0]\ndays = 0\nkeep_clean = 1\n",
        root.display(),
        at("lock-state"),
        at("lock.sock")
    );
    fs_err::write(place.path("lockd.toml"), text).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_kuramori-lockd"));
    let mut child = child;
    let _lockd =
        Lockd(child.args(["--config", &at("lockd.toml")]).env("KURAMORI_LOG", "error").spawn().unwrap());
    let begin = SystemClock.boot();
    while UnixStream::connect(place.path("lock.sock")).is_err() {
        assert!(SystemClock.boot().saturating_sub(begin) < Duration::from_mins(2));
        SystemClock.sleep(Duration::from_millis(20));
    }

    let store: Arc<dyn Store> = Arc::new(LocalStore::new(place.path("primary/billing")));
    let primary =
        Repository::create(store, &Secret::new("pass"), Context::system()).unwrap().index().unwrap();
    for (name, text) in [("passwords/billing", "pass"), ("login", "none")] {
        fs_err::write(place.path(name), text).unwrap();
        assert!(run("chmod", &["600", &at(name)]));
    }
    fs_err::write(place.path("ca.pem"), "").unwrap();
    let text = format!(
        "[vault]\nroot = \"{}\"\nstate = \"{}\"\npasswords = \"{}\"\n[primary]\naddress = \"127.0.0.1:1\"\n\
         ca_file = \"{}\"\nlogin = \"vault\"\npassword_file = \"{}\"\n[lock]\nsocket = \"{}\"\ndays = 0\n\
         [window]\nkeep_free = \"1 MiB\"\n[retention]\ndaily = 2\nweekly = 0\nmonthly = 0\nmin_days = 1\n",
        root.display(),
        at("state"),
        at("passwords"),
        at("ca.pem"),
        at("login"),
        at("lock.sock")
    );
    fs_err::write(place.path("vault.toml"), text).unwrap();
    let clock = Arc::new(ManualClock::new("2026-04-01T03:00:00Z".parse().unwrap()));
    let config = Config::read(&place.path("vault.toml")).unwrap();
    let vault = Vault::open(config, clock.clone(), Arc::new(SystemRandom)).unwrap();

    let mut removed = 0;
    for day in 0..10_u8 {
        let rows = |row: u32| format!("2026-04-{day:02},TEST{row:06},120,80,{}\n", row * u32::from(day));
        fs_err::write(place.path("source/表.csv"), (0..4000).map(rows).collect::<String>()).unwrap();
        let mut backup = primary.backup(Options::default()).unwrap();
        let paths = backup.add_paths(&[place.path("source")], &Selection::default()).unwrap();
        backup.commit(Draft { paths, ..Draft::default() }).unwrap();
        let (_, work) = vault.seed(&place.path("primary"), &Cancel::default()).unwrap();
        assert!(work.failed.is_empty(), "{:?}", work.failed);
        assert_eq!(work.judged.len(), 1, "{work:?}");
        removed += work.kept[0].removed.len();
        clock.advance(Duration::from_hours(24));
    }
    let codes: Vec<String> =
        vault.register().alarms().unwrap().into_iter().map(|alarm| alarm.finding.code).collect();
    assert!(!codes.contains(&"vault.lock-failed".to_owned()), "{codes:?}");
    assert!(removed > 0, "expired points went, through the lock");
    let mut found = Vec::new();
    for folder in ["data", "snapshots", "keys"] {
        files(&root.join("billing").join(folder), &mut found);
    }
    found.push(root.join("billing/config"));
    assert!(found.len() > 6, "{found:?}");
    for path in &found {
        assert!(is_immutable(path), "{}", path.display());
        assert!(fs_err::remove_file(path).is_err() && path.exists(), "root cannot remove it");
    }
    let folder = root.join("billing");
    for trick in [folder.clone(), folder.join("data"), folder.join("snapshots"), root.clone()] {
        assert!(fs_err::rename(&trick, trick.with_extension("aside")).is_err(), "{}", trick.display());
    }
}
