//! Layer D: the power of a system by its management controller's Redfish service (DMTF DSP0266).
//!
//! HTTP and TLS are spoken by `curl` in a process of its own, for the reason that the switch's SSH is: it is
//! far larger than what is trusted here. The controller is known by its public key, the system by its UUID:
//! the paths of a Redfish service are not portable, so they are walked from the root each time. The answer to
//! a reset says only that it was taken; the layer is closed when `PowerState` is read as `Off`. A controller
//! has no dead-man that we rely on.

use std::{fmt::Write, net::SocketAddr, path::PathBuf, time::Duration};

use kuramori_model::{
    clock::{Clock, SystemClock},
    gate::{Layer, LayerState},
};
use serde::Deserialize;
use serde_json::Value;

use super::program;
use crate::{
    actuator::{Actuator, Lease, Reading},
    fault::ActuatorFault,
};

/// The system and the way to its controller.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedfishConfig {
    /// The controller's address on the management network.
    pub address: SocketAddr,
    /// The account that may read and reset.
    pub user: String,
    /// A file with its password.
    pub password_file: PathBuf,
    /// SHA-256 of the controller's public key in base64, as `curl --pinnedpubkey sha256//…` wants it.
    pub public_key_sha256: String,
    /// `UUID` of the system.
    pub uuid: String,
    /// How long one answer may take, in milliseconds.
    #[serde(default = "two_seconds")]
    pub timeout_ms: u64,
    /// The program.
    #[serde(default = "curl_program")]
    pub program: String,
}

const fn two_seconds() -> u64 {
    2000
}

fn curl_program() -> String {
    "curl".to_owned()
}

/// An order to switch on shows its effect within this time (seen: 5 s after it was acknowledged).
const ON_ITS_WAY: Duration = Duration::from_secs(6);

/// The layer.
#[derive(Debug)]
pub struct Redfish {
    config: RedfishConfig,
    password: String,
    /// When this process told it to switch on, until it has shown it or has had time enough to.
    told_on: Option<Duration>,
    /// This process has told it to switch off. A predecessor may have died right after it ordered the opposite.
    told_off: bool,
}

/// The one system of the configured UUID.
struct System {
    power: String,
    reset: Option<String>,
}

/// A path of the service that is safe in a line of curl's configuration.
fn path(value: &Value) -> Option<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_-.".contains(c);
    value.as_str().filter(|path| path.starts_with("/redfish/v1/") && path.chars().all(plain))
}

impl Redfish {
    /// Reads the password once: closing later needs no disk.
    pub fn new(config: RedfishConfig) -> Result<Self, ActuatorFault> {
        let plain = |text: &str, more: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let wrong = [
            ("user", plain(&config.user, "._-")),
            ("public_key_sha256", plain(&config.public_key_sha256, "+/=")),
            ("uuid", plain(&config.uuid, "-")),
        ];
        if let Some((key, _)) = wrong.into_iter().find(|(_, good)| !good) {
            return Err(ActuatorFault::Unusable(format!("`{key}` is not what it must be")));
        }
        let password = fs_err::read_to_string(&config.password_file)
            .map_err(|error| ActuatorFault::Unusable(error.to_string()))?;
        let password = password.trim().replace('\\', "\\\\").replace('"', "\\\"");
        if password.chars().any(char::is_control) {
            return Err(ActuatorFault::Unusable("the password is more than a line".to_owned()));
        }
        Ok(Self { config, password, told_on: None, told_off: false })
    }

    fn fault(&self, what: &str) -> ActuatorFault {
        ActuatorFault::Controller { address: self.config.address.to_string(), what: what.to_owned() }
    }

