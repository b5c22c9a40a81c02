//! A way to the console from the machine itself: a port on its loopback whose connections are continued from
//! inside a host's network.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use crate::{Result, lab::Lab, role::Role};

/// A door that is open as long as the process lives.
#[derive(Debug)]
pub struct Door {
    address: SocketAddr,
}

impl Door {
    /// Opens a port of `127.0.0.1` (0 for any) toward `target` as seen from a host.
    ///
    /// # Errors
    /// The port is taken.
    pub fn open(lab: &Lab, role: Role, port: u16, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let address = listener.local_addr()?;
        let root = lab.root().to_owned();
        std::thread::spawn(move || {
            for incoming in listener.incoming().flatten() {
                let root = root.clone();
                std::thread::spawn(move || {
                    let inside = Lab::open(&root).and_then(|lab| {
                        lab.host(role).inside(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)))
                    });
                    if let Ok(Ok(outgoing)) = inside {
                        let _ = join(&incoming, &outgoing);
                    }
                });
            }
        });
        Ok(Self { address })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn join(one: &TcpStream, other: &TcpStream) -> io::Result<()> {
    std::thread::scope(|scope| {
        scope.spawn(|| pass(one, other));
        pass(other, one)
    })
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let got = from.read(&mut buffer)?;
        if got == 0 {
            return to.shutdown(Shutdown::Write);
        }
        to.write_all(&buffer[..got])?;
    }
}
