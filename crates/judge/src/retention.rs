//! What may be removed: generations, their floor, and what must hold before one goes.
//!
//! A *generation* is the newest complete point of one day of the receiver. The plan has to hold even if
//! somebody can make the receiver take points at will, or move its wall clock ("retention poisoning"):
//!
//! - Order is the receiver's sequence. The wall clock only groups neighbours into days, weeks and months; a
//!   group also ends when more accumulated time has passed than its own length, or than the wall clock shows, so
//!   a clock that stands still or is set back does not squeeze a month into one day.
//! - A tier keeps the newest N groups *and* every group younger than N lengths by the receiver's accumulated
//!   time. A burst of points from "the future" therefore adds generations and pushes none out.
//! - The newest good point, the newest inspected clean one, the floor, and everything younger than
//!   `min_days` always stay. One day's removals are limited, and none happens while the time is unconfirmed.

use std::{collections::BTreeSet, time::Duration};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use kuramori_model::ids::Sequence;
use serde::{Deserialize, Serialize};

/// What inspection found in a restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Not inspected.
    Unknown,
    /// 清浄確認済み
    Clean,
    /// 汚染の疑い
    Suspect,
    /// Damaged.
    Corrupt,
}

impl Verdict {
    /// The stable name, as stored and as used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Clean => "clean",
            Self::Suspect => "suspect",
            Self::Corrupt => "corrupt",
        }
    }
}

/// A restore point as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The receiver's number.
    pub sequence: Sequence,
    /// The receiver's time.
    pub received: Timestamp,
    /// How long it has been there, by the receiver's accumulated time.
    pub age: Duration,
    /// Whether everything was read.
    pub complete: bool,
    /// What inspection found.
    pub verdict: Verdict,
}

impl Held {
    /// Complete, and nothing is known against it.
    pub fn good(&self) -> bool {
        self.complete && matches!(self.verdict, Verdict::Unknown | Verdict::Clean)
    }
}

/// How many generations are kept, and what must hold before one is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Newest daily generations.
    pub daily: u32,
    /// Newest weekly generations.
    pub weekly: u32,
    /// Newest monthly generations.
    pub monthly: u32,
    /// Nothing younger than this many days of the receiver's accumulated time is removed.
    pub min_days: u32,
    /// At most this many removals in one day of the receiver's accumulated time.
    pub removals_per_day: u32,
    /// Whether only an inspected, clean newer point allows a removal; otherwise a good one will do.
    pub needs_inspection: bool,
}

impl Default for Retention {
    /// The primary's: 14 daily, 8 weekly, 6 monthly.
    fn default() -> Self {
        Self { daily: 14, weekly: 8, monthly: 6, min_days: 2, removals_per_day: 10, needs_inspection: false }
    }
}

impl Retention {
    /// The vault's: 14 daily, 8 weekly, 12 monthly, and at least 90 days.
    pub fn vault() -> Self {
        Self { monthly: 12, min_days: 90, ..Self::default() }
    }
}

/// What holds at the moment of planning.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// Generations under which we warn and never go.
    pub floor: u32,
    /// The zone of the receiver's days.
    pub zone: &'a TimeZone,
    /// Removals within the last day of accumulated time.
    pub removed_today: u32,
    /// The wall clock jumped and nobody confirmed it.
    pub suspended: bool,
}

/// Why a point stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// One of the daily generations.
    Daily,
    /// One of the weekly generations.
    Weekly,
    /// One of the monthly generations.
    Monthly,
    /// The newest good one, or the newest inspected clean one.
    Newest,
    /// Without it fewer generations than the floor were left.
    Floor,
    /// Not old enough.
    Young,
    /// Nothing newer is known to be good.
    Irreplaceable,
    /// It could go, but not today: the daily limit.
    Limit,
    /// It could go, but the time is unconfirmed.
    Suspended,
}

/// What stays and why, what goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In the receiver's order.
    pub keep: Vec<(Sequence, Vec<Reason>)>,
    /// In the receiver's order.
    pub remove: Vec<Sequence>,
    /// Generations that are there after the removal.
    pub generations: u32,
}

const DAY: Duration = Duration::from_hours(24);
/// A day has 25 hours once a year.
const SLACK: Duration = Duration::from_hours(1);
/// By how much the wall clock may have been set back within a group. One that went back further would squeeze two
/// days into one, and the later would stand for both.
const DRIFT: Duration = Duration::from_mins(10);

/// A tier: how points are grouped, how long a group is, how many groups stay.
struct Tier {
    reason: Reason,
    length: Duration,
    count: u32,
    same: fn(Date, Date) -> bool,
}

