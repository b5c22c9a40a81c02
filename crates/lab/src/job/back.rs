//! The worst day: the attack, the restore window, and every system back as a running service.

use std::path::{Path, PathBuf};

use kuramori_model::clock::{Clock, SystemClock, SystemRandom};

use super::{
    Product, Story,
    night::SYSTEMS,
    site::{SERVE, last_json},
    story::seconds_since,
    summary::{AttackFigures, RestoredFigures, Summary},
    vault::{Vault, figures},
};
use crate::{
    Compared, Lab, LabError, Manifest, Result, Role, Targets, attack as attack_with, compare, lab::private,
    process::StopBy, wait_until,
};

fn receiver(lab: &Lab) -> PathBuf {
    lab.host(Role::Cln).folder().join("receiver")
}

/// Makes the receiver's certificate and login, and pins them at the vault while there is still time.
pub(super) fn prepare_receiver(lab: &Lab, product: &Product, vault: &Vault<'_>) -> Result<()> {
    let (host, folder) = (lab.host(Role::Cln), receiver(lab));
    fs_err::create_dir_all(&folder)?;
    let address = Role::Cln.address().to_string();
    host.run(&product.kuramori().args(["repo", "certificate", "--name", &address, "--out"]).arg(&folder))?;
    lab.secret("receiver")?;
    let login = product
        .kuramori()
        .args(["repo", "login", "--name", "vault", "--role", "receive", "--password-file"])
        .arg(lab.secret_file("receiver"));
    private(&folder.join("logins.toml"), &host.text(&login)?)?;
    let pinned = vault.folder.join("clean");
    fs_err::copy(folder.join("ca.pem"), pinned.join("ca.pem"))?;
    private(&pinned.join("password"), &lab.secret("receiver")?)
}

/// Root on departments and primary.
pub(super) fn attack(lab: &Lab, summary: &mut Summary, story: &Story) -> Result<()> {
    let done = attack_with(lab, &Targets::of(lab)?, &SystemRandom)?;
    story.tell(
        &format!(
            "攻撃: 部門のファイル {} 件を暗号化、一次バックアップの {} 件を破壊・{} 件を偽造、保管庫への到達 {} 件",
            done.files_encrypted,
            done.repository_files_destroyed,
            done.repository_files_forged,
            done.vault_connections_accepted
        ),
        &format!(
            "attack: {} department files encrypted, {} files of the primary destroyed, {} forged, {} contacts with the vault",
            done.files_encrypted,
            done.repository_files_destroyed,
            done.repository_files_forged,
            done.vault_connections_accepted
        ),
    );
    summary.attack = AttackFigures {
        files_encrypted: done.files_encrypted,
        repository_files_destroyed: done.repository_files_destroyed,
        repository_files_forged: done.repository_files_forged,
        vault_connections_accepted: done.vault_connections_accepted,
    };
    Ok(())
}

/// From the decision to a running service, system by system in restore order.
pub(super) fn restore(
    lab: &Lab,
    product: &Product,
    vault: &Vault<'_>,
    truth: &Manifest,
    summary: &mut Summary,
    story: &Story,
) -> Result<()> {
    let begin = SystemClock.boot();
    let repositories = window(lab, product, vault, summary, story)?;
    for name in SYSTEMS {
        let target = lab.host(Role::Cln).folder().join("restored").join(name);
        let password = vault.folder.join("enrolment/passwords").join(name);
        let verb = |words: &[&str]| {
            product
                .kuramori()
                .args(["--json", "repo"])
                .args(words)
                .arg("-r")
                .arg(repositories.join(name))
                .arg("--password-file")
                .arg(&password)
        };
        let host = lab.host(Role::Cln);
        let report = last_json(&host.text(&verb(&["restore", "latest"]).arg("--target").arg(&target))?)?;
        let points = host.text(&verb(&["snapshots"]))?;
        let newest = last_json(&points)?;
        let compared = judge(lab, name, truth, &target, &newest)?;
        let back = RestoredFigures {
            name: name.to_owned(),
            from: "vault",
            generation: newest["time"].as_str().unwrap_or_default().to_owned(),
            identical: compared.identical
                && report["restored"]["shortfalls"].as_array().is_some_and(Vec::is_empty),
            running: compared.running,
            rto_s: seconds_since(begin),
            differences: compared.examples.into_iter().chain(compared.failure).collect(),
        };
        tell(&back, story);
        summary.restored.push(back);
    }
    Ok(())
}

