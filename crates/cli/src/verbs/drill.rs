//! `kuramori drill`: hold a restore drill now, look at those that were held, and say how systems come up.

use std::path::PathBuf;

use clap::Subcommand;
use kuramori_drill::{
    exercise::Exercise,
    profile::{Command, Profile, Query, Service},
    runbook::Answer,
};
use kuramori_model::{fault::Exit, ids::SystemId};
use kuramori_report::span;
use kuramori_server::drills::{Held, Numbered};
use serde_json::{Value, json};

use super::server::Connect;
use crate::{
    Outcome,
    failure::{CliError, Failure},
    ui::Ui,
};

/// Restore drills.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Hold a drill now: restore in isolation, start the service, ask it, measure, remove everything
    Run(Run),
    /// List drills, newest first, and say what would come back if everything were lost now
    List(List),
    /// Show a drill's record, or write its page of evidence
    Show(Show),
    /// Show or set how a system is brought up and how one sees that it works
    Profile(Describe),
    /// Say whether drills run by themselves
    Automatic(Automatic),
    /// Write down the yearly exercise, or list the records
    Record(Record),
}

#[derive(Debug, clap::Args)]
struct Run {
    #[command(flatten)]
    connect: Connect,
    /// Which system
    system: SystemId,
    /// This restore point: `seq-12` or `12`
    #[arg(long, value_name = "NUMBER")]
    point: Option<String>,
    /// Why an untrusted restore point is used; it is logged
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who holds it
    #[arg(long, value_name = "NAME", env = "SUDO_USER", default_value = "admin")]
    by: String,
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    connect: Connect,
    /// Only of this system
    system: Option<SystemId>,
}

#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    connect: Connect,
    /// The drill's number: `drill-12` or `12`
    drill: String,
    /// Write the page of evidence here (HTML)
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Describe {
    #[command(flatten)]
    connect: Connect,
    /// Which system
    #[arg(required_unless_present = "example")]
    system: Option<SystemId>,
    /// Set it from this file (TOML)
    #[arg(long, value_name = "FILE")]
    set: Option<PathBuf>,
    /// Print an example that can be edited
    #[arg(long)]
    example: bool,
}

#[derive(Debug, clap::Args)]
struct Automatic {
    #[command(flatten)]
    connect: Connect,
    /// `on` or `off`
    #[arg(value_parser = ["on", "off"])]
    state: String,
    /// Who says so
    #[arg(long, value_name = "NAME", env = "SUDO_USER", default_value = "admin")]
    by: String,
}

#[derive(Debug, clap::Args)]
struct Record {
    #[command(flatten)]
    connect: Connect,
    /// The record (TOML); without it the records are listed
    #[arg(id = "record", value_name = "RECORD")]
    file: Option<PathBuf>,
    /// Write its page here (HTML)
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print an example that can be edited
    #[arg(long)]
    example: bool,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    match &args.verb {
        Verb::Run(run) => hold(run, ui),
        Verb::List(list) => self::list(list, ui),
        Verb::Show(show) => self::show(show, ui),
        Verb::Profile(describe) => profile(describe, ui),
        Verb::Record(wanted) => record(wanted, ui),
        Verb::Automatic(automatic) => {
            let body = json!({ "automatic": automatic.state == "on", "by": automatic.by });
            let answer: Value = automatic.connect.client()?.post("/v1/drills/automatic", &body)?;
            ui.data(&answer);
            ui.line(if automatic.state == "on" {
                ui.pick("復元訓練を自動で実施します。", "Drills run by themselves.")
            } else {
                ui.pick(
                    "自動の復元訓練を止めました。期限を過ぎると警報になります。",
                    "Drills do not run by themselves; overdue ones are alarms.",
                )
            });
            Ok(Exit::Done)
        }
    }
}

fn tag(ui: &Ui) -> &'static str {
    ui.report_language().tag()
}

fn number(text: &str) -> Result<u64, Failure> {
    let digits = text.rsplit('-').next().unwrap_or_default();
    digits.parse().map_err(|_| CliError::Argument(format!("`{text}` is not a number")).into())
}

fn hold(run: &Run, ui: &Ui) -> Outcome {
    let point = run.point.as_deref().map(number).transpose()?;
    let body = json!({ "system": run.system, "by": run.by, "point": point, "reason": run.reason });
    let drill: Numbered = run.connect.client()?.post("/v1/drills", &body)?;
    ui.data(&drill);
    one(&drill, ui);
    Ok(exit(&drill))
}

fn exit(drill: &Numbered) -> Exit {
    if drill.record.passed { Exit::Done } else { Exit::Damaged }
}

/// One drill with its probes.
fn one(drill: &Numbered, ui: &Ui) {
    line(drill, ui);
    for probe in &drill.record.probes {
        let sign = if probe.good { "✓" } else { "✕" };
        ui.line(format!("  {sign} {} | {} | {}", probe.name, probe.asked, probe.answer));
    }
    if let Some(failure) = &drill.record.failure {
        ui.line(format!("  ✕ [{}] {}", failure.code, failure.text));
    }
}

fn line(drill: &Numbered, ui: &Ui) {
    let Numbered { number, record } = drill;
    let word = match (record.passed, record.rto_met) {
        (true, true) => ui.pick("合格", "passed"),
        (true, false) => ui.pick("合格(目標時間を超過)", "passed, over its target time"),
        (false, _) => ui.pick("不合格", "FAILED"),
    };
    ui.line(format!(
        "drill-{number} {} {} {} {} {} {} / {}",
        record.ended,
        record.system,
        record.choice.point.sequence,
        word,
        ui.pick("復旧時間", "recovery time"),
        span(ui.report_language(), record.times.rto_s),
        span(ui.report_language(), record.rto_target_s as f64)
    ));
}

