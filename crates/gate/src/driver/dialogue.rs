//! A conversation with a switch's command line through OpenSSH's client: a line, then the prompt. Every wait
//! has an end, and whatever was not understood ends the conversation.

use std::{
    io::{Read, Write},
    os::fd::AsRawFd,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use kuramori_model::clock::{Clock, SystemClock};
use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};

use super::ssh::SshConfig;
use crate::fault::ActuatorFault;

/// More than this is no answer to any of our lines.
const MOST: usize = 64 << 10;
/// The switch's name in the file of known keys.
const ALIAS: &str = "switch";

/// Private key and pinned host keys, in memory.
#[derive(Debug)]
pub(super) struct Login {
    key: fs_err::File,
    known: fs_err::File,
}

impl Login {
    pub(super) fn new(config: &SshConfig) -> Result<Self, ActuatorFault> {
        let fault = |what: String| ActuatorFault::Switch { address: config.address.to_string(), what };
        let key = fs_err::read(&config.key_file).map_err(|error| fault(error.to_string()))?;
        let known: Vec<String> = config.host_keys.iter().map(|key| format!("{ALIAS} {key}")).collect();
        let keep = |name: &str, bytes: &[u8]| {
            let file = memfd_create(name, MemfdFlags::CLOEXEC)?;
            // The client refuses a key that others may read.
            fchmod(&file, Mode::RUSR | Mode::WUSR)?;
            let mut file = fs_err::File::from_parts(file.into(), name);
            file.write_all(bytes)?;
            Ok(file)
        };
        let failed = |error: std::io::Error| fault(error.to_string());
        Ok(Self {
            key: keep("switch-key", &key).map_err(failed)?,
            known: keep("switch-known", format!("{}\n", known.join("\n")).as_bytes()).map_err(failed)?,
        })
    }
}

/// Where another process of this user finds an open file of ours.
fn shown(file: &fs_err::File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.file().as_raw_fd())
}

/// The running conversation.
#[derive(Debug)]
pub(super) struct Dialogue {
    child: Option<Child>,
    input: Option<ChildStdin>,
    heard: Receiver<Vec<u8>>,
    complaints: Receiver<String>,
    text: String,
    end: Duration,
    address: String,
    name: String,
}

