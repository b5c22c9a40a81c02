//! The vault's signed reports: read when they arrive, believed only with the key that was pinned at the
//! enrolment, and only if newer than the last one.

use jiff::Timestamp;
use kuramori_catalog::{Place, VaultPoint, VaultReport, Verdict, Window};
use kuramori_model::ids::{Sequence, SystemId, WindowId};
use kuramori_serve::FileName;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{App, ServerError, error::Result, logins::REPORTS};

/// A report is never larger; more is refused unread.
const MOST: u64 = 1 << 20;

/// A report on the wire: the vault's signature covers the bytes of `report` exactly as they stand.
#[derive(Debug, Deserialize)]
struct Signed {
    report: Box<RawValue>,
    signature: String,
}

/// What we use of what the vault says; it may say more.
#[derive(Debug, Clone, Deserialize)]
struct Body {
    vault: String,
    at: Timestamp,
    /// The vault's accumulated running time: grows with each report, whatever its wall clock does.
    accumulated_s: u64,
    #[serde(default)]
    windows: Vec<ReportedWindow>,
    #[serde(default)]
    repositories: Vec<ReportedRepository>,
}

#[derive(Debug, Clone, Deserialize)]
struct ReportedRepository {
    name: String,
    #[serde(default)]
    newest: Vec<ReportedPoint>,
    /// What must not be trusted, as runs of the vault's numbers; an older vault names none.
    #[serde(default)]
    bad: Vec<ReportedBad>,
}

#[derive(Debug, Clone, Deserialize)]
struct ReportedBad {
    from: Sequence,
    until: Sequence,
    verdict: Verdict,
}

#[derive(Debug, Clone, Deserialize)]
struct ReportedPoint {
    snapshot: String,
    sequence: Sequence,
    received: Timestamp,
    state: String,
    /// The writer itself says that items are missing.
    #[serde(default)]
    partial: bool,
    #[serde(default = "unknown")]
    verdict: Verdict,
}

#[derive(Debug, Clone, Deserialize)]
struct ReportedWindow {
    window: WindowId,
    purpose: String,
    opened: Timestamp,
    seconds: Option<f64>,
    bytes: u64,
    verified: Option<bool>,
    #[serde(default)]
    record: serde_json::Value,
}

const fn unknown() -> Verdict {
    Verdict::Unknown
}

/// Checks and opens a report.
fn open(bytes: &[u8], key: &str) -> Result<(Body, serde_json::Value)> {
    let bad = |why: &str| ServerError::Report(why.to_owned());
    let key: kuramori_audit::Verifier = key.parse().map_err(|_| bad("the pinned key cannot be read"))?;
    let signed: Signed = serde_json::from_slice(bytes).map_err(|error| bad(&error.to_string()))?;
    let signature = hex::decode(&signed.signature).map_err(|error| bad(&error.to_string()))?;
    if !key.verifies(signed.report.get().as_bytes(), &signature) {
        return Err(bad("its signature is not of the vault's key"));
    }
    let parse = |error: serde_json::Error| bad(&error.to_string());
    Ok((
        serde_json::from_str(signed.report.get()).map_err(parse)?,
        serde_json::from_str(signed.report.get()).map_err(parse)?,
    ))
}

/// Reads a report that has just arrived.
pub(crate) async fn read(app: &App, name: FileName) -> Result<()> {
    let path = app.repository_folder(REPORTS).join("snapshots").join(name.to_string());
    let size = fs_err::metadata(&path).map_err(ServerError::file("read a report"))?.len();
    if size > MOST {
        return Err(ServerError::Report(format!("it has {size} bytes")));
    }
    let bytes = fs_err::read(path).map_err(ServerError::file("read a report"))?;
    let vaults = app.vaults().await?;
    let mut why = ServerError::Report("no vault is enrolled".to_owned());
    for vault in vaults {
        match open(&bytes, &vault.report_key) {
            Ok((body, whole)) if body.vault == vault.name => {
                return take(app, &body, whole, &vault.report_key).await;
            }
            Ok((body, _)) => {
                why = ServerError::Report(format!("`{}` signed a report of `{}`", vault.name, body.vault));
            }
            Err(error) => why = error,
        }
    }
    app.refused.report(&why.to_string());
    Err(why)
}

/// Reads every report that lies there: for a server that was away when they came.
pub(crate) async fn catch_up(app: &App) -> Result<()> {
    let folder = app.repository_folder(REPORTS).join("snapshots");
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs_err::read_dir(folder).map_err(ServerError::file("list the reports"))? {
        let entry = entry.map_err(ServerError::file("list the reports"))?;
        if let Some(name) = FileName::parse(&entry.file_name().to_string_lossy())
            && let Err(error) = read(app, name).await
        {
            tracing::warn!(%name, "a report cannot be used: {}", kuramori_model::fault::chain(&error));
        }
    }
    Ok(())
}

