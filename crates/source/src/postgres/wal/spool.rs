//! The folder in which log waits for its restore point.
//!
//! ```text
//! <spool>/lock                                  held by whoever streams
//! <spool>/state.json                            how far everything is durable, and what went wrong
//! <spool>/000000010000000000000007              a whole segment
//! <spool>/000000010000000000000008.partial      the one that grows
//! <spool>/00000002.history
//! <spool>/base.json                             what the newest restore point is made of
//! <spool>/past-1/                               the log since the server went back in its past
//! ```
//!
//! A server that goes back behind log that is here (a virtual machine that is put back to a snapshot) writes
//! other bytes under the same names. So each past has a folder of its own, and what was left of the one before
//! stays where it is.

use std::{
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use kuramori_model::wal::{Base, Gap, Lsn, parse_history, parse_segment, segment_name};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::Error;

/// What stands behind the name of a segment that grows.
pub(super) const PARTIAL: &str = ".partial";

/// How far the log is here, as of the last time it was made durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Of which cluster.
    pub system_identifier: String,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// The timeline that is followed.
    pub timeline: u32,
    /// Every byte from the beginning (or the last gap) to here is durable.
    pub flushed: Lsn,
    /// By the server's clock: whatever was committed before this time is durable here.
    pub until: Option<Timestamp>,
    /// Where the server's own log ends, as far as it said.
    pub server_end: Lsn,
    /// When the server was heard last, by our clock.
    pub seen: Timestamp,
    /// How much log the server keeps for the slot at most, in bytes; none for without limit.
    pub keeps: Option<u64>,
    /// Holes, oldest first.
    pub gaps: Vec<Gap>,
    /// What keeps the log from coming now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// How often the server went back behind log that was here.
    #[serde(default)]
    pub past: u32,
}

/// Why no log comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Stable code.
    pub code: String,
    /// In words.
    pub text: String,
    /// Since when, by our clock.
    pub since: Timestamp,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Spool {
    folder: PathBuf,
    /// Where the log of one past is.
    log: PathBuf,
}

