//! What was promised, as one JSON object per line, each with a checksum of its own; only ever appended.
//!
//! ```text
//! <sum> <json>\n     sum: FNV-1a of the line before it and of the JSON, 16 hex digits
//! ```
//!
//! A last line without its end is what a power cut leaves: it was not promised yet, and is cut away. Anything
//! else that does not fit is damage: then nothing is removed.

use std::{
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use kuramori_model::lock::{Mark, Name};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    time::Time,
};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Entry {
    /// The time went on.
    Time {
        /// Now.
        time: Time,
    },
    /// Files stay until then, in accumulated seconds.
    Keep {
        /// Whose.
        repository: String,
        /// Which.
        files: Vec<Name>,
        /// Until.
        until_s: u64,
    },
    /// About to be removed.
    Remove {
        /// Whose.
        repository: String,
        /// Which.
        files: Vec<Name>,
        /// When.
        at_s: u64,
    },
    /// What inspection found.
    Mark {
        /// Whose.
        repository: String,
        /// Which.
        snapshot: kuramori_model::lock::FileId,
        /// What.
        verdict: Mark,
    },
    /// Officers want retention shorter; counts after a delay.
    Shrink {
        /// Whose.
        repository: String,
        /// To so many days from when it counts.
        days: u32,
        /// When it counts, in accumulated seconds.
        from_s: u64,
        /// So that it is not taken twice.
        nonce: String,
    },
    /// A person has confirmed the clock.
    Confirm {
        /// Seconds by which it was off.
        skew_s: i64,
    },
}

/// The file.
#[derive(Debug)]
pub struct Ledger {
    file: fs_err::File,
    path: PathBuf,
    last: u64,
}

const START: u64 = 0xcbf2_9ce4_8422_2325;

fn sum(mut sum: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    sum
}

impl Ledger {
    /// Opens or begins it; gives all entries.
    ///
    /// # Errors
    /// [`Error::Ledger`] for damage.
    pub fn open(path: &Path) -> Result<(Self, Vec<Entry>)> {
        let mut options = fs_err::OpenOptions::new();
        let mut file = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(Error::io("open the ledger"))?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(Error::io("read the ledger"))?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let (mut last, mut entries) = (START, Vec::new());
        for (number, line) in text[..whole].lines().enumerate() {
            let bad = |why: &str| Error::Ledger { line: number + 1, why: why.to_owned() };
            let (check, json) = line.split_once(' ').ok_or_else(|| bad("it has no checksum"))?;
            last = sum(last, json.as_bytes());
            if check != format!("{last:016x}") {
                return Err(bad("it does not have its checksum"));
            }
            entries.push(serde_json::from_str(json).map_err(|error| bad(&error.to_string()))?);
        }
        file.file_mut().set_len(whole as u64).map_err(Error::io("mend the ledger"))?;
        file.seek(SeekFrom::End(0)).map_err(Error::io("read the ledger"))?;
        Ok((Self { file, path: path.to_owned(), last }, entries))
    }

    /// Adds entries; durable when it returns.
    ///
    /// # Errors
    /// [`Error::Io`]; then nothing counts.
    pub fn add(&mut self, entries: &[Entry]) -> Result<()> {
        use std::fmt::Write as _;
        let (mut last, mut text) = (self.last, String::new());
        for entry in entries {
            let json = serde_json::to_string(entry)
                .map_err(|error| Error::Io("write the ledger", std::io::Error::other(error)))?;
            last = sum(last, json.as_bytes());
            // Writing into a string cannot fail.
            let _ = writeln!(text, "{last:016x} {json}");
        }
        self.file.write_all(text.as_bytes()).map_err(Error::io("write the ledger"))?;
        self.file.file().sync_data().map_err(Error::io("write the ledger"))?;
        self.last = last;
        Ok(())
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
