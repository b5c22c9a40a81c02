//! A control group that bounds a drill's memory and processes: version 2 as Debian 12 mounts it, or the two
//! controllers of version 1. Where none can be made (no rights) the drill falls back to rlimits and says so.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use kuramori_model::{
    clock::{Clock, SystemClock},
    units::Bytes,
};

const ROOT: &str = "/sys/fs/cgroup";
/// Processes and threads.
const PROCESSES: u32 = 2000;
/// Tells the groups of one process apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

#[derive(Debug, Default)]
pub(crate) struct Group {
    folders: Vec<PathBuf>,
    memory: bool,
    words: Vec<String>,
}

impl Group {
    /// Makes what can be made.
    pub(crate) fn make(memory: Bytes) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("kuramori-drill-{}-{number}", std::process::id());
        let mut group = Self::default();
        let root = Path::new(ROOT);
        if root.join("cgroup.controllers").exists() {
            group.add(
                &root.join(&name),
                &[
                    ("memory.max", memory.0.to_string()),
                    ("memory.swap.max", "0".to_owned()),
                    ("pids.max", PROCESSES.to_string()),
                    ("cpu.weight", "10".to_owned()),
                ],
                memory,
            );
        } else {
            group.add(
                &root.join("memory").join(&name),
                &[("memory.limit_in_bytes", memory.0.to_string())],
                memory,
            );
            group.add(&root.join("pids").join(&name), &[("pids.max", PROCESSES.to_string())], memory);
            group.add(&root.join("cpu").join(&name), &[("cpu.shares", "64".to_owned())], memory);
        }
        if group.folders.is_empty() {
            group.words.push(format!("no control group; rlimit of {memory} data per process"));
        }
        group
    }

    fn add(&mut self, folder: &Path, limits: &[(&str, String)], memory: Bytes) {
        if fs_err::create_dir(folder).is_err() {
            return;
        }
        for (file, value) in limits {
            if fs_err::write(folder.join(file), value).is_ok() {
                if file.starts_with("memory.max") || file.starts_with("memory.limit") {
                    self.memory = true;
                    self.words.push(format!("cgroup {file} = {memory}"));
                } else {
                    self.words.push(format!("cgroup {file} = {value}"));
                }
            }
        }
        self.folders.push(folder.to_owned());
    }

    /// The files through which a process joins, separated by spaces.
    pub(crate) fn entrances(&self) -> String {
        let files: Vec<String> =
            self.folders.iter().map(|folder| folder.join("cgroup.procs").display().to_string()).collect();
        files.join(" ")
    }

    pub(crate) fn limits_memory(&self) -> bool {
        self.memory
    }

    pub(crate) fn words(&self) -> Vec<String> {
        self.words.clone()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            // Its processes are dead, but the kernel may still be counting them out.
            for _ in 0..250 {
                if fs_err::remove_dir(folder).is_ok() || !folder.exists() {
                    break;
                }
                SystemClock.sleep(Duration::from_millis(20));
            }
        }
    }
}
