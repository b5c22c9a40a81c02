//! The judge's turn: facts out of the catalog, findings into alarms, alarms into notices that are owed.

use std::collections::HashSet;

use jiff::Timestamp;
use kuramori_catalog::{Place, Registered, RunFilter, RunKind, RunState};
use kuramori_judge::{
    calendar::Calendar,
    foreign,
    night::{self, AtVault, Broken, Subject, Working},
    platform::{self, Platform, VaultSign},
    schedule::Timetable,
};
use kuramori_model::{
    fault::chain,
    finding::{Finding, Severity},
};
use kuramori_notify::{Notice, Occasion};

use crate::{App, error::Result, facts::Seen, post, results, wal};

/// A judge that is slow is not yet gone.
const GRACE: std::time::Duration = std::time::Duration::from_secs(10);
/// Restore points that the judge looks back on.
const HISTORY: u32 = 100;

/// Judges until the task is dropped.
pub(crate) async fn run(app: App) {
    loop {
        // One judge at a time; another server takes its place when it is silent.
        let judge = app.alone("judge", app.config.judge_every * 3 + GRACE).await;
        let outcome = match judge {
            Ok(true) => turn(&app).await,
            Ok(false) => own(&app).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            tracing::error!("the judge's turn failed: {}", chain(&error));
        }
        tokio::time::sleep(app.config.judge_every).await;
    }
}

/// One turn; public so that tests and the admin socket can ask for it.
pub(crate) async fn turn(app: &App) -> Result<()> {
    let now = app.clock.now();
    own(app).await?;
    let mut findings = Vec::new();
    let mut calendar = Calendar { japan: true, ..Calendar::default() };
    calendar.more = app.catalog.setting("holidays").await?.unwrap_or_default();
    for registered in app.catalog.systems().await? {
        findings.extend(system(app, now, &registered, &calendar).await?);
        findings.extend(app.drill_findings(now, &registered).await?);
        findings.extend(wal::findings(now, &registered).await?);
    }
    findings.extend(platform(app, now).await?);
    findings.extend(post::speechless(app, now).await?);
    tell(app, "judge", &findings).await?;
    app.catalog.beat("judge", &serde_json::json!({ "findings": findings.len() })).await?;
    Ok(())
}

/// What only this server can have seen: refused logins, forged reports, its own look at the gate.
async fn own(app: &App) -> Result<()> {
    let mut findings = app.refused.all();
    findings.extend(gate(app, app.clock.now()));
    tell(app, &format!("server@{}:{}", app.host(), app.config.serve.listen.port()), &findings).await
}

/// Findings into alarms, alarms into notices that are owed.
async fn tell(app: &App, scope: &str, findings: &[Finding]) -> Result<()> {
    let now = app.clock.now();
    let changes = app.catalog.reconcile(scope, findings).await?;
    let mut notices = Vec::new();
    for (alarms, occasion) in [
        (&changes.opened, Occasion::Opened),
        (&changes.raised, Occasion::Raised),
        (&changes.closed, Occasion::Recovered),
    ] {
        for alarm in alarms {
            tracing::warn!(code = alarm.finding.code, system = ?alarm.finding.system, ?occasion, "alarm");
            notices.push(Notice::of_alarm(alarm.id, occasion, now, post::item(app, alarm).await));
        }
    }
    post::owe(app, &notices).await?;
    app.post.notify_one();
    Ok(())
}

