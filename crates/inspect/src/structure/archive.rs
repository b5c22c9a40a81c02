//! gzip, zip, xz, 7-Zip, Zstandard.

use std::io::Read;

use flate2::{Crc, bufread};

use super::{
    Flaw, Input, Learnt, Structure,
    bits::{crc32, le16, le32, le64},
    document::{Ends, tail_flaw},
};
use crate::class::{Class, HEAD};

type Judged = Result<Structure, Flaw>;

/// Beginning and end of what a decoder gives, and nothing else of it.
#[derive(Default)]
struct Inside {
    head: Vec<u8>,
    tail: Vec<u8>,
    length: u64,
}

impl Inside {
    fn take(&mut self, bytes: &[u8]) {
        let missing = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..missing]);
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * HEAD {
            self.tail.drain(..self.tail.len() - HEAD);
        }
        self.length += bytes.len() as u64;
    }

    /// A compressed dump must be complete too.
    fn judge(&self, input: &Input<'_>, learnt: &mut Learnt) -> Result<(), Flaw> {
        let class = Class::detect(&self.head, self.length);
        learnt.inside = Some(class);
        match tail_flaw(class, &Ends { head: &self.head, tail: &self.tail, length: self.length }) {
            Some(flaw) => Err(Flaw { at: input.at(), why: format!("inside: {}", flaw.why), ..flaw }),
            None => Ok(()),
        }
    }
}

