//! `lab.json`: what was raised, written before it exists, so that `down` finds it after a crash.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{
    error::{LabError, Result},
    fingerprint::HostFingerprint,
    lab::What,
    process::ProcessRecord,
};

/// Everything that a lab has put onto the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabRecord {
    /// The shape of this file.
    pub version: u32,
    /// The beginning of every namespace's name.
    pub prefix: String,
    /// False once `down` is through.
    pub up: bool,
    /// What it was raised with.
    pub what: What,
    /// Namespaces, also one that is only about to be made.
    pub namespaces: Vec<String>,
    /// Processes in the order of their start.
    pub processes: Vec<ProcessRecord>,
    /// Mounted folders in the order of their mounting.
    pub mounts: Vec<PathBuf>,
    /// The machine as it was before.
    pub before: HostFingerprint,
}

/// The file in which a [`LabRecord`] is kept; several processes may use it at once.
#[derive(Debug, Clone)]
pub(crate) struct Register {
    path: PathBuf,
}

impl Register {
    pub(crate) fn at(root: &Path) -> Self {
        Self { path: root.join("lab.json") }
    }

    pub(crate) fn read(&self) -> Result<Option<LabRecord>> {
        match fs_err::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| LabError::Format { path: self.path.clone(), source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn write(&self, record: &LabRecord) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|source| LabError::Format { path: self.path.clone(), source })?;
        let new = self.path.with_extension("json.new");
        fs_err::write(&new, bytes)?;
        Ok(fs_err::rename(&new, &self.path)?)
    }

    /// Reads, changes and writes the record while nobody else does.
    pub(crate) fn update(&self, change: impl FnOnce(&mut LabRecord)) -> Result<LabRecord> {
        let lock = fs_err::File::create(self.path.with_extension("lock"))?;
        flock(lock.file().as_fd(), FlockOperation::LockExclusive).map_err(std::io::Error::from)?;
        let mut record = self.read()?.ok_or_else(|| LabError::NotUp(self.path.clone()))?;
        change(&mut record);
        self.write(&record)?;
        Ok(record)
    }
}
