//! `kuramori runbook`: what to do when everything is gone, on the screen or as pages to print.

use std::path::PathBuf;

use clap::Subcommand;
use kuramori_model::fault::Exit;
use serde_json::Value;

use super::server::Connect;
use crate::{Outcome, failure::CliError, ui::Ui};

/// The recovery runbook.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the runbook as it stands now, the one-line answer first
    Show(Connect),
    /// Write the runbook as one HTML file to print, and as text for a console
    Print(Print),
}

#[derive(Debug, clap::Args)]
struct Print {
    #[command(flatten)]
    connect: Connect,
    /// The file to write; the text goes beside it with the ending `.txt`
    #[arg(long, value_name = "FILE", default_value = "runbook.html")]
    out: PathBuf,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    let (Verb::Show(connect) | Verb::Print(Print { connect, .. })) = &args.verb;
    let path = format!("/v1/runbook?lang={}", ui.report_language().tag());
    let page: Value = connect.client()?.get(&path)?;
    let text = |key: &str| page[key].as_str().unwrap_or_default();
    ui.data(&page["book"]);
    match &args.verb {
        Verb::Show(_) => ui.line(text("text")),
        Verb::Print(print) => {
            let beside = print.out.with_extension("txt");
            fs_err::write(&print.out, text("html")).map_err(CliError::File)?;
            fs_err::write(&beside, text("text")).map_err(CliError::File)?;
            ui.line(text("sentence"));
            ui.line(format!(
                "{}: {}, {}",
                ui.pick("書き込みました", "written"),
                print.out.display(),
                beside.display()
            ));
            ui.note(ui.pick(
                "印刷して、電源のない場所でも読めるように保管してください。",
                "Print it and keep it where it can be read without power.",
            ));
        }
    }
    Ok(Exit::Done)
}
