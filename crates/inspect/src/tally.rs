//! What one inspection has counted so far.

use std::collections::BTreeMap;

use crate::{
    profile::extension,
    report::{Evidence, Figures, Rule},
};

/// Evidence that is kept word for word.
const EVIDENCE: usize = 200;
/// Endings and extensions that are counted one by one.
const NAMES: usize = 4096;

/// How much a sign weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// A file is cut off.
    Cut,
    /// A new file is not what such files are.
    New,
    /// A file that was right is broken inside.
    Broken,
    /// A file lost its kind, or holds cipher text.
    Lost,
    /// Must never happen at all.
    Hard,
}

/// Counts by weight and rule, and what is shown of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) figures: Figures,
    /// Signs by weight and rule.
    pub(crate) signs: BTreeMap<(Weight, Rule), u64>,
    /// Dumps that are not complete.
    pub(crate) dumps: u64,
    /// Kept evidence with its weight.
    evidence: Vec<(Weight, Evidence)>,
    pub(crate) evidence_total: u64,
    /// New endings of renamed files, and how many.
    pub(crate) endings: BTreeMap<String, u64>,
    /// Removed files by extension.
    pub(crate) removed: BTreeMap<String, u64>,
    /// Names that ransom notes have.
    pub(crate) notes: u64,
    bursts: BTreeMap<i64, u64>,
}

impl Tally {
    /// Notes a sign.
    pub(crate) fn sign(&mut self, weight: Weight, evidence: Evidence) {
        *self.signs.entry((weight, evidence.rule)).or_default() += 1;
        self.evidence_total += 1;
        if self.evidence.len() < EVIDENCE {
            self.evidence.push((weight, evidence));
        } else if let Some(least) = self.evidence.iter_mut().min_by_key(|(weight, _)| *weight)
            && least.0 < weight
        {
            *least = (weight, evidence);
        }
    }

    /// Signs of a weight, over all rules.
    pub(crate) fn of(&self, weight: Weight) -> u64 {
        self.signs.iter().filter(|((of, _), _)| *of == weight).map(|(_, count)| count).sum()
    }

    /// Counts a name by its extension.
    pub(crate) fn count(map: &mut BTreeMap<String, u64>, path: &[u8]) {
        let name = extension(path);
        if map.len() < NAMES || map.contains_key(&name) {
            *map.entry(name).or_default() += 1;
        }
    }

    /// Counts a time of change, in seconds since 1970.
    pub(crate) fn burst(&mut self, seconds: i64) {
        if self.bursts.len() < NAMES {
            *self.bursts.entry(seconds.div_euclid(600)).or_default() += 1;
        }
    }

    /// The evidence, most telling first, and the figures.
    pub(crate) fn finish(&mut self) -> Vec<(Weight, Evidence)> {
        let (all, most) =
            (self.bursts.values().sum::<u64>(), self.bursts.values().copied().max().unwrap_or(0));
        self.figures.burst = if all == 0 { 0.0 } else { most as f64 / all as f64 };
        let mut evidence = std::mem::take(&mut self.evidence);
        evidence.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.path.cmp(&y.path)));
        evidence
    }
}

/// Names that notes of extortion have. Only ever supports (rule D7).
pub(crate) fn is_note(path: &[u8]) -> bool {
    const WORDS: [&str; 8] = [
        "decrypt",
        "restore-my-files",
        "restore_files",
        "how_to_recover",
        "recover-files",
        "ransom",
        "readme_now",
        "your_files",
    ];
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).to_lowercase();
    let readable = matches!(extension(path).as_str(), "txt" | "html" | "hta");
    readable && WORDS.iter().any(|word| name.contains(word))
}
