//! Can we speak at all? If not, that is a finding of its own, for the screen and the lamp.

use jiff::Timestamp;
use kuramori_model::finding::{Finding, Severity, Value};

use crate::Notify;

/// How a target did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetState {
    /// Its name.
    pub name: String,
    /// When it last took a notice.
    pub last_ok: Option<Timestamp>,
    /// Since when every attempt has failed.
    pub failing_since: Option<Timestamp>,
    /// Code of the last error.
    pub error: Option<String>,
}

/// Seconds of failing after which a target counts as broken.
const BROKEN_S: i64 = 15 * 60;
/// Seconds without any notice taken: the daily one must have gone by then.
const SILENT_S: i64 = 26 * 3600;

/// What keeps us from telling people. `since` is when notices were set up.
pub fn speechless(config: &Notify, now: Timestamp, since: Timestamp, states: &[TargetState]) -> Vec<Finding> {
    let reachable = config.targets.iter().any(|target| {
        config.matchers.is_empty() || config.matchers.iter().any(|rule| rule.target == target.name)
    });
    if !reachable {
        return vec![Finding::new("notify.no-target", Severity::Alarm, "set-up-target")];
    }
    let mut findings = Vec::new();
    let mut working = 0;
    for target in &config.targets {
        let state = states.iter().find(|state| state.name == target.name);
        let failing = state.and_then(|state| state.failing_since);
        let broken = failing.filter(|at| now.duration_since(*at).as_secs() > BROKEN_S);
        let heard = state.and_then(|state| state.last_ok).unwrap_or(since);
        let silent = now.duration_since(heard).as_secs() > SILENT_S;
        if broken.is_none() && !silent {
            working += 1;
            continue;
        }
        let error = state.and_then(|state| state.error.clone()).unwrap_or_default();
        let finding = Finding::new("notify.target-fails", Severity::Warning, "check-target")
            .about(&target.name)
            .with("target", target.name.as_str())
            .with("since", broken.unwrap_or(heard));
        findings.push(if error.is_empty() { finding } else { finding.with("error", error) });
    }
    if working == 0 {
        let count = Value::Number(i64::try_from(config.targets.len()).unwrap_or(i64::MAX));
        findings
            .push(Finding::new("notify.speechless", Severity::Alarm, "check-target").with("targets", count));
    }
    findings
}
