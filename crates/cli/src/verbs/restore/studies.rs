//! `kuramori restore studies`: pictures back into an archive.

use std::path::PathBuf;

use kuramori_drill::{
    restore::PATIENCE,
    study::{FOLDER, Given, Wanted, give_back},
};
use kuramori_model::{
    clock::{Clock, SystemClock},
    fault::{Exit, Fault},
    units::Bytes,
};
use kuramori_repo::{Cancel, lock::LockMode, progress::Progress};
use kuramori_server::recover::Ended;
use kuramori_source::{Config, Control, config::DicomConfig};
use serde_json::json;

use super::{Copy, Order, Way, on_signal, prepare, show, with_bar};
use crate::{
    Outcome,
    failure::{CliError, Failure},
    ui::Ui,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    order: Order,
    /// Only this study, by its UID; may be given several times
    #[arg(long, value_name = "UID")]
    study: Vec<String>,
    /// The archive that gets them: a file with the keys of a `dicom` source
    #[arg(long, value_name = "FILE")]
    archive: PathBuf,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
}

fn archive(args: &Args) -> Result<DicomConfig, Failure> {
    let text = fs_err::read_to_string(&args.archive).map_err(CliError::File)?;
    let wrong =
        |error: &dyn std::fmt::Display| CliError::Argument(format!("{}: {error}", args.archive.display()));
    let config: Config = toml::from_str(&text).map_err(|error| wrong(&error))?;
    config.check().map_err(|error| wrong(&error))?;
    match config {
        Config::Dicom(config) => Ok(config),
        _ => Err(wrong(&"the kind has to be `dicom`").into()),
    }
}

pub(super) fn run(args: &Args, ui: &Ui) -> Outcome {
    let archive = archive(args)?;
    let order = &args.order;
    if order.original || order.file.is_some() {
        let why = "studies go through a work folder: use `--to FOLDER`, and `--study` for one alone";
        return Err(CliError::Argument(why.to_owned()).into());
    }
    let way = Way::of(order)?;
    let (repository, plan) = prepare(&way, order, if args.yes { "run" } else { "plan" })?;
    show(&plan, ui);
    let title = archive.titles.as_ref().map_or(&archive.user, |titles| &titles.called);
    let to = format!("{title}@{}:{}{}", archive.server, archive.port, archive.path);
    ui.line(format!("{}: {to}", ui.pick("返却先のアーカイブ", "archive that gets them")));
    ui.data(&json!({ "message_type": "plan", "plan": plan, "archive": to, "studies": args.study }));
    if !args.yes && !ui.confirm(ui.pick("このアーカイブに返却しますか", "Give them to this archive?"))
    {
        ui.note(ui.pick("何も変更していません。", "Nothing was changed."));
        return Ok(Exit::Interrupted);
    }
    let _lock = match plan.choice.point.copy {
        Copy::Primary => Some(repository.lock(LockMode::Shared, PATIENCE)?),
        Copy::Vault => None,
    };
    let (progress, cancel, control) = (Progress::default(), Cancel::default(), Control::default());
    // The repository's side and the archive's are stopped each in its own way.
    let (ours, theirs) = (cancel.clone(), control.cancel.clone());
    on_signal(move || {
        ours.cancel();
        theirs.cancel();
    });
    let begin = SystemClock.boot();
    let wanted = Wanted {
        repository: &repository,
        snapshot: &plan.choice.point.snapshot,
        studies: &args.study,
        archive: &archive,
        work: &plan.target.path,
    };
    let outcome = with_bar(ui, ui.pick("返却中", "giving back"), &progress, || {
        give_back(&wanted, &control, &progress, &cancel, &mut |study, number, of| {
            tracing::info!(study, number, of, "study");
        })
    });
    let mut ended = Ended {
        by: order.by.clone(),
        snapshot: plan.choice.point.snapshot.clone(),
        target: PathBuf::from(format!("{to}/{FOLDER}")),
        kept: None,
        // An archive's own pace says nothing about ours: no measurement.
        bytes: 0,
        found_there: 0,
        seconds: SystemClock.boot().saturating_sub(begin).as_secs_f64(),
        missing: 0,
        error: None,
    };
    match outcome {
        Ok(given) => {
            ended.missing = given.shortfalls.len() + usize::try_from(given.wrong_count).unwrap_or(usize::MAX);
            way.ended(&order.system, &ended)?;
            Ok(report(&given, &to, ui))
        }
        Err(error) => {
            ended.error = Some(error.code().to_owned());
            way.ended(&order.system, &ended)?;
            Err(error.into())
        }
    }
}

fn report(given: &Given, to: &str, ui: &Ui) -> Exit {
    ui.data(&json!({ "message_type": "summary", "given": given, "archive": to }));
    for (sop, why) in &given.wrong {
        ui.note(format!("{}: {sop}: {why}", ui.pick("一致しません", "not as it was")));
    }
    for item in &given.shortfalls {
        let word = ui.pick("復元できませんでした", "could not be restored");
        ui.note(format!("{word}: {}: {}", item.path, item.why));
    }
    ui.line(format!(
        "{}: {} {}, {} {} ({} {}), {} → {to}",
        ui.pick("返却しました", "given back"),
        given.studies,
        ui.pick("検査", "studies"),
        given.identical + given.rewritten,
        ui.pick("インスタンスを照合", "instances compared"),
        given.already,
        ui.pick("は既存", "were there"),
        Bytes(given.bytes),
    ));
    if given.rewritten > 0 {
        let word = ui.pick("アーカイブが別の形で保存(内容は同一)", "stored in another form, same content");
        ui.line(format!("{word}: {}", given.rewritten));
    }
    let damaged = given.wrong_count > 0 || given.shortfalls.iter().any(|item| item.damaged);
    match (damaged, given.shortfalls.is_empty()) {
        (true, _) => Exit::Damaged,
        (false, false) => Exit::Partial,
        (false, true) => Exit::Done,
    }
}
