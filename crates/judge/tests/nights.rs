//! 10,000 system-nights with faults and honest noise: does the judge find every fault, and how often does
//! it cry wolf?
//!
//! The thresholds were fixed on seeds 0 to 9; the figures are printed and asserted on seeds 200 to 203
//! (`KURAMORI_LONG=1`: 200 to 219), which nobody looked at while fixing them. A night counts as a false
//! alarm if anything of weight `Warning` or more is said on a night without a fault.
//!
//! The noise: nights that vary by up to 13 %, growth, small weekends, peaks at the month's end, holidays,
//! closing days that no calendar knows, slow nights, pauses, and a lasting purge of 10 to 50 % about every
//! 300 nights of each system, which the operator accepts on the first alarm.
//!
//! What counts as a fault is what a dump cannot be honestly: a silent shrink is drawn at 2 to 50 % of what
//! is usual for that kind of night. A peak night that was cut to the size of an ordinary one is found only
//! if the reader sees that the data ends too early, and the simulation does not pretend otherwise.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    reason = "a simulation"
)]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kuramori_judge::{
    calendar::Calendar,
    expect::Expectations,
    facts::{Marker, RunFacts, Taken},
    night::{Broken, Subject, Working, judge},
    platform::{Platform, judge as judge_platform},
    schedule::{Schedule, Timetable},
};
use kuramori_model::{
    class::DataClass,
    clock::SeededRandom,
    finding::Severity,
    ids::{RunId, Sequence, SystemId},
};

const SYSTEMS: usize = 20;
const NIGHTS: u32 = 500;
/// Faults begin when a system has shown what it is like.
const WARM_UP: u32 = 35;
/// One night in so many has a fault.
const FAULT_RATE: u64 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Missed,
    Failed,
    SameAgain,
    Empty,
    Truncated,
    Shrunk,
    WrongInstance,
    MarkerEarly,
    Hang,
    Unreadable,
    SchedulerStopped,
}

const FAULTS: [Fault; 10] = [
    Fault::Missed,
    Fault::Failed,
    Fault::SameAgain,
    Fault::Empty,
    Fault::Truncated,
    Fault::Shrunk,
    Fault::WrongInstance,
    Fault::MarkerEarly,
    Fault::Hang,
    Fault::Unreadable,
];

impl Fault {
    /// The code by which it must be called.
    fn code(self) -> &'static str {
        match self {
            Self::Missed => "judge.missed",
            Self::Failed => "judge.failed",
            Self::SameAgain => "judge.same-again",
            Self::Empty => "judge.empty",
            Self::Truncated => "judge.truncated",
            Self::Shrunk => "judge.shrunk",
            Self::WrongInstance => "judge.wrong-instance",
            Self::MarkerEarly => "judge.marker-early",
            Self::Hang => "judge.hangs",
            Self::Unreadable => "judge.incomplete",
            Self::SchedulerStopped => "judge.scheduler-silent",
        }
    }
}

struct Chance<'a>(&'a SeededRandom);

