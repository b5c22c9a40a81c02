//! Loading blobs: every byte is hashed again before anybody sees it (rule E1).

use super::{Core, Indexed, Repository};
use crate::{
    Error, Result,
    error::file_name,
    format::{
        Flaw,
        blob::{BlobId, BlobKind, PackedBlob},
        compress, pack,
        tree::{self, Tree},
    },
    index::Location,
    store::{FileId, FileKind},
};

/// Largest plain blob that we read. restic's chunks have at most 8 MiB; its trees may be larger.
pub const BLOB_MAX: u32 = 512 << 20;

impl Core {
    /// Opens, unfolds and hashes the sealed bytes of a blob. The seal alone says nothing about *which* blob
    /// it is: with access to the store a sealed blob can be put over another.
    pub(crate) fn open_blob(&self, blob: &PackedBlob, sealed: Vec<u8>) -> std::result::Result<Vec<u8>, Flaw> {
        if sealed.len() != blob.length as usize {
            return Err(Flaw::new(format!("it has {} bytes instead of {}", sealed.len(), blob.length)));
        }
        let opened = self.cipher.open_vec(sealed)?;
        let plain = match blob.plain_length {
            Some(plain_len) if plain_len > BLOB_MAX => {
                return Err(Flaw::new(format!("it announces {plain_len} bytes, more than a blob may have")));
            }
            Some(plain_len) => compress::decompress_exact(&opened, plain_len)?,
            None => opened,
        };
        if BlobId::of(&plain) == blob.id {
            Ok(plain)
        } else {
            Err(Flaw::new("its content does not have the hash that is its id"))
        }
    }

    /// [`open_blob`](Self::open_blob) without an allocation: works in the caller's buffers. Gives a part of one
    /// of them; `sealed` is spoiled afterwards.
    pub(crate) fn open_in_place<'a>(
        &self,
        blob: &PackedBlob,
        sealed: &'a mut [u8],
        scratch: &'a mut Vec<u8>,
    ) -> std::result::Result<&'a [u8], Flaw> {
        if sealed.len() != blob.length as usize {
            return Err(Flaw::new(format!("it has {} bytes instead of {}", sealed.len(), blob.length)));
        }
        let opened = self.cipher.open(sealed)?;
        let plain: &[u8] = match blob.plain_length {
            Some(plain_len) if plain_len > BLOB_MAX => {
                return Err(Flaw::new(format!("it announces {plain_len} bytes, more than a blob may have")));
            }
            Some(plain_len) => {
                compress::decompress_into(opened, plain_len, scratch)?;
                scratch
            }
            None => opened,
        };
        if BlobId::of(plain) == blob.id {
            Ok(plain)
        } else {
            Err(Flaw::new("its content does not have the hash that is its id"))
        }
    }

    /// Loads a blob from one place.
    pub(crate) fn load_at(&self, location: &Location) -> Result<Vec<u8>> {
        let Location { pack, blob } = location;
        let read = (|| {
            if blob.length > BLOB_MAX {
                return Err(Error::damaged(
                    FileKind::Pack,
                    *pack,
                    "the index gives a blob an impossible length",
                ));
            }
            let sealed = self.store.read_range(FileKind::Pack, *pack, u64::from(blob.offset), blob.length)?;
            self.open_blob(blob, sealed).map_err(|flaw| Error::damaged(FileKind::Pack, *pack, flaw.0))
        })();
        read.map_err(|error| match error {
            Error::Damaged { file, why } => {
                Error::Damaged { file: format!("{file} ({} blob {})", blob.kind, blob.id), why }
            }
            other => other,
        })
    }
}

impl<State> Repository<State> {
    /// Opens, unfolds and hashes a blob's sealed bytes as they lie in a pack.
    pub fn open_blob(&self, blob: &PackedBlob, sealed: Vec<u8>) -> std::result::Result<Vec<u8>, Flaw> {
        self.core.open_blob(blob, sealed)
    }

    /// Opens a pack's sealed header. `body` is the number of bytes before it.
    pub fn open_header(&self, sealed: Vec<u8>, body: u64) -> std::result::Result<Vec<PackedBlob>, Flaw> {
        pack::decode_header(&self.core.cipher.open_vec(sealed)?, body)
    }

    /// Reads what a pack's own header says of it, with two range reads.
    pub fn pack_header(&self, id: FileId) -> Result<Vec<PackedBlob>> {
        let store = &self.core.store;
        let damaged = |flaw: Flaw| Error::damaged(FileKind::Pack, id, flaw.0);
        let size = store.size(FileKind::Pack, id)?;
        let Some(tail_at) = size.checked_sub(4) else {
            return Err(Error::damaged(FileKind::Pack, id, format!("it has only {size} bytes")));
        };
        let tail = store.read_range(FileKind::Pack, id, tail_at, 4)?;
        let tail = tail.try_into().map_err(|_| Error::damaged(FileKind::Pack, id, "its tail is cut off"))?;
        let (offset, length) = pack::header_place(size, tail).map_err(damaged)?;
        let sealed = store.read_range(FileKind::Pack, id, offset, length)?;
        self.open_header(sealed, offset).map_err(damaged)
    }
}

impl Repository<Indexed> {
    /// Every place where a blob lies; looks for new index files once if there is none.
    pub fn locations(&self, kind: BlobKind, id: &BlobId) -> Result<Vec<Location>> {
        let find = || self.read_index().index.locations(kind, id);
        let mut found = find();
        if found.is_empty() && self.refresh()? > 0 {
            found = find();
        }
        Ok(found)
    }

    /// Loads a blob from the first place that holds it whole.
    pub fn load_blob(&self, kind: BlobKind, id: &BlobId) -> Result<Vec<u8>> {
        let mut first = None;
        let mut tried = Vec::new();
        let mut places = self.locations(kind, id)?;
        while !places.is_empty() {
            for location in places.drain(..) {
                match self.core.load_at(&location) {
                    Ok(plain) => return Ok(plain),
                    Err(error @ (Error::Damaged { .. } | Error::Missing { .. } | Error::Io { .. })) => {
                        tracing::error!(pack = %location.pack, blob = %id, "{error}");
                        first.get_or_insert(error);
                    }
                    Err(other) => return Err(other),
                }
                tried.push(location);
            }
            // A prune may have moved it since the index was loaded.
            if matches!(first, Some(Error::Missing { .. })) && self.refresh()? > 0 {
                places = self.read_index().index.locations(kind, id);
                places.retain(|location| !tried.contains(location));
            }
        }
        Err(first
            .unwrap_or_else(|| Error::Missing { file: format!("{kind} blob {id} (no index file names it)") }))
    }

    /// Loads a blob from exactly one place, for a check of that place.
    pub fn load_blob_at(&self, location: &Location) -> Result<Vec<u8>> {
        self.core.load_at(location)
    }

    /// Loads a folder.
    pub fn load_tree(&self, id: &BlobId) -> Result<Tree> {
        let plain = self.load_blob(BlobKind::Tree, id)?;
        tree::decode(&plain).map_err(|flaw| Error::Damaged { file: format!("tree blob {id}"), why: flaw.0 })
    }

    /// The damage of a file in words that name it; for callers that judge a pack as a whole.
    pub fn name_of(kind: FileKind, id: FileId) -> String {
        file_name(kind, id)
    }
}
