//! The gate's own log: one JSON line per entry, appended and synced. It is what a restarted gate remembers
//! (highest epoch and window, latches, the day's open seconds) and where every transition can be read later.
//!
//! A torn last line (power cut, full disk) is ended and left as it is; an entry that a full disk refused is
//! tried again before the next one, and the latch has a file and a writer of its own besides ([`latch`]). Any other line
//! that cannot be read may have been a latch, so it counts as one until officers release it. Format:
//! `{"at","boot_ms","boot_id","entry",…}`, see [`Entry`].
//!
//! The day's budget is counted in *uptime*: what a window used comes back after 24 hours in which the
//! machine ran, because the wall clock can be set and no clock of ours runs while the machine is off.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use fs_err::{File, OpenOptions};
use jiff::Timestamp;
use kuramori_model::{
    gate::{BootId, CloseReason, Exposure, WindowRecord, WindowToken},
    ids::WindowId,
};
use serde::{Deserialize, Serialize};

use crate::{
    latch::{self, Block},
    machine::{Entry, Latch, What},
};

/// Windows that are kept in memory for `history`.
const WINDOWS: usize = 500;
/// Entries that wait for a disk that refuses them.
const BACKLOG: usize = 1000;
/// A day in milliseconds.
const DAY_MS: u64 = 86_400_000;

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    /// Wall clock.
    pub at: Timestamp,
    /// Boot time in milliseconds.
    pub boot_ms: u64,
    /// The boot that it belongs to.
    pub boot_id: BootId,
    /// What happened.
    #[serde(flatten)]
    pub entry: Entry,
}

impl Line {
    /// Whether this is the first line of a gate that has just started.
    fn begins(&self) -> bool {
        matches!(&self.entry, Entry::Transition { from, .. } if from == "boot")
    }
}

/// What a log tells a gate that starts.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Highest epoch taken.
    pub epoch: u64,
    /// Highest window taken.
    pub last_window: u64,
    /// Highest incident.
    pub incident: u64,
    /// The latch that nobody released.
    pub latch: Option<Latch>,
    /// The newest windows, oldest first.
    pub windows: VecDeque<WindowRecord>,
    /// A window that was taken and has no record: the gate died.
    pub unfinished: Option<(Line, WindowToken)>,
    /// Lines that could not be read, except those that a crash tore.
    pub unreadable: u64,
    /// Why the log could not be read at all.
    pub missing: Option<String>,
    uptime: Uptime,
    /// Uptime at which a path was opened, and for how many milliseconds; what is older than a day is dropped.
    spent: VecDeque<(u64, u64)>,
    /// Uptime at which the unfinished window was taken.
    unfinished_at: u64,
}

/// The machine's uptime over all boots that the log knows, in milliseconds.
#[derive(Debug, Clone, Default)]
struct Uptime {
    before: u64,
    boot: Option<BootId>,
    last: u64,
}

impl Uptime {
    /// A line of `boot` was written at `at`.
    fn pass(&mut self, boot: &BootId, at: u64) {
        if self.boot.as_ref() != Some(boot) {
            self.before += self.last;
            (self.boot, self.last) = (Some(boot.clone()), 0);
        }
        self.last = self.last.max(at);
    }

    fn of(&self, boot: &BootId, at: u64) -> u64 {
        if self.boot.as_ref() == Some(boot) { self.before + at } else { self.before + self.last + at }
    }

    const fn latest(&self) -> u64 {
        self.before + self.last
    }
}

impl Memory {
    /// Reads the log and the latch beside it; none is an empty one.
    pub fn read(path: &Path) -> Self {
        Self::of(path, latch::read(&latch::beside(path)))
    }

