//! Where things lie in an overlay's file; the drawing is in the module above.

use super::BaseId;

/// Bytes for which one bit speaks.
pub(super) const BLOCK: u64 = 4096;
/// Bytes of the header.
pub(super) const HEADER: u64 = 4096;
/// Bytes of bits that are written together.
pub(super) const PAGE: usize = 4096;

const MAGIC: &[u8; 8] = b"KURAMOVL";
const VERSION: u32 = 1;
const DIGEST_AT: usize = 4064;

/// The places for a disk of one size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    size: u64,
    /// First byte of the disk's image.
    pub(super) data: u64,
}

impl Layout {
    pub(super) fn of(size: u64) -> Self {
        let bits = size.div_ceil(BLOCK).div_ceil(8).next_multiple_of(PAGE as u64);
        Self { size, data: (HEADER + bits).next_multiple_of(1 << 20) }
    }

    /// Blocks of the disk; the last one may be short.
    pub(super) fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK)
    }

    /// Length of the whole file.
    pub(super) fn end(&self) -> u64 {
        self.data + self.size
    }

    /// The header.
    pub(super) fn encode(&self, id: BaseId) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&4096_u32.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.data.to_le_bytes());
        out.extend_from_slice(&id.0);
        out.resize(DIGEST_AT, 0);
        let digest = digest(&out);
        out.extend_from_slice(&digest);
        out
    }

    /// What does not fit, in words.
    pub(super) fn check(&self, header: &[u8], id: BaseId) -> Result<(), String> {
        let field = |at: usize| {
            header.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
        };
        if header.len() != 4096 || !header.starts_with(MAGIC) {
            return Err("it does not begin as one".to_owned());
        }
        if digest(&header[..DIGEST_AT])[..] != header[DIGEST_AT..] {
            return Err("its header is damaged".to_owned());
        }
        if header[8..12] != VERSION.to_le_bytes() || header[12..16] != 4096_u32.to_le_bytes() {
            return Err("another version of this program made it".to_owned());
        }
        if field(16) != Some(self.size) || field(24) != Some(self.data) {
            let size = field(16).unwrap_or(0);
            return Err(format!("it was made for a disk of {size} bytes, this one has {}", self.size));
        }
        if header[32..64] != id.0 {
            return Err("it was made for a disk with other content".to_owned());
        }
        Ok(())
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}
