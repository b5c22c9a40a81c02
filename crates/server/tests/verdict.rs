//! The one sentence: the gravest fact wins, and unknown is never good.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

mod support;

use kuramori_server::facts::{Cause, Level, Seen, State, Status};
use support::{bad, empty, good, judge, point};

fn cause(change: impl FnOnce(&mut Status)) -> (Level, Cause, Option<String>) {
    let mut status = good();
    change(&mut status);
    judge(&mut status);
    (status.verdict.level, status.verdict.cause, status.verdict.system.map(|id| id.to_string()))
}

#[test]
fn good_only_when_everything_is_seen_to_be_good() {
    assert_eq!(cause(|_| ()), (Level::Good, Cause::None, None));
    let verdict = good().verdict;
    assert_eq!((verdict.recoverable, verdict.total), (3, 3));
    assert_eq!(verdict.oldest.unwrap().as_str(), "billing");
}

#[test]
fn each_fact_has_its_place_in_the_order_of_gravity() {
    use Level::{Attention, Danger, Good};
    let system = |name: &str| Some(name.to_owned());
    assert_eq!(cause(|s| s.gate.port.as_mut().unwrap().seen = Seen::Open), (Good, Cause::GateOpen, None));
    assert_eq!(
        cause(|s| s.gate.port.as_mut().unwrap().stale_after_s = 1),
        (Attention, Cause::GateUnconfirmed, None)
    );
    assert_eq!(
        cause(|s| s.gate.probe.as_mut().unwrap().seen = Seen::Unknown),
        (Attention, Cause::GateUnconfirmed, None)
    );
    assert_eq!(cause(|s| s.systems[1].state = State::Late), (Attention, Cause::Late, system("pacs")));
    assert_eq!(cause(|s| s.systems[1].state = State::Failed), (Attention, Cause::Failed, system("pacs")));
    assert_eq!(cause(|s| s.report.as_mut().unwrap().due_s = 60), (Attention, Cause::ReportOverdue, None));
    assert_eq!(
        cause(|s| s.report.as_mut().unwrap().verified = false),
        (Attention, Cause::ReportOverdue, None)
    );
    assert_eq!(cause(|s| s.systems[2].vault = None), (Danger, Cause::NotInVault, system("ophthalmology")));
    assert_eq!(cause(|s| s.report = None), (Danger, Cause::NoReport, None));
    assert_eq!(
        cause(|s| {
            s.systems[0].state = State::Late;
            s.systems[2].primary = None;
            s.systems[2].vault = None;
        }),
        (Danger, Cause::NoPoint, system("ophthalmology"))
    );
    assert_eq!(
        cause(|s| {
            s.systems[2].state = State::Waiting;
            s.systems[2].primary = None;
            s.systems[2].vault = None;
        }),
        (Attention, Cause::FirstBackup, system("ophthalmology"))
    );
    assert_eq!(
        cause(|s| s.gate.probe.as_mut().unwrap().seen = Seen::Open),
        (Danger, Cause::VaultAnswers, None)
    );
    assert_eq!(
        cause(|s| {
            s.gate.port.as_mut().unwrap().seen = Seen::Open;
            for system in &mut s.systems {
                (system.state, system.primary, system.vault) = (State::Waiting, None, None);
            }
        }),
        (Attention, Cause::FirstBackup, system("billing"))
    );
    assert_eq!(bad().verdict.cause, Cause::NotInVault);
    assert_eq!(empty().verdict.cause, Cause::GateUnconfirmed);
}

#[test]
fn a_point_that_only_the_vault_holds_still_counts() {
    let (level, found, _) = cause(|s| {
        s.systems[0].primary = None;
        s.systems[0].vault = Some(point(60, 1));
    });
    assert_eq!((level, found), (Level::Good, Cause::None));
}
