//! `kuramori backup`: start, watch and look at backups of registered systems.

use std::time::Duration;

use clap::Subcommand;
use kuramori_model::{
    clock::{Clock, SystemClock},
    fault::Exit,
    units::Bytes,
};
use kuramori_server::client::Client;
use serde_json::{Value, json};

use super::server::Connect;
use crate::{Outcome, failure::Failure, ui::Ui};

/// How often a running backup is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Backups of registered systems.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Take a backup now
    Run(Run),
    /// List runs, newest first
    List(List),
    /// Show one run
    Show(Show),
    /// Ask a run to stop
    Cancel(Show),
    /// List restore points
    Points(List),
}

#[derive(Debug, clap::Args)]
struct Run {
    #[command(flatten)]
    connect: Connect,
    /// Which system
    system: String,
    /// Wait for its end and exit by its outcome
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    connect: Connect,
    /// Only of this system
    system: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    connect: Connect,
    /// The run's number: `12` or `run-12`
    run: String,
}

impl Show {
    fn number(&self) -> &str {
        self.run.trim_start_matches("run-")
    }
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    match &args.verb {
        Verb::Run(run) => start(run, ui),
        Verb::List(list) => runs(list, ui),
        Verb::Show(show) => Ok(one(&show.connect.client()?.get(&format!("/v1/runs/{}", show.number()))?, ui)),
        Verb::Cancel(show) => {
            let run =
                show.connect.client()?.post(&format!("/v1/runs/{}/cancel", show.number()), &json!({}))?;
            Ok(one(&run, ui))
        }
        Verb::Points(list) => points(list, ui),
    }
}

fn start(run: &Run, ui: &Ui) -> Outcome {
    let client = run.connect.client()?;
    let queued: Value = client.post("/v1/runs", &json!({ "system": run.system }))?;
    let number = &queued["run"];
    if queued["already"] == true {
        ui.note(format!(
            "{}: run-{number}",
            ui.pick("すでに実行待ちまたは実行中です", "already queued or running")
        ));
    }
    if !run.wait {
        ui.data(&queued);
        ui.line(format!("run-{number}"));
        return Ok(Exit::Done);
    }
    let ended = wait(&client, number, &run.system, ui)?;
    one(&ended, ui);
    Ok(match ended["state"].as_str() {
        Some("complete") => Exit::Done,
        Some("complete_with_errors") => Exit::Partial,
        Some("cancelled") => Exit::Interrupted,
        _ => Exit::Fix,
    })
}

/// Shows the progress on a terminal until the run has ended.
fn wait(client: &Client, number: &Value, system: &str, ui: &Ui) -> Result<Value, Failure> {
    let path = format!("/v1/runs/{number}");
    let mut bar = ui.bytes_bar(None);
    loop {
        let run: Value = client.get(&path)?;
        let progress = &run["progress"];
        if let Some(total) = progress["bytes_total"].as_u64()
            && bar.length() != Some(total)
        {
            bar.finish_and_clear();
            bar = ui.bytes_bar(Some(total));
        }
        bar.set_message(format!("{system} {}", progress["phase"].as_str().unwrap_or_default()));
        bar.set_position(progress["bytes_done"].as_u64().unwrap_or(0));
        if run["ended_at"].is_string() {
            bar.finish_and_clear();
            return Ok(run);
        }
        SystemClock.sleep(LOOK);
    }
}

fn one(run: &Value, ui: &Ui) -> Exit {
    ui.data(run);
    ui.line(row(run));
    if let Some(text) = run["error_text"].as_str() {
        ui.line(format!("  [{}] {text}", run["error_code"].as_str().unwrap_or_default()));
    }
    Exit::Done
}

fn row(run: &Value) -> String {
    let text = |key: &str| run[key].as_str().unwrap_or("-").to_owned();
    format!(
        "run-{:<6} {:<20} {:<20} {:<10} {:>10} {}",
        run["id"],
        text("system"),
        text("state"),
        text("reason"),
        Bytes(run["facts"]["bytes"].as_u64().or_else(|| run["progress"]["bytes_done"].as_u64()).unwrap_or(0))
            .to_string(),
        text("ended_at")
    )
}

fn runs(list: &List, ui: &Ui) -> Outcome {
    let query = list.system.as_ref().map(|system| format!("?system={system}")).unwrap_or_default();
    let runs: Vec<Value> = list.connect.client()?.get(&format!("/v1/runs{query}"))?;
    ui.data(&runs);
    for run in &runs {
        ui.line(row(run));
    }
    Ok(Exit::Done)
}

fn points(list: &List, ui: &Ui) -> Outcome {
    let query = list.system.as_ref().map(|system| format!("?system={system}")).unwrap_or_default();
    let points: Vec<Value> = list.connect.client()?.get(&format!("/v1/points{query}"))?;
    ui.data(&points);
    for point in &points {
        let text = |key: &str| point[key].as_str().unwrap_or("-").to_owned();
        let whole = if point["complete"] == true { "✓" } else { "✗" };
        ui.line(format!(
            "{:<8} seq-{:<5} {:<20} {whole} {:>10} {:<9} {} {}",
            text("place"),
            point["sequence"],
            text("system"),
            Bytes(point["bytes"].as_u64().unwrap_or(0)).to_string(),
            text("verdict"),
            text("received"),
            text("snapshot").chars().take(16).collect::<String>()
        ));
    }
    Ok(Exit::Done)
}
