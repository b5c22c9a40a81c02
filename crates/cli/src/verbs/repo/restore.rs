//! `kuramori repo restore SNAPSHOT[:PATH] --target DIR`.

use std::path::PathBuf;

use kuramori_model::{fault::Exit, tree::TreePath, units::Bytes};
use kuramori_repo::{progress::Progress, restore::RestoreOptions};

use super::open::{PATIENCE, Place, cancel_on_signal, with_bar};
use crate::{Outcome, failure::CliError, ui::Ui};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// The restore point (the start of its id, or `latest`), with `:PATH` for a part of it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: String,
    /// The folder to restore into
    #[arg(short, long, value_name = "DIR")]
    target: PathBuf,
    /// Restore into a folder that is not empty, replacing what stands in the way
    #[arg(long)]
    overwrite: bool,
    /// Threads that read
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Read without taking a lock: for a store that cannot be written
    #[arg(long)]
    no_lock: bool,
}

pub(super) fn run(args: &Args, ui: &Ui) -> Outcome {
    let (name, subpath) = match args.snapshot.split_once(':') {
        None => (args.snapshot.as_str(), None),
        Some((name, path)) => {
            let path = path.trim_matches('/');
            let path =
                TreePath::new(path.as_bytes()).map_err(|error| CliError::Argument(error.to_string()))?;
            (name, Some(path))
        }
    };
    let repository = args.place.open()?;
    let _lock = if args.no_lock {
        None
    } else {
        Some(repository.lock(kuramori_repo::lock::LockMode::Shared, PATIENCE)?)
    };
    let (id, snapshot) = repository.find_snapshot(name)?;
    let repository = repository.index()?;
    let mut options = RestoreOptions::to(&args.target);
    options.subpath = subpath;
    options.overwrite = args.overwrite;
    if let Some(workers) = args.workers {
        options.workers = workers;
    }
    if snapshot.is_incomplete() {
        ui.note(ui.pick("注意: この復元点は不完全です", "note: this restore point is incomplete"));
    }
    let progress = Progress::default();
    let cancel = cancel_on_signal();
    let restored = with_bar(ui, ui.pick("復元中", "restoring"), &progress, || {
        repository.restore(&snapshot, &options, &progress, &cancel)
    })?;
    ui.data(
        &serde_json::json!({"message_type": "summary", "snapshot_id": id.to_string(), "restored": restored}),
    );
    for item in &restored.shortfalls {
        ui.note(format!(
            "{}: {}: {}",
            ui.pick("復元できませんでした", "could not be restored"),
            item.path,
            item.why
        ));
    }
    ui.line(format!(
        "{} {} {} ({}) → {}",
        ui.pick("復元しました:", "restored"),
        restored.files,
        ui.pick("ファイル", "files"),
        Bytes(restored.bytes),
        args.target.display()
    ));
    Ok(match (restored.shortfalls.iter().any(|item| item.damaged), restored.shortfalls.is_empty()) {
        (true, _) => Exit::Damaged,
        (false, false) => Exit::Partial,
        (false, true) => Exit::Done,
    })
}
