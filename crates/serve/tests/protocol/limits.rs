//! Clients that are slow, greedy or silent, and one that is good.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use kuramori_serve::{Event, Limits, MemoryLogins, Mode, Outcome, Verb};

use crate::hall::{Hall, PATIENCE, append, authorization, id, limits, noise};

#[test]
fn twenty_slow_clients_do_not_hold_up_a_good_one() {
    let limits = Limits { connections: 32, connections_per_address: 32, ..limits() };
    let hall = Hall::with(Mode::Store, limits, [append("pacs", None)]);
    hall.create("pacs", "pacs");
    let large = noise(1, 8_000_000);
    let large_path = format!("pacs/data/{}", id(&large));
    assert_eq!(hall.put("pacs", &large_path, large), 200);

    // Five that say nothing, five that stop in their handshake, five in a header, five in a body, five that
    // do not take what they asked for.
    let mut silent = Vec::new();
    let mut secure = Vec::new();
    for number in 0..5 {
        silent.push(TcpStream::connect(hall.address).unwrap());
        let mut half = TcpStream::connect(hall.address).unwrap();
        half.write_all(&[22, 3, 1]).unwrap();
        silent.push(half);
        for text in [
            "GET /pacs/conf".to_owned(),
            format!(
                "POST /pacs/data/{} HTTP/1.1\r\nHost: x\r\n{}Content-Length: 100000\r\n\r\nx",
                id(&[number]),
                authorization("pacs")
            ),
            format!("GET /{large_path} HTTP/1.1\r\nHost: x\r\n{}\r\n", authorization("pacs")),
        ] {
            let mut connection = hall.raw();
            connection.write_all(text.as_bytes()).unwrap();
            connection.flush().unwrap();
            secure.push(connection);
        }
    }
    for seed in 10..15 {
        let bytes = noise(seed, 1_000_000);
        let path = format!("pacs/data/{}", id(&bytes));
        assert_eq!(hall.put("pacs", &path, bytes.clone()), 200);
        assert_eq!(hall.ask("GET", "pacs", &path).send().unwrap().bytes().unwrap(), bytes);
    }
    assert_eq!((silent.len(), secure.len()), (10, 15));
    // They were all still held open.
    assert_eq!(hall.book.count(|event| event.outcome == Outcome::Broken), 0);
}

#[test]
fn slow_clients_are_cut_at_every_stage() {
    // Filled under the usual limits: these are for the slow ones.
    let hall = Hall::open();
    hall.create("pacs", "pacs");
    let large = noise(1, 32_000_000);
    let large_path = format!("pacs/data/{}", id(&large));
    assert_eq!(hall.put("pacs", &large_path, large), 200);
    let (folder, root) = hall.stop();
    // More than the handshake of an honest client takes on the busiest machine.
    let short = Duration::from_secs(3);
    let limits = Limits { handshake: short, idle: short, stall: short, ..limits() };
    let logins = Arc::new(MemoryLogins::new([append("pacs", None)]));
    let hall = Hall::at(folder, root, Mode::Store, limits, logins).unwrap();
    let ends = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // An end or a reset, not a time-out of ours.
        match stream.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    };

    // Handshake.
    assert!(ends(TcpStream::connect(hall.address).unwrap()));
    hall.book.wait("handshake cut", |event| event.verb == Verb::Connect && event.outcome == Outcome::Broken);

    // A header that does not end, and a kept connection that stays silent.
    for text in [
        "GET /pacs".to_owned(),
        format!("GET /pacs/keys/ HTTP/1.1\r\nHost: x\r\n{}\r\n", authorization("pacs")),
    ] {
        let mut connection = hall.raw();
        connection.write_all(text.as_bytes()).unwrap();
        connection.flush().unwrap();
        assert!(ends(connection.sock));
    }

    // A body that stops.
    let mut connection = hall.raw();
    let head = format!(
        "POST /pacs/data/{} HTTP/1.1\r\nHost: x\r\n{}Content-Length: 1000\r\n\r\nx",
        id(b"x"),
        authorization("pacs")
    );
    connection.write_all(head.as_bytes()).unwrap();
    connection.flush().unwrap();
    hall.book.wait("slow body", |event| event.verb == Verb::Put && event.outcome == Outcome::Broken);
    assert!(ends(connection.sock));

    // A body that trickles: never silent for long, but below the floor.
    let mut connection = hall.raw();
    let head = format!(
        "POST /pacs/data/{} HTTP/1.1\r\nHost: x\r\n{}Content-Length: 100000\r\n\r\n",
        id(b"y"),
        authorization("pacs")
    );
    connection.write_all(head.as_bytes()).unwrap();
    let cut = (0..4000).find(|_| {
        std::thread::sleep(Duration::from_millis(50));
        connection.write_all(b"y").and_then(|()| connection.flush()).is_err()
            || hall.book.count(|event| event.verb == Verb::Put && event.outcome == Outcome::Broken) == 2
    });
    assert!(cut.is_some());

    // A download that nobody takes.
    let mut connection = hall.raw();
    let head = format!("GET /{large_path} HTTP/1.1\r\nHost: x\r\n{}\r\n", authorization("pacs"));
    connection.write_all(head.as_bytes()).unwrap();
    connection.flush().unwrap();
    let cut =
        hall.book.wait("download cut", |event| event.verb == Verb::Get && event.outcome == Outcome::Broken);
    assert!(cut.bytes < 32_000_000);
    assert_eq!(hall.files().len(), 1);
}

#[test]
fn one_address_cannot_take_all_connections() {
    let limits = Limits { connections_per_address: 3, ..limits() };
    let hall = Hall::with(Mode::Store, limits, [append("pacs", None)]);
    let busy = |event: &Event| event.verb == Verb::Connect && event.outcome == Outcome::Busy;
    assert_eq!(hall.book.count(busy), 0);
    let held: Vec<_> = (0..6).map(|_| TcpStream::connect(hall.address).unwrap()).collect();
    hall.book.wait("refused connection", busy);
    assert!(hall.client().get(hall.url("")).send().is_err());
    drop(held);
    // Once they are gone there is room again.
    while hall.client().get(hall.url("")).send().is_err() {
        std::thread::yield_now();
    }
}

#[test]
fn a_stop_waits_for_a_running_upload() {
    let hall = Hall::open();
    hall.create("pacs", "pacs");
    let bytes = noise(9, 500_000);
    let mut connection = hall.raw();
    let head = format!(
        "POST /pacs/data/{} HTTP/1.1\r\nHost: x\r\n{}Content-Length: {}\r\n\r\n",
        id(&bytes),
        authorization("pacs"),
        bytes.len()
    );
    connection.write_all(head.as_bytes()).unwrap();
    connection.write_all(&bytes[..250_000]).unwrap();
    connection.flush().unwrap();
    while fs_err::read_dir(hall.root.join("pacs/.incoming")).map_or(0, Iterator::count) == 0 {
        std::thread::yield_now();
    }
    let stopping = std::thread::spawn(move || hall.stop());
    connection.write_all(&bytes[250_000..]).unwrap();
    connection.flush().unwrap();
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let (_folder, root) = stopping.join().unwrap();
    assert!(root.join("pacs/data").join(&id(&bytes)[..2]).join(id(&bytes)).exists());
}
