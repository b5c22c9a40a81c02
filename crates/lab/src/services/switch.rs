//! The guarded switch: net-snmp's snmpd, which really owns `port2`, the vault's port.
//!
//! Two daemons with the same engine id stand for the one in a real switch: one on the management network,
//! which knows the user `gate` that may set `port2`'s `ifAdminStatus` and nothing else, and one on the
//! hospital's side, which only knows the reader `watch`. So a stolen read login cannot be tried for a write.

use std::{path::PathBuf, time::Duration};

use crate::{
    error::{LabError, Result},
    lab::{Host, Lab},
    network::{self, GUARDED_ALIAS},
    program::Program,
    role::{Role, SWITCH_MANAGEMENT},
};

/// The switch of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Switch<'lab> {
    lab: &'lab Lab,
}

/// Who asks the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// The vault's gate, on the management network: may open and close `port2`.
    Gate,
    /// The site's observer, on the hospital's side: may read.
    Watch,
}

impl Login {
    /// The SNMPv3 user (authPriv, SHA-256, AES-128).
    pub const fn user(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Watch => "watch",
        }
    }

    /// The [secret](Lab::secret) with its authentication password.
    pub const fn auth_secret(self) -> &'static str {
        match self {
            Self::Gate => "switch-gate-auth",
            Self::Watch => "switch-watch-auth",
        }
    }

    /// The [secret](Lab::secret) with its privacy password.
    pub const fn priv_secret(self) -> &'static str {
        match self {
            Self::Gate => "switch-gate-priv",
            Self::Watch => "switch-watch-priv",
        }
    }

    const fn process(self) -> &'static str {
        match self {
            Self::Gate => "snmpd-management",
            Self::Watch => "snmpd-hospital",
        }
    }
}

/// `ifAdminStatus`, without the index.
pub const IF_ADMIN_STATUS: &str = "1.3.6.1.2.1.2.2.1.7";
/// `ifOperStatus`, without the index.
pub const IF_OPER_STATUS: &str = "1.3.6.1.2.1.2.2.1.8";
/// `ifName`, without the index.
pub const IF_NAME: &str = "1.3.6.1.2.1.31.1.1.1.1";
/// `ifAlias`, without the index.
pub const IF_ALIAS: &str = "1.3.6.1.2.1.31.1.1.1.18";
/// `sysName.0`.
pub const SYS_NAME: &str = "1.3.6.1.2.1.1.5.0";
/// What `sysName.0` answers.
pub const SWITCH_NAME: &str = "lab-switch";

impl<'lab> Switch<'lab> {
    pub(crate) fn of(lab: &'lab Lab) -> Self {
        Self { lab }
    }

