//! How large primary and vault become, how long a night's window is, and whether the budget holds.
//!
//! The model is plain enough to check by hand. A system of `full` bytes rewrites a fraction `c` of itself
//! each day at random places and grows by `g` bytes. Between two restore points that lie `d` days apart,
//! `full · (1 − (1 − c)^d) + g · d` bytes are new; a store holds one full copy plus what is new between
//! each pair of kept points. Everything is multiplied by `stored`, the share that remains after
//! compression and deduplication.

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// What must be known of one departmental system.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemSize {
    /// Its name, for the table.
    pub name: String,
    /// Size of one full copy at the source.
    pub full: Bytes,
    /// Share of the full copy rewritten in a day, 0 to 1.
    pub changed_per_day: f64,
    /// Bytes added in a day.
    pub growth_per_day: Bytes,
    /// Share that remains after compression and deduplication, above 0 and up to 1.
    pub stored: f64,
    /// Whether each backup reads all of it (a database's base backup) or only what changed (files).
    #[serde(default)]
    pub read_whole: bool,
}

/// What the stores, links and rules allow.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    /// Bytes a second from the departments into the primary.
    pub ingest_per_second: Bytes,
    /// Bytes a second from the primary through the gate into the vault.
    pub vault_per_second: Bytes,
    /// Seconds that the gate may be open in a day.
    pub budget_seconds: u64,
    /// Seconds that a window takes besides its bytes.
    pub window_overhead_seconds: u64,
    /// Hours of a night in which departments may be read.
    pub night_hours: f64,
    /// Kept points at the primary: daily, weekly, monthly.
    pub primary_points: (u32, u32, u32),
    /// Kept points at the vault: daily, weekly, monthly. At least 90 days stay whatever these say.
    pub vault_points: (u32, u32, u32),
    /// Free room that stays for peaks and for growth of a year, as a share.
    pub headroom: f64,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            ingest_per_second: Bytes(100_000_000),
            vault_per_second: Bytes(600_000_000),
            budget_seconds: 3600,
            window_overhead_seconds: 10,
            night_hours: 6.0,
            primary_points: (14, 8, 6),
            vault_points: (14, 8, 12),
            headroom: 0.3,
        }
    }
}

/// A register with the site that it runs on: the file that `kuramori plan size` reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The site; every field has a default.
    #[serde(default)]
    pub site: Site,
    /// The systems.
    #[serde(rename = "system")]
    pub systems: Vec<SystemSize>,
}

/// Why no answer can be given.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum BadQuestion {
    /// A share outside its range.
    #[error(
        "`{system}`: `{field}` is {value}; it must lie above 0 and at most at 1 (`changed_per_day` may be 0)"
    )]
    Share {
        /// The system.
        system: String,
        /// The field.
        field: &'static str,
        /// What was given.
        value: f64,
    },
    /// A rate of zero.
    #[error("`{0}` must be above 0")]
    Rate(&'static str),
    /// Nothing to plan.
    #[error("the register names no system")]
    Empty,
}

/// One system's share of the answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SystemPlan {
    /// Its name.
    pub name: String,
    /// Bytes that it takes at the primary.
    pub primary: Bytes,
    /// Bytes that it takes at the vault.
    pub vault: Bytes,
    /// Bytes that go to the vault on an ordinary night.
    pub nightly: Bytes,
    /// Seconds that reading it takes on an ordinary night.
    pub read_seconds: u64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Each system.
    pub systems: Vec<SystemPlan>,
    /// Size of the primary with headroom.
    pub primary: Bytes,
    /// Size of the vault with headroom.
    pub vault: Bytes,
    /// Bytes through the gate on an ordinary night.
    pub nightly: Bytes,
    /// Seconds that the gate is open on an ordinary night.
    pub window_seconds: u64,
    /// Whether that fits the daily budget.
    pub budget_holds: bool,
    /// Share of a day that the vault is cut off.
    pub isolation: f64,
    /// Seconds of open gate that the first fill would need.
    pub first_fill_seconds: u64,
    /// Days that the first fill takes through ordinary windows; a carried disk takes none.
    pub first_fill_days: u64,
    /// Hours of reading on an ordinary night, one system after the other.
    pub reading_hours: f64,
    /// Whether the departments can be read in the night.
    pub night_holds: bool,
}

