//! `kuramori vault`: the loop that waits for the next window or the next order.

use std::time::Duration;

use jiff::{Timestamp, ToSpan, Zoned, tz::TimeZone};
use kuramori_model::{
    clock::{Clock, Random},
    finding::{Finding, Severity},
    gate::ACCIDENTAL_PATH,
};
use kuramori_repo::Cancel;

use crate::{
    config::Window,
    control::{self, Answer},
    error::{Error, Result},
    vault::Vault,
    window::Options,
};

/// How often the loop looks at the clock.
const STEP: Duration = Duration::from_millis(500);

/// How often the gate is asked what it found.
const LOOK: Duration = Duration::from_secs(10);

/// When the next window is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// At this wall time (a time of day is a wall-clock thing) …
    at: Option<Timestamp>,
    /// … or at this boot time.
    boot: Option<Duration>,
}

impl Due {
    /// Draws the next opening: the nearest time of day or the interval, later by a random part of the jitter.
    pub fn draw(window: &Window, clock: &dyn Clock, random: &dyn Random, zone: &TimeZone) -> Self {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        let jitter = if window.jitter_s == 0 { 0 } else { u64::from_le_bytes(bytes) % (window.jitter_s + 1) };
        let jitter = Duration::from_secs(jitter);
        let now = Zoned::new(clock.now(), zone.clone());
        let next = |time: &jiff::civil::Time| {
            let today = now.date().to_datetime(*time).to_zoned(zone.clone()).ok()?;
            if today > now { Some(today) } else { today.checked_add(1.day()).ok() }
        };
        let at = window.at.iter().filter_map(next).min();
        let at =
            at.and_then(|at| at.timestamp().checked_add(jiff::SignedDuration::try_from(jitter).ok()?).ok());
        let boot = (window.every_s > 0).then(|| clock.boot() + Duration::from_secs(window.every_s) + jitter);
        Self { at, boot }
    }

    /// Whether it is time. A wall clock that jumped far ahead opens one window early, within the day's budget.
    pub fn is_now(&self, clock: &dyn Clock) -> bool {
        self.at.is_some_and(|at| clock.now() >= at) || self.boot.is_some_and(|boot| clock.boot() >= boot)
    }

    /// The wall time, for people.
    pub fn shown(&self, clock: &dyn Clock) -> Option<Timestamp> {
        let by_interval = self.boot.and_then(|boot| {
            let left = boot.saturating_sub(clock.boot());
            clock.now().checked_add(jiff::SignedDuration::try_from(left).ok()?).ok()
        });
        [self.at, by_interval].into_iter().flatten().min()
    }
}

impl Vault {
    /// Runs until `cancel`. Errors of a window are alarms and log lines, not the end of the role.
    ///
    /// # Errors
    /// [`Error::Log`] and [`Error::Register`]: without them nothing may be opened.
    pub fn run(&self, cancel: &Cancel) -> Result<()> {
        let orders = control::listen(&self.config.vault.state)?;
        let zone = TimeZone::system();
        // What a kill left unproven is proven before anything else.
        if let Err(error) = self.work(cancel) {
            self.failed("proof", &error)?;
        }
        self.write_report()?;
        let mut due = Due::draw(&self.config.window, &*self.clock, &*self.random, &zone);
        let mut looked = None;
        while !cancel.is_cancelled() {
            if looked.is_none_or(|at| self.clock.boot().saturating_sub(at) >= LOOK) {
                looked = Some(self.clock.boot());
                self.watch_gate()?;
            }
            match orders.recv_timeout(STEP) {
                Ok(asked) => {
                    let answer = Answer::from(self.obey(asked.order, cancel));
                    // Whoever asked may be gone.
                    let _ = asked.answer.send(answer);
                }
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => self.clock.sleep(STEP),
            }
            self.register.tick(&*self.clock)?;
            if due.is_now(&*self.clock) {
                due = Due::draw(&self.config.window, &*self.clock, &*self.random, &zone);
                if let Err(error) = self.pull(&Options::default(), cancel) {
                    self.failed("window", &error)?;
                }
            }
        }
        self.note("vault.stopped", &serde_json::json!({}))
    }

