//! Layer A: the kernel's packet filter, with a lease that the kernel itself forgets.
//!
//! Two tables, both closed as long as their sets are empty: `inet gate` lets one TCP flow through the
//! forward hook, `netdev vaultgate` hides the guarded interface below that, so that not even ARP passes.
//! A packet passes only while *both* sets `lease` (3 s, renewed) and `window` (the approved seconds, set
//! once) hold its flow, looked up for each packet; no rule accepts on connection tracking alone.
//!
//! **What can go wrong**, all of it seen: adding an element again with the same timeout does not renew it
//! (so: add, delete, add in one transaction); an element without timeout stays for ever (so: every set has a
//! default timeout and a size); renaming the interface leaves a chain listed that no longer filters (so: the
//! interface's index is pinned when the rules are loaded, and the read-back compares it).

mod elements;
mod readback;
mod rules;

use std::{fmt::Write, net::Ipv4Addr, path::PathBuf, time::Duration};

use kuramori_model::gate::{Layer, LayerState};
use serde::Deserialize;

use super::program;
use crate::{
    actuator::{Actuator, Lease, Reading},
    fault::ActuatorFault,
};

/// After this long a call of `nft` is ended: longer than it ever needs, shorter than a lease.
const LIMIT: Duration = Duration::from_secs(2);

/// The interfaces and networks of the gate host. Names come from here, never from the code.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NftConfig {
    /// The interface toward the puller.
    pub inside: Interface,
    /// The guarded interface toward the primary.
    pub outside: Interface,
    /// Networks of the switches' management, reached from this host only.
    #[serde(default)]
    pub management: Vec<Management>,
    /// The switch that watches this host by ping. It is answered only while a lease lives, so the switch
    /// closes its port also when only our process is dead or frozen.
    #[serde(default)]
    pub ping_poll: Option<PingPoll>,
    /// Tables of others that may exist (`inet name`). Any other table makes the layer unknown: a flowtable or
    /// an earlier hook of somebody else could lead around ours.
    #[serde(default)]
    pub foreign_tables: Vec<String>,
    /// The program.
    #[serde(default = "nft_program")]
    pub program: String,
    /// Forgets the flow's connection on closing, if the program exists.
    #[serde(default = "conntrack_program")]
    pub conntrack: String,
    /// Where the kernel shows its interfaces.
    #[serde(default = "sys_class_net")]
    pub sys_class_net: PathBuf,
}

fn nft_program() -> String {
    "nft".to_owned()
}

fn conntrack_program() -> String {
    "conntrack".to_owned()
}

fn sys_class_net() -> PathBuf {
    PathBuf::from("/sys/class/net")
}

/// The switch's ping-poll.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingPoll {
    /// The interface on which it asks.
    pub interface: Interface,
    /// Its address.
    pub switch: Ipv4Addr,
}

/// A management network and what this host may begin there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Management {
    /// Its interface.
    pub interface: Interface,
    /// Its addresses.
    pub network: Network,
    /// UDP ports, normally 161.
    #[serde(default)]
    pub udp: Vec<u16>,
    /// TCP ports, normally none or some of 22, 443, 830.
    #[serde(default)]
    pub tcp: Vec<u16>,
}

/// An interface's name that is safe inside a rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Interface(String);

impl Interface {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Interface {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let safe = (1..=15).contains(&name.len())
            && name != "."
            && name != ".."
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        if safe { Ok(Self(name)) } else { Err(format!("`{name}` is not the name of a network interface")) }
    }
}

/// An IPv4 network, `192.0.2.0/28`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: Ipv4Addr,
    bits: u8,
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bad = || format!("`{text}` is not an IPv4 network such as `192.0.2.0/28`");
        let (address, bits) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let bits: u8 = bits.parse().ok().filter(|bits| (1..=32).contains(bits)).ok_or_else(bad)?;
        let host = u32::from(address) & u32::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
        if host == 0 { Ok(Self { address, bits }) } else { Err(bad()) }
    }
}

/// The layer.
#[derive(Debug)]
pub struct Nft {
    config: NftConfig,
    ttl_s: u32,
    /// The guarded interface's index when our rules were loaded.
    pinned: Option<u32>,
    /// The flow that was opened last.
    flow: Option<Lease>,
    /// Whether a lease that ended by itself counts as closed: only for whoever tests just that.
    watching: bool,
}

impl Nft {
    /// Not loaded yet: the first [`close`](Actuator::close) loads the rules.
    pub const fn new(config: NftConfig, ttl_s: u32) -> Self {
        Self { config, ttl_s, pinned: None, flow: None, watching: false }
    }

