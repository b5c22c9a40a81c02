//! `kuramori gate`: looking at the gate and closing it, through its socket. Opening is the vault's alone.

use std::path::PathBuf;

use clap::Subcommand;
use kuramori_model::{
    fault::Exit,
    gate::{GateStatus, Reply, Request},
};
use kuramori_vault::gate::Gate;

use crate::{Outcome, ui::Ui};

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
}

pub(crate) fn run(args: Args, ui: &Ui) -> Outcome {
    let gate = Gate::new(&args.socket);
    let reply = gate.ask(&match args.verb {
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
