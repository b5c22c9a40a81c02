//! Layer B: the link of the guarded interface itself, by the kernel's route netlink. Closed is *down*.
//!
//! A logical layer: whoever is root on this host has it. It is there because it fails in another way than the
//! packet filter: with the link down no frame leaves whatever rules, tables or hooks say. It has no timer, so no
//! dead-man.
//!
//! The interface is known by its name *and* its hardware address: after a renaming, or a card in another slot,
//! the layer is unknown and nothing is done. Taking a link down makes the kernel forget the routes and the
//! neighbours behind it; opening puts the configured ones back, because a closed gate lets no ARP pass to find them.
//!
//! While the link is down the switch's port at its other end has none either. The layers outside of this one
//! are opened first, so they must count as open without a link: see `behind_a_link` of their drivers.

use std::{net::Ipv4Addr, time::Duration};

use kuramori_model::gate::{Layer, LayerState};
use serde::Deserialize;

use super::netlink::{Kernel, Shown};
use crate::{
    actuator::{Actuator, Lease, Reading},
    fault::ActuatorFault,
};

/// The interface, and what is behind it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    /// The hardware address of the guarded interface.
    pub hardware_address: Hardware,
    /// Who is reached by it without asking the wire.
    #[serde(default)]
    pub neighbour: Vec<Neighbour>,
    /// Networks behind it.
    #[serde(default)]
    pub route: Vec<Route>,
}

/// A neighbour on the wire.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its hardware address.
    pub hardware_address: Hardware,
}

/// A route.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// `10.77.1.0/24`, or `0.0.0.0/0`.
    pub network: Network,
    /// Through whom.
    pub via: Ipv4Addr,
}

/// An IPv4 network; `0.0.0.0/0` is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network(Ipv4Addr, u8);

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(address, bits)| {
            let (address, bits): (Ipv4Addr, u8) = (address.parse().ok()?, bits.parse().ok()?);
            let host = u32::MAX.checked_shr(bits.into()).unwrap_or(0);
            (bits <= 32 && u32::from(address) & host == 0).then_some(Self(address, bits))
        });
        parsed.ok_or_else(|| format!("`{text}` is not an IPv4 network such as `10.77.1.0/24`"))
    }
}

/// A hardware address, `52:54:00:12:34:56`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hardware([u8; 6]);

impl TryFrom<String> for Hardware {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts: Option<Vec<u8>> = text
            .split(':')
            .map(|part| {
                let plain = part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit());
                if plain { u8::from_str_radix(part, 16).ok() } else { None }
            })
            .collect();
        let bytes = parts.and_then(|parts| parts.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a hardware address such as `52:54:00:12:34:56`"))
    }
}

/// The layer.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    interface: String,
}

impl Link {
    /// The guarded interface by its name.
    pub fn new(config: LinkConfig, interface: &str) -> Self {
        Self { config, interface: interface.to_owned() }
    }

    fn fault(&self, what: &str, error: &std::io::Error) -> ActuatorFault {
        ActuatorFault::Interface { interface: self.interface.clone(), what: format!("{what}: {error}") }
    }

    /// The interface, if it is the one that was configured.
    fn found(&self, kernel: &mut Kernel) -> Result<Shown, ActuatorFault> {
        let shown = kernel.interface(&self.interface).map_err(|error| self.fault("is not shown", &error))?;
        if Hardware(shown.hardware_address) != self.config.hardware_address {
            let hex: Vec<String> = shown.hardware_address.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(ActuatorFault::Identity(format!(
                "interface {} has the hardware address {}: it is another card, or another name",
                self.interface,
                hex.join(":")
            )));
        }
        Ok(shown)
    }

    /// The socket is made anew each time: it belongs to the namespace that this thread is in.
    fn kernel(&self) -> Result<Kernel, ActuatorFault> {
        Kernel::new().map_err(|error| self.fault("the kernel cannot be asked", &error))
    }

    fn read(&self) -> Result<Reading, ActuatorFault> {
        let shown = self.found(&mut self.kernel()?)?;
        let state = match (shown.up, shown.carrier) {
            (false, false) => LayerState::Closed,
            (true, true) => LayerState::Open,
            _ => LayerState::Unknown,
        };
        let word = |on| if on { "yes" } else { "no" };
        let detail =
            format!("interface {} up {}, carrier {}", shown.index, word(shown.up), word(shown.carrier));
        Ok(Reading { state, detail })
    }
}

impl Actuator for Link {
    fn layer(&self) -> Layer {
        Layer::B
    }

    fn source(&self) -> String {
        self.interface.clone()
    }

    fn close(&mut self) -> Result<(), ActuatorFault> {
        let mut kernel = self.kernel()?;
        let shown = self.found(&mut kernel)?;
        kernel.set_up(shown.index, false).map_err(|error| self.fault("cannot be taken down", &error))
    }

    fn open(&mut self, _lease: &Lease) -> Result<(), ActuatorFault> {
        let mut kernel = self.kernel()?;
        let index = self.found(&mut kernel)?.index;
        kernel.set_up(index, true).map_err(|error| self.fault("cannot be taken up", &error))?;
        for one in &self.config.neighbour {
            let Hardware(hardware) = one.hardware_address;
            let done = kernel.neighbour(index, one.address, hardware);
            done.map_err(|error| self.fault(&format!("takes no neighbour {}", one.address), &error))?;
        }
        for one in &self.config.route {
            let Network(network, bits) = one.network;
            let done = kernel.route(index, network, bits, one.via);
            done.map_err(|error| self.fault(&format!("takes no route to {network}/{bits}"), &error))?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_are_what_they_must_be() {
        let hardware = |text: &str| Hardware::try_from(text.to_owned());
        assert_eq!(hardware("52:54:00:12:34:aF").unwrap(), Hardware([0x52, 0x54, 0, 0x12, 0x34, 0xaf]));
        for bad in ["", "52:54:00:12:34", "52:54:00:12:34:5", "52:54:00:12:34:56:78", "52:54:00:12:34:+1"] {
            assert!(hardware(bad).is_err(), "{bad}");
        }
        let network = |text: &str| Network::try_from(text.to_owned());
        assert!(network("0.0.0.0/0").is_ok() && network("10.77.1.2/32").is_ok());
        for bad in ["10.77.1.1/24", "10.77.1.0/33", "10.77.1.0", "1.0.0.0/0"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
