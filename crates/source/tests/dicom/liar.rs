//! Stands between us and a real archive and gives its lists on worse than they came: without numbers of pictures,
//! or ended early.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// How lists are spoiled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lies {
    /// Takes (0020,1208) out of every answer.
    pub(crate) no_numbers: bool,
    /// At this level only so many answers come, and then this status.
    pub(crate) short: Option<(&'static str, usize, u16)>,
}

const NUMBER: [u8; 4] = [0x20, 0, 0x08, 0x12];
const LEVEL: [u8; 4] = [0x08, 0, 0x52, 0];
const FIELD: [u8; 4] = [0, 0, 0, 0x01];
const STATUS: [u8; 4] = [0, 0, 0, 0x09];

/// A frame: its kind and what is in it.
fn frame(from: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 6];
    from.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes(head[2..].try_into().unwrap());
    let mut body = vec![0; usize::try_from(length).unwrap()];
    from.read_exact(&mut body).ok()?;
    Some((head[0], body))
}

fn send(to: &mut TcpStream, kind: u8, body: &[u8]) -> Option<()> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    to.write_all(&[&[kind, 0][..], &length, body].concat()).ok()
}

/// The pieces of a data frame: context, flags, bytes.
fn pieces(mut body: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
    let mut found = Vec::new();
    while body.len() > 6 {
        let length = usize::try_from(u32::from_be_bytes(body[..4].try_into().unwrap())).unwrap();
        found.push((body[4], body[5], body[6..4 + length].to_vec()));
        body = &body[4 + length..];
    }
    found
}

/// Where an element of an implicit data set begins, and where its value ends.
fn element(set: &[u8], tag: [u8; 4]) -> Option<(usize, usize)> {
    let mut at = 0;
    while at + 8 <= set.len() {
        let length = u32::from_le_bytes(set[at + 4..at + 8].try_into().unwrap());
        let end = at + 8 + usize::try_from(length).unwrap();
        if set[at..at + 4] == tag {
            return Some((at, end));
        }
        at = end;
    }
    None
}

/// A number; 0 where there is none.
fn short(set: &[u8], tag: [u8; 4]) -> u16 {
    element(set, tag).map_or(0, |(at, _)| u16::from_le_bytes(set[at + 8..at + 10].try_into().unwrap()))
}

/// What we ask, and the level of it.
fn questions(mut client: TcpStream, mut server: TcpStream, level: &Mutex<String>) -> Option<()> {
    loop {
        let (kind, body) = frame(&mut client)?;
        if kind == 4 {
            for (_, flags, bytes) in pieces(&body) {
                if flags & 1 == 0
                    && let Some((at, end)) = element(&bytes, LEVEL)
                {
                    String::from_utf8_lossy(&bytes[at + 8..end])
                        .trim()
                        .clone_into(&mut level.lock().unwrap());
                }
            }
        }
        send(&mut server, kind, &body)?;
    }
}

/// What it answers.
fn answers(mut server: TcpStream, mut client: TcpStream, lies: &Lies, level: &Mutex<String>) -> Option<()> {
    let (mut listing, mut count, mut dropping) = (false, 0, false);
    loop {
        let (kind, body) = frame(&mut server)?;
        if kind != 4 {
            send(&mut client, kind, &body)?;
            continue;
        }
        for (context, flags, mut bytes) in pieces(&body) {
            if flags & 1 == 1 {
                listing = short(&bytes, FIELD) == 0x8020;
                let level = level.lock().unwrap().clone();
                let limit = lies.short.filter(|(of, ..)| listing && *of == level);
                let pending = matches!(short(&bytes, STATUS), 0xFF00 | 0xFF01);
                count = if pending && listing { count + 1 } else { 0 };
                dropping = limit.is_some_and(|(_, most, _)| pending && count > most);
                if let Some((_, _, status)) = limit.filter(|_| !pending) {
                    let (at, _) = element(&bytes, STATUS).unwrap();
                    bytes[at + 8..at + 10].copy_from_slice(&status.to_le_bytes());
                }
            } else if listing
                && lies.no_numbers
                && let Some((at, end)) = element(&bytes, NUMBER)
            {
                bytes.drain(at..end);
            }
            if !dropping {
                let length = u32::try_from(bytes.len() + 2).unwrap().to_be_bytes();
                send(&mut client, 4, &[&length[..], &[context, flags], &bytes].concat())?;
            }
        }
    }
}

/// A port behind which the archive is that listens on `port`. It is there until the test ends.
pub(crate) fn between(port: u16, lies: Lies) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
            let (level, lies) = (Arc::new(Mutex::default()), lies.clone());
            let (back, forth) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let asked = Arc::clone(&level);
            std::thread::spawn(move || {
                questions(client.try_clone().unwrap(), server.try_clone().unwrap(), &asked);
                let _ =
                    (client.shutdown(std::net::Shutdown::Both), server.shutdown(std::net::Shutdown::Both));
            });
            std::thread::spawn(move || {
                answers(forth.try_clone().unwrap(), back.try_clone().unwrap(), &lies, &level);
                let _ = (forth.shutdown(std::net::Shutdown::Both), back.shutdown(std::net::Shutdown::Both));
            });
        }
    });
    own
}
