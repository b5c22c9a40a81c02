//! Layer C: a switch port by NETCONF (RFC 6241), whose every opening is a *confirmed commit that is never
//! confirmed*: the device itself goes back to the closed configuration when the time runs out, and when the
//! session ends.
//!
//! What is committed for good is always `enabled = false`. Opening is `<commit><confirmed/><confirm-timeout>`, each
//! renewal another one; no `<persist>`, so that the end of the session ends it too. Before a commit of either kind
//! the candidate is locked, taken anew from what runs, changed in the one leaf, and *read back*: a commit
//! without `<confirmed/>` makes everything permanent that lies there.
//!
//! SSH is spoken by OpenSSH's client, as for the command line ([`super::ssh`]). The port is an interface of
//! `ietf-interfaces` (RFC 8343, or RFC 7223 with its `interfaces-state`). `<ok/>` is no evidence: the layer is closed
//! when the running configuration says `enabled = false` *and* `oper-status` is down.
//!
//! **What can go wrong**, seen on a real server: its timer is only looked at while nobody asks anything, so a
//! client that polls quickly keeps the port open for ever. Whether a device's timer holds under load is shown by
//! its acceptance test or it is not relied on.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use kuramori_model::{
    clock::{Clock, SystemClock},
    gate::{Layer, LayerState},
};
use serde::Deserialize;

use super::{
    client::{Login, Way, plain},
    rpc::Session,
    xml::{self, Element},
};
use crate::{
    actuator::{Actuator, Lease, Reading},
    fault::ActuatorFault,
};

/// The port and the way to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetconfConfig {
    /// The switch's address on the management network; no name, so that closing needs no name service.
    pub address: SocketAddr,
    /// The account that may configure this port.
    pub user: String,
    /// A file with its private key.
    pub key_file: PathBuf,
    /// The switch's public keys, as `ssh-keyscan` shows them, without the address: `ssh-ed25519 AAAA…`.
    pub host_keys: Vec<String>,
    /// The interface's `name`.
    pub interface: String,
    /// Its `description`, if one is set.
    #[serde(default)]
    pub description: Option<String>,
    /// `confirm-timeout`: seconds after which the switch closes unless renewed.
    #[serde(default = "five")]
    pub lease_seconds: u32,
    /// Algorithms that an old switch needs, for it alone.
    #[serde(default)]
    pub legacy: Vec<String>,
    /// How long reading or setting may take as a whole, in milliseconds.
    #[serde(default = "eight_seconds")]
    pub timeout_ms: u64,
    /// The program.
    #[serde(default = "ssh_program")]
    pub program: String,
}

const fn five() -> u32 {
    5
}

const fn eight_seconds() -> u64 {
    8000
}

fn ssh_program() -> String {
    "ssh".to_owned()
}

impl NetconfConfig {
    fn way(&self) -> Way<'_> {
        Way {
            address: self.address,
            user: &self.user,
            key_file: &self.key_file,
            host_keys: &self.host_keys,
            legacy: &self.legacy,
            program: &self.program,
        }
    }

    fn wrong(&self) -> Option<&'static str> {
        let own = [
            ("interface", plain(&self.interface, "._-/:")),
            ("lease_seconds", (2..=60).contains(&self.lease_seconds)),
        ];
        self.way().wrong().or_else(|| own.into_iter().find_map(|(name, good)| (!good).then_some(name)))
    }
}

/// The layer.
#[derive(Debug)]
pub struct Netconf {
    config: NetconfConfig,
    login: Login,
    session: Option<Session>,
    /// Until when a confirmed commit may be renewed, boot time; none while closed.
    until: Option<Duration>,
    /// The NIC at the port's other end is down until the port is open, so the port has no link then.
    far_end_down: bool,
}

impl Netconf {
    /// Reads the key once: closing later needs no disk.
    pub fn new(config: NetconfConfig) -> Result<Self, ActuatorFault> {
        if let Some(key) = config.wrong() {
            return Err(ActuatorFault::Unusable(format!("`{key}` is not what it must be")));
        }
        let login = Login::new(&config.way())?;
        Ok(Self { config, login, session: None, until: None, far_end_down: false })
    }

    /// The interface at the port's other end is down until the port is open ([`super::link`]): the port counts as
    /// open without a link.
    #[must_use]
    pub const fn behind_a_link(mut self) -> Self {
        self.far_end_down = true;
        self
    }

