//! `server.toml`: what it may say, where it comes from, and what it means.
//!
//! Later layers win: defaults, `server.toml`, `conf.d/*.toml` beside it in the order of their names, the
//! environment ([`ENVIRONMENT`]), then `--set table.key=value`. An unknown key stops the start, because a
//! mistyped key that is ignored is a backup that silently never ran. Secrets are never values, only files.

mod error;
mod layer;
mod span;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{civil::Time, tz::TimeZone};
use serde::{Deserialize, Serialize};

pub use self::{
    error::{ConfigError, Place},
    span::{BadSpan, Span},
};

/// Environment variables and the keys that they set.
pub const ENVIRONMENT: [(&str, &str); 8] = [
    ("KURAMORI_SERVER_DATA", "store.data"),
    ("KURAMORI_SERVER_REPOSITORIES", "store.repositories"),
    ("KURAMORI_SERVER_CATALOG", "store.catalog"),
    ("KURAMORI_SERVER_SOCKET", "admin.socket"),
    ("KURAMORI_SERVER_CONSOLE", "console.listen"),
    ("KURAMORI_SERVER_LISTEN", "serve.listen"),
    ("KURAMORI_SERVER_LANGUAGE", "language"),
    ("KURAMORI_SERVER_TIME_ZONE", "time_zone"),
];

/// A language of the console, the mails and the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Japanese
    Ja,
    /// English
    En,
}

/// Everything that the server needs to know to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// The hospital's name, as the console shows it.
    pub hospital: String,
    /// Language where the reader has not chosen.
    pub language: Language,
    /// The hospital's time zone: schedules, days of generations, times on the screen.
    pub zone: TimeZone,
    /// Catalog, keys, certificates, spool.
    pub data: PathBuf,
    /// One folder per repository.
    pub repositories: PathBuf,
    /// The catalog's URL.
    pub catalog: String,
    /// The admin API's unix socket (mode 0600).
    pub socket: PathBuf,
    /// The console's address; read-only HTTP.
    pub console: SocketAddr,
    /// The repository server.
    pub serve: Serve,
    /// How often the scheduler looks for due work.
    pub tick: Duration,
    /// Backup jobs that may run at the same time on different departmental servers.
    pub jobs: usize,
    /// How often the judge looks for absence and nonsense.
    pub judge_every: Duration,
    /// How often each system's retention is looked at.
    pub retention_every: Duration,
    /// Where notices go; `None` shows them on the screen only, and the screen says so.
    pub notices: Option<Notices>,
    /// What the site watches of the gate.
    pub gate: Option<Gate>,
    /// The vault's key for its signed reports, as enrolment printed it.
    pub vault_key: Option<String>,
    /// Age from which the vault's last report counts as missing.
    pub report_due: Duration,
    /// Where each value came from, for `config show --origin`.
    pub origins: BTreeMap<String, String>,
}

/// The repository server's address and identity.
#[derive(Debug, Clone)]
pub struct Serve {
    /// Where stock restic clients and the vault connect (TLS).
    pub listen: SocketAddr,
    /// DNS names and addresses in the certificate that `server init` makes.
    pub names: Vec<String>,
    /// PEM file with the certificate chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// Ways to people, and when the daily sign of life goes out.
#[derive(Debug, Clone)]
pub struct Notices {
    /// Local time of the daily notice that everything still runs.
    pub heartbeat: Time,
    /// Targets and rules.
    pub notify: kuramori_notify::Notify,
}

/// What the site itself can see of the gate.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Addresses and ports behind the gate that must never answer to the production side.
    pub probe: Vec<SocketAddrV4>,
    /// How often to look.
    pub every: Duration,
    /// Read-only SNMP to the guarded switch.
    pub snmp: Option<Snmp>,
}

