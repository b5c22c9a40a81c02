//! Does anything behind the gate answer? Asked from any host of the lab, in every way that a kernel knows.
//!
//! A probe that reaches nothing proves nothing by itself; the same probe must have reached the
//! [witness](crate::services::witness) through an open path first.

mod raw;
mod tcp;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{LabError, Result},
    lab::{Host, Lab},
    program::Program,
    role::{Role, VAULT},
};

/// What to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Try {
    /// TCP ports to connect to.
    pub tcp: std::ops::RangeInclusive<u16>,
    /// How long a batch of connections may stay silent.
    pub silence: Duration,
    /// The target.
    pub target: Ipv4Addr,
}

impl Default for Try {
    /// All ports of the vault.
    fn default() -> Self {
        Self { tcp: 1..=u16::MAX, silence: Duration::from_millis(400), target: VAULT }
    }
}

/// What TCP connections met.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpReached {
    /// Ports tried.
    pub tried: u32,
    /// Ports where a connection was accepted.
    pub accepted: u32,
    /// Ports where the target itself refused: reached all the same.
    pub refused: u32,
    /// Ports where a router on the way said that there is no way.
    pub unreachable: u32,
    /// The first ports that were reached.
    pub examples: Vec<u16>,
}

/// What a probe reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    /// The host that asked.
    pub from: String,
    /// The address asked for.
    pub target: String,
    /// TCP to every port.
    pub tcp: TcpReached,
    /// UDP ports that answered, or refused, which is an answer too.
    pub udp: Vec<u16>,
    /// An echo reply came.
    pub icmp: bool,
    /// An ARP reply came; only the vault's own wire can give one.
    pub arp: bool,
    /// Neighbours that answered by IPv6 (all-nodes echo, echo and TCP to the vault's own address).
    pub ipv6: Vec<String>,
    /// Answers to hand-made TCP segments with a service's port as source, by what was sent.
    pub forged: BTreeMap<String, u32>,
    /// Seconds that it took.
    pub seconds: f64,
    /// Was anything reached at all?
    pub reached: bool,
}

/// UDP ports that something in a hospital or in a vault might listen on.
const UDP: [u16; 14] = [53, 67, 69, 123, 137, 161, 162, 500, 514, 1194, 4500, 4789, 33_434, 51_820];

