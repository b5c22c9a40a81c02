//! Login and simple commands on a replication connection.

use std::collections::BTreeMap;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::{
        backend::{DataRowBody, ErrorFields, Message},
        frontend,
    },
};
use zeroize::Zeroizing;

use super::line::Line;
use crate::{Control, Error, config::PostgresConfig};

/// A row of text fields.
pub(super) type Row = Vec<Option<String>>;

/// A logged-in connection.
pub(super) struct Session {
    pub(super) line: Line,
    user: String,
    logged_in: bool,
    parameters: BTreeMap<String, String>,
    /// The server process that serves us.
    pub(super) process: i32,
    warnings: Vec<String>,
}

/// How many of the server's warnings are kept for an error's text.
const WARNINGS: usize = 5;

impl Session {
    /// Connects and logs in for physical replication.
    pub(super) fn login(config: &PostgresConfig, control: &Control) -> Result<Self, Error> {
        let password = match &config.password_file {
            Some(path) => crate::config::password(path)?,
            None => Zeroizing::default(),
        };
        let mut session = Self {
            line: Line::open(config, control)?,
            user: config.user.clone(),
            logged_in: false,
            parameters: BTreeMap::new(),
            process: 0,
            warnings: Vec::new(),
        };
        let parameters =
            [("user", config.user.as_str()), ("replication", "true"), ("application_name", "kuramori")];
        session.send(|out| frontend::startup_message(parameters, out))?;
        session.authenticate(&password)?;
        session.logged_in = true;
        loop {
            match session.receive()? {
                Message::BackendKeyData(key) => session.process = key.process_id(),
                Message::ReadyForQuery(_) => return Ok(session),
                other => return Err(session.unexpected(&other, "the end of the login")),
            }
        }
    }

