//! What the tests of both kinds of source share: a sink that writes to a folder and keeps books.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

pub mod dcmqr;
pub mod mariadb;
pub mod orthanc;
mod port;
pub mod postgres;
pub mod samba;
pub mod sshd;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    io::{Read, Write},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kuramori_model::{
    clock::{Clock, SystemClock},
    tree::{Entry, EntryKind, FileTime, Sink, SinkError, TreePath},
};
use kuramori_source::{Cancel, Control, Progress};

/// Writes what it gets to a folder, as the engine would store it, and checks the contract meanwhile.
#[derive(Debug, Default)]
pub struct Folder {
    pub root: PathBuf,
    pub faults: Vec<(String, String)>,
    pub faulted: Vec<TreePath>,
    pub known: BTreeMap<TreePath, (u64, FileTime)>,
    pub put: BTreeMap<TreePath, (u64, FileTime)>,
    pub kept: Vec<TreePath>,
    pub sealed: BTreeSet<TreePath>,
    /// Called before each file.
    pub slow: Option<Duration>,
}

impl Folder {
    pub fn new(root: &Path) -> Self {
        fs_err::create_dir_all(root).unwrap();
        fs_err::set_permissions(root, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self { root: root.to_owned(), ..Self::default() }
    }

    pub fn path(&self, path: &TreePath) -> PathBuf {
        self.root.join(OsStr::from_bytes(path.as_bytes()))
    }

    fn check_open(&self, path: &TreePath) {
        let parts: Vec<&[u8]> = path.parts().collect();
        for end in 1..parts.len() {
            let folder = TreePath::new(parts[..end].join(&b'/')).unwrap();
            assert!(!self.sealed.contains(&folder), "`{path}` comes after `{folder}` was sealed");
        }
    }
}

impl Sink for Folder {
    fn known(&mut self, entry: &Entry) -> bool {
        let EntryKind::File { size } = entry.kind else { return false };
        self.known.get(&entry.path) == Some(&(size, entry.meta.mtime))
    }

    fn keep(&mut self, entry: Entry) -> Result<(), SinkError> {
        self.check_open(&entry.path);
        self.kept.push(entry.path);
        Ok(())
    }

    fn put(&mut self, entry: Entry, content: &mut dyn Read) -> Result<(), SinkError> {
        self.check_open(&entry.path);
        let path = self.path(&entry.path);
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent).unwrap();
        }
        let mode = std::fs::Permissions::from_mode(entry.meta.mode);
        match entry.kind {
            EntryKind::Dir => {
                fs_err::create_dir_all(&path).unwrap();
                fs_err::set_permissions(&path, mode).unwrap();
            }
            EntryKind::File { .. } => {
                if let Some(time) = self.slow {
                    std::thread::sleep(time);
                }
                let mut file = fs_err::File::create(&path).unwrap();
                let mut buffer = vec![0; 256 << 10];
                let mut size = 0;
                loop {
                    match content.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(taken) => {
                            file.write_all(&buffer[..taken]).unwrap();
                            size += taken as u64;
                        }
                        Err(error) => {
                            drop(file);
                            fs_err::remove_file(&path).unwrap();
                            self.fault(&entry.path, error.to_string());
                            return Ok(());
                        }
                    }
                }
                fs_err::set_permissions(&path, mode).unwrap();
                self.put.insert(entry.path, (size, entry.meta.mtime));
            }
            EntryKind::Symlink { target } => {
                std::os::unix::fs::symlink(OsStr::from_bytes(&target), &path).unwrap();
            }
            other => panic!("unexpected kind {other:?}"),
        }
        Ok(())
    }

    fn seal(&mut self, folder: &TreePath) -> Result<(), SinkError> {
        assert!(self.sealed.insert(folder.clone()), "`{folder}` sealed twice");
        Ok(())
    }

    fn fault(&mut self, path: &TreePath, why: String) {
        self.faulted.push(path.clone());
        self.faults.push((path.to_string(), why));
    }
}

/// Reads everything and keeps nothing: for figures.
#[derive(Debug, Default)]
pub struct Nothing;

impl Sink for Nothing {
    fn known(&mut self, _: &Entry) -> bool {
        false
    }

    fn keep(&mut self, _: Entry) -> Result<(), SinkError> {
        Ok(())
    }

    fn put(&mut self, _: Entry, content: &mut dyn Read) -> Result<(), SinkError> {
        let mut buffer = vec![0; 256 << 10];
        while content.read(&mut buffer).is_ok_and(|taken| taken > 0) {}
        Ok(())
    }

    fn seal(&mut self, _: &TreePath) -> Result<(), SinkError> {
        Ok(())
    }

    fn fault(&mut self, _: &TreePath, _: String) {}
}

/// `MB/s` and files per second of a report.
pub fn speed(report: &kuramori_source::Report) -> String {
    let (bytes, files) = (report.bytes as f64 / 1e6, report.files as f64);
    let seconds = report.seconds - report.waited_seconds;
    format!(
        "{files} files, {bytes:.1} MB in {seconds:.2} s: {:.0} files/s, {:.1} MB/s",
        files / seconds,
        bytes / seconds
    )
}

/// A control that gives up on silence sooner than a hospital's night would.
pub fn control() -> Control {
    Control { patience: Duration::from_mins(1), ..Control::default() }
}

/// Calls `act` once, when the run has read so many bytes.
pub fn once_after(
    bytes: u64,
    act: impl FnOnce() + Send + 'static,
) -> Arc<dyn Fn(&Progress<'_>) + Send + Sync> {
    let act = std::sync::Mutex::new(Some(act));
    Arc::new(move |progress| {
        if progress.bytes >= bytes
            && let Some(act) = act.lock().unwrap().take()
        {
            act();
        }
    })
}

/// Throws the switch after so many bytes.
pub fn cancel_after(bytes: u64) -> Control {
    let cancel = Cancel::default();
    let thrower = cancel.clone();
    Control { cancel, progress: once_after(bytes, move || thrower.cancel()), ..control() }
}

/// Waits until `done`. The limit is for the slowest machine; only a failing test waits it out.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = SystemClock.boot();
    while !done() {
        assert!(
            SystemClock.boot().saturating_sub(begun) < Duration::from_mins(2),
            "waited too long for {what}"
        );
        SystemClock.sleep(Duration::from_millis(20));
    }
}

/// A port that nobody has and that no other test takes.
pub fn free_port() -> u16 {
    port::free_port()
}

/// A file with a password that only we may read.
pub fn secret(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs_err::write(&path, format!("{text}\n")).unwrap();
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// SHA-256 of each file below, by `sha256sum`: another tool than ours.
pub fn digests(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let script = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum -z --";
    let out = std::process::Command::new("sh").arg("-c").arg(script).current_dir(root).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
        .split(|byte| *byte == 0)
        .filter(|line| !line.is_empty())
        .map(|line| (line[66..].to_vec(), String::from_utf8_lossy(&line[..64]).into_owned()))
        .collect()
}
