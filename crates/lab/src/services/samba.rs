//! Debian's Samba in a host: a standalone server with users of its own.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

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

    fn global(self) -> String {
        let at = |name: &str| self.folder().join(name).display().to_string();
        format!(
            "[global]\n server role = standalone server\n workgroup = HOSPITAL\n netbios name = {}\n\
             \x20disable netbios = yes\n smb ports = 445\n interfaces = {}/24\n bind interfaces only = yes\n\
             \x20server min protocol = SMB2_10\n map to guest = never\n\
             \x20passdb backend = tdbsam:{}\n private dir = {}\n lock directory = {}\n state directory = {}\n\
             \x20cache directory = {}\n pid directory = {}\n ncalrpc dir = {}\n log file = {}\n max log size = 0\n\
             \x20load printers = no\n disable spoolss = yes\n printcap name = /dev/null\n usershare max shares = 0\n\
             \x20unix charset = UTF-8\n",
            self.role.name().to_uppercase(),
            self.role.address(),
            at("private/passdb.tdb"),
            at("private"),
            at("lock"),
            at("state"),
            at("cache"),
            at("run"),
            at("ncalrpc"),
            at("log/smbd"),
        )
    }

    fn program(self, name: &str) -> Program {
        Program::new(name)
            .private(&self.folder().join("passwd"), Path::new("/etc/passwd"))
            .private(&self.folder().join("group"), Path::new("/etc/group"))
            .arg(format!("--configfile={}", self.config().display()))
    }

    /// Starts the server.
    pub(super) fn serve(self) -> Result<Process> {
        let server = self.program("smbd").args(["--foreground", "--no-process-group"]);
        self.lab.host(self.role).spawn(self.process, &server, &self.lab.log(self.process))
    }

    /// One command of `smbclient` from the site server; gives back what it wrote.
    pub(super) fn ask(self, share: &str, user: &str, secret: &str, command: &str) -> Result<String> {
        let login = self.folder().join(format!("{user}.login"));
        if !login.exists() {
            let password = self.lab.secret(secret)?;
            fs_err::write(&login, format!("username = {user}\npassword = {password}\ndomain = HOSPITAL\n"))?;
        }
        let client = Program::new("smbclient").args(["-s", "/dev/null", "-A"]).arg(&login).args([
            &format!("//{}/{share}", self.role.address()),
            "-c",
            command,
        ]);
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
