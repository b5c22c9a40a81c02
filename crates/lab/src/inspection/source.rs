//! Departments whose files change from day to day as such files do, with the oddities of ordinary life.

use std::sync::Arc;

use kuramori_model::clock::SeededRandom;

use super::rig::{File, Files};
use crate::{
    generate::{clean::Kind, decide, pool::Pool},
    mutate::{Attack, BLOCK},
};

/// Seconds of the first day.
const START: i64 = 1_775_000_000;

/// What kind of source it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Department {
    /// Studies come, none ever changes.
    Archive,
    /// Documents, tables and pictures that people work on.
    Office,
    /// One dump a night, the last seven kept.
    Dumps,
    /// The same, encrypted by the vendor.
    Sealed,
    /// Messages that are renamed once they are processed.
    Laboratory,
    /// A vendor's own files, pictures and tables.
    Eye,
    /// Databases' files.
    Database,
}

impl Department {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Archive, Self::Office, Self::Dumps, Self::Sealed, Self::Laboratory, Self::Eye, Self::Database];

    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Office => "office",
            Self::Dumps => "dumps",
            Self::Sealed => "encrypted_dumps",
            Self::Laboratory => "laboratory",
            Self::Eye => "eye",
            Self::Database => "database",
        }
    }
}

/// A source with its own history.
#[derive(Debug)]
pub struct Source<'a> {
    /// What it is.
    pub department: Department,
    pool: &'a Pool,
    seed: u64,
    day: u64,
    next: u64,
    random: SeededRandom,
    /// What it holds today.
    pub(super) files: Files,
}

impl<'a> Source<'a> {
    /// As it is on the first day.
    pub fn new(department: Department, pool: &'a Pool, seed: u64) -> Self {
        let random = SeededRandom::new(decide(seed, 95, department as u64));
        let mut source = Self { department, pool, seed, day: 0, next: 0, random, files: Files::new() };
        match department {
            Department::Archive => source.studies(40),
            Department::Office => {
                for kind in [Kind::Office, Kind::Csv, Kind::Png, Kind::Jpeg, Kind::Xml] {
                    for _ in 0..25 {
                        source.add(kind, "共有");
                    }
                }
            }
            Department::Dumps | Department::Sealed => {
                for _ in 0..7 {
                    source.dump();
                }
            }
            Department::Laboratory => {
                for _ in 0..90 {
                    source.message();
                }
            }
            Department::Eye => {
                for kind in [Kind::Vendor, Kind::Jpeg, Kind::Csv] {
                    for _ in 0..40 {
                        source.add(kind, "検査");
                    }
                }
            }
            Department::Database => {
                for kind in [Kind::Pages, Kind::Sqlite] {
                    for _ in 0..15 {
                        source.add(kind, "data");
                    }
                }
            }
        }
        source
    }

    fn now(&self) -> i64 {
        START
            + i64::try_from(self.day).unwrap_or(0) * 86_400
            + i64::try_from(self.random.below(36_000)).unwrap_or(0)
    }

    fn put(&mut self, path: String, bytes: Vec<u8>) {
        let time = self.now();
        // Once in 2,000 a copy is cut off in the middle; once in 20,000 it holds two versions.
        let bytes = match self.random.below(20_000) {
            0..10 => bytes[..bytes.len() / 2].to_vec(),
            10 => match self.files.get(&path) {
                Some(old) if old.bytes.len() > 2000 && bytes.len() > 2000 => {
                    [&bytes[..1000], &old.bytes[1000..]].concat()
                }
                _ => bytes,
            },
            _ => bytes,
        };
        self.files.insert(path, File { bytes: Arc::new(bytes), time });
    }

    fn fresh(&mut self, kind: Kind) -> Vec<u8> {
        self.next += 1;
        kind.file(self.pool, self.seed, self.next)
    }

    fn add(&mut self, kind: Kind, folder: &str) {
        let bytes = self.fresh(kind);
        let path = format!("{folder}/{}月/文書{:05}.{}", 1 + self.next % 4, self.next, kind.extension());
        self.put(path, bytes);
    }

    fn studies(&mut self, count: u64) {
        for _ in 0..count {
            let kind = [Kind::Dicom, Kind::Dicom, Kind::DicomJpegLs, Kind::DicomJpeg]
                [usize::try_from(self.next % 4).unwrap_or(0)];
            let bytes = self.fresh(kind);
            let path =
                format!("storage/{:02x}/{:08x}.dcm", self.next % 16, decide(self.seed, 96, self.next) >> 32);
            self.put(path, bytes);
        }
    }

    fn dump(&mut self) {
        let kind = match self.department {
            Department::Sealed => Kind::Sealed,
            _ => Kind::Gzip,
        };
        let bytes = self.fresh(kind);
        self.put(format!("dump/billing-{:05}.{}", 10_000 + self.next, kind.extension()), bytes);
    }

