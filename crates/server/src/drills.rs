//! Drills: weekly per system by default, one at a time, never while a backup reads the same system.
//!
//! A drill that ends is in the history (and so in `_control`), its page of evidence lies in the data folder,
//! its time becomes a measurement, and its point is marked as drilled if it passed. The newest record of each
//! system is kept as a setting, for the screen and for the findings.

use std::time::Duration;

use jiff::Timestamp;
use kuramori_catalog::{Place, Registered, RunFilter, Writer};
use kuramori_drill::{
    choose::{Copy, Wish, choose},
    drill::{self, Record, Task},
    estimate::Measured,
    exercise::Exercise,
    page,
};
use kuramori_model::{
    fault::{Fault, chain},
    finding::{Finding, Severity, Value},
    ids::SystemId,
};
use kuramori_report::Language;
use serde::{Deserialize, Serialize};

use crate::{App, ServerError, app::blocking, error::Result};

/// How often it is looked whether a drill is due.
const TURN: Duration = Duration::from_mins(1);
/// The history's kind of a drill that ended.
const ENDED: &str = "drill.ended";

/// The history's kind of an exercise.
const EXERCISE: &str = "exercise.recorded";

/// A drill with its number in the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Numbered {
    /// The number.
    pub number: u64,
    /// The record.
    pub record: Record,
}

/// An exercise with its number in the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The number.
    pub number: u64,
    /// The record.
    pub exercise: Exercise,
    /// Improvements past their date and not done.
    pub overdue: usize,
}

fn last_name(id: &SystemId) -> String {
    format!("drill/last/{id}")
}

fn passed_name(id: &SystemId) -> String {
    format!("drill/passed/{id}")
}

/// Whether drills run by themselves.
const AUTOMATIC: &str = "drill/automatic";

impl App {
    /// The newest drill of a system, passed or not.
    pub async fn last_drill(&self, id: &SystemId) -> Result<Option<Numbered>> {
        Ok(self.catalog.setting(&last_name(id)).await?)
    }

    /// The newest drill of a system that passed.
    pub async fn passed_drill(&self, id: &SystemId) -> Result<Option<Numbered>> {
        Ok(self.catalog.setting(&passed_name(id)).await?)
    }

    /// Drills in the history, newest first.
    pub async fn drills(&self, system: Option<&SystemId>, limit: u32) -> Result<Vec<Numbered>> {
        let events = self.catalog.events_of(ENDED, system, limit).await?;
        // A record of a newer schema than ours is left out rather than shown wrongly.
        Ok(events
            .into_iter()
            .filter_map(|event| {
                Some(Numbered { number: event.id, record: serde_json::from_value(event.data).ok()? })
            })
            .collect())
    }

    /// Writes an exercise's record down; a later one of the same date stands for it from then on.
    pub async fn record_exercise(&self, exercise: &Exercise) -> Result<u64> {
        exercise.check()?;
        let data = serde_json::to_value(exercise).map_err(|error| ServerError::Bug(error.to_string()))?;
        let number = self.event("admin", EXERCISE, None, &data).await?;
        self.export_control().await?;
        Ok(number)
    }

    /// Records of exercises, newest first; of each date the last that was written.
    pub async fn exercises(&self) -> Result<Vec<Held>> {
        let today = self.clock.now().to_zoned(self.config.zone.clone()).date();
        let mut held: Vec<Held> = Vec::new();
        for event in self.catalog.events_of(EXERCISE, None, 1000).await? {
            let Ok(exercise) = serde_json::from_value::<Exercise>(event.data) else { continue };
            if !held.iter().any(|other| other.exercise.date == exercise.date) {
                held.push(Held { number: event.id, overdue: exercise.overdue(today), exercise });
            }
        }
        held.sort_by_key(|one| std::cmp::Reverse(one.exercise.date));
        Ok(held)
    }

    /// Whether drills run by themselves; they do unless a person said otherwise.
    pub async fn drills_automatic(&self) -> Result<bool> {
        Ok(self.catalog.setting(AUTOMATIC).await?.unwrap_or(true))
    }

    /// Says whether drills run by themselves.
    pub async fn set_drills_automatic(&self, automatic: bool, by: &str) -> Result<()> {
        self.catalog.set_setting(AUTOMATIC, &automatic).await?;
        let data = serde_json::json!({ "automatic": automatic });
        self.event(by, "drill.automatic", None, &data).await?;
        Ok(())
    }

