//! What the tests share: temporary repositories and the real `restic`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use kuramori_repo::{
    Context, Repository, Secret,
    store::{LocalStore, Store},
};
use tempfile::TempDir;

pub(crate) const PASSWORD: &str = "geheim";

/// A folder with a repository of ours that goes away with the test.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::new(LocalStore::new(self.repo()))
    }

    pub(crate) fn create(&self) -> Repository {
        Repository::create(self.store(), &secret(), Context::system()).unwrap()
    }

    pub(crate) fn open(&self) -> Repository {
        Repository::open(self.store(), &secret(), Context::system()).unwrap()
    }

    /// A copy of the repository that restic 0.14 made.
    pub(crate) fn fixture() -> Self {
        let place = Self::new();
        copy_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/restic-0.14"), &place.repo());
        place
    }
}

pub(crate) fn secret() -> Secret {
    Secret::new(PASSWORD)
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs_err::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs the real restic without a cache; gives its stdout, or both outputs if it fails.
pub(crate) fn restic(repo: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("restic")
        .args(["--no-cache", "-r"])
        .arg(repo)
        .args(arguments)
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .expect("the test needs `restic` (Debian package restic)");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}\n{}", text(&output.stdout), text(&output.stderr)))
    }
}
