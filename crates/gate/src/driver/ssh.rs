//! Layer C: a switch port, by the switch's own command line over SSH.
//!
//! SSH is spoken by OpenSSH's client in a process of its own: a protocol with key exchange and a dozen
//! ciphers would be many times larger than all that is trusted here, and a flaw in it would sit beside the
//! lease. Key and pinned host keys are read once and handed to it in memory, so closing later needs no file.
//!
//! One session is kept and used like a person would: a line, then wait for the prompt. The prompt must carry
//! the configured name of the device, the port's line its configured description. What the switch answers to
//! a command is no evidence: the layer is closed when the table `show interface … status` *and* the words of
//! `show interface …` both say so. The port has no dead-man by itself; see `docs/gate-kit.md` for the one
//! that the switch's ping-poll gives it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use kuramori_model::gate::{Layer, LayerState};
use serde::Deserialize;

use super::{
    client::{Login, Way, plain},
    dialogue::Dialogue,
};
use crate::{
    actuator::{Actuator, Lease, Reading},
    fault::ActuatorFault,
};

/// Whose command line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// Allied Telesis, `port1.0.5`.
    AlliedwarePlus,
    /// Cisco IOS and IOS XE, `Gi1/0/5`.
    Ios,
}

/// The port and the way to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshConfig {
    /// The switch's address on the management network; no name, so that closing needs no name service.
    pub address: SocketAddr,
    /// The account that may configure this port.
    pub user: String,
    /// A file with its private key.
    pub key_file: PathBuf,
    /// The switch's public keys, as `ssh-keyscan` shows them, without the address: `ssh-ed25519 AAAA…`.
    pub host_keys: Vec<String>,
    /// Its command line.
    pub dialect: Dialect,
    /// Its host name, as the prompt shows it.
    pub sys_name: String,
    /// The port as the status table names it.
    pub port: String,
    /// The port's description (`Name` in the table), if one is set.
    #[serde(default)]
    pub description: Option<String>,
    /// Algorithms that an old switch needs, for it alone: `KexAlgorithms=+diffie-hellman-group14-sha1`.
    #[serde(default)]
    pub legacy: Vec<String>,
    /// How long reading or setting may take as a whole, in milliseconds.
    #[serde(default = "eight_seconds")]
    pub timeout_ms: u64,
    /// The program.
    #[serde(default = "ssh_program")]
    pub program: String,
}

const fn eight_seconds() -> u64 {
    8000
}

fn ssh_program() -> String {
    "ssh".to_owned()
}

impl SshConfig {
    pub(super) fn way(&self) -> Way<'_> {
        Way {
            address: self.address,
            user: &self.user,
            key_file: &self.key_file,
            host_keys: &self.host_keys,
            legacy: &self.legacy,
            program: &self.program,
        }
    }

    /// The first value that cannot be meant, by its key.
    fn wrong(&self) -> Option<&'static str> {
        let own = [("sys_name", plain(&self.sys_name, "._-")), ("port", plain(&self.port, "./"))];
        self.way().wrong().or_else(|| own.into_iter().find_map(|(name, good)| (!good).then_some(name)))
    }
}

/// The layer.
#[derive(Debug)]
pub struct Ssh {
    config: SshConfig,
    login: Login,
    session: Option<Dialogue>,
    far_end_down: bool,
}

impl Ssh {
    /// Reads the key once: closing later needs no disk.
    pub fn new(config: SshConfig) -> Result<Self, ActuatorFault> {
        if let Some(key) = config.wrong() {
            return Err(ActuatorFault::Unusable(format!("`{key}` is not what it must be")));
        }
        let login = Login::new(&config.way())?;
        Ok(Self { config, login, session: None, far_end_down: false })
    }

    /// The interface at the port's other end is down until the port is open ([`super::link`]): the port counts as
    /// open without a link.
    #[must_use]
    pub const fn behind_a_link(mut self) -> Self {
        self.far_end_down = true;
        self
    }

    /// Does something in the kept session; in a new one if that has ended meanwhile.
    fn with<T>(
        &mut self,
        work: impl Fn(&SshConfig, &mut Dialogue) -> Result<T, ActuatorFault>,
    ) -> Result<T, ActuatorFault> {
        let limit = Duration::from_millis(self.config.timeout_ms);
        if let Some(mut session) = self.session.take() {
            session.until(limit);
            let done = work(&self.config, &mut session);
            if session.is_alive() {
                if done.is_ok() {
                    self.session = Some(session);
                }
                return done;
            }
        }
        let mut session = Dialogue::start(&self.config, &self.login, limit)?;
        let done = session.enter().and_then(|()| work(&self.config, &mut session))?;
        self.session = Some(session);
        Ok(done)
    }

    fn set(&mut self, command: &'static str) -> Result<(), ActuatorFault> {
        self.with(|config, session| {
            // Nothing is done to a port that is not ours.
            row(config, session)?;
            session.say("configure terminal", "config")?;
            session.say(&format!("interface {}", config.port), "config-if")?;
            session.say(command, "config-if")?;
            session.say("end", "").map(drop)
        })
    }

