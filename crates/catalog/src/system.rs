//! The register: every departmental system with its people, its class, its plan and its limits.

use std::time::Duration;

use jiff::Timestamp;
use kuramori_judge::{
    expect::Expectations,
    retention::Retention,
    schedule::{Schedule, Timetable},
};
use kuramori_model::{
    class::{DataClass, Protection},
    ids::SystemId,
};
use serde::{Deserialize, Serialize};

use crate::{
    Catalog, CatalogError, Result,
    codec::{from_json, from_name, micros, named, signed, time, to_json, unsigned},
    sql::{self, row},
};

named! {
    /// The kind of writer of a repository, recorded at its creation and never mixed.
    Writer {
        /// Our engine.
        Kuramori = "kuramori",
        /// A stock restic client.
        Restic = "restic",
    }
}

/// A departmental system as the register knows it. Also the form in which it is imported and edited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// Short name; also login and folder.
    pub id: SystemId,
    /// 部門システム名
    pub name_ja: String,
    /// Name in English.
    pub name_en: String,
    /// Who answers for it in the hospital.
    pub owner: String,
    /// The vendor (事業者).
    pub vendor: String,
    /// Whom to call: telephone, mail, maintenance contract.
    pub contact: String,
    /// 最重要, 重要, 標準.
    pub protection: Protection,
    /// What kind of record it holds; gives the floor of generations.
    pub data: DataClass,
    /// Recovery point objective in seconds.
    pub rpo_s: u64,
    /// Recovery time objective in seconds.
    pub rto_s: u64,
    /// Place in the restore order (復旧順序), 1 comes first.
    pub restore_order: u32,
    /// The departmental server that it lives on; one job at a time per server.
    pub server: String,
    /// Who writes its repository.
    pub writer: Writer,
    /// How it is read; the form belongs to the reader.
    pub source: serde_json::Value,
    /// When it is backed up.
    pub schedule: Schedule,
    /// What is kept at the primary.
    pub retention: Retention,
    /// What a healthy backup looks like.
    pub expect: Expectations,
    /// Whether the scheduler runs it.
    pub enabled: bool,
}

impl System {
    /// Recovery point objective.
    pub fn rpo(&self) -> Duration {
        Duration::from_secs(self.rpo_s)
    }

    /// Recovery time objective.
    pub fn rto(&self) -> Duration {
        Duration::from_secs(self.rto_s)
    }
}

/// A system with what the catalog adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Registered {
    /// The entry.
    pub system: System,
    /// Grows with each edit; an edit names the version that it saw.
    pub version: u64,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it was last edited.
    pub changed_at: Timestamp,
    /// The newest due time that was run, skipped or reported; at first the time of registration.
    pub handled: Timestamp,
}

row! {
    struct Row {
        id: String,
        name_ja: String,
        name_en: String,
        owner: String,
        vendor: String,
        contact: String,
        protection: String,
        data_class: String,
        rpo_us: i64,
        rto_us: i64,
        restore_order: i64,
        server: String,
        writer: String,
        source: String,
        schedule: String,
        retention: String,
        expectations: String,
        enabled: i64,
        version: i64,
        created_at: i64,
        changed_at: i64,
        handled_due: i64,
    }
}

impl TryFrom<Row> for Registered {
    type Error = CatalogError;

    fn try_from(row: Row) -> Result<Self> {
        let system = System {
            id: system_id(&row.id)?,
            name_ja: row.name_ja,
            name_en: row.name_en,
            owner: row.owner,
            vendor: row.vendor,
            contact: row.contact,
            protection: from_name(&row.protection, "protection class")?,
            data: from_name(&row.data_class, "data class")?,
            rpo_s: unsigned(row.rpo_us) / 1_000_000,
            rto_s: unsigned(row.rto_us) / 1_000_000,
            restore_order: u32::try_from(row.restore_order).unwrap_or(u32::MAX),
            server: row.server,
            writer: from_name(&row.writer, "writer")?,
            source: from_json(&row.source, "source")?,
            schedule: from_json(&row.schedule, "schedule")?,
            retention: from_json(&row.retention, "retention policy")?,
            expect: from_json(&row.expectations, "expectations")?,
            enabled: row.enabled != 0,
        };
        Ok(Self {
            system,
            version: unsigned(row.version),
            created_at: time(row.created_at)?,
            changed_at: time(row.changed_at)?,
            handled: time(row.handled_due)?,
        })
    }
}

pub(crate) fn system_id(name: &str) -> Result<SystemId> {
    SystemId::new(name).map_err(|e| CatalogError::Damaged { what: "system", why: e.to_string() })
}

fn check(system: &System) -> Result<()> {
    Timetable::new(&system.schedule)
        .map(drop)
        .map_err(|source| CatalogError::Schedule { name: system.id.to_string(), source })
}

const COLUMNS: &str = "name_ja, name_en, owner, vendor, contact, protection, data_class, rpo_us, rto_us,
    restore_order, server, writer, source, schedule, retention, expectations, enabled";