    /// Reads the log; the latch was read before. What cannot be read may have been a latch, so it is one.
    pub fn of(path: &Path, latch: std::io::Result<Option<Block>>) -> Self {
        let mut memory = Self::default();
        memory.missing = memory.take_all(path).err().map(|error| error.to_string());
        match latch {
            // However it is numbered: it may have been ordered before the log had been read, and the release
            // of an older one says nothing about it.
            Ok(Some(Block { incident, latch: Some(latch) })) => {
                let behind = incident < memory.incident;
                memory.incident = if behind { memory.incident + 1 } else { incident };
                memory.latch = Some(Latch { incident: memory.incident, ..latch });
            }
            Ok(Some(block)) if block.incident >= memory.incident => {
                (memory.incident, memory.latch) = (block.incident, None);
            }
            Ok(_) => {}
            Err(_) => memory.damaged(),
        }
        if memory.missing.is_some() && memory.latch.is_none() {
            memory.damaged();
        }
        memory
    }

    fn take_all(&mut self, path: &Path) -> std::io::Result<()> {
        let mut reader = match fs_err::File::open(path) {
            Ok(file) => BufReader::new(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let (mut bytes, mut torn) = (Vec::new(), false);
        // Bytes, not text: a torn line may end inside a character.
        while reader.read_until(b'\n', &mut bytes)? > 0 {
            if bytes != b"\n" {
                match serde_json::from_slice::<Line>(&bytes) {
                    Ok(line) => {
                        // Only a crash tears a line, and after a crash comes a start.
                        if torn && !line.begins() {
                            self.damaged();
                        }
                        torn = false;
                        self.take(&line);
                    }
                    Err(_) if torn => self.damaged(),
                    Err(_) => torn = true,
                }
            }
            bytes.clear();
        }
        Ok(())
    }

    /// A line that nobody can read may have been a latch.
    fn damaged(&mut self) {
        self.unreadable += 1;
        self.incident += 1;
        let reason = "the gate's log is damaged: what it said may have been a lock".to_owned();
        self.latch = Some(Latch { incident: self.incident, lockdown: false, reason });
    }

    /// Takes one more line, in the order of the log.
    pub fn take(&mut self, line: &Line) {
        self.uptime.pass(&line.boot_id, line.boot_ms);
        match &line.entry {
            Entry::Accepted { token, .. } => {
                self.epoch = self.epoch.max(token.epoch);
                self.last_window = self.last_window.max(token.window.0);
                self.unfinished = Some((line.clone(), (**token).clone()));
                self.unfinished_at = self.uptime.latest();
            }
            Entry::Latched(latch) => {
                self.incident = self.incident.max(latch.incident);
                self.latch = Some(latch.clone());
            }
            Entry::Released { incident, .. } => {
                self.incident = self.incident.max(*incident);
                if self.latch.as_ref().is_some_and(|latch| latch.incident <= *incident) {
                    self.latch = None;
                }
            }
            Entry::Window { record } => self.keep((**record).clone()),
            Entry::Transition { .. } | Entry::Alarm { .. } => {}
        }
    }

    /// Adds a finished window.
    pub fn keep(&mut self, record: WindowRecord) {
        let mine = self.unfinished.as_ref().is_some_and(|(_, token)| token.window == record.window);
        if mine {
            self.unfinished = None;
        }
        let opened =
            if mine { self.unfinished_at } else { self.uptime.of(&record.boot_id, record.opened_boot_ms) };
        let seconds = record.exposure.commanded_s.max(record.exposure.actuator_s).clamp(0.0, 1e9);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped above")]
        let open = (seconds * 1000.0) as u64;
        if open > 0 {
            self.spent.push_back((opened, open));
        }
        let day_ago = self.uptime.latest().saturating_sub(DAY_MS);
        while self.spent.front().is_some_and(|(opened, _)| *opened < day_ago) {
            self.spent.pop_front();
        }
        if self.windows.len() == WINDOWS {
            self.windows.pop_front();
        }
        self.windows.push_back(record);
    }

    /// The event that starts the machine.
    pub fn start(&self) -> What {
        What::Start {
            epoch: self.epoch,
            last_window: WindowId(self.last_window),
            incident: self.incident,
            latch: self.latch.clone(),
        }
    }

    /// Milliseconds of open path within the last 24 hours of uptime; `at` is the boot time of `boot_id`.
    pub fn used_ms(&self, boot_id: &BootId, at: u64) -> u64 {
        let now = self.uptime.of(boot_id, at);
        self.spent
            .iter()
            .filter(|(opened, _)| now.saturating_sub(*opened) < DAY_MS)
            .map(|(_, open)| open)
            .sum()
    }

    /// The record of the unfinished window, at most as long as the kernel allowed it to be.
    pub fn crashed(&self, boot_id: &BootId, at: u64, wall: Timestamp, proven: bool) -> Option<WindowRecord> {
        let (line, token) = self.unfinished.as_ref()?;
        let most = u64::from(token.max_seconds.min(token.budget_left_s)) * 1000;
        let open = if line.boot_id == *boot_id { at.saturating_sub(line.boot_ms).min(most) } else { most }
            as f64
            / 1000.0;
        Some(WindowRecord {
            window: token.window,
            epoch: token.epoch,
            purpose: token.purpose,
            source: token.source,
            peer: token.peer,
            token_hash: token.hash(),
            opened: line.at,
            closed: wall,
            opened_boot_ms: line.boot_ms,
            boot_id: line.boot_id.clone(),
            exposure: Exposure { commanded_s: open, actuator_s: open, probe_s: None },
            upper_bound: true,
            bytes_in: 0,
            bytes_out: 0,
            renewals: 0,
            close_reason: CloseReason::Crashed {},
            closed_verified: proven,
            verified_after_s: None,
            observations: Vec::new(),
            disagreement: false,
        })
    }
}

/// Appends lines.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    file: Option<File>,
    backlog: VecDeque<Line>,
    torn: bool,
}

impl Ledger {
    /// Opens on the first write.
    pub const fn new(path: PathBuf) -> Self {
        Self { path, file: None, backlog: VecDeque::new(), torn: true }
    }

