//! One domain controller: the first one of the domain, or the one that a restore makes.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::{DOMAIN, REALM, desk::Desk};
use crate::{
    error::{LabError, Result},
    lab::{Host, Lab},
    process::Process,
    program::Program,
    role::Role,
};

const LOGIN: &str = include_str!("login.py");
const PORTRAIT: &str = include_str!("portrait.py");
/// The names under which members and clients look for a controller; the rest of the list is for Windows' own
/// replication between several of them.
const NAMES: &str = "A ${HOSTNAME} $IP\nA ${DNSDOMAIN} $IP\n\
    SRV _ldap._tcp.${DNSDOMAIN} ${HOSTNAME} 389\nSRV _ldap._tcp.dc._msdcs.${DNSDOMAIN} ${HOSTNAME} 389\n\
    SRV _ldap._tcp.pdc._msdcs.${DNSDOMAIN} ${HOSTNAME} 389\n\
    SRV _kerberos._tcp.${DNSDOMAIN} ${HOSTNAME} 88\nSRV _kerberos._udp.${DNSDOMAIN} ${HOSTNAME} 88\n\
    SRV _kerberos._tcp.dc._msdcs.${DNSDOMAIN} ${HOSTNAME} 88\n";

/// A controller in a host.
#[derive(Debug, Clone)]
pub(in crate::services) struct Controller<'lab> {
    pub(in crate::services) lab: &'lab Lab,
    pub(in crate::services) role: Role,
    /// Its name in the domain; a restored one has to have another than any before it.
    pub(in crate::services) name: &'static str,
    /// Its name in the lab's register.
    pub(in crate::services) process: &'static str,
    /// Everything that it writes.
    pub(in crate::services) folder: PathBuf,
}

