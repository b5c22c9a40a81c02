//! Approvals on the command line: officers, their keys and sheets, requests.

use std::{
    collections::BTreeMap,
    io::{BufRead, Write},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use fs_err::os::unix::fs::OpenOptionsExt;
use kuramori_model::{
    approval::{Action, Proposal},
    clock::SystemRandom,
    fault::Exit,
    gate::{Signature, SigningKey, VerifyingKey},
};
use kuramori_vault::{
    approval::{Proof, sheet::Printed},
    control::Order,
    escrow::Language as Paper,
};
use serde_json::Value;

use super::{list, text};
use crate::{
    Outcome,
    failure::{CliError, Failure},
    ui::{Language, Ui},
};

#[derive(Debug, Subcommand)]
pub(super) enum Officer {
    /// Enrol an officer; the first three need no request
    Add {
        /// Their name
        #[arg(value_name = "NAME")]
        officer: String,
        /// Their public key, 64 hex digits; without one they approve with paper only
        #[arg(long, value_name = "KEY")]
        key: Option<VerifyingKey>,
        #[command(flatten)]
        with: With,
    },
    /// Show the officers
    List,
    /// Retire an officer
    Retire {
        /// Their name
        #[arg(value_name = "NAME")]
        officer: String,
        #[command(flatten)]
        with: With,
    },
    /// Make a sealed sheet of one-time codes for printing; the one before ends
    Sheet {
        /// Their name
        #[arg(value_name = "NAME")]
        officer: String,
        /// The page to write, for a printer
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[command(flatten)]
        with: With,
    },
    /// Make a key pair on the officer's own machine
    Key {
        /// Where the secret half goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign a request on the officer's own machine
    Sign {
        /// The officer's secret key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The request as `vault requests --json` shows it
        #[arg(long, value_name = "FILE")]
        request: PathBuf,
    },
}

/// Who asks, or under which approved request.
#[derive(Debug, clap::Args)]
pub(super) struct With {
    /// The approved request that allows it
    #[arg(long, value_name = "NUMBER")]
    pub(super) request: Option<u64>,
    /// Who asks; an officer's own approval does not count then
    #[arg(long, value_name = "NAME")]
    pub(super) proposer: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Ask {
    /// What: `retention-cut`, `unlock` or `policy`
    #[arg(value_name = "ACTION")]
    action: String,
    /// On what
    #[arg(long, value_name = "NAME", default_value = "vault")]
    target: String,
    /// What else matters; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    param: Vec<String>,
    /// Who asks; an officer's own approval does not count then
    #[arg(long, value_name = "NAME")]
    proposer: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Approve {
    /// The request's number
    #[arg(value_name = "REQUEST")]
    request: u64,
    /// Who approves
    #[arg(long, value_name = "NAME")]
    officer: String,
    /// Their signature, 128 hex digits
    #[arg(long, value_name = "SIGNATURE")]
    signature: Option<Signature>,
    /// Their secret key, if it is at the vault
    #[arg(long, value_name = "FILE", conflicts_with = "signature")]
    key: Option<PathBuf>,
}

fn file(error: std::io::Error) -> Failure {
    CliError::File(error).into()
}

fn bad(what: impl Into<String>) -> Failure {
    CliError::Argument(what.into()).into()
}

pub(super) fn ask(args: Ask) -> Result<Order, Failure> {
    let action: Action = serde_json::from_value(Value::String(args.action.clone()))
        .map_err(|_| bad(format!("`{}` is no action", args.action)))?;
    let mut params = BTreeMap::new();
    for pair in args.param {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| bad(format!("`{pair}` is not of the form NAME=VALUE")))?;
        params.insert(name.to_owned(), value.to_owned());
    }
    Ok(Order::Ask { action, target: args.target, params, proposer: proposer(args.proposer) })
}

/// Who asks: the name that was given, else the login.
pub(super) fn proposer(given: Option<String>) -> String {
    given
        .or_else(|| std::env::var("SUDO_USER").ok())
        .or_else(|| std::env::var("USER").ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "root".to_owned())
}

/// What is typed in for paper: first the short code as the officer read it back, then the line and its code.
fn typed(ui: &Ui) -> Result<Proof, Failure> {
    let mut lines = std::io::stdin().lock().lines();
    let mut next = |ja: &str, en: &str| {
        ui.note(ui.pick(ja, en));
        lines.next().transpose().map_err(file)?.ok_or_else(|| bad("the input ended"))
    };
    let short_code = next("承認者が復唱した短い符号:", "the short code as the officer read it back:")?;
    let code = next("シートの 行番号-符号:", "line number and code of the sheet (LINE-CODE):")?;
    Ok(Proof::Paper { short_code, code })
}

/// The order, or none if the key is signed with here.
pub(super) fn approve(
    args: Approve,
    ui: &Ui,
    requests: impl FnOnce() -> Result<Value, Failure>,
) -> Result<Order, Failure> {
    let proof = match (args.signature, &args.key) {
        (Some(signature), _) => Proof::Signature(signature),
        (None, Some(path)) => {
            let all = requests()?;
            let one = list(&all).iter().find(|one| one["request"] == args.request);
            let one = one.ok_or_else(|| bad(format!("there is no request {}", args.request)))?;
            let proposal = proposal(one)?;
            show_request(one, ui);
            Proof::Signature(proposal.sign(&secret_key(path)?))
        }
        (None, None) => typed(ui)?,
    };
    Ok(Order::Approve { request: args.request, officer: args.officer, proof })
}

fn proposal(request: &Value) -> Result<Proposal, Failure> {
    serde_json::from_value(request["proposal"].clone()).map_err(|error| bad(format!("no request: {error}")))
}

fn secret_key(path: &Path) -> Result<SigningKey, Failure> {
    let seed = kuramori_vault::config::secret(path)?;
    let mut bytes = [0; 32];
    let read =
        hex::decode_to_slice(seed.trim(), &mut bytes).ok().and_then(|()| SigningKey::from_seed(&bytes).ok());
    read.ok_or_else(|| bad(format!("`{}` is not an officer's key", path.display())))
}

/// What an officer does on a machine of their own: no vault is needed.
pub(super) fn own_machine(verb: &Officer, ui: &Ui) -> Option<Outcome> {
    match verb {
        Officer::Key { out } => Some(make_key(out, ui)),
        Officer::Sign { key, request } => Some(sign(key, request, ui)),
        _ => None,
    }
}

fn make_key(out: &Path, ui: &Ui) -> Outcome {
    let (key, seed) = SigningKey::draw(&SystemRandom).map_err(|error| bad(error.to_string()))?;
    let mut options = fs_err::OpenOptions::new();
    let mut secret = options.write(true).create_new(true).mode(0o600).open(out).map_err(file)?;
    secret.write_all(hex::encode(seed).as_bytes()).and_then(|()| secret.sync_all()).map_err(file)?;
    ui.line(format!("{}: {}", ui.pick("公開鍵", "public key"), key.public()));
    ui.data(&serde_json::json!({ "key": key.public() }));
    Ok(Exit::Done)
}

fn sign(key: &Path, request: &Path, ui: &Ui) -> Outcome {
    let read = fs_err::read_to_string(request).map_err(file)?;
    let value: Value = serde_json::from_str(&read).map_err(|error| bad(error.to_string()))?;
    let one = if value["waiting"].is_object() { &value["waiting"] } else { &value };
    let proposal = proposal(one)?;
    let signature = proposal.sign(&secret_key(key)?);
    ui.note(format!("{} {} -> {}", proposal.action, proposal.params.len(), proposal.target));
    ui.line(format!("{}: {}", ui.pick("短い符号", "short code"), proposal.short_code()));
    ui.line(format!("{}: {signature}", ui.pick("署名", "signature")));
    ui.data(&serde_json::json!({ "signature": signature, "short_code": proposal.short_code() }));
    Ok(Exit::Done)
}

pub(super) fn officer(verb: Officer) -> Option<Order> {
    Some(match verb {
        Officer::Add { officer, key, with } => {
            Order::OfficerAdd { officer, key, request: with.request, proposer: proposer(with.proposer) }
        }
        Officer::List => Order::Officers {},
        Officer::Retire { officer, with } => {
            Order::OfficerRetire { officer, request: with.request, proposer: proposer(with.proposer) }
        }
        Officer::Sheet { officer, with, .. } => {
            Order::OfficerSheet { officer, request: with.request, proposer: proposer(with.proposer) }
        }
        Officer::Key { .. } | Officer::Sign { .. } => return None,
    })
}

/// Writes the sheet's page; its codes are printed nowhere else.
pub(super) fn write_sheet(value: &Value, out: &Path, ui: &Ui) -> Result<(), Failure> {
    let printed: Printed = serde_json::from_value(value.clone()).map_err(|error| bad(error.to_string()))?;
    let paper = if ui.language == Language::Ja { Paper::Japanese } else { Paper::English };
    let page = printed.page(paper)?;
    let mut options = fs_err::OpenOptions::new();
    let mut target = options.write(true).create_new(true).mode(0o600).open(out).map_err(file)?;
    target.write_all(page.as_bytes()).and_then(|()| target.sync_all()).map_err(file)?;
    ui.line(format!(
        "{} {} ({}): {}",
        ui.pick("承認用シート", "approval sheet"),
        printed.sheet,
        printed.officer,
        out.display()
    ));
    ui.note(
        ui.pick("印刷して封をし、このファイルを消去してください", "print it, seal it, and erase this file"),
    );
    Ok(())
}

pub(super) fn show_officers(value: &Value, ui: &Ui) {
    for one in list(value) {
        let state = if one["retired_s"].is_null() {
            ui.pick("有効", "active")
        } else {
            ui.pick("退任", "retired")
        };
        let key = one["key"].as_str().unwrap_or_else(|| ui.pick("(紙のみ)", "(paper only)"));
        let left = ui.pick("シートの残り", "lines left");
        ui.line(format!("{:20} {state} {key}  {left} {}", text(&one["name"]), one["codes_left"]));
    }
}

pub(super) fn show_request(one: &Value, ui: &Ui) {
    let proposal = &one["proposal"];
    let state = match text(&one["state"]) {
        "used" => ui.pick("実行済み", "carried out"),
        "withdrawn" => ui.pick("取り下げ", "withdrawn"),
        _ if one["expired"] == true => ui.pick("期限切れ", "expired"),
        _ => ui.pick("受付中", "open"),
    };
    ui.line(format!(
        "{} {}  {}  {} {} -> {}  ({} {})",
        ui.pick("依頼", "request"),
        one["request"],
        state,
        text(&proposal["action"]),
        ui.pick("対象", "for"),
        text(&proposal["target"]),
        ui.pick("依頼者", "asked by"),
        text(&proposal["proposer"]),
    ));
    ui.line(format!("  {}: {}", ui.pick("短い符号", "short code"), text(&one["short_code"])));
    if let Some(window) = proposal["window"].as_object() {
        ui.line(format!(
            "  {}: {} s, {}",
            ui.pick("開放の上限", "window at most"),
            window["seconds"],
            super::bytes(&window["bytes"])
        ));
    }
    for (name, value) in proposal["params"].as_object().into_iter().flatten() {
        ui.line(format!("  {name} = {}", text(value)));
    }
    let names: Vec<&str> = list(&one["valid"]).iter().map(text).collect();
    ui.line(format!(
        "  {} {}/{} {}",
        ui.pick("承認", "approvals"),
        names.len(),
        one["needed"],
        names.join(", ")
    ));
    if let Some(wait) = one["wait_s"].as_u64().filter(|wait| *wait > 0) {
        ui.line(format!("  {}: {wait} s", ui.pick("待機", "still to wait")));
    }
}

/// Something waits for officers: said in words, and by the exit code.
pub(super) fn show_waiting(value: &Value, ui: &Ui) {
    let one = &value["waiting"];
    show_request(one, ui);
    ui.note(ui.pick(
        "2 名の承認を待っています。承認後、同じ指示に --request を付けて実行してください",
        "waits for two officers; then give the same order with --request",
    ));
}
