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
    /// The catalog's URL: `sqlite:/path/catalog.db`, or `postgres://user@host/database` that several servers
    /// may share.
    pub catalog: String,
    /// File with the password for PostgreSQL.
    pub catalog_password_file: Option<PathBuf>,
    /// The admin API's unix socket (mode 0600).
    pub socket: PathBuf,
    /// The console's address; read-only HTTP.
    pub console: SocketAddr,
    /// The repository server.
    pub serve: Serve,
    /// The door for agents.
    pub agents: Agents,
    /// How often the scheduler looks for due work.
    pub tick: Duration,
    /// Backup jobs that may run at the same time on different departmental servers.
    pub jobs: usize,
    /// How long a job may be silent before another server that shares the catalog takes it over.
    pub lease: Duration,
    /// How the space of forgotten restore points becomes free.
    pub prune: Prune,
    /// Where other backup products may tell in words how their jobs ended.
    pub results: Results,
    /// How often the judge looks for absence and nonsense.
    pub judge_every: Duration,
    /// How often each system's retention is looked at.
    pub retention_every: Duration,
    /// Newest points of `_control` that are kept whatever their age.
    pub control_last: u32,
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
    /// Each value that was given, as it stands in its layer.
    pub given: BTreeMap<String, String>,
}

/// One key as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// `table.key`.
    pub key: String,
    /// Its value as TOML. Secrets are never values, only the names of their files.
    pub value: String,
    /// File, environment variable or flag; `default` where nobody gave it.
    pub origin: String,
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

/// The door for agents on departmental servers.
#[derive(Debug, Clone)]
pub struct Agents {
    /// Where they connect (TLS 1.3); none: there is no door.
    pub listen: Option<SocketAddr>,
    /// How long an agent's certificate is valid; it is renewed when a third is left.
    pub certificate: Duration,
    /// How far an agent's certificate may be over, by this server's clock.
    pub tolerance: Duration,
    /// How long a job waits for its agent to connect.
    pub wait: Duration,
}

/// Ports for the words of other backup products; none is open by default.
#[derive(Debug, Clone, Default)]
pub struct Results {
    /// Mail.
    pub mail: Option<SocketAddr>,
    /// Bytes that a mail may have.
    pub mail_bytes: u64,
    /// Syslog over UDP.
    pub syslog_udp: Option<SocketAddr>,
    /// Syslog over TCP.
    pub syslog_tcp: Option<SocketAddr>,
}

/// When and how much is freed.
#[derive(Debug, Clone)]
pub struct Prune {
    /// Time from one prune of a repository to the next.
    pub every: Duration,
    /// Local hours in which a prune may run; none for any time.
    pub hours: Option<(Time, Time)>,
    /// Percent of a repository's bytes that may be packed anew within a day.
    pub repack_share: u8,
    /// Percent of unneeded bytes that may stay in packs that are kept.
    pub max_unused: u8,
}

impl Prune {
    /// Whether a prune may run at this moment.
    pub fn allowed(&self, now: jiff::Timestamp, zone: &TimeZone) -> bool {
        let Some((from, until)) = self.hours else { return true };
        let time = now.to_zoned(zone.clone()).time();
        if from <= until { (from..until).contains(&time) } else { time >= from || time < until }
    }
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

