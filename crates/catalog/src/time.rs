//! The highest time ever seen, the receiver's accumulated time, and clocks that jump.
//!
//! ```text
//! wall  ── expected = last wall + boot time passed ──▶ differs by more than TOLERANCE: a jump, recorded
//! boot  ── only grows; summed over reboots into `age` ──▶ ages of restore points, leases
//! ```
//! Across a reboot the time switched off is unknown. It is never added to the age (a point then counts as
//! younger, which only keeps it longer), and a wall clock that moved by more than `GAP` meanwhile is
//! recorded as a gap that a person confirms.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use sqlx::SqliteConnection;

use crate::{
    Catalog, CatalogError, Result,
    codec::{duration, from_name, length, maybe_time, micros, named, number, time, unsigned},
};

/// Wall and boot clock may drift apart by this much between two looks (NTP's slow correction).
pub(crate) const TOLERANCE: Duration = Duration::from_mins(2);
/// A machine may be switched off this long without a person having to confirm the time.
pub(crate) const GAP: Duration = Duration::from_hours(72);

named! {
    /// What the clock did.
    JumpKind {
        /// Went ahead.
        Forward = "forward",
        /// Went back.
        Backward = "backward",
        /// The machine was away for long, or the clock was moved meanwhile.
        Gap = "gap",
    }
}

/// One jump of the wall clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Jump {
    /// Its number.
    pub id: u64,
    /// What the clock said.
    pub seen: Timestamp,
    /// What it should have said.
    pub expected: Timestamp,
    /// What it did.
    pub kind: JumpKind,
    /// Who confirmed the time since.
    pub confirmed_by: Option<String>,
    /// When.
    pub confirmed_at: Option<Timestamp>,
}

/// A moment by both measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The wall clock.
    pub now: Timestamp,
    /// The receiver's accumulated running time.
    pub age: Duration,
}

#[derive(sqlx::FromRow)]
struct Row {
    highest: i64,
    last_wall: i64,
    last_boot: i64,
    boot_id: String,
    age_us: i64,
}

impl Catalog {
    /// Looks at the clocks, records a jump, and gives the moment. The scheduler calls it with each turn.
    pub async fn tick(&self) -> Result<Stamp> {
        let mut tx = self.writer().begin().await?;
        let stamp = self.advance(&mut tx).await?;
        tx.commit().await?;
        Ok(stamp)
    }

    /// The unconfirmed jump that suspends removals, if any: the oldest one.
    pub async fn suspended(&self) -> Result<Option<Jump>> {
        Ok(self.jumps().await?.into_iter().rev().find(|jump| jump.confirmed_at.is_none()))
    }

    /// Fails with [`CatalogError::Suspended`] while nothing may be removed.
    pub async fn removals_allowed(&self) -> Result<()> {
        match self.suspended().await? {
            Some(jump) => Err(CatalogError::Suspended { seen: jump.seen, expected: jump.expected }),
            None => Ok(()),
        }
    }

    /// All jumps, newest first.
    pub async fn jumps(&self) -> Result<Vec<Jump>> {
        type Raw = (i64, i64, i64, String, Option<String>, Option<i64>);
        let rows: Vec<Raw> = sqlx::query_as(
            "SELECT id, seen_at, expected_at, kind, confirmed_by, confirmed_at FROM jumps ORDER BY id DESC",
        )
        .fetch_all(self.reader())
        .await?;
        rows.into_iter()
            .map(|(id, seen, expected, kind, confirmed_by, confirmed_at)| {
                Ok(Jump {
                    id: unsigned(id),
                    seen: time(seen)?,
                    expected: time(expected)?,
                    kind: from_name(&kind, "clock jump")?,
                    confirmed_by,
                    confirmed_at: maybe_time(confirmed_at)?,
                })
            })
            .collect()
    }

