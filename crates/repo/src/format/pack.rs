//! A pack's header: what lies in it, in order.
//!
//! ```text
//! | blob 1 | blob 2 | ... | sealed header | length of the sealed header, u32 le |
//!
//! header entry   | 0 or 1  | sealed length u32 le |                     | id 32 |   raw data, raw tree
//!                | 2 or 3  | sealed length u32 le | plain length u32 le | id 32 |   compressed
//! ```
//!
//! Offsets follow from the order, so a header cannot point outside of its pack or twice at one place.

use super::{
    Flaw,
    blob::{BlobId, BlobKind, PackedBlob},
    crypto,
};

/// Largest sealed header that restic reads, in bytes.
pub const HEADER_MAX: u32 = 16 << 20;
/// Bytes of a compressed blob's entry.
pub const ENTRY: usize = 41;
const RAW_ENTRY: usize = 37;

/// Writes the plain header.
pub fn encode_header(blobs: &[PackedBlob]) -> Vec<u8> {
    let mut header = Vec::with_capacity(blobs.len() * ENTRY);
    for blob in blobs {
        let kind = u8::from(blob.kind == BlobKind::Tree);
        header.push(if blob.plain_length.is_some() { kind + 2 } else { kind });
        header.extend_from_slice(&blob.length.to_le_bytes());
        if let Some(plain) = blob.plain_length {
            header.extend_from_slice(&plain.to_le_bytes());
        }
        header.extend_from_slice(&blob.id.0);
    }
    header
}

/// Reads the opened header. `body` is the number of bytes before the sealed header; the blobs must fill it.
pub fn decode_header(plain: &[u8], body: u64) -> Result<Vec<PackedBlob>, Flaw> {
    let mut blobs = Vec::with_capacity(plain.len() / RAW_ENTRY);
    let mut rest = plain;
    let mut offset = 0_u64;
    while let Some((&tag, after)) = rest.split_first() {
        let (kind, compressed) = match tag {
            0 => (BlobKind::Data, false),
            1 => (BlobKind::Tree, false),
            2 => (BlobKind::Data, true),
            3 => (BlobKind::Tree, true),
            other => return Err(Flaw::new(format!("its header has an entry of type {other}"))),
        };
        let cut = || Flaw::new("its header ends within an entry");
        let (length, after) = split_u32(after).ok_or_else(cut)?;
        let (plain_length, after) = if compressed {
            let (plain, after) = split_u32(after).ok_or_else(cut)?;
            (Some(plain), after)
        } else {
            (None, after)
        };
        let (id, after) = after.split_first_chunk::<32>().ok_or_else(cut)?;
        if length as usize <= crypto::OVERHEAD {
            return Err(Flaw::new(format!("its header has an empty blob {}", BlobId(*id))));
        }
        let at = u32::try_from(offset).map_err(|_| Flaw::new("it is larger than 4 GiB"))?;
        blobs.push(PackedBlob { id: BlobId(*id), kind, offset: at, length, plain_length });
        offset += u64::from(length);
        rest = after;
    }
    if blobs.is_empty() {
        return Err(Flaw::new("its header names no blob"));
    }
    if offset == body {
        Ok(blobs)
    } else {
        Err(Flaw::new(format!("its header describes {offset} bytes, but {body} lie there")))
    }
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes.split_first_chunk::<4>().map(|(number, rest)| (u32::from_le_bytes(*number), rest))
}

/// Where the sealed header lies, from the pack's size and last four bytes: offset and length.
pub fn header_place(size: u64, tail: [u8; 4]) -> Result<(u64, u32), Flaw> {
    let length = u32::from_le_bytes(tail);
    let too_short = length as usize <= crypto::OVERHEAD;
    match size.checked_sub(u64::from(length) + 4) {
        Some(offset) if !too_short && length <= HEADER_MAX && offset > 0 => Ok((offset, length)),
        _ => Err(Flaw::new(format!(
            "its last four bytes announce a header of {length} bytes, which cannot be"
        ))),
    }
}
