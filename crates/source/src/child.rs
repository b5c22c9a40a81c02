//! A program of this machine whose output is read: a declared command, a database's own dump client, `ssh`.
//!
//! Each runs in a process group of its own with an empty environment and nothing on its input, is ended as
//! a group when the run is cancelled, is too slow or is over, and its words on standard error are kept (the
//! last [`WORDS`] bytes). Only its exit status says whether what it wrote is whole.

use std::{
    ffi::OsString,
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use bytes::{Buf, Bytes};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    Control, Error,
    control::{Bucket, Pulse},
};

/// What is kept of standard error.
const WORDS: usize = 16 << 10;
/// One piece of output.
const PIECE: usize = 128 << 10;
/// Pieces that may wait.
const WAITING: usize = 16;
/// How long a program may take to end after its output did.
const LAST: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Program {
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// Keep its input open for us.
    pub(crate) spoken_to: bool,
}

/// How it ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// Its exit status; none if a signal ended it.
    pub(crate) status: Option<i32>,
    /// The end of what it said.
    pub(crate) words: String,
}

/// A running program and its output.
pub(crate) struct Running {
    child: Child,
    pieces: Receiver<std::io::Result<Bytes>>,
    listener: Option<JoinHandle<()>>,
    words: Arc<Mutex<Vec<u8>>>,
    now: Bytes,
    name: String,
    control: Control,
    pulse: Pulse,
    bucket: Bucket,
    deadline: Option<Duration>,
    /// Why reading failed, behind the `io::Error` that a sink sees.
    pub(crate) failed: Option<Error>,
    over: bool,
}

