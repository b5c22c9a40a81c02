//! Connections to many ports at once, without a thread for each.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::RangeInclusive,
    os::fd::OwnedFd,
    time::Duration,
};

use kuramori_model::clock::{Clock, SystemClock};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::TcpReached;
use crate::error::Result;

/// Connections tried side by side, if the process may have so many files.
const BATCH: u64 = 8_192;
/// Ports named in the answer.
const EXAMPLES: usize = 16;

enum Met {
    Accepted,
    Refused,
    Unreachable,
    Silent,
}

/// Connects to every port. Silent ones are tried again while others answer: a burst may overrun a queue on
/// the way, and a lost packet must not look like a closed gate in a positive control.
pub(super) fn scan(target: Ipv4Addr, ports: RangeInclusive<u16>, silence: Duration) -> Result<TcpReached> {
    let batch = batch();
    let mut open: Vec<u16> = ports.collect();
    let mut found =
        TcpReached { tried: u32::try_from(open.len()).unwrap_or(u32::MAX), ..TcpReached::default() };
    for _ in 0..6 {
        let before = open.len();
        let mut silent = Vec::new();
        for part in open.chunks(batch) {
            for (port, met) in part.iter().zip(connect_all(target, part, silence)?) {
                match met {
                    Met::Accepted => found.accepted += 1,
                    Met::Refused => found.refused += 1,
                    Met::Unreachable => found.unreachable += 1,
                    Met::Silent => silent.push(*port),
                }
                if matches!(met, Met::Accepted | Met::Refused) && found.examples.len() < EXAMPLES {
                    found.examples.push(*port);
                }
            }
        }
        open = silent;
        if open.is_empty() || open.len() == before {
            break;
        }
    }
    Ok(found)
}

fn batch() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let want = limit.maximum.unwrap_or(u64::MAX).min(BATCH + 256);
    if limit.current.is_some_and(|current| current < want) {
        // Refused or not, the limit is read again below.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(want), maximum: limit.maximum });
    }
    let current = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(current.saturating_sub(256).clamp(64, BATCH)).unwrap_or(64)
}

fn connect_all(target: Ipv4Addr, ports: &[u16], silence: Duration) -> Result<Vec<Met>> {
    let mut sockets: Vec<Option<OwnedFd>> = Vec::with_capacity(ports.len());
    let mut met = Vec::with_capacity(ports.len());
    for port in ports {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
            .map_err(std::io::Error::from)?;
        // Closed by a reset: tens of thousands of connections that linger would fill the machine's tables.
        let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
        let outcome = connect(&socket, &SocketAddrV4::new(target, *port));
        let waits = matches!(outcome, Err(Errno::INPROGRESS));
        met.push(judge(outcome));
        sockets.push(waits.then_some(socket));
    }
    let end = SystemClock.boot() + silence;
    loop {
        let left = end.saturating_sub(SystemClock.boot());
        let waiting: Vec<usize> = (0..ports.len()).filter(|n| sockets[*n].is_some()).collect();
        if waiting.is_empty() {
            return Ok(met);
        }
        let mut fds: Vec<PollFd<'_>> = waiting
            .iter()
            .filter_map(|n| sockets[*n].as_ref().map(|socket| PollFd::new(socket, PollFlags::OUT)))
            .collect();
        let limit =
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        poll(&mut fds, Some(&limit)).map_err(std::io::Error::from)?;
        let done: Vec<usize> =
            waiting.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(n, _)| *n).collect();
        drop(fds);
        for n in done {
            if let Some(socket) = sockets[n].take() {
                met[n] = judge(sockopt::socket_error(&socket).unwrap_or_else(Err));
            }
        }
        // The last look comes after the time is up: on a busy machine the answer may be there by then.
        if left.is_zero() {
            return Ok(met);
        }
    }
}

fn judge(outcome: rustix::io::Result<()>) -> Met {
    match outcome {
        Ok(()) => Met::Accepted,
        Err(Errno::CONNREFUSED | Errno::CONNRESET) => Met::Refused,
        Err(Errno::INPROGRESS | Errno::TIMEDOUT) => Met::Silent,
        Err(_) => Met::Unreachable,
    }
}
