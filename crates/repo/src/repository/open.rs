//! Making and opening a repository.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use zeroize::Zeroizing;

use super::{Core, Indexed, Opened, Repository};
use crate::{
    Context, Error, Result,
    format::{
        config::{self, Config},
        crypto::{Cipher, KeyBytes},
        key,
    },
    store::{FileId, FileKind, Payload, Store},
};

/// restic tries at most this many key files; so a flood of forged ones cannot lock anybody out for hours.
pub(super) const KEYS_MAX: usize = 20;
pub(super) const KEY_SIZE_MAX: u64 = 64 << 10;

/// A password; wiped when dropped, never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the password's bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Repository<Opened> {
    /// Makes a new repository with one password. The key comes before `config`: a repository exists once
    /// `config` does, and then it can be opened.
    pub fn create(store: Arc<dyn Store>, password: &Secret, context: Context) -> Result<Self> {
        match store.read_config() {
            Ok(_) => return Err(Error::Exists { file: format!("{}/config", store.place()) }),
            Err(Error::NotFound { .. }) => {}
            Err(other) => return Err(other),
        }
        store.create()?;
        let mut bytes = Zeroizing::new([0; 64]);
        context.random.fill(bytes.as_mut());
        let master = KeyBytes::from_slice(&bytes);
        let cipher = Cipher::new(&master).map_err(|flaw| Error::Bug { what: flaw.0 })?;
        let mut id = [0; 32];
        context.random.fill(&mut id);
        let config = Config {
            version: config::VERSION,
            id: hex::encode(id),
            chunker_polynomial: format!("{:x}", config::polynomial(|| context.number())),
        };
        let mut core =
            Core { store, context, config, cipher, master, key_id: FileId::ZERO, writing: Mutex::default() };
        core.key_id = core.write_key(password)?;
        let plain = config::encode(&core.config).map_err(|flaw| Error::Bug { what: flaw.0 })?;
        let sealed = core.seal(&plain)?;
        core.store.write_config(&sealed)?;
        Ok(Self { core: Arc::new(core), state: Opened })
    }

    /// Opens a repository with any of its passwords.
    pub fn open(store: Arc<dyn Store>, password: &Secret, context: Context) -> Result<Self> {
        let sealed = store.read_config()?;
        let mut ids = Vec::new();
        store.list(FileKind::Key, &mut |id, _| {
            ids.push(id);
            Ok(())
        })?;
        ids.sort_unstable();
        let mut first_flaw = None;
        let mut tried = 0;
        for id in ids {
            if tried == KEYS_MAX {
                break;
            }
            match Self::try_key(store.as_ref(), id, password) {
                Ok(Some(master)) => return Self::with_master(store, context, &sealed, id, master),
                Ok(None) => tried += 1,
                // A damaged key must not keep another one from opening the repository.
                Err(error @ (Error::Damaged { .. } | Error::Missing { .. })) => {
                    tracing::warn!(key = %id, "skips a key file: {error}");
                    first_flaw.get_or_insert(error);
                }
                Err(other) => return Err(other),
            }
        }
        match first_flaw {
            Some(flaw) if tried == 0 => Err(flaw),
            _ if tried == 0 => Err(Error::Missing { file: "keys/*".to_owned() }),
            _ => Err(Error::WrongPassword { place: store.place(), tried }),
        }
    }

    /// Opens with one key file that the caller knows: however many others lie beside it, they are not tried.
    pub fn open_with_key(
        store: Arc<dyn Store>,
        key: FileId,
        password: &Secret,
        context: Context,
    ) -> Result<Self> {
        let sealed = store.read_config()?;
        match Self::try_key(store.as_ref(), key, password)? {
            Some(master) => Self::with_master(store, context, &sealed, key, master),
            None => Err(Error::WrongPassword { place: store.place(), tried: 1 }),
        }
    }

    fn try_key(store: &dyn Store, id: FileId, password: &Secret) -> Result<Option<KeyBytes>> {
        let damaged = |flaw: crate::format::Flaw| Error::damaged(FileKind::Key, id, flaw.0);
        let json = store.read(FileKind::Key, id, KEY_SIZE_MAX)?;
        if FileId::of(&json) != id {
            return Err(Error::damaged(FileKind::Key, id, "its bytes do not have the hash in its name"));
        }
        let file = key::decode(&json).map_err(damaged)?;
        key::open(&file, password.expose()).map_err(damaged)
    }

    fn with_master(
        store: Arc<dyn Store>,
        context: Context,
        sealed: &[u8],
        key_id: FileId,
        master: KeyBytes,
    ) -> Result<Self> {
        let damaged = |flaw: crate::format::Flaw| Error::damaged(FileKind::Config, FileId::ZERO, flaw.0);
        let cipher = Cipher::new(&master).map_err(damaged)?;
        let plain = cipher.open_vec(sealed.to_vec()).map_err(damaged)?;
        let config = config::decode(&plain).map_err(damaged)?;
        if config.version != config::VERSION {
            return Err(Error::Version { version: config.version });
        }
        Ok(Self {
            core: Arc::new(Core {
                store,
                context,
                config,
                cipher,
                master,
                key_id,
                writing: Mutex::default(),
            }),
            state: Opened,
        })
    }

    /// Loads every index file. List the snapshots that matter before this call.
    pub fn index(self) -> Result<Repository<Indexed>> {
        let repository = Repository { core: self.core, state: Indexed { index: Arc::default() } };
        repository.refresh()?;
        Ok(repository)
    }
}

impl Core {
    /// Writes a key file for the master key.
    pub(super) fn write_key(&self, password: &Secret) -> Result<FileId> {
        let bug = |flaw: crate::format::Flaw| Error::Bug { what: flaw.0 };
        let mut salt = [0; 64];
        self.context.random.fill(&mut salt);
        let maker = key::Maker {
            created: self.context.clock.now(),
            username: self.context.username.clone(),
            hostname: self.context.hostname.clone(),
        };
        let file = key::seal(&self.master, password.expose(), key::COST, &salt, self.context.iv(), &maker)
            .map_err(bug)?;
        // Decode check: a key file that does not open would be found out on the worst day.
        if key::open(&file, password.expose()).map_err(bug)?.as_ref() != Some(&self.master) {
            return Err(Error::Bug { what: "a new key file does not open".to_owned() });
        }
        let json = key::encode(&file).map_err(bug)?;
        let id = FileId::of(&json);
        self.store.write(FileKind::Key, id, Payload::Bytes(&json))?;
        Ok(id)
    }

    /// The sealed form of `plain` under a fresh IV.
    pub(crate) fn seal(&self, plain: &[u8]) -> Result<Vec<u8>> {
        self.cipher.seal(self.context.iv(), plain).map_err(|flaw| Error::Bug { what: flaw.0 })
    }
}
