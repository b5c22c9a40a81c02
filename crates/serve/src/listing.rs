//! Lists of files, written while the folder is read: a million packs pass through a buffer of 32 KiB.

use std::{fmt::Write, io, path::Path};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{FileName, Kind};

/// restic asks for this form and takes it only under this exact name.
pub(crate) const V2: &str = "application/vnd.x.restic.rest.v2";
pub(crate) const V1: &str = "application/vnd.x.restic.rest.v1";

const BUFFER: usize = 32 << 10;

/// Starts a thread that lists a folder and gives the queue that the JSON array comes through. With `sizes`
/// in version 2 of the form (`[{"name":…,"size":…}]`), else in version 1 (`[…]`).
pub(crate) fn pieces(folder: &Path, kind: Kind, sizes: bool) -> mpsc::Receiver<io::Result<Bytes>> {
    let (send, receive) = mpsc::channel(2);
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut list = List { text: String::with_capacity(BUFFER + 256), first: true, sizes, send };
        let listed = list.add_all(&folder, kind == Kind::Data);
        // An early end without the closing bracket and a broken connection: no client takes it for whole.
        match listed {
            Ok(true) => {
                list.text.push_str(if list.first { "[]" } else { "]" });
                list.flush();
            }
            Ok(false) => {}
            Err(error) => {
                let _ = list.send.blocking_send(Err(error));
            }
        }
    });
    receive
}

struct List {
    text: String,
    first: bool,
    sizes: bool,
    send: mpsc::Sender<io::Result<Bytes>>,
}

impl List {
    /// `false`: nobody listens any more.
    fn add_all(&mut self, folder: &Path, deep: bool) -> io::Result<bool> {
        let entries = match fs_err::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if deep {
                if name.len() == 2 && entry.file_type()?.is_dir() && !self.add_all(&entry.path(), false)? {
                    return Ok(false);
                }
                continue;
            }
            let Some(name) = FileName::parse(name) else { continue };
            match entry.metadata() {
                Ok(meta) if meta.is_file() => {
                    if !self.add(name, meta.len()) {
                        return Ok(false);
                    }
                }
                Ok(_) => {}
                // A lock that vanished while we read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn add(&mut self, name: FileName, size: u64) -> bool {
        self.text.push(if std::mem::take(&mut self.first) { '[' } else { ',' });
        let _ = if self.sizes {
            write!(self.text, "{{\"name\":\"{name}\",\"size\":{size}}}")
        } else {
            write!(self.text, "\"{name}\"")
        };
        self.text.len() < BUFFER || self.flush()
    }

    fn flush(&mut self) -> bool {
        let text = std::mem::replace(&mut self.text, String::with_capacity(BUFFER + 256));
        self.send.blocking_send(Ok(Bytes::from(text))).is_ok()
    }
}
