//! One connection to the share, brought back a bounded number of times when it breaks.
//!
//! Every reader goes through [`Link::run`]: it lends the live session, and when the session turns out to be
//! broken it makes a new one (once for all who wait) and lets the reader try again. What cannot be brought
//! back is written into the verdict, and everybody stops.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kuramori_model::clock::Clock;
use smb2::{
    ClientConfig, CompoundOp, SmbClient,
    client::Connection,
    error::ErrorKind,
    msg::query_info::QueryInfoResponse,
    pack::{ReadCursor, Unpack},
    types::{Command, FileId, TreeId, status::NtStatus},
};
use zeroize::Zeroizing;

use super::wire;
use crate::{
    Error,
    config::SmbConfig,
    control::{Bucket, Pulse},
    report::SmbOrigin,
};

/// Why one item could not be read; the connection is fine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Somebody else holds it and shares it with nobody.
    Busy,
    /// It was listed, but is not there any more.
    Gone,
    /// The account may not read it.
    Denied,
    /// It changed while it was read.
    Changed,
    /// Anything else the server said.
    Other(String),
}

impl Trouble {
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Busy | Self::Gone | Self::Changed)
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Busy => "in use by another program that shares it with nobody".into(),
            Self::Gone => "was listed, but is not there any more".into(),
            Self::Denied => "the account may not read it".into(),
            Self::Changed => "changed each time it was read".into(),
            Self::Other(text) => text.clone(),
        }
    }
}

/// Why an answer did not come.
#[derive(Debug)]
pub(super) enum Failure {
    /// Only this item.
    Item(Trouble),
    /// The run is over; the reason is in [`Link::verdict`].
    Fatal,
}

/// What went wrong in one try.
#[derive(Debug)]
pub(super) enum Slip {
    Item(Trouble),
    Broken(String),
}

impl From<smb2::Error> for Slip {
    fn from(error: smb2::Error) -> Self {
        match error.status() {
            Some(status) => status.into(),
            None => Self::Broken(error.to_string()),
        }
    }
}

impl From<NtStatus> for Slip {
    fn from(status: NtStatus) -> Self {
        Self::Item(match status {
            NtStatus::SHARING_VIOLATION
            | NtStatus::FILE_LOCK_CONFLICT
            | NtStatus::INSUFFICIENT_RESOURCES
            | NtStatus::INSUFF_SERVER_RESOURCES => Trouble::Busy,
            NtStatus::OBJECT_NAME_NOT_FOUND
            | NtStatus::OBJECT_PATH_NOT_FOUND
            | NtStatus::NO_SUCH_FILE
            | NtStatus::DELETE_PENDING => Trouble::Gone,
            NtStatus::ACCESS_DENIED => Trouble::Denied,
            NtStatus::NETWORK_NAME_DELETED
            | NtStatus::USER_SESSION_DELETED
            | NtStatus::NETWORK_SESSION_EXPIRED => {
                return Self::Broken(status.to_string());
            }
            other => Trouble::Other(format!("the server answered {other}")),
        })
    }
}

/// A session in which requests can be sent.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: Connection,
    pub(super) tree: TreeId,
    /// Most bytes of one READ.
    pub(super) max_read: u32,
    generation: u32,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    /// Sessions made so far.
    generation: u32,
    origin: Option<SmbOrigin>,
    dead: bool,
    last_break: String,
}

pub(super) struct Link {
    config: SmbConfig,
    password: Zeroizing<String>,
    patience: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) bucket: Bucket,
    /// Whose turn it is to wait for the bucket.
    turn: tokio::sync::Mutex<()>,
    state: tokio::sync::Mutex<State>,
    verdict: Arc<Mutex<Option<Error>>>,
}

impl Link {
    pub(super) fn new(
        config: SmbConfig,
        password: Zeroizing<String>,
        patience: Duration,
        clock: Arc<dyn Clock>,
        pulse: Arc<Pulse>,
        bucket: Bucket,
        verdict: Arc<Mutex<Option<Error>>>,
    ) -> Self {
        Self {
            config,
            password,
            patience,
            clock,
            pulse,
            bucket,
            turn: tokio::sync::Mutex::default(),
            state: tokio::sync::Mutex::default(),
            verdict,
        }
    }

    pub(super) fn config(&self) -> &SmbConfig {
        &self.config
    }

