//! The vault's hand at `kuramori-lockd`: what was proven is locked, and only the lock removes it.
//!
//! A point's packs are locked, or their promise extended, before its snapshot: a snapshot that is locked never
//! needs a pack that is not locked for as long.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use kuramori_model::lock::{FILES_LIMIT, FileId as LockId, Kind, Mark, Name, Reply, Request};
use kuramori_repo::store::{FileId, FileKind};

use crate::error::{Error, Result};

/// Locking thousands of files takes its time.
const PATIENCE: Duration = Duration::from_mins(10);

/// Where the lock listens.
#[derive(Debug, Clone)]
pub struct Locks {
    socket: PathBuf,
}

impl Locks {
    /// Names the socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    fn ask(&self, request: &Request) -> Result<Reply> {
        let failed = Error::io("speak with kuramori-lockd");
        let reply = (|| {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut text = serde_json::to_vec(request)?;
            text.push(b'\n');
            stream.write_all(&text)?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            Ok(serde_json::from_str(&line)?)
        })();
        match reply.map_err(failed)? {
            Reply::Refused { code, message, .. } => Err(Error::Lock(format!("{message} ({code})"))),
            other => Ok(other),
        }
    }

    /// Makes the folders of a repository.
    ///
    /// # Errors
    /// [`Error::Lock`] if nothing can be locked there.
    pub fn prepare(&self, repository: &str) -> Result<()> {
        self.ask(&Request::Prepare { repository: repository.to_owned() }).map(drop)
    }

    /// Locks files, or extends their promise.
    ///
    /// # Errors
    /// [`Error::Lock`].
    pub fn lock(&self, repository: &str, files: &BTreeSet<Name>, days: u32) -> Result<()> {
        let files: Vec<Name> = files.iter().copied().collect();
        for part in files.chunks(FILES_LIMIT) {
            self.ask(&Request::Lock { repository: repository.to_owned(), files: part.to_vec(), days })?;
        }
        Ok(())
    }

    /// Tells what inspection found.
    ///
    /// # Errors
    /// [`Error::Lock`].
    pub fn mark(&self, repository: &str, snapshot: FileId, verdict: Mark) -> Result<()> {
        let snapshot = LockId(snapshot.0);
        self.ask(&Request::Mark { repository: repository.to_owned(), snapshot, verdict }).map(drop)
    }

    /// Has a file removed. False if the lock never had it: then it is the vault's own to remove.
    ///
    /// # Errors
    /// [`Error::Lock`] if it stays.
    pub fn remove(&self, repository: &str, kind: FileKind, id: FileId) -> Result<bool> {
        let Some(name) = name(kind, id) else { return Ok(false) };
        let request = Request::Reap { repository: repository.to_owned(), files: vec![name], dry: false };
        match self.ask(&request)? {
            Reply::Reaped { stays, .. } => match stays.first() {
                None => Ok(true),
                Some(one) if one.code == "lock.unknown" => Ok(false),
                Some(one) => Err(Error::Lock(format!("{id} stays: {} ({})", one.why, one.code))),
            },
            other => Err(Error::Lock(format!("it answered {other:?}"))),
        }
    }
}

/// The lock's name of a stored file; none for what is never locked.
pub(crate) fn name(kind: FileKind, id: FileId) -> Option<Name> {
    let kind = match kind {
        FileKind::Pack => Kind::Data,
        FileKind::Snapshot => Kind::Snapshots,
        FileKind::Key => Kind::Keys,
        FileKind::Config => Kind::Config,
        _ => return None,
    };
    Some(Name { kind, id: LockId(id.0) })
}
