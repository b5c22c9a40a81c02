//! Ports for the servers of tests.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

use std::{
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::Mutex,
};

/// The claims of this process, by name; the kernel drops them with it, whatever its end.
static CLAIMS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A port on loopback that nobody has, for TCP and UDP, and that no other test takes while this process lives.
///
/// It lies below the range from which the kernel gives ports to outgoing connections: one of those would take the
/// port between two starts of a server, and does so the more often the more tests run beside each other.
pub(crate) fn free_port() -> u16 {
    let range = fs_err::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let outgoing: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    let lowest = 10_000;
    assert!(outgoing > lowest + 1000, "no room for servers below outgoing connections: {range}");
    let many = u32::from(outgoing - lowest);
    let mut claims = CLAIMS.lock().unwrap();
    // Neighbours in time have neighbouring process ids: they begin far from each other.
    let begin = std::process::id().wrapping_mul(7919);
    for step in 0..many {
        let port = lowest + u16::try_from(begin.wrapping_add(step) % many).unwrap();
        let name = SocketAddr::from_abstract_name(format!("kuramori-test-port-{port}")).unwrap();
        let Ok(claim) = UnixListener::bind_addr(&name) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            claims.push(claim);
            return port;
        }
    }
    panic!("no port is free");
}
