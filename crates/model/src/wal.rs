//! Write-ahead log beside a PostgreSQL base backup: positions, file names, and the list that says which times
//! a restore point reaches.
//!
//! A restore point with log is a data folder with one folder more:
//! ```text
//! base/… global/… pg_wal/… backup_label      the base backup, as the server sent it
//! recovery.signal, postgresql.auto.conf      say that recovery reads the log from kuramori_wal
//! kuramori_wal/00000001000000000000000A      whole segments, by PostgreSQL's own names
//! kuramori_wal/00000001000000000000000B      the newest: filled up with zeros behind its last byte
//! kuramori_wal/00000002.history              where a timeline left its parent
//! kuramori_wal/index.json                    an [`Index`]
//! ```
//! Source of the names: PostgreSQL's documentation, "WAL Internals" and "Continuous Archiving".

use std::{collections::BTreeSet, fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The folder in the tree.
pub const FOLDER: &str = "kuramori_wal";
/// The list's name in that folder.
pub const INDEX: &str = "index.json";
/// The list's format.
pub const FORMAT: &str = "kuramori.wal/1";

/// A position in the log, in bytes since the cluster was made; written `16/B374D848`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A text that is no position.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a position in the write-ahead log")]
pub struct BadLsn(String);

impl Lsn {
    /// The number of the segment that holds this byte.
    pub const fn segment(self, bytes: u64) -> u64 {
        self.0 / bytes
    }

    /// The first byte of its segment.
    #[must_use]
    pub const fn aligned(self, bytes: u64) -> Self {
        Self(self.0 - self.0 % bytes)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let part = |part: &str| u32::from_str_radix(part, 16).map_err(|_| bad());
        Ok(Self(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A segment's file name: timeline and number.
pub fn segment_name(timeline: u32, number: u64, bytes: u64) -> String {
    let per = (1_u64 << 32) / bytes;
    format!("{timeline:08X}{:08X}{:08X}", number / per, number % per)
}

/// Timeline and number behind a segment's name; none for any other name.
pub fn parse_segment(name: &str, bytes: u64) -> Option<(u32, u64)> {
    if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
        return None;
    }
    let part = |at: usize| u32::from_str_radix(&name[at..at + 8], 16).ok();
    let per = (1_u64 << 32) / bytes;
    let low = u64::from(part(16)?);
    (low < per).then_some((part(0)?, u64::from(part(8)?) * per + low))
}

/// The timeline behind a history file's name.
pub fn parse_history(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".history")?;
    (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// A base backup inside a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The timeline that it was taken on.
    pub timeline: u32,
    /// Its log begins here.
    pub start: Lsn,
    /// It is consistent from here on.
    pub end: Lsn,
    /// By the server's clock: nothing before this time can be reached from it.
    pub time: Timestamp,
    /// The past that it belongs to: counted each time the server went back behind log that we had.
    #[serde(default)]
    pub past: u32,
}

/// How far a log reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The timeline of its last byte.
    pub timeline: u32,
    /// Behind its last byte.
    pub lsn: Lsn,
    /// By the server's clock: whatever was committed before this time is in it.
    pub time: Timestamp,
}

/// Where a timeline was left for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The timeline that was left.
    pub timeline: u32,
    /// What it has behind this position leads nowhere.
    pub at: Lsn,
}

/// What a timeline's history file says: the timelines that it comes from, oldest first.
pub fn forks(history: &str) -> Vec<Fork> {
    let fork = |line: &str| {
        let mut words = line.split_whitespace();
        Some(Fork { timeline: words.next()?.parse().ok()?, at: words.next()?.parse().ok()? })
    };
    history.lines().filter_map(fork).collect()
}

/// Log that nobody has any more, or that leads nowhere because the server went back in its past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The last byte before it that is here.
    pub from: Lsn,
    /// The first byte behind it that is here.
    pub to: Lsn,
    /// What was committed before this time, by the server's clock, lies before the gap.
    pub reached: Option<Timestamp>,
    /// When it was found, by our clock.
    pub found: Timestamp,
    /// What the server said.
    pub why: String,
    /// The [past](Base::past) whose log ends here.
    #[serde(default)]
    pub past: u32,
}

/// What a restore point's log can do; stored as `kuramori_wal/index.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// [`FORMAT`].
    pub format: String,
    /// Of which cluster.
    pub system_identifier: String,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// The base backup beside it.
    pub base: Base,
    /// How far it reaches.
    pub end: End,
    /// Where it has holes.
    pub gaps: Vec<Gap>,
    /// The segments, by name.
    pub segments: Vec<String>,
    /// The [past](Base::past) that the log belongs to.
    #[serde(default)]
    pub past: u32,
    /// Where the timelines that its own comes from were left, oldest first.
    #[serde(default)]
    pub forks: Vec<Fork>,
}