    fn host(self) -> Host<'lab> {
        self.lab.host(Role::Sw)
    }

    /// `port2`'s ifIndex.
    pub fn port_index(self) -> Result<u32> {
        let text = self.host().text(&Program::new("ip").args(["-o", "link", "show", "dev", "port2"]))?;
        let index = text.split(':').next().and_then(|n| n.trim().parse().ok());
        index.ok_or(LabError::Answer { server: "ip", answer: text })
    }

    /// Is `port2` up, by the kernel's word and not by SNMP?
    pub fn port_up(self) -> Result<bool> {
        let text = self.host().text(&Program::new("ip").args(["-o", "link", "show", "dev", "port2"]))?;
        let flags = text.split('<').nth(1).and_then(|rest| rest.split('>').next()).unwrap_or_default();
        Ok(flags.split(',').any(|flag| flag == "UP"))
    }

    /// Opens or closes `port2` at the device, past SNMP: for positive controls, and as an operator would.
    pub fn set_port(self, up: bool) -> Result<()> {
        network::set_link(self.lab.prefix(), Role::Sw, "port2", up)
    }

    /// A restart of the device: all ports as the startup configuration says (`port2` down), daemons anew.
    pub fn reboot(self) -> Result<()> {
        self.stop()?;
        self.set_port(false)?;
        self.start()
    }

    /// Stops both daemons; the port stays as it is, as with a device whose management hangs.
    pub fn stop(self) -> Result<()> {
        for login in [Login::Gate, Login::Watch] {
            if let Some(mut process) = self.lab.process(login.process())? {
                process.stop()?;
            }
        }
        Ok(())
    }

    /// Starts both daemons and waits until they answer.
    pub fn start(self) -> Result<()> {
        let index = self.port_index()?;
        for (login, address) in [(Login::Gate, SWITCH_MANAGEMENT), (Login::Watch, Role::Sw.address())] {
            let folder = self.host().folder().join(login.process());
            fs_err::create_dir_all(folder.join("state"))?;
            let config = folder.join("snmpd.conf");
            fs_err::write(&config, self.config(login, &address.to_string(), index)?)?;
            let daemon = Program::new("snmpd")
                .args(["-f", "-Lo", "-C", "-c"])
                .arg(&config)
                .env("SNMP_PERSISTENT_DIR", folder.join("state"))
                // Names of objects are not needed, and half of their definitions are not packaged.
                .env("MIBS", "");
            let mut process = self.host().spawn(login.process(), &daemon, &self.lab.log(login.process()))?;
            process.wait_until("the switch answers SNMP", Duration::from_mins(2), || {
                Ok(self.get(login, SYS_NAME).ok().filter(|name| name == SWITCH_NAME))
            })?;
        }
        Ok(())
    }

    fn config(self, login: Login, address: &str, index: u32) -> Result<String> {
        let user = login.user();
        let (auth, privacy) = (self.lab.secret(login.auth_secret())?, self.lab.secret(login.priv_secret())?);
        let write = if login == Login::Gate { "set" } else { "none" };
        // net-snmp keeps ifAlias (column 18) itself instead of asking the kernel.
        let alias = hex::encode(GUARDED_ALIAS);
        // The masks leave the column free and hold the row: all of ifEntry and ifXEntry, for port2 alone.
        Ok(format!(
            "agentaddress udp:{address}:161\nengineID kuramori-lab-switch\nsysName {SWITCH_NAME}\n\
             sysLocation server room\nsysContact nobody\ncreateUser {user} SHA-256 \"{auth}\" AES \"{privacy}\"\n\
             ifXTable .{index} 14:0 18:0x{alias} $\n\
             view set included .{IF_ADMIN_STATUS}.{index}\n\
             view port included .1.3.6.1.2.1.2.2.1.0.{index} ff:a0\n\
             view port included .1.3.6.1.2.1.31.1.1.1.0.{index} ff:d0\n\
             view port included .1.3.6.1.2.1.1\nview port included .1.3.6.1.6.3.10.2.1\n\
             group lab usm {user}\naccess lab \"\" usm priv exact port {write} none\n"
        ))
    }

    /// Reads one value by SNMPv3 with net-snmp's own client, from where that login belongs.
    pub fn get(self, login: Login, oid: &str) -> Result<String> {
        let (host, program) = self.client("snmpget", login)?;
        let answer = host.text(&program.arg("-Oqv").arg(address(login)).arg(format!(".{oid}")))?;
        Ok(answer.trim().trim_matches('"').to_owned())
    }

    /// Sets an integer by SNMPv3 with net-snmp's own client.
    pub fn set(self, login: Login, oid: &str, value: i32) -> Result<()> {
        let (host, program) = self.client("snmpset", login)?;
        let program = program.arg(address(login)).arg(format!(".{oid}")).args(["i", &value.to_string()]);
        host.run(&program).map(drop)
    }

    fn client(self, program: &str, login: Login) -> Result<(Host<'lab>, Program)> {
        let host = self.lab.host(match login {
            Login::Gate => Role::Vlt,
            Login::Watch => Role::Srv,
        });
        let state: PathBuf = self.host().folder().join("client");
        fs_err::create_dir_all(&state)?;
        let program = Program::new(program)
            .env("SNMP_PERSISTENT_DIR", &state)
            .env("SNMPCONFPATH", &state)
            .env("MIBS", "")
            .args([
                "-v3",
                "-l",
                "authPriv",
                "-t",
                "2",
                "-r",
                "1",
                "-u",
                login.user(),
                "-a",
                "SHA-256",
                "-x",
                "AES",
            ])
            .args([
                "-A",
                &self.lab.secret(login.auth_secret())?,
                "-X",
                &self.lab.secret(login.priv_secret())?,
            ]);
        Ok((host, program))
    }
}

fn address(login: Login) -> String {
    match login {
        Login::Gate => SWITCH_MANAGEMENT.to_string(),
        Login::Watch => Role::Sw.address().to_string(),
    }
}
