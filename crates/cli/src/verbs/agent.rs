//! `kuramori agent`: the agent's role on a departmental server, and its register on the site server.

use std::{io::IsTerminal, path::PathBuf, sync::Arc};

use clap::Subcommand;
use kuramori_agent::{File, enrol, file, run as role, state::State};
use kuramori_model::{
    clock::{Clock, SystemClock, SystemRandom},
    fault::Exit,
};
use kuramori_wire::token::Token;
use serde_json::{Value, json};

use super::server::Connect;
use crate::{Outcome, failure::CliError, ui::Ui};

/// Without a verb: run the agent until SIGTERM.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The agent's own file: a plain file of root's that nobody else can write
    #[arg(long, global = true, value_name = "FILE", default_value = file::USUAL)]
    config: PathBuf,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// On the departmental server: become an agent with a token from `kuramori agent invite`
    Enrol(Enrol),
    /// On the departmental server: check the agent's own file and identity
    Check,
    /// On the site server: make a token to enrol an agent with, once
    Invite(Invite),
    /// On the site server: list agents, their certificates and what they declare
    List(Connect),
    /// On the site server: let no certificate of an agent count any more
    Revoke(Revoke),
    /// On the site server: make a new authority; agents move to it as they connect
    RotateAuthority(Connect),
    /// On the site server: end the trust in all authorities but the newest
    RetireAuthority(Retire),
}

#[derive(Debug, clap::Args)]
struct Enrol {
    /// The token, as `kuramori agent invite` printed it; without it, it is read from standard input
    #[arg(long, value_name = "TOKEN", env = "KURAMORI_AGENT_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Invite {
    #[command(flatten)]
    connect: Connect,
    /// The agent's name: letters a-z, digits and `-`
    name: String,
    /// Hours for which the token may be used
    #[arg(long, default_value_t = 1, value_name = "HOURS")]
    hours: u64,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    #[command(flatten)]
    connect: Connect,
    /// The agent's name
    name: String,
    /// Really do it
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
struct Retire {
    #[command(flatten)]
    connect: Connect,
    /// Also while agents still have a certificate of an older one; they must be enrolled again
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> Outcome {
    match &args.verb {
        None => work(args),
        Some(Verb::Enrol(enrol)) => become_one(args, enrol, ui),
        Some(Verb::Check) => check(args, ui),
        Some(Verb::Invite(invite)) => {
            let path = format!("/v1/agents/{}/invite", plain(&invite.name)?);
            let made: Value = invite.connect.client()?.post(&path, &json!({ "hours": invite.hours }))?;
            ui.data(&made);
            show_invitation(&made, ui);
            Ok(Exit::Done)
        }
        Some(Verb::List(connect)) => list(connect, ui),
        Some(Verb::Revoke(revoke)) => {
            if !revoke.yes {
                ui.line(format!("{}: {}", ui.pick("失効させます", "would be revoked"), revoke.name));
                return Err(CliError::Argument("nothing was revoked; add `--yes`".to_owned()).into());
            }
            let path = format!("/v1/agents/{}/revoke", plain(&revoke.name)?);
            let answer: Value = revoke.connect.client()?.post(&path, &json!({}))?;
            ui.data(&answer);
            ui.line(format!("{}: {}", ui.pick("失効させました", "revoked"), revoke.name));
            Ok(Exit::Done)
        }
        Some(Verb::RotateAuthority(connect)) => {
            let answer: Value = connect.client()?.post("/v1/agents-authority/rotate", &json!({}))?;
            ui.data(&answer);
            ui.line(format!(
                "{}: {}",
                ui.pick("新しい認証局（旧認証局も引き続き信頼）", "new authority (older ones stay trusted)"),
                answer["authority"]
            ));
            Ok(Exit::Done)
        }
        Some(Verb::RetireAuthority(retire)) => {
            let body = json!({ "force": retire.force });
            let answer: Value = retire.connect.client()?.post("/v1/agents-authority/retire", &body)?;
            ui.data(&answer);
            ui.line(format!(
                "{}: {}",
                ui.pick("信頼を終えた認証局の数", "authorities no longer trusted"),
                answer["retired"]
            ));
            Ok(Exit::Done)
        }
    }
}

/// A name that goes into a path of the admin API.
fn plain(name: &str) -> Result<&str, CliError> {
    if kuramori_source::config::is_plain_name(name) {
        Ok(name)
    } else {
        Err(CliError::Argument(format!("`{name}` cannot be an agent's name; use a-z, 0-9 and `-`")))
    }
}

/// What a person carries to the departmental server.
pub(crate) fn show_invitation(made: &Value, ui: &Ui) {
    let text = |key: &str| made[key].as_str().unwrap_or_default().to_owned();
    ui.line(format!("  token: {}", text("token")));
    ui.line(format!("  {}: {}", ui.pick("使用期限", "usable until"), text("until")));
    ui.line(format!("  {}: {}", ui.pick("サーバー", "server"), text("server")));
    ui.note(ui.pick(
        "部門サーバーで `kuramori agent enrol --token …` を一度だけ実行してください。トークンは二度と表示されません。",
        "On the departmental server run `kuramori agent enrol --token …`, once. The token is not shown again.",
    ));
}

fn work(args: &Args) -> Outcome {
    let filter = tracing_subscriber::EnvFilter::try_from_env("KURAMORI_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = if std::io::stderr().is_terminal() { builder.try_init() } else { builder.json().try_init() };
    let file = File::read(&args.config)?;
    let stop = kuramori_agent::run::Stop::default();
    let switch = stop.clone();
    let mut signals =
        signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT])
            .map_err(CliError::File)?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if signals.forever().next().is_some() {
                switch.cancel();
            }
        })
        .map_err(CliError::File)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    role::run(file, &clock, &SystemRandom, &stop)?;
    Ok(Exit::Done)
}

