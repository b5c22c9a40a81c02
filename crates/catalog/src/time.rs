//! The highest time ever seen, the receiver's accumulated time, and clocks that jump.
//!
//! ```text
//! wall  ── expected = last wall + boot time passed ──▶ differs by more than TOLERANCE: a jump, recorded
//! boot  ── only grows; summed over reboots into `age` ──▶ ages of restore points, leases
//! ```
//! Each boot of each machine has clocks of its own in the catalog; the age is one for all servers that share
//! it and goes on while any of them runs. Across a reboot the time switched off is unknown. It is never added to the age (a point then counts as
//! younger, which only keeps it longer), and a wall clock that moved by more than `GAP` meanwhile is
//! recorded as a gap that a person confirms.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::{
    Catalog, CatalogError, Result,
    codec::{duration, from_name, length, maybe_time, micros, named, number, time, unsigned},
    sql::{self, Transaction, row},
};

/// Wall and boot clock may drift apart by this much between two looks (NTP's slow correction).
pub(crate) const TOLERANCE: Duration = Duration::from_mins(2);
/// A machine may be switched off this long without a person having to confirm the time.
pub(crate) const GAP: Duration = Duration::from_hours(72);
/// The clocks of a boot that was not heard of for this long are forgotten.
const FORGET: Duration = Duration::from_hours(24 * 400);

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

row! {
    struct Row {
        highest: i64,
        last_wall: i64,
        age_us: i64,
    }
}

row! {
    /// One boot of one machine: its clocks when it last looked, and the age that it then knew.
    struct Clocks {
        wall: i64,
        boot: i64,
        age: i64,
    }
}

impl Catalog {
    /// Looks at the clocks, records a jump, and gives the moment. The scheduler calls it with each turn.
    pub async fn tick(&self) -> Result<Stamp> {
        let mut tx = self.begin().await?;
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
        let rows: Vec<Raw> = sql::query_as(
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
        let mut tx = self.begin().await?;
        let done =
            sql::query("UPDATE jumps SET confirmed_by = $1, confirmed_at = $2 WHERE confirmed_at IS NULL")
                .bind(by)
                .bind(now)
                .execute(&mut tx)
                .await?;
        // From here on the confirmed time is the yardstick, also if it lies below a false high-water mark.
        sql::query("UPDATE time_state SET highest = $1, last_wall = $1 WHERE id = 1")
            .bind(now)
            .execute(&mut tx)
            .await?;
        sql::query("UPDATE clocks SET wall = $1 WHERE boot_id = $2")
            .bind(now)
            .bind(&self.inner.boot_id)
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    /// The highest wall time ever seen (or confirmed).
    pub async fn high_water(&self) -> Result<Timestamp> {
        time(sql::query_scalar("SELECT highest FROM time_state WHERE id = 1").fetch_one(self.reader()).await?)
    }

    /// As [`tick`](Self::tick), inside the caller's transaction.
    pub(crate) async fn advance(&self, connection: &mut Transaction) -> Result<Stamp> {
        let (now, boot) = (self.inner.clock.now(), self.inner.clock.boot());
        let before: Option<Row> =
            sql::query_as("SELECT * FROM time_state WHERE id = 1").fetch_optional(&mut *connection).await?;
        let ours: Option<Clocks> = sql::query_as("SELECT * FROM clocks WHERE boot_id = $1")
            .bind(&self.inner.boot_id)
            .fetch_optional(&mut *connection)
            .await?;
        let (wall, boot_us) = (micros(now), length(boot));
        let (highest, age) = match before {
            None => (wall, 0),
            Some(row) => {
                // Of this boot we know how much time has passed. Each server counts for itself from the age
                // that it last knew, and the furthest counts: servers side by side make time pass once.
                let ours = ours.filter(|ours| ours.boot <= boot_us);
                let same_boot = ours.is_some();
                let last = ours.unwrap_or(Clocks { wall: row.last_wall, boot: 0, age: row.age_us });
                // After a reboot at least the time since boot has passed, unless the file came from elsewhere:
                // then never more than the wall clock shows.
                let passed =
                    if same_boot { boot_us - last.boot } else { boot_us.min((wall - last.wall).max(0)) };
                if let Some(kind) = judge_jump(last.wall, wall, passed, same_boot) {
                    record_jump(connection, now, last.wall.saturating_add(passed), kind).await?;
                }
                (row.highest.max(wall), row.age_us.max(last.age.saturating_add(passed)))
            }
        };
        self.keep_clocks(connection, wall, boot_us, age).await?;
        sql::query(
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

    async fn keep_clocks(&self, tx: &mut Transaction, wall: i64, boot: i64, age: i64) -> Result<()> {
        sql::query(
            "INSERT INTO clocks (boot_id, wall, boot, age) VALUES ($1, $2, $3, $4)
             ON CONFLICT (boot_id) DO UPDATE SET wall = excluded.wall, boot = excluded.boot,
                age = excluded.age",
        )
        .bind(&self.inner.boot_id)
        .bind(wall)
        .bind(boot)
        .bind(age)
        .execute(&mut *tx)
        .await?;
        // A boot that nobody has heard of for long is over.
        sql::query("DELETE FROM clocks WHERE age < $1").bind(age - length(FORGET)).execute(tx).await?;
        Ok(())
    }
}

fn judge_jump(last_wall: i64, wall: i64, passed: i64, same_boot: bool) -> Option<JumpKind> {
    let off = wall.saturating_sub(last_wall.saturating_add(passed));
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
pub(crate) async fn adopt(catalog: &Catalog, connection: &mut Transaction) -> Result<()> {
    let (now, boot) = (catalog.inner.clock.now(), catalog.inner.clock.boot());
    let row: Option<Row> =
        sql::query_as("SELECT * FROM time_state WHERE id = 1").fetch_optional(&mut *connection).await?;
    let Some(row) = row else { return Ok(()) };
    if let Some(kind) = judge_jump(row.last_wall, micros(now), 0, false) {
        record_jump(connection, now, row.last_wall, kind).await?;
    }
    sql::query(
        "UPDATE time_state SET highest = $1, last_wall = $2, last_boot = $3, boot_id = $4 WHERE id = 1",
    )
    .bind(row.highest.max(micros(now)))
    .bind(micros(now))
    .bind(length(boot))
    .bind(&catalog.inner.boot_id)
    .execute(&mut *connection)
    .await?;
    catalog.keep_clocks(connection, micros(now), length(boot), row.age_us).await
}

async fn record_jump(
    connection: &mut Transaction,
    seen: Timestamp,
    expected: i64,
    kind: JumpKind,
) -> Result<()> {
    let expected = time(expected).unwrap_or(seen);
    let offset = seen.duration_since(expected);
    tracing::warn!(%seen, %expected, kind = kind.as_str(), "the wall clock jumped; removals are suspended");
    let id = number(connection, "jump").await?;
    sql::query("INSERT INTO jumps (id, seen_at, expected_at, offset_us, kind) VALUES ($1, $2, $3, $4, $5)")
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
