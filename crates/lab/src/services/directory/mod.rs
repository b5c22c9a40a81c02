//! The directory (認証基盤): Debian's Samba as the domain controller of an Active Directory with generated staff.
//!
//! Ophthalmology's file server is a member of this domain: who reads its share is checked here. The controller's
//! own backup is what `samba-tool domain backup offline` makes; an agent on this host sends it.

mod controller;
mod desk;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::{
    error::{LabError, Result},
    generate::staff::{self, DEPARTMENTS, Person, TITLES},
    lab::{Host, Lab, Scale},
    process::Process,
    role::Role,
    services::ophthalmology,
};

pub(in crate::services) use controller::Controller;
pub(in crate::services) use desk::Desk;

/// The Kerberos realm; in small letters the DNS domain.
pub const REALM: &str = "HOSPITAL.EXAMPLE";
/// The domain's short name.
pub const DOMAIN: &str = "HOSPITAL";
/// The name of the server's process in the lab's register.
pub const PROCESS: &str = "samba-ad";
/// The [secret](Lab::secret) with the domain administrator's password.
pub const ADMINISTRATOR_SECRET: &str = "directory-administrator";
/// The agent's name.
pub const AGENT: &str = "dir-server";
/// The unit that the agent's own file declares, and its command.
pub const UNIT: &str = "samba-ad";

const PEOPLE: &str = include_str!("people.py");
const SCRIPT: &str = include_str!("../../../../../packaging/scripts/kuramori-samba-ad.sh");
/// What all passwords of the staff are derived from.
const STAFF_SECRET: &str = "directory-staff";
/// A logon script of the domain's policies.
const LOGON: &str = "@echo off\r\nrem 端末の共有ドライブ\r\nnet use z: \\\\oph\\dump\r\n";

/// What the domain holds: each account, group, unit and policy by its distinguished name, each file of the
/// policies by its path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Portrait {
    /// Facts, or a file's SHA-256.
    pub entries: BTreeMap<String, String>,
    /// Accounts that a member of the staff sees over LDAP.
    pub accounts: u64,
}

/// The directory of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Directory<'lab> {
    lab: &'lab Lab,
}

impl<'lab> Directory<'lab> {
    pub(crate) fn of(lab: &'lab Lab) -> Self {
        Self { lab }
    }

