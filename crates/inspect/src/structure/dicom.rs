//! DICOM files (PS3.10): every element to the end of the file, and the pixels.
//!
//! What the pixels must be follows from the elements before them: their length from rows, columns, samples
//! and bits; and their unused high bits are a sign extension or zero, which cipher text is not.

use aws_lc_rs::digest::{Context, SHA256};

use super::{
    Flaw, FlawKind, Input, Learnt, Structure,
    bits::{le16, le32},
    image,
};

const UNDEFINED: u32 = u32::MAX;
/// Deeper sequences are refused, so that a forged file cannot exhaust the stack.
const DEPTH_MAX: u32 = 32;
/// Of the pixels in a piece of 4 KiB, per cent whose unused bits are wrong before it counts. Old writers kept
/// overlays there.
const WRONG_BITS: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    Implicit,
    Explicit,
    /// Pixels lie in fragments.
    Encapsulated,
    /// Compressed as a whole, or big-endian: not read.
    Other,
}

#[derive(Debug, Default)]
struct Picture {
    rows: u64,
    columns: u64,
    samples: u64,
    frames: u64,
    allocated: u16,
    stored: u16,
    signed: bool,
}

struct Element {
    group: u16,
    number: u16,
    vr: [u8; 2],
    length: u32,
}

pub(super) fn check(input: &mut Input<'_>, learnt: &mut Learnt) -> Result<Structure, Flaw> {
    input.skip(132)?;
    let mut syntax = Syntax::Implicit;
    // Group 0002 is always explicit and little-endian.
    while input.peek()?.starts_with(&[2, 0]) || input.at() == 132 {
        let element = read(input, Syntax::Explicit)?;
        if element.group != 2 {
            return Err(input.garbled("the file has no meta information"));
        }
        if (element.number, &element.vr) == (0x10, b"UI") {
            let uid = text(input, element.length)?;
            syntax = match uid.as_str() {
                "1.2.840.10008.1.2" => Syntax::Implicit,
                "1.2.840.10008.1.2.1" => Syntax::Explicit,
                "1.2.840.10008.1.2.2" | "1.2.840.10008.1.2.1.99" => Syntax::Other,
                uid if uid.starts_with("1.2.840.10008.1.2.4.") || uid == "1.2.840.10008.1.2.5" => {
                    Syntax::Encapsulated
                }
                _ => return Err(input.garbled("the transfer syntax is none")),
            };
        } else {
            input.skip(u64::from(element.length))?;
        }
    }
    if syntax == Syntax::Other {
        return Ok(Structure::Framed);
    }
    let mut picture = Picture { samples: 1, frames: 1, ..Picture::default() };
    let mut last = 0;
    while input.left() > 0 {
        let element = read(input, syntax)?;
        let tag = u32::from(element.group) << 16 | u32::from(element.number);
        if tag <= last {
            return Err(input.garbled("the elements are not in the order of their tags"));
        }
        last = tag;
        value(input, &element, tag, syntax, &mut picture, learnt)?;
    }
    Ok(Structure::Whole)
}

fn value(
    input: &mut Input<'_>,
    element: &Element,
    tag: u32,
    syntax: Syntax,
    picture: &mut Picture,
    learnt: &mut Learnt,
) -> Result<(), Flaw> {
    match (tag, element.length) {
        (0x7FE0_0010, UNDEFINED) => fragments(input, learnt),
        (0x7FE0_0010, length) => pixels(input, length, picture, learnt),
        (_, UNDEFINED) => items(input, syntax, 0),
        (0x0008_0018, length) => {
            learnt.instance = Some(text(input, length)?);
            Ok(())
        }
        (0x0028_0008, length) => {
            picture.frames = text(input, length)?.trim().parse().unwrap_or(1);
            Ok(())
        }
        (0x0028_0002 | 0x0028_0010 | 0x0028_0011 | 0x0028_0100 | 0x0028_0101 | 0x0028_0103, 2) => {
            let number = le16(&input.take::<2>()?);
            match tag {
                0x0028_0002 => picture.samples = u64::from(number),
                0x0028_0010 => picture.rows = u64::from(number),
                0x0028_0011 => picture.columns = u64::from(number),
                0x0028_0100 => picture.allocated = number,
                0x0028_0101 => picture.stored = number,
                _ => picture.signed = number == 1,
            }
            Ok(())
        }
        (_, length) => input.skip(u64::from(length)),
    }
}

