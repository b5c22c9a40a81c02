//! When a backup is due, when it may run, and what happens when it was missed. Pure functions of a given
//! time; the scheduler only asks and obeys.
//!
//! Times of day are local times of the schedule's zone. A due time that a clock change skips moves to the
//! first moment after the gap; one that occurs twice counts once.

use std::str::FromStr;

use croner::Cron;
use jiff::{
    SignedDuration, Timestamp, Zoned,
    civil::{Date, Time, Weekday},
    tz::TimeZone,
};
use serde::{Deserialize, Serialize};

/// A day of the week, as written in the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the days of the week")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    fn is(self, weekday: Weekday) -> bool {
        let ours = match self {
            Self::Mon => Weekday::Monday,
            Self::Tue => Weekday::Tuesday,
            Self::Wed => Weekday::Wednesday,
            Self::Thu => Weekday::Thursday,
            Self::Fri => Weekday::Friday,
            Self::Sat => Weekday::Saturday,
            Self::Sun => Weekday::Sunday,
        };
        ours == weekday
    }
}

/// Hours of the day. `until` at or before `from` reaches into the next day; equal means a whole day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hours {
    /// First moment, local time.
    pub from: Time,
    /// End (exclusive), local time.
    pub until: Time,
    /// The days on which they begin; empty means every day.
    #[serde(default)]
    pub days: Vec<Day>,
}

impl Hours {
    fn begins_on(&self, date: Date) -> bool {
        self.days.is_empty() || self.days.iter().any(|day| day.is(date.weekday()))
    }

    fn contain(&self, at: &Zoned) -> bool {
        let (date, time) = (at.date(), at.time());
        if self.from < self.until {
            return self.begins_on(date) && (self.from..self.until).contains(&time);
        }
        (time >= self.from && self.begins_on(date))
            || (time < self.until && date.yesterday().is_ok_and(|before| self.begins_on(before)))
    }
}

/// What happens to a backup whose time passed while the server was away or the hours were forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// Run it as soon as it may run, if that is at most this late; otherwise raise an alarm.
    RunLate {
        /// Seconds after the due time.
        within_s: u64,
    },
    /// Leave it out and wait for the next one; the deadline's alarm still comes.
    Skip,
    /// Do not run it; raise an alarm at once.
    Alarm,
}

/// The plan of one system, as the register keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Five fields: minute, hour, day of month, month, day of week.
    pub cron: String,
    /// IANA name: `Asia/Tokyo`.
    pub zone: String,
    /// Seconds after the due time by which a complete restore point must exist.
    pub deadline_s: u64,
    /// Hours in which the job may run (取得時間帯); none means always.
    #[serde(default)]
    pub windows: Vec<Hours>,
    /// Hours in which it must not run (禁止時間帯); they win.
    #[serde(default)]
    pub forbidden: Vec<Hours>,
    /// What happens to a missed one.
    pub missed: Missed,
}

impl Schedule {
    /// Every night at `cron` in Japan, four hours to finish, run late within six hours.
    pub fn nightly(cron: &str) -> Self {
        Self {
            cron: cron.to_owned(),
            zone: "Asia/Tokyo".to_owned(),
            deadline_s: 4 * 3600,
            windows: Vec::new(),
            forbidden: Vec::new(),
            missed: Missed::RunLate { within_s: 6 * 3600 },
        }
    }
}

/// A schedule that can never be followed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadSchedule {
    /// The cron line cannot be read.
    #[error("`{cron}` is not a cron line of five fields ({why})")]
    Cron {
        /// As written.
        cron: String,
        /// The parser's words.
        why: String,
    },
    /// There is no such zone.
    #[error("`{0}` is not a time zone; write for example `Asia/Tokyo`")]
    Zone(String),
    /// The forbidden hours leave no moment in which the job may run.
    #[error("windows and forbidden hours leave no time to run in the eight days after {0}")]
    Never(Timestamp),
}

/// What the scheduler has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing before this time.
    Wait(Timestamp),
    /// Start it now.
    Run {
        /// The due time that it belongs to.
        due: Timestamp,
        /// Whether it starts later than planned.
        late: bool,
    },
    /// The time is over: record it as handled without a run.
    Miss {
        /// The due time that is lost.
        due: Timestamp,
        /// Whether people must hear at once.
        alarm: bool,
    },
}

/// Seconds after the due time in which a start is still punctual: the scheduler's own rhythm.
pub const PUNCTUAL_S: i64 = 15 * 60;

/// A checked schedule.
#[derive(Debug, Clone)]
pub struct Timetable {
    cron: Cron,
    zone: TimeZone,
    plan: Schedule,
}

