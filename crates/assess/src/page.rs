//! The page.

use std::fmt::Write;

use kuramori_report::{Block, Document, Language, Tone};

use crate::{
    judge::{Assessment, Gap, Step, Verdict},
    questions::QUESTIONS,
};

/// A point in Japanese and English, and how a system stands on it.
type Point = (&'static str, &'static str, fn(&Gap) -> Verdict);

/// Names that a sentence holds before it says how many more there are.
const NAMED: usize = 8;

fn names(language: Language, systems: &[impl AsRef<str>]) -> String {
    let shown: Vec<&str> = systems.iter().take(NAMED).map(AsRef::as_ref).collect();
    let mut text = shown.join(language.pick("、", ", "));
    if systems.len() > NAMED {
        let more = systems.len() - NAMED;
        let _ = match language {
            Language::Ja => write!(text, " ほか {more}"),
            Language::En => write!(text, " and {more} more"),
        };
    }
    text
}

fn word(language: Language, verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Recorded => language.pick("✓ 記録あり", "✓ recorded"),
        Verdict::ToBeConfirmed => language.pick("？ 要確認", "? to be confirmed"),
        Verdict::Missing => language.pick("✕ なし", "✕ missing"),
    }
}

/// What to do and how it begins.
fn step(language: Language, step: &Step) -> (String, &'static str) {
    let (ja, en, ja_how, en_how) = match step.key {
        "list-systems" => (
            "部門システムの一覧を作る",
            "List the departmental systems",
            "docs/adoption.ja.md 段階 0",
            "docs/adoption.ja.md, stage 0",
        ),
        "take-backups" => (
            "バックアップのないシステムの取得を始める",
            "Begin to back up what is not backed up",
            "docs/adoption.ja.md 段階 2: 一次バックアップへ集める",
            "docs/adoption.ja.md, stage 2: gather into the primary",
        ),
        "offline-copy" => (
            "ネットワークから切り離した写しを持つ",
            "Hold a copy that is cut off from the network",
            "docs/adoption.ja.md 段階 3: 隔離保管庫とゲート",
            "docs/adoption.ja.md, stage 3: vault and gate",
        ),
        "ask-vendors" => (
            "分からない項目を事業者に確認する",
            "Ask the vendors what is not known",
            "この表の「要確認」を埋めて、もう一度実行する",
            "fill in what is to be confirmed, and run this again",
        ),
        "more-generations" => (
            "世代数を目安まで増やす",
            "Keep more generations",
            "docs/adoption.ja.md 段階 2: 保存方針",
            "docs/adoption.ja.md, stage 2: retention",
        ),
        "try-restore" => (
            "一度も復元していないシステムの復元を試す",
            "Try a restore of what was never restored",
            "docs/adoption.ja.md 段階 4: 復元訓練",
            "docs/adoption.ja.md, stage 4: drills",
        ),
        "notice-absence" => (
            "取れなかったことに翌朝気づけるようにする",
            "Notice a missing backup by the morning",
            "docs/adoption.ja.md 段階 1: 既存のジョブを見る",
            "docs/adoption.ja.md, stage 1: see existing jobs",
        ),
        "keys-outside" => (
            "鍵とパスワードを院内ネットワークの外に預ける",
            "Keep keys and passwords outside of the network",
            "docs/adoption.ja.md 段階 3: 鍵の預託",
            "docs/adoption.ja.md, stage 3: key escrow",
        ),
        "decide-order" => (
            "復旧順序を決める",
            "Decide the restore order",
            "下の順序案を診療部門と確認する",
            "go through the order below with the departments",
        ),
        "print-runbook" => (
            "復旧手順書を印刷して保管する",
            "Print the runbook and keep it",
            "`kuramori runbook print`",
            "`kuramori runbook print`",
        ),
        "own-accounts" => (
            "バックアップ専用の認証情報を用意する",
            "Give the backup credentials of its own",
            "docs/adoption.ja.md 段階 2",
            "docs/adoption.ja.md, stage 2",
        ),
        "write-lock" => (
            "古い世代を書き込み禁止にする",
            "Lock older generations against writing",
            "docs/adoption.ja.md 段階 3",
            "docs/adoption.ja.md, stage 3",
        ),
        "inspect" => (
            "復元点の汚染を検査する",
            "Inspect restore points",
            "docs/adoption.ja.md 段階 4",
            "docs/adoption.ja.md, stage 4",
        ),
        "drill" => (
            "年 1 回以上の訓練を計画する",
            "Plan a yearly drill",
            "docs/adoption.ja.md 段階 4",
            "docs/adoption.ja.md, stage 4",
        ),
        "second-site" => (
            "別の拠点に写しを置く",
            "Keep a copy at another site",
            "docs/adoption.ja.md 段階 5",
            "docs/adoption.ja.md, stage 5",
        ),
        _ => (
            "訓練と見直しを続ける",
            "Go on drilling and reviewing",
            "`kuramori drill list`",
            "`kuramori drill list`",
        ),
    };
    let mut text = language.pick(ja, en).to_owned();
    if !step.systems.is_empty() {
        text.push_str(": ");
        text.push_str(&names(language, &step.systems));
    }
    (text, language.pick(ja_how, en_how))
}

