//! The screen's facts out of the catalog.

use std::{future::Future, pin::Pin, sync::PoisonError, time::Duration};

use jiff::Timestamp;
use kuramori_catalog::{Place, Point, Registered, Run, RunFilter, RunKind, RunState, Verdict};
use kuramori_judge::{facts::RunFacts, foreign::Recorded, schedule::Timetable};
use kuramori_model::{fault::chain, finding::Finding, foreign::JobState, ids::RunId, units::Bytes};
use kuramori_source::config::ForeignConfig;

use crate::{
    App,
    console::Facts,
    error::Result,
    facts::{
        Alarm, Foreign, LastRun, Notices, Report, Running, SCHEMA, State, Status, System, Upkeep, Window,
        verdict::verdict,
    },
    lang::Catalogue,
    prune::Freed,
    results,
    retention::{CONTROL_UPKEEP, ControlUpkeep},
    words,
};

/// Windows on the first screen.
const WINDOWS: u32 = 10;

impl App {
    /// Gathers everything that the first screen shows.
    pub async fn status(&self) -> Result<Status> {
        let now = self.clock.now();
        let mut systems = Vec::new();
        for registered in self.catalog.systems().await? {
            systems.push(self.system_facts(now, registered).await?);
        }
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut report = None;
        for vault in self.vaults().await? {
            report = self.catalog.newest_report(&vault.name).await?;
        }
        let report = report.map(|report| Report {
            vault: report.vault,
            number: report.number,
            made: report.made,
            received: report.received,
            verified: report.verified,
            due_s: self.config.report_due.as_secs(),
        });
        let windows = self.catalog.windows(None, WINDOWS).await?;
        let open = RunFilter { open: true, ..RunFilter::default() };
        let mut running: Vec<Running> =
            self.catalog.runs(&open).await?.into_iter().map(self::running).collect();
        running.reverse();
        let alarms = self.catalog.open_alarms().await?;
        Ok(Status {
            schema: SCHEMA,
            at: now,
            hospital: self.config.hospital.clone(),
            verdict: verdict(now, &systems, &gate, report.as_ref()),
            systems,
            gate,
            report,
            windows: windows.into_iter().map(window).collect(),
            running,
            alarms: alarms
                .into_iter()
                .map(|alarm| Alarm {
                    id: alarm.id,
                    finding: alarm.finding,
                    opened: alarm.opened,
                    taken_by: alarm.taken_by,
                    notified: alarm.notified,
                })
                .collect(),
            notices: self.notices().await?,
            answer: self.book().await?.answer,
            upkeep: self.upkeep().await?,
        })
    }

    async fn upkeep(&self) -> Result<Vec<Upkeep>> {
        let mut all = Vec::new();
        for registered in self.catalog.systems().await? {
            let filter = RunFilter {
                system: Some(registered.system.id.clone()),
                kind: Some(RunKind::Prune),
                limit: 5,
                ..RunFilter::default()
            };
            let ended = self.catalog.runs(&filter).await?.into_iter().find(|run| run.ended_at.is_some());
            all.extend(ended.and_then(|run| {
                Some(Upkeep {
                    repository: registered.system.id.to_string(),
                    at: run.ended_at?,
                    state: run.state.as_str().to_owned(),
                    plan: Freed::of(&run),
                    error_code: run.error_code,
                    error: run.error_text,
                })
            }));
        }
        let control: Option<ControlUpkeep> = self.catalog.setting(CONTROL_UPKEEP).await?;
        all.extend(control.map(|control| Upkeep {
            repository: kuramori_model::ids::CONTROL_REPOSITORY.to_owned(),
            at: control.at,
            state: RunState::Complete.as_str().to_owned(),
            error_code: None,
            error: None,
            plan: Some(control.freed),
        }));
        Ok(all)
    }

    async fn system_facts(&self, now: Timestamp, registered: Registered) -> Result<System> {
        let id = registered.system.id.clone();
        let primary = self.catalog.newest_point(&id, Place::Primary).await?;
        // Only what is proven whole and not suspected counts as a way back.
        let vault = self.catalog.points(&id, Place::Vault).await?;
        let vault = vault
            .into_iter()
            .find(|point| point.complete && !matches!(point.verdict, Verdict::Suspect | Verdict::Corrupt));
        let filter = RunFilter {
            system: Some(id.clone()),
            kind: Some(RunKind::Backup),
            limit: 5,
            ..RunFilter::default()
        };
        let last = self.catalog.runs(&filter).await?.into_iter().find(|run| run.ended_at.is_some());
        let table = Timetable::new(&registered.system.schedule).ok();
        let product = results::of(&registered.system);
        let records = if product.is_some() { self.results(&id).await? } else { Vec::new() };
        let foreign = product.map(|config| foreign(&config, &records));
        let good = foreign.as_ref().filter(|foreign| !foreign.pulled).and_then(|foreign| foreign.good);
        let age = primary.as_ref().map(|point| point.received).or(good).map(|at| seconds(now, at));
        let mut state = state(now, &registered, primary.as_ref(), last.as_ref(), table.as_ref());
        let mut last_run = last.map(last_run);
        if let Some(foreign) = &foreign {
            let said = said(&records);
            // The product's own word counts where we read nothing, and where it tells of trouble.
            if foreign.state == JobState::Failed.as_str() {
                state = State::Failed;
                last_run = said;
            } else if !foreign.pulled {
                state = match good {
                    _ if !registered.system.enabled => State::Unregistered,
                    Some(at) if seconds(now, at) <= registered.system.rpo_s => State::Ok,
                    Some(_) => State::Late,
                    None => state,
                };
                last_run = last_run.filter(|run| run.error_code.is_some()).or(said);
            }
        }
        let drill = self.last_drill(&id).await?.as_ref().map(crate::drills::shown);
        let system = registered.system;
        Ok(System {
            drill,
            id,
            name_ja: system.name_ja,
            name_en: system.name_en,
            protection: system.protection,
            restore_order: system.restore_order,
            state,
            primary: primary.map(self::point),
            vault: vault.map(self::point),
            rpo_s: system.rpo_s,
            rpo_actual_s: age,
            next_due: table.filter(|_| system.enabled).and_then(|table| table.next(now)),
            last_run,
            foreign,
        })
    }

