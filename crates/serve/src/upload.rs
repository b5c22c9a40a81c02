//! One upload: from the network through a hash into a file that gets its name last.
//!
//! The network side hands pieces through a short queue to a thread that hashes and writes; a slow disk so
//! holds the client back. The thread gives the file its name only after the last piece came *and* the hash
//! is right *and* the bytes are durable. A queue that ends without the last word (the client went away, the
//! server is stopped) leaves nothing. A `kill -9` leaves a nameless file that the next start removes.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::digest;
use bytes::Bytes;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::{CWD, RenameFlags};
use tokio::sync::mpsc;

use crate::{
    name::File,
    shelf::{INCOMING, make, sync_folder},
};

/// What the network side hands over.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    /// The body ended where its length said it would.
    End,
}

/// How an upload ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    New,
    /// The same bytes were there already.
    Present,
}

/// How an upload ended badly; nothing of it is left.
#[derive(Debug)]
pub(crate) enum NotStored {
    /// The bytes do not have the hash that their name says.
    WrongHash,
    /// Other bytes have that name.
    Exists,
    /// There is no such repository.
    NoRepository,
    /// The disk is full.
    Full,
    /// The queue ended before the body did.
    Abandoned,
    Io(io::Error),
}

impl From<io::Error> for NotStored {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full
            }
            _ => Self::Io(error),
        }
    }
}

/// Takes an upload's pieces until the end; blocks.
pub(crate) fn store(
    repository: &Path,
    file: File,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Stored, NotStored> {
    let path = repository.join(file.path());
    if !repository.is_dir() {
        return Err(NotStored::NoRepository);
    }
    let mut growing = if path.try_exists()? { None } else { Some(Growing::new(repository)?) };
    let mut hash = digest::Context::new(&digest::SHA256);
    loop {
        match pieces.blocking_recv() {
            None => return Err(NotStored::Abandoned),
            Some(Piece::End) => break,
            Some(Piece::Data(bytes)) => {
                hash.update(&bytes);
                if let Some(growing) = &mut growing {
                    growing.write(&bytes)?;
                }
            }
        }
    }
    let hash = hash.finish();
    if file.name().is_some_and(|name| name.0 != hash.as_ref()) {
        return Err(NotStored::WrongHash);
    }
    let Some(growing) = growing else { return same(&path, hash.as_ref()) };
    if growing.finish(&path)? { Ok(Stored::New) } else { same(&path, hash.as_ref()) }
}

/// Whether a file that is there already holds bytes of this hash, and makes sure that it is durable: the
/// upload that put it there may still be on its way to the disk.
fn same(path: &Path, expected: &[u8]) -> Result<Stored, NotStored> {
    let mut file = fs_err::File::open(path)?;
    let mut hash = Hashing(digest::Context::new(&digest::SHA256));
    io::copy(&mut file, &mut hash)?;
    if hash.0.finish().as_ref() != expected {
        return Err(NotStored::Exists);
    }
    file.sync_all()?;
    path.parent().map_or(Ok(()), sync_folder)?;
    Ok(Stored::Present)
}

struct Hashing(digest::Context);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that has no name yet; removed when dropped.
struct Growing {
    path: PathBuf,
    file: Option<io::BufWriter<fs_err::File>>,
}

impl Growing {
    fn new(repository: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let folder = repository.join(INCOMING);
        make(&folder)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{}-{number}", std::process::id()));
        let mut options = fs_err::OpenOptions::new();
        options.write(true).create_new(true);
        // Written once: not even its owner opens it for writing again.
        options.mode(0o400);
        let file = options.open(&path)?;
        Ok(Self { path, file: Some(io::BufWriter::with_capacity(256 << 10, file)) })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    /// Makes the bytes durable, then gives them their name. `false`: the name is taken.
    fn finish(mut self, path: &Path) -> io::Result<bool> {
        if let Some(file) = self.file.take() {
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        }
        let folder = path.parent().unwrap_or(path);
        if !folder.is_dir() {
            make_durably(folder)?;
        }
        match rustix::fs::renameat_with(CWD, &self.path, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Ok(false),
            // A file system that cannot refuse to replace (NFS) can refuse to link.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                match fs_err::hard_link(&self.path, path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                    other => other?,
                }
            }
            Err(error) => return Err(error.into()),
        }
        sync_folder(folder)?;
        Ok(true)
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        drop(self.file.take());
        // After a rename there is nothing left to remove.
        let _ = fs_err::remove_file(&self.path);
    }
}

/// Makes a missing folder of the layout, with the one above it.
fn make_durably(folder: &Path) -> io::Result<()> {
    if let Some(above) = folder.parent() {
        make(above)?;
        make(folder)?;
        sync_folder(above)?;
        above.parent().map_or(Ok(()), sync_folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileName, Kind};

    fn put(repository: &Path, file: File, bytes: &'static [u8], end: bool) -> Result<Stored, NotStored> {
        let (send, receive) = mpsc::channel(4);
        send.try_send(Piece::Data(Bytes::from_static(bytes))).unwrap();
        if end {
            send.try_send(Piece::End).unwrap();
        }
        drop(send);
        store(repository, file, receive)
    }

    fn named(bytes: &[u8]) -> File {
        let mut name = [0; 32];
        name.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        File::Named(Kind::Data, FileName(name))
    }

    fn left(repository: &Path) -> usize {
        fs_err::read_dir(repository.join(INCOMING)).map_or(0, Iterator::count)
    }

    #[test]
    fn a_file_gets_its_name_once_and_only_when_it_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path();
        let file = named(b"one");
        let path = repository.join(file.path());

        assert!(matches!(put(repository, file, b"two", true), Err(NotStored::WrongHash)));
        assert!(matches!(put(repository, file, b"one", false), Err(NotStored::Abandoned)));
        assert!(!path.exists());
        assert_eq!(left(repository), 0);

        assert_eq!(put(repository, file, b"one", true).unwrap(), Stored::New);
        assert_eq!(fs_err::read(&path).unwrap(), b"one");
        assert_eq!(put(repository, file, b"one", true).unwrap(), Stored::Present);
        assert!(matches!(put(repository, file, b"two", true), Err(NotStored::WrongHash)));

        // Rot on the disk: the right bytes are refused rather than an existing file replaced.
        fs_err::remove_file(&path).unwrap();
        fs_err::write(&path, b"rot").unwrap();
        assert!(matches!(put(repository, file, b"one", true), Err(NotStored::Exists)));
        assert_eq!(fs_err::read(&path).unwrap(), b"rot");
        assert_eq!(left(repository), 0);
    }

    #[test]
    fn a_config_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(put(folder.path(), File::Config, b"a", true).unwrap(), Stored::New);
        assert_eq!(put(folder.path(), File::Config, b"a", true).unwrap(), Stored::Present);
        assert!(matches!(put(folder.path(), File::Config, b"b", true), Err(NotStored::Exists)));
        let nowhere = folder.path().join("nowhere");
        assert!(matches!(put(&nowhere, File::Config, b"a", true), Err(NotStored::NoRepository)));
    }
}
