//! Files of this machine as an agent gives them: what a folder's owner can do meanwhile, and what a snapshot lacks.

use std::{
    io::Read,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use kuramori_model::tree::{DEPTH_MAX, Entry, EntryKind, Sink, SinkError, TreePath};
use kuramori_repo::local::{Given, Hooks, Selection, give};

#[derive(Debug, Default)]
struct Seen {
    items: Vec<(String, Vec<u8>)>,
    sealed: Vec<String>,
    faults: Vec<(String, String)>,
}

/// Remembers everything; `meddle` is called with each path before it is taken.
struct Watching<'a> {
    meddle: &'a mut dyn FnMut(&str),
    seen: Seen,
}

impl Sink for Watching<'_> {
    fn known(&mut self, _: &Entry) -> bool {
        false
    }

    fn keep(&mut self, _: Entry) -> Result<(), SinkError> {
        unreachable!("nothing is known")
    }

    fn put(&mut self, entry: Entry, content: &mut dyn Read) -> Result<(), SinkError> {
        let path = entry.path.to_string();
        (self.meddle)(&path);
        let mut bytes = Vec::new();
        if matches!(entry.kind, EntryKind::File { .. }) {
            content.read_to_end(&mut bytes).unwrap();
        }
        self.seen.items.push((path, bytes));
        Ok(())
    }

    fn seal(&mut self, folder: &TreePath) -> Result<(), SinkError> {
        self.seen.sealed.push(folder.to_string());
        Ok(())
    }

    fn fault(&mut self, path: &TreePath, why: String) {
        self.seen.faults.push((path.to_string(), why));
    }
}

fn walk(paths: &[PathBuf], base: Option<&Path>, meddle: &mut dyn FnMut(&str)) -> (Given, Seen) {
    let mut sink = Watching { meddle, seen: Seen::default() };
    let hooks = Hooks { going: &|| true, pace: &|_| {}, seen: &|_, _| {}, note: &|_, _| {} };
    let given = give(paths, base, &Selection::default(), &mut sink, &hooks).unwrap();
    (given, sink.seen)
}

fn write(path: &Path, text: &str) {
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, text).unwrap();
}

#[test]
fn whoever_owns_a_folder_cannot_lead_the_walk_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (data, evil) = (dir.path().join("data"), dir.path().join("evil"));
    for n in 0..3 {
        write(&data.join(format!("u/a/x{n}/y/file")), "own");
        write(&evil.join(format!("a/x{n}/y/file")), "secret");
    }
    write(&data.join("u/a/first"), "own");
    // While a file above is read, the folder around it becomes a link to somewhere else.
    let (u, aside) = (data.join("u"), data.join("aside"));
    let mut swapped = 0;
    let mut meddle = |path: &str| {
        if path.ends_with("u/a/first") {
            fs_err::rename(&u, &aside).unwrap();
            symlink(&evil, &u).unwrap();
            swapped += 1;
            assert_eq!(fs_err::read(u.join("a/x0/y/file")).unwrap(), b"secret", "a whole path leads there");
        }
    };
    let (_, seen) = walk(std::slice::from_ref(&data), None, &mut meddle);
    let files: Vec<_> = seen.items.iter().filter(|(path, _)| path.ends_with("/y/file")).collect();
    assert_eq!(files.len(), 3, "what was there when it was found is read: {:?}", seen.faults);
    assert!(files.iter().all(|(_, content)| content == b"own"));
    assert_eq!(swapped, 1);
}

#[test]
fn a_tree_deeper_than_the_files_that_may_be_open_is_walked_whole_and_one_too_deep_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let depth = 300;
    let tall = dir.path().join(vec!["d"; depth].join("/"));
    write(&tall.join("bottom"), "x");
    // Behind the deep one there are more, on each level: the way back has to be found.
    for up in [1, 100, 200, 299] {
        let level = tall.ancestors().nth(up).unwrap();
        write(&level.join("z/after"), "y");
    }
    let (given, seen) = walk(&[dir.path().to_owned()], None, &mut |_| {});
    assert_eq!((given.files, seen.faults.as_slice()), (5, &[][..]));
    let folders = seen.items.iter().filter(|(_, content)| content.is_empty()).count();
    assert_eq!(seen.sealed.len(), folders, "each folder is finished once");

    // No path of a system call reaches down there; step by step anybody can.
    let deepest = dir.path().join("abyss");
    fs_err::create_dir(&deepest).unwrap();
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    let mut at = rustix::fs::open(&deepest, flags, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..DEPTH_MAX {
        rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, "d", flags, rustix::fs::Mode::empty()).unwrap();
    }
    drop(at);
    let (given, seen) = walk(std::slice::from_ref(&deepest), None, &mut |_| {});
    assert_eq!((given.faults, seen.faults.len()), (1, 1), "{:?}", given.listed);
    assert_eq!(seen.items.len(), DEPTH_MAX);
    // The folder's own way to vanish opens all levels at once.
    assert!(Command::new("rm").arg("-rf").arg(&deepest).status().unwrap().success());
}

/// A file system of its own; gone when it goes out of sight.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: &Path) -> Self {
        fs_err::create_dir_all(path).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(path).status().unwrap();
        assert!(status.success(), "mount at {}", path.display());
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_folder_that_the_snapshot_does_not_hold_is_a_fault_and_no_link_leads_out_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (live, snap) = (dir.path().join("live"), dir.path().join("snap"));
    // Below the snapshot everything has the name that it has without it.
    let inside = |path: &Path| snap.join(path.strip_prefix("/").unwrap());
    let ward = live.join("ward");
    write(&ward.join("text"), "now");
    write(&inside(&ward).join("text"), "then");
    fs_err::create_dir_all(inside(&ward).join("images")).unwrap();
    fs_err::create_dir_all(inside(&ward).join("both")).unwrap();
    fs_err::create_dir_all(inside(&ward).join("plain")).unwrap();
    fs_err::create_dir_all(ward.join("plain")).unwrap();
    let _images = Mounted::at(&ward.join("images"));
    let _both = (Mounted::at(&ward.join("both")), Mounted::at(&inside(&ward).join("both")));
    write(&ward.join("images/1.dcm"), "an image");
    let (given, seen) = walk(std::slice::from_ref(&ward), Some(&snap), &mut |_| {});
    assert_eq!((given.faults, seen.faults.len()), (1, 1), "{:?}", seen.faults);
    assert!(
        seen.faults[0].0.ends_with("ward/images") && seen.faults[0].1.contains("snapshot"),
        "{:?}",
        seen.faults
    );
    assert!(seen.items.iter().any(|(path, content)| path.ends_with("ward/text") && content == b"then"));

    // A named folder that is a mount of its own is no better.
    let images = ward.join("images");
    let (given, _) = walk(std::slice::from_ref(&images), Some(&snap), &mut |_| {});
    assert_eq!(given.faults, 1);

    // An absolute link on the way to a named folder leads to the snapshot's own folder, not to the live one.
    let (link, target) = (live.join("by-link"), live.join("target"));
    write(&target.join("in/file"), "now");
    write(&inside(&target).join("in/file"), "then");
    symlink(&target, inside(&link)).unwrap();
    let live_too = fs_err::read(inside(&link).join("in/file")).unwrap();
    assert_eq!(live_too, b"now", "the kernel's usual way leads to the live file");
    let (given, seen) = walk(&[link.join("in")], Some(&snap), &mut |_| {});
    assert_eq!(given.files, 1, "{:?}", seen.faults);
    assert!(seen.items.iter().any(|(path, content)| path.ends_with("by-link/in/file") && content == b"then"));
}
