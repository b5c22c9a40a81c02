//! `kuramori restore plan|run`: bring a registered system's data back, plan first.
//!
//! The server says what there is and hands out one repository's key; this process reads the repository
//! itself. With `--direct` no server has to run: the catalog and the server's keys are opened from its
//! configuration, for the day on which the server does not come up.

mod show;
mod studies;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use clap::Subcommand;
use jiff::Timestamp;
use kuramori_drill::{
    DrillError,
    binlog::{Second, choose_second},
    choose::{Choice, Copy, Wish, choose},
    moment::{Moment, choose_moment},
    plan::{self, Plan},
    profile::Service,
    reach::Asked,
    restore::{self, How},
    table::{Wanted, extract},
};
use kuramori_model::{
    clock::{Clock, SystemClock},
    fault::{Exit, Fault},
    ids::{Sequence, SystemId},
    units::Bytes,
};
use kuramori_repo::{
    Context, Indexed, Repository, Secret,
    lock::LockMode,
    progress::Progress,
    store::{FileKind, LocalStore, Store},
};
use kuramori_server::{
    App,
    client::Client,
    recover::{Ended, Key, Offer, Purpose},
};
use serde_json::json;

use self::show::{report, show};
use super::{
    repo::open::{cancel_on_signal, on_signal, with_bar},
    server,
};
use crate::{
    Outcome,
    failure::{CliError, Failure},
    ui::Ui,
};

/// Restores of registered systems.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what a restore would do: which point and why, where to, how long, what is put aside
    Plan(Order),
    /// Show the plan, then restore
    Run(Run),
    /// Get one table out of a PostgreSQL system, as a dump to look at
    Table(Table),
    /// Give studies back to a picture archive, each instance read back and compared
    Studies(studies::Args),
}

#[derive(Debug, clap::Args)]
struct Order {
    #[command(flatten)]
    connect: server::Connect,
    /// Work without a running server, from its configuration and keys
    #[arg(long, value_name = "CONFIG")]
    direct: Option<PathBuf>,
    /// Which system
    system: SystemId,
    /// This restore point: `seq-12` or `12`
    #[arg(long, value_name = "NUMBER")]
    point: Option<String>,
    /// The newest point received before this time (2026-11-21T18:00:00+09:00)
    #[arg(long, value_name = "TIME")]
    before: Option<Timestamp>,
    /// Bring a PostgreSQL or MariaDB system to this moment between restore points (2026-11-21T18:00:00+09:00)
    #[arg(long, value_name = "TIME", conflicts_with_all = ["before", "file"])]
    to_time: Option<Timestamp>,
    /// Only from this copy: primary or vault
    #[arg(long, value_name = "COPY", value_parser = copy)]
    copy: Option<Copy>,
    /// The folder with the vault's copy: a receiver's folder or a carried disk
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
    /// The folder to restore into
    #[arg(long, value_name = "FOLDER", required_unless_present = "original", conflicts_with = "original")]
    to: Option<PathBuf>,
    /// Restore into the original place, as the system's recovery profile names it
    #[arg(long)]
    original: bool,
    /// Only this file or folder of the restore point
    #[arg(long, value_name = "PATH")]
    file: Option<String>,
    /// Why an untrusted restore point is used; it is logged
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who does it
    #[arg(long, value_name = "NAME", env = "SUDO_USER", default_value = "admin")]
    by: String,
}

#[derive(Debug, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    clippy::struct_field_names,
    reason = "each is an option that people type"
)]
struct Run {
    #[command(flatten)]
    order: Order,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
    /// Read everything back and compare it with the restore point
    #[arg(long)]
    verify: bool,
    /// Put what could be restored into the place even if items are missing
    #[arg(long)]
    accept_missing: bool,
    /// Threads that read
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
    /// With --to-time: only write the settings, and leave the recovery to the database's first start
    #[arg(long, requires = "to_time")]
    leave_recovery: bool,
}

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_field_names, reason = "the option is called what it names")]
struct Table {
    #[command(flatten)]
    order: Order,
    /// The database
    #[arg(long, value_name = "NAME")]
    database: String,
    /// The table, with its schema if need be: public.orders
    #[arg(long, value_name = "NAME")]
    table: String,
    /// Folder in which the database is started in isolation for this; emptied afterwards
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/kuramori-drill")]
    work: PathBuf,
}