    /// One request. Everything secret goes over standard input.
    fn request(&self, path: &str, body: Option<&str>) -> Result<Value, ActuatorFault> {
        let c = &self.config;
        let limit = Duration::from_millis(c.timeout_ms);
        // The key is pinned, so no authority is asked: controllers sign for themselves.
        let mut text = format!(
            "url = \"https://{}{path}\"\nuser = \"{}:{}\"\npinnedpubkey = \"sha256//{}\"\ninsecure\nsilent\nshow-error\nfail\n\
             noproxy = \"*\"\nproto = \"=https\"\nmax-filesize = 1000000\nmax-time = {}\n",
            c.address,
            c.user,
            self.password,
            c.public_key_sha256,
            limit.as_secs_f64()
        );
        if let Some(body) = body {
            let body = body.replace('"', "\\\"");
            text += "header = \"Content-Type: application/json\"\n";
            let _ = writeln!(text, "data = \"{body}\"");
        }
        let arguments = ["-q", "-K", "-"];
        let answer = program::run(&c.program, &arguments, &text, limit + Duration::from_secs(1));
        let answer = answer.map_err(|error| match error {
            ActuatorFault::Program { stderr, .. } if stderr.contains("pinned public key") => {
                ActuatorFault::Identity("the controller's public key is not the pinned one".to_owned())
            }
            ActuatorFault::Program { stderr, .. } => self.fault(&stderr),
            other => other,
        })?;
        if answer.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&answer).map_err(|_| self.fault("its answer is not JSON"))
    }

    fn system(&self) -> Result<System, ActuatorFault> {
        let list = self.request("/redfish/v1/Systems", None)?;
        let mut found = Vec::new();
        for member in list["Members"].as_array().map_or(&[][..], Vec::as_slice).iter().take(64) {
            let Some(path) = path(&member["@odata.id"]) else { continue };
            let system = self.request(path, None)?;
            if system["UUID"].as_str().is_some_and(|uuid| uuid.eq_ignore_ascii_case(&self.config.uuid)) {
                found.push(system);
            }
        }
        let [system] = found.as_slice() else {
            let what = format!("{} systems have the UUID {}", found.len(), self.config.uuid);
            return Err(ActuatorFault::Identity(what));
        };
        let target = &system["Actions"]["#ComputerSystem.Reset"]["target"];
        Ok(System {
            power: system["PowerState"].as_str().unwrap_or("nothing").to_owned(),
            reset: path(target).map(str::to_owned),
        })
    }

    fn reset(&self, system: &System, kind: &str) -> Result<(), ActuatorFault> {
        let target = system.reset.as_ref().ok_or_else(|| self.fault("the system has no reset"))?;
        self.request(target, Some(&format!("{{\"ResetType\":\"{kind}\"}}"))).map(drop)
    }
}

impl Redfish {
    /// Whether an order to switch on may still be under way.
    fn may_come_on(&mut self, system: &System) -> bool {
        let pending = self.told_on.is_some_and(|at| SystemClock.boot().saturating_sub(at) < ON_ITS_WAY);
        if system.power == "On" || !pending {
            self.told_on = None;
        }
        self.told_on.is_some()
    }
}

impl Actuator for Redfish {
    fn layer(&self) -> Layer {
        Layer::D
    }

    fn source(&self) -> String {
        format!("{} {}", self.config.address, self.config.uuid)
    }

    fn close(&mut self) -> Result<(), ActuatorFault> {
        let system = self.system()?;
        // Some controllers refuse what is so already. But one that was told "on" and still says "off" may be on its
        // way, also past a "off" that it took in between: it is told again until it has had its time.
        let off = system.power == "Off" && !self.may_come_on(&system);
        if off && self.told_off {
            return Ok(());
        }
        let told = self.reset(&system, "ForceOff");
        self.told_off = off || told.is_ok();
        if off { Ok(()) } else { told }
    }

    fn open(&mut self, _lease: &Lease) -> Result<(), ActuatorFault> {
        let system = self.system()?;
        if system.power == "On" {
            return Ok(());
        }
        self.told_on = Some(SystemClock.boot());
        self.reset(&system, "On")
    }

    fn renew(&mut self, _lease: &Lease) -> Result<(), ActuatorFault> {
        Ok(())
    }

    fn observe(&mut self) -> Reading {
        match self.system() {
            Ok(system) if self.may_come_on(&system) => {
                Reading::unknown(format!("told to switch on a moment ago, PowerState {}", system.power))
            }
            Ok(system) => Reading {
                state: match system.power.as_str() {
                    "Off" => LayerState::Closed,
                    "On" => LayerState::Open,
                    _ => LayerState::Unknown,
                },
                detail: format!("PowerState {}", system.power),
            },
            Err(error) => Reading::unknown(kuramori_model::fault::chain(&error)),
        }
    }

    fn deadman(&self) -> Option<Duration> {
        None
    }
}
