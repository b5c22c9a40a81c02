//! A carried disk as a source: `DIR/<repository>/` in restic's layout. Nothing on it is believed more than
//! what a server sends.

use std::{
    io::{Seek, SeekFrom},
    path::{Path, PathBuf},
};

use kuramori_repo::store::{FileId, FileKind, LocalStore, Store};

use crate::{
    error::{Error, Result},
    folder::pieces,
    puller::Source,
};

/// The disk's folder of repositories.
#[derive(Debug, Clone)]
pub struct Disk {
    root: PathBuf,
    most: usize,
}

impl Disk {
    /// Names the folder.
    pub fn new(root: &Path, most: usize) -> Self {
        Self { root: root.to_owned(), most }
    }

    fn store(&self, repository: &str) -> Result<LocalStore> {
        if crate::config::is_repository(repository) {
            Ok(LocalStore::new(self.root.join(repository)))
        } else {
            Err(Error::Invalid(format!("`{repository}` cannot be a repository")))
        }
    }
}

impl Source for Disk {
    fn repositories(&mut self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs_err::read_dir(&self.root).map_err(Error::io("read the disk"))? {
            let entry = entry.map_err(Error::io("read the disk"))?;
            if entry.path().join("config").is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
            if names.len() > self.most {
                return Err(Error::Misbehaved(format!("has more than {} repositories", self.most)));
            }
        }
        if names.is_empty() {
            return Err(Error::Invalid(format!("there is no repository in `{}`", self.root.display())));
        }
        Ok(names)
    }

    fn list(
        &mut self,
        repository: &str,
        kind: FileKind,
        each: &mut dyn FnMut(FileId, u64) -> Result<()>,
    ) -> Result<()> {
        let mut failed = Ok(());
        let listed = self.store(repository)?.list(kind, &mut |id, size| {
            failed = each(id, size);
            if failed.is_ok() { Ok(()) } else { Err(kuramori_repo::Error::Cancelled) }
        });
        failed?;
        listed.map_err(Error::repository(repository))
    }

    fn fetch(
        &mut self,
        repository: &str,
        kind: FileKind,
        id: FileId,
        offset: u64,
        most: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let path = self.store(repository)?.path(kind, id);
        let failed = || Error::io(format!("read `{}`", path.display()));
        let mut file = match fs_err::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Vanished(path.display().to_string()));
            }
            other => other.map_err(failed())?,
        };
        file.seek(SeekFrom::Start(offset)).map_err(failed())?;
        pieces(&mut file, most, failed(), each).map(drop)
    }
}
