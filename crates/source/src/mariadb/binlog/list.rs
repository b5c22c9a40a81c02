//! What the newest restore point is made of, kept in the spool folder, and whether the server's log goes on from it.

use jiff::Timestamp;
use kuramori_model::{
    binlog::{Index, number},
    tree::Sink,
};
use serde::{Deserialize, Serialize};

use super::Now;
use crate::{
    postgres::wal::{Item, Spool},
    report::MariadbOrigin,
};

/// The list of the newest restore point, and the one before.
pub(super) const NAMES: (&str, &str) = ("dump.json", "dump.before.json");

/// What the newest restore point is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Inventory {
    pub(super) identity: String,
    pub(super) taken: Timestamp,
    pub(super) keep_from: u64,
    pub(super) dump: Item,
    pub(super) files: Vec<Item>,
    /// SHA-256 of the file that still grew, up to the list's end, in hexadecimal.
    #[serde(default)]
    pub(super) grown: Option<String>,
    pub(super) index: Item,
    pub(super) list: Index,
    pub(super) origin: MariadbOrigin,
}

/// What a new dump takes over of the log before it.
pub(super) struct Before {
    pub(super) chain: String,
    pub(super) keep_from: u64,
    pub(super) files: Vec<Item>,
}

impl Before {
    /// Of the newest restore point's list; or of one that does not fit to it, whose files come once more then.
    pub(super) fn of(old: Result<Inventory, Option<Inventory>>) -> Option<Self> {
        match old {
            Ok(old) => Some(Self {
                keep_from: number(&old.list.dump.at.file)?,
                chain: old.list.chain,
                files: old.files,
            }),
            Err(last) => {
                last.map(|last| Self { chain: last.list.chain, keep_from: last.keep_from, files: Vec::new() })
            }
        }
    }
}

/// The newest list whose restore point is the sink's previous one, and whether it is the one that has to stay.
pub(super) fn usable(spool: &Spool, identity: &str, sink: &mut dyn Sink) -> Option<(Inventory, bool)> {
    [(NAMES.0, false), (NAMES.1, true)].into_iter().find_map(|(name, stays)| {
        let inventory: Inventory = spool.load(name).ok()??;
        let index = inventory.index.entry()?;
        (inventory.identity == identity && sink.known(&index)).then_some((inventory, stays))
    })
}

/// Why the server's log does not go on where ours ends.
pub(super) fn broken(old: &Inventory, now: &Now) -> Option<String> {
    let ours = &old.list.end.at;
    if let Some(offset) = old.list.utc_offset
        && offset != now.utc_offset
    {
        let why = "the server's time zone changed";
        return Some(format!("{why}: it was {offset} s ahead of UTC and is {} s", now.utc_offset));
    }
    match now.files.iter().find(|(name, _)| *name == ours.file) {
        None => Some(format!("the server no longer has {}", ours.file)),
        Some((_, size)) if *size < ours.position => {
            Some(format!("{} is shorter than it was: the log was begun anew", ours.file))
        }
        Some(_) => None,
    }
}
