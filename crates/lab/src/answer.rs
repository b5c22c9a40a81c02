//! What the command line answers: lines for people, or one JSON object.

use std::{io::Write, process::ExitCode};

use kuramori_lab::{
    Attacked, Compared, Down, Lab, Lack, Manifest, Probed, Role, Service, Targets,
    services::{
        mail::Received,
        ophthalmology::Dump,
        witness::{Arrivals, Contact},
    },
};
use serde::Serialize;
use serde_json::{Value, json};

/// An answer in both forms, and the exit code that goes with it.
#[derive(Debug)]
pub(crate) struct Answer {
    json: Value,
    lines: Vec<String>,
    code: ExitCode,
}

fn value(thing: &impl Serialize) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(thing)?)
}

impl Answer {
    fn new(json: Value, lines: Vec<String>) -> Self {
        Self { json, lines, code: ExitCode::SUCCESS }
    }

    pub(crate) fn with(self, code: ExitCode) -> Self {
        Self { code, ..self }
    }

    /// Data on stdout; a reader who has gone away is no failure.
    pub(crate) fn say(self, json: bool) -> anyhow::Result<ExitCode> {
        let text = if json { self.json.to_string() } else { self.lines.join("\n") };
        match writeln!(std::io::stdout(), "{text}") {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(self.code),
        }
    }

    pub(crate) fn measured(figures: &kuramori_lab::inspection::Evidence) -> anyhow::Result<Self> {
        let days = figures.clean_days();
        let mut lines = vec![format!("{} false alarms in {} clean source-days", days.hits, days.of)];
        for (kind, attacks) in &figures.files {
            let cells: Vec<String> =
                attacks.iter().map(|(attack, rate)| format!("{attack} {}/{}", rate.hits, rate.of)).collect();
            lines.push(format!("{kind}: {}", cells.join(", ")));
        }
        Ok(Self::new(value(figures)?, lines))
    }

    pub(crate) fn needs(lacks: &[Lack]) -> anyhow::Result<Self> {
        let mut lines: Vec<String> =
            lacks.iter().map(|lack| format!("{}: {}", lack.what, lack.remedy)).collect();
        if lines.is_empty() {
            lines.push("nothing is missing".to_owned());
        }
        Ok(Self::new(json!({ "lacks": value(&lacks)? }), lines))
    }

    pub(crate) fn status(lab: &Lab) -> anyhow::Result<Self> {
        let record = lab.record()?;
        let port_up = lab.switch().port_up()?;
        let mut lines = vec![
            format!("lab {} in {}", lab.prefix(), lab.root().display()),
            format!("guarded port: {}", if port_up { "up" } else { "down" }),
        ];
        let mut processes = Vec::new();
        for process in &record.processes {
            let state = if process.alive() { "runs" } else { "ended" };
            lines.push(format!("{:<4} {:<18} {:>8} {state}", process.role, process.name, process.pid));
            processes.push(json!({
                "name": process.name, "role": process.role, "pid": process.pid, "alive": process.alive(),
            }));
        }
        let hosts: Vec<Value> = Role::ALL
            .into_iter()
            .map(|role| {
                let host = lab.host(role);
                json!({
                    "role": role, "namespace": host.namespace(), "address": role.address(), "folder": host.folder(),
                })
            })
            .collect();
        let mut size = Value::Null;
        if lab.what().services.contains(&Service::Billing) && lab.process("postgres")?.is_some() {
            size = json!(lab.billing().size()?);
        }
        let json = json!({
            "prefix": lab.prefix(), "root": lab.root(), "port_up": port_up, "hosts": hosts,
            "processes": processes, "billing_bytes": size,
        });
        Ok(Self::new(json, lines))
    }

    pub(crate) fn down(down: &Down) -> anyhow::Result<Self> {
        let mut lines = vec![format!(
            "{} processes ended, {} killed, {} namespaces deleted, {} folders unmounted",
            down.ended, down.killed, down.namespaces, down.mounts
        )];
        if down.differences.is_empty() {
            lines
                .push("rules, links, services, mounts and settings of this machine are as before".to_owned());
        }
        lines.extend(down.differences.iter().map(|line| format!("differs: {line}")));
        Ok(Self::new(value(down)?, lines))
    }

    pub(crate) fn plan(targets: &Targets) -> anyhow::Result<Self> {
        let mut lines = vec!["would kill and encrypt:".to_owned()];
        lines.extend(targets.departments.iter().map(|path| format!("  {}", path.display())));
        lines.push("would destroy and forge in:".to_owned());
        lines.extend(targets.repositories.iter().map(|path| format!("  {}", path.display())));
        lines.push("say --yes to do it".to_owned());
        Ok(Self::new(json!({ "plan": value(targets)? }), lines))
    }

