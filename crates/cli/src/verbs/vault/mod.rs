//! `kuramori vault`: the role without a verb; with one, the vault's local screen and hand. A running role is
//! asked through its socket; without one the verb does the work itself.

mod approve;

use std::{path::PathBuf, sync::Arc};

use clap::Subcommand;
use kuramori_model::{
    clock::{SystemClock, SystemRandom},
    fault::{Exit, Fault, Kind},
    units::Bytes,
};
use kuramori_repo::Cancel;
use kuramori_vault::{
    Config, Error, Vault,
    control::{self, Answer, Order},
    keys,
    restore::Which,
};
use serde_json::Value;

use crate::{Outcome, ui::Ui};

/// Where the configuration is, and what to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The vault's configuration
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/kuramori/vault.toml")]
    config: PathBuf,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what the vault holds, its windows and its alarms
    Status,
    /// Open a window now, pull, close, and prove what came
    Pull {
        /// Seconds that this window may last; more than usual needs two approvals
        #[arg(long, value_name = "SECONDS")]
        max_seconds: Option<u32>,
        #[command(flatten)]
        with: approve::With,
    },
    /// Prove what is here and apply the retention, with the gate closed
    Verify,
    /// Fill the vault from a carried disk; the gate stays closed
    Seed {
        /// Folder on the disk with one repository per folder
        #[arg(long, value_name = "FOLDER")]
        from: PathBuf,
    },
    /// Send restore points to a clean receiver in a restore window that two officers approve
    Restore {
        /// Name of the receiver in the configuration
        #[arg(long, value_name = "NAME", required_unless_present = "request")]
        receiver: Option<String>,
        /// Which system; may be repeated (default: all that have a complete restore point)
        #[arg(long, visible_alias = "repository", value_name = "NAME")]
        system: Vec<String>,
        /// `latest-clean`, the vault's number, a day such as 2026-04-01, or `all`
        #[arg(long, value_name = "POINT", default_value = "latest-clean")]
        point: Which,
        /// Seconds of the window (default: twice what is expected)
        #[arg(long, value_name = "SECONDS")]
        max_seconds: Option<u32>,
        /// Why restore points that are suspect or damaged are sent too; without it they stay
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Ask for it, or do it; without this the plan is shown and nothing happens
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        with: approve::With,
    },
    /// Keep the officers who approve
    Officer {
        #[command(subcommand)]
        verb: approve::Officer,
    },
    /// Ask two officers for something that has no verb of its own
    Request(approve::Ask),
    /// Show what was asked for and who said yes
    Requests,
    /// Approve a request, with a key or with a line of a paper sheet
    Approve(approve::Approve),
    /// Take a request back; needs nobody
    Withdraw {
        /// The request's number
        #[arg(value_name = "REQUEST")]
        number: u64,
    },
    /// Carry out an approved request that has no verb of its own
    Carry {
        /// The request's number
        #[arg(value_name = "REQUEST")]
        number: u64,
    },
    /// Release the gate from a lockdown or a latched fault, with two approvals
    Release {
        #[command(flatten)]
        with: approve::With,
    },
    /// Write a signed report and print it
    Report,
    /// The vault's tamper-evident log
    Audit {
        #[command(subcommand)]
        verb: Audit,
    },
    /// Show the vault's public keys and fingerprint, for its enrolment
    Identity,
    /// Clear an alarm that a person has looked at
    Clear {
        /// The alarm's key, as `status` shows it
        #[arg(long, value_name = "KEY")]
        alarm: String,
    },
    /// Say that a new repository is known
    Confirm {
        /// Its name
        #[arg(long, value_name = "NAME")]
        repository: String,
    },
    /// Say that the wall clock was compared and is right
    ConfirmClock,
    /// The process that alone speaks with the network; started by the vault itself
    #[command(hide = true)]
    Puller,
}

#[derive(Debug, Subcommand)]
enum Audit {
    /// Show the log's newest signed checkpoint
    Root {
        /// Write it as a page to print, with its QR code
        #[arg(long, value_name = "FILE")]
        print: Option<PathBuf>,
    },
}

/// What a running vault answered, as an error of this command.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Told {
    code: &'static str,
    message: String,
    hint: Option<String>,
    exit: u8,
}

