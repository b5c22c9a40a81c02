//! Peers that lie, stall and shout: the server goes on with the others, the client says what is wrong.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    time::Duration,
};

use kuramori_model::{
    blocks::Blocks,
    clock::{Clock, Random, SeededRandom, SystemClock},
};
use kuramori_nbd::{
    Address, Client, Limits,
    wire::{
        CHUNK_MAGIC, Chunk, MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, Request, chunk, command, errno, info,
        option, reply,
    },
};

use super::common::{Memory, Served, export, patchy, socket};

fn option_bytes(option: u32, length: u32, data: &[u8]) -> Vec<u8> {
    [&OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &length.to_be_bytes(), data].concat()
}

fn request(command: u16, offset: u64, length: u32) -> Vec<u8> {
    Request { flags: 0, command, cookie: 7, offset, length }.encode().to_vec()
}

/// Greets as a client does.
fn greet(served: &Served) -> UnixStream {
    let mut stream = UnixStream::connect(socket(served.dir.path())).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(2))).unwrap();
    let mut hello = [0; 18];
    stream.read_exact(&mut hello).unwrap();
    stream.write_all(&3_u32.to_be_bytes()).unwrap();
    stream
}

/// Greets and takes the export in the old way.
fn enter(served: &Served) -> UnixStream {
    let mut stream = greet(served);
    stream.write_all(&option_bytes(option::EXPORT_NAME, 4, b"disk")).unwrap();
    let mut facts = [0; 10];
    stream.read_exact(&mut facts).unwrap();
    stream
}

/// The server ends the connection.
fn ends(stream: &mut UnixStream, what: &str) {
    let mut rest = Vec::new();
    // Bytes that it had not read any more may turn the end into a reset.
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{what}: {error}");
    }
}

