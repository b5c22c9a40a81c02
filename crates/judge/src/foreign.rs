//! Jobs of other backup products, seen by the same judge as our own.
//!
//! A result that says "good" or "with warnings" stands where a restore point stands: its age is the time at
//! which *we* received it, its size and files are what the product says. A size that it does not tell is
//! unknown, never 0; where it usually tells one, its absence is said. A result that says "failed" stands
//! where a run that ended without a restore point stands. The product's own clock only tells two results
//! apart, so that a result that is sent again does not look like a new backup.

use jiff::Timestamp;
use kuramori_model::{
    foreign::{JobResult, JobState},
    ids::{RunId, Sequence},
};
use serde::{Deserialize, Serialize};

use crate::{
    facts::{Marker, RunFacts, Taken},
    night::Broken,
};

/// What findings about another product's results carry as their subject.
pub const SUBJECT: &str = "product";
/// Results that are looked back on.
pub const HISTORY: usize = 100;

/// A result as the receiver recorded it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The receiver's number; grows with each one.
    pub number: u64,
    /// The receiver's time.
    pub received: Timestamp,
    /// How it came: `file` or `post`.
    pub way: String,
    /// In the product's own words.
    pub result: JobResult,
}

/// Adds a result to the records, the oldest first. None if it is known already: what is sent again is not
/// newer for that.
pub fn add(records: &mut Vec<Recorded>, result: JobResult, way: &str, received: Timestamp) -> Option<u64> {
    if records.iter().any(|known| known.result.same_event(&result)) {
        return None;
    }
    let number = records.last().map_or(1, |last| last.number + 1);
    records.push(Recorded { number, received, way: way.to_owned(), result });
    let over = records.len().saturating_sub(HISTORY);
    records.drain(..over);
    Some(number)
}

/// The results that stand for backups, oldest first.
pub fn taken(records: &[Recorded]) -> Vec<Taken> {
    records
        .iter()
        .filter(|record| matches!(record.result.state, JobState::Success | JobState::Warning))
        .map(|record| {
            let result = &record.result;
            let told = result.told_bytes();
            let early = result.started.is_some_and(|started| started > result.ended);
            Taken {
                sequence: Sequence(record.number),
                received: record.received,
                complete: result.state == JobState::Success,
                run: None,
                facts: RunFacts {
                    bytes: told.unwrap_or(0),
                    size_untold: told.is_none(),
                    // A product that names no files still wrote something, unless it says that it did not.
                    files: (result.files.len() as u64).max(u64::from(told != Some(0))),
                    faults: u64::from(result.state == JobState::Warning),
                    identity: Some(format!("{}/{}", result.product, result.job)),
                    marker: Some(Marker { name: result.title(), written: Some(result.ended), digest: None }),
                    truncated: early.then(|| "the job ended before it began".to_owned()),
                    ..RunFacts::default()
                },
            }
        })
        .collect()
}

/// The newest result, if it says that the job failed.
pub fn broken(records: &[Recorded]) -> Option<Broken> {
    let newest = records.iter().rev().find(|record| record.result.state != JobState::Request)?;
    (newest.result.state == JobState::Failed).then(|| Broken {
        run: RunId(0),
        ended: newest.received,
        code: format!("{}: {}", newest.result.title(), newest.result.message),
    })
}

#[cfg(test)]
mod tests {
    use kuramori_model::{class::DataClass, foreign::FORMAT, ids::SystemId};

    use super::*;
    use crate::{
        calendar::Calendar,
        expect::Expectations,
        night::{Subject, judge},
        schedule::{Schedule, Timetable},
    };

    fn result(day: i8, state: JobState, bytes: impl Into<Option<u64>>) -> JobResult {
        JobResult {
            format: FORMAT.to_owned(),
            system: SystemId::new("ward").unwrap(),
            product: "veeam".to_owned(),
            job: "nightly".to_owned(),
            state,
            started: None,
            ended: at(day),
            bytes: bytes.into(),
            files: Vec::new(),
            message: "disk full".to_owned(),
        }
    }

    fn at(day: i8) -> Timestamp {
        jiff::civil::date(2026, 6, day).at(2, 0, 0, 0).in_tz("Asia/Tokyo").unwrap().timestamp()
    }

    /// What the judge says at 09:00 on the day after the last result.
    fn codes(records: &[Recorded], day: i8) -> Vec<String> {
        codes_with(records, day, &Expectations::default())
    }

