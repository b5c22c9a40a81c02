//! Clean files of every kind that inspection knows, and of some that it does not.

use std::io::Write;

use flate2::{Compression, Crc, write::DeflateEncoder, write::GzEncoder};
use kuramori_model::clock::{Random, SeededRandom};

use super::{decide, dicom::Archive, pool::Pool};

/// A kind of file as a department has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Native pixels.
    Dicom,
    /// JPEG inside.
    DicomJpeg,
    /// JPEG-LS inside.
    DicomJpegLs,
    /// A picture.
    Jpeg,
    /// A picture without loss in wavelets.
    Jpeg2000,
    /// A picture without loss.
    Png,
    /// A zip with XML inside.
    Office,
    /// A compressed dump.
    Gzip,
    /// Compressed lines.
    Xz,
    /// Compressed lines with a checksum.
    Zstd,
    /// Measurements.
    Csv,
    /// A report.
    Xml,
    /// A dump as text.
    Sql,
    /// A database in one file.
    Sqlite,
    /// A database's pages.
    Pages,
    /// An encrypted file that says so.
    Sealed,
    /// A vendor's own format, compressed, that nobody else knows.
    Vendor,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 17] = [
        Self::Dicom,
        Self::DicomJpeg,
        Self::DicomJpegLs,
        Self::Jpeg,
        Self::Jpeg2000,
        Self::Png,
        Self::Office,
        Self::Gzip,
        Self::Xz,
        Self::Zstd,
        Self::Csv,
        Self::Xml,
        Self::Sql,
        Self::Sqlite,
        Self::Pages,
        Self::Sealed,
        Self::Vendor,
    ];

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dicom => "dicom",
            Self::DicomJpeg => "dicom_jpeg",
            Self::DicomJpegLs => "dicom_jpeg_ls",
            Self::Jpeg => "jpeg",
            Self::Jpeg2000 => "jpeg2000",
            Self::Png => "png",
            Self::Office => "office",
            Self::Gzip => "gzip_dump",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Csv => "csv",
            Self::Xml => "xml",
            Self::Sql => "sql_dump",
            Self::Sqlite => "sqlite",
            Self::Pages => "postgres_pages",
            Self::Sealed => "encrypted",
            Self::Vendor => "vendor",
        }
    }

    /// What such files are called.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Dicom | Self::DicomJpeg | Self::DicomJpegLs => "dcm",
            Self::Jpeg => "jpg",
            Self::Jpeg2000 => "j2k",
            Self::Png => "png",
            Self::Office => "docx",
            Self::Gzip => "sql.gz",
            Self::Xz => "xz",
            Self::Zstd => "zst",
            Self::Csv => "csv",
            Self::Xml => "xml",
            Self::Sql => "sql",
            Self::Sqlite => "db",
            Self::Pages => "rel",
            Self::Sealed => "age",
            Self::Vendor => "img",
        }
    }

    /// One file. The same numbers give the same bytes.
    pub fn file(self, pool: &Pool, seed: u64, number: u64) -> Vec<u8> {
        let random = SeededRandom::new(decide(seed, 90, number));
        let dealt = |from: &[Vec<u8>]| {
            let index = usize::try_from(decide(seed, 91, number)).unwrap_or(usize::MAX) % from.len().max(1);
            from.get(index).cloned().unwrap_or_default()
        };
        match self {
            Self::Dicom => Archive {
                seed,
                studies: number + 1,
                slices: 1,
                side: 64 + 32 * u16::from(number.is_multiple_of(3)),
            }
            .file(number),
            Self::DicomJpeg => dealt(&pool.dicom_jpeg),
            Self::DicomJpegLs => dealt(&pool.dicom_jpeg_ls),
            Self::Jpeg => dealt(&pool.jpeg),
            Self::Jpeg2000 => dealt(&pool.jpeg2000),
            Self::Png => png(&random),
            Self::Office => office(&random),
            Self::Gzip => gzip(sql(&random).as_bytes()),
            Self::Xz => dealt(&pool.xz),
            Self::Zstd => zstd(csv(&random, 4000).as_bytes()),
            Self::Csv => csv(&random, 200).into_bytes(),
            Self::Xml => xml(&random).into_bytes(),
            Self::Sql => sql(&random).into_bytes(),
            Self::Sqlite => dealt(&pool.sqlite),
            Self::Pages => dealt(&pool.pages),
            Self::Sealed => dealt(&pool.sealed),
            Self::Vendor => vendor(&random),
        }
    }
}

/// Measurements as instruments export them.
pub fn csv(random: &SeededRandom, most: u64) -> String {
    use std::fmt::Write;
    let mut text = "日付,患者,収縮期,拡張期,脈拍,所見\r\n".to_owned();
    for _ in 0..40 + random.below(most) {
        let of = |limit| random.below(limit);
        let (day, id) = (1 + of(28), of(1_000_000));
        let _ = write!(
            text,
            "2026-04-{day:02},TEST{id:06},{},{},{},異常なし\r\n",
            95 + of(70),
            55 + of(45),
            50 + of(60)
        );
    }
    text
}

