//! `lockd.toml`. Unknown keys are errors.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use kuramori_lock::Rules;
use kuramori_model::gate::VerifyingKey;
use serde::Deserialize;

/// All of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The folder of repositories.
    pub(crate) root: PathBuf,
    /// Where the ledger lies; readable and writable for this process alone.
    pub(crate) state: PathBuf,
    /// The socket with the verbs; mode 0600, owned by the first allowed user.
    pub(crate) socket: PathBuf,
    /// Users that may connect.
    pub(crate) allowed_uids: Vec<u32>,
    /// Group of the folders that the first allowed user fills.
    #[serde(default)]
    pub(crate) group: u32,
    /// The officers' public keys.
    #[serde(default)]
    pub(crate) officer_keys: Vec<VerifyingKey>,
    /// How many of them a shortening needs.
    #[serde(default = "two")]
    pub(crate) quorum: usize,
    /// Least days for packs, snapshots and keys.
    #[serde(default = "days")]
    days: u32,
    /// Least days for index files, which can be made anew.
    #[serde(default = "one")]
    index_days: u32,
    /// Removals in a day.
    #[serde(default = "removals")]
    removals_per_day: u32,
    /// Clean restore points that stay in each repository.
    #[serde(default = "five")]
    keep_clean: usize,
    /// Hours until a signed shortening counts.
    #[serde(default = "day")]
    delay_hours: u32,
}

const fn two() -> usize {
    2
}

const fn days() -> u32 {
    90
}

const fn one() -> u32 {
    1
}

const fn removals() -> u32 {
    2000
}

const fn five() -> usize {
    5
}

const fn day() -> u32 {
    24
}

impl Config {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs_err::read_to_string(path)?;
        let config: Self = toml::from_str(&text).with_context(|| format!("`{}`", path.display()))?;
        ensure!(!config.allowed_uids.is_empty(), "`allowed_uids` names nobody");
        ensure!(config.quorum >= 2 || config.officer_keys.is_empty(), "`quorum` must be at least 2");
        ensure!(
            config.officer_keys.is_empty() || config.officer_keys.len() >= config.quorum,
            "`quorum` is more than there are `officer_keys`"
        );
        ensure!(!config.state.starts_with(&config.root), "`state` must not lie in the locked `root`");
        Ok(config)
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules {
            days: self.days,
            index_days: self.index_days,
            removals_per_day: self.removals_per_day,
            keep_clean: self.keep_clean,
            delay_s: u64::from(self.delay_hours) * 3600,
            ..Rules::default()
        }
    }

    pub(crate) fn owner(&self) -> Option<(u32, u32)> {
        let user = self.allowed_uids.first().copied()?;
        rustix::process::geteuid().is_root().then_some((user, self.group))
    }
}