    /// Writes what waits, then this line, and syncs. On an error the line waits for the next call, unless it
    /// is an acceptance: what could not be logged was not opened.
    pub fn append(&mut self, line: Line) -> std::io::Result<()> {
        self.backlog.push_back(line);
        let result = self.flush();
        if result.is_err() {
            self.file = None;
            if matches!(self.backlog.back(), Some(Line { entry: Entry::Accepted { .. }, .. })) {
                self.backlog.pop_back();
            }
            if self.backlog.len() > BACKLOG {
                self.backlog.pop_front();
            }
        }
        result
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(OpenOptions::new().append(true).create(true).open(&self.path)?),
        };
        while let Some(line) = self.backlog.front() {
            let mut bytes = if self.torn { b"\n".to_vec() } else { Vec::new() };
            serde_json::to_writer(&mut bytes, line)?;
            bytes.push(b'\n');
            self.torn = true;
            file.write_all(&bytes)?;
            file.sync_data()?;
            self.torn = false;
            self.backlog.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(text: &str) -> Line {
        Line {
            at: Timestamp::UNIX_EPOCH,
            boot_ms: 1,
            boot_id: BootId::new("b").unwrap(),
            entry: Entry::Alarm { text: text.into() },
        }
    }

    #[test]
    fn every_kind_of_line_is_read_back_as_it_was_written() {
        use kuramori_model::{clock::SeededRandom, gate};
        let token = gate::WindowToken {
            window: WindowId(4),
            epoch: 2,
            purpose: gate::Purpose::Restore,
            source: "10.0.0.1".parse().unwrap(),
            peer: "10.0.0.2:8443".parse().unwrap(),
            max_seconds: 60,
            max_bytes: u64::MAX,
            budget_left_s: 60,
            nonce: gate::Nonce::draw(&SeededRandom::new(1)),
            boot_id: BootId::new("b").unwrap(),
            issued_boot_ms: 1,
            expires_boot_ms: 2,
            issued: Timestamp::UNIX_EPOCH,
        };
        let mut memory = Memory::default();
        let mut line = alarm("");
        line.entry = Entry::Accepted { hash: token.hash(), token: Box::new(token) };
        memory.take(&line);
        let record = memory.crashed(&BootId::new("b").unwrap(), 9000, Timestamp::UNIX_EPOCH, true).unwrap();
        let latch = Latch { incident: 1, lockdown: false, reason: "r".into() };
        let to = Box::new(kuramori_model::gate::GateState::Sealing { since_boot_ms: 1, overdue: true });
        for entry in [
            line.entry.clone(),
            Entry::Transition { from: "boot".into(), to },
            Entry::Latched(latch),
            Entry::Released { incident: 1, reason: "r".into(), officers: Vec::new() },
            Entry::Window { record: Box::new(record.clone()) },
            Entry::Alarm { text: "t".into() },
        ] {
            line.entry = entry.clone();
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap().entry, entry, "{text}");
        }
        // A window of a gate that died counts with all that it can have been open.
        memory.keep(record);
        assert!(memory.unfinished.is_none());
        let boot = |name: &str| BootId::new(name).unwrap();
        assert_eq!(memory.used_ms(&boot("b"), 10_000), 8999);
        assert_eq!(memory.used_ms(&boot("b"), DAY_MS + 10_000), 0);
        assert_eq!(memory.used_ms(&boot("c"), 5), 8999, "no clock that somebody sets gives the day back");
        assert_eq!(memory.used_ms(&boot("c"), DAY_MS), 0, "a day of uptime does");
    }

