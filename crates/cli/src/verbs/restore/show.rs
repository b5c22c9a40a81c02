//! What a person sees of a restore: the plan before, and what was done after.

use kuramori_drill::{
    choose::{Against, Choice, Copy, StepBack, Why},
    plan::Plan,
    restore::Done,
    target::Standing,
};
use kuramori_judge::retention::Verdict;
use kuramori_model::{fault::Exit, units::Bytes};
use kuramori_report::{Language, span};
use serde_json::json;

use crate::ui::Ui;

/// What was done, and how it counts.
pub(super) fn report(done: &Done, ui: &Ui) -> Exit {
    ui.data(&json!({ "message_type": "summary", "done": done }));
    for item in &done.shortfalls {
        let word = ui.pick("復元できませんでした", "could not be restored");
        ui.note(format!("{word}: {}: {}", item.path, item.why));
    }
    ui.line(format!(
        "{}: {} {}, {}, {} → {}",
        ui.pick("復元しました", "restored"),
        done.files,
        ui.pick("ファイル", "files"),
        Bytes(done.bytes),
        span(ui.report_language(), done.seconds),
        done.target.display()
    ));
    if let Some(proven) = &done.proven {
        let word =
            ui.pick("データベースを起動して復旧を確認しました", "the database was started and has recovered");
        ui.line(format!("{word}: {}", proven.stopped));
        if let Some(last) = &proven.last_transaction {
            ui.line(format!("{}: {last}", ui.pick("最後のトランザクション", "last transaction")));
        }
    }
    if done.resumed {
        let word = ui.pick("前回の続きから再開しました", "went on from an earlier attempt");
        ui.line(format!("{word}: {}", Bytes(done.found_there)));
    }
    if let Some(kept) = &done.kept {
        let word = ui.pick(
            "元のデータは調査のために残してあります",
            "what stood there is kept for whoever investigates",
        );
        ui.line(format!("{word}: {}", kept.display()));
    }
    if let Some(verified) = &done.verified {
        let word = ui.pick("読み戻して復元点と照合したファイル", "files read back and compared");
        ui.line(format!("{word}: {} ({})", verified.files, Bytes(verified.bytes)));
    }
    let damaged = done.shortfalls.iter().any(|item| item.damaged);
    let differs = done.verified.as_ref().is_some_and(|verified| !verified.identical());
    match (damaged || differs, done.shortfalls.is_empty()) {
        (true, _) => Exit::Damaged,
        (false, false) => Exit::Partial,
        (false, true) => Exit::Done,
    }
}

/// The plan, line by line.
pub(super) fn show(plan: &Plan, ui: &Ui) {
    let language = ui.report_language();
    let Choice { point, verdict, why, passed_over, step_back, reason } = &plan.choice;
    let moment = plan.moment.as_ref();
    let place = |copy: Copy| match copy {
        Copy::Primary => ui.pick("一次バックアップ", "primary"),
        Copy::Vault => ui.pick("隔離保管庫", "vault"),
    };
    let row = |ja: &str, en: &str, value: String| ui.line(format!("{}: {value}", ui.pick(ja, en)));
    row("部門システム", "system", plan.system.clone());
    row(
        "復元点",
        "restore point",
        format!("{} {} ({})", point.sequence, point.received, point.snapshot.get(..8).unwrap_or_default()),
    );
    row("取得元", "copy", format!("{} {}", place(point.copy), plan.from.display()));
    let state = match verdict {
        Verdict::Clean => ui.pick("清浄確認済み", "known clean"),
        Verdict::Unknown => ui.pick("検査なし(要確認)", "not inspected (to be confirmed)"),
        Verdict::Suspect => ui.pick("汚染の疑い", "suspected contamination"),
        Verdict::Corrupt => ui.pick("破損", "corrupt"),
    };
    row("状態", "state", state.to_owned());
    let reasons: Vec<&str> = why.iter().map(|why| self::why(*why, ui)).collect();
    row("選んだ理由", "why this one", reasons.join(ui.pick("、", ", ")));
    if let Some(back) = step_back {
        stepped_back(back, ui);
    }
    if let Some(reason) = reason {
        row("使用の理由", "reason given", reason.clone());
    }
    for over in passed_over {
        row(
            "選ばなかった新しい復元点",
            "newer, not taken",
            format!(
                "{} {} {}: {}",
                place(over.copy),
                over.sequence,
                over.received,
                against(over.against, ui)
            ),
        );
    }
    let drilled = point.drilled.map_or_else(
        || ui.pick("この復元点の訓練記録なし", "this point was never drilled").to_owned(),
        |at| at.to_string(),
    );
    row("復元訓練", "drilled", drilled);
    if let Some(part) = &plan.part {
        row("対象", "part", part.clone());
    }
    row("容量", "size", format!("{} ({} {})", Bytes(plan.bytes), plan.files, ui.pick("ファイル", "files")));
    let target = &plan.target;
    let original = if target.original { ui.pick(" (元の場所)", " (original place)") } else { "" };
    row("復元先", "target", format!("{}{original}", target.path.display()));
    match &target.standing {
        Standing::Absent | Standing::Empty => {
            row("置き換えるもの", "put aside", ui.pick("なし", "nothing").to_owned());
        }
        Standing::Occupied { files, bytes, more, kept } => {
            let more = if *more { "+" } else { "" };
            row(
                "元のデータ(削除せず別名で残す)",
                "put aside, not deleted",
                format!(
                    "{files}{more} {}, {} → {}",
                    ui.pick("ファイル", "files"),
                    Bytes(*bytes),
                    kept.display()
                ),
            );
        }
    }
    if target.resumes {
        row("再開", "goes on from", target.staging.display().to_string());
    }
    let rto = span(language, plan.rto_s as f64);
    let expected = match &plan.expected {
        None => ui.pick("未測定", "never measured").to_owned(),
        Some(expected) => format!(
            "{} ({}/s, {} {}{})",
            span(language, expected.seconds),
            // A rate is positive and far below 2^63.
            Bytes(format!("{:.0}", expected.rate).parse().unwrap_or(0)),
            ui.pick("測定", "measurements:"),
            expected.measurements,
            if expected.own { "" } else { ui.pick("、他のシステムの値", ", of other systems") },
        ),
    };
    if let Some(second) = &plan.second {
        row("復旧する時刻", "to the time", second.to.to_string());
        row("到達できる範囲", "within reach", format!("{} – {}", second.earliest, second.latest));
        let log = second.log_of.map_or_else(String::new, |point| format!(" ({point})"));
        let (first, last) = (second.files.first(), second.files.last());
        let name = |file: Option<&String>| file.cloned().unwrap_or_default();
        row("バイナリログ", "binary log", format!("{} – {}{log}", name(first), name(last)));
    }
    if let Some(moment) = moment {
        row("復旧する時刻", "to the time", moment.to.to_string());
        row("到達できる範囲", "within reach", format!("{} – {}", moment.earliest, moment.latest));
        let log = moment.log_of.map_or_else(String::new, |point| format!(" ({point})"));
        row("WAL", "log", format!("{} – {}{log}", moment.first_segment, moment.last_segment));
    }
    row("所要時間の見込み / 目標", "expected time / target", format!("{expected} / {rto}"));
}

