//! The wire to the server: TCP, TLS if configured, messages, and waiting that ends.

use std::{io::Read, sync::Arc, time::Duration};

use bytes::BytesMut;
use postgres_protocol::message::{
    backend::{COPY_OUT_RESPONSE_TAG, Header, Message},
    frontend,
};

use crate::{
    Control, Error,
    config::{PostgresConfig, TlsConfig},
    control::Pulse,
    socket::{Socket, TICK, is_tick, still_patient},
};

/// No message of a sane server is bigger; its archives come in pieces of 32 KiB to 1 MiB.
const LARGEST: usize = 64 << 20;
/// `CopyBothResponse` of the frontend/backend protocol.
const COPY_BOTH: u8 = b'W';
/// Bytes asked of the socket at once.
const GULP: usize = 256 << 10;

/// A connection that speaks in whole messages.
pub(super) struct Line {
    wire: Socket,
    inbox: BytesMut,
    pub(super) server: String,
    /// What is being read, for errors.
    pub(super) what: String,
    control: Control,
    pulse: Pulse,
}

impl Line {
    pub(super) fn open(config: &PostgresConfig, control: &Control) -> Result<Self, Error> {
        let server = format!("{}:{}", config.server, config.port);
        let mut line = Self {
            wire: Socket::connect(&config.server, config.port, config.connect_within.0, control.patience)?,
            inbox: BytesMut::new(),
            server,
            what: "the login".into(),
            pulse: Pulse::new(Arc::clone(&control.clock)),
            control: control.clone(),
        };
        if let Some(tls) = &config.tls {
            line.encrypt(tls, &config.server)?;
        }
        Ok(line)
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.wire.is_encrypted()
    }

    fn encrypt(&mut self, config: &TlsConfig, host: &str) -> Result<(), Error> {
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        self.send(&request)?;
        let mut answer = [0];
        self.take_exact(&mut answer)?;
        if answer != *b"S" {
            let why = "the server offers no TLS (`ssl = on` is missing in its postgresql.conf)".into();
            return Err(Error::Tls { server: self.server.clone(), why });
        }
        let since = self.control.clock.boot();
        let name = config.server_name.as_deref().unwrap_or(host);
        self.wire.encrypt(&self.server, &config.ca_file, name, || {
            still_patient(&self.control, &self.pulse, since, &self.server, &self.what)
        })
    }

    /// Sends bytes that were packed by `frontend`.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.wire.send(bytes).map_err(|error| self.lost(&error.to_string()))
    }

    /// The next message.
    pub(super) fn receive(&mut self) -> Result<Message, Error> {
        match self.next(None)? {
            Some(message) => Ok(message),
            None => Err(self.broken("nothing came".into())),
        }
    }

    /// The next message, if one comes within this time (in steps of a fifth of a second).
    pub(super) fn receive_within(&mut self, time: Duration) -> Result<Option<Message>, Error> {
        self.next(Some(self.control.clock.boot() + time))
    }

    fn next(&mut self, until: Option<Duration>) -> Result<Option<Message>, Error> {
        loop {
            let header = Header::parse(&self.inbox).map_err(|error| self.broken(error.to_string()))?;
            if header.is_some_and(|header| usize::try_from(header.len()).is_ok_and(|len| len > LARGEST)) {
                return Err(self.broken("a message of more than 64 MiB".into()));
            }
            // The start of a stream in both directions looks like that of one; the parser knows only the latter.
            if self.inbox.first() == Some(&COPY_BOTH) {
                self.inbox[0] = COPY_OUT_RESPONSE_TAG;
            }
            match Message::parse(&mut self.inbox) {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {
                    if !self.fill(until)? {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(self.broken(error.to_string())),
            }
        }
    }

    /// False if nothing came in time.
    fn fill(&mut self, until: Option<Duration>) -> Result<bool, Error> {
        let before = self.inbox.len();
        self.inbox.resize(before + GULP, 0);
        let taken = self.take(before, until);
        let count = taken.as_ref().map_or(0, |taken| taken.unwrap_or(0));
        self.inbox.truncate(before + count);
        taken.map(|taken| taken.is_some())
    }

    fn take(&mut self, from: usize, until: Option<Duration>) -> Result<Option<usize>, Error> {
        // Whoever asks with a time of his own is waiting from call to call.
        let since = if until.is_some() { Duration::ZERO } else { self.control.clock.boot() };
        loop {
            let buffer = &mut self.inbox[from..];
            match self.wire.read(buffer) {
                Ok(0) => return Err(self.lost("the server closed the connection")),
                Ok(taken) => {
                    self.pulse.beat();
                    return Ok(Some(taken));
                }
                Err(error) if is_tick(&error) => {
                    self.still_patient(since)?;
                    if until.is_some_and(|until| self.control.clock.boot() >= until) {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(self.lost(&error.to_string())),
            }
        }
    }

    /// The one answer that is no message: the byte before TLS.
    fn take_exact(&mut self, to: &mut [u8; 1]) -> Result<(), Error> {
        let since = self.control.clock.boot();
        loop {
            // Exactly one byte: what follows belongs to TLS and must not be read in clear.
            match self.wire.read(to) {
                Ok(1) => return Ok(()),
                Err(error) if is_tick(&error) => {}
                Ok(_) => return Err(self.lost("the server closed the connection")),
                Err(error) => return Err(self.lost(&error.to_string())),
            }
            let silence = self.pulse.silence(since);
            if silence >= self.control.patience || self.control.cancel.is_cancelled() {
                return self.still_patient(since);
            }
        }
    }

    /// Waits on purpose; this silence is ours.
    pub(super) fn pause(&mut self, time: Duration) -> Result<(), Error> {
        let until = self.control.clock.boot() + time;
        loop {
            self.cancelled()?;
            let left = until.saturating_sub(self.control.clock.boot());
            if left.is_zero() {
                return Ok(());
            }
            self.control.clock.sleep(left.min(TICK));
            self.pulse.beat();
        }
    }

    pub(super) fn cancelled(&self) -> Result<(), Error> {
        if self.control.cancel.is_cancelled() { Err(Error::Cancelled(self.what.clone())) } else { Ok(()) }
    }

    fn still_patient(&self, since: Duration) -> Result<(), Error> {
        still_patient(&self.control, &self.pulse, since, &self.server, &self.what)
    }

    pub(super) fn lost(&self, why: &str) -> Error {
        Error::ConnectionLost { server: self.server.clone(), what: self.what.clone(), why: why.to_owned() }
    }

    pub(super) fn broken(&self, why: String) -> Error {
        Error::Protocol { server: self.server.clone(), why }
    }
}
