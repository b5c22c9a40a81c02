//! The witness: it stands behind the gate in the vault's namespace, answers every TCP and UDP port on the
//! gated side, and writes each contact down.
//!
//! Its nftables tables are its own, so that it neither depends on the gate's nor helps them: what the gate
//! drops never reaches a socket here. Beside the contacts it counts packets that came past the gate's
//! ingress chain at all (see [`Arrivals`]), also those that a later chain drops.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use kuramori_model::clock::{Clock, SystemClock};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, socket_with,
    sockopt::{self, ip_original_dst, ipv6_original_dst},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{LabError, Result},
    lab::{Host, Lab},
    program::Program,
    role::Role,
};

/// The name of the witness's process in the lab's register.
pub const PROCESS: &str = "witness";
/// The ports on which it really listens; all others are redirected there. Several, because two connections
/// from the same source port to different ports would collide on a single one.
const PORTS: std::ops::RangeInclusive<u16> = 7..=22;
/// Connections that may wait for an answer: a scan comes in bursts.
const BACKLOG: i32 = 4096;
/// How often it looks whether its tables are still there: a gate may begin with `flush ruleset`.
const GUARD: Duration = Duration::from_millis(500);

const TABLES: &str = r#"
table ip witness {}
delete table ip witness
table ip witness {
 counter from_gate_tcp {}
 counter from_gate_stray {}
 counter from_gate_udp {}
 counter from_gate_icmp {}
 chain count {
  type filter hook prerouting priority -150; policy accept;
  iifname "v0" ct state new tcp flags & (fin | syn | rst | ack) == syn counter name from_gate_tcp
  iifname "v0" ct state { new, invalid } tcp flags & (fin | syn | rst | ack) != syn counter name from_gate_stray
  iifname "v0" ct state new meta l4proto udp counter name from_gate_udp
  iifname "v0" ct state { new, invalid } meta l4proto icmp counter name from_gate_icmp
 }
 chain answer {
  type nat hook prerouting priority -100; policy accept;
  iifname "v0" tcp flags & (fin | syn | rst | ack) == syn redirect to :7-22
  iifname "v0" meta l4proto udp redirect to :7-22
 }
}
table ip6 witness {}
delete table ip6 witness
table ip6 witness {
 counter from_gate_ip6 {}
 chain count {
  type filter hook prerouting priority -150; policy accept;
  iifname "v0" counter name from_gate_ip6
 }
 chain answer {
  type nat hook prerouting priority -100; policy accept;
  iifname "v0" meta l4proto { tcp, udp } redirect to :7-22
 }
}
table arp witness {}
delete table arp witness
table arp witness {
 counter from_gate_arp {}
 chain count {
  type filter hook input priority 0; policy accept;
  iifname "v0" counter name from_gate_arp
 }
}
"#;

/// One contact with the witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// The wall clock.
    pub at: jiff::Timestamp,
    /// The boot clock in milliseconds: what windows are compared with.
    pub boot_ms: u64,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Who came.
    pub from: SocketAddr,
    /// The port that was asked for; unknown for UDP, whose redirection forgets it.
    pub port: Option<u16>,
    /// The first bytes that were sent, as text.
    pub said: String,
}

/// Packets that reached the vault host's own stack from the gated interface since the witness's start.
/// Replies to what the vault itself began are in none of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrivals {
    /// TCP connection attempts.
    pub tcp: u64,
    /// Other TCP packets that belong to no connection known here.
    pub stray: u64,
    /// First packets of UDP flows.
    pub udp: u64,
    /// ICMP that answers nothing.
    pub icmp: u64,
    /// IPv6 of any kind.
    pub ip6: u64,
    /// ARP.
    pub arp: u64,
}

impl Arrivals {
    /// All together.
    pub fn total(&self) -> u64 {
        self.tcp + self.stray + self.udp + self.icmp + self.ip6 + self.arp
    }
}

/// The witness of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Witness<'lab> {
    lab: &'lab Lab,
}

impl<'lab> Witness<'lab> {
    pub(crate) fn of(lab: &'lab Lab) -> Self {
        Self { lab }
    }

