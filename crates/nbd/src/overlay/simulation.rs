//! An overlay on a disk that loses power: what was not made durable is there in part, in any order.

use std::{
    io,
    sync::{Arc, Mutex},
};

use kuramori_model::{
    blocks::{BlockError, Blocks},
    clock::SeededRandom,
};

use super::{BaseId, Overlay, layout::Layout, lock, medium::Medium};

const SECTOR: usize = 512;

/// Bytes that are durable, and writes that are not, sector by sector.
#[derive(Debug, Default)]
struct Platter {
    durable: Vec<u8>,
    visible: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
    /// Syncs do nothing: the mistake that the simulation must find.
    lies: bool,
    /// The next sync fails.
    fails: bool,
}

#[derive(Debug, Clone, Default)]
struct Simulated(Arc<Mutex<Platter>>);

impl Medium for Simulated {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&lock(&self.0).visible[at..at + buffer.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        let mut platter = lock(&self.0);
        platter.visible[at..at + data.len()].copy_from_slice(data);
        // A disk writes whole sectors, with everything that was put into them by then.
        for sector in at / SECTOR..(at + data.len()).div_ceil(SECTOR) {
            let end = platter.visible.len().min((sector + 1) * SECTOR);
            let whole = platter.visible[sector * SECTOR..end].to_vec();
            platter.pending.push((sector * SECTOR, whole));
        }
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<bool> {
        self.write_at(offset, &vec![0; usize::try_from(length).unwrap()])?;
        Ok(true)
    }

    fn sync(&self) -> io::Result<()> {
        let mut platter = lock(&self.0);
        if platter.fails {
            return Err(io::Error::other("the disk is broken"));
        }
        if !platter.lies {
            platter.durable = platter.visible.clone();
            platter.pending.clear();
        }
        Ok(())
    }

    fn run(&self, _: u64, length: u64) -> (u64, bool) {
        (length, true)
    }
}

impl Simulated {
    /// The power goes: of what was not durable any part arrives, in any order.
    fn lose_power(&self, random: &SeededRandom) {
        let mut platter = lock(&self.0);
        let mut pending = std::mem::take(&mut platter.pending);
        let keep = random.below(4);
        for number in (1..pending.len()).rev() {
            pending.swap(number, usize::try_from(random.below(number as u64 + 1)).unwrap());
        }
        for (at, data) in pending {
            if random.below(4) < keep {
                platter.durable[at..at + data.len()].copy_from_slice(&data);
            }
        }
        platter.visible = platter.durable.clone();
    }
}

#[derive(Debug)]
struct Base(Vec<u8>);

impl Blocks for Base {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), BlockError> {
        let at = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self.0[at..at + buffer.len()]);
        Ok(())
    }
}

/// What each sector may hold: since the last flush it may be any version.
struct Truth {
    now: Vec<u8>,
    versions: Vec<Vec<Vec<u8>>>,
}

impl Truth {
    fn new(now: Vec<u8>) -> Self {
        let versions = now.chunks(SECTOR).map(|sector| vec![sector.to_vec()]).collect();
        Self { now, versions }
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        self.now[at..at + data.len()].copy_from_slice(data);
        for sector in at / SECTOR..(at + data.len()).div_ceil(SECTOR) {
            let end = self.now.len().min((sector + 1) * SECTOR);
            self.versions[sector].push(self.now[sector * SECTOR..end].to_vec());
        }
    }

    fn flush(&mut self) {
        *self = Self::new(std::mem::take(&mut self.now));
    }
}

/// One life of an overlay with losses of power; gives the first sector that holds what it never may.
fn live(seed: u64, lies: bool) -> Option<String> {
    let random = SeededRandom::new(seed);
    let size = usize::try_from(60_000 + random.below(3 << 20)).unwrap();
    let base: Arc<dyn Blocks> =
        Arc::new(Base((0..size).map(|_| u8::try_from(random.below(256)).unwrap()).collect()));
    let mut truth = Truth::new(vec![0; size]);
    base.read_at(0, &mut truth.now).unwrap();
    truth.flush();
    let layout = Layout::of(size as u64);
    let medium = Simulated::default();
    {
        let mut platter = lock(&medium.0);
        platter.visible = vec![0; usize::try_from(layout.end()).unwrap()];
        platter.visible[..4096].copy_from_slice(&layout.encode(BaseId([7; 32])));
        platter.durable = platter.visible.clone();
        platter.lies = lies;
    }
    let open = || Overlay::over(Box::new(medium.clone()), Arc::clone(&base), layout).unwrap();
    let mut overlay = open();
    let mut fill = Some(0);
    for step in 0..40 {
        let at = usize::try_from(random.below(size as u64)).unwrap();
        let most = if random.below(3) == 0 { 300_000 } else { 9000 };
        let length = usize::try_from(1 + random.below(most)).unwrap().min(size - at);
        match random.below(10) {
            0..=3 => {
                let data: Vec<u8> = (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
                overlay.write_at(at as u64, &data).unwrap();
                truth.write(at, &data);
            }
            4 => {
                overlay.write_zeros(at as u64, length as u64, random.below(2) == 0).unwrap();
                truth.write(at, &vec![0; length]);
            }
            5 => fill = overlay.fill(fill.unwrap_or(0)).unwrap(),
            6 | 7 => {
                overlay.flush().unwrap();
                truth.flush();
            }
            8 => {
                let mut found = vec![0; length];
                overlay.read_at(at as u64, &mut found).unwrap();
                if found != truth.now[at..at + length] {
                    return Some(format!("step {step}: {length} bytes at {at} are wrong"));
                }
            }
            _ => {
                drop(overlay);
                medium.lose_power(&random);
                overlay = open();
                let mut found = vec![0; size];
                overlay.read_at(0, &mut found).unwrap();
                for (number, sector) in found.chunks(SECTOR).enumerate() {
                    if !truth.versions[number].iter().any(|version| version == sector) {
                        return Some(format!("step {step}: sector {number} holds what was never there"));
                    }
                }
                truth = Truth::new(found);
            }
        }
    }
    None
}

#[test]
fn what_was_flushed_survives_every_loss_of_power() {
    let rounds = if std::env::var_os("KURAMORI_LONG").is_some() { 3000 } else { 150 };
    for seed in 1..=rounds {
        assert_eq!(live(seed, false), None, "seed {seed}");
    }
    // A disk whose syncs do nothing must be found out, or the test above shows nothing.
    assert!((1..=40).any(|seed| live(seed, true).is_some()), "the simulation notices a lost flush");
}

#[test]
fn after_a_failed_flush_an_overlay_only_reads() {
    let base: Arc<dyn Blocks> = Arc::new(Base(vec![5; 20_000]));
    let layout = Layout::of(20_000);
    let medium = Simulated::default();
    lock(&medium.0).visible = vec![0; usize::try_from(layout.end()).unwrap()];
    let overlay = Overlay::over(Box::new(medium.clone()), base, layout).unwrap();
    overlay.write_at(100, b"kept").unwrap();
    lock(&medium.0).fails = true;
    assert!(overlay.flush().is_err());
    lock(&medium.0).fails = false;
    assert!(overlay.flush().is_err(), "the kernel may have dropped what it could not write");
    assert!(overlay.write_at(0, b"more").is_err());
    let mut found = [0; 6];
    overlay.read_at(99, &mut found).unwrap();
    assert_eq!(&found, b"\x05kept\x05");
}
