//! Storing blobs anew that the repository already has: what a prune takes out of half-empty packs.

use std::{
    sync::{Arc, RwLock},
    thread::JoinHandle,
};

use super::{Options, Session, packer};
use crate::{
    Error, Result,
    format::blob::BlobKind,
    repository::{Indexed, Loaded, Repository},
};

/// Writes blobs into new packs and those into new index files.
#[derive(Debug)]
pub(crate) struct Repacker {
    session: Arc<Session>,
    upload: Option<JoinHandle<()>>,
}

impl Repacker {
    /// Begins with an index of its own that knows nothing: so every blob counts as new.
    pub(crate) fn new<Any>(repository: &Repository<Any>, options: Options) -> Result<Self> {
        let state = Indexed { index: Arc::new(RwLock::new(Loaded::default())) };
        let session = Session::new(Repository { core: Arc::clone(&repository.core), state }, options);
        let worker = Arc::clone(&session);
        let upload = std::thread::Builder::new()
            .name("repack-upload".to_owned())
            .spawn(move || packer::upload(&worker))
            .map_err(|error| Error::io("start a thread for", "repack", error))?;
        Ok(Self { session, upload: Some(upload) })
    }

    /// Stores one blob.
    pub(crate) fn store(&self, kind: BlobKind, plain: &[u8]) -> Result<()> {
        self.session.going()?;
        self.session.save_blob(kind, plain).map(drop).map_err(|error| self.session.cause(error))
    }

    /// Makes all of it durable: packs first, then the index files that name them.
    pub(crate) fn finish(mut self) -> Result<()> {
        let closed = self.session.packer.close_all(&self.session);
        self.stop();
        closed.and_then(|()| self.session.going()).map_err(|error| self.session.cause(error))?;
        self.session.repo.flush_index()
    }

    fn stop(&mut self) {
        self.session.packer.close_uploads();
        if let Some(upload) = self.upload.take() {
            // A panic in it has marked the session as failed.
            let _ = upload.join();
        }
    }
}

impl Drop for Repacker {
    fn drop(&mut self) {
        if self.upload.is_some() {
            self.session.cancel();
            self.stop();
        }
    }
}
