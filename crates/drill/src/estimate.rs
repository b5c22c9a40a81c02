//! How long it will take, from what was measured and nothing else. Without a measurement there is no figure.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One restore as it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// When it ended.
    pub at: Timestamp,
    /// Of which system.
    pub system: String,
    /// Bytes that came back.
    pub bytes: u64,
    /// Seconds from the first byte to the last.
    pub restore_s: f64,
    /// Seconds until the service answered after that; none where no service was started.
    pub start_s: Option<f64>,
    /// Seconds of its checks before somebody was let in.
    pub check_s: Option<f64>,
}

/// An expected length of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Seconds in all.
    pub seconds: f64,
    /// Bytes per second that it rests on.
    pub rate: f64,
    /// Measurements that it rests on.
    pub measurements: usize,
    /// Whether they are of this very system.
    pub own: bool,
    /// Whether the start of its service is measured and included.
    pub service: bool,
}

/// Bytes below which a restore says more about its fixed cost than about a rate.
const SMALL: u64 = 16 << 20;

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 || values.is_empty() {
        values.get(middle).copied()
    } else {
        Some(f64::midpoint(values[middle - 1], values[middle]))
    }
}

/// The time to bring `bytes` of `system` back, from its own last five measurements, else from everybody's
/// last twenty; none if nothing was ever measured.
pub fn estimate(system: &str, bytes: u64, measured: &[Measured]) -> Option<Estimate> {
    let mut newest: Vec<&Measured> = measured.iter().filter(|one| one.bytes > 0).collect();
    newest.sort_by_key(|one| std::cmp::Reverse(one.at));
    let mut basis: Vec<&Measured> =
        newest.iter().copied().filter(|one| one.system == system).take(5).collect();
    let own = !basis.is_empty();
    if !own {
        basis = newest.into_iter().take(20).collect();
        // Small restores of others would make a large system look slow.
        if basis.iter().any(|one| one.bytes >= SMALL) {
            basis.retain(|one| one.bytes >= SMALL);
        }
    }
    let rate = median(basis.iter().map(|one| one.bytes as f64 / one.restore_s.max(0.001)).collect())?;
    let service: Vec<f64> =
        basis.iter().filter_map(|one| Some(one.start_s? + one.check_s.unwrap_or(0.0))).collect();
    let extra = if own { median(service) } else { None };
    Some(Estimate {
        seconds: bytes as f64 / rate + extra.unwrap_or(0.0),
        rate,
        measurements: basis.len(),
        own,
        service: extra.is_some(),
    })
}

impl Estimate {
    /// The same as a duration.
    pub fn duration(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(system: &str, bytes: u64, restore_s: f64, start_s: Option<f64>) -> Measured {
        let at = Timestamp::from_second(0).unwrap();
        Measured { at, system: system.to_owned(), bytes, restore_s, start_s, check_s: start_s }
    }

    #[test]
    fn nothing_measured_gives_no_figure_and_own_measurements_come_first() {
        assert_eq!(estimate("billing", 1 << 30, &[]), None);
        let all = [
            measured("pacs", 1 << 30, 10.0, None),
            measured("lab", 1 << 20, 10.0, None),
            measured("billing", 1 << 30, 100.0, Some(5.0)),
        ];
        let own = estimate("billing", 2 << 30, &all).unwrap();
        assert!((own.seconds - 210.0).abs() < 0.01 && own.own && own.service, "{own:?}");
        let other = estimate("ehr", 1 << 30, &all[..2]).unwrap();
        assert!((other.seconds - 10.0).abs() < 0.01 && !other.own, "the small one does not count: {other:?}");
    }
}
