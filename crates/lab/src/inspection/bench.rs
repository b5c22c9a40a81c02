//! The measurement.

use std::{path::Path, sync::Arc};

use kuramori_inspect::Verdict;
use kuramori_model::clock::{Clock, SeededRandom, SystemClock};

use super::{
    figures::{Evidence, Rate},
    rig::{File, Files, Rig},
    source::{Department, Source},
};
use crate::{
    error::Result,
    generate::{clean::Kind, pool::Pool},
    mutate::Attack,
};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// First seed; 100 or more for what is reported.
    pub first_seed: u64,
    /// Files of each kind for each attack.
    pub files: u64,
    /// Sources of each department for each attack.
    pub sources: u64,
    /// Clean sources of each department.
    pub clean: u64,
    /// Days of each of them.
    pub days: u64,
}

impl Amount {
    /// For every change.
    pub const SHORT: Self = Self { first_seed: 200, files: 24, sources: 1, clean: 1, days: 14 };
    /// For the record: more than 1,000 clean days.
    pub const LONG: Self = Self { first_seed: 200, files: 240, sources: 8, clean: 5, days: 31 };
}

/// Measures. `say` is told how far it is.
///
/// # Errors
/// Programs that are missing, disk errors.
pub fn measure(folder: &Path, amount: Amount, say: &mut dyn FnMut(&str)) -> Result<Evidence> {
    let clock = SystemClock;
    let begin = clock.boot();
    let pool = Pool::make(folder, amount.first_seed, 24)?;
    let mut evidence = Evidence { first_seed: amount.first_seed, ..Evidence::default() };
    for kind in Kind::ALL {
        say(&format!("files: {}", kind.as_str()));
        files(folder, &pool, kind, amount, &mut evidence)?;
    }
    for department in Department::ALL {
        say(&format!("sources: {}", department.as_str()));
        for number in 0..amount.sources {
            sources(folder, &pool, department, amount.first_seed + number, &mut evidence)?;
        }
        say(&format!("clean days: {}", department.as_str()));
        for number in 0..amount.clean {
            clean_days(
                folder,
                &pool,
                department,
                amount.first_seed + 1000 + number,
                amount.days,
                &mut evidence,
            )?;
        }
    }
    evidence.seconds = clock.boot().saturating_sub(begin).as_secs_f64();
    Ok(evidence)
}

/// A folder for one repository; gone afterwards.
fn place(folder: &Path) -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("rig").tempdir_in(folder)?)
}

/// Every file of one kind attacked; how many are named?
fn files(folder: &Path, pool: &Pool, kind: Kind, amount: Amount, evidence: &mut Evidence) -> Result<()> {
    let place = place(folder)?;
    let mut rig = Rig::new(place.path(), amount.first_seed)?;
    let mut clean = Files::new();
    for number in 0..amount.files {
        let path = format!("{:02}/文書 {number:05}.{}", number % 8, kind.extension());
        let bytes = Arc::new(kind.file(pool, amount.first_seed, number));
        clean.insert(path, File { bytes, time: 1_775_000_000 });
    }
    rig.day(&clean)?;
    let (profile, points) = (rig.profile.clone(), rig.clean.clone());
    // A kind whose clean files are not found clean shows up as alarms of clean days.
    for attack in Attack::ALL {
        let random = SeededRandom::new(amount.first_seed ^ attack as u64);
        let (mut spoilt, mut altered) = (Files::new(), 0);
        for (path, file) in &clean {
            let bytes = Arc::new(attack.bytes(file.bytes.to_vec(), &random)?);
            // A file of one block has nothing besides the header that is spared.
            altered += u64::from(bytes != file.bytes || attack.ending().is_some());
            let time = if attack.keeps_time() { file.time } else { file.time + 50_000 };
            spoilt.insert(format!("{path}{}", attack.ending().unwrap_or_default()), File { bytes, time });
        }
        let report = rig.day(&spoilt)?;
        (rig.profile, rig.clean) = (profile.clone(), points.clone());
        let rate = evidence.files.entry(kind.as_str().to_owned()).or_default();
        let hits = report.evidence_total.min(altered);
        *rate.entry(attack.as_str().to_owned()).or_default() = Rate { hits, of: altered };
    }
    Ok(())
}

/// A source that lives for a week and is then attacked, in each way, with few files and with all.
fn sources(
    folder: &Path,
    pool: &Pool,
    department: Department,
    seed: u64,
    evidence: &mut Evidence,
) -> Result<()> {
    let place = place(folder)?;
    let mut rig = Rig::new(place.path(), seed)?;
    let mut source = Source::new(department, pool, seed);
    for _ in 0..7 {
        rig.day(&source.files)?;
        source.pass();
    }
    let today = source.files.clone();
    let (profile, clean) = (rig.profile.clone(), rig.clean.clone());
    let row = department.as_str().to_owned();
    for attack in Attack::ALL {
        for share in [10, 1000] {
            source.files = today.clone();
            source.attack(attack, share, seed)?;
            let report = rig.day(&source.files)?;
            let table = if share == 10 { &mut evidence.one_per_cent } else { &mut evidence.all_files };
            let rate = table.entry(row.clone()).or_default().entry(attack.as_str().to_owned()).or_default();
            rate.add(report.verdict == Some(Verdict::Suspect));
            (rig.profile, rig.clean) = (profile.clone(), clean.clone());
        }
    }
    source.files = today;
    let mut noticed = None;
    for day in 1..=10 {
        source.attack(Attack::HeaderSpared, 10, seed + day)?;
        if rig.day(&source.files)?.verdict == Some(Verdict::Suspect) {
            noticed = Some(day);
            break;
        }
        source.pass();
    }
    evidence.slow.entry(row.clone()).or_default().add(noticed.is_some());
    *evidence.slow_days.entry(row).or_default() += noticed.unwrap_or(0);
    Ok(())
}

/// A source that nobody attacks.
fn clean_days(
    folder: &Path,
    pool: &Pool,
    department: Department,
    seed: u64,
    days: u64,
    evidence: &mut Evidence,
) -> Result<()> {
    let place = place(folder)?;
    let mut rig = Rig::new(place.path(), seed)?;
    let mut source = Source::new(department, pool, seed);
    for day in 0..days {
        let report = rig.day(&source.files)?;
        let alarm = report.verdict == Some(Verdict::Suspect);
        evidence.false_alarms.entry(department.as_str().to_owned()).or_default().add(alarm);
        evidence.called_corrupt += u64::from(report.verdict == Some(Verdict::Corrupt));
        if report.verdict != Some(Verdict::Clean) {
            let why: Vec<String> =
                report.hits.iter().map(|hit| format!("{:?} {} {}", hit.rule, hit.count, hit.why)).collect();
            let first =
                report.evidence.first().map(|one| format!("; {}: {}", one.path, one.why)).unwrap_or_default();
            let reason = format!("{} seed {seed} day {day}: {}{first}", department.as_str(), why.join(", "));
            evidence.false_reasons.push(reason);
        }
        source.pass();
    }
    Ok(())
}
