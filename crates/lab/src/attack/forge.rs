//! What an attacker with root on the primary does to repositories, so that a careless copy of them would
//! take the poison along.
//!
//! A repository's folder holds `config`, `keys/`, `index/`, `snapshots/` and `data/xx/`; all files but
//! `config` are named by the SHA-256 of their content.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use kuramori_model::clock::Random;
use serde::{Deserialize, Serialize};

use super::{insider::Sealed, scope::files};
use crate::error::Result;

/// Keys that open nothing, put before whoever tries one after the other.
const JUNK_KEYS: usize = 40;

/// What was done to one repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forged {
    /// The repository.
    pub repository: PathBuf,
    /// Packs, indexes and snapshots deleted.
    pub deleted: u64,
    /// Packs whose content is now garbage of the same length.
    pub overwritten: u64,
    /// Packs into which bytes of another pack were transplanted.
    pub transplanted: u64,
    /// Key files that exchanged their contents.
    pub keys_swapped: u64,
    /// `config` is gone.
    pub config_deleted: bool,
    /// New packs of garbage, each under its true SHA-256.
    pub garbage_packs: u64,
    /// New packs joined from pieces of real ones, each under its true SHA-256.
    pub joined_packs: u64,
    /// New index files, of garbage or changed, each under its true SHA-256.
    pub wrong_indexes: u64,
    /// New keys that open nothing.
    pub junk_keys: u64,
    /// What was invented with the repository's own password.
    pub sealed: Sealed,
    /// Files that withstood (immutable ones).
    pub withstood: u64,
}

impl Forged {
    /// Files that were there and are now gone or wrong.
    pub fn destroyed(&self) -> u64 {
        self.deleted
            + self.overwritten
            + self.transplanted
            + self.keys_swapped
            + u64::from(self.config_deleted)
    }

    /// Files that were not there.
    pub fn invented(&self) -> u64 {
        self.garbage_packs + self.joined_packs + self.wrong_indexes + self.junk_keys + self.sealed.files()
    }
}

/// Every repository below a folder.
pub(super) fn find(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if ["keys", "data", "index"].iter().all(|name| folder.join(name).is_dir()) {
        found.push(folder.to_owned());
        return Ok(found);
    }
    let mut entries = fs_err::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs_err::DirEntry::file_name);
    for entry in entries {
        if entry.file_type()?.is_dir() {
            found.extend(find(&entry.path())?);
        }
    }
    Ok(found)
}

struct Forger<'a> {
    folder: &'a Path,
    random: &'a dyn Random,
    done: Forged,
}

/// Destroys and forges in one repository.
pub(super) fn repository(folder: &Path, random: &dyn Random) -> Result<Forged> {
    let done = Forged { repository: folder.to_owned(), ..Forged::default() };
    let mut forger = Forger { folder, random, done };
    forger.invent()?;
    forger.destroy()?;
    Ok(forger.done)
}

impl Forger<'_> {
    fn list(&self, kind: &str) -> Result<Vec<PathBuf>> {
        let folder = self.folder.join(kind);
        if folder.is_dir() { files(&folder) } else { Ok(Vec::new()) }
    }

    fn garbage(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.random.fill(&mut bytes);
        bytes
    }

    /// Writes a file under its own SHA-256, as if a writer of ours had.
    fn plant(&self, kind: &str, bytes: &[u8]) -> Result<()> {
        let name = hex::encode(digest(&SHA256, bytes));
        let folder =
            if kind == "data" { self.folder.join(kind).join(&name[..2]) } else { self.folder.join(kind) };
        fs_err::create_dir_all(&folder)?;
        Ok(fs_err::write(folder.join(name), bytes)?)
    }

    fn invent(&mut self) -> Result<()> {
        let packs = self.list("data")?;
        for length in [1_000, 70_000, 4 << 20] {
            self.plant("data", &self.garbage(length))?;
            self.done.garbage_packs += 1;
        }
        for pair in packs.chunks_exact(2).take(4) {
            let (one, other) = (fs_err::read(&pair[0])?, fs_err::read(&pair[1])?);
            // The header of a pack stands at its end: one pack's blobs under another's header.
            let joined = [&one[..one.len() / 2], &other[other.len() / 2..]].concat();
            self.plant("data", &joined)?;
            self.done.joined_packs += 1;
        }
        self.plant("index", &self.garbage(3_000))?;
        self.done.wrong_indexes += 1;
        for index in self.list("index")?.into_iter().take(2) {
            let mut bytes = fs_err::read(&index)?;
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 0x55;
                self.plant("index", &bytes)?;
                self.done.wrong_indexes += 1;
            }
        }
        for number in 0..JUNK_KEYS {
            let key = serde_json::json!({
                "hostname": "srv", "username": "root", "kdf": "scrypt", "N": 32768, "r": 8, "p": 1,
                "created": format!("2026-11-22T03:{number:02}:00.000000000+09:00"),
                "data": BASE64_STANDARD.encode(self.garbage(160)),
                "salt": BASE64_STANDARD.encode(self.garbage(64)),
            });
            self.plant("keys", key.to_string().as_bytes())?;
            self.done.junk_keys += 1;
        }
        Ok(())
    }

    fn destroy(&mut self) -> Result<()> {
        let packs = self.list("data")?;
        for (number, pack) in packs.iter().enumerate() {
            let outcome = match number % 3 {
                0 => fs_err::remove_file(pack).map(|()| self.done.deleted += 1),
                1 => self.overwrite(pack).map(|()| self.done.overwritten += 1),
                _ => Self::transplant(&packs[number - 1], pack).map(|()| self.done.transplanted += 1),
            };
            self.done.withstood += u64::from(outcome.is_err());
        }
        for kind in ["index", "snapshots"] {
            for file in self.list(kind)?.iter().step_by(2) {
                let outcome = fs_err::remove_file(file).map(|()| self.done.deleted += 1);
                self.done.withstood += u64::from(outcome.is_err());
            }
        }
        let config = self.folder.join("config");
        if config.exists() {
            self.done.config_deleted = fs_err::remove_file(&config).is_ok();
            self.done.withstood += u64::from(!self.done.config_deleted);
        }
        Ok(())
    }

    fn overwrite(&self, pack: &Path) -> std::io::Result<()> {
        let length = usize::try_from(fs_err::metadata(pack)?.len()).unwrap_or(0);
        replace(pack, &self.garbage(length))
    }

    fn transplant(from: &Path, into: &Path) -> std::io::Result<()> {
        let (from, mut bytes) = (fs_err::read(from)?, fs_err::read(into)?);
        let length = from.len().min(bytes.len()) / 2;
        bytes[..length].copy_from_slice(&from[from.len() - length..]);
        replace(into, &bytes)
    }
}

