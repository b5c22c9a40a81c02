//! Retention under honest nights and under poison. Seeds of failures are kept by proptest.

#![expect(clippy::unwrap_used, reason = "a helper of a test may stop it")]

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use kuramori_judge::retention::{Circumstances, Held, Plan, Reason, Retention, Verdict, generations, plan};
use kuramori_model::ids::Sequence;
use proptest::prelude::*;

const HOUR: i64 = 3600;
const FLOOR: u32 = 3;

/// A receiver with its own accumulated time and a wall clock that may be wrong.
struct Receiver {
    zone: TimeZone,
    hours: i64,
    offset_hours: i64,
    next: u64,
    points: Vec<(i64, Held)>,
    removed: Vec<i64>,
}

impl Receiver {
    fn new() -> Self {
        let zone = TimeZone::get("Asia/Tokyo").unwrap();
        Self { zone, hours: 0, offset_hours: 0, next: 1, points: Vec::new(), removed: Vec::new() }
    }

    fn take(&mut self, complete: bool, verdict: Verdict) -> Sequence {
        let first: Timestamp = "2026-01-01T16:00:00Z".parse().unwrap();
        let received = first + SignedDuration::from_hours(self.hours + self.offset_hours);
        let sequence = Sequence(self.next);
        self.next += 1;
        let held = Held { sequence, received, age: Duration::ZERO, complete, verdict };
        self.points.push((self.hours, held));
        sequence
    }

    fn held(&self) -> Vec<Held> {
        let age = |at: &i64| Duration::from_secs(u64::try_from((self.hours - at) * HOUR).unwrap());
        self.points.iter().map(|(at, held)| Held { age: age(at), ..*held }).collect()
    }

    fn plan(&self, policy: &Retention) -> Plan {
        let today = self.removed.iter().filter(|at| self.hours - **at < 24).count();
        let removed_today = u32::try_from(today).unwrap();
        let at = Circumstances { floor: FLOOR, zone: &self.zone, removed_today, suspended: false };
        plan(&self.held(), policy, &at)
    }

    fn apply(&mut self, policy: &Retention) -> Plan {
        let plan = self.plan(policy);
        self.points.retain(|(_, held)| !plan.remove.contains(&held.sequence));
        self.removed.extend(plan.remove.iter().map(|_| self.hours));
        plan
    }

    /// One honest night per day, with the plan carried out after each.
    fn nights(&mut self, count: u32, policy: &Retention) {
        for _ in 0..count {
            self.hours += 24;
            self.take(true, Verdict::Unknown);
            self.apply(policy);
        }
    }
}

fn kept(plan: &Plan) -> BTreeSet<Sequence> {
    plan.keep.iter().map(|(sequence, _)| *sequence).collect()
}

#[test]
fn a_year_of_nights_leaves_fourteen_days_eight_weeks_six_months() {
    let policy = Retention::default();
    let mut receiver = Receiver::new();
    receiver.nights(400, &policy);
    let plan = receiver.plan(&policy);
    let count = |reason| plan.keep.iter().filter(|(_, why)| why.contains(&reason)).count();
    // The week and the month that have just begun count beside the full ones.
    assert_eq!(count(Reason::Daily), 14);
    assert!(
        (8..=9).contains(&count(Reason::Weekly)) && (6..=7).contains(&count(Reason::Monthly)),
        "{plan:?}"
    );
    assert!(plan.keep.len() <= 14 + 8 + 6, "{plan:?}");
    let newest: Vec<u64> = plan.keep.iter().rev().take(14).map(|(s, _)| s.0).collect();
    assert_eq!(newest, (387..=400).rev().collect::<Vec<_>>());
}

#[test]
fn the_vault_keeps_ninety_days_and_a_year_of_months() {
    let policy = Retention::vault();
    let mut receiver = Receiver::new();
    receiver.nights(500, &policy);
    let plan = receiver.plan(&policy);
    assert!(plan.keep.len() >= 90 + 9 && plan.keep.len() <= 90 + 12, "{}", plan.keep.len());
    assert!(receiver.held().iter().any(|held| held.age > Duration::from_hours(24 * 330)));
}

#[test]
fn a_system_that_stopped_keeps_its_last_generations() {
    let policy = Retention::default();
    let mut receiver = Receiver::new();
    receiver.nights(30, &policy);
    receiver.hours += 24 * 365;
    let before = receiver.points.len();
    for _ in 0..20 {
        receiver.hours += 24;
        receiver.apply(&policy);
    }
    assert!(generations(&receiver.held(), &receiver.zone) >= 14, "{before}");
}

#[test]
fn nothing_goes_while_the_time_is_unconfirmed_or_the_limit_is_reached() {
    let policy = Retention { removals_per_day: 3, ..Retention::default() };
    let mut receiver = Receiver::new();
    for _ in 0..40 {
        receiver.hours += 1;
        receiver.take(true, Verdict::Unknown);
    }
    receiver.hours += 24 * 3;
    assert_eq!(receiver.plan(&policy).remove.len(), 3);
    let held = receiver.held();
    let mut at = Circumstances { floor: FLOOR, zone: &receiver.zone, removed_today: 2, suspended: false };
    assert_eq!(plan(&held, &policy, &at).remove.len(), 1);
    at.suspended = true;
    let suspended = plan(&held, &policy, &at);
    assert!(suspended.remove.is_empty());
    assert!(suspended.keep.iter().any(|(_, why)| why.contains(&Reason::Suspended)));
}

