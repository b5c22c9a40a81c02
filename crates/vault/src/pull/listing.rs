//! Listing one repository, and holding its `config` and keys against what was pinned.

use std::{collections::HashSet, path::PathBuf};

use kuramori_model::finding::{Finding, Severity, Value};
use kuramori_repo::store::{FileId, FileKind};

use super::{Have, Pull, about, lock, order::Frozen};
use crate::{
    error::{Error, Result},
    folder::write_small,
    puller::Source,
};

/// restic tries no more keys, so more of them keep a password from being found.
const KEYS: usize = 20;
const KEY_SIZE: u64 = 64 << 10;
const CONFIG_SIZE: u64 = 64 << 10;

impl Pull<'_> {
    /// Lists a repository and freezes what is missing here.
    pub(super) fn list(
        &self,
        name: &str,
        source: &mut dyn Source,
        findings: &mut Vec<Finding>,
    ) -> Result<Frozen> {
        let nothing = Have::default();
        let have = self.have.get(name).unwrap_or(&nothing);
        // What came before the repository had to be listed anew.
        let came = lock(&self.brought).get(name).cloned().unwrap_or_default();
        let missing = |source: &mut dyn Source, kind: FileKind, known: &HashSet<FileId>, largest: u64| {
            let (mut files, mut seen) = (Vec::new(), HashSet::new());
            let mut oversized = 0_u64;
            source.list(name, kind, &mut |id, size| {
                if size > largest || size == 0 {
                    oversized += 1;
                } else if !known.contains(&id) && !came.contains(&id) && seen.insert(id) {
                    files.push((id, size));
                }
                Ok(())
            })?;
            Ok::<_, Error>((files, oversized))
        };
        // In this order: an index that is listed names packs that are listed after it.
        let (snapshots, odd) = missing(source, FileKind::Snapshot, &have.snapshots, self.limits.document.0)?;
        let (indexes, odder) = missing(source, FileKind::Index, &have.indexes, self.limits.document.0)?;
        let (mut packs, oddest) = missing(source, FileKind::Pack, &have.packs, self.limits.pack.0)?;
        let oversized = odd + odder + oddest;
        if oversized > 0 {
            findings.push(
                about("vault.impossible-size", Severity::Alarm, "check-primary", name)
                    .with("files", Value::Number(i64::try_from(oversized).unwrap_or(i64::MAX))),
            );
        }
        self.compare_keys(name, have, source, findings)?;

        let quota = self.config.quota.get(name).map_or(self.limits.quota.0, |quota| quota.0);
        // Index files and snapshots take room like packs do, and so does what was put aside as forged.
        let documents =
            indexes.iter().chain(&snapshots).fold(have.held, |sum, (_, size)| sum.saturating_add(*size));
        let wanted = packs.iter().fold(documents, |sum, (_, size)| sum.saturating_add(*size));
        let offered = packs.iter().map(|(id, _)| (FileKind::Pack, *id));
        let offered = offered.chain(indexes.iter().map(|(id, _)| (FileKind::Index, *id)));
        let offered = offered.chain(snapshots.iter().map(|(id, _)| (FileKind::Snapshot, *id)));
        self.drop_stale(name, &offered.collect())?;
        if wanted > quota {
            findings.push(
                about("vault.quota", Severity::Alarm, "raise-quota", name)
                    .with("wanted", Value::Bytes(wanted))
                    .with("quota", Value::Bytes(quota)),
            );
            let mut sum = have.held;
            packs.retain(|(_, size)| {
                sum = sum.saturating_add(*size);
                sum <= quota
            });
            // Without all packs the rest would only look like a restore point.
            return Ok(Frozen { packs, ..Frozen::default() });
        }
        Ok(Frozen { packs, indexes, snapshots })
    }

    /// Removes cut-off transfers of files that are not offered any more: they would never be finished, and a
    /// primary that offers other names each night could fill the disk with them.
    fn drop_stale(&self, name: &str, offered: &HashSet<(FileKind, FileId)>) -> Result<()> {
        let keep: HashSet<PathBuf> =
            offered.iter().map(|(kind, id)| self.folder.partial(name, *kind, *id)).collect();
        for path in self.folder.partials(name)?.into_iter().filter(|path| !keep.contains(path)) {
            fs_err::remove_file(&path).map_err(Error::io("remove a transfer that nobody offers any more"))?;
            lock(&self.begun).remove(&path);
        }
        Ok(())
    }

    /// Takes `config` and keys of a new repository; of a known one it only looks.
    fn compare_keys(
        &self,
        name: &str,
        have: &Have,
        source: &mut dyn Source,
        findings: &mut Vec<Finding>,
    ) -> Result<()> {
        let mut keys = HashSet::new();
        let mut too_many = false;
        source.list(name, FileKind::Key, &mut |id, _| {
            too_many |= keys.len() >= 1000;
            if !too_many {
                keys.insert(id);
            }
            Ok(())
        })?;
        let config = match small(source, name, FileKind::Config, FileId::ZERO, CONFIG_SIZE) {
            Ok(bytes) => Some(bytes),
            Err(Error::Vanished(_)) => None,
            Err(other) => return Err(other),
        };
        let Some(pinned) = have.config else {
            let Some(config) = config else {
                findings.push(about("vault.no-config", Severity::Alarm, "check-primary", name));
                return Err(Error::Misbehaved(format!("has no config for `{name}`")));
            };
            if keys.is_empty() || keys.len() > KEYS || too_many {
                findings.push(about("vault.odd-keys", Severity::Alarm, "check-primary", name));
                return Err(Error::Misbehaved(format!("has {} keys for `{name}`", keys.len())));
            }
            return self.enrol(name, source, &config, &keys);
        };
        match config {
            None => findings.push(about("vault.config-missing", Severity::Alarm, "check-primary", name)),
            Some(bytes) if FileId::of(&bytes) != pinned => {
                findings.push(about("vault.config-changed", Severity::Alarm, "check-primary", name));
            }
            Some(_) => {}
        }
        if keys != have.keys {
            let count = |number: usize| Value::Number(i64::try_from(number).unwrap_or(i64::MAX));
            findings.push(
                about("vault.keys-changed", Severity::Alarm, "check-primary", name)
                    .with("added", count(keys.difference(&have.keys).count()))
                    .with("missing", count(have.keys.difference(&keys).count())),
            );
        }
        Ok(())
    }

    fn enrol(
        &self,
        name: &str,
        source: &mut dyn Source,
        config: &[u8],
        keys: &HashSet<FileId>,
    ) -> Result<()> {
        let folder = self.folder.repository(name);
        // Of an enrolment that was killed half way: nothing of it was pinned.
        if folder.join("keys").exists() {
            fs_err::remove_dir_all(folder.join("keys")).map_err(Error::io("begin the enrolment anew"))?;
        }
        for key in keys {
            let bytes = small(source, name, FileKind::Key, *key, KEY_SIZE)?;
            if FileId::of(&bytes) != *key {
                return Err(Error::Misbehaved(format!(
                    "sent a key of `{name}` whose bytes are not its name"
                )));
            }
            write_small(&folder.join("keys").join(key.to_string()), &bytes)?;
        }
        write_small(&folder.join("config"), config)?;
        let keys: Vec<FileId> = keys.iter().copied().collect();
        self.register.pin(name, FileId::of(config), &keys)
    }
}

fn small(source: &mut dyn Source, name: &str, kind: FileKind, id: FileId, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.fetch(name, kind, id, 0, limit + 1, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    if bytes.len() as u64 > limit {
        return Err(Error::Misbehaved(format!("sent a {kind} of `{name}` that is too large")));
    }
    Ok(bytes)
}
