//! One file: from the first missing byte to its place.

use std::{
    io::{Seek, SeekFrom, Write},
    sync::atomic::Ordering,
};

use aws_lc_rs::digest::{Context, SHA256};
use kuramori_repo::store::{FileId, FileKind};

use super::{Pull, lock};
use crate::{
    error::{Error, Result},
    folder::hash,
    puller::Source,
};

impl Pull<'_> {
    /// Fetches a file, going on where an earlier window was cut off.
    ///
    /// # Errors
    /// [`Error::WrongBytes`] if the bytes do not have the hash in the name: nothing of them is kept.
    pub(super) fn transfer(
        &self,
        source: &mut dyn Source,
        repository: &str,
        kind: FileKind,
        id: FileId,
        size: u64,
    ) -> Result<()> {
        let path = self.folder.partial(repository, kind, id);
        let failed = || Error::io(format!("store {kind}/{id} of `{repository}`"));
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder).map_err(failed())?;
        }
        if size > self.folder.free()?.saturating_sub(self.config.window.keep_free.0) {
            return Err(failed()(std::io::ErrorKind::StorageFull.into()));
        }
        // What is there may be of a crash or a flipped bit: it was hashed before the window, not believed.
        let begun = lock(&self.begun).remove(&path);
        let (mut context, mut offset) = match begun {
            Some(begun) => (begun.context, begun.size),
            None if path.exists() => hash(&path)?,
            None => (Context::new(&SHA256), 0),
        };
        let mut file = fs_err::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed())?;
        if offset > size {
            file.set_len(0).map_err(failed())?;
            (context, offset) = (Context::new(&SHA256), 0);
        }
        file.seek(SeekFrom::Start(offset)).map_err(failed())?;
        if offset < size {
            source.fetch(repository, kind, id, offset, size - offset, &mut |piece| {
                if self.stop.aborted() {
                    return Err(Error::WindowOver("it was closed".to_owned()));
                }
                let length = piece.len() as u64;
                self.left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(length))
                    .map_err(|_| {
                        self.stop.drain();
                        Error::WindowOver("its bytes are used up".to_owned())
                    })?;
                self.bytes.fetch_add(length, Ordering::Relaxed);
                context.update(piece);
                file.write_all(piece).map_err(failed())?;
                offset += length;
                Ok(())
            })?;
        }
        if offset < size {
            return Err(Error::Network(format!("{kind}/{id} ended after {offset} of {size} bytes")));
        }
        if context.finish().as_ref() != id.0 {
            fs_err::remove_file(&path).map_err(failed())?;
            return Err(Error::WrongBytes(format!("{repository}/{kind}/{id}")));
        }
        file.sync_all().map_err(failed())?;
        self.folder.take(repository, kind, id, &path)
    }
}
