//! Rates with their bounds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// So many of so many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Hits.
    pub hits: u64,
    /// Tries.
    pub of: u64,
}

impl Rate {
    /// Adds one try.
    pub fn add(&mut self, hit: bool) {
        self.hits += u64::from(hit);
        self.of += 1;
    }

    /// The share.
    pub fn share(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.hits as f64 / self.of as f64 }
    }

    /// Wilson's bounds for 95 per cent.
    pub fn bounds(self) -> (f64, f64) {
        const Z: f64 = 1.959_964;
        if self.of == 0 {
            return (0.0, 1.0);
        }
        let (n, p) = (self.of as f64, self.share());
        let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        ((middle - half).max(0.0), (middle + half).min(1.0))
    }
}

/// What one measurement yields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// First seed that was reported; those below 100 fixed the limits.
    pub first_seed: u64,
    /// Files that were noticed, by kind and attack; each had a clean version before.
    pub files: BTreeMap<String, BTreeMap<String, Rate>>,
    /// Sources that raised the alarm, by department and attack, with 1 per cent of the files hit.
    pub one_per_cent: BTreeMap<String, BTreeMap<String, Rate>>,
    /// The same with every file hit.
    pub all_files: BTreeMap<String, BTreeMap<String, Rate>>,
    /// Sources that raised the alarm within ten days at 1 per cent of the files a day, and after how many days.
    pub slow: BTreeMap<String, Rate>,
    /// Days until then, summed.
    pub slow_days: BTreeMap<String, u64>,
    /// Clean days that raised a false alarm, by department.
    pub false_alarms: BTreeMap<String, Rate>,
    /// What raised them: department, day, rule and its words.
    pub false_reasons: Vec<String>,
    /// Clean days that were called corrupt although only single copies were cut off.
    pub called_corrupt: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

impl Evidence {
    /// All clean days.
    pub fn clean_days(&self) -> Rate {
        self.false_alarms
            .values()
            .fold(Rate::default(), |all, one| Rate { hits: all.hits + one.hits, of: all.of + one.of })
    }

    /// Over a table, one attack, without some rows.
    pub fn over(table: &BTreeMap<String, BTreeMap<String, Rate>>, attack: &str, without: &[&str]) -> Rate {
        let rows = table.iter().filter(|(row, _)| !without.contains(&row.as_str()));
        rows.filter_map(|(_, attacks)| attacks.get(attack))
            .fold(Rate::default(), |all, one| Rate { hits: all.hits + one.hits, of: all.of + one.of })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_wilsons() {
        let (low, high) = Rate { hits: 0, of: 1000 }.bounds();
        assert!(low.abs() < 1e-12 && (high - 0.003_827).abs() < 1e-5, "{high}");
        let (low, high) = Rate { hits: 8, of: 10 }.bounds();
        assert!((low - 0.490_2).abs() < 1e-3 && (high - 0.943_3).abs() < 1e-3, "{low} {high}");
    }
}
