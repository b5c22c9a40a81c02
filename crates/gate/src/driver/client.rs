//! OpenSSH's client as a process of its own, with a key and pinned host keys that are read once and handed to
//! it in memory: closing later needs no file. What goes in and comes out is bytes; every wait has an end.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    os::fd::AsRawFd,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use kuramori_model::clock::{Clock, SystemClock};
use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};

use crate::fault::ActuatorFault;

/// More words than this are no complaint.
const MOST: usize = 64 << 10;
/// The device's name in the file of known keys.
const ALIAS: &str = "switch";

/// The way to a device by SSH, whatever is spoken over it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) address: SocketAddr,
    pub(super) user: &'a str,
    pub(super) key_file: &'a Path,
    pub(super) host_keys: &'a [String],
    pub(super) legacy: &'a [String],
    pub(super) program: &'a str,
}

impl Way<'_> {
    /// The first value that cannot be meant, by its key.
    pub(super) fn wrong(&self) -> Option<&'static str> {
        let key = |text: &String| text.split(' ').count() == 2 && plain(text, "+/=- @.");
        let legacy = |text: &String| {
            ["KexAlgorithms=", "HostKeyAlgorithms=", "PubkeyAcceptedAlgorithms=", "Ciphers=", "MACs="]
                .iter()
                .any(|name| text.strip_prefix(name).is_some_and(|list| plain(list, "+-,@.")))
        };
        [
            ("user", plain(self.user, "._-") && !self.user.starts_with('-')),
            ("host_keys", !self.host_keys.is_empty() && self.host_keys.iter().all(key)),
            ("legacy", self.legacy.iter().all(legacy)),
        ]
        .into_iter()
        .find_map(|(name, good)| (!good).then_some(name))
    }
}

/// Whether a value has letters, digits and these characters only.
pub(super) fn plain(text: &str, more: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

/// Private key and pinned host keys, in memory.
#[derive(Debug)]
pub(super) struct Login {
    key: fs_err::File,
    known: fs_err::File,
}

impl Login {
    pub(super) fn new(way: &Way<'_>) -> Result<Self, ActuatorFault> {
        let fault = |what: String| ActuatorFault::Switch { address: way.address.to_string(), what };
        let key = fs_err::read(way.key_file).map_err(|error| fault(error.to_string()))?;
        let known: Vec<String> = way.host_keys.iter().map(|key| format!("{ALIAS} {key}")).collect();
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

/// The running client.
#[derive(Debug)]
pub(super) struct Client {
    child: Option<Child>,
    input: Option<ChildStdin>,
    heard: Receiver<Vec<u8>>,
    complaints: Receiver<String>,
    end: Duration,
    address: String,
}

/// Why nothing more was heard.
#[derive(Debug)]
pub(super) enum Silence {
    /// Time is up.
    Late,
    /// The session has ended, and why.
    Ended(ActuatorFault),
}

impl Client {
    /// Connects; what comes of it shows in what is heard. `mode` comes before the address, `after` behind it.
    pub(super) fn start(
        way: &Way<'_>,
        login: &Login,
        limit: Duration,
        mode: &str,
        after: &[&str],
    ) -> Result<Self, ActuatorFault> {
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
        options.extend(way.legacy.iter().cloned());
        let failed = |source| ActuatorFault::Run { program: way.program.to_owned(), source };
        let mut child = Command::new(way.program)
            .args(["-F", "/dev/null", mode])
            .args(options.iter().flat_map(|option| ["-o", option]))
            .args(["-p", &way.address.port().to_string(), "-l", way.user, "--"])
            .arg(way.address.ip().to_string())
            .args(after)
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
        let end = SystemClock.boot() + limit;
        Ok(Self { child: Some(child), input, heard, complaints, end, address: way.address.to_string() })
    }

    /// From now on everything together may take this long.
    pub(super) fn until(&mut self, limit: Duration) {
        self.end = SystemClock.boot() + limit;
    }

    /// Whether the client still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), ActuatorFault> {
        match self.input.as_mut().map(|input| input.write_all(bytes).and_then(|()| input.flush())) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.ended()),
        }
    }

    /// The next bytes, whatever piece of an answer they are.
    pub(super) fn hear(&mut self) -> Result<Vec<u8>, Silence> {
        match self.heard.recv_timeout(self.end.saturating_sub(SystemClock.boot())) {
            Ok(bytes) => Ok(bytes),
            Err(RecvTimeoutError::Disconnected) => Err(Silence::Ended(self.ended())),
            Err(RecvTimeoutError::Timeout) => Err(Silence::Late),
        }
    }

    pub(super) fn fault(&self, what: &str) -> ActuatorFault {
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

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            // What hangs inside the kernel does not end at once; that is another thread's work.
            std::thread::spawn(move || child.wait());
        }
    }
}
