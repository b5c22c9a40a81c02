//! `kuramori system`: the register of departmental systems.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use kuramori_model::fault::Exit;
use kuramori_server::register::{self, Entry};
use serde_json::{Map, Value, json};

use super::{agent, server::Connect, windows};
use crate::{
    Outcome,
    failure::{CliError, Failure},
    ui::Ui,
};

/// The register of departmental systems.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Register systems, by options or from a TOML or CSV file
    Add(Box<Add>),
    /// List the register in restore order
    List(Connect),
    /// Show one entry
    Show(One),
    /// Change keys of one entry
    Edit(Edit),
    /// Take a system out of the register; its restore points must be gone
    Remove(Remove),
}

#[derive(Debug, clap::Args)]
struct Add {
    #[command(flatten)]
    connect: Connect,
    /// Register everything in this file (`[[system]]` in TOML, or CSV with a header)
    #[arg(long, value_name = "FILE", conflicts_with = "id")]
    from: Option<PathBuf>,
    /// Short name; also login and folder
    #[arg(long, required_unless_present = "from")]
    id: Option<String>,
    /// Name in Japanese
    #[arg(long, value_name = "NAME")]
    name_ja: Option<String>,
    /// Name in English
    #[arg(long, value_name = "NAME")]
    name_en: Option<String>,
    /// Who answers for it
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Its vendor
    #[arg(long, value_name = "NAME")]
    vendor: Option<String>,
    /// Whom to call
    #[arg(long, value_name = "TEXT")]
    contact: Option<String>,
    /// critical, important or standard
    #[arg(long, value_name = "CLASS")]
    protection: Option<String>,
    /// How old a restore point may be: `24h`
    #[arg(long, value_name = "TIME")]
    rpo: Option<String>,
    /// How long it may be away: `4h`
    #[arg(long, value_name = "TIME")]
    rto: Option<String>,
    /// Place in the restore order, 1 first
    #[arg(long, value_name = "NUMBER")]
    restore_order: Option<u32>,
    /// When: a cron line of five fields
    #[arg(long, value_name = "CRON")]
    schedule: Option<String>,
    /// Most that a restic client's repository may hold: `500 GiB`
    #[arg(long, value_name = "SIZE")]
    quota: Option<String>,
    /// How it is read, key by key: `kind=smb`; without any it is a stock restic client
    #[arg(long, value_name = "KEY=VALUE")]
    source: Vec<String>,
    /// Read by this agent: `NAME`, or `NAME:UNIT` where the unit in the agent's own file is called otherwise
    #[arg(long, value_name = "NAME[:UNIT]", conflicts_with_all = ["from", "source", "import", "windows"])]
    agent: Option<String>,
    /// Where to put the URL, passwords and certificate for a restic client or another product's script, mode
    /// 0600, instead of printing them
    #[arg(long, value_name = "FOLDER")]
    credentials: Option<PathBuf>,
    /// Take over this existing restic repository with its history: a folder of this machine, which is only read
    #[arg(long, value_name = "FOLDER", requires = "import_password", conflicts_with_all = ["from", "source"])]
    import: Option<PathBuf>,
    /// File with that repository's password
    #[arg(long, value_name = "FILE", requires = "import")]
    import_password: Option<PathBuf>,
    /// For a Windows server: write script, scheduled task and credentials for stock restic with VSS into this
    /// folder
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["from", "source", "credentials"])]
    windows: Option<PathBuf>,
    /// A folder or drive of the Windows server to back up: `D:\Data`; may be repeated
    #[arg(long, value_name = "PATH", requires = "windows")]
    windows_path: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct One {
    #[command(flatten)]
    connect: Connect,
    /// Which system
    system: String,
}

