//! `kuramori-gated`: the only process that may open the guarded path, and closes it before anything else.
//!
//! Starts by sealing every layer, then listens on two unix sockets: one with the fixed verb list for vault
//! and console, one on which the observer says what it sees. It decides nothing by itself; see
//! `kuramori-gate` for the rules. SIGTERM and SIGINT close and end. SIGKILL, SIGSTOP, a panic or a power cut
//! need no handling: the kernel forgets the lease within 3 s, and the next start seals.
//!
//! **Invariant:** listens on unix sockets only; opens nothing without a signed token.

mod acceptance;
mod check;
mod config;
mod listen;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use kuramori_gate::{
    Actuator,
    driver::nft::Nft,
    keeper::{Input, Keeper},
};
use kuramori_model::{
    clock::{Clock, SystemClock},
    fault::chain,
    gate::{Layer, LayerState},
};
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
    /// Load the closed packet filter, read it back and end: for the boot, before any interface comes up.
    #[arg(long)]
    seal: bool,
    /// Try one layer on its device, killed, frozen, restarted, and keep the record; no gate may run meanwhile.
    #[arg(long, value_name = "LAYER", value_parser = layer)]
    acceptance: Option<Layer>,
    /// With `--acceptance`: restarts the device (run by `sh -c`).
    #[arg(long, value_name = "COMMAND", requires = "acceptance")]
    reboot_command: Option<String>,
    /// With `--acceptance`: how many seconds a dead-man may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(4..=900))]
    dead_man_within: u64,
    /// With `--acceptance`: how many seconds the device may take to do what it is told.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(3..=120))]
    settle_within: u64,
    /// Used by `--acceptance`: open one layer and renew it until killed.
    #[arg(long, hide = true, value_name = "LAYER", value_parser = layer)]
    hold: Option<Layer>,
}

fn layer(text: &str) -> Result<Layer, String> {
    match text {
        "A" => Ok(Layer::A),
        "B" => Ok(Layer::B),
        "C" => Ok(Layer::C),
        "D" => Ok(Layer::D),
        other => Err(format!("`{other}` is not a layer: A, B, C or D")),
    }
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
    if arguments.seal {
        return seal(&config);
    }
    let tried = match (arguments.acceptance, arguments.hold) {
        (Some(layer), _) => {
            let patience = Duration::from_secs(arguments.dead_man_within);
            let settle = Duration::from_secs(arguments.settle_within);
            let wanted = acceptance::Wanted { layer, reboot: arguments.reboot_command, patience, settle };
            Some(acceptance::accept(&config, &arguments.config, &wanted))
        }
        (None, Some(layer)) => Some(acceptance::hold(&config, layer)),
        (None, None) => None,
    };
    if let Some(tried) = tried {
        return tried.unwrap_or_else(|error| {
            tracing::error!("{error:#}");
            ExitCode::from(1)
        });
    }
    // A gate without one of its threads is worse than one that starts again and seals.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
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
    let layers = config.layers();
    let declared: Vec<_> = layers.iter().map(|layer| (layer.layer(), layer.deadman())).collect();
    let policy = config.policy(&declared)?;
    let (sender, input) = crossbeam_channel::bounded(256);
    let stop = sender.clone();
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            let _ = stop.send(Input::Stop);
        }
    });
    // From here on every layer is being closed, whatever the disk does.
    let mut keeper = Keeper::new(policy, Arc::new(SystemClock), layers, (sender.clone(), input));
    let _alone = match alone(&config.state_dir) {
        Ok(lock) => lock,
        Err(error) => {
            let _ = sender.send(Input::Stop);
            keeper.run();
            return Err(error);
        }
    };
    keeper.tested(acceptance::shown(config));
    keeper.remember(config.state_dir.join("gate.jsonl"));
    listen::control(&config.socket, &config.allowed_uids, sender.clone())?;
    listen::observer(&config.observer_socket, &config.observer_uids, sender)?;
    let proven = keeper.run();
    let _ = fs_err::remove_file(&config.socket);
    let _ = fs_err::remove_file(&config.observer_socket);
    Ok(proven)
}

/// Closes what is on this host, layers A and B: at boot there is no network yet by which another one could be
/// reached.
fn seal(config: &Config) -> ExitCode {
    let mut filter = Nft::new(config.packet_filter.clone(), config.ttl_seconds);
    if let Err(error) = filter.close() {
        tracing::error!(error = chain(&error), "sealing");
    }
    // A link that is not there yet has no way out; gated itself closes it when it starts.
    let links = config.layers().into_iter().filter(|layer| layer.layer() == Layer::B);
    for mut link in links {
        match link.close() {
            Ok(()) => tracing::info!(detail = link.observe().detail, "link"),
            Err(error) => tracing::warn!(error = chain(&error), "link"),
        }
    }
    let reading = filter.observe();
    if reading.state == LayerState::Closed {
        tracing::info!(detail = reading.detail, "sealed");
        ExitCode::SUCCESS
    } else {
        tracing::error!(detail = reading.detail, "NOT sealed");
        ExitCode::from(4)
    }
}

/// Holds the folder for this process: two gates with one log would each forget what the other took.
fn alone(folder: &std::path::Path) -> anyhow::Result<std::fs::File> {
    fs_err::create_dir_all(folder)?;
    let path = folder.join("gate.lock");
    let file =
        fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?.into_parts().0;
    // A helper that a killed gate was just starting may hold it for a moment.
    let end = SystemClock.boot() + Duration::from_secs(2);
    loop {
        let held = match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(held) => held,
        };
        if SystemClock.boot() >= end {
            return Err(held).with_context(|| {
                format!("another kuramori-gated holds `{}`; every layer was closed", path.display())
            });
        }
        SystemClock.sleep(Duration::from_millis(50));
    }
}
