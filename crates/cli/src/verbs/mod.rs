//! One file a noun. To add one: a module with `Args` and `run`, a variant below, a line in `run`, its
//! Japanese help in `locale/help.ja.ftl`.

mod doctor;
mod plan;
mod repo;

use clap::Subcommand;

use crate::{Outcome, ui::Ui};

/// What the program can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check that this machine has what Kuramori needs
    Doctor(doctor::Args),
    /// Plan sizes and windows before anything is bought
    Plan(plan::Args),
    /// Use the repository engine by itself, without a server
    Repo(repo::Args),
}

pub(crate) fn run(verb: Verb, ui: &Ui) -> Outcome {
    match verb {
        Verb::Doctor(args) => Ok(doctor::run(&args, ui)),
        Verb::Plan(args) => plan::run(&args, ui),
        Verb::Repo(args) => repo::run(&args, ui),
    }
}
