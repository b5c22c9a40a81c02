//! Notices: what is owed goes out, again and again until a target takes it; and once a day a notice that
//! everything still runs, so that silence means something.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use kuramori_catalog::{Alarm, Sendable};
use kuramori_model::{
    fault::{Fault, Kind, chain},
    finding::{Finding, Value},
};
use kuramori_notify::{
    Item, Notice, NotifyError, Occasion, TargetState, deliver, next_try, route, speechless as silent,
};

use crate::{App, ServerError, error::Result};

/// Setting: when the daily notice last went out.
pub(crate) const HEARTBEAT_SENT: &str = "heartbeat-sent";
/// Setting: since when notices are set up.
const SINCE: &str = "notices-since";
/// How long one try may take before another may begin.
const LEASE: Duration = Duration::from_mins(2);
/// Pause between looks at the outbox when nobody wakes us.
const PAUSE: Duration = Duration::from_secs(10);

/// An alarm with the names of its system.
pub(crate) async fn item(app: &App, alarm: &Alarm) -> Item {
    let system = match &alarm.finding.system {
        Some(id) => app.catalog.system(id).await.ok().map(|registered| registered.system),
        None => None,
    };
    let (name_ja, name_en) = system.map(|system| (system.name_ja, system.name_en)).unwrap_or_default();
    Item { finding: alarm.finding.clone(), opened: alarm.opened, closed: alarm.closed, name_ja, name_en }
}

/// Sorts notices to their targets and writes them into the outbox; nothing is sent here.
pub(crate) async fn owe(app: &App, notices: &[Notice]) -> Result<()> {
    let Some(config) = &app.config.notices else { return Ok(()) };
    for outgoing in route(&config.notify, notices) {
        app.catalog.owe(&outgoing.target, &outgoing.dedup, &outgoing.notice, outgoing.notice.at).await?;
    }
    Ok(())
}

/// Sends until the task is dropped.
pub(crate) async fn run(app: App) {
    loop {
        if let Err(error) = turn(&app).await {
            tracing::error!("notices could not be worked off: {}", chain(&error));
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = app.post.notified() => {}
        }
    }
}

async fn turn(app: &App) -> Result<()> {
    daily(app).await?;
    while let Some(sendable) = app.catalog.next_owed(&app.owner, LEASE).await? {
        match send(app, &sendable).await {
            Ok(notice) => {
                app.catalog.sent(&sendable).await?;
                for alarm in numbers(&notice) {
                    app.catalog.set_notified(alarm).await?;
                }
                if notice.occasion == Occasion::Daily {
                    app.catalog.set_setting(HEARTBEAT_SENT, &app.clock.now()).await?;
                }
            }
            Err(error) => {
                tracing::warn!(
                    notice = sendable.owed.id,
                    target = sendable.owed.target,
                    "a notice did not go: {}",
                    chain(&error)
                );
                let permanent = error.kind() != Kind::Retry;
                let again = next_try(app.clock.now(), sendable.owed.attempts, permanent);
                app.catalog.unsent(&sendable, &chain(&error), again).await?;
            }
        }
    }
    app.catalog.beat("notify", &serde_json::json!({})).await?;
    Ok(())
}

/// The alarms whose opening a notice tells: its own, or those in a digest of them.
fn numbers(notice: &Notice) -> Vec<u64> {
    let number = |id: &str| id.strip_prefix("alarm-")?.split('.').next()?.parse().ok();
    number(&notice.id).into_iter().collect()
}

/// Owes today's notice once its time has come.
async fn daily(app: &App) -> Result<()> {
    let Some(config) = &app.config.notices else { return Ok(()) };
    let now = app.clock.now();
    let local = now.to_zoned(app.config.zone.clone());
    if local.time() < config.heartbeat {
        return Ok(());
    }
    let mut items = Vec::new();
    for alarm in app.catalog.open_alarms().await? {
        items.push(item(app, &alarm).await);
    }
    let status = app.status().await?;
    let count = |n: usize| Value::Number(i64::try_from(n).unwrap_or(i64::MAX));
    let mut figures = BTreeMap::from([
        ("systems".to_owned(), count(status.verdict.total)),
        ("recoverable".to_owned(), count(status.verdict.recoverable)),
        ("open-alarms".to_owned(), count(status.alarms.len())),
    ]);
    if let Some(window) = status.windows.first() {
        figures.insert("last-window".to_owned(), Value::Time(window.opened));
    }
    owe(app, &[Notice::daily(&local.date().to_string(), now, items, figures)]).await
}

async fn send(app: &App, sendable: &Sendable) -> Result<Notice> {
    let bug = |why: String| ServerError::Bug(format!("notice {}: {why}", sendable.owed.id));
    let notice: Notice =
        serde_json::from_value(sendable.owed.payload.clone()).map_err(|error| bug(error.to_string()))?;
    let config = app.config.notices.as_ref().map(|notices| &notices.notify);
    let target =
        config.and_then(|config| config.targets.iter().find(|target| target.name == sendable.owed.target));
    let (Some(config), Some(target)) = (config, target) else {
        return Err(bug(format!("the target `{}` is not configured any more", sendable.owed.target)));
    };
    deliver(config, target, &notice).await.map_err(|error: NotifyError| ServerError::Notify(error))?;
    Ok(notice)
}

/// Whether people can be told at all.
pub(crate) async fn speechless(app: &App, now: Timestamp) -> Result<Vec<Finding>> {
    let Some(config) = &app.config.notices else {
        return Ok(vec![Finding::new(
            "notify.no-target",
            kuramori_model::finding::Severity::Warning,
            "set-up-target",
        )]);
    };
    let since = match app.catalog.setting(SINCE).await? {
        Some(since) => since,
        None => {
            app.catalog.set_setting(SINCE, &now).await?;
            now
        }
    };
    let owed = app.catalog.all_owed().await?;
    let mut states = Vec::new();
    for target in &config.notify.targets {
        let last_ok = app.catalog.last_sent(&target.name).await?;
        let failing: Vec<_> = owed
            .iter()
            .filter(|notice| notice.target == target.name && notice.last_error.is_some())
            .collect();
        states.push(TargetState {
            name: target.name.clone(),
            last_ok,
            failing_since: failing
                .iter()
                .map(|notice| notice.created)
                .min()
                .filter(|at| last_ok.is_none_or(|ok| ok < *at)),
            error: failing.last().and_then(|notice| notice.last_error.clone()),
        });
    }
    Ok(silent(&config.notify, now, since, &states))
}