    fn codes_with(records: &[Recorded], day: i8, expect: &Expectations) -> Vec<String> {
        let table =
            Timetable::new(&Schedule { zone: "Asia/Tokyo".to_owned(), ..Schedule::nightly("0 1 * * *") })
                .unwrap();
        let (system, points) = (SystemId::new("ward").unwrap(), taken(records));
        let calendar = Calendar::default();
        let now = jiff::civil::date(2026, 6, day).at(9, 0, 0, 0).in_tz("Asia/Tokyo").unwrap().timestamp();
        let findings = judge(
            now,
            &Subject {
                system: &system,
                since: at(1),
                enabled: true,
                data: DataClass::Other,
                timetable: &table,
                expect,
                calendar: &calendar,
                points: &points,
                running: None,
                failed: broken(records),
                generations: 9,
                vault: None,
            },
        );
        findings.into_iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn age_size_failure_and_warnings_of_another_product_are_found_by_our_judge() {
        let mut records = Vec::new();
        for day in 1..=14 {
            add(&mut records, result(day, JobState::Success, 1000 << 20), "post", at(day)).unwrap();
        }
        assert_eq!(codes(&records, 14), [""; 0], "a good fortnight");
        assert_eq!(codes(&records, 15), ["judge.missed"], "the fifteenth night is missing");

        let mut small = records.clone();
        add(&mut small, result(15, JobState::Success, 90 << 20), "post", at(15)).unwrap();
        assert_eq!(codes(&small, 15), ["judge.shrunk"]);

        let mut failed = records.clone();
        add(&mut failed, result(15, JobState::Failed, 0), "post", at(15)).unwrap();
        assert_eq!(codes(&failed, 15), ["judge.failed"]);

        let mut warned = records.clone();
        add(&mut warned, result(15, JobState::Warning, 1000 << 20), "post", at(15)).unwrap();
        assert_eq!(codes(&warned, 15), ["judge.incomplete"]);

        let mut empty = records.clone();
        add(&mut empty, result(15, JobState::Success, 0), "post", at(15)).unwrap();
        assert_eq!(codes(&empty, 15), ["judge.empty"]);
    }

    #[test]
    fn a_size_that_is_not_told_is_no_empty_dump_and_its_sudden_absence_is_said() {
        let fortnight = |bytes: Option<u64>| {
            let mut records = Vec::new();
            for day in 1..=14 {
                add(&mut records, result(day, JobState::Success, bytes), "mail", at(day)).unwrap();
            }
            records
        };
        // A product that never tells sizes: nothing is wrong, from the first night on.
        let mut never = fortnight(None);
        assert_eq!(codes(&never[..1], 1), [""; 0]);
        assert_eq!(codes(&never, 14), [""; 0]);
        assert_eq!(codes(&never, 15), ["judge.missed"], "everything else is judged as ever");
        // It says 0: that is an empty dump, whatever it did not say before.
        add(&mut never, result(15, JobState::Success, 0), "mail", at(15)).unwrap();
        assert_eq!(codes(&never, 15), ["judge.empty"]);
        let named = |bytes: Option<u64>| {
            let file = kuramori_model::foreign::JobFile { name: "a.vbk".to_owned(), bytes };
            JobResult { files: vec![file], ..result(15, JobState::Success, None) }
        };
        for (bytes, wanted) in [(Some(0), vec!["judge.empty"]), (None, vec![])] {
            let mut records = fortnight(None);
            add(&mut records, named(bytes), "post", at(15)).unwrap();
            assert_eq!(codes(&records, 15), wanted, "{bytes:?}");
        }

        // A product that tells sizes and falls silent about them: not empty, but to be looked at.
        let mut silent = fortnight(Some(1000 << 20));
        add(&mut silent, result(15, JobState::Success, None), "mail", at(15)).unwrap();
        assert_eq!(codes(&silent, 15), ["judge.size-untold"]);
        // A size is demanded and none is told.
        let demand = Expectations { min_bytes: 1 << 30, ..Expectations::default() };
        assert_eq!(codes_with(&fortnight(None), 14, &demand), ["judge.size-untold"]);
        // Nights without a size teach nothing about the usual size.
        let mut mixed = fortnight(Some(1000 << 20));
        for day in 15..=17 {
            add(&mut mixed, result(day, JobState::Success, None), "mail", at(day)).unwrap();
        }
        add(&mut mixed, result(18, JobState::Success, 90 << 20), "mail", at(18)).unwrap();
        assert_eq!(codes(&mixed, 18), ["judge.shrunk"]);
    }

    #[test]
    fn a_result_that_is_sent_again_is_not_a_newer_backup() {
        let mut records = Vec::new();
        let old = result(3, JobState::Success, 7);
        assert_eq!(add(&mut records, old.clone(), "file", at(3)), Some(1));
        assert_eq!(add(&mut records, old, "post", at(9)), None);
        assert_eq!((records.len(), records[0].received), (1, at(3)));
        for day in 4..=28 {
            for _ in 0..6 {
                let ended = at(day) + jiff::SignedDuration::from_secs(i64::try_from(records.len()).unwrap());
                let new = JobResult { ended, ..result(day, JobState::Success, 7) };
                add(&mut records, new, "post", at(day));
            }
        }
        assert_eq!(records.len(), HISTORY);
        assert!(records.windows(2).all(|pair| pair[0].number < pair[1].number));
    }

    #[test]
    fn a_request_is_neither_a_backup_nor_a_failure() {
        let mut records = Vec::new();
        add(&mut records, result(3, JobState::Failed, 0), "post", at(3));
        add(&mut records, result(4, JobState::Request, 0), "post", at(4));
        assert!(taken(&records).is_empty());
        assert_eq!(broken(&records).unwrap().ended, at(3));
    }
}
