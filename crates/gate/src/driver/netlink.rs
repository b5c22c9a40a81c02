//! The kernel's route netlink (rtnetlink(7), RFC 3549), as far as one interface needs it: its state, up and down,
//! permanent neighbours, routes. Messages are made and read byte by byte; every answer is waited for.

use std::{io, net::Ipv4Addr, os::fd::OwnedFd, time::Duration};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
    netlink::SocketAddrNetlink,
    recv, send, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

const REQUEST: u16 = 0x01;
const ACK: u16 = 0x04;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const ERROR: u16 = 2;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ROUTE: u16 = 24;
const NEW_NEIGHBOUR: u16 = 28;
const IPV4: u8 = 2;
const UP: u32 = 1;
const LOWER_UP: u32 = 1 << 16;
/// The kernel answers at once; this is for one that does not.
const PATIENCE: Duration = Duration::from_secs(2);

/// An interface as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) index: u32,
    pub(super) hardware_address: [u8; 6],
    /// Somebody has switched it on.
    pub(super) up: bool,
    /// It has a carrier.
    pub(super) carrier: bool,
}

/// A socket for questions to the kernel, in the namespace of the calling thread.
#[derive(Debug)]
pub(super) struct Kernel {
    socket: OwnedFd,
    number: u32,
}

impl Kernel {
    pub(super) fn new() -> io::Result<Self> {
        // Without a protocol's number it is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, number: 0 })
    }

    /// Sends one message and gives back the body of the answer of type `wanted`, or nothing for a mere "done".
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8], wanted: u16) -> io::Result<Vec<u8>> {
        self.number += 1;
        let length = u32::try_from(16 + body.len()).map_err(io::Error::other)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | ACK | flags).to_ne_bytes());
        message.extend(self.number.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        send(&self.socket, &message, SendFlags::empty())?;
        let (mut buffer, mut answer) = (vec![0; 32 << 10], Vec::new());
        loop {
            let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            for (kind, number, body) in messages(&buffer[..length]) {
                if number != self.number {
                    continue;
                }
                if kind == ERROR {
                    return match i32_at(body, 0) {
                        Some(0) => Ok(answer),
                        Some(code) => Err(io::Error::from_raw_os_error(-code)),
                        None => Err(io::ErrorKind::InvalidData.into()),
                    };
                }
                if kind == wanted {
                    answer = body.to_vec();
                }
            }
        }
    }

    /// The interface of this name.
    pub(super) fn interface(&mut self, name: &str) -> io::Result<Shown> {
        let mut body = vec![0; 16];
        attribute(&mut body, 3, &[name.as_bytes(), &[0]].concat());
        let answer = self.ask(GET_LINK, 0, &body, NEW_LINK)?;
        shown(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Switches it on or off.
    pub(super) fn set_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend((if up { UP } else { 0 }).to_ne_bytes());
        body.extend(UP.to_ne_bytes());
        self.ask(NEW_LINK, 0, &body, ERROR).map(drop)
    }

    /// A neighbour that is known without asking the wire.
    pub(super) fn neighbour(&mut self, index: u32, address: Ipv4Addr, hardware: [u8; 6]) -> io::Result<()> {
        let mut body = vec![IPV4, 0, 0, 0];
        body.extend(index.to_ne_bytes());
        // Permanent.
        body.extend(0x80_u16.to_ne_bytes());
        body.extend([0, 0]);
        attribute(&mut body, 1, &address.octets());
        attribute(&mut body, 2, &hardware);
        self.ask(NEW_NEIGHBOUR, CREATE | REPLACE, &body, ERROR).map(drop)
    }

    /// A route of the main table by this interface.
    pub(super) fn route(&mut self, index: u32, network: Ipv4Addr, bits: u8, via: Ipv4Addr) -> io::Result<()> {
        // Main table, set by hand, universe, unicast.
        let mut body = vec![IPV4, bits, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];
        if bits > 0 {
            attribute(&mut body, 1, &network.octets());
        }
        attribute(&mut body, 5, &via.octets());
        attribute(&mut body, 4, &index.to_ne_bytes());
        self.ask(NEW_ROUTE, CREATE | REPLACE, &body, ERROR).map(drop)
    }
}

/// Adds an attribute: length, type, bytes, filled up to four.
fn attribute(body: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    let length = u16::try_from(4 + bytes.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Type, number and body of each message in a datagram.
fn messages(mut bytes: &[u8]) -> Vec<(u16, u32, &[u8])> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind), Some(number)) =
        (u32_at(bytes, 0), u16_at(bytes, 4), u32_at(bytes, 8))
    {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = bytes.get(16..length) else { break };
        found.push((kind, number, body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// What an answer about an interface says.
fn shown(body: &[u8]) -> Option<Shown> {
    let (index, flags) = (u32_at(body, 4)?, u32_at(body, 8)?);
    let (mut rest, mut hardware_address) = (body.get(16..)?, None);
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        let value = rest.get(4..length)?;
        if kind == 1 {
            hardware_address = value.try_into().ok();
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    let (up, carrier) = (flags & UP != 0, flags & LOWER_UP != 0);
    Some(Shown { index, hardware_address: hardware_address?, up, carrier })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_is_read_by_its_attributes() {
        let mut body = vec![0, 0, 1, 0];
        body.extend(7_u32.to_ne_bytes());
        body.extend((UP | LOWER_UP).to_ne_bytes());
        body.extend([0; 4]);
        attribute(&mut body, 3, b"eth0\0");
        assert_eq!(shown(&body), None, "no hardware address");
        attribute(&mut body, 1, &[1, 2, 3, 4, 5, 6]);
        let want = Shown { index: 7, hardware_address: [1, 2, 3, 4, 5, 6], up: true, carrier: true };
        assert_eq!(shown(&body), Some(want));
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for (_, _, body) in messages(&bytes) {
                let _ = shown(body);
            }
            let _ = shown(&bytes);
        }
    }
}
