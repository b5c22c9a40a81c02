//! Copying a repository's files from one store to another, without any key.
//!
//! The source is *listed* snapshots first, then indexes, then packs; the lists are frozen and *fetched* the
//! other way round, so that the target never holds a snapshot without its index or an index without its
//! packs, even when it is interrupted. Every file is checked against the hash in its name on the way. What
//! the target already has is not copied again; nothing is ever removed there.

use std::io::Write;

use crate::{
    Cancel, Error, Result,
    error::file_name,
    progress::Progress,
    store::{FileId, FileKind, Payload, Spool, Store},
};

/// Bytes of one read.
const STEP: u32 = 8 << 20;

/// What a mirror did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Mirrored {
    /// Files that were copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were already there.
    pub present: u64,
}

/// Copies what `to` lacks. `to` is made if there is no repository; one with another `config` is refused.
pub fn mirror(from: &dyn Store, to: &dyn Store, progress: &Progress, cancel: &Cancel) -> Result<Mirrored> {
    let config = from.read_config()?;
    to.create()?;
    match to.read_config() {
        Err(Error::NotFound { .. }) => to.write_config(&config)?,
        Ok(same) if same == config => {}
        Ok(_) => {
            return Err(Error::Invalid {
                what: format!("`{}` holds another repository", to.place()),
                hint: "give each repository a folder of its own".to_owned(),
            });
        }
        Err(other) => return Err(other),
    }
    let kinds = [FileKind::Snapshot, FileKind::Index, FileKind::Pack, FileKind::Key];
    let mut frozen = Vec::new();
    for kind in kinds {
        frozen.push((kind, missing(from, to, kind)?));
    }
    let mut done = Mirrored::default();
    for (kind, (files, present)) in frozen.into_iter().rev() {
        done.present += present;
        progress.plan(files.len() as u64, files.iter().map(|(_, size)| size).sum());
        for (id, size) in files {
            cancel.check()?;
            copy(from, to, kind, id, size, progress, cancel)?;
            done.files += 1;
            done.bytes += size;
        }
    }
    Ok(done)
}

/// Files of a kind that only `from` has, and how many both have.
fn missing(from: &dyn Store, to: &dyn Store, kind: FileKind) -> Result<(Vec<(FileId, u64)>, u64)> {
    let mut there = std::collections::HashSet::new();
    to.list(kind, &mut |id, _| {
        there.insert(id);
        Ok(())
    })?;
    let (mut files, mut present) = (Vec::new(), 0);
    from.list(kind, &mut |id, size| {
        if there.contains(&id) {
            present += 1;
        } else {
            files.push((id, size));
        }
        Ok(())
    })?;
    files.sort_unstable();
    Ok((files, present))
}

fn copy(
    from: &dyn Store,
    to: &dyn Store,
    kind: FileKind,
    id: FileId,
    size: u64,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<()> {
    let folder = to.spool_dir().unwrap_or_else(std::env::temp_dir);
    let mut spool = Spool::new_in(&folder)?;
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut offset = 0;
    while offset < size {
        cancel.check()?;
        let step = u32::try_from(size - offset).unwrap_or(STEP).min(STEP);
        let bytes = from.read_range(kind, id, offset, step)?;
        hash.update(&bytes);
        spool.write_all(&bytes).map_err(|error| Error::io("write", file_name(kind, id), error))?;
        offset += u64::from(step);
        progress.done(0, u64::from(step));
    }
    if hash.finish().as_ref() != id.0 {
        return Err(Error::damaged(kind, id, "its bytes do not have the hash in its name"));
    }
    to.write(kind, id, Payload::Spool(&spool))?;
    progress.done(1, 0);
    Ok(())
}
