//! A TCP connection to a departmental server, in TLS if an authority is named.
//!
//! No wait on it is without end: reading returns at least every [`TICK`] with an error that [`is_tick`] knows,
//! so that whoever waits can look at cancellation and patience; writing fails after the patience.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::{Control, Error, control::Pulse};

/// How often a wait looks at cancellation and patience.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// Whether to wait on for `what`, for which somebody has waited since `since`: an error when that was cancelled or
/// the server has been silent for too long.
pub(crate) fn still_patient(
    control: &Control,
    pulse: &Pulse,
    since: Duration,
    server: &str,
    what: &str,
) -> Result<(), Error> {
    if control.cancel.is_cancelled() {
        return Err(Error::Cancelled(what.to_owned()));
    }
    if pulse.silence(since) < control.patience {
        return Ok(());
    }
    let seconds = control.patience.as_secs();
    Err(Error::Stalled { server: server.to_owned(), what: what.to_owned(), seconds })
}

/// The connection.
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Whether a read only returned because a tick is over.
pub(crate) fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl Socket {
    /// Tries each address of `host`, each for as long as `within`.
    pub(crate) fn connect(
        host: &str,
        port: u16,
        within: Duration,
        patience: Duration,
    ) -> Result<Self, Error> {
        let unreachable = |why: String| Error::Unreachable { server: format!("{host}:{port}"), why };
        let addresses = (host, port).to_socket_addrs().map_err(|e| unreachable(e.to_string()))?;
        let mut last = "the name has no address".to_owned();
        let stream = addresses
            .into_iter()
            .find_map(|address| {
                TcpStream::connect_timeout(&address, within.max(TICK)).map_err(|e| last = e.to_string()).ok()
            })
            .ok_or_else(|| unreachable(last.clone()))?;
        let set = || -> io::Result<()> {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TICK))?;
            stream.set_write_timeout(Some(patience.max(TICK)))
        };
        set().map_err(|e| unreachable(e.to_string()))?;
        Ok(Self::Plain(stream))
    }

    /// Whether what goes over it is in TLS.
    pub(crate) const fn is_encrypted(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Goes on in TLS with a server that shows a certificate for `name` by an authority in `ca_file` (PEM).
    /// `wait` is asked at each tick whether to wait on.
    pub(crate) fn encrypt(
        &mut self,
        server: &str,
        ca_file: &Path,
        name: &str,
        mut wait: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let bad = |why: String| Error::Tls { server: server.to_owned(), why };
        let mut roots = RootCertStore::empty();
        let pem = fs_err::read(ca_file).map_err(|e| bad(e.to_string()))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.map_err(|e| bad(e.to_string()))?).map_err(|e| bad(e.to_string()))?;
        }
        let name = ServerName::try_from(name.to_owned()).map_err(|e| bad(e.to_string()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), name).map_err(|e| bad(e.to_string()))?;
        let Self::Plain(stream) = self else { return Err(bad("TLS was set up twice".into())) };
        let mut stream = stream.try_clone().map_err(|e| bad(e.to_string()))?;
        while client.is_handshaking() {
            match client.complete_io(&mut stream) {
                Ok(_) => {}
                Err(error) if is_tick(&error) => wait()?,
                Err(error) => return Err(bad(error.to_string())),
            }
        }
        *self = Self::Tls(Box::new(StreamOwned::new(client, stream)));
        Ok(())
    }

    /// Sends all of it, now.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}
