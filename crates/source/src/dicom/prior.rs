//! What the previous restore point has of a study, and what came of a picture that was changed under its name.
//!
//! A UID names one picture for ever (PS3.5, 9). An archive that has another one under it was changed by mistake,
//! or by somebody who hides something: the new one is taken, the old one stays beside it in the same bundle from
//! then on, and the report says so.

use std::collections::BTreeMap;

use kuramori_model::tree::{Earlier, Sink, TreePath};

use super::{
    archive::{Spool, Spooled},
    bundle::{BLOCK, Digests, FORMAT, Instance, Row, Table, padded},
    element,
};
use crate::{Error, report::Replaced};

/// A table is never larger.
const TABLE: usize = 64 << 20;
/// Larger pictures are compared by their digests alone.
const LOOKED_INTO: u64 = 256 << 20;
/// Bytes that are taken at once.
const PIECE: usize = 4 << 20;

/// An instance of the previous restore point.
#[derive(Debug, Clone)]
pub(super) struct Known {
    path: TreePath,
    at: u64,
    pub(super) row: Row,
    pub(super) sha256: String,
}

/// A study as the previous restore point has it.
#[derive(Debug)]
pub(super) struct Prior {
    pub(super) parts: Vec<(Earlier, Table, Vec<String>)>,
    /// What the archive had then.
    pub(super) now: BTreeMap<String, Known>,
    /// What it had before that.
    pub(super) was: Vec<Known>,
}

/// The name of a study's file.
pub(super) fn part_path(folder: &TreePath, number: u32) -> Result<TreePath, Error> {
    let name = format!("part-{number:03}.tar");
    folder.join(name.as_bytes()).map_err(|error| Error::Config(error.to_string()))
}

/// One member's content, by its header.
fn member(sink: &mut dyn Sink, path: &TreePath, at: u64, name: &[u8]) -> Option<Vec<u8>> {
    let head = sink.earlier_content(path, at, usize::try_from(BLOCK).ok()?)?;
    if !head.starts_with(name) {
        return None;
    }
    let digits = std::str::from_utf8(head.get(124..135)?).ok()?;
    let size =
        usize::from_str_radix(digits.trim_matches(['\0', ' ']), 8).ok().filter(|size| *size <= TABLE)?;
    sink.earlier_content(path, at + BLOCK, size)
}

impl Prior {
    /// Reads the tables of a study's files; none if there are none that can be read.
    pub(super) fn load(sink: &mut dyn Sink, folder: &TreePath) -> Result<Option<Self>, Error> {
        let mut prior = Self { parts: Vec::new(), now: BTreeMap::new(), was: Vec::new() };
        for number in 0.. {
            let path = part_path(folder, number)?;
            let Some(earlier) = sink.earlier(&path) else { break };
            let Some((table, digests, base)) = tables(sink, &path) else { return Ok(None) };
            if table.format != FORMAT || table.instances.len() != digests.len() {
                return Ok(None);
            }
            for (row, sha256) in table.instances.iter().zip(&digests) {
                let known = Known {
                    path: path.clone(),
                    at: base + row.offset,
                    row: row.clone(),
                    sha256: sha256.clone(),
                };
                if row.was {
                    prior.was.push(known);
                } else {
                    prior.now.insert(row.sop.clone(), known);
                }
            }
            prior.parts.push((earlier, table, digests));
        }
        Ok((!prior.parts.is_empty()).then_some(prior))
    }

    /// What was kept under these names before goes on being kept.
    pub(super) fn carry(
        &self,
        sink: &mut dyn Sink,
        instances: &mut Vec<Instance>,
        spool: &mut Spool,
    ) -> Result<(), Error> {
        let names: Vec<String> = instances.iter().map(|instance| instance.sop.clone()).collect();
        for known in self.was.iter().filter(|known| names.contains(&known.row.sop)) {
            instances.extend(known.spool(sink, spool)?);
        }
        Ok(())
    }

