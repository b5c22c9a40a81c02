//! What kind of file it is, by its first bytes. A name is never asked.

use serde::{Deserialize, Serialize};

use crate::statistics::is_control;

/// Bytes that [`Class::detect`] wants to see.
pub const HEAD: usize = 4096;

/// The kinds of files that an inspection tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// No bytes.
    Empty,
    /// PS3.10: `DICM` at 128.
    Dicom,
    /// Portable network graphics.
    Png,
    /// JPEG and JPEG-LS.
    Jpeg,
    /// JPEG 2000, as codestream or in a JP2 box.
    Jpeg2000,
    /// gzip (RFC 1952).
    Gzip,
    /// ZIP and everything that is one: office documents.
    Zip,
    /// xz.
    Xz,
    /// 7-Zip.
    SevenZip,
    /// Zstandard (RFC 8878).
    Zstd,
    /// bzip2.
    Bzip2,
    /// PDF.
    Pdf,
    /// ISO base media: MP4.
    Mp4,
    /// Compound file: office documents before 2007.
    Compound,
    /// SQLite 3.
    Sqlite,
    /// Pages of a PostgreSQL relation.
    PostgresPages,
    /// `pg_dump -Fc`.
    PostgresCustom,
    /// A dump in SQL with a last line that says it is complete.
    SqlDump,
    /// Text in UTF-8, Shift-JIS, EUC or UTF-16.
    Text,
    /// Text that is nothing but base64.
    Base64,
    /// An encrypted file that says so: age, OpenPGP, OpenSSL.
    Sealed,
    /// Anything else.
    Opaque,
}

impl Class {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Dicom => "dicom",
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Jpeg2000 => "jpeg2000",
            Self::Gzip => "gzip",
            Self::Zip => "zip",
            Self::Xz => "xz",
            Self::SevenZip => "seven_zip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Pdf => "pdf",
            Self::Mp4 => "mp4",
            Self::Compound => "compound",
            Self::Sqlite => "sqlite",
            Self::PostgresPages => "postgres_pages",
            Self::PostgresCustom => "postgres_custom",
            Self::SqlDump => "sql_dump",
            Self::Text => "text",
            Self::Base64 => "base64",
            Self::Sealed => "sealed",
            Self::Opaque => "opaque",
        }
    }

    /// Whether a file of this kind can be told from cipher text: losing such a kind is a sign.
    pub const fn is_firm(self) -> bool {
        !matches!(self, Self::Empty | Self::Opaque | Self::Base64 | Self::Sealed)
    }

    /// Whether it says itself what it is: losing that is a sign, too.
    pub const fn is_known(self) -> bool {
        self.is_firm() || matches!(self, Self::Sealed)
    }

    /// Whether its bytes are text, on which rule D4 works.
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::SqlDump)
    }

    /// The kind of a file with this beginning (up to [`HEAD`] bytes) and length.
    pub fn detect(head: &[u8], length: u64) -> Self {
        const MAGIC: [(&[u8], Class); 19] = [
            (b"\x89PNG\r\n\x1a\n", Class::Png),
            (b"\xff\xd8\xff", Class::Jpeg),
            (b"\x00\x00\x00\x0cjP  \r\n\x87\n", Class::Jpeg2000),
            (b"\xff\x4f\xff\x51", Class::Jpeg2000),
            (b"\x1f\x8b\x08", Class::Gzip),
            (b"PK\x03\x04", Class::Zip),
            (b"PK\x05\x06", Class::Zip),
            (b"\xfd7zXZ\x00", Class::Xz),
            (b"7z\xbc\xaf\x27\x1c", Class::SevenZip),
            (b"\x28\xb5\x2f\xfd", Class::Zstd),
            (b"%PDF-", Class::Pdf),
            (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Class::Compound),
            (b"SQLite format 3\x00", Class::Sqlite),
            (b"PGDMP", Class::PostgresCustom),
            (b"age-encryption.org/v1\n", Class::Sealed),
            (b"-----BEGIN AGE ENCRYPTED FILE-----", Class::Sealed),
            (b"-----BEGIN PGP MESSAGE-----", Class::Sealed),
            (b"Salted__", Class::Sealed),
            (b"BZh", Class::Bzip2),
        ];
        if length == 0 {
            return Self::Empty;
        }
        if head.get(128..132) == Some(b"DICM") {
            return Self::Dicom;
        }
        if let Some((_, class)) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
            // Three letters are too few to be sure.
            let certain = *class != Self::Bzip2 || head.get(4..10) == Some(b"1AY&SY");
            if certain {
                return *class;
            }
        }
        if head.get(4..8) == Some(b"ftyp") {
            return Self::Mp4;
        }
        if length.is_multiple_of(8192) && is_postgres_page(head) {
            return Self::PostgresPages;
        }
        if !is_text(head, length) {
            return Self::Opaque;
        }
        if is_sql_dump(head) {
            Self::SqlDump
        } else if is_base64(head) {
            Self::Base64
        } else {
            Self::Text
        }
    }
}

