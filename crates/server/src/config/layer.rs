//! One file, or the environment, or the flags: every key optional, every unknown key refused.
//!
//! Each layer is checked by itself, because only there the line is still known; then the layers are laid
//! over each other as plain tables and read once more.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, SocketAddrV4},
    path::PathBuf,
};

use serde::Deserialize;

use super::{
    error::{ConfigError, Place, nearest},
    span::Span,
};

/// The keys of `server.toml` as they may stand in one layer.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layer {
    pub(crate) hospital: Option<String>,
    pub(crate) language: Option<super::Language>,
    pub(crate) time_zone: Option<String>,
    #[serde(default)]
    pub(crate) store: Store,
    #[serde(default)]
    pub(crate) admin: Admin,
    #[serde(default)]
    pub(crate) console: Console,
    #[serde(default)]
    pub(crate) serve: Serve,
    #[serde(default)]
    pub(crate) schedule: Schedule,
    #[serde(default)]
    pub(crate) judge: Judge,
    #[serde(default)]
    pub(crate) retention: Retention,
    #[serde(default)]
    pub(crate) prune: Prune,
    #[serde(default)]
    pub(crate) results: Results,
    pub(crate) notify: Option<Notices>,
    pub(crate) gate: Option<Gate>,
    #[serde(default)]
    pub(crate) vault: Vault,
    #[serde(default)]
    pub(crate) agents: Agents,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Agents {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) certificate: Option<Span>,
    pub(crate) tolerance: Option<Span>,
    pub(crate) wait: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) data: Option<PathBuf>,
    pub(crate) repositories: Option<PathBuf>,
    pub(crate) catalog: Option<String>,
    pub(crate) catalog_password_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admin {
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Console {
    pub(crate) listen: Option<SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Serve {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) names: Option<Vec<String>>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Schedule {
    pub(crate) tick: Option<Span>,
    pub(crate) jobs: Option<u16>,
    pub(crate) lease: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prune {
    pub(crate) every: Option<Span>,
    pub(crate) hours: Option<String>,
    pub(crate) repack_share: Option<u8>,
    pub(crate) max_unused: Option<u8>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Results {
    pub(crate) mail: Option<SocketAddr>,
    pub(crate) mail_bytes: Option<kuramori_model::units::Bytes>,
    pub(crate) syslog_udp: Option<SocketAddr>,
    pub(crate) syslog_tcp: Option<SocketAddr>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Judge {
    pub(crate) every: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retention {
    pub(crate) every: Option<Span>,
    pub(crate) control_last: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Notices {
    pub(crate) heartbeat: Option<String>,
    pub(crate) console: Option<String>,
    pub(crate) digest_over: Option<usize>,
    #[serde(default)]
    pub(crate) target: Vec<kuramori_notify::Target>,
    #[serde(default)]
    pub(crate) matcher: Vec<kuramori_notify::Matcher>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gate {
    pub(crate) probe: Option<Vec<SocketAddrV4>>,
    pub(crate) every: Option<Span>,
    pub(crate) snmp: Option<Snmp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Snmp {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) user: Option<String>,
    pub(crate) auth_password_file: Option<PathBuf>,
    pub(crate) privacy_password_file: Option<PathBuf>,
    pub(crate) sys_name: Option<String>,
    pub(crate) interface: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vault {
    pub(crate) public_key: Option<String>,
    pub(crate) report_due: Option<Span>,
}

/// A layer as a plain table, with the place it came from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) origin: String,
    pub(crate) table: toml::Table,
}

/// Reads and checks one TOML text.
pub(crate) fn check(origin: &str, text: &str) -> Result<Source, ConfigError> {
    toml::from_str::<Layer>(text).map_err(|error| place(origin, text, &error))?;
    let table = toml::from_str(text).map_err(|error| place(origin, text, &error))?;
    Ok(Source { origin: origin.to_owned(), table })
}

/// A single `table.key = value` from the environment or a flag. The value is TOML where it parses as such,
/// else plain text, so that `console.listen=127.0.0.1:80` needs no quotes.
pub(crate) fn single(origin: &str, key: &str, value: &str) -> Result<Source, ConfigError> {
    let fits = |value: &str| {
        let text = format!("{key} = {value}");
        toml::from_str::<Layer>(&text).map(|_| text)
    };
    let quoted = toml::Value::String(value.to_owned()).to_string();
    let text = match fits(value) {
        Ok(text) => text,
        Err(_) => fits(&quoted).map_err(|error| {
            let mut error = place(origin, &format!("{key} = {quoted}"), &error);
            if let ConfigError::Value { place, key: named, .. } = &mut error {
                place.line = None;
                *named = Some(key.to_owned());
            } else if let ConfigError::UnknownKey { place, .. } = &mut error {
                place.line = None;
            }
            error
        })?,
    };
    let table = toml::from_str(&text).map_err(|error| place(origin, &text, &error))?;
    Ok(Source { origin: origin.to_owned(), table })
}

/// Lays the layers over each other, the last on top; says where each value came from.
pub(crate) fn merge(sources: Vec<Source>) -> (toml::Table, BTreeMap<String, String>) {
    let (mut merged, mut origins) = (toml::Table::new(), BTreeMap::new());
    for source in sources {
        lay(&mut merged, source.table, "", &source.origin, &mut origins);
    }
    (merged, origins)
}

/// Each value by its full key, as TOML.
pub(crate) fn flatten(table: &toml::Table, path: &str, into: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            toml::Value::Table(below) => flatten(below, &path, into),
            value => {
                into.insert(path, value.to_string());
            }
        }
    }
}

fn lay(
    onto: &mut toml::Table,
    from: toml::Table,
    path: &str,
    origin: &str,
    origins: &mut BTreeMap<String, String>,
) {
    for (key, value) in from {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (onto.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(table)) => {
                lay(below, table, &path, origin, origins);
            }
            (None, toml::Value::Table(table)) => {
                let mut below = toml::Table::new();
                lay(&mut below, table, &path, origin, origins);
                onto.insert(key, toml::Value::Table(below));
            }
            (_, value) => {
                origins.insert(path, origin.to_owned());
                onto.insert(key, value);
            }
        }
    }
}

/// Turns the parser's error into ours: file, line, key, suggestion.
fn place(origin: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map(|span| span.start.min(text.len()));
    let line = at.map(|at| 1 + text[..at].matches('\n').count());
    let place = Place { origin: origin.to_owned(), line };
    let message = error.message();
    if let Some(rest) = message.strip_prefix("unknown field ") {
        // serde's words: unknown field `a`, expected one of `b`, `c` (or: expected `b`, expected `b` or `c`)
        let words: Vec<String> = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        if let Some((key, known)) = words.split_first() {
            let suggestion = nearest(key, known);
            return ConfigError::UnknownKey { place, key: key.clone(), suggestion, known: known.to_vec() };
        }
    }
    let key = at.and_then(|at| {
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let (key, _) = text[start..].split_once('=')?;
        let key = key.trim();
        (!key.is_empty() && !key.contains('\n')).then(|| key.to_owned())
    });
    ConfigError::Value { place, key, message: message.trim_end().replace('\n', "; ") }
}