    /// Every key with its value and origin, those too that nobody gave, by name.
    pub fn in_force(&self) -> Vec<InForce> {
        let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let path = |path: &Path| text(&path.display().to_string());
        let span = |time: Duration| text(&Span(time).to_string());
        let hours = self.prune.hours.map_or_else(String::new, |(from, until)| {
            format!("{}-{}", from.strftime("%H:%M"), until.strftime("%H:%M"))
        });
        let language = if self.language == Language::Ja { "ja" } else { "en" };
        let mut all = BTreeMap::from([
            ("admin.socket", path(&self.socket)),
            ("agents.certificate", span(self.agents.certificate)),
            ("agents.listen", text(&self.agents.listen.map(|at| at.to_string()).unwrap_or_default())),
            ("agents.tolerance", span(self.agents.tolerance)),
            ("agents.wait", span(self.agents.wait)),
            ("console.listen", text(&self.console.to_string())),
            ("hospital", text(&self.hospital)),
            ("judge.every", span(self.judge_every)),
            ("language", text(language)),
            ("prune.every", span(self.prune.every)),
            ("prune.hours", text(&hours)),
            ("prune.max_unused", self.prune.max_unused.to_string()),
            ("prune.repack_share", self.prune.repack_share.to_string()),
            ("results.mail_bytes", self.results.mail_bytes.to_string()),
            ("retention.control_last", self.control_last.to_string()),
            ("retention.every", span(self.retention_every)),
            ("schedule.jobs", self.jobs.to_string()),
            ("schedule.lease", span(self.lease)),
            ("schedule.tick", span(self.tick)),
            ("serve.certificate", path(&self.serve.certificate)),
            ("serve.key", path(&self.serve.key)),
            ("serve.listen", text(&self.serve.listen.to_string())),
            ("store.catalog", text(&self.catalog)),
            ("store.data", path(&self.data)),
            ("store.repositories", path(&self.repositories)),
            ("time_zone", text(self.zone.iana_name().unwrap_or("Etc/UTC"))),
            ("vault.report_due", span(self.report_due)),
        ]);
        for (key, value) in &self.given {
            all.insert(key, value.clone());
        }
        let origin = |key: &str| self.origins.get(key).cloned().unwrap_or_else(|| "default".to_owned());
        all.into_iter()
            .map(|(key, value)| InForce { key: key.to_owned(), value, origin: origin(key) })
            .collect()
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
        let mut given = BTreeMap::new();
        layer::flatten(&table, "", &mut given);
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
        let lease = layer.schedule.lease.map_or(Duration::from_mins(1), |span| span.0);
        if !(Duration::from_secs(2)..=Duration::from_hours(1)).contains(&lease) {
            return Err(bad("schedule.lease", "must lie between 2s and 1h".to_owned()));
        }
        let agents = agents_of(&layer.agents, &bad)?;
        let prune = prune_of(layer.prune, &bad)?;
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
            catalog_password_file: layer.store.catalog_password_file,
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
            agents,
            tick,
            lease,
            prune,
            jobs: usize::from(layer.schedule.jobs.unwrap_or(2).max(1)),
            results: Results {
                mail: layer.results.mail,
                mail_bytes: layer.results.mail_bytes.map_or(1 << 20, |most| most.0.clamp(4 << 10, 64 << 20)),
                syslog_udp: layer.results.syslog_udp,
                syslog_tcp: layer.results.syslog_tcp,
            },
            judge_every,
            retention_every: layer.retention.every.map_or(Duration::from_hours(24), |span| span.0),
            control_last: layer.retention.control_last.unwrap_or(48).max(3),
            notices,
            gate: layer.gate.map(gate_of).transpose()?,
            vault_key: layer.vault.public_key,
            report_due: layer.vault.report_due.map_or(Duration::from_hours(26), |span| span.0),
            data,
            origins,
            given,
        })
    }
}

/// The database that the catalog's URL names, with the password from its file.
///
/// # Errors
/// The URL is not one, or the password's file cannot be read.
pub fn catalog(config: &Config) -> crate::error::Result<kuramori_catalog::Database> {
    crate::app::database(config)
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

fn agents_of(
    agents: &layer::Agents,
    bad: &dyn Fn(&str, String) -> ConfigError,
) -> Result<Agents, ConfigError> {
    let hour = Duration::from_hours(1);
    let certificate = agents.certificate.map_or(hour * 24 * 90, |span| span.0);
    let tolerance = agents.tolerance.map_or(kuramori_wire::identity::TOLERANCE, |span| span.0);
    let wait = agents.wait.map_or(Duration::from_mins(2), |span| span.0);
    if !(Duration::from_secs(1)..=hour * 24 * 825).contains(&certificate) {
        return Err(bad("agents.certificate", "must lie between 1s and 825d".to_owned()));
    }
    if tolerance > hour * 24 * 7 {
        return Err(bad("agents.tolerance", "must not be more than 7d".to_owned()));
    }
    if wait > hour * 4 {
        return Err(bad("agents.wait", "must not be more than 4h".to_owned()));
    }
    Ok(Agents { listen: agents.listen, certificate, tolerance, wait })
}

fn prune_of(prune: layer::Prune, bad: &dyn Fn(&str, String) -> ConfigError) -> Result<Prune, ConfigError> {
    let hours = prune.hours.map(|text| {
        let ends = text.split_once('-').and_then(|(from, until)| {
            let time = |text: &str| Time::strptime("%H:%M", text.trim()).ok();
            Some((time(from)?, time(until)?))
        });
        ends.ok_or_else(|| bad("prune.hours", format!("`{text}` is not of the form `09:00-17:00`")))
    });
    let percent = |key, value: Option<u8>, default| match value.unwrap_or(default) {
        percent @ 0..=100 => Ok(percent),
        more => Err(bad(key, format!("{more} is more than 100 percent"))),
    };
    Ok(Prune {
        every: prune.every.map_or(Duration::from_hours(24), |span| span.0),
        hours: hours.transpose()?,
        repack_share: percent("prune.repack_share", prune.repack_share, 5)?,
        max_unused: percent("prune.max_unused", prune.max_unused, 10)?,
    })
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
