//! The gate as the vault sees it: a socket that answers one line for each line.
//!
//! The vault asks, the gate decides by itself whether the token is good; closing needs nothing. A gate that
//! does not answer counts as open.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use kuramori_model::gate::{GateState, GateStatus, LINE_LIMIT, Reply, Request, SignedToken, WindowRecord};

use crate::error::{Error, Result};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The gate's socket. Connects for each call: a restarted gate must not be noticed by a broken pipe only.
#[derive(Debug, Clone)]
pub struct Gate {
    socket: PathBuf,
}

impl Gate {
    /// Names the socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// [`Error::Gate`] if there is no answer, [`Error::GateRefused`] if it says no.
    pub fn ask(&self, request: &Request) -> Result<Reply> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| Error::Gate { what, source }
        };
        let stream = UnixStream::connect(&self.socket).map_err(failed("accept a connection"))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed("wait"))?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed("wait"))?;
        let mut line = serde_json::to_vec(request).unwrap_or_default();
        line.push(b'\n');
        (&stream).write_all(&line).map_err(failed("take a request"))?;
        let mut answer = String::new();
        // Histories may be longer than a request's line.
        let limit = 64 * LINE_LIMIT as u64;
        BufReader::new((&stream).take(limit)).read_line(&mut answer).map_err(failed("answer"))?;
        match serde_json::from_str(&answer) {
            Ok(Reply::Refused { code, message, .. }) => Err(Error::GateRefused { code, message }),
            Ok(reply) => Ok(reply),
            Err(error) => Err(failed("answer as its protocol says")(std::io::Error::other(error))),
        }
    }

    fn status_of(&self, request: &Request) -> Result<GateStatus> {
        match self.ask(request)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(Error::Gate {
                what: "answer with its status".into(),
                source: std::io::ErrorKind::InvalidData.into(),
            }),
        }
    }

    /// How things stand.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn status(&self) -> Result<GateStatus> {
        self.status_of(&Request::Status {})
    }

    /// Hands in a token.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn open(&self, token: SignedToken) -> Result<GateStatus> {
        self.status_of(&Request::Open { token: Box::new(token) })
    }

    /// No new files from now on.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn drain(&self) -> Result<GateStatus> {
        self.status_of(&Request::Drain {})
    }

    /// Closes.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn close(&self, reason: &str) -> Result<GateStatus> {
        self.status_of(&Request::Close { reason: reason.to_owned() })
    }

    /// Closes for as long as nobody releases it.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn lockdown(&self, reason: &str) -> Result<GateStatus> {
        self.status_of(&Request::Lockdown { reason: reason.to_owned() })
    }

    /// Finished windows, newest first.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn history(&self, limit: u32) -> Result<Vec<WindowRecord>> {
        match self.ask(&Request::History { limit })? {
            Reply::History { windows } => Ok(windows),
            _ => Err(Error::Gate {
                what: "answer with its history".into(),
                source: std::io::ErrorKind::InvalidData.into(),
            }),
        }
    }
}

/// Whether our window's path is open.
pub(crate) fn is_open(state: &GateState) -> bool {
    matches!(state, GateState::Open(_) | GateState::Draining(_))
}

/// Whether it is on the way to open.
pub(crate) fn is_opening(state: &GateState) -> bool {
    matches!(state, GateState::Arming { .. } | GateState::Opening { .. })
}