/// Read-only SNMPv3 login at the guarded switch.
#[derive(Debug, Clone)]
pub struct Snmp {
    /// The switch's management address.
    pub address: SocketAddr,
    /// SNMPv3 user that may only read.
    pub user: String,
    /// File with its authentication password.
    pub auth_password_file: PathBuf,
    /// File with its privacy password.
    pub privacy_password_file: PathBuf,
    /// The switch's `sysName`: the figures of another device are not believed.
    pub sys_name: String,
    /// The guarded port's `ifName`.
    pub interface: String,
}

impl Config {
    /// Reads `file`, the `conf.d` folder beside it, the environment given as pairs, and `--set` pairs.
    pub fn load(
        file: Option<&Path>,
        environment: &[(String, String)],
        set: &[String],
    ) -> Result<Self, ConfigError> {
        let mut sources = Vec::new();
        if let Some(file) = file {
            sources.push(layer::check(
                &file.display().to_string(),
                &fs_err::read_to_string(file).map_err(ConfigError::Read)?,
            )?);
            for path in fragments(&file.with_file_name("conf.d"))? {
                let text = fs_err::read_to_string(&path).map_err(ConfigError::Read)?;
                sources.push(layer::check(&path.display().to_string(), &text)?);
            }
        }
        for (name, key) in ENVIRONMENT {
            if let Some((_, value)) = environment.iter().find(|(given, _)| given == name) {
                sources.push(layer::single(&format!("environment {name}"), key, value)?);
            }
        }
        for pair in set {
            let (key, value) = pair.split_once('=').ok_or_else(|| ConfigError::Value {
                place: Place { origin: "--set".to_owned(), line: None },
                key: None,
                message: format!("`{pair}` is not of the form `table.key=value`"),
            })?;
            sources.push(layer::single("--set", key.trim(), value.trim())?);
        }
        Self::resolve(sources)
    }

    /// Reads one TOML text alone; for tests and tools.
    pub fn from_text(origin: &str, text: &str) -> Result<Self, ConfigError> {
        Self::resolve(vec![layer::check(origin, text)?])
    }

    fn resolve(sources: Vec<layer::Source>) -> Result<Self, ConfigError> {
        let (table, origins) = layer::merge(sources);
        let bad = |key: &str, message: String| ConfigError::Value {
            place: Place {
                origin: origins.get(key).cloned().unwrap_or_else(|| "default".to_owned()),
                line: None,
            },
            key: Some(key.to_owned()),
            message,
        };
        let layer: layer::Layer = toml::Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| bad("server.toml", error.message().to_owned()))?;

        let data = layer.store.data.ok_or(ConfigError::Missing { key: "store.data" })?;
        if !data.is_absolute() {
            return Err(bad("store.data", "must be an absolute path".to_owned()));
        }
        let zone = match layer.time_zone {
            Some(name) => TimeZone::get(&name).map_err(|_| {
                bad("time_zone", format!("`{name}` is not a time zone; write for example `Asia/Tokyo`"))
            })?,
            None => TimeZone::system(),
        };
        let any = |port| SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        let tick = layer.schedule.tick.map_or(Duration::from_secs(5), |span| span.0);
        let judge_every = layer.judge.every.map_or(Duration::from_mins(1), |span| span.0);
        for (key, time) in [("schedule.tick", tick), ("judge.every", judge_every)] {
            if !(Duration::from_millis(100)..=Duration::from_hours(1)).contains(&time) {
                return Err(bad(key, "must lie between 100ms and 1h".to_owned()));
            }
        }
        let hospital = layer.hospital.unwrap_or_default();
        let notices = layer.notify.map(|notices| notices_of(notices, &hospital, &zone, &bad)).transpose()?;
        Ok(Self {
            hospital,
            language: layer.language.unwrap_or(Language::Ja),
            zone,
            repositories: layer.store.repositories.unwrap_or_else(|| data.join("repositories")),
            catalog: layer
                .store
                .catalog
                .unwrap_or_else(|| format!("sqlite:{}", data.join("catalog.db").display())),
            socket: layer.admin.socket.unwrap_or_else(|| data.join("admin.sock")),
            console: layer.console.listen.unwrap_or_else(|| any(8080)),
            serve: Serve {
                listen: layer.serve.listen.unwrap_or_else(|| any(8443)),
                names: layer
                    .serve
                    .names
                    .unwrap_or_else(|| vec!["localhost".to_owned(), "127.0.0.1".to_owned()]),
                certificate: layer.serve.certificate.unwrap_or_else(|| data.join("tls/server.pem")),
                key: layer.serve.key.unwrap_or_else(|| data.join("tls/server.key")),
            },
            tick,
            jobs: usize::from(layer.schedule.jobs.unwrap_or(2).max(1)),
            judge_every,
            retention_every: layer.retention.every.map_or(Duration::from_hours(24), |span| span.0),
            notices,
            gate: layer.gate.map(gate_of).transpose()?,
            vault_key: layer.vault.public_key,
            report_due: layer.vault.report_due.map_or(Duration::from_hours(26), |span| span.0),
            data,
            origins,
        })
    }
}

