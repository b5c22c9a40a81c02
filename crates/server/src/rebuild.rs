//! The server's own way back: from the vault's copy of `_control` and the hospital's recovery identity, on an
//! empty machine, register, policies, history, secrets and the authority are as they were.
//!
//! What is not in `_control` is made anew: the server's certificate (issued by the same authority, so that
//! clients and the vault still believe it).

use std::{path::Path, sync::Arc};

use kuramori_catalog::Catalog;
use kuramori_model::{
    clock::{Clock, Random},
    tree::TreePath,
};
use kuramori_repo::{
    Indexed, Opened, Repository, Secret,
    format::{blob::BlobKind, snapshot::Snapshot},
    store::LocalStore,
};
use serde::Serialize;

use crate::{
    ServerError,
    app::database,
    config::Config,
    control,
    error::Result,
    keys::{certificates, private},
    repositories::{WRAPS, context},
    seal,
};

/// What came back.
#[derive(Debug, Clone, Serialize)]
pub struct Rebuilt {
    /// The restore point of `_control` that was used.
    pub snapshot: String,
    /// When it was taken.
    pub taken: jiff::Timestamp,
    /// Departmental systems in the register.
    pub systems: usize,
    /// Restore points that the catalog knows.
    pub points: usize,
    /// Sealed secrets that open with the server's key.
    pub secrets: usize,
}

/// Brings the server back. `from` is the folder of a `_control` repository; its password comes from `wrap`
/// (by default `wraps/recovery.age` in the folder, or `_control.recovery.age` beside it).
pub async fn rebuild(
    config: &Config,
    from: &Path,
    recovery_identity: &str,
    wrap: Option<&Path>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
) -> Result<Rebuilt> {
    let identity_file = config.data.join("keys/server.age");
    if identity_file.exists() {
        return Err(ServerError::Exists(identity_file));
    }
    let read = ServerError::file("read the wrapped password of `_control`");
    let wrap = match wrap {
        Some(wrap) => wrap.to_owned(),
        None => [
            from.join(WRAPS).join("recovery.age"),
            from.with_file_name("_control.recovery.age"),
            from.join("../wraps/_control.recovery.age"),
        ]
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| from.join(WRAPS).join("recovery.age")),
    };
    let sealed = fs_err::read(&wrap).map_err(&read)?;
    let password = seal::unwrap(&sealed, recovery_identity)?;
    let store = Arc::new(LocalStore::new(from));
    let repository = Repository::<Opened>::open(store, &Secret::new(password.as_slice()), context())?;
    // By the receiver's order: `_control` has one writer, whose tag says when it was received.
    let mut snapshots = repository.snapshots()?;
    snapshots.retain(|(_, snapshot)| !snapshot.is_incomplete());
    snapshots.sort_by_key(|(_, snapshot)| snapshot.time);
    let Some((id, snapshot)) = snapshots.pop() else {
        let file = format!("{}/snapshots", from.display());
        return Err(kuramori_repo::Error::Missing { file }.into());
    };
    let repository = repository.index()?;

    for folder in [&config.data, &config.repositories] {
        fs_err::create_dir_all(folder).map_err(ServerError::file("make the data folder"))?;
    }
    let export = config.data.join("rebuild.jsonl");
    private(&export, &file(&repository, &snapshot, control::CATALOG)?)?;
    let catalog = Catalog::import(&export, database(config)?, clock.clone()).await?;
    fs_err::remove_file(&export).map_err(ServerError::file("remove the export"))?;

    let wrapped = file(&repository, &snapshot, control::IDENTITY)?;
    let identity = text(control::IDENTITY, seal::unwrap(&wrapped, recovery_identity)?)?;
    let certificate = text(control::AUTHORITY, file(&repository, &snapshot, control::AUTHORITY)?)?;
    let sealed = file(&repository, &snapshot, control::AUTHORITY_KEY)?;
    let key = text(control::AUTHORITY_KEY, seal::unwrap(&sealed, recovery_identity)?)?;
    let authority = kuramori_serve::tls::Pair { certificate, key: key.clone().into() };
    certificates(config, Some(authority), clock.as_ref(), random.as_ref())?;
    private(&config.data.join("tls/ca.key"), key.as_bytes())?;
    private(&config.data.join(control::RECOVERY), &file(&repository, &snapshot, control::RECOVERY)?)?;
    private(&config.data.join(control::IDENTITY), &wrapped)?;

    let mut points = 0;
    let systems = catalog.systems().await?;
    for registered in &systems {
        for place in [kuramori_catalog::Place::Primary, kuramori_catalog::Place::Vault] {
            points += catalog.points(&registered.system.id, place).await?.len();
        }
    }
    let mut secrets = 0;
    for secret in catalog.secrets().await? {
        seal::unwrap(&catalog.secret(&secret.name).await?, &identity)?;
        secrets += 1;
    }
    let data = serde_json::json!({ "snapshot": id.to_string() });
    catalog.add_event("admin", "server.rebuilt", None, &data).await?;
    catalog.close().await;
    // Last: its presence says that everything is there.
    private(&identity_file, identity.as_bytes())?;
    Ok(Rebuilt { snapshot: id.to_string(), taken: snapshot.time, systems: systems.len(), points, secrets })
}

/// One small file of a restore point.
fn file(repository: &Repository<Indexed>, snapshot: &Snapshot, name: &str) -> Result<Vec<u8>> {
    let path = TreePath::new(name).map_err(|error| ServerError::Bug(error.to_string()))?;
    let node = repository.find_node(&snapshot.tree, &path)?;
    let mut content = Vec::new();
    for id in node.content.iter().flatten() {
        content.extend_from_slice(&repository.load_blob(BlobKind::Data, id)?);
    }
    Ok(content)
}

fn text(name: &str, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| ServerError::Sealed { name: name.to_owned() })
}