    fn message(&mut self) {
        self.next += 1;
        let text = crate::generate::clean::csv(&self.random, 60);
        // Public lists of extensions hold `.lab`, `.bin` and `.mp3`.
        let extension = ["lab", "hl7", "bin", "mp3"][usize::try_from(self.next % 4).unwrap_or(0)];
        self.put(format!("in/{:06}.{extension}", self.next), text.into_bytes());
    }

    fn rewrite(&mut self, share: u64) {
        let paths: Vec<String> = self.files.keys().cloned().collect();
        for path in paths {
            if self.random.below(1000) < share
                && let Some(kind) =
                    Kind::ALL.into_iter().find(|kind| path.ends_with(&format!(".{}", kind.extension())))
            {
                let bytes = self.fresh(kind);
                self.put(path, bytes);
            }
        }
    }

    /// The next day.
    pub fn pass(&mut self) {
        self.day += 1;
        match self.department {
            Department::Archive => self.studies(3 + self.random.below(6)),
            Department::Office => {
                self.rewrite(40);
                for kind in [Kind::Office, Kind::Csv, Kind::Xml] {
                    self.add(kind, "共有");
                }
                self.oddities();
            }
            Department::Dumps | Department::Sealed => {
                self.dump();
                let first = self.files.keys().next().cloned();
                if let Some(first) = first.filter(|_| self.files.len() > 7) {
                    self.files.remove(&first);
                }
            }
            Department::Laboratory => self.messages(),
            Department::Eye => {
                for kind in [Kind::Vendor, Kind::Jpeg, Kind::Csv] {
                    self.add(kind, "検査");
                    self.add(kind, "検査");
                }
                self.oddities();
            }
            Department::Database => self.rewrite(600),
        }
    }

    /// Yesterday's are done, last week's go, new ones come.
    fn messages(&mut self) {
        let open: Vec<String> = self.files.keys().filter(|path| !is_done(path)).take(25).cloned().collect();
        for path in open {
            if let Some(file) = self.files.remove(&path) {
                self.files.insert(format!("{path}.done"), file);
            }
        }
        let done: Vec<String> = self.files.keys().filter(|path| is_done(path)).cloned().collect();
        for path in done.iter().take(done.len().saturating_sub(75)) {
            self.files.remove(path);
        }
        for _ in 0..25 {
            self.message();
        }
    }

    /// What happens now and then and is nobody's attack.
    fn oddities(&mut self) {
        // A folder is moved.
        if self.random.below(60) == 0 {
            let moving: Vec<String> =
                self.files.keys().filter(|path| path.contains("/2月/")).cloned().collect();
            for path in moving {
                if let Some(file) = self.files.remove(&path) {
                    self.files.insert(path.replace("/2月/", "/保管/2月/"), file);
                }
            }
        }
        // A vendor's update writes a third of all documents anew, and they are whole.
        if self.random.below(100) == 0 {
            self.rewrite(330);
        }
        // Somebody clears out.
        if self.random.below(50) == 0 {
            let old: Vec<String> =
                self.files.keys().filter(|path| path.contains("/1月/")).take(8).cloned().collect();
            for path in old {
                self.files.remove(&path);
            }
        }
        // Somebody imports much.
        if self.random.below(50) == 0 {
            for _ in 0..60 {
                self.add(Kind::Csv, "取込");
            }
        }
        // Somebody sends an encrypted file, or one of a program that nobody knows.
        if self.random.below(30) == 0 {
            let kind = if self.random.below(2) == 0 { Kind::Sealed } else { Kind::Vendor };
            self.add(kind, "送付");
        }
    }

    /// Attacks files; gives how many. `share` is in thousandths of all files, at least one.
    pub fn attack(&mut self, attack: Attack, share: u64, seed: u64) -> crate::Result<u64> {
        let random = SeededRandom::new(decide(seed, 97, self.day));
        // What spares the first block leaves files of one block alone.
        let least = if attack == Attack::HeaderSpared { BLOCK } else { 0 };
        let fits = |(path, file): &(&String, &File)| {
            path.strip_suffix("locked").is_none() && file.bytes.len() > least
        };
        let mut paths: Vec<String> = self.files.iter().filter(fits).map(|(path, _)| path.clone()).collect();
        // In an order of its own, as worms take them.
        paths.sort_by_key(|path| path.bytes().fold(seed, |sum, byte| decide(sum, 98, u64::from(byte))));
        let count = (paths.len() as u64 * share).div_ceil(1000).max(1);
        for path in paths.into_iter().take(usize::try_from(count).unwrap_or(usize::MAX)) {
            let Some(file) = self.files.remove(&path) else { continue };
            let bytes = attack.bytes(file.bytes.to_vec(), &random)?;
            let time = if attack.keeps_time() { file.time } else { self.now() };
            self.files.insert(
                format!("{path}{}", attack.ending().unwrap_or_default()),
                File { bytes: Arc::new(bytes), time },
            );
        }
        Ok(count)
    }
}

/// Whether a message was processed: its own program writes the ending so and in no other way.
fn is_done(path: &str) -> bool {
    path.strip_suffix("done").is_some_and(|rest| rest.ends_with('.'))
}
