//! Commands and answers of DIMSE (PS3.7, 9.3 and E): implicit little endian, with their length in front.

use super::{
    element::{self, Elements, Tag},
    line::Line,
};
use crate::Error;

pub(super) const COMMAND_CLASS: Tag = 0x0000_0002;
pub(super) const COMMAND_FIELD: Tag = 0x0000_0100;
pub(super) const MESSAGE_ID: Tag = 0x0000_0110;
pub(super) const RESPONDED_TO: Tag = 0x0000_0120;
pub(super) const PRIORITY: Tag = 0x0000_0700;
pub(super) const DATA_SET: Tag = 0x0000_0800;
pub(super) const STATUS: Tag = 0x0000_0900;
pub(super) const COMMENT: Tag = 0x0000_0902;
pub(super) const COMMAND_INSTANCE: Tag = 0x0000_1000;

pub(super) const C_STORE: u16 = 0x0001;
pub(super) const C_GET: u16 = 0x0010;
pub(super) const C_FIND: u16 = 0x0020;
pub(super) const C_ECHO: u16 = 0x0030;
pub(super) const NO_DATA: u16 = 0x0101;
pub(super) const SUCCESS: u16 = 0x0000;

/// A command or an answer, in implicit little endian with its length in front (PS3.7, 6.3).
pub(super) fn command(elements: &[(Tag, Value<'_>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (tag, value) in elements {
        match value {
            Value::Uid(text) => element::put(&mut body, *tag, text.as_bytes(), true),
            Value::Short(number) => element::put(&mut body, *tag, &number.to_le_bytes(), true),
        }
    }
    let mut out = Vec::new();
    element::put(&mut out, 0, &u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes(), true);
    out.extend(body);
    out
}

pub(super) enum Value<'a> {
    Uid(&'a str),
    Short(u16),
}

/// A command that came.
pub(super) struct Message {
    pub(super) context: u8,
    pub(super) command: Elements,
}

impl Message {
    pub(super) fn field(&self) -> u16 {
        self.command.short(COMMAND_FIELD).unwrap_or(0)
    }

    pub(super) fn status(&self) -> u16 {
        self.command.short(STATUS).unwrap_or(0x0110)
    }

    pub(super) fn has_data(&self) -> bool {
        self.command.short(DATA_SET).is_some_and(|kind| kind != NO_DATA)
    }

    pub(super) fn refused(&self, line: &Line, what: &str) -> Error {
        Error::Server {
            server: line.server.clone(),
            code: format!("{:04X}", self.status()),
            message: format!("{what} was refused: {}", self.command.text(COMMENT)),
        }
    }
}

/// The next command.
pub(super) fn receive(line: &mut Line) -> Result<Message, Error> {
    let (mut bytes, mut context) = (Vec::new(), 0);
    loop {
        let piece = line.piece()?;
        if !piece.command || bytes.len() > 64 << 10 || (context != 0 && context != piece.context) {
            return Err(line.broken("a command was expected and something else came"));
        }
        context = piece.context;
        bytes.extend(&piece.bytes);
        if piece.last {
            break;
        }
    }
    let command = element::parse(&bytes, false, Tag::MAX)
        .ok_or_else(|| line.broken("a command that makes no sense"))?;
    Ok(Message { context, command })
}

/// The data of the last command, piece by piece.
pub(super) fn receive_data(
    line: &mut Line,
    take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    loop {
        let piece = line.piece()?;
        if piece.command {
            return Err(line.broken("data was expected and a command came"));
        }
        take(&piece.bytes)?;
        if piece.last {
            return Ok(());
        }
    }
}