impl Fault for Told {
    fn code(&self) -> &'static str {
        self.code
    }

    fn kind(&self) -> Kind {
        if self.exit == Exit::Refused as u8 { Kind::Refused } else { Kind::Fix }
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }

    fn exit(&self) -> Exit {
        let all = [
            Exit::Unexpected,
            Exit::Damaged,
            Exit::Refused,
            Exit::NoRepository,
            Exit::Locked,
            Exit::Authentication,
        ];
        all.into_iter().find(|exit| *exit as u8 == self.exit).unwrap_or(Exit::Fix)
    }
}

pub(crate) fn run(args: Args, ui: &Ui) -> Outcome {
    if matches!(args.verb, Some(Verb::Puller)) {
        kuramori_vault::puller::child::run().map_err(Error::io("speak with the vault"))?;
        return Ok(Exit::Done);
    }
    if let Some(Verb::Officer { verb }) = &args.verb
        && let Some(outcome) = approve::own_machine(verb, ui)
    {
        return outcome;
    }
    let config = Config::read(&args.config)?;
    let mut sheet = None;
    let mut root_page = None;
    let order = match args.verb {
        None => return role(config, ui),
        Some(Verb::Identity) => {
            let public = keys::public(&config, &SystemRandom)?;
            ui.line(format!("{}: {}", ui.pick("指紋", "fingerprint"), public.fingerprint));
            ui.line(format!("{}: {}", ui.pick("鍵の宛先", "recipient"), public.recipient));
            ui.line(format!("{}: {}", ui.pick("許可証の鍵", "token key"), public.token_key));
            ui.line(format!("{}: {}", ui.pick("署名の鍵", "signing key"), public.verifier));
            ui.data(&public);
            return Ok(Exit::Done);
        }
        Some(Verb::Status | Verb::Puller) => Order::Status {},
        Some(Verb::Pull { max_seconds, with }) => {
            Order::Pull { max_seconds, request: with.request, proposer: approve::proposer(with.proposer) }
        }
        Some(Verb::Verify) => Order::Verify {},
        Some(Verb::Seed { from }) => Order::Seed { from },
        Some(Verb::Restore { receiver, system, point, max_seconds, reason, yes, with }) => Order::Restore {
            receiver: receiver.unwrap_or_default(),
            systems: system,
            point,
            max_seconds,
            reason,
            dry: !yes,
            request: with.request,
            proposer: approve::proposer(with.proposer),
        },
        Some(Verb::Officer { verb }) => {
            if let approve::Officer::Sheet { out, .. } = &verb {
                sheet = Some(out.clone());
            }
            match approve::officer(verb) {
                Some(order) => order,
                None => return Ok(Exit::Done),
            }
        }
        Some(Verb::Request(ask)) => approve::ask(ask)?,
        Some(Verb::Requests) => Order::Requests {},
        Some(Verb::Approve(yes)) => approve::approve(yes, ui, || obey(config.clone(), &Order::Requests {}))?,
        Some(Verb::Withdraw { number }) => Order::Withdraw { request: number, who: approve::proposer(None) },
        Some(Verb::Carry { number }) => Order::Carry { request: number },
        Some(Verb::Release { with }) => {
            Order::ReleaseGate { request: with.request, proposer: approve::proposer(with.proposer) }
        }
        Some(Verb::Audit { verb: Audit::Root { print } }) => {
            root_page = print;
            Order::AuditRoot { ja: ui.language == crate::ui::Language::Ja }
        }
        Some(Verb::Report) => Order::Report {},
        Some(Verb::Clear { alarm }) => Order::Clear { key: alarm },
        Some(Verb::Confirm { repository }) => Order::Confirm { repository },
        Some(Verb::ConfirmClock) => Order::ConfirmClock {},
    };
    let value = obey(config, &order)?;
    if value["waiting"].is_object() {
        plan(&value["plan"], ui);
        approve::show_waiting(&value, ui);
        ui.data(&value);
        return Ok(Exit::Refused);
    }
    if let (Order::OfficerSheet { .. }, Some(out)) = (&order, &sheet) {
        // The codes go onto the page and nowhere else.
        approve::write_sheet(&value, out, ui)?;
        ui.data(&serde_json::json!({ "officer": value["officer"], "sheet": value["sheet"], "page": out }));
        return Ok(Exit::Done);
    }
    if let (Order::AuditRoot { .. }, Some(out)) = (&order, &root_page) {
        fs_err::write(out, text(&value["page"])).map_err(crate::failure::CliError::File)?;
    }
    show(&order, &value, ui);
    ui.data(&value);
    Ok(judge(&order, &value))
}