impl Timetable {
    /// Reads the cron line and the zone.
    pub fn new(plan: &Schedule) -> Result<Self, BadSchedule> {
        let bad = |why: String| BadSchedule::Cron { cron: plan.cron.clone(), why };
        if plan.cron.split_whitespace().count() != 5 {
            return Err(bad("not five fields".to_owned()));
        }
        let cron = Cron::from_str(&plan.cron).map_err(|e| bad(e.to_string()))?;
        let zone = TimeZone::get(&plan.zone).map_err(|_| BadSchedule::Zone(plan.zone.clone()))?;
        Ok(Self { cron, zone, plan: plan.clone() })
    }

    /// The zone in which its hours are meant.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The first due time after `at`; none if the cron line never comes (30 February).
    pub fn next(&self, at: Timestamp) -> Option<Timestamp> {
        self.cron.find_next_occurrence(&at.to_zoned(self.zone.clone()), false).ok().map(|z| z.timestamp())
    }

    /// The newest due time at or before `at`.
    pub fn last(&self, at: Timestamp) -> Option<Timestamp> {
        self.cron.find_previous_occurrence(&at.to_zoned(self.zone.clone()), true).ok().map(|z| z.timestamp())
    }

    /// When a complete restore point must exist for a due time.
    pub fn deadline(&self, due: Timestamp) -> Timestamp {
        later(due, i64::try_from(self.plan.deadline_s).unwrap_or(i64::MAX))
    }

    /// The newest due time whose deadline has passed.
    pub fn last_owed(&self, at: Timestamp) -> Option<Timestamp> {
        self.last(later(at, -i64::try_from(self.plan.deadline_s).unwrap_or(i64::MAX)))
    }

    /// Whether a job of this system may read at this moment.
    pub fn allowed(&self, at: Timestamp) -> bool {
        let local = at.to_zoned(self.zone.clone());
        let open = self.plan.windows.is_empty() || self.plan.windows.iter().any(|w| w.contain(&local));
        open && !self.plan.forbidden.iter().any(|f| f.contain(&local))
    }

    /// The first moment at or after `at` at which it may read.
    pub fn next_allowed(&self, at: Timestamp) -> Result<Timestamp, BadSchedule> {
        self.boundaries(at).into_iter().find(|t| self.allowed(*t)).ok_or(BadSchedule::Never(at))
    }

    /// The moment at which a job that reads now has to stop; none while nothing limits it.
    pub fn must_stop(&self, at: Timestamp) -> Option<Timestamp> {
        self.boundaries(at).into_iter().find(|t| !self.allowed(*t))
    }

    /// What to do now. `handled` is the newest due time that was run, skipped or reported; for a new system
    /// the time of its registration.
    pub fn decide(&self, now: Timestamp, handled: Timestamp) -> Result<Decision, BadSchedule> {
        let idle = || Decision::Wait(self.next(now).unwrap_or(Timestamp::MAX));
        let Some(due) = self.last(now).filter(|due| *due > handled) else {
            return Ok(idle());
        };
        // A due time inside forbidden hours means "as soon as it may".
        let planned = self.next_allowed(due)?;
        let punctual = now <= later(planned, PUNCTUAL_S);
        let lateness = now.duration_since(due).as_secs();
        let runnable = match self.plan.missed {
            _ if punctual => true,
            Missed::RunLate { within_s } => u64::try_from(lateness).unwrap_or(0) <= within_s,
            Missed::Skip | Missed::Alarm => false,
        };
        if !runnable {
            return Ok(Decision::Miss { due, alarm: self.plan.missed != Missed::Skip });
        }
        if self.allowed(now) {
            return Ok(Decision::Run { due, late: !punctual });
        }
        let start = self.next_allowed(now)?;
        Ok(Decision::Wait(self.next(now).map_or(start, |next| next.min(start))))
    }

    /// `at` and every later moment of eight days at which an hour begins or ends, in order.
    fn boundaries(&self, at: Timestamp) -> Vec<Timestamp> {
        let mut day = at.to_zoned(self.zone.clone()).date();
        let mut found = vec![at];
        for _ in 0..9 {
            for hours in self.plan.windows.iter().chain(&self.plan.forbidden) {
                for time in [hours.from, hours.until] {
                    if let Ok(zoned) = self.zone.to_zoned(day.to_datetime(time)) {
                        found.push(zoned.timestamp());
                    }
                }
            }
            let Ok(next) = day.tomorrow() else { break };
            day = next;
        }
        found.retain(|t| *t >= at);
        found.sort_unstable();
        found
    }
}