/// The right to write into the folder; ends with it.
#[derive(Debug)]
pub(super) struct Alone(#[expect(dead_code, reason = "held until it is dropped")] fs_err::File);

/// A segment that grows.
#[derive(Debug)]
pub(super) struct Growing {
    pub(super) name: String,
    file: fs_err::File,
}

impl Spool {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        fs_err::create_dir_all(folder).map_err(Error::Spool)?;
        // The log holds what the tables hold.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs_err::set_permissions(folder, private).map_err(Error::Spool)?;
        Ok(Self { folder: folder.to_owned(), log: folder.to_owned() })
    }

    /// The same folder, for the log of this past.
    pub(super) fn of(&self, past: u32) -> Result<Self, Error> {
        let log = match past {
            0 => self.folder.clone(),
            past => self.folder.join(format!("past-{past}")),
        };
        if !log.is_dir() {
            fs_err::create_dir(&log).map_err(Error::Spool)?;
            sync(&self.folder)?;
        }
        Ok(Self { folder: self.folder.clone(), log })
    }

    /// Takes the folder alone; none while somebody else streams into it.
    pub(super) fn alone(&self) -> Result<Option<Alone>, Error> {
        let file = fs_err::File::create(self.folder.join("lock")).map_err(Error::Spool)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Alone(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Error::Spool(error.into())),
        }
    }

    /// How far the log is; none before the first byte.
    ///
    /// # Errors
    /// The note cannot be read.
    pub fn state(&self) -> Result<Option<State>, Error> {
        self.load("state.json")
    }

    /// The newest base backup; none before the first.
    pub fn base(&self) -> Option<Base> {
        let list: Option<super::inventory::Inventory> = self.load(super::inventory::NAME).ok()?;
        list.map(|list| list.base)
    }

    pub(super) fn set_state(&self, state: &State) -> Result<(), Error> {
        self.save("state.json", state)
    }

    /// Notes what keeps the log from coming, without touching how far it is.
    pub(super) fn trouble(&self, error: &Error, now: Timestamp) -> Result<(), Error> {
        use kuramori_model::fault::{Fault, chain};
        let Some(mut state) = self.state()? else { return Ok(()) };
        let code = error.code().to_owned();
        // Since when no log comes, whatever the reasons were one after the other.
        let since = state.trouble.as_ref().map_or(now, |old| old.since);
        state.trouble = Some(Trouble { code, text: chain(error), since });
        self.set_state(&state)
    }

    pub(crate) fn load<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let bytes = match fs_err::read(self.folder.join(name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::Spool(error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::Spool(std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{name}: {error}")))
        })
    }

    /// Durable before it has its name.
    pub(super) fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Error> {
        let json = serde_json::to_vec(value).map_err(|error| Error::Spool(error.into()))?;
        place(&self.folder, name, &json)
    }

    /// As [`Self::save`]; what had the name is kept under another one, unless that one has to stay: until a run
    /// is committed, the list that it began with is the only one that the newest restore point fits to.
    pub(crate) fn replace<T: Serialize>(
        &self,
        name: &str,
        before: &str,
        stays: bool,
        value: &T,
    ) -> Result<(), Error> {
        if !stays {
            match fs_err::rename(self.folder.join(name), self.folder.join(before)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::Spool(error));
                }
                _ => {}
            }
        }
        self.save(name, value)
    }

    /// A small file beside the segments, durable before it has its name.
    pub(super) fn place(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        place(&self.log, name, bytes)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.log.join(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.log.join(name).exists()
    }

    /// Goes on with a segment, or begins it. What is in it stays: the same bytes come again over it.
    pub(super) fn grow(&self, timeline: u32, number: u64, bytes: u64) -> Result<Growing, Error> {
        let name = segment_name(timeline, number, bytes);
        let path = self.log.join(format!("{name}{PARTIAL}"));
        // It got its name, and the note that it is whole was cut off.
        if !path.exists() && self.has(&name) {
            fs_err::rename(self.path(&name), &path).map_err(Error::Spool)?;
        }
        let file = fs_err::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(Error::Spool)?;
        Ok(Growing { name, file })
    }

    /// Gives a whole segment its name.
    pub(super) fn finish(&self, growing: &Growing) -> Result<(), Error> {
        growing.sync()?;
        let partial = self.log.join(format!("{}{PARTIAL}", growing.name));
        fs_err::rename(partial, self.log.join(&growing.name)).map_err(Error::Spool)?;
        sync(&self.log)
    }

    /// A segment that will never grow again because the log behind it is lost: filled up with zeros, where
    /// recovery ends.
    pub(super) fn close(&self, timeline: u32, at: Lsn, bytes: u64) -> Result<(), Error> {
        if at.0.is_multiple_of(bytes) {
            return Ok(());
        }
        let growing = self.grow(timeline, at.segment(bytes), bytes)?;
        growing.file.file().set_len(at.0 % bytes).map_err(Error::Spool)?;
        growing.file.file().set_len(bytes).map_err(Error::Spool)?;
        self.finish(&growing)
    }

    /// Whole segments and history files, by name.
    pub(super) fn names(&self, bytes: u64) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for entry in fs_err::read_dir(&self.log).map_err(Error::Spool)? {
            let name = entry.map_err(Error::Spool)?.file_name().to_string_lossy().into_owned();
            if parse_segment(&name, bytes).is_some() || parse_history(&name).is_some() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// A file that a committed restore point holds.
    pub(super) fn drop_file(&self, name: &str) -> Result<(), Error> {
        match fs_err::remove_file(self.log.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::Spool(error)),
            _ => Ok(()),
        }
    }
}

/// A small file, durable before it has its name.
fn place(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::Spool)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(Error::Spool)?;
    file.persist(folder.join(name)).map_err(|error| Error::Spool(error.error))?;
    sync(folder)
}

fn sync(folder: &Path) -> Result<(), Error> {
    fs_err::File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::Spool)
}

impl Growing {
    /// Whether these bytes are what is there; bytes that are not there yet are as good.
    pub(super) fn has(&self, at: u64, bytes: &[u8]) -> Result<bool, Error> {
        let mut there = vec![0; bytes.len()];
        match self.file.file().read_exact_at(&mut there, at) {
            Ok(()) => Ok(there == bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(true),
            Err(error) => Err(Error::Spool(error)),
        }
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file.file().write_all_at(bytes, at).map_err(Error::Spool)
    }

    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::Spool)
    }
}
