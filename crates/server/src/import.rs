//! Takes over an existing restic repository with its history: its files are copied, its password is kept like
//! every other one, and each of its snapshots becomes a restore point.
//!
//! The points get our numbers and *our* time of receipt, because nothing that a sender says about time is
//! believed: all of them count as one generation, of today. When the sender says that they were taken is kept
//! beside it (`sent`), and restic's own snapshots keep their times.
//!
//! The original is only read. A copy that is interrupted goes on when the same import is asked for again.

use std::{path::PathBuf, sync::Arc};

use kuramori_catalog::Writer;
use kuramori_repo::{Cancel, Opened, Repository, Secret, mirror, progress::Progress, store::LocalStore};
use serde::{Deserialize, Serialize};

use crate::{
    App, ServerError,
    admin::Added,
    app::blocking,
    error::Result,
    job,
    keys::private,
    register::Entry,
    repositories::{WRAPS, context},
    seal,
};

/// What to take over.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// The register's entry: a restic client's, without a source.
    pub entry: Entry,
    /// The repository's folder on this machine.
    pub from: PathBuf,
    /// File with the repository's password.
    pub password_file: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Imported {
    /// As for a new client: the login is new, the repository's passwords stay valid.
    pub added: Added,
    /// Files that were copied now.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Restore points that were registered.
    pub points: usize,
}

impl App {
    /// Takes over an existing repository.
    pub async fn import(&self, import: Import) -> Result<Imported> {
        let system = import.entry.system(&self.zone_name())?;
        let bad = |why: &str| ServerError::Entry { place: system.id.to_string(), why: why.to_owned() };
        if system.writer != Writer::Restic {
            return Err(bad("an imported repository stays a restic client's; leave out the source"));
        }
        if self.catalog.system(&system.id).await.is_ok() {
            let name = system.id.to_string();
            return Err(kuramori_catalog::CatalogError::Exists { what: "system", name }.into());
        }
        let read = fs_err::read_to_string(&import.password_file);
        let password = read.map_err(ServerError::file("read the repository's password"))?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        let name = system.id.to_string();
        // Kept first, so that a crash leaves no repository that nobody can open.
        let secret = Secret::new(password.as_bytes());
        let from = import.from.clone();
        blocking(move || {
            Repository::<Opened>::open(Arc::new(LocalStore::new(&from)), &secret, context())?;
            Ok(())
        })
        .await?;
        self.keep_password(&name, &password).await?;
        let (folder, from) = (self.repository_folder(&name), import.from);
        let copied = blocking(move || {
            let (from, to) = (LocalStore::new(&from), LocalStore::new(&folder));
            Ok(mirror::mirror(&from, &to, &Progress::default(), &Cancel::default())?)
        })
        .await?;
        let wrap = seal::wrap(password.as_bytes(), &self.keys.recovery)?;
        private(&self.repository_folder(&name).join(WRAPS).join("recovery.age"), &wrap)?;
        let added = self.register(&import.entry).await?;
        let points = job::adopt_system(self, &added.system).await?;
        let data = serde_json::json!({ "files": copied.files, "bytes": copied.bytes, "points": points });
        self.event("admin", "system.imported", Some(&added.system.id), &data).await?;
        self.export_control().await?;
        Ok(Imported { added, files: copied.files, bytes: copied.bytes, points })
    }
}