    /// Facts about the server, and how often the connection had to be brought back.
    pub(super) async fn origin(&self) -> Result<(SmbOrigin, u32), Failure> {
        self.live().await?;
        let state = self.state.lock().await;
        Ok((state.origin.clone().unwrap_or_default(), state.generation.saturating_sub(1)))
    }

    /// Most bytes that the server gives in one read.
    pub(super) async fn max_read(&self) -> Result<u32, Failure> {
        Ok(self.live().await?.max_read)
    }

    /// Runs one request, again on a new session if the old one broke under it.
    pub(super) async fn run<T, F>(&self, attempt: impl Fn(Live) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Slip>>,
    {
        loop {
            let live = self.live().await?;
            let generation = live.generation;
            let outcome = attempt(live).await;
            match outcome {
                Ok(value) => {
                    self.pulse.beat();
                    return Ok(value);
                }
                Err(Slip::Item(trouble)) => {
                    self.pulse.beat();
                    return Err(Failure::Item(trouble));
                }
                Err(Slip::Broken(why)) => {
                    tracing::warn!(server = self.address(), why, "connection to the share broke");
                    let mut state = self.state.lock().await;
                    if state.live.as_ref().is_some_and(|live| live.generation == generation) {
                        state.live = None;
                    }
                    state.last_break = why;
                }
            }
        }
    }

    /// Waits until so many bytes may be asked for, one asker after the other.
    pub(super) async fn granted(&self, bytes: u64) {
        let _turn = self.turn.lock().await;
        while let Err(wait) = self.bucket.try_take(bytes) {
            self.pause(wait.min(Duration::from_millis(100))).await;
        }
    }

    /// Waits, giving signs of life: this silence is ours.
    pub(super) async fn pause(&self, time: Duration) {
        let until = self.clock.boot() + time;
        loop {
            self.pulse.beat();
            let left = until.saturating_sub(self.clock.boot());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(Duration::from_millis(500))).await;
        }
    }

    fn address(&self) -> String {
        format!("{}:{}", self.config.server, self.config.port)
    }

    /// The live session; makes one if there is none. Whoever comes first makes it, the others wait here.
    async fn live(&self) -> Result<Live, Failure> {
        let mut state = self.state.lock().await;
        if state.dead {
            return Err(Failure::Fatal);
        }
        if let Some(live) = &state.live {
            return Ok(live.clone());
        }
        let made = if state.generation == 0 {
            self.connect(&mut state).await
        } else if state.generation > self.config.reconnects {
            let why = format!("it broke {} times, last: {}", state.generation, state.last_break);
            Err(Error::ConnectionLost { server: self.address(), what: String::new(), why })
        } else {
            self.reconnect(&mut state).await
        };
        match made {
            Ok(live) => {
                state.live = Some(live.clone());
                Ok(live)
            }
            Err(error) => {
                state.dead = true;
                *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(Failure::Fatal)
            }
        }
    }