    fn host(self) -> Host<'lab> {
        self.lab.host(Role::Vlt)
    }

    /// Where it writes contacts: one JSON object per line.
    pub fn log(self) -> PathBuf {
        self.lab.root().join("logs/witness-contacts.jsonl")
    }

    /// Starts it and waits until it stands.
    pub fn start(self) -> Result<()> {
        let program = Program::new(&self.lab.what().program)
            .args(["--root"])
            .arg(self.lab.root())
            .args(["witness", "--serve"]);
        let mut process = self.host().spawn(PROCESS, &program, &self.lab.log(PROCESS))?;
        let own = SocketAddr::from((Ipv4Addr::LOCALHOST, *PORTS.start()));
        process.wait_until("the witness stands", Duration::from_mins(2), || {
            let tables = self.arrivals().is_ok();
            Ok((tables && self.host().inside(|| reaches(own, Duration::from_secs(1)))?).then_some(()))
        })
    }

    /// All contacts so far from the gated side, oldest first.
    pub fn contacts(self) -> Result<Vec<Contact>> {
        let path = self.log();
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs_err::read_to_string(&path)?;
        text.lines()
            .map(|line| {
                serde_json::from_str(line).map_err(|source| LabError::Format { path: path.clone(), source })
            })
            // The lab's own question at the start came from inside.
            .filter(|contact: &Result<Contact>| contact.as_ref().map_or(true, |c| !c.from.ip().is_loopback()))
            .collect()
    }

    /// Contacts with a boot clock of at least `since`.
    pub fn contacts_since(self, since: Duration) -> Result<Vec<Contact>> {
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Ok(self.contacts()?.into_iter().filter(|contact| contact.boot_ms >= since).collect())
    }

    /// What its counters say now.
    pub fn arrivals(self) -> Result<Arrivals> {
        let text = self.host().text(&Program::new("nft").args(["-j", "list", "counters"]))?;
        let wrong = || LabError::Answer { server: "nft", answer: text.chars().take(200).collect() };
        let all: serde_json::Value = serde_json::from_str(&text).map_err(|_| wrong())?;
        let count = |name: &str| {
            let objects = all["nftables"].as_array().ok_or_else(wrong)?;
            let found = objects
                .iter()
                .map(|o| &o["counter"])
                .find(|c| c["table"] == "witness" && c["name"] == format!("from_gate_{name}"));
            found.and_then(|counter| counter["packets"].as_u64()).ok_or_else(wrong)
        };
        Ok(Arrivals {
            tcp: count("tcp")?,
            stray: count("stray")?,
            udp: count("udp")?,
            icmp: count("icmp")?,
            ip6: count("ip6")?,
            arp: count("arp")?,
        })
    }
}

/// Is a TCP connection accepted there?
pub(crate) fn reaches(address: SocketAddr, limit: Duration) -> bool {
    TcpStream::connect_timeout(&address, limit).is_ok()
}

/// The witness itself. Runs inside the vault's namespace until it is ended.
///
/// # Errors
/// The port is taken, the tables are refused, or the log cannot be written.
pub fn serve(log: &Path) -> Result<()> {
    let load = Program::new("nft").args(["-f", "-"]).input(TABLES);
    let log = fs_err::OpenOptions::new().create(true).append(true).open(log)?;
    for port in PORTS {
        let addresses = [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()];
        for address in addresses {
            let (listener, contacts) = (listen(address)?, log.try_clone()?);
            std::thread::spawn(move || accept(&listener, &contacts));
            let (socket, contacts) = (datagram_socket(address)?, log.try_clone()?);
            std::thread::spawn(move || datagrams(&socket, &contacts));
        }
    }
    load.run()?;
    loop {
        SystemClock.sleep(GUARD);
        if Program::new("nft").args(["list", "table", "ip", "witness"]).run().is_err() {
            load.run()?;
        }
    }
}

/// Sockets for IPv6 must not take IPv4's port as well.
fn socket(address: SocketAddr, kind: SocketType) -> Result<OwnedFd> {
    let make = || {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        bind(&socket, &address)?;
        if kind == SocketType::STREAM {
            rustix::net::listen(&socket, BACKLOG)?;
        }
        Ok(socket)
    };
    make().map_err(|error: rustix::io::Errno| std::io::Error::from(error).into())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    socket(address, SocketType::STREAM).map(TcpListener::from)
}

fn datagram_socket(address: SocketAddr) -> Result<UdpSocket> {
    socket(address, SocketType::DGRAM).map(UdpSocket::from)
}

fn accept(listener: &TcpListener, log: &fs_err::File) {
    loop {
        let Ok((mut stream, from)) = listener.accept() else { continue };
        let port = match from {
            SocketAddr::V4(_) => ip_original_dst(&stream).ok().map(|to| to.port()),
            SocketAddr::V6(_) => ipv6_original_dst(&stream).ok().map(|to| to.port()),
        };
        write_down(log, "tcp", from, port, &[]);
        let _ = stream.write_all(b"witness\n");
        let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
        // A close with unread bytes would be a reset, which a prober might take for a refusal.
        let _ = stream.read(&mut [0; 64]);
    }
}

fn datagrams(socket: &UdpSocket, log: &fs_err::File) {
    let mut bytes = [0; 2048];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut bytes) else { continue };
        write_down(log, "udp", from, None, &bytes[..length.min(64)]);
        let _ = socket.send_to(b"witness\n", from);
    }
}

fn write_down(mut log: &fs_err::File, protocol: &str, from: SocketAddr, port: Option<u16>, said: &[u8]) {
    let contact = Contact {
        at: SystemClock.now(),
        boot_ms: u64::try_from(SystemClock.boot().as_millis()).unwrap_or(u64::MAX),
        protocol: protocol.to_owned(),
        from,
        port,
        said: String::from_utf8_lossy(said).into_owned(),
    };
    let line = serde_json::to_string(&contact).unwrap_or_default() + "\n";
    // One write, so that the lines of several threads stay whole.
    let written = log.write_all(line.as_bytes());
    if written.is_err() {
        // A witness who cannot write would let everybody believe that nobody came.
        std::process::abort();
    }
}