    /// A person says that the time is right now; removals go on. Gives the number of jumps confirmed.
    pub async fn confirm_time(&self, by: &str) -> Result<u64> {
        let now = micros(self.inner.clock.now());
        let mut tx = self.writer().begin().await?;
        let done =
            sqlx::query("UPDATE jumps SET confirmed_by = $1, confirmed_at = $2 WHERE confirmed_at IS NULL")
                .bind(by)
                .bind(now)
                .execute(&mut *tx)
                .await?;
        // From here on the confirmed time is the yardstick, also if it lies below a false high-water mark.
        sqlx::query("UPDATE time_state SET highest = $1, last_wall = $1 WHERE id = 1")
            .bind(now)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    /// The highest wall time ever seen (or confirmed).
    pub async fn high_water(&self) -> Result<Timestamp> {
        time(
            sqlx::query_scalar("SELECT highest FROM time_state WHERE id = 1")
                .fetch_one(self.reader())
                .await?,
        )
    }

    /// As [`tick`](Self::tick), inside the caller's transaction.
    pub(crate) async fn advance(&self, connection: &mut SqliteConnection) -> Result<Stamp> {
        let (now, boot) = (self.inner.clock.now(), self.inner.clock.boot());
        let before: Option<Row> =
            sqlx::query_as("SELECT * FROM time_state WHERE id = 1").fetch_optional(&mut *connection).await?;
        let (wall, boot_us) = (micros(now), length(boot));
        let (highest, age) = match &before {
            None => (wall, 0),
            Some(row) => {
                let same_boot = row.boot_id == self.inner.boot_id && row.last_boot <= boot_us;
                // After a reboot at least the time since boot has passed, unless the file came from elsewhere:
                // then never more than the wall clock shows.
                let passed = if same_boot {
                    boot_us - row.last_boot
                } else {
                    boot_us.min((wall - row.last_wall).max(0))
                };
                if let Some(kind) = judge_jump(row, wall, passed, same_boot) {
                    record_jump(connection, now, row.last_wall.saturating_add(passed), kind).await?;
                }
                (row.highest.max(wall), row.age_us.saturating_add(passed))
            }
        };
        sqlx::query(
            "INSERT INTO time_state (id, highest, last_wall, last_boot, boot_id, age_us)
             VALUES (1, $1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE SET highest = excluded.highest, last_wall = excluded.last_wall,
                last_boot = excluded.last_boot, boot_id = excluded.boot_id, age_us = excluded.age_us",
        )
        .bind(highest)
        .bind(wall)
        .bind(boot_us)
        .bind(&self.inner.boot_id)
        .bind(age)
        .execute(connection)
        .await?;
        Ok(Stamp { now, age: duration(age) })
    }
}

fn judge_jump(row: &Row, wall: i64, passed: i64, same_boot: bool) -> Option<JumpKind> {
    let off = wall.saturating_sub(row.last_wall.saturating_add(passed));
    if off < -length(TOLERANCE) {
        Some(JumpKind::Backward)
    } else if same_boot && off > length(TOLERANCE) {
        Some(JumpKind::Forward)
    } else if off > length(GAP) {
        Some(JumpKind::Gap)
    } else {
        None
    }
}

/// Moves the time that came with an import to this machine: the age goes on from where it was, and a wall
/// clock that stands elsewhere than the export is recorded.
pub(crate) async fn adopt(catalog: &Catalog, connection: &mut SqliteConnection) -> Result<()> {
    let (now, boot) = (catalog.inner.clock.now(), catalog.inner.clock.boot());
    let row: Option<Row> =
        sqlx::query_as("SELECT * FROM time_state WHERE id = 1").fetch_optional(&mut *connection).await?;
    let Some(row) = row else { return Ok(()) };
    if let Some(kind) = judge_jump(&row, micros(now), 0, false) {
        record_jump(connection, now, row.last_wall, kind).await?;
    }
    sqlx::query(
        "UPDATE time_state SET highest = $1, last_wall = $2, last_boot = $3, boot_id = $4 WHERE id = 1",
    )
    .bind(row.highest.max(micros(now)))
    .bind(micros(now))
    .bind(length(boot))
    .bind(&catalog.inner.boot_id)
    .execute(connection)
    .await?;
    Ok(())
}

async fn record_jump(
    connection: &mut SqliteConnection,
    seen: Timestamp,
    expected: i64,
    kind: JumpKind,
) -> Result<()> {
    let expected = time(expected).unwrap_or(seen);
    let offset = seen.duration_since(expected);
    tracing::warn!(%seen, %expected, kind = kind.as_str(), "the wall clock jumped; removals are suspended");
    let id = number(connection, "jump").await?;
    sqlx::query("INSERT INTO jumps (id, seen_at, expected_at, offset_us, kind) VALUES ($1, $2, $3, $4, $5)")
        .bind(id)
        .bind(micros(seen))
        .bind(micros(expected))
        .bind(offset_micros(offset))
        .bind(kind.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

fn offset_micros(offset: SignedDuration) -> i64 {
    i64::try_from(offset.as_micros()).unwrap_or(i64::MAX)
}