/// Why a log cannot bring a base backup forward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// It is another cluster's.
    #[error("it is the log of another cluster")]
    Cluster,
    /// The server went back in its past between the two.
    #[error("the server went back in its past between the base backup and this log")]
    Past,
    /// The log's timeline does not come from where the base ends.
    #[error("the log's timeline {log} was begun before the base backup on timeline {base} ended")]
    Timeline {
        /// The base's.
        base: u32,
        /// The log's.
        log: u32,
    },
    /// Segments are not there.
    #[error("segment {0} is missing")]
    Missing(String),
    /// The log has a hole where the base ends.
    #[error("the log has a hole from {from} to {to}")]
    Hole {
        /// Where it begins.
        from: Lsn,
        /// Where it ends.
        to: Lsn,
    },
}

impl Index {
    /// Until when this log brings a base backup (its own, or an older one of the same cluster): everything
    /// between the base's own time and this can be reached.
    ///
    /// # Errors
    /// Why it cannot be brought forward at all.
    pub fn reach(&self, system_identifier: &str, base: &Base) -> Result<Timestamp, Unreachable> {
        self.reach_to(system_identifier, base).map(|(_, time)| time)
    }

    /// As [`Self::reach`], with the position that recovery to this time has to come to.
    ///
    /// # Errors
    /// Why it cannot be brought forward at all.
    pub fn reach_to(&self, system_identifier: &str, base: &Base) -> Result<(Lsn, Timestamp), Unreachable> {
        if self.system_identifier != system_identifier || self.segment_bytes == 0 {
            return Err(Unreachable::Cluster);
        }
        if self.past != base.past {
            return Err(Unreachable::Past);
        }
        self.comes_from(base)?;
        let mut until = (self.end.lsn, self.end.time);
        for gap in self.gaps.iter().filter(|gap| gap.past == self.past) {
            if gap.to <= base.end {
                continue;
            }
            match gap.reached {
                Some(reached) if gap.from > base.end => {
                    if gap.from < until.0 {
                        until = (gap.from, reached);
                    }
                }
                _ => return Err(Unreachable::Hole { from: gap.from, to: gap.to }),
            }
        }
        let bytes = self.segment_bytes;
        let there: BTreeSet<(u32, u64)> = self
            .segments
            .iter()
            .filter_map(|name| parse_segment(name, bytes))
            .map(|(timeline, number)| (self.any_timeline(base).unwrap_or(timeline), number))
            .collect();
        // A log that ends with its segment needs none behind it.
        let last = until.0.0.saturating_sub(1) / bytes;
        let mut needed = (base.end.segment(bytes)..=last).map(|number| (self.timeline_of(number), number));
        if let Some((timeline, number)) = needed.find(|segment| !there.contains(segment)) {
            return Err(Unreachable::Missing(segment_name(timeline, number, bytes)));
        }
        Ok(until)
    }

    /// A base backup of what an old timeline wrote behind the position where it was left leads nowhere.
    fn comes_from(&self, base: &Base) -> Result<(), Unreachable> {
        let other = Unreachable::Timeline { base: base.timeline, log: self.end.timeline };
        if base.timeline == self.end.timeline {
            return Ok(());
        }
        match self.forks.iter().find(|fork| fork.timeline == base.timeline) {
            Some(fork) if base.end <= fork.at => Ok(()),
            // An index of before the forks were written down.
            None if self.forks.is_empty() && base.timeline < self.end.timeline => Ok(()),
            _ => Err(other),
        }
    }

    /// The timeline whose file recovery reads for a segment: the one in which a timeline begins is its own.
    fn timeline_of(&self, number: u64) -> u32 {
        let older = self.forks.iter().find(|fork| number < fork.at.segment(self.segment_bytes));
        older.map_or(self.end.timeline, |fork| fork.timeline)
    }

