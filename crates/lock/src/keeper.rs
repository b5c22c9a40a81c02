//! The rules: pure, over what was promised and the time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kuramori_model::lock::{FileId, Kind, Mark, Name, Stays};

use crate::{ledger::Entry, time::Time};

const DAY: u64 = 86_400;

/// What the configuration says. A reload can only make the promises of the past longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Packs, snapshots, keys and `config`: at least so many days.
    pub days: u32,
    /// Index files, which can be made anew from the packs: at least so many days.
    pub index_days: u32,
    /// Longest promise that is taken, in days, so that a slip does not lock a store for ever.
    pub most_days: u32,
    /// Removals in a day of accumulated time, index files not counted.
    pub removals_per_day: u32,
    /// Snapshots that were found clean and stay in each repository, whatever has expired.
    pub keep_clean: usize,
    /// A shortening counts after so many seconds.
    pub delay_s: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { days: 90, index_days: 1, most_days: 3660, removals_per_day: 2000, keep_clean: 5, delay_s: DAY }
    }
}

/// One repository's promises.
#[derive(Debug, Clone, Default)]
struct Room {
    files: BTreeMap<Name, u64>,
    clean: BTreeSet<FileId>,
    suspect: BTreeSet<FileId>,
    shrinks: Vec<(u64, u32)>,
}

/// Everything that was promised.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// The configuration.
    pub rules: Rules,
    /// Now.
    pub time: Time,
    rooms: BTreeMap<String, Room>,
    removed: VecDeque<(u64, u32)>,
    nonces: BTreeSet<String>,
}

impl Keeper {
    /// Nothing promised yet.
    pub fn new(rules: Rules, time: Time) -> Self {
        Self { rules, time, rooms: BTreeMap::new(), removed: VecDeque::new(), nonces: BTreeSet::new() }
    }

