//! Debian's Samba in a host: a standalone server with users of its own, or a member of the hospital's domain,
//! which asks the domain controller about everybody.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use super::directory::{DOMAIN, Desk, REALM};
use crate::{
    error::{LabError, Result},
    lab::Lab,
    process::Process,
    program::Program,
    role::Role,
};

/// A server of one host; `process` is its name in the lab's register.
#[derive(Debug, Clone, Copy)]
pub(super) struct Samba<'lab> {
    pub(super) lab: &'lab Lab,
    pub(super) role: Role,
    pub(super) process: &'static str,
    /// The domain that it is a member of.
    pub(super) domain: Option<Desk<'lab>>,
}

impl Samba<'_> {
    fn folder(self) -> PathBuf {
        self.lab.host(self.role).folder().join("samba")
    }

    /// Its configuration file.
    pub(super) fn config(self) -> PathBuf {
        self.folder().join("smb.conf")
    }

    /// Writes configuration and users. A user is a name, a number that is none of the machine's, and the
    /// [secret](Lab::secret) with the password; `shares` are sections of `smb.conf`.
    pub(super) fn create(self, users: &[(&str, u32, &str)], shares: &str) -> Result<()> {
        let samba = self.folder();
        for name in ["private", "lock", "state", "cache", "run", "ncalrpc", "log"] {
            fs_err::create_dir_all(samba.join(name))?;
        }
        fs_err::write(self.config(), format!("{}{shares}", self.global()))?;
        // This host's users: the machine's and these, seen by this host's programs alone.
        let (mut passwd, mut group) =
            (fs_err::read_to_string("/etc/passwd")?, fs_err::read_to_string("/etc/group")?);
        for (name, id, _) in users {
            let _ = writeln!(passwd, "{name}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin");
            let _ = writeln!(group, "{name}:x:{id}:");
        }
        fs_err::write(samba.join("passwd"), passwd)?;
        fs_err::write(samba.join("group"), group)?;
        if self.domain.is_some() {
            return Ok(());
        }
        for (name, _, secret) in users {
            let password = self.lab.secret(secret)?;
            let add = self
                .program("pdbedit")
                .args(["-a", "-t", "-u", name])
                .input(format!("{password}\n{password}\n"));
            self.lab.host(self.role).run(&add)?;
        }
        Ok(())
    }

    /// Takes away everything that an earlier server of this host wrote.
    pub(super) fn remove(self) -> Result<()> {
        Ok(fs_err::remove_dir_all(self.folder())?)
    }

    /// Makes the server a member of its domain.
    pub(super) fn join(self, administrator: &str) -> Result<()> {
        let Some(desk) = self.domain else { return Ok(()) };
        desk.prepare()?;
        let join = self
            .program("net")
            .args(["ads", "join", "--no-dns-updates", "-U"])
            .arg(format!("Administrator%{administrator}"));
        self.lab.host(self.role).run(&join).map(drop)
    }

    fn global(self) -> String {
        let at = |name: &str| self.folder().join(name).display().to_string();
        let standing = if self.domain.is_some() {
            // Accounts of the domain are on this host who they are by name; there are no others.
            format!(
                "server role = member server\n security = ads\n realm = {REALM}\n workgroup = {DOMAIN}\n\
                 \x20kerberos method = secrets only\n idmap config * : backend = tdb\n\
                 \x20idmap config * : range = 3000000-3999999\n idmap config {DOMAIN} : backend = nss\n\
                 \x20idmap config {DOMAIN} : range = 61000-61999"
            )
        } else {
            format!("server role = standalone server\n workgroup = {DOMAIN}")
        };
        // A member's programs find each other where they are built to look, in a folder of this host alone.
        let meeting = if self.domain.is_some() {
            String::new()
        } else {
            format!(" pid directory = {}\n ncalrpc dir = {}\n", at("run"), at("ncalrpc"))
        };
        format!(
            "[global]\n {standing}\n netbios name = {}\n\
             \x20disable netbios = yes\n smb ports = 445\n interfaces = {}/24\n bind interfaces only = yes\n\
             \x20server min protocol = SMB2_10\n map to guest = never\n\
             \x20passdb backend = tdbsam:{}\n private dir = {}\n lock directory = {}\n state directory = {}\n\
             \x20cache directory = {}\n{meeting} log file = {}\n max log size = 0\n\
             \x20load printers = no\n disable spoolss = yes\n printcap name = /dev/null\n usershare max shares = 0\n\
             \x20unix charset = UTF-8\n",
            self.role.name().to_uppercase(),
            self.role.address(),
            at("private/passdb.tdb"),
            at("private"),
            at("lock"),
            at("state"),
            at("cache"),
            at("log/smbd"),
        )
    }

    fn program(self, name: &str) -> Program {
        let program = match self.domain {
            Some(desk) => desk.program(name),
            None => Program::new(name),
        };
        program
            .private(&self.folder().join("passwd"), Path::new("/etc/passwd"))
            .private(&self.folder().join("group"), Path::new("/etc/group"))
            .arg(format!("--configfile={}", self.config().display()))
    }

    /// The user as the share's rules name him.
    pub(super) fn user(self, name: &str) -> String {
        if self.domain.is_some() { format!("{DOMAIN}\\{name}") } else { name.to_owned() }
    }

    /// Starts the server; a member's way to its domain controller first.
    pub(super) fn serve(self) -> Result<Process> {
        let host = self.lab.host(self.role);
        let way = format!("winbindd-{}", self.role);
        if self.domain.is_some() && self.lab.process(&way)?.is_none() {
            let winbindd = self.program("winbindd").args(["--foreground", "--no-process-group"]);
            let mut process = host.spawn(&way, &winbindd, &self.lab.log(&way))?;
            let trust = self.program("net").args(["ads", "testjoin"]);
            process.wait_until("the member knows its domain", Duration::from_mins(1), || {
                Ok((host.try_run(&trust)?.status == Some(0)).then_some(()))
            })?;
        }
        let server = self.program("smbd").args(["--foreground", "--no-process-group"]);
        host.spawn(self.process, &server, &self.lab.log(self.process))
    }

    /// One command of `smbclient` from the site server; gives back what it wrote.
    pub(super) fn ask(self, share: &str, user: &str, secret: &str, command: &str) -> Result<String> {
        self.ask_within(None, share, user, secret, command)
    }

    /// The same; no answer within so many seconds is a refusal.
    pub(super) fn ask_within(
        self,
        seconds: Option<u32>,
        share: &str,
        user: &str,
        secret: &str,
        command: &str,
    ) -> Result<String> {
        let login = self.folder().join(format!("{user}.login"));
        if !login.exists() {
            let password = self.lab.secret(secret)?;
            fs_err::write(&login, format!("username = {user}\npassword = {password}\ndomain = {DOMAIN}\n"))?;
        }
        let client = Program::new("smbclient").args(["-s", "/dev/null", "-A"]).arg(&login).args([
            &format!("//{}/{share}", self.role.address()),
            "-c",
            command,
        ]);
        let client = seconds.map_or(client.clone(), |seconds| client.within(seconds));
        let outcome = self.lab.host(Role::Srv).try_run(&client)?;
        let text = outcome.text();
        // smbclient reports some refusals on its output and ends well.
        if outcome.status == Some(0)
            && !text.contains("NT_STATUS_")
            && !outcome.complaint().contains("NT_STATUS_")
        {
            return Ok(text);
        }
        Err(LabError::Answer { server: "Samba", answer: format!("{text}{}", outcome.complaint()) })
    }
}
