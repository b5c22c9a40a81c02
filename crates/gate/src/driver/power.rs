//! Layer D: an outlet of a power distribution unit, by SNMPv3. Closed is *off*.
//!
//! Four families of one vendor number the same words differently: 2 is "off" in two of them and **"on" in a
//! third**; in the fourth 2 is "on after a delay" and 6, a graceful shutdown, comes on again by itself. So
//! nothing is ever set before the device has shown by its `sysObjectID` *and* by a state object that answers
//! with a value of that family that it is what the configuration says; else the layer refuses. Only the
//! immediate commands are used. The outlet has no dead-man.
//!
//! Objects below 1.3.6.1.4.1 (PowerNet-MIB): command, values, state. All are to be shown on the real device
//! by its acceptance test.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use async_snmp::{Oid, Value, oid};
use kuramori_model::gate::{Layer, LayerState};
use serde::Deserialize;

use crate::{
    actuator::{Actuator, Lease, Reading},
    driver::snmp::{Device, Session},
    fault::ActuatorFault,
};

/// Which numbers the device understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `rPDU`, sysObjectID 318.1.3.4.5.
    Rpdu,
    /// `rPDU2`, sysObjectID 318.1.3.4.6.
    Rpdu2,
    /// `cPDU`; its sysObjectID must be configured.
    Cpdu,
    /// `MasterSwitch plus`, sysObjectID 318.1.3.4.4.
    MasterSwitchPlus,
}

/// A family's objects and numbers for one outlet.
struct Words {
    command: Oid,
    on: i32,
    off: i32,
    state: Oid,
    is_on: i32,
    is_off: i32,
}

impl Family {
    fn words(self, unit: u32, outlet: u32) -> Words {
        let vendor = oid!(1, 3, 6, 1, 4, 1, 318, 1, 1);
        let below = |arcs: &[u32]| arcs.iter().fold(vendor.clone(), |oid, arc| oid.child(*arc));
        match self {
            Self::Rpdu => Words {
                command: below(&[12, 3, 3, 1, 1, 4, outlet]),
                on: 1,
                off: 2,
                state: below(&[12, 3, 5, 1, 1, 4, outlet]),
                is_on: 1,
                is_off: 2,
            },
            Self::Rpdu2 => Words {
                command: below(&[26, 9, 2, 4, 1, 5, outlet]),
                on: 1,
                off: 2,
                state: below(&[26, 9, 2, 3, 1, 5, outlet]),
                is_on: 1,
                is_off: 2,
            },
            Self::Cpdu => Words {
                command: below(&[32, 5, 5, 1, 4, unit, outlet]),
                on: 2,
                off: 1,
                state: below(&[32, 5, 4, 1, 4, unit, outlet]),
                is_on: 1,
                is_off: 0,
            },
            Self::MasterSwitchPlus => Words {
                command: below(&[6, 5, 1, 1, 5, unit, 1, outlet]),
                on: 1,
                off: 3,
                state: below(&[6, 7, 1, 1, 5, unit, 1, outlet]),
                is_on: 1,
                is_off: 2,
            },
        }
    }

    const fn object_id(self) -> Option<&'static str> {
        match self {
            Self::Rpdu => Some("1.3.6.1.4.1.318.1.3.4.5"),
            Self::Rpdu2 => Some("1.3.6.1.4.1.318.1.3.4.6"),
            Self::Cpdu => None,
            Self::MasterSwitchPlus => Some("1.3.6.1.4.1.318.1.3.4.4"),
        }
    }
}

/// The outlet and the way to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerConfig {
    /// The agent's address on the management network.
    pub address: SocketAddr,
    /// The SNMPv3 user that may set this one outlet.
    pub user: String,
    /// A file with its authentication password (SHA-256).
    pub auth_password_file: PathBuf,
    /// A file with its privacy password (AES-128).
    pub priv_password_file: PathBuf,
    /// `sysName` of the device.
    pub sys_name: String,
    /// Its family.
    pub family: Family,
    /// `sysObjectID`, where the family does not have one that we know.
    #[serde(default)]
    pub sys_object_id: Option<String>,
    /// The unit, for families that number them.
    #[serde(default = "first")]
    pub unit: u32,
    /// The outlet.
    pub outlet: u32,
    /// How long one answer may take, in milliseconds.
    #[serde(default = "one_second")]
    pub timeout_ms: u64,
}

const fn first() -> u32 {
    1
}

const fn one_second() -> u64 {
    1000
}

/// The layer.
#[derive(Debug)]
pub struct Power {
    config: PowerConfig,
    device: Device,
}

impl Power {
    /// Reads the passwords once: closing later needs no disk.
    pub fn new(config: PowerConfig) -> Result<Self, ActuatorFault> {
        if config.family.object_id().is_none() && config.sys_object_id.is_none() {
            let what = "this family needs `sys_object_id`, as the device shows it".to_owned();
            return Err(ActuatorFault::Identity(what));
        }
        let files = (&config.auth_password_file, &config.priv_password_file);
        let device = Device::new(config.address, &config.user, files, &config.sys_name, config.timeout_ms)?;
        Ok(Self { config, device })
    }

    fn words(&self) -> Words {
        self.config.family.words(self.config.unit, self.config.outlet)
    }

    /// The outlet's state, of a device that is what the configuration says.
    async fn known(&self, session: &Session<'_>, words: &Words) -> Result<i32, ActuatorFault> {
        let wanted =
            self.config.sys_object_id.as_deref().or(self.config.family.object_id()).unwrap_or_default();
        let shown = match session.value(&oid!(1, 3, 6, 1, 2, 1, 1, 2, 0)).await? {
            Value::ObjectIdentifier(shown) => shown.to_string(),
            other => format!("{other:?}"),
        };
        if shown.trim_start_matches('.') != wanted.trim_start_matches('.') {
            return Err(ActuatorFault::Identity(format!("sysObjectID is {shown}, not {wanted}")));
        }
        let state = session.number(&words.state).await.map_err(|error| {
            ActuatorFault::Identity(format!("its state object {} does not answer: {error}", words.state))
        })?;
        if state == words.is_on || state == words.is_off {
            Ok(state)
        } else {
            Err(ActuatorFault::Identity(format!("its state is {state}, which is no state of this family")))
        }
    }

    fn set(&self, on: bool) -> Result<(), ActuatorFault> {
        let words = self.words();
        self.device.with(async |session| {
            self.known(session, &words).await?;
            session.set(&words.command, if on { words.on } else { words.off }).await
        })
    }
}

impl Actuator for Power {
    fn layer(&self) -> Layer {
        Layer::D
    }

    fn source(&self) -> String {
        format!("{} outlet {}", self.config.sys_name, self.config.outlet)
    }

    fn close(&mut self) -> Result<(), ActuatorFault> {
        self.set(false)
    }

    fn open(&mut self, _lease: &Lease) -> Result<(), ActuatorFault> {
        self.set(true)
    }

    fn renew(&mut self, _lease: &Lease) -> Result<(), ActuatorFault> {
        Ok(())
    }

    fn observe(&mut self) -> Reading {
        let words = self.words();
        match self.device.with(async |session| self.known(session, &words).await) {
            Ok(state) => {
                let (state, shown) = if state == words.is_off {
                    (LayerState::Closed, "off")
                } else {
                    (LayerState::Open, "on")
                };
                Reading { state, detail: format!("outlet {} is {shown}", self.config.outlet) }
            }
            Err(error) => Reading::unknown(kuramori_model::fault::chain(&error)),
        }
    }

    fn deadman(&self) -> Option<Duration> {
        None
    }
}