    /// A gate that does not answer is found when the next window is due.
    fn watch_gate(&self) -> Result<()> {
        let Some(Ok(status)) = self.gate.as_ref().map(crate::gate::Gate::status) else { return Ok(()) };
        match found_open(&status.alarms) {
            Some(finding) => self.settle(&[], &[finding], &self.register.tick(&*self.clock)?),
            None => Ok(()),
        }
    }

    fn failed(&self, what: &str, error: &Error) -> Result<()> {
        let text = kuramori_model::fault::chain(error);
        tracing::error!(what, text, "failed");
        let now = self.register.tick(&*self.clock)?;
        let finding = Finding::new("vault.window-failed", Severity::Alarm, "look-at-vault").about(what);
        self.settle(&[], &[finding.with("why", text.clone())], &now)?;
        self.note("vault.failed", &serde_json::json!({ "what": what, "why": text }))
    }
}

/// A path that the gate found open at rest belongs to no window and would stand in no report. The alarm stays until
/// a person has looked.
fn found_open(alarms: &[String]) -> Option<Finding> {
    let why = alarms.iter().find(|text| text.contains(ACCIDENTAL_PATH))?;
    let finding = Finding::new("vault.path-found-open", Severity::Alarm, "secure-gate").about("gate");
    Some(finding.with("why", why.clone()))
}

#[cfg(test)]
mod tests {
    use kuramori_model::{
        clock::{ManualClock, SeededRandom},
        gate::CloseReason,
    };

    use super::*;

    #[test]
    fn a_window_is_due_at_its_time_of_day_plus_jitter_and_not_before() {
        let clock = ManualClock::new("2026-04-01T01:00:00Z".parse().unwrap());
        let window = Window {
            at: vec!["02:00:00".parse().unwrap(), "14:00:00".parse().unwrap()],
            jitter_s: 600,
            ..Window::default()
        };
        for seed in 0..50 {
            let due = Due::draw(&window, &clock, &SeededRandom::new(seed), &TimeZone::UTC);
            let at = due.shown(&clock).unwrap();
            assert!(at >= "2026-04-01T02:00:00Z".parse().unwrap(), "{at}");
            assert!(at <= "2026-04-01T02:10:00Z".parse().unwrap(), "{at}");
            assert!(!due.is_now(&clock));
        }
        let due = Due::draw(&window, &clock, &SeededRandom::new(1), &TimeZone::UTC);
        clock.advance(Duration::from_mins(70));
        assert!(due.is_now(&clock));
        let next = Due::draw(&window, &clock, &SeededRandom::new(1), &TimeZone::UTC).shown(&clock).unwrap();
        assert!(next >= "2026-04-01T14:00:00Z".parse().unwrap(), "{next}");
        let never = Due::draw(&Window::default(), &clock, &SeededRandom::new(1), &TimeZone::UTC);
        clock.advance(Duration::from_hours(1000));
        assert!(!never.is_now(&clock));
    }

    #[test]
    fn a_path_found_open_is_told_and_the_end_of_a_window_is_not() {
        let said = |reason: &CloseReason| {
            vec![format!("closed because of {}", serde_json::to_string(reason).unwrap())]
        };
        let found =
            found_open(&said(&CloseReason::AccidentalPath { what: "10.77.1.1:22".to_owned() })).unwrap();
        assert_eq!((found.code.as_str(), found.severity), ("vault.path-found-open", Severity::Alarm));
        assert!(format!("{:?}", found.params["why"]).contains("10.77.1.1:22"), "{found:?}");
        assert!(found_open(&said(&CloseReason::Deadline {})).is_none());
    }
}
