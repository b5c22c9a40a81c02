//! The one sentence at the top: could the hospital come back, from when, and if not, whose turn it is.
//!
//! "Come back" means: from the vault, because an attacker who is inside reaches everything else. Unknown
//! never counts as good.

use jiff::Timestamp;
use kuramori_model::ids::SystemId;
use serde::{Deserialize, Serialize};

use super::{Gate, Report, Seen, State, System};

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// 正常
    Good,
    /// 注意
    Attention,
    /// 危険
    Danger,
}

/// What the sentence is about: the gravest of all that is true. Ordered by gravity, the gravest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nothing is wrong.
    None,
    /// The guarded path is open right now; normal in a window.
    GateOpen,
    /// No system is registered yet.
    NoSystems,
    /// A system is known and not protected.
    Unregistered,
    /// Another product alone backs a system up: nothing of it is here or in the vault.
    Elsewhere,
    /// A new system waits for its first backup.
    FirstBackup,
    /// The gate's state cannot be confirmed from the site.
    GateUnconfirmed,
    /// A system's newest restore point is older than its target.
    Late,
    /// A system's last backup failed; an older restore point exists.
    Failed,
    /// The vault's report is late, so what it holds is only known as of then.
    ReportOverdue,
    /// A system has a restore point, but none that is whole in the vault.
    NotInVault,
    /// The vault has never reported.
    NoReport,
    /// A system has no restore point at all.
    NoPoint,
    /// The vault answers the production side, which it never may, in no window.
    VaultAnswers,
}

impl Cause {
    /// The key of its sentence, as in the JSON.
    pub const fn key(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NoSystems => "no-systems",
            Self::Unregistered => "unregistered",
            Self::Elsewhere => "elsewhere",
            Self::FirstBackup => "first-backup",
            Self::GateUnconfirmed => "gate-unconfirmed",
            Self::GateOpen => "gate-open",
            Self::Late => "late",
            Self::Failed => "failed",
            Self::ReportOverdue => "report-overdue",
            Self::NotInVault => "not-in-vault",
            Self::NoReport => "no-report",
            Self::NoPoint => "no-point",
            Self::VaultAnswers => "vault-answers",
        }
    }

    const fn level(self) -> Level {
        match self {
            Self::None | Self::GateOpen => Level::Good,
            Self::NotInVault | Self::NoReport | Self::NoPoint | Self::VaultAnswers => Level::Danger,
            _ => Level::Attention,
        }
    }
}

/// The sentence's facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// 正常 / 注意 / 危険
    pub level: Level,
    /// The gravest thing that is true.
    pub cause: Cause,
    /// The system that it is about.
    pub system: Option<SystemId>,
    /// Systems that could come back from the vault.
    pub recoverable: usize,
    /// Systems that have to.
    pub total: usize,
    /// The oldest among the newest restore points of these systems: data after it would be lost.
    pub from: Option<Timestamp>,
    /// The system which that point belongs to.
    pub oldest: Option<SystemId>,
}

/// Finds the gravest cause among the facts.
pub fn verdict(now: Timestamp, systems: &[System], gate: &Gate, report: Option<&Report>) -> Verdict {
    let registered: Vec<&System> =
        systems.iter().filter(|system| system.state != State::Unregistered).collect();
    let oldest = registered
        .iter()
        .filter_map(|system| Some((system.vault.as_ref()?.received, &system.id)))
        .min_by_key(|(received, _)| *received);

    let mut worst = (Cause::None, None);
    let mut raise = |cause: Cause, system: Option<&SystemId>| {
        if cause > worst.0 {
            worst = (cause, system.cloned());
        }
    };
    if registered.is_empty() {
        raise(Cause::NoSystems, None);
    }
    for system in systems {
        let cause = match (system.state, &system.primary, &system.vault) {
            (State::Unregistered, ..) => Cause::Unregistered,
            (State::Waiting, None, None) => Cause::FirstBackup,
            (State::Ok, None, None) if system.foreign.as_ref().is_some_and(|foreign| !foreign.pulled) => {
                Cause::Elsewhere
            }
            (_, None, None) => Cause::NoPoint,
            (_, Some(_), None) if report.is_some() => Cause::NotInVault,
            (State::Failed, ..) => Cause::Failed,
            (State::Late, ..) => Cause::Late,
            _ => Cause::None,
        };
        raise(cause, Some(&system.id));
    }
    match report {
        None if registered.iter().any(|system| system.primary.is_some()) => raise(Cause::NoReport, None),
        Some(report) if report.overdue(now) => raise(Cause::ReportOverdue, None),
        _ => (),
    }
    if gate.probe.as_ref().is_some_and(|look| look.at(now) == Seen::Open) {
        raise(Cause::VaultAnswers, None);
    }
    match gate.seen(now) {
        Seen::Open => raise(Cause::GateOpen, None),
        Seen::Unknown => raise(Cause::GateUnconfirmed, None),
        Seen::Closed => (),
    }
    let (cause, system) = worst;
    let recoverable = registered.iter().filter(|system| system.vault.is_some()).count();
    // Whatever the reason: it is not well while something could not come back.
    let floor = if recoverable < registered.len() { Level::Attention } else { Level::Good };
    Verdict {
        level: cause.level().max(floor),
        cause,
        system,
        recoverable,
        total: registered.len(),
        from: oldest.as_ref().map(|(received, _)| *received),
        oldest: oldest.map(|(_, id)| id.clone()),
    }
}
