//! What the simulation of nights does not play: stock, the vault's lag, files in motion, accepted sizes.

#![expect(clippy::unwrap_used, reason = "a helper of a test may stop it")]

use jiff::{SignedDuration, Timestamp};
use kuramori_judge::{
    calendar::Calendar,
    expect::Expectations,
    facts::{RunFacts, Taken},
    night::{AtVault, Subject, judge},
    schedule::{Schedule, Timetable},
};
use kuramori_model::{
    class::DataClass,
    finding::Finding,
    ids::{Sequence, SystemId},
};

struct House {
    system: SystemId,
    timetable: Timetable,
    expect: Expectations,
    calendar: Calendar,
    points: Vec<Taken>,
}

fn start() -> Timestamp {
    "2026-06-01T16:10:00Z".parse().unwrap()
}

fn day(n: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * n)
}

fn house(nights: i64, size: impl Fn(i64) -> u64) -> House {
    let points = (0..nights)
        .map(|n| Taken {
            sequence: Sequence(u64::try_from(n).unwrap()),
            received: start() + day(n),
            complete: true,
            run: None,
            facts: RunFacts { bytes: size(n), files: 9, digest: Some(n.to_string()), ..RunFacts::default() },
        })
        .collect();
    House {
        system: SystemId::new("billing").unwrap(),
        timetable: Timetable::new(&Schedule::nightly("0 1 * * *")).unwrap(),
        expect: Expectations::default(),
        calendar: Calendar::default(),
        points,
    }
}

fn codes(house: &House, now: Timestamp, change: impl FnOnce(&mut Subject<'_>)) -> Vec<String> {
    let mut subject = Subject {
        system: &house.system,
        since: start() - day(1),
        enabled: true,
        data: DataClass::Ehr,
        timetable: &house.timetable,
        expect: &house.expect,
        calendar: &house.calendar,
        points: &house.points,
        running: None,
        failed: None,
        generations: 9,
        vault: None,
    };
    change(&mut subject);
    judge(now, &subject).iter().map(Finding::key).collect()
}

#[test]
fn too_few_generations_are_said_once_the_system_is_old_enough() {
    let house = house(20, |_| 1000);
    let now = start() + day(19) + SignedDuration::from_hours(6);
    assert!(codes(&house, now, |s| s.generations = 5).is_empty());
    assert_eq!(codes(&house, now, |s| s.generations = 4), ["judge.few-generations|billing|primary"]);
    assert!(codes(&house, now, |s| (s.generations, s.data) = (4, DataClass::Other)).is_empty());
    assert!(codes(&house, now, |s| (s.generations, s.since) = (1, now - day(5))).is_empty(), "new");
    let vault = AtVault { oldest_missing: None, generations: 2 };
    assert_eq!(codes(&house, now, |s| s.vault = Some(vault)), ["judge.few-generations|billing|vault"]);
}

#[test]
fn a_vault_that_lags_is_named_after_its_time() {
    let house = house(20, |_| 1000);
    let now = start() + day(19) + SignedDuration::from_hours(6);
    let lag =
        |hours| AtVault { oldest_missing: Some(now - SignedDuration::from_hours(hours)), generations: 9 };
    assert!(codes(&house, now, |s| s.vault = Some(lag(30))).is_empty());
    assert_eq!(codes(&house, now, |s| s.vault = Some(lag(31))), ["judge.vault-behind|billing|"]);
}

#[test]
fn a_retired_system_owes_nothing_and_a_new_one_only_from_its_first_night() {
    let mut house = house(3, |_| 1000);
    let now = start() + day(30);
    assert_eq!(codes(&house, now, |_| ()), ["judge.missed|billing|"]);
    assert!(codes(&house, now, |s| s.enabled = false).is_empty());
    house.points.clear();
    assert!(codes(&house, now, |s| s.since = now - SignedDuration::from_hours(2)).is_empty());
    assert_eq!(codes(&house, now, |s| s.since = now - day(2)), ["judge.missed|billing|"]);
}

#[test]
fn files_in_motion_without_a_marker_are_a_warning_of_their_own() {
    let mut house = house(3, |_| 1000);
    let now = start() + day(2) + SignedDuration::from_hours(1);
    house.points[2].facts.moved = 2;
    assert_eq!(codes(&house, now, |_| ()), ["judge.unsettled|billing|"]);
}

#[test]
fn an_accepted_size_is_the_new_measure_at_once() {
    // From night 30 on a third is left for good; on night 33 it is halved again.
    let size = |n| {
        if n < 30 {
            3000
        } else if n < 33 {
            1000
        } else {
            500
        }
    };
    let mut house = house(31, size);
    let now = |n| start() + day(n) + SignedDuration::from_hours(1);
    assert_eq!(codes(&house, now(30), |_| ()), ["judge.shrunk|billing|"]);
    house.expect.accepted_sizes.push(Sequence(30));
    let extend = |house: &mut House, to| house.points = self::house(to, size).points;
    for n in [32, 33] {
        extend(&mut house, n);
        assert!(codes(&house, now(n - 1), |_| ()).is_empty(), "night {}", n - 1);
    }
    extend(&mut house, 34);
    assert_eq!(
        codes(&house, now(33), |_| ()),
        ["judge.shrunk|billing|"],
        "three nights later it is seen again"
    );
}
