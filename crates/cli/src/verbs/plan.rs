//! `kuramori plan size`: from a register to sizes, the nightly window and whether the budget holds.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use kuramori_model::{
    fault::{Exit, Fault, Kind},
    sizing::{BadQuestion, Plan, Question, plan},
    units::Bytes,
};

use crate::{Outcome, ui::Ui};

/// Plans before anything is bought or moved.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Sizes of primary and vault, the nightly window, the first fill
    Size(Size),
}

#[derive(Debug, clap::Args)]
struct Size {
    /// A register with sizes (TOML); the examples show the form
    #[arg(long, value_name = "FILE", conflicts_with = "beds")]
    from: Option<PathBuf>,
    /// A built-in example for a hospital of this many beds
    #[arg(long, value_enum, value_name = "BEDS", default_value = "300")]
    beds: Beds,
    /// Print the register itself, to be edited, instead of the plan
    #[arg(long)]
    print_register: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Beds {
    #[value(name = "100")]
    Hundred,
    #[value(name = "300")]
    ThreeHundred,
    #[value(name = "700")]
    SevenHundred,
}

impl Beds {
    const fn register(self) -> &'static str {
        match self {
            Self::Hundred => include_str!("../../plans/100-beds.toml"),
            Self::ThreeHundred => include_str!("../../plans/300-beds.toml"),
            Self::SevenHundred => include_str!("../../plans/700-beds.toml"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum PlanError {
    #[error("cannot read the register")]
    Read(#[source] std::io::Error),
    #[error("the register `{file}` is not valid")]
    Form {
        file: String,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("no plan follows from the register")]
    Question(#[source] BadQuestion),
}

impl Fault for PlanError {
    fn code(&self) -> &'static str {
        match self {
            Self::Read(_) => "plan.read",
            Self::Form { .. } => "plan.form",
            Self::Question(_) => "plan.values",
        }
    }

    fn kind(&self) -> Kind {
        Kind::Fix
    }

    fn hint(&self) -> Option<String> {
        Some("start from `kuramori plan size --beds 300 --print-register` and change its figures".to_owned())
    }
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    let Verb::Size(size) = &args.verb;
    let (file, text) = match &size.from {
        Some(file) => (file.display().to_string(), fs_err::read_to_string(file).map_err(PlanError::Read)?),
        None => ("example".to_owned(), size.beds.register().to_owned()),
    };
    if size.print_register {
        ui.line(text.trim_end());
        return Ok(Exit::Done);
    }
    let question: Question =
        toml::from_str(&text).map_err(|source| PlanError::Form { file, source: Box::new(source) })?;
    let plan = plan(&question).map_err(PlanError::Question)?;
    ui.data(&plan);
    show(&plan, &question, ui);
    Ok(if plan.budget_holds && plan.night_holds { Exit::Done } else { Exit::Fix })
}

fn show(plan: &Plan, question: &Question, ui: &Ui) {
    let row = |name: &str, primary: Bytes, vault: Bytes, nightly: Bytes| {
        ui.line(format!(
            "{:>12} {:>12} {:>12}  {name}",
            primary.to_string(),
            vault.to_string(),
            nightly.to_string()
        ));
    };
    ui.line(ui.pick(
        "       一次         保管庫    一晩の差分  システム",
        "     primary        vault    a night    system",
    ));
    for system in &plan.systems {
        row(&system.name, system.primary, system.vault, system.nightly);
    }
    row(ui.pick("合計(余裕を含む)", "all, with headroom"), plan.primary, plan.vault, plan.nightly);
    let verdict = |holds: bool| {
        if holds {
            ui.pick("収まります", "holds")
        } else {
            ui.pick("収まりません", "DOES NOT HOLD")
        }
    };
    ui.line(format!(
        "{}: {} s / {} s, {} ({} {:.2} %)",
        ui.pick("一晩の開放時間", "gate open on a night"),
        plan.window_seconds,
        question.site.budget_seconds,
        verdict(plan.budget_holds),
        ui.pick("切り離し率", "isolated"),
        plan.isolation * 100.0
    ));
    ui.line(format!(
        "{}: {:.1} h / {:.1} h, {}",
        ui.pick("部門システムの読み取り", "reading the departments"),
        plan.reading_hours,
        question.site.night_hours,
        verdict(plan.night_holds)
    ));
    ui.line(format!(
        "{}: {:.1} h{} {} {}",
        ui.pick("初回の転送", "first fill"),
        plan.first_fill_seconds as f64 / 3600.0,
        ui.pick("(通常の開放だけなら", " of open gate, or by ordinary windows"),
        plan.first_fill_days,
        ui.pick("日。媒体を運べば開放は不要)", "days; a carried disk needs no opening")
    ));
}
