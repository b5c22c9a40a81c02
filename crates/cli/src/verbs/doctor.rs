//! `kuramori doctor`: what this machine has and what it lacks, one line and remedy each.

use kuramori_model::fault::Exit;
use serde::Serialize;

use crate::ui::Ui;

/// No arguments of its own.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    present: bool,
    ja: &'static str,
    en: &'static str,
}

pub(crate) fn run(_: &Args, ui: &Ui) -> Exit {
    let findings = look();
    for finding in &findings {
        let mark = if finding.present { "✓" } else { "✗" };
        let remedy = if finding.present { "" } else { ui.pick(finding.ja, finding.en) };
        ui.line(format!("{mark} {} {remedy}", finding.name));
        ui.data(finding);
    }
    if findings.iter().all(|finding| finding.present) { Exit::Done } else { Exit::Fix }
}

fn look() -> Vec<Finding> {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let has = |bit: u32| capabilities & (1 << bit) != 0;
    let program = |name: &str| {
        std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path)
                .chain(["/usr/sbin".into(), "/sbin".into()])
                .any(|dir| dir.join(name).is_file())
        })
    };
    vec![
        Finding {
            name: "CAP_NET_ADMIN",
            present: has(12),
            ja: "ゲートには root 権限(CAP_NET_ADMIN)が必要です。これがないホストでは保管庫はオフラインになりません",
            en: "the gate needs root (CAP_NET_ADMIN); without it the store on this host is NOT offline",
        },
        Finding {
            name: "nft",
            present: program("nft"),
            ja: "`apt-get install nftables` を実行してください。nft がないホストでは保管庫はオフラインになりません",
            en: "run `apt-get install nftables`; without nft the store on this host is NOT offline",
        },
        Finding {
            name: "ip",
            present: program("ip"),
            ja: "`apt-get install iproute2` を実行してください",
            en: "run `apt-get install iproute2`",
        },
        Finding {
            name: "restic",
            present: program("restic"),
            ja: "任意: 標準の restic があれば Kuramori なしでも復元できます(`apt-get install restic`)",
            en: "optional: with a stock restic a restore works without Kuramori (`apt-get install restic`)",
        },
    ]
}
