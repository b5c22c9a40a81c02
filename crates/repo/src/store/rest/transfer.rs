//! Bytes on their way: parts of files, uploads, comparing.

use std::{
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    sync::Arc,
};

use aws_lc_rs::digest;
use reqwest::{
    Method, StatusCode,
    header::{CONTENT_RANGE, HeaderMap, RANGE},
};

use super::{
    Brake, RestOptions, RestStore,
    exchange::{Tried, again},
};
use crate::{
    Cancel, Error, Result,
    error::file_name,
    store::{FileId, FileKind, Payload, Store},
};

/// How far a download has come.
pub(super) struct Taken {
    pub(super) position: u64,
    /// The file's size, once an answer has told it.
    pub(super) size: Option<u64>,
}

impl RestStore {
    /// Asks for everything from where the download stands, once.
    pub(super) fn fetch_once(
        &self,
        kind: FileKind,
        id: FileId,
        out: &mut dyn Write,
        taken: &mut Taken,
        action: &str,
    ) -> Tried<()> {
        let start = taken.position;
        let mut request = self.request(Method::GET, self.url(kind, id)?);
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        let response = self.send(request)?;
        let size = match response.status() {
            StatusCode::OK if start == 0 => response.content_length(),
            StatusCode::PARTIAL_CONTENT if start > 0 => match range(response.headers()) {
                Some((first, last, size)) if first == start && last + 1 == size => Some(size),
                _ => return Err(self.remote("it sends another part than was asked for", action).into()),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => match total(response.headers()) {
                Some(size) if size == start => return Ok(()),
                _ => return Err(Error::damaged(kind, id, format!("it ends before byte {start}")).into()),
            },
            StatusCode::OK => return Err(self.remote("it sends more than was asked for", action).into()),
            _ => return Err(self.unfit(&response, kind, id, action)),
        };
        let Some(size) = size else { return Err(self.remote("it does not say the length", action).into()) };
        if taken.size.is_some_and(|before| before != size) {
            return Err(Error::damaged(kind, id, "its size changed while it was fetched").into());
        }
        taken.size = Some(size);
        // Counted where it is written: after a break in the middle the next try goes on from there.
        let mut counting = Counting { out, position: &mut taken.position };
        self.pour(&mut response.take(size - start), &mut counting)?;
        if taken.position == size {
            Ok(())
        } else {
            Err(again(io::Error::from(io::ErrorKind::UnexpectedEof)))
        }
    }
}

struct Counting<'a> {
    out: &'a mut dyn Write,
    position: &'a mut u64,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        *self.position += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// `Content-Range: bytes first-last/size`.
pub(super) fn range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let (part, size) = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let (first, last, size) = (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first <= last && last < size).then_some((first, last, size))
}

/// `Content-Range: bytes */size`.
pub(super) fn total(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes */")?.parse().ok()
}

/// Whether the server's file holds these bytes.
pub(super) fn same(store: &RestStore, kind: FileKind, id: FileId, payload: Payload<'_>) -> Result<bool> {
    if store.size(kind, id)? != payload.len() {
        return Ok(false);
    }
    let mut theirs = Hashing::default();
    store.fetch_to(kind, id, &mut theirs, 0)?;
    let mut ours = Hashing::default();
    io::copy(&mut payload.reader(), &mut ours)
        .map_err(|error| Error::io("read", file_name(kind, id), error))?;
    Ok(theirs.0.finish().as_ref() == ours.0.finish().as_ref())
}

struct Hashing(digest::Context);

impl Default for Hashing {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An upload's body. It owns what it reads from, since the HTTP client reads on a thread of its own: small
/// files are copied, a pack's spool file is opened once more.
pub(super) struct Outgoing {
    from: From,
    position: u64,
    brake: Arc<dyn Brake>,
    cancel: Cancel,
}

enum From {
    Bytes(Vec<u8>),
    File(std::fs::File),
}

impl Outgoing {
    pub(super) fn new(payload: Payload<'_>, options: &RestOptions) -> Result<Self> {
        let from = match payload {
            Payload::Bytes(bytes) => From::Bytes(bytes.to_vec()),
            Payload::Spool(spool) => From::File(
                spool.file().file().try_clone().map_err(|error| Error::io("read", "a spool file", error))?,
            ),
        };
        Ok(Self { from, position: 0, brake: options.brake.clone(), cancel: options.cancel.clone() })
    }
}

impl Read for Outgoing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        let got = match &self.from {
            From::Bytes(bytes) => {
                let start = usize::try_from(self.position).unwrap_or(usize::MAX).min(bytes.len());
                let got = buffer.len().min(bytes.len() - start);
                buffer[..got].copy_from_slice(&bytes[start..start + got]);
                got
            }
            From::File(file) => file.read_at(buffer, self.position)?,
        };
        self.position += got as u64;
        self.brake.pass(got as u64);
        Ok(got)
    }
}
