//! `kuramori-lab`: raises, uses, attacks and takes down the lab's hospital from the command line.

mod answer;
mod run;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use kuramori_lab::{
    Files, Lab, LabError, Manifest, Program, Role, Scale, Service, Targets, Try, What, attack, compare, down,
    needs, probe, services::ophthalmology::Spoil,
};
use kuramori_model::{
    clock::SystemRandom,
    fault::{Exit, Fault, chain},
};

use answer::Answer;

/// A real small hospital on this machine, for demonstrations and tests.
///
/// Ten hosts in network namespaces: lan (router), srv (site server), bil (billing, PostgreSQL), pac (picture
/// archive, Orthanc), oph (ophthalmology, Samba), mai (mail), cln (clean room), sw (guarded switch, snmpd),
/// vlt (vault) and pul (the vault's puller). Nothing outside --root and the namespaces is changed.
#[derive(Debug, Parser)]
#[command(name = "kuramori-lab", version)]
struct Arguments {
    /// The folder of all the lab's files
    #[arg(long, global = true, env = "KURAMORI_LAB_ROOT", default_value = "/var/tmp/kuramori-lab")]
    root: PathBuf,
    /// Answer with one JSON object on stdout
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Raise the hospital and do the main job on it, from end to end
    Run(run::Run),
    /// List what this machine lacks, one line and remedy each
    Needs,
    /// Raise the hospital and leave it up
    Up {
        /// The beginning of the namespaces' names; km and this process's id by default
        #[arg(long)]
        prefix: Option<String>,
        /// Some megabytes of data instead of the full amount (also KURAMORI_LAB_SMALL=1)
        #[arg(long)]
        small: bool,
        /// Where all generated data come from
        #[arg(long, default_value_t = 2026)]
        seed: u64,
        /// Only these servers; none for hosts and wires alone
        #[arg(long, value_delimiter = ',')]
        only: Option<Vec<ServiceName>>,
    },
    /// Take it down, also after a crash, and show that the machine is as before
    Down {
        /// Remove the lab's files too
        #[arg(long)]
        remove: bool,
    },
    /// Show hosts, processes and the guarded port
    Status,
    /// Encrypt the departments' data, destroy and forge in the primary's repositories, scan the vault
    Attack {
        /// Do it; without this the plan is shown
        #[arg(long)]
        yes: bool,
    },
    /// Pull a host's cable at the core switch; for vlt, close the guarded port
    Cut {
        /// The host
        role: Role,
        /// Plug it in again
        #[arg(long)]
        restore: bool,
    },
    /// Show who reached the witness behind the gate
    Witness {
        /// Be the witness: what the lab itself starts in the vault's namespace
        #[arg(long, hide = true)]
        serve: bool,
    },
    /// Try every way from a host to the vault and show what answered
    Probe {
        /// The host that asks
        #[arg(long, default_value = "srv")]
        from: Role,
        /// The last TCP port to try, from 1
        #[arg(long, default_value_t = u16::MAX)]
        ports: u16,
    },
    /// Run a command in a host's network
    Exec {
        /// The host
        role: Role,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Write ophthalmology's dump of a night
    Dump {
        /// Which night; 0 is the first
        night: u64,
        /// What is to be wrong with it
        #[arg(long)]
        spoil: Option<SpoilName>,
    },
    /// Write down the truth about all departments with other people's tools
    Manifest {
        /// Its name
        name: String,
    },
    /// Compare a restored department with the truth; exit code 4 if it differs or does not run
    Compare {
        /// The manifest's name
        name: String,
        /// The department
        system: SystemName,
        /// The restored folder
        folder: PathBuf,
        /// The host in which its server is started
        #[arg(long, default_value = "cln")]
        on: Role,
    },
    /// Show the mails that were received
    Mails,
    /// Measure how much of each attack inspection notices, and how often it cries wolf
    InspectBench {
        /// More than 1,000 clean source-days (also KURAMORI_LONG=1)
        #[arg(long)]
        long: bool,
        /// First seed; below 100 only for fixing limits, never for a report
        #[arg(long, default_value_t = 200)]
        seed: u64,
        /// Where the figures go
        #[arg(long, default_value = "target/evidence/inspect.json")]
        evidence: PathBuf,
        /// Also write `inspection.md` and `inspection.ja.md` into this folder
        #[arg(long)]
        docs: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ServiceName {
    Directory,
    Billing,
    Pacs,
    Ophthalmology,
    Mail,
    Switch,
    Witness,
    None,
}

impl ServiceName {
    fn service(self) -> Option<Service> {
        Some(match self {
            Self::Directory => Service::Directory,
            Self::Billing => Service::Billing,
            Self::Pacs => Service::Pacs,
            Self::Ophthalmology => Service::Ophthalmology,
            Self::Mail => Service::Mail,
            Self::Switch => Service::Switch,
            Self::Witness => Service::Witness,
            Self::None => return None,
        })
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SpoilName {
    NoMarker,
    Yesterday,
    Truncated,
    Empty,
    EarlyMarker,
}

impl From<SpoilName> for Spoil {
    fn from(name: SpoilName) -> Self {
        match name {
            SpoilName::NoMarker => Self::NoMarker,
            SpoilName::Yesterday => Self::Yesterday,
            SpoilName::Truncated => Self::Truncated,
            SpoilName::Empty => Self::Empty,
            SpoilName::EarlyMarker => Self::EarlyMarker,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SystemName {
    Billing,
    Pacs,
    Ophthalmology,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    match act(arguments) {
        Ok(code) => code,
        Err(error) => {
            let fault = error.downcast_ref::<LabError>();
            answer::complain(
                json,
                &chain(error.as_ref()),
                fault.map_or("lab.unexpected", |fault| fault.code()),
                fault.and_then(Fault::hint),
            );
            ExitCode::from(fault.map_or(Exit::Unexpected, Fault::exit) as u8)
        }
    }
}

fn act(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (root, json) = (arguments.root, arguments.json);
    let open = || Lab::open(&root);
    let done = ExitCode::SUCCESS;
    let answer = match arguments.verb {
        Verb::Run(job) => return run::run(&root, &job, json),
        Verb::Needs => {
            let lacks = needs(&root);
            let code = if lacks.is_empty() { done } else { ExitCode::from(Exit::Fix as u8) };
            Answer::needs(&lacks)?.with(code)
        }
        Verb::Up { prefix, small, seed, only } => {
            let scale = if small { Scale::Small } else { Scale::from_environment() };
            let program = std::env::current_exe().context("this program's own path is unknown")?;
            let mut what = What::everything(scale, seed, program);
            if let Some(only) = only {
                what.services = only.into_iter().filter_map(ServiceName::service).collect();
            }
            let prefix = prefix.unwrap_or_else(|| format!("km{}", std::process::id() % 1_000_000));
            let mut lab = Lab::up(&prefix, &root, what)?;
            lab.keep();
            Answer::status(&lab)?
        }
        Verb::Down { remove } => {
            let down = down(&root, if remove { Files::Remove } else { Files::Keep })?;
            let code = if down.differences.is_empty() { done } else { ExitCode::from(Exit::Damaged as u8) };
            Answer::down(&down)?.with(code)
        }
        Verb::Status => Answer::status(&open()?)?,
        Verb::Attack { yes } => {
            let lab = open()?;
            let targets = Targets::of(&lab)?;
            if yes {
                Answer::attacked(&attack(&lab, &targets, &SystemRandom)?)?
            } else {
                Answer::plan(&targets)?.with(ExitCode::from(Exit::Refused as u8))
            }
        }
        Verb::Cut { role, restore } => {
            open()?.host(role).plug(restore)?;
            Answer::cut(role, restore)
        }
        Verb::Witness { serve: true } => {
            kuramori_lab::services::witness::serve(&root.join("logs/witness-contacts.jsonl"))?;
            return Ok(done);
        }
        Verb::Witness { serve: false } => {
            let lab = open()?;
            Answer::witness(&lab.witness().contacts()?, &lab.witness().arrivals()?)?
        }
        Verb::Probe { from, ports } => {
            Answer::probed(&probe(&open()?, from, &Try { tcp: 1..=ports, ..Try::default() })?)?
        }
        Verb::Exec { role, command } => {
            let lab = open()?;
            let mut words = command.into_iter();
            let program = Program::new(words.next().unwrap_or_default()).args(words);
            let status =
                lab.host(role).command(&program).status().context("the command cannot be started")?;
            return Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2)));
        }
        Verb::Dump { night, spoil } => {
            Answer::dump(&open()?.ophthalmology().write_dump(night, spoil.map(Spoil::from))?)?
        }
        Verb::Manifest { name } => Answer::manifest(&Manifest::make(&open()?, &name)?)?,
        Verb::Compare { name, system, folder, on } => {
            let lab = open()?;
            let manifest = Manifest::read(&lab, &name)?;
            let compared = match system {
                SystemName::Billing => compare::billing(&lab, &manifest, on, &folder)?,
                SystemName::Pacs => compare::pacs(&lab, &manifest, on, &folder)?,
                SystemName::Ophthalmology => compare::ophthalmology(&manifest, &folder)?,
            };
            let good = compared.identical && compared.running;
            Answer::compared(&compared)?.with(if good { done } else { ExitCode::from(Exit::Damaged as u8) })
        }
        Verb::InspectBench { long, seed, evidence, docs } => {
            return inspect_bench(long, seed, &evidence, docs.as_deref(), json);
        }
        Verb::Mails => Answer::mails(&open()?.mail().received()?)?,
    };
    answer.say(json)
}

/// Measures, writes the evidence, and the papers if they are wanted.
#[expect(clippy::print_stderr, reason = "progress of a long measurement")]
fn inspect_bench(
    long: bool,
    seed: u64,
    evidence: &std::path::Path,
    docs: Option<&std::path::Path>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    use kuramori_lab::inspection;
    let long = long || std::env::var_os("KURAMORI_LONG").is_some();
    let amount = if long { inspection::Amount::LONG } else { inspection::Amount::SHORT };
    let folder = tempfile::tempdir()?;
    let amount = inspection::Amount { first_seed: seed, ..amount };
    let figures = inspection::measure(folder.path(), amount, &mut |what| eprintln!("{what}"))?;
    if let Some(parent) = evidence.parent() {
        fs_err::create_dir_all(parent)?;
    }
    fs_err::write(evidence, serde_json::to_vec_pretty(&figures)?)?;
    if let Some(docs) = docs {
        fs_err::write(docs.join("inspection.md"), inspection::english(&figures))?;
        fs_err::write(docs.join("inspection.ja.md"), inspection::japanese(&figures))?;
    }
    Answer::measured(&figures)?.say(json)
}
