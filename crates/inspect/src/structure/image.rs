//! PNG, JPEG and JPEG 2000.
//!
//! In the coded data of JPEG a byte 0xff is followed by 0 or a restart marker, in JPEG-LS by less than 0x80,
//! in JPEG 2000 by less than 0x90: coders stuff bits so that no marker appears by chance. Cipher text breaks
//! that rule about every 300 to 600 bytes, so it is found without decoding a picture.

use super::{
    Flaw, Input, Structure,
    bits::{be16, be32},
};

type Judged = Result<Structure, Flaw>;

/// Chunks with their checksums to IEND (PNG specification, section 5).
pub(super) fn png(input: &mut Input<'_>) -> Judged {
    input.skip(8)?;
    loop {
        let header = input.take::<8>()?;
        let length = be32(&header);
        if length > 0x7fff_ffff || !header[4..].iter().all(u8::is_ascii_alphabetic) {
            return Err(input.garbled("no chunk begins here"));
        }
        let mut sum = flate2::Crc::new();
        sum.update(&header[4..]);
        input.pass(u64::from(length), |bytes| sum.update(bytes))?;
        if be32(&input.take::<4>()?) != sum.sum() {
            return Err(input.garbled("a chunk does not have its checksum"));
        }
        if &header[4..] == b"IEND" {
            input.end()?;
            return Ok(Structure::Whole);
        }
    }
}

/// Segments and scans to the end marker (ITU-T T.81 annex B, T.87 annex C).
pub(super) fn jpeg(input: &mut Input<'_>) -> Judged {
    jpeg_frame(input)?;
    input.end_or_zeros()?;
    Ok(Structure::Framed)
}

/// One picture, up to its end marker.
pub(super) fn jpeg_frame(input: &mut Input<'_>) -> Result<(), Flaw> {
    if input.take::<2>()? != [0xff, 0xd8] {
        return Err(input.garbled("no picture begins here"));
    }
    let mut lossless_stuffing = false;
    let mut pending = None;
    loop {
        let marker = match pending.take() {
            Some(marker) => marker,
            None => next_marker(input)?,
        };
        match marker {
            0xd9 => return Ok(()),
            0x01 | 0xd0..=0xd7 => {}
            0xc0..=0xcf | 0xda..=0xff => {
                let length = u64::from(be16(&input.take::<2>()?));
                let Some(rest) = length.checked_sub(2) else {
                    return Err(input.garbled("a segment has no length"));
                };
                input.skip(rest)?;
                lossless_stuffing |= marker == 0xf7;
                if marker == 0xda {
                    pending = Some(scan(input, lossless_stuffing)?);
                }
            }
            other => return Err(input.garbled(format!("there is no marker {other:#04x}"))),
        }
    }
}

fn next_marker(input: &mut Input<'_>) -> Result<u8, Flaw> {
    let mut filled = false;
    loop {
        match input.byte()? {
            Some(0xff) => filled = true,
            Some(marker) if filled && marker != 0 => return Ok(marker),
            Some(_) => return Err(input.garbled("no marker where one must be")),
            None => return Err(input.cut("it ends without an end marker")),
        }
    }
}

/// Passes coded data and gives the marker that ends it.
fn scan(input: &mut Input<'_>, lossless: bool) -> Result<u8, Flaw> {
    loop {
        match input.byte()? {
            None => return Err(input.cut("it ends inside of a scan")),
            Some(0xff) => {}
            Some(_) => continue,
        }
        loop {
            match input.byte()? {
                None => return Err(input.cut("it ends inside of a scan")),
                Some(0xff) => {}
                Some(byte) if lossless && byte < 0x80 => break,
                Some(0x00 | 0xd0..=0xd7) => break,
                // What may follow a scan: tables, another scan, number of lines, comments, the end.
                Some(marker @ (0xc4 | 0xcc | 0xd9..=0xdd | 0xe0..=0xef | 0xfe | 0xf8)) => return Ok(marker),
                Some(byte) => return Err(input.garbled(format!("0xff{byte:02x} cannot be in coded data"))),
            }
        }
    }
}

