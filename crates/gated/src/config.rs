//! The configuration file. Unknown keys and impossible values are errors that name the key.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use kuramori_gate::{
    Actuator,
    actuator::Broken,
    driver::{
        link::{Link, LinkConfig},
        netconf::{Netconf, NetconfConfig},
        nft::{Nft, NftConfig},
        openflow::{OpenFlow, OpenFlowConfig},
        power::{Power, PowerConfig},
        redfish::{Redfish, RedfishConfig},
        ssh::{Ssh, SshConfig},
        switch::{Switch, SwitchConfig},
    },
    machine::{Flow, Policy},
};
use kuramori_model::{
    fault::chain,
    gate::{BootId, Layer, VerifyingKey},
};
use serde::Deserialize;

/// All of `gated.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where the log is kept.
    pub(crate) state_dir: PathBuf,
    /// The socket with the verbs; mode 0600, owned by the first allowed user.
    pub(crate) socket: PathBuf,
    /// Users that may connect to it.
    pub(crate) allowed_uids: Vec<u32>,
    /// The socket on which the observer speaks; mode 0600, owned by the first of its users.
    pub(crate) observer_socket: PathBuf,
    /// Users that may speak there.
    pub(crate) observer_uids: Vec<u32>,
    /// The vault's public keys.
    pub(crate) vault_keys: Vec<VerifyingKey>,
    /// The officers' public keys.
    #[serde(default)]
    pub(crate) officer_keys: Vec<VerifyingKey>,
    /// How many officers a release needs.
    #[serde(default = "two")]
    pub(crate) release_quorum: usize,
    /// The lease's time to live.
    #[serde(default = "three")]
    pub(crate) ttl_seconds: u32,
    /// How long it may take until closed is proven; then the gate is `fault_open` and latched.
    #[serde(default = "ten")]
    pub(crate) verify_seconds: u64,
    /// Open path within 24 hours at most.
    #[serde(default = "hour")]
    pub(crate) daily_budget_seconds: u64,
    /// Layers whose dead-man somebody has tested on this device.
    #[serde(default)]
    pub(crate) dead_man_tested: Vec<Layer>,
    /// The flows that may ever be opened.
    #[serde(default)]
    pub(crate) flow: Vec<Flow>,
    /// Layer A.
    pub(crate) packet_filter: NftConfig,
    /// Layer B: the guarded interface's own link.
    pub(crate) link: Option<LinkConfig>,
    /// Layer C by SNMPv3.
    pub(crate) switch: Option<SwitchConfig>,
    /// Layer C by the switch's command line.
    pub(crate) switch_ssh: Option<SshConfig>,
    /// Layer C by NETCONF.
    pub(crate) netconf: Option<NetconfConfig>,
    /// Layer C by OpenFlow.
    pub(crate) openflow: Option<OpenFlowConfig>,
    /// Layer D by a power distribution unit.
    pub(crate) power: Option<PowerConfig>,
    /// Layer D by a management controller.
    pub(crate) redfish: Option<RedfishConfig>,
}

const fn two() -> usize {
    2
}

const fn three() -> u32 {
    3
}

const fn ten() -> u64 {
    10
}

const fn hour() -> u64 {
    3600
}

