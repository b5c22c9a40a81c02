//! When a message says that it was written.

use jiff::{Timestamp, civil, tz::TimeZone};

/// When something was written, by its own word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum When {
    /// Nothing that is understood.
    #[default]
    Unsaid,
    /// A point in time.
    At(Timestamp),
    /// What a clock showed, without year and zone (syslog's older form).
    Wall {
        /// 1 to 12.
        month: i8,
        /// 1 to 31.
        day: i8,
        /// To the second.
        time: civil::Time,
    },
}

impl When {
    /// The point in time; of a clock's word the one that is nearest to `now` in `zone`. It does not depend on when
    /// the message comes, as long as that is within half a year: so one that comes again is the same.
    pub fn instant(self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Unsaid => None,
            Self::At(at) => Some(at),
            Self::Wall { month, day, time } => {
                let year = now.to_zoned(zone.clone()).year();
                let in_year = |year: i16| {
                    let day = civil::Date::new(year, month, day).ok()?;
                    Some(day.to_datetime(time).to_zoned(zone.clone()).ok()?.timestamp())
                };
                let years = [year.saturating_sub(1), year, year.saturating_add(1)];
                years.into_iter().filter_map(in_year).min_by_key(|at| at.duration_since(now).abs())
            }
        }
    }
}