fn copy(text: &str) -> Result<Copy, String> {
    match text {
        "primary" => Ok(Copy::Primary),
        "vault" => Ok(Copy::Vault),
        _ => Err("write `primary` or `vault`".to_owned()),
    }
}

/// The server through its socket, or its parts opened here.
enum Way {
    Socket(Client),
    Direct(Box<(tokio::runtime::Runtime, App)>),
}

impl Way {
    fn of(order: &Order) -> Result<Self, Failure> {
        match &order.direct {
            None => Ok(Self::Socket(order.connect.client()?)),
            Some(file) => {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .enable_all()
                    .build()
                    .map_err(CliError::File)?;
                let config = server::load_file(file)?;
                let app = runtime.block_on(App::open(config))?;
                Ok(Self::Direct(Box::new((runtime, app))))
            }
        }
    }

    fn offer(&self, id: &SystemId) -> Result<Offer, Failure> {
        Ok(match self {
            Self::Socket(client) => client.get(&format!("/v1/recovery/{id}"))?,
            Self::Direct(both) => both.0.block_on(both.1.offer(id))?,
        })
    }

    fn key(&self, id: &SystemId, purpose: &Purpose) -> Result<Key, Failure> {
        Ok(match self {
            Self::Socket(client) => client.post(&format!("/v1/recovery/{id}/key"), purpose)?,
            Self::Direct(both) => both.0.block_on(both.1.restore_key(id, purpose))?,
        })
    }

    fn ended(&self, id: &SystemId, ended: &Ended) -> Result<(), Failure> {
        match self {
            Self::Socket(client) => {
                let _: serde_json::Value = client.post(&format!("/v1/recovery/{id}/ended"), ended)?;
            }
            Self::Direct(both) => both.0.block_on(both.1.restore_ended(id, ended))?,
        }
        Ok(())
    }
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    match &args.verb {
        Verb::Plan(order) => {
            let way = Way::of(order)?;
            let (_, plan) = prepare(&way, order, "plan")?;
            show(&plan, ui);
            ui.data(&json!({ "message_type": "plan", "plan": plan }));
            Ok(Exit::Done)
        }
        Verb::Run(run) => carry_out(run, ui),
        Verb::Table(wanted) => table(wanted, ui),
        Verb::Studies(wanted) => studies::run(wanted, ui),
    }
}

