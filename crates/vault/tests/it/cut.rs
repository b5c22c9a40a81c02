//! A wire that breaks at any byte: each window goes on where the last one was cut.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    sync::Arc,
};

use kuramori_model::clock::SeededRandom;

use crate::world::{World, check, complete, noise, pull, restic, tree};

/// Forwards to `to`; each connection ends after a random number of bytes from there.
fn proxy(to: SocketAddrV4, random: Arc<SeededRandom>) -> SocketAddrV4 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("not IPv4") };
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let random = random.clone();
            std::thread::spawn(move || {
                let Ok(server) = TcpStream::connect(to) else { return };
                let (mut from_client, mut to_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from_client, &mut to_server);
                });
                // A handshake and one request take about 3 kB; most connections live longer.
                let mut left =
                    if random.below(4) == 0 { random.below(6000) } else { random.below(2_500_000) };
                let (mut server, mut client) = (server, client);
                let mut buffer = [0; 4096];
                while left > 0 {
                    let step = usize::try_from(left.min(4096)).unwrap();
                    match server.read(&mut buffer[..step]) {
                        Ok(read) if read > 0 && client.write_all(&buffer[..read]).is_ok() => {
                            left -= read as u64;
                        }
                        _ => break,
                    }
                }
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

/// Forwards to `to` at about 10 MB/s for each connection.
pub(crate) fn slow(to: SocketAddrV4) -> SocketAddrV4 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("not IPv4") };
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let Ok(mut server) = TcpStream::connect(to) else { return };
                let (mut from_client, mut to_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from_client, &mut to_server);
                    let _ = to_server.shutdown(Shutdown::Both);
                });
                let mut buffer = vec![0; 50_000];
                while let Ok(read) = server.read(&mut buffer) {
                    if read == 0 || client.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn a_wire_that_breaks_at_random_bytes_loses_nothing_and_repeats_little() {
    let seed = std::env::var("KURAMORI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_401);
    println!("KURAMORI_SEED={seed}");
    let world = World::with(&["billing"]);
    for file in 0..8 {
        world.write("billing", &format!("image-{file}"), &noise(900 + file, 2_000_000));
    }
    world.backup("billing");
    let size: u64 =
        tree(&world.primary("billing").join("data")).iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let address = proxy(world.address(), Arc::new(SeededRandom::new(seed)));
    let vault = world.vault_at(address, "");
    let (mut windows, mut bytes) = (0, 0);
    while complete(&vault, "billing") < 2 {
        windows += 1;
        assert!(windows < 60, "it makes no progress");
        bytes += pull(&vault).0.bytes;
    }
    println!("{windows} windows, {bytes} bytes for {size} of packs");
    assert!(windows > 1, "the wire was never cut, so this shows nothing");
    assert!(bytes < size + size / 10 + 200_000, "{bytes} bytes came for {size}: transfers began anew");
    check(&world.copy("billing"));
    let target = world.path("back");
    restic(&world.copy("billing"), &["restore", "latest", "--no-lock", "--target", target.to_str().unwrap()]);
    assert_eq!(
        tree(&target.join(world.source("billing").strip_prefix("/").unwrap())),
        tree(&world.source("billing"))
    );
}