/// Plans for one system at one place. Any order of `points` gives the same plan.
pub fn plan(points: &[Held], policy: &Retention, at: &Circumstances<'_>) -> Plan {
    let mut points = points.to_vec();
    points.sort_unstable_by_key(|point| point.sequence);
    let mut reasons: Vec<BTreeSet<Reason>> = vec![BTreeSet::new(); points.len()];
    let tiers = [
        Tier { reason: Reason::Daily, length: DAY, count: policy.daily, same: |a, b| a == b },
        Tier {
            reason: Reason::Weekly,
            length: DAY * 7,
            count: policy.weekly,
            same: |a, b| a.iso_week_date().week() == b.iso_week_date().week() && near(a, b),
        },
        Tier {
            reason: Reason::Monthly,
            length: DAY * 31,
            count: policy.monthly,
            same: |a, b| a.month() == b.month() && a.year() == b.year(),
        },
    ];
    for tier in &tiers {
        for (rank, index) in representatives(&points, tier, at.zone).into_iter().rev().enumerate() {
            let young = points[index].age < tier.length * tier.count;
            if u32::try_from(rank).unwrap_or(u32::MAX) < tier.count || young {
                reasons[index].insert(tier.reason);
            }
        }
    }
    let days = representatives(&points, &tiers[0], at.zone);
    for index in days.iter().rev().take(at.floor as usize) {
        reasons[*index].insert(Reason::Floor);
    }
    let newest = points.iter().rposition(Held::good);
    let newest_clean = points.iter().rposition(|point| point.verdict == Verdict::Clean);
    for index in newest.into_iter().chain(newest_clean) {
        reasons[index].insert(Reason::Newest);
    }
    let proof = points
        .iter()
        .rposition(|point| point.good() && (!policy.needs_inspection || point.verdict == Verdict::Clean));
    for (index, point) in points.iter().enumerate() {
        // What is not good is no generation, but people get the daily tier's time to look at it.
        let patience = if point.good() { policy.min_days } else { policy.min_days.max(policy.daily) };
        if point.age < DAY * patience {
            reasons[index].insert(Reason::Young);
        }
        if proof.is_none_or(|proof| proof <= index) {
            reasons[index].insert(Reason::Irreplaceable);
        }
    }
    let mut left = policy.removals_per_day.saturating_sub(at.removed_today);
    let mut plan = Plan::default();
    for (point, mut why) in points.iter().zip(reasons) {
        if why.is_empty() && at.suspended {
            why.insert(Reason::Suspended);
        } else if why.is_empty() && left == 0 {
            why.insert(Reason::Limit);
        }
        if why.is_empty() {
            left -= 1;
            plan.remove.push(point.sequence);
        } else {
            plan.keep.push((point.sequence, why.into_iter().collect()));
        }
    }
    let kept: Vec<Held> =
        points.iter().filter(|p| plan.remove.binary_search(&p.sequence).is_err()).copied().collect();
    plan.generations = generations(&kept, at.zone);
    plan
}

/// How many generations there are.
pub fn generations(points: &[Held], zone: &TimeZone) -> u32 {
    let mut points = points.to_vec();
    points.sort_unstable_by_key(|point| point.sequence);
    let tier = Tier { reason: Reason::Daily, length: DAY, count: 0, same: |a, b| a == b };
    u32::try_from(representatives(&points, &tier, zone).len()).unwrap_or(u32::MAX)
}

/// The point that stands for each group, oldest group first: the newest inspected clean one, else the
/// newest good one. Groups without a good point have none.
fn representatives(points: &[Held], tier: &Tier, zone: &TimeZone) -> Vec<usize> {
    let mut found = Vec::new();
    let mut group: Option<(Date, &Held)> = None;
    let mut best: Option<usize> = None;
    for (index, point) in points.iter().enumerate() {
        let day = point.received.to_zoned(zone.clone()).date();
        let inside = group.is_some_and(|(date, first)| {
            let passed = first.age.saturating_sub(point.age);
            let shown = Duration::try_from(point.received.duration_since(first.received)).unwrap_or_default();
            (tier.same)(date, day) && passed <= tier.length + SLACK && passed <= shown + DRIFT
        });
        if !inside {
            found.extend(best.take());
            group = Some((day, point));
        }
        let better = match best {
            None => true,
            Some(old) => point.verdict == Verdict::Clean || points[old].verdict != Verdict::Clean,
        };
        if point.good() && better {
            best = Some(index);
        }
    }
    found.extend(best);
    found
}

fn near(a: Date, b: Date) -> bool {
    a.until(b).is_ok_and(|span| span.get_days().abs() < 7)
}