impl Catalog {
    /// Registers a system.
    pub async fn add_system(&self, system: &System) -> Result<()> {
        check(system)?;
        let now = micros(self.inner.clock.now());
        let sql = format!(
            "INSERT INTO systems (id, {COLUMNS}, version, created_at, changed_at, handled_due)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                     1, $19, $19, $19) ON CONFLICT (id) DO NOTHING"
        );
        let done = bind(sql::query(sql::built(sql)), system)?.bind(now).execute(self.writer()).await?;
        if done.rows_affected() == 0 {
            return Err(CatalogError::Exists { what: "system", name: system.id.to_string() });
        }
        Ok(())
    }

    /// Replaces the entry that the caller saw as `version`; gives the new version. The writer of a
    /// repository cannot be changed.
    pub async fn edit_system(&self, system: &System, version: u64) -> Result<u64> {
        check(system)?;
        let now = micros(self.inner.clock.now());
        let sql = format!(
            "UPDATE systems SET ({COLUMNS}) = ($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
                    $16, $17, $18), version = version + 1, changed_at = $19
             WHERE id = $1 AND version = $20 AND writer = $13"
        );
        let done = bind(sql::query(sql::built(sql)), system)?
            .bind(now)
            .bind(signed(version))
            .execute(self.writer())
            .await?;
        if done.rows_affected() == 1 {
            return Ok(version + 1);
        }
        let found = self.system(&system.id).await?;
        if found.system.writer != system.writer {
            return Err(CatalogError::InUse {
                name: system.id.to_string(),
                why: "the kind of writer of its repository is fixed; register a new system".to_owned(),
            });
        }
        Err(CatalogError::Changed { what: "system", name: system.id.to_string() })
    }

    /// Removes a system that has neither restore points nor open work.
    pub async fn remove_system(&self, id: &SystemId) -> Result<()> {
        let mut tx = self.begin().await?;
        let points: i64 =
            sql::query_scalar("SELECT COUNT(*) FROM points WHERE system = $1 AND removed_at IS NULL")
                .bind(id.as_str())
                .fetch_one(&mut tx)
                .await?;
        let open: i64 = sql::query_scalar(
            "SELECT COUNT(*) FROM runs WHERE system = $1 AND state IN ('queued', 'running')",
        )
        .bind(id.as_str())
        .fetch_one(&mut tx)
        .await?;
        if points + open > 0 {
            let why = format!("it has {points} restore points and {open} open runs");
            return Err(CatalogError::InUse { name: id.to_string(), why });
        }
        for sql in [
            "DELETE FROM runs WHERE system = $1",
            "DELETE FROM points WHERE system = $1",
            "DELETE FROM results WHERE system = $1",
            "DELETE FROM systems WHERE id = $1",
        ] {
            let done = sql::query(sql).bind(id.as_str()).execute(&mut tx).await?;
            if sql.contains("systems") && done.rows_affected() == 0 {
                return Err(CatalogError::no_such("system", id));
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// One system.
    pub async fn system(&self, id: &SystemId) -> Result<Registered> {
        let row: Option<Row> = sql::query_as("SELECT * FROM systems WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(self.reader())
            .await?;
        row.ok_or_else(|| CatalogError::no_such("system", id))?.try_into()
    }

    /// All systems in restore order.
    pub async fn systems(&self) -> Result<Vec<Registered>> {
        let rows: Vec<Row> = sql::query_as("SELECT * FROM systems ORDER BY restore_order, id")
            .fetch_all(self.reader())
            .await?;
        rows.into_iter().map(Registered::try_from).collect()
    }

    /// Records that a due time needs no further decision (it was skipped or reported). Never goes back. Gives
    /// whether it was us who recorded it: of several servers only one reports.
    pub async fn set_handled(&self, id: &SystemId, due: Timestamp) -> Result<bool> {
        let done = sql::query("UPDATE systems SET handled_due = $2 WHERE id = $1 AND handled_due < $2")
            .bind(id.as_str())
            .bind(micros(due))
            .execute(self.writer())
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

fn bind(query: sql::Query<()>, system: &System) -> Result<sql::Query<()>> {
    Ok(query
        .bind(system.id.to_string())
        .bind(system.name_ja.clone())
        .bind(system.name_en.clone())
        .bind(system.owner.clone())
        .bind(system.vendor.clone())
        .bind(system.contact.clone())
        .bind(system.protection.as_str())
        .bind(system.data.as_str())
        .bind(signed(system.rpo_s).saturating_mul(1_000_000))
        .bind(signed(system.rto_s).saturating_mul(1_000_000))
        .bind(i64::from(system.restore_order))
        .bind(system.server.clone())
        .bind(system.writer.as_str())
        .bind(to_json(&system.source)?)
        .bind(to_json(&system.schedule)?)
        .bind(to_json(&system.retention)?)
        .bind(to_json(&system.expect)?)
        .bind(i64::from(system.enabled)))
}
