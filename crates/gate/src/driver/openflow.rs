//! Layer C: a way through an OpenFlow switch that the switch itself forgets.
//!
//! Two tables, both closed as long as they are empty. Table 0 holds the *window*: the flow's packets go on to
//! table 1, for the approved seconds, set once. Table 1 holds the *lease*: they leave by the other port, for a
//! few seconds, renewed. Each is a flow entry with a `hard_timeout` (OpenFlow 1.3, 7.3.4.1), so the switch closes
//! when the gate's process, or its whole host, is dead or frozen. Only the one TCP flow matches, and toward the
//! vault only segments with ACK, so production begins nothing.
//!
//! OpenFlow is spoken by `ovs-ofctl` in a process of its own, over TLS where the switch has it; keys are read
//! once and handed to it in memory, so closing later needs no file. The switch is known by its datapath id and
//! certificate authority, the ports by their names: numbers are looked up anew each time.
//!
//! **The datapath must be the gate's alone**: on closing, every entry is removed. An entry that is not ours is never
//! closed: a switch in fail mode `standalone` puts one there by itself that lets everything through.
//! An empty table is not believed alone either: the port toward the vault must not send between two read-backs.

use std::{io::Write as _, net::SocketAddr, os::fd::AsRawFd, path::PathBuf, time::Duration};

use kuramori_model::gate::{Layer, LayerState};
use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};
use serde::Deserialize;

use super::{
    entries::{Entry, Ports, judge, lease_entries, numbered, window_entries},
    program,
};
use crate::{
    actuator::{Actuator, Lease, Reading},
    fault::ActuatorFault,
};

/// The switch and the way to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenFlowConfig {
    /// Where the switch takes OpenFlow connections; no name, so that closing needs no name service.
    pub address: SocketAddr,
    /// Keys for TLS; without them anybody on the management network may open.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// The switch's datapath id: 16 hex digits.
    pub datapath_id: String,
    /// The port toward the vault, by name.
    pub vault_port: String,
    /// The port toward production, by name.
    pub production_port: String,
    /// Seconds after which the switch closes unless renewed.
    #[serde(default = "three")]
    pub lease_seconds: u32,
    /// Whether an empty table is believed only while the port toward the vault sends nothing. Off for a switch
    /// that sends packets of its own there.
    #[serde(default = "yes")]
    pub silent_when_closed: bool,
    /// How long one answer may take, in milliseconds.
    #[serde(default = "two_seconds")]
    pub timeout_ms: u64,
    /// The program.
    #[serde(default = "ofctl_program")]
    pub program: String,
}

/// Files of keys, PEM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Our private key.
    pub private_key_file: PathBuf,
    /// Its certificate.
    pub certificate_file: PathBuf,
    /// The authority that signed the switch's certificate and nothing else.
    pub ca_file: PathBuf,
}

const fn three() -> u32 {
    3
}

const fn yes() -> bool {
    true
}

const fn two_seconds() -> u64 {
    2000
}

fn ofctl_program() -> String {
    "ovs-ofctl".to_owned()
}

/// The layer.
#[derive(Debug)]
pub struct OpenFlow {
    config: OpenFlowConfig,
    keys: Vec<(&'static str, fs_err::File)>,
    /// The flow that was opened last, or that somebody else may have opened.
    flow: Option<Lease>,
    /// Numbers of the ports when it was opened.
    opened: Option<Ports>,
    /// Packets that the port toward the vault had sent when the tables were last read as empty.
    sent: Option<u64>,
}

impl OpenFlow {
    /// Reads the keys once: closing later needs no disk.
    pub fn new(config: OpenFlowConfig) -> Result<Self, ActuatorFault> {
        let plain = |text: &str| {
            (1..=64).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
        };
        let hex = config.datapath_id.len() == 16 && config.datapath_id.chars().all(|c| c.is_ascii_hexdigit());
        let wrong = [
            ("datapath_id", hex),
            ("vault_port", plain(&config.vault_port) && config.vault_port != config.production_port),
            ("production_port", plain(&config.production_port)),
            ("lease_seconds", (1..=60).contains(&config.lease_seconds)),
        ];
        if let Some((key, _)) = wrong.into_iter().find(|(_, good)| !good) {
            return Err(ActuatorFault::Unusable(format!("`{key}` is not what it must be")));
        }
        let mut keys = Vec::new();
        if let Some(tls) = &config.tls {
            for (option, path) in [
                ("--private-key", &tls.private_key_file),
                ("--certificate", &tls.certificate_file),
                ("--ca-cert", &tls.ca_file),
            ] {
                let kept = (|| {
                    let bytes = fs_err::read(path)?;
                    let file = memfd_create("openflow-key", MemfdFlags::CLOEXEC)?;
                    fchmod(&file, Mode::RUSR | Mode::WUSR)?;
                    let mut file = fs_err::File::from_parts(file.into(), path);
                    file.write_all(&bytes)?;
                    Ok::<_, std::io::Error>(file)
                })();
                keys.push((option, kept.map_err(|error| ActuatorFault::Unusable(error.to_string()))?));
            }
        }
        Ok(Self { config, keys, flow: None, opened: None, sent: None })
    }

