//! Notices: what is owed goes out by mail, again and again until a relay takes it; and once a day a notice
//! that everything still runs, so that silence means something.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kuramori_catalog::Sendable;
use kuramori_model::{fault::chain, finding::Finding};
use serde::{Deserialize, Serialize};

use crate::{App, ServerError, error::Result};

/// The one target so far.
pub(crate) const TARGET: &str = "mail";
/// Setting: when the daily notice last went out.
pub(crate) const HEARTBEAT_SENT: &str = "heartbeat-sent";
/// How long one try may take before another may begin.
const LEASE: Duration = Duration::from_mins(2);
/// Pause between looks at the outbox when nobody wakes us.
const PAUSE: Duration = Duration::from_secs(10);
/// The longest pause between two tries of one notice.
const LONGEST: i64 = 15 * 60;

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Something is wrong since now.
    Opened,
    /// It is gone.
    Closed,
    /// Everything still runs.
    Heartbeat,
    /// A person asked for a test.
    Test,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::Heartbeat => "heartbeat",
            Self::Test => "test",
        }
    }
}

/// What is kept of a notice in the outbox; its words are made when it is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Notice {
    pub(crate) kind: Kind,
    pub(crate) alarm: Option<u64>,
    pub(crate) finding: Option<Finding>,
    pub(crate) at: Timestamp,
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
    heartbeat(app).await?;
    while let Some(sendable) = app.catalog.next_owed(&app.owner, LEASE).await? {
        match deliver(app, &sendable).await {
            Ok(notice) => {
                app.catalog.sent(&sendable).await?;
                if let Some(alarm) = notice.alarm.filter(|_| notice.kind == Kind::Opened) {
                    app.catalog.set_notified(alarm).await?;
                }
                if notice.kind == Kind::Heartbeat {
                    app.catalog.set_setting(HEARTBEAT_SENT, &app.clock.now()).await?;
                }
            }
            Err(error) => {
                tracing::warn!(notice = sendable.owed.id, "a notice did not go: {}", chain(&error));
                let pause = (5_i64 << sendable.owed.attempts.min(10)).min(LONGEST);
                let again = app.clock.now() + SignedDuration::from_secs(pause);
                app.catalog.unsent(&sendable, &chain(&error), again).await?;
            }
        }
    }
    app.catalog.beat("notify", &serde_json::json!({})).await?;
    Ok(())
}

/// Owes today's notice once its time has come.
async fn heartbeat(app: &App) -> Result<()> {
    let Some(mail) = &app.config.mail else { return Ok(()) };
    let now = app.clock.now();
    let local = now.to_zoned(app.config.zone.clone());
    if local.time() < mail.heartbeat {
        return Ok(());
    }
    let notice = Notice { kind: Kind::Heartbeat, alarm: None, finding: None, at: now };
    app.catalog.owe(TARGET, &format!("heartbeat/{}", local.date()), &notice, now).await?;
    Ok(())
}

async fn deliver(app: &App, sendable: &Sendable) -> Result<Notice> {
    let notice: Notice = serde_json::from_value(sendable.owed.payload.clone())
        .map_err(|error| ServerError::Bug(format!("notice {}: {error}", sendable.owed.id)))?;
    crate::mail::send(app, &notice, &sendable.owed.dedup).await?;
    Ok(notice)
}
