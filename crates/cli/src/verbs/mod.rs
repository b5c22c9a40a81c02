//! One file a noun. To add one: a module with `Args` and `run`, a variant below, a line in `run`, its
//! Japanese help in `locale/help.ja.ftl`.

mod agent;
mod assess;
mod audit;
mod backup;
mod config;
mod doctor;
mod drill;
mod escrow;
mod gate;
mod plan;
mod repo;
mod report;
mod restore;
mod runbook;
mod server;
mod system;
mod vault;
mod windows;

use clap::Subcommand;

use crate::{Outcome, ui::Ui};

/// What the program can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Read this departmental server for the site server, and keep the register of such agents
    Agent(agent::Args),
    /// See from your own list what is missing and what to do next
    Assess(assess::Args),
    /// Verify and export the tamper-evident log
    Audit(audit::Args),
    /// Take and look at backups of registered systems
    Backup(backup::Args),
    /// Check and show the server's configuration
    Config(config::Args),
    /// Check that this machine has what Kuramori needs
    Doctor(doctor::Args),
    /// Hold and look at restore drills
    Drill(drill::Args),
    /// Bring the recovery identity onto paper and back
    Escrow(escrow::Args),
    /// Look at the gate and close it
    Gate(gate::Args),
    /// Plan sizes and windows before anything is bought
    Plan(plan::Args),
    /// Use the repository engine by itself, without a server
    Repo(repo::Args),
    /// Write evidence from recorded facts
    Report(report::Args),
    /// Bring a registered system's data back, plan first
    Restore(Box<restore::Args>),
    /// Show and print what to do when everything is gone
    Runbook(runbook::Args),
    /// Run the site server, or prepare it
    Server(Box<server::Args>),
    /// Keep the register of departmental systems
    System(system::Args),
    /// Run the vault, or give it an order on its own host
    Vault(vault::Args),
}

pub(crate) fn run(verb: Verb, ui: &Ui) -> Outcome {
    match verb {
        Verb::Agent(args) => agent::run(&args, ui),
        Verb::Assess(args) => assess::run(&args, ui),
        Verb::Audit(args) => audit::run(&args, ui),
        Verb::Config(args) => config::run(&args, ui),
        Verb::Backup(args) => backup::run(&args, ui),
        Verb::Doctor(args) => Ok(doctor::run(&args, ui)),
        Verb::Drill(args) => drill::run(&args, ui),
        Verb::Escrow(args) => escrow::run(&args, ui),
        Verb::Gate(args) => gate::run(args, ui),
        Verb::Plan(args) => plan::run(&args, ui),
        Verb::Repo(args) => repo::run(&args, ui),
        Verb::Report(args) => report::run(&args, ui),
        Verb::Restore(args) => restore::run(&args, ui),
        Verb::Runbook(args) => runbook::run(&args, ui),
        Verb::Server(args) => server::run(&args, ui),
        Verb::System(args) => system::run(&args, ui),
        Verb::Vault(args) => vault::run(args, ui),
    }
}
