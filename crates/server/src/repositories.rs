//! Repositories on the primary: made with a random password that is sealed to the server, and wrapped beside
//! the repository for the hospital's recovery identity (and each vault).

use std::{path::PathBuf, sync::Arc};

use jiff::Timestamp;
use kuramori_catalog::Catalog;
use kuramori_judge::facts::RunFacts;
use kuramori_repo::{
    Cancel, Context, Opened, Repository, Secret,
    format::{blob::BlobKind, node::NodeKind},
    store::{FileId, LocalStore},
    walk::Descend,
};

use crate::{
    ServerError,
    app::{App, blocking},
    error::Result,
    keys::private,
    seal,
};

/// The folder inside a repository's folder that holds its wraps; restic leaves unknown folders alone.
pub(crate) const WRAPS: &str = "wraps";

/// The catalog's name of a repository's sealed password.
pub(crate) fn secret_name(repository: &str) -> String {
    format!("repository/{repository}")
}

impl App {
    /// Where a repository lies.
    pub(crate) fn repository_folder(&self, name: &str) -> PathBuf {
        self.config.repositories.join(name)
    }

    /// Makes a repository. The sealed password is stored before the repository exists, so that a crash in
    /// between leaves no repository that nobody can open. With `client`, a second password is added for a
    /// stock restic client and given back; it is kept nowhere.
    pub(crate) async fn create_repository(&self, name: &str, client: bool) -> Result<Option<String>> {
        let password = match self.password(name).await {
            Ok(password) => password,
            Err(ServerError::Catalog(kuramori_catalog::CatalogError::NoSuch { .. })) => {
                let password = seal::password(self.random.as_ref());
                self.keep_password(name, &password).await?;
                password
            }
            Err(other) => return Err(other),
        };
        let wrap = seal::wrap(password.as_bytes(), &self.keys.recovery)?;
        let folder = self.repository_folder(name);
        let second = client.then(|| seal::password(self.random.as_ref()));
        let added = second.clone();
        blocking(move || {
            let store = Arc::new(LocalStore::new(&folder));
            let secret = Secret::new(password.as_bytes());
            let repository = match Repository::<Opened>::create(store.clone(), &secret, context()) {
                Err(kuramori_repo::Error::Exists { .. }) => {
                    Repository::<Opened>::open(store, &secret, context())?
                }
                other => other?,
            };
            private(&folder.join(WRAPS).join("recovery.age"), &wrap)?;
            if let Some(added) = added {
                repository.add_key(&Secret::new(added.as_bytes()))?;
            }
            Ok(())
        })
        .await?;
        Ok(second)
    }

    /// Seals a repository's password into the catalog, to the server and to everybody who must be able to open
    /// it without the server: the recovery identity and each vault, which finds it in `_control`.
    pub(crate) async fn keep_password(&self, name: &str, password: &str) -> Result<()> {
        let mut holders = vec![self.keys.recipient.clone(), self.keys.recovery.clone()];
        holders.extend(self.vaults().await?.into_iter().filter_map(|vault| vault.recipient));
        let sealed = seal::wrap_all(password.as_bytes(), &holders)?;
        Ok(self.catalog.put_secret(&secret_name(name), &sealed).await?)
    }

    /// A repository's password, opened with the server's key.
    pub(crate) async fn password(&self, name: &str) -> Result<String> {
        open_password(&self.catalog, name, &self.keys.identity).await
    }

    /// Opens a repository (on the calling thread: it blocks).
    pub(crate) fn open_repository(&self, name: &str, password: &str) -> Result<Repository<Opened>> {
        let store = Arc::new(LocalStore::new(self.repository_folder(name)));
        Ok(Repository::<Opened>::open(store, &Secret::new(password.as_bytes()), context())?)
    }
}

/// A repository's password out of a catalog.
pub(crate) async fn open_password(catalog: &Catalog, name: &str, identity: &str) -> Result<String> {
    let secret = secret_name(name);
    let sealed = catalog.secret(&secret).await?;
    let plain = seal::unwrap(&sealed, identity)?;
    String::from_utf8(plain).map_err(|_| ServerError::Sealed { name: secret })
}

/// Who works on repositories here.
pub(crate) fn context() -> Context {
    Context { username: "kuramori".to_owned(), ..Context::system() }
}

/// What a snapshot that somebody else wrote holds: counted from its own trees, because only these say what
/// can come back. A tree that is not whole makes the point incomplete.
pub(crate) fn count(repository: Repository<Opened>, id: FileId) -> Result<(RunFacts, bool)> {
    let snapshot = repository.snapshot(id)?;
    let repository = repository.index()?;
    let mut facts = RunFacts { digest: Some(snapshot.tree.to_string()), ..RunFacts::default() };
    facts.identity = (!snapshot.hostname.is_empty()).then(|| snapshot.hostname.clone());
    let (mut whole, mut newest) = (true, None);
    let walked = repository.walk(&snapshot.tree, &Cancel::default(), &mut |_, node| {
        if node.kind == NodeKind::File {
            facts.files += 1;
            facts.bytes += node.size;
            newest = newest.max(Some((node.mtime.seconds, node.mtime.nanos)));
            let content = node.content.as_deref().unwrap_or_default();
            whole &=
                repository.with_index(|index| content.iter().all(|id| index.contains(BlobKind::Data, id)));
        }
        Ok(Descend::Into)
    });
    match walked {
        Ok(()) => {}
        Err(error @ (kuramori_repo::Error::Damaged { .. } | kuramori_repo::Error::Missing { .. })) => {
            facts.truncated = Some(error.to_string());
            whole = false;
        }
        Err(other) => return Err(other.into()),
    }
    facts.newest =
        newest.and_then(|(seconds, nanos)| Timestamp::new(seconds, i32::try_from(nanos).ok()?).ok());
    Ok((facts, whole && !snapshot.is_incomplete()))
}