    async fn notices(&self) -> Result<Notices> {
        let owed = self.catalog.all_owed().await?;
        let failing: Vec<_> = owed.iter().filter(|notice| notice.last_error.is_some()).collect();
        Ok(Notices {
            mail: self.config.notices.is_some(),
            failing: failing.len() as u64,
            last_error: failing.last().and_then(|notice| notice.last_error.clone()),
            last_heartbeat: self.catalog.setting(crate::post::HEARTBEAT_SENT).await?,
        })
    }
}

fn last_run(run: Run) -> LastRun {
    LastRun {
        run: run.id,
        state: run.state.as_str().to_owned(),
        ended: run.ended_at,
        error_code: run.error_code,
        error: run.error_text,
    }
}

/// The newest word of another product.
fn foreign(config: &ForeignConfig, records: &[Recorded]) -> Foreign {
    let newest = newest(records);
    // Without a size it may be good; with a size of 0 it is not.
    let wrote = |facts: &RunFacts| facts.size_untold || facts.bytes > 0;
    let good = kuramori_judge::foreign::taken(records).into_iter().rfind(|taken| wrote(&taken.facts));
    Foreign {
        product: config.product.as_str().to_owned(),
        job: newest.map(|record| record.result.job.clone()).unwrap_or_default(),
        state: newest.map(|record| record.result.state.as_str().to_owned()).unwrap_or_default(),
        received: newest.map(|record| record.received),
        good: good.map(|taken| taken.received),
        bytes: newest.and_then(|record| record.result.told_bytes()).map(Bytes),
        pulled: results::is_pulled(config),
    }
}

fn newest(records: &[Recorded]) -> Option<&Recorded> {
    records.iter().rev().find(|record| record.result.state != JobState::Request)
}

/// The newest word in the place where a run of ours would stand.
fn said(records: &[Recorded]) -> Option<LastRun> {
    let newest = newest(records)?;
    let (state, code) = match newest.result.state {
        JobState::Success | JobState::Request => (RunState::Complete, None),
        JobState::Warning => (RunState::CompleteWithErrors, Some("foreign.warning")),
        JobState::Failed => (RunState::Failed, Some("foreign.failed")),
    };
    Some(LastRun {
        run: RunId(0),
        state: state.as_str().to_owned(),
        ended: Some(newest.received),
        error_code: code.map(str::to_owned),
        error: code.map(|_| format!("{}: {}", newest.result.title(), newest.result.message)),
    })
}

fn seconds(now: Timestamp, at: Timestamp) -> u64 {
    u64::try_from(now.duration_since(at).as_secs()).unwrap_or(0)
}

fn state(
    now: Timestamp,
    registered: &Registered,
    primary: Option<&Point>,
    last: Option<&Run>,
    table: Option<&Timetable>,
) -> State {
    if !registered.system.enabled {
        return State::Unregistered;
    }
    let failed = last.is_some_and(|run| {
        matches!(run.state, RunState::Failed | RunState::CompleteWithErrors)
            && primary.is_none_or(|point| run.ended_at.is_some_and(|ended| ended > point.received))
    });
    let Some(point) = primary else {
        let owed =
            table.and_then(|table| table.last_owed(now)).is_some_and(|due| due >= registered.created_at);
        return if failed || owed { State::Failed } else { State::Waiting };
    };
    if failed {
        State::Failed
    } else if seconds(now, point.received) > registered.system.rpo_s {
        State::Late
    } else {
        State::Ok
    }
}

fn point(point: Point) -> crate::facts::Point {
    crate::facts::Point {
        sequence: point.sequence.0,
        received: point.received,
        bytes: Bytes(point.bytes),
        snapshot: point.snapshot,
        verdict: point.verdict.as_str().to_owned(),
    }
}

fn running(run: Run) -> Running {
    Running {
        run: run.id,
        system: run.system,
        state: run.state.as_str().to_owned(),
        phase: run.progress.phase,
        since: run.started_at.unwrap_or(run.queued_at),
        bytes: Bytes(run.progress.bytes_done),
        bytes_total: run.progress.bytes_total.map(Bytes),
        items: run.progress.items_done,
        items_total: run.progress.items_total,
    }
}

fn window(window: kuramori_catalog::Window) -> Window {
    Window {
        id: window.id.0,
        purpose: window.purpose,
        opened: window.opened,
        closed: window.closed,
        commanded_s: window.commanded.as_ref().map(Duration::as_secs_f64),
        actuator_s: window.actuator.as_ref().map(Duration::as_secs_f64),
        probe_s: window.probe.as_ref().map(Duration::as_secs_f64),
        bytes: Bytes(window.bytes),
        closed_verified: window.closed_verified,
        outcome: window.outcome,
    }
}

impl Facts for App {
    fn status(&self) -> Pin<Box<dyn Future<Output = std::result::Result<Status, String>> + Send + '_>> {
        Box::pin(async { Self::status(self).await.map_err(|error| chain(&error)) })
    }

    fn word(&self, finding: &Finding, systems: &[System], catalogue: &Catalogue) -> (String, String) {
        words::finding(finding, systems, catalogue, &self.config.zone)
    }
}
