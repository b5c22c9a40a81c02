//! The catalog as one file, and back on an empty machine.
//!
//! ```text
//! {"kuramori_catalog":1,"migration":1}                 header: form of the file, newest migration
//! {"row":{…columns…},"table":"counters"}               every row of every table, tables and rows in a
//! …                                                    fixed order, so that equal content is equal bytes
//! {"rows":123}                                         end: a file cut short is noticed
//! ```
//! One JSON object per line rather than a copy of the database file: it is the same for every engine, it
//! deduplicates well from night to night, and a person can read it when all else is gone. Blobs are written
//! as `{"hex":"…"}`; they are sealed already.

use std::{
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
    sync::Arc,
};

use fs_err::File;
use kuramori_model::clock::Clock;
use serde_json::{Map, Value, json};

use crate::{
    Catalog, CatalogError, Database, Result,
    codec::micros,
    pool::newest_migration,
    sql::{self, Transaction},
};

/// Every table with its order, parents before children.
const TABLES: [(&str, &str); 17] = [
    ("counters", "name"),
    ("settings", "name"),
    ("systems", "id"),
    ("secrets", "name"),
    ("runs", "id"),
    ("points", "place, sequence"),
    ("windows", "vault, id"),
    ("reports", "vault, number"),
    ("alarms", "id"),
    ("events", "id"),
    ("outbox", "id"),
    ("heartbeats", "name"),
    ("time_state", "id"),
    ("jumps", "id"),
    ("clocks", "boot_id"),
    ("leases", "name"),
    ("results", "system, number"),
];

const FORM: i64 = 1;

/// What an export wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Catalog {
    /// Writes one consistent state to a file; an older file there is replaced at the end, at once.
    pub async fn export(&self, path: &Path) -> Result<Exported> {
        let partial = path.with_extension("partial");
        let mut file = BufWriter::new(File::create(&partial)?);
        writeln!(file, "{}", json!({"kuramori_catalog": FORM, "migration": newest_migration()}))?;
        let mut rows = 0;
        // A read transaction sees one state of the database however long it takes.
        let mut tx = self.inner.pool.look().await?;
        for (table, order) in TABLES {
            let sql = sql::built(format!("SELECT * FROM {table} ORDER BY {order}"));
            sql::query(sql)
                .each(&mut tx, |row| {
                    writeln!(file, "{}", json!({"table": table, "row": row_to_json(row)?}))?;
                    rows += 1;
                    Ok::<_, CatalogError>(())
                })
                .await?;
        }
        tx.rollback().await?;
        writeln!(file, "{}", json!({"rows": rows}))?;
        let file = file.into_inner().map_err(|e| CatalogError::Io(e.into_error()))?;
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        fs_err::rename(&partial, path)?;
        Ok(Exported { rows, bytes })
    }

    /// Opens a new catalog at `database` and fills it from an export. Runs that were open belong to a
    /// server that is gone and are ended (`catalog.rebuilt`); all else is as it was.
    pub async fn import(export: &Path, database: impl Into<Database>, clock: Arc<dyn Clock>) -> Result<Self> {
        let catalog = Self::open(database, clock).await?;
        catalog.fill(export).await?;
        catalog.move_results().await?;
        Ok(catalog)
    }

    async fn fill(&self, export: &Path) -> Result<()> {
        let mut tx = self.begin().await?;
        let systems: i64 = sql::query_scalar("SELECT COUNT(*) FROM systems").fetch_one(&mut tx).await?;
        if systems > 0 {
            return Err(CatalogError::NotEmpty { name: self.inner.database.to_string(), systems });
        }
        for (table, _) in TABLES.iter().rev() {
            sql::query(sql::built(format!("DELETE FROM {table}"))).execute(&mut tx).await?;
        }
        let mut reader = Lines::open(export)?;
        let header = reader.next()?.ok_or_else(|| reader.bad("it is empty"))?;
        if header.get("kuramori_catalog").and_then(Value::as_i64) != Some(FORM) {
            return Err(reader.bad("the header is not a catalog's"));
        }
        let found = header.get("migration").and_then(Value::as_i64).unwrap_or(i64::MAX);
        if found > newest_migration() {
            let name = export.display().to_string();
            return Err(CatalogError::Newer { name, found, known: newest_migration() });
        }
        let mut rows = 0;
        loop {
            let line = reader.next()?.ok_or_else(|| reader.bad("the file ends too early"))?;
            if let Some(count) = line.get("rows") {
                if count.as_i64() != Some(rows) {
                    return Err(reader.bad("rows are missing"));
                }
                break;
            }
            insert(&mut tx, &line, &reader).await?;
            rows += 1;
        }
        sql::query(
            "UPDATE runs SET state = 'failed', error_code = 'catalog.rebuilt', ended_at = $1, lease_until = NULL,
                    error_text = 'its server was rebuilt from an export'
             WHERE state IN ('queued', 'running')",
        )
        .bind(micros(self.inner.clock.now()))
        .execute(&mut tx)
        .await?;
        sql::query("UPDATE outbox SET lease_until = NULL").execute(&mut tx).await?;
        // What the servers that are gone held, and their machines' clocks, mean nothing here.
        sql::query("DELETE FROM leases").execute(&mut tx).await?;
        sql::query("DELETE FROM clocks").execute(&mut tx).await?;
        crate::time::adopt(self, &mut tx).await?;
        tx.commit().await?;
        Ok(())
    }
}