/// Reads a decoder to its end.
fn decode(decoder: &mut dyn Read, mut see: impl FnMut(&[u8])) -> std::io::Result<u64> {
    let mut buffer = [0; 16 << 10];
    let mut size = 0;
    loop {
        match decoder.read(&mut buffer)? {
            0 => return Ok(size),
            count => {
                see(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}

pub(super) fn gzip(input: &mut Input<'_>, learnt: &mut Learnt) -> Judged {
    let mut inside = Inside::default();
    loop {
        let mut decoder = bufread::GzDecoder::new(&mut *input);
        let done = decode(&mut decoder, |bytes| inside.take(bytes));
        done.map_err(|error| input.flaw(&error))?;
        if !input.peek()?.starts_with(&[0x1f]) {
            break;
        }
    }
    input.end_or_zeros()?;
    inside.judge(input, learnt)?;
    Ok(Structure::Whole)
}

pub(super) fn zstd(input: &mut Input<'_>, learnt: &mut Learnt) -> Judged {
    let mut inside = Inside::default();
    let decoded = zstd::stream::read::Decoder::with_buffer(&mut *input)
        .and_then(|mut decoder| decode(&mut decoder, |bytes| inside.take(bytes)));
    decoded.map_err(|error| input.flaw(&error))?;
    input.end()?;
    inside.judge(input, learnt)?;
    Ok(Structure::Whole)
}

/// Local headers one after the other, the central directory, its end (APPNOTE.TXT 6.3).
pub(super) fn zip(input: &mut Input<'_>) -> Judged {
    let mut checked = true;
    loop {
        let signature = input.take::<4>()?;
        match &signature {
            b"PK\x03\x04" => {
                if !local(input, &mut checked)? {
                    // Without sizes nothing that follows can be found; the frame's end is not seen.
                    return Ok(Structure::Framed);
                }
            }
            b"PK\x01\x02" => {
                let header = input.take::<42>()?;
                let rest = u64::from(le16(&header[24..]))
                    + u64::from(le16(&header[26..]))
                    + u64::from(le16(&header[28..]));
                input.skip(rest)?;
            }
            b"PK\x06\x06" => {
                let size = le64(&input.take::<8>()?);
                input.skip(size)?;
            }
            b"PK\x06\x07" => input.skip(16)?,
            b"PK\x05\x05" => {
                let size = le16(&input.take::<2>()?);
                input.skip(u64::from(size))?;
            }
            b"PK\x05\x06" => {
                let end = input.take::<18>()?;
                input.skip(u64::from(le16(&end[16..])))?;
                input.end_or_zeros()?;
                return Ok(if checked { Structure::Whole } else { Structure::Framed });
            }
            _ => return Err(input.garbled("no part of a zip file begins here")),
        }
    }
}

/// One entry. False if its end cannot be found.
fn local(input: &mut Input<'_>, checked: &mut bool) -> Result<bool, Flaw> {
    let header = input.take::<26>()?;
    let (flags, method) = (le16(&header[2..]), le16(&header[4..]));
    let (crc, mut packed, mut plain) =
        (le32(&header[10..]), u64::from(le32(&header[14..])), u64::from(le32(&header[18..])));
    input.skip(u64::from(le16(&header[22..])))?;
    let mut extra = vec![0; usize::from(le16(&header[24..]))];
    input.fill(&mut extra)?;
    let wide = packed == u64::from(u32::MAX) || plain == u64::from(u32::MAX);
    if wide {
        (plain, packed) = zip64(&extra).ok_or_else(|| input.garbled("an entry has no valid sizes"))?;
    }
    let (encrypted, follows) = (flags & 1 != 0, flags & 8 != 0);
    if encrypted || !matches!(method, 0 | 8) {
        *checked = false;
        if follows && packed == 0 {
            return Ok(false);
        }
        input.skip(packed)?;
    } else if method == 8 {
        let mut sum = Crc::new();
        let before = input.at();
        let mut decoder = bufread::DeflateDecoder::new(&mut *input);
        let done = decode(&mut decoder, |bytes| sum.update(bytes));
        let size = done.map_err(|error| input.flaw(&error))?;
        if input.left() == 0 {
            return Err(input.cut("it ends inside of an entry"));
        }
        if !follows {
            if sum.sum() != crc || size != plain || input.at() - before != packed {
                return Err(input.garbled("an entry does not have its checksum"));
            }
            return Ok(true);
        }
        let mut descriptor = input.take::<12>()?;
        if descriptor.starts_with(b"PK\x07\x08") {
            let more = input.take::<4>()?;
            descriptor.rotate_left(4);
            descriptor[8..].copy_from_slice(&more);
        }
        if le32(&descriptor) != sum.sum() {
            return Err(input.garbled("an entry does not have its checksum"));
        }
        if wide || size > u64::from(u32::MAX) {
            input.skip(8)?;
        }
        return Ok(true);
    } else {
        if follows && packed == 0 && crc == 0 {
            return Ok(false);
        }
        let mut sum = Crc::new();
        input.pass(packed, |bytes| sum.update(bytes))?;
        if !follows && sum.sum() != crc {
            return Err(input.garbled("an entry does not have its checksum"));
        }
    }
    if follows {
        let start = input.take::<4>()?;
        input.skip(if &start == b"PK\x07\x08" { 12 } else { 8 })?;
    }
    Ok(true)
}

/// The sizes in the extra field 0x0001: plain, packed.
fn zip64(mut extra: &[u8]) -> Option<(u64, u64)> {
    while extra.len() >= 4 {
        let (tag, size) = (le16(extra), usize::from(le16(&extra[2..])));
        let field = extra.get(4..4 + size)?;
        if tag == 1 {
            return (size >= 16).then(|| (le64(field), le64(&field[8..])));
        }
        extra = &extra[4 + size..];
    }
    None
}

/// Header, first block's header, footer (xz file format 1.1). The content is not decoded.
pub(super) fn xz(input: &mut Input<'_>) -> Judged {
    let header = input.take::<12>()?;
    if crc32(&header[6..8]) != le32(&header[8..]) {
        return Err(input.garbled("the stream's header does not have its checksum"));
    }
    let size = input.take::<1>()?[0];
    if size != 0 {
        let mut block = vec![0; (usize::from(size) + 1) * 4];
        block[0] = size;
        input.fill(&mut block[1..])?;
        let split = block.len() - 4;
        if crc32(&block[..split]) != le32(&block[split..]) {
            return Err(input.garbled("the block's header does not have its checksum"));
        }
    }
    let Some(body) = input.left().checked_sub(12) else { return Err(input.cut("it has no footer")) };
    input.skip(body)?;
    let footer = input.take::<12>()?;
    if &footer[10..] != b"YZ" || crc32(&footer[4..10]) != le32(&footer) || footer[8..10] != header[6..8] {
        // A footer of zeros, or none: cut. Anything else: something was written over it.
        return Err(if footer == [0; 12] {
            input.cut("it has no footer")
        } else {
            input.garbled("the stream's footer does not have its checksum")
        });
    }
    Ok(Structure::Framed)
}

/// Start header and end header (7zFormat.txt). The content is not decoded.
pub(super) fn seven_zip(input: &mut Input<'_>) -> Judged {
    const HEADER_MAX: u64 = 256 << 20;
    let start = input.take::<32>()?;
    if crc32(&start[12..]) != le32(&start[8..]) {
        return Err(input.garbled("the start header does not have its checksum"));
    }
    let (offset, size, crc) = (le64(&start[12..]), le64(&start[20..]), le32(&start[28..]));
    if size > HEADER_MAX {
        return Err(input.garbled("the end header has an impossible size"));
    }
    input.skip(offset)?;
    let mut sum = Crc::new();
    input.pass(size, |bytes| sum.update(bytes))?;
    if sum.sum() != crc {
        return Err(input.garbled("the end header does not have its checksum"));
    }
    input.end_or_zeros()?;
    Ok(Structure::Framed)
}
