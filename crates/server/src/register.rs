//! Entries of the register as people write them: flags, TOML or a spreadsheet's CSV, with defaults.
//!
//! Only the id and, for systems that we read ourselves, the source have to be given. Everything is checked
//! before anything is written: an unknown column or key refuses the file and names the line.

use std::{collections::BTreeMap, path::Path};

use kuramori_catalog::{System, Writer};
use kuramori_judge::{expect::Expectations, retention::Retention, schedule::Schedule};
use kuramori_model::{
    class::{DataClass, Protection},
    ids::SystemId,
    units::Bytes,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ServerError, config::Span, error::Result};

/// One system as it is registered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Short name; also login and folder.
    pub id: SystemId,
    /// 部門システム名
    #[serde(default)]
    pub name_ja: String,
    /// Name in English.
    #[serde(default)]
    pub name_en: String,
    /// Who answers for it.
    #[serde(default)]
    pub owner: String,
    /// The vendor (事業者).
    #[serde(default)]
    pub vendor: String,
    /// Whom to call.
    #[serde(default)]
    pub contact: String,
    /// 最重要, 重要, 標準.
    #[serde(default = "standard")]
    pub protection: Protection,
    /// Kind of record.
    #[serde(default = "other")]
    pub data: DataClass,
    /// Recovery point objective.
    #[serde(default = "day")]
    pub rpo: Span,
    /// Recovery time objective.
    #[serde(default = "day")]
    pub rto: Span,
    /// Place in the restore order.
    #[serde(default = "last")]
    pub restore_order: u32,
    /// The departmental server; by default the one that the source names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Who writes the repository; without a source it is a stock restic client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<Writer>,
    /// How it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Value>,
    /// A cron line, or the whole plan.
    #[serde(default = "nightly")]
    pub schedule: Plan,
    /// What is kept.
    #[serde(default)]
    pub retention: Retention,
    /// What a healthy backup looks like.
    #[serde(default)]
    pub expect: Expectations,
    /// Whether it is protected.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Most that a restic client's repository may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Bytes>,
}

/// A schedule: a cron line with our defaults, or all of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Plan {
    /// Five fields: minute, hour, day of month, month, day of week.
    Cron(String),
    /// The whole plan.
    Whole(Schedule),
}

fn standard() -> Protection {
    Protection::Standard
}
fn other() -> DataClass {
    DataClass::Other
}
fn day() -> Span {
    Span(std::time::Duration::from_hours(24))
}
fn last() -> u32 {
    100
}
fn nightly() -> Plan {
    Plan::Cron("0 1 * * *".to_owned())
}
fn yes() -> bool {
    true
}

impl Entry {
    /// The entry as the catalog keeps it; `zone` is the hospital's.
    pub fn system(&self, zone: &str) -> Result<System> {
        let bad = |why: String| ServerError::Entry { place: self.id.to_string(), why };
        let writer =
            self.writer.unwrap_or(if self.source.is_some() { Writer::Kuramori } else { Writer::Restic });
        let source = match (&self.source, writer) {
            (Some(source), Writer::Kuramori) => {
                let parsed: kuramori_source::Config = serde_json::from_value(source.clone())
                    .map_err(|error| bad(format!("source: {error}")))?;
                parsed.check()?;
                serde_json::to_value(&parsed).map_err(|error| bad(error.to_string()))?
            }
            (None, Writer::Kuramori) => {
                return Err(bad("a system that we read ourselves needs a source".to_owned()));
            }
            (Some(_), Writer::Restic) => {
                return Err(bad("a restic client reads for itself; leave out the source".to_owned()));
            }
            (None, Writer::Restic) => Value::Null,
        };
        let server = match &self.server {
            Some(server) => server.clone(),
            None => server_of(&source).unwrap_or(self.id.as_str()).to_owned(),
        };
        let schedule = match &self.schedule {
            Plan::Whole(schedule) => schedule.clone(),
            Plan::Cron(cron) => Schedule { zone: zone.to_owned(), ..Schedule::nightly(cron) },
        };
        let name = |name: &str| if name.is_empty() { self.id.to_string() } else { name.to_owned() };
        Ok(System {
            id: self.id.clone(),
            name_ja: name(&self.name_ja),
            name_en: name(&self.name_en),
            owner: self.owner.clone(),
            vendor: self.vendor.clone(),
            contact: self.contact.clone(),
            protection: self.protection,
            data: self.data,
            rpo_s: self.rpo.0.as_secs(),
            rto_s: self.rto.0.as_secs(),
            restore_order: self.restore_order,
            server,
            writer,
            source,
            schedule,
            retention: self.retention.clone(),
            expect: self.expect.clone(),
            enabled: self.enabled,
        })
    }
}

/// The departmental server that a source names, also inside of one that stands around another.
fn server_of(source: &Value) -> Option<&str> {
    let named = |key: &str| source.get(key).and_then(Value::as_str);
    match named("server").or_else(|| named("agent")) {
        Some(server) => Some(server),
        None => source.get("source").and_then(server_of),
    }
}

/// Reads entries from a `.toml` file (`[[system]]`) or a `.csv` file (a header of keys; `source.kind` for
/// nested ones).
pub fn read(file: &Path) -> Result<Vec<Entry>> {
    let text = fs_err::read_to_string(file).map_err(ServerError::file("read the register"))?;
    let name = file.display().to_string();
    if file.extension().is_some_and(|ext| ext == "csv") {
        from_csv(&name, &text)
    } else {
        from_toml(&name, &text)
    }
}

/// Entries of a TOML text.
pub fn from_toml(name: &str, text: &str) -> Result<Vec<Entry>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        #[serde(default)]
        system: Vec<Entry>,
    }
    let file: File = toml::from_str(text).map_err(|error| {
        let line =
            error.span().map_or(0, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        ServerError::Entry { place: format!("{name}:{line}"), why: error.message().replace('\n', "; ") }
    })?;
    Ok(file.system)
}