#[test]
fn a_hostile_client_is_refused_or_cut_off_and_the_others_go_on() {
    let truth = patchy(5, 2 << 20);
    let limits = Limits {
        connections: 3,
        negotiation: Duration::from_secs(2),
        patience: Duration::from_secs(2),
        ..Limits::default()
    };
    let served = Served::new(vec![export("disk", Memory::new(truth.clone()))], limits);
    let good = Client::connect(served.handle.address(), "disk", &[]).unwrap();
    let still = |what: &str| {
        let mut found = vec![0; truth.len()];
        good.read_at(0, &mut found).unwrap_or_else(|error| panic!("after {what}: {error}"));
        assert!(found == truth, "after {what}");
    };
    let gone = || {
        // The place of one that was cut off is free again before the next one knocks.
        for _ in 0..1200 {
            if served.handle.connections() == 1 {
                return;
            }
            SystemClock.sleep(Duration::from_millis(50));
        }
        panic!("a connection that was cut off is still there");
    };

    // Negotiation: what ends the connection.
    let long = [b"x".repeat(100), Vec::new()].concat();
    for (what, bytes) in [
        ("noise", vec![0x55; 64]),
        ("an option of 4 GiB", option_bytes(option::GO, u32::MAX, b"")),
        ("an unknown export in the old way", option_bytes(option::EXPORT_NAME, 100, &long)),
        ("options without end", option_bytes(option::LIST, 0, b"").repeat(65)),
        ("silence in the middle of an option", option_bytes(option::GO, 100, b"abc")),
    ] {
        let mut stream = greet(&served);
        let _ = stream.write_all(&bytes);
        ends(&mut stream, what);
        still(what);
        gone();
    }
    // Negotiation: what is refused, and the client may go on.
    let mut stream = greet(&served);
    for (what, data, wanted) in [
        ("a name longer than the option", [&u32::MAX.to_be_bytes()[..], b"disk"].concat(), reply::INVALID),
        (
            "a list of facts that is cut off",
            [&4_u32.to_be_bytes()[..], b"disk", &[0, 9, 0, 0]].concat(),
            reply::INVALID,
        ),
        ("another export", [&3_u32.to_be_bytes()[..], b"dis", &[0, 0]].concat(), reply::UNKNOWN),
    ] {
        stream.write_all(&option_bytes(option::GO, data.len() as u32, &data)).unwrap();
        let mut head = [0; 20];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[12..16], wanted.to_be_bytes(), "{what}");
        let length = u32::from_be_bytes(head[16..].try_into().unwrap());
        stream.read_exact(&mut vec![0; length as usize]).unwrap();
    }
    let queries = [&4_u32.to_be_bytes()[..], b"disk", &u32::MAX.to_be_bytes()].concat();
    stream.write_all(&option_bytes(option::LIST_META_CONTEXT, queries.len() as u32, &queries)).unwrap();
    let mut head = [0; 20];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[12..16], reply::INVALID.to_be_bytes(), "four billion queries in twelve bytes");
    drop(stream);
    gone();

    // Requests: what is refused, on one connection.
    let mut stream = enter(&served);
    for (what, bytes, wanted) in [
        ("a read beyond the end", request(command::READ, truth.len() as u64 - 1, 2), errno::INVAL),
        ("a read that wraps", request(command::READ, u64::MAX, 2), errno::INVAL),
        ("a read of 4 GiB", request(command::READ, 0, u32::MAX), errno::INVAL),
        ("a read of nothing", request(command::READ, 0, 0), errno::INVAL),
        (
            "a write to what is read-only",
            [request(command::WRITE, 0, 4), b"evil".to_vec()].concat(),
            errno::PERM,
        ),
        ("a trim of what is read-only", request(command::TRIM, 0, 4096), errno::PERM),
        ("an unknown request", request(99, 0, 4096), errno::INVAL),
        ("a status without a context", request(command::BLOCK_STATUS, 0, 4096), errno::INVAL),
    ] {
        stream.write_all(&bytes).unwrap();
        let mut answer = [0; 16];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[4..8], wanted.to_be_bytes(), "{what}");
    }
    stream.write_all(&request(command::READ, 4096, 16)).unwrap();
    let mut answer = [0; 32];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[16..], truth[4096..4112], "the connection still works");
    // Requests: what ends the connection.
    stream.write_all(&[0xaa; Request::SIZE]).unwrap();
    ends(&mut stream, "a request without its magic");
    gone();
    for (what, bytes) in [
        ("a write of 4 GiB", request(command::WRITE, 0, u32::MAX)),
        ("a write that stops in its middle", [request(command::WRITE, 0, 4096), vec![1; 100]].concat()),
        ("half a request", request(command::READ, 0, 4096)[..9].to_vec()),
    ] {
        let mut stream = enter(&served);
        stream.write_all(&bytes).unwrap();
        ends(&mut stream, what);
        still(what);
        gone();
    }
    // More connections than there are places: those that are there keep theirs.
    let held: Vec<_> = (0..2).map(|_| enter(&served)).collect();
    let mut refused = UnixStream::connect(socket(served.dir.path())).unwrap();
    ends(&mut refused, "one too many");
    still("one too many");
    drop(held);
    gone();
    // Noise of all kinds.
    let random = SeededRandom::new(23);
    for round in 0..60 {
        let mut stream = if round % 2 == 0 { greet(&served) } else { enter(&served) };
        let mut noise = vec![0; 1 + random.below(400) as usize];
        random.fill(&mut noise);
        if round % 3 == 0 {
            noise.splice(..0, OPTION_MAGIC.to_be_bytes());
        }
        let _ = stream.write_all(&noise);
        drop(stream);
        gone();
    }
    still("noise");
}

/// A server that says to each option and request what it was told to.
fn lying(answers: Vec<Vec<u8>>) -> (tempfile::TempDir, Address, std::thread::JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let path = socket(dir.path());
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = [0; 4096];
        let hello = [&MAGIC.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &3_u16.to_be_bytes()].concat();
        let _ = stream.write_all(&hello);
        let _ = stream.read(&mut heard[..4]);
        for answer in answers {
            if stream.read(&mut heard).unwrap_or(0) == 0 || stream.write_all(&answer).is_err() {
                return;
            }
        }
    });
    (dir, Address::Unix(path), thread)
}

fn answer(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    [
        &OPTION_REPLY_MAGIC.to_be_bytes()[..],
        &option.to_be_bytes(),
        &kind.to_be_bytes(),
        &length.to_be_bytes(),
        data,
    ]
    .concat()
}