/// The opened repository and the plan.
fn prepare(way: &Way, order: &Order, verb: &str) -> Result<(Repository<Indexed>, Plan), Failure> {
    let mut offer = way.offer(&order.system)?;
    let point = order
        .point
        .as_deref()
        .map(|text| text.trim_start_matches("seq-").parse().map(Sequence))
        .transpose()
        .map_err(|_| CliError::Argument("`--point` takes `seq-12` or `12`".to_owned()))?;
    // What the catalog knows and the repository has not any more is not on offer.
    let there = snapshots(&offer.repository);
    let elsewhere = order.from.as_deref().map(|folder| (folder.to_owned(), snapshots(folder)));
    for candidate in &mut offer.candidates {
        candidate.gone = match (candidate.copy, &elsewhere) {
            (Copy::Primary, _) => !there.contains(&candidate.snapshot),
            (Copy::Vault, Some((_, there))) => !there.contains(&candidate.snapshot),
            (Copy::Vault, None) => false,
        };
    }
    let wish = Wish { point, before: order.before, copy: order.copy, reason: order.reason.clone() };
    let (choice, moment, second) = match order.to_time {
        None => (choose(order.system.as_str(), &offer.candidates, &wish)?, None, None),
        Some(to) => at_moment(way, order, &offer, &wish, to)?,
    };
    let from = match (choice.point.copy, elsewhere) {
        (Copy::Primary, _) => offer.repository.clone(),
        (Copy::Vault, Some((folder, _))) => folder,
        (Copy::Vault, None) => {
            let system = order.system.to_string();
            return Err(DrillError::NotAtHand { system, sequence: choice.point.sequence.0 }.into());
        }
    };
    let target = match (&order.to, &offer.profile.original) {
        (Some(to), _) => std::path::absolute(to).map_err(CliError::File)?,
        (None, Some(original)) => original.clone(),
        (None, None) => {
            return Err(CliError::Argument(
                "its recovery profile names no original place; write it with `kuramori drill profile`, or use `--to`"
                    .to_owned(),
            )
            .into());
        }
    };
    let exact = Wish {
        point: Some(choice.point.sequence),
        before: None,
        copy: Some(choice.point.copy),
        reason: order.reason.clone(),
    };
    let purpose = Purpose {
        by: order.by.clone(),
        verb: verb.to_owned(),
        wish: exact,
        target: Some(target.clone()),
        part: order.file.clone(),
    };
    let key = way.key(&order.system, &purpose)?;
    let repository = open(&from, &key)?;
    let plan = plan::make(
        &repository,
        plan::Order {
            system: order.system.as_str(),
            choice,
            from: &from,
            part: order.file.as_deref(),
            to: &target,
            original: order.original,
            measured: &offer.measured,
            rto_s: offer.system.rto_s,
            moment,
            second,
            now: SystemClock.now(),
        },
    )?;
    Ok((repository, plan))
}

/// Base backup and log for a moment: the restore points themselves say what they reach, so their repository is
/// opened first, and that is written down, too.
fn at_moment(
    way: &Way,
    order: &Order,
    offer: &Offer,
    wish: &Wish,
    to: Timestamp,
) -> Result<(Choice, Option<Moment>, Option<Second>), Failure> {
    let purpose = Purpose {
        by: order.by.clone(),
        verb: "plan".to_owned(),
        wish: wish.clone(),
        target: None,
        part: None,
    };
    let key = way.key(&order.system, &purpose)?;
    let copy = order.copy.unwrap_or(if order.from.is_some() { Copy::Vault } else { Copy::Primary });
    let folder = match (copy, &order.from) {
        (Copy::Vault, Some(folder)) => folder.clone(),
        (Copy::Vault, None) => {
            let (system, sequence) = (order.system.to_string(), key.choice.point.sequence.0);
            return Err(DrillError::NotAtHand { system, sequence }.into());
        }
        (Copy::Primary, _) => offer.repository.clone(),
    };
    let repository = open(&folder, &key)?;
    let asked = Asked {
        system: order.system.as_str(),
        candidates: &offer.candidates,
        copy,
        wish,
        to,
        profile: &offer.profile,
    };
    match choose_moment(&repository, &asked) {
        // Then it is a dump with a binary log, or nothing.
        Err(DrillError::NoLog { .. }) => {
            let (choice, second) = choose_second(&repository, &asked)?;
            Ok((choice, None, Some(second)))
        }
        other => other.map(|(choice, moment)| (choice, Some(moment), None)).map_err(Into::into),
    }
}

fn open(folder: &std::path::Path, key: &Key) -> Result<Repository<Indexed>, Failure> {
    let context = Context { username: "kuramori".to_owned(), ..Context::system() };
    let store = Arc::new(LocalStore::new(folder));
    Ok(Repository::open(store, &Secret::new(key.password.as_bytes()), context)?.index()?)
}

/// The ids of the snapshots that a repository's folder has; none where it cannot be read.
fn snapshots(folder: &std::path::Path) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let _ = LocalStore::new(folder).list(FileKind::Snapshot, &mut |id, _| {
        ids.insert(id.to_string());
        Ok(())
    });
    ids
}

