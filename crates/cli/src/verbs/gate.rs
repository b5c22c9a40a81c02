//! `kuramori gate`: looking at the gate and closing it, through its socket; trying a layer on its device.
//! Opening is the vault's alone.

mod certificate;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use clap::Subcommand;
use kuramori_model::{
    fault::Exit,
    gate::{
        GateStatus, Reply, Request,
        acceptance::{Acceptance, Outcome as Ended},
    },
};
use kuramori_vault::gate::Gate;

use crate::{Outcome, failure::CliError, ui::Ui};

/// Which gate, and what to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The gate's socket
    #[arg(long, global = true, value_name = "FILE", default_value = "/run/kuramori/gated.sock")]
    socket: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the state, what the layers say, and what may be said about "offline"
    Status,
    /// Close; needs nothing and always works
    Close {
        /// Why, for the record
        #[arg(long, value_name = "TEXT", default_value = "by hand")]
        reason: String,
    },
    /// Close and stay closed until officers release it
    Lockdown {
        /// Why, for the record
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Show the newest windows with their exposures
    History {
        /// How many
        #[arg(long, value_name = "NUMBER", default_value_t = 20)]
        limit: u32,
    },
    /// Try one layer on its own device: killed, frozen, restarted; keeps the record and prints a certificate
    Test(Test),
}

/// What to try.
#[derive(Debug, clap::Args)]
struct Test {
    /// The layer: A packet filter, B link, C switch port, D power
    #[arg(long, value_name = "LAYER")]
    layer: String,
    /// The gate's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/kuramori/gated.toml")]
    config: PathBuf,
    /// A command that restarts the device; without it that trial is not made
    #[arg(long, value_name = "COMMAND")]
    reboot_command: Option<String>,
    /// How many seconds a dead-man may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    dead_man_within: u64,
    /// Write the certificate (HTML, Japanese and English) and its JSON into this folder
    #[arg(long, value_name = "FOLDER")]
    certificate: Option<PathBuf>,
    /// The gate's program, if it does not lie beside this one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Do it: the layer is opened several times meanwhile, and the gate must not run
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(args: Args, ui: &Ui) -> Outcome {
    let gate = Gate::new(&args.socket);
    let verb = match args.verb {
        Verb::Test(test) => return try_layer(&test, ui),
        verb => verb,
    };
    let reply = gate.ask(&match verb {
        Verb::Test(_) => return Ok(Exit::Done),
        Verb::Status => Request::Status {},
        Verb::Close { reason } => Request::Close { reason },
        Verb::Lockdown { reason } => Request::Lockdown { reason },
        Verb::History { limit } => Request::History { limit },
    })?;
    ui.data(&reply);
    match &reply {
        Reply::Status(status) => show(status, ui),
        Reply::History { windows } => {
            for one in windows {
                ui.line(format!(
                    "{:>6} {} {:8} {} {:.1} s, {} {:.1} s, {} {}  {}",
                    one.window.0,
                    one.opened,
                    format!("{:?}", one.purpose).to_lowercase(),
                    ui.pick("指令", "commanded"),
                    one.exposure.commanded_s,
                    ui.pick("装置", "actuators"),
                    one.exposure.actuator_s,
                    ui.pick("探査", "probes"),
                    one.exposure.probe_s.map_or_else(|| "?".to_owned(), |seconds| format!("{seconds:.1} s")),
                    if one.closed_verified {
                        ui.pick("閉鎖確認済み", "seen closed")
                    } else {
                        ui.pick("閉鎖未確認", "NOT seen closed")
                    },
                ));
            }
        }
        Reply::Refused { .. } => {}
    }
    Ok(Exit::Done)
}

fn show(status: &GateStatus, ui: &Ui) {
    ui.line(format!("{}: {}", ui.pick("状態", "state"), status.gate.name()));
    ui.line(&status.claim.sentence);
    for layer in &status.layers {
        ui.line(format!("  {} {}: {} ({})", layer.layer, layer.source, layer.detail, layer.at));
    }
    ui.line(format!(
        "{}: {:.0} / {} s",
        ui.pick("過去24時間の開放", "open within 24 h"),
        status.used_today_s,
        status.daily_budget_s
    ));
    for alarm in &status.alarms {
        ui.line(format!("! {alarm}"));
    }
}

/// Runs the gate's own program, which alone holds the device's secrets.
fn try_layer(test: &Test, ui: &Ui) -> Outcome {
    if !test.yes {
        let plan = ui.pick(
            "試験の内容: 対象の層を数回開き、開いている間に制御プロセスを強制終了・凍結し、自ら閉じるかを確かめます。ほかの層は閉じたままです。kuramori-gated を止め、本番側のケーブルを抜いてから --yes を付けて実行してください。",
            "the layer is opened several times; while it is open its process is killed and frozen, to see whether it closes by itself. All other layers stay closed. Stop kuramori-gated, unplug the production side, and run this again with --yes.",
        );
        return Err(CliError::Argument(plan.to_owned()).into());
    }
    let beside = || {
        let own = std::env::current_exe().ok()?;
        Some(own.with_file_name("kuramori-gated")).filter(|path| path.exists())
    };
    let program = test.program.clone().or_else(beside).unwrap_or_else(|| PathBuf::from("kuramori-gated"));
    let mut command = Command::new(&program);
    command.arg("--config").arg(&test.config).args(["--acceptance", &test.layer]);
    command.args(["--dead-man-within", &test.dead_man_within.to_string()]);
    if let Some(reboot) = &test.reboot_command {
        command.args(["--reboot-command", reboot]);
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(CliError::File)?;
    let record: Acceptance = serde_json::from_slice(&output.stdout).map_err(|_| {
        CliError::Argument(format!("`{}` made no record ({})", program.display(), output.status))
    })?;
    ui.data(&record);
    ui.line(format!("{} {}", record.layer, record.source));
    for one in &record.findings {
        let seconds = one.seconds.map_or_else(String::new, |seconds| format!(" {seconds:.2} s"));
        ui.line(format!(
            "  {} {}{seconds}: {}",
            mark(one.outcome),
            certificate::trial(one.trial, ui.language),
            one.seen
        ));
    }
    ui.line(certificate::verdict(&record, ui.language));
    if let Some(folder) = &test.certificate {
        write_certificate(folder, &record).map_err(CliError::File)?;
    }
    Ok(if record.passed() { Exit::Done } else { Exit::Damaged })
}

fn write_certificate(folder: &Path, record: &Acceptance) -> std::io::Result<()> {
    fs_err::create_dir_all(folder)?;
    let stem = format!("gate-test-{}", record.layer);
    fs_err::write(folder.join(format!("{stem}.html")), certificate::html(record))?;
    fs_err::write(folder.join(format!("{stem}.json")), serde_json::to_vec_pretty(record)?)
}

const fn mark(outcome: Ended) -> &'static str {
    match outcome {
        Ended::Passed => "ok",
        Ended::Failed => "NO",
        Ended::Absent => "--",
        Ended::NotTried => "..",
    }
}
