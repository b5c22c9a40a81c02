//! The page of evidence of one drill.

use jiff::{Timestamp, tz::TimeZone};
use kuramori_judge::retention::Verdict;
use kuramori_model::units::Bytes;
use kuramori_report::{Block, Document, Language, Tone, span};

use crate::{choose::Copy, drill::Record, profile::Service};

/// What the page says besides the record.
#[derive(Debug, Clone, Copy)]
pub struct Heading<'a> {
    /// The hospital's name.
    pub hospital: &'a str,
    /// The system's name in the reader's language.
    pub system: &'a str,
    /// The record's number in the history.
    pub number: u64,
    /// The hospital's zone.
    pub zone: &'a TimeZone,
}

/// A time in full with its zone.
pub(crate) fn exact(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// Whose copy, in words.
pub(crate) fn copy(language: Language, copy: Copy) -> &'static str {
    match copy {
        Copy::Primary => language.pick("一次バックアップ", "primary backup"),
        Copy::Vault => language.pick("隔離保管庫", "vault"),
    }
}

/// What inspection said, in words.
pub(crate) fn verdict(language: Language, verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Clean => language.pick("清浄確認済み", "known clean"),
        Verdict::Unknown => language.pick("検査なし(要確認)", "not inspected (to be confirmed)"),
        Verdict::Suspect => language.pick("汚染の疑い", "suspected contamination"),
        Verdict::Corrupt => language.pick("破損", "corrupt"),
    }
}

/// What was started, in words.
pub(crate) fn service(language: Language, service: &Service) -> String {
    match service {
        Service::Files => language.pick("ファイルの照合", "comparison of files").to_owned(),
        Service::Share => language.pick("ファイル共有(Samba)", "file share (Samba)").to_owned(),
        Service::Postgres { .. } => "PostgreSQL".to_owned(),
        Service::PostgresDump { file, .. } => {
            format!("PostgreSQL {} ({file})", language.pick("ダンプの読み込み", "dump loaded"))
        }
        Service::MariadbDump { file } => {
            format!("MariaDB {} ({file})", language.pick("ダンプの読み込み", "dump loaded"))
        }
        Service::Orthanc { .. } => "Orthanc (DICOM)".to_owned(),
    }
}

/// The page of evidence.
pub fn evidence(record: &Record, heading: Heading<'_>, language: Language) -> Document {
    let Heading { hospital, system, number, zone } = heading;
    let title = language.pick("復元訓練の記録", "Record of a restore drill");
    let mut page = Document::new(
        language,
        format!("{title}: {system}"),
        format!("{hospital}  {}  drill-{number}", exact(record.begun, zone)),
    );
    let (tone, sentence) = match (record.passed, record.rto_met) {
        (true, true) => (
            Tone::Good,
            page.pick("復元でき、目標時間内に稼働しました。", "It was restored and ran within its target."),
        ),
        (true, false) => (
            Tone::Attention,
            page.pick(
                "復元でき稼働しましたが、目標時間を超えました。",
                "It was restored and ran, but took longer than its target.",
            ),
        ),
        (false, _) => (
            Tone::Bad,
            page.pick(
                "この復元点からは稼働を確認できませんでした。",
                "It could not be shown to run from this restore point.",
            ),
        ),
    };
    page.notice(tone, sentence);
    if let Some(failure) = &record.failure {
        page.notice(Tone::Bad, format!("{} [{}]", failure.text, failure.code));
    }
    let point = &record.choice.point;
    let facts = vec![
        (page.pick("部門システム", "System").to_owned(), format!("{system} ({})", record.system)),
        (
            page.pick("復元点", "Restore point").to_owned(),
            format!("{} {} {}", point.sequence, exact(point.received, zone), point.snapshot),
        ),
        (
            page.pick("取得元と検査", "Copy and inspection").to_owned(),
            format!("{}, {}", copy(language, point.copy), verdict(language, record.choice.verdict)),
        ),
        (page.pick("起動したもの", "Started").to_owned(), service(language, &record.service)),
        (
            page.pick("容量", "Size").to_owned(),
            format!("{} ({} {})", Bytes(record.bytes), record.files, page.pick("ファイル", "files")),
        ),
        (
            page.pick("復旧時間 (実測 / 目標)", "Recovery time (measured / target)").to_owned(),
            format!(
                "{} / {}",
                span(language, record.times.rto_s),
                span(language, record.rto_target_s as f64)
            ),
        ),
        (
            page.pick("内訳", "Of which").to_owned(),
            format!(
                "{} {}, {} {}, {} {}",
                page.pick("復元と照合", "restore and comparison"),
                span(language, record.times.restore_s),
                page.pick("起動", "start"),
                span(language, record.times.start_s),
                page.pick("確認", "probes"),
                span(language, record.times.check_s)
            ),
        ),
        (page.pick("実施", "Held by").to_owned(), record.by.clone()),
        (
            page.pick("後片付け", "Cleaned up").to_owned(),
            page.pick(
                if record.cleaned {
                    "すべて削除"
                } else {
                    "残っているものがあります(要確認)"
                },
                if record.cleaned { "everything removed" } else { "something was left (to be confirmed)" },
            )
            .to_owned(),
        ),
    ];
    page.add(Block::Facts(facts));
    page.heading("確認した内容", "What was asked");
    let rows = record
        .probes
        .iter()
        .map(|probe| {
            vec![
                if probe.good { "✓" } else { "✕" }.to_owned(),
                probe.name.clone(),
                probe.asked.clone(),
                probe.answer.clone(),
                probe.expected.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let head = [
        page.pick("結果", "Result"),
        page.pick("確認", "Probe"),
        page.pick("対象", "Asked"),
        page.pick("答え", "Answer"),
        page.pick("あるべき答え", "Had to be"),
    ];
    page.table(&head, rows);
    page.heading("隔離", "Isolation");
    match &record.isolation {
        Some(isolation) => {
            page.paragraph(page.pick(
                "外へ出る経路のない専用のネットワーク名前空間で実施しました。",
                "Held in a network namespace of its own without a way out.",
            ));
            page.add(Block::Facts(vec![
                (page.pick("方式", "By").to_owned(), isolation.by.clone()),
                (page.pick("インターフェース", "Interfaces").to_owned(), isolation.interfaces.join(", ")),
                (
                    page.pick("外への経路", "Routes out").to_owned(),
                    if isolation.routes.is_empty() {
                        page.pick("なし", "none").to_owned()
                    } else {
                        isolation.routes.join(", ")
                    },
                ),
                (
                    page.pick("名前空間 (訓練 / 本体)", "Namespace (drill / machine)").to_owned(),
                    format!("{} / {}", isolation.namespace.0, isolation.namespace.1),
                ),
                (page.pick("資源の制限", "Limits").to_owned(), isolation.limits.join("; ")),
            ]));
        }
        None => {
            page.notice(
                Tone::Bad,
                page.pick(
                    "隔離した場所を作れなかったため、実施していません。",
                    "No isolated place could be made, so it was not held.",
                ),
            );
        }
    }
    page.add(Block::Boxes(
        ["作成", "確認", "承認"]
            .into_iter()
            .zip(["Made", "Checked", "Approved"])
            .map(|(ja, en)| language.pick(ja, en).to_owned())
            .collect(),
    ));
    page.footer = page
        .pick(
            "蔵守が記録した事実です。訓練の十分さの判断は病院が行います。",
            "Facts as Kuramori recorded them. Whether the drill suffices is for the hospital to judge.",
        )
        .into();
    page
}