    #[test]
    fn many_short_windows_and_many_boots_use_up_the_day_all_the_same() {
        let mut memory = Memory::default();
        let window = |number: u64, boot: &str, at: u64| {
            let mut line = alarm("");
            (line.boot_id, line.boot_ms) = (BootId::new(boot).unwrap(), at);
            let record = serde_json::json!({
                "window": number, "epoch": 1, "purpose": "pull", "source": "10.0.0.1", "peer": "10.0.0.2:8443",
                "token_hash": "", "opened": line.at, "closed": line.at, "opened_boot_ms": at, "boot_id": boot,
                "commanded_s": 2.0, "actuator_s": 2.0, "probe_s": null, "bytes_in": 0, "bytes_out": 0,
                "renewals": 0, "close_reason": {"because": "deadline"}, "closed_verified": true,
                "verified_after_s": null, "observations": []
            });
            line.entry = Entry::Window { record: Box::new(serde_json::from_value(record).unwrap()) };
            line
        };
        for number in 0..1500 {
            memory.take(&window(number, "b", number * 10_000));
        }
        assert_eq!(memory.windows.len(), WINDOWS);
        assert_eq!(memory.used_ms(&BootId::new("b").unwrap(), 15_000_000), 3_000_000, "2 s each, 1500 times");
        // A machine that restarts each hour counts its hours, not its boots.
        for number in 0..30 {
            memory.take(&window(2000 + number, &format!("c{number}"), 3_600_000));
        }
        let used = memory.used_ms(&BootId::new("c29").unwrap(), 3_600_000);
        assert_eq!(used, 24 * 2000, "the windows of the last 24 hours of uptime");
    }