async fn take(app: &App, body: &Body, whole: serde_json::Value, key: &str) -> Result<()> {
    let last = app.catalog.newest_report(&body.vault).await?;
    let report = VaultReport {
        vault: body.vault.clone(),
        number: body.accumulated_s,
        made: body.at,
        received: app.clock.now(),
        verified: true,
        body: whole,
    };
    // An old report that somebody kept back changes nothing.
    if last.is_some_and(|last| last.number >= report.number) {
        return Ok(());
    }
    for repository in &body.repositories {
        let Ok(system) = SystemId::new(&repository.name) else { continue };
        if app.catalog.system(&system).await.is_err() {
            continue;
        }
        // First: what is recorded below would hide that a point was clean before.
        condemn(app, &body.vault, &system, &repository.bad).await?;
        let ours = app.catalog.points(&system, Place::Primary).await?;
        for point in &repository.newest {
            let facts = ours.iter().find(|other| other.snapshot == point.snapshot);
            app.catalog
                .record_vault_point(&VaultPoint {
                    system: system.clone(),
                    snapshot: point.snapshot.clone(),
                    sequence: point.sequence,
                    received: point.received,
                    complete: point.state == "complete" && !point.partial,
                    verdict: point.verdict,
                    bytes: facts.map_or(0, |facts| facts.bytes),
                    files: facts.map_or(0, |facts| facts.files),
                    drilled: None,
                })
                .await?;
        }
    }
    for window in &body.windows {
        app.catalog.record_window(&self::window(&body.vault, window)).await?;
    }
    // Last: a report that is recorded was taken in whole; one that was cut off is read again at the next start.
    app.catalog.record_report(&report).await?;
    // Without a cosignature the report is as good; the vault says so itself if it goes on.
    match app.exchange(&body.vault, key, &report.body).await {
        Ok(false) => {}
        Ok(true) => {
            app.refused.report(&format!("the log of `{}` is not what was cosigned before", body.vault));
        }
        Err(error) => tracing::error!("no checkpoint is exchanged: {}", kuramori_model::fault::chain(&error)),
    }
    let data = serde_json::json!({ "vault": body.vault, "number": report.number });
    app.event("vault", "report.received", None, &data).await?;
    app.work.notify_one();
    Ok(())
}

/// Takes over what a later inspection at the vault found about earlier points: a word of it only gets worse.
/// Which of them were clean before is kept, since a restore has to say so.
async fn condemn(app: &App, vault: &str, system: &SystemId, bad: &[ReportedBad]) -> Result<()> {
    let mut later = Vec::new();
    for point in app.catalog.points(system, Place::Vault).await? {
        let run = bad.iter().find(|run| (run.from..=run.until).contains(&point.sequence));
        let Some(verdict) = run.map(|run| run.verdict) else { continue };
        let worse = match verdict {
            Verdict::Suspect => point.verdict != Verdict::Suspect,
            Verdict::Corrupt => matches!(point.verdict, Verdict::Unknown | Verdict::Clean),
            Verdict::Unknown | Verdict::Clean => false,
        };
        if worse {
            app.catalog.set_verdict(Place::Vault, point.sequence, verdict).await?;
            if point.verdict == Verdict::Clean {
                later.push(point.snapshot);
            }
        }
    }
    if !later.is_empty() {
        let data = serde_json::json!({ "vault": vault, "snapshots": later });
        app.remember_condemned(system, later).await?;
        app.event("vault", "points.condemned", Some(system), &data).await?;
    }
    Ok(())
}

fn window(vault: &str, row: &ReportedWindow) -> Window {
    let time = |seconds: f64| std::time::Duration::try_from_secs_f64(seconds).ok();
    // The gate's own record holds the three figures and why it closed; a seeding by disk has none.
    let gate = find(&row.record, "commanded_s");
    let figure =
        |name: &str| gate.and_then(|gate| gate.get(name)).and_then(serde_json::Value::as_f64).and_then(time);
    let closed = gate.and_then(|gate| gate.get("closed")?.as_str()?.parse().ok());
    let because = gate
        .and_then(|gate| gate.get("close_reason")?.get("because")?.as_str())
        // An ordinary end needs no remark.
        .filter(|because| *because != "asked");
    Window {
        vault: vault.to_owned(),
        id: row.window,
        purpose: row.purpose.clone(),
        opened: row.opened,
        closed,
        commanded: figure("commanded_s").or_else(|| row.seconds.and_then(time)),
        actuator: figure("actuator_s"),
        probe: figure("probe_s"),
        bytes: row.bytes,
        closed_verified: row.verified,
        outcome: because.unwrap_or_default().to_owned(),
        detail: row.record.clone(),
    }
}

/// The object that holds this key, at most two levels down.
fn find<'a>(value: &'a serde_json::Value, key: &str) -> Option<&'a serde_json::Value> {
    let holds = |value: &serde_json::Value| value.get(key).is_some();
    if holds(value) {
        return Some(value);
    }
    value.as_object()?.values().find(|below| holds(below))
}
