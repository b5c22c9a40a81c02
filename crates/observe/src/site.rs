//! What the production side can see of the vault's gate by itself, for the console.
//!
//! Nothing here comes from the vault: a closed vault says nothing. Each figure names its source and time,
//! and a figure that could not be had says why instead of keeping an old value.

use std::{
    net::{SocketAddr, SocketAddrV4},
    path::PathBuf,
    time::Duration,
};

use async_snmp::{
    AuthProtocol, Client, Oid, PrivProtocol, ResponseShapePolicy, Retry, UsmConfig, Value, oid,
};
use jiff::Timestamp;
use kuramori_model::{clock::Clock, fault::chain};
use serde::{Deserialize, Serialize};

use crate::{
    fault::ObserveFault,
    probe::{Answer, From, probe},
};

/// A figure with its source and time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure<T> {
    /// The figure, if it could be had.
    pub value: Option<T>,
    /// Why not.
    pub missing: Option<String>,
    /// Whom we asked.
    pub source: String,
    /// When we asked, wall clock.
    pub at: Timestamp,
}

/// The switch port as the site may read it. The user must have no write view.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortReader {
    /// The agent's address on the production side.
    pub address: SocketAddr,
    /// The SNMPv3 user.
    pub user: String,
    /// A file with its authentication password (SHA-256).
    pub auth_password_file: PathBuf,
    /// A file with its privacy password (AES-128).
    pub priv_password_file: PathBuf,
    /// `sysName` of the device.
    pub sys_name: String,
    /// `ifName` of the vault's port.
    pub if_name: String,
    /// How long one answer may take, in milliseconds.
    #[serde(default = "one_second")]
    pub timeout_ms: u64,
}

const fn one_second() -> u64 {
    1000
}

/// What the site watches.
#[derive(Debug, Clone)]
pub struct Site {
    /// Addresses and ports of the vault that must never answer.
    pub vault: Vec<SocketAddrV4>,
    /// Where the probes start.
    pub from: From,
    /// How long an answer may take.
    pub patience: Duration,
    /// The switch port, if the site may read it.
    pub port: Option<PortReader>,
}

/// The switch port's figures, as RFC 2863 numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// `ifAdminStatus`: 1 up, 2 down.
    pub admin: i32,
    /// `ifOperStatus`: 1 up, 2 down, 6 not present, 7 lower layer down.
    pub oper: i32,
    /// `ifHCInOctets`, if the view holds it.
    pub in_octets: Option<u64>,
    /// `ifHCOutOctets`, if the view holds it.
    pub out_octets: Option<u64>,
}

impl Port {
    /// Administratively down and really down.
    pub const fn is_down(&self) -> bool {
        self.admin == 2 && matches!(self.oper, 2 | 6 | 7)
    }
}

/// One look from the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteView {
    /// Which of the vault's addresses answered; empty is what should be.
    pub answered: Figure<Vec<SocketAddrV4>>,
    /// The port; none if the site may not read it.
    pub port: Option<Figure<Port>>,
}

/// Looks once. Blocks for at most the patience and a few SNMP timeouts; call it from a blocking thread.
pub fn look(site: &Site, clock: &dyn Clock) -> SiteView {
    let at = clock.now();
    let answers = probe(&site.from, &site.vault, site.patience, clock);
    let unknown = answers.iter().find_map(|answer| match answer {
        Answer::Unknown(why) => Some(why.clone()),
        _ => None,
    });
    let open = site.vault.iter().zip(&answers).filter(|(_, answer)| **answer == Answer::Answered);
    let open: Vec<SocketAddrV4> = open.map(|(target, _)| *target).collect();
    let answered = Figure {
        // An answer is a fact even if another probe could not be made.
        value: (unknown.is_none() || !open.is_empty()).then_some(open),
        missing: unknown,
        source: "probe from the production side".to_owned(),
        at,
    };
    let port = site.port.as_ref().map(|reader| {
        let at = clock.now();
        let source = format!("SNMP {} {}", reader.sys_name, reader.if_name);
        match read_port(reader) {
            Ok(port) => Figure { value: Some(port), missing: None, source, at },
            Err(error) => Figure { value: None, missing: Some(chain(&error)), source, at },
        }
    });
    SiteView { answered, port }
}

/// Reads the port with GETs only.
pub fn read_port(reader: &PortReader) -> Result<Port, ObserveFault> {
    let fault = |what: String| ObserveFault::Switch { address: reader.address.to_string(), what };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| fault(error.to_string()))?;
    runtime.block_on(async {
        let secret = |path: &PathBuf| {
            fs_err::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|error| fault(error.to_string()))
        };
        let user = UsmConfig::new(reader.user.clone())
            .auth_priv(
                AuthProtocol::Sha256,
                secret(&reader.auth_password_file)?,
                PrivProtocol::Aes128,
                secret(&reader.priv_password_file)?,
            )
            .map_err(|error| fault(error.to_string()))?;
        let client = Client::builder(reader.address, user)
            .response_shape_policy(ResponseShapePolicy::Strict)
            .request_timeout(Duration::from_millis(reader.timeout_ms))
            .retry(Retry::fixed(1, Duration::from_millis(100)).map_err(|error| fault(error.to_string()))?)
            .connect()
            .await
            .map_err(|error| fault(error.to_string()))?;
        let get = async |object: Oid| match client.get(&object).await {
            Ok(answer) => {
                answer.single().map(|one| one.value.clone()).ok_or_else(|| fault("another shape".to_owned()))
            }
            Err(error) => Err(fault(error.to_string())),
        };
        match get(oid!(1, 3, 6, 1, 2, 1, 1, 5, 0)).await? {
            Value::OctetString(name) if name.as_ref() == reader.sys_name.as_bytes() => {}
            other => return Err(fault(format!("sysName is {other:?}, not `{}`", reader.sys_name))),
        }
        let mut names =
            client.walk(oid!(1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 1)).map_err(|error| fault(error.to_string()))?;
        let mut index = None;
        while let Some(one) = names.next().await {
            let one = one.map_err(|error| fault(error.to_string()))?;
            if matches!(&one.value, Value::OctetString(name) if name.as_ref() == reader.if_name.as_bytes()) {
                index = one.oid.arcs().last().copied();
            }
        }
        let index = index.ok_or_else(|| fault(format!("no port has the ifName `{}`", reader.if_name)))?;
        let number = async |object: Oid| match get(object.clone()).await? {
            Value::Integer(number) => Ok(number),
            other => Err(fault(format!("{object} is {other:?}"))),
        };
        let count = async |object: Oid| match get(object).await {
            Ok(Value::Counter64(number)) => Some(number),
            _ => None,
        };
        Ok(Port {
            admin: number(oid!(1, 3, 6, 1, 2, 1, 2, 2, 1, 7).child(index)).await?,
            oper: number(oid!(1, 3, 6, 1, 2, 1, 2, 2, 1, 8).child(index)).await?,
            in_octets: count(oid!(1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 6).child(index)).await,
            out_octets: count(oid!(1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 10).child(index)).await,
        })
    })
}
