//! Alarms: findings that go on until they are gone. A judge hands in all that it finds now; what is new
//! opens, what is still there stays, what is gone closes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kuramori_model::{finding::Finding, ids::SystemId};
use serde::Serialize;

use crate::{
    Catalog, CatalogError, Result,
    codec::{from_json, maybe_time, micros, number, signed, time, to_json, unsigned},
    sql::{self, Transaction, row},
};

/// One alarm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// Its number.
    pub id: u64,
    /// Who finds it: `judge`, `vault`, `notify`.
    pub scope: String,
    /// What was found, with the newest figures.
    pub finding: Finding,
    /// When it opened.
    pub opened: Timestamp,
    /// When it was last seen.
    pub seen: Timestamp,
    /// When a notice was taken by a target.
    pub notified: Option<Timestamp>,
    /// Who takes care of it.
    pub taken_by: Option<String>,
    /// When it closed.
    pub closed: Option<Timestamp>,
}

/// What a look has changed: what people must hear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlarmChanges {
    /// New.
    pub opened: Vec<Alarm>,
    /// There before, but louder now than when people heard of it.
    pub raised: Vec<Alarm>,
    /// Gone.
    pub closed: Vec<Alarm>,
}

row! {
    struct Row {
        id: i64,
        scope: String,
        dedup: String,
        finding: String,
        opened_at: i64,
        seen_at: i64,
        notified_at: Option<i64>,
        taken_by: Option<String>,
        closed_at: Option<i64>,
    }
}

impl TryFrom<Row> for Alarm {
    type Error = CatalogError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: unsigned(row.id),
            scope: row.scope,
            finding: from_json(&row.finding, "finding")?,
            opened: time(row.opened_at)?,
            seen: time(row.seen_at)?,
            notified: maybe_time(row.notified_at)?,
            taken_by: row.taken_by,
            closed: maybe_time(row.closed_at)?,
        })
    }
}

fn alarms(rows: Vec<Row>) -> Result<Vec<Alarm>> {
    rows.into_iter().map(Alarm::try_from).collect()
}

impl Catalog {
    /// Takes all findings of one scope as they are now. Two findings with the same key count once, the
    /// loudest of them.
    pub async fn reconcile(&self, scope: &str, findings: &[Finding]) -> Result<AlarmChanges> {
        let now = micros(self.inner.clock.now());
        let mut wanted: BTreeMap<String, &Finding> = BTreeMap::new();
        for finding in findings {
            let slot = wanted.entry(finding.key()).or_insert(finding);
            if finding.severity > slot.severity {
                *slot = finding;
            }
        }
        let mut changes = AlarmChanges::default();
        let mut tx = self.begin().await?;
        let open: Vec<Row> =
            sql::query_as("SELECT * FROM alarms WHERE scope = $1 AND closed_at IS NULL ORDER BY id")
                .bind(scope)
                .fetch_all(&mut tx)
                .await?;
        for row in open {
            let found = wanted.remove(&row.dedup);
            let id = row.id;
            let mut alarm = Alarm::try_from(row)?;
            if let Some(finding) = found {
                let louder = finding.severity > alarm.finding.severity;
                alarm.finding = finding.clone();
                alarm.seen = time(now)?;
                sql::query("UPDATE alarms SET finding = $2, severity = $3, seen_at = $4 WHERE id = $1")
                    .bind(id)
                    .bind(to_json(finding)?)
                    .bind(finding.severity.as_str())
                    .bind(now)
                    .execute(&mut tx)
                    .await?;
                if louder {
                    changes.raised.push(alarm);
                }
            } else {
                sql::query("UPDATE alarms SET closed_at = $2 WHERE id = $1")
                    .bind(id)
                    .bind(now)
                    .execute(&mut tx)
                    .await?;
                alarm.closed = Some(time(now)?);
                changes.closed.push(alarm);
            }
        }
        for (key, finding) in wanted {
            changes.opened.push(open_alarm(&mut tx, scope, &key, finding, now).await?);
        }
        tx.commit().await?;
        Ok(changes)
    }

    /// Open alarms, loudest and newest first.
    pub async fn open_alarms(&self) -> Result<Vec<Alarm>> {
        let rows = sql::query_as("SELECT * FROM alarms WHERE closed_at IS NULL ORDER BY id DESC")
            .fetch_all(self.reader())
            .await?;
        let mut found = alarms(rows)?;
        found.sort_by_key(|alarm| std::cmp::Reverse(alarm.finding.severity));
        Ok(found)
    }

    /// Alarms, open and closed, newest first.
    pub async fn alarms(&self, system: Option<&SystemId>, limit: u32) -> Result<Vec<Alarm>> {
        let rows =
            sql::query_as("SELECT * FROM alarms WHERE ($1 IS NULL OR system = $1) ORDER BY id DESC LIMIT $2")
                .bind(system.map(SystemId::as_str))
                .bind(i64::from(limit))
                .fetch_all(self.reader())
                .await?;
        alarms(rows)
    }

    /// Records that a target took the notice.
    pub async fn set_notified(&self, id: u64) -> Result<()> {
        sql::query("UPDATE alarms SET notified_at = $2 WHERE id = $1 AND notified_at IS NULL")
            .bind(signed(id))
            .bind(micros(self.inner.clock.now()))
            .execute(self.writer())
            .await?;
        Ok(())
    }

    /// Records who takes care of it.
    pub async fn take_alarm(&self, id: u64, by: &str) -> Result<()> {
        let done = sql::query("UPDATE alarms SET taken_by = $2, taken_at = $3 WHERE id = $1")
            .bind(signed(id))
            .bind(by)
            .bind(micros(self.inner.clock.now()))
            .execute(self.writer())
            .await?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::no_such("alarm", &id));
        }
        Ok(())
    }
}

async fn open_alarm(
    connection: &mut Transaction,
    scope: &str,
    key: &str,
    finding: &Finding,
    now: i64,
) -> Result<Alarm> {
    let id = number(connection, "alarm").await?;
    sql::query(
        "INSERT INTO alarms (id, scope, dedup, system, code, severity, finding, opened_at, seen_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
    )
    .bind(id)
    .bind(scope)
    .bind(key)
    .bind(finding.system.as_ref().map(SystemId::as_str))
    .bind(&finding.code)
    .bind(finding.severity.as_str())
    .bind(to_json(finding)?)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(Alarm {
        id: unsigned(id),
        scope: scope.to_owned(),
        finding: finding.clone(),
        opened: time(now)?,
        seen: time(now)?,
        notified: None,
        taken_by: None,
        closed: None,
    })
}