impl Chance<'_> {
    fn unit(&self) -> f64 {
        self.0.below(1 << 53) as f64 / (1_u64 << 53) as f64
    }

    fn between(&self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    fn one_in(&self, n: u64) -> bool {
        self.0.below(n) == 0
    }

    /// Roughly normal: the sum of twelve uniform draws.
    fn normal(&self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

struct Department {
    id: SystemId,
    timetable: Timetable,
    expect: Expectations,
    base: f64,
    growth: f64,
    noise: f64,
    weekend: f64,
    month_end: f64,
    has_marker: bool,
    has_identity: bool,
    /// The reader can tell an end mark.
    sees_end: bool,
    points: Vec<Taken>,
    /// What the last working day left: digest, bytes, files. A resting system is dumped unchanged.
    left: Option<(Option<String>, u64, u64)>,
    purged: Option<u32>,
}

impl Department {
    fn new(n: usize, chance: &Chance<'_>) -> Self {
        let rests = chance.one_in(3);
        let schedule = Schedule::nightly(&format!("{} {} * * *", chance.0.below(60), chance.0.below(5)));
        Self {
            id: SystemId::new(&format!("system-{n}")).unwrap(),
            timetable: Timetable::new(&schedule).unwrap(),
            expect: Expectations { rests_on_weekends: rests, ..Expectations::default() },
            base: chance.between(16.0, 26.0).exp(),
            growth: chance.between(0.0, 0.003),
            noise: chance.between(0.0, 0.13),
            weekend: if chance.one_in(2) { chance.between(0.25, 1.0) } else { 1.0 },
            month_end: if chance.one_in(4) { chance.between(1.2, 2.5) } else { 1.0 },
            has_marker: chance.one_in(2),
            has_identity: !chance.one_in(3),
            sees_end: chance.one_in(2),
            points: Vec::new(),
            left: None,
            purged: None,
        }
    }

    /// What an ordinary night of this kind weighs, before noise and month-end.
    fn usual(&self, night: u32, covered: jiff::civil::Date, calendar: &Calendar) -> f64 {
        let rest = if calendar.rests(covered) { self.weekend } else { 1.0 };
        self.base * (1.0 + self.growth).powi(night.cast_signed()) * rest
    }

    fn subject<'a>(&'a self, since: Timestamp, calendar: &'a Calendar) -> Subject<'a> {
        Subject {
            system: &self.id,
            since,
            enabled: true,
            data: DataClass::Other,
            timetable: &self.timetable,
            expect: &self.expect,
            calendar,
            points: &self.points[self.points.len().saturating_sub(100)..],
            running: None,
            failed: None,
            generations: 14,
            vault: None,
        }
    }
}

#[derive(Default, Debug)]
struct Score {
    nights: u32,
    faults: BTreeMap<Fault, (u32, u32)>,
    false_alarms: BTreeMap<String, u32>,
    quiet_nights: u32,
}

impl Score {
    fn wolf(&self) -> u32 {
        self.false_alarms.values().sum()
    }
}

fn simulate(seed: u64, score: &mut Score) {
    let random = SeededRandom::new(seed);
    let chance = Chance(&random);
    let calendar = Calendar::default();
    let start: Timestamp = "2025-12-01T03:00:00Z".parse().unwrap();
    let mut departments: Vec<Department> = (0..SYSTEMS).map(|n| Department::new(n, &chance)).collect();
    let mut sequence = 0;
    for night in 0..NIGHTS {
        let noon = start + SignedDuration::from_hours(24 * i64::from(night));
        let stopped = night > WARM_UP && chance.one_in(50);
        if stopped {
            let entry = score.faults.entry(Fault::SchedulerStopped).or_default();
            entry.1 += 1;
            let sign = Platform { scheduler: Some(noon), ..Platform::default() };
            let findings = judge_platform(noon + SignedDuration::from_hours(13), &sign);
            entry.0 += u32::from(findings.iter().any(|f| f.code == Fault::SchedulerStopped.code()));
        }
        for department in &mut departments {
            score.nights += 1;
            let wish = (night > WARM_UP && chance.one_in(FAULT_RATE))
                .then(|| FAULTS[chance.0.below(FAULTS.len() as u64) as usize]);
            let fault = if stopped { Some(Fault::Missed) } else { wish };
            let due = department.timetable.next(noon).unwrap();
            let (fault, said) =
                one_night(department, night, due, fault, start, &calendar, &chance, &mut sequence);
            if let Some(fault) = fault {
                let entry = score.faults.entry(fault).or_default();
                entry.1 += 1;
                entry.0 += u32::from(said.iter().any(|code| code == fault.code()));
            } else {
                score.quiet_nights += 1;
                if let Some(code) = said.first() {
                    *score.false_alarms.entry(code.clone()).or_default() += 1;
                }
                // The operator asks, hears of the purge, and accepts the new size.
                let purged = department.purged.is_some_and(|at| night - at < 60);
                if purged && said.iter().any(|code| code == Fault::Shrunk.code()) {
                    department.expect.accepted_sizes.extend(department.points.last().map(|p| p.sequence));
                    department.purged = None;
                }
            }
        }
    }
}

/// Plays one night; gives the fault that really happened and what the judge said.
#[expect(clippy::too_many_arguments, reason = "the state of the simulation")]
fn one_night(
    department: &mut Department,
    night: u32,
    due: Timestamp,
    wish: Option<Fault>,
    since: Timestamp,
    calendar: &Calendar,
    chance: &Chance<'_>,
    sequence: &mut u64,
) -> (Option<Fault>, Vec<String>) {
    let minutes = |m: f64| SignedDuration::from_secs((m * 60.0) as i64);
    let deadline = department.timetable.deadline(due);
    // An honest night may be slow, but it is done before its deadline.
    let done = due + minutes(chance.between(5.0, 220.0));
    let covered = Calendar::covered(due, department.timetable.zone());
    if night > WARM_UP && chance.one_in(300) {
        // A year's worth of records went to the archive, for good.
        department.base *= chance.between(0.5, 0.9);
        department.purged = Some(night);
    }
    let usual = department.usual(night, covered, calendar);
    let peak = if covered.tomorrow().is_ok_and(|next| next.day() == 1) { department.month_end } else { 1.0 };
    let honest = usual * peak * (department.noise * chance.normal()).exp();
    // The hospital's own closing days are unknown to the judge's calendar.
    let closed = matches!((covered.month(), covered.day()), (6, 1) | (8, 13..=14) | (10, 20));
    let rests = department.expect.rests_on_weekends && (closed || calendar.rests(covered));
    let last = department.points.last().cloned();
    let mut facts = RunFacts {
        bytes: honest as u64,
        files: 1 + (honest / 1e6) as u64,
        digest: Some(format!("content-{night}")),
        identity: department.has_identity.then(|| "7301".to_owned()),
        newest: Some(due - minutes(chance.between(1.0, 60.0))),
        ..RunFacts::default()
    };
    if department.has_marker {
        let written = facts.newest.map(|newest| newest + minutes(chance.between(-0.5, 3.0)));
        facts.marker =
            Some(Marker { name: "DONE".to_owned(), written, digest: Some(format!("marker-{night}")) });
    }
    if !rests || department.left.is_none() {
        department.left = Some((facts.digest.clone(), facts.bytes, facts.files));
    }
    (facts.digest, facts.bytes, facts.files) = department.left.clone().unwrap();
    // Some faults cannot happen to some systems, or are none there.
    let fault = wish.filter(|fault| match fault {
        Fault::SameAgain => !rests || department.has_marker,
        Fault::WrongInstance => department.has_identity,
        Fault::MarkerEarly => department.has_marker,
        Fault::Truncated => department.sees_end,
        _ => true,
    });
    let small = |share: f64| (usual * share) as u64;
    match fault {
        Some(Fault::SameAgain) => facts = last.as_ref().unwrap().facts.clone(),
        Some(Fault::Empty) => (facts.bytes, facts.files) = (0, chance.0.below(2)),
        Some(Fault::Truncated) => {
            facts.bytes = (honest * chance.between(0.05, 0.99)) as u64;
            facts.truncated = Some("no end mark".to_owned());
        }
        Some(Fault::Shrunk) => facts.bytes = small(chance.between(0.02, 0.5)),
        Some(Fault::WrongInstance) => facts.identity = Some("9999".to_owned()),
        Some(Fault::MarkerEarly) if chance.one_in(2) => facts.moved = 1 + chance.0.below(50),
        Some(Fault::MarkerEarly) => {
            facts.newest =
                facts.marker.as_ref().unwrap().written.map(|w| w + minutes(chance.between(2.0, 90.0)));
        }
        Some(Fault::Unreadable) => facts.faults = 1 + chance.0.below(40),
        _ => {}
    }
    if fault.is_some_and(|f| matches!(f, Fault::Empty | Fault::Truncated | Fault::Shrunk)) {
        facts.digest = Some(format!("odd-{night}"));
    }
    let mut said = Vec::new();
    let mut listen =
        |department: &Department, now: Timestamp, running: Option<Working>, failed: Option<Broken>| {
            let mut subject = department.subject(since, calendar);
            (subject.running, subject.failed) = (running, failed);
            for finding in judge(now, &subject) {
                if finding.severity >= Severity::Warning && !said.contains(&finding.code) {
                    said.push(finding.code);
                }
            }
        };
    // While it runs: an honest job may stand still for up to 25 minutes.
    let working = |progress| Working {
        run: RunId(u64::from(night)),
        started: due,
        progress,
        phase: "reading".to_owned(),
    };
    if fault == Some(Fault::Hang) {
        listen(department, due + minutes(chance.between(31.0, 200.0)), Some(working(due)), None);
        return (fault, said);
    }
    if !matches!(fault, Some(Fault::Missed | Fault::Failed)) {
        let stands = minutes(chance.between(0.0, 25.0));
        if done > due + stands {
            // What is said now about the point of last night was said last night.
            let mut before = Vec::new();
            for finding in judge(
                done,
                &Subject { running: Some(working(done - stands)), ..department.subject(since, calendar) },
            ) {
                before.push(finding.code);
            }
            assert!(!before.contains(&"judge.hangs".to_owned()), "an honest pause");
        }
        *sequence += 1;
        let complete = facts.faults == 0;
        department.points.push(Taken {
            sequence: Sequence(*sequence),
            received: done,
            complete,
            run: None,
            facts,
        });
        listen(department, done + minutes(1.0), None, None);
    }
    let failed = (fault == Some(Fault::Failed)).then(|| Broken {
        run: RunId(u64::from(night)),
        ended: done,
        code: "source.unreachable".to_owned(),
    });
    listen(department, deadline + minutes(1.0), None, failed);
    (fault, said)
}

fn report(seeds: std::ops::Range<u64>) -> Score {
    let mut score = Score::default();
    for seed in seeds.clone() {
        simulate(seed, &mut score);
    }
    println!("seeds {seeds:?}: {} system-nights, {} without a fault", score.nights, score.quiet_nights);
    for (fault, (found, all)) in &score.faults {
        println!("  {fault:?}: {found} of {all} found");
    }
    let rate = f64::from(score.wolf()) * 100.0 / f64::from(score.quiet_nights);
    println!("  false alarms: {} = {rate:.3} per 100 nights {:?}", score.wolf(), score.false_alarms);
    score
}

#[test]
fn every_fault_is_found_and_one_night_in_a_hundred_at_most_is_a_false_alarm() {
    let long = std::env::var_os("KURAMORI_LONG").is_some();
    let score = report(200..if long { 220 } else { 204 });
    assert!(score.nights >= 10_000 && score.faults.len() == FAULTS.len() + 1, "every kind came up");
    for (fault, (found, all)) in &score.faults {
        assert!(*all >= 20, "{fault:?} came up only {all} times");
        assert_eq!(found, all, "{fault:?}");
    }
    assert!(score.wolf() * 100 <= score.quiet_nights, "{:?}", score.false_alarms);
}

#[test]
#[ignore = "the seeds on which thresholds are fixed; run it when one is changed"]
fn tuning() {
    report(0..10);
}