    pub(crate) fn attacked(attacked: &Attacked) -> anyhow::Result<Self> {
        let lines = vec![
            format!("{} files encrypted ({} bytes)", attacked.files_encrypted, attacked.bytes_encrypted),
            format!(
                "{} repository files destroyed, {} forged",
                attacked.repository_files_destroyed, attacked.repository_files_forged
            ),
            format!("{} connections accepted behind the gate", attacked.vault_connections_accepted),
        ];
        Ok(Self::new(value(attacked)?, lines))
    }

    pub(crate) fn cut(role: Role, restored: bool) -> Self {
        let state = if restored { "plugged in" } else { "cut" };
        Self::new(json!({ "role": role, "plugged": restored }), vec![format!("{role} is {state}")])
    }

    pub(crate) fn witness(contacts: &[Contact], arrivals: &Arrivals) -> anyhow::Result<Self> {
        let mut lines = vec![format!("{} contacts, {} packets arrived", contacts.len(), arrivals.total())];
        lines.extend(contacts.iter().rev().take(10).map(|contact| {
            let port = contact.port.map_or_else(|| "?".to_owned(), |port| port.to_string());
            format!("{} {} from {} to port {port}", contact.at, contact.protocol, contact.from)
        }));
        let newest: Vec<_> = contacts.iter().rev().take(100).collect();
        let json =
            json!({ "contacts": contacts.len(), "newest": value(&newest)?, "arrivals": value(arrivals)? });
        Ok(Self::new(json, lines))
    }

    pub(crate) fn probed(probed: &Probed) -> anyhow::Result<Self> {
        let yes = |is| if is { "answered" } else { "silent" };
        let lines = vec![
            format!(
                "from {} to {}: {}",
                probed.from,
                probed.target,
                if probed.reached { "REACHED" } else { "nothing reached" }
            ),
            format!(
                "tcp: {} ports tried, {} accepted, {} refused, {} unreachable",
                probed.tcp.tried, probed.tcp.accepted, probed.tcp.refused, probed.tcp.unreachable
            ),
            format!("udp: {:?} | icmp: {} | arp: {}", probed.udp, yes(probed.icmp), yes(probed.arp)),
            format!("ipv6: {:?} | forged segments: {:?}", probed.ipv6, probed.forged),
            format!("{:.1} s", probed.seconds),
        ];
        Ok(Self::new(value(probed)?, lines))
    }

    pub(crate) fn dump(dump: &Dump) -> anyhow::Result<Self> {
        let line = format!(
            "night {}: {} files, {} bytes; {} written, {} removed",
            dump.night, dump.files, dump.bytes, dump.written, dump.removed
        );
        Ok(Self::new(value(dump)?, vec![line]))
    }

    pub(crate) fn manifest(manifest: &Manifest) -> anyhow::Result<Self> {
        let files = manifest.ophthalmology.as_ref().map(|tree| tree.files.len());
        let sums = manifest.billing.as_ref().map(|sums| sums.answers.len());
        let instances = manifest.pacs.as_ref().map(std::collections::BTreeMap::len);
        let count = |number: Option<usize>| number.map_or_else(|| "none".to_owned(), |n| n.to_string());
        let line = format!(
            "`{}`: ophthalmology's files {}, billing's sums {}, pacs's instances {}",
            manifest.name,
            count(files),
            count(sums),
            count(instances)
        );
        let json = json!({
            "name": manifest.name, "at": value(&manifest.at)?, "files": files, "sums": sums,
            "instances": instances, "held": manifest.held,
        });
        Ok(Self::new(json, vec![line]))
    }

    pub(crate) fn compared(compared: &Compared) -> anyhow::Result<Self> {
        let mut lines = vec![format!(
            "{}: {}, {} ({} compared, {} missing, {} changed, {} added, {} held) in {:.1} s",
            compared.system,
            if compared.running { "runs" } else { "DOES NOT RUN" },
            if compared.identical { "identical" } else { "DIFFERS" },
            compared.compared,
            compared.missing,
            compared.changed,
            compared.added,
            compared.held,
            compared.seconds
        )];
        lines.extend(compared.failure.iter().cloned());
        lines.extend(compared.examples.iter().cloned());
        Ok(Self::new(value(compared)?, lines))
    }

    pub(crate) fn mails(mails: &[Received]) -> anyhow::Result<Self> {
        let lines =
            mails.iter().map(|mail| format!("{} -> {}: {}", mail.from, mail.to, mail.subject)).collect();
        Ok(Self::new(json!({ "mails": value(&mails)? }), lines))
    }
}

/// An error: for people on stderr, for programs as JSON on stdout.
pub(crate) fn complain(json: bool, message: &str, code: &str, hint: Option<String>) {
    // There is nowhere left to report that nobody listens.
    if json {
        let error = json!({ "error": { "code": code, "message": message, "hint": hint } });
        let _ = writeln!(std::io::stdout(), "{error}");
    }
    let mut text = format!("error: {message} [{code}]");
    if let Some(hint) = hint {
        text.push_str("\nhint: ");
        text.push_str(&hint);
    }
    let _ = writeln!(std::io::stderr(), "{text}");
}
