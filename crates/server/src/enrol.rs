//! Introducing a vault: what it needs from us is written into one folder that a person carries over; what we
//! need from it (name, public keys) comes with the command.
//!
//! ```text
//! enrolment.json            names, fingerprints, pinned hashes, report repository
//! ca.pem                    the only authority that the vault believes
//! pull.password             the read-only login's password
//! report.password           the append-only login's password for reports
//! passwords/<repository>    each repository's password: the vault proves and restores with the server gone
//! wraps/<repository>.recovery.age   the same, for the hospital's recovery identity
//! ```

use std::{collections::BTreeMap, path::Path};

use aws_lc_rs::digest;
use kuramori_serve::tls::fingerprint;
use serde::{Deserialize, Serialize};

use crate::{
    App, ServerError,
    error::Result,
    keys::private,
    logins::{Grant, REPORTS},
    repositories::WRAPS,
    seal,
};

const SETTING: &str = "vaults";

/// A vault that was introduced.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Vault {
    /// Its name, as in its reports.
    pub name: String,
    /// The key with which its reports are verified.
    pub report_key: String,
    /// Since when it is enrolled.
    pub since: jiff::Timestamp,
    /// Its age recipient; new repositories' passwords reach it through `_control`.
    #[serde(default)]
    pub recipient: Option<String>,
}

/// What the enrolment says; also `enrolment.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enrolment {
    /// The vault's name.
    pub vault: String,
    /// Where it pulls from.
    pub address: std::net::SocketAddr,
    /// Name in the server's certificate.
    pub server_name: String,
    /// SHA-256 of the authority's certificate: to be compared by eye.
    pub authority_fingerprint: String,
    /// SHA-256 of the vault's report key as we took it: to be compared by eye.
    pub report_key_fingerprint: String,
    /// The read-only login.
    pub login: String,
    /// The append-only login for reports.
    pub report_login: String,
    /// The repository that takes the reports.
    pub report_repository: String,
    /// The key with which the server cosigns the vault's log: `witness` in the vault's configuration.
    pub witness: kuramori_audit::Verifier,
    /// Per repository: SHA-256 of `config` and of each key file, pinned from now on.
    pub pins: BTreeMap<String, BTreeMap<String, String>>,
}

impl App {
    /// Vaults that were introduced.
    pub async fn vaults(&self) -> Result<Vec<Vault>> {
        Ok(self.catalog.setting(SETTING).await?.unwrap_or_default())
    }

    /// Introduces a vault and writes its folder. Doing it again renews logins and passwords.
    pub async fn enrol(&self, vault: Vault, out: &Path) -> Result<Enrolment> {
        if let Some(recipient) = &vault.recipient {
            seal::check_recipient(recipient)?;
        }
        let reports = self.repository_folder(REPORTS);
        for kind in ["snapshots", "data", "index", "keys", "locks"] {
            fs_err::create_dir_all(reports.join(kind))
                .map_err(ServerError::file("make the report repository"))?;
        }
        let (login, report_login) = (format!("vault-{}", vault.name), format!("report-{}", vault.name));
        let random = self.random.as_ref();
        let pull = self.logins.grant(&self.catalog, &login, Grant::Read {}, random).await?;
        let grant = Grant::Append { repository: REPORTS.to_owned(), quota: None };
        let report = self.logins.grant(&self.catalog, &report_login, grant, random).await?;
        let mut vaults = self.vaults().await?;
        vaults.retain(|other| other.name != vault.name);
        vaults.push(vault.clone());
        self.catalog.set_setting(SETTING, &vaults).await?;

        // From now on the new vault is among those who can open every password.
        for name in self.repository_names().await? {
            let password = self.password(&name).await?;
            self.keep_password(&name, &password).await?;
        }
        self.export_control().await?;

        let mut pins = BTreeMap::new();
        for name in self.repository_names().await? {
            let folder = self.repository_folder(&name);
            if !folder.join("config").exists() {
                continue;
            }
            private(
                &out.join("passwords").join(&name),
                format!("{}\n", self.password(&name).await?).as_bytes(),
            )?;
            let wrap = folder.join(WRAPS).join("recovery.age");
            if wrap.exists() {
                let wrap = fs_err::read(wrap).map_err(ServerError::file("read a wrap"))?;
                private(&out.join("wraps").join(format!("{name}.recovery.age")), &wrap)?;
            }
            pins.insert(name, pin(&folder)?);
        }
        private(&out.join("ca.pem"), self.keys.authority.as_bytes())?;
        private(&out.join("pull.password"), format!("{pull}\n").as_bytes())?;
        private(&out.join("report.password"), format!("{report}\n").as_bytes())?;
        let enrolment = Enrolment {
            authority_fingerprint: fingerprint(&self.keys.authority)?,
            report_key_fingerprint: sha256(vault.report_key.as_bytes()),
            vault: vault.name,
            address: self.config.serve.listen,
            server_name: self.config.serve.names.first().cloned().unwrap_or_default(),
            login,
            report_login,
            report_repository: REPORTS.to_owned(),
            witness: crate::audit_key(&self.config)?,
            pins,
        };
        let text =
            serde_json::to_vec_pretty(&enrolment).map_err(|error| ServerError::Bug(error.to_string()))?;
        private(&out.join("enrolment.json"), &text)?;
        let data = serde_json::json!({ "vault": enrolment.vault });
        self.event("admin", "vault.enrolled", None, &data).await?;
        Ok(enrolment)
    }
}

fn pin(folder: &Path) -> Result<BTreeMap<String, String>> {
    let wrong = ServerError::file("read a repository's config and keys");
    let mut pins = BTreeMap::new();
    pins.insert("config".to_owned(), sha256(&fs_err::read(folder.join("config")).map_err(&wrong)?));
    for entry in fs_err::read_dir(folder.join("keys")).map_err(&wrong)? {
        let entry = entry.map_err(&wrong)?;
        let name = format!("keys/{}", entry.file_name().to_string_lossy());
        pins.insert(name, sha256(&fs_err::read(entry.path()).map_err(&wrong)?));
    }
    Ok(pins)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}