/// Answers the question.
///
/// # Errors
/// Values from which no plan follows.
pub fn plan(question: &Question) -> Result<Plan, BadQuestion> {
    check(question)?;
    let site = &question.site;
    let systems: Vec<SystemPlan> = question
        .systems
        .iter()
        .map(|system| SystemPlan {
            name: system.name.clone(),
            primary: stored(system, site.primary_points, 0),
            vault: stored(system, site.vault_points, 90),
            nightly: rounded(fresh(system, 1.0) * system.stored),
            read_seconds: seconds(read(system), site.ingest_per_second),
        })
        .collect();
    let sum = |part: fn(&SystemPlan) -> Bytes| systems.iter().map(|system| part(system).0).sum::<u64>();
    let nightly = Bytes(sum(|system| system.nightly));
    let window_seconds = seconds(nightly, site.vault_per_second) + site.window_overhead_seconds;
    let full: f64 = question.systems.iter().map(|system| system.full.0 as f64 * system.stored).sum();
    let first_fill_seconds = seconds(rounded(full), site.vault_per_second);
    // Ordinary nights go on during the first fill; what they leave of the budget is for the fill.
    let left = site.budget_seconds.saturating_sub(window_seconds).max(1);
    let reading_hours = systems.iter().map(|system| system.read_seconds).sum::<u64>() as f64 / 3600.0;
    Ok(Plan {
        primary: rounded(sum(|system| system.primary) as f64 * (1.0 + site.headroom)),
        vault: rounded(sum(|system| system.vault) as f64 * (1.0 + site.headroom)),
        nightly,
        window_seconds,
        budget_holds: window_seconds <= site.budget_seconds,
        isolation: 1.0 - (window_seconds as f64 / 86_400.0).min(1.0),
        first_fill_seconds,
        first_fill_days: first_fill_seconds.div_ceil(left),
        reading_hours,
        night_holds: reading_hours <= site.night_hours,
        systems,
    })
}

fn check(question: &Question) -> Result<(), BadQuestion> {
    if question.systems.is_empty() {
        return Err(BadQuestion::Empty);
    }
    if question.site.ingest_per_second.0 == 0 {
        return Err(BadQuestion::Rate("ingest_per_second"));
    }
    if question.site.vault_per_second.0 == 0 {
        return Err(BadQuestion::Rate("vault_per_second"));
    }
    for system in &question.systems {
        for (field, value, low) in
            [("changed_per_day", system.changed_per_day, 0.0), ("stored", system.stored, f64::MIN_POSITIVE)]
        {
            if !(low..=1.0).contains(&value) {
                return Err(BadQuestion::Share { system: system.name.clone(), field, value });
            }
        }
    }
    Ok(())
}

/// Bytes that are new after `days`, before compression.
fn fresh(system: &SystemSize, days: f64) -> f64 {
    let rewritten = system.full.0 as f64 * (1.0 - (1.0 - system.changed_per_day).powf(days));
    rewritten + system.growth_per_day.0 as f64 * days
}

/// Bytes that an ordinary night reads from the source.
fn read(system: &SystemSize) -> Bytes {
    if system.read_whole { system.full } else { rounded(fresh(system, 1.0)) }
}

/// One full copy and what is new between the kept points, after compression.
fn stored(system: &SystemSize, (daily, weekly, monthly): (u32, u32, u32), at_least_days: u32) -> Bytes {
    // Where everything of `at_least_days` must stay, days beyond the daily points are kept daily too.
    let days = f64::from(daily.max(at_least_days));
    let kept = system.full.0 as f64
        + days * fresh(system, 1.0)
        + f64::from(weekly) * fresh(system, 7.0)
        + f64::from(monthly) * fresh(system, 30.0);
    rounded(kept * system.stored)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes are positive and far below 2^63"
)]
fn rounded(bytes: f64) -> Bytes {
    Bytes(bytes.ceil() as u64)
}

fn seconds(bytes: Bytes, rate: Bytes) -> u64 {
    bytes.0.div_ceil(rate.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(full: u64, changed: f64) -> SystemSize {
        SystemSize {
            name: "billing".to_owned(),
            full: Bytes(full),
            changed_per_day: changed,
            growth_per_day: Bytes(0),
            stored: 0.5,
            read_whole: true,
        }
    }

    #[test]
    fn a_system_that_never_changes_takes_one_copy() {
        let plan = plan(&Question { site: Site::default(), systems: vec![system(1000, 0.0)] }).unwrap();
        assert_eq!(plan.systems[0].primary, Bytes(500));
        assert_eq!(plan.nightly, Bytes(0));
        assert_eq!(plan.window_seconds, 10);
        assert!(plan.budget_holds);
    }

    #[test]
    fn a_system_rewritten_every_day_takes_a_copy_for_each_point() {
        let plan = plan(&Question { site: Site::default(), systems: vec![system(1000, 1.0)] }).unwrap();
        assert_eq!(plan.systems[0].primary, Bytes(500 * (1 + 14 + 8 + 6)));
        assert_eq!(plan.systems[0].vault, Bytes(500 * (1 + 90 + 8 + 12)));
        assert_eq!(plan.nightly, Bytes(500));
    }

    #[test]
    fn a_budget_that_does_not_hold_is_said() {
        let site = Site { budget_seconds: 60, vault_per_second: Bytes(1), ..Site::default() };
        let plan = plan(&Question { site, systems: vec![system(1000, 1.0)] }).unwrap();
        assert!(!plan.budget_holds);
    }

    #[test]
    fn nonsense_is_refused() {
        let ask = |systems| plan(&Question { site: Site::default(), systems });
        assert_eq!(ask(vec![]), Err(BadQuestion::Empty));
        assert!(matches!(ask(vec![system(1, 1.5)]), Err(BadQuestion::Share { .. })));
        assert!(matches!(ask(vec![system(1, f64::NAN)]), Err(BadQuestion::Share { .. })));
    }
}
