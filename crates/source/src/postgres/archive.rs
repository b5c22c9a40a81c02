//! Reads the server's tar archives (POSIX ustar as PostgreSQL writes it) one item at a time.
//!
//! Strict on purpose: a header that does not add up, a name that could leave its folder or an unknown kind
//! of item is an error, and content that ends early is never a shorter file.

use std::io::{self, Read};

use kuramori_model::tree::{FileTime, Meta};

const BLOCK: usize = 512;

/// What an archive holds at one place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File(u64),
    Folder,
    /// A link and its target.
    Link(Vec<u8>),
}

/// An item's header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Relative to the archive's root, without a final `/`.
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) meta: Meta,
}

/// The next header; `None` at the archive's end. Servers before version 15 leave out the final blocks of
/// zeros, so the stream's own end counts, too.
pub(super) fn next(from: &mut dyn Read) -> io::Result<Option<Item>> {
    let mut block = [0; BLOCK];
    if !fill_or_end(from, &mut block)? {
        return Ok(None);
    }
    if block.iter().all(|byte| *byte == 0) {
        // Only padding may follow.
        let mut rest = [0; BLOCK];
        while fill_or_end(from, &mut rest)? {
            if rest.iter().any(|byte| *byte != 0) {
                return Err(bad("data after the archive's end"));
            }
        }
        return Ok(None);
    }
    let stated = number(&block[148..156])?;
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(i, b)| u64::from(if (148..156).contains(&i) { b' ' } else { *b }))
        .sum();
    if stated != sum {
        return Err(bad("a header's checksum is wrong"));
    }
    let mut name = Vec::new();
    if &block[257..262] == b"ustar" && block[345] != 0 {
        name.extend_from_slice(text(&block[345..500]));
        name.push(b'/');
    }
    name.extend_from_slice(text(&block[0..100]));
    while name.ends_with(b"/") {
        name.pop();
    }
    // The server writes `./pg_wal/archive_status` beside `pg_wal`.
    if name.starts_with(b"./") {
        name.drain(..2);
    }
    let size = number(&block[124..136])?;
    let kind = match block[156] {
        b'0' | 0 => Kind::File(size),
        b'5' => Kind::Folder,
        b'2' => Kind::Link(text(&block[157..257]).to_vec()),
        other => return Err(bad(&format!("an item of kind {other}"))),
    };
    if size != 0 && !matches!(kind, Kind::File(_)) {
        return Err(bad("a folder or link with content"));
    }
    let seconds = i64::try_from(number(&block[136..148])?).map_err(|_| bad("a time out of range"))?;
    let mtime = FileTime { seconds, nanos: 0 };
    let small = |field: &[u8]| Ok::<u32, io::Error>(u32::try_from(number(field)?).unwrap_or(u32::MAX));
    Ok(Some(Item {
        name,
        kind,
        meta: Meta {
            mode: small(&block[100..108])? & 0o7777,
            mtime,
            atime: mtime,
            ctime: mtime,
            uid: small(&block[108..116])?,
            gid: small(&block[116..124])?,
            user: String::from_utf8_lossy(text(&block[265..297])).into_owned(),
            group: String::from_utf8_lossy(text(&block[297..329])).into_owned(),
            links: 1,
            ..Meta::default()
        },
    }))
}

/// A file's content: exactly its size, then the padding is skipped.
pub(super) struct Content<'a> {
    from: &'a mut dyn Read,
    left: u64,
    padding: usize,
    cut: bool,
}

impl<'a> Content<'a> {
    pub(super) fn new(from: &'a mut dyn Read, size: u64) -> Self {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        Self { from, left: size, padding: (BLOCK - over) % BLOCK, cut: false }
    }

    /// Skips the padding; false if the content was not read to its end.
    pub(super) fn finish(self) -> io::Result<bool> {
        if self.cut {
            return Err(bad("it ends inside a file"));
        }
        if self.left > 0 {
            return Ok(false);
        }
        let mut padding = [0; BLOCK];
        self.from.read_exact(&mut padding[..self.padding])?;
        Ok(true)
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let taken = self.from.read(&mut buffer[..most])?;
        if taken == 0 {
            self.cut = true;
            return Err(bad("it ends inside a file"));
        }
        self.left -= taken as u64;
        Ok(taken)
    }
}

fn fill_or_end(from: &mut dyn Read, block: &mut [u8; BLOCK]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < BLOCK {
        match from.read(&mut block[filled..])? {
            0 if filled == 0 => return Ok(false),
            0 => return Err(bad("it ends inside a header")),
            taken => filled += taken,
        }
    }
    Ok(true)
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal text, or GNU's big-endian form with the top bit set, which PostgreSQL uses beyond 8 GiB.
fn number(field: &[u8]) -> io::Result<u64> {
    let wrong = || bad("a number that cannot be read");
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        return field[1..].iter().try_fold(0_u64, |all, byte| {
            if all >> 56 == 0 { Ok((all << 8) | u64::from(*byte)) } else { Err(wrong()) }
        });
    }
    let digits = std::str::from_utf8(field).map_err(|_| wrong())?;
    let digits = digits.trim_matches([' ', '\0']);
    if digits.is_empty() { Ok(0) } else { u64::from_str_radix(digits, 8).map_err(|_| wrong()) }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive does not hold together: {why}"))
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::{Random, SeededRandom};

    use super::*;

    fn header(name: &str, kind: u8, size: u64) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000600");
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[136..147].copy_from_slice(b"14000000000");
        block[156] = kind;
        block[257..263].copy_from_slice(b"ustar\0");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }

    #[test]
    fn every_cut_inside_an_item_is_an_error() {
        let mut whole = header("base", b'5', 0);
        whole.extend(header("base/1", b'0', 700));
        whole.extend([b'x'; 700]);
        whole.extend([0; 324]);
        let read = |bytes: &[u8]| -> io::Result<usize> {
            let mut from = bytes;
            let mut items = 0;
            while let Some(item) = next(&mut from)? {
                items += 1;
                if let Kind::File(size) = item.kind {
                    let mut content = Content::new(&mut from, size);
                    assert_eq!(io::copy(&mut content, &mut io::sink())?, size);
                    assert!(content.finish()?);
                }
            }
            Ok(items)
        };
        assert_eq!(read(&whole).unwrap(), 2);
        assert_eq!(read(&[whole.clone(), vec![0; 1024]].concat()).unwrap(), 2);
        assert_eq!(read(&whole[..BLOCK]).unwrap(), 1, "between two items the archive's end is the stream's");
        for cut in (1..whole.len()).filter(|cut| *cut != BLOCK) {
            assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn flipped_headers_are_noticed() {
        let random = SeededRandom::new(11);
        for _ in 0..2000 {
            let mut block = header("base/16384/2619", b'0', 8192);
            let at = usize::try_from(random.below(BLOCK as u64)).unwrap();
            let mut byte = [0];
            random.fill(&mut byte);
            if block[at] != byte[0] {
                block[at] = byte[0];
                let outcome = next(&mut block.as_slice());
                // The checksum field may be written in several ways that mean the same number.
                assert!(outcome.is_err() || (148..156).contains(&at), "byte {at}: {outcome:?}");
            }
        }
    }

    #[test]
    fn files_beyond_8_gib_have_their_size() {
        let mut field = [0; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&(20_u64 << 30).to_be_bytes());
        assert_eq!(number(&field).unwrap(), 20 << 30);
        assert!(number(&[0xFF; 12]).is_err());
    }
}
