//! `kuramori-lockd`: the only process that makes stored files immutable, and the only one that removes them.
//!
//! Starts by setting the flag of every file that its ledger names, so that what a kill interrupted is right
//! again; then listens on one unix socket for the verbs of [`kuramori_model::lock`]. If the file system or the
//! missing capability does not let it lock, it says so in each answer and locks nothing.
//!
//! **Invariant:** listens on a unix socket only; takes no path from a caller; removes nothing that its ledger
//! does not let go.

mod config;
mod desk;
mod listen;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use kuramori_model::clock::{SystemClock, SystemRandom};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use config::Config;
use desk::Desk;

/// Makes stored files immutable and alone removes them, once they have expired.
#[derive(Debug, Parser)]
#[command(name = "kuramori-lockd", version)]
struct Arguments {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/kuramori/lockd.toml")]
    config: PathBuf,
    /// Say whether this host can lock its store, and end; changes nothing.
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
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::read(&arguments.config)?;
    if arguments.check {
        return Ok(check(&config));
    }
    let desk = Desk::open(&config, Box::new(SystemClock), &SystemRandom)?;
    let status = desk.status();
    match &status.why {
        None => tracing::info!(files = status.files, "locks are enforced"),
        Some(why) => tracing::error!("NOTHING IS LOCKED: {why}"),
    }
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    listen::serve(&config.socket, &config.allowed_uids, desk)?;
    signals.forever().next();
    Ok(ExitCode::SUCCESS)
}

/// In plain words, whether files are really kept here.
#[expect(clippy::print_stdout, reason = "the answer to a command")]
fn check(config: &Config) -> ExitCode {
    use kuramori_model::fault::{Fault, chain};
    match kuramori_lock::Guard::new(&config.root, config.owner()).probe() {
        Ok(()) => {
            println!("ok  files below {} can be made immutable", config.root.display());
            println!("    root with CAP_LINUX_IMMUTABLE, or another boot medium, can still undo it");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("NO  {}", chain(&error));
            if let Some(hint) = error.hint() {
                println!("    hint: {hint}");
            }
            println!("the store is NOT locked");
            ExitCode::from(1)
        }
    }
}