    fn host(self) -> Host<'lab> {
        self.lab.host(Role::Dir)
    }

    fn controller(self) -> Controller<'lab> {
        Controller { lab: self.lab, role: Role::Dir, name: "DIR", process: PROCESS, folder: self.folder() }
    }

    /// The controller's databases and policies.
    pub fn folder(self) -> PathBuf {
        self.host().folder().join("samba")
    }

    /// Its staff.
    pub fn staff(self) -> Vec<Person> {
        let count = match self.lab.what().scale {
            Scale::Full => 400,
            Scale::Small => 60,
        };
        staff::people(self.lab.what().seed, count)
    }

    /// A person's password: made from a secret of this lab.
    ///
    /// # Errors
    /// The secret cannot be read.
    pub fn password(self, login: &str) -> Result<String> {
        let secret = self.lab.secret(STAFF_SECRET)?;
        let sum = digest::digest(&digest::SHA256, format!("{secret} {login}").as_bytes());
        Ok(format!("Kt-{}", hex::encode(&sum.as_ref()[..10])))
    }

    pub(crate) fn create(self) -> Result<()> {
        let controller = self.controller();
        controller.configure()?;
        // What a domain's administrator chooses has to look like a password to Windows.
        let administrator = self.administrator()?;
        let provision = controller
            .program("samba-tool")
            .args(["domain", "provision", "--server-role=dc", "--dns-backend=SAMBA_INTERNAL"])
            .args([format!("--realm={REALM}"), format!("--domain={DOMAIN}"), "--host-name=dir".to_owned()])
            .args([format!("--host-ip={}", Role::Dir.address()), format!("--adminpass={administrator}")])
            .arg(format!("--targetdir={}", self.folder().display()))
            .arg(format!("--configfile={}", controller.config().display()));
        self.host().run(&provision)?;
        // Filled before it serves: nobody else has the database open.
        let people = controller
            .program("/usr/bin/python3")
            .args(["-c", PEOPLE])
            .arg(controller.config())
            .input(self.wishes()?.to_string());
        self.host().run(&people)?;
        let scripts = self.folder().join("state/sysvol").join(REALM.to_lowercase()).join("scripts");
        fs_err::create_dir_all(&scripts)?;
        fs_err::write(scripts.join("logon.bat"), LOGON)?;
        self.start()
    }

    /// Starts the controller and waits until it lets somebody in.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(self) -> Result<()> {
        let (login, password) = self.somebody()?;
        self.controller().start((&login, &password), Role::Lan, false).map(drop)
    }

    pub(in crate::services) fn administrator(self) -> Result<String> {
        Ok(format!("Kt-{}", self.lab.secret(ADMINISTRATOR_SECRET)?))
    }

    /// One of the staff and his password.
    ///
    /// # Errors
    /// The secret cannot be read.
    pub fn somebody(self) -> Result<(String, String)> {
        let login = self.staff().pop().map(|person| person.login).unwrap_or_default();
        let password = self.password(&login)?;
        Ok((login, password))
    }

    /// Somebody logs in over the network by Kerberos; gives the number of accounts that he sees.
    ///
    /// # Errors
    /// Nobody answers, or he is not let in.
    pub fn login(self, login: &str, password: &str) -> Result<u64> {
        self.controller().login((login, password), Role::Lan)
    }

    /// Whether somebody is let in soon: within four seconds.
    pub fn lets_in(self, login: &str, password: &str) -> bool {
        self.controller().login_soon((login, password), Role::Lan).is_ok()
    }

    fn wishes(self) -> Result<serde_json::Value> {
        let staff = self.staff();
        let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for name in DEPARTMENTS {
            let members = staff.iter().filter(|person| person.department == name);
            groups.insert(name.to_owned(), members.map(|person| person.login.as_str()).collect());
        }
        for name in TITLES {
            let members = staff.iter().filter(|person| person.title == name);
            groups.insert(name.to_owned(), members.map(|person| person.login.as_str()).collect());
        }
        let teams = staff::teams(self.lab.what().seed, &staff);
        for team in &teams {
            groups.insert(team.name.clone(), team.members.iter().map(String::as_str).collect());
        }
        let people: Vec<serde_json::Value> = staff
            .iter()
            .map(|person| {
                Ok(serde_json::json!({
                    "login": person.login, "name": person.name, "department": person.department,
                    "title": person.title, "password": self.password(&person.login)?,
                }))
            })
            .collect::<Result<_>>()?;
        let accounts: Vec<serde_json::Value> = ophthalmology::ACCOUNTS
            .iter()
            .map(|(login, secret, purpose)| {
                Ok(serde_json::json!({
                    "login": login, "password": self.lab.secret(secret)?, "purpose": purpose,
                }))
            })
            .collect::<Result<_>>()?;
        Ok(serde_json::json!({
            "departments": DEPARTMENTS, "people": people, "accounts": accounts, "groups": groups,
        }))
    }

    /// What the running domain holds.
    ///
    /// # Errors
    /// It does not answer.
    pub fn portrait(self) -> Result<Portrait> {
        let (login, password) = self.somebody()?;
        let controller = self.controller();
        Ok(Portrait {
            entries: controller.portrait()?,
            accounts: controller.login((&login, &password), Role::Lan)?,
        })
    }

    /// What the agent's command does before a backup: gives the folder with Samba's own archive.
    ///
    /// # Errors
    /// `samba-tool` fails, or its archive is not whole.
    pub fn back_up(self, config: &Path) -> Result<PathBuf> {
        let folder = self.host().folder().join("by-hand");
        let make = self.controller().program("sh").args(["-c", SCRIPT, "kuramori-samba-ad.sh", "make"]);
        self.host().run(&make.arg(&folder).arg(config))?;
        Ok(folder)
    }

    /// The controller's configuration file.
    pub fn config(self) -> PathBuf {
        self.controller().config()
    }

    /// What an agent on this host is told: its folder with `agent.toml` and `commands.toml`, both root's.
    ///
    /// # Errors
    /// The disk.
    pub fn agent_file(self, server: std::net::SocketAddr) -> Result<PathBuf> {
        let folder = self.host().folder().join("agent");
        fs_err::create_dir_all(&folder)?;
        let here = folder.display();
        fs_err::write(folder.join("kuramori-samba-ad.sh"), SCRIPT)?;
        let config = self.controller().config();
        fs_err::write(
            folder.join("commands.toml"),
            format!(
                "[command.{UNIT}]\n\
                 before = [\"/bin/sh\", \"{here}/kuramori-samba-ad.sh\", \"make\", \"{here}/backup\", \"{config}\"]\n\
                 after = [\"/bin/sh\", \"{here}/kuramori-samba-ad.sh\", \"remove\", \"{here}/backup\"]\n\
                 timeout = \"10min\"\n",
                config = config.display()
            ),
        )?;
        let file = folder.join("agent.toml");
        fs_err::write(
            &file,
            format!(
                "server = \"{server}\"\nstate = \"{here}/state\"\n\n[unit.{UNIT}]\nkind = \"around\"\n\
                 name = \"{UNIT}\"\ndeclared_in = \"{here}/commands.toml\"\n\
                 source = {{ kind = \"files\", paths = [\"{here}/backup\"] }}\n"
            ),
        )?;
        Ok(file)
    }

    /// Starts a program of this host where Samba's programs find each other: the agent, as a rule.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn spawn(self, name: &str, program: &Path, arguments: &[&str]) -> Result<Process> {
        let program = self.controller().program("env").arg(program).args(arguments);
        self.host().spawn(name, &program, &self.lab.log(name))
    }
}