fn role(config: Config, ui: &Ui) -> Outcome {
    let cancel = Cancel::default();
    watch_signals(&cancel)?;
    let vault = Vault::open(config, Arc::new(SystemClock), Arc::new(SystemRandom))?;
    ui.note(ui.pick("保管庫を開始しました", "the vault runs"));
    vault.run(&cancel)?;
    Ok(Exit::Done)
}

/// A signal ends the work in order: the pullers are killed, the gate is closed and seen closed.
fn watch_signals(cancel: &Cancel) -> Result<(), Error> {
    use signal_hook::{consts, iterator::Signals};
    let mut signals =
        Signals::new([consts::SIGINT, consts::SIGTERM]).map_err(Error::io("watch for signals"))?;
    let cancel = cancel.clone();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            cancel.cancel();
        }
    });
    Ok(())
}

fn obey(config: Config, order: &Order) -> Result<Value, crate::failure::Failure> {
    let socket = control::socket(&config.vault.state);
    if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        return match control::ask(&config.vault.state, order)? {
            Answer::Done(value) => Ok(value),
            Answer::Error { code, message, hint, exit } => {
                let message = format!("{message} ({code})");
                Err(Told { code: "vault.refused-by-role", message, hint, exit }.into())
            }
        };
    }
    let cancel = Cancel::default();
    watch_signals(&cancel)?;
    let vault = Vault::open(config, Arc::new(SystemClock), Arc::new(SystemRandom))?;
    Ok(vault.obey(order.clone(), &cancel)?)
}

/// A window whose closing was not proven, or data that was found forged, is not "done".
fn judge(order: &Order, value: &Value) -> Exit {
    let work = if matches!(order, Order::Verify {}) { value } else { &value["work"] };
    let forged = work["proven"].as_array().is_some_and(|all| {
        all.iter().any(|one| {
            one["quarantined"].as_array().is_some_and(|list| !list.is_empty()) || one["damaged"] != 0
        })
    });
    let failed = work["failed"].as_array().is_some_and(|list| !list.is_empty());
    let unfinished = value["window"]["pulled"]["repositories"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one["finished"] == false));
    match order {
        Order::Pull { .. } | Order::Seed { .. } | Order::Verify {} if forged => Exit::Damaged,
        Order::Pull { .. } | Order::Seed { .. } | Order::Verify {} if failed || unfinished => Exit::Partial,
        Order::Pull { .. } if value["window"]["why"].is_string() => Exit::Partial,
        _ => Exit::Done,
    }
}