/// The restore window: the vault pushes into the clean room, egress only.
fn window(
    lab: &Lab,
    product: &Product,
    vault: &Vault<'_>,
    summary: &mut Summary,
    story: &Story,
) -> Result<PathBuf> {
    let (folder, repositories) = (receiver(lab), lab.host(Role::Cln).folder().join("repositories"));
    fs_err::create_dir_all(&repositories)?;
    let address = format!("{}:{SERVE}", Role::Cln.address());
    let serve = product
        .kuramori()
        .args(["repo", "serve", "--receiver", "--listen", &address, "--root"])
        .arg(&repositories)
        .arg("--certificate")
        .arg(folder.join("server.pem"))
        .arg("--key")
        .arg(folder.join("server.key"))
        .arg("--logins")
        .arg(folder.join("logins.toml"));
    let host = lab.host(Role::Cln);
    let mut process =
        host.spawn_with("receiver", &serve, &lab.root().join("logs/receiver.log"), StopBy::Term)?;
    let target: std::net::SocketAddr = (Role::Cln.address(), SERVE).into();
    wait_until("the receiver", std::time::Duration::from_mins(2), || {
        host.inside(|| std::net::TcpStream::connect(target).ok())
    })?;
    vault.locked_and_released(story)?;
    let sent = SYSTEMS.into_iter().chain(["_control"]);
    let words: Vec<&str> = ["restore", "--yes", "--receiver", "clean"]
        .into_iter()
        .chain(sent.flat_map(|name| ["--system", name]))
        .collect();
    let done = vault.approved(&words, 1)?;
    process.stop()?;
    let seen = figures(&done);
    story.tell(
        &format!(
            "復元のための開放: {:.0} MiB を清浄な受け側へ送りました",
            seen.bytes as f64 / f64::from(1 << 20)
        ),
        &format!(
            "restore window: {:.0} MiB went to the clean receiver",
            seen.bytes as f64 / f64::from(1 << 20)
        ),
    );
    summary.windows.push(seen);
    Ok(repositories)
}

fn judge(
    lab: &Lab,
    name: &str,
    truth: &Manifest,
    target: &Path,
    newest: &serde_json::Value,
) -> Result<Compared> {
    match name {
        "directory" => compare::directory(lab, truth, Role::Cln, target),
        "billing" => compare::billing(lab, truth, Role::Cln, target),
        "ophthalmology" => compare::ophthalmology_in_domain(lab, truth, Role::Cln, target),
        "laboratory" => compare::laboratory(lab, truth, Role::Cln, target),
        "pathology" => compare::pathology(lab, truth, Role::Cln, target),
        "ward" => compare::ward(lab, truth, Role::Cln, target),
        _ => {
            // A stock restic keeps absolute paths.
            let path = newest["paths"][0].as_str().ok_or(LabError::NoService("pacs"))?;
            compare::pacs(lab, truth, Role::Cln, &target.join(path.trim_start_matches('/')))
        }
    }
}

fn tell(back: &RestoredFigures, story: &Story) {
    let RestoredFigures { name, identical, running, rto_s, .. } = back;
    let word = |holds: bool, yes: &'static str, no: &'static str| if holds { yes } else { no };
    story.tell(
        &format!(
            "{name}: 保管庫から復元、{}、{}、決定から {rto_s:.1} 秒",
            word(*identical, "内容一致", "内容が異なります"),
            word(*running, "稼働", "稼働していません")
        ),
        &format!(
            "{name}: restored from the vault, {}, {}, {rto_s:.1} s after the decision",
            word(*identical, "identical", "NOT identical"),
            word(*running, "running", "NOT running")
        ),
    );
}
