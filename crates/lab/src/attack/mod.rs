//! The ransomware's night: root on the departments and on the primary, and the hospital's wires.
//!
//! It encrypts in place and renames, destroys and forges in the primary's repositories, and looks for a way
//! into the vault. No real malware: a mutator of our own that works only on folders which a lab's root
//! holds, and there only on those of the departments and of the site server. Symbolic links are not followed.

mod encrypt;
mod forge;
mod insider;
mod scope;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kuramori_model::clock::{Clock, Random, SystemClock};
use serde::{Deserialize, Serialize};

pub(crate) use encrypt::scramble;
pub use forge::Forged;
pub use insider::Sealed;

use crate::{
    error::Result,
    lab::{Lab, Service},
    probe::{Probed, Try, probe},
    role::Role,
    services::witness::{Arrivals, Witness},
};

/// What is attacked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// Folders whose files are encrypted.
    pub departments: Vec<PathBuf>,
    /// Repositories that are destroyed and forged in.
    pub repositories: Vec<PathBuf>,
    /// Passwords that the attacker found on the primary, by the repository that each opens.
    #[serde(skip)]
    pub passwords: BTreeMap<PathBuf, String>,
    /// Hosts on which everything that runs is killed first, as ransomware does to unlock files.
    pub killed: Vec<Role>,
    /// Hosts from which the vault is scanned.
    pub scanned_from: Vec<Role>,
}

impl Targets {
    /// All departments of a lab and every repository in the primary's folder. The primary's own programs are
    /// left running: what they serve from then on is the attacker's.
    pub fn of(lab: &Lab) -> Result<Self> {
        let mut targets = Self { scanned_from: vec![Role::Srv, Role::Lan], ..Self::default() };
        let has = |service| lab.what().services.contains(&service);
        // Whoever takes a hospital takes its directory first: then nobody can log in any more.
        let departments = [
            (Service::Directory, Role::Dir, lab.directory().folder()),
            (Service::Billing, Role::Bil, lab.billing().data()),
            (Service::Pacs, Role::Pac, lab.pacs().data()),
            (Service::Ophthalmology, Role::Oph, lab.ophthalmology().folder()),
            (Service::Laboratory, Role::Lis, lab.laboratory().data()),
            (Service::Pathology, Role::Pat, lab.pathology().folder()),
            (Service::Ward, Role::War, lab.ward().data()),
            (Service::Ward, Role::War, lab.ward().store()),
        ];
        for (_, role, folder) in departments.into_iter().filter(|(service, ..)| has(*service)) {
            targets.killed.push(role);
            targets.departments.push(folder);
        }
        targets.repositories = forge::find(&lab.host(Role::Srv).folder())?;
        Ok(targets)
    }
}

/// What the attack has done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Attacked {
    /// When it began.
    pub at: jiff::Timestamp,
    /// Files that are now useless.
    pub files_encrypted: u64,
    /// Their bytes.
    pub bytes_encrypted: u64,
    /// Repository files deleted, overwritten, mixed or swapped.
    pub repository_files_destroyed: u64,
    /// Repository files invented.
    pub repository_files_forged: u64,
    /// What was done to each repository.
    pub repositories: Vec<Forged>,
    /// Files that withstood (immutable ones).
    pub withstood: u64,
    /// Contacts that the witness in the vault accepted meanwhile, by its own log.
    pub vault_connections_accepted: u64,
    /// Packets of the attacker that reached the vault host's stack at all; `None` without a witness.
    pub vault_arrivals: Option<u64>,
    /// The scans.
    pub scans: Vec<Probed>,
}

/// Attacks. All targets are checked before anything is touched.
///
/// # Errors
/// [`LabError::Outside`](crate::LabError::Outside) for a target that is not a department's or the primary's;
/// a program that is missing.
pub fn attack(lab: &Lab, targets: &Targets, random: &dyn Random) -> Result<Attacked> {
    for folder in targets.departments.iter().chain(&targets.repositories) {
        scope::allowed(lab.root(), folder)?;
    }
    let mut done = Attacked { at: SystemClock.now(), ..Attacked::default() };
    let begin = SystemClock.boot();
    let witness = lab.what().services.contains(&Service::Witness).then(|| lab.witness());
    let before = witness.map(Witness::arrivals).transpose()?;
    for role in &targets.killed {
        lab.host(*role).kill_all()?;
    }
    for folder in &targets.departments {
        let folder = scope::allowed(lab.root(), folder)?;
        encrypt::tree(&folder, random, &mut done)?;
    }
    for repository in &targets.repositories {
        let folder = scope::allowed(lab.root(), repository)?;
        let sealed = match targets.passwords.get(repository) {
            Some(password) => insider::forge(&folder, password.as_bytes(), random)?,
            None => Sealed::default(),
        };
        let forged = Forged { sealed, ..forge::repository(&folder, random)? };
        done.repository_files_destroyed += forged.destroyed();
        done.repository_files_forged += forged.invented();
        done.withstood += forged.withstood;
        done.repositories.push(forged);
    }
    forge::swap_keys_between(&mut done.repositories)?;
    scan(lab, &targets.scanned_from, &Try::default(), &mut done)?;
    if let Some(witness) = witness {
        done.vault_connections_accepted = witness.contacts_since(begin)?.len() as u64;
        let after = witness.arrivals()?;
        // The witness restarts its counters when somebody flushes its tables.
        done.vault_arrivals = before.map(|before: Arrivals| after.total().saturating_sub(before.total()));
    }
    Ok(done)
}

/// Forges in one repository with its password in hand and destroys nothing: the quiet attack, which a vault
/// must find by itself in the next window.
pub fn forge_quietly(lab: &Lab, repository: &Path, password: &str, random: &dyn Random) -> Result<Sealed> {
    insider::forge(&scope::allowed(lab.root(), repository)?, password.as_bytes(), random)
}

/// Plants a pack of noise under its own hash: bytes that a puller must carry while the attacker uses the open
/// window, and that proof must put aside.
///
/// # Errors
/// [`LabError::Outside`](crate::LabError::Outside) for a repository that is not the primary's.
pub fn plant_noise(lab: &Lab, repository: &Path, bytes: usize, random: &dyn Random) -> Result<()> {
    let mut noise = vec![0; bytes];
    random.fill(&mut noise);
    insider::plant(&scope::allowed(lab.root(), repository)?.join("data"), &noise)
}

/// Only looks for a way into the vault: also what is done while a window is open.
pub fn scan_vault(lab: &Lab, from: &[Role], what: &Try) -> Result<Attacked> {
    let mut done = Attacked { at: SystemClock.now(), ..Attacked::default() };
    let begin = SystemClock.boot();
    scan(lab, from, what, &mut done)?;
    if lab.what().services.contains(&Service::Witness) {
        done.vault_connections_accepted = lab.witness().contacts_since(begin)?.len() as u64;
    }
    Ok(done)
}

fn scan(lab: &Lab, from: &[Role], what: &Try, done: &mut Attacked) -> Result<()> {
    for role in from {
        done.scans.push(probe(lab, *role, what)?);
    }
    Ok(())
}