/// Asks from a host.
///
/// # Errors
/// A program is missing, or raw sockets are refused; never that nothing was reached.
pub fn probe(lab: &Lab, from: Role, what: &Try) -> Result<Probed> {
    use kuramori_model::clock::{Clock, SystemClock};
    let begin = SystemClock.boot();
    let host = lab.host(from);
    let target = what.target;
    let (device, source) = way(host, target)?;
    let mut found = Probed { from: from.to_string(), target: target.to_string(), ..Probed::default() };
    found.tcp = host.inside(|| tcp::scan(target, what.tcp.clone(), what.silence))??;
    let to = target.to_string();
    let quiet = |program: Program| -> Result<bool> { Ok(host.try_run(&program)?.status == Some(0)) };
    let ping = Program::new("ping").args(["-n", "-c", "2", "-i", "0.2", "-W", "1", &to]);
    let arping = Program::new("arping").args(["-q", "-f", "-w", "2", "-I", &device, &to]);
    // Each of these mostly waits.
    std::thread::scope(|scope| -> Result<()> {
        let udp = scope.spawn(|| host.inside(|| udp(target, what.silence))?);
        let icmp = scope.spawn(|| quiet(ping));
        let arp = scope.spawn(|| quiet(arping));
        let ipv6 = scope.spawn(|| ipv6(lab, host, &device));
        let forged = scope.spawn(|| host.inside(|| raw::forge(source, target, what.silence))?);
        found.udp = joined(udp)?;
        found.icmp = joined(icmp)?;
        found.arp = joined(arp)?;
        found.ipv6 = joined(ipv6)?;
        found.forged = joined(forged)?;
        Ok(())
    })?;
    found.seconds = (SystemClock.boot().saturating_sub(begin)).as_secs_f64();
    found.reached = found.tcp.accepted + found.tcp.refused > 0
        || !found.udp.is_empty()
        || found.icmp
        || found.arp
        || !found.ipv6.is_empty()
        || !found.forged.is_empty();
    Ok(found)
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The interface and own address by which a target is reached.
fn way(host: Host<'_>, target: Ipv4Addr) -> Result<(String, Ipv4Addr)> {
    let text = host.text(&Program::new("ip").args(["-o", "route", "get", &target.to_string()]))?;
    let after = |key: &str| {
        let mut words = text.split_whitespace().skip_while(|word| *word != key);
        words.nth(1).map(str::to_owned)
    };
    let source = after("src").and_then(|address| address.parse().ok());
    after("dev").zip(source).ok_or(LabError::Answer { server: "ip", answer: text.clone() })
}

/// Sends to all ports and listens on all at once. Who answers is a program, which a busy machine may let wait: it is
/// asked as often as fits into the time that the other ways take.
fn udp(target: Ipv4Addr, silence: Duration) -> Result<Vec<u16>> {
    let mut sockets = Vec::new();
    for port in UDP {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((target, port))?;
        socket.set_nonblocking(true)?;
        sockets.push((port, socket));
    }
    let mut reached = std::collections::BTreeSet::new();
    for _ in 0..5 {
        for (_, socket) in &sockets {
            // No way out of this host is the closed answer, not a failure.
            let _ = socket.send(b"kuramori-lab probe");
        }
        let all = crate::wait::wait_for("all ports answer", silence, || {
            for (port, socket) in &sockets {
                let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
                if socket.recv(&mut [0; 64]).map_or_else(|error| refused(&error), |_| true) {
                    reached.insert(*port);
                }
            }
            reached.len() == UDP.len()
        });
        if all.is_ok() {
            break;
        }
    }
    Ok(reached.into_iter().collect())
}

fn ipv6(lab: &Lab, host: Host<'_>, device: &str) -> Result<Vec<String>> {
    let own = link_local(host, device)?;
    let all = host.try_run(&Program::new("ping").args([
        "-6",
        "-n",
        "-c",
        "2",
        "-i",
        "0.2",
        "-W",
        "1",
        &format!("ff02::1%{device}"),
    ]))?;
    let mut found: std::collections::BTreeSet<String> = all
        .text()
        .lines()
        .filter_map(|line| line.split("bytes from ").nth(1)?.split('%').next().map(str::to_owned))
        .filter(|address| own.iter().all(|own| own.to_string() != *address))
        .collect();
    let index = host.text(&Program::new("ip").args(["-o", "link", "show", "dev", device]))?;
    let index: u32 = index.split(':').next().and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    for vault in link_local(lab.host(Role::Vlt), "v0")? {
        let to = format!("{vault}%{device}");
        if host.try_run(&Program::new("ping").args(["-6", "-n", "-c", "1", "-W", "1", &to]))?.status
            == Some(0)
        {
            found.insert(format!("{vault} echo"));
        }
        for port in [22, 445, 8443] {
            let address = SocketAddr::V6(SocketAddrV6::new(vault, port, 0, index));
            let limit = Duration::from_millis(300);
            if host.inside(|| crate::services::witness::reaches(address, limit))? {
                found.insert(format!("{vault} tcp {port}"));
            }
        }
    }
    // Behind another interface a neighbour is the hospital's own and no news.
    Ok(if host.role() == Role::Lan {
        found.into_iter().collect()
    } else {
        found.into_iter().filter(|f| f.contains(' ')).collect()
    })
}

fn link_local(host: Host<'_>, device: &str) -> Result<Vec<Ipv6Addr>> {
    let text =
        host.text(&Program::new("ip").args(["-6", "-o", "addr", "show", "dev", device, "scope", "link"]))?;
    let addresses = text
        .lines()
        .filter_map(|line| line.split("inet6 ").nth(1)?.split('/').next()?.parse::<IpAddr>().ok());
    Ok(addresses.filter_map(|address| if let IpAddr::V6(v6) = address { Some(v6) } else { None }).collect())
}
