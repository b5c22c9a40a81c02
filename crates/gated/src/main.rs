//! `kuramori-gated`: the only process that may open the guarded path, and closes it before anything else.
//!
//! Starts by sealing every layer, then listens on two unix sockets: one with the fixed verb list for vault
//! and console, one on which the observer says what it sees. It decides nothing by itself; see
//! `kuramori-gate` for the rules. SIGTERM and SIGINT close and end. SIGKILL, SIGSTOP, a panic or a power cut
//! need no handling: the kernel forgets the lease within 3 s, and the next start seals.
//!
//! **Invariant:** listens on unix sockets only; opens nothing without a signed token.

mod check;
mod config;
mod listen;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Parser;
use kuramori_gate::{
    Actuator,
    keeper::{Input, Keeper},
    ledger::Memory,
    nft::Nft,
    switch::Switch,
};
use kuramori_model::clock::SystemClock;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use config::Config;

/// The gate between the primary and the vault.
#[derive(Debug, Parser)]
#[command(name = "kuramori-gated", version)]
struct Arguments {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/kuramori/gated.toml")]
    config: PathBuf,
    /// Say whether this host can hold the gate closed, and end; changes nothing.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("KURAMORI_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,async_snmp=warn")),
        )
        .init();
    let config = match Config::read(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("{error:#}");
            return ExitCode::from(1);
        }
    };
    if arguments.check {
        return check::check(&config);
    }
    match run(&config) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            tracing::error!("ended, but closed is NOT proven");
            ExitCode::from(4)
        }
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(1)
        }
    }
}

/// Serves until a signal; true if closed was proven at the end.
fn run(config: &Config) -> anyhow::Result<bool> {
    let mut layers: Vec<Box<dyn Actuator>> =
        vec![Box::new(Nft::new(config.packet_filter.clone(), config.ttl_seconds))];
    if let Some(switch) = &config.switch {
        layers.push(Box::new(Switch::new(switch.clone()).context("layer C")?));
    }
    let policy = config.policy(layers.iter().map(|layer| layer.layer()).collect())?;
    fs_err::create_dir_all(&config.state_dir)?;
    let log = config.state_dir.join("gate.jsonl");
    // A log that cannot be read must not keep the gate from sealing; but then nothing may be opened, because
    // used windows are not known.
    let (memory, readable) = match Memory::read(&log) {
        Ok(memory) => (memory, true),
        Err(error) => {
            tracing::error!(%error, "the gate's log cannot be read: sealing, and opening nothing");
            (Memory::default(), false)
        }
    };
    if memory.unreadable > 0 {
        tracing::warn!(lines = memory.unreadable, "the gate's log has lines that cannot be read");
    }
    let (sender, input) = crossbeam_channel::bounded(256);
    let stop = sender.clone();
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let _ = stop.send(Input::Stop);
        }
    });
    let mut policy = policy;
    if !readable {
        policy.flows.clear();
    }
    listen::control(&config.socket, &config.allowed_uids, sender.clone())?;
    listen::observer(&config.observer_socket, &config.observer_uids, sender.clone())?;
    let keeper = Keeper::new(policy, Arc::new(SystemClock), memory, log, layers, (sender, input));
    let proven = keeper.run();
    let _ = fs_err::remove_file(&config.socket);
    let _ = fs_err::remove_file(&config.observer_socket);
    Ok(proven)
}