/// Why newer points are left aside, and what that costs, in plain words.
fn stepped_back(back: &StepBack, ui: &Ui) {
    let (first, at, bad, later) = (back.first_bad, back.first_bad_received, back.bad, back.found_later);
    let (text, more) = match ui.report_language() {
        Language::Ja => (
            format!(
                "{first}({at})から汚染または破損しているため、その前の復元点まで戻ります(使えない新しい復元点 {bad} 件)"
            ),
            format!("。うち {later} 件は取得した時点の検査では清浄とされ、後の検査で汚染と分かりました"),
        ),
        Language::En => (
            format!(
                "from {first} ({at}) on the data is poisoned or damaged, so this is the last one before it ({bad} \
                 newer ones are bad)"
            ),
            format!(
                "; {later} of them were found clean when they came, and a later inspection found otherwise"
            ),
        ),
    };
    let more = if later > 0 { more.as_str() } else { "" };
    ui.line(format!("{}: {text}{more}", ui.pick("ここまで戻る理由", "why so far back")));
    let hours = back.lost_s as f64 / 3600.0;
    let newest = back.newest_received;
    let lost = match ui.report_language() {
        Language::Ja => format!("{hours:.1} 時間分の入力(この復元点から最新の復元点 {newest} まで)"),
        Language::En => {
            format!("{hours:.1} hours of work (from this point to the newest one, {newest})")
        }
    };
    ui.line(format!("{}: {lost}", ui.pick("失われるもの", "what is lost by it")));
}

fn why(why: Why, ui: &Ui) -> &'static str {
    let (ja, en) = match why {
        Why::AskedFor => ("指定された復元点", "it was asked for"),
        Why::NewestClean => ("清浄と確認された最新の復元点", "the newest that is known clean"),
        Why::NewestNotInspected => {
            ("完全な最新の復元点(清浄と確認されたものはない)", "the newest whole one (none is known clean)")
        }
        Why::BeforeTime => ("指定時刻より前", "received before the given time"),
        Why::PrimaryIsNearest => ("一次バックアップが最も近い", "the primary is the nearest copy"),
        Why::OnlyVault => ("隔離保管庫の写しを使う", "the vault's copy is used"),
        Why::ForTime => {
            ("指定時刻に復旧できる最新のベースバックアップ", "the newest base backup that reaches the time")
        }
        Why::ForAReason => ("理由を記録して使用", "used for the reason given"),
    };
    pick(ui, ja, en)
}

fn against(against: Against, ui: &Ui) -> &'static str {
    let (ja, en) = match against {
        Against::Incomplete => ("不完全", "incomplete"),
        Against::Suspect => ("汚染の疑い", "suspected contamination"),
        Against::Corrupt => ("破損", "corrupt"),
        Against::NotInspected => ("検査なし", "not inspected"),
        Against::TooLate => ("指定時刻より後", "received after the given time"),
        Against::FoundLater => (
            "取得時は清浄とされたが、後の検査で汚染と判明",
            "found clean when it came, found poisoned by a later inspection",
        ),
        Against::BehindBad => {
            ("汚染された復元点より後で、検査なし", "not inspected, and behind one that is bad")
        }
        Against::Gone => ("リポジトリから失われている", "its repository does not have it any more"),
    };
    pick(ui, ja, en)
}

const fn pick(ui: &Ui, ja: &'static str, en: &'static str) -> &'static str {
    match ui.language {
        crate::ui::Language::Ja => ja,
        crate::ui::Language::En => en,
    }
}