fn carry_out(run: &Run, ui: &Ui) -> Outcome {
    let order = &run.order;
    let way = Way::of(order)?;
    let verb = if run.dry_run { "plan" } else { "run" };
    let (repository, plan) = prepare(&way, order, verb)?;
    show(&plan, ui);
    ui.data(&json!({ "message_type": "plan", "plan": plan }));
    if run.dry_run {
        return Ok(Exit::Done);
    }
    if !run.yes && !ui.confirm(ui.pick("この計画で復元しますか", "Restore by this plan?")) {
        ui.note(ui.pick("何も変更していません。", "Nothing was changed."));
        return Ok(Exit::Interrupted);
    }
    // A carried disk may be read-only, and nobody else works on it.
    let _lock = match plan.choice.point.copy {
        Copy::Primary => Some(repository.lock(LockMode::Shared, restore::PATIENCE)?),
        Copy::Vault => None,
    };
    let (progress, cancel) = (Progress::default(), cancel_on_signal());
    let how = How {
        accept_missing: run.accept_missing,
        verify: run.verify,
        workers: run.workers,
        leave_recovery: run.leave_recovery,
    };
    let outcome = with_bar(ui, ui.pick("復元中", "restoring"), &progress, || {
        restore::run(&repository, &plan, how, &SystemClock, &progress, &cancel)
    });
    let mut ended = Ended {
        by: order.by.clone(),
        snapshot: plan.choice.point.snapshot.clone(),
        target: plan.target.path.clone(),
        kept: None,
        bytes: 0,
        found_there: 0,
        seconds: 0.0,
        missing: 0,
        error: None,
    };
    match outcome {
        Ok(done) => {
            ended.kept.clone_from(&done.kept);
            (ended.bytes, ended.found_there) = (done.bytes, done.found_there);
            (ended.seconds, ended.missing) = (done.seconds, done.shortfalls.len());
            way.ended(&order.system, &ended)?;
            Ok(report(&done, ui))
        }
        Err(error) => {
            ended.error = Some(error.code().to_owned());
            way.ended(&order.system, &ended)?;
            if cancel.is_cancelled() {
                ui.note(format!(
                    "{}: {}",
                    ui.pick(
                        "中断しました。同じコマンドで続きから再開します",
                        "interrupted; the same command goes on from here"
                    ),
                    plan.target.staging.display()
                ));
                return Ok(Exit::Interrupted);
            }
            Err(error.into())
        }
    }
}

/// The whole database is started in isolation; only the table leaves it.
fn table(wanted: &Table, ui: &Ui) -> Outcome {
    let order = &wanted.order;
    let way = Way::of(order)?;
    let (repository, plan) = prepare(&way, order, "run")?;
    show(&plan, ui);
    ui.data(&json!({ "message_type": "plan", "plan": plan }));
    let profile = way.offer(&order.system)?.profile;
    let superuser = match &profile.service {
        Some(Service::Postgres { superuser }) => superuser.clone(),
        _ => "postgres".to_owned(),
    };
    let (progress, cancel) = (Progress::default(), cancel_on_signal());
    let begin = SystemClock.boot();
    let (path, bytes) = with_bar(ui, ui.pick("復元中", "restoring"), &progress, || {
        extract(
            &Wanted {
                repository: &repository,
                snapshot: &plan.choice.point.snapshot,
                profile: &profile,
                superuser: &superuser,
                database: &wanted.database,
                table: &wanted.table,
                moment: plan.moment.as_ref(),
                work: &wanted.work,
                to: &plan.target.path,
            },
            &SystemClock,
            &progress,
            &cancel,
        )
    })?;
    let ended = Ended {
        by: order.by.clone(),
        snapshot: plan.choice.point.snapshot.clone(),
        target: path.clone(),
        kept: None,
        // The file's size says nothing about how fast the system comes back: no measurement.
        bytes,
        found_there: bytes,
        seconds: SystemClock.boot().saturating_sub(begin).as_secs_f64(),
        missing: 0,
        error: None,
    };
    way.ended(&order.system, &ended)?;
    ui.data(&json!({ "message_type": "summary", "table": wanted.table, "path": path, "bytes": bytes }));
    ui.line(format!(
        "{} {} ({}) → {}",
        ui.pick("表を取り出しました:", "got the table"),
        wanted.table,
        Bytes(bytes),
        path.display()
    ));
    Ok(Exit::Done)
}