/// The domain that a restore brought back in a host.
#[derive(Debug)]
pub struct Again<'lab> {
    controller: Controller<'lab>,
}

impl Again<'_> {
    /// Its accounts, groups and policies.
    ///
    /// # Errors
    /// Its database cannot be read.
    pub fn entries(&self) -> Result<BTreeMap<String, String>> {
        self.controller.portrait()
    }

    /// What it holds and lets others see.
    ///
    /// # Errors
    /// It does not answer.
    pub fn look(&self) -> Result<Portrait> {
        let (login, password) = self.controller.lab.directory().somebody()?;
        Ok(Portrait {
            entries: self.entries()?,
            accounts: self.controller.login((&login, &password), Role::Lan)?,
        })
    }

    /// `samba-tool` on it.
    ///
    /// # Errors
    /// It refuses.
    pub fn tool(&self, words: &[&str]) -> Result<()> {
        let tool = self.controller.program("samba-tool").args(words);
        let config = format!("--configfile={}", self.controller.config().display());
        self.controller.host().run(&tool.arg(config)).map(drop)
    }

    /// Ends it.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(self) -> Result<()> {
        match self.controller.lab.process(self.controller.process)? {
            Some(mut process) => process.stop().map(drop),
            None => Ok(()),
        }
    }
}

/// Has `samba-tool` make a new domain controller of a restored backup in a host, starts it, and lets somebody
/// in with the password that he had before. It goes on running.
///
/// # Errors
/// The backup is damaged, or the domain does not come up.
pub fn bring_back<'lab>(lab: &'lab Lab, role: Role, restored: &Path) -> Result<Again<'lab>> {
    let folder = lab.host(role).folder().join("directory-again");
    let controller = Controller { lab, role, name: "DIR2", process: "samba-ad-restored", folder };
    controller.desk().prepare()?;
    let backup = archive(restored)?.ok_or(LabError::NoService("a backup of the directory"))?;
    let config = lab.host(role).folder().join("domain/smb.conf");
    fs_err::write(&config, controller.text())?;
    let restore = controller
        .program("samba-tool")
        .args(["domain", "backup", "restore"])
        .arg(format!("--backup-file={}", backup.display()))
        .arg(format!("--targetdir={}", controller.folder.display()))
        .arg(format!("--newservername={}", controller.name))
        .arg(format!("--configfile={}", config.display()));
    lab.host(role).run(&restore)?;
    controller.configure()?;
    let (login, password) = lab.directory().somebody()?;
    controller.start((&login, &password), Role::Lan, true)?;
    Ok(Again { controller })
}

/// The only archive below a folder.
fn archive(folder: &Path) -> Result<Option<PathBuf>> {
    for entry in fs_err::read_dir(folder)? {
        let (path, kind) = {
            let entry = entry?;
            (entry.path(), entry.file_type()?)
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if kind.is_dir() {
            if let Some(found) = archive(&path)? {
                return Ok(Some(found));
            }
        } else if name.starts_with("samba-backup-") && name.ends_with(".tar.bz2") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
