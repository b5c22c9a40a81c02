//! One SFTP session inside Debian's `ssh`, brought back a bounded number of times when it breaks.
//!
//! The encrypted line is the distribution's own client: it gets security updates with the machine, and it
//! still speaks with the old servers that hospitals have. It is started with no configuration of anybody's,
//! knows exactly the registered host key, forwards nothing and asks nobody.

use std::{
    collections::{HashMap, VecDeque},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    process::ChildStdin,
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tempfile::TempDir;

use super::wire::{self, Answer, Ask};
use crate::{
    Control, Error,
    child::{Program, Running},
    config::SftpConfig,
};

/// Why an answer is not what was hoped for.
#[derive(Debug)]
pub(super) enum Slip {
    /// Only this item: gone, denied, or in the server's words.
    Item(Trouble),
    /// The session is over.
    Broken(Error),
}

/// What is wrong with one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    Gone,
    Denied,
    Changed,
    Other(String),
}

impl Trouble {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Gone => "was listed, but is not there any more".into(),
            Self::Denied => "the account may not read it".into(),
            Self::Changed => "changed each time it was read".into(),
            Self::Other(text) => text.clone(),
        }
    }
}

impl From<Error> for Slip {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

/// The live session.
struct Session {
    running: Running,
    input: ChildStdin,
    buffer: BytesMut,
    next: u32,
    answers: HashMap<u32, Answer>,
    /// Requests whose answers nobody wants any more: only counted down.
    unwanted: VecDeque<u32>,
}

/// A session that comes back.
pub(super) struct Link {
    config: SftpConfig,
    control: Control,
    folder: TempDir,
    session: Option<Session>,
    /// Grows with each new session: handles of an older one are worth nothing.
    pub(super) generation: u32,
    pub(super) reconnects: u32,
    /// The server gave less than 32 KiB in one answer: nothing is asked for ahead of a look any more.
    pub(super) gives_less: bool,
}

impl Link {
    pub(super) fn new(config: &SftpConfig, control: &Control) -> Result<Self, Error> {
        let folder = TempDir::with_prefix("kuramori-sftp-").map_err(Error::Start)?;
        let write = |name: &str, text: &str, mode: u32| -> Result<(), Error> {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(folder.path().join(name))
                .map_err(Error::Start)?;
            file.write_all(text.as_bytes()).map_err(Error::Start)
        };
        let keys: Vec<String> = config.host_keys.iter().map(|key| format!("{ALIAS} {key}")).collect();
        write("known_hosts", &format!("{}\n", keys.join("\n")), 0o600)?;
        if let Some(password) = &config.password_file {
            crate::config::password(password)?;
            write("askpass", "#!/bin/sh\nexec cat \"$KURAMORI_PASSWORD_FILE\"\n", 0o700)?;
        }
        if let Some(key) = &config.key_file {
            crate::config::password(key)?;
        }
        let mut link = Self {
            config: config.clone(),
            control: control.clone(),
            folder,
            session: None,
            generation: 0,
            reconnects: 0,
            gives_less: false,
        };
        link.connect()?;
        Ok(link)
    }

    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    pub(super) fn server(&self) -> String {
        format!("{}:{}", self.config.server, self.config.port)
    }

    pub(super) fn user(&self) -> &str {
        &self.config.user
    }

    fn program(&self) -> Program {
        let c = &self.config;
        let option = |text: String| ["-o".to_owned(), text];
        let mut arguments: Vec<String> = ["ssh", "-F", "/dev/null", "-T"].map(str::to_owned).into();
        let known = self.folder.path().join("known_hosts");
        let alive = (self.control.patience.as_secs() / 4).clamp(1, 60);
        let mut options = vec![
            format!("UserKnownHostsFile={}", known.display()),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            "UpdateHostKeys=no".to_owned(),
            "CheckHostIP=no".to_owned(),
            format!("HostKeyAlias={ALIAS}"),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "ForwardAgent=no".to_owned(),
            "ClearAllForwardings=yes".to_owned(),
            "PermitLocalCommand=no".to_owned(),
            "ControlMaster=no".to_owned(),
            "ControlPath=none".to_owned(),
            "EscapeChar=none".to_owned(),
            "NumberOfPasswordPrompts=1".to_owned(),
            "LogLevel=ERROR".to_owned(),
            format!("ConnectTimeout={}", c.connect_within.0.as_secs().max(1)),
            format!("ServerAliveInterval={alive}"),
            "ServerAliveCountMax=3".to_owned(),
        ];
        match &c.key_file {
            Some(key) => options.extend([
                format!("IdentityFile={}", key.display()),
                "PreferredAuthentications=publickey".to_owned(),
                "BatchMode=yes".to_owned(),
            ]),
            None => options.extend([
                "PreferredAuthentications=password,keyboard-interactive".to_owned(),
                "PubkeyAuthentication=no".to_owned(),
            ]),
        }
        arguments.extend(options.into_iter().flat_map(option));
        arguments.extend(["-p".into(), c.port.to_string(), "-l".into(), c.user.clone()]);
        arguments.extend(["-s".into(), "--".into(), c.server.clone(), "sftp".into()]);
        let mut program = Program::new(arguments);
        if let Some(password) = &c.password_file {
            program.environment = vec![
                ("SSH_ASKPASS", self.folder.path().join("askpass").into()),
                ("SSH_ASKPASS_REQUIRE", "force".into()),
                ("KURAMORI_PASSWORD_FILE", password.into()),
            ];
        }
        program.spoken_to = true;
        program
    }

