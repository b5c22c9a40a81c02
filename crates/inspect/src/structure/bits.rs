//! Small readers of integers, and the CRCs of the formats.

/// Big-endian.
pub(super) fn be32(bytes: &[u8]) -> u32 {
    bytes.get(..4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

/// Big-endian.
pub(super) fn be16(bytes: &[u8]) -> u16 {
    bytes.get(..2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

/// Little-endian.
pub(super) fn le32(bytes: &[u8]) -> u32 {
    bytes.get(..4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Little-endian.
pub(super) fn le16(bytes: &[u8]) -> u16 {
    bytes.get(..2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

/// Little-endian.
pub(super) fn le64(bytes: &[u8]) -> u64 {
    u64::from(le32(bytes)) | u64::from(le32(bytes.get(4..).unwrap_or_default())) << 32
}

/// CRC-32 of IEEE 802.3, as gzip, zip, PNG, xz and 7z use it.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