async fn system(
    app: &App,
    now: Timestamp,
    registered: &Registered,
    calendar: &Calendar,
) -> Result<Vec<Finding>> {
    let system = &registered.system;
    let timetable = match Timetable::new(&system.schedule) {
        Ok(timetable) => timetable,
        Err(error) => {
            let finding = Finding::new("judge.bad-schedule", Severity::Alarm, "check-register");
            return Ok(vec![finding.of(&system.id).with("why", error.to_string())]);
        }
    };
    let points = app.catalog.history(&system.id, HISTORY).await?;
    let filter = RunFilter {
        system: Some(system.id.clone()),
        kind: Some(RunKind::Backup),
        limit: 10,
        ..RunFilter::default()
    };
    let runs = app.catalog.runs(&filter).await?;
    let running = runs.iter().find(|run| run.state == RunState::Running).and_then(|run| {
        let started = run.started_at?;
        let progress = run.progress_at.unwrap_or(started);
        Some(Working { run: run.id, started, progress, phase: run.progress.phase.clone() })
    });
    let failed = runs.iter().find(|run| run.ended_at.is_some()).filter(|run| run.state == RunState::Failed);
    let failed = failed.and_then(|run| {
        Some(Broken { run: run.id, ended: run.ended_at?, code: run.error_code.clone().unwrap_or_default() })
    });
    let primary = app.catalog.points(&system.id, Place::Primary).await?;
    let generations = |points: &[kuramori_catalog::Point]| {
        let zone = timetable.zone();
        let days: HashSet<_> =
            points.iter().filter(|p| p.complete).map(|p| p.received.to_zoned(zone.clone()).date()).collect();
        u32::try_from(days.len()).unwrap_or(u32::MAX)
    };
    let mut vault = None;
    for name in app.vaults().await? {
        if app.catalog.newest_report(&name.name).await?.is_some() {
            let there = app.catalog.points(&system.id, Place::Vault).await?;
            let proven: HashSet<&str> =
                there.iter().filter(|p| p.complete).map(|p| p.snapshot.as_str()).collect();
            let newest = primary.iter().find(|p| proven.contains(p.snapshot.as_str())).map(|p| p.sequence);
            // Older points that the vault skipped are not owed; only what came after its newest one.
            let missing = primary
                .iter()
                .filter(|p| p.complete && newest.is_none_or(|newest| p.sequence > newest))
                .map(|p| p.received)
                .min();
            vault = Some(AtVault { oldest_missing: missing, generations: generations(&there) });
        }
    }
    let product = results::of(system);
    let records = if product.is_some() { app.results(&system.id).await? } else { Vec::new() };
    let said = foreign::taken(&records);
    let mut subject = Subject {
        system: &system.id,
        since: registered.created_at,
        enabled: system.enabled,
        data: system.data,
        timetable: &timetable,
        expect: &system.expect,
        calendar,
        points: &points,
        running,
        failed,
        generations: generations(&primary),
        vault,
    };
    let Some(product) = product else { return Ok(night::judge(now, &subject)) };
    let mut findings = Vec::new();
    let pulled = results::is_pulled(&product);
    if pulled {
        findings.extend(night::judge(now, &subject));
    }
    // What the product says of its own job is judged beside what we read; where it says nothing at all and we
    // read the folder, the folder's own findings are enough.
    if !pulled || !records.is_empty() {
        subject.points = &said;
        subject.failed = if pulled { None } else { subject.failed.take() };
        subject.failed = foreign::broken(&records).or(subject.failed);
        subject.running = if pulled { None } else { subject.running };
        // How many generations the product keeps is not told by its results.
        subject.generations = u32::MAX;
        subject.vault = None;
        let told: HashSet<String> = findings.iter().map(|finding| finding.code.clone()).collect();
        // One trouble is told once: our own run of tonight may have failed with the product's own words.
        let more = night::judge(now, &subject).into_iter().filter(|finding| !told.contains(&finding.code));
        findings.extend(more.map(|finding| finding.about(foreign::SUBJECT)));
    }
    Ok(findings)
}

async fn platform(app: &App, now: Timestamp) -> Result<Vec<Finding>> {
    let beats = app.catalog.heartbeats().await?;
    let mut vaults = Vec::new();
    for vault in app.vaults().await? {
        vaults.push(VaultSign {
            report: app.catalog.newest_report(&vault.name).await?.map(|report| report.received),
            since: vault.since,
            every_s: app.config.report_due.as_secs(),
            saw_scheduler: None,
            name: vault.name,
        });
    }
    let jump = app.catalog.suspended().await?.map(|jump| (jump.seen, jump.expected));
    let scheduler = beats.iter().find(|beat| beat.name == "scheduler").map(|beat| beat.at);
    Ok(platform::judge(now, &Platform { scheduler, vaults, jump }))
}

/// The production side never has a way into the vault: an answer there is an alarm at any time.
fn gate(app: &App, now: Timestamp) -> Vec<Finding> {
    let gate = app.gate.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(look) = gate.probe.as_ref().filter(|look| look.at(now) == Seen::Open) else { return Vec::new() };
    vec![
        Finding::new("gate.answers", Severity::Alarm, "secure-gate")
            .with("source", look.source.as_str())
            .with("detail", look.detail.as_str()),
    ]
}
