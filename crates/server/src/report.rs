//! The vault's signed reports: read when they arrive, believed only with the key that was pinned at the
//! enrolment, and only if newer than the last one.

use jiff::Timestamp;
use kuramori_catalog::{VaultPoint, VaultReport, Verdict, Window};
use kuramori_model::{
    gate::WindowRecord,
    ids::{Sequence, SystemId},
};
use kuramori_serve::FileName;
use serde::{Deserialize, Serialize};

use crate::{App, ServerError, error::Result, logins::REPORTS};

/// A report on the wire: the body's exact bytes as text, and the signature over them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    /// The body as JSON text.
    pub body: String,
    /// Ed25519 over the body's bytes, hexadecimal.
    pub signature: String,
}

/// What the vault says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Body {
    /// The vault's name.
    pub vault: String,
    /// Grows with each report.
    pub number: u64,
    /// By the vault's clock.
    pub made: Timestamp,
    /// Restore points that are proven there.
    #[serde(default)]
    pub points: Vec<ReportedPoint>,
    /// Windows since the last report.
    #[serde(default)]
    pub windows: Vec<WindowRecord>,
}

/// A restore point at the vault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReportedPoint {
    /// The repository's name.
    pub repository: String,
    /// The snapshot's id.
    pub snapshot: String,
    /// The vault's number.
    pub sequence: Sequence,
    /// The vault's time.
    pub received: Timestamp,
    /// Whole in verified packs.
    pub complete: bool,
    /// Inspection's word.
    #[serde(default = "unknown")]
    pub verdict: Verdict,
    /// Bytes that it restores to.
    #[serde(default)]
    pub bytes: u64,
    /// Files that it restores to.
    #[serde(default)]
    pub files: u64,
}

const fn unknown() -> Verdict {
    Verdict::Unknown
}

/// Checks and opens a report.
///
/// # Errors
/// [`ServerError::Report`] if the signature is not of this key or the body is none.
pub fn open(bytes: &[u8], key: &str) -> Result<Body> {
    let bad = |why: String| ServerError::Report(why);
    let key: kuramori_audit::Verifier = key.parse().map_err(|_| bad("the pinned key cannot be read".to_owned()))?;
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    let signature = hex::decode(&envelope.signature).map_err(|error| bad(error.to_string()))?;
    if !key.verifies(envelope.body.as_bytes(), &signature) {
        return Err(bad("its signature is not of the vault's key".to_owned()));
    }
    serde_json::from_str(&envelope.body).map_err(|error| bad(error.to_string()))
}

/// Reads a report that has just arrived.
pub(crate) async fn read(app: &App, name: FileName) -> Result<()> {
    let path = app.repository_folder(REPORTS).join("snapshots").join(name.to_string());
    let bytes = fs_err::read(path).map_err(ServerError::file("read a report"))?;
    let vaults = app.vaults().await?;
    let mut why = ServerError::Report("no vault is enrolled".to_owned());
    for vault in vaults {
        match open(&bytes, &vault.report_key) {
            Ok(body) if body.vault == vault.name => return take(app, &body).await,
            Ok(body) => why = ServerError::Report(format!("`{}` signed a report of `{}`", vault.name, body.vault)),
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

async fn take(app: &App, body: &Body) -> Result<()> {
    let last = app.catalog.newest_report(&body.vault).await?;
    let report = VaultReport {
        vault: body.vault.clone(),
        number: body.number,
        made: body.made,
        received: app.clock.now(),
        verified: true,
        body: serde_json::to_value(body).map_err(|error| ServerError::Bug(error.to_string()))?,
    };
    let new = app.catalog.record_report(&report).await?;
    if !new || last.is_some_and(|last| last.number > body.number) {
        return Ok(());
    }
    for point in &body.points {
        let Ok(system) = SystemId::new(&point.repository) else { continue };
        let known = app.catalog.system(&system).await.is_ok();
        if !known {
            tracing::warn!(repository = point.repository, "the vault holds a repository that is not registered");
            continue;
        }
        app.catalog
            .record_vault_point(&VaultPoint {
                system,
                snapshot: point.snapshot.clone(),
                sequence: point.sequence,
                received: point.received,
                complete: point.complete,
                verdict: point.verdict,
                bytes: point.bytes,
                files: point.files,
                drilled: None,
            })
            .await?;
    }
    for window in &body.windows {
        app.catalog.record_window(&self::window(&body.vault, window)?).await?;
    }
    let data = serde_json::json!({ "vault": body.vault, "number": body.number });
    app.catalog.add_event("vault", "report.received", None, &data).await?;
    app.work.notify_one();
    Ok(())
}

fn window(vault: &str, record: &WindowRecord) -> Result<Window> {
    let time = |seconds: f64| std::time::Duration::try_from_secs_f64(seconds).ok();
    let wrong = |error: serde_json::Error| ServerError::Bug(error.to_string());
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let reason = serde_json::to_value(&record.close_reason).map_err(wrong)?;
    let asked = reason.get("because").and_then(serde_json::Value::as_str).unwrap_or_default();
    Ok(Window {
        vault: vault.to_owned(),
        id: record.window,
        purpose: word(serde_json::to_value(&record.purpose).map_err(wrong)?),
        opened: record.opened,
        closed: Some(record.closed),
        commanded: time(record.exposure.commanded_s),
        actuator: time(record.exposure.actuator_s),
        probe: record.exposure.probe_s.and_then(time),
        bytes: record.bytes_in.saturating_add(record.bytes_out),
        closed_verified: Some(record.closed_verified),
        // An ordinary end needs no remark.
        outcome: if asked == "asked" { String::new() } else { asked.to_owned() },
        detail: serde_json::to_value(record).map_err(wrong)?,
    })
}
