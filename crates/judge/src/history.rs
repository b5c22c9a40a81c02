//! What is usual for a system: the size of its nights, robust against the odd one.
//!
//! Sizes grow by factors, so everything is in logarithms. Nights of the same kind (day of the week;
//! holidays count as Sundays) are compared first; the spread is pooled over all kinds, since eight Sundays
//! alone say little about it. Median and MAD (median absolute deviation, Rousseeuw and Croux 1993) let half
//! of the nights be odd before they are moved.

use jiff::{civil::Weekday, tz::TimeZone};

use crate::{calendar::Calendar, expect::Expectations, facts::Taken};

/// Nights of the same kind that are looked back on.
const SAME_KIND: usize = 8;
/// Nights of any kind that are looked back on.
const ALL: usize = 28;
/// Fewer than this many points say nothing about what is usual.
const ENOUGH: usize = 4;
/// How many nights of the same kind are enough to compare with these alone.
const ENOUGH_SAME: usize = 3;
/// The least spread that is believed (4 %), so that a dump that never changed may.
const LEAST_SPREAD: f64 = 0.04;
/// How many spreads below the usual a size must lie.
const FAR: f64 = 3.5;
/// On the first rest days nothing comparable is known: only a size below this share of the ordinary limit
/// is then called small.
const FIRST_REST: f64 = 0.3;
/// Scales a MAD to a standard deviation of a normal distribution.
const MAD_TO_SIGMA: f64 = 1.4826;

/// What size a night may be expected to have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usual {
    /// The median, in bytes.
    pub median: f64,
    /// Below this many bytes a dump is much smaller than usual.
    pub limit: f64,
}

/// A night's kind and the logarithm of its size.
type Night = (Weekday, f64);

/// The expectation for `new` from the complete points before it; none while there are too few.
pub fn usual(
    before: &[Taken],
    new: &Taken,
    expect: &Expectations,
    calendar: &Calendar,
    zone: &TimeZone,
) -> Option<Usual> {
    let kind = |taken: &Taken| calendar.kind(Calendar::covered(taken.received, zone));
    let mut nights: Vec<Night> = Vec::new();
    for taken in before.iter().filter(|taken| taken.complete && taken.facts.bytes > 0) {
        let size = (taken.facts.bytes as f64).ln();
        if expect.accepted_sizes.contains(&taken.sequence)
            && let Some((middle, _)) = middle(&nights, kind(taken))
        {
            for night in &mut nights {
                night.1 += size - middle;
            }
        }
        nights.push((kind(taken), size));
    }
    let (middle, known) = middle(&nights, kind(new))?;
    let mut off: Vec<f64> = Vec::new();
    for night in nights.iter().rev().take(2 * ALL) {
        let mut alike = newest(&nights, Some(night.0), SAME_KIND);
        if alike.len() >= ENOUGH_SAME {
            off.push((night.1 - median(&mut alike)).abs());
        }
    }
    if off.is_empty() {
        off = newest(&nights, None, ALL).into_iter().map(|size| (size - middle).abs()).collect();
    }
    let spread = (MAD_TO_SIGMA * median(&mut off)).max(LEAST_SPREAD);
    let mut share = f64::from(expect.shrink_percent.max(1)) / 100.0;
    if !known && calendar.rests(Calendar::covered(new.received, zone)) {
        share *= FIRST_REST;
    }
    let limit = (middle + share.ln()).min(middle - FAR * spread);
    Some(Usual { median: middle.exp(), limit: limit.exp() })
}

/// The median for a kind of night, and whether it rests on nights of this kind.
fn middle(nights: &[Night], kind: Weekday) -> Option<(f64, bool)> {
    if nights.len() < ENOUGH {
        return None;
    }
    let mut same = newest(nights, Some(kind), SAME_KIND);
    let known = same.len() >= ENOUGH_SAME;
    if !known {
        same = newest(nights, None, ALL);
    }
    Some((median(&mut same), known))
}

fn newest(nights: &[Night], wanted: Option<Weekday>, count: usize) -> Vec<f64> {
    let of_kind = |night: &&Night| wanted.is_none_or(|kind| night.0 == kind);
    nights.iter().rev().filter(of_kind).take(count).map(|night| night.1).collect()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use kuramori_model::ids::Sequence;

    use super::*;
    use crate::facts::RunFacts;

    fn nights(sizes: &[u64]) -> Vec<Taken> {
        let first: Timestamp = "2026-06-01T16:00:00Z".parse().unwrap();
        sizes
            .iter()
            .zip(0..)
            .map(|(bytes, n)| Taken {
                sequence: Sequence(n),
                received: first + SignedDuration::from_hours(24 * i64::try_from(n).unwrap()),
                complete: true,
                run: None,
                facts: RunFacts { bytes: *bytes, files: 1, ..RunFacts::default() },
            })
            .collect()
    }

    fn limit(sizes: &[u64]) -> Option<u64> {
        let all = nights(sizes);
        let (new, before) = all.split_last().unwrap();
        let zone = TimeZone::get("Asia/Tokyo").unwrap();
        let expect = Expectations::default();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "test sizes")]
        usual(before, new, &expect, &Calendar::default(), &zone).map(|u| u.limit.round() as u64)
    }

    #[test]
    fn a_few_nights_say_nothing_and_a_steady_system_gives_seven_tenths() {
        assert_eq!(limit(&[100, 100, 100, 5]), None);
        assert_eq!(limit(&[1000; 30]), Some(700));
    }

    #[test]
    fn one_odd_night_moves_nothing_and_small_sundays_are_their_own_kind() {
        let mut sizes = vec![1000; 30];
        sizes[20] = 9_000_000;
        assert_eq!(limit(&sizes), Some(700));
        // 1 June 2026 is a Monday; every seventh night from the sixth on covers a Sunday.
        let weekly: Vec<u64> = (0..42).map(|n| if n % 7 == 6 { 300 } else { 1000 }).collect();
        assert_eq!(limit(&weekly[..42]), Some(210), "night 41 covers a Sunday");
        assert_eq!(limit(&weekly[..41]), Some(700));
    }
}
