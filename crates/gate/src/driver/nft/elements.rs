//! What the sets hold, told to the kernel by this process itself over netlink, each time in one transaction.
//!
//! Not by the program `nft`: a child outlives its parent. One that was started just before this process was
//! killed or frozen renewed the lease after that, on a busy machine 0.4 s later (seen). A system call of our
//! own begins only while we live, and the transaction is over when it returns.
//!
//! Format: `nfnetlink` batches with `NFT_MSG_NEWSETELEM` and `NFT_MSG_DELSETELEM` as in the kernel's
//! `linux/netfilter/nf_tables.h`. Lengths and types are in the machine's byte order, values in the network's.

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::{NETFILTER, SocketAddrNetlink},
        recv, sendto, socket_with,
    },
};

use super::NftConfig;
use crate::{actuator::Lease, fault::ActuatorFault};

const INET: u8 = 1;
const NETDEV: u8 = 5;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const ADD: u16 = (SUBSYSTEM << 8) + 12;
const DELETE: u16 = (SUBSYSTEM << 8) + 14;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const NESTED: u16 = 0x8000;
/// Bytes of a message's header.
const HEADER: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Set {
    family: u8,
    table: &'static str,
    name: &'static str,
}

const FLOW_LEASE: Set = Set { family: INET, table: "gate", name: "lease" };
const FLOW_WINDOW: Set = Set { family: INET, table: "gate", name: "window" };
const PEER_LEASE: Set = Set { family: NETDEV, table: "vaultgate", name: "lease" };
const PEER_WINDOW: Set = Set { family: NETDEV, table: "vaultgate", name: "window" };
const ALIVE: Set = Set { family: INET, table: "gate", name: "alive" };

/// Empties all sets: closed.
pub(super) fn flush(config: &NftConfig) -> Result<(), ActuatorFault> {
    flushed(config).commit()
}

/// Opens for one flow: the window once, then the lease.
pub(super) fn open(config: &NftConfig, lease: &Lease) -> Result<(), ActuatorFault> {
    let (flow, peer) = keys(lease);
    let mut batch = flushed(config);
    batch.answer(config, lease.ttl_s);
    batch.add(FLOW_WINDOW, &flow, lease.window_s);
    batch.add(PEER_WINDOW, &peer, lease.window_s);
    batch.add(FLOW_LEASE, &flow, lease.ttl_s);
    batch.add(PEER_LEASE, &peer, lease.ttl_s);
    batch.commit()
}

/// Renews the lease.
pub(super) fn renew(config: &NftConfig, lease: &Lease) -> Result<(), ActuatorFault> {
    let (flow, peer) = keys(lease);
    let mut batch = Batch::new();
    batch.again(FLOW_LEASE, &flow, lease.ttl_s);
    batch.again(PEER_LEASE, &peer, lease.ttl_s);
    batch.answer(config, lease.ttl_s);
    batch.commit()
}

/// The switch's ping is answered for the time of a lease.
pub(super) fn answer(config: &NftConfig, ttl_s: u32) -> Result<(), ActuatorFault> {
    let mut batch = Batch::new();
    batch.answer(config, ttl_s);
    batch.commit()
}

fn flushed(config: &NftConfig) -> Batch {
    let mut batch = Batch::new();
    for set in [FLOW_LEASE, FLOW_WINDOW, PEER_LEASE, PEER_WINDOW] {
        batch.empty(set);
    }
    if config.ping_poll.is_some() {
        batch.empty(ALIVE);
    }
    batch
}

/// The flow as the sets of `inet gate` hold it, and the peer as those of `netdev vaultgate` do. Each field of
/// a concatenation fills whole words of 32 bits.
fn keys(lease: &Lease) -> (Vec<u8>, Vec<u8>) {
    let [high, low] = lease.peer.port().to_be_bytes();
    let peer = [&lease.peer.ip().octets()[..], &[high, low, 0, 0]].concat();
    ([&lease.source.octets()[..], &peer].concat(), peer)
}