fn become_one(args: &Args, new: &Enrol, ui: &Ui) -> Outcome {
    let file = File::read(&args.config)?;
    let text = match &new.token {
        Some(text) => text.clone(),
        None => {
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).map_err(CliError::File)?;
            line
        }
    };
    let token = Token::read(&text)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let name = enrol::enrol(&file.server, &token, &file.state, &clock)?;
    ui.data(&json!({ "agent": name, "state": file.state }));
    ui.line(format!("{}: {name}", ui.pick("登録されました", "enrolled as")));
    Ok(Exit::Done)
}

fn check(args: &Args, ui: &Ui) -> Outcome {
    let file = File::read(&args.config)?;
    let state = State::read(&file.state)?;
    let units: Vec<Value> =
        file.unit.iter().map(|(name, unit)| json!({ "name": name, "kind": File::kind(unit) })).collect();
    ui.data(&json!({
        "valid": true, "agent": state.holder.name, "server": file.server, "certificate_until": state.holder.until,
        "units": units,
    }));
    ui.line(format!("{}: {}", ui.pick("エージェント名", "agent"), state.holder.name));
    ui.line(format!("{}: {}", ui.pick("サーバー", "server"), file.server));
    ui.line(format!("{}: {}", ui.pick("証明書の期限", "certificate until"), state.holder.until));
    for unit in &units {
        let text = |key: &str| unit[key].as_str().unwrap_or_default().to_owned();
        ui.line(format!("  {:<20} {}", text("name"), text("kind")));
    }
    Ok(Exit::Done)
}

fn list(connect: &Connect, ui: &Ui) -> Outcome {
    let agents: Vec<Value> = connect.client()?.get("/v1/agents")?;
    ui.data(&agents);
    for agent in &agents {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let state = if agent["revoked"].is_string() {
            ui.pick("失効", "revoked")
        } else if agent["connected"] == true {
            ui.pick("接続中", "connected")
        } else if agent["certificates"].as_array().is_some_and(Vec::is_empty) {
            ui.pick("招待済み", "invited")
        } else {
            ui.pick("未接続", "away")
        };
        let until =
            agent["certificates"].as_array().and_then(|all| all.last()).map(|last| text(&last["until"]));
        ui.line(format!(
            "{:<20} {state:<10} {:<26} {}",
            text(&agent["name"]),
            until.unwrap_or_else(|| "-".to_owned()),
            text(&agent["seen"]["at"])
        ));
        for unit in agent["seen"]["units"].as_array().into_iter().flatten() {
            ui.line(format!("    {:<18} {}", text(&unit[0]), text(&unit[1])));
        }
    }
    Ok(Exit::Done)
}
