//! The wire to an archive that speaks DIMSE: TCP, TLS if an authority is named, frames, and waiting that ends.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rustls::{
    ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use super::pdu::{self, Agreed, Piece, Proposal};
use crate::{
    Control, Error,
    config::DicomConfig,
    control::{Bucket, Pulse},
};

/// How often a wait looks at cancellation and patience.
const TICK: Duration = Duration::from_millis(200);
/// Bytes of one frame that we send at most.
const OURS: u32 = 128 << 10;

enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// An association.
pub(super) struct Line {
    wire: Wire,
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
            wire: connect(config, control, &server)?,
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
            let outcome = match &mut self.wire {
                Wire::Plain(stream) => stream.read(buffer),
                Wire::Tls(stream) => stream.read(buffer),
            };
            match outcome {
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
        let sent = match &mut self.wire {
            Wire::Plain(stream) => stream.write_all(bytes),
            Wire::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
        sent.map_err(|error| self.lost(&error.to_string()))
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
        self.cancelled()?;
        if self.pulse.silence(since) < self.control.patience {
            return Ok(());
        }
        Err(Error::Stalled {
            server: self.server.clone(),
            what: self.what.clone(),
            seconds: self.control.patience.as_secs(),
        })
    }

    fn lost(&self, why: &str) -> Error {
        Error::ConnectionLost { server: self.server.clone(), what: self.what.clone(), why: why.to_owned() }
    }

    pub(super) fn broken(&self, why: &str) -> Error {
        Error::Protocol { server: self.server.clone(), why: why.to_owned() }
    }
}

fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn connect(config: &DicomConfig, control: &Control, server: &str) -> Result<Wire, Error> {
    let unreachable = |why: String| Error::Unreachable { server: server.to_owned(), why };
    let addresses =
        (config.server.as_str(), config.port).to_socket_addrs().map_err(|e| unreachable(e.to_string()))?;
    let mut last = "the name has no address".to_owned();
    let within = config.connect_within.0.max(TICK);
    let stream = addresses
        .into_iter()
        .find_map(|address| {
            TcpStream::connect_timeout(&address, within).map_err(|e| last = e.to_string()).ok()
        })
        .ok_or_else(|| unreachable(last.clone()))?;
    let set = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(control.patience.max(TICK)))
    };
    set().map_err(|e| unreachable(e.to_string()))?;
    let Some(file) = &config.ca_file else { return Ok(Wire::Plain(stream)) };
    let bad = |why: String| Error::Tls { server: server.to_owned(), why };
    let mut roots = RootCertStore::empty();
    let pem = fs_err::read(file).map_err(|e| bad(e.to_string()))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate.map_err(|e| bad(e.to_string()))?).map_err(|e| bad(e.to_string()))?;
    }
    let name = ServerName::try_from(config.server.clone()).map_err(|e| bad(e.to_string()))?;
    let client =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
    let client = ClientConnection::new(Arc::new(client), name).map_err(|e| bad(e.to_string()))?;
    let mut stream = StreamOwned::new(client, stream);
    let begun = control.clock.boot();
    while stream.conn.is_handshaking() {
        match stream.conn.complete_io(&mut stream.sock) {
            Ok(_) => {}
            Err(error) if is_tick(&error) => {
                if control.cancel.is_cancelled() {
                    return Err(Error::Cancelled("the association".into()));
                }
                if control.clock.boot().saturating_sub(begun) > control.patience {
                    return Err(bad("it does not answer to TLS".into()));
                }
            }
            Err(error) => return Err(bad(error.to_string())),
        }
    }
    Ok(Wire::Tls(Box::new(stream)))
}
