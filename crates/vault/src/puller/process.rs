//! The vault's end of a puller: starts it, asks it, counts what it says, kills it.

use std::{
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kuramori_model::clock::Clock;
use kuramori_repo::store::{FileId, FileKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Ask, ENTRY, FRAME, Failure, Meet, Source, path};
use crate::{
    config::{Limits, Peer, Puller, secret},
    error::{Error, Result},
    folder::pieces,
};

/// One puller process.
#[derive(Debug)]
pub struct Process {
    stdin: ChildStdin,
    stdout: ChildStdout,
    kill: Kill,
    limits: Limits,
    clock: Arc<dyn Clock>,
    /// After an error in the middle of an answer nothing that follows can be understood.
    broken: bool,
}

/// Ends a puller from another thread.
#[derive(Debug, Clone)]
pub struct Kill(Arc<Mutex<Child>>);

impl Kill {
    /// Kills and reaps it; a second time does nothing.
    pub fn kill(&self) {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill.kill();
    }
}

/// What the puller must know of a peer.
///
/// # Errors
/// [`Error::Config`] if the certificate or the password cannot be read.
pub fn meet(peer: &Peer, limits: &Limits) -> Result<Meet> {
    let name = peer.server_name.clone().unwrap_or_else(|| peer.address.ip().to_string());
    let ca = fs_err::read_to_string(&peer.ca_file)
        .map_err(|error| Error::Config { file: peer.ca_file.clone(), what: error.to_string() })?;
    Ok(Meet {
        base: format!("https://{name}:{}/", peer.address.port()),
        address: peer.address.into(),
        name,
        ca,
        login: peer.login.clone(),
        password: secret(&peer.password_file)?.to_string(),
        connect_s: limits.connect_s,
        stall_s: limits.stall_s,
    })
}

impl Process {
    /// Starts a puller in its namespace and tells it whom to speak with.
    ///
    /// # Errors
    /// [`Error::Puller`] if it does not start, with the step that failed.
    pub fn start(puller: &Puller, meet: &Meet, limits: Limits, clock: Arc<dyn Clock>) -> Result<Self> {
        let mut child = spawn(puller)?;
        let gone = |what: &str| Error::Puller {
            what: what.to_owned(),
            source: std::io::ErrorKind::BrokenPipe.into(),
        };
        let stdin = child.stdin.take().ok_or_else(|| gone("has no input"))?;
        let stdout = child.stdout.take().ok_or_else(|| gone("has no output"))?;
        let kill = Kill(Arc::new(Mutex::new(child)));
        let mut process = Self { stdin, stdout, kill, limits, clock, broken: false };
        process.ask(&Ask::Meet(Box::new(meet.clone())), Duration::from_secs(10), &mut |_, _| {
            Err(Error::Misbehaved("answered before it was asked".to_owned()))
        })?;
        Ok(process)
    }

    /// A handle that ends it from another thread.
    pub fn killer(&self) -> Kill {
        self.kill.clone()
    }

    /// Makes an empty repository at a receiver.
    ///
    /// # Errors
    /// As [`Source`].
    pub fn create(&mut self, repository: &str) -> Result<()> {
        let patience = self.limits.stall() * 2;
        self.ask(&Ask::Create { repository: repository.to_owned() }, patience, &mut unexpected)
    }

    /// Uploads a file of exactly `size` bytes.
    ///
    /// # Errors
    /// As [`Source`]; [`Error::Io`] if the file cannot be read.
    pub fn put(
        &mut self,
        repository: &str,
        kind: FileKind,
        id: FileId,
        size: u64,
        from: &mut dyn Read,
    ) -> Result<()> {
        let ask = Ask::Put { path: path(repository, kind, id), size };
        self.say(&ask)?;
        self.broken = true;
        let failed = || Error::io(format!("read {kind}/{id}"));
        let read = pieces(from, size, failed(), &mut |piece| {
            self.wait_writable()?;
            self.stdin.write_all(piece).map_err(|source| Error::Puller { what: "broke off".into(), source })
        })?;
        if read < size {
            return Err(failed()(std::io::ErrorKind::UnexpectedEof.into()));
        }
        // The server hashes and syncs what it took before it answers.
        let patience = self.limits.stall() * 4;
        self.hear(patience, &mut unexpected)
    }

    fn ask(
        &mut self,
        ask: &Ask,
        patience: Duration,
        each: &mut dyn FnMut(u8, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.say(ask)?;
        self.hear(patience, each)
    }

    fn say(&mut self, ask: &Ask) -> Result<()> {
        let broke = |source| Error::Puller { what: "broke off".into(), source };
        if self.broken {
            return Err(broke(std::io::ErrorKind::BrokenPipe.into()));
        }
        let mut line = zeroize::Zeroizing::new(serde_json::to_vec(ask).unwrap_or_default());
        line.push(b'\n');
        self.stdin.write_all(&line).map_err(broke)
    }

    /// Reads frames to the end of the answer. Each must come within `patience`.
    fn hear(&mut self, patience: Duration, each: &mut dyn FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        self.broken = true;
        let mut payload = Vec::new();
        loop {
            let mut head = [0; 5];
            self.read(&mut head, patience)?;
            let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if length > FRAME {
                return Err(Error::Misbehaved("made the puller break its protocol".to_owned()));
            }
            payload.resize(length, 0);
            self.read(&mut payload, patience)?;
            match head[0] {
                b'.' => {
                    self.broken = false;
                    return Ok(());
                }
                b'!' => {
                    let failure: Failure = serde_json::from_slice(&payload)
                        .map_err(|_| Error::Misbehaved("made the puller break its protocol".to_owned()))?;
                    self.broken = false;
                    return Err(failure.into());
                }
                tag => each(tag, &payload)?,
            }
        }
    }

    fn read(&mut self, mut buffer: &mut [u8], patience: Duration) -> Result<()> {
        let deadline = self.clock.boot() + patience;
        while !buffer.is_empty() {
            let left = deadline.saturating_sub(self.clock.boot());
            let time = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(60),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut watched = [PollFd::new(&self.stdout, PollFlags::IN)];
            match poll(&mut watched, Some(&time)) {
                Err(rustix::io::Errno::INTR) => continue,
                Ok(0) => {
                    self.kill.kill();
                    return Err(Error::Misbehaved(format!("sent nothing for {} s", patience.as_secs())));
                }
                _ => {}
            }
            let failed = |source| Error::Puller { what: "ended".into(), source };
            match self.stdout.read(buffer).map_err(failed)? {
                0 => return Err(failed(std::io::ErrorKind::UnexpectedEof.into())),
                read => buffer = &mut buffer[read..],
            }
        }
        Ok(())
    }

    fn wait_writable(&self) -> Result<()> {
        let stall = self.limits.stall();
        let time = Timespec { tv_sec: i64::try_from(stall.as_secs()).unwrap_or(60), tv_nsec: 0 };
        let mut watched = [PollFd::new(&self.stdin, PollFlags::OUT)];
        match poll(&mut watched, Some(&time)) {
            Ok(0) => {
                self.kill.kill();
                Err(Error::Misbehaved(format!("took nothing for {} s", stall.as_secs())))
            }
            _ => Ok(()),
        }
    }
}

fn unexpected(_: u8, _: &[u8]) -> Result<()> {
    Err(Error::Misbehaved("made the puller break its protocol".to_owned()))
}

impl Source for Process {
    fn repositories(&mut self) -> Result<Vec<String>> {
        let mut names = None;
        let (patience, most) = (self.limits.stall(), self.limits.repositories);
        self.ask(&Ask::Repositories {}, patience, &mut |tag, payload| {
            if tag == b'n' && names.is_none() {
                let read: Vec<String> = serde_json::from_slice(payload)
                    .map_err(|_| Error::Misbehaved("sent no names".to_owned()))?;
                names = Some(read);
                return Ok(());
            }
            unexpected(tag, payload)
        })?;
        let names = names.unwrap_or_default();
        if names.len() > most {
            return Err(Error::Misbehaved(format!("has {} repositories; {most} are allowed", names.len())));
        }
        Ok(names)
    }

    fn list(
        &mut self,
        repository: &str,
        kind: FileKind,
        each: &mut dyn FnMut(FileId, u64) -> Result<()>,
    ) -> Result<()> {
        let (limits, clock) = (self.limits, self.clock.clone());
        let deadline = clock.boot() + Duration::from_secs(limits.list_s);
        let mut left = limits.list_entries;
        let ask = Ask::List {
            repository: repository.to_owned(),
            kind: kind.folder().to_owned(),
            most: limits.list_entries,
        };
        self.ask(&ask, limits.stall(), &mut |tag, payload| {
            if tag != b'l' || payload.len() % ENTRY != 0 {
                return unexpected(tag, payload);
            }
            if clock.boot() > deadline {
                return Err(Error::Misbehaved(format!("took more than {} s for a list", limits.list_s)));
            }
            for entry in payload.as_chunks::<ENTRY>().0 {
                left = left
                    .checked_sub(1)
                    .ok_or_else(|| Error::Misbehaved("sent an endless list".to_owned()))?;
                let mut id = [0; 32];
                id.copy_from_slice(&entry[..32]);
                let mut size = [0; 8];
                size.copy_from_slice(&entry[32..]);
                each(FileId(id), u64::from_le_bytes(size))?;
            }
            Ok(())
        })
    }

    fn fetch(
        &mut self,
        repository: &str,
        kind: FileKind,
        id: FileId,
        offset: u64,
        most: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (limits, clock) = (self.limits, self.clock.clone());
        let start = clock.boot();
        let (mut taken, mut left) = (0_u64, most);
        let ask = Ask::Fetch { path: path(repository, kind, id), offset, most };
        self.ask(&ask, limits.stall(), &mut |tag, payload| {
            if tag != b'd' {
                return unexpected(tag, payload);
            }
            let length = payload.len() as u64;
            left = left
                .checked_sub(length)
                .ok_or_else(|| Error::Misbehaved("sent more than it listed".to_owned()))?;
            taken += length;
            let passed = clock.boot().saturating_sub(start).saturating_sub(limits.stall());
            if taken < passed.as_secs().saturating_mul(limits.floor) {
                return Err(Error::Misbehaved(format!("sends less than {} bytes a second", limits.floor)));
            }
            each(payload)
        })
    }
}

/// Starts the process from a thread that has entered the namespace: a child belongs to where its parent's
/// thread is.
fn spawn(puller: &Puller) -> Result<Child> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Puller { what, source }
    };
    let mut command = if let Some((program, arguments)) = puller.command.split_first() {
        let mut command = Command::new(program);
        command.args(arguments);
        command
    } else {
        let mut command = Command::new(std::env::current_exe().map_err(failed("cannot be found"))?);
        command.args(["vault", "puller"]);
        command
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
    // Ctrl-C in the vault's terminal must not end the puller before the window is closed in order.
    command.process_group(0);
    if let Some(gid) = puller.gid {
        command.gid(gid);
    }
    if let Some(uid) = puller.uid {
        command.uid(uid);
    }
    let Some(netns) = puller.netns.clone() else {
        return command.spawn().map_err(failed("could not be started"));
    };
    let start = move || {
        let namespace = fs_err::File::open(&netns).map_err(failed("has no network namespace"))?;
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(namespace.file()),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .map_err(|error| failed("may not enter its network namespace")(error.into()))?;
        command.spawn().map_err(failed("could not be started"))
    };
    std::thread::spawn(start)
        .join()
        .map_err(|_| failed("could not be started")(std::io::ErrorKind::Other.into()))?
}