/// The page in one language. `made` is when, for people.
pub fn document(found: &Assessment, language: Language, made: &str) -> Document {
    let title =
        language.pick("バックアップの現状と次の三歩", "Backups as they stand, and the next three steps");
    let mut page = Document::new(language, title, format!("{}  {made}", found.hospital));
    let count = |point: fn(&Gap) -> Verdict, verdict| found.with(point, verdict).len();
    let uncovered = found.with(|gap| gap.backup, Verdict::Missing);
    let unsure = count(|gap| gap.backup, Verdict::ToBeConfirmed);
    let total = found.systems;
    let offline = count(|gap| gap.offline, Verdict::Recorded);
    let sentence = match language {
        Language::Ja => format!(
            "{total} システムのうち、バックアップなし {}、要確認 {unsure}。切り離した写しがあるのは {offline}。",
            uncovered.len()
        ),
        Language::En => format!(
            "Of {total} systems {} have no backup, {unsure} are to be confirmed; {offline} have a copy that is cut off.",
            uncovered.len()
        ),
    };
    let tone = if uncovered.is_empty() && unsure == 0 && offline == total && total > 0 {
        Tone::Plain
    } else {
        Tone::Bad
    };
    page.notice(tone, sentence);
    page.heading("次の三歩", "The next three steps");
    let steps = found.steps.iter().map(|one| {
        let (text, how) = step(language, one);
        format!("{text} → {how}")
    });
    let items = steps.collect();
    page.add(Block::List { numbered: true, items });
    page.heading("足りないもの", "What is missing");
    let points: [Point; 6] = [
        ("バックアップ", "Backup", |gap| gap.backup),
        ("世代数(目安以上)", "Generations (at the floor or above)", |gap| gap.generations),
        ("オフライン保管", "Offline copy", |gap| gap.offline),
        ("書き込み禁止", "Write lock", |gap| gap.immutable),
        ("復元の確認", "A restore was tried", |gap| gap.restored),
        ("連絡先", "Contact", |gap| gap.contact),
    ];
    let rows = points
        .iter()
        .map(|(ja, en, point)| {
            vec![
                language.pick(ja, en).to_owned(),
                count(*point, Verdict::Recorded).to_string(),
                names(language, &found.with(point, Verdict::Missing)),
                names(language, &found.with(point, Verdict::ToBeConfirmed)),
            ]
        })
        .collect();
    let head = [
        page.pick("項目", "Point"),
        page.pick("記録あり", "Recorded"),
        page.pick("なし・不足", "Missing"),
        page.pick("要確認", "To be confirmed"),
    ];
    page.table(&head, rows);
    page.heading("復旧順序の案", "A restore order");
    let rows = found
        .gaps
        .iter()
        .enumerate()
        .map(|(at, gap)| {
            let (have, floor) = gap.count;
            let have = have.map_or_else(|| "?".to_owned(), |have| have.to_string());
            vec![
                (at + 1).to_string(),
                gap.system.clone(),
                word(language, gap.backup).to_owned(),
                format!("{have} / {floor}"),
                word(language, gap.offline).to_owned(),
                word(language, gap.restored).to_owned(),
            ]
        })
        .collect();
    let head = [
        page.pick("順", "No."),
        page.pick("部門システム", "System"),
        page.pick("バックアップ", "Backup"),
        page.pick("世代 / 目安", "Generations / floor"),
        page.pick("オフライン", "Offline"),
        page.pick("復元の確認", "Restore tried"),
    ];
    page.table(&head, rows);
    if !found.unknown_needs.is_empty() {
        let word = page.pick("一覧にない前提システム", "Needed, but not in the list");
        page.notice(Tone::Attention, format!("{word}: {}", names(language, &found.unknown_needs)));
    }
    page.heading("体制", "Organisation");
    let rows = found
        .answers
        .iter()
        .filter_map(|(key, verdict)| {
            let question = QUESTIONS.iter().find(|question| question.key == *key)?;
            Some(vec![
                language.pick(question.ja, question.en).to_owned(),
                word(language, *verdict).to_owned(),
            ])
        })
        .collect();
    let head = [page.pick("項目", "Point"), page.pick("回答", "Answer")];
    page.table(&head, rows);
    if !found.ignored.is_empty() {
        let word = page.pick("使わなかった列", "Columns that were not used");
        page.paragraph(format!("{word}: {}", names(language, &found.ignored)));
    }
    page.footer = page
        .pick(
            "提出された一覧と回答だけから作成。世代数の目安(電子カルテ 5、その他 3)は Q&A の例であり、制度への対応の判断は病院が行います。",
            "Made from the list and the answers alone. The floors (EHR 5, others 3) are an example of the Q&A; whether rules are met is for the hospital to judge.",
        )
        .into();
    page
}