    /// What the archive did not give goes on being kept, too, marked as such: so it is asked for in each run. Gives
    /// the number.
    pub(super) fn hold(
        &self,
        gone: &dyn Fn(&str) -> bool,
        sink: &mut dyn Sink,
        instances: &mut Vec<Instance>,
        spool: &mut Spool,
    ) -> Result<usize, Error> {
        let mut held = 0;
        for (sop, known) in &self.now {
            if gone(sop)
                && let Some(before) = known.spool(sink, spool)?
            {
                instances.push(Instance { id: sop.clone(), was: None, carried: true, ..before });
                held += 1;
            }
        }
        Ok(held)
    }
}

fn tables(sink: &mut dyn Sink, path: &TreePath) -> Option<(Table, Vec<String>, u64)> {
    let table = member(sink, path, 0, b"offsets.json\0")?;
    let base = BLOCK + padded(table.len() as u64);
    let table: Table = serde_json::from_slice(&table).ok()?;
    let end = table.instances.last().map_or(0, |row| row.offset + padded(row.size));
    let digests = member(sink, path, base + end, b"digests.json\0")?;
    let digests: Digests = serde_json::from_slice(&digests).ok()?;
    Some((table, digests.sha256, base))
}

impl Known {
    /// Puts it into the spool, as what was before. None if it cannot be read any more.
    pub(super) fn spool(&self, sink: &mut dyn Sink, spool: &mut Spool) -> Result<Option<Instance>, Error> {
        let (mut at, mut left, mut first) = (self.at, self.row.size, None);
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let Some(bytes) = sink.earlier_content(&self.path, at, length) else { return Ok(None) };
            if bytes.len() != length {
                return Ok(None);
            }
            let offset = spool.add(&bytes)?;
            first.get_or_insert(offset);
            (at, left) = (at + length as u64, left - length as u64);
        }
        Ok(Some(Instance {
            id: self.sha256.clone(),
            sop: self.row.sop.clone(),
            series: self.row.series.clone(),
            size: self.row.size,
            content: self.sha256.clone(),
            marked: false,
            spooled: Some(first.unwrap_or(0)),
            was: Some(self.sha256.clone()),
            carried: false,
        }))
    }

    /// Whether something else is in the archive now. What was only written in another way is the same.
    pub(super) fn differs(
        &self,
        sha256: &str,
        now: &dyn Fn() -> Option<Vec<u8>>,
        sink: &mut dyn Sink,
    ) -> bool {
        if self.sha256 == sha256 {
            return false;
        }
        if self.row.size > LOOKED_INTO {
            return true;
        }
        let length = usize::try_from(self.row.size).unwrap_or(0);
        let then = sink.earlier_content(&self.path, self.at, length).and_then(|file| element::content(&file));
        let now = now().and_then(|file| element::content(&file));
        then.is_none() || then != now
    }

    /// What the report says of it.
    pub(super) fn replaced(&self, study: &str, now: &str) -> Replaced {
        Replaced {
            study: study.to_owned(),
            sop: self.row.sop.clone(),
            was: self.sha256.clone(),
            now: now.to_owned(),
        }
    }
}

/// Compares what came with what was there: adds the old ones that differ, and says which.
pub(super) fn replaced(
    prior: &Prior,
    study: &str,
    came: &BTreeMap<String, Spooled>,
    spool: &mut Spool,
    sink: &mut dyn Sink,
    instances: &mut Vec<Instance>,
) -> Result<Vec<Replaced>, Error> {
    let mut found = Vec::new();
    for (sop, new) in came {
        let Some(known) = prior.now.get(sop) else { continue };
        let small = new.size <= LOOKED_INTO;
        let content = || if small { spool.whole(new).ok() } else { None };
        if known.differs(&new.sha256, &content, sink) {
            found.push(known.replaced(study, &new.sha256));
            instances.extend(known.spool(sink, spool)?);
        }
    }
    Ok(found)
}
