//! `kuramori report`: evidence on paper from recorded facts.

use std::path::PathBuf;

use clap::Subcommand;
use kuramori_model::fault::Exit;
use serde_json::Value;

use super::server::Connect;
use crate::{Outcome, failure::CliError, ui::Ui};

/// Evidence from recorded facts.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Write the present state as one HTML file that needs nothing else
    Evidence(Evidence),
}

#[derive(Debug, clap::Args)]
struct Evidence {
    #[command(flatten)]
    connect: Connect,
    /// Where to write it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    let Verb::Evidence(evidence) = &args.verb;
    let language = ui.pick("ja", "en");
    let answer: Value = evidence.connect.client()?.get(&format!("/v1/evidence?lang={language}"))?;
    fs_err::write(&evidence.out, answer["html"].as_str().unwrap_or_default()).map_err(CliError::File)?;
    ui.data(&serde_json::json!({ "file": evidence.out, "at": answer["at"] }));
    ui.line(format!("{}: {}", ui.pick("書き出しました", "written"), evidence.out.display()));
    Ok(Exit::Done)
}