fn xml(random: &SeededRandom) -> String {
    use std::fmt::Write;
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<所見>\n".to_owned();
    for line in 0..50 + random.below(250) {
        let _ = writeln!(
            text,
            "  <値 行=\"{line}\" 符号=\"{:04}\">{}</値>",
            random.below(9999),
            random.below(5000)
        );
    }
    text.push_str("</所見>\n");
    text
}

fn sql(random: &SeededRandom) -> String {
    use std::fmt::Write;
    let mut text =
        "--\n-- PostgreSQL database dump\n--\n\nCOPY public.claim (id, patient, points) FROM stdin;\n"
            .to_owned();
    for id in 0..200 + random.below(900) {
        let _ = writeln!(text, "{id}\tTEST{:06}\t{}\t再診料", random.below(1_000_000), random.below(9000));
    }
    text.push_str("\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n");
    text
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing into memory cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let Ok(mut encoder) = ::zstd::Encoder::new(Vec::new(), 1) else { return Vec::new() };
    let _ = encoder.include_checksum(true);
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

fn sum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// A zip as office programs write it: deflated XML, and a stored picture.
fn office(random: &SeededRandom) -> Vec<u8> {
    let picture = png(random);
    let parts: [(&str, Vec<u8>, bool); 4] = [
        ("[Content_Types].xml", b"<?xml version=\"1.0\"?><Types/>".to_vec(), true),
        ("word/document.xml", xml(random).into_bytes(), true),
        ("word/styles.xml", xml(random).into_bytes(), true),
        ("word/media/image1.png", picture, false),
    ];
    let (mut file, mut directory, mut count) = (Vec::new(), Vec::new(), 0_u16);
    for (name, plain, compressed) in parts {
        let packed = if compressed { deflate(&plain) } else { plain.clone() };
        let offset = u32::try_from(file.len()).unwrap_or(0);
        let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
        let mut common = vec![20, 0, 0, 8, if compressed { 8 } else { 0 }, 0, 0, 0, 0x5a, 0x5c];
        common.extend_from_slice(&sum(&plain).to_le_bytes());
        common.extend_from_slice(&size(&packed));
        common.extend_from_slice(&size(&plain));
        common.extend_from_slice(&u16::try_from(name.len()).unwrap_or(0).to_le_bytes());
        common.extend_from_slice(&[0, 0]);
        file.extend_from_slice(b"PK\x03\x04");
        file.extend_from_slice(&common);
        file.extend_from_slice(name.as_bytes());
        file.extend_from_slice(&packed);
        directory.extend_from_slice(b"PK\x01\x02\x14\x00");
        directory.extend_from_slice(&common);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
        count += 1;
    }
    let (at, length) = (u32::try_from(file.len()).unwrap_or(0), u32::try_from(directory.len()).unwrap_or(0));
    file.extend_from_slice(&directory);
    file.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    for _ in 0..2 {
        file.extend_from_slice(&count.to_le_bytes());
    }
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&at.to_le_bytes());
    file.extend_from_slice(&[0, 0]);
    file
}

/// Grey, 8 bits, noise on a slope.
fn png(random: &SeededRandom) -> Vec<u8> {
    let side = 48 + random.below(64);
    let mut lines = Vec::new();
    for row in 0..side {
        lines.push(0);
        for column in 0..side {
            lines.push(u8::try_from((row + column + random.below(24)) % 256).unwrap_or(0));
        }
    }
    let mut packed = vec![0x78, 0x01];
    packed.extend_from_slice(&deflate(&lines));
    let (low, high) = lines.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    packed.extend_from_slice(&(high << 16 | low).to_be_bytes());
    let edge = u32::try_from(side).unwrap_or(0).to_be_bytes();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let header = [&edge[..], &edge[..], &[8, 0, 0, 0, 0]].concat();
    for (name, body) in [(b"IHDR", header), (b"IDAT", packed), (b"IEND", Vec::new())] {
        file.extend_from_slice(&u32::try_from(body.len()).unwrap_or(0).to_be_bytes());
        let chunk = [&name[..], &body].concat();
        file.extend_from_slice(&chunk);
        file.extend_from_slice(&sum(&chunk).to_be_bytes());
    }
    file
}

/// A short header of the vendor's, then bytes that are as dense as any.
fn vendor(random: &SeededRandom) -> Vec<u8> {
    let mut bytes = vec![0; 6000 + usize::try_from(random.below(24_000)).unwrap_or(0)];
    random.fill(&mut bytes);
    bytes[..8].copy_from_slice(b"OCTVND\x02\x00");
    bytes
}