    fn authenticate(&mut self, password: &str) -> Result<(), Error> {
        loop {
            match self.receive()? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationMd5Password(body) => {
                    self.needs_password(password)?;
                    let hash = md5_hash(self.user.as_bytes(), password.as_bytes(), body.salt());
                    self.send(|out| frontend::password_message(hash.as_bytes(), out))?;
                }
                Message::AuthenticationCleartextPassword => {
                    self.needs_password(password)?;
                    if !self.line.is_encrypted() {
                        return Err(
                            self.refused("it asks for the password in clear text; configure `tls` first")
                        );
                    }
                    self.send(|out| frontend::password_message(password.as_bytes(), out))?;
                }
                Message::AuthenticationSasl(body) => {
                    self.needs_password(password)?;
                    let mut offered = body.mechanisms();
                    let mut known = false;
                    while let Some(mechanism) = offered.next().map_err(|e| self.line.broken(e.to_string()))? {
                        known |= mechanism == SCRAM_SHA_256;
                    }
                    if !known {
                        return Err(self.refused("it offers no login method that is known here"));
                    }
                    self.scram(password)?;
                }
                Message::AuthenticationGss
                | Message::AuthenticationKerberosV5
                | Message::AuthenticationSspi => {
                    return Err(self.refused("it wants Kerberos, which is not supported here"));
                }
                other => return Err(self.unexpected(&other, "a question about the password")),
            }
        }
    }

    fn scram(&mut self, password: &str) -> Result<(), Error> {
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        self.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out))?;
        let challenge = match self.receive()? {
            Message::AuthenticationSaslContinue(body) => body,
            other => return Err(self.unexpected(&other, "a SCRAM challenge")),
        };
        scram.update(challenge.data()).map_err(|e| self.line.broken(e.to_string()))?;
        self.send(|out| frontend::sasl_response(scram.message(), out))?;
        let proof = match self.receive()? {
            Message::AuthenticationSaslFinal(body) => body,
            other => return Err(self.unexpected(&other, "the end of SCRAM")),
        };
        // The server proves here that it knows the password, too.
        scram
            .finish(proof.data())
            .map_err(|e| self.line.broken(format!("it does not know the password: {e}")))
    }

    fn needs_password(&self, password: &str) -> Result<(), Error> {
        if password.is_empty() {
            Err(self.refused("it asks for a password and no `password_file` is set"))
        } else {
            Ok(())
        }
    }

    fn refused(&self, why: &str) -> Error {
        Error::LoginRefused { server: self.line.server.clone(), user: self.user.clone(), why: why.to_owned() }
    }

    fn send(&mut self, pack: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<(), Error> {
        let mut out = BytesMut::new();
        pack(&mut out).map_err(|e| Error::Config(e.to_string()))?;
        self.line.send(&out)
    }

    /// The next message that is not an error, a notice or a setting.
    pub(super) fn receive(&mut self) -> Result<Message, Error> {
        loop {
            let message = self.line.receive()?;
            if let Some(message) = self.sift(message)? {
                return Ok(message);
            }
        }
    }

    /// As [`Self::receive`], if one comes within this time.
    pub(super) fn receive_within(&mut self, time: std::time::Duration) -> Result<Option<Message>, Error> {
        loop {
            let Some(message) = self.line.receive_within(time)? else { return Ok(None) };
            if let Some(message) = self.sift(message)? {
                return Ok(Some(message));
            }
        }
    }

    fn sift(&mut self, message: Message) -> Result<Option<Message>, Error> {
        match message {
            Message::ErrorResponse(body) => Err(self.server_error(body.fields())),
            Message::NoticeResponse(body) => {
                let (code, message) = fields(body.fields());
                tracing::warn!(server = self.line.server, code, message, "notice from the server");
                if self.warnings.len() < WARNINGS {
                    self.warnings.push(message);
                }
                Ok(None)
            }
            Message::ParameterStatus(body) => {
                if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                    self.parameters.insert(name.to_owned(), value.to_owned());
                }
                Ok(None)
            }
            Message::NotificationResponse(_) => Ok(None),
            message => Ok(Some(message)),
        }
    }

    /// Sends a command without waiting for its answer.
    pub(super) fn ask(&mut self, command: &str) -> Result<(), Error> {
        self.send(|out| frontend::query(command, out))
    }

    /// The rows of one result set.
    pub(super) fn rows(&mut self) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        loop {
            match self.receive()? {
                Message::RowDescription(_) => {}
                Message::DataRow(body) => rows.push(row(&body).map_err(|e| self.line.broken(e.to_string()))?),
                Message::CommandComplete(_) => return Ok(rows),
                other => return Err(self.unexpected(&other, "rows")),
            }
        }
    }

    /// Reads on until the server waits for the next command.
    pub(super) fn ready(&mut self) -> Result<(), Error> {
        loop {
            match self.receive()? {
                Message::ReadyForQuery(_) => return Ok(()),
                Message::CommandComplete(_) => {}
                other => return Err(self.unexpected(&other, "the end of the command")),
            }
        }
    }

    /// Runs a command with one result set.
    pub(super) fn command(&mut self, command: &str) -> Result<Vec<Row>, Error> {
        self.ask(command)?;
        let rows = self.rows()?;
        self.ready()?;
        Ok(rows)
    }

    /// The one field of a one-line answer.
    pub(super) fn setting(&mut self, name: &str) -> Result<String, Error> {
        let rows = self.command(&format!("SHOW {name}"))?;
        Ok(rows.into_iter().flatten().flatten().next().unwrap_or_default())
    }

    /// A setting that the server told at login.
    pub(super) fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    /// Takes leave; nothing depends on it any more.
    pub(super) fn bye(&mut self) {
        let mut out = BytesMut::new();
        frontend::terminate(&mut out);
        let _ = self.line.send(&out);
    }

    pub(super) fn unexpected(&self, message: &Message, instead_of: &str) -> Error {
        let kind = match message {
            Message::CopyData(_) => "data",
            Message::CopyDone => "the end of data",
            Message::CopyOutResponse(_) => "the start of data",
            Message::DataRow(_) | Message::RowDescription(_) => "rows",
            Message::ReadyForQuery(_) => "the end of the command",
            Message::CommandComplete(_) => "the end of rows",
            _ => "another message",
        };
        self.line.broken(format!("{kind} instead of {instead_of}"))
    }

    fn server_error(&self, error: ErrorFields<'_>) -> Error {
        let (code, message) = fields(error);
        let (server, user) = (self.line.server.clone(), self.user.clone());
        match code.as_str() {
            "28P01" => Error::WrongPassword { server, user },
            "28000" => Error::LoginRefused { server, user, why: message },
            "57P03" | "53300" if !self.logged_in => Error::Unreachable { server, why: message },
            "57P01" | "57P02" | "57P03" => self.line.lost(&message),
            "XX001" | "XX002" => {
                let message = self.warnings.iter().fold(message, |all, warning| all + "; " + warning);
                Error::DatabaseDamaged { server, message }
            }
            _ if !self.logged_in => Error::LoginRefused { server, user, why: message },
            _ => Error::Server { server, code, message },
        }
    }
}

/// SQLSTATE and message. Texts may be in the server's own encoding before the login is done.
fn fields(mut fields: ErrorFields<'_>) -> (String, String) {
    let (mut code, mut message) = (String::new(), String::new());
    while let Ok(Some(field)) = fields.next() {
        let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = text(),
            b'M' => message = text(),
            _ => {}
        }
    }
    (code, message)
}

fn row(body: &DataRowBody) -> std::io::Result<Row> {
    let (mut row, mut ranges) = (Row::new(), body.ranges());
    while let Some(range) = ranges.next()? {
        let field = range.and_then(|range| body.buffer().get(range));
        row.push(field.map(|field| String::from_utf8_lossy(field).into_owned()));
    }
    Ok(row)
}