/// The `*.toml` files of a folder in the order of their names; none where there is no folder.
fn fragments(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut found = Vec::new();
    if folder.is_dir() {
        for entry in fs_err::read_dir(folder).map_err(ConfigError::Read)? {
            let path = entry.map_err(ConfigError::Read)?.path();
            if path.extension().is_some_and(|ext| ext == "toml") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn notices_of(
    notices: layer::Notices,
    hospital: &str,
    zone: &TimeZone,
    bad: &dyn Fn(&str, String) -> ConfigError,
) -> Result<Notices, ConfigError> {
    if notices.target.is_empty() {
        return Err(ConfigError::Missing { key: "notify.target" });
    }
    if let Some(rule) =
        notices.matcher.iter().find(|rule| !notices.target.iter().any(|t| t.name == rule.target))
    {
        return Err(bad("notify.matcher", format!("there is no target `{}`", rule.target)));
    }
    let heartbeat = notices.heartbeat.as_deref().unwrap_or("07:30");
    let heartbeat = Time::strptime("%H:%M", heartbeat).map_err(|_| {
        bad("notify.heartbeat", format!("`{heartbeat}` is not a time of day; write for example `07:30`"))
    })?;
    let notify = kuramori_notify::Notify {
        hospital: hospital.to_owned(),
        zone: zone.iana_name().unwrap_or("Etc/UTC").to_owned(),
        console: notices.console,
        digest_over: notices.digest_over.unwrap_or(5),
        targets: notices.target,
        matchers: notices.matcher,
    };
    Ok(Notices { heartbeat, notify })
}

fn gate_of(gate: layer::Gate) -> Result<Gate, ConfigError> {
    let snmp = gate
        .snmp
        .map(|snmp| {
            Ok(Snmp {
                address: snmp.address.ok_or(ConfigError::Missing { key: "gate.snmp.address" })?,
                user: snmp.user.ok_or(ConfigError::Missing { key: "gate.snmp.user" })?,
                auth_password_file: snmp
                    .auth_password_file
                    .ok_or(ConfigError::Missing { key: "gate.snmp.auth_password_file" })?,
                privacy_password_file: snmp
                    .privacy_password_file
                    .ok_or(ConfigError::Missing { key: "gate.snmp.privacy_password_file" })?,
                sys_name: snmp.sys_name.ok_or(ConfigError::Missing { key: "gate.snmp.sys_name" })?,
                interface: snmp.interface.ok_or(ConfigError::Missing { key: "gate.snmp.interface" })?,
            })
        })
        .transpose()?;
    Ok(Gate {
        probe: gate.probe.unwrap_or_default(),
        every: gate.every.map_or(Duration::from_secs(5), |span| span.0),
        snmp,
    })
}
