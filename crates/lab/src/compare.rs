//! Is a restored department the same as before, and does it run?

use std::{collections::BTreeMap, path::Path};

use kuramori_model::clock::{Clock, SystemClock};
use serde::{Deserialize, Serialize};

use crate::{
    error::{LabError, Result},
    lab::Lab,
    manifest::{Manifest, Tree},
    role::Role,
    services::{billing, directory, laboratory, pacs, pathology, ward},
};

/// Differences named in an answer.
const EXAMPLES: usize = 20;

/// The judgement on one restored department.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// `ophthalmology`, `billing` or `pacs`.
    pub system: String,
    /// Nothing is missing, changed or added.
    pub identical: bool,
    /// Its server came up on the restored data and answered; a tree of files is running if it could be read.
    pub running: bool,
    /// Files, instances or sums looked at.
    pub compared: usize,
    /// What is missing.
    pub missing: usize,
    /// What is different.
    pub changed: usize,
    /// What was not there before.
    pub added: usize,
    /// Files that were held open when the truth was made, and are not there: nobody could have read them.
    pub held: usize,
    /// The first differences, each with its kind.
    pub examples: Vec<String>,
    /// Why it does not run, if it does not.
    pub failure: Option<String>,
    /// Seconds that start and questions took.
    pub seconds: f64,
}

/// Has Samba make a new domain controller of the restored backup in a host, lets somebody in with his old
/// password, and compares accounts, groups, keys and policies with the truth. The domain goes on running:
/// what comes back after it needs it.
pub fn directory(lab: &Lab, manifest: &Manifest, role: Role, restored: &Path) -> Result<Compared> {
    let truth = manifest.directory.as_ref().ok_or(LabError::NoService("directory"))?;
    Ok(timed("directory", || {
        let found = directory::bring_back(lab, role, restored)?.look()?;
        let mut compared = differences(&truth.entries, &found.entries, &[]);
        if truth.accounts != found.accounts {
            compared.identical = false;
            compared.examples.push(format!("{} accounts over LDAP, not {}", found.accounts, truth.accounts));
        }
        Ok(compared)
    }))
}

/// Compares a restored tree of ophthalmology's share with the truth.
pub fn ophthalmology(manifest: &Manifest, restored: &Path) -> Result<Compared> {
    let truth = manifest.ophthalmology.as_ref().ok_or(LabError::NoService("ophthalmology"))?;
    Ok(timed("ophthalmology", || {
        let found = Tree::of(restored)?;
        Ok(differences(&truth.files, &found.files, &manifest.held))
    }))
}

/// [`ophthalmology`], and its server installed anew as a member of the domain that came back in `controller`:
/// it runs when its reader is let in with his old password.
pub fn ophthalmology_in_domain(
    lab: &Lab,
    manifest: &Manifest,
    controller: Role,
    restored: &Path,
) -> Result<Compared> {
    let compared = ophthalmology(manifest, restored)?;
    let served = timed("ophthalmology", || {
        lab.ophthalmology().serve_restored(controller, restored)?;
        Ok(compared.clone())
    });
    Ok(Compared {
        seconds: served.seconds + compared.seconds,
        running: served.running,
        failure: served.failure,
        ..compared
    })
}

/// Starts PostgreSQL on the restored data in a host and compares its sums with the truth.
pub fn billing(lab: &Lab, manifest: &Manifest, role: Role, restored: &Path) -> Result<Compared> {
    let truth = manifest.billing.as_ref().ok_or(LabError::NoService("billing"))?;
    Ok(timed("billing", || {
        let found = billing::sums_of_restored(lab, role, restored)?;
        Ok(differences(&truth.answers, &found.answers, &[]))
    }))
}