/// Keys whose cells are numbers.
const NUMBERS: [&str; 4] = ["restore_order", "source.port", "expect.min_bytes", "expect.min_files"];

/// Entries of a CSV text, UTF-8 with or without the mark that spreadsheets write.
pub fn from_csv(name: &str, text: &str) -> Result<Vec<Entry>> {
    let text = text.trim_start_matches('\u{feff}');
    let mut rows = records(text).into_iter();
    let Some((_, header)) = rows.next() else { return Ok(Vec::new()) };
    rows.filter(|(_, cells)| cells.iter().any(|cell| !cell.trim().is_empty()))
        .map(|(line, cells)| {
            let bad = |why: String| ServerError::Entry { place: format!("{name}:{line}"), why };
            if cells.len() > header.len() {
                return Err(bad("more cells than the header has".to_owned()));
            }
            let mut object = serde_json::Map::new();
            for (key, cell) in header.iter().map(|key| key.trim()).zip(&cells) {
                let cell = cell.trim();
                if cell.is_empty() {
                    continue;
                }
                let value = match key {
                    _ if NUMBERS.contains(&key) => Value::from(
                        cell.parse::<u64>().map_err(|_| bad(format!("`{key}`: `{cell}` is not a number")))?,
                    ),
                    "enabled" => Value::from(matches!(cell, "true" | "yes" | "1" | "TRUE")),
                    _ => Value::from(cell),
                };
                put(&mut object, key, value);
            }
            serde_json::from_value(Value::Object(object)).map_err(|error| bad(error.to_string()))
        })
        .collect()
}

fn put(object: &mut serde_json::Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        Some((table, rest)) => {
            let below = object.entry(table).or_insert_with(|| Value::Object(serde_json::Map::new()));
            if let Value::Object(below) = below {
                put(below, rest, value);
            }
        }
        None => {
            object.insert(key.to_owned(), value);
        }
    }
}

/// Cuts CSV into records with the line on which each begins (RFC 4180: quotes, doubled quotes, line breaks
/// inside quotes).
fn records(text: &str) -> Vec<(usize, Vec<String>)> {
    let (mut all, mut record, mut cell) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut line, mut begun) = (false, 1, 1);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut cell)),
            '\r' if !quoted => (),
            '\n' => {
                line += 1;
                if quoted {
                    cell.push('\n');
                } else {
                    record.push(std::mem::take(&mut cell));
                    all.push((begun, std::mem::take(&mut record)));
                    begun = line;
                }
            }
            c => cell.push(c),
        }
    }
    if !cell.is_empty() || !record.is_empty() {
        record.push(cell);
        all.push((begun, record));
    }
    all
}

/// What a changed entry would change, key by key: shown before an edit.
pub fn difference(before: &System, after: &System) -> BTreeMap<String, (Value, Value)> {
    let object = |system: &System| match serde_json::to_value(system) {
        Ok(Value::Object(object)) => object,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (object(before), object(after));
    after
        .into_iter()
        .filter_map(|(key, new)| {
            let old = before.get(&key).cloned().unwrap_or(Value::Null);
            (old != new).then_some((key, (old, new)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spreadsheet_and_a_file_say_the_same() {
        let csv = "\u{feff}id,name_ja,protection,rpo,restore_order,source.kind,source.server,source.user,contact\r\n\
                   billing,医事会計,critical,12h,1,postgres,10.77.2.2,kuramori,\"Tel. \"\"100\"\",\n内線 2\"\r\n\r\n\
                   pacs,画像診断,important,24h,2,,,,\n";
        let toml = "[[system]]\nid = \"billing\"\nname_ja = \"医事会計\"\nprotection = \"critical\"\nrpo = \"12h\"\nrestore_order = 1\n\
                    contact = \"Tel. \\\"100\\\",\\n内線 2\"\nsource = { kind = \"postgres\", server = \"10.77.2.2\", user = \"kuramori\" }\n\
                    [[system]]\nid = \"pacs\"\nname_ja = \"画像診断\"\nprotection = \"important\"\nrestore_order = 2\n";
        let of =
            |entries: Vec<Entry>| entries.iter().map(|e| e.system("Asia/Tokyo").unwrap()).collect::<Vec<_>>();
        let (csv, toml) = (of(from_csv("a.csv", csv).unwrap()), of(from_toml("a.toml", toml).unwrap()));
        assert_eq!(csv, toml);
        assert_eq!(
            (csv[0].server.as_str(), csv[0].writer, csv[1].writer),
            ("10.77.2.2", Writer::Kuramori, Writer::Restic)
        );
    }

    #[test]
    fn a_wrong_entry_is_named_with_its_line() {
        let error = from_csv("a.csv", "id,rpo\nbilling,24\n").unwrap_err().to_string();
        assert!(error.starts_with("a.csv:2: ") && error.contains("`24`"), "{error}");
        let error = from_csv("a.csv", "id,colour\nbilling,red\n").unwrap_err().to_string();
        assert!(error.contains("unknown field `colour`"), "{error}");
        let error = from_toml("a.toml", "[[system]]\nid = \"billing\"\nprio = 1\n").unwrap_err().to_string();
        assert!(error.starts_with("a.toml:3: ") && error.contains("`prio`"), "{error}");
        let entry = &from_toml("a", "[[system]]\nid = \"a\"\nsource = { kind = \"smb\", server = \"x\" }\n")
            .unwrap()[0];
        assert!(entry.system("Asia/Tokyo").unwrap_err().to_string().starts_with("a: source:"));
    }
}
