//! `kuramori server`: the site server's role, its first start, its vaults and its own way back.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Subcommand;
use kuramori_model::{
    clock::{SystemClock, SystemRandom},
    fault::Exit,
};
use kuramori_server::{ServerError, client::Client, config::Config, keys, rebuild, run};
use serde_json::{Value, json};

use crate::{Outcome, failure::CliError, ui::Ui};

/// Without a verb: run the server until SIGTERM.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    file: File,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct File {
    /// The server's configuration; `conf.d/*.toml` beside it is read too
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/kuramori/server.toml")]
    config: PathBuf,
    /// Set one key, above all files: `console.listen=0.0.0.0:8080`
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Where the running server's admin socket is.
#[derive(Debug, clap::Args)]
pub(crate) struct Connect {
    /// The running server's admin socket
    #[arg(
        long,
        env = "KURAMORI_SERVER_SOCKET",
        value_name = "PATH",
        default_value = "/var/lib/kuramori/admin.sock"
    )]
    socket: PathBuf,
}

impl Connect {
    pub(crate) fn client(&self) -> Result<Client, crate::failure::Failure> {
        Ok(Client::new(&self.socket)?)
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the server's keys, its authority and certificate in an empty data folder
    Init(Init),
    /// Check the configuration and show every value with its origin
    Check,
    /// Introduce a vault: write the folder that a person carries to it
    EnrollVault(EnrollVault),
    /// Bring the server back on an empty machine from the vault's copy of `_control`
    Rebuild(Rebuild),
    /// Show what the first screen shows
    Status(Connect),
    /// Send a test notice to every target
    TestNotice(Connect),
    /// Say that the server's clock is right after it jumped, so that removals go on
    ConfirmTime(ConfirmTime),
}

#[derive(Debug, clap::Args)]
struct Init {
    /// The hospital's recovery recipient (age1…), made elsewhere
    #[arg(long, value_name = "RECIPIENT", required_unless_present = "recovery_out")]
    recovery_recipient: Option<String>,
    /// Make a recovery identity and write it here; split it, print it, then remove the file
    #[arg(long, value_name = "FILE", conflicts_with = "recovery_recipient")]
    recovery_out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct EnrollVault {
    #[command(flatten)]
    connect: Connect,
    /// The vault's name, as in its reports
    #[arg(long, default_value = "vault")]
    name: String,
    /// The vault's public report key, as the vault shows it
    #[arg(long, value_name = "KEY")]
    report_key: String,
    /// The vault's age recipient, for the passwords of systems that come later
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Option<String>,
    /// Folder to write; carry it to the vault and remove it afterwards
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Rebuild {
    /// Folder of the `_control` repository from the vault
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
    /// File with the hospital's recovery identity
    #[arg(long, value_name = "FILE")]
    recovery_identity: PathBuf,
    /// The wrapped password of `_control`; by default beside the repository
    #[arg(long, value_name = "FILE")]
    wrap: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct ConfirmTime {
    #[command(flatten)]
    connect: Connect,
    /// Who says so
    #[arg(long, value_name = "NAME")]
    by: String,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    match &args.verb {
        None => {
            log();
            run::run(load(&args.file)?)?;
            Ok(Exit::Done)
        }
        Some(Verb::Init(init)) => first(&load(&args.file)?, init, ui),
        Some(Verb::Check) => Ok(check(&load(&args.file)?, ui)),
        Some(Verb::EnrollVault(new)) => enroll(new, ui),
        Some(Verb::Rebuild(back)) => again(&load(&args.file)?, back, ui),
        Some(Verb::Status(connect)) => status(connect, ui),
        Some(Verb::TestNotice(connect)) => {
            let answer: Value = connect.client()?.post("/v1/notices/test", &json!({}))?;
            ui.data(&answer);
            ui.line(ui.pick("試験の通知を送信待ちに入れました。", "A test notice is on its way."));
            Ok(Exit::Done)
        }
        Some(Verb::ConfirmTime(confirm)) => {
            let answer: Value =
                confirm.connect.client()?.post("/v1/time/confirm", &json!({ "by": confirm.by }))?;
            ui.data(&answer);
            ui.line(format!("{}: {}", ui.pick("確認した時刻の飛び", "jumps confirmed"), answer["confirmed"]));
            Ok(Exit::Done)
        }
    }
}

pub(crate) fn load(file: &File) -> Result<Config, ServerError> {
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(Config::load(Some(&file.config), &environment, &file.set)?)
}

/// The configuration of one file, with the environment and without flags.
pub(crate) fn load_file(file: &Path) -> Result<Config, ServerError> {
    load(&File { config: file.to_owned(), set: Vec::new() })
}

/// Logs go to stderr: lines for people, JSON where nobody watches.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("KURAMORI_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = if std::io::stderr().is_terminal() { builder.try_init() } else { builder.json().try_init() };
}

fn first(config: &Config, init: &Init, ui: &Ui) -> Outcome {
    let made = keys::init(
        config,
        init.recovery_recipient.as_deref(),
        init.recovery_out.as_deref(),
        &SystemClock,
        &SystemRandom,
    )?;
    ui.data(&made);
    ui.line(format!(
        "{}: {}",
        ui.pick("認証局の指紋", "authority's fingerprint"),
        made.authority_fingerprint
    ));
    ui.line(format!("{}: {}", ui.pick("サーバーの公開鍵", "server's recipient"), made.server_recipient));
    ui.line(format!("{}: {}", ui.pick("復旧用の公開鍵", "recovery recipient"), made.recovery_recipient));
    if let Some(file) = &made.recovery_identity {
        ui.note(format!(
            "{}: {}",
            ui.pick(
                "復旧用の秘密鍵を書きました。紙に分割して保管し、このファイルは削除してください",
                "the recovery identity was written; split it on paper and remove this file"
            ),
            file.display()
        ));
    }
    Ok(Exit::Done)
}

fn check(config: &Config, ui: &Ui) -> Exit {
    ui.data(&json!({ "valid": true, "origins": config.origins }));
    for (key, origin) in &config.origins {
        ui.line(format!("{key:<28} {origin}"));
    }
    ui.line(ui.pick("設定に誤りはありません。", "The configuration is valid."));
    Exit::Done
}

fn enroll(new: &EnrollVault, ui: &Ui) -> Outcome {
    let out = std::path::absolute(&new.out).map_err(CliError::File)?;
    let body =
        json!({ "name": new.name, "report_key": new.report_key, "recipient": new.recipient, "out": out });
    let enrolment: Value = new.connect.client()?.post("/v1/vaults", &body)?;
    ui.data(&enrolment);
    let text = |key: &str| enrolment[key].as_str().unwrap_or_default().to_owned();
    ui.line(format!(
        "{}: {}",
        ui.pick("認証局の指紋", "authority's fingerprint"),
        text("authority_fingerprint")
    ));
    ui.line(format!(
        "{}: {}",
        ui.pick("報告用公開鍵の指紋", "report key's fingerprint"),
        text("report_key_fingerprint")
    ));
    ui.line(format!(
        "{}: {}",
        ui.pick("保管庫へ運ぶフォルダー", "folder to carry to the vault"),
        out.display()
    ));
    ui.note(ui.pick(
        "両方の画面で指紋を読み合わせてください。運び終えたらフォルダーを削除してください。",
        "Compare the fingerprints on both screens. Remove the folder once it is carried over.",
    ));
    Ok(Exit::Done)
}

fn again(config: &Config, back: &Rebuild, ui: &Ui) -> Outcome {
    let identity = fs_err::read_to_string(&back.recovery_identity).map_err(CliError::File)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::File)?;
    let from: &Path = &back.from;
    let rebuilt = runtime.block_on(rebuild::rebuild(
        config,
        from,
        &identity,
        back.wrap.as_deref(),
        Arc::new(SystemClock),
        Arc::new(SystemRandom),
    ))?;
    ui.data(&rebuilt);
    ui.line(format!(
        "{}: {} / {} / {}",
        ui.pick("戻った部門システム・復元点・秘密", "systems, restore points and secrets that are back"),
        rebuilt.systems,
        rebuilt.points,
        rebuilt.secrets
    ));
    ui.line(format!("{}: {}", ui.pick("時点", "as of"), rebuilt.taken));
    Ok(Exit::Done)
}

fn status(connect: &Connect, ui: &Ui) -> Outcome {
    let status: Value = connect.client()?.get("/v1/status")?;
    ui.data(&status);
    let verdict = &status["verdict"];
    ui.line(format!(
        "{} ({}): {} / {}",
        verdict["level"].as_str().unwrap_or_default(),
        verdict["cause"].as_str().unwrap_or_default(),
        verdict["recoverable"],
        verdict["total"]
    ));
    for system in status["systems"].as_array().into_iter().flatten() {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        ui.line(format!(
            "{:<20} {:<12} {:<28} {}",
            text(&system["id"]),
            text(&system["state"]),
            text(&system["primary"]["received"]),
            text(&system["vault"]["received"])
        ));
    }
    Ok(if verdict["level"] == "danger" { Exit::Partial } else { Exit::Done })
}
