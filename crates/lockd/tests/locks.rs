//! The real process on a real ext4: what root cannot do any more, and what only the lock may.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    time::Duration,
};

use kuramori_model::{
    clock::{Clock, SystemClock},
    gate::{Nonce, SigningKey},
    lock::{FileId, Kind, Mark, Name, Reply, Request, Shrink, SignedShrink, Status},
};

/// An ext4 of its own on a loop device; gone afterwards, also after a failure.
struct Disk {
    folder: tempfile::TempDir,
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

impl Disk {
    fn new() -> Self {
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        let image = disk.path("image");
        fs_err::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        run("/usr/sbin/mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
        fs_err::create_dir(disk.path("mnt")).unwrap();
        run("mount", &["-o", "loop", image.to_str().unwrap(), disk.path("mnt").to_str().unwrap()]);
        fs_err::create_dir(disk.root()).unwrap();
        disk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("mnt/vault")
    }

    fn configure(&self, more: &str) {
        let text = format!(
            "root = \"{}\"\nstate = \"{}\"\nsocket = \"{}\"\nallowed_uids = [0]\n{more}",
            self.root().display(),
            self.path("state").display(),
            self.path("lock.sock").display()
        );
        fs_err::write(self.path("lockd.toml"), text).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mount = self.folder.path().join("mnt");
        // What is locked in it does not matter: the whole file system goes.
        let _ = Command::new("umount").arg(&mount).output();
    }
}

struct Lockd(Child);

impl Lockd {
    fn start(disk: &Disk) -> Self {
        let _ = fs_err::remove_file(disk.path("lock.sock"));
        let child = Command::new(env!("CARGO_BIN_EXE_kuramori-lockd"))
            .arg("--config")
            .arg(disk.path("lockd.toml"))
            .env("KURAMORI_LOG", "error")
            .spawn()
            .unwrap();
        let lockd = Self(child);
        let begin = SystemClock.boot();
        while UnixStream::connect(disk.path("lock.sock")).is_err() {
            assert!(SystemClock.boot().saturating_sub(begin) < Duration::from_mins(2), "it does not listen");
            SystemClock.sleep(Duration::from_millis(20));
        }
        lockd
    }
}

impl Drop for Lockd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(disk: &Disk, request: &Request) -> Reply {
    let mut stream = UnixStream::connect(disk.path("lock.sock")).unwrap();
    writeln!(stream, "{}", serde_json::to_string(request).unwrap()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

fn status(disk: &Disk) -> Status {
    match ask(disk, &Request::Status {}) {
        Reply::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

fn id(number: u8) -> FileId {
    FileId([number; 32])
}

fn place(disk: &Disk, kind: Kind, number: u8) -> PathBuf {
    let id = id(number).to_string();
    match kind {
        Kind::Data => disk.root().join(format!("billing/data/{}/{id}", &id[..2])),
        kind => disk.root().join(format!("billing/{}/{id}", kind.as_str())),
    }
}

fn store(disk: &Disk, kind: Kind, number: u8) -> (Name, PathBuf) {
    let path = place(disk, kind, number);
    fs_err::write(&path, vec![number; 1000]).unwrap();
    (Name { kind, id: id(number) }, path)
}

fn lock(disk: &Disk, files: &[Name], days: u32) -> Reply {
    ask(disk, &Request::Lock { repository: "billing".into(), files: files.to_vec(), days })
}

fn reap(disk: &Disk, files: &[Name]) -> (usize, Vec<String>) {
    match ask(disk, &Request::Reap { repository: "billing".into(), files: files.to_vec(), dry: false }) {
        Reply::Reaped { removed, stays } => (removed.len(), stays.into_iter().map(|one| one.code).collect()),
        other => panic!("{other:?}"),
    }
}

/// A shell of root that lacks the one capability.
fn as_root(script: &str) -> bool {
    let set = ["--bounding-set=-linux_immutable", "--inh-caps=-linux_immutable", "sh", "-c", script];
    Command::new("setpriv").args(set).output().unwrap().status.success()
}

fn tricks(file: &Path) -> Vec<(&'static str, String)> {
    let (path, folder) = (file.display().to_string(), file.parent().unwrap().display().to_string());
    let above = file.parent().unwrap().parent().unwrap().display().to_string();
    vec![
        ("remove", format!("rm -f {path} && ! test -e {path}")),
        ("rename", format!("mv {path} {path}.old")),
        ("append", format!("echo x >> {path}")),
        ("overwrite", format!("echo x > {path}")),
        ("chmod", format!("chmod 777 {path}")),
        ("chown", format!("chown 12345 {path}")),
        ("link", format!("ln {path} {path}.link")),
        ("time", format!("touch -d 2001-01-01 {path}")),
        ("attribute", format!("chattr -i {path}")),
        ("replace", format!("echo x > {folder}/new && mv -f {folder}/new {path}")),
        ("move its folder away", format!("mv {folder} {folder}.gone")),
        ("move the folder above away", format!("mv {above} {above}.gone")),
        ("open the folder above", format!("chattr -a {above}")),
    ]
}

#[test]
fn root_without_the_capability_cannot_touch_a_locked_file_nor_move_its_folder() {
    let disk = Disk::new();
    disk.configure("");
    // First the same tricks on a file that nobody locked: each works.
    for (number, (what, _)) in tricks(Path::new("/a/b/c")).into_iter().enumerate() {
        let file = disk.root().join(format!("free{number}/data/ab/file"));
        fs_err::create_dir_all(file.parent().unwrap()).unwrap();
        fs_err::write(&file, "free").unwrap();
        let script = tricks(&file).swap_remove(number).1;
        assert!(
            as_root(&script) || what.contains("open the") || what == "attribute",
            "{what} must work on a free file"
        );
    }
    let _lockd = Lockd::start(&disk);
    assert!(status(&disk).enforced);
    assert_eq!(ask(&disk, &Request::Prepare { repository: "billing".into() }), Reply::Done { files: 0 });
    let (name, path) = store(&disk, Kind::Data, 0xab);
    assert_eq!(lock(&disk, &[name], 0), Reply::Done { files: 1 });
    for (what, script) in tricks(&path) {
        assert!(!as_root(&script), "{what} went through");
        assert_eq!(fs_err::read(&path).unwrap(), vec![0xab; 1000], "{what}");
    }
    // New files still come.
    assert!(as_root(&format!("echo new > {}", place(&disk, Kind::Data, 0xac).display())));
    assert_eq!(reap(&disk, &[name]), (0, vec!["lock.too-young".to_owned()]));
    assert!(path.exists());
}

#[test]
fn only_what_has_expired_goes_and_a_kill_changes_no_promise() {
    let disk = Disk::new();
    disk.configure("days = 0\nindex_days = 0\nremovals_per_day = 3\nkeep_clean = 1\n");
    let lockd = Lockd::start(&disk);
    ask(&disk, &Request::Prepare { repository: "billing".into() });
    let files: Vec<(Name, PathBuf)> = (1..=6).map(|number| store(&disk, Kind::Data, number)).collect();
    let names: Vec<Name> = files.iter().map(|(name, _)| *name).collect();
    assert_eq!(lock(&disk, &names[..5], 0), Reply::Done { files: 5 });
    lock(&disk, &names[4..5], 400);
    drop(lockd); // SIGKILL
    // Somebody with another boot medium undid one; the next start sets it right.
    run("chattr", &["-i", files[1].1.to_str().unwrap()]);
    let _lockd = Lockd::start(&disk);
    assert_eq!(status(&disk).files, 5);
    assert!(!as_root(&format!("rm -f {0} && ! test -e {0}", files[1].1.display())));
    // Three a day; the promise of 400 days held over the kill; what was never locked is nobody's to remove.
    let (gone, why) = reap(&disk, &names);
    assert_eq!(gone, 3);
    assert_eq!(why, ["lock.limit", "lock.too-young", "lock.unknown"]);
    assert_eq!(files.iter().filter(|(_, path)| path.exists()).count(), 3);
    assert_eq!(status(&disk).removed_today, 3);

    // Snapshots: the last clean one stays, and a suspect one stops everything.
    let (snapshot, path) = store(&disk, Kind::Snapshots, 0x51);
    lock(&disk, &[snapshot], 0);
    let mark =
        |id, verdict| ask(&disk, &Request::Mark { repository: "billing".into(), snapshot: id, verdict });
    mark(snapshot.id, Mark::Clean);
    assert_eq!(reap(&disk, &[snapshot]).1, ["lock.min-keep"]);
    mark(id(0x52), Mark::Suspect);
    assert_eq!(reap(&disk, &names[4..5]).1, ["lock.suspect"]);
    assert!(path.exists());
    // Nothing that is no name gets through.
    for bad in ["../billing", "Billing", ""] {
        let reply = ask(&disk, &Request::Lock { repository: bad.into(), files: names.clone(), days: 1 });
        assert!(matches!(&reply, Reply::Refused { code, .. } if code == "lock.bad-repository"), "{reply:?}");
    }
    let missing = Name { kind: Kind::Data, id: id(0x77) };
    assert!(matches!(lock(&disk, &[missing], 1), Reply::Refused { code, .. } if code == "lock.no-file"));
}

#[test]
fn a_shortening_needs_two_officers_once() {
    let disk = Disk::new();
    let keys: Vec<SigningKey> = (1..=3).map(|seed| SigningKey::from_seed(&[seed; 32]).unwrap()).collect();
    let public: Vec<String> = keys.iter().map(|key| format!("\"{}\"", key.public())).collect();
    disk.configure(&format!("officer_keys = [{}]\n", public.join(", ")));
    let _lockd = Lockd::start(&disk);
    let shrink =
        Shrink { repository: "billing".into(), days: 1, reason: "moved".into(), nonce: Nonce([7; 16]) };
    let mut order = SignedShrink::new(shrink);
    let refused = |order: &SignedShrink| matches!(ask(&disk, &Request::Shrink { order: order.clone() }), Reply::Refused { code, .. } if code == "lock.order");
    assert!(refused(&order), "nobody signed");
    order.countersign(&keys[0]);
    order.countersign(&keys[0]);
    order.countersign(&SigningKey::from_seed(&[9; 32]).unwrap());
    assert!(refused(&order), "one officer twice and a stranger");
    order.countersign(&keys[1]);
    let mut changed = order.clone();
    changed.shrink.days = 0;
    assert!(refused(&changed), "what was signed was something else");
    assert_eq!(ask(&disk, &Request::Shrink { order: order.clone() }), Reply::Done { files: 0 });
    assert!(refused(&order), "a second time");
}

#[test]
fn a_file_system_without_the_flag_is_called_not_locked() {
    // tmpfs keeps no immutable files here; should a kernel do so, the probe finds that out and this is moot.
    let disk = Disk::new();
    run("mount", &["-t", "tmpfs", "none", disk.root().to_str().unwrap()]);
    disk.configure("");
    let flagged = {
        let file = disk.root().join("probe");
        fs_err::write(&file, "x").unwrap();
        let set =
            Command::new("chattr").args(["+i", file.to_str().unwrap()]).output().unwrap().status.success();
        let _ = Command::new("chattr").args(["-i", file.to_str().unwrap()]).output();
        set
    };
    let check = Command::new(env!("CARGO_BIN_EXE_kuramori-lockd"))
        .arg("--check")
        .arg("--config")
        .arg(disk.path("lockd.toml"))
        .output()
        .unwrap();
    // And without the capability, on any file system.
    let args = [
        "--bounding-set=-linux_immutable",
        "--inh-caps=-linux_immutable",
        env!("CARGO_BIN_EXE_kuramori-lockd"),
    ];
    let config = disk.path("lockd.toml");
    let bare =
        Command::new("setpriv").args(args).arg("--check").arg("--config").arg(&config).output().unwrap();
    run("umount", &[disk.root().to_str().unwrap()]);
    assert_eq!(check.status.success(), flagged);
    assert_eq!(bare.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bare.stdout).contains("NOT locked"));
    let bare =
        Command::new("setpriv").args(args).arg("--check").arg("--config").arg(&config).output().unwrap();
    let text = String::from_utf8_lossy(&bare.stdout).into_owned();
    assert!(bare.status.code() == Some(1) && text.contains("may not make files immutable"), "{text}");
    let whole = Command::new(args[2]).arg("--check").arg("--config").arg(&config).output().unwrap();
    assert!(whole.status.success(), "on ext4 with the capability it can");
}
