//! Layer C: a switch port, by SNMPv3 with authentication and privacy.
//!
//! The port is bound by its *name* on a device with a known *name* (and its alias, where one is set); the
//! index that SNMP needs is looked up anew each time, because a switch may renumber its ports. A SET's
//! answer is no evidence: the layer is closed when `ifAdminStatus` *and* `ifOperStatus` read so. The port
//! has no dead-man of its own.
//!
//! Objects: RFC 2863 (IF-MIB), RFC 3418 (`sysName`). Users and views: RFC 3414, RFC 3415.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use async_snmp::oid;
use kuramori_model::gate::{Layer, LayerState};
use serde::Deserialize;

use crate::{
    actuator::{Actuator, Lease, Reading},
    driver::snmp::{Device, Session},
    fault::ActuatorFault,
};

const UP: i32 = 1;
const DOWN: i32 = 2;

/// The port and the way to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchConfig {
    /// The agent's address on the management network; no name, so that closing needs no name service.
    pub address: SocketAddr,
    /// The SNMPv3 user that may set this one port.
    pub user: String,
    /// A file with its authentication password (SHA-256).
    pub auth_password_file: PathBuf,
    /// A file with its privacy password (AES-128).
    pub priv_password_file: PathBuf,
    /// `sysName` of the device.
    pub sys_name: String,
    /// `ifName` of the port.
    pub if_name: String,
    /// `ifAlias` of the port, if one is set.
    #[serde(default)]
    pub if_alias: Option<String>,
    /// How long one answer may take, in milliseconds.
    #[serde(default = "one_second")]
    pub timeout_ms: u64,
}

const fn one_second() -> u64 {
    1000
}

/// The layer.
#[derive(Debug)]
pub struct Switch {
    config: SwitchConfig,
    device: Device,
    far_end_down: bool,
}

impl Switch {
    /// Reads the passwords once: closing later needs no disk.
    pub fn new(config: SwitchConfig) -> Result<Self, ActuatorFault> {
        let files = (&config.auth_password_file, &config.priv_password_file);
        let device = Device::new(config.address, &config.user, files, &config.sys_name, config.timeout_ms)?;
        Ok(Self { config, device, far_end_down: false })
    }

    /// The interface at the port's other end is down until the port is open ([`super::link`]): the port counts as
    /// open without a link.
    #[must_use]
    pub const fn behind_a_link(mut self) -> Self {
        self.far_end_down = true;
        self
    }

    fn set(&self, status: i32) -> Result<(), ActuatorFault> {
        self.device.with(async |session| {
            let index = self.port(session).await?;
            session.set(&oid!(1, 3, 6, 1, 2, 1, 2, 2, 1, 7).child(index), status).await
        })
    }

    fn read(&self) -> Result<Reading, ActuatorFault> {
        self.device.with(async |session| {
            let index = self.port(session).await?;
            let admin = session.number(&oid!(1, 3, 6, 1, 2, 1, 2, 2, 1, 7).child(index)).await?;
            let oper = session.number(&oid!(1, 3, 6, 1, 2, 1, 2, 2, 1, 8).child(index)).await?;
            let state = match (admin, oper) {
                // down; down, notPresent or lowerLayerDown
                (DOWN, 2 | 6 | 7) => LayerState::Closed,
                (UP, 1) => LayerState::Open,
                (UP, 2 | 7) if self.far_end_down => LayerState::Open,
                _ => LayerState::Unknown,
            };
            Ok(Reading {
                state,
                detail: format!("ifIndex {index}, ifAdminStatus {admin}, ifOperStatus {oper}"),
            })
        })
    }

    /// The index of the configured port: exactly one `ifName` must be it.
    async fn port(&self, session: &Session<'_>) -> Result<u32, ActuatorFault> {
        let config = &self.config;
        let found = session.rows(&oid!(1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 1), &config.if_name).await?;
        let [index] = found.as_slice() else {
            let what = format!("{} ports have the ifName `{}`", found.len(), config.if_name);
            return Err(ActuatorFault::Identity(what));
        };
        if let Some(alias) = &config.if_alias {
            let read = session.text(&oid!(1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 18).child(*index)).await?;
            if read != *alias {
                return Err(ActuatorFault::Identity(format!("ifAlias is `{read}`, not `{alias}`")));
            }
        }
        Ok(*index)
    }
}

impl Actuator for Switch {
    fn layer(&self) -> Layer {
        Layer::C
    }

    fn source(&self) -> String {
        format!("{} {}", self.config.sys_name, self.config.if_name)
    }

    fn close(&mut self) -> Result<(), ActuatorFault> {
        self.set(DOWN)
    }

    fn open(&mut self, _lease: &Lease) -> Result<(), ActuatorFault> {
        self.set(UP)
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
