//! zstd with bounds: one frame, no dictionary, and never more output than announced.

use std::{cell::RefCell, io::Read};

use super::Flaw;

/// zstd windows above 8 MiB are refused: a forged frame must not choose our memory.
const WINDOW_LOG: u32 = 23;
/// Bytes that are compressed on trial before a whole blob is.
const PROBE: usize = 4 << 10;

thread_local! {
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses into one frame that names its content's size.
pub fn compress(level: i32, plain: &[u8]) -> Result<Vec<u8>, Flaw> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let failed = |error: std::io::Error| Flaw::new(format!("zstd refused to compress ({error})"));
        if slot.as_ref().is_none_or(|(ready, _)| *ready != level) {
            *slot = Some((level, zstd::bulk::Compressor::new(level).map_err(failed)?));
        }
        match slot {
            Some((_, compressor)) => compressor.compress(plain).map_err(failed),
            None => Err(Flaw::new("zstd is not ready")),
        }
    })
}

/// Compresses if that makes the blob at least 3 % smaller; `None` if it should lie raw.
///
/// A piece from the middle is tried first, so that images and archives cost next to nothing.
pub fn compress_if_useful(level: i32, plain: &[u8]) -> Result<Option<Vec<u8>>, Flaw> {
    if plain.len() >= 16 * PROBE {
        let helps = |at: usize| -> Result<bool, Flaw> {
            Ok(compress(1.min(level), &plain[at..at + PROBE])?.len() < PROBE - PROBE / 16)
        };
        let last = plain.len() - PROBE;
        if !helps(last / 2)? && !helps(last / 7)? && !helps(last)? {
            return Ok(None);
        }
    }
    let packed = compress(level, plain)?;
    Ok((packed.len() < plain.len() - plain.len() / 32).then_some(packed))
}

/// Decompresses a blob to exactly `plain_len` bytes.
pub fn decompress_exact(packed: &[u8], plain_len: u32) -> Result<Vec<u8>, Flaw> {
    let plain_len = plain_len as usize;
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let failed = |error: std::io::Error| Flaw::new(format!("its zstd frame does not open ({error})"));
        let decompressor = match slot {
            Some(ready) => ready,
            None => {
                let mut made = zstd::bulk::Decompressor::new().map_err(failed)?;
                made.set_parameter(zstd::zstd_safe::DParameter::WindowLogMax(WINDOW_LOG)).map_err(failed)?;
                slot.insert(made)
            }
        };
        let mut plain = Vec::with_capacity(plain_len);
        decompressor.decompress_to_buffer(packed, &mut plain).map_err(failed)?;
        if plain.len() == plain_len {
            Ok(plain)
        } else {
            Err(Flaw::new(format!("it holds {} bytes instead of {plain_len}", plain.len())))
        }
    })
}

/// Decompresses a file whose size nobody announced, up to `limit` bytes.
pub fn decompress_bounded(packed: &[u8], limit: u64) -> Result<Vec<u8>, Flaw> {
    let failed = |error: std::io::Error| Flaw::new(format!("its zstd frame does not open ({error})"));
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(failed)?;
    decoder.window_log_max(WINDOW_LOG).map_err(failed)?;
    let mut plain = Vec::new();
    decoder.take(limit.saturating_add(1)).read_to_end(&mut plain).map_err(failed)?;
    if plain.len() as u64 > limit {
        return Err(Flaw::new(format!("it unfolds to more than {limit} bytes")));
    }
    Ok(plain)
}
