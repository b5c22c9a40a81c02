//! Restore points, in the vault's own order: by the window whose listing first named them. Only among those that
//! one listing named together does the writer's time decide, so a forged time moves a point past none that was
//! there in another window.

use std::collections::HashSet;

use jiff::Timestamp;
use kuramori_judge::retention::Verdict;
use kuramori_model::ids::Sequence;
use kuramori_repo::{format::blob::BlobId, store::FileId};
use serde::Serialize;
use sqlx::{Row, sqlite::SqliteRow};

use super::{Register, Time, id, signed, unsigned};
use crate::error::Result;

/// How far a restore point has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PointState {
    /// Something that it needs is not here or not proven.
    Incomplete,
    /// Everything that it needs lies here, proven.
    Complete,
    /// Removed by our own retention.
    Removed,
}

impl PointState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::Complete => "complete",
            Self::Removed => "removed",
        }
    }
}

/// A restore point.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// The vault's number: the order in which points were first examined here.
    pub sequence: Sequence,
    /// The window whose listing first named it.
    pub listed: u64,
    /// Whose.
    pub repository: String,
    /// The snapshot file.
    #[serde(serialize_with = "text")]
    pub snapshot: FileId,
    /// The vault's wall clock when it was first examined.
    pub received: Timestamp,
    /// The vault's accumulated time then.
    pub received_s: u64,
    /// How far it has come.
    pub state: PointState,
    /// The writer itself says that items are missing.
    pub partial: bool,
    /// What inspection found.
    pub verdict: Verdict,
    /// Root folder.
    #[serde(serialize_with = "text")]
    pub tree: BlobId,
    /// The writer's time: for people only.
    pub taken: String,
    /// The writer's host: for people only.
    pub host: String,
    /// Why it is not complete.
    pub why: Option<String>,
}

fn text<S: serde::Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl Register {
    /// Gives a snapshot its number and time, once; later calls change only what was found out about it.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn point(
        &self,
        repository: &str,
        snapshot: FileId,
        content: &kuramori_repo::format::snapshot::Snapshot,
        state: PointState,
        why: Option<&str>,
        now: &Time,
    ) -> Result<()> {
        self.run(async |db| {
            sqlx::query(
                "insert into points (repository, snapshot, received, received_s, state, partial, tree, taken, host, why, \
                 listed) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, \
                 coalesce((select window from listed where repository = ?1 and snapshot = ?2), \
                 (select max(window) from windows), 0)) \
                 on conflict (repository, snapshot) do update set state = ?5, why = ?10 where state <> 'removed'",
            )
            .bind(repository)
            .bind(snapshot.0.to_vec())
            .bind(now.wall.to_string())
            .bind(signed(now.accumulated_s))
            .bind(state.as_str())
            .bind(content.is_incomplete())
            .bind(content.tree.0.to_vec())
            .bind(content.time.to_string())
            .bind(content.hostname.chars().take(200).collect::<String>())
            .bind(why)
            .execute(db)
            .await?;
            Ok(())
        })
    }

    /// The points of one repository or of all, in the vault's order.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn points(&self, repository: Option<&str>) -> Result<Vec<Point>> {
        let mut points = self.run(async |db| {
            let rows =
                sqlx::query("select * from points where ?1 is null or repository = ?1 order by sequence")
                    .bind(repository)
                    .fetch_all(db)
                    .await?;
            rows.iter().map(point).collect::<sqlx::Result<Vec<_>>>()
        })?;
        let taken = |point: &Point| point.taken.parse::<Timestamp>().unwrap_or_default();
        points.sort_by_cached_key(|point| (point.listed, taken(point), point.sequence));
        Ok(points)
    }

    /// Remembers what a listing named and is not here yet, with the first window that did.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn listed(&self, repository: &str, snapshots: &[FileId], window: u64) -> Result<()> {
        self.transact(async |db| {
            let before: Vec<(Vec<u8>, i64)> = sqlx::query_as(
                "select snapshot, window from listed where repository = ?1 and snapshot not in \
                 (select id from files where repository = ?1 and kind = 'snapshots' and state = 'fetched')",
            )
            .bind(repository)
            .fetch_all(&mut *db)
            .await?;
            let named: HashSet<&[u8]> = snapshots.iter().map(|id| id.0.as_slice()).collect();
            // What is neither here nor offered any more would only grow.
            for (gone, _) in before.iter().filter(|(id, _)| !named.contains(id.as_slice())) {
                sqlx::query("delete from listed where repository = ? and snapshot = ?")
                    .bind(repository)
                    .bind(gone)
                    .execute(&mut *db)
                    .await?;
            }
            for id in snapshots {
                sqlx::query("insert into listed (repository, snapshot, window) values (?, ?, ?) on conflict do nothing")
                    .bind(repository)
                    .bind(id.0.to_vec())
                    .bind(signed(window))
                    .execute(&mut *db)
                    .await?;
            }
            Ok(())
        })
    }

    /// Marks points as removed, remembering when, so that the daily limit holds over restarts.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn removed(&self, repository: &str, points: &[Sequence], now: &Time) -> Result<()> {
        self.transact(async |db| {
            for sequence in points {
                sqlx::query("update points set state = 'removed' where sequence = ?")
                    .bind(signed(sequence.0))
                    .execute(&mut *db)
                    .await?;
                sqlx::query("insert into removals (at_s, repository, sequence) values (?, ?, ?)")
                    .bind(signed(now.accumulated_s))
                    .bind(repository)
                    .bind(signed(sequence.0))
                    .execute(&mut *db)
                    .await?;
            }
            Ok(())
        })
    }

    /// Removals within the last day of accumulated time.
    ///
    /// # Errors
    /// [`crate::Error::Register`].
    pub fn removals_today(&self, repository: &str, now: &Time) -> Result<u32> {
        self.run(async |db| {
            let count: i64 =
                sqlx::query_scalar("select count(*) from removals where repository = ? and at_s > ?")
                    .bind(repository)
                    .bind(signed(now.accumulated_s) - 86_400)
                    .fetch_one(db)
                    .await?;
            Ok(u32::try_from(count).unwrap_or(u32::MAX))
        })
    }
}