impl Config {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs_err::read_to_string(path)?;
        let config: Self = toml::from_str(&text).with_context(|| format!("`{}`", path.display()))?;
        config.validate().with_context(|| format!("`{}`", path.display()))?;
        Ok(config)
    }

    fn validate(&self) -> anyhow::Result<()> {
        ensure!((1..=3).contains(&self.ttl_seconds), "`ttl_seconds` must be 1, 2 or 3");
        ensure!((3..=10).contains(&self.verify_seconds), "`verify_seconds` must be 3 to 10");
        ensure!(self.daily_budget_seconds <= 86_400, "`daily_budget_seconds` is more than a day has");
        ensure!(!self.allowed_uids.is_empty(), "`allowed_uids` names nobody");
        ensure!(!self.observer_uids.is_empty(), "`observer_uids` names nobody");
        ensure!(!self.vault_keys.is_empty(), "`vault_keys` names no key");
        ensure!(self.release_quorum >= 1, "`release_quorum` must be at least 1");
        ensure!(
            self.officer_keys.is_empty() || self.officer_keys.len() >= self.release_quorum,
            "`release_quorum` is more than there are `officer_keys`"
        );
        ensure!(
            self.packet_filter.inside != self.packet_filter.outside,
            "`packet_filter.inside` and `outside` are the same interface"
        );
        let ways = [
            self.switch.is_some(),
            self.switch_ssh.is_some(),
            self.netconf.is_some(),
            self.openflow.is_some(),
        ];
        ensure!(
            ways.into_iter().filter(|way| *way).count() <= 1,
            "`switch`, `switch_ssh`, `netconf` and `openflow` are ways to one port: configure one"
        );
        ensure!(self.power.is_none() || self.redfish.is_none(), "configure one of `power` and `redfish`");
        Ok(())
    }

    /// The configured layers, from the inside out. One that cannot be used keeps the others from nothing.
    pub(crate) fn layers(&self) -> Vec<Box<dyn Actuator>> {
        let mut layers: Vec<Box<dyn Actuator>> =
            vec![Box::new(Nft::new(self.packet_filter.clone(), self.ttl_seconds))];
        if let Some(link) = &self.link {
            layers.push(Box::new(Link::new(link.clone(), self.packet_filter.outside.as_str())));
        }
        let behind = self.link.is_some();
        if let Some(switch) = &self.switch {
            layers.push(match Switch::new(switch.clone()) {
                Ok(switch) if behind => Box::new(switch.behind_a_link()),
                Ok(switch) => Box::new(switch),
                Err(error) => Box::new(Broken::new(Layer::C, switch.if_name.clone(), chain(&error))),
            });
        }
        if let Some(switch) = &self.switch_ssh {
            layers.push(match Ssh::new(switch.clone()) {
                Ok(switch) if behind => Box::new(switch.behind_a_link()),
                Ok(switch) => Box::new(switch),
                Err(error) => Box::new(Broken::new(Layer::C, switch.port.clone(), chain(&error))),
            });
        }
        if let Some(switch) = &self.netconf {
            layers.push(match Netconf::new(switch.clone()) {
                Ok(switch) if behind => Box::new(switch.behind_a_link()),
                Ok(switch) => Box::new(switch),
                Err(error) => Box::new(Broken::new(Layer::C, switch.interface.clone(), chain(&error))),
            });
        }
        if let Some(switch) = &self.openflow {
            layers.push(match OpenFlow::new(switch.clone()) {
                Ok(switch) => Box::new(switch),
                Err(error) => Box::new(Broken::new(Layer::C, switch.datapath_id.clone(), chain(&error))),
            });
        }
        if let Some(power) = &self.power {
            layers.push(match Power::new(power.clone()) {
                Ok(power) => Box::new(power),
                Err(error) => Box::new(Broken::new(Layer::D, power.sys_name.clone(), chain(&error))),
            });
        }
        if let Some(redfish) = &self.redfish {
            layers.push(match Redfish::new(redfish.clone()) {
                Ok(redfish) => Box::new(redfish),
                Err(error) => Box::new(Broken::new(Layer::D, redfish.uuid.clone(), chain(&error))),
            });
        }
        layers
    }

    /// A layer's configuration in words: what an acceptance test is bound to.
    pub(crate) fn bound_to(&self, layer: Layer) -> String {
        match layer {
            Layer::A => format!("{:?}, lease {} s", self.packet_filter, self.ttl_seconds),
            Layer::B => format!("{:?} {:?}", self.packet_filter.outside, self.link),
            Layer::C => {
                let ways =
                    format!("{:?} {:?} {:?}", self.switch, self.switch_ssh, self.packet_filter.ping_poll);
                // Only where there is one, so that records of before hold.
                let more = (self.netconf.is_some() || self.openflow.is_some())
                    .then(|| format!(" {:?} {:?}", self.netconf, self.openflow));
                ways + &more.unwrap_or_default()
            }
            Layer::D => format!("{:?} {:?}", self.power, self.redfish),
            Layer::E => String::new(),
        }
    }

    /// Milliseconds between two renewals of a layer that closes by itself after `lease`: the kernel's lease of
    /// 1 s is renewed three times within its life, a longer one each second; any other three times.
    pub(crate) fn renew_ms(&self, layer: Layer, lease: Duration) -> u64 {
        if layer == Layer::A {
            return if self.ttl_seconds == 1 { 300 } else { 1000 };
        }
        u64::try_from(lease.as_millis() / 3).unwrap_or(u64::MAX).max(300)
    }

    /// `layers`: each configured one with the time after which it closes by itself, if it does.
    pub(crate) fn policy(&self, layers: &[(Layer, Option<Duration>)]) -> anyhow::Result<Policy> {
        let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let renewals =
            layers.iter().filter_map(|(layer, lease)| Some((*layer, self.renew_ms(*layer, (*lease)?))));
        let renewals = renewals.collect();
        let mut layers: Vec<Layer> = layers.iter().map(|(layer, _)| *layer).collect();
        layers.sort_unstable();
        Ok(Policy {
            layers,
            renewals,
            dead_man_tested: self.dead_man_tested.clone(),
            keys: self.vault_keys.clone(),
            officers: self.officer_keys.clone(),
            quorum: self.release_quorum,
            flows: self.flow.clone(),
            ttl_s: self.ttl_seconds,
            verify_ms: self.verify_seconds * 1000,
            daily_budget_s: self.daily_budget_seconds,
            ..Policy::new(BootId::new(&boot)?)
        })
    }
}
