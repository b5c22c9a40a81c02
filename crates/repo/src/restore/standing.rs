//! What a restore that was cut off has left behind, and how much of it is right.
//!
//! A piece stays only if its bytes have the hash that they must have. A hole (or the end of the file) is
//! where nothing was written yet. Anything else was cut off in the middle, or is not ours: it becomes zeros,
//! because pages of zeros are never written and would leave the foreign bytes standing.

use std::{
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

use crate::format::{blob::BlobId, node::NodeKind};

/// Whether what stands at a place may stay while the restore goes on: a folder, or a regular file.
pub(super) fn may_stay(place: &Path, standing: &std::fs::Metadata, kind: NodeKind) -> std::io::Result<bool> {
    let mode = match kind {
        NodeKind::Dir if standing.is_dir() => 0o700,
        NodeKind::File if standing.is_file() => 0o600,
        _ => return Ok(false),
    };
    // It may have its final mode already, which may forbid its owner to write.
    fs_err::set_permissions(place, std::fs::Permissions::from_mode(mode))?;
    Ok(true)
}

/// For each piece (its id and first byte, in order) whether it is already there. A file that cannot be used
/// is removed, and none of its pieces is there.
pub(super) fn pieces(place: &Path, pieces: &[(BlobId, u64)], size: u64) -> Vec<bool> {
    let none = || vec![false; pieces.len()];
    let Ok(file) = fs_err::OpenOptions::new().read(true).write(true).open(place) else { return none() };
    let foreign = || {
        let _ = fs_err::remove_file(place);
        none()
    };
    match file.metadata() {
        Ok(about) if about.is_file() && about.len() <= size => (),
        _ => return foreign(),
    }
    let mut stands = Vec::with_capacity(pieces.len());
    let mut bytes = Vec::new();
    for (at, (id, offset)) in pieces.iter().enumerate() {
        let end = pieces.get(at + 1).map_or(size, |(_, next)| *next);
        let Ok(length) = usize::try_from(end.saturating_sub(*offset)) else { return foreign() };
        bytes.clear();
        bytes.resize(length, 0);
        let Ok(read) = read(file.file(), &mut bytes, *offset) else { return foreign() };
        let whole = read == length && BlobId::of(&bytes) == *id;
        if !whole && bytes.iter().any(|byte| *byte != 0) {
            bytes.fill(0);
            if file.file().write_all_at(&bytes[..read], *offset).is_err() {
                return foreign();
            }
        }
        stands.push(whole);
    }
    stands
}

/// Reads as much as there is.
fn read(file: &std::fs::File, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
