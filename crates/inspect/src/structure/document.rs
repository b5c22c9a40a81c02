//! What is judged by its ends: dumps, PDF, boxes, encrypted files that say so.

use super::{Flaw, FlawKind, Input, Structure, bits::be32};
use crate::class::Class;

/// Beginning and end of a file.
pub(crate) struct Ends<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) tail: &'a [u8],
    pub(crate) length: u64,
}

/// Whether the last line of a dump, or the end of a PDF, is there.
pub(crate) fn tail_flaw(class: Class, ends: &Ends<'_>) -> Option<Flaw> {
    let (tail, length) = (ends.tail, ends.length);
    let near = |word: &[u8], bytes: usize| {
        let end = &tail[tail.len().saturating_sub(bytes)..];
        end.windows(word.len()).any(|window| window == word)
    };
    let flaw = |why: &str| {
        // Text up to its end was cut off; anything else was written over it.
        let wild = tail.iter().rev().take(512).filter(|byte| crate::statistics::is_control(**byte)).count();
        let kind = if wild > 8 && tail.iter().rev().take(512).any(|byte| *byte != 0) {
            FlawKind::Garbled
        } else {
            FlawKind::Cut
        };
        Some(Flaw { at: length.saturating_sub(tail.len().min(512) as u64), kind, why: why.to_owned() })
    };
    match class {
        Class::SqlDump => {
            let postgres = ends.head.windows(10).any(|window| window == b"PostgreSQL");
            let last: &[u8] = if postgres { b"dump complete" } else { b"-- Dump completed" };
            if near(last, 256) { None } else { flaw("the dump's last line is missing") }
        }
        Class::Pdf if !near(b"%%EOF", 2048) => flaw("the end of the PDF is missing"),
        _ => None,
    }
}

/// Boxes one after the other (ISO/IEC 14496-12), each with a name of printable letters.
pub(super) fn mp4(input: &mut Input<'_>) -> Result<Structure, Flaw> {
    while input.left() > 0 {
        let header = input.take::<8>()?;
        if !header[4..].iter().all(|byte| (0x20..=0x7e).contains(byte) || *byte == 0xa9) {
            return Err(input.garbled("no box begins here"));
        }
        let rest = match u64::from(be32(&header)) {
            0 => input.left(),
            1 => {
                let wide = input.take::<8>()?;
                u64::from_be_bytes(wide)
                    .checked_sub(16)
                    .ok_or_else(|| input.garbled("a box has an impossible size"))?
            }
            size => size.checked_sub(8).ok_or_else(|| input.garbled("a box has an impossible size"))?,
        };
        input.skip(rest)?;
    }
    Ok(Structure::Framed)
}

/// age's header has lines of stanzas and ends with a MAC of 43 letters; the others have no more than a magic.
pub(super) fn sealed(input: &mut Input<'_>) -> Result<Structure, Flaw> {
    const HEADER_MAX: usize = 64 << 10;
    let start = input.take::<8>()?;
    if &start != b"age-encr" {
        return Ok(Structure::Unchecked);
    }
    let mut header = start.to_vec();
    loop {
        let Some(byte) = input.byte()? else {
            return Err(input.cut("the header of the encrypted file has no end"));
        };
        header.push(byte);
        if header.len() > HEADER_MAX {
            return Err(input.garbled("the header of the encrypted file has no end"));
        }
        if byte == b'\n' {
            let line = header[..header.len() - 1].rsplit(|b| *b == b'\n').next().unwrap_or_default();
            if let Some(mac) = line.strip_prefix(b"--- ") {
                let good = mac.len() == 43
                    && mac.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'));
                if !good {
                    return Err(input.garbled("the header of the encrypted file has no MAC"));
                }
                break;
            }
            if !line.iter().all(|b| (0x20..=0x7e).contains(b)) {
                return Err(input.garbled("the header of the encrypted file is no text"));
            }
        }
    }
    // A nonce of 16 bytes, then pieces of 64 KiB with 16 bytes of MAC each; the last one has at least the MAC.
    if input.left() < 32 {
        return Err(input.cut("the encrypted file has no content"));
    }
    Ok(Structure::Framed)
}