    fn apply(&self, text: &str) -> Result<(), ActuatorFault> {
        program::run(&self.config.program, &["-f", "-"], text, LIMIT).map(drop)
    }

    /// Answers the switch's ping for the time of one lease and opens nothing: for whoever tests its dead-man.
    pub fn answer_ping(&self) -> Result<(), ActuatorFault> {
        elements::answer(&self.config, self.ttl_s)
    }

    fn index(&self) -> Option<u32> {
        let path = self.config.sys_class_net.join(self.config.outside.as_str()).join("ifindex");
        fs_err::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Replaces both tables by closed ones, in one transaction.
    fn load(&mut self) -> Result<(), ActuatorFault> {
        let pinned = self.index();
        let loaded = self.apply(&rules::closed(&self.config, self.ttl_s, true));
        if loaded.is_err() {
            // Without its interface the netdev table cannot exist; the forward table still can.
            self.apply(&rules::closed(&self.config, self.ttl_s, false))?;
        }
        self.pinned = if loaded.is_ok() { pinned } else { None };
        loaded
    }

    fn read(&self) -> Result<Reading, ActuatorFault> {
        let Some(pinned) = self.pinned else {
            return Ok(Reading::unknown("our rules are not loaded"));
        };
        let json = program::run(&self.config.program, &["-j", "list", "ruleset"], "", LIMIT)?;
        // The JSON of nft 1.0.6 does not name the device of a netdev chain; the text does.
        let netdev =
            program::run(&self.config.program, &["-s", "list", "table", "netdev", "vaultgate"], "", LIMIT)?;
        if self.index() != Some(pinned) {
            let name = self.config.outside.as_str();
            return Ok(Reading::unknown(format!(
                "interface {name} is not the one that the rules were loaded for"
            )));
        }
        if let Err(what) = readback::devices(&netdev, self.config.outside.as_str()) {
            return Ok(Reading::unknown(what));
        }
        let mut reading = readback::judge(&self.config, self.ttl_s, &json, self.flow.as_ref());
        if self.watching && reading.detail.starts_with(readback::LAPSED) {
            reading.state = LayerState::Closed;
        }
        Ok(reading)
    }

    fn forget_connections(&self) {
        let Some(lease) = &self.flow else { return };
        let (source, peer) = (lease.source.to_string(), lease.peer.ip().to_string());
        let port = lease.peer.port().to_string();
        let arguments = ["-D", "-p", "tcp", "-s", &source, "-d", &peer, "--dport", &port];
        // It fails when there is nothing to forget, and the lease does not depend on it.
        if let Err(error) = program::run(&self.config.conntrack, &arguments, "", LIMIT) {
            tracing::debug!(%error, "conntrack");
        }
    }
}

impl Actuator for Nft {
    fn layer(&self) -> Layer {
        Layer::A
    }

    fn source(&self) -> String {
        "nftables".to_owned()
    }

    fn close(&mut self) -> Result<(), ActuatorFault> {
        // The quick way first: packets stop within milliseconds.
        let flushed = if self.pinned.is_some() { elements::flush(&self.config) } else { Ok(()) };
        self.forget_connections();
        let intact = flushed.is_ok() && self.read().is_ok_and(|reading| reading.state == LayerState::Closed);
        if intact { Ok(()) } else { self.load() }
    }

    fn open(&mut self, lease: &Lease) -> Result<(), ActuatorFault> {
        if self.pinned.is_none() {
            self.load()?;
        }
        self.flow = Some(*lease);
        elements::open(&self.config, lease)
    }

    fn renew(&mut self, lease: &Lease) -> Result<(), ActuatorFault> {
        elements::renew(&self.config, lease)
    }

    fn observe(&mut self) -> Reading {
        self.read().unwrap_or_else(|error| Reading::unknown(kuramori_model::fault::chain(&error)))
    }

    fn expect(&mut self, lease: &Lease) {
        (self.flow, self.watching) = (Some(*lease), true);
    }

    fn deadman(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.ttl_s.into()))
    }
}

/// Whether this host can hold the gate's tables at all, tried with a table of its own that is removed again.
pub fn usable(program: &str) -> Result<(), ActuatorFault> {
    let mut text = String::new();
    for family in ["inet", "netdev"] {
        let _ = writeln!(text, "add table {family} kuramori-check\ndelete table {family} kuramori-check");
    }
    program::run(program, &["-f", "-"], &text, LIMIT).map(drop)
}