fn point(row: &SqliteRow) -> sqlx::Result<Point> {
    let bad = |what: &str| sqlx::Error::Decode(format!("a point has no valid {what}").into());
    let state: String = row.try_get("state")?;
    let verdict: String = row.try_get("verdict")?;
    Ok(Point {
        sequence: Sequence(unsigned(row.try_get("sequence")?)),
        listed: unsigned(row.try_get("listed")?),
        repository: row.try_get("repository")?,
        snapshot: id(row.try_get("snapshot")?)?,
        received: row.try_get::<String, _>("received")?.parse().map_err(|_| bad("time"))?,
        received_s: unsigned(row.try_get("received_s")?),
        state: [PointState::Incomplete, PointState::Complete, PointState::Removed]
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or_else(|| bad("state"))?,
        partial: row.try_get("partial")?,
        verdict: [Verdict::Unknown, Verdict::Clean, Verdict::Suspect, Verdict::Corrupt]
            .into_iter()
            .find(|known| known.as_str() == verdict)
            .ok_or_else(|| bad("verdict"))?,
        tree: BlobId(id(row.try_get("tree")?)?.0),
        taken: row.try_get("taken")?,
        host: row.try_get("host")?,
        why: row.try_get("why")?,
    })
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::SystemClock;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_listing_orders_points_and_the_writers_time_only_within_one() {
        let folder = tempfile::tempdir().unwrap();
        let register = Register::open(folder.path()).unwrap();
        let now = register.tick(&SystemClock).unwrap();
        register
            .run(async |db| {
                sqlx::query("insert into repositories (name, state, first_seen) values ('pacs', 'known', '')")
                    .execute(db)
                    .await
                    .map(drop)
            })
            .unwrap();
        let id = |number: u8| FileId([number; 32]);
        let comes = |number: u8, taken: &str| {
            let content = json!({ "time": taken, "tree": hex::encode([number; 32]) });
            let content = serde_json::from_value(content).unwrap();
            register.point("pacs", id(number), &content, PointState::Complete, None, &now).unwrap();
        };
        let order = || -> Vec<u8> {
            register.points(Some("pacs")).unwrap().iter().map(|point| point.snapshot.0[0]).collect()
        };
        // Window 1 names three and is cut off when the newest is here.
        register.listed("pacs", &[id(1), id(2), id(3)], 1).unwrap();
        comes(3, "2026-11-03T00:00:00Z");
        register.listed("pacs", &[id(1), id(2), id(4), id(5)], 2).unwrap();
        comes(2, "2026-11-02T00:00:00Z");
        comes(1, "2026-11-01T00:00:00Z");
        assert_eq!(order(), [1, 2, 3], "what came late is not the newest");
        // Forged times reach neither behind nor before another window.
        comes(4, "1999-01-01T00:00:00Z");
        register.listed("pacs", &[id(5), id(6)], 3).unwrap();
        comes(6, "2000-01-01T00:00:00Z");
        comes(5, "2099-01-01T00:00:00Z");
        assert_eq!(order(), [1, 2, 3, 4, 5, 6]);
        // What nobody offers any more is forgotten, and counts from the window that names it again.
        register.listed("pacs", &[id(7), id(8)], 4).unwrap();
        register.listed("pacs", &[id(8)], 5).unwrap();
        register.listed("pacs", &[id(7), id(8)], 6).unwrap();
        comes(7, "2026-12-01T00:00:00Z");
        comes(8, "2026-12-02T00:00:00Z");
        assert_eq!(order(), [1, 2, 3, 4, 5, 6, 8, 7]);
    }
}
