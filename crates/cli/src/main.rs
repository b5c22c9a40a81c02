//! The one binary: `kuramori NOUN VERB`.
//!
//! A verb's file holds its arguments and turns them into calls of the rooms; what it learns goes to stdout
//! as data, everything else (progress, hints, errors) to stderr. **Invariant:** no logic that a room should
//! hold.

mod failure;
mod help;
mod ui;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use kuramori_model::fault::Exit;

use crate::{failure::Failure, ui::Ui};

/// Keeps a hospital working after ransomware, failure or disaster
#[derive(Debug, Parser)]
#[command(name = "kuramori", version, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    ui: ui::Options,
    #[command(subcommand)]
    noun: Noun,
}

/// The nouns; each has its verbs in a file of its own below `verbs`.
#[derive(Debug, Subcommand)]
enum Noun {
    #[command(flatten)]
    Verb(verbs::Verb),
}

fn main() -> ExitCode {
    let language = ui::Language::from_arguments(std::env::args_os());
    let matches = match help::localized(Cli::command(), language).try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Fix as u8 } else { Exit::Done as u8 });
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(Exit::Fix as u8);
        }
    };
    let ui = Ui::new(&cli.ui, language);
    let Noun::Verb(verb) = cli.noun;
    match verbs::run(verb, &ui) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            ui.failure(&failure);
            ExitCode::from(failure.exit() as u8)
        }
    }
}

/// What a verb returns.
type Outcome = Result<Exit, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_has_japanese_help() {
        let missing = help::missing(&Cli::command());
        assert!(missing.is_empty(), "no Japanese help for: {missing:#?}");
    }
}