    async fn reconnect(&self, state: &mut State) -> Result<Live, Error> {
        let deadline = self.clock.boot() + self.config.reconnect_within.0;
        let mut pause = Duration::from_millis(200);
        loop {
            match self.connect(state).await {
                Ok(live) => return Ok(live),
                // Only an absent server may come back; a server that says no would say it again.
                Err(Error::Unreachable { why, .. }) => {
                    if self.clock.boot() + pause >= deadline {
                        let why = format!("{}; it did not come back: {why}", state.last_break);
                        return Err(Error::ConnectionLost {
                            server: self.address(),
                            what: String::new(),
                            why,
                        });
                    }
                }
                Err(other) => return Err(other),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    async fn connect(&self, state: &mut State) -> Result<Live, Error> {
        let mut client = SmbClient::connect(ClientConfig {
            addr: self.address(),
            timeout: Duration::from_secs(10).min(self.patience),
            username: self.config.user.clone(),
            password: self.password.to_string(),
            domain: self.config.domain.clone(),
            auto_reconnect: false,
            compression: false,
            dfs_enabled: false,
            response_timeout: Some(self.patience),
            ..ClientConfig::default()
        })
        .await
        .map_err(|error| self.login_error(&error))?;
        self.pulse.beat();
        let tree =
            client.connect_share(&self.config.share).await.map_err(|error| self.share_error(&error))?;
        let mut connection = client.connection().clone();
        // Paths are sent as they are listed; with the DFS flag the server would take parts off them.
        connection.deregister_dfs_tree(tree.tree_id);
        let params = connection.params();
        let origin = self.identify(&connection, tree.tree_id).await?;
        if let Some(first) = &state.origin {
            self.compare("the server's GUID", Some(&first.server_guid), &origin.server_guid)?;
            self.compare("the volume's serial number", Some(&first.volume_serial), &origin.volume_serial)?;
        }
        let expect = &self.config.expect;
        self.compare("the server's GUID", expect.server_guid.as_ref(), &origin.server_guid)?;
        self.compare("the volume's serial number", expect.volume_serial.as_ref(), &origin.volume_serial)?;
        state.origin = Some(origin);
        state.generation += 1;
        self.pulse.beat();
        Ok(Live {
            connection,
            tree: tree.tree_id,
            max_read: params.map_or(64 << 10, |params| params.max_read_size).max(4096),
            generation: state.generation,
        })
    }

    fn compare(&self, what: &'static str, expected: Option<&String>, found: &str) -> Result<(), Error> {
        match expected {
            Some(expected) if !expected.eq_ignore_ascii_case(found) => Err(Error::WrongInstance {
                server: self.address(),
                what,
                expected: expected.clone(),
                found: found.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    async fn identify(&self, connection: &Connection, tree: TreeId) -> Result<SmbOrigin, Error> {
        let mut origin = SmbOrigin {
            server: self.address(),
            share: self.config.share.clone(),
            folder: self.config.folder.clone(),
            encrypted: connection.should_encrypt(),
            ..SmbOrigin::default()
        };
        if let Some(params) = connection.params() {
            params.server_guid.to_string().trim_matches(['{', '}']).clone_into(&mut origin.server_guid);
            origin.dialect = params.dialect.to_string();
        }
        let open = wire::Open { path: &[], folder: true };
        let ask = wire::volume(FileId::SENTINEL);
        let close = wire::close(FileId::SENTINEL);
        let answers = connection
            .execute_compound(&[
                CompoundOp::new(Command::Create, &open, Some(tree)),
                CompoundOp::new(Command::QueryInfo, &ask, Some(tree)),
                CompoundOp::new(Command::Close, &close, Some(tree)),
            ])
            .await
            .map_err(|error| self.share_error(&error))?;
        let mut answers = answers.into_iter();
        let (opened, facts) = (answers.next(), answers.next());
        match opened {
            Some(Ok(frame)) if frame.header.status.is_error() => {
                return Err(self.share_status(frame.header.status));
            }
            Some(Err(error)) => return Err(self.share_error(&error)),
            _ => {}
        }
        // A server that does not tell its volume has no serial; `expect` then fails, as it should.
        if let Some(Ok(frame)) = facts
            && frame.header.status.is_success()
            && let Ok(answer) = QueryInfoResponse::unpack(&mut ReadCursor::new(&frame.body))
            && let Some((serial, label)) = wire::volume_facts(&answer.output_buffer)
        {
            (origin.volume_serial, origin.volume_label) = (serial, label);
        }
        Ok(origin)
    }

    fn login_error(&self, error: &smb2::Error) -> Error {
        let (server, user) = (self.address(), self.config.user.clone());
        match (error.kind(), error.status()) {
            (ErrorKind::AuthRequired, Some(NtStatus::LOGON_FAILURE))
            | (ErrorKind::GuestSessionRefused, _) => Error::WrongPassword { server, user },
            (ErrorKind::AuthRequired | ErrorKind::AccessDenied | ErrorKind::SigningRequired, _) => {
                Error::LoginRefused { server, user, why: error.to_string() }
            }
            (ErrorKind::SignatureInvalid | ErrorKind::InvalidData, _) => {
                Error::Protocol { server, why: error.to_string() }
            }
            _ => Error::Unreachable { server, why: error.to_string() },
        }
    }

    fn share_error(&self, error: &smb2::Error) -> Error {
        match error.status() {
            Some(status) => self.share_status(status),
            None => Error::Unreachable { server: self.address(), why: error.to_string() },
        }
    }

    fn share_status(&self, status: NtStatus) -> Error {
        let (server, share) = (self.address(), self.config.share.clone());
        match status {
            NtStatus::BAD_NETWORK_NAME | NtStatus::OBJECT_NAME_NOT_FOUND => {
                Error::ShareMissing { server, share }
            }
            NtStatus::ACCESS_DENIED => {
                Error::AccessDenied { server, user: self.config.user.clone(), what: share }
            }
            other => Error::Server {
                server,
                code: format!("0x{:08x}", other.0),
                message: format!("{other} for the share `{share}`"),
            },
        }
    }
}
