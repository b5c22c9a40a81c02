//! `kuramori assess`: read-only; from the hospital's own list, what is missing and what to do next.

use std::{
    io::{BufRead, Write},
    path::PathBuf,
};

use kuramori_assess::{Answers, QUESTIONS, assess, document, parse};
use kuramori_model::{
    clock::{Clock, SystemClock},
    fault::Exit,
};
use serde_json::json;

use crate::{
    Outcome,
    failure::{CliError, Failure},
    ui::{Language, Ui},
};

/// Needs no server and changes nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The list of systems as the spreadsheet exports it (CSV, UTF-8 or Shift_JIS)
    #[arg(long, value_name = "FILE", required_unless_present = "print_questions")]
    register: Option<PathBuf>,
    /// The filled-in questionnaire (TOML)
    #[arg(long, value_name = "FILE", conflicts_with = "ask")]
    answers: Option<PathBuf>,
    /// Ask the questions on the terminal
    #[arg(long)]
    ask: bool,
    /// Print the questionnaire to fill in
    #[arg(long)]
    print_questions: bool,
    /// Write the page here (HTML)
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    if args.print_questions {
        ui.line(Answers::form(ui.language == Language::Ja));
        return Ok(Exit::Done);
    }
    let Some(file) = &args.register else { return Ok(Exit::Fix) };
    let register = parse(&fs_err::read(file).map_err(CliError::File)?)?;
    let answers = match &args.answers {
        Some(file) => Answers::read(&fs_err::read_to_string(file).map_err(CliError::File)?)?,
        None if args.ask => ask(ui)?,
        None => Answers::default(),
    };
    let found = assess(&register, &answers);
    let made = SystemClock.now().to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d").to_string();
    let page = document(&found, ui.report_language(), &made);
    if let Some(out) = &args.out {
        fs_err::write(out, page.html()).map_err(CliError::File)?;
        ui.note(format!("{}: {}", ui.pick("書き込みました", "written"), out.display()));
    }
    ui.data(&json!({ "assessment": found, "encoding": register.encoding }));
    ui.line(page.text());
    Ok(Exit::Done)
}

/// Asks one after the other; an empty line means that it is not known.
fn ask(ui: &Ui) -> Result<Answers, Failure> {
    let mut answers = Answers::default();
    let stdin = std::io::stdin();
    let mut lines = stdin.lock().lines();
    let mut line = |question: &str| -> Result<String, Failure> {
        let _ = write!(std::io::stderr(), "{question}: ");
        Ok(lines.next().transpose().map_err(CliError::File)?.unwrap_or_default().trim().to_owned())
    };
    answers.hospital = line(ui.pick("病院名", "The hospital's name"))?;
    for question in QUESTIONS {
        let words = ui.pick(question.ja, question.en);
        let told = line(&format!("{words} {}", ui.pick("[y/n/分からない=空]", "[y/n/empty if not known]")))?;
        let answer = match told.to_lowercase().as_str() {
            "y" | "yes" | "はい" => Some(true),
            "n" | "no" | "いいえ" => Some(false),
            _ => None,
        };
        answers.set(question.key, answer);
    }
    Ok(answers)
}
