//! Walks the dump depth first and feeds the sink, with listings and files asked for ahead of time.
//!
//! Steps are queued in the order in which the sink gets them. Asking ahead ends when the queued files may
//! hold [`BUDGET`] bytes or [`FILES`] files are in flight; each big file counts with the window that it
//! keeps for itself, so the front of the queue can always move.

use std::collections::VecDeque;

use bytes::Bytes;
use crossbeam_channel::{Receiver, TryRecvError};
use kuramori_model::tree::{Entry, EntryKind, FileTime, Meta, Sink, TreePath};

use super::{
    content::{Content, Stop, Tick},
    fetch::{AHEAD, Piece, SMALL},
    io::Io,
    link::{Failure, Trouble},
    names::{self, Wide},
    wire::{Listed, Look, READ_ONLY},
};
use crate::{
    Error,
    report::{ItemFault, LISTED},
};

/// Bytes that queued files may hold in memory.
const BUDGET: u64 = 32 << 20;
/// Files asked for and not yet taken.
const FILES: usize = 128;
/// Steps that may be queued; those without content cost little.
const STEPS: usize = 4096;
/// Listings of sibling folders asked for ahead.
const LISTINGS: usize = 8;

/// What is left out on purpose.
#[derive(Debug)]
pub(super) struct Filter {
    patterns: Vec<String>,
    root: usize,
}

impl Filter {
    pub(super) fn new(patterns: &[String], root: &[u16]) -> Self {
        Self { patterns: patterns.to_vec(), root: root.len() + usize::from(!root.is_empty()) }
    }

    /// Judges a path on the share.
    pub(super) fn leaves_out(&self, path: &[u16]) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        let whole = names::shown(path.get(self.root..).unwrap_or_default());
        let name = whole.rsplit('/').next().unwrap_or_default();
        self.patterns.iter().any(|p| names::fits(p, if p.contains('/') { &whole } else { name }))
    }
}

/// What the walk found out.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) items: u64,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) kept: u64,
    pub(super) newest: Option<FileTime>,
    pub(super) fault_count: u64,
    pub(super) faults: Vec<ItemFault>,
}

enum Step {
    Folder(Entry),
    Keep(Entry, u64),
    File { entry: Entry, pieces: Receiver<Piece>, reserved: u64 },
    Seal(TreePath),
    Fault(TreePath, String),
}

type Listing = Receiver<Result<Vec<Listed>, Failure>>;

struct Level {
    wire: Wide,
    tree: Option<TreePath>,
    listing: Option<Listing>,
    files: std::vec::IntoIter<Listed>,
    folders: VecDeque<(Wide, TreePath, Option<Listing>)>,
}

