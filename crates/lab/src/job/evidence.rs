//! A small evidence sheet of the run, in Japanese and English: what was seen, and nothing that was not.

use std::{fmt::Write as _, path::PathBuf};

use super::summary::Summary;
use crate::{Lab, Result};

/// Writes `evidence.ja.html` and `evidence.en.html` into the lab's root.
pub(super) fn write(lab: &Lab, summary: &Summary) -> Result<Vec<PathBuf>> {
    ["ja", "en"]
        .into_iter()
        .map(|language| {
            let path = lab.root().join(format!("evidence.{language}.html"));
            fs_err::write(&path, sheet(summary, language == "ja"))?;
            Ok(path)
        })
        .collect()
}

fn sheet(summary: &Summary, ja: bool) -> String {
    let pick = |japanese: &'static str, english: &'static str| if ja { japanese } else { english };
    let mut rows = String::new();
    let mut section = |title: &str, lines: Vec<[String; 2]>| {
        let _ = write!(rows, "<h2>{}</h2><table>", text(title));
        for [name, value] in lines {
            let _ = write!(rows, "<tr><th scope=row>{}</th><td>{}</td></tr>", text(&name), text(&value));
        }
        rows.push_str("</table>");
    };
    let yes = |holds: bool| if holds { pick("はい", "yes") } else { pick("いいえ", "NO") }.to_owned();
    section(
        pick("一次バックアップ", "Into the primary"),
        summary
            .systems
            .iter()
            .map(|s| {
                let whole =
                    if s.complete { pick("完全", "complete") } else { pick("不完全", "INCOMPLETE") };
                [s.name.clone(), format!("{} · {} bytes · {:.1} s · {whole}", s.way, s.bytes, s.seconds)]
            })
            .collect(),
    );
    section(
        pick("保管庫の開放", "Windows of the vault"),
        summary
            .windows
            .iter()
            .map(|w| {
                let figures = format!(
                    "{} {:.2} s · {} {:.2} s · {} {:.2} s · {} bytes · {}: {}",
                    pick("指令", "commanded"),
                    w.commanded_s,
                    pick("機器の読み戻し", "read back"),
                    w.actuator_s,
                    pick("探査", "probed"),
                    w.probe_s,
                    w.bytes,
                    pick("閉鎖を確認", "seen closed"),
                    yes(w.closed_verified)
                );
                [format!("{} {}", pick("開放", "window"), w.window), figures]
            })
            .collect(),
    );
    let killed = summary.closed_after_kill_s.map_or_else(|| "-".to_owned(), |s| format!("{s:.2} s"));
    section(
        pick("ゲート", "The gate"),
        vec![
            [
                pick("制御プロセスの強制終了から最後の通信まで", "last byte after its process was killed")
                    .to_owned(),
                killed,
            ],
            [
                pick("対照試験(ゲートなしで到達する)", "positive control (reached without the gate)")
                    .to_owned(),
                yes(summary.positive_control),
            ],
        ],
    );
    let attack = &summary.attack;
    section(
        pick("攻撃", "The attack"),
        vec![
            [
                pick("暗号化された部門のファイル", "department files encrypted").to_owned(),
                attack.files_encrypted.to_string(),
            ],
            [
                pick("破壊された一次バックアップのファイル", "files of the primary destroyed").to_owned(),
                attack.repository_files_destroyed.to_string(),
            ],
            [
                pick("保管庫への到達", "contacts with the vault").to_owned(),
                attack.vault_connections_accepted.to_string(),
            ],
        ],
    );
    if let Some(logins) = &summary.logins {
        section(
            pick("認証基盤の停止中のログイン", "Logins with the directory dead"),
            vec![
                [
                    pick("ドメインのログイン(前 / 後)", "the domain's (before / after)").to_owned(),
                    format!("{} / {}", yes(logins.domain_before), yes(logins.domain_after)),
                ],
                [pick("蔵守自身のログイン", "our own").to_owned(), logins.own.join(", ")],
            ],
        );
    }
    if let Some(siege) = &summary.siege {
        section(
            pick("開放中の攻撃(鍵を入手した侵入者)", "The attack on an open window (intruder with the keys)"),
            vec![
                [
                    pick("偽造されたファイル / 検証で隔離", "files forged / put aside by proof").to_owned(),
                    format!("{} / {}", siege.files_forged, siege.files_put_aside),
                ],
                [
                    pick("保管庫への到達", "contacts with the vault").to_owned(),
                    siege.vault_connections_accepted.to_string(),
                ],
                [
                    pick("保管庫の復元点はすべて無事", "the vault's restore points are all kept").to_owned(),
                    yes(siege.points_kept),
                ],
                [
                    pick("一次バックアップ破壊後の警報", "alarms after the primary was destroyed").to_owned(),
                    siege.alarms_after_destruction.to_string(),
                ],
            ],
        );
    }
    section(
        pick("復元", "Restored"),
        summary
            .restored
            .iter()
            .map(|r| {
                let figures = format!(
                    "{} · {}: {} · {}: {} · {:.1} s",
                    r.generation,
                    pick("内容一致", "identical"),
                    yes(r.identical),
                    pick("稼働", "running"),
                    yes(r.running),
                    r.rto_s
                );
                [r.name.clone(), figures]
            })
            .collect(),
    );
    if let Some(refused) = &summary.stock_restic {
        section(
            pick("標準の restic による全データ検査", "All data checked by stock restic"),
            vec![[
                pick("異常", "faults").to_owned(),
                if refused.is_empty() { pick("なし", "none").to_owned() } else { refused.join(" · ") },
            ]],
        );
    }
    if let Some(server) = &summary.server {
        section(
            pick("拠点サーバーの再構築", "The site server, rebuilt"),
            vec![[
                pick("台帳は攻撃前と同じ", "register as before the attack").to_owned(),
                format!("{} · {:.1} s", yes(server.identical), server.seconds),
            ]],
        );
    }
    let title = pick("実施記録(ラボ)", "Record of a run (lab)");
    let limits = pick(
        "この記録は 1 台の Linux 上の試験病院でのものです。適合を判定するものではありません。",
        "This is the record of a test hospital on one Linux machine. It judges no conformity.",
    );
    format!(
        "<!doctype html><html lang={}><meta charset=utf-8><title>{title}</title>\
         <style>body{{font:1rem/1.6 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
         table{{border-collapse:collapse;width:100%}}th,td{{text-align:left;border-bottom:1px solid #999;padding:.3rem .6rem;vertical-align:top}}\
         th{{width:18rem;font-weight:600}}</style><h1>{title}</h1>{rows}<p>{limits}</p></html>\n",
        if ja { "ja" } else { "en" }
    )
}

/// Text that stands for itself in HTML.
fn text(raw: &str) -> String {
    raw.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
