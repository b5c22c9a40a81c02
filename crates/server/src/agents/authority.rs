//! The agents' authorities: the newest issues, all of them are trusted, each until a person retires it.
//!
//! They lie sealed in the catalog, so servers that share it share them, and a server that was rebuilt keeps its
//! agents. The server's own certificate is made fresh at each start and its key is never written down.

use std::time::Duration;

use jiff::Timestamp;
use kuramori_wire::{
    identity::{self, Pair},
    tls,
};
use serde::{Deserialize, Serialize};

use crate::{App, ServerError, error::Result, seal};

const SECRET: &str = "agents/authorities";
/// Ten years.
const AUTHORITY: Duration = Duration::from_hours(24 * 3652);
/// The server's own certificate; made anew with each start and when half of it is over.
pub(super) const OWN: Duration = Duration::from_hours(24 * 60);

/// One authority.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Authority {
    pub(super) number: u32,
    pub(super) since: Timestamp,
    pub(super) certificate: String,
    key: String,
}

impl Authority {
    pub(super) fn pair(&self) -> Pair {
        Pair { certificate: self.certificate.clone(), key: self.key.clone().into() }
    }

    /// Its name, as the certificates that it signed say it.
    pub(super) fn name(&self) -> String {
        format!("Kuramori agents CA {}", self.number)
    }

    pub(super) fn fingerprint(&self) -> Result<[u8; 32]> {
        let certificates = identity::certificates(&self.certificate)?;
        let first = certificates.first().ok_or_else(|| ServerError::Sealed { name: SECRET.to_owned() })?;
        Ok(identity::fingerprint(first))
    }
}

/// All certificates as one PEM text, the newest first.
pub(super) fn bundle(all: &[Authority]) -> String {
    all.iter().map(|authority| authority.certificate.as_str()).collect()
}

impl App {
    /// The trusted authorities, the newest first; the first one is made when it is first needed.
    pub(super) async fn authorities(&self) -> Result<Vec<Authority>> {
        match self.catalog.secret(SECRET).await {
            Ok(sealed) => {
                let plain = seal::unwrap(&sealed, &self.keys.identity)?;
                serde_json::from_slice(&plain).map_err(|_| ServerError::Sealed { name: SECRET.to_owned() })
            }
            Err(kuramori_catalog::CatalogError::NoSuch { .. }) => {
                let all = vec![self.new_authority(1)?];
                self.keep_authorities(&all).await?;
                self.export_control().await?;
                Ok(all)
            }
            Err(other) => Err(other.into()),
        }
    }

    pub(super) fn new_authority(&self, number: u32) -> Result<Authority> {
        let since = self.clock.now();
        let pair = identity::authority(number, since, AUTHORITY, self.random.as_ref())?;
        Ok(Authority { number, since, certificate: pair.certificate, key: pair.key.to_string() })
    }

    pub(super) async fn keep_authorities(&self, all: &[Authority]) -> Result<()> {
        let text = serde_json::to_vec(all).map_err(|error| ServerError::Bug(error.to_string()))?;
        let holders = [self.keys.recipient.clone(), self.keys.recovery.clone()];
        Ok(self.catalog.put_secret(SECRET, &seal::wrap_all(&text, &holders)?).await?)
    }

    /// The door's side of TLS for these authorities.
    pub(super) fn door_tls(&self, all: &[Authority], now: Timestamp) -> Result<tls::Server> {
        let mut shown = Vec::new();
        for authority in all {
            let own = identity::issue_server(&authority.pair(), now, OWN, self.random.as_ref())?;
            shown.push((authority.certificate.clone(), own));
        }
        Ok(tls::server(&shown)?)
    }
}