pub(super) struct Walk<'a> {
    io: &'a Io,
    sink: &'a mut dyn Sink,
    filter: &'a Filter,
    /// No file may be newer than this.
    limit: Option<FileTime>,
    total: Option<(u64, u64)>,
    levels: Vec<Level>,
    steps: VecDeque<Step>,
    reserved: u64,
    flying: usize,
    tally: Tally,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        io: &'a Io,
        sink: &'a mut dyn Sink,
        filter: &'a Filter,
        limit: Option<FileTime>,
        total: Option<(u64, u64)>,
    ) -> Self {
        Self {
            io,
            sink,
            filter,
            limit,
            total,
            levels: Vec::new(),
            steps: VecDeque::new(),
            reserved: 0,
            flying: 0,
            tally: Tally::default(),
        }
    }

    pub(super) fn run(mut self, root: Wide) -> Result<Tally, Error> {
        self.descend(root, None, None);
        loop {
            while self.reserved < BUDGET
                && self.flying < FILES
                && self.steps.len() < STEPS
                && self.advance()?
            {}
            match self.steps.pop_front() {
                Some(step) => self.take(step)?,
                None if self.levels.is_empty() => return Ok(self.tally),
                None => {}
            }
            if self.io.control().cancel.is_cancelled() {
                return Err(Error::Cancelled("the share".into()));
            }
        }
    }

    fn descend(&mut self, wire: Wide, tree: Option<TreePath>, listing: Option<Listing>) {
        let listing = listing.unwrap_or_else(|| self.io.list(wire.clone()));
        self.levels.push(Level {
            wire,
            tree,
            listing: Some(listing),
            files: Vec::new().into_iter(),
            folders: VecDeque::new(),
        });
    }

    /// Queues what comes next. False if there is nothing to queue now.
    fn advance(&mut self) -> Result<bool, Error> {
        let Some(level) = self.levels.last_mut() else { return Ok(false) };
        if let Some(listing) = &level.listing {
            let outcome = match listing.try_recv() {
                Ok(outcome) => outcome,
                // Meanwhile the sink can work on what is queued.
                Err(TryRecvError::Empty) if !self.steps.is_empty() => return Ok(false),
                Err(_) => {
                    let shown = names::shown(&level.wire);
                    self.io.wait(listing, &shown)?
                }
            };
            level.listing = None;
            self.opened(outcome)?;
            return Ok(true);
        }
        if let Some(item) = level.files.next() {
            let (path, tree) = (names::join(&level.wire, &item.name), level.tree.clone());
            self.queue_file(&item, path, tree.as_ref());
            return Ok(true);
        }
        if let Some((wire, tree, listing)) = level.folders.pop_front() {
            for (wire, _, listing) in level.folders.iter_mut().take(LISTINGS) {
                if listing.is_none() {
                    *listing = Some(self.io.list(wire.clone()));
                }
            }
            self.descend(wire, Some(tree), listing);
            return Ok(true);
        }
        if let Some(tree) = self.levels.pop().and_then(|level| level.tree) {
            self.steps.push_back(Step::Seal(tree));
        }
        Ok(true)
    }

    /// A folder's listing came.
    fn opened(&mut self, outcome: Result<Vec<Listed>, Failure>) -> Result<(), Error> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let listed = match outcome {
            Ok(listed) => listed,
            Err(Failure::Fatal) => return Err(self.io.fatal(&names::shown(&level.wire))),
            Err(failure) => {
                let Some(tree) = &level.tree else {
                    return Err(super::folder_error(self.io, &level.wire, failure));
                };
                let Failure::Item(trouble) = failure else { return Err(self.io.fatal("the share")) };
                self.steps.push_back(Step::Fault(
                    tree.clone(),
                    format!("the folder cannot be listed: {}", trouble.text()),
                ));
                return Ok(());
            }
        };
        let mut files = Vec::new();
        let mut last: Option<Wide> = None;
        for item in listed {
            let wire = names::join(&level.wire, &item.name);
            if self.filter.leaves_out(&wire) {
                continue;
            }
            let name = names::narrow(&item.name);
            let tree = match &level.tree {
                Some(folder) => folder.join(&name),
                None => TreePath::new(name),
            };
            let twice = last.replace(item.name.clone()).is_some_and(|last| last == item.name);
            let Some(tree) = tree.ok().filter(|_| !names::is_treacherous(&item.name) && !twice) else {
                let folder = level.tree.clone();
                let why =
                    format!("the server listed a name that cannot be kept: `{}`", names::shown(&item.name));
                // The name itself is no path, so the fault is told of a harmless stand-in.
                let stand_in = TreePath::new(format!("invalid-name-{:08x}", item.id));
                if let Some(path) = folder.or(stand_in.ok()) {
                    self.steps.push_back(Step::Fault(path, why));
                }
                continue;
            };
            if item.is_link {
                let why = "a junction or symbolic link: what it points to is not read; exclude it by name if that is right";
                self.steps.push_back(Step::Fault(tree, why.into()));
            } else if item.is_folder() {
                self.steps.push_back(Step::Folder(entry(tree.clone(), &item)));
                level.folders.push_back((wire, tree, None));
            } else {
                files.push(item);
            }
        }
        level.files = files.into_iter();
        Ok(())
    }

    fn queue_file(&mut self, item: &Listed, wire: Wide, folder: Option<&TreePath>) {
        let name = names::narrow(&item.name);
        let Ok(tree) = folder.map_or_else(|| TreePath::new(name.clone()), |folder| folder.join(&name)) else {
            return;
        };
        let entry = entry(tree, item);
        if self.sink.known(&entry) {
            self.steps.push_back(Step::Keep(entry, item.look.size));
            return;
        }
        let size = item.look.size;
        let reserved = if size > SMALL { AHEAD as u64 * SMALL } else { size };
        self.reserved += reserved;
        self.flying += 1;
        self.steps.push_back(Step::File { entry, pieces: self.io.file(wire, size), reserved });
    }

    fn take(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Folder(entry) => {
                self.tally.items += 1;
                Ok(self.sink.put(entry, &mut std::io::empty())?)
            }
            Step::Seal(path) => Ok(self.sink.seal(&path)?),
            Step::Fault(path, why) => {
                self.sink.fault(&path, why.clone());
                self.note(&path, why);
                Ok(())
            }
            Step::Keep(entry, size) => {
                self.show(&entry.path);
                self.fresh(&entry)?;
                self.count(&entry, size);
                self.tally.kept += 1;
                Ok(self.sink.keep(entry)?)
            }
            Step::File { entry, pieces, reserved } => {
                let outcome = self.file(entry, pieces);
                self.reserved -= reserved;
                self.flying -= 1;
                outcome
            }
        }
    }

    fn file(&mut self, mut entry: Entry, pieces: Receiver<Piece>) -> Result<(), Error> {
        self.show(&entry.path);
        let shown = entry.path.to_string();
        let opened = match self.io.wait(&pieces, &shown)? {
            Piece::Opened(look) => look,
            Piece::Failed(Failure::Item(trouble)) => {
                self.unmoved(&entry.path, &trouble)?;
                let why = trouble.text();
                self.sink.fault(&entry.path, why.clone());
                self.note(&entry.path, why);
                return Ok(());
            }
            _ => return Err(self.io.fatal(&shown)),
        };
        // What is kept is what was read, not what was listed a moment before.
        entry.kind = EntryKind::File { size: opened.size };
        apply(&mut entry.meta, &opened);
        self.fresh(&entry)?;
        let mut content = Content {
            io: self.io,
            pieces,
            shown,
            now: Bytes::new(),
            given: 0,
            ended: false,
            failed: None,
            tick: Tick { tally: &self.tally, total: self.total, next: 8 << 20 },
        };
        let taken = self.sink.put(entry.clone(), &mut content);
        let (ended, given) = (content.ended, content.given);
        match content.failed.take() {
            Some(Stop::Run(error)) => return Err(error),
            Some(Stop::Item(trouble)) => {
                taken?;
                self.unmoved(&entry.path, &trouble)?;
                let why = trouble.text();
                // The sink recorded the fault when the read failed.
                self.note(&entry.path, why);
            }
            None => {
                taken?;
                if !ended {
                    return Err(Error::Protocol {
                        server: "the store".into(),
                        why: format!("it did not read `{}` to its end", entry.path),
                    });
                }
                self.count(&entry, given);
            }
        }
        Ok(())
    }

    /// A file that is newer than the marker belongs to the next dump.
    fn fresh(&self, entry: &Entry) -> Result<(), Error> {
        match self.limit {
            Some(limit) if entry.meta.mtime > limit => Err(Error::DumpChanged(format!(
                "`{}` was written at {}, after the marker",
                entry.path,
                super::marker::timestamp(entry.meta.mtime)
            ))),
            _ => Ok(()),
        }
    }

    /// After the marker nothing of the dump may move: a file that does belongs to a dump that began anew.
    fn unmoved(&self, path: &TreePath, trouble: &Trouble) -> Result<(), Error> {
        match trouble {
            Trouble::Changed if self.limit.is_some() => {
                Err(Error::DumpChanged(format!("`{path}` was written to, after the marker")))
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, entry: &Entry, bytes: u64) {
        self.tally.items += 1;
        self.tally.files += 1;
        self.tally.bytes += bytes;
        self.tally.newest = self.tally.newest.max(Some(entry.meta.mtime));
    }

    fn note(&mut self, path: &TreePath, why: String) {
        self.tally.fault_count += 1;
        if self.tally.faults.len() < LISTED {
            self.tally.faults.push(ItemFault { path: path.to_string(), why });
        }
    }

    fn show(&self, path: &TreePath) {
        Tick { tally: &self.tally, total: self.total, next: 0 }.show(self.io, 0, &path.to_string());
    }
}

fn entry(path: TreePath, item: &Listed) -> Entry {
    let folder = item.is_folder();
    let mut meta = Meta { atime: item.read, inode: item.id, ..Meta::default() };
    apply(&mut meta, &item.look);
    if folder {
        meta.mode = 0o755;
    }
    let kind = if folder { EntryKind::Dir } else { EntryKind::File { size: item.look.size } };
    Entry { path, kind, meta }
}

/// A share shows no Unix modes; these let a restored share be served again at once.
fn apply(meta: &mut Meta, look: &Look) {
    meta.mtime = look.written;
    meta.ctime = look.changed;
    meta.mode = if look.attributes & READ_ONLY == 0 { 0o644 } else { 0o444 };
}
