//! The truth before the attack, made by other people's tools: Samba's own library on the domain's database,
//! coreutils' `sha256sum` over the share's tree, `psql`'s sums, Orthanc's own answers. It lies where no host of the lab can reach, and "identical" is
//! judged against it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kuramori_model::clock::{Clock, SystemClock};
use serde::{Deserialize, Serialize};

use crate::{
    error::{LabError, Result},
    lab::{Lab, Service},
    program::Program,
    services::{billing::Sums, directory::Portrait, ophthalmology::HELD, pacs::Instances},
};

/// A tree of files by path, each with its SHA-256.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Files, their paths relative to the tree's top.
    pub files: BTreeMap<String, String>,
}

impl Tree {
    /// Looks at a folder, with `find`, `sort` and `sha256sum`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of(folder: &Path) -> Result<Self> {
        let script = "set -o pipefail; find . -type f -print0 | sort -z | xargs -0 -r sha256sum --zero";
        let bytes = Program::new("bash").args(["-c", script]).folder(folder).run()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let files = text
            .split('\0')
            .filter_map(|line| line.split_once("  ./"))
            .map(|(sum, path)| (path.to_owned(), sum.to_owned()))
            .collect();
        Ok(Self { files })
    }
}

/// The truth about the departments at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its name: the night's, as a rule.
    pub name: String,
    /// When it was made.
    pub at: jiff::Timestamp,
    /// The directory's accounts, groups and policies, if the lab has it.
    #[serde(default)]
    pub directory: Option<Portrait>,
    /// Ophthalmology's share, if the lab has it.
    pub ophthalmology: Option<Tree>,
    /// Files of the share that nobody could read because they were held open.
    pub held: Vec<String>,
    /// Billing's sums, if the lab has it.
    pub billing: Option<Sums>,
    /// The archive's instances, if the lab has it.
    pub pacs: Option<Instances>,
    /// The laboratory's sums, if the lab has it.
    pub laboratory: Option<Sums>,
    /// Pathology's folder, if the lab has it.
    pub pathology: Option<Tree>,
    /// The ward system's own files, if the lab has it.
    pub ward: Option<Tree>,
}

impl Manifest {
    /// Asks all running departments and writes the answers down.
    ///
    /// # Errors
    /// A department does not answer.
    pub fn make(lab: &Lab, name: &str) -> Result<Self> {
        let has = |service| lab.what().services.contains(&service);
        let mut held = Vec::new();
        let ophthalmology =
            has(Service::Ophthalmology).then(|| Tree::of(&lab.ophthalmology().folder())).transpose()?;
        if ophthalmology.is_some() && lab.process(crate::services::ophthalmology::VIEWER)?.is_some() {
            held.push(HELD.to_owned());
        }
        let manifest = Self {
            name: name.to_owned(),
            at: SystemClock.now(),
            directory: has(Service::Directory).then(|| lab.directory().portrait()).transpose()?,
            ophthalmology,
            held,
            billing: has(Service::Billing).then(|| lab.billing().sums()).transpose()?,
            pacs: has(Service::Pacs).then(|| lab.pacs().instances()).transpose()?,
            laboratory: has(Service::Laboratory).then(|| lab.laboratory().sums()).transpose()?,
            pathology: has(Service::Pathology).then(|| Tree::of(&lab.pathology().folder())).transpose()?,
            ward: has(Service::Ward).then(|| Tree::of(&lab.ward().data())).transpose()?,
        };
        let path = path(lab, name)?;
        let bytes = serde_json::to_vec_pretty(&manifest)
            .map_err(|source| LabError::Format { path: path.clone(), source })?;
        fs_err::write(&path, bytes)?;
        Ok(manifest)
    }

    /// Reads one that was made before.
    pub fn read(lab: &Lab, name: &str) -> Result<Self> {
        let path = path(lab, name)?;
        serde_json::from_slice(&fs_err::read(&path)?).map_err(|source| LabError::Format { path, source })
    }
}

fn path(lab: &Lab, name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(LabError::Outside { path: name.into(), why: "a manifest's name is no path" });
    }
    Ok(lab.truth().join(format!("{name}.json")))
}
