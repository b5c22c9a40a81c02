//! A unix socket or a TCP connection, alike.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Error, Result};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// The port that the protocol has at IANA.
const PORT: u16 = 10809;

impl Address {
    /// Reads an NBD URI: `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`. Gives the export's name too.
    /// Form: the NBD project's `doc/uri.md`.
    ///
    /// # Errors
    /// [`Error::Address`] for other forms and for a host that has no address.
    pub fn from_uri(uri: &str) -> Result<(Self, String)> {
        let failed = |source| Error::Address { action: "use", address: uri.to_owned(), source };
        let wrong = |why: &str| failed(io::Error::new(io::ErrorKind::InvalidInput, why));
        let form = "the form is nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH";
        if let Some(rest) = uri.strip_prefix("nbd+unix:///") {
            let (name, path) = rest.split_once("?socket=").ok_or_else(|| wrong(form))?;
            return Ok((Self::Unix(decode(path).ok_or_else(|| wrong(form))?.into()), name_of(name)));
        }
        let rest = uri.strip_prefix("nbd://").ok_or_else(|| wrong(form))?;
        let (host, name) = rest.split_once('/').unwrap_or((rest, ""));
        let bare = host.ends_with(']') || !host.contains(':');
        let host = if bare { format!("{host}:{PORT}") } else { host.to_owned() };
        let address = host.to_socket_addrs().map_err(failed)?.next();
        Ok((Self::Tcp(address.ok_or_else(|| wrong("the host has no address"))?), name_of(name)))
    }

    /// The URI of an export here.
    pub fn uri(&self, name: &str) -> String {
        match self {
            Self::Unix(path) => {
                format!("nbd+unix:///{}?socket={}", encode(name), encode(&path.to_string_lossy()))
            }
            Self::Tcp(address) => format!("nbd://{address}/{}", encode(name)),
        }
    }
}

fn name_of(text: &str) -> String {
    decode(text).unwrap_or_else(|| text.to_owned())
}

/// `%41` and so on; none if that makes no text.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn encode(text: &str) -> String {
    use fmt::Write;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Stream {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn connect(address: &Address) -> Result<Self> {
        let connected = match address {
            Address::Unix(path) => UnixStream::connect(path).map(Self::Unix),
            Address::Tcp(to) => TcpStream::connect(to).and_then(|stream| {
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }),
        };
        connected.map_err(|source| Error::Address {
            action: "connect to",
            address: address.to_string(),
            source,
        })
    }

    /// The same connection once more.
    pub(crate) fn again(&self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
        }
    }

    /// How long the peer may be silent in the middle of a message.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
        }
    }

    /// Ends it for whoever waits in it.
    pub(crate) fn shut(&self) {
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// Waits, however long, until something comes. Between messages a peer may be silent for days.
    pub(crate) fn wait(&self) -> io::Result<()> {
        wait_readable(self.as_fd(), None).map(drop)
    }
}

/// Waits until a descriptor can be read; `false` if the time ran out.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, time: Option<Duration>) -> io::Result<bool> {
    let limit = time.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    });
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    loop {
        match poll(&mut fds, limit.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_from_its_uri() {
        for (address, name) in [
            (Address::Unix("/run/a b/nbd.sock".into()), "眼科 disk"),
            (Address::Tcp("127.0.0.1:7777".parse().unwrap()), "vda"),
            (Address::Tcp("[::1]:7777".parse().unwrap()), ""),
        ] {
            let uri = address.uri(name);
            assert_eq!(Address::from_uri(&uri).unwrap(), (address, name.to_owned()), "{uri}");
        }
        let (address, name) = Address::from_uri("nbd://127.0.0.1").unwrap();
        assert_eq!((address.to_string().as_str(), name.as_str()), ("127.0.0.1:10809", ""));
        for wrong in ["nbd:127.0.0.1", "nbd+unix:///x", "http://127.0.0.1/", "nbd+unix:///x?socket=%zz"] {
            assert!(Address::from_uri(wrong).is_err(), "{wrong}");
        }
    }
}
