//! Servers that lie, stall and never end. The puller is bounded in time, bytes and entries, follows nothing,
//! and the window goes on to its end.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use kuramori_model::clock::{Clock, SystemClock, SystemRandom};
use kuramori_serve::tls;
use kuramori_vault::config::Limits;

use crate::world::{Bounds, World, alarms, pull, tree};

pub(crate) type Stream = rustls::StreamOwned<rustls::ServerConnection, TcpStream>;
pub(crate) const LIST: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.x.restic.rest.v2\r\nConnection: close\r\n\r\n";
const NAME: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

pub(crate) struct Liar {
    pub(crate) address: SocketAddrV4,
    pub(crate) ca: String,
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
}

impl Liar {
    /// Answers each path with `lie`; where that writes nothing, with an empty honest answer.
    pub(crate) fn start(lie: impl Fn(&str, &mut Stream) -> bool + Send + Sync + 'static) -> Self {
        let now = SystemClock.now();
        let authority = tls::authority("liar", now, Duration::from_hours(24), &SystemRandom).unwrap();
        let server =
            tls::issue(&authority, &["localhost"], now, Duration::from_hours(24), &SystemRandom).unwrap();
        let config = tls::server_config(&server.certificate, &server.key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("not IPv4") };
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let lie = Arc::new(lie);
        let (stopped, counted) = (stop.clone(), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (config, lie, counted) = (config.clone(), lie.clone(), counted.clone());
                std::thread::spawn(move || {
                    let connection = rustls::ServerConnection::new(config).unwrap();
                    let mut stream = rustls::StreamOwned::new(connection, stream);
                    let mut head = String::new();
                    let mut reader = BufReader::new(&mut stream);
                    while let Ok(read) = reader.read_line(&mut head) {
                        if read == 0 || head.ends_with("\r\n\r\n") {
                            break;
                        }
                    }
                    let path = head.split_whitespace().nth(1).unwrap_or("").to_owned();
                    counted.fetch_add(1, Ordering::SeqCst);
                    if !lie(&path, &mut stream) {
                        let _ = honest(&path, &mut stream);
                    }
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                });
            }
        });
        Self { address, ca: authority.certificate, stop, asked }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// One repository with one key, one pack of a listed size, and a config.
fn honest(path: &str, stream: &mut Stream) -> std::io::Result<()> {
    match path {
        "/" => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n[\"billing\"]"),
        "/billing/config" => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
        "/billing/data/" => write!(stream, "{LIST}[{{\"name\":\"{NAME}\",\"size\":1000}}]"),
        "/billing/keys/" => {
            let key = kuramori_repo::store::FileId::of(b"key");
            write!(stream, "{LIST}[{{\"name\":\"{key}\",\"size\":3}}]")
        }
        _ if path.ends_with('/') => write!(stream, "{LIST}[]"),
        _ if path.starts_with("/billing/keys/") => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nkey")
        }
        _ => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    }
}

/// One pull from the liar: what is alarmed, and how long it took. Nothing may be stored as a pack.
fn meet(lie: impl Fn(&str, &mut Stream) -> bool + Send + Sync + 'static) -> (Vec<String>, Duration, u32) {
    let mut world = World::new();
    world.bounds = Bounds { connect: 10, stall: 3, list: 4 };
    let liar = Liar::start(lie);
    fs_err::write(world.path("ca.pem"), &liar.ca).unwrap();
    let vault = world.vault_at(liar.address, "");
    let begin = SystemClock.boot();
    let (finished, _) = pull(&vault);
    let took = SystemClock.boot().saturating_sub(begin);
    let packs = world.copy("billing").join("data");
    assert!(!packs.exists() || tree(&packs).is_empty(), "a lie was stored");
    assert!(finished.pulled.is_none_or(|pulled| pulled.repositories.iter().all(|one| !one.finished)));
    let mut codes = alarms(&vault);
    codes.retain(|code| {
        !matches!(code.as_str(), "vault.new-repository" | "vault.no-key" | "vault.proof-failed")
    });
    (codes, took, liar.asked.load(Ordering::SeqCst))
}

fn forever(stream: &mut Stream, piece: &[u8]) -> bool {
    while stream.write_all(piece).is_ok() {}
    true
}