/// The header of a page of 8 KiB (`PageHeaderData`, storage/bufpage.h): bounds in order, layout version 4.
pub(crate) fn is_postgres_page(page: &[u8]) -> bool {
    let word = |at: usize| page.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
    let (flags, lower, upper, special, version) = (word(10), word(12), word(14), word(16), word(18));
    version == 0x2004 && flags <= 7 && (24..=upper).contains(&lower) && upper <= special && special <= 8192
}

fn is_sql_dump(head: &[u8]) -> bool {
    const WORDS: [&[u8]; 4] = [
        b"PostgreSQL database dump",
        b"-- MySQL dump ",
        b"-- MariaDB dump ",
        b"PostgreSQL database cluster dump",
    ];
    let start = &head[..head.len().min(512)];
    WORDS.iter().any(|word| start.windows(word.len()).any(|window| window == *word))
}

/// Whether the beginning reads as text.
fn is_text(head: &[u8], length: u64) -> bool {
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        return is_utf16(head);
    }
    // A few bytes read as text by chance; only plain letters do not.
    if length < 64 {
        return head.iter().all(|byte| matches!(byte, 0x20..=0x7e | b'\t' | b'\r' | b'\n'));
    }
    let controls = head.iter().filter(|byte| is_control(**byte)).count();
    if controls > 0 {
        return false;
    }
    // A bitmap of one or two values, such as a transaction status file of PostgreSQL, is no text.
    let mut seen = [false; 256];
    for byte in head {
        seen[usize::from(*byte)] = true;
    }
    if seen.iter().filter(|seen| **seen).count() < 8 {
        return false;
    }
    match std::str::from_utf8(head) {
        Ok(_) => true,
        // The last letter may be cut, where the head ends or where a vendor's buffer does.
        Err(error) if error.error_len().is_none() && head.len() - error.valid_up_to() < 4 => true,
        Err(_) => is_double_byte(head),
    }
}

/// UTF-16: each half is a letter, and most have a small set of high bytes.
fn is_utf16(head: &[u8]) -> bool {
    let little = head[0] == 0xff;
    let units = head[2..].chunks_exact(2);
    let count = units.len();
    let odd = units
        .filter(|pair| {
            let unit = if little {
                u16::from_le_bytes([pair[0], pair[1]])
            } else {
                u16::from_be_bytes([pair[0], pair[1]])
            };
            (unit < 0x20 && !matches!(unit, 9 | 10 | 13))
                || (0xd800..=0xf8ff).contains(&unit)
                || unit >= 0xfff0
        })
        .count();
    odd * 50 <= count
}

/// Shift-JIS or EUC-JP: lead and trail bytes pair up, and some of it is plain ASCII or line ends.
fn is_double_byte(head: &[u8]) -> bool {
    let (mut at, mut wrong, mut pairs) = (0, 0_usize, 0_usize);
    while at < head.len() {
        let byte = head[at];
        let next = head.get(at + 1).copied();
        match (byte, next) {
            (0x00..=0x7f | 0xa1..=0xdf, _) if byte < 0x80 || !matches!(next, Some(0xa1..=0xfe)) => at += 1,
            (0x81..=0x9f | 0xe0..=0xfc, Some(0x40..=0x7e | 0x80..=0xfc))
            | (0xa1..=0xfe | 0x8e, Some(0xa1..=0xfe)) => {
                pairs += 1;
                at += 2;
            }
            _ => {
                wrong += 1;
                at += 1;
            }
        }
    }
    pairs > 0 && wrong * 100 <= head.len()
}

