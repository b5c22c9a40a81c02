//! A disk as rooms hand it to each other: so many bytes that are read, and perhaps written, at any place.
//!
//! The engine offers a disk of a restore point in this form, the NBD room serves it and offers what an NBD
//! server elsewhere serves, and the engine backs it up. None of them knows the other.

use std::{error::Error, fmt::Debug};

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// How far it goes, in bytes; never 0.
    pub length: u64,
    /// It takes no room where it lies.
    pub hole: bool,
    /// It reads as zeros.
    pub zero: bool,
}

impl Extent {
    /// Bytes that have to be read to be known.
    pub const fn data(length: u64) -> Self {
        Self { length, hole: false, zero: false }
    }

    /// A hole: reads as zeros, takes no room.
    pub const fn hole(length: u64) -> Self {
        Self { length, hole: true, zero: true }
    }
}

/// Why a disk did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// It cannot be written.
    #[error("the disk is read-only")]
    ReadOnly,
    /// The place lies beyond its end.
    #[error("the place {offset} with {length} bytes is not in a disk of {size} bytes")]
    Range {
        /// First byte that was asked for.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// The disk's size in bytes.
        size: u64,
    },
    /// Where it is written has no room left.
    #[error("no room to write to the disk")]
    NoSpace(#[source] Box<dyn Error + Send + Sync>),
    /// It cannot be read or written there; the reason names what failed.
    #[error("the disk cannot be read or written")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

impl BlockError {
    /// A failure with its reason.
    pub fn failed(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(reason.into())
    }
}

impl From<std::io::Error> for BlockError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::NoSpace(error.into()),
            _ => Self::Failed(error.into()),
        }
    }
}

/// A disk. Every call may come from several threads at once; what is written and answered is seen by every
/// later call, and is durable once a [`flush`](Self::flush) that began after the answer has returned.
pub trait Blocks: Debug + Send + Sync {
    /// Size in bytes; does not change.
    fn size(&self) -> u64;

    /// Fills the whole buffer from `offset`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), BlockError>;

    /// The run that begins at `offset`, at most `length` bytes of it. What is not known to be zeros is data.
    fn extent(&self, offset: u64, length: u64) -> Result<Extent, BlockError> {
        let _ = offset;
        Ok(Extent::data(length))
    }

    /// The run that begins at `offset`, at most `length` bytes of it, and whether it was written since the disk
    /// was first opened for writing; none if nobody keeps a record of that.
    fn written(&self, offset: u64, length: u64) -> Option<(u64, bool)> {
        let _ = (offset, length);
        None
    }

    /// Whether the following calls can succeed.
    fn is_writable(&self) -> bool {
        false
    }

    /// Writes all of `data`.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), BlockError> {
        let _ = (offset, data);
        Err(BlockError::ReadOnly)
    }

    /// Makes a range read as zeros. With `hole` it need not take room any more.
    fn write_zeros(&self, offset: u64, length: u64, hole: bool) -> Result<(), BlockError> {
        let _ = (offset, length, hole);
        Err(BlockError::ReadOnly)
    }

    /// Makes durable whatever was answered before.
    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    /// [`BlockError::Range`] if a range does not lie within the disk.
    fn check_range(&self, offset: u64, length: u64) -> Result<(), BlockError> {
        let size = self.size();
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(BlockError::Range { offset, length, size }),
        }
    }
}
