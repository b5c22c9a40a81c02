//! Rest days: weekends, Japan's national holidays (computed, since nothing here may need the internet) and
//! the days that the hospital adds. On a rest day a dump may be small or like yesterday's.
//!
//! Source of the holidays: 国民の祝日に関する法律 (Act No. 178 of 1948) as in force since 2020. The equinoxes
//! follow the usual approximation, good from 1980 to 2099; the government announces them a year ahead, and
//! a hospital can add days that differ.

use std::collections::BTreeSet;

use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, Weekday},
    tz::TimeZone,
};
use serde::{Deserialize, Serialize};

/// Which days are rest days at this hospital.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Calendar {
    /// Whether Japan's national holidays and the New Year's closing (29 December to 3 January) count.
    pub japan: bool,
    /// Further days: a founding day, a moved equinox.
    pub more: BTreeSet<Date>,
}

impl Default for Calendar {
    fn default() -> Self {
        Self { japan: true, more: BTreeSet::new() }
    }
}

/// A backup belongs to the working day that ended at most this long before.
const AFTERMATH: SignedDuration = SignedDuration::from_hours(10);

impl Calendar {
    /// A weekday on which the hospital rests.
    pub fn is_holiday(&self, day: Date) -> bool {
        self.more.contains(&day) || (self.japan && (closing(day) || national(day)))
    }

    /// Saturday, Sunday or holiday.
    pub fn rests(&self, day: Date) -> bool {
        matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday) || self.is_holiday(day)
    }

    /// The day whose work a backup taken at `at` holds: one at 01:00 holds the day before.
    pub fn covered(at: Timestamp, zone: &TimeZone) -> Date {
        at.saturating_sub(AFTERMATH).unwrap_or(at).to_zoned(zone.clone()).date()
    }

    /// Whether nothing but rest days lies after the work that `before` holds, up to that of `at`.
    pub fn rested_between(&self, before: Timestamp, at: Timestamp, zone: &TimeZone) -> bool {
        let (mut day, last) = (Self::covered(before, zone), Self::covered(at, zone));
        while day < last {
            let Ok(next) = day.tomorrow() else { return false };
            day = next;
            if !self.rests(day) {
                return false;
            }
        }
        true
    }

    /// Which nights are alike: the day of the week, holidays counting as Sundays.
    pub(crate) fn kind(&self, day: Date) -> Weekday {
        if self.is_holiday(day) { Weekday::Sunday } else { day.weekday() }
    }
}

fn closing(day: Date) -> bool {
    (day.month() == 12 && day.day() >= 29) || (day.month() == 1 && day.day() <= 3)
}

fn national(day: Date) -> bool {
    if named(day) {
        return true;
    }
    // Art. 3(2): a holiday on a Sunday moves to the next day that is none.
    let mut before = day;
    while let Ok(yesterday) = before.yesterday() {
        before = yesterday;
        if !named(before) {
            break;
        }
        if before.weekday() == Weekday::Sunday {
            return true;
        }
    }
    // Art. 3(3): a day between two holidays is one.
    let sides = (day.yesterday(), day.tomorrow());
    matches!(sides, (Ok(a), Ok(b)) if named(a) && named(b)) && day.weekday() != Weekday::Sunday
}

/// The holidays that have a name.
fn named(day: Date) -> bool {
    let (year, month) = (day.year(), day.month());
    let monday = |nth: i8| day.weekday() == Weekday::Monday && (day.day() - 1) / 7 + 1 == nth;
    match (month, day.day()) {
        (1, 1) | (2, 11 | 23) | (4, 29) | (5, 3..=5) | (8, 11) | (11, 3 | 23) => true,
        (1 | 10, _) => monday(2),
        (7, _) => monday(3),
        (9, _) if monday(3) => true,
        (3, d) => d == equinox(year, 20.8431),
        (9, d) => d == equinox(year, 23.2488),
        _ => false,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a day of a month")]
fn equinox(year: i16, base: f64) -> i8 {
    let years = f64::from(year - 1980);
    (base + 0.242_194 * years - (years / 4.0).floor()) as i8
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    const SATURDAY: Date = date(2026, 11, 21);

    #[test]
    fn the_holidays_of_2026_are_those_the_government_published() {
        // https://www8.cao.go.jp/chosei/shukujitsu/gaiyou.html, list of 令和8年
        let published = [
            (1, 1),
            (1, 12),
            (2, 11),
            (2, 23),
            (3, 20),
            (4, 29),
            (5, 3),
            (5, 4),
            (5, 5),
            (5, 6),
            (7, 20),
            (8, 11),
            (9, 21),
            (9, 22),
            (9, 23),
            (10, 12),
            (11, 3),
            (11, 23),
        ];
        let ours: Vec<(i8, i8)> = date(2026, 1, 1)
            .series(jiff::Span::new().days(1))
            .take(365)
            .filter(|day| national(*day))
            .map(|day| (day.month(), day.day()))
            .collect();
        assert_eq!(ours, published);
    }

    #[test]
    fn a_backup_at_night_belongs_to_the_day_before() {
        let zone = TimeZone::get("Asia/Tokyo").unwrap();
        let at = |text: &str| format!("{text}+09:00").parse::<Timestamp>().unwrap();
        assert_eq!(Calendar::covered(at("2026-11-22T01:00:00"), &zone), SATURDAY);
        assert_eq!(Calendar::covered(at("2026-11-21T22:00:00"), &zone), SATURDAY);
        let calendar = Calendar::default();
        // Saturday, Sunday, and Monday 23 November (勤労感謝の日).
        assert!(calendar.rested_between(at("2026-11-21T01:00:00"), at("2026-11-24T01:00:00"), &zone));
        assert!(!calendar.rested_between(at("2026-11-21T01:00:00"), at("2026-11-25T01:00:00"), &zone));
        assert!(!calendar.rested_between(at("2026-11-20T01:00:00"), at("2026-11-21T01:00:00"), &zone));
    }
}
