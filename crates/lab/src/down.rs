//! Taking the hospital down, also after a crash, and showing that the machine is as it was.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::{
    error::{LabError, Result},
    fingerprint::{HostFingerprint, mounts},
    network::{delete, namespaces_of, processes_in},
    process::{ProcessRecord, send, start_time},
    program::Program,
    register::Register,
    wait::{wait_for, wait_until},
};

/// What happens to the files under the lab's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// They stay, for a look at the logs.
    Keep,
    /// They go, the root folder with them.
    Remove,
}

/// What was taken down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// Processes that ended when asked.
    pub ended: usize,
    /// Processes that had to be killed.
    pub killed: usize,
    /// Namespaces deleted.
    pub namespaces: usize,
    /// Folders unmounted.
    pub mounts: usize,
    /// How the machine differs from before; empty is the proof.
    pub differences: Vec<String>,
}

/// Takes down the lab whose register lies in `root`, in whatever state a crash has left it; a lab that is
/// down already is no error.
///
/// # Errors
/// There never was a lab; a process does not die; a folder cannot be unmounted.
pub fn down(root: &Path, files: Files) -> Result<Down> {
    let not_up = || LabError::NotUp(root.to_owned());
    let root = fs_err::canonicalize(root).map_err(|_| not_up())?;
    let register = Register::at(&root);
    let record = register.read()?.ok_or_else(not_up)?;
    let mut done = Down::default();

    let running: Vec<&ProcessRecord> = record.processes.iter().rev().filter(|p| p.alive()).collect();
    // All at once: each may take its time to write what it holds.
    let ends: Vec<Result<bool>> = std::thread::scope(|scope| {
        let threads: Vec<_> = running.iter().map(|process| scope.spawn(|| process.stop())).collect();
        threads.into_iter().map(|t| t.join().unwrap_or(Ok(false))).collect()
    });
    for end in ends {
        if end? {
            done.ended += 1;
        } else {
            done.killed += 1;
        }
    }
    let mut namespaces = namespaces_of(&record.prefix)?;
    namespaces.sort();
    for name in &namespaces {
        done.killed += kill_in(name)?;
    }
    let mut mounted: Vec<PathBuf> =
        mounts()?.into_iter().map(PathBuf::from).filter(|folder| folder.starts_with(&root)).collect();
    // The innermost first.
    mounted.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
    for folder in mounted {
        Program::new("umount").arg(&folder).run()?;
        done.mounts += 1;
    }
    for name in &namespaces {
        delete(name)?;
        done.namespaces += 1;
    }
    if record.up {
        // A loop device and a dying namespace need a moment after the call that released them.
        let settled = wait_until("the machine is as before", Duration::from_secs(30), || {
            let differences = record.before.differences(&HostFingerprint::take(&record.prefix, &root)?);
            Ok(differences.is_empty().then_some(differences))
        });
        done.differences = match settled {
            Ok(none) => none,
            Err(LabError::Timeout { .. }) => {
                record.before.differences(&HostFingerprint::take(&record.prefix, &root)?)
            }
            Err(other) => return Err(other),
        };
        register.update(|record| {
            record.up = false;
            record.namespaces.clear();
            record.processes.clear();
            record.mounts.clear();
        })?;
    }
    if files == Files::Remove {
        // A store under test may hold immutable files; elsewhere the command has nothing to do.
        let _ = Program::new("chattr").args(["-R", "-f", "-i", "-a"]).arg(&root).run();
        fs_err::remove_dir_all(&root)?;
    }
    Ok(done)
}

/// Kills whatever runs in a namespace of ours: all of it was started by us or by what we started.
pub(crate) fn kill_in(namespace: &str) -> Result<usize> {
    let mut killed = 0;
    let own = std::process::id();
    let others = || -> Result<Vec<u32>> {
        Ok(processes_in(namespace)?
            .into_iter()
            .filter(|pid| *pid != own && start_time(*pid).is_some())
            .collect())
    };
    wait_until(&format!("nothing runs in `{namespace}`"), Duration::from_mins(2), || {
        let pids = others()?;
        for pid in &pids {
            send(*pid, Signal::KILL);
            killed += 1;
        }
        if pids.is_empty() {
            return Ok(Some(()));
        }
        let gone = || pids.iter().all(|pid| start_time(*pid).is_none());
        wait_for("they die", Duration::from_mins(1), gone)?;
        Ok(None)
    })?;
    Ok(killed)
}
