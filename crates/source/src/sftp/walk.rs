//! Walks the folder depth first and feeds the sink, with the next files of a folder already on their way.

use std::collections::VecDeque;

use bytes::Bytes;
use kuramori_model::tree::{Entry, EntryKind, FileTime, Meta, Sink, TreePath};

use super::{
    fetch::{Content, Flight, Stop, WINDOW},
    link::{Link, Slip, Trouble},
    wire::{Answer, Ask, Listed, Look, STATUS_EOF},
};
use crate::{
    Error, Phase, Progress,
    report::{ItemFault, LISTED},
    smb::names::fits,
};

/// Files that are asked to be opened ahead.
const OPEN_AHEAD: usize = 32;
/// Files whose first bytes are asked for ahead.
const READ_AHEAD: usize = 8;
/// Tries to list a folder across breaks are bounded by the link's reconnects; this bounds names in one folder.
const NAMES: usize = 5_000_000;

/// What is left out on purpose.
#[derive(Debug, Clone)]
pub(super) struct Filter<'a> {
    pub(super) patterns: &'a [String],
    pub(super) root: usize,
}

impl Filter<'_> {
    pub(super) fn leaves_out(&self, path: &[u8]) -> bool {
        if self.patterns.is_empty() {
            return false;
        }
        let whole = String::from_utf8_lossy(path.get(self.root..).unwrap_or_default()).into_owned();
        let whole = whole.trim_start_matches('/');
        let name = whole.rsplit('/').next().unwrap_or_default();
        self.patterns.iter().any(|p| fits(p, if p.contains('/') { whole } else { name }))
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

/// The whole listing of a folder, sorted by name; `.` and `..` left out.
pub(super) fn list(link: &mut Link, folder: &[u8]) -> Result<Result<Vec<Listed>, Trouble>, Error> {
    let shown = String::from_utf8_lossy(folder).into_owned();
    loop {
        match list_once(link, folder) {
            Ok(listed) => return Ok(Ok(listed)),
            Err(Slip::Item(trouble)) => return Ok(Err(trouble)),
            Err(Slip::Broken(error)) => link.again(error, &shown)?,
        }
    }
}

fn list_once(link: &mut Link, folder: &[u8]) -> Result<Vec<Listed>, Slip> {
    let Answer::Handle(handle) = link.ask(&Ask::OpenFolder(folder))? else {
        return Err(Slip::Item(Trouble::Other("the folder was not opened".into())));
    };
    let mut all = Vec::new();
    // A few requests ahead: a server answers a large folder in pieces of a hundred names.
    let mut asked = VecDeque::new();
    for _ in 0..4 {
        asked.push_back(link.send(&Ask::ReadFolder(&handle))?);
    }
    while let Some(id) = asked.pop_front() {
        match link.wait(id)? {
            Answer::Names(names) => {
                all.extend(names.into_iter().filter(|item| item.name != b"." && item.name != b".."));
                if all.len() > NAMES {
                    return Err(Slip::Item(Trouble::Other("the folder has too many names".into())));
                }
                asked.push_back(link.send(&Ask::ReadFolder(&handle))?);
            }
            Answer::Status { code: STATUS_EOF, .. } => {}
            Answer::Status { code, words } => {
                for id in asked {
                    link.forget(id);
                }
                return Err(super::link::slip(code, &words));
            }
            _ => return Err(Slip::Item(Trouble::Other("an answer of another kind".into()))),
        }
    }
    let close = link.send(&Ask::Close(&handle))?;
    link.forget(close);
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        b"" => name.to_vec(),
        b"/" => [b"/", name].concat(),
        _ => [folder, name].join(&b'/'),
    }
}

/// A file that is to be read.
struct Wanted {
    wire: Vec<u8>,
    entry: Entry,
}

pub(super) struct Walk<'a> {
    pub(super) link: &'a mut Link,
    pub(super) sink: &'a mut dyn Sink,
    pub(super) filter: Filter<'a>,
    /// No file may be newer than this.
    pub(super) limit: Option<FileTime>,
    pub(super) total: Option<(u64, u64)>,
    pub(super) retries: u32,
    pub(super) pause: std::time::Duration,
    pub(super) tally: Tally,
}