/// Starts Orthanc on the restored storage in a host and compares its instances with the truth.
pub fn pacs(lab: &Lab, manifest: &Manifest, role: Role, restored: &Path) -> Result<Compared> {
    let truth = manifest.pacs.as_ref().ok_or(LabError::NoService("pacs"))?;
    Ok(timed("pacs", || {
        let found = pacs::instances_of_restored(lab, role, restored)?;
        let plain = |all: &pacs::Instances| -> BTreeMap<String, String> {
            all.iter().map(|(uid, i)| (uid.clone(), format!("{} {}", i.md5, i.sha256))).collect()
        };
        Ok(differences(&plain(truth), &plain(&found), &[]))
    }))
}

/// Plays the laboratory's dump into an empty MariaDB in a host and compares its sums with the truth.
pub fn laboratory(lab: &Lab, manifest: &Manifest, role: Role, restored: &Path) -> Result<Compared> {
    let truth = manifest.laboratory.as_ref().ok_or(LabError::NoService("laboratory"))?;
    Ok(timed("laboratory", || {
        let found = laboratory::sums_of_restored(lab, role, restored)?;
        Ok(differences(&truth.answers, &found.answers, &[]))
    }))
}

/// Serves pathology's restored folder by SFTP in a host, asks for it, and compares it with the truth.
pub fn pathology(lab: &Lab, manifest: &Manifest, role: Role, restored: &Path) -> Result<Compared> {
    let truth = manifest.pathology.as_ref().ok_or(LabError::NoService("pathology"))?;
    Ok(timed("pathology", || {
        let found = pathology::tree_of_restored(lab, role, restored)?;
        Ok(differences(&truth.files, &found.files, &[]))
    }))
}

/// Has the other backup product bring the ward system back from its own restored folder, and compares the
/// system's files with the truth.
pub fn ward(lab: &Lab, manifest: &Manifest, role: Role, restored: &Path) -> Result<Compared> {
    let truth = manifest.ward.as_ref().ok_or(LabError::NoService("ward"))?;
    Ok(timed("ward", || {
        let found = ward::tree_of_restored(lab, role, restored)?;
        Ok(differences(&truth.files, &found.files, &[]))
    }))
}

fn timed(system: &str, work: impl FnOnce() -> Result<Compared>) -> Compared {
    let begin = SystemClock.boot();
    let mut compared = match work() {
        Ok(compared) => Compared { running: true, ..compared },
        // A service that does not come up is the worst of differences, not an error of the comparison.
        Err(error) => Compared { failure: Some(kuramori_model::fault::chain(&error)), ..Compared::default() },
    };
    system.clone_into(&mut compared.system);
    compared.seconds = SystemClock.boot().saturating_sub(begin).as_secs_f64();
    compared
}

fn differences(
    truth: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
    held: &[String],
) -> Compared {
    let mut result = Compared { compared: truth.len(), ..Compared::default() };
    let mut example = |kind: &str, name: &str| {
        if result.examples.len() < EXAMPLES {
            result.examples.push(format!("{kind}: {name}"));
        }
    };
    for (name, value) in truth {
        match found.get(name) {
            Some(same) if same == value => (),
            Some(_) => {
                result.changed += 1;
                example("changed", name);
            }
            None if held.contains(name) => result.held += 1,
            None => {
                result.missing += 1;
                example("missing", name);
            }
        }
    }
    for name in found.keys().filter(|name| !truth.contains_key(*name)) {
        result.added += 1;
        example("added", name);
    }
    result.identical = !truth.is_empty() && result.missing + result.changed + result.added == 0;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn every_kind_of_difference_is_counted() {
        let truth = map(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]);
        assert!(differences(&truth, &truth, &[]).identical);
        let found = differences(&truth, &map(&[("a", "1"), ("b", "x"), ("e", "5")]), &["d".to_owned()]);
        assert!(!found.identical);
        assert_eq!((found.changed, found.missing, found.added, found.held), (1, 1, 1, 1));
    }

    #[test]
    fn nothing_is_not_identical_to_nothing() {
        assert!(!differences(&map(&[]), &map(&[]), &[]).identical);
    }
}
