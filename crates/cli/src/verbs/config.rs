//! `kuramori config`: what the server's configuration says, and where each value comes from.

use clap::Subcommand;
use kuramori_model::fault::Exit;
use serde_json::json;

use super::server::{File, load};
use crate::{Outcome, ui::Ui};

/// The server's configuration.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    file: File,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say whether the server would start with it; names file, line and key of a mistake
    Check,
    /// Show every value that is in force
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct Show {
    /// Say where each value comes from: a file, the environment, a flag, or the default
    #[arg(long)]
    origin: bool,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    let config = load(&args.file)?;
    let all = config.in_force();
    match &args.verb {
        Verb::Check => {
            kuramori_server::config::catalog(&config)?;
            ui.data(&json!({ "valid": true, "given": config.origins.len() }));
            ui.line(ui.pick("設定に誤りはありません。", "The configuration is valid."));
        }
        Verb::Show(show) => {
            if show.origin {
                ui.data(&json!({ "values": all }));
            } else {
                let values: serde_json::Map<_, _> =
                    all.iter().map(|row| (row.key.clone(), row.value.clone().into())).collect();
                ui.data(&json!({ "values": values }));
            }
            for row in &all {
                if show.origin {
                    ui.line(format!("{:<24} = {:<40} # {}", row.key, row.value, row.origin));
                } else {
                    ui.line(format!("{} = {}", row.key, row.value));
                }
            }
        }
    }
    Ok(Exit::Done)
}
