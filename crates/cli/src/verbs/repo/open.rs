//! Where a repository is and how its password is found.

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use kuramori_model::fault::Exit;
use kuramori_repo::{
    Cancel, Context, Repository, Secret,
    progress::Progress,
    store::{LocalStore, RestOptions, RestStore, Store},
};

use crate::{
    Outcome,
    failure::{CliError, Failure},
    ui::Ui,
};

/// How long a verb waits for somebody else's lock.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Which repository.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// The repository: a folder, or rest:https://user@host:port/name/
    #[arg(short, long, env = "KURAMORI_REPOSITORY", value_name = "REPOSITORY")]
    pub(super) repo: String,
    /// A file with the password
    #[arg(long, env = "KURAMORI_PASSWORD_FILE", value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// A command that prints the password
    #[arg(long, env = "KURAMORI_PASSWORD_COMMAND", value_name = "COMMAND", conflicts_with = "password_file")]
    password_command: Option<String>,
    /// The certificate authority of a REST store (PEM)
    #[arg(long, env = "KURAMORI_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
}

impl Place {
    /// Opens the repository with the password that was given.
    pub(super) fn open(&self) -> Result<Repository, Failure> {
        Ok(Repository::open(self.store()?, &self.secret()?, Context::system())?)
    }

    /// The store alone.
    pub(super) fn store(&self) -> Result<Arc<dyn Store>, Failure> {
        store_at(&self.repo, self.cacert.as_ref())
    }

    /// `--password-file`, `--password-command`, then `KURAMORI_PASSWORD`.
    pub(super) fn secret(&self) -> Result<Secret, Failure> {
        if let Some(file) = &self.password_file {
            return secret_from(file);
        }
        if let Some(command) = &self.password_command {
            let output = Command::new("/bin/sh").args(["-c", command]).output().map_err(CliError::File)?;
            if !output.status.success() {
                return Err(CliError::Command {
                    command: command.clone(),
                    status: output.status.to_string(),
                }
                .into());
            }
            return Ok(Secret::new(first_line(&output.stdout)));
        }
        match std::env::var("KURAMORI_PASSWORD") {
            Ok(password) if !password.is_empty() => Ok(Secret::new(password)),
            _ => Err(CliError::Argument(
                "no password: give --password-file, --password-command or KURAMORI_PASSWORD".to_owned(),
            )
            .into()),
        }
    }
}

/// A store by its address.
pub(super) fn store_at(address: &str, cacert: Option<&PathBuf>) -> Result<Arc<dyn Store>, Failure> {
    if address.starts_with("rest:") {
        let root = cacert.map(fs_err::read).transpose().map_err(CliError::File)?;
        return Ok(Arc::new(RestStore::new(address, RestOptions { root, ..RestOptions::default() })?));
    }
    if address.starts_with("s3:") {
        return Err(
            CliError::Argument("stores of kind s3 are not available in this version".to_owned()).into()
        );
    }
    Ok(Arc::new(LocalStore::new(address)))
}

/// The first line of a password file.
pub(super) fn secret_from(file: &PathBuf) -> Result<Secret, Failure> {
    let bytes = fs_err::read(file).map_err(CliError::File)?;
    let line = first_line(&bytes);
    if line.is_empty() {
        return Err(CliError::Argument(format!("the password file `{}` is empty", file.display())).into());
    }
    Ok(Secret::new(line))
}

fn first_line(bytes: &[u8]) -> &[u8] {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Cancelled by Ctrl-C or a service manager's stop; a second signal ends the process at once.
pub(crate) fn cancel_on_signal() -> Cancel {
    let cancel = Cancel::default();
    let flag = cancel.clone();
    on_signal(move || flag.cancel());
    cancel
}

/// Calls `stop` at the first SIGINT or SIGTERM; the second one ends the program at once.
pub(crate) fn on_signal(stop: impl Fn() + Send + 'static) {
    if let Ok(mut signals) =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM])
    {
        std::thread::spawn(move || {
            let mut stopped = false;
            for signal in signals.forever() {
                if stopped {
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
                stopped = true;
                stop();
            }
        });
    }
}

/// Draws a bar from counters while `work` runs.
pub(crate) fn with_bar<T>(ui: &Ui, message: &str, progress: &Progress, work: impl FnOnce() -> T) -> T {
    let bar = ui.bytes_bar(Some(0)).with_message(message.to_owned());
    if bar.is_hidden() {
        return work();
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let stand = progress.stand();
                bar.set_length(stand.total_bytes);
                bar.set_position(stand.bytes);
                std::thread::park_timeout(Duration::from_millis(200));
            }
            bar.finish_and_clear();
        });
        let result = work();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        result
    })
}

pub(super) fn init(place: &Place, ui: &Ui) -> Outcome {
    let repository = Repository::create(place.store()?, &place.secret()?, Context::system())?;
    ui.line(format!("{} {}", ui.pick("リポジトリを作成しました:", "made the repository"), repository.id()));
    ui.data(
        &serde_json::json!({"message_type": "initialized", "id": repository.id(), "repository": place.repo}),
    );
    Ok(Exit::Done)
}
