//! The quiet attack first: an intruder who owns the primary, has every repository's password, and waits for
//! the vault to open its window. While bytes flow he looks for a way in; what the vault carries home is
//! forged under valid names and tags. Later, when he has destroyed the primary, the vault opens once more.

use std::{collections::BTreeMap, time::Duration};

use kuramori_model::clock::SystemRandom;

use super::{
    Story,
    night::SYSTEMS,
    site::last_json,
    summary::{SiegeFigures, Summary},
    vault::{Vault, figures},
};
use crate::{
    Lab, Result, Role, Try,
    attack::{forge_quietly, plant_noise, scan_vault},
    wait_until,
};

/// Noise, and the rate at which the primary sends it: together they keep the window open for ten seconds.
const NOISE: usize = 96 << 20;
const RATE: &str = "80mbit";
/// Bytes that must have come through before the window counts as open and in use.
const FLOWS: u64 = 1 << 20;

/// Forges with the passwords in hand and attacks the puller's window while it is open.
pub(super) fn quiet(lab: &Lab, vault: &Vault<'_>, summary: &mut Summary, story: &Story) -> Result<()> {
    let before = vault.complete()?;
    let mut siege = SiegeFigures::default();
    for name in SYSTEMS {
        let repository = lab.host(Role::Srv).folder().join("kuramori/repositories").join(name);
        let password = fs_err::read_to_string(vault.folder.join("enrolment/passwords").join(name))?;
        let sealed = forge_quietly(lab, &repository, password.trim_end(), &SystemRandom)?;
        siege.files_forged += u64::from(sealed.blobs > 0) + sealed.indexes + sealed.shifted_indexes;
        siege.points_forged += sealed.snapshots;
        plant_noise(lab, &repository, NOISE / SYSTEMS.len(), &SystemRandom)?;
        siege.files_forged += 1;
    }
    let (pulled, scanned) = vault.shaped(RATE, || {
        std::thread::scope(|scope| {
            let pull = scope.spawn(|| vault.host().try_run(&vault.verb(&["pull"])));
            let start = vault.received()?;
            wait_until("bytes of the open window", Duration::from_mins(1), || {
                Ok((vault.received()? > start + FLOWS).then_some(()))
            })?;
            let what = Try { tcp: 1..=2048, ..Try::default() };
            let scanned = scan_vault(lab, &[Role::Srv, Role::Lan], &what)?;
            // Only bytes that still come show that the path was open until the scan's end.
            let end = vault.received()?;
            wait_until("the window to outlast the scan", Duration::from_secs(5), || {
                Ok((vault.received()? > end).then_some(()))
            })
            .ok();
            let still = vault.received()? > end;
            let pulled = pull.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok::<_, crate::LabError>((pulled, (scanned, still)))
        })
    })?;
    let window = last_json(&pulled.text())?;
    summary.windows.push(figures(&window["window"]));
    let proven = window["work"]["proven"].as_array().into_iter().flatten();
    siege.files_put_aside = proven.map(|one| one["quarantined"].as_array().map_or(0, Vec::len) as u64).sum();
    siege.scanned_while_open = scanned.1;
    siege.vault_connections_accepted = scanned.0.vault_connections_accepted
        + scanned.0.scans.iter().filter(|scan| scan.reached).count() as u64;
    siege.points_kept = unchanged(&before, &vault.complete()?);
    story.tell(
        &format!(
            "侵入者(鍵を入手済み)が開放中に攻撃: 偽造 {} 件、隔離 {} 件、保管庫への到達 {} 件、復元点は{}",
            siege.files_forged,
            siege.files_put_aside,
            siege.vault_connections_accepted,
            if siege.points_kept { "すべて無事" } else { "変化しました" }
        ),
        &format!(
            "an intruder with the keys attacks the open window: {} files forged, {} put aside by proof, {} contacts with the vault, restore points {}",
            siege.files_forged,
            siege.files_put_aside,
            siege.vault_connections_accepted,
            if siege.points_kept { "all kept" } else { "CHANGED" }
        ),
    );
    summary.siege = Some(siege);
    Ok(())
}

/// Nothing forged became a complete point of a department, and nothing complete was lost. `_control` grows with
/// each of the living server's own jobs.
fn unchanged(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> bool {
    before.iter().all(|(name, count)| {
        let now = after.get(name).copied().unwrap_or(0);
        if SYSTEMS.contains(&name.as_str()) { now == *count } else { now >= *count }
    })
}

/// The vault opens once more, with the primary destroyed: it reports, and keeps what it has.
pub(super) fn afterwards(vault: &Vault<'_>, summary: &mut Summary, story: &Story) -> Result<()> {
    let before = vault.complete()?;
    let done = vault.host().try_run(&vault.verb(&["pull"]))?;
    if let Ok(window) = last_json(&done.text())
        && window["window"].is_object()
    {
        summary.windows.push(figures(&window["window"]));
    }
    vault.closed()?;
    let status = vault.status()?;
    let alarms = status["alarms"].as_array().map_or(0, Vec::len) as u64;
    let kept = unchanged(&before, &vault.complete()?);
    story.tell(
        &format!(
            "一次バックアップが破壊された後の開放: 警報 {alarms} 件、保管庫の復元点は{}",
            if kept { "すべて無事" } else { "変化しました" }
        ),
        &format!(
            "a window after the primary was destroyed: {alarms} alarms, the vault's restore points {}",
            if kept { "all kept" } else { "CHANGED" }
        ),
    );
    if let Some(siege) = &mut summary.siege {
        siege.alarms_after_destruction = alarms;
        siege.points_kept &= kept;
    }
    Ok(())
}
