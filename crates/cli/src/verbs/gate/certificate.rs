//! The certificate of an acceptance test (試験成績書): one page, Japanese with English beside it, for print.

use std::fmt::Write;

use kuramori_model::gate::acceptance::{Acceptance, Outcome, Trial};

use crate::ui::Language;

/// A trial's name for people.
pub(super) const fn trial(trial: Trial, language: Language) -> &'static str {
    let (ja, en) = match trial {
        Trial::Reads => ("装置の照合と状態の読み取り", "identity and state can be read"),
        Trial::Closes => ("閉鎖の指令で閉じる", "closes when ordered"),
        Trial::Opens => ("開放の指令で開く", "opens when ordered"),
        Trial::StatusIsNotAhead => ("実際より先に「閉」と表示しない", "never says closed before it is"),
        Trial::Killed => {
            ("制御プロセスの強制終了後、自ら閉じる", "closes by itself after its process is killed")
        }
        Trial::Frozen => ("制御プロセスの凍結後、自ら閉じる", "closes by itself after its process is frozen"),
        Trial::Rebooted => ("再起動後、閉じたまま立ち上がる", "comes up closed after a restart"),
    };
    match language {
        Language::Ja => ja,
        Language::En => en,
    }
}

const fn outcome(outcome: Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Passed => ("合格", "passed"),
        Outcome::Failed => ("不合格", "FAILED"),
        Outcome::Absent => ("機能なし", "absent"),
        Outcome::NotTried => ("未実施", "not tried"),
    }
}