fn row_to_json(row: &sql::Row) -> Result<Value> {
    let json = |value| match value {
        sql::Value::Int(number) => number.map_or(Value::Null, Value::from),
        sql::Value::Text(text) => text.map_or(Value::Null, Value::String),
        sql::Value::Bytes(bytes) => json!({"hex": hex::encode(bytes)}),
    };
    Ok(Value::Object(
        row.cells()?.into_iter().map(|(name, value)| (name, json(value))).collect::<Map<_, _>>(),
    ))
}

async fn insert(connection: &mut Transaction, line: &Value, reader: &Lines) -> Result<()> {
    let table = line.get("table").and_then(Value::as_str).unwrap_or_default();
    if !TABLES.iter().any(|(known, _)| *known == table) {
        return Err(reader.bad(&format!("`{table}` is not a table")));
    }
    let row = line.get("row").and_then(Value::as_object).ok_or_else(|| reader.bad("there is no row"))?;
    let plain = |name: &String| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if row.is_empty() || !row.keys().all(plain) {
        return Err(reader.bad("a column has no plain name"));
    }
    let columns = row.keys().cloned().collect::<Vec<_>>().join(", ");
    // A missing value has no type here and must have one in a statement's arguments: it stands in the text.
    let mut number = 0;
    let marks = row.values().map(|value| {
        number += i32::from(!value.is_null());
        if value.is_null() { "NULL".to_owned() } else { format!("${number}") }
    });
    let marks = marks.collect::<Vec<_>>().join(", ");
    let mut query = sql::query(sql::built(format!("INSERT INTO {table} ({columns}) VALUES ({marks})")));
    for value in row.values() {
        query = match value {
            Value::Null => query,
            Value::String(text) => query.bind(text),
            Value::Number(number) => {
                query.bind(number.as_i64().ok_or_else(|| reader.bad("a number is too big"))?)
            }
            Value::Object(blob) => {
                let text = blob.get("hex").and_then(Value::as_str).unwrap_or("?");
                query.bind(hex::decode(text).map_err(|e| reader.bad(&e.to_string()))?)
            }
            _ => return Err(reader.bad("a value has no known form")),
        };
    }
    query.execute(connection).await.map_err(|error| match CatalogError::from(error) {
        CatalogError::Database(error) => reader.bad(&error.to_string()),
        other => other,
    })?;
    Ok(())
}

struct Lines {
    path: std::path::PathBuf,
    rest: std::io::Lines<BufReader<File>>,
    line: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), rest: BufReader::new(File::open(path)?).lines(), line: 0 })
    }

    fn next(&mut self) -> Result<Option<Value>> {
        self.line += 1;
        let Some(text) = self.rest.next() else { return Ok(None) };
        serde_json::from_str(&text?).map(Some).map_err(|e| self.bad(&e.to_string()))
    }

    fn bad(&self, why: &str) -> CatalogError {
        CatalogError::BadExport { path: self.path.clone(), line: self.line, why: why.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_table_is_exported() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(kuramori_model::clock::SystemClock);
        let catalog = Catalog::open(dir.path().join("catalog.db"), clock).await.unwrap();
        let there: Vec<(String,)> = sql::query_as(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_sqlx%' ESCAPE '\\'",
        )
        .fetch_all(catalog.reader())
        .await
        .unwrap();
        let mut there: Vec<String> = there.into_iter().map(|(name,)| name).collect();
        let mut ours: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
        there.sort_unstable();
        ours.sort_unstable();
        assert_eq!(there, ours);
    }
}