    #[test]
    fn whichever_of_log_and_latch_is_lost_or_behind_the_lock_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate.jsonl");
        let beside = latch::beside(&path);
        let locked = |incident| Latch { incident, lockdown: true, reason: "drill".into() };
        let block = |incident| Block { incident, latch: Some(locked(incident)) };
        let write = |entry| {
            let mut line = alarm("");
            line.entry = entry;
            Ledger::new(path.clone()).append(line).unwrap();
        };
        let released = |incident| Entry::Released { incident, reason: "r".into(), officers: Vec::new() };
        // The log's disk is full: only the latch has it.
        latch::write(&beside, &block(1)).unwrap();
        assert_eq!(Memory::read(&path).latch, Some(locked(1)));
        write(released(1));
        latch::write(&beside, &Block { incident: 1, latch: None }).unwrap();
        assert_eq!(Memory::read(&path).latch, None);
        // Only the log has it; then the latch too, but numbered before the log was known.
        write(Entry::Latched(locked(2)));
        assert_eq!(Memory::read(&path).latch, Some(locked(2)));
        write(released(2));
        write(Entry::Latched(locked(7)));
        write(released(7));
        assert_eq!(Memory::read(&path).latch, None);
        latch::write(&beside, &block(1)).unwrap();
        assert_eq!(Memory::read(&path).latch, Some(locked(8)), "no older release speaks for it");
        latch::write(&beside, &Block { incident: 8, latch: None }).unwrap();
        assert_eq!(Memory::read(&path).latch, None);
        // The log cannot be read at all.
        fs_err::rename(&path, folder.path().join("kept")).unwrap();
        fs_err::create_dir(&path).unwrap();
        let memory = Memory::read(&path);
        assert!(memory.missing.is_some() && memory.latch.is_some_and(|latch| !latch.lockdown));
        latch::write(&beside, &block(9)).unwrap();
        assert_eq!(Memory::read(&path).latch, Some(locked(9)));
        latch::write(&beside, &Block { incident: 9, latch: None }).unwrap();
        fs_err::remove_dir(&path).unwrap();
        fs_err::rename(folder.path().join("kept"), &path).unwrap();

        // A line in the middle that nobody can read: it may have been a lock that came after the release.
        let mut ledger = Ledger::new(path.clone());
        ledger.append(alarm("one")).unwrap();
        ledger.append(alarm("two")).unwrap();
        let text = fs_err::read_to_string(&path).unwrap();
        fs_err::remove_file(&beside).unwrap();
        fs_err::write(&path, text.replacen("alarm", "al\u{0}rm", 1)).unwrap();
        let memory = Memory::read(&path);
        let latch = memory.latch.unwrap();
        assert!(memory.unreadable == 1 && latch.incident == 8 && !latch.lockdown, "{latch:?}");
    }

    #[test]
    fn a_torn_line_costs_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate.jsonl");
        Ledger::new(path.clone()).append(alarm("one")).unwrap();
        let mut bytes = fs_err::read(&path).unwrap();
        bytes.truncate(bytes.len() - 5);
        fs_err::write(&path, bytes).unwrap();
        let latch = Latch { incident: 3, lockdown: true, reason: "x".into() };
        let mut line = alarm("");
        line.entry = Entry::Latched(latch.clone());
        Ledger::new(path.clone()).append(line).unwrap();
        let memory = Memory::read(&path);
        assert_eq!(
            (memory.unreadable, memory.latch, memory.incident),
            (1, Some(latch), 3),
            "no start follows"
        );
        let text = fs_err::read_to_string(&path).unwrap();
        let start = r#"{"at":"1970-01-01T00:00:00Z","boot_ms":1,"boot_id":"b","entry":"transition","from":"boot","to":{"state":"boot"}}"#;
        let (torn, _) = text.split_once('\n').unwrap();
        fs_err::write(&path, format!("{torn}\n{start}\n")).unwrap();
        let memory = Memory::read(&path);
        assert_eq!((memory.unreadable, memory.latch), (0, None), "torn by a crash, followed by a start");
    }

    #[test]
    fn what_a_full_disk_refused_is_written_later() {
        let mut ledger = Ledger::new("/dev/full".into());
        assert!(ledger.append(alarm("kept")).is_err());
        let folder = tempfile::tempdir().unwrap();
        ledger.path = folder.path().join("gate.jsonl");
        ledger.append(alarm("next")).unwrap();
        let text = fs_err::read_to_string(&ledger.path).unwrap();
        assert!(text.contains("kept") && text.contains("next"), "{text}");
    }
}
