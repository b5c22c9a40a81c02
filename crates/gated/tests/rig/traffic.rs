//! Traffic to see an open gate with: a primary that streams, a puller that reads, a witness that answers
//! every port, and scans.

use std::{
    io::{Read, Write},
    net::{SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use kuramori_model::clock::SystemClock;
use kuramori_observe::probe::{Answer, From, probe};

use super::{PRIMARY, Rig, inside, now_ms};

/// A stream from the primary as the puller receives it.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) bytes: Arc<AtomicU64>,
    /// Boot time in milliseconds of the last byte.
    pub(crate) last: Arc<AtomicU64>,
    pub(crate) ended: Arc<AtomicBool>,
    begun: u64,
}

impl Stream {
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    /// Milliseconds since the last byte.
    pub(crate) fn pause(&self) -> u64 {
        now_ms().saturating_sub(self.last())
    }

    /// Milliseconds since it was begun.
    pub(crate) fn age(&self) -> u64 {
        now_ms() - self.begun
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }
}

impl Rig {
    /// The primary: to everyone who connects it sends without end.
    pub(crate) fn serve_primary(&self) {
        let listener = inside(&self.ns("prd"), || TcpListener::bind(PRIMARY).unwrap()).join().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let block = [7; 1400];
                    while stream.write_all(&block).is_ok() {
                        std::thread::sleep(Duration::from_micros(500));
                    }
                });
            }
        });
    }

    /// The puller: connects and reads for ever; a pause does not end it.
    pub(crate) fn pull(&self) -> Stream {
        let stream =
            Stream { bytes: Arc::default(), last: Arc::default(), ended: Arc::default(), begun: now_ms() };
        let out = stream.clone();
        inside(&self.ns("pul"), move || {
            if let Ok(mut tcp) = TcpStream::connect_timeout(&PRIMARY.into(), Duration::from_secs(5)) {
                let mut buffer = vec![0; 65536];
                while let Ok(n @ 1..) = tcp.read(&mut buffer) {
                    out.last.store(now_ms(), Ordering::SeqCst);
                    out.bytes.fetch_add(n as u64, Ordering::SeqCst);
                }
            }
            out.ended.store(true, Ordering::SeqCst);
        });
        stream
    }

    /// In the vault's namespace, every TCP and UDP port answers. Needs the table `inet witness`.
    pub(crate) fn witness(&self) {
        self.nft(
            "vlt",
            "table inet witness {\n chain pre {\n  type nat hook prerouting priority -100;\n  \
             iifname \"v0\" ip daddr 10.77.9.2 meta l4proto { tcp, udp } redirect to :7\n }\n}",
        );
        let ns = self.ns("vlt");
        let (tcp, udp) =
            inside(&ns, || (TcpListener::bind("0.0.0.0:7").unwrap(), UdpSocket::bind("0.0.0.0:7").unwrap()))
                .join()
                .unwrap();
        std::thread::spawn(move || for _ in tcp.incoming() {});
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((n, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&buffer[..n], from);
            }
        });
    }

    /// TCP targets that answer a probe begun in `role`.
    pub(crate) fn scan_tcp(&self, role: &str, targets: &[SocketAddrV4]) -> Vec<SocketAddrV4> {
        let from = From { namespace: Some(format!("/run/netns/{}", self.ns(role)).into()), source: None };
        let mut open = Vec::new();
        // Fewer at once than the witness's backlog holds.
        for part in targets.chunks(100) {
            let answers = probe(&from, part, Duration::from_millis(400), &SystemClock);
            for (target, answer) in part.iter().zip(answers) {
                match answer {
                    Answer::Answered => open.push(*target),
                    Answer::Silent => {}
                    Answer::Unknown(why) => panic!("{target} was not probed: {why}"),
                }
            }
        }
        open
    }

    /// UDP ports that send something back to production.
    pub(crate) fn scan_udp(&self, targets: &[SocketAddrV4]) -> usize {
        let targets = targets.to_vec();
        inside(&self.ns("prd"), move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let (mut answers, mut buffer) = (0, [0; 64]);
            for part in targets.chunks(50) {
                for target in part {
                    let _ = socket.send_to(b"?", target);
                }
                let mut got = 0;
                while got < part.len() && socket.recv_from(&mut buffer).is_ok() {
                    got += 1;
                }
                answers += got;
            }
            answers
        })
        .join()
        .unwrap()
    }

    /// From now on what production sends from port 18443 leaves as if it came from the primary's service.
    pub(crate) fn spoof(&self) {
        self.nft(
            "prd",
            "table inet spoof {\n chain post {\n  type nat hook postrouting priority 100;\n  \
             tcp sport 18443 snat ip to 10.77.1.2:8443\n }\n}",
        );
    }

    /// Whether production reaches `target` by TCP from this source port.
    pub(crate) fn reaches_from(&self, source_port: u16, target: SocketAddrV4) -> bool {
        let line = format!(
            "python3 -c \"import socket\ns=socket.socket();s.setsockopt(1,2,1);s.bind(('10.77.1.2',{source_port}));\
             s.settimeout(0.7)\ntry: s.connect(('{}',{}))\nexcept ConnectionRefusedError: pass\"",
            target.ip(),
            target.port()
        );
        self.exec("prd", &line).0
    }
}
