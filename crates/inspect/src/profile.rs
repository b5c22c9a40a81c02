//! What is normal for one system. Learnt from points that were found clean, stored by the caller as JSON.
//!
//! Grows with the number of kinds of files, never with the number of files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    class::Class,
    error::{Error, Result},
    report::Figures,
};

/// The format's number.
const VERSION: u32 = 1;
/// More extensions than this share one row.
const EXTENSIONS: usize = 512;
/// Points whose figures are remembered.
const HISTORY: usize = 60;
/// Files under suspicion that are remembered.
const OPEN: usize = 1000;
/// The row of what does not get one of its own.
const REST: &str = "*";

/// One extension: files are grouped by it, nothing is concluded from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Files of it in the last clean point.
    pub files: u64,
    /// Kinds of the files that were examined so far.
    pub kinds: BTreeMap<Class, u64>,
    /// New files examined so far.
    pub judged: u64,
    /// Of those, how many were flawed although the point was clean.
    pub flawed: u64,
    /// How often it was put behind another name, as `.done` is.
    pub appended: u64,
    /// The first bytes that all files of it had so far, in hex, and how many they were: a vendor's own kind.
    #[serde(default)]
    pub begins: String,
    /// See `begins`.
    #[serde(default)]
    pub begun: u64,
}

/// Fewer common bytes say nothing.
const BEGINS_LEAST: usize = 4;
/// Fewer files say nothing.
const BEGUN_LEAST: u64 = 5;

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

impl Group {
    /// Learns how a file begins.
    pub(crate) fn learn_begin(&mut self, begins: &[u8]) {
        let text = hex(begins);
        if self.begun == 0 {
            self.begins = text;
        } else {
            let same = self.begins.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
            self.begins.truncate(same / 2 * 2);
        }
        self.begun += 1;
    }

    /// Whether all files of it began alike so far, and this one does not.
    pub(crate) fn begins_otherwise(&self, begins: &[u8]) -> bool {
        let text = hex(begins);
        self.begun >= BEGUN_LEAST && self.begins.len() >= 2 * BEGINS_LEAST && !text.starts_with(&self.begins)
    }
}

/// A file that was bad in a point that was clean all in all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Path.
    pub path: String,
    /// Newest clean point that holds a good version.
    pub last_good: Option<u64>,
    /// First point in which it was bad.
    pub first_bad: u64,
    /// What was wrong.
    pub why: String,
}

/// What is normal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    version: u32,
    /// Clean points that it was learnt from.
    pub points: u64,
    /// Files in the last of them.
    pub files: u64,
    /// By extension, in lower case, without the dot.
    pub groups: BTreeMap<String, Group>,
    /// Figures of the last clean points.
    pub history: Vec<Figures>,
    /// CUSUM over bad files (rule D8), and the point with which it began to rise.
    pub sum: f64,
    /// See `sum`.
    pub since: Option<u64>,
    /// The last clean point before that.
    pub before: Option<u64>,
    /// Files under suspicion.
    pub open: Vec<Open>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            version: VERSION,
            points: 0,
            files: 0,
            groups: BTreeMap::new(),
            history: Vec::new(),
            sum: 0.0,
            since: None,
            before: None,
            open: Vec::new(),
        }
    }
}

impl Profile {
    /// Reads a stored one.
    ///
    /// # Errors
    /// [`Error::Profile`].
    pub fn from_json(text: &str) -> Result<Self> {
        let profile: Self = serde_json::from_str(text).map_err(|error| Error::Profile(error.to_string()))?;
        if profile.version == VERSION {
            Ok(profile)
        } else {
            Err(Error::Profile(format!("it has version {}", profile.version)))
        }
    }

    /// Writes it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What is known of an extension.
    pub(crate) fn group(&self, extension: &str) -> Option<&Group> {
        self.groups.get(extension)
    }

    /// The row of an extension, made if there is room.
    pub(crate) fn group_mut(&mut self, extension: &str) -> &mut Group {
        let full = self.groups.len() >= EXTENSIONS && !self.groups.contains_key(extension);
        let key = if full { REST } else { extension };
        self.groups.entry(key.to_owned()).or_default()
    }

    /// The kind that files of this extension have, if they nearly all have one that is known from cipher text.
    pub(crate) fn expects(&self, extension: &str) -> Option<Class> {
        let group = self.group(extension)?;
        let all: u64 = group.kinds.values().sum();
        let (class, count) = group.kinds.iter().max_by_key(|(_, count)| **count)?;
        (all >= 3 && class.is_firm() && count * 20 >= all * 19).then_some(*class)
    }

    /// Whether many files of this extension were examined, and not one was of another kind.
    pub(crate) fn is_sure_of(&self, extension: &str) -> bool {
        self.group(extension).is_some_and(|group| {
            group.kinds.len() == 1 && group.kinds.iter().all(|(class, count)| class.is_firm() && *count >= 20)
        })
    }

    /// Whether files of this extension were often of no known kind before: then it is no news.
    pub(crate) fn is_used_to_opaque(&self, extension: &str) -> bool {
        self.group(extension).is_some_and(|group| {
            let all: u64 = group.kinds.values().sum();
            let opaque: u64 =
                group.kinds.iter().filter(|(class, _)| !class.is_firm()).map(|(_, count)| count).sum();
            opaque >= 3 && opaque * 5 >= all
        })
    }

    /// Whether a kind that only encrypted files have was seen with this extension.
    pub(crate) fn knows_sealed(&self, extension: &str) -> bool {
        self.group(extension).is_some_and(|group| group.kinds.contains_key(&Class::Sealed))
    }

    /// Middle and median distance from it, of a figure over the history.
    pub(crate) fn usual(&self, figure: impl Fn(&Figures) -> f64) -> (f64, f64) {
        let values: Vec<f64> = self.history.iter().map(figure).collect();
        let middle = median(values.clone());
        (middle, median(values.iter().map(|value| (value - middle).abs()).collect()))
    }

    pub(crate) fn remember(&mut self, figures: Figures) {
        self.history.push(figures);
        if self.history.len() > HISTORY {
            self.history.remove(0);
        }
    }

    pub(crate) fn suspect(&mut self, open: Open) {
        if self.open.len() < OPEN && !self.open.iter().any(|known| known.path == open.path) {
            self.open.push(open);
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The extension of a name in lower case; empty if it has none.
pub(crate) fn extension(path: &[u8]) -> String {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    match name.iter().rposition(|byte| *byte == b'.') {
        Some(dot) if dot > 0 && name.len() - dot <= 16 && name.len() - dot > 1 => {
            String::from_utf8_lossy(&name[dot + 1..]).to_lowercase()
        }
        _ => String::new(),
    }
}