impl Program {
    pub(crate) fn new<A: Into<OsString>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self { arguments: arguments.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    fn name(&self) -> String {
        self.arguments.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Starts it. `within` bounds the whole time that it may take.
    pub(crate) fn start(&self, control: &Control, within: Option<Duration>) -> Result<Running, Error> {
        let name = self.name();
        let (program, rest) =
            self.arguments.split_first().ok_or_else(|| Error::Config("the command is empty".into()))?;
        let mut command = Command::new(program);
        command
            .args(rest)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", "/nonexistent")
            .envs(self.environment.iter().map(|(key, value)| (*key, value)))
            .current_dir("/")
            .stdin(if self.spoken_to { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().map_err(|error| Error::Command {
            name: name.clone(),
            why: format!("it cannot be started: {error}"),
        })?;
        let (sender, pieces) = bounded(WAITING);
        let words = Arc::new(Mutex::new(Vec::new()));
        if let Some(mut output) = child.stdout.take() {
            std::thread::Builder::new()
                .name("source-output".into())
                .spawn(move || {
                    loop {
                        let mut piece = vec![0; PIECE];
                        let outcome = match output.read(&mut piece) {
                            Ok(0) => return,
                            Ok(length) => {
                                piece.truncate(length);
                                Ok(Bytes::from(piece))
                            }
                            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                            Err(error) => Err(error),
                        };
                        let broken = outcome.is_err();
                        if sender.send(outcome).is_err() || broken {
                            return;
                        }
                    }
                })
                .map_err(Error::Start)?;
        }
        let listener = match child.stderr.take() {
            Some(mut error) => {
                let words = Arc::clone(&words);
                let listen = move || {
                    let mut piece = [0; 4096];
                    while let Ok(length @ 1..) = error.read(&mut piece) {
                        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
                        words.extend_from_slice(&piece[..length]);
                        let over = words.len().saturating_sub(WORDS);
                        words.drain(..over);
                    }
                };
                Some(
                    std::thread::Builder::new()
                        .name("source-words".into())
                        .spawn(listen)
                        .map_err(Error::Start)?,
                )
            }
            None => None,
        };
        Ok(Running {
            child,
            pieces,
            listener,
            words,
            now: Bytes::new(),
            name,
            control: control.clone(),
            pulse: Pulse::new(Arc::clone(&control.clock)),
            bucket: Bucket::new(control),
            deadline: within.map(|within| control.clock.boot() + within),
            failed: None,
            over: false,
        })
    }

    /// Runs it to its end and gives its output, at most `most` bytes.
    pub(crate) fn text(&self, control: &Control, within: Duration, most: usize) -> Result<String, Error> {
        let mut running = self.start(control, Some(within))?;
        let mut output = Vec::new();
        if let Err(error) = (&mut running).take(most as u64).read_to_end(&mut output) {
            return Err(running.failure(&error));
        }
        let ended = running.finish()?;
        ended.good(&self.name())?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }
}

impl Ended {
    /// Whether it said that all went well.
    pub(crate) fn good(&self, name: &str) -> Result<(), Error> {
        if self.status == Some(0) {
            return Ok(());
        }
        let status =
            self.status.map_or("was ended by a signal".to_owned(), |status| format!("ended with {status}"));
        Err(Error::Command { name: name.to_owned(), why: format!("it {status}: {}", self.words.trim()) })
    }
}

impl Running {
    /// Its input, once.
    pub(crate) fn input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What it has said so far on standard error.
    pub(crate) fn words(&self) -> String {
        String::from_utf8_lossy(&self.words.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// The reason behind an error of [`Read`].
    pub(crate) fn failure(&mut self, error: &std::io::Error) -> Error {
        self.failed
            .take()
            .unwrap_or_else(|| Error::Command { name: self.name.clone(), why: error.to_string() })
    }

    /// The next piece of output; none at its end. Waits with patience and an eye on cancellation.
    pub(crate) fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        let since = self.control.clock.boot();
        loop {
            if self.control.cancel.is_cancelled() {
                return Err(Error::Cancelled(self.name.clone()));
            }
            if self.deadline.is_some_and(|deadline| self.control.clock.boot() >= deadline) {
                return Err(Error::Command {
                    name: self.name.clone(),
                    why: "it took longer than allowed".into(),
                });
            }
            match self.pieces.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(piece)) => {
                    self.pulse.beat();
                    let wait = self.bucket.take(piece.len() as u64);
                    if !wait.is_zero() {
                        self.control.clock.sleep(wait);
                        self.pulse.beat();
                    }
                    return Ok(Some(piece));
                }
                Ok(Err(error)) => {
                    return Err(Error::Command { name: self.name.clone(), why: error.to_string() });
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.pulse.silence(since) >= self.control.patience {
                return Err(Error::Stalled {
                    server: self.name.clone(),
                    what: "its output".into(),
                    seconds: self.control.patience.as_secs(),
                });
            }
        }
    }

    /// Waits for its end, after its output has ended.
    pub(crate) fn finish(mut self) -> Result<Ended, Error> {
        drop(self.child.stdin.take());
        let since = self.control.clock.boot();
        let status = loop {
            let ended = self
                .child
                .try_wait()
                .map_err(|error| Error::Command { name: self.name.clone(), why: error.to_string() })?;
            if let Some(status) = ended {
                break status;
            }
            if self.control.clock.boot().saturating_sub(since) > LAST {
                return Err(Error::Command {
                    name: self.name.clone(),
                    why: "its output ended, and it did not".into(),
                });
            }
            self.control.clock.sleep(Duration::from_millis(5));
        };
        self.over = true;
        // What it started itself must not go on; its words end with it.
        self.kill();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        Ok(Ended { status: status.code(), words: self.words() })
    }

    fn kill(&self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Read for Running {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.failed.is_some() {
            return Err(std::io::Error::other("the output ended early"));
        }
        if self.now.is_empty() {
            match self.piece() {
                Ok(Some(piece)) => self.now = piece,
                Ok(None) => return Ok(0),
                Err(error) => {
                    let text = error.to_string();
                    self.failed = Some(error);
                    return Err(std::io::Error::other(text));
                }
            }
        }
        let length = buffer.len().min(self.now.len());
        self.now.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            self.kill();
            let _ = self.child.wait();
        }
    }
}
