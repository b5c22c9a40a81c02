//! Verbs that look after a repository: `check`, `forget`, `prune`, `mirror`, `unlock`.

use std::path::PathBuf;

use jiff::tz::TimeZone;
use kuramori_model::{fault::Exit, units::Bytes};
use kuramori_repo::{
    check::CheckOptions,
    forget::{Policy, plan},
    progress::Progress,
    prune::PruneOptions,
};

use super::open::{PATIENCE, Place, cancel_on_signal, store_at, with_bar};
use crate::{Outcome, ui::Ui};

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    place: Place,
    /// Read every byte and compare it with its hash
    #[arg(long)]
    read_data: bool,
    /// Threads that read
    #[arg(long, default_value_t = 4, value_name = "N")]
    workers: usize,
}

#[derive(Debug, clap::Args)]
pub(super) struct Forget {
    #[command(flatten)]
    place: Place,
    /// Keep the newest N
    #[arg(long, default_value_t = 0, value_name = "N")]
    keep_last: u32,
    /// Keep the newest of each of N hours
    #[arg(long, default_value_t = 0, value_name = "N")]
    keep_hourly: u32,
    /// Keep the newest of each of N days
    #[arg(long, default_value_t = 0, value_name = "N")]
    keep_daily: u32,
    /// Keep the newest of each of N weeks
    #[arg(long, default_value_t = 0, value_name = "N")]
    keep_weekly: u32,
    /// Keep the newest of each of N months
    #[arg(long, default_value_t = 0, value_name = "N")]
    keep_monthly: u32,
    /// Keep the newest of each of N years
    #[arg(long, default_value_t = 0, value_name = "N")]
    keep_yearly: u32,
    /// Keep those with this label; may be given several times
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
    /// Show what would be removed and stop
    #[arg(long)]
    dry_run: bool,
    /// Remove without asking
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Prune {
    #[command(flatten)]
    place: Place,
    /// Share of unneeded bytes, in percent, that may stay in packs that are kept
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=100), value_name = "PERCENT")]
    max_unused: u8,
    /// Show the plan and stop
    #[arg(long)]
    dry_run: bool,
    /// Remove without asking
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Mirror {
    #[command(flatten)]
    place: Place,
    /// Where to copy to: a folder, or rest:https://…
    #[arg(long, value_name = "REPOSITORY")]
    to: String,
    /// The certificate authority of the target (PEM)
    #[arg(long, value_name = "FILE")]
    to_cacert: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Unlock {
    #[command(flatten)]
    place: Place,
}

pub(super) fn check(args: &Check, ui: &Ui) -> Outcome {
    let repository = args.place.open()?;
    let progress = Progress::default();
    let cancel = cancel_on_signal();
    let options = CheckOptions { read_data: args.read_data, workers: args.workers };
    let checked = with_bar(ui, ui.pick("検査中", "checking"), &progress, || {
        repository.check(options, &progress, &cancel)
    })?;
    ui.data(&serde_json::json!({"message_type": "summary", "checked": checked}));
    for damage in &checked.damages {
        ui.line(format!("[{}] {}", damage.code, damage.what));
    }
    ui.line(format!(
        "{} {}, {} {}, {} {}, {} {}: {}",
        ui.pick("復元点", "restore points"),
        checked.snapshots,
        ui.pick("パック", "packs"),
        checked.packs,
        ui.pick("データ片", "blobs"),
        checked.blobs,
        ui.pick("読み取り", "read"),
        Bytes(checked.bytes_read),
        if checked.is_clean() {
            ui.pick("異常なし", "no damage")
        } else {
            ui.pick("破損あり", "DAMAGED")
        }
    ));
    Ok(if checked.is_clean() { Exit::Done } else { Exit::Damaged })
}

pub(super) fn forget(args: &Forget, ui: &Ui) -> Outcome {
    let repository = args.place.open()?;
    let policy = Policy {
        last: args.keep_last,
        hourly: args.keep_hourly,
        daily: args.keep_daily,
        weekly: args.keep_weekly,
        monthly: args.keep_monthly,
        yearly: args.keep_yearly,
        tags: args.keep_tag.clone(),
    };
    let groups = plan(&repository.snapshots()?, &policy, &TimeZone::system())?;
    let mut remove = Vec::new();
    for group in &groups {
        ui.line(format!("{} {}", group.hostname, group.paths.join(" ")));
        for (id, time, reasons) in &group.keep {
            ui.line(format!("  {} {id:.8} {time:.0} ({})", ui.pick("残す", "keep  "), reasons.join(", ")));
        }
        for (id, time) in &group.remove {
            ui.line(format!("  {} {id:.8} {time:.0}", ui.pick("消す", "remove")));
            remove.push(*id);
        }
    }
    ui.data(&serde_json::json!({
        "message_type": "plan",
        "keep": groups.iter().map(|group| group.keep.len()).sum::<usize>(),
        "remove": remove.iter().map(ToString::to_string).collect::<Vec<_>>(),
    }));
    if args.dry_run || remove.is_empty() {
        return Ok(Exit::Done);
    }
    if !args.yes {
        ui.note(ui.pick("実行するには --yes を付けてください", "nothing was removed; add --yes to do it"));
        return Ok(Exit::Fix);
    }
    repository.remove_snapshots(&remove, PATIENCE)?;
    Ok(Exit::Done)
}

pub(super) fn prune(args: &Prune, ui: &Ui) -> Outcome {
    let repository = args.place.open()?;
    let cancel = cancel_on_signal();
    let options =
        PruneOptions { max_unused_percent: args.max_unused, max_repack_bytes: u64::MAX, patience: PATIENCE };
    let pruning = repository.plan_prune(&options, &cancel)?;
    let plan = pruning.plan();
    ui.data(&serde_json::json!({"message_type": "plan", "plan": plan}));
    ui.line(format!(
        "{} {} ({}), {} {} ({}), {} {}",
        ui.pick("削除するパック", "packs to remove"),
        plan.remove_packs,
        Bytes(plan.remove_bytes),
        ui.pick("詰め直すパック", "packs to repack"),
        plan.repack_packs,
        Bytes(plan.repack_bytes),
        ui.pick("残る不要データ", "unneeded bytes that stay"),
        Bytes(plan.unused_kept_bytes),
    ));
    if args.dry_run || plan.is_empty() {
        return Ok(Exit::Done);
    }
    if !args.yes {
        ui.note(ui.pick("実行するには --yes を付けてください", "nothing was removed; add --yes to do it"));
        return Ok(Exit::Fix);
    }
    let progress = Progress::default();
    with_bar(ui, ui.pick("整理中", "pruning"), &progress, || pruning.execute(&progress, &cancel))?;
    Ok(Exit::Done)
}

pub(super) fn mirror(args: &Mirror, ui: &Ui) -> Outcome {
    let (from, to) = (args.place.store()?, store_at(&args.to, args.to_cacert.as_ref())?);
    let progress = Progress::default();
    let cancel = cancel_on_signal();
    let done = with_bar(ui, ui.pick("複製中", "copying"), &progress, || {
        kuramori_repo::mirror::mirror(&*from, &*to, &progress, &cancel)
    })?;
    ui.data(&serde_json::json!({"message_type": "summary", "mirrored": done}));
    ui.line(format!(
        "{} {} ({}), {} {}",
        ui.pick("複製したファイル", "files copied"),
        done.files,
        Bytes(done.bytes),
        ui.pick("既にあったファイル", "already there"),
        done.present
    ));
    Ok(Exit::Done)
}

pub(super) fn unlock(args: &Unlock, ui: &Ui) -> Outcome {
    let removed = args.place.open()?.remove_all_locks()?;
    ui.line(format!("{} {removed}", ui.pick("削除したロック:", "locks removed:")));
    ui.data(&serde_json::json!({"message_type": "summary", "locks_removed": removed}));
    Ok(Exit::Done)
}
