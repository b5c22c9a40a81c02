//! Index, snapshot and lock files: sealed JSON, compressed since version 2.

use super::{Flaw, compress};

const ZSTD: u8 = 2;

/// What gets sealed: the byte 0x02 and a zstd frame.
pub fn encode(json: &[u8]) -> Result<Vec<u8>, Flaw> {
    let mut plain = vec![ZSTD];
    plain.extend_from_slice(&compress::compress(3, json)?);
    Ok(plain)
}

/// The JSON of an opened file, at most `limit` bytes. Raw JSON begins with `{` or `[`.
pub fn decode(plain: Vec<u8>, limit: u64) -> Result<Vec<u8>, Flaw> {
    match plain.first() {
        Some(&ZSTD) => compress::decompress_bounded(&plain[1..], limit),
        Some(b'{' | b'[') if plain.len() as u64 > limit => {
            Err(Flaw::new(format!("it has more than {limit} bytes")))
        }
        Some(b'{' | b'[') => Ok(plain),
        Some(other) => {
            Err(Flaw::new(format!("it begins with the byte {other:#04x}, which no version writes")))
        }
        None => Err(Flaw::new("it is empty")),
    }
}
