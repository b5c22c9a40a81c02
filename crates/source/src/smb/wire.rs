//! The few SMB2 requests that reading needs, with names as raw UTF-16.
//!
//! The client library's own calls take and give `String`s: a name with an unpaired surrogate would fail a
//! whole listing, and names in its private-use range would come back as other names. So the bodies with
//! names are packed and parsed here (MS-SMB2 2.2.13, 2.2.33; MS-FSCC 2.4.22, 2.5.9); connection, login,
//! signing, encryption and credits stay the library's.

use kuramori_model::tree::FileTime;
use smb2::{
    msg::{
        close::{CloseRequest, CloseResponse, SMB2_CLOSE_FLAG_POSTQUERY_ATTRIB},
        create::CreateResponse,
        query_info::{InfoType, QueryInfoRequest},
        read::ReadRequest,
    },
    pack::{Pack, WriteCursor},
    types::{CreditCharge, FileId},
};

use super::names::Wide;

/// `FILE_ATTRIBUTE_READONLY`.
pub(super) const READ_ONLY: u32 = 0x1;
/// `FILE_ATTRIBUTE_DIRECTORY`.
pub(super) const DIRECTORY: u32 = 0x10;
/// `FILE_ATTRIBUTE_REPARSE_POINT`.
const REPARSE_POINT: u32 = 0x400;
/// The bit of a reparse tag that says: this name stands for another one (MS-FSCC 2.1.2.1).
const NAME_SURROGATE: u32 = 0x2000_0000;

/// Opens for reading beside everybody else: we refuse nobody, so we never stop the department's own work.
#[derive(Debug)]
pub(super) struct Open<'a> {
    pub(super) path: &'a [u16],
    /// A folder for listing instead of a file.
    pub(super) folder: bool,
}

impl Pack for Open<'_> {
    fn pack(&self, to: &mut WriteCursor) {
        const FILE_READ_DATA: u32 = 0x1;
        const FILE_READ_ATTRIBUTES: u32 = 0x80;
        const SYNCHRONIZE: u32 = 0x0010_0000;
        const SHARE_ALL: u32 = 0x7;
        const FILE_OPEN: u32 = 1;
        const FILE_DIRECTORY_FILE: u32 = 0x1;
        const FILE_NON_DIRECTORY_FILE: u32 = 0x40;
        to.write_u16_le(57);
        to.write_u8(0);
        to.write_u8(0); // no oplock
        to.write_u32_le(2); // Impersonation
        to.write_u64_le(0);
        to.write_u64_le(0);
        to.write_u32_le(FILE_READ_DATA | FILE_READ_ATTRIBUTES | SYNCHRONIZE);
        to.write_u32_le(0);
        to.write_u32_le(SHARE_ALL);
        to.write_u32_le(FILE_OPEN);
        to.write_u32_le(if self.folder { FILE_DIRECTORY_FILE } else { FILE_NON_DIRECTORY_FILE });
        // Header (64) and fixed part (56) precede the name.
        to.write_u16_le(120);
        to.write_u16_le(u16::try_from(self.path.len() * 2).unwrap_or(u16::MAX));
        to.write_u32_le(0);
        to.write_u32_le(0);
        if self.path.is_empty() {
            to.write_u8(0);
        }
        for unit in self.path {
            to.write_u16_le(*unit);
        }
    }
}

/// Asks for the next entries of an open folder.
#[derive(Debug)]
pub(super) struct NextEntries {
    pub(super) handle: FileId,
    /// Most bytes of answer.
    pub(super) room: u32,
}

impl Pack for NextEntries {
    fn pack(&self, to: &mut WriteCursor) {
        const FILE_ID_BOTH_DIRECTORY_INFORMATION: u8 = 37;
        to.write_u16_le(33);
        to.write_u8(FILE_ID_BOTH_DIRECTORY_INFORMATION);
        to.write_u8(0);
        to.write_u32_le(0);
        to.write_u64_le(self.handle.persistent);
        to.write_u64_le(self.handle.volatile);
        to.write_u16_le(96); // header (64) and fixed part (32)
        to.write_u16_le(2);
        to.write_u32_le(self.room);
        to.write_u16_le(u16::from(b'*'));
    }
}