    /// Below the data folder; beside it if we are root, because services of their own users must reach it.
    fn drill_folder(&self) -> std::path::PathBuf {
        if rustix::process::geteuid().is_root() {
            let mut name = self.config.data.file_name().unwrap_or_default().to_owned();
            name.push("-drill");
            self.config.data.with_file_name(name)
        } else {
            self.config.data.join("drill")
        }
    }

    /// Drills a system from the primary now and writes down what came of it. Goes on when the caller leaves.
    pub async fn drill(&self, id: &SystemId, by: &str, wish: Wish) -> Result<Numbered> {
        let (app, id, by) = (self.clone(), id.clone(), by.to_owned());
        tokio::spawn(async move { app.drill_now(&id, &by, wish).await })
            .await
            .map_err(|error| ServerError::Bug(error.to_string()))?
    }

    async fn drill_now(&self, id: &SystemId, by: &str, wish: Wish) -> Result<Numbered> {
        let system = self.catalog.system(id).await?.system;
        let wish = Wish { copy: Some(Copy::Primary), ..wish };
        let choice = choose(id.as_str(), &self.candidates(id).await?, &wish)?;
        let password = self.password(id.as_str()).await?;
        let profile = self.profile(id).await?;
        let service = profile.service_for(system.source.get("kind").and_then(serde_json::Value::as_str));
        let before = self.passed_drill(id).await?;
        // What was counted while it was read; the sums of a stock client are its own tree's.
        let recorded = (system.writer == Writer::Kuramori && choice.point.files > 0)
            .then_some((choice.point.files, choice.point.bytes));
        let (app, work, name, by) = (self.clone(), self.drill_folder(), id.to_string(), by.to_owned());
        let cancel = kuramori_repo::Cancel::default();
        let stop = cancel.clone();
        let mut stopping = self.stopping.subscribe();
        let watch = tokio::spawn(async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
            stop.cancel();
        });
        let record = blocking(move || {
            let repository = app.open_repository(&name, &password)?;
            let _lock =
                repository.lock(kuramori_repo::lock::LockMode::Shared, kuramori_drill::restore::PATIENCE)?;
            let repository = repository.index()?;
            Ok(drill::run(&Task {
                system: &name,
                choice,
                repository: &repository,
                profile: &profile,
                service,
                recorded,
                rto: system.rto(),
                work: &work,
                before: before.as_ref().map(|before| &before.record),
                by: &by,
                clock: app.clock.as_ref(),
                cancel: &cancel,
            })?)
        })
        .await;
        watch.abort();
        let record = record?;
        if record.failure.as_ref().is_some_and(|failure| failure.code == "drill.busy") {
            return Err(kuramori_drill::DrillError::Busy(self.drill_folder()).into());
        }
        self.keep_drill(id, record).await
    }

    async fn keep_drill(&self, id: &SystemId, record: Record) -> Result<Numbered> {
        let data = serde_json::to_value(&record).map_err(|error| ServerError::Bug(error.to_string()))?;
        let number = self.event(&record.by, ENDED, Some(id), &data).await?;
        let numbered = Numbered { number, record };
        self.catalog.set_setting(&last_name(id), &numbered).await?;
        let record = &numbered.record;
        if record.passed {
            self.catalog.set_setting(&passed_name(id), &numbered).await?;
            self.catalog.set_drilled(Place::Primary, record.choice.point.sequence, record.ended).await?;
            self.measure(Measured {
                at: record.ended,
                system: id.to_string(),
                bytes: record.bytes,
                restore_s: record.times.restore_s,
                start_s: Some(record.times.start_s),
                check_s: Some(record.times.check_s),
            })
            .await?;
            tracing::info!(system = %id, number, rto_s = record.times.rto_s, "drill passed");
        } else {
            tracing::warn!(system = %id, number, failure = ?record.failure, "drill failed");
        }
        for language in [Language::Ja, Language::En] {
            let html = self.drill_page(&numbered, language).await?.html();
            let file = self.config.data.join(format!("drills/drill-{number}.{}.html", language.tag()));
            crate::keys::private(&file, html.as_bytes())?;
        }
        Ok(numbered)
    }

    /// The page of evidence of a drill.
    pub async fn drill_page(
        &self,
        drill: &Numbered,
        language: Language,
    ) -> Result<kuramori_report::Document> {
        let name = match SystemId::new(&drill.record.system) {
            Ok(id) => self.catalog.system(&id).await.ok().map(|registered| registered.system),
            Err(_) => None,
        };
        let name = name.map_or_else(
            || drill.record.system.clone(),
            |system| language.pick(&system.name_ja, &system.name_en).to_owned(),
        );
        let heading = page::Heading {
            hospital: &self.config.hospital,
            system: &name,
            number: drill.number,
            zone: &self.config.zone,
        };
        Ok(page::evidence(&drill.record, heading, language))
    }

    /// When the next drill of a system is due and from when on it is late; none while it has nothing to be
    /// drilled from, or is not protected.
    async fn drill_due(&self, registered: &Registered) -> Result<Option<(Timestamp, Timestamp)>> {
        let id = &registered.system.id;
        if !registered.system.enabled {
            return Ok(None);
        }
        let points = self.catalog.points(id, Place::Primary).await?;
        let Some(first) = points.iter().filter(|point| point.complete).map(|point| point.received).min()
        else {
            return Ok(None);
        };
        let last = self.last_drill(id).await?.map(|last| last.record.begun);
        Ok(Some(drill::due(&self.profile(id).await?, last, first)))
    }

    /// What a person must hear of a system's drills.
    pub(crate) async fn drill_findings(
        &self,
        now: Timestamp,
        registered: &Registered,
    ) -> Result<Vec<Finding>> {
        let id = &registered.system.id;
        let mut findings = Vec::new();
        if !registered.system.enabled {
            return Ok(findings);
        }
        let last = self.last_drill(id).await?;
        if let Some(Numbered { number, record }) = &last {
            let seen = |finding: Finding| finding.of(id).seen_in(format!("drill-{number}"));
            if !record.passed {
                let bad = record.probes.iter().find(|probe| !probe.good);
                let why = match (&record.failure, bad) {
                    (Some(failure), _) => failure.text.clone(),
                    (None, Some(probe)) => format!("{}: {}", probe.name, probe.answer),
                    (None, None) => String::new(),
                };
                findings.push(seen(
                    Finding::new("drill.failed", Severity::Alarm, "look-at-drill")
                        .with("at", record.ended)
                        .with("why", why.chars().take(200).collect::<String>()),
                ));
            } else if !record.rto_met {
                let seconds = |value: f64| {
                    Value::Seconds(
                        i64::try_from(Duration::from_secs_f64(value.max(0.0)).as_secs()).unwrap_or(i64::MAX),
                    )
                };
                findings.push(seen(
                    Finding::new("drill.slow", Severity::Warning, "look-at-drill")
                        .with("took", seconds(record.times.rto_s))
                        .with("target", seconds(record.rto_target_s as f64)),
                ));
            }
        }
        if let Some((due, late)) = self.drill_due(registered).await?
            && now > late
        {
            findings
                .push(Finding::new("drill.overdue", Severity::Alarm, "hold-drill").of(id).with("due", due));
        }
        Ok(findings)
    }
}