fn read(input: &mut Input<'_>, syntax: Syntax) -> Result<Element, Flaw> {
    const LONG: [&[u8; 2]; 13] =
        [b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UN", b"UT", b"UC", b"UR", b"SV", b"UV"];
    const SHORT: [&[u8; 2]; 21] = [
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH",
        b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US",
    ];
    let tag = input.take::<4>()?;
    let (group, number) = (le16(&tag), le16(&tag[2..]));
    let (vr, length) = if syntax == Syntax::Implicit || group == 0xFFFE {
        ([0; 2], le32(&input.take::<4>()?))
    } else {
        let vr = input.take::<2>()?;
        if LONG.contains(&&vr) {
            input.skip(2)?;
            (vr, le32(&input.take::<4>()?))
        } else if SHORT.contains(&&vr) {
            (vr, u32::from(le16(&input.take::<2>()?)))
        } else {
            return Err(input.garbled("an element has no kind of value"));
        }
    };
    Ok(Element { group, number, vr, length })
}

/// The items of a sequence of undefined length, and the sequences in them.
fn items(input: &mut Input<'_>, syntax: Syntax, depth: u32) -> Result<(), Flaw> {
    if depth > DEPTH_MAX {
        return Err(input.garbled("sequences lie too deep"));
    }
    loop {
        let item = read(input, syntax)?;
        match (item.group, item.number, item.length) {
            (0xFFFE, 0xE0DD, _) => return Ok(()),
            (0xFFFE, 0xE000, UNDEFINED) => loop {
                let element = read(input, syntax)?;
                match (element.group, element.number, element.length) {
                    (0xFFFE, 0xE00D, _) => break,
                    (_, _, UNDEFINED) => items(input, syntax, depth + 1)?,
                    (_, _, length) => input.skip(u64::from(length))?,
                }
            },
            (0xFFFE, 0xE000, length) => input.skip(u64::from(length))?,
            _ => return Err(input.garbled("a sequence holds something else than items")),
        }
    }
}

/// Native pixels: their length, their unused bits, their digest.
fn pixels(input: &mut Input<'_>, length: u32, picture: &Picture, learnt: &mut Learnt) -> Result<(), Flaw> {
    let pixel = u64::from(picture.allocated / 8);
    let wanted = picture.rows * picture.columns * picture.samples * picture.frames * pixel;
    if pixel > 0 && wanted > 0 && u64::from(length) != wanted + wanted % 2 {
        return Err(input.garbled(format!("the pixels have {length} bytes instead of {wanted}")));
    }
    let begin = input.at();
    let mut digest = Context::new(&SHA256);
    let mut bits = UnusedBits::new(picture);
    input.pass(u64::from(length), |bytes| {
        digest.update(bytes);
        bits.take(bytes);
    })?;
    learnt.pixels = digest.finish().as_ref().try_into().ok();
    match bits.wrong_at {
        Some(at) => Err(Flaw {
            at: begin + at,
            kind: FlawKind::Garbled,
            why: format!("pixels of {} bits use more bits than that", picture.stored),
        }),
        None => Ok(()),
    }
}

/// Looks at the bits above `BitsStored` in pieces of 4 KiB.
struct UnusedBits {
    mask: u16,
    sign: u16,
    signed: bool,
    odd: Option<u8>,
    seen: usize,
    wrong: usize,
    at: u64,
    wrong_at: Option<u64>,
}

impl UnusedBits {
    fn new(picture: &Picture) -> Self {
        let useful = picture.allocated == 16 && (1..16).contains(&picture.stored);
        let mask = if useful { u16::MAX << picture.stored } else { 0 };
        let sign = if useful { 1 << (picture.stored - 1) } else { 0 };
        Self { mask, sign, signed: picture.signed, odd: None, seen: 0, wrong: 0, at: 0, wrong_at: None }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        if self.mask == 0 || self.wrong_at.is_some() {
            return;
        }
        if let (Some(low), Some(high)) = (self.odd.take(), bytes.first()) {
            self.pixel(u16::from_le_bytes([low, *high]));
            bytes = &bytes[1..];
        }
        let pairs = bytes.chunks_exact(2);
        self.odd = pairs.remainder().first().copied();
        for pair in pairs {
            self.pixel(u16::from_le_bytes([pair[0], pair[1]]));
        }
    }

    fn pixel(&mut self, value: u16) {
        let extended = if self.signed && value & self.sign != 0 { self.mask } else { 0 };
        self.wrong += usize::from(value & self.mask != extended);
        self.seen += 1;
        self.at += 2;
        // Steps of 1 KiB: attacks spare what lies between their blocks.
        if self.seen == 512 {
            if self.wrong * 100 > self.seen * WRONG_BITS && self.wrong_at.is_none() {
                self.wrong_at = Some(self.at - 1024);
            }
            (self.seen, self.wrong) = (0, 0);
        }
    }
}

/// Encapsulated pixels: the offset table, then fragments; their digest, and the rules of their coder.
fn fragments(input: &mut Input<'_>, learnt: &mut Learnt) -> Result<(), Flaw> {
    let mut digest = Context::new(&SHA256);
    let mut first = true;
    loop {
        let item = read(input, Syntax::Implicit)?;
        match (item.group, item.number, item.length) {
            (0xFFFE, 0xE0DD, _) => break,
            (0xFFFE, 0xE000, UNDEFINED) => return Err(input.garbled("a fragment has no length")),
            (0xFFFE, 0xE000, length) if first => input.skip(u64::from(length))?,
            (0xFFFE, 0xE000, length) => fragment(input, length, &mut digest)?,
            _ => return Err(input.garbled("something else than a fragment")),
        }
        first = false;
    }
    learnt.pixels = digest.finish().as_ref().try_into().ok();
    Ok(())
}

/// A fragment that is a whole picture is checked by its coder's rules, from memory up to a bound.
fn fragment(input: &mut Input<'_>, length: u32, digest: &mut Context) -> Result<(), Flaw> {
    const MEMORY: u32 = 64 << 20;
    if length > MEMORY {
        return input.pass(u64::from(length), |bytes| digest.update(bytes));
    }
    let begin = input.at();
    let mut bytes =
        vec![0; usize::try_from(length.min(u32::try_from(input.left()).unwrap_or(u32::MAX))).unwrap_or(0)];
    input.fill(&mut bytes)?;
    digest.update(&bytes);
    if bytes.len() < length as usize {
        return Err(input.cut("it ends inside of a fragment"));
    }
    let mut slice = bytes.as_slice();
    let mut inner = Input::new(&mut slice, u64::from(length));
    let judged = if bytes.starts_with(&[0xff, 0xd8])
        && bytes[bytes.len().saturating_sub(3)..].windows(2).any(|w| w == [0xff, 0xd9])
    {
        image::jpeg_frame(&mut inner)
    } else if bytes.starts_with(&[0xff, 0x4f])
        && bytes[bytes.len().saturating_sub(3)..].windows(2).any(|w| w == [0xff, 0xd9])
    {
        image::codestream(&mut inner)
    } else {
        Ok(())
    };
    judged.map_err(|flaw| Flaw { at: begin + flaw.at, ..flaw })
}

/// A value of text without its padding; at most 1 KiB of it.
fn text(input: &mut Input<'_>, length: u32) -> Result<String, Flaw> {
    if length > 1024 {
        return Err(input.garbled("a short value is very long"));
    }
    let mut bytes = vec![0; length as usize];
    input.fill(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches(['\0', ' ']).to_owned())
}
