//! Index files: which pack holds which blobs.

use serde::{Deserialize, Serialize};

use super::{
    Flaw,
    blob::{BlobId, BlobKind, PackedBlob},
    crypto,
};
use crate::store::FileId;

/// An index file with this many blobs is full.
pub const FULL: usize = 50_000;

/// One pack of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    /// The pack.
    pub id: FileId,
    /// Its blobs.
    pub blobs: Vec<PackedBlob>,
}

#[derive(Serialize, Deserialize)]
struct File {
    /// Ids of index files that this one stands for: read from other writers, never written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    supersedes: Vec<FileId>,
    packs: Vec<Pack>,
}

#[derive(Serialize, Deserialize)]
struct Pack {
    id: FileId,
    blobs: Vec<Blob>,
}

#[derive(Serialize, Deserialize)]
struct Blob {
    id: BlobId,
    #[serde(rename = "type")]
    kind: BlobKind,
    offset: u32,
    length: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    uncompressed_length: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Writes the JSON of an index file.
pub fn encode(packs: &[IndexedPack]) -> Result<Vec<u8>, Flaw> {
    let packs = packs
        .iter()
        .map(|pack| Pack {
            id: pack.id,
            blobs: pack
                .blobs
                .iter()
                .map(|blob| Blob {
                    id: blob.id,
                    kind: blob.kind,
                    offset: blob.offset,
                    length: blob.length,
                    uncompressed_length: blob.plain_length.unwrap_or(0),
                })
                .collect(),
        })
        .collect();
    Ok(serde_json::to_vec(&File { supersedes: Vec::new(), packs })?)
}

/// Reads the JSON of an index file.
pub fn decode(json: &[u8]) -> Result<Vec<IndexedPack>, Flaw> {
    let file: File = serde_json::from_slice(json)?;
    file.packs
        .into_iter()
        .map(|pack| {
            let blobs = pack.blobs.into_iter().map(|blob| {
                if blob.length as usize <= crypto::OVERHEAD || blob.offset.checked_add(blob.length).is_none()
                {
                    return Err(Flaw::new(format!("it gives blob {} an impossible place", blob.id)));
                }
                Ok(PackedBlob {
                    id: blob.id,
                    kind: blob.kind,
                    offset: blob.offset,
                    length: blob.length,
                    plain_length: (blob.uncompressed_length != 0).then_some(blob.uncompressed_length),
                })
            });
            Ok(IndexedPack { id: pack.id, blobs: blobs.collect::<Result<_, Flaw>>()? })
        })
        .collect()
}