/// Changes that the kernel makes all or none.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    /// Messages so far: the next one's number.
    count: u32,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self { bytes: Vec::with_capacity(2048), count: 0 };
        batch.frame(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM);
        batch
    }

    /// A message without attributes; gives its place.
    fn frame(&mut self, kind: u16, flags: u16, family: u8, resource: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.count += 1;
        self.seal(start);
        start
    }

    /// Writes the length of the message that begins at `start`.
    fn seal(&mut self, start: usize) {
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn change(&mut self, kind: u16, set: Set, element: Option<Vec<u8>>) {
        let flags = REQUEST | ACK | if kind == ADD { CREATE } else { 0 };
        let start = self.frame(kind, flags, set.family, 0);
        self.bytes.extend(attribute(1, &text(set.table)));
        self.bytes.extend(attribute(2, &text(set.name)));
        if let Some(element) = element {
            self.bytes.extend(attribute(3 | NESTED, &attribute(1 | NESTED, &element)));
        }
        self.seal(start);
    }

    fn empty(&mut self, set: Set) {
        self.change(DELETE, set, None);
    }

    fn add(&mut self, set: Set, key: &[u8], seconds: u32) {
        let timeout = attribute(4, &(u64::from(seconds) * 1000).to_be_bytes());
        self.change(ADD, set, Some([value(key), timeout].concat()));
    }

    /// Adding an element again alone would be accepted and not renew it.
    fn again(&mut self, set: Set, key: &[u8], seconds: u32) {
        self.add(set, key, seconds);
        self.change(DELETE, set, Some(value(key)));
        self.add(set, key, seconds);
    }

    fn answer(&mut self, config: &NftConfig, ttl_s: u32) {
        if let Some(poll) = &config.ping_poll {
            self.again(ALIVE, &poll.switch.octets(), ttl_s);
        }
    }

    fn commit(mut self) -> Result<(), ActuatorFault> {
        self.frame(BATCH_END, REQUEST, 0, SUBSYSTEM);
        // All but the frame around them are confirmed.
        let wanted = self.count - 2;
        let failed = |error: Errno| ActuatorFault::Kernel(error.into());
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))
                .map_err(failed)?;
        sendto(&socket, &self.bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
        let mut buffer = [0; 4096];
        let mut confirmed = 0;
        while confirmed < wanted {
            // The kernel has answered before the call above returned; nothing there means that it will not.
            let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT).map_err(failed)?;
            confirmed += answers(&buffer[..length]).map_err(failed)?;
        }
        Ok(())
    }
}

/// How many confirmations a datagram holds.
fn answers(mut datagram: &[u8]) -> Result<u32, Errno> {
    let mut count = 0;
    while let Some((header, rest)) = datagram.split_first_chunk::<HEADER>() {
        let [a, b, c, d, kind_low, kind_high, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let body = length.checked_sub(HEADER).and_then(|length| rest.get(..length)).ok_or(Errno::BADMSG)?;
        let code = body.first_chunk::<4>().ok_or(Errno::BADMSG)?;
        if u16::from_ne_bytes([kind_low, kind_high]) != ERROR {
            return Err(Errno::BADMSG);
        }
        match i32::from_ne_bytes(*code) {
            0 => count += 1,
            error => return Err(Errno::from_raw_os_error(error.saturating_neg())),
        }
        datagram = rest.get(length.next_multiple_of(4) - HEADER..).unwrap_or_default();
    }
    Ok(count)
}

fn text(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// An element's key.
fn value(key: &[u8]) -> Vec<u8> {
    attribute(1 | NESTED, &attribute(1, key))
}

fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + content.len()).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(kind: u16, code: i32) -> Vec<u8> {
        let mut bytes = 36u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(code.to_ne_bytes());
        bytes.resize(36, 0);
        bytes
    }

    #[test]
    fn only_a_confirmation_counts() {
        assert_eq!(answers(&[reply(ERROR, 0), reply(ERROR, 0)].concat()), Ok(2));
        assert_eq!(answers(&[reply(ERROR, 0), reply(ERROR, -2)].concat()), Err(Errno::NOENT));
        assert_eq!(answers(&reply(ADD, 0)), Err(Errno::BADMSG));
        for length in 1..36 {
            assert!(answers(&reply(ERROR, 0)[..length]) != Ok(1), "{length}");
        }
    }
}