    fn limit(&self) -> Duration {
        Duration::from_millis(self.config.timeout_ms)
    }

    /// Does something in the kept session; in a new one if that has ended meanwhile. A session in which
    /// anything failed is ended: the device takes back what was not confirmed.
    fn with<T>(
        &mut self,
        work: impl Fn(&NetconfConfig, &mut Session) -> Result<T, ActuatorFault>,
    ) -> Result<T, ActuatorFault> {
        if let Some(mut session) = self.session.take() {
            session.client.until(self.limit());
            let done = work(&self.config, &mut session);
            if session.client.is_alive() {
                if done.is_ok() {
                    self.session = Some(session);
                }
                return done;
            }
        }
        let mut session = Session::start(&self.config.way(), &self.login, self.limit())?;
        let done = work(&self.config, &mut session)?;
        self.session = Some(session);
        Ok(done)
    }

    /// The confirmed commit, never longer than what is left of the window.
    fn hold(&self, session: &mut Session) -> Result<(), ActuatorFault> {
        let left = self.until.unwrap_or_default().saturating_sub(SystemClock.boot()).as_secs();
        let seconds = u64::from(self.config.lease_seconds).min(left);
        if seconds == 0 {
            return Err(session.client.fault("nothing is left of the window"));
        }
        session
            .ask(&format!("<commit><confirmed/><confirm-timeout>{seconds}</confirm-timeout></commit>"))
            .map(drop)
    }

    fn read(&mut self) -> Result<Reading, ActuatorFault> {
        let far_end_down = self.far_end_down;
        self.with(|config, session| {
            let filter = format!(
                "<get><filter type=\"subtree\">{}<interfaces-state xmlns=\"urn:ietf:params:xml:ns:yang:ietf-interfaces\">\
                 <interface><name>{}</name><oper-status/></interface></interfaces-state></filter></get>",
                interface(config, "<description/><enabled/><oper-status/>"),
                xml::escaped(&config.interface),
            );
            let data = session.ask(&filter)?;
            let enabled = port(config, &data)?;
            let states: Vec<&str> = data
                .all("interface")
                .into_iter()
                .filter(|one| one.leaf("name") == Some(&config.interface))
                .filter_map(|one| one.leaf("oper-status"))
                .collect();
            let status = states.first().copied().unwrap_or("not shown");
            let down = ["down", "lower-layer-down", "not-present"].contains(&status);
            let state = match (enabled, status) {
                _ if states.windows(2).any(|pair| pair[0] != pair[1]) => LayerState::Unknown,
                (false, _) if down => LayerState::Closed,
                (true, "up") => LayerState::Open,
                // Open as far as this port goes.
                (true, _) if down && far_end_down => LayerState::Open,
                _ => LayerState::Unknown,
            };
            let detail = format!("{} enabled {enabled}, oper-status {status}", config.interface);
            Ok(Reading { state, detail })
        })
    }
}

/// The one interface's element, with `more` in it.
fn interface(config: &NetconfConfig, more: &str) -> String {
    format!(
        "<interfaces xmlns=\"urn:ietf:params:xml:ns:yang:ietf-interfaces\"><interface><name>{}</name>{more}</interface></interfaces>",
        xml::escaped(&config.interface)
    )
}

/// Whether the configuration in `data` has the port on; an error if it is not the port that we were told to
/// control. A leaf that is not shown has its default, which is *on* (RFC 8343).
fn port(config: &NetconfConfig, data: &Element) -> Result<bool, ActuatorFault> {
    let found: Vec<&Element> = data
        .all("interfaces")
        .into_iter()
        .flat_map(|list| &list.children)
        .filter(|one| one.name == "interface" && one.leaf("name") == Some(&config.interface))
        .collect();
    let [one] = found.as_slice() else {
        let what = format!("{} interfaces are named `{}`", found.len(), config.interface);
        return Err(ActuatorFault::Identity(what));
    };
    if let Some(wanted) = &config.description {
        let shown = one.leaf("description").unwrap_or_default();
        if shown != wanted {
            return Err(ActuatorFault::Identity(format!(
                "the port's description is `{shown}`, not `{wanted}`"
            )));
        }
    }
    match one.leaf("enabled") {
        Some("true") | None => Ok(true),
        Some("false") => Ok(false),
        Some(other) => Err(ActuatorFault::Identity(format!("`enabled` is `{other}`"))),
    }
}

