//! The vault's own time: seconds that this vault has been running, added up over restarts.
//!
//! No wall clock, NTP server or certificate can move it; time during which the machine was off does not
//! count, so that things are kept longer rather than shorter. The wall clock is only watched: if it and the
//! accumulated time drift apart by more than a day, nothing is removed until a person confirms the clock.

use std::time::Duration;

use jiff::Timestamp;
use kuramori_model::clock::Clock;
use serde::{Deserialize, Serialize};

use super::Register;
use crate::error::Result;

/// How far the wall clock may run away before removals stop.
const SKEW: i64 = 86_400;

/// What the vault's clocks say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// Accumulated running time.
    pub accumulated_s: u64,
    /// Wall clock at the last look.
    pub wall: Timestamp,
    /// Seconds that the wall clock has run away from the accumulated time, since a person confirmed it.
    pub skew_s: i64,
    boot_id: String,
    boot_ms: u64,
    accumulated_ms: u64,
}

impl Time {
    /// Whether the wall clock has run away: nothing is removed then.
    pub fn suspicious(&self) -> bool {
        self.skew_s.abs() > SKEW
    }
}

fn boot_id() -> String {
    fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl Register {
    /// Looks at the clocks and keeps what they say. The one way to get the vault's time.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn tick(&self, clock: &dyn Clock) -> Result<Time> {
        self.tick_as(clock, &boot_id())
    }

    pub(crate) fn tick_as(&self, clock: &dyn Clock, boot_id: &str) -> Result<Time> {
        let boot_ms = u64::try_from(clock.boot().as_millis()).unwrap_or(u64::MAX);
        let wall = clock.now();
        let before: Option<Time> = self.meta("time")?.and_then(|text| serde_json::from_str(&text).ok());
        let now = match before {
            None => Time {
                accumulated_s: 0,
                wall,
                skew_s: 0,
                boot_id: boot_id.to_owned(),
                boot_ms,
                accumulated_ms: 0,
            },
            Some(before) => {
                let passed_ms =
                    if before.boot_id == boot_id { boot_ms.saturating_sub(before.boot_ms) } else { boot_ms };
                let passed_s = i64::try_from(passed_ms / 1000).unwrap_or(i64::MAX);
                let moved = wall.as_second() - before.wall.as_second();
                let accumulated_ms = before.accumulated_ms.saturating_add(passed_ms);
                Time {
                    accumulated_s: accumulated_ms / 1000,
                    wall,
                    skew_s: before.skew_s.saturating_add(moved.saturating_sub(passed_s)),
                    boot_id: boot_id.to_owned(),
                    boot_ms,
                    accumulated_ms,
                }
            }
        };
        self.set_meta("time", &serde_json::to_string(&now).unwrap_or_default())?;
        Ok(now)
    }

    /// A person has compared the wall clock with the world and says it is right.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn confirm_clock(&self, clock: &dyn Clock) -> Result<Time> {
        let mut now = self.tick(clock)?;
        now.skew_s = 0;
        self.set_meta("time", &serde_json::to_string(&now).unwrap_or_default())?;
        Ok(now)
    }

    /// A number that is higher at each start of the role: an opener that was replaced has a lower one.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn next_epoch(&self, at_least: u64) -> Result<u64> {
        let before = self.meta("epoch")?.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let next = before.saturating_add(1).max(at_least);
        self.set_meta("epoch", &next.to_string())?;
        Ok(next)
    }

    /// When the next window is planned, in accumulated seconds, so that a restart does not draw anew.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn age(now: &Time, since_s: u64) -> Duration {
        Duration::from_secs(now.accumulated_s.saturating_sub(since_s))
    }
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::ManualClock;

    use super::*;

    #[test]
    fn only_running_time_counts_and_a_jumping_clock_stops_removals() {
        let folder = tempfile::tempdir().unwrap();
        let register = Register::open(folder.path()).unwrap();
        let clock = ManualClock::new("2026-04-01T00:00:00Z".parse().unwrap());
        let start = register.tick_as(&clock, "a").unwrap();
        assert_eq!((start.accumulated_s, start.skew_s), (0, 0));
        clock.advance(Duration::from_hours(2));
        assert_eq!(register.tick_as(&clock, "a").unwrap().accumulated_s, 7200);
        clock.jump("2036-04-01T00:00:00Z".parse().unwrap());
        let jumped = register.tick_as(&clock, "a").unwrap();
        assert_eq!(jumped.accumulated_s, 7200);
        assert!(jumped.suspicious());
        clock.jump("2026-04-01T02:00:00Z".parse().unwrap());
        assert!(!register.tick_as(&clock, "a").unwrap().suspicious(), "the jump was taken back");
        // Another boot: the clock starts anew, what was before stays.
        let fresh = ManualClock::new("2026-04-01T02:00:00Z".parse().unwrap());
        assert_eq!(register.tick_as(&fresh, "b").unwrap().accumulated_s, 7200 + 3600);
    }

    #[test]
    fn a_second_vault_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let register = Register::open(folder.path()).unwrap();
        assert!(matches!(Register::open(folder.path()), Err(crate::Error::Busy(_))));
        Register::look(folder.path()).unwrap();
        assert_eq!(register.next_epoch(0).unwrap(), 1);
        assert_eq!(register.next_epoch(7).unwrap(), 7);
        drop(register);
        assert_eq!(Register::open(folder.path()).unwrap().next_epoch(0).unwrap(), 8);
    }
}
