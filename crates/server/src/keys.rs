//! The server's own keys on disk, and the first start that makes them.
//!
//! ```text
//! <data>/keys/server.age          the server's age identity: opens every repository's password
//! <data>/keys/recovery.pub        the hospital's recovery recipient: can wrap, cannot open
//! <data>/keys/server.age.recovery the server's identity, wrapped to the recovery identity
//! <data>/tls/ca.pem, ca.key       the hospital's own authority
//! <data>/tls/server.pem, .key     the repository server's certificate
//! ```

use std::{
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kuramori_model::clock::{Clock, Random};

use crate::{ServerError, config::Config, error::Result, seal};

/// Ten years for the authority, two for the server's certificate.
const AUTHORITY: Duration = Duration::from_hours(24 * 3652);
const CERTIFICATE: Duration = Duration::from_hours(24 * 730);

/// The keys in memory.
pub(crate) struct Keys {
    pub(crate) identity: String,
    pub(crate) recipient: String,
    pub(crate) recovery: String,
    pub(crate) authority: String,
    pub(crate) tls: Arc<rustls::ServerConfig>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("recipient", &self.recipient).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads what `server init` made.
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let file = config.data.join("keys/server.age");
        if !file.exists() {
            return Err(ServerError::NotInitialised(file));
        }
        let read = |path: PathBuf| fs_err::read_to_string(path).map_err(ServerError::file("read a key"));
        let identity = read(file)?;
        Ok(Self {
            recipient: seal::recipient(&identity)?,
            identity,
            recovery: read(config.data.join("keys/recovery.pub"))?.trim().to_owned(),
            authority: read(config.data.join("tls/ca.pem"))?,
            tls: kuramori_serve::tls::load(&config.serve.certificate, &config.serve.key)?,
        })
    }
}

/// What the first start made; shown once.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Initialised {
    /// SHA-256 of the authority's certificate, to be compared at enrolments.
    pub authority_fingerprint: String,
    /// The server's public recipient.
    pub server_recipient: String,
    /// The hospital's recovery recipient.
    pub recovery_recipient: String,
    /// Where the recovery identity was written, if this call made it. It belongs on paper, not here.
    pub recovery_identity: Option<PathBuf>,
}

/// Makes keys, authority and certificate in an empty data folder.
///
/// `recovery` is the recovery identity's recipient, made elsewhere; without it one is made and its identity
/// written to `recovery_out`, from where it must be split and taken off this machine.
pub fn init(
    config: &Config,
    recovery: Option<&str>,
    recovery_out: Option<&Path>,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<Initialised> {
    let keys = config.data.join("keys");
    if keys.join("server.age").exists() {
        return Err(ServerError::Exists(keys.join("server.age")));
    }
    let (recovery, identity_out) = match (recovery, recovery_out) {
        (Some(recipient), _) => {
            seal::check_recipient(recipient)?;
            (recipient.to_owned(), None)
        }
        (None, Some(out)) => {
            let (identity, recipient) = seal::generate();
            private(
                out,
                format!("# recovery identity of the hospital; public: {recipient}\n{identity}\n").as_bytes(),
            )?;
            (recipient, Some(out.to_owned()))
        }
        (None, None) => {
            return Err(ServerError::Entry {
                place: "server init".to_owned(),
                why: "give the recovery recipient, or a file for a new recovery identity".to_owned(),
            });
        }
    };
    for folder in [&config.data, &keys, &config.data.join("tls"), &config.repositories] {
        fs_err::create_dir_all(folder).map_err(ServerError::file("make the data folder"))?;
    }
    for folder in [&config.data, &keys] {
        fs_err::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
            .map_err(ServerError::file("close the data folder to others"))?;
    }
    let (authority, authority_fingerprint) = certificates(config, None, clock, random)?;
    private(&config.data.join("tls/ca.key"), authority.key.as_bytes())?;
    private(&keys.join("recovery.pub"), format!("{recovery}\n").as_bytes())?;
    let (identity, server_recipient) = seal::generate();
    private(&keys.join("server.age.recovery"), &seal::wrap(identity.as_bytes(), &recovery)?)?;
    // Last: its presence says that everything is there.
    private(&keys.join("server.age"), format!("{identity}\n").as_bytes())?;
    Ok(Initialised {
        authority_fingerprint,
        server_recipient,
        recovery_recipient: recovery,
        recovery_identity: identity_out,
    })
}

/// Makes or takes the authority and issues the server's certificate; gives the authority and its fingerprint.
pub(crate) fn certificates(
    config: &Config,
    authority: Option<kuramori_serve::tls::Pair>,
    clock: &dyn Clock,
    random: &dyn Random,
) -> Result<(kuramori_serve::tls::Pair, String)> {
    let now = clock.now();
    let authority = match authority {
        Some(authority) => authority,
        None => kuramori_serve::tls::authority("Kuramori hospital CA", now, AUTHORITY, random)?,
    };
    let names: Vec<&str> = config.serve.names.iter().map(String::as_str).collect();
    let server = kuramori_serve::tls::issue(&authority, &names, now, CERTIFICATE, random)?;
    private(&config.serve.key, server.key.as_bytes())?;
    private(&config.serve.certificate, server.certificate.as_bytes())?;
    private(&config.data.join("tls/ca.pem"), authority.certificate.as_bytes())?;
    let fingerprint = kuramori_serve::tls::fingerprint(&authority.certificate)?;
    Ok((authority, fingerprint))
}

/// Writes a file that only we can read, durable before it has its name.
pub(crate) fn private(path: &Path, content: &[u8]) -> Result<()> {
    let wrong = ServerError::file("write a private file");
    if let Some(parent) = path.parent() {
        fs_err::create_dir_all(parent).map_err(&wrong)?;
    }
    let partial = path.with_extension("partial");
    let _ = fs_err::remove_file(&partial);
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create_new(true);
    options.options_mut().mode(0o600);
    let mut file = options.open(&partial).map_err(&wrong)?;
    file.write_all(content).map_err(&wrong)?;
    file.sync_all().map_err(&wrong)?;
    fs_err::rename(&partial, path).map_err(&wrong)
}
