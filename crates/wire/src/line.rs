//! One TLS connection with two ends of its own, so that one thread reads while another writes.
//!
//! The TLS state is behind one lock that is never held while the socket blocks; a second lock keeps sealed bytes
//! in order on their way out.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kuramori_model::clock::{Clock, SystemClock};
use rustls::{ClientConfig, ClientConnection, Connection, pki_types::ServerName, server::Acceptor};

use crate::{Error, Result, identity, tls};

/// A read gives up after this time, so that its caller can look whether it should go on.
const TURN: Duration = Duration::from_millis(250);
/// A peer that takes nothing for so long is gone.
const WRITE: Duration = Duration::from_mins(1);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(15);
const PIECE: usize = 64 << 10;

#[derive(Debug)]
struct Line {
    tls: Mutex<Connection>,
    out: Mutex<()>,
    socket: TcpStream,
}

/// The reading end.
#[derive(Debug)]
pub struct Reader {
    line: Arc<Line>,
    sealed: Vec<u8>,
    plain: Vec<u8>,
    start: usize,
}

/// The writing end. Clones write whole calls one after the other.
#[derive(Debug, Clone)]
pub struct Writer {
    line: Arc<Line>,
}

/// Who is on the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Somebody without a certificate.
    Stranger,
    /// The holder of a certificate of a trusted authority; its time was *not* checked.
    Agent(identity::Holder),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prepare(socket: &TcpStream) -> Result<()> {
    socket
        .set_nonblocking(false)
        .and_then(|()| socket.set_nodelay(true))
        .and_then(|()| socket.set_write_timeout(Some(WRITE)))
        .map_err(Error::broken)
}

/// A socket during the handshake: all reads together end in time. A peer that gives a byte now and then would
/// otherwise keep its place for as long as it likes.
struct Hasty<'a> {
    socket: &'a TcpStream,
    until: Duration,
}

impl<'a> Hasty<'a> {
    fn new(socket: &'a TcpStream, limit: Duration) -> Self {
        Self { socket, until: SystemClock.boot() + limit }
    }
}

impl Read for Hasty<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_sub(SystemClock.boot());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"));
        }
        self.socket.set_read_timeout(Some(left))?;
        self.socket.read(buffer)
    }
}

impl Write for Hasty<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.socket.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

fn ends(tls: Connection, socket: TcpStream) -> Result<(Reader, Writer)> {
    socket.set_read_timeout(Some(TURN)).map_err(Error::broken)?;
    let line = Arc::new(Line { tls: Mutex::new(tls), out: Mutex::new(()), socket });
    let mut reader = Reader { line: line.clone(), sealed: vec![0; PIECE], plain: Vec::new(), start: 0 };
    // The first message may have come in one piece with the handshake's end.
    drain(&mut lock(&line.tls), &mut reader.plain).map_err(Error::broken)?;
    Ok((reader, Writer { line }))
}

/// The agent's side: the handshake over a connected socket. Gives the server's certificate, too.
///
/// # Errors
/// [`Error::Untrusted`] or [`Error::Broken`].
pub fn connect(socket: TcpStream, config: Arc<ClientConfig>) -> Result<(Reader, Writer, identity::Holder)> {
    prepare(&socket)?;
    let name = ServerName::try_from(identity::SERVER).map_err(|error| Error::Protocol(error.to_string()))?;
    let mut tls = ClientConnection::new(config, name).map_err(|error| Error::Protocol(error.to_string()))?;
    let mut hasty = Hasty::new(&socket, HANDSHAKE);
    while tls.is_handshaking() {
        tls.complete_io(&mut hasty).map_err(Error::broken)?;
    }
    let holder = match tls.peer_certificates().and_then(<[_]>::first) {
        Some(certificate) => identity::read(certificate)?,
        None => return Err(Error::Untrusted("it showed no certificate".to_owned())),
    };
    let (reader, writer) = ends(tls.into(), socket)?;
    Ok((reader, writer, holder))
}

/// The server's side: the handshake, by what the peer offers.
///
/// # Errors
/// [`Error::Untrusted`], [`Error::Protocol`] or [`Error::Broken`].
pub fn accept(socket: TcpStream, config: &tls::Server) -> Result<(Reader, Writer, Peer)> {
    accept_within(socket, config, HANDSHAKE)
}

