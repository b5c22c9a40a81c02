//! The gate's own log: one JSON line per entry, appended and synced. It is what a restarted gate remembers
//! (highest epoch and window, latches, the day's open seconds) and where every transition can be read later.
//!
//! A torn last line (power cut, full disk) is ended and left as it is; an entry that a full disk refused is
//! tried again before the next one. Format: `{"at","boot_ms","boot_id","entry",…}`, see [`Entry`].

use std::{
    collections::VecDeque,
    io::Write,
    path::{Path, PathBuf},
};

use fs_err::{File, OpenOptions};
use jiff::Timestamp;
use kuramori_model::{
    gate::{BootId, CloseReason, Exposure, WindowRecord, WindowToken},
    ids::WindowId,
};
use serde::{Deserialize, Serialize};

use crate::machine::{Entry, Latch, What};

/// Windows that are kept in memory, for `history` and the budget.
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
    /// Lines that could not be read.
    pub unreadable: u64,
}

impl Memory {
    /// Reads the log; none is an empty one.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let mut memory = Self::default();
        if !path.exists() {
            return Ok(memory);
        }
        // Bytes, not text: a torn line may end inside a character.
        for line in fs_err::read(path)?.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => memory.take(&line),
                Err(_) => memory.unreadable += 1,
            }
        }
        Ok(memory)
    }

    /// Takes one more line, in the order of the log.
    pub fn take(&mut self, line: &Line) {
        match &line.entry {
            Entry::Accepted { token, .. } => {
                self.epoch = self.epoch.max(token.epoch);
                self.last_window = self.last_window.max(token.window.0);
                self.unfinished = Some((line.clone(), (**token).clone()));
            }
            Entry::Latched(latch) => {
                self.incident = self.incident.max(latch.incident);
                self.latch = Some(latch.clone());
            }
            Entry::Released { incident, .. } => {
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
        if self.unfinished.as_ref().is_some_and(|(_, token)| token.window == record.window) {
            self.unfinished = None;
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

    /// Milliseconds of open path within the last 24 hours. This boot is judged by boot time; other boots by
    /// the wall clock, where a window "in the future" counts too.
    pub fn used_ms(&self, boot_id: &BootId, at: u64, wall: Timestamp) -> u64 {
        let recent = |record: &&WindowRecord| {
            if record.boot_id == *boot_id {
                at.saturating_sub(record.opened_boot_ms) < DAY_MS
            } else {
                wall.as_millisecond() - record.opened.as_millisecond() < DAY_MS.cast_signed()
            }
        };
        let open = |record: &WindowRecord| {
            let seconds = record.exposure.commanded_s.max(record.exposure.actuator_s).clamp(0.0, 1e9);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped above")]
            let milliseconds = (seconds * 1000.0) as u64;
            milliseconds
        };
        self.windows.iter().filter(recent).map(open).sum()
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
        assert_eq!(memory.used_ms(&BootId::new("b").unwrap(), 10_000, Timestamp::UNIX_EPOCH), 8999);
        assert_eq!(memory.used_ms(&BootId::new("b").unwrap(), DAY_MS + 10_000, Timestamp::UNIX_EPOCH), 0);
        let past: Timestamp = "1960-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(
            memory.used_ms(&BootId::new("c").unwrap(), 5, past),
            8999,
            "a window in the future counts"
        );
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
        let memory = Memory::read(&path).unwrap();
        assert_eq!((memory.unreadable, memory.latch, memory.incident), (1, Some(latch), 3));
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