impl Dialogue {
    /// Connects; what comes of it shows in [`enter`](Self::enter).
    pub(super) fn start(config: &SshConfig, login: &Login, limit: Duration) -> Result<Self, ActuatorFault> {
        let seconds = limit.as_secs().max(1);
        let mut options = vec![
            format!("UserKnownHostsFile={}", shown(&login.known)),
            format!("IdentityFile={}", shown(&login.key)),
            format!("HostKeyAlias={ALIAS}"),
            format!("ConnectTimeout={seconds}"),
        ];
        let fixed = [
            "GlobalKnownHostsFile=/dev/null",
            "StrictHostKeyChecking=yes",
            "UpdateHostKeys=no",
            "CheckHostIP=no",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "PreferredAuthentications=publickey",
            "BatchMode=yes",
            "ForwardAgent=no",
            "ClearAllForwardings=yes",
            "PermitLocalCommand=no",
            "ControlMaster=no",
            "ControlPath=none",
            "EscapeChar=none",
            "LogLevel=ERROR",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=2",
        ];
        options.extend(fixed.map(str::to_owned));
        options.extend(config.legacy.iter().cloned());
        let failed = |source| ActuatorFault::Run { program: config.program.clone(), source };
        let mut child = Command::new(&config.program)
            .args(["-F", "/dev/null", "-tt"])
            .args(options.iter().flat_map(|option| ["-o", option]))
            .args(["-p", &config.address.port().to_string(), "-l", &config.user, "--"])
            .arg(config.address.ip().to_string())
            .env("LC_ALL", "C")
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (input, out, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (say, heard) = channel();
        std::thread::spawn(move || {
            let (Some(mut out), mut buffer) = (out, [0; 4096]) else { return };
            while let Ok(n @ 1..) = out.read(&mut buffer) {
                if say.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let (complain, complaints) = channel();
        std::thread::spawn(move || {
            let mut words = Vec::new();
            if let Some(errors) = errors {
                let _ = errors.take(MOST as u64).read_to_end(&mut words);
            }
            let _ = complain.send(String::from_utf8_lossy(&words).into_owned());
        });
        Ok(Self {
            child: Some(child),
            input,
            heard,
            complaints,
            text: String::new(),
            end: SystemClock.boot() + limit,
            address: config.address.to_string(),
            name: config.sys_name.clone(),
        })
    }

    /// From now on everything together may take this long.
    pub(super) fn until(&mut self, limit: Duration) {
        self.end = SystemClock.boot() + limit;
    }

    /// Whether the client still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits for the first prompt, becomes privileged, and turns the pager off.
    pub(super) fn enter(&mut self) -> Result<(), ActuatorFault> {
        let (_, mode) = self.prompt()?;
        if mode == ">" {
            self.send("enable")?;
            if self.prompt()?.1 != "#" {
                return Err(self.fault("the account may not configure (`enable` did not change the prompt)"));
            }
        } else if mode != "#" {
            return Err(self.fault(&format!("it begins with the prompt `{mode}`")));
        }
        self.say("terminal length 0", "").map(drop)
    }

    /// Says a line; its answer, if the prompt afterwards is of this mode: `config`, or empty.
    pub(super) fn say(&mut self, line: &str, mode: &str) -> Result<String, ActuatorFault> {
        self.send(line)?;
        let (answer, shown) = self.prompt()?;
        let wanted = if mode.is_empty() { "#".to_owned() } else { format!("({mode})#") };
        if let Some(refusal) = answer.lines().find(|line| line.trim_start().starts_with('%')) {
            return Err(self.fault(&format!("`{line}`: {}", refusal.trim())));
        }
        if shown != wanted {
            return Err(self.fault(&format!("after `{line}` the prompt is `{shown}` instead of `{wanted}`")));
        }
        Ok(answer)
    }

    fn send(&mut self, line: &str) -> Result<(), ActuatorFault> {
        let sent = self.input.as_mut().map(|input| input.write_all(format!("{line}\n").as_bytes()));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(self.ended()),
        }
    }

    /// What came before the next prompt without the line's echo, and the prompt without the device's name.
    fn prompt(&mut self) -> Result<(String, String), ActuatorFault> {
        loop {
            if let Some(mode) = mode(&self.text, &self.name) {
                let text = std::mem::take(&mut self.text);
                let (answer, _) = text.rsplit_once('\n').unwrap_or_default();
                // The device repeats the line first, whole or not.
                let answer = answer.split_once('\n').map_or("", |(_, answer)| answer);
                return Ok((answer.to_owned(), mode));
            }
            match self.heard.recv_timeout(self.end.saturating_sub(SystemClock.boot())) {
                Ok(bytes) if self.text.len() + bytes.len() <= MOST => {
                    let text = String::from_utf8_lossy(&bytes);
                    self.text.extend(text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()));
                }
                Ok(_) => return Err(self.fault("it answers without end")),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
                Err(RecvTimeoutError::Timeout) => {
                    let last = self.text.lines().last().unwrap_or_default().trim().to_owned();
                    if last.ends_with(['#', '>']) {
                        let what = format!("the prompt is `{last}`, not that of `{}`", self.name);
                        return Err(ActuatorFault::Identity(what));
                    }
                    return Err(self.fault(&format!("no prompt came in time; last it said `{last}`")));
                }
            }
        }
    }

    fn fault(&self, what: &str) -> ActuatorFault {
        ActuatorFault::Switch { address: self.address.clone(), what: what.to_owned() }
    }

    /// Why the client has ended, in its own words.
    fn ended(&mut self) -> ActuatorFault {
        let wait = self.end.saturating_sub(SystemClock.boot()).min(Duration::from_secs(1));
        let words = self.complaints.recv_timeout(wait).unwrap_or_default();
        let changed = ["Host key verification failed", "IDENTIFICATION HAS CHANGED", "host key is known"];
        if changed.iter().any(|text| words.contains(text)) {
            let found =
                words.split_whitespace().find(|word| word.starts_with("SHA256:")).unwrap_or("another");
            let found = found.trim_end_matches('.').to_owned();
            return ActuatorFault::HostKey { address: self.address.clone(), found };
        }
        let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
        self.fault(if words.is_empty() { "the session ended" } else { &words })
    }
}

/// The prompt at the text's end after the device's name: `>`, `#`, `(config-if)#`.
fn mode(text: &str, name: &str) -> Option<String> {
    let last = text.rsplit('\n').next()?.trim();
    let rest = last.strip_prefix(name)?;
    let inner = rest.strip_suffix(['#', '>'])?;
    let modal = inner.starts_with('(') && inner.ends_with(')') && !inner[1..].contains(['(', ' ']);
    (inner.is_empty() || modal).then(|| rest.to_owned())
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            // What hangs inside the kernel does not end at once; that is another thread's work.
            std::thread::spawn(move || child.wait());
        }
    }
}
