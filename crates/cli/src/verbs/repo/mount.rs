//! `kuramori repo mount`: restore points as folders.

use std::{path::PathBuf, time::Duration};

use jiff::tz::TimeZone;
use kuramori_model::{
    clock::{Clock, SystemClock},
    fault::Exit,
};
use kuramori_mount::Options;
use kuramori_repo::{
    lock::LockMode,
    reading::{ReadOptions, Reader},
};

use super::open::{PATIENCE, Place, cancel_on_signal};
use crate::{Outcome, ui::Ui};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// An empty folder
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// Let other users in, each to what the stored modes allow
    #[arg(long)]
    allow_other: bool,
    /// Memory for what was read, in MiB
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(8..=65_536), value_name = "MIB")]
    cache: u32,
    /// Read without taking a lock: for a store that cannot be written
    #[arg(long)]
    no_lock: bool,
}

pub(super) fn run(args: &Args, ui: &Ui) -> Outcome {
    let cancel = cancel_on_signal();
    let repository = args.place.open()?;
    let lock = if args.no_lock { None } else { Some(repository.lock(LockMode::Shared, PATIENCE)?) };
    let memory = usize::try_from(args.cache).unwrap_or(64) << 20;
    let reader = Reader::new(repository.index()?, ReadOptions { memory, ..ReadOptions::default() })?;
    let options = Options { zone: TimeZone::system(), allow_other: args.allow_other };
    let mounted = kuramori_mount::mount(reader, &args.folder, options)?;
    ui.line(format!(
        "{} {}\n{}",
        ui.pick("マウントしました:", "mounted on"),
        args.folder.display(),
        ui.pick("終えるには Ctrl-C を押すか、umount してください", "end it with Ctrl-C or umount")
    ));
    ui.data(&serde_json::json!({"message_type": "status", "mounted": args.folder}));
    while !cancel.is_cancelled() && !mounted.is_over() {
        if let Some(lock) = &lock {
            lock.check()?;
        }
        SystemClock.sleep(Duration::from_millis(200));
    }
    drop(mounted);
    Ok(Exit::Done)
}
