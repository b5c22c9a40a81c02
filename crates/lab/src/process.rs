//! Processes that outlive the call that started them, and how each is ended by its own id.
//!
//! A process is known by its id *and* its start time: the kernel gives ids out again, and ending a
//! stranger is the one mistake that a test bed must not make.

use std::{
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::{
    error::{LabError, Result},
    program::Program,
    role::Role,
    wait::wait_for,
};

/// How long a process may take to end by itself before it is killed.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a process asks to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopBy {
    /// SIGTERM: the usual request.
    #[default]
    Term,
    /// SIGINT: PostgreSQL's fast shutdown.
    Int,
}

/// What the lab remembers of a process that it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// What it is for, for people and for [`Lab::process`](crate::Lab::process): `postgres`, `snmpd`.
    pub name: String,
    /// The host in which it runs.
    pub role: Role,
    /// Its id.
    pub pid: u32,
    /// When it was started, in clock ticks since boot (`/proc/<pid>/stat`, field 22).
    pub started: u64,
    /// The whole command.
    pub command: String,
    /// Where its output goes.
    pub log: PathBuf,
    /// How it is asked to end.
    #[serde(default)]
    pub stop_by: StopBy,
}

/// A process's start time in clock ticks, or `None` if there is no such live process.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    (!matches!(state, "Z" | "X" | "x")).then_some(())?;
    fields.nth(18)?.parse().ok()
}

pub(crate) fn send(pid: u32, signal: Signal) {
    // Nobody there any more is what a signal's sender mostly wants to hear; `alive` is asked afterwards.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

impl ProcessRecord {
    /// Does this very process still run?
    pub fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Sends a signal, if the process still runs.
    pub fn signal(&self, signal: Signal) {
        if self.alive() {
            send(self.pid, signal);
        }
    }

    /// Asks it to end, waits, kills it if need be. True if it ended by itself.
    ///
    /// # Errors
    /// It does not even die from SIGKILL within some seconds.
    pub fn stop(&self) -> Result<bool> {
        self.stop_reaping(&mut || ())
    }

    fn stop_reaping(&self, reap: &mut dyn FnMut()) -> Result<bool> {
        // A frozen process (the tests freeze some) would not see the request.
        self.signal(match self.stop_by {
            StopBy::Term => Signal::TERM,
            StopBy::Int => Signal::INT,
        });
        self.signal(Signal::CONT);
        let mut gone = || {
            reap();
            !self.alive()
        };
        if wait_for("it ends", PATIENCE, &mut gone).is_ok() {
            return Ok(true);
        }
        self.signal(Signal::KILL);
        wait_for(&format!("`{}` (process {}) dies", self.name, self.pid), Duration::from_mins(1), gone)?;
        Ok(false)
    }
}

/// A running process of the lab. Dropping the handle leaves it running: the lab's record ends it.
#[derive(Debug)]
pub struct Process {
    record: ProcessRecord,
    child: Option<Child>,
}

impl Process {
    /// Starts a program in a namespace, its output appended to `log`, its input empty, in a process group
    /// of its own so that a Ctrl-C at the terminal reaches the lab alone.
    pub(crate) fn start(
        name: &str,
        role: Role,
        namespace: &str,
        program: &Program,
        log: &Path,
        stop_by: StopBy,
    ) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let out = fs_err::OpenOptions::new().create(true).append(true).open(log)?;
        let err = out.try_clone()?;
        let child = program
            .command(Some(namespace))
            .stdin(Stdio::null())
            .stdout(out.into_file())
            .stderr(err.into_file())
            .process_group(0)
            .spawn()
            .map_err(|source| LabError::Start { program: program.line(), source })?;
        let pid = child.id();
        let record = ProcessRecord {
            name: name.to_owned(),
            role,
            pid,
            started: start_time(pid).unwrap_or(0),
            command: program.line(),
            log: log.to_owned(),
            stop_by,
        };
        Ok(Self { record, child: Some(child) })
    }

    pub(crate) fn known(record: ProcessRecord) -> Self {
        Self { record, child: None }
    }

    /// What is known about it.
    pub fn record(&self) -> &ProcessRecord {
        &self.record
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.record.pid
    }

    /// Does it still run?
    pub fn alive(&mut self) -> bool {
        self.reap();
        self.record.alive()
    }

    /// Sends a signal: SIGKILL and SIGSTOP are what tests are after.
    pub fn signal(&mut self, signal: Signal) {
        self.record.signal(signal);
        self.reap();
    }

    /// Asks it to end, waits, kills it if need be. True if it ended by itself.
    pub fn stop(&mut self) -> Result<bool> {
        let Self { record, child } = self;
        record.stop_reaping(&mut || reap(child.as_mut()))
    }

    /// The end of its log, for a message when it failed.
    pub fn last_words(&self) -> String {
        let text = fs_err::read(&self.record.log).map(|b| String::from_utf8_lossy(&b).into_owned());
        let text = text.unwrap_or_default();
        let mut lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.reverse();
        lines.join(" | ")
    }

    /// Waits until `ready`, and fails at once with the process's last words if it dies before.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        crate::wait::wait_until(what, limit, || {
            let value = ready()?;
            if value.is_none() && !self.alive() {
                let status = "an early end".to_owned();
                return Err(LabError::Program {
                    command: self.record.command.clone(),
                    status,
                    stderr: self.last_words(),
                });
            }
            Ok(value)
        })
    }

    fn reap(&mut self) {
        reap(self.child.as_mut());
    }
}

/// Takes the exit status of a dead child of ours, so that it is no zombie.
fn reap(child: Option<&mut Child>) {
    if let Some(child) = child {
        let _ = child.try_wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_id_is_not_the_same_process() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut record = ProcessRecord {
            name: "sleep".into(),
            role: Role::Lan,
            pid: child.id(),
            started: start_time(child.id()).unwrap(),
            command: String::new(),
            log: PathBuf::new(),
            stop_by: StopBy::Term,
        };
        assert!(record.alive());
        record.started += 1;
        assert!(!record.alive(), "another start time is another process");
        record.stop().unwrap();
        assert!(child.try_wait().unwrap().is_none(), "and it is left alone");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
