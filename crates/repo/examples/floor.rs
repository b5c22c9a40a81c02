//! What the primitives alone cost on some files: the floor that no engine with this format and these checks
//! can be under. One thread, CPU time, everything in memory; prints one JSON object.
//!
//! `floor LEVEL PATH…`

use std::{collections::HashSet, path::PathBuf, time::Duration};

use aws_lc_rs::digest;
use kuramori_model::clock::{Random, SystemRandom};
use kuramori_repo::{
    chunk::{Chunking, CutError, Cutter},
    format::{
        blob::BlobId,
        compress,
        crypto::{self, Cipher, KeyBytes},
    },
};
use rustix::time::{ClockId, clock_gettime};

/// CPU seconds of each step over all bytes.
#[derive(Debug, Default, serde::Serialize)]
struct Costs {
    files: u64,
    bytes: u64,
    unique_bytes: u64,
    stored_bytes: u64,
    read_and_cut_s: f64,
    hash_s: f64,
    compress_s: f64,
    seal_s: f64,
    pack_hash_s: f64,
    open_s: f64,
    decompress_s: f64,
    rehash_s: f64,
    /// Hash, compress, seal, hash the pack, and the check of what was sealed (open, decompress, hash again).
    backup_s: f64,
    /// Open, decompress, hash.
    restore_s: f64,
}

fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or_default()).as_secs_f64()
}

fn timed<T>(total: &mut f64, work: impl FnOnce() -> T) -> T {
    let start = cpu();
    let result = work();
    *total += cpu() - start;
    result
}

/// Where the bytes go; used again for each chunk, as the engine does.
struct Bench {
    cipher: Cipher,
    level: i32,
    seen: HashSet<BlobId>,
    pack: digest::Context,
    sealed: Vec<u8>,
    again: Vec<u8>,
    plain: Vec<u8>,
    costs: Costs,
}

impl Bench {
    fn chunk(&mut self, plain: &[u8]) -> Result<(), String> {
        let bad = |flaw: kuramori_repo::format::Flaw| flaw.to_string();
        let Self { cipher, level, seen, pack, sealed, again, plain: unfolded, costs } = self;
        costs.bytes += plain.len() as u64;
        let id = timed(&mut costs.hash_s, || BlobId::of(plain));
        if !seen.insert(id) {
            return Ok(());
        }
        costs.unique_bytes += plain.len() as u64;
        sealed.clear();
        sealed.resize(crypto::IV, 0);
        let packed = timed(&mut costs.compress_s, || compress::append_if_useful(*level, plain, sealed))
            .map_err(bad)?;
        let mut iv = [0; crypto::IV];
        SystemRandom.fill(&mut iv);
        timed(&mut costs.seal_s, || cipher.seal_in_place(iv, sealed)).map_err(bad)?;
        costs.stored_bytes += sealed.len() as u64;
        timed(&mut costs.pack_hash_s, || pack.update(sealed));
        again.clear();
        again.extend_from_slice(sealed);
        let opened = timed(&mut costs.open_s, || cipher.open(again)).map_err(bad)?;
        let length = u32::try_from(plain.len()).map_err(|error| error.to_string())?;
        let back: &[u8] = if packed {
            timed(&mut costs.decompress_s, || compress::decompress_into(opened, length, unfolded))
                .map_err(bad)?;
            unfolded
        } else {
            opened
        };
        let same = timed(&mut costs.rehash_s, || BlobId::of(back)) == id;
        if same { Ok(()) } else { Err("a chunk does not come back".to_owned()) }
    }
}

fn files(path: PathBuf, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let kind = fs_err::symlink_metadata(&path)?.file_type();
    if kind.is_dir() {
        for entry in fs_err::read_dir(path)? {
            files(entry?.path(), found)?;
        }
    } else if kind.is_file() {
        found.push(path);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let level = arguments.next().and_then(|level| level.to_str()?.parse().ok()).ok_or("floor LEVEL PATH…")?;
    let key = KeyBytes::from_slice(&[7; 64]);
    let cutter = Cutter::new(Chunking::Content, &key);
    let mut bench = Bench {
        cipher: Cipher::new(&key)?,
        level,
        seen: HashSet::new(),
        pack: digest::Context::new(&digest::SHA256),
        sealed: Vec::new(),
        again: Vec::new(),
        plain: Vec::new(),
        costs: Costs::default(),
    };
    let mut paths = Vec::new();
    for path in arguments {
        files(path.into(), &mut paths)?;
    }
    paths.sort();
    let start = cpu();
    for path in paths {
        let mut file = fs_err::File::open(&path)?;
        let size = file.metadata()?.len();
        let cut = cutter.cut_all(&mut file, size, &mut |chunk| bench.chunk(&chunk));
        cut.map_err(|error| match error {
            CutError::Read(error) => error.to_string(),
            CutError::Emit(error) => error,
        })?;
        bench.costs.files += 1;
    }
    let mut costs = bench.costs;
    let checked = costs.open_s + costs.decompress_s + costs.rehash_s;
    costs.backup_s = costs.hash_s + costs.compress_s + costs.seal_s + costs.pack_hash_s + checked;
    costs.restore_s = checked;
    costs.read_and_cut_s = cpu() - start - costs.backup_s;
    #[expect(clippy::print_stdout, reason = "the result")]
    {
        println!("{}", serde_json::to_string_pretty(&costs)?);
    }
    Ok(())
}
