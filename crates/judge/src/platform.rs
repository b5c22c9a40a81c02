//! Our own parts: a scheduler that stopped, a vault that is silent, a clock that jumped. The vault uses the
//! same judgement for what it sees of the server.

use jiff::Timestamp;
use kuramori_model::finding::{Finding, Severity, Value};

/// What is known of the platform. Every time is the receiver's.
#[derive(Debug, Clone, Default)]
pub struct Platform {
    /// When the scheduler last turned.
    pub scheduler: Option<Timestamp>,
    /// The vaults.
    pub vaults: Vec<VaultSign>,
    /// What the clock said and what it should have said, while nobody confirmed it.
    pub jump: Option<(Timestamp, Timestamp)>,
}

/// The last sign of life of a vault.
#[derive(Debug, Clone)]
pub struct VaultSign {
    /// Its name.
    pub name: String,
    /// Since when it is enrolled.
    pub since: Timestamp,
    /// When its last good report came.
    pub report: Option<Timestamp>,
    /// Seconds after which a report is late.
    pub every_s: u64,
    /// When the vault last saw the scheduler's sign of life, as it reported, by the vault's clock, and when
    /// it looked.
    pub saw_scheduler: Option<(Timestamp, Timestamp)>,
}

/// Seconds of silence after which the scheduler counts as stopped.
pub const SCHEDULER_SILENCE_S: i64 = 10 * 60;
/// The vault looks only in its windows: the sign of life that it finds there must not be older than this.
pub const SEEN_SILENCE_S: i64 = 60 * 60;

/// Everything that is wrong with the platform now.
pub fn judge(now: Timestamp, platform: &Platform) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(last) = platform.scheduler {
        findings.extend(scheduler(now, last, SCHEDULER_SILENCE_S));
    }
    for vault in &platform.vaults {
        let last = vault.report.unwrap_or(vault.since);
        let silence = now.duration_since(last).as_secs();
        if u64::try_from(silence).unwrap_or(0) > vault.every_s {
            findings.push(
                Finding::new("judge.vault-silent", Severity::Alarm, "check-vault")
                    .about(&vault.name)
                    .with("vault", vault.name.as_str())
                    .with("last", last)
                    .with("silence", Value::Seconds(silence)),
            );
        }
        if let Some((seen, looked)) = vault.saw_scheduler {
            findings.extend(
                scheduler(looked, seen, SEEN_SILENCE_S)
                    .map(|f| f.about(&vault.name).with("vault", vault.name.as_str())),
            );
        }
    }
    if let Some((seen, expected)) = platform.jump {
        findings.push(
            Finding::new("judge.clock-jump", Severity::Alarm, "confirm-time")
                .with("seen", seen)
                .with("expected", expected),
        );
    }
    findings
}

/// The scheduler's silence at `now`, when its last sign of life was at `last`.
pub fn scheduler(now: Timestamp, last: Timestamp, limit_s: i64) -> Option<Finding> {
    let silence = now.duration_since(last).as_secs();
    (silence > limit_s).then(|| {
        Finding::new("judge.scheduler-silent", Severity::Alarm, "restart-server")
            .with("last", last)
            .with("silence", Value::Seconds(silence))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_found_from_both_sides() {
        let at = |minute: i64| Timestamp::from_second(minute * 60).unwrap();
        let mut platform = Platform { scheduler: Some(at(0)), ..Platform::default() };
        assert!(judge(at(10), &platform).is_empty());
        assert_eq!(judge(at(11), &platform)[0].code, "judge.scheduler-silent");
        platform.scheduler = Some(at(3000));
        platform.vaults.push(VaultSign {
            name: "vault-1".to_owned(),
            since: at(0),
            report: Some(at(2990)),
            every_s: 30 * 3600,
            saw_scheduler: Some((at(2900), at(2990))),
        });
        let codes: Vec<String> = judge(at(3001), &platform).into_iter().map(|f| f.key()).collect();
        assert_eq!(codes, ["judge.scheduler-silent||vault-1"]);
        platform.vaults[0].saw_scheduler = Some((at(2989), at(2990)));
        assert!(judge(at(3001), &platform).is_empty());
        platform.scheduler = None;
        assert_eq!(judge(at(6000), &platform)[0].code, "judge.vault-silent");
    }
}