pub(super) fn read(handle: FileId, offset: u64, length: u32) -> ReadRequest {
    ReadRequest {
        padding: 0x50,
        flags: 0,
        length,
        offset,
        file_id: handle,
        minimum_count: 0,
        channel: 0,
        remaining_bytes: 0,
        read_channel_info: Vec::new(),
    }
}

pub(super) fn close(handle: FileId) -> CloseRequest {
    CloseRequest { flags: SMB2_CLOSE_FLAG_POSTQUERY_ATTRIB, file_id: handle }
}

/// Asks for `FileFsVolumeInformation`.
pub(super) fn volume(handle: FileId) -> QueryInfoRequest {
    QueryInfoRequest {
        info_type: InfoType::Filesystem,
        file_info_class: 1,
        output_buffer_length: 1024,
        additional_information: 0,
        flags: 0,
        file_id: handle,
        input_buffer: Vec::new(),
    }
}

/// One credit for each 64 KiB that a request may bring.
pub(super) fn charge(bytes: u32) -> CreditCharge {
    CreditCharge(u16::try_from(bytes.div_ceil(64 << 10)).unwrap_or(u16::MAX).max(1))
}

/// What can be seen of an item without reading it; equal as long as nobody touched it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) size: u64,
    pub(super) written: FileTime,
    pub(super) changed: FileTime,
    pub(super) attributes: u32,
}

impl From<&CreateResponse> for Look {
    fn from(opened: &CreateResponse) -> Self {
        Self {
            size: opened.end_of_file,
            written: file_time(opened.last_write_time.0),
            changed: file_time(opened.change_time.0),
            attributes: opened.file_attributes,
        }
    }
}

impl Look {
    /// Whether the answer to CLOSE tells of the same content. Servers that do not answer the question
    /// leave it open.
    pub(super) fn same_at_close(&self, closed: &CloseResponse) -> bool {
        closed.flags & SMB2_CLOSE_FLAG_POSTQUERY_ATTRIB == 0
            || (closed.end_of_file == self.size && file_time(closed.last_write_time.0) == self.written)
    }
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: Wide,
    pub(super) look: Look,
    pub(super) read: FileTime,
    pub(super) id: u64,
    /// Stands for another name: a junction or symbolic link.
    pub(super) is_link: bool,
}

impl Listed {
    pub(super) fn is_folder(&self) -> bool {
        self.look.attributes & DIRECTORY != 0
    }
}

/// The entries of one answer, `.` and `..` left out. `None` if the answer does not hold together.
pub(super) fn entries(buffer: &[u8]) -> Option<Vec<Listed>> {
    const FIXED: usize = 104;
    let mut listed = Vec::new();
    let mut rest = buffer;
    loop {
        let next = usize::try_from(u32_at(rest, 0)?).ok()?;
        let length = usize::try_from(u32_at(rest, 60)?).ok()?;
        let name = rest.get(FIXED..FIXED.checked_add(length)?)?;
        if length % 2 != 0 {
            return None;
        }
        let name: Wide = name.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let attributes = u32_at(rest, 56)?;
        // For a reparse point the place of the EA size holds its tag.
        let is_link = attributes & REPARSE_POINT != 0 && u32_at(rest, 64)? & NAME_SURROGATE != 0;
        if name != [u16::from(b'.')] && name != [u16::from(b'.'); 2] {
            listed.push(Listed {
                name,
                look: Look {
                    size: u64_at(rest, 40)?,
                    written: file_time(u64_at(rest, 24)?),
                    changed: file_time(u64_at(rest, 32)?),
                    attributes,
                },
                read: file_time(u64_at(rest, 16)?),
                id: u64_at(rest, 96)?,
                is_link,
            });
        }
        if next == 0 {
            return Some(listed);
        }
        // An entry that points into itself would never end.
        if next < FIXED {
            return None;
        }
        rest = rest.get(next..)?;
    }
}