pub(crate) fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("{text}+09:00").parse().unwrap()
    }

    fn hours(from: &str, until: &str, days: &[Day]) -> Hours {
        Hours { from: from.parse().unwrap(), until: until.parse().unwrap(), days: days.to_vec() }
    }

    fn table(change: impl FnOnce(&mut Schedule)) -> Timetable {
        let mut plan = Schedule::nightly("0 1 * * *");
        change(&mut plan);
        Timetable::new(&plan).unwrap()
    }

    #[test]
    fn a_night_runs_once_and_then_waits() {
        let table = table(|_| ());
        let handled = at("2026-11-20T01:00:00");
        assert_eq!(
            table.decide(at("2026-11-21T00:59:59"), handled),
            Ok(Decision::Wait(at("2026-11-21T01:00:00")))
        );
        let due = at("2026-11-21T01:00:00");
        assert_eq!(table.decide(at("2026-11-21T01:00:05"), handled), Ok(Decision::Run { due, late: false }));
        assert_eq!(
            table.decide(at("2026-11-21T01:00:05"), due),
            Ok(Decision::Wait(at("2026-11-22T01:00:00")))
        );
    }

    #[test]
    fn a_missed_night_follows_its_policy() {
        let (handled, due) = (at("2026-11-20T01:00:00"), at("2026-11-21T01:00:00"));
        let (soon, late) = (at("2026-11-21T05:00:00"), at("2026-11-21T09:00:00"));
        let run_late = table(|_| ());
        assert_eq!(run_late.decide(soon, handled), Ok(Decision::Run { due, late: true }));
        assert_eq!(run_late.decide(late, handled), Ok(Decision::Miss { due, alarm: true }));
        let skip = table(|p| p.missed = Missed::Skip);
        assert_eq!(skip.decide(soon, handled), Ok(Decision::Miss { due, alarm: false }));
        let alarm = table(|p| p.missed = Missed::Alarm);
        assert_eq!(alarm.decide(soon, handled), Ok(Decision::Miss { due, alarm: true }));
        assert_eq!(alarm.decide(at("2026-11-21T01:10:00"), handled), Ok(Decision::Run { due, late: false }));
    }

    #[test]
    fn days_without_a_server_give_one_run_and_not_one_for_each_day() {
        let table = table(|_| ());
        let due = at("2026-11-21T01:00:00");
        assert_eq!(
            table.decide(at("2026-11-21T01:01:00"), at("2026-11-11T01:00:00")),
            Ok(Decision::Run { due, late: false })
        );
    }

    #[test]
    fn forbidden_hours_win_and_the_job_waits_for_their_end() {
        let table = table(|p| {
            p.windows = vec![hours("22:00", "06:00", &[])];
            p.forbidden = vec![hours("00:30", "02:30", &[Day::Sat])];
        });
        // 2026-11-21 is a Saturday.
        let handled = at("2026-11-20T01:00:00");
        assert!(!table.allowed(at("2026-11-21T01:00:00")) && table.allowed(at("2026-11-22T01:00:00")));
        assert!(!table.allowed(at("2026-11-21T12:00:00")));
        let end = at("2026-11-21T02:30:00");
        assert_eq!(table.decide(at("2026-11-21T01:00:00"), handled), Ok(Decision::Wait(end)));
        let due = at("2026-11-21T01:00:00");
        assert_eq!(table.decide(end, handled), Ok(Decision::Run { due, late: false }));
        assert_eq!(table.must_stop(end), Some(at("2026-11-21T06:00:00")));
        assert_eq!(table.next_allowed(at("2026-11-21T12:00:00")), Ok(at("2026-11-21T22:00:00")));
    }

    #[test]
    fn a_clock_change_neither_loses_nor_doubles_a_night() {
        let mut plan = Schedule::nightly("30 2 * * *");
        "Europe/Berlin".clone_into(&mut plan.zone);
        let table = Timetable::new(&plan).unwrap();
        let mut time: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut days = std::collections::BTreeSet::new();
        for _ in 0..365 {
            time = table.next(time).unwrap();
            assert!(days.insert(time.to_zoned(table.zone().clone()).date()), "twice on {time}");
            assert_eq!(table.last(time), Some(time));
        }
        assert_eq!(days.len(), 365);
        assert_eq!(days.last().unwrap().to_string(), "2026-12-31");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for cron in ["", "* * * *", "61 1 * * *", "0 1 * * * *", "@daily x x x x"] {
            let plan = Schedule { cron: cron.to_owned(), ..Schedule::nightly("0 1 * * *") };
            assert!(matches!(Timetable::new(&plan), Err(BadSchedule::Cron { .. })), "{cron}");
        }
        let plan = Schedule { zone: "Asia/Tokio".to_owned(), ..Schedule::nightly("0 1 * * *") };
        assert_eq!(Timetable::new(&plan).unwrap_err(), BadSchedule::Zone("Asia/Tokio".to_owned()));
        let never = table(|p| p.forbidden = vec![hours("00:00", "00:00", &[])]);
        assert!(matches!(
            never.decide(at("2026-11-21T01:00:00"), at("2026-11-20T01:00:00")),
            Err(BadSchedule::Never(_))
        ));
        assert!(
            serde_json::from_str::<Schedule>(
                r#"{"cron":"0 1 * * *","zone":"UTC","deadline_s":1,"missed":"skip","windws":[]}"#
            )
            .is_err()
        );
    }
}