#[derive(Debug, clap::Args)]
struct Edit {
    #[command(flatten)]
    connect: Connect,
    /// Which system
    system: String,
    /// Change one key, with a dot for nested ones: `schedule.cron=0 2 * * *`, `enabled=false`
    #[arg(long = "set", value_name = "KEY=VALUE", required = true)]
    change: Vec<String>,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct Remove {
    #[command(flatten)]
    connect: Connect,
    /// Which system
    system: String,
    /// Really do it
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    match &args.verb {
        Verb::Add(new) => add(new, ui),
        Verb::List(connect) => list(connect, ui),
        Verb::Show(one) => {
            let entry: Value = one.connect.client()?.get(&format!("/v1/systems/{}", one.system))?;
            ui.data(&entry);
            ui.line(serde_json::to_string_pretty(&entry).unwrap_or_default());
            Ok(Exit::Done)
        }
        Verb::Edit(edit) => change(edit, ui),
        Verb::Remove(remove) => {
            if !remove.yes {
                ui.line(format!("{}: {}", ui.pick("台帳から削除します", "would be removed"), remove.system));
                return Err(CliError::Argument("nothing was removed; add `--yes`".to_owned()).into());
            }
            let answer: Value = remove.connect.client()?.delete(&format!("/v1/systems/{}", remove.system))?;
            ui.data(&answer);
            ui.line(format!("{}: {}", ui.pick("削除しました", "removed"), remove.system));
            Ok(Exit::Done)
        }
    }
}

/// `a.b=1` into `{"a":{"b":1}}`; a value is JSON where it parses as such, else text.
fn put(object: &mut Map<String, Value>, pair: &str) -> Result<(), Failure> {
    let (key, text) = pair
        .split_once('=')
        .ok_or_else(|| CliError::Argument(format!("`{pair}` is not of the form `key=value`")))?;
    let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    let mut parts = key.split('.').peekable();
    let mut here = object;
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            here.insert(part.to_owned(), value);
            break;
        }
        let below = here.entry(part).or_insert_with(|| Value::Object(Map::new()));
        if !below.is_object() {
            *below = Value::Object(Map::new());
        }
        let Value::Object(next) = below else { break };
        here = next;
    }
    Ok(())
}

fn entries(new: &Add) -> Result<Vec<Entry>, Failure> {
    if let Some(file) = &new.from {
        return Ok(register::read(file)?);
    }
    let mut object = Map::new();
    let texts = [
        ("id", &new.id),
        ("name_ja", &new.name_ja),
        ("name_en", &new.name_en),
        ("owner", &new.owner),
        ("vendor", &new.vendor),
        ("contact", &new.contact),
        ("protection", &new.protection),
        ("rpo", &new.rpo),
        ("rto", &new.rto),
        ("schedule", &new.schedule),
        ("quota", &new.quota),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            object.insert(key.to_owned(), Value::from(text.as_str()));
        }
    }
    if let Some(order) = new.restore_order {
        object.insert("restore_order".to_owned(), Value::from(order));
    }
    if let Some(agent) = &new.agent {
        let (agent, unit) = agent.split_once(':').unwrap_or((agent, new.id.as_deref().unwrap_or_default()));
        object.insert("source".to_owned(), json!({ "kind": "agent", "agent": agent, "unit": unit }));
    }
    for pair in &new.source {
        put(&mut object, &format!("source.{pair}"))?;
    }
    let entry = serde_json::from_value(Value::Object(object))
        .map_err(|error| CliError::Argument(format!("the options do not make an entry: {error}")))?;
    Ok(vec![entry])
}

