//! What every archive can do for us that tells no sizes beforehand, and the place where a study waits until all
//! of it is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::fs::FileExt,
};

use aws_lc_rs::digest::{Context, SHA256};
use jiff::civil::Date;

use super::element;
use crate::Error;

/// A study as an archive lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) uid: String,
    /// How many instances the archive says it has, if it says so.
    pub(super) said: Option<u64>,
}

/// The instances of a study.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// SOP Instance UID, with its series.
    pub(super) instances: BTreeMap<String, String>,
    /// Kinds, where the archive names them.
    pub(super) classes: BTreeSet<String>,
    pub(super) modalities: BTreeSet<String>,
    /// Why there may be more: the archive ended a list early, or refused it. A list that was cut is never read as
    /// "the rest was deleted".
    pub(super) cut: Option<String>,
}

/// Takes pictures as they come.
pub(super) trait Fetch {
    /// A picture begins; one of the same name that was cut is thrown away.
    fn begin(&mut self, sop: &str) -> Result<(), Error>;
    /// More of it.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error>;
    /// It is whole.
    fn end(&mut self, sop: &str) -> Result<(), Error>;
    /// Whether it came already.
    fn has(&self, sop: &str) -> bool;
}

/// An archive that is asked what it has and gives it picture by picture.
pub(super) trait Archive {
    /// Its name and version, as far as it tells.
    fn about(&mut self) -> Result<(String, String), Error>;
    /// Its studies of some days, or of all, by name; and whether the archive itself says that these are all.
    fn studies(&mut self, days: Option<(Date, Date)>) -> Result<(Vec<(String, Listed)>, bool), Error>;
    /// It cannot be made to name them all.
    fn too_many(&self, days: &str) -> Error;
    /// One study, asked for by its name; none only where the archive says that it has no such study.
    fn study(&mut self, uid: &str) -> Result<Option<Listed>, Error>;
    /// What a study consists of.
    fn instances(&mut self, study: &str) -> Result<Listing, Error>;
    /// Gets what is listed; gives what did not come.
    fn fetch(
        &mut self,
        study: &str,
        listing: &Listing,
        take: &mut dyn Fetch,
    ) -> Result<BTreeSet<String>, Error>;
    /// Stores a picture; only ever called to give a backup back.
    fn store(&mut self, sop: &str, file: &[u8]) -> Result<(), Error>;
}

/// A picture in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spooled {
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) sha256: String,
}

/// As much of a picture as is looked at for its name.
const HEAD: usize = 64 << 10;

/// A nameless file that holds one study.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    end: u64,
    begun: Option<Begun>,
    pub(super) have: BTreeMap<String, Spooled>,
    /// Pictures that say of themselves that they are another one.
    pub(super) wrong: BTreeMap<String, String>,
}

struct Begun {
    offset: u64,
    sum: Context,
    head: Vec<u8>,
}

impl std::fmt::Debug for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begun").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Spool {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self {
            file: tempfile::tempfile().map_err(Error::Start)?,
            end: 0,
            begun: None,
            have: BTreeMap::new(),
            wrong: BTreeMap::new(),
        })
    }

    /// Empty for the next study.
    pub(super) fn clear(&mut self) -> Result<(), Error> {
        self.file.set_len(0).map_err(Error::Start)?;
        (self.end, self.begun) = (0, None);
        self.have.clear();
        self.wrong.clear();
        Ok(())
    }

    /// Adds bytes that we had before.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<u64, Error> {
        let offset = self.end;
        self.append(bytes)?;
        Ok(offset)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(bytes, self.end).map_err(Error::Start)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// A whole picture; only for those that fit into memory.
    pub(super) fn whole(&self, spooled: &Spooled) -> Result<Vec<u8>, Error> {
        let length = usize::try_from(spooled.size).map_err(|_| Error::Manifest("too large".into()))?;
        let mut bytes = vec![0; length];
        self.read(&mut bytes, spooled.offset).map_err(Error::Start)?;
        Ok(bytes)
    }
}

impl Fetch for Spool {
    fn begin(&mut self, _: &str) -> Result<(), Error> {
        if let Some(cut) = self.begun.take() {
            self.end = cut.offset;
        }
        self.begun = Some(Begun { offset: self.end, sum: Context::new(&SHA256), head: Vec::new() });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.append(bytes)?;
        if let Some(begun) = &mut self.begun {
            begun.sum.update(bytes);
            let room = HEAD.saturating_sub(begun.head.len()).min(bytes.len());
            begun.head.extend(&bytes[..room]);
        }
        Ok(())
    }

    fn end(&mut self, sop: &str) -> Result<(), Error> {
        let Some(Begun { offset, sum, head }) = self.begun.take() else { return Ok(()) };
        if let Some((_, named)) = element::identity(&head)
            && named != sop
        {
            self.end = offset;
            self.wrong.insert(sop.to_owned(), format!("the archive sent `{named}` under this UID"));
            return Ok(());
        }
        let size = self.end - offset;
        self.have.insert(sop.to_owned(), Spooled { offset, size, sha256: hex::encode(sum.finish()) });
        Ok(())
    }

    fn has(&self, sop: &str) -> bool {
        self.have.contains_key(sop)
    }
}
