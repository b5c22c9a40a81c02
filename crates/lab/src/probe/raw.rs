//! TCP segments by hand: with a service's port as their source, and with flags that no honest client sends.
//!
//! ```text
//! 0        2        4            8            12       13      14       16         18
//! | source | target | sequence   | acknowledge| 5 << 4 | flags | window | checksum | urgent |
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use kuramori_model::clock::{Clock, Random, SystemClock, SystemRandom};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto, socket_with},
};

use crate::error::Result;

/// Ports from which an answer to the vault would come, hence the ones to pretend.
const SOURCES: [u16; 5] = [8443, 443, 53, 161, 445];
const TARGETS: [u16; 9] = [22, 80, 161, 443, 445, 5432, 8042, 8443, 50_000];
const FLAGS: [(&str, u8); 5] =
    [("syn", 0x02), ("ack", 0x10), ("syn-ack", 0x12), ("fin-psh-urg", 0x29), ("null", 0)];

/// Sends every combination and counts the answers of the target by what was sent.
pub(super) fn forge(source: Ipv4Addr, target: Ipv4Addr, silence: Duration) -> Result<BTreeMap<String, u32>> {
    let io = std::io::Error::from;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::TCP)).map_err(io)?;
    let mut sequence = [0; 4];
    SystemRandom.fill(&mut sequence);
    let mut answered = BTreeMap::new();
    for (name, flags) in FLAGS {
        for from in SOURCES {
            for to in TARGETS {
                let bytes = segment(source, target, (from, to), sequence, flags);
                // No way out of this host is the closed answer, not a failure.
                let _ = sendto(&socket, &bytes, SendFlags::empty(), &SocketAddrV4::new(target, 0));
            }
        }
        let mut seen: BTreeSet<(u16, u16)> = BTreeSet::new();
        let end = SystemClock.boot() + silence;
        loop {
            let mut bytes = [0; 128];
            match recv(&socket, &mut bytes, RecvFlags::empty()) {
                Ok((_, length)) => {
                    let ports = answer(&bytes[..length.min(128)], target);
                    // Also what the machine sends itself is heard here, hence the filter by ports.
                    seen.extend(ports.filter(|(from, to)| TARGETS.contains(from) && SOURCES.contains(to)));
                }
                Err(_) => {
                    let left = end.saturating_sub(SystemClock.boot());
                    if left.is_zero() {
                        break;
                    }
                    let limit = Timespec {
                        tv_sec: left.as_secs().cast_signed(),
                        tv_nsec: i64::from(left.subsec_nanos()),
                    };
                    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
                    poll(&mut fds, Some(&limit)).map_err(io)?;
                }
            }
        }
        if !seen.is_empty() {
            answered.insert(name.to_owned(), u32::try_from(seen.len()).unwrap_or(u32::MAX));
        }
    }
    Ok(answered)
}

/// The ports of a TCP segment that came from `target`.
fn answer(packet: &[u8], target: Ipv4Addr) -> Option<(u16, u16)> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let ports = packet.get(header..header + 4)?;
    (Ipv4Addr::from(from) == target)
        .then(|| (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])))
}

fn segment(source: Ipv4Addr, target: Ipv4Addr, ports: (u16, u16), sequence: [u8; 4], flags: u8) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[0..2].copy_from_slice(&ports.0.to_be_bytes());
    bytes[2..4].copy_from_slice(&ports.1.to_be_bytes());
    bytes[4..8].copy_from_slice(&sequence);
    bytes[12] = 5 << 4;
    bytes[13] = flags;
    bytes[14..16].copy_from_slice(&4096_u16.to_be_bytes());
    // The pseudo header: both addresses, the protocol, the length.
    let pseudo = [source.octets(), target.octets(), [0, 6, 0, 20]];
    let words = pseudo.iter().flatten().chain(&bytes).copied().collect::<Vec<u8>>();
    let mut sum: u32 = words.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap_or(0);
    bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_over_a_segment_and_its_pseudo_header_is_zero() {
        let (source, target) = (Ipv4Addr::new(10, 77, 1, 2), Ipv4Addr::new(10, 77, 9, 2));
        let bytes = segment(source, target, (8443, 22), [1, 2, 3, 4], 2);
        let all: Vec<u8> =
            [source.octets(), target.octets(), [0, 6, 0, 20]].concat().into_iter().chain(bytes).collect();
        let mut sum: u32 = all.chunks(2).map(|p| u32::from(u16::from_be_bytes([p[0], p[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
    }
}
