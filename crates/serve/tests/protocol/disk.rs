//! A disk that is full: a small ext4 in a file, mounted for this test. Needs root.

use std::{path::PathBuf, process::Command};

use kuramori_model::units::Bytes;
use kuramori_serve::{Limits, MemoryLogins, Mode};

use crate::hall::{Hall, append, id, limits, noise};

struct Mount(PathBuf);

impl Mount {
    fn new(folder: &std::path::Path, size: u64) -> Self {
        let image = folder.join("disk");
        fs_err::File::create(&image).unwrap().set_len(size).unwrap();
        let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        };
        run("mkfs.ext4", &["-q".as_ref(), "-m".as_ref(), "0".as_ref(), image.as_os_str()]);
        let place = folder.join("mounted");
        fs_err::create_dir(&place).unwrap();
        run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), place.as_os_str()]);
        Self(place)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_507_and_leaves_nothing_half() {
    assert!(rustix::process::geteuid().is_root(), "this test mounts a small disk and needs root");
    let folder = tempfile::tempdir().unwrap();
    let mount = Mount::new(folder.path(), 24 << 20);
    let root = mount.0.join("store");
    fs_err::create_dir(&root).unwrap();
    for (repository, keep_free) in [("pacs", 0), ("billing", 4 << 20)] {
        let limits = Limits { keep_free: Bytes(keep_free), ..limits() };
        let logins = std::sync::Arc::new(MemoryLogins::new([append(repository, None)]));
        let hall = Hall::at(tempfile::tempdir().unwrap(), root.clone(), Mode::Store, limits, logins).unwrap();
        hall.create(repository, repository);
        let put = |seed, size: usize, known: bool| {
            let bytes = noise(seed, size);
            let path = format!("{repository}/data/{}", id(&bytes));
            if known {
                hall.put(repository, &path, bytes)
            } else {
                // Without a length the disk itself says no, in the middle.
                hall.put(repository, &path, reqwest::blocking::Body::new(std::io::Cursor::new(bytes)))
            }
        };
        let stored = (0..100).take_while(|seed| put(*seed, 2 << 20, seed % 2 == 0) == 200).count();
        assert!((2..12).contains(&stored), "{stored}");
        assert_eq!(put(200, 8 << 20, true), 507);
        if keep_free == 0 {
            assert_eq!(put(201, 8 << 20, false), 507);
        }
        let files = hall.files();
        assert_eq!(files.iter().filter(|file| file.starts_with(repository)).count(), stored, "{files:?}");
        for file in &files {
            assert_eq!(fs_err::metadata(root.join(file)).unwrap().len(), 2 << 20);
        }
        // Below the reserve a lock still fits, so somebody can clean up.
        if keep_free > 0 {
            let lock = noise(300, 200);
            assert_eq!(hall.put(repository, &format!("{repository}/locks/{}", id(&lock)), lock), 200);
        }
        let path = hall.stop().1;
        // Room again.
        fs_err::remove_dir_all(path.join(repository)).unwrap();
    }
}