    /// Where nothing is known of the forks, a segment of any timeline counts.
    fn any_timeline(&self, base: &Base) -> Option<u32> {
        (self.forks.is_empty() && base.timeline != self.end.timeline).then_some(self.end.timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn index(segments: &[u64], end: u64) -> Index {
        Index {
            format: FORMAT.to_owned(),
            system_identifier: "7".to_owned(),
            segment_bytes: MIB,
            base: Base {
                timeline: 1,
                start: Lsn(2 * MIB + 40),
                end: Lsn(2 * MIB + 256),
                time: Timestamp::from_second(100).unwrap(),
                past: 0,
            },
            end: End { timeline: 2, lsn: Lsn(end), time: Timestamp::from_second(900).unwrap() },
            gaps: Vec::new(),
            segments: segments.iter().map(|n| segment_name(1, *n, MIB)).collect(),
            past: 0,
            forks: Vec::new(),
        }
    }

    #[test]
    fn names_are_postgresqls_own() {
        assert_eq!(segment_name(1, 0x2_0000_0005 / 16, 16 << 20), "000000010020000000000000");
        assert_eq!(segment_name(3, 257, 16 << 20), "000000030000000100000001");
        assert_eq!(parse_segment("000000030000000100000001", 16 << 20), Some((3, 257)));
        for bad in ["00000003.history", "00000003000000010000000G", "000000030000000100000001.partial"] {
            assert_eq!(parse_segment(bad, 16 << 20), None, "{bad}");
        }
        assert_eq!(parse_segment("0000000300000001000000FF", 1 << 24), Some((3, 511)));
        assert_eq!(parse_segment("000000030000000100000100", 1 << 24), None, "no such number in 16 MiB");
        assert_eq!((parse_history("0000000A.history"), parse_history("A.history")), (Some(10), None));
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!((lsn.to_string().as_str(), lsn.0), ("16/B374D848", 0x16_B374_D848));
        assert!("16".parse::<Lsn>().is_err() && "1/2/3".parse::<Lsn>().is_err());
    }

    #[test]
    fn a_log_reaches_as_far_as_it_has_no_hole() {
        let whole = index(&[2, 3, 4], 4 * MIB + 77);
        assert_eq!(whole.reach("7", &whole.base).unwrap().as_second(), 900);
        assert_eq!(whole.reach("8", &whole.base), Err(Unreachable::Cluster));
        // Ends exactly with a segment.
        let even = index(&[2, 3], 4 * MIB);
        assert!(even.reach("7", &even.base).is_ok());
        for lost in [2, 3, 4] {
            let rest: Vec<u64> = [2, 3, 4].into_iter().filter(|n| *n != lost).collect();
            let log = index(&rest, 4 * MIB + 77);
            let missing = Unreachable::Missing(segment_name(2, lost, MIB));
            assert_eq!(log.reach("7", &log.base), Err(missing));
        }
        // A gap behind the base ends its reach before the gap; a base behind the gap does not see it.
        let mut gap = index(&[2, 3, 6, 7], 7 * MIB + 1);
        gap.gaps.push(Gap {
            from: Lsn(3 * MIB + 9),
            to: Lsn(6 * MIB),
            reached: Some(Timestamp::from_second(500).unwrap()),
            found: Timestamp::from_second(600).unwrap(),
            why: String::new(),
            past: 0,
        });
        let at_the_gap = (Lsn(3 * MIB + 9), Timestamp::from_second(500).unwrap());
        assert_eq!(gap.reach_to("7", &gap.base), Ok(at_the_gap));
        assert_eq!(gap.reach("7", &gap.base).unwrap().as_second(), 500);
        let later = Base { end: Lsn(6 * MIB + 5), ..gap.base.clone() };
        assert_eq!(gap.reach("7", &later).unwrap().as_second(), 900);
        let inside = Base { end: Lsn(5 * MIB), ..gap.base.clone() };
        assert!(matches!(gap.reach("7", &inside), Err(Unreachable::Hole { .. })));
    }

    #[test]
    fn a_log_brings_no_base_backup_forward_that_its_timeline_does_not_come_from() {
        // Timeline 1 was written up to segment 5 and left in segment 3; timeline 2 goes on from there.
        let mut log = index(&[2, 3, 4, 5], 6 * MIB + 77);
        log.forks = forks("1\t0/300040\tno recovery target specified\n");
        assert_eq!(log.forks, [Fork { timeline: 1, at: Lsn(3 * MIB + 64) }]);
        // The old timeline's segments do not count for the new one's.
        let missing = Unreachable::Missing(segment_name(2, 3, MIB));
        assert_eq!(log.reach("7", &log.base), Err(missing));
        log.segments.extend([3, 4, 5, 6].map(|n| segment_name(2, n, MIB)));
        assert_eq!(log.reach("7", &log.base).unwrap().as_second(), 900);
        let behind = Base { end: Lsn(3 * MIB + 65), ..log.base.clone() };
        assert_eq!(log.reach("7", &behind), Err(Unreachable::Timeline { base: 1, log: 2 }));
        let stranger = Base { timeline: 3, ..log.base.clone() };
        assert_eq!(log.reach("7", &stranger), Err(Unreachable::Timeline { base: 3, log: 2 }));
        // A base on the new timeline itself, and a chain of three.
        let own = Base { timeline: 2, end: Lsn(4 * MIB), ..log.base.clone() };
        assert!(log.reach("7", &own).is_ok());
        log.forks.push(Fork { timeline: 2, at: Lsn(6 * MIB) });
        log.end.timeline = 4;
        assert_eq!(log.reach("7", &log.base), Err(Unreachable::Missing(segment_name(4, 6, MIB))));
        log.segments.push(segment_name(4, 6, MIB));
        assert!(log.reach("7", &log.base).is_ok() && log.reach("7", &own).is_ok());
        // Another past has the same names and other bytes, and its gaps are not ours.
        let mut later = log.clone();
        later.past = 1;
        assert_eq!(later.reach("7", &log.base), Err(Unreachable::Past));
        later.gaps.push(Gap {
            from: Lsn(6 * MIB),
            to: Lsn(5 * MIB),
            reached: None,
            found: Timestamp::UNIX_EPOCH,
            why: String::new(),
            past: 0,
        });
        assert!(later.reach("7", &Base { past: 1, ..log.base.clone() }).is_ok());
    }
}
