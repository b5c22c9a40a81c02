//! Results of other backup products, in the receiver's order. Several servers may hear the same one at the same
//! moment: it is recorded once, and none is lost.

use kuramori_judge::foreign::{HISTORY, Recorded, add};
use kuramori_model::{foreign::JobResult, ids::SystemId};

use crate::{
    Catalog, Result,
    codec::{from_json, micros, signed, time, to_json, unsigned},
    sql::{self, Transaction, row},
};

/// Where they stood before they had a table.
const SETTING: &str = "results/";

row! {
    struct Row {
        number: i64,
        received_at: i64,
        way: String,
        result: String,
    }
}

impl TryFrom<Row> for Recorded {
    type Error = crate::CatalogError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            number: unsigned(row.number),
            received: time(row.received_at)?,
            way: row.way,
            result: from_json(&row.result, "result")?,
        })
    }
}

row! {
    struct Setting {
        name: String,
        value: String,
    }
}

impl Catalog {
    /// What was said about a system's jobs, oldest first.
    pub async fn results(&self, system: &SystemId) -> Result<Vec<Recorded>> {
        let rows: Vec<Row> = sql::query_as(
            "SELECT number, received_at, way, result FROM results WHERE system = $1 ORDER BY number",
        )
        .bind(system.as_str())
        .fetch_all(self.reader())
        .await?;
        rows.into_iter().map(Recorded::try_from).collect()
    }

    /// Records a result under our number and time; none if it is known already.
    pub async fn add_result(&self, result: &JobResult, way: &str) -> Result<Option<u64>> {
        let mut tx = self.begin().await?;
        let number = Self::insert_result(&mut tx, result, way, micros(self.inner.clock.now())).await?;
        tx.commit().await?;
        Ok(number)
    }

    async fn insert_result(
        tx: &mut Transaction,
        result: &JobResult,
        way: &str,
        received: i64,
    ) -> Result<Option<u64>> {
        // Whoever writes holds the only transaction that writes: what is read here is what is there.
        let rows: Vec<Row> = sql::query_as(
            "SELECT number, received_at, way, result FROM results WHERE system = $1 ORDER BY number",
        )
        .bind(result.system.as_str())
        .fetch_all(&mut *tx)
        .await?;
        let mut known = rows.into_iter().map(Recorded::try_from).collect::<Result<Vec<_>>>()?;
        let Some(number) = add(&mut known, result.clone(), way, time(received)?) else { return Ok(None) };
        sql::query(
            "INSERT INTO results (system, number, received_at, way, result) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(result.system.as_str())
        .bind(signed(number))
        .bind(received)
        .bind(way)
        .bind(to_json(result)?)
        .execute(&mut *tx)
        .await?;
        sql::query("DELETE FROM results WHERE system = $1 AND number <= $2")
            .bind(result.system.as_str())
            .bind(signed(number.saturating_sub(HISTORY as u64)))
            .execute(tx)
            .await?;
        Ok(Some(number))
    }

    /// Moves what stands in the settings of an older catalog into the table, once.
    pub(crate) async fn move_results(&self) -> Result<()> {
        let find = "SELECT name, value FROM settings WHERE name LIKE 'results/%' ORDER BY name";
        let old: Vec<Setting> = sql::query_as(find).fetch_all(self.reader()).await?;
        if old.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        // Again, inside: another server may have done it meanwhile.
        let old: Vec<Setting> = sql::query_as(find).fetch_all(&mut tx).await?;
        for Setting { name, value } in old {
            let system = name.strip_prefix(SETTING).unwrap_or_default();
            let there: i64 = sql::query_scalar("SELECT COUNT(*) FROM systems WHERE id = $1")
                .bind(system)
                .fetch_one(&mut tx)
                .await?;
            // A system that was removed since then takes its results with it.
            if there > 0 {
                for recorded in from_json::<Vec<Recorded>>(&value, "results")? {
                    let received = micros(recorded.received);
                    Self::insert_result(&mut tx, &recorded.result, &recorded.way, received).await?;
                }
            }
            sql::query("DELETE FROM settings WHERE name = $1").bind(&name).execute(&mut tx).await?;
        }
        Ok(tx.commit().await?)
    }
}