#[test]
fn an_endless_list_is_cut() {
    let (codes, took, _) = meet(|path, stream| {
        path == "/billing/snapshots/" && {
            let _ = stream.write_all(LIST.as_bytes());
            let _ = stream.write_all(b"[");
            forever(stream, format!("{{\"name\":\"{NAME}\",\"size\":1}},").repeat(500).as_bytes())
        }
    });
    assert_eq!(codes, ["vault.primary-misbehaves"]);
    assert!(took < Duration::from_mins(2), "{took:?}");
}

#[test]
fn a_gigantic_name_and_a_list_of_something_else_are_refused() {
    for body in [format!("[{{\"name\":\"{}\",\"size\":1}}]", "a".repeat(20 << 20)), "{\"a\":".repeat(100_000)]
    {
        let (codes, took, _) = meet(move |path, stream| {
            path == "/billing/index/" && {
                let _ = stream.write_all(LIST.as_bytes());
                let _ = stream.write_all(body.as_bytes());
                true
            }
        });
        assert_eq!(codes, ["vault.primary-misbehaves"]);
        assert!(took < Duration::from_mins(2), "{took:?}");
    }
}

#[test]
fn endless_and_short_bodies_are_not_stored() {
    let (codes, _, _) = meet(|path, stream| {
        path.starts_with("/billing/data/0") && {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            forever(stream, &[7; 10_000])
        }
    });
    assert_eq!(
        codes,
        ["vault.wrong-bytes"],
        "1000 bytes were listed, 1000 were taken, and they are not the name"
    );
    let (codes, _, _) = meet(|path, stream| {
        path.starts_with("/billing/data/0") && {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789");
            true
        }
    });
    assert_eq!(
        codes,
        ["vault.primary-misbehaves"],
        "the rest of a file that has none is another part than asked for"
    );
    let (codes, _, _) = meet(|path, stream| {
        path == "/billing/config" && {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            forever(stream, &[7; 10_000])
        }
    });
    assert_eq!(codes, ["vault.primary-misbehaves"]);
}

#[test]
fn a_slow_drip_and_silence_are_given_up() {
    let (codes, took, _) = meet(|path, stream| {
        path.starts_with("/billing/data/0") && {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
            for _ in 0..1000 {
                std::thread::sleep(Duration::from_millis(300));
                if stream.write_all(b"x").and_then(|()| stream.flush()).is_err() {
                    break;
                }
            }
            true
        }
    });
    assert_eq!(codes, ["vault.primary-misbehaves"]);
    assert!(took < Duration::from_mins(2), "{took:?}");
    let (codes, took, _) = meet(|path, stream| {
        path == "/billing/snapshots/" && {
            let _ = stream.sock.set_read_timeout(Some(Duration::from_mins(3)));
            let _ = stream.read(&mut [0]);
            true
        }
    });
    assert_eq!(codes, ["vault.primary-misbehaves"]);
    assert!(took < Duration::from_mins(2), "{took:?}");
}

#[test]
fn a_redirect_is_not_followed_and_strange_names_become_no_folder() {
    let witness = TcpListener::bind("127.0.0.1:0").unwrap();
    let elsewhere = witness.local_addr().unwrap();
    witness.set_nonblocking(true).unwrap();
    let (codes, _, asked) = meet(move |path, stream| {
        path == "/billing/snapshots/" && {
            let _ = write!(
                stream,
                "HTTP/1.1 302 Found\r\nLocation: https://{elsewhere}/\r\nContent-Length: 0\r\n\r\n"
            );
            true
        }
    });
    assert_eq!(codes, ["vault.primary-misbehaves"]);
    assert!(asked >= 2);
    assert!(witness.accept().is_err(), "somebody followed");
    let (codes, _, _) = meet(|path, stream| {
        path == "/" && {
            let body = "[\"../etc\",\"/\",\"a/b\",\"..\",\"Ä\",\".quarantine\"]";
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            true
        }
    });
    assert_eq!(codes, ["vault.bad-name"]);
}

#[test]
fn new_repositories_are_accepted_only_so_many() {
    let world = World::new();
    let names: Vec<String> =
        (0..Limits::default().new_repositories + 5).map(|n| format!("new-{n}")).collect();
    let body = serde_json::to_string(&names).unwrap();
    let liar = Liar::start(move |path, stream| {
        path == "/" && {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            true
        }
    });
    fs_err::write(world.path("ca.pem"), &liar.ca).unwrap();
    let vault = world.vault_at(liar.address, "");
    pull(&vault);
    assert_eq!(vault.register().repositories().unwrap().len(), Limits::default().new_repositories);
    assert!(alarms(&vault).contains(&"vault.too-many-new".to_owned()));
}