/// Writes over a file even where its mode forbids that; root minds no mode, an immutable file minds root.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs_err::write(path, bytes)
}

/// Lets key files exchange their contents: within a repository that has two, else with the one before.
pub(super) fn swap_keys_between(all: &mut [Forged]) -> Result<()> {
    let real = |done: &Forged| -> Result<Vec<PathBuf>> {
        let mut keys = Vec::new();
        for path in files(&done.repository.join("keys"))? {
            // The junk is told from the real by what it promises to hold.
            let text = fs_err::read_to_string(&path)?;
            if !text.contains("2026-11-22T03:") {
                keys.push(path);
            }
        }
        Ok(keys)
    };
    let mut lonely: Option<(usize, PathBuf)> = None;
    for number in 0..all.len() {
        let keys = real(&all[number])?;
        let mut pairs = keys.chunks_exact(2);
        for pair in &mut pairs {
            swap(&pair[0], &pair[1])?;
            all[number].keys_swapped += 2;
        }
        if let [single] = pairs.remainder() {
            match lonely.take() {
                Some((other, path)) => {
                    swap(&path, single)?;
                    all[other].keys_swapped += 1;
                    all[number].keys_swapped += 1;
                }
                None => lonely = Some((number, single.clone())),
            }
        }
    }
    Ok(())
}

fn swap(one: &Path, other: &Path) -> Result<()> {
    let (first, second) = (fs_err::read(one)?, fs_err::read(other)?);
    replace(one, &second)?;
    Ok(replace(other, &first)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kuramori_model::clock::SeededRandom;

    #[test]
    fn destruction_and_forgery_are_counted_and_named_by_their_hash() {
        let folder = tempfile::tempdir().unwrap();
        let random = SeededRandom::new(3);
        for name in ["one", "two"] {
            let repository = folder.path().join(name);
            let forger = Forger { folder: &repository, random: &random, done: Forged::default() };
            for kind in ["data", "index", "snapshots", "keys"] {
                for _ in 0..if kind == "data" { 9 } else { 1 } {
                    forger.plant(kind, &hex::encode(forger.garbage(5_000)).into_bytes()).unwrap();
                }
            }
            fs_err::write(repository.join("config"), "config").unwrap();
        }
        let found = find(folder.path()).unwrap();
        assert_eq!(found.len(), 2);
        let mut done: Vec<Forged> = found.iter().map(|folder| repository(folder, &random).unwrap()).collect();
        swap_keys_between(&mut done).unwrap();
        for one in &done {
            assert_eq!((one.junk_keys, one.keys_swapped, one.garbage_packs), (40, 1, 3));
            assert!(
                one.config_deleted && one.deleted > 3 && one.overwritten > 3 && one.transplanted > 3,
                "{one:?}"
            );
            let keys = files(&one.repository.join("keys")).unwrap();
            assert_eq!(keys.len(), 41);
            let honest = keys.iter().filter(|path| {
                let sum = hex::encode(digest(&SHA256, &fs_err::read(path).unwrap()));
                path.file_name().unwrap().to_string_lossy() == sum
            });
            assert_eq!(honest.count(), 40, "the swapped one has another's content");
        }
    }
}