fn bytes(value: &Value) -> Bytes {
    Bytes(value.as_u64().unwrap_or(0))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn show(order: &Order, value: &Value, ui: &Ui) {
    match order {
        Order::Status {} => {
            ui.line(text(&value["claim"]));
            for one in list(&value["repositories"]) {
                ui.line(format!(
                    "{:20} {} {:>4}  {} {:>10}  {} {}",
                    text(&one["name"]),
                    ui.pick("完全な復元点", "complete points"),
                    one["complete"],
                    ui.pick("容量", "size"),
                    bytes(&one["bytes"]),
                    ui.pick("未取得", "backlog"),
                    bytes(&one["backlog_bytes"]),
                ));
            }
            let cosigned = &value["cosigned"];
            match cosigned["size"].as_u64() {
                Some(size) => ui.line(format!(
                    "{}: {size} ({} {})",
                    ui.pick("サーバーが連署した記録の件数", "log entries cosigned by the server"),
                    ui.pick("その後の開放", "windows since"),
                    cosigned["missed"],
                )),
                None => ui.line(ui.pick("記録はまだ連署されていません", "the log is not cosigned yet")),
            }
            for alarm in list(&value["alarms"]) {
                ui.line(format!(
                    "! {} {} ({})",
                    text(&alarm["key"]),
                    alarm["finding"]["params"],
                    text(&alarm["since"])
                ));
            }
        }
        Order::Restore { dry: true, .. } => {
            plan(&value["plan"], ui);
            ui.note(ui.pick(
                "これは計画です。--yes で承認を依頼します",
                "this is the plan; --yes asks for its approval",
            ));
        }
        Order::Officers {} => approve::show_officers(value, ui),
        Order::Requests {} => list(value).iter().for_each(|one| approve::show_request(one, ui)),
        Order::Approve { .. } | Order::Withdraw { .. } => approve::show_request(value, ui),
        Order::Pull { .. } | Order::Restore { .. } => {
            let window = if matches!(order, Order::Pull { .. }) { &value["window"] } else { value };
            ui.line(format!(
                "{} {}: {:.1} s, {}, {}",
                ui.pick("開放", "window"),
                window["window"],
                window["seconds"].as_f64().unwrap_or(0.0),
                bytes(&window["bytes"]),
                if window["closed_verified"] == true {
                    ui.pick("閉鎖を確認しました", "seen closed")
                } else {
                    ui.pick("閉鎖は確認されていません", "NOT seen closed")
                },
            ));
            ui.line(text(&window["claim"]));
            if let Some(why) = window["why"].as_str() {
                ui.line(why);
            }
            work(&value["work"], ui);
        }
        Order::Seed { .. } => {
            ui.line(format!("{}: {}", ui.pick("読み込み", "read"), bytes(&value["pulled"]["bytes"])));
            work(&value["work"], ui);
        }
        Order::Verify {} => work(value, ui),
        Order::AuditRoot { .. } => ui.line(text(&value["checkpoint"])),
        Order::Report {}
        | Order::Clear { .. }
        | Order::Confirm { .. }
        | Order::ConfirmClock {}
        | Order::OfficerAdd { .. }
        | Order::OfficerRetire { .. }
        | Order::OfficerSheet { .. }
        | Order::Ask { .. }
        | Order::Carry { .. }
        | Order::ReleaseGate { .. } => {
            ui.line(value.to_string());
        }
    }
}

/// What would go back, from when, why that, how much and how long.
fn plan(value: &Value, ui: &Ui) {
    if !value.is_object() {
        return;
    }
    ui.line(format!(
        "{}: {} ({})",
        ui.pick("復元先", "receiver"),
        text(&value["receiver"]),
        text(&value["address"])
    ));
    for one in list(&value["systems"]) {
        let why = match text(&one["why"]) {
            "newest-clean" => ui.pick("検査で清浄と確認された最新", "the newest that inspection found clean"),
            "newest-not-inspected" => {
                ui.pick("完全な最新(未検査)", "the newest complete one; not inspected yet")
            }
            "newest-of-day" => ui.pick("その日までの最新", "the newest by that day"),
            "everything" => ui.pick("すべて", "everything"),
            _ => ui.pick("指定された復元点", "named"),
        };
        let (size, packs) = (bytes(&one["bytes"]), &one["packs"]);
        ui.line(format!("  {:20} {size}, {packs} {}", text(&one["repository"]), ui.pick("パック", "packs")));
        for point in list(&one["points"]) {
            ui.line(format!(
                "    {} {}  {} {}  {}",
                ui.pick("復元点", "point"),
                point["sequence"],
                ui.pick("受領", "received"),
                text(&point["received"]),
                why
            ));
        }
        if let Some(left_out) = one["left_out"].as_u64().filter(|number| *number > 0) {
            ui.line(format!(
                "    {} {left_out}",
                ui.pick("これより新しいが使わない復元点:", "newer points that are left out:")
            ));
        }
    }
    ui.line(format!(
        "{} {}, {} {} s, {} {} s",
        ui.pick("合計", "in all"),
        bytes(&value["bytes"]),
        ui.pick("見込み", "expected"),
        value["expected_s"],
        ui.pick("開放の上限", "window at most"),
        value["max_seconds"]
    ));
}

fn work(value: &Value, ui: &Ui) {
    for one in list(&value["proven"]) {
        ui.line(format!(
            "{:20} {} {} ({})  {} {}  {} {}  {} {}",
            text(&one["repository"]),
            ui.pick("検証したパック", "packs proven"),
            one["packs"],
            bytes(&one["bytes"]),
            ui.pick("完全になった復元点", "points complete"),
            one["complete"],
            ui.pick("不完全", "incomplete"),
            one["incomplete"],
            ui.pick("隔離", "quarantined"),
            list(&one["quarantined"]).len(),
        ));
    }
    for one in list(&value["failed"]) {
        ui.line(format!("! {}: {}", text(&one[0]), text(&one[1])));
    }
}
