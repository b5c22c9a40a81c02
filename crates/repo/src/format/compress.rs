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
    let mut packed = Vec::new();
    append_compressed(level, plain, &mut packed)?;
    Ok(packed)
}

/// Appends one frame that names its content's size.
fn append_compressed(level: i32, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Flaw> {
    let start = out.len();
    out.resize(start + zstd::zstd_safe::compress_bound(plain.len()), 0);
    let length = COMPRESSOR.with_borrow_mut(|slot| {
        let failed = |error: std::io::Error| Flaw::new(format!("zstd refused to compress ({error})"));
        if slot.as_ref().is_none_or(|(ready, _)| *ready != level) {
            *slot = Some((level, zstd::bulk::Compressor::new(level).map_err(failed)?));
        }
        match slot {
            Some((_, compressor)) => compressor.compress_to_buffer(plain, &mut out[start..]).map_err(failed),
            None => Err(Flaw::new("zstd is not ready")),
        }
    })?;
    out.truncate(start + length);
    Ok(())
}

/// Appends the compressed blob if that makes it at least 3 % smaller, else the plain bytes. Gives whether it
/// is compressed.
///
/// Pieces from three places are tried first, so that images and archives cost next to nothing.
pub fn append_if_useful(level: i32, plain: &[u8], out: &mut Vec<u8>) -> Result<bool, Flaw> {
    let start = out.len();
    if plain.len() >= 16 * PROBE {
        let mut helps = |at: usize| -> Result<bool, Flaw> {
            append_compressed(1.min(level), &plain[at..at + PROBE], out)?;
            let length = out.len() - start;
            out.truncate(start);
            Ok(length < PROBE - PROBE / 16)
        };
        let last = plain.len() - PROBE;
        if !helps(last / 2)? && !helps(last / 7)? && !helps(last)? {
            out.extend_from_slice(plain);
            return Ok(false);
        }
    }
    append_compressed(level, plain, out)?;
    if out.len() - start < plain.len() - plain.len() / 32 {
        return Ok(true);
    }
    out.truncate(start);
    out.extend_from_slice(plain);
    Ok(false)
}

/// Decompresses a blob to exactly `plain_len` bytes.
pub fn decompress_exact(packed: &[u8], plain_len: u32) -> Result<Vec<u8>, Flaw> {
    let mut plain = Vec::new();
    decompress_into(packed, plain_len, &mut plain)?;
    Ok(plain)
}

/// Decompresses a blob to exactly `plain_len` bytes, which replace what `plain` held.
pub fn decompress_into(packed: &[u8], plain_len: u32, plain: &mut Vec<u8>) -> Result<(), Flaw> {
    let plain_len = plain_len as usize;
    plain.clear();
    plain.reserve_exact(plain_len);
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
        decompressor.decompress_to_buffer(packed, plain).map_err(failed)?;
        if plain.len() == plain_len {
            Ok(())
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
