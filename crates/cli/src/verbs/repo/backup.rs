//! `kuramori repo backup`.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use kuramori_model::{fault::Exit, tree::TreePath, units::Bytes};
use kuramori_repo::{
    Repository,
    backup::{Committed, Draft, Options},
    chunk::Chunking,
    local::Selection,
    repository::Indexed,
};

use super::open::{PATIENCE, Place, cancel_on_signal};
use crate::{
    Outcome,
    failure::{CliError, Failure},
    ui::Ui,
};

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// What to back up
    #[arg(required_unless_present = "stdin_from_command", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Back up the output of a command (after `--`); if it fails, nothing is stored
    #[arg(long)]
    stdin_from_command: bool,
    /// Name of the file that holds a command's output
    #[arg(long, default_value = "stdin", value_name = "NAME")]
    stdin_filename: String,
    /// Leave out what matches (`*.tmp`, `/var/cache/**`); may be given several times
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Do not go into other file systems
    #[arg(long)]
    one_file_system: bool,
    /// A label; may be given several times
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// The machine's name to record
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Read every file, also those that seem unchanged
    #[arg(long)]
    force: bool,
    /// Cut content every 1 MiB: for disks and other data that changes in place
    #[arg(long)]
    fixed: bool,
    /// zstd level
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19), value_name = "LEVEL")]
    level: i32,
}

pub(super) fn run(args: &Args, ui: &Ui) -> Outcome {
    let repository = args.place.open()?.index()?;
    let committed = if args.stdin_from_command {
        from_command(args, &repository, ui)
    } else {
        from_paths(args, &repository, ui)
    }?;
    report(&committed, ui);
    Ok(if committed.is_incomplete() { Exit::Partial } else { Exit::Done })
}

fn options(args: &Args, ui: &Ui) -> Options {
    let bar = ui.bytes_bar(None);
    let watcher: Option<kuramori_repo::backup::Watcher> = (!bar.is_hidden()).then(|| {
        let watch: kuramori_repo::backup::Watcher =
            Arc::new(move |progress: &kuramori_repo::progress::Stand| {
                bar.set_position(progress.bytes);
                bar.set_message(format!("{}/{}", progress.items, progress.total_items));
            });
        watch
    });
    Options {
        chunking: if args.fixed { Chunking::Fixed } else { Chunking::Content },
        level: args.level,
        patience: PATIENCE,
        cancel: cancel_on_signal(),
        watcher,
        ..Options::default()
    }
}

fn draft(args: &Args, repository: &Repository<Indexed>, paths: Vec<String>) -> Draft {
    let context = repository.context();
    Draft {
        hostname: args.host.clone().unwrap_or_else(|| context.hostname.clone()),
        username: context.username.clone(),
        paths,
        tags: args.tag.clone(),
        time: None,
        excludes: args.exclude.clone(),
    }
}

fn from_paths(args: &Args, repository: &Repository<Indexed>, ui: &Ui) -> Result<Committed, Failure> {
    let paths = kuramori_repo::local::snapshot_paths(&args.paths)?;
    let mut options = options(args, ui);
    let draft = draft(args, repository, paths);
    if !args.force {
        options.parent = repository.find_parent(&draft.hostname, &draft.paths)?;
    }
    let mut backup = repository.backup(options)?;
    let selection = Selection {
        excludes: args.exclude.clone(),
        one_file_system: args.one_file_system,
        access_time: false,
    };
    backup.add_paths(&args.paths, &selection)?;
    Ok(backup.commit(draft)?)
}

/// Streams a command's output. Its exit status is known before the restore point is written: a dump that
/// failed leaves none.
fn from_command(args: &Args, repository: &Repository<Indexed>, ui: &Ui) -> Result<Committed, Failure> {
    let Some((program, arguments)) = args.paths.split_first() else {
        return Err(CliError::Argument("give the command after `--`".to_owned()).into());
    };
    let name = TreePath::new(args.stdin_filename.clone().into_bytes())
        .map_err(|error| CliError::Argument(error.to_string()))?;
    let mut backup = repository.backup(options(args, ui))?;
    let mut child =
        Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().map_err(CliError::File)?;
    let streamed = match child.stdout.take() {
        Some(mut output) => backup.stream(&name, &mut output),
        None => Ok(0),
    };
    if streamed.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(CliError::File)?;
    streamed?;
    if !status.success() {
        let command = args.paths.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        return Err(CliError::Command { command, status: status.to_string() }.into());
    }
    Ok(backup.commit(draft(args, repository, vec![format!("/{}", args.stdin_filename)]))?)
}

fn report(committed: &Committed, ui: &Ui) {
    let Committed { id, summary, report } = committed;
    ui.data(&serde_json::json!({
        "message_type": "summary",
        "snapshot_id": id.to_string(),
        "incomplete": committed.is_incomplete(),
        "files_new": summary.files_new,
        "files_changed": summary.files_changed,
        "files_unmodified": summary.files_unmodified,
        "data_added": summary.data_added,
        "data_added_packed": summary.data_added_packed,
        "total_files_processed": summary.total_files_processed,
        "total_bytes_processed": summary.total_bytes_processed,
        "faults": report.faults.iter().map(|note| serde_json::json!({"path": note.path, "why": note.why})).collect::<Vec<_>>(),
    }));
    for note in &report.faults {
        ui.note(format!(
            "{}: {}: {}",
            ui.pick("読み取れませんでした", "could not be read"),
            note.path,
            note.why
        ));
    }
    for note in &report.notes {
        ui.note(format!("{}: {}: {}", ui.pick("注意", "note"), note.path, note.why));
    }
    ui.line(format!(
        "{} {id}\n{} {} ({}), {} {} ({})",
        if committed.is_incomplete() {
            ui.pick("復元点(不完全):", "restore point (INCOMPLETE)")
        } else {
            ui.pick("復元点:", "restore point")
        },
        ui.pick("ファイル", "files"),
        summary.total_files_processed,
        Bytes(summary.total_bytes_processed),
        ui.pick("新しいデータ", "new data"),
        Bytes(summary.data_added),
        Bytes(summary.data_added_packed),
    ));
}
