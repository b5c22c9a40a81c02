//! The list as it comes out of a spreadsheet.

use kuramori_model::class::{DataClass, Protection};
use serde::Serialize;

use crate::{AssessError, Result};

/// One system of the list; what is `None` is not known.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Row {
    /// Line in the file.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// Who answers for it.
    pub owner: Option<String>,
    /// The vendor.
    pub vendor: Option<String>,
    /// Whom to call.
    pub contact: Option<String>,
    /// 最重要, 重要, 標準.
    pub protection: Option<Protection>,
    /// Kind of record.
    pub data: Option<DataClass>,
    /// Whether a backup is taken at all.
    pub backup: Option<bool>,
    /// Generations that are kept.
    pub generations: Option<u32>,
    /// Whether a copy is cut off from the network.
    pub offline: Option<bool>,
    /// Whether a copy cannot be rewritten.
    pub immutable: Option<bool>,
    /// Whether a copy lies in another place.
    pub offsite: Option<bool>,
    /// When a restore was last tried; `Some("")` never.
    pub restored: Option<String>,
    /// Hours in which it has to be back.
    pub rto_h: Option<u32>,
    /// Hours of data that may be lost.
    pub rpo_h: Option<u32>,
    /// Place in the restore order.
    pub order: Option<u32>,
    /// Systems that it needs.
    pub needs: Vec<String>,
}

impl Row {
    /// Generations under which we warn.
    pub fn floor(&self) -> u32 {
        self.data.unwrap_or(DataClass::Other).floor()
    }
}

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Register {
    /// The systems in the order of the file.
    pub rows: Vec<Row>,
    /// Headings that were left out.
    pub ignored: Vec<String>,
    /// How the file was encoded.
    pub encoding: &'static str,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Name,
    Owner,
    Vendor,
    Contact,
    Protection,
    Data,
    Backup,
    Generations,
    Offline,
    Immutable,
    Offsite,
    Restored,
    Rto,
    Rpo,
    Order,
    Needs,
}

/// Headings as hospitals write them; compared without spaces, brackets and case.
const HEADINGS: &[(Column, &[&str])] = &[
    (
        Column::Name,
        &["システム名", "部門システム名", "部門システム", "システム", "名称", "name", "name_ja", "system"],
    ),
    (Column::Owner, &["担当", "担当者", "管理部署", "所管", "責任者", "owner"]),
    (Column::Vendor, &["事業者", "ベンダー", "ベンダ", "業者", "メーカー", "vendor"]),
    (Column::Contact, &["連絡先", "電話", "緊急連絡先", "contact"]),
    (Column::Protection, &["重要度", "保護区分", "protection", "class"]),
    (Column::Data, &["データ区分", "記録の種類", "区分", "data"]),
    (Column::Backup, &["バックアップ", "バックアップ有無", "バックアップの有無", "backup"]),
    (Column::Generations, &["世代", "世代数", "保存世代", "保存世代数", "generations"]),
    (Column::Offline, &["オフライン", "オフライン保管", "ネットワークから切り離し", "切り離し", "offline"]),
    (Column::Immutable, &["書き込み禁止", "追記不能", "書換不可", "書き換え不能", "immutable", "writelock"]),
    (Column::Offsite, &["遠隔保管", "別拠点", "院外保管", "offsite"]),
    (
        Column::Restored,
        &["復元確認日", "最終復元確認", "最終復元確認日", "復元テスト", "restored", "lastrestoretest"],
    ),
    (Column::Rto, &["rto", "復旧目標時間", "目標復旧時間", "rto時間"]),
    (Column::Rpo, &["rpo", "復旧目標時点", "目標復旧時点", "rpo時間"]),
    (Column::Order, &["復旧順序", "復旧順", "優先順位", "restore_order", "order"]),
    (Column::Needs, &["前提システム", "依存", "依存先", "先に必要なもの", "needs", "depends_on"]),
];

fn column(heading: &str) -> Option<Column> {
    let plain = |text: &str| -> String {
        let text = text.split(['(', '（', '[']).next().unwrap_or_default();
        text.chars().filter(|c| !c.is_whitespace() && *c != '・').flat_map(char::to_lowercase).collect()
    };
    let heading = plain(heading);
    HEADINGS
        .iter()
        .find(|(_, names)| names.iter().any(|name| plain(name) == heading))
        .map(|(column, _)| *column)
}

/// The text of a file that a spreadsheet wrote, and its encoding.
///
/// # Errors
/// [`AssessError::Encoding`].
pub fn decode(bytes: &[u8]) -> Result<(String, &'static str)> {
    let bare = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if let Ok(text) = std::str::from_utf8(bare) {
        return Ok((text.to_owned(), "UTF-8"));
    }
    // Windows' variant (code page 932), which is what spreadsheets mean.
    match encoding_rs::SHIFT_JIS.decode_without_bom_handling_and_without_replacement(bytes) {
        Some(text) => Ok((text.into_owned(), "Shift_JIS")),
        None => Err(AssessError::Encoding),
    }
}

