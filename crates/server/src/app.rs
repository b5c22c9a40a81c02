//! The running server's shared parts: catalog, keys, logins, what the site sees of the gate.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use kuramori_catalog::{Catalog, Database};
use kuramori_model::{
    clock::{Clock, Random, SystemClock, SystemRandom},
    ids::SystemId,
};
use tokio::sync::{Notify, watch};

use crate::{
    ServerError, config::Config, error::Result, facts::Gate, keys::Keys, logins::CatalogLogins,
    receive::Refused,
};

/// Setting: the recipient of the server to which the catalog belongs.
const IDENTITY: &str = "server-identity";

/// Everything that the tasks share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    inner: Arc<Inner>,
}

/// What all clones share.
#[derive(Debug)]
pub struct Inner {
    pub(crate) config: Config,
    pub(crate) catalog: Catalog,
    pub(crate) keys: Keys,
    pub(crate) logins: Arc<CatalogLogins>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    /// This process among those that ever worked on the catalog.
    pub(crate) owner: String,
    /// What the site last saw of the gate.
    pub(crate) gate: RwLock<Gate>,
    /// What the repository server refused.
    pub(crate) refused: Refused,
    /// True once the server is asked to end.
    pub(crate) stopping: watch::Sender<bool>,
    /// Wakes the scheduler before its tick.
    pub(crate) work: Notify,
    /// Wakes whoever sends notices.
    pub(crate) post: Notify,
    /// The tamper-evident log of what was done here; its index is in the catalog.
    pub(crate) audit: Arc<Mutex<kuramori_audit::Log>>,
    /// One writer at a time into `_control`.
    pub(crate) control: tokio::sync::Mutex<()>,
    /// Agents that are connected, and their sessions.
    pub(crate) agents: Arc<crate::agents::Desk>,
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl App {
    /// Opens catalog and keys. A second server on the same catalog is refused here.
    pub async fn open(config: Config) -> Result<Self> {
        let (clock, random): (Arc<dyn Clock>, Arc<dyn Random>) =
            (Arc::new(SystemClock), Arc::new(SystemRandom));
        let keys = Keys::open(&config)?;
        let catalog = Catalog::open(database(&config)?, clock.clone()).await?;
        let audit = audit(&config, clock.clone())?;
        let logins = Arc::new(CatalogLogins::default());
        logins.load(&catalog).await?;
        let mut number = [0; 4];
        random.fill(&mut number);
        let host = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let owner = format!("{}/{}/{:08x}", host.trim(), std::process::id(), u32::from_le_bytes(number));
        // Servers that share a catalog share its keys; with others its secrets would be lost one by one.
        match catalog.setting::<String>(IDENTITY).await? {
            Some(theirs) if theirs != keys.recipient => {
                return Err(ServerError::OtherIdentity { theirs, ours: keys.recipient });
            }
            Some(_) => {}
            None => catalog.set_setting(IDENTITY, &keys.recipient).await?,
        }
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                catalog,
                keys,
                logins,
                clock,
                random,
                owner,
                gate: RwLock::default(),
                refused: Refused::default(),
                stopping: watch::channel(false).0,
                work: Notify::new(),
                post: Notify::new(),
                audit: Arc::new(Mutex::new(audit)),
                control: tokio::sync::Mutex::new(()),
                agents: Arc::default(),
            }),
        })
    }

    /// Records what was done: first in the tamper-evident log, then for the console.
    pub(crate) async fn event(
        &self,
        actor: &str,
        kind: &str,
        system: Option<&SystemId>,
        data: &serde_json::Value,
    ) -> Result<u64> {
        let (log, what) = (self.audit.clone(), kind.to_owned());
        let entry = serde_json::json!({ "actor": actor, "system": system, "data": data });
        blocking(move || {
            log.lock().unwrap_or_else(PoisonError::into_inner).append(&what, &entry)?;
            Ok(())
        })
        .await?;
        Ok(self.catalog.add_event(actor, kind, system, data).await?)
    }

    /// The machine of this server, out of its owner's name.
    pub(crate) fn host(&self) -> &str {
        self.owner.split('/').next().unwrap_or_default()
    }

    /// Whether this work is ours alone for this time: always where only one server works on the catalog.
    pub(crate) async fn alone(&self, work: &str, time: Duration) -> Result<bool> {
        if !self.catalog.is_shared() {
            return Ok(true);
        }
        Ok(self.catalog.lease(work, &self.owner, time).await?.is_some())
    }

    /// The hospital's zone by name; `Etc/UTC` where the machine's has none.
    pub(crate) fn zone_name(&self) -> String {
        self.config.zone.iana_name().unwrap_or("Etc/UTC").to_owned()
    }
}

/// The database that the catalog's URL names.
pub(crate) fn database(config: &Config) -> Result<Database> {
    let database: Database = config.catalog.parse()?;
    let Some(file) = &config.catalog_password_file else { return Ok(database) };
    let password = fs_err::read_to_string(file).map_err(ServerError::file("read the catalog's password"))?;
    Ok(database.with_password(password.trim_end_matches(['\r', '\n'])))
}

/// Where the server's log and its key lie in the data folder.
pub const AUDIT: (&str, &str) = ("audit", "keys/audit.key");

/// Opens the server's own log; the key is made with the first entry.
fn audit(config: &Config, clock: Arc<dyn Clock>) -> Result<kuramori_audit::Log> {
    let signer = audit_signer(config)?;
    let mut log = kuramori_audit::Log::open(&config.data.join(AUDIT.0), signer, clock)?;
    log.append("server.started", &serde_json::json!({ "version": env!("CARGO_PKG_VERSION") }))?;
    Ok(log)
}

/// The key of the server's log and of its cosignatures; a vault has the public half in its configuration.
pub(crate) fn audit_signer(config: &Config) -> Result<kuramori_audit::Signer> {
    Ok(kuramori_audit::Signer::open(&config.data.join(AUDIT.1), "kuramori/server", &SystemRandom)?)
}

/// The public key of the server's log, for who verifies it.
///
/// # Errors
/// [`ServerError::NotInitialised`] if the server never wrote one.
pub fn audit_key(config: &Config) -> Result<kuramori_audit::Verifier> {
    let file = config.data.join(AUDIT.1);
    if !file.exists() {
        return Err(ServerError::NotInitialised(file));
    }
    Ok(audit_signer(config)?.verifier())
}

/// Runs blocking work of a room on a thread where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ServerError::Bug(error.to_string()))?
}