    fn connect(&mut self) -> Result<(), Error> {
        self.session = None;
        let mut running = self.program().start(&self.control, None)?;
        let Some(input) = running.input() else {
            return Err(Error::Command { name: "ssh".into(), why: "it has no input".into() });
        };
        let mut session = Session {
            running,
            input,
            buffer: BytesMut::new(),
            next: 1,
            answers: HashMap::new(),
            unwanted: VecDeque::new(),
        };
        // A server that refuses the login closes before it reads anything; its words say why.
        let said = session.input.write_all(&wire::hello()).map_err(|error| error.to_string());
        let greeting = match said {
            Ok(()) => session.packet(),
            Err(why) => {
                Err(Error::ConnectionLost { server: self.server(), what: "the greeting".into(), why })
            }
        };
        match greeting {
            Ok(Some((_, Answer::Hello(version)))) if version >= 3 => {}
            Ok(Some(_)) => {
                return Err(Error::Protocol {
                    server: self.server(),
                    why: "it does not greet as SFTP 3".into(),
                });
            }
            Err(error @ (Error::Cancelled(_) | Error::Stalled { .. })) => return Err(error),
            Ok(None) | Err(_) => return Err(self.refused(session)),
        }
        self.session = Some(session);
        self.generation += 1;
        Ok(())
    }

    /// What `ssh` said about a login that did not work, as an error that names it.
    fn refused(&self, session: Session) -> Error {
        let Session { running, input, .. } = session;
        drop(input);
        let words = match running.finish() {
            Ok(ended) => ended.words,
            Err(error) => return error,
        };
        let why = words.trim().to_owned();
        let (server, user) = (self.server(), self.config.user.clone());
        let has = |text: &str| why.contains(text);
        if has("Host key verification failed")
            || has("HOST IDENTIFICATION HAS CHANGED")
            || has("host key is known")
        {
            Error::WrongInstance {
                server,
                what: "the host key",
                expected: self.config.host_keys.join(", "),
                found: why
                    .lines()
                    .find(|line| line.contains("SHA256:"))
                    .unwrap_or("another one")
                    .trim()
                    .to_owned(),
            }
        } else if has("Permission denied") || has("Too many authentication failures") {
            Error::WrongPassword { server, user }
        } else if has("Connection refused")
            || has("timed out")
            || has("No route to host")
            || has("Could not resolve")
            || has("unreachable")
        {
            Error::Unreachable { server, why }
        } else if has("subsystem request failed") {
            Error::LoginRefused { server, user, why: "the server offers no SFTP to this account".into() }
        } else {
            Error::LoginRefused { server, user, why: if why.is_empty() { "it hung up".into() } else { why } }
        }
    }

    fn session(&mut self) -> Result<&mut Session, Error> {
        let server = self.server();
        self.session.as_mut().ok_or(Error::ConnectionLost {
            server,
            what: "the session".into(),
            why: "it is over".into(),
        })
    }

    /// Sends a request; its answer is asked for by the number.
    pub(super) fn send(&mut self, ask: &Ask<'_>) -> Result<u32, Slip> {
        let server = self.server();
        let session = self.session()?;
        let id = session.next;
        session.next = session.next.wrapping_add(1).max(1);
        let sent = session.input.write_all(&ask.packet(id)).and_then(|()| session.input.flush());
        match sent {
            Ok(()) => Ok(id),
            Err(error) => {
                let why = session.last_words(&error.to_string());
                self.session = None;
                Err(Slip::Broken(Error::ConnectionLost { server, what: "a request".into(), why }))
            }
        }
    }

