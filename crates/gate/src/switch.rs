//! Layer C: a switch port, by SNMPv3 with authentication and privacy.
//!
//! The port is bound by its *name* on a device with a known *name* (and its alias, where one is set); the
//! index that SNMP needs is looked up anew each time, because a switch may renumber its ports. A SET's
//! answer is no evidence: the layer is closed when `ifAdminStatus` *and* `ifOperStatus` read so. The port
//! has no dead-man of its own.
//!
//! Objects: RFC 2863 (IF-MIB), RFC 3418 (`sysName`). Users and views: RFC 3414, RFC 3415.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use async_snmp::{
    AuthProtocol, Client, Oid, PrivProtocol, ResponseShapePolicy, Retry, UsmConfig, Value, WalkOptions, oid,
};
use kuramori_model::gate::{Layer, LayerState};
use serde::Deserialize;

use crate::{
    actuator::{Actuator, Lease, Reading},
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
    user: UsmConfig,
    runtime: tokio::runtime::Runtime,
}

impl Switch {
    /// Reads the passwords once: closing later needs no disk.
    pub fn new(config: SwitchConfig) -> Result<Self, ActuatorFault> {
        let fault = |what: String| ActuatorFault::Switch { address: config.address.to_string(), what };
        let secret = |path: &PathBuf| {
            fs_err::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|error| fault(error.to_string()))
        };
        let (auth, privacy) = (secret(&config.auth_password_file)?, secret(&config.priv_password_file)?);
        let user = UsmConfig::new(config.user.clone())
            .auth_priv(AuthProtocol::Sha256, auth.as_str(), PrivProtocol::Aes128, privacy.as_str())
            .map_err(|error| fault(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| fault(error.to_string()))?;
        Ok(Self { config, user, runtime })
    }

    fn fault(&self, what: &dyn std::fmt::Display) -> ActuatorFault {
        ActuatorFault::Switch { address: self.config.address.to_string(), what: what.to_string() }
    }

    /// A session made anew each time: a restarted agent has new engine boots, and an old session would fail.
    async fn session(&self) -> Result<Session<'_>, ActuatorFault> {
        let retry = Retry::fixed(2, Duration::from_millis(100)).map_err(|error| self.fault(&error))?;
        let client = Client::builder(self.config.address, self.user.clone())
            .response_shape_policy(ResponseShapePolicy::Strict)
            .request_timeout(Duration::from_millis(self.config.timeout_ms))
            .retry(retry)
            .connect()
            .await
            .map_err(|error| self.fault(&error))?;
        let session = Session { switch: self, client };
        let name = session.text(&oid!(1, 3, 6, 1, 2, 1, 1, 5, 0)).await?;
        if name != self.config.sys_name {
            return Err(ActuatorFault::Identity(format!(
                "sysName is `{name}`, not `{}`",
                self.config.sys_name
            )));
        }
        Ok(session)
    }

    fn set(&self, status: i32) -> Result<(), ActuatorFault> {
        self.runtime.block_on(async {
            let session = self.session().await?;
            let index = session.port().await?;
            let object = oid!(1, 3, 6, 1, 2, 1, 2, 2, 1, 7).child(index);
            session
                .client
                .set(&object, Value::Integer(status))
                .await
                .map(drop)
                .map_err(|error| self.fault(&error))
        })
    }

    fn read(&self) -> Result<Reading, ActuatorFault> {
        self.runtime.block_on(async {
            let session = self.session().await?;
            let index = session.port().await?;
            let admin = session.number(&oid!(1, 3, 6, 1, 2, 1, 2, 2, 1, 7).child(index)).await?;
            let oper = session.number(&oid!(1, 3, 6, 1, 2, 1, 2, 2, 1, 8).child(index)).await?;
            let state = match (admin, oper) {
                // down; down, notPresent or lowerLayerDown
                (DOWN, 2 | 6 | 7) => LayerState::Closed,
                (UP, 1) => LayerState::Open,
                _ => LayerState::Unknown,
            };
            Ok(Reading {
                state,
                detail: format!("ifIndex {index}, ifAdminStatus {admin}, ifOperStatus {oper}"),
            })
        })
    }
}

struct Session<'a> {
    switch: &'a Switch,
    client: Client,
}

impl Session<'_> {
    async fn value(&self, object: &Oid) -> Result<Value, ActuatorFault> {
        let answer = self.client.get(object).await.map_err(|error| self.switch.fault(&error))?;
        let one = answer.single().ok_or_else(|| self.switch.fault(&"its answer has another shape"))?;
        Ok(one.value.clone())
    }

    async fn text(&self, object: &Oid) -> Result<String, ActuatorFault> {
        match self.value(object).await? {
            Value::OctetString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            other => Err(self.switch.fault(&format!("{object} is {other:?}, not a text"))),
        }
    }

    async fn number(&self, object: &Oid) -> Result<i32, ActuatorFault> {
        match self.value(object).await? {
            Value::Integer(number) => Ok(number),
            other => Err(self.switch.fault(&format!("{object} is {other:?}, not a number"))),
        }
    }

    /// The index of the configured port: exactly one `ifName` must be it.
    async fn port(&self) -> Result<u32, ActuatorFault> {
        let config = &self.switch.config;
        let column = oid!(1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 1);
        let mut walk = self
            .client
            .walk_with(column.clone(), WalkOptions::default())
            .map_err(|error| self.switch.fault(&error))?;
        let mut found = Vec::new();
        while let Some(one) = walk.next().await {
            let one = one.map_err(|error| self.switch.fault(&error))?;
            if let Value::OctetString(name) = &one.value
                && name.as_ref() == config.if_name.as_bytes()
                && let Some(index) = one.oid.arcs().last()
            {
                found.push(*index);
            }
        }
        let [index] = found.as_slice() else {
            let what = format!("{} ports have the ifName `{}`", found.len(), config.if_name);
            return Err(ActuatorFault::Identity(what));
        };
        if let Some(alias) = &config.if_alias {
            let read = self.text(&oid!(1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 18).child(*index)).await?;
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