/// Reads the list.
///
/// # Errors
/// It cannot be decoded, names no systems, or a cell cannot be read.
pub fn parse(bytes: &[u8]) -> Result<Register> {
    let (text, encoding) = decode(bytes)?;
    let separator = if text.lines().next().is_some_and(|line| line.contains('\t')) { '\t' } else { ',' };
    let mut records = records(&text, separator).into_iter();
    let head = records.next().map(|(_, cells)| cells).unwrap_or_default();
    let columns: Vec<Option<Column>> = head.iter().map(|heading| column(heading)).collect();
    if !columns.contains(&Some(Column::Name)) {
        return Err(AssessError::NoNames(head.join(", ")));
    }
    let known = |heading: &&String| column(heading).is_none() && !heading.trim().is_empty();
    let ignored = head.iter().filter(known).map(|heading| heading.trim().to_owned()).collect();
    let mut rows = Vec::new();
    for (line, cells) in records {
        let mut row = Row { line, ..Row::default() };
        for ((cell, column), heading) in cells.iter().zip(&columns).zip(&head) {
            let cell = cell.trim();
            if let Some(column) = column
                && !cell.is_empty()
            {
                let bad = |why| AssessError::Cell {
                    line,
                    heading: heading.trim().to_owned(),
                    cell: cell.to_owned(),
                    why,
                };
                fill(&mut row, *column, cell).map_err(bad)?;
            }
        }
        if !row.name.is_empty() {
            rows.push(row);
        }
    }
    Ok(Register { rows, ignored, encoding })
}

fn fill(row: &mut Row, column: Column, cell: &str) -> std::result::Result<(), &'static str> {
    let text = || Some(cell.to_owned());
    match column {
        Column::Name => cell.clone_into(&mut row.name),
        Column::Owner => row.owner = text(),
        Column::Vendor => row.vendor = text(),
        Column::Contact => row.contact = text(),
        Column::Protection => row.protection = protection(cell)?,
        Column::Data => row.data = Some(data(cell)),
        Column::Backup => row.backup = Some(!no(cell)),
        Column::Generations => row.generations = Some(number(cell)?),
        Column::Offline => row.offline = truth(cell)?,
        Column::Immutable => row.immutable = truth(cell)?,
        Column::Offsite => row.offsite = truth(cell)?,
        Column::Restored => row.restored = Some(if no(cell) { String::new() } else { cell.to_owned() }),
        Column::Rto => row.rto_h = Some(hours(cell)?),
        Column::Rpo => row.rpo_h = Some(hours(cell)?),
        Column::Order => row.order = Some(number(cell)?),
        Column::Needs => {
            row.needs = cell
                .split(['、', ',', ';', '/', '・', '\n'])
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty() && !no(name))
                .collect();
        }
    }
    Ok(())
}

/// Digits as they are typed with a Japanese keyboard.
fn half(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '０'..='９' => char::from_u32(u32::from(c) - u32::from('０') + u32::from('0')).unwrap_or(c),
            '．' => '.',
            c => c,
        })
        .collect()
}

fn number(cell: &str) -> std::result::Result<u32, &'static str> {
    let digits: String = half(cell).chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| "is not a number")
}

/// `4`, `4時間`, `4h`, `2日`, `30分`.
fn hours(cell: &str) -> std::result::Result<u32, &'static str> {
    let cell = half(cell);
    let value = number(&cell)?;
    let unit = cell.trim_start_matches(|c: char| c.is_ascii_digit()).trim();
    match unit {
        "" | "h" | "H" | "時間" | "hours" | "時間以内" => Ok(value),
        "d" | "日" | "days" | "日以内" => Ok(value.saturating_mul(24)),
        "m" | "min" | "分" | "分以内" => Ok(value.div_ceil(60)),
        _ => Err("is not a length of time; write `4h`, `30分` or `2日`"),
    }
}

fn no(cell: &str) -> bool {
    matches!(
        cell.to_lowercase().as_str(),
        "無" | "なし"
            | "無し"
            | "×"
            | "✕"
            | "x"
            | "no"
            | "none"
            | "false"
            | "0"
            | "-"
            | "未"
            | "未実施"
            | "していない"
    )
}

fn truth(cell: &str) -> std::result::Result<Option<bool>, &'static str> {
    match cell.to_lowercase().as_str() {
        "?" | "？" | "不明" | "unknown" | "未確認" => Ok(None),
        "有" | "あり" | "有り" | "○" | "◯" | "〇" | "✓" | "yes" | "y" | "true" | "1" | "済" | "している" => {
            Ok(Some(true))
        }
        _ if no(cell) => Ok(Some(false)),
        _ => Err("is neither 有 nor 無 nor 不明"),
    }
}

fn protection(cell: &str) -> std::result::Result<Option<Protection>, &'static str> {
    match cell.to_lowercase().as_str() {
        "最重要" | "critical" | "a" | "高" => Ok(Some(Protection::Critical)),
        "重要" | "important" | "b" | "中" => Ok(Some(Protection::Important)),
        "標準" | "standard" | "c" | "低" | "通常" => Ok(Some(Protection::Standard)),
        "不明" | "unknown" | "?" => Ok(None),
        _ => Err("is not 最重要, 重要 or 標準"),
    }
}

fn data(cell: &str) -> DataClass {
    let cell = cell.to_lowercase();
    if cell.contains("電子カルテ") || cell.contains("診療録") || cell.contains("ehr") {
        DataClass::Ehr
    } else {
        DataClass::Other
    }
}

/// Cuts into records with the line on which each begins (RFC 4180).
fn records(text: &str, separator: char) -> Vec<(usize, Vec<String>)> {
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
            c if c == separator && !quoted => record.push(std::mem::take(&mut cell)),
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
