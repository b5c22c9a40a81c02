//! `kuramori repo key`: several passwords for one repository.

use std::path::PathBuf;

use clap::Subcommand;
use kuramori_model::fault::Exit;
use kuramori_repo::lock::LockMode;

use super::open::{PATIENCE, Place, secret_from};
use crate::{Outcome, failure::CliError, ui::Ui};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the passwords' key files
    List(Place),
    /// Add a password
    Add(Add),
    /// Remove a password
    Remove(Remove),
}

#[derive(Debug, clap::Args)]
struct Add {
    #[command(flatten)]
    place: Place,
    /// A file with the new password
    #[arg(long, value_name = "FILE")]
    new_password_file: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Remove {
    #[command(flatten)]
    place: Place,
    /// The key's id, as `list` shows it
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) fn run(args: &Args, ui: &Ui) -> Outcome {
    match &args.verb {
        Verb::List(place) => {
            for key in place.open()?.keys()? {
                let mark = if key.current { "*" } else { " " };
                ui.line(format!("{mark} {} {}@{} {:.0}", key.id, key.username, key.hostname, key.created));
                ui.data(&serde_json::json!({
                    "id": key.id.to_string(), "current": key.current, "username": key.username,
                    "hostname": key.hostname, "created": key.created,
                }));
            }
        }
        Verb::Add(add) => {
            let id = add.place.open()?.add_key(&secret_from(&add.new_password_file)?)?;
            ui.line(format!("{} {id}", ui.pick("鍵を追加しました:", "added the key")));
            ui.data(&serde_json::json!({"message_type": "summary", "added": id.to_string()}));
        }
        Verb::Remove(remove) => {
            let repository = remove.place.open()?;
            let _lock = repository.lock(LockMode::Exclusive, PATIENCE)?;
            let id = remove
                .id
                .parse()
                .map_err(|error: kuramori_repo::store::BadId| CliError::Argument(error.to_string()))?;
            repository.remove_key(id)?;
            ui.line(ui.pick("鍵を削除しました", "removed the key"));
        }
    }
    Ok(Exit::Done)
}