fn add(new: &Add, ui: &Ui) -> Outcome {
    let client = new.connect.client()?;
    if new.windows.is_some() && new.windows_path.is_empty() {
        return Err(CliError::Argument("name at least one `--windows-path`".to_owned()).into());
    }
    for entry in entries(new)? {
        let added: Value = match (&new.import, &new.import_password) {
            (Some(from), Some(password_file)) => {
                let import = json!({ "entry": entry, "from": absolute(from)?, "password_file": absolute(password_file)? });
                let imported: Value = client.post("/v1/imports", &import)?;
                ui.line(format!(
                    "{}: {}",
                    ui.pick("引き継いだ復元点", "restore points taken over"),
                    imported["points"]
                ));
                imported["added"].clone()
            }
            _ => client.post("/v1/systems", &entry)?,
        };
        let id = entry.id.as_str();
        ui.line(format!("{}: {id}", ui.pick("登録しました", "registered")));
        if let Some(name) = added["system"]["source"]["agent"].as_str().filter(|_| new.agent.is_some()) {
            let agents: Vec<Value> = client.get("/v1/agents")?;
            let enrolled = agents.iter().any(|agent| {
                agent["name"] == name && agent["certificates"].as_array().is_some_and(|all| !all.is_empty())
            });
            let mut said = added.clone();
            if !enrolled {
                let made: Value =
                    client.post(&format!("/v1/agents/{name}/invite"), &json!({ "hours": 1 }))?;
                agent::show_invitation(&made, ui);
                said["invitation"] = made;
            }
            ui.data(&said);
            continue;
        }
        let granted = if added["product"].is_object() { &added["product"] } else { &added["client"] };
        if let Some(folder) = &new.windows {
            let folder = folder.join(id);
            credentials(&folder, granted)?;
            let cron = added["system"]["schedule"]["cron"].as_str().unwrap_or_default();
            windows::write(&folder, id, &new.windows_path, cron)?;
            ui.line(format!("  {}: {}", ui.pick("Windows 用一式", "for Windows"), folder.display()));
            ui.data(&json!({ "system": added["system"], "windows": folder }));
            continue;
        }
        match &new.credentials {
            Some(folder) if granted.is_object() => {
                credentials(&folder.join(id), granted)?;
                ui.line(format!("  {}: {}", ui.pick("接続情報", "credentials"), folder.join(id).display()));
                ui.data(&json!({ "system": added["system"], "credentials": folder.join(id) }));
            }
            _ => {
                ui.data(&added);
                for key in ["url", "login_password", "repository_password"] {
                    if let Some(text) = granted[key].as_str() {
                        ui.line(format!("  {key}: {text}"));
                    }
                }
                if granted.is_object() {
                    ui.note(
                        ui.pick("これらは二度と表示されません。", "These are shown once and kept nowhere."),
                    );
                }
            }
        }
    }
    Ok(Exit::Done)
}

/// The server reads it with its own working folder.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    Ok(std::path::absolute(path).map_err(CliError::File)?)
}

/// What a restic client needs, one file each, readable by the owner only.
fn credentials(folder: &Path, granted: &Value) -> Result<(), Failure> {
    fs_err::create_dir_all(folder).map_err(CliError::File)?;
    for (name, key) in [
        ("url", "url"),
        ("login", "login"),
        ("login.password", "login_password"),
        ("repository.password", "repository_password"),
        ("ca.pem", "authority"),
    ] {
        // Another product's script needs no repository password.
        if granted[key].is_null() {
            continue;
        }
        let mut options = fs_err::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        options.options_mut().mode(0o600);
        let mut file = options.open(folder.join(name)).map_err(CliError::File)?;
        writeln!(file, "{}", granted[key].as_str().unwrap_or_default().trim_end()).map_err(CliError::File)?;
    }
    Ok(())
}

fn list(connect: &Connect, ui: &Ui) -> Outcome {
    let entries: Vec<Value> = connect.client()?.get("/v1/systems")?;
    ui.data(&entries);
    for entry in &entries {
        let system = &entry["system"];
        let text = |key: &str| system[key].as_str().unwrap_or_default().to_owned();
        let name = if ui.pick("ja", "en") == "ja" { text("name_ja") } else { text("name_en") };
        let off = if system["enabled"] == true { "" } else { ui.pick("(無効)", "(disabled)") };
        ui.line(format!(
            "{:>3} {:<20} {:<10} {:<9} {:<16} {name}{off}",
            system["restore_order"],
            text("id"),
            text("protection"),
            text("writer"),
            system["schedule"]["cron"].as_str().unwrap_or_default()
        ));
    }
    Ok(Exit::Done)
}

fn change(edit: &Edit, ui: &Ui) -> Outcome {
    let client = edit.connect.client()?;
    let path = format!("/v1/systems/{}", edit.system);
    let registered: Value = client.get(&path)?;
    let before = registered["system"].clone();
    let Value::Object(mut after) = before.clone() else {
        return Err(CliError::Argument("the server's answer has no entry".to_owned()).into());
    };
    for pair in &edit.change {
        put(&mut after, pair)?;
    }
    for (key, new) in &after {
        if before.get(key) != Some(new) {
            ui.line(format!("{key}: {} → {new}", before.get(key).unwrap_or(&Value::Null)));
        }
    }
    if edit.dry_run {
        ui.data(&json!({ "before": before, "after": after }));
        return Ok(Exit::Done);
    }
    let entry: Value = client.put(&format!("{path}?version={}", registered["version"]), &after)?;
    ui.data(&entry);
    Ok(Exit::Done)
}
