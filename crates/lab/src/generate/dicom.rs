//! A small writer of DICOM files: PS3.10 file format, explicit VR little endian, CT image storage.
//!
//! ```text
//! 128 zero bytes | "DICM" | group 0002 (its length first) | data set, elements in the order of their tags
//! element: group u16 | element u16 | VR 2 letters | length u16          | value, padded to even length
//!          OB and OW:               VR 2 letters | 0u16 | length u32    | value
//! ```

use super::{decide, names::patient, pixels};

/// CT Image Storage (PS3.4, annex B.5).
const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
/// Explicit VR Little Endian (PS3.5, annex A.2).
const EXPLICIT_LITTLE: &str = "1.2.840.10008.1.2.1";

/// A set of generated studies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archive {
    /// Where everything comes from.
    pub seed: u64,
    /// Studies, each of a patient of its own.
    pub studies: u64,
    /// Slices in each study's one series.
    pub slices: u64,
    /// Rows and columns of each picture.
    pub side: u16,
}

impl Archive {
    /// How many instances there are.
    pub fn instances(&self) -> u64 {
        self.studies * self.slices
    }

    /// The Part 10 file of one instance, `number < instances()`.
    pub fn file(&self, number: u64) -> Vec<u8> {
        let (study, slice) = (number / self.slices, number % self.slices);
        let patient = patient(self.seed, study);
        let instance = self.uid(3, number);
        let mut meta = Elements::default();
        meta.long(0x0002, 0x0001, *b"OB", &[0, 1]);
        meta.text(0x0002, 0x0002, *b"UI", CT);
        meta.text(0x0002, 0x0003, *b"UI", &instance);
        meta.text(0x0002, 0x0010, *b"UI", EXPLICIT_LITTLE);
        meta.text(0x0002, 0x0012, *b"UI", "2.25.201");
        meta.text(0x0002, 0x0013, *b"SH", "KURAMORI_LAB");
        let date = format!(
            "2026{:02}{:02}",
            1 + decide(self.seed, 21, study) % 12,
            1 + decide(self.seed, 22, study) % 28
        );

        let mut set = Elements::default();
        set.text(0x0008, 0x0005, *b"CS", "ISO_IR 192");
        set.text(0x0008, 0x0008, *b"CS", "ORIGINAL\\PRIMARY\\AXIAL");
        set.text(0x0008, 0x0016, *b"UI", CT);
        set.text(0x0008, 0x0018, *b"UI", &instance);
        set.text(0x0008, 0x0020, *b"DA", &date);
        set.text(0x0008, 0x0021, *b"DA", &date);
        set.text(
            0x0008,
            0x0030,
            *b"TM",
            &format!("{:02}{:02}00", 8 + study % 10, decide(self.seed, 23, study) % 60),
        );
        set.text(0x0008, 0x0050, *b"SH", &format!("TEST{study:08}"));
        set.text(0x0008, 0x0060, *b"CS", "CT");
        set.text(0x0008, 0x0070, *b"LO", "Kuramori lab");
        set.text(0x0008, 0x0080, *b"LO", "TEST試験病院");
        set.text(0x0008, 0x0090, *b"PN", "");
        set.text(0x0008, 0x1030, *b"LO", "TEST 胸部CT");
        set.text(0x0008, 0x103E, *b"LO", "軸位断");
        set.text(0x0010, 0x0010, *b"PN", &patient.dicom_name);
        set.text(0x0010, 0x0020, *b"LO", &patient.id);
        set.text(0x0010, 0x0030, *b"DA", &patient.born);
        set.text(0x0010, 0x0040, *b"CS", patient.sex);
        set.text(0x0018, 0x0050, *b"DS", "5");
        set.text(0x0018, 0x0060, *b"DS", "120");
        set.text(0x0020, 0x000D, *b"UI", &self.uid(1, study));
        set.text(0x0020, 0x000E, *b"UI", &self.uid(2, study));
        set.text(0x0020, 0x0010, *b"SH", &format!("{study}"));
        set.text(0x0020, 0x0011, *b"IS", "1");
        set.text(0x0020, 0x0012, *b"IS", "1");
        set.text(0x0020, 0x0013, *b"IS", &format!("{}", slice + 1));
        set.text(0x0020, 0x0032, *b"DS", &format!("-250\\-250\\{}", slice * 5));
        set.text(0x0020, 0x0037, *b"DS", "1\\0\\0\\0\\1\\0");
        set.text(0x0020, 0x0052, *b"UI", &self.uid(4, study));
        set.number(0x0028, 0x0002, 1);
        set.text(0x0028, 0x0004, *b"CS", "MONOCHROME2");
        set.number(0x0028, 0x0010, self.side);
        set.number(0x0028, 0x0011, self.side);
        set.text(0x0028, 0x0030, *b"DS", "0.9765625\\0.9765625");
        set.number(0x0028, 0x0100, 16);
        set.number(0x0028, 0x0101, 12);
        set.number(0x0028, 0x0102, 11);
        set.number(0x0028, 0x0103, 0);
        set.text(0x0028, 0x1050, *b"DS", "40");
        set.text(0x0028, 0x1051, *b"DS", "400");
        set.text(0x0028, 0x1052, *b"DS", "-1024");
        set.text(0x0028, 0x1053, *b"DS", "1");
        set.long(0x7FE0, 0x0010, *b"OW", &pixels::slice(self.seed, study, slice, self.side));

        let mut file = vec![0; 128];
        file.extend_from_slice(b"DICM");
        let mut length = Elements::default();
        length.short(0x0002, 0x0000, *b"UL", &u32::try_from(meta.bytes.len()).unwrap_or(0).to_le_bytes());
        for part in [length.bytes, meta.bytes, set.bytes] {
            file.extend_from_slice(&part);
        }
        file
    }

