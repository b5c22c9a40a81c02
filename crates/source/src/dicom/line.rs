//! The wire to an archive that speaks DIMSE: TCP, TLS if an authority is named, frames, and waiting that ends.

use std::{collections::VecDeque, io::Read, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};

use super::pdu::{self, Agreed, Piece, Proposal};
use crate::{
    Control, Error,
    config::DicomConfig,
    control::{Bucket, Pulse},
    socket::{Socket, TICK, is_tick, still_patient},
};

/// Bytes of one frame that we send at most.
const OURS: u32 = 128 << 10;

/// An association.
pub(super) struct Line {
    wire: Socket,
    pub(super) server: String,
    /// What is being read, for errors.
    pub(super) what: String,
    pub(super) agreed: Vec<Agreed>,
    /// Bytes that a frame to the peer may have.
    most: usize,
    came: VecDeque<Piece>,
    pub(super) control: Control,
    bucket: Arc<Bucket>,
    pulse: Pulse,
    over: bool,
}

impl Line {
    /// Connects and agrees on what is proposed; some of it at least.
    pub(super) fn open(
        config: &DicomConfig,
        control: &Control,
        bucket: &Arc<Bucket>,
        proposals: &[Proposal],
    ) -> Result<Self, Error> {
        let server = format!("{}:{}", config.server, config.port);
        let mut line = Self {
            wire: Socket::connect(&config.server, config.port, config.connect_within.0, control.patience)?,
            server,
            what: "the association".into(),
            agreed: Vec::new(),
            most: 0,
            came: VecDeque::new(),
            control: control.clone(),
            bucket: Arc::clone(bucket),
            pulse: Pulse::new(Arc::clone(&control.clock)),
            over: false,
        };
        if let Some(file) = &config.ca_file {
            let since = control.clock.boot();
            line.wire.encrypt(&line.server, file, &config.server, || {
                still_patient(control, &line.pulse, since, &line.server, &line.what)
            })?;
        }
        let names = config.dimse();
        line.send(&pdu::request(&names.called, &names.calling, proposals, super::element::IMPLEMENTATION))?;
        let (kind, body) = line.frame()?;
        match kind {
            pdu::ASSOCIATE_AC => {}
            pdu::ASSOCIATE_RJ => {
                line.over = true;
                return Err(Error::LoginRefused {
                    server: line.server.clone(),
                    user: names.calling,
                    why: pdu::refusal(&body),
                });
            }
            _ => return Err(line.broken("something else came where it had to accept or refuse us")),
        }
        let Some((agreed, frame)) = pdu::accepted(body, proposals) else {
            return Err(line.broken("its acceptance makes no sense"));
        };
        line.agreed = agreed;
        let frame = if frame == 0 { OURS } else { frame.clamp(4 << 10, OURS) };
        line.most = usize::try_from(frame).unwrap_or(4 << 10) - 6;
        Ok(line)
    }

    /// The number under which a service was agreed on.
    pub(super) fn context(&self, service: &str) -> Option<&Agreed> {
        self.agreed.iter().find(|agreed| agreed.service == service)
    }

    /// Sends a command, with data if there is any, in frames that the peer takes.
    pub(super) fn say(&mut self, context: u8, command: &[u8], data: Option<&[u8]>) -> Result<(), Error> {
        for (command, bytes) in [(true, Some(command)), (false, data)] {
            let Some(bytes) = bytes else { continue };
            let mut chunks = bytes.chunks(self.most.max(1)).peekable();
            while let Some(chunk) = chunks.next() {
                self.send(&pdu::data(context, command, chunks.peek().is_none(), chunk))?;
            }
        }
        Ok(())
    }

    /// The next piece that came.
    pub(super) fn piece(&mut self) -> Result<Piece, Error> {
        loop {
            if let Some(piece) = self.came.pop_front() {
                return Ok(piece);
            }
            let (kind, body) = self.frame()?;
            match kind {
                pdu::DATA => {
                    self.brake(body.len() as u64)?;
                    let Some(pieces) = pdu::pieces(body) else {
                        return Err(self.broken("a frame does not have the pieces that it announces"));
                    };
                    self.came.extend(pieces);
                }
                pdu::ABORT => {
                    self.over = true;
                    return Err(self.lost("it broke the association off"));
                }
                pdu::RELEASE_RQ => {
                    let _ = self.send(&pdu::released());
                    self.over = true;
                    return Err(self.lost("it ended the association in the middle"));
                }
                _ => return Err(self.broken("a message that has no place here")),
            }
        }
    }

    /// Ends it in good order; a peer that does not answer is left alone.
    pub(super) fn release(mut self) {
        if !self.over && self.send(&pdu::release()).is_ok() {
            let _ = self.frame();
        }
    }

    fn frame(&mut self) -> Result<(u8, Bytes), Error> {
        let mut head = [0; 6];
        self.fill(&mut head)?;
        let length = u32::from_be_bytes([head[2], head[3], head[4], head[5]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > pdu::LARGEST {
            return Err(self.broken("a frame is larger than any that was agreed on"));
        }
        let mut body = BytesMut::zeroed(length);
        self.fill(&mut body)?;
        Ok((head[0], body.freeze()))
    }

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), Error> {
        let since = self.control.clock.boot();
        while !buffer.is_empty() {
            match self.wire.read(buffer) {
                Ok(0) => {
                    self.over = true;
                    return Err(self.lost("it closed the connection"));
                }
                Ok(taken) => {
                    self.pulse.beat();
                    buffer = &mut buffer[taken..];
                }
                Err(error) if is_tick(&error) => self.still_patient(since)?,
                Err(error) => return Err(self.lost(&error.to_string())),
            }
        }
        self.cancelled()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.cancelled()?;
        self.wire.send(bytes).map_err(|error| self.lost(&error.to_string()))
    }

    /// Takes no more than the pace allows; what is not read holds the peer back.
    fn brake(&mut self, bytes: u64) -> Result<(), Error> {
        let mut left = self.bucket.take(bytes);
        while !left.is_zero() {
            let step = left.min(TICK);
            self.control.clock.sleep(step);
            left -= step;
            self.cancelled()?;
        }
        self.pulse.beat();
        Ok(())
    }

    fn cancelled(&self) -> Result<(), Error> {
        if self.control.cancel.is_cancelled() { Err(Error::Cancelled(self.what.clone())) } else { Ok(()) }
    }

    fn still_patient(&self, since: Duration) -> Result<(), Error> {
        still_patient(&self.control, &self.pulse, since, &self.server, &self.what)
    }

    fn lost(&self, why: &str) -> Error {
        Error::ConnectionLost { server: self.server.clone(), what: self.what.clone(), why: why.to_owned() }
    }

    pub(super) fn broken(&self, why: &str) -> Error {
        Error::Protocol { server: self.server.clone(), why: why.to_owned() }
    }
}