    /// One call of the program; `input` is what it reads.
    fn ask(&self, verb: &str, more: &[&str], input: &str) -> Result<String, ActuatorFault> {
        let limit = Duration::from_millis(self.config.timeout_ms);
        let scheme = if self.keys.is_empty() { "tcp" } else { "ssl" };
        let target = match self.config.address {
            SocketAddr::V4(at) => format!("{scheme}:{at}"),
            SocketAddr::V6(at) => format!("{scheme}:[{}]:{}", at.ip(), at.port()),
        };
        let shown =
            |file: &fs_err::File| format!("/proc/{}/fd/{}", std::process::id(), file.file().as_raw_fd());
        let options: Vec<String> =
            self.keys.iter().map(|(option, file)| format!("{option}={}", shown(file))).collect();
        let mut arguments = vec!["-O", "OpenFlow13", "--no-names", "-vsyslog:off", "-vconsole:warn"];
        arguments.extend(options.iter().map(String::as_str));
        arguments.extend([verb, target.as_str()]);
        arguments.extend(more);
        program::run(&self.config.program, &arguments, input, limit).map_err(|error| match error {
            ActuatorFault::Program { stderr, .. } if stderr.contains("certificate verify failed") => {
                ActuatorFault::Identity(format!(
                    "the switch {} shows a certificate that our authority did not sign",
                    self.config.address
                ))
            }
            ActuatorFault::Program { stderr, .. } => self.fault(&stderr),
            other => other,
        })
    }

    fn fault(&self, what: &str) -> ActuatorFault {
        ActuatorFault::Switch { address: self.config.address.to_string(), what: what.to_owned() }
    }

    /// The numbers of the configured ports, on the configured switch.
    fn ports(&self) -> Result<Ports, ActuatorFault> {
        let shown = self.ask("show", &[], "")?;
        let id = shown.split_whitespace().find_map(|word| word.strip_prefix("dpid:")).unwrap_or("nothing");
        if !id.eq_ignore_ascii_case(&self.config.datapath_id) {
            let what = format!("the datapath id is {id}, not {}", self.config.datapath_id);
            return Err(ActuatorFault::Identity(what));
        }
        let port = |name: &str| {
            let found: Vec<u32> = shown.lines().filter_map(|line| numbered(line, name)).collect();
            match found.as_slice() {
                [number] => Ok(*number),
                _ => Err(ActuatorFault::Identity(format!("{} ports are named `{name}`", found.len()))),
            }
        };
        Ok(Ports { vault: port(&self.config.vault_port)?, production: port(&self.config.production_port)? })
    }

    fn read(&mut self) -> Result<Reading, ActuatorFault> {
        let ports = self.ports()?;
        let flows = self.ask("dump-flows", &[], "")?;
        let entries: Vec<Entry> = flows.lines().filter_map(Entry::parse).collect();
        let sent = self.sent_by(ports.vault)?;
        let before = self.sent.take();
        let (state, words) =
            judge(&entries, self.flow.as_ref().map(|flow| (flow, ports)), self.config.lease_seconds);
        let detail = format!("{words}; port {} sent {sent} packets", ports.vault);
        if state != LayerState::Closed {
            return Ok(Reading { state, detail });
        }
        self.sent = Some(sent);
        match before {
            Some(before) if before != sent && self.config.silent_when_closed => Ok(Reading::unknown(
                format!("{words}, but port {} has sent since: {before}, now {sent}", ports.vault),
            )),
            _ => Ok(Reading { state, detail }),
        }
    }

    /// Packets that this port has sent.
    fn sent_by(&self, port: u32) -> Result<u64, ActuatorFault> {
        let shown = self.ask("dump-ports", &[&port.to_string()], "")?;
        let line = shown.lines().map(str::trim).find(|line| line.starts_with("tx pkts="));
        let number = line.and_then(|line| line.strip_prefix("tx pkts=")?.split(',').next()?.parse().ok());
        number.ok_or_else(|| self.fault("it does not show what the port has sent"))
    }
}

impl Actuator for OpenFlow {
    fn layer(&self) -> Layer {
        Layer::C
    }

    fn source(&self) -> String {
        format!("datapath {} {}", self.config.datapath_id, self.config.vault_port)
    }

    fn close(&mut self) -> Result<(), ActuatorFault> {
        // Nothing is done to a switch that is not ours.
        self.ports()?;
        self.opened = None;
        // What was sent until now was allowed.
        self.sent = None;
        self.ask("del-flows", &[], "").map(drop)
    }

    fn open(&mut self, lease: &Lease) -> Result<(), ActuatorFault> {
        let ports = self.ports()?;
        (self.flow, self.opened) = (Some(*lease), Some(ports));
        self.ask("del-flows", &[], "")?;
        let entries = lease_entries(lease, ports, self.config.lease_seconds) + &window_entries(lease, ports);
        self.ask("add-flows", &["-"], &entries).map(drop)
    }

    fn renew(&mut self, lease: &Lease) -> Result<(), ActuatorFault> {
        let ports = self.opened.ok_or_else(|| self.fault("there is nothing open to renew"))?;
        // An entry with the same match is replaced, its duration begins anew. The window's is left alone.
        self.ask("add-flows", &["-"], &lease_entries(lease, ports, self.config.lease_seconds)).map(drop)
    }

    fn observe(&mut self) -> Reading {
        self.read().unwrap_or_else(|error| Reading::unknown(kuramori_model::fault::chain(&error)))
    }

    fn expect(&mut self, lease: &Lease) {
        self.flow = Some(*lease);
    }

    fn deadman(&self) -> Option<Duration> {
        Some(Duration::from_secs(self.config.lease_seconds.into()))
    }
}
