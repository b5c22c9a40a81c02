//! Several connections that write to one overlay at once.

use std::sync::Arc;

use kuramori_model::{
    blocks::Blocks,
    clock::{Random, SeededRandom},
};
use kuramori_nbd::{BaseId, Client, Overlay};

use super::common::{Memory, Served, patchy};

/// Each writer has the bytes whose place modulo the number of writers is its own: neighbours within one block of the
/// overlay are written by different ones, so a block that is filled up from below twice loses something.
#[test]
fn writers_of_neighbouring_bytes_lose_nothing() {
    const WRITERS: usize = 4;
    const GRAIN: usize = 512;
    let seed = 11;
    println!("seed {seed}");
    let truth = patchy(seed, 3 << 20);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("overlay");
    let base = Memory::new(truth.clone());
    let overlay = Overlay::open(&file, base.clone(), BaseId([0; 32])).unwrap();
    let served = Served::one(Arc::new(overlay));
    let address = served.handle.address().clone();
    let grains = truth.len() / GRAIN;
    let written: Vec<Vec<(usize, Vec<u8>)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let address = &address;
                scope.spawn(move || {
                    let random = SeededRandom::new(seed * 100 + writer as u64);
                    let client = Client::connect(address, "disk", &[]).unwrap();
                    let mut done = Vec::new();
                    for step in 0..250 {
                        let grain = random.below((grains / WRITERS) as u64) as usize * WRITERS + writer;
                        let mut data = vec![0; GRAIN];
                        random.fill(&mut data);
                        client.write_at((grain * GRAIN) as u64, &data).unwrap();
                        let mut found = vec![0; GRAIN];
                        client.read_at((grain * GRAIN) as u64, &mut found).unwrap();
                        assert!(found == data, "writer {writer} reads what it wrote in step {step}");
                        done.push((grain * GRAIN, data));
                        if step % 60 == 0 {
                            client.flush().unwrap();
                        }
                    }
                    done
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut wanted = truth;
    for (place, data) in written.into_iter().flatten() {
        wanted[place..place + data.len()].copy_from_slice(&data);
    }
    drop(served);
    let overlay = Overlay::open(&file, base, BaseId([0; 32])).unwrap();
    let mut found = vec![0; wanted.len()];
    overlay.read_at(0, &mut found).unwrap();
    assert!(found == wanted);
}