    /// Waits for the answer to a request.
    pub(super) fn wait(&mut self, id: u32) -> Result<Answer, Slip> {
        let server = self.server();
        loop {
            let session = self.session()?;
            if let Some(answer) = session.answers.remove(&id) {
                return Ok(answer);
            }
            match session.packet() {
                Ok(Some((other, answer))) => {
                    match session.unwanted.iter().position(|unwanted| *unwanted == other) {
                        Some(at) => drop(session.unwanted.remove(at)),
                        None => drop(session.answers.insert(other, answer)),
                    }
                }
                Ok(None) => {
                    let why = session.last_words("it hung up");
                    self.session = None;
                    return Err(Slip::Broken(Error::ConnectionLost {
                        server,
                        what: "an answer".into(),
                        why,
                    }));
                }
                Err(error) => {
                    self.session = None;
                    return Err(Slip::Broken(error));
                }
            }
        }
    }

    /// Nobody will ask for this answer.
    pub(super) fn forget(&mut self, id: u32) {
        if let Some(session) = &mut self.session
            && session.answers.remove(&id).is_none()
        {
            session.unwanted.push_back(id);
        }
    }

    /// Sends and waits.
    pub(super) fn ask(&mut self, ask: &Ask<'_>) -> Result<Answer, Slip> {
        let id = self.send(ask)?;
        match self.wait(id)? {
            Answer::Status { code, words } if code != wire::STATUS_OK => Err(slip(code, &words)),
            answer => Ok(answer),
        }
    }

    /// Makes a new session after a break, if the run may have one more.
    pub(super) fn again(&mut self, error: Error, what: &str) -> Result<(), Error> {
        if !matches!(error, Error::ConnectionLost { .. }) {
            return Err(error);
        }
        let clock = self.control.clock.clone();
        let until = clock.boot() + self.config.reconnect_within.0;
        let mut last = error;
        if self.reconnects >= self.config.reconnects {
            return Err(named(last, what));
        }
        self.reconnects += 1;
        tracing::warn!(server = self.server(), what, "the SFTP session broke: {last}");
        loop {
            if self.control.cancel.is_cancelled() {
                return Err(Error::Cancelled(what.to_owned()));
            }
            match self.connect() {
                Ok(()) => return Ok(()),
                Err(
                    error @ (Error::Unreachable { .. }
                    | Error::ConnectionLost { .. }
                    | Error::LoginRefused { .. }),
                ) => {
                    last = error;
                }
                Err(error) => return Err(error),
            }
            if clock.boot() >= until {
                return Err(Error::ConnectionLost {
                    server: self.server(),
                    what: what.to_owned(),
                    why: last.to_string(),
                });
            }
            clock.sleep(Duration::from_millis(250));
        }
    }

    /// Ends the session in good order.
    pub(super) fn bye(&mut self) {
        if let Some(session) = self.session.take() {
            let Session { running, input, .. } = session;
            drop(input);
            let _ = running.finish();
        }
    }
}

/// The name under which the registered key is known, whatever the address.
const ALIAS: &str = "kuramori";

fn named(error: Error, what: &str) -> Error {
    match error {
        Error::ConnectionLost { server, why, .. } => {
            Error::ConnectionLost { server, what: what.to_owned(), why }
        }
        other => other,
    }
}

pub(super) fn slip(code: u32, words: &str) -> Slip {
    Slip::Item(match code {
        wire::STATUS_MISSING => Trouble::Gone,
        wire::STATUS_DENIED => Trouble::Denied,
        _ => Trouble::Other(format!("the server answered {code}: {words}")),
    })
}

impl Session {
    /// The next packet; none if the server hung up between two.
    fn packet(&mut self) -> Result<Option<(u32, Answer)>, Error> {
        let broken = |why: &str| Error::Protocol { server: "the SFTP server".into(), why: why.to_owned() };
        loop {
            if let Some(head) = self.buffer.get(..4) {
                let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
                if length == 0 || length > wire::LONGEST {
                    return Err(broken("a packet without sense"));
                }
                if self.buffer.len() >= length + 4 {
                    self.buffer.advance(4);
                    let packet: Bytes = self.buffer.split_to(length).freeze();
                    return wire::answer(&packet)
                        .map(Some)
                        .ok_or_else(|| broken("an answer that does not hold together"));
                }
            }
            match self.running.piece()? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => return Ok(None),
            }
        }
    }

    fn last_words(&self, else_: &str) -> String {
        let words = self.running.words();
        let words = words.trim();
        if words.is_empty() { else_.to_owned() } else { words.to_owned() }
    }
}