/// Looks again and again whether a drill is due, and holds one at a time.
pub(crate) async fn run(app: App) {
    loop {
        tokio::time::sleep(TURN).await;
        if let Err(error) = turn(&app).await {
            tracing::error!(code = error.code(), "the drills' turn failed: {}", chain(&error));
        }
    }
}

async fn turn(app: &App) -> Result<()> {
    if !app.drills_automatic().await? {
        return Ok(());
    }
    let now = app.clock.now();
    let mut next: Option<(Timestamp, SystemId)> = None;
    for registered in app.catalog.systems().await? {
        let id = registered.system.id.clone();
        let open = RunFilter { system: Some(id.clone()), open: true, ..RunFilter::default() };
        if !app.catalog.runs(&open).await?.is_empty() {
            continue;
        }
        if let Some((due, _)) = app.drill_due(&registered).await?
            && due <= now
            && next.as_ref().is_none_or(|(other, _)| due < *other)
        {
            next = Some((due, id));
        }
    }
    if let Some((_, id)) = next {
        match app.drill(&id, "schedule", Wish::default()).await {
            Ok(_) => {}
            // Nothing trusted to be drilled from is the judge's matter; a busy folder is tried again.
            Err(error) => tracing::warn!(system = %id, code = error.code(), "no drill: {}", chain(&error)),
        }
        app.work.notify_one();
    }
    Ok(())
}

/// A drill as the screen shows it.
pub(crate) fn shown(drill: &Numbered) -> crate::facts::Drill {
    crate::facts::Drill {
        number: drill.number,
        at: drill.record.ended,
        passed: drill.record.passed,
        rto_s: drill.record.times.rto_s,
        target_s: drill.record.rto_target_s,
        met: drill.record.rto_met,
    }
}