fn list(list: &List, ui: &Ui) -> Outcome {
    let client = list.connect.client()?;
    let path = match &list.system {
        Some(system) => format!("/v1/drills?system={system}"),
        None => "/v1/drills".to_owned(),
    };
    let drills: Vec<Numbered> = client.get(&path)?;
    let runbook: Value = client.get(&format!("/v1/runbook?lang={}", tag(ui)))?;
    ui.line(runbook["sentence"].as_str().unwrap_or_default());
    let answer: Option<Answer> = serde_json::from_value(runbook["book"]["answer"].clone()).ok();
    ui.data(&json!({ "answer": answer, "sentence": runbook["sentence"] }));
    for drill in &drills {
        ui.data(drill);
        line(drill, ui);
    }
    Ok(Exit::Done)
}

fn show(show: &Show, ui: &Ui) -> Outcome {
    let path = format!("/v1/drills/{}?lang={}", number(&show.drill)?, tag(ui));
    let page: Value = show.connect.client()?.get(&path)?;
    if let Some(file) = &show.html {
        fs_err::write(file, page["html"].as_str().unwrap_or_default()).map_err(CliError::File)?;
        ui.note(format!("{}: {}", ui.pick("書き込みました", "written"), file.display()));
    }
    ui.data(&page["drill"]);
    ui.line(page["text"].as_str().unwrap_or_default());
    Ok(Exit::Done)
}

fn record(wanted: &Record, ui: &Ui) -> Outcome {
    if wanted.example {
        let text = toml::to_string(&Exercise::example());
        ui.line(text.map_err(|error| CliError::Argument(error.to_string()))?);
        ui.data(&Exercise::example());
        return Ok(Exit::Done);
    }
    let client = wanted.connect.client()?;
    let Some(file) = &wanted.file else {
        let held: Vec<Held> = client.get("/v1/exercises")?;
        for one in &held {
            ui.data(one);
            let approved = if one.exercise.approved_by.is_empty() {
                ui.pick("未承認", "not approved")
            } else {
                ui.pick("承認済み", "approved")
            };
            let late = ui.pick("期限を過ぎた改善", "improvements past their date");
            ui.line(format!(
                "{} {approved} {late}: {} | {}",
                one.exercise.date, one.overdue, one.exercise.scenario
            ));
        }
        return Ok(Exit::Done);
    };
    let text = fs_err::read_to_string(file).map_err(CliError::File)?;
    let exercise: Exercise = toml::from_str(&text).map_err(|error| {
        CliError::Argument(format!("{}: {}", file.display(), error.to_string().trim_end()))
    })?;
    let page: Value = client.post(&format!("/v1/exercises?lang={}", tag(ui)), &exercise)?;
    if let Some(html) = &wanted.html {
        fs_err::write(html, page["html"].as_str().unwrap_or_default()).map_err(CliError::File)?;
        ui.note(format!("{}: {}", ui.pick("書き込みました", "written"), html.display()));
    }
    ui.data(&json!({ "number": page["number"] }));
    ui.line(page["text"].as_str().unwrap_or_default());
    Ok(Exit::Done)
}

fn profile(describe: &Describe, ui: &Ui) -> Outcome {
    if describe.example {
        ui.line(write(&example())?);
        ui.data(&example());
        return Ok(Exit::Done);
    }
    let Some(system) = &describe.system else { return Ok(Exit::Fix) };
    let client = describe.connect.client()?;
    let path = format!("/v1/recovery/{system}/profile");
    let profile: Profile = match &describe.set {
        None => client.get(&path)?,
        Some(file) => {
            let text = fs_err::read_to_string(file).map_err(CliError::File)?;
            let new: Profile = toml::from_str(&text).map_err(|error| {
                CliError::Argument(format!("{}: {}", file.display(), error.to_string().trim_end()))
            })?;
            client.put(&path, &new)?
        }
    };
    ui.data(&profile);
    ui.line(write(&profile)?);
    Ok(Exit::Done)
}

fn write(profile: &Profile) -> Result<String, Failure> {
    toml::to_string(profile).map_err(|error| CliError::Argument(error.to_string()).into())
}

/// Every key once.
fn example() -> Profile {
    Profile {
        depends_on: vec!["directory".to_owned()],
        original: Some(PathBuf::from("/var/lib/postgresql/15/main")),
        service: Some(Service::Postgres { superuser: "postgres".to_owned() }),
        must_exist: vec!["PG_VERSION".to_owned()],
        query: vec![Query {
            database: "billing".to_owned(),
            sql: "SELECT count(*) FROM orders".to_owned(),
            equals: None,
            at_least: Some(1),
            grows: true,
        }],
        command: vec![Command {
            name: "size".to_owned(),
            run: ["test", "-s", "{data}/PG_VERSION"].map(str::to_owned).to_vec(),
        }],
        start: vec!["systemctl start postgresql@15-main".to_owned()],
        notes: "事業者の接続確認が必要 / the vendor checks the connection".to_owned(),
        ..Profile::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_profile_that_can_be_set() {
        let text = write(&example()).unwrap();
        let back: Profile = toml::from_str(&text).unwrap();
        assert_eq!(back, example());
        back.check().unwrap();
        assert!(toml::from_str::<Profile>("colour = 1").is_err());
    }
}