#[test]
fn an_inspected_clean_point_outlives_newer_unknown_and_suspect_ones() {
    let policy = Retention { needs_inspection: true, removals_per_day: 1000, ..Retention::default() };
    let mut receiver = Receiver::new();
    receiver.nights(3, &policy);
    receiver.hours += 24;
    let clean = receiver.take(true, Verdict::Clean);
    for day in 0..400 {
        receiver.hours += 24;
        receiver.take(true, if day % 2 == 0 { Verdict::Suspect } else { Verdict::Unknown });
        receiver.apply(&policy);
    }
    assert!(kept(&receiver.plan(&policy)).contains(&clean));
    assert!(receiver.points.len() > 350, "nothing newer than the clean one could be replaced");
}

#[test]
fn a_clock_set_back_by_hours_does_not_make_two_days_one() {
    let policy = Retention { removals_per_day: 1000, ..Retention::default() };
    let mut receiver = Receiver::new();
    receiver.nights(20, &policy);
    let last = receiver.held().last().unwrap().sequence;
    // 25 hours later the receiver's clock shows the evening of the same day.
    receiver.hours += 25;
    receiver.offset_hours = -3;
    receiver.take(true, Verdict::Unknown);
    receiver.offset_hours = 0;
    for _ in 0..5 {
        receiver.hours += 12;
        receiver.take(true, Verdict::Unknown);
        receiver.apply(&policy);
    }
    assert!(kept(&receiver.plan(&policy)).contains(&last));
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        6 => Just(Verdict::Unknown),
        2 => Just(Verdict::Clean),
        1 => Just(Verdict::Suspect),
        1 => Just(Verdict::Corrupt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: Some(Box::new(prop::test_runner::FileFailurePersistence::WithSource("regressions"))), ..ProptestConfig::default() })]

    /// Whatever comes in, at whatever wall time: the plan never breaks its own promises.
    #[test]
    fn the_promises_hold_for_any_history(
        takes in prop::collection::vec((0_i64..60, -2000_i64..2000, any::<bool>(), verdict()), 1..120),
        wait in 0_i64..4000,
        limit in 0_u32..20,
    ) {
        let policy = Retention { removals_per_day: limit, ..Retention::default() };
        let mut receiver = Receiver::new();
        for (hours, offset, complete, verdict) in takes {
            receiver.hours += hours;
            receiver.offset_hours = offset;
            receiver.take(complete, verdict);
        }
        receiver.hours += wait;
        let held = receiver.held();
        let plan = receiver.plan(&policy);
        prop_assert!(plan.remove.len() <= limit as usize);
        prop_assert_eq!(plan.remove.len() + plan.keep.len(), held.len());
        let all = generations(&held, &receiver.zone);
        prop_assert!(plan.generations >= all.min(FLOOR), "{} of {all}", plan.generations);
        let keeps = kept(&plan);
        for newest in [held.iter().rfind(|h| h.good()), held.iter().rfind(|h| h.verdict == Verdict::Clean)] {
            prop_assert!(newest.is_none_or(|h| keeps.contains(&h.sequence)));
        }
        let proof = held.iter().filter(|h| h.good()).map(|h| h.sequence).max();
        for gone in held.iter().filter(|h| !keeps.contains(&h.sequence)) {
            prop_assert!(gone.age >= Duration::from_hours(48));
            prop_assert!(proof > Some(gone.sequence));
        }
        let mut mixed = held.clone();
        mixed.reverse();
        let at = Circumstances { floor: FLOOR, zone: &receiver.zone, removed_today: 0, suspended: false };
        prop_assert_eq!(order_free(&mixed, &policy, &at), plan);
    }

    /// An intruder who can make the receiver take any number of points under any wall time pushes out
    /// nothing that an untouched receiver would still hold.
    #[test]
    fn poison_pushes_nothing_out(
        honest in 20_u32..260,
        poison in prop::collection::vec((0_i64..3, -9000_i64..9000), 1..150),
        later in 0_u32..4,
    ) {
        let policy = Retention { removals_per_day: 1000, ..Retention::default() };
        let mut clean = Receiver::new();
        clean.nights(honest, &policy);
        let mut poisoned = Receiver::new();
        poisoned.nights(honest, &policy);
        let before: BTreeSet<Sequence> = poisoned.points.iter().map(|(_, held)| held.sequence).collect();
        // The attack begins on the next day, so that it is not simply a newer point of the same one.
        poisoned.hours += 24;
        for (hours, offset) in &poison {
            poisoned.hours += hours;
            poisoned.offset_hours = *offset;
            poisoned.take(true, Verdict::Unknown);
            poisoned.apply(&policy);
        }
        poisoned.hours += 24 * i64::from(later);
        poisoned.apply(&policy);
        let days = u32::try_from((poisoned.hours / 24) - i64::from(honest)).unwrap();
        clean.nights(days, &policy);
        let wanted: Vec<Sequence> = clean.points.iter().map(|(_, h)| h.sequence).filter(|s| before.contains(s)).collect();
        let there: BTreeSet<Sequence> = poisoned.points.iter().map(|(_, held)| held.sequence).collect();
        for sequence in wanted {
            prop_assert!(there.contains(&sequence), "{sequence} was pushed out");
        }
    }
}

fn order_free(points: &[Held], policy: &Retention, at: &Circumstances<'_>) -> Plan {
    plan(points, policy, at)
}