/// Nothing but the alphabet and line ends, and enough of the alphabet to be data.
fn is_base64(head: &[u8]) -> bool {
    if head.len() < 128 {
        return false;
    }
    let mut seen = [false; 256];
    for byte in head {
        if !byte.is_ascii_alphanumeric() && !matches!(byte, b'+' | b'/' | b'=' | b'\r' | b'\n') {
            return false;
        }
        seen[usize::from(*byte)] = true;
    }
    let line = head.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(head.len());
    seen.iter().filter(|seen| **seen).count() >= 40 && line >= 60
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::{Random, SeededRandom};

    use super::*;

    #[test]
    fn noise_is_opaque_whatever_its_length() {
        for length in [70_u16, 200, 1000, 4096] {
            let opaque = (0..200)
                .filter(|seed| {
                    let mut bytes = vec![0; usize::from(length)];
                    SeededRandom::new(*seed).fill(&mut bytes);
                    Class::detect(&bytes, u64::from(length)) == Class::Opaque
                })
                .count();
            assert!(opaque >= 199, "{length}: {opaque} of 200");
        }
    }

    #[test]
    fn text_is_text_in_the_encodings_of_japanese_systems() {
        let utf8 = "氏名,血圧\r\n試験 太郎,120\r\n".repeat(300);
        assert_eq!(Class::detect(&utf8.as_bytes()[..4096], utf8.len() as u64), Class::Text);
        // 試験 in Shift-JIS, half-width kana, and EUC-JP.
        let sjis = [b"\x8e\x8e\x8c\xb1,\xc3\xbd\xc4,120\r\n".as_slice(); 60].concat();
        assert_eq!(Class::detect(&sjis, sjis.len() as u64), Class::Text);
        let euc = [b"\xbb\xee\xb8\xb3,120\n".as_slice(); 60].concat();
        assert_eq!(Class::detect(&euc, euc.len() as u64), Class::Text);
        let utf16: Vec<u8> = [0xfeff_u16]
            .into_iter()
            .chain("試験 太郎 120\r\n".repeat(50).encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(Class::detect(&utf16, utf16.len() as u64), Class::Text);
        let dump = "--\n-- PostgreSQL database dump\n--\n";
        assert_eq!(Class::detect(dump.as_bytes(), dump.len() as u64), Class::SqlDump);
    }

    #[test]
    fn what_only_looks_like_text_is_not_and_a_cut_letter_does_not_matter() {
        assert_eq!(Class::detect(&[b'U'; 4096], 8192), Class::Opaque);
        assert_eq!(Class::detect(b"\x41\x9c\x30\x22", 4), Class::Opaque);
        assert_eq!(Class::detect(b"15\n", 3), Class::Text);
        let text = "視力,0.8,眼圧,14,mmHg,異常なし\n".repeat(40);
        for cut in 0..9 {
            let bytes = &text.as_bytes()[..text.len() - cut];
            assert_eq!(Class::detect(bytes, bytes.len() as u64), Class::Text, "{cut}");
        }
    }

    #[test]
    fn base64_is_told_from_text() {
        let line = "QWxsZSBNZW5zY2hlbiB3ZXJkZW4gQnJ1ZGVyK3dvIGRlaW4gc2FuZnRlciBGbHVnZWwgd2VpbHQ/0123456789xyzXYZpqr\n";
        let bytes = line.repeat(20);
        assert_eq!(Class::detect(bytes.as_bytes(), bytes.len() as u64), Class::Base64);
        let words =
            "the patient was seen at nine and left at ten, all is well, nothing to report today\n".repeat(20);
        assert_eq!(Class::detect(words.as_bytes(), words.len() as u64), Class::Text);
    }
}