/// One sentence.
pub(super) fn verdict(record: &Acceptance, language: Language) -> String {
    let ja = matches!(language, Language::Ja);
    if !record.passed() {
        let text = if ja {
            "不合格: この層を「閉」の根拠にしてはなりません。"
        } else {
            "failed: this layer must not be relied on."
        };
        return text.to_owned();
    }
    match (record.dead_man_s, ja) {
        (Some(seconds), true) => format!("合格。自動閉鎖: あり(最大 {seconds:.2} 秒)。"),
        (Some(seconds), false) => format!("passed; closes by itself within {seconds:.2} s."),
        (None, true) => {
            "合格。ただし自動閉鎖はありません。自動閉鎖を確認した別の層と組み合わせてください。".to_owned()
        }
        (None, false) => {
            "passed, but it does not close by itself: combine it with a layer that does.".to_owned()
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "@page{size:A4;margin:18mm}body{font-family:'Noto Sans CJK JP','Noto Sans JP',sans-serif;\
    font-size:10.5pt;color:#111;max-width:190mm;margin:auto}h1{font-size:18pt;margin:0 0 2mm}\
    table{border-collapse:collapse;width:100%;margin:4mm 0}th,td{border:1px solid #444;padding:1.5mm 2mm;\
    text-align:left;vertical-align:top}th{background:#eee}td.bound{font-size:8pt;word-break:break-all}\
    .en{color:#444;font-size:9pt}.failed{font-weight:bold;text-decoration:underline}tr{break-inside:avoid}\
    .sign td{height:14mm}";

/// The whole page.
pub(super) fn html(record: &Acceptance) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"ja\"><head><meta charset=\"utf-8\"><title>試験成績書 / Test certificate</title>\
         <style>{STYLE}</style></head><body>\n<h1>試験成績書 <span class=\"en\">Test certificate</span></h1>\n\
         <p>隔離保管庫のゲート装置の受入試験 <span class=\"en\">Acceptance test of a layer of the vault's gate</span></p>\n"
    );
    let witness = record.witness.as_deref().unwrap_or("―");
    let _ = write!(
        page,
        "<table>\n<tr><th>層<br><span class=\"en\">layer</span></th><td>{}</td></tr>\n\
         <tr><th>装置<br><span class=\"en\">device</span></th><td>{}</td></tr>\n\
         <tr><th>試験日時<br><span class=\"en\">date</span></th><td>{}</td></tr>\n\
         <tr><th>独立した確認手段<br><span class=\"en\">independent witness</span></th><td>{}</td></tr>\n\
         <tr><th>対象の設定<br><span class=\"en\">configuration</span></th><td class=\"bound\">{}</td></tr>\n</table>\n",
        record.layer,
        escape(&record.source),
        record.at,
        escape(witness),
        escape(&record.bound_to)
    );
    page.push_str(
        "<table>\n<tr><th>試験項目 <span class=\"en\">trial</span></th><th>結果 <span class=\"en\">result</span></th>\
         <th>秒 <span class=\"en\">s</span></th><th>所見 <span class=\"en\">seen</span></th></tr>\n",
    );
    for one in &record.findings {
        let (ja, en) = outcome(one.outcome);
        let class = if one.outcome == Outcome::Failed { " class=\"failed\"" } else { "" };
        let seconds = one.seconds.map_or_else(|| "―".to_owned(), |seconds| format!("{seconds:.2}"));
        let _ = writeln!(
            page,
            "<tr><td>{}<br><span class=\"en\">{}</span></td><td{class}>{ja}<br><span class=\"en\">{en}</span></td>\
             <td>{seconds}</td><td>{}</td></tr>",
            trial(one.trial, Language::Ja),
            trial(one.trial, Language::En),
            escape(&one.seen)
        );
    }
    let _ = write!(
        page,
        "</table>\n<p><b>{}</b><br><span class=\"en\">{}</span></p>\n",
        verdict(record, Language::Ja),
        verdict(record, Language::En)
    );
    page.push_str(
        "<h2>この試験で言えないこと <span class=\"en\">What this test does not show</span></h2>\n<ul>\n\
         <li>A・Bの層は論理的な遮断です。「オフライン」と言えるのはC(ポート)・D(電源)・E(搬出媒体)の層が閉じているときだけです。\
         <br><span class=\"en\">Layers A and B are logical. \"Offline\" needs C (port), D (power) or E (a carried medium).</span></li>\n\
         <li>保管庫やゲートの管理者権限の奪取、物理的な接触、装置自体の乗っ取りは、ほかの層によってのみ防がれます。\
         <br><span class=\"en\">Root on the vault or gate host, physical access or a taken-over device is bounded only by the other layers.</span></li>\n\
         <li>結果はこの装置・この設定・この版のソフトウェアに限ります。変更後は再試験が必要です。\
         <br><span class=\"en\">It holds for this device, configuration and firmware; test again after any change.</span></li>\n</ul>\n\
         <table class=\"sign\"><tr><th>実施者 <span class=\"en\">tested by</span></th><td></td><th>確認者 <span class=\"en\">checked by</span></th><td></td></tr></table>\n\
         </body></html>\n",
    );
    page
}

#[cfg(test)]
mod tests {
    use kuramori_model::gate::{Layer, acceptance::Finding};

    use super::*;

    #[test]
    fn the_page_says_what_was_found_and_lets_nothing_in() {
        let finding = |trial, outcome, seen: &str| Finding {
            trial,
            outcome,
            seconds: Some(2.5),
            seen: seen.to_owned(),
        };
        let mut record = Acceptance {
            layer: Layer::C,
            source: "<script>alert(1)</script>".to_owned(),
            bound_to: String::new(),
            at: "2026-11-22T00:00:00Z".parse().unwrap(),
            witness: None,
            findings: vec![
                finding(Trial::Reads, Outcome::Passed, "a"),
                finding(Trial::Closes, Outcome::Passed, "b"),
                finding(Trial::Opens, Outcome::Passed, "c"),
                finding(Trial::Killed, Outcome::Absent, "still open"),
            ],
            dead_man_s: None,
        };
        let page = html(&record);
        assert!(
            page.contains("機能なし") && page.contains("does not close by itself") && page.contains("@page")
        );
        assert!(!page.contains("<script"));
        record.dead_man_s = Some(2.98);
        assert!(verdict(&record, Language::Ja).contains("2.98"));
        record.findings.push(finding(Trial::Rebooted, Outcome::Failed, "up"));
        assert!(html(&record).contains("must not be relied on"));
    }
}
