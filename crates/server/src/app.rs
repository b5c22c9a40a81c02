//! The running server's shared parts: catalog, keys, logins, what the site sees of the gate.

use std::{
    path::PathBuf,
    sync::{Arc, RwLock},
};

use kuramori_catalog::Catalog;
use kuramori_model::clock::{Clock, Random, SystemClock, SystemRandom};
use tokio::sync::{Notify, watch};

use crate::{
    ServerError, config::Config, error::Result, facts::Gate, keys::Keys, logins::CatalogLogins,
    receive::Refused,
};

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
    /// One writer at a time into `_control`.
    pub(crate) control: tokio::sync::Mutex<()>,
    /// One result of another product at a time into its record.
    pub(crate) results_lock: tokio::sync::Mutex<()>,
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
        let catalog = Catalog::open(&database(&config)?, clock.clone()).await?;
        let logins = Arc::new(CatalogLogins::default());
        logins.load(&catalog).await?;
        let mut number = [0; 4];
        random.fill(&mut number);
        let owner = format!("server-{}-{:08x}", std::process::id(), u32::from_le_bytes(number));
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
                control: tokio::sync::Mutex::new(()),
                results_lock: tokio::sync::Mutex::new(()),
            }),
        })
    }

    /// The hospital's zone by name; `Etc/UTC` where the machine's has none.
    pub(crate) fn zone_name(&self) -> String {
        self.config.zone.iana_name().unwrap_or("Etc/UTC").to_owned()
    }
}

/// The SQLite file that the catalog's URL names.
pub(crate) fn database(config: &Config) -> Result<PathBuf> {
    match config.catalog.strip_prefix("sqlite:") {
        Some(path) => Ok(PathBuf::from(path.trim_start_matches("//"))),
        None => Err(ServerError::Config(crate::config::ConfigError::Value {
            place: crate::config::Place { origin: "store.catalog".to_owned(), line: None },
            key: Some("store.catalog".to_owned()),
            message: format!("`{}` is not of the form `sqlite:/path/catalog.db`", config.catalog),
        })),
    }
}

/// Runs blocking work of a room on a thread where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ServerError::Bug(error.to_string()))?
}
