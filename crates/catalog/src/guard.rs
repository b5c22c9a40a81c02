//! One server per SQLite file: an advisory lock on a file beside it, which the kernel drops with the
//! process, so that a crash leaves nothing behind. The file names its holder for the error message.

use std::{
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use fs_err::{File, OpenOptions};
use rustix::fs::FlockOperation;

use crate::{CatalogError, Result};

#[derive(Debug)]
pub(crate) struct Guard {
    _file: File,
}

impl Guard {
    pub(crate) fn take(database: &Path) -> Result<Self> {
        let path = beside(database);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match rustix::fs::flock(file.file(), FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                let mut words = holder.split_whitespace();
                let mut word = || words.next().unwrap_or("?").to_owned();
                return Err(CatalogError::SecondServer {
                    path: database.to_owned(),
                    pid: word(),
                    host: word(),
                });
            }
            Err(error) => return Err(CatalogError::Io(error.into())),
        }
        let host = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        file.file().set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{} {}", std::process::id(), host.trim())?;
        file.sync_all()?;
        Ok(Self { _file: file })
    }
}

fn beside(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}