fn accept_within(socket: TcpStream, config: &tls::Server, limit: Duration) -> Result<(Reader, Writer, Peer)> {
    prepare(&socket)?;
    let mut hasty = Hasty::new(&socket, limit);
    let mut acceptor = Acceptor::default();
    let accepted = loop {
        let length = acceptor.read_tls(&mut hasty).map_err(Error::broken)?;
        match acceptor.accept() {
            Ok(Some(accepted)) => break accepted,
            Ok(None) if length == 0 => return Err(Error::Broken("it ended in its greeting".to_owned())),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let _ = alert.write_all(&mut hasty);
                return Err(Error::Protocol(error.to_string()));
            }
        }
    };
    let offers = |protocol: &[u8]| {
        accepted.client_hello().alpn().is_some_and(|mut offered| offered.any(|name| name == protocol))
    };
    let chosen = if offers(tls::AGENT) { &config.agents } else { &config.strangers };
    let mut tls = match accepted.into_connection(chosen.clone()) {
        Ok(tls) => tls,
        Err((error, mut alert)) => {
            let _ = alert.write_all(&mut hasty);
            return Err(Error::Protocol(error.to_string()));
        }
    };
    while tls.is_handshaking() {
        tls.complete_io(&mut hasty).map_err(Error::broken)?;
    }
    if tls.alpn_protocol().is_none() {
        return Err(Error::Protocol("it did not say which protocol it speaks".to_owned()));
    }
    let peer = match tls.peer_certificates().and_then(<[_]>::first) {
        Some(certificate) => Peer::Agent(identity::read(certificate)?),
        None => Peer::Stranger,
    };
    let (reader, writer) = ends(tls.into(), socket)?;
    Ok((reader, writer, peer))
}

impl Line {
    /// Sends what TLS has to say.
    fn flush(&self) -> io::Result<()> {
        let _order = lock(&self.out);
        let mut sealed = Vec::new();
        {
            let mut tls = lock(&self.tls);
            while tls.wants_write() {
                tls.write_tls(&mut sealed)?;
            }
        }
        (&self.socket).write_all(&sealed)
    }
}

/// Opens what was taken in and appends what it says.
fn drain(tls: &mut Connection, plain: &mut Vec<u8>) -> io::Result<()> {
    let state =
        tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let mut filled = plain.len();
    plain.resize(filled + state.plaintext_bytes_to_read(), 0);
    while filled < plain.len() {
        match tls.reader().read(&mut plain[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    plain.truncate(filled);
    Ok(())
}

impl Reader {
    fn take_in(&mut self, length: usize) -> io::Result<()> {
        let mut rest = &self.sealed[..length];
        let mut tls = lock(&self.line.tls);
        while !rest.is_empty() {
            tls.read_tls(&mut rest)?;
            drain(&mut tls, &mut self.plain)?;
        }
        let speaks = tls.wants_write();
        drop(tls);
        if speaks { self.line.flush() } else { Ok(()) }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.start == self.plain.len() {
            self.plain.clear();
            self.start = 0;
            let length = (&self.line.socket).read(&mut self.sealed)?;
            if length == 0 {
                return Ok(0);
            }
            self.take_in(length)?;
        }
        let length = buffer.len().min(self.plain.len() - self.start);
        buffer[..length].copy_from_slice(&self.plain[self.start..self.start + length]);
        self.start += length;
        Ok(length)
    }
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let _order = lock(&self.line.out);
        let mut sealed = Vec::new();
        let length = {
            let mut tls = lock(&self.line.tls);
            let length = tls.writer().write(buffer)?;
            while tls.wants_write() {
                tls.write_tls(&mut sealed)?;
            }
            length
        };
        (&self.line.socket).write_all(&sealed)?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.line.flush()
    }
}

impl Writer {
    /// Ends the connection at once; the reading end notices.
    pub fn close(&self) {
        lock(&self.line.tls).send_close_notify();
        // A peer that takes nothing must not keep us from closing.
        let _ = self.line.socket.set_write_timeout(Some(TURN));
        let _ = self.line.flush();
        let _ = self.line.socket.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use kuramori_model::clock::SeededRandom;

    use super::*;

    #[test]
    fn a_peer_that_gives_a_byte_now_and_then_does_not_keep_its_place() {
        let (now, random, year) = (SystemClock.now(), SeededRandom::new(1), Duration::from_hours(24 * 365));
        let authority = identity::authority(1, now, year, &random).unwrap();
        let own = identity::issue_server(&authority, now, year, &random).unwrap();
        let config = tls::server(&[(authority.certificate, own)]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = listener.accept().unwrap().0;
        let drips = std::thread::spawn(move || {
            // The head of a TLS record of sixteen kilobytes, and then its body for a quarter of an hour.
            slow.write_all(&[22, 3, 1, 0x3f, 0xff]).unwrap();
            let mut given = 0;
            while slow.write_all(&[1]).is_ok() {
                given += 1;
                SystemClock.sleep(Duration::from_millis(50));
            }
            given
        });
        let outcome = accept_within(socket, &config, Duration::from_millis(400));
        assert!(matches!(outcome, Err(Error::Broken(_))), "{outcome:?}");
        assert!(drips.join().unwrap() < 16_000, "it was cut in the middle");
    }
}
