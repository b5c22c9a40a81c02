//! Keeps one stream of write-ahead log running for each system whose source wants it, and says what a person
//! must hear of them.
//!
//! Whether a stream runs is decided by the register alone, looked at again and again: a system that is added,
//! changed, disabled or removed is followed without a restart. A stream that ends is tried again, with growing
//! pauses; how far it is lies in its spool folder, so nothing here has to be remembered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kuramori_catalog::Registered;
use kuramori_model::{
    fault::{Fault, chain},
    finding::{Finding, Severity},
    ids::SystemId,
};
use kuramori_source::{
    Cancel, Config, Control,
    config::{PostgresConfig, WalConfig},
    postgres::wal::{Spool, stream},
};

use crate::{App, app::blocking, error::Result};

/// How often the register is looked at.
const TURN: Duration = Duration::from_secs(5);
/// Pauses between attempts, from the first to the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A server that is silent for so long although it is asked every two seconds is gone.
const PATIENCE: Duration = Duration::from_mins(1);
/// A new system has so long to begin.
const BEGIN: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);

/// A stream that was started; it ends with this.
#[derive(Debug)]
struct Running {
    config: PostgresConfig,
    cancel: Cancel,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// The source of a system whose log is kept.
pub(crate) fn kept(registered: &Registered) -> Option<(PostgresConfig, WalConfig)> {
    if !registered.system.enabled {
        return None;
    }
    let config: Config = serde_json::from_value(registered.system.source.clone()).ok()?;
    match config.innermost() {
        Config::Postgres(postgres) => Some((postgres.clone(), postgres.wal.clone()?)),
        _ => None,
    }
}

/// Keeps the streams running until the task is dropped.
pub(crate) async fn run(app: App) {
    let mut running: BTreeMap<SystemId, Running> = BTreeMap::new();
    loop {
        match app.catalog.systems().await {
            Ok(systems) => {
                let wanted: BTreeMap<SystemId, (PostgresConfig, WalConfig)> = systems
                    .iter()
                    .filter_map(|registered| Some((registered.system.id.clone(), kept(registered)?)))
                    .collect();
                running.retain(|id, running| {
                    wanted.get(id).is_some_and(|(config, _)| *config == running.config)
                });
                for (id, (config, wal)) in wanted {
                    running.entry(id.clone()).or_insert_with(|| start(&app, id, config, wal));
                }
            }
            // The streams need no catalog.
            Err(error) => tracing::warn!("the register cannot be read: {}", chain(&error)),
        }
        tokio::time::sleep(TURN).await;
    }
}

fn start(app: &App, id: SystemId, config: PostgresConfig, wal: WalConfig) -> Running {
    let cancel = Cancel::default();
    let running = Running { config: config.clone(), cancel: cancel.clone() };
    let control = Control { clock: Arc::clone(&app.clock), cancel, patience: PATIENCE, ..Control::default() };
    tracing::info!(system = %id, slot = wal.slot, "its log is streamed");
    // Ends by its cancellation; nobody waits for it.
    drop(tokio::task::spawn_blocking(move || {
        let mut pause = PAUSES.0;
        while !control.cancel.is_cancelled() {
            let begun = control.clock.boot();
            match stream(&config, &wal, &control, None) {
                // A job of the same system is at it, or another server.
                Ok(false) => pause = PAUSES.0,
                Ok(true) => {}
                Err(error) => {
                    tracing::warn!(system = %id, code = error.code(), "its log does not come: {}", chain(&error));
                }
            }
            if control.clock.boot().saturating_sub(begun) > PAUSES.1 {
                pause = PAUSES.0;
            }
            let until = control.clock.boot() + pause;
            while control.clock.boot() < until && !control.cancel.is_cancelled() {
                control.clock.sleep(Duration::from_millis(200));
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }));
    running
}

/// What a person must hear of a system's log.
pub(crate) async fn findings(now: Timestamp, registered: &Registered) -> Result<Vec<Finding>> {
    let Some((_, wal)) = kept(registered) else { return Ok(Vec::new()) };
    let id = registered.system.id.clone();
    let folder = wal.spool.clone();
    let seen = blocking(move || {
        let spool = Spool::open(&folder)?;
        Ok((spool.state()?, spool.base()))
    })
    .await;
    let late = jiff::SignedDuration::try_from(wal.late.0).unwrap_or(jiff::SignedDuration::MAX);
    let mut findings = Vec::new();
    let (state, base) = match seen {
        Ok(seen) => seen,
        // One folder that cannot be used must not silence the judge of everything else.
        Err(error) => {
            let why = chain(&error).chars().take(200).collect::<String>();
            let finding = Finding::new("wal.late", Severity::Alarm, "check-log").of(&id);
            return Ok(vec![finding.with("last", registered.created_at).with("why", why)]);
        }
    };
    let Some(state) = state else {
        if now.duration_since(registered.created_at) > late.max(BEGIN) {
            findings.push(
                Finding::new("wal.late", Severity::Alarm, "check-log")
                    .of(&id)
                    .with("last", registered.created_at)
                    .with("why", "no log has come yet"),
            );
        }
        return Ok(findings);
    };
    let why = state.trouble.as_ref().map_or(String::new(), |trouble| trouble.text.clone());
    // By our own clock: the server's may go wrong. A server that answers and gives no log is as bad as none.
    let stuck = state.trouble.as_ref().map_or(state.seen, |trouble| trouble.since.min(state.seen));
    if now.duration_since(stuck) > late {
        findings.push(
            Finding::new("wal.late", Severity::Alarm, "check-log")
                .of(&id)
                .with("last", stuck)
                .with("why", why.chars().take(200).collect::<String>()),
        );
    }
    if let Some(gap) = state.gaps.last()
        && base.is_none_or(|base| base.past < state.past || base.past == gap.past && gap.to > base.end)
    {
        findings.push(
            Finding::new("wal.gap", Severity::Alarm, "take-base")
                .of(&id)
                .with("from", gap.from.to_string())
                .with("to", gap.to.to_string())
                .with("found", gap.found)
                .with("why", gap.why.chars().take(200).collect::<String>()),
        );
    }
    let behind = state.server_end.0.saturating_sub(state.flushed.0);
    let most = state.keeps.map_or(wal.slot_limit.0, |keeps| wal.slot_limit.0.min(keeps / 2));
    if behind > most {
        findings.push(
            Finding::new("wal.slot-grows", Severity::Alarm, "check-log")
                .of(&id)
                .with("behind", kuramori_model::finding::Value::Bytes(behind))
                .with("slot", wal.slot.as_str()),
        );
    }
    if state.keeps.is_none() {
        findings.push(
            Finding::new("wal.slot-unlimited", Severity::Warning, "limit-slot")
                .of(&id)
                .with("slot", wal.slot.as_str()),
        );
    }
    Ok(findings)
}