    /// Takes in what happened.
    pub fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Time { time } => self.time = time.clone(),
            Entry::Keep { repository, files, until_s } => {
                let room = self.rooms.entry(repository.clone()).or_default();
                for file in files {
                    let until = room.files.entry(*file).or_insert(0);
                    *until = (*until).max(*until_s);
                }
            }
            Entry::Remove { repository, files, at_s } => {
                let room = self.rooms.entry(repository.clone()).or_default();
                let mut counted = 0;
                for file in files {
                    room.files.remove(file);
                    room.clean.remove(&file.id);
                    room.suspect.remove(&file.id);
                    counted += u32::from(file.kind != Kind::Index);
                }
                self.removed.push_back((*at_s, counted));
            }
            Entry::Mark { repository, snapshot, verdict } => {
                let room = self.rooms.entry(repository.clone()).or_default();
                match verdict {
                    Mark::Clean => room.clean.insert(*snapshot),
                    Mark::Suspect => {
                        room.clean.remove(snapshot);
                        room.suspect.insert(*snapshot)
                    }
                    Mark::Cleared => room.suspect.remove(snapshot),
                };
            }
            Entry::Shrink { repository, days, from_s, nonce } => {
                self.rooms.entry(repository.clone()).or_default().shrinks.push((*from_s, *days));
                self.nonces.insert(nonce.clone());
            }
            Entry::Confirm { .. } => self.time.confirm(),
        }
    }

    /// The promise for files: never shorter than the rules say, never shorter than it was.
    pub fn keep(&self, repository: &str, files: &[Name], days: u32) -> Vec<Entry> {
        let now = self.time.seconds();
        let days = days.min(self.rules.most_days);
        let until = |least: u32| now + u64::from(days.max(least)) * DAY;
        let (index, others): (Vec<Name>, Vec<Name>) = files.iter().partition(|file| file.kind == Kind::Index);
        [(index, self.rules.index_days.min(days)), (others, self.rules.days)]
            .into_iter()
            .filter(|(files, _)| !files.is_empty())
            .map(|(files, least)| {
                // Index files are made anew all the time; their promise is the rule's, not the caller's.
                let until_s =
                    if files[0].kind == Kind::Index { now + u64::from(least) * DAY } else { until(least) };
                Entry::Keep { repository: repository.to_owned(), files, until_s }
            })
            .collect()
    }

    /// When a file may go, in accumulated seconds: as promised, or as officers shortened it, if their delay
    /// has passed.
    fn until(&self, room: &Room, promised: u64) -> u64 {
        let now = self.time.seconds();
        room.shrinks
            .iter()
            .filter(|(from, _)| *from <= now)
            .map(|(from, days)| from + u64::from(*days) * DAY)
            .fold(promised, u64::min)
    }

    /// What of a plan may go now, and why the rest stays.
    pub fn plan(&self, repository: &str, files: &[Name]) -> (Vec<Name>, Vec<Stays>) {
        let (mut goes, mut stays) = (Vec::new(), Vec::new());
        let now = self.time.seconds();
        let mut left = self.rules.removals_per_day.saturating_sub(self.removed_today());
        let empty = Room::default();
        let room = self.rooms.get(repository).unwrap_or(&empty);
        let held = |id: &FileId| room.files.contains_key(&Name { kind: Kind::Snapshots, id: *id });
        let mut clean = room.clean.iter().filter(|id| held(id)).count();
        let mut seen = BTreeSet::new();
        for file in files.iter().filter(|file| seen.insert(**file)) {
            let Some(promised) = room.files.get(file) else {
                stays.push(stay(*file, "lock.unknown", "it was never locked"));
                continue;
            };
            let until = self.until(room, *promised);
            let is_clean = file.kind == Kind::Snapshots && room.clean.contains(&file.id);
            let why = if self.time.frozen() {
                Some(("lock.clock", "the clock jumped and nobody has confirmed it".to_owned()))
            } else if !room.suspect.is_empty() && file.kind != Kind::Index {
                Some(("lock.suspect", "a restore point of this system is suspect".to_owned()))
            } else if until > now {
                Some(("lock.too-young", format!("it stays for {} s of running time", until - now)))
            } else if matches!(file.kind, Kind::Keys | Kind::Config) {
                Some(("lock.pinned", "keys and config are never removed".to_owned()))
            } else if is_clean && clean <= self.rules.keep_clean {
                Some((
                    "lock.min-keep",
                    format!("one of the last {} clean restore points", self.rules.keep_clean),
                ))
            } else if left == 0 && file.kind != Kind::Index {
                Some(("lock.limit", "the limit of removals for one day is reached".to_owned()))
            } else {
                None
            };
            match why {
                Some((code, why)) => stays.push(stay(*file, code, &why)),
                None => {
                    goes.push(*file);
                    clean -= usize::from(is_clean);
                    left -= u32::from(file.kind != Kind::Index);
                }
            }
        }
        (goes, stays)
    }

    /// Removals within the last day of accumulated time.
    pub fn removed_today(&self) -> u32 {
        let since = self.time.seconds().saturating_sub(DAY);
        // At the very beginning nothing is a day old.
        self.removed
            .iter()
            .filter(|(at, _)| *at > since || since == 0)
            .fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Whether an order was taken before.
    pub fn is_used(&self, nonce: &str) -> bool {
        self.nonces.contains(nonce)
    }

    /// How many files are locked.
    pub fn count(&self) -> u64 {
        self.rooms.values().map(|room| room.files.len() as u64).sum()
    }

    /// Every locked file, by repository.
    pub fn files(&self) -> impl Iterator<Item = (&str, Name)> {
        self.rooms.iter().flat_map(|(name, room)| room.files.keys().map(move |file| (name.as_str(), *file)))
    }

    /// The repositories.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        self.rooms.keys().map(String::as_str)
    }
}

fn stay(file: Name, code: &str, why: &str) -> Stays {
    Stays { file, code: code.to_owned(), why: why.to_owned() }
}
