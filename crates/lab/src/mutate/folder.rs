//! The one place where files are spoilt on a disk.

use std::path::{Path, PathBuf};

use kuramori_model::clock::Random;

use super::Attack;
use crate::error::{LabError, Result};

/// What marks a folder as made for this.
const MARK: &str = ".kuramori-mutate";

/// A temporary folder whose files may be spoilt.
#[derive(Debug)]
pub struct Playground {
    root: PathBuf,
}

impl Playground {
    /// Makes a new, empty folder for it below `parent`, which must lie in the system's temporary folder.
    ///
    /// # Errors
    /// [`LabError::Outside`] for any other place.
    pub fn create(parent: &Path, name: &str) -> Result<Self> {
        let refuse = |why| LabError::Outside { path: parent.join(name), why };
        let temporary = fs_err::canonicalize(std::env::temp_dir())?;
        let parent = fs_err::canonicalize(parent)?;
        if !parent.starts_with(&temporary)
            || name.is_empty()
            || name.contains(['/', '\0'])
            || name.starts_with('.')
        {
            return Err(refuse("files are spoilt in the system's temporary folder only"));
        }
        let root = parent.join(name);
        fs_err::create_dir(&root)?;
        fs_err::write(root.join(MARK), "files below this folder are generated and may be spoilt\n")?;
        Ok(Self { root })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Spoils one file below the folder; gives its path afterwards.
    ///
    /// # Errors
    /// [`LabError::Outside`] if the path, with all links followed, leads out.
    pub fn spoil(&self, file: &Path, attack: Attack, random: &dyn Random) -> Result<PathBuf> {
        let refuse = |why| LabError::Outside { path: file.to_owned(), why };
        let real = fs_err::canonicalize(self.root.join(file))?;
        let inside = real.starts_with(&self.root) && real != self.root && self.root.join(MARK).is_file();
        if !inside || !fs_err::symlink_metadata(&real)?.is_file() || real.ends_with(MARK) {
            return Err(refuse("it is no generated file of this folder"));
        }
        let time = fs_err::metadata(&real)?.modified()?;
        if attack != Attack::RenameOnly {
            let bytes = attack.bytes(fs_err::read(&real)?, random)?;
            let mut open = fs_err::OpenOptions::new().write(true).truncate(true).open(&real)?;
            std::io::Write::write_all(&mut open, &bytes)?;
            if attack.keeps_time() {
                open.file().set_modified(time)?;
            }
        }
        let Some(ending) = attack.ending() else { return Ok(real) };
        let mut name = real.clone().into_os_string();
        name.push(ending);
        fs_err::rename(&real, &name)?;
        Ok(name.into())
    }
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::SeededRandom;

    use super::*;

    #[test]
    fn nothing_outside_of_the_playground_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let ground = Playground::create(folder.path(), "ground").unwrap();
        fs_err::write(ground.root().join("good"), "text").unwrap();
        fs_err::write(folder.path().join("outside"), "text").unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside"), ground.root().join("link")).unwrap();
        let random = SeededRandom::new(1);
        for bad in ["../outside", "link", MARK, ""] {
            let refused = ground.spoil(Path::new(bad), Attack::Full, &random).unwrap_err();
            assert!(matches!(refused, LabError::Outside { .. }), "{bad}: {refused}");
        }
        assert_eq!(fs_err::read(folder.path().join("outside")).unwrap(), b"text");
        let after = ground.spoil(Path::new("good"), Attack::Full, &random).unwrap();
        assert!(after.ends_with("good.locked") && fs_err::read(after).unwrap() != b"text");
        assert!(
            Playground::create(Path::new("/"), "x").is_err()
                && Playground::create(Path::new("/var"), "x").is_err()
        );
    }

    #[test]
    fn a_quiet_attack_keeps_name_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let ground = Playground::create(folder.path(), "ground").unwrap();
        let file = ground.root().join("a");
        fs_err::write(&file, vec![1; 9000]).unwrap();
        let before = fs_err::metadata(&file).unwrap().modified().unwrap();
        assert_eq!(ground.spoil(Path::new("a"), Attack::Quiet, &SeededRandom::new(2)).unwrap(), file);
        assert_eq!(fs_err::metadata(&file).unwrap().modified().unwrap(), before);
        assert_ne!(fs_err::read(&file).unwrap(), vec![1; 9000]);
    }
}
