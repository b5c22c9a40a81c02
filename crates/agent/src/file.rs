//! `agent.toml`: where the server is, and what may be read here.
//!
//! The file belongs to root and nobody else can write it or replace it; otherwise nothing starts.
//!
//! ```toml
//! server = "10.0.0.2:8445"
//!
//! [unit.ward]
//! kind = "files"
//! paths = ["/srv/ward"]
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kuramori_source::{Config, config::is_plain_name};
use serde::Deserialize;

use crate::{AgentError, Result};

/// Where the file lies unless somebody says otherwise.
pub const USUAL: &str = "/etc/kuramori/agent.toml";

/// The agent's own declarations.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Host and port of the site server's agents' door.
    pub server: String,
    /// Where the identity is kept.
    #[serde(default = "state")]
    pub state: PathBuf,
    /// Bytes of content that may wait in memory.
    #[serde(default = "memory")]
    pub memory: kuramori_model::units::Bytes,
    /// What may be read, by name.
    #[serde(default)]
    pub unit: BTreeMap<String, Config>,
}

fn state() -> PathBuf {
    PathBuf::from("/var/lib/kuramori-agent")
}

fn memory() -> kuramori_model::units::Bytes {
    kuramori_model::units::Bytes(48 << 20)
}

impl File {
    /// Reads the file, if it is what it has to be.
    ///
    /// # Errors
    /// [`AgentError::Source`] if others could change it, [`AgentError::File`] if it makes no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |why: String| AgentError::File { path: path.display().to_string(), why };
        let text = kuramori_source::command::trusted(path)?;
        let file: Self = toml::from_str(&text).map_err(|error| {
            let line =
                error.span().map_or(0, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            bad(format!("line {line}: {}", error.message().replace('\n', "; ")))
        })?;
        if !(24 << 20..=4 << 30).contains(&file.memory.0) {
            return Err(bad("`memory` has to lie between 24 MiB and 4 GiB".to_owned()));
        }
        for (name, unit) in &file.unit {
            if !is_plain_name(name) {
                return Err(bad(format!("`{name}` is not a name of letters a-z, digits and `-`")));
            }
            if matches!(unit.innermost(), Config::Agent(_)) {
                return Err(bad(format!("`unit.{name}`: an agent does not read another agent")));
            }
            // Its pictures are compared with those of the previous restore point, which only the server can open.
            if matches!(unit.innermost(), Config::Dicom(_)) {
                return Err(bad(format!(
                    "`unit.{name}`: an archive of pictures is read by the server itself"
                )));
            }
            unit.check().map_err(|error| bad(format!("`unit.{name}`: {error}")))?;
        }
        Ok(file)
    }

    /// What the server may know of a unit.
    pub fn kind(unit: &Config) -> &'static str {
        match unit.innermost() {
            Config::Smb(_) => "smb",
            Config::Postgres(_) => "postgres",
            Config::Foreign(_) => "foreign",
            Config::Sftp(_) => "sftp",
            Config::Mariadb(_) => "mariadb",
            Config::Dicom(_) => "dicom",
            Config::Command(_) => "command",
            Config::Files(_) => "files",
            _ => "other",
        }
    }
}
