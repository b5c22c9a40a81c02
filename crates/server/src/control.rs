//! The server as one of the systems that come back: after each job the catalog, the wraps and the certificates
//! go into the repository `_control`, which no client has a password for and which the vault pulls first.
//!
//! ```text
//! catalog.jsonl                      the catalog's export
//! keys/server.age.recovery           the server's identity, wrapped to the hospital's recovery identity
//! keys/recovery.pub                  the recovery recipient
//! tls/ca.pem, tls/ca.key.recovery    the authority; its key wrapped to the recovery identity
//! runbook/runbook.{ja,en}.{html,txt}  what to do, in which order, with which commands
//! wraps/<repository>/<holder>.age    each repository's password, wrapped to each holder
//! ```

use std::{io::Cursor, time::Duration};

use kuramori_catalog::Lease;
use kuramori_model::{
    ids::CONTROL_REPOSITORY,
    tree::{Entry, EntryKind, FileTime, Meta, Sink, TreePath},
};
use kuramori_repo::{
    backup::{Draft, Options},
    store::FileId,
};

use crate::{App, ServerError, app::blocking, enrol::Vault, error::Result, repositories::secret_name, seal};

/// How often and how long to wait for another server's export.
const TURNS: u32 = 600;
const TURN: Duration = Duration::from_millis(200);

/// Names of the files in a `_control` restore point.
pub(crate) const CATALOG: &str = "catalog.jsonl";
pub(crate) const IDENTITY: &str = "keys/server.age.recovery";
pub(crate) const RECOVERY: &str = "keys/recovery.pub";
pub(crate) const AUTHORITY: &str = "tls/ca.pem";
pub(crate) const AUTHORITY_KEY: &str = "tls/ca.key.recovery";

impl App {
    /// Exports the catalog into `_control`.
    pub async fn export_control(&self) -> Result<FileId> {
        let _one = self.control.lock().await;
        let lease = self.control_lease().await?;
        let outcome = self.export_alone().await;
        self.control_release(lease).await?;
        outcome
    }

    /// Of several servers one at a time writes into `_control`.
    pub(crate) async fn control_lease(&self) -> Result<Option<Lease>> {
        if !self.catalog.is_shared() {
            return Ok(None);
        }
        for _ in 0..TURNS {
            if let Some(lease) =
                self.catalog.lease(CONTROL_REPOSITORY, &self.owner, crate::job::LEASE).await?
            {
                return Ok(Some(lease));
            }
            tokio::time::sleep(TURN).await;
        }
        Err(ServerError::ControlBusy)
    }

    pub(crate) async fn control_release(&self, lease: Option<Lease>) -> Result<()> {
        match lease {
            Some(lease) => Ok(self.catalog.release(&lease).await?),
            None => Ok(()),
        }
    }

    async fn export_alone(&self) -> Result<FileId> {
        if !self.repository_folder(CONTROL_REPOSITORY).join("config").exists() {
            self.create_repository(CONTROL_REPOSITORY, false).await?;
        }
        let password = self.password(CONTROL_REPOSITORY).await?;
        let mut files = self.wraps().await?;
        let read =
            |path: &str| fs_err::read(self.config.data.join(path)).map_err(ServerError::file("read a key"));
        files.push((IDENTITY.to_owned(), read("keys/server.age.recovery")?));
        files.push((RECOVERY.to_owned(), read("keys/recovery.pub")?));
        files.push((AUTHORITY.to_owned(), read("tls/ca.pem")?));
        if self.config.data.join("tls/ca.key").exists() {
            files.push((AUTHORITY_KEY.to_owned(), seal::wrap(&read("tls/ca.key")?, &self.keys.recovery)?));
        }
        // A runbook that cannot be made must not keep the catalog from being saved.
        match self.runbook_files().await.and_then(|pages| self.write_runbook(&pages).map(|()| pages)) {
            Ok(pages) => files.extend(pages),
            Err(error) => {
                tracing::error!("the runbook could not be written: {}", kuramori_model::fault::chain(&error));
            }
        }
        let export = self.config.data.join("control.jsonl");
        self.catalog.export(&export).await?;
        let app = self.clone();
        blocking(move || {
            let repository = app.open_repository(CONTROL_REPOSITORY, &password)?.index()?;
            let mut session =
                repository.backup(Options { patience: crate::job::LEASE, ..Options::default() })?;
            let file = fs_err::File::open(&export).map_err(ServerError::file("read the export"))?;
            let size = file.metadata().map_err(ServerError::file("read the export"))?.len();
            let now = app.clock.now();
            put(&mut session, CATALOG, size, now, &mut std::io::BufReader::new(file))?;
            for (name, content) in files {
                put(&mut session, &name, content.len() as u64, now, &mut Cursor::new(&content))?;
            }
            let committed = session.commit(Draft {
                hostname: "kuramori".to_owned(),
                username: "kuramori".to_owned(),
                paths: vec!["/control".to_owned()],
                tags: vec![format!("kuramori.recv={now}")],
                time: Some(now),
                excludes: Vec::new(),
            })?;
            fs_err::remove_file(&export).map_err(ServerError::file("remove the export"))?;
            Ok(committed.id)
        })
        .await
    }

    /// Every repository's password, wrapped to the recovery identity and to each vault.
    pub(crate) async fn wraps(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let vaults: Vec<Vault> = self.vaults().await?;
        let mut holders = vec![("recovery".to_owned(), self.keys.recovery.clone())];
        holders.extend(vaults.into_iter().filter_map(|vault| Some((vault.name, vault.recipient?))));
        let mut wraps = Vec::new();
        for name in self.repository_names().await? {
            let password = self.password(&name).await?;
            for (holder, recipient) in &holders {
                wraps.push((
                    format!("wraps/{name}/{holder}.age"),
                    seal::wrap(password.as_bytes(), recipient)?,
                ));
            }
        }
        Ok(wraps)
    }

    /// Every repository that has a password here.
    pub(crate) async fn repository_names(&self) -> Result<Vec<String>> {
        let prefix = secret_name("");
        let secrets = self.catalog.secrets().await?;
        Ok(secrets
            .into_iter()
            .filter_map(|secret| secret.name.strip_prefix(&prefix).map(str::to_owned))
            .collect())
    }
}

fn put(
    sink: &mut dyn Sink,
    name: &str,
    size: u64,
    now: jiff::Timestamp,
    content: &mut dyn std::io::Read,
) -> Result<()> {
    let path = TreePath::new(name).map_err(|error| ServerError::Bug(error.to_string()))?;
    let nanos = u32::try_from(now.subsec_nanosecond()).unwrap_or(0);
    let mtime = FileTime { seconds: now.as_second(), nanos };
    let meta = Meta { mode: 0o600, mtime, atime: mtime, ctime: mtime, ..Meta::default() };
    sink.put(Entry { path, kind: EntryKind::File { size }, meta }, content)
        .map_err(|error| ServerError::Bug(kuramori_model::fault::chain(&error)))
}