impl Walk<'_> {
    pub(super) fn run(mut self, root: &[u8]) -> Result<Tally, Error> {
        enum Step {
            Enter(Vec<u8>, Option<TreePath>),
            Leave(TreePath),
        }
        let mut steps = vec![Step::Enter(root.to_vec(), None)];
        while let Some(step) = steps.pop() {
            if self.link.control().cancel.is_cancelled() {
                return Err(Error::Cancelled("the folder".into()));
            }
            match step {
                Step::Leave(path) => self.sink.seal(&path)?,
                Step::Enter(wire, tree) => {
                    let folders = self.folder(&wire, tree.as_ref())?;
                    steps.extend(tree.map(Step::Leave));
                    // The last one pushed is the next one taken.
                    steps.extend(folders.into_iter().rev().map(|(wire, tree)| Step::Enter(wire, Some(tree))));
                }
            }
        }
        Ok(self.tally)
    }

    /// Everything in a folder but what is in the folders below; these are given back.
    fn folder(&mut self, wire: &[u8], tree: Option<&TreePath>) -> Result<Vec<(Vec<u8>, TreePath)>, Error> {
        let listed = match list(self.link, wire)? {
            Ok(listed) => listed,
            Err(trouble) => match tree {
                None => return Err(super::root_error(self.link, wire, trouble)),
                Some(tree) => {
                    self.fault(&tree.clone(), format!("the folder cannot be listed: {}", trouble.text()));
                    return Ok(Vec::new());
                }
            },
        };
        let (mut folders, mut wanted) = (Vec::new(), VecDeque::new());
        let mut last: Option<Vec<u8>> = None;
        for item in listed {
            let at = join(wire, &item.name);
            if self.filter.leaves_out(&at) {
                continue;
            }
            let twice = last.replace(item.name.clone()).is_some_and(|last| last == item.name);
            let path = match tree {
                Some(folder) => folder.join(&item.name),
                None => TreePath::new(item.name.clone()),
            };
            let path = path.ok().filter(|_| !item.name.contains(&b'/') && !item.name.is_empty() && !twice);
            let Some(path) = path else {
                let shown = String::from_utf8_lossy(&item.name).into_owned();
                if let Some(stand_in) = tree.cloned().or_else(|| TreePath::new("invalid-name").ok()) {
                    self.fault(&stand_in, format!("the server listed a name that cannot be kept: `{shown}`"));
                }
                continue;
            };
            let entry = entry(path, &item.look);
            if item.look.is_folder() {
                self.tally.items += 1;
                folders.push((at, entry.path.clone()));
                self.sink.put(entry, &mut std::io::empty())?;
            } else if item.look.is_link() {
                self.link_entry(entry, &at)?;
            } else if item.look.is_file() {
                wanted.push_back(Wanted { wire: at, entry });
            } else {
                self.fault(&entry.path, "neither a file nor a folder nor a link".into());
            }
        }
        self.files(wanted)?;
        Ok(folders)
    }

    fn link_entry(&mut self, mut entry: Entry, wire: &[u8]) -> Result<(), Error> {
        loop {
            match self.link.ask(&Ask::ReadLink(wire)) {
                Ok(Answer::Names(mut names)) if names.len() == 1 => {
                    let target = names.swap_remove(0).name;
                    entry.kind = EntryKind::Symlink { target };
                    self.tally.items += 1;
                    return Ok(self.sink.put(entry, &mut std::io::empty())?);
                }
                Ok(_) => {
                    self.fault(&entry.path, "the server does not say where the link points".into());
                    return Ok(());
                }
                Err(Slip::Item(trouble)) => {
                    self.fault(&entry.path, trouble.text());
                    return Ok(());
                }
                Err(Slip::Broken(error)) => self.link.again(error, &entry.path.to_string())?,
            }
        }
    }

    /// The files of one folder, in order, several on their way.
    fn files(&mut self, mut wanted: VecDeque<Wanted>) -> Result<(), Error> {
        let mut flights: VecDeque<(Wanted, Option<Flight>)> = VecDeque::new();
        loop {
            while flights.len() < OPEN_AHEAD
                && let Some(next) = wanted.pop_front()
            {
                self.fresh(&next.entry)?;
                if self.sink.known(&next.entry) {
                    // Kept at once: order within a folder does not matter to a sink.
                    self.show(&next.entry.path);
                    self.count(&next.entry, size_of(&next.entry));
                    self.tally.kept += 1;
                    self.sink.keep(next.entry)?;
                    continue;
                }
                // After a break it is opened again when its turn comes.
                let size = size_of(&next.entry);
                let flight = Flight::launch(self.link, &next.wire, size).ok();
                flights.push_back((next, flight));
            }
            for (_, flight) in flights.iter_mut().take(READ_AHEAD) {
                // What goes wrong here is met again, and told, at its turn.
                if let Some(ahead) = flight
                    && ahead.begin(self.link).is_err()
                {
                    *flight = None;
                }
            }
            let Some((next, flight)) = flights.pop_front() else { return Ok(()) };
            if self.link.control().cancel.is_cancelled() {
                return Err(Error::Cancelled(next.entry.path.to_string()));
            }
            self.file(next, flight)?;
        }
    }

    fn file(&mut self, wanted: Wanted, mut flight: Option<Flight>) -> Result<(), Error> {
        let Wanted { wire, mut entry } = wanted;
        let shown = entry.path.to_string();
        self.show(&entry.path);
        let (mut left, mut size) = (self.retries, size_of(&entry));
        let (look, content) = loop {
            let outcome = match flight.take() {
                Some(mut flight) => flight.whole(self.link).map(|content| (flight, content)),
                None => Flight::launch(self.link, &wire, size).and_then(|mut flight| {
                    let content = flight.whole(self.link)?;
                    Ok((flight, content))
                }),
            };
            match outcome {
                Ok((_, Some((look, content)))) => break (look, Some(content)),
                Ok((begun, None)) => {
                    let Some(look) = begun.look() else {
                        return Err(Error::Protocol {
                            server: self.link.server(),
                            why: "a file without a look".into(),
                        });
                    };
                    flight = Some(begun);
                    break (look, None);
                }
                Err(Slip::Item(Trouble::Changed | Trouble::Gone)) if left > 0 => {
                    left -= 1;
                    self.link.control().clock.sleep(self.pause);
                    // It may have grown since it was listed.
                    match self.link.ask(&Ask::Stat(&wire)) {
                        Ok(Answer::Look(look)) => size = look.size,
                        Ok(_) | Err(Slip::Item(_)) => {}
                        Err(Slip::Broken(error)) => self.link.again(error, &shown)?,
                    }
                }
                Err(Slip::Item(trouble)) => {
                    self.unmoved(&entry.path, &trouble)?;
                    self.fault(&entry.path, trouble.text());
                    return Ok(());
                }
                Err(Slip::Broken(error)) => self.link.again(error, &shown)?,
            }
        };
        // What is kept is what was read, not what was listed a moment before.
        apply(&mut entry, &look);
        self.fresh(&entry)?;
        if let Some(content) = content {
            let bytes = content.len() as u64;
            self.sink.put(entry.clone(), &mut bytes::Buf::reader(content))?;
            self.count(&entry, bytes);
            return Ok(());
        }
        let Some(flight) = flight else { return Ok(()) };
        let mut content = Content {
            link: self.link,
            flight,
            look,
            shown,
            now: Bytes::new(),
            came: 0,
            ended: false,
            failed: None,
            before: (self.tally.items, self.tally.bytes),
            total: self.total,
            next: 8 * WINDOW,
        };
        let taken = self.sink.put(entry.clone(), &mut content);
        let (ended, came, failed) = (content.ended, content.came, content.failed.take());
        match failed {
            Some(Stop::Run(error)) => return Err(error),
            Some(Stop::Item(trouble)) => {
                taken?;
                self.unmoved(&entry.path, &trouble)?;
                // The sink recorded the fault when the read failed.
                self.note(&entry.path, trouble.text());
            }
            None => {
                taken?;
                if !ended {
                    let why = format!("it did not read `{}` to its end", entry.path);
                    return Err(Error::Protocol { server: "the store".into(), why });
                }
                self.count(&entry, came);
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
                crate::smb::timestamp(entry.meta.mtime)
            ))),
            _ => Ok(()),
        }
    }

    /// After the marker nothing of the dump may move.
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

    fn fault(&mut self, path: &TreePath, why: String) {
        self.sink.fault(path, why.clone());
        self.note(path, why);
    }

    fn note(&mut self, path: &TreePath, why: String) {
        self.tally.fault_count += 1;
        if self.tally.faults.len() < LISTED {
            self.tally.faults.push(ItemFault { path: path.to_string(), why });
        }
    }

    fn show(&self, path: &TreePath) {
        (self.link.control().progress)(&Progress {
            phase: Phase::Reading,
            items: self.tally.items,
            bytes: self.tally.bytes,
            total: self.total,
            path: &path.to_string(),
        });
    }
}

fn size_of(entry: &Entry) -> u64 {
    match entry.kind {
        EntryKind::File { size } => size,
        _ => 0,
    }
}

fn entry(path: TreePath, look: &Look) -> Entry {
    let kind = if look.is_folder() { EntryKind::Dir } else { EntryKind::File { size: look.size } };
    let mut entry = Entry { path, kind, meta: Meta::default() };
    apply(&mut entry, look);
    entry
}

fn apply(entry: &mut Entry, look: &Look) {
    if let EntryKind::File { size } = &mut entry.kind {
        *size = look.size;
    }
    // A server that tells no permissions gets plain ones.
    entry.meta.mode = match (look.mode & 0o7777, look.is_folder()) {
        (0, true) => 0o755,
        (0, false) => 0o644,
        (mode, _) => mode,
    };
    entry.meta.mtime = Look::time(look.written);
    entry.meta.atime = Look::time(look.read);
    (entry.meta.uid, entry.meta.gid) = look.owner;
}