    /// A UID below 2.25, where everybody may derive one from 128 bits (PS3.5, annex B.2).
    fn uid(&self, kind: u64, number: u64) -> String {
        let half = |what| u128::from(decide(self.seed, what, kind << 48 | number));
        // Version 4 and variant bits of a UUID, as the annex asks.
        let bits = half(31) << 64 | half(32);
        let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        format!("2.25.{bits}")
    }
}

#[derive(Debug, Default)]
struct Elements {
    bytes: Vec<u8>,
}

impl Elements {
    fn tag(&mut self, group: u16, element: u16, vr: [u8; 2]) {
        self.bytes.extend_from_slice(&group.to_le_bytes());
        self.bytes.extend_from_slice(&element.to_le_bytes());
        self.bytes.extend_from_slice(&vr);
    }

    fn short(&mut self, group: u16, element: u16, vr: [u8; 2], value: &[u8]) {
        self.tag(group, element, vr);
        self.bytes.extend_from_slice(&u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
        self.bytes.extend_from_slice(value);
    }

    /// Text is padded by a space, a UID by a zero byte.
    fn text(&mut self, group: u16, element: u16, vr: [u8; 2], value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        if bytes.len() % 2 == 1 {
            bytes.push(if vr == *b"UI" { 0 } else { b' ' });
        }
        self.short(group, element, vr, &bytes);
    }

    fn number(&mut self, group: u16, element: u16, value: u16) {
        self.short(group, element, *b"US", &value.to_le_bytes());
    }

    /// OB and OW; the values here have an even length already.
    fn long(&mut self, group: u16, element: u16, vr: [u8; 2], value: &[u8]) {
        self.tag(group, element, vr);
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_le_bytes());
        self.bytes.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Program;

    const SMALL: Archive = Archive { seed: 5, studies: 2, slices: 3, side: 64 };

    #[test]
    fn the_same_seed_gives_the_same_file_and_every_instance_its_own() {
        let files: std::collections::BTreeSet<_> = (0..SMALL.instances()).map(|n| SMALL.file(n)).collect();
        assert_eq!(files.len(), 6);
        assert_eq!(SMALL.file(4), SMALL.file(4));
        assert_ne!(SMALL.file(4), Archive { seed: 6, ..SMALL }.file(4));
    }

    #[test]
    fn dcmtk_reads_what_we_write() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("one.dcm");
        fs_err::write(&file, SMALL.file(3)).unwrap();
        let dump = Program::new("dcmdump").arg("-q").arg(&file);
        let text = dump.text().unwrap();
        for expected in
            ["LittleEndianExplicit", "CTImageStorage", "(0010,0020) LO [TEST000001]", "(7fe0,0010) OW"]
        {
            assert!(text.contains(expected), "{expected} is missing in {text}");
        }
        // On a damaged file the same call does not get that far.
        let mut bytes = SMALL.file(3);
        bytes.truncate(1_000);
        fs_err::write(&file, bytes).unwrap();
        assert!(!dump.text().unwrap_or_default().contains("(7fe0,0010) OW"));
    }
}