/// Serial number and label of a volume.
pub(super) fn volume_facts(buffer: &[u8]) -> Option<(String, String)> {
    let serial = u32_at(buffer, 8)?;
    let length = usize::try_from(u32_at(buffer, 12)?).ok()?;
    let label: Wide = buffer
        .get(18..18 + length)?
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    Some((format!("{serial:08x}"), String::from_utf16_lossy(&label).trim_end_matches('\0').to_owned()))
}

fn u32_at(from: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(from.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(from: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(from.get(at..at + 8)?.try_into().ok()?))
}

/// Windows counts 100 ns since 1601 (MS-DTYP 2.3.3); 0 means unknown.
pub(super) fn file_time(ticks: u64) -> FileTime {
    const SECONDS_TO_1970: i64 = 11_644_473_600;
    if ticks == 0 {
        return FileTime::default();
    }
    let seconds = i64::try_from(ticks / 10_000_000).unwrap_or(i64::MAX) - SECONDS_TO_1970;
    FileTime { seconds, nanos: u32::try_from(ticks % 10_000_000).unwrap_or(0) * 100 }
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::{Random, SeededRandom};

    use super::*;

    fn entry(name: &[u16], attributes: u32, tag: u32, last: bool) -> Vec<u8> {
        let mut bytes = vec![0; 104];
        bytes[40..48].copy_from_slice(&7_u64.to_le_bytes());
        bytes[56..60].copy_from_slice(&attributes.to_le_bytes());
        bytes[60..64].copy_from_slice(&u32::try_from(name.len() * 2).unwrap().to_le_bytes());
        bytes[64..68].copy_from_slice(&tag.to_le_bytes());
        bytes[96..104].copy_from_slice(&42_u64.to_le_bytes());
        bytes.extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
        if !last {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            let next = u32::try_from(bytes.len()).unwrap();
            bytes[0..4].copy_from_slice(&next.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_name_that_is_not_unicode_does_not_spoil_its_listing() {
        let dot = [u16::from(b'.')];
        let buffer = [
            entry(&dot, DIRECTORY, 0, false),
            entry(&[0xD800, u16::from(b'x')], 0, 0, false),
            entry(&"患者".encode_utf16().collect::<Wide>(), DIRECTORY | REPARSE_POINT, 0xA000_0003, true),
        ]
        .concat();
        let listed = entries(&buffer).unwrap();
        assert_eq!(listed.len(), 2);
        assert_eq!(
            (listed[0].name.as_slice(), listed[0].look.size, listed[0].id),
            (&[0xD800, 0x78][..], 7, 42)
        );
        assert!(!listed[0].is_link && listed[1].is_link && listed[1].is_folder());
    }

    #[test]
    fn broken_listings_are_refused_and_never_loop() {
        let good = [entry(&[0x61], 0, 0, false), entry(&[0x62], 0, 0, true)].concat();
        assert!(entries(&good).is_some());
        let mut circle = good.clone();
        circle[0..4].copy_from_slice(&8_u32.to_le_bytes());
        assert!(entries(&circle).is_none());
        let random = SeededRandom::new(5);
        for _ in 0..20_000 {
            let mut bad = good.clone();
            let at = usize::try_from(random.below(bad.len() as u64)).unwrap();
            let mut byte = [0];
            random.fill(&mut byte);
            bad[at] = byte[0];
            bad.truncate(usize::try_from(random.below(bad.len() as u64 + 1)).unwrap());
            let _ = entries(&bad);
            let _ = volume_facts(&bad);
        }
    }

    #[test]
    fn windows_times_fall_on_the_unix_line() {
        assert_eq!(file_time(116_444_736_000_000_000), FileTime { seconds: 0, nanos: 0 });
        assert_eq!(file_time(116_444_736_000_000_001), FileTime { seconds: 0, nanos: 100 });
        assert_eq!(file_time(116_444_735_999_999_999), FileTime { seconds: -1, nanos: 999_999_900 });
    }
}