/// A codestream (ITU-T T.800 annex A), alone or as a box of a JP2 file (annex I).
pub(super) fn jpeg2000(input: &mut Input<'_>) -> Judged {
    if input.peek()?.starts_with(&[0xff, 0x4f]) {
        codestream(input)?;
        input.end_or_zeros()?;
        return Ok(Structure::Framed);
    }
    while input.left() > 0 {
        let header = input.take::<8>()?;
        if !header[4..].iter().all(|byte| (0x20..=0x7e).contains(byte)) {
            return Err(input.garbled("no box begins here"));
        }
        let before = input.at();
        let rest = match u64::from(be32(&header)) {
            0 => input.left(),
            1 => u64::from_be_bytes(input.take::<8>()?).saturating_sub(16),
            size => size.checked_sub(8).ok_or_else(|| input.garbled("a box has an impossible size"))?,
        };
        if &header[4..] == b"jp2c" {
            codestream(input)?;
            let begin = if be32(&header) == 1 { before + 8 } else { before };
            if input.at() != begin + rest {
                return Err(input.garbled("the codestream does not fill its box"));
            }
        } else {
            input.skip(rest)?;
        }
    }
    Ok(Structure::Framed)
}

/// Main header, tile-parts with their lengths, end marker.
pub(super) fn codestream(input: &mut Input<'_>) -> Result<(), Flaw> {
    if input.take::<2>()? != [0xff, 0x4f] {
        return Err(input.garbled("no codestream begins here"));
    }
    loop {
        let marker = be16(&input.take::<2>()?);
        match marker {
            0xffd9 => return Ok(()),
            0xff90 => tile_part(input)?,
            0xff51..=0xff8f => {
                let length = u64::from(be16(&input.take::<2>()?));
                let Some(rest) = length.checked_sub(2) else {
                    return Err(input.garbled("a segment has no length"));
                };
                input.skip(rest)?;
            }
            other => return Err(input.garbled(format!("there is no marker {other:#06x} here"))),
        }
    }
}

fn tile_part(input: &mut Input<'_>) -> Result<(), Flaw> {
    let begin = input.at() - 2;
    let header = input.take::<10>()?;
    if be16(&header) != 10 {
        return Err(input.garbled("a tile-part has no valid header"));
    }
    let length = u64::from(be32(&header[4..]));
    let end = if length == 0 { input.length().saturating_sub(2) } else { begin + length };
    loop {
        match be16(&input.take::<2>()?) {
            0xff93 => break,
            0xff51..=0xff8f => {
                let length = u64::from(be16(&input.take::<2>()?));
                let Some(rest) = length.checked_sub(2) else {
                    return Err(input.garbled("a segment has no length"));
                };
                input.skip(rest)?;
            }
            other => return Err(input.garbled(format!("there is no marker {other:#06x} here"))),
        }
    }
    let Some(mut body) = end.checked_sub(input.at()) else {
        return Err(input.garbled("a tile-part is too short"));
    };
    let mut after_ff = false;
    while body > 0 {
        let bytes = input.peek()?;
        if bytes.is_empty() {
            return Err(input.cut("it ends inside of a tile-part"));
        }
        let size = usize::try_from(body).unwrap_or(usize::MAX).min(bytes.len());
        let mut wrong = None;
        for (place, byte) in bytes[..size].iter().enumerate() {
            // SOP and EPH may stand between packets.
            if after_ff && *byte >= 0x90 && !matches!(*byte, 0x91 | 0x92) {
                wrong = Some((place, *byte));
                break;
            }
            after_ff = *byte == 0xff;
        }
        if let Some((place, byte)) = wrong {
            input.skip(place as u64)?;
            return Err(input.garbled(format!("0xff{byte:02x} cannot be in coded data")));
        }
        input.skip(size as u64)?;
        body -= size as u64;
    }
    Ok(())
}