/// Puts the leaf into the candidate and nothing else, and reads it back.
fn prepare(config: &NetconfConfig, session: &mut Session, enabled: bool) -> Result<(), ActuatorFault> {
    // Nothing is done to a port that is not ours.
    let source = |name: &str| {
        format!(
            "<get-config><source><{name}/></source><filter type=\"subtree\">{}</filter></get-config>",
            interface(config, "<description/><enabled/>")
        )
    };
    port(config, &session.ask(&source("running"))?)?;
    session.lock()?;
    session.ask("<discard-changes/>")?;
    session.ask(&format!(
        "<edit-config><target><candidate/></target><config>{}</config></edit-config>",
        interface(config, &format!("<enabled>{enabled}</enabled>"))
    ))?;
    if port(config, &session.ask(&source("candidate"))?)? == enabled {
        Ok(())
    } else {
        Err(session.client.fault("it took the change and does not show it: nothing is committed"))
    }
}

impl Actuator for Netconf {
    fn layer(&self) -> Layer {
        Layer::C
    }

    fn source(&self) -> String {
        format!("{} {}", self.config.address, self.config.interface)
    }

    fn close(&mut self) -> Result<(), ActuatorFault> {
        self.until = None;
        // If anything of this fails, the session ends with it, and the device takes its confirmed commit back.
        self.with(|config, session| {
            session.holds = false;
            prepare(config, session, false)?;
            session.ask("<commit/>")?;
            session.unlock()
        })
    }

    fn open(&mut self, lease: &Lease) -> Result<(), ActuatorFault> {
        self.until = Some(SystemClock.boot() + Duration::from_secs(lease.window_s.into()));
        self.with(|config, session| {
            prepare(config, session, true)?;
            session.holds = true;
            Ok(())
        })?;
        // In the same session: its lock keeps others from the candidate as long as the port is open.
        self.renew(lease)
    }

    fn renew(&mut self, _lease: &Lease) -> Result<(), ActuatorFault> {
        let missing = || ActuatorFault::Switch {
            address: self.config.address.to_string(),
            what: "the session that holds the port open has ended".to_owned(),
        };
        if self.until.is_none() {
            return Err(missing());
        }
        // Only the session that began a confirmed commit may go on with it; a new one would find it taken back.
        let mut session = self.session.take().filter(|session| session.holds).ok_or_else(missing)?;
        session.client.until(self.limit());
        self.hold(&mut session)?;
        self.session = Some(session);
        Ok(())
    }

    fn observe(&mut self) -> Reading {
        self.read().unwrap_or_else(|error| Reading::unknown(kuramori_model::fault::chain(&error)))
    }

    fn deadman(&self) -> Option<Duration> {
        // The device counts in whole seconds and looks at its timer once in each.
        Some(Duration::from_secs(u64::from(self.config.lease_seconds) + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_that_is_not_shown_is_on_and_two_interfaces_are_none() {
        let config = NetconfConfig {
            address: "192.0.2.2:830".parse().unwrap(),
            user: "u".into(),
            key_file: "k".into(),
            host_keys: vec!["ssh-ed25519 AAAA".into()],
            interface: "p".into(),
            description: Some("d".into()),
            lease_seconds: 5,
            legacy: Vec::new(),
            timeout_ms: 1000,
            program: "ssh".into(),
        };
        let one =
            |more: &str| format!("<interface><name>p</name><description>d</description>{more}</interface>");
        let judged = |list: &str| {
            port(&config, &xml::parse(&format!("<data><interfaces>{list}</interfaces></data>")).unwrap())
        };
        assert!(judged(&one("")).unwrap());
        assert!(judged(&one("<enabled>true</enabled>")).unwrap());
        assert!(!judged(&one("<enabled>false</enabled>")).unwrap());
        assert!(judged(&one("<enabled>perhaps</enabled>")).is_err());
        assert!(judged("").is_err() && judged(&(one("") + &one(""))).is_err());
        assert!(judged("<interface><name>p</name></interface>").is_err(), "another description");
        // State alone is not configuration.
        let state = format!("<data><interfaces-state>{}</interfaces-state></data>", one(""));
        assert!(port(&config, &xml::parse(&state).unwrap()).is_err());
    }
}
