//! Accumulated running time: what retention counts in.
//!
//! The boot clock runs forward only; over reboots its spans are added. A machine that is off does not age its
//! files, so nobody frees them by switching it off or by turning the wall clock.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Beyond this the wall clock has jumped, and nothing is removed until a person confirms it.
pub const SKEW_MAX_S: i64 = 86_400;

/// The time as the lock knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Time {
    accumulated_ms: u64,
    boot_ms: u64,
    boot_id: String,
    wall: Timestamp,
    skew_ms: i64,
}

impl Time {
    /// The first moment.
    pub fn begin(boot_id: &str, boot: Duration, wall: Timestamp) -> Self {
        let boot_ms = milliseconds(boot);
        Self { accumulated_ms: 0, boot_ms, boot_id: boot_id.to_owned(), wall, skew_ms: 0 }
    }

    /// Goes on to now.
    pub fn tick(&mut self, boot_id: &str, boot: Duration, wall: Timestamp) {
        let boot_ms = milliseconds(boot);
        let passed = if boot_id == self.boot_id {
            boot_ms.saturating_sub(self.boot_ms)
        } else {
            // Between the boots the wall clock ran on, and rightly: that is no skew if it went forward a
            // little, and it is none of our time either.
            boot_ms
        };
        let moved = wall.as_millisecond().saturating_sub(self.wall.as_millisecond());
        self.skew_ms =
            self.skew_ms.saturating_add(moved.saturating_sub(i64::try_from(passed).unwrap_or(i64::MAX)));
        self.accumulated_ms = self.accumulated_ms.saturating_add(passed);
        (self.boot_ms, self.wall) = (boot_ms, wall);
        boot_id.clone_into(&mut self.boot_id);
    }

    /// Accumulated seconds.
    pub const fn seconds(&self) -> u64 {
        self.accumulated_ms / 1000
    }

    /// How far the wall clock ran away, in seconds.
    pub const fn skew(&self) -> i64 {
        self.skew_ms / 1000
    }

    /// Whether removal stops.
    pub const fn frozen(&self) -> bool {
        self.skew().unsigned_abs() > SKEW_MAX_S.unsigned_abs()
    }

    /// A person has looked.
    pub fn confirm(&mut self) {
        self.skew_ms = 0;
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