#[test]
fn a_hostile_server_gets_an_error_and_never_a_byte_too_many() {
    let ack = |option| answer(option, reply::ACK, b"");
    let size = [&info::EXPORT.to_be_bytes()[..], &(1_u64 << 20).to_be_bytes(), &[0, 3]].concat();
    let context = answer(option::SET_META_CONTEXT, reply::META_CONTEXT, b"\0\0\0\x01base:allocation");
    let entry = |last: Vec<u8>| {
        vec![
            ack(option::STRUCTURED_REPLY),
            [context.clone(), ack(option::SET_META_CONTEXT)].concat(),
            [answer(option::GO, reply::INFO, &size), ack(option::GO)].concat(),
            last,
        ]
    };
    let chunk_of = |kind: u16, flags: u16, length: u32, data: &[u8]| {
        let head = Chunk { flags, kind, cookie: 1, length };
        [&head.encode()[..], data].concat()
    };
    let data = |offset: u64, bytes: &[u8]| [&offset.to_be_bytes()[..], bytes].concat();
    let read = |client: &Client| {
        let mut buffer = [0; 4096];
        client.read_at(8192, &mut buffer).map(|()| buffer.to_vec())
    };
    // The way itself works: an honest answer is taken.
    let honest = chunk_of(chunk::OFFSET_DATA, chunk::DONE, 4104, &data(8192, &[9; 4096]));
    let (_dir, address, thread) = lying(entry(honest));
    let client = Client::connect(&address, "disk", &[]).unwrap();
    assert_eq!(read(&client).unwrap(), vec![9; 4096]);
    drop(client);
    thread.join().unwrap();

    let half = chunk_of(chunk::OFFSET_DATA, 0, 2056, &data(8192, &[9; 2048]));
    for (what, lie) in [
        ("before the range", chunk_of(chunk::OFFSET_DATA, 1, 4104, &data(0, &[9; 4096]))),
        ("beyond the range", chunk_of(chunk::OFFSET_DATA, 1, 4105, &data(8192, &[9; 4097]))),
        ("4 GiB of data", chunk_of(chunk::OFFSET_DATA, 1, u32::MAX, &data(8192, &[9; 64]))),
        ("a hole of 4 GiB", chunk_of(chunk::OFFSET_HOLE, 1, 12, &data(8192, &[0xff; 4]))),
        ("half of it twice", [half.clone(), half.clone(), chunk_of(0, 1, 0, b"")].concat()),
        ("half of it", [half, chunk_of(0, 1, 0, b"")].concat()),
        ("nothing", chunk_of(0, 1, 0, b"")),
        ("an error that is cut off", chunk_of(chunk::ERROR, 1, 3, b"abc")),
        ("an error with long words", chunk_of(chunk::ERROR, 1, 8, b"\0\0\0\x05\xff\xffab")),
        ("somebody else's answer", [&CHUNK_MAGIC.to_be_bytes()[..], &[0, 1, 0, 1], &[0xee; 12]].concat()),
        ("noise", vec![0x77; 64]),
        ("an unknown kind of chunk", chunk_of(77, 1, 4, b"abcd")),
    ] {
        let (_dir, address, thread) = lying(entry(lie));
        let client = Client::connect(&address, "disk", &[]).unwrap();
        assert!(read(&client).is_err(), "{what}");
        assert!(read(&client).is_err(), "after {what} nothing is believed any more");
        drop(client);
        thread.join().unwrap();
    }
    let status = |runs: &[u8]| {
        chunk_of(chunk::BLOCK_STATUS, 1, 4 + runs.len() as u32, &[&[0, 0, 0, 1], runs].concat())
    };
    for (what, lie) in [
        ("an empty run", status(&[0; 8])),
        ("no run", status(b"")),
        ("4 GiB of runs", chunk_of(chunk::BLOCK_STATUS, 1, u32::MAX - 3, b"")),
    ] {
        let (_dir, address, thread) = lying(entry(lie));
        let client = Client::connect(&address, "disk", &[]).unwrap();
        assert!(client.extent(0, 4096).is_err(), "{what}");
        drop(client);
        thread.join().unwrap();
    }
    for (what, lies) in [
        ("no greeting of ours", vec![vec![0; 20]]),
        ("an answer of 4 GiB", vec![[&ack(option::STRUCTURED_REPLY)[..16], &[0xff; 4]].concat()]),
        ("an answer to something else", vec![ack(option::GO)]),
        ("no size", vec![ack(option::STRUCTURED_REPLY), ack(option::SET_META_CONTEXT), ack(option::GO)]),
    ] {
        let (_dir, address, thread) = lying(lies);
        assert!(Client::connect(&address, "disk", &[]).is_err(), "{what}");
        thread.join().unwrap();
    }
}