    fn read(&mut self) -> Result<Reading, ActuatorFault> {
        let far_end_down = self.far_end_down;
        self.with(|config, session| {
            let status = row(config, session)?;
            let words = session.say(&format!("show interface {}", config.port), "")?;
            let (named, shown) = judge(config, &words);
            let on = shown.is_some_and(|words| is_on(config.dialect, words));
            let detail = format!("{} {status}; {}", config.port, shown.unwrap_or("no word of its state"));
            let state = match (status.as_str(), named) {
                ("disabled", Some(LayerState::Closed)) => LayerState::Closed,
                ("connected" | "connect", Some(LayerState::Open)) => LayerState::Open,
                ("notconnect", None) if far_end_down && on => LayerState::Open,
                _ => LayerState::Unknown,
            };
            Ok(Reading { state, detail })
        })
    }
}

/// The word in the table's column `Status`, if the one line of our port has the configured description.
///
/// The columns are where the heading has them: a description may hold any word, `disabled` too.
fn row(config: &SshConfig, session: &mut Dialogue) -> Result<String, ActuatorFault> {
    let table = match config.dialect {
        Dialect::AlliedwarePlus => session.say(&format!("show interface {} status", config.port), "")?,
        Dialect::Ios => session.say(&format!("show interfaces {} status", config.port), "")?,
    };
    let unread = || ActuatorFault::Switch {
        address: config.address.to_string(),
        what: format!("its table of {} is not one that we can read", config.port),
    };
    let heading =
        table.lines().find(|line| line.starts_with("Port") && line.contains("Vlan")).ok_or_else(unread)?;
    let place = |name| heading.find(name).ok_or_else(unread);
    let (name, status, vlan) = (place("Name")?, place("Status")?, place("Vlan")?);
    let ours = |line: &&str| line.split_whitespace().next() == Some(&config.port);
    let lines: Vec<&str> = table.lines().filter(ours).collect();
    let [line] = lines.as_slice() else {
        let what = format!("{} ports are named `{}`", lines.len(), config.port);
        return Err(ActuatorFault::Identity(what));
    };
    let cell = |from, to| line.get(from..to).map(str::trim).ok_or_else(unread);
    let (found, word) = (cell(name, status)?, cell(status, vlan)?);
    match &config.description {
        // The table cuts long ones.
        Some(wanted) if found.is_empty() || !wanted.starts_with(found) => {
            Err(ActuatorFault::Identity(format!("the port's description is `{found}`, not `{wanted}`")))
        }
        _ => Ok(word.to_owned()),
    }
}

/// What the long form says of the port, and its words.
fn judge<'a>(config: &SshConfig, words: &'a str) -> (Option<LayerState>, Option<&'a str>) {
    let mut lines = words.lines().map(str::trim);
    let (line, closed, open) = match config.dialect {
        Dialect::AlliedwarePlus => {
            let named = lines.next().is_some_and(|line| line == format!("Interface {}", config.port));
            let line = lines.find(|line| line.starts_with("Link is ") && named);
            (line, "Link is DOWN, administrative state is DOWN", "Link is UP, administrative state is UP")
        }
        Dialect::Ios => {
            let number = config.port.trim_start_matches(|c: char| c.is_ascii_alphabetic());
            let line = lines.next().filter(|line| {
                let name = line.split_whitespace().next().unwrap_or_default();
                name.trim_start_matches(|c: char| c.is_ascii_alphabetic()) == number
            });
            (line, " is administratively down, line protocol is down", " is up, line protocol is up")
        }
    };
    let state = line.and_then(|line| match (line.contains(closed), line.contains(open)) {
        (true, false) => Some(LayerState::Closed),
        (false, true) => Some(LayerState::Open),
        _ => None,
    });
    (state, line)
}

/// Whether a port without a link is switched on, by the words of the long form.
fn is_on(dialect: Dialect, words: &str) -> bool {
    match dialect {
        Dialect::AlliedwarePlus => words.contains("Link is DOWN, administrative state is UP"),
        Dialect::Ios => words.contains(" is down, line protocol is down (notconnect)"),
    }
}

impl Actuator for Ssh {
    fn layer(&self) -> Layer {
        Layer::C
    }

    fn source(&self) -> String {
        format!("{} {}", self.config.sys_name, self.config.port)
    }

    fn close(&mut self) -> Result<(), ActuatorFault> {
        self.set("shutdown")
    }

    fn open(&mut self, _lease: &Lease) -> Result<(), ActuatorFault> {
        self.set("no shutdown")
    }

    fn renew(&mut self, _lease: &Lease) -> Result<(), ActuatorFault> {
        Ok(())
    }

    fn observe(&mut self) -> Reading {
        self.read().unwrap_or_else(|error| Reading::unknown(kuramori_model::fault::chain(&error)))
    }

    fn deadman(&self) -> Option<Duration> {
        None
    }
}