impl<'lab> Controller<'lab> {
    pub(in crate::services) fn host(&self) -> Host<'lab> {
        self.lab.host(self.role)
    }

    pub(in crate::services) fn desk(&self) -> Desk<'lab> {
        Desk { lab: self.lab, role: self.role, controller: self.role.address() }
    }

    /// Its configuration.
    pub(in crate::services) fn config(&self) -> PathBuf {
        self.folder.join("etc/smb.conf")
    }

    /// One of Samba's programs on it.
    pub(in crate::services) fn program(&self, name: &str) -> Program {
        self.desk().program(name).env("SMB_CONF_PATH", self.config())
    }

    /// Whole smb.conf. The paths are those that `samba-tool` gives a controller in a folder of its own.
    pub(in crate::services) fn text(&self) -> String {
        let at = |name: &str| self.folder.join(name).display().to_string();
        format!(
            "[global]\n netbios name = {name}\n realm = {REALM}\n workgroup = {DOMAIN}\n\
             \x20server role = active directory domain controller\n\
             \x20server services = s3fs, rpc, ldap, cldap, kdc, drepl, winbindd, kcc, dns\n\
             \x20dns forwarder =\n prefork children = 1\n\
             \x20interfaces = 127.0.0.1/8 {address}/24\n bind interfaces only = yes\n\
             \x20disable netbios = yes\n smb ports = 445\n tls enabled = no\n map to guest = never\n\
             \x20private dir = {private}\n lock directory = {lock}\n state directory = {state}\n\
             \x20cache directory = {cache}\n binddns dir = {bind}\n log file = {log}\n max log size = 0\n\
             \x20load printers = no\n disable spoolss = yes\n printcap name = /dev/null\n\
             [sysvol]\n path = {state}/sysvol\n read only = no\n\
             [netlogon]\n path = {state}/sysvol/{realm}/scripts\n read only = no\n",
            name = self.name,
            address = self.role.address(),
            private = at("private"),
            lock = self.folder.display(),
            state = at("state"),
            cache = at("cache"),
            bind = at("bind-dns"),
            log = at("log/samba"),
            realm = REALM.to_lowercase(),
        )
    }

    /// Writes the configuration and the folders that Samba does not make.
    pub(in crate::services) fn configure(&self) -> Result<()> {
        self.desk().prepare()?;
        for name in ["etc", "log", "cache", "private", "state", "bind-dns"] {
            fs_err::create_dir_all(self.folder.join(name))?;
        }
        Ok(fs_err::write(self.config(), self.text())?)
    }

    /// Starts the controller and waits until it lets `login` in from `from`. A restored one has to be made known
    /// to the domain's own name service.
    pub(in crate::services) fn start(&self, login: (&str, &str), from: Role, new: bool) -> Result<Process> {
        // Under which names tickets for it are given; in a Debian service a task of Samba's does this in time.
        let names = self.program("samba_spnupdate");
        self.host().run(&names.arg(format!("--configfile={}", self.config().display())))?;
        let server = self
            .program("samba")
            .args(["--foreground", "--no-process-group"])
            .arg(format!("--configfile={}", self.config().display()));
        let mut process = self.host().spawn(self.process, &server, &self.lab.log(self.process))?;
        // Name service, RPC, Kerberos, LDAP: whoever asks earlier waits for his own timeouts.
        let answers = |port: u16| std::net::TcpStream::connect((self.role.address(), port)).is_ok();
        process.wait_until("the domain controller answers", Duration::from_mins(3), || {
            Ok(self.host().inside(|| [53, 135, 88, 389].into_iter().all(answers))?.then_some(()))
        })?;
        let mut known = !new;
        process.wait_until("the domain controller lets people in", Duration::from_mins(3), || {
            known = known || self.announce().is_ok();
            Ok(known.then(|| self.login(login, from).ok()).flatten())
        })?;
        Ok(process)
    }

    /// Writes the restored controller's addresses into the domain's own name service.
    pub(in crate::services) fn announce(&self) -> Result<()> {
        let list = self.folder.join("names");
        fs_err::write(&list, NAMES)?;
        let address = self.role.address().to_string();
        let update = self
            .program("samba_dnsupdate")
            .arg(format!("--configfile={}", self.config().display()))
            .args(["--use-samba-tool", "--current-ip", &address, "--rpc-server-ip", &address])
            .arg("--update-list")
            .arg(&list);
        self.host().run(&update).map(drop)
    }

    /// Somebody logs in by Kerberos from a host and counts the accounts over LDAP.
    pub(in crate::services) fn login(&self, login: (&str, &str), from: Role) -> Result<u64> {
        let ask = self.question(login, from)?;
        self.answer(&ask, from)
    }

    /// The same; no answer soon is a refusal.
    pub(in crate::services) fn login_soon(&self, login: (&str, &str), from: Role) -> Result<u64> {
        let ask = self.question(login, from)?.within(crate::services::SOON);
        self.answer(&ask, from)
    }

    fn question(&self, (login, password): (&str, &str), from: Role) -> Result<Program> {
        let desk = Desk { lab: self.lab, role: from, controller: self.role.address() };
        desk.prepare()?;
        let server = format!("{}.{}", self.name.to_lowercase(), REALM.to_lowercase());
        Ok(desk
            .program("/usr/bin/python3")
            .args(["-c", LOGIN, &server, login, REALM, DOMAIN])
            .input(password))
    }

    fn answer(&self, ask: &Program, from: Role) -> Result<u64> {
        let answer = self.lab.host(from).text(ask)?;
        answer.trim().parse().map_err(|_| LabError::Answer { server: "the domain controller", answer })
    }

    /// All that it knows, by Samba's own library, and the policies' files.
    pub(in crate::services) fn portrait(&self) -> Result<BTreeMap<String, String>> {
        let ask = self.program("/usr/bin/python3").args(["-c", PORTRAIT]).arg(self.config());
        let bytes = self.host().run(&ask)?;
        let mut all: BTreeMap<String, String> = serde_json::from_slice(&bytes)
            .map_err(|source| LabError::Format { path: self.folder.clone(), source })?;
        let sysvol = crate::manifest::Tree::of(&self.folder.join("state/sysvol"))?;
        all.extend(sysvol.files.into_iter().map(|(path, sum)| (format!("sysvol/{path}"), sum)));
        Ok(all)
    }
}
