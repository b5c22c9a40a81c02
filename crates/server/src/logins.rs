//! The repository server's logins: kept in the catalog, answered from memory.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use kuramori_catalog::Catalog;
use kuramori_model::{clock::Random, units::Bytes};
use kuramori_serve::{Login, Logins, Repositories, RepositoryName, Role, password::PasswordHash};
use serde::{Deserialize, Serialize};

use crate::{ServerError, error::Result, seal};

/// The catalog's setting that holds them.
const SETTING: &str = "logins";
/// The repository into which the vault puts its reports.
pub const REPORTS: &str = "vault-report";

/// What a system's shelf for results of other products begins with; no system may be called so.
pub const SHELF: &str = "job-";

/// What a stored login may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case", deny_unknown_fields)]
pub enum Grant {
    /// Fill one repository.
    Append {
        /// Which.
        repository: String,
        /// Most that it may hold.
        #[serde(default)]
        quota: Option<Bytes>,
    },
    /// Read every repository.
    Read {},
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    name: String,
    hash: String,
    #[serde(flatten)]
    grant: Grant,
}

/// The logins in force.
#[derive(Debug, Default)]
pub struct CatalogLogins(RwLock<HashMap<String, Arc<Login>>>);

impl CatalogLogins {
    /// Takes over what the catalog holds.
    pub async fn load(&self, catalog: &Catalog) -> Result<()> {
        let stored: Vec<Stored> = catalog.setting(SETTING).await?.unwrap_or_default();
        let mut logins = HashMap::new();
        for stored in stored {
            logins.insert(stored.name.clone(), Arc::new(login(stored)?));
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = logins;
        Ok(())
    }

    /// Makes or replaces a login; gives its new password, which is kept only as a hash.
    pub async fn grant(
        &self,
        catalog: &Catalog,
        name: &str,
        grant: Grant,
        random: &dyn Random,
    ) -> Result<String> {
        let password = seal::password(random);
        let hash = PasswordHash::new(&password, random).to_string();
        let mut stored: Vec<Stored> = catalog.setting(SETTING).await?.unwrap_or_default();
        stored.retain(|other| other.name != name);
        stored.push(Stored { name: name.to_owned(), hash, grant });
        catalog.set_setting(SETTING, &stored).await?;
        self.load(catalog).await?;
        Ok(password)
    }

    /// Takes a login away.
    pub async fn revoke(&self, catalog: &Catalog, name: &str) -> Result<()> {
        let mut stored: Vec<Stored> = catalog.setting(SETTING).await?.unwrap_or_default();
        stored.retain(|other| other.name != name);
        catalog.set_setting(SETTING, &stored).await?;
        self.load(catalog).await
    }
}

fn login(stored: Stored) -> Result<Login> {
    let role = match stored.grant {
        Grant::Append { repository, quota } => Role::Append {
            repository: RepositoryName::new(&repository)
                .map_err(|error| ServerError::Bug(error.to_string()))?,
            quota,
        },
        Grant::Read {} => Role::Read { repositories: Repositories::All },
    };
    Ok(Login { name: stored.name, password: stored.hash.parse()?, role })
}

impl Logins for CatalogLogins {
    fn find(&self, name: &str) -> Option<Arc<Login>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}
