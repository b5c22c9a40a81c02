//! The slow attacker: dwells for weeks, spoils a file now and then through the vendor's maintenance account,
//! deletes old generations at the primary, and strikes in the end. Which restore point does the plan choose?
//!
//! Every night goes the real way: files through the engine, out through `kuramori-inspect`, its verdicts to
//! earlier points as a vault gives them, and all points into `kuramori_drill::choose`. Time is a clock that is
//! moved; nobody waits. The truth is known here alone: which bytes the attacker wrote.
//!
//! | word | means |
//! |---|---|
//! | right | the chosen point holds nothing of the attacker, and every newer one does |
//! | too old | it holds nothing of the attacker, but a newer one does not either |
//! | poisoned | it holds something of the attacker, although the attack was noticed |
//! | unnoticed | no inspection noticed the attack at all: the newest point is chosen |
//!
//! The same choice without what later inspections found about earlier points is counted beside it: it shows
//! that the simulation would notice a choice that does not step back.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kuramori_drill::choose::{Candidate, Copy, StepBack, Wish, choose};
use kuramori_inspect::Verdict as Found;
use kuramori_judge::retention::Verdict;
use kuramori_model::{
    clock::{Clock, ManualClock, SeededRandom, SystemClock},
    ids::Sequence,
};
use serde::{Deserialize, Serialize};

use super::{
    rig::{File, Files, Rig},
    source::{Department, Source},
};
use crate::{
    error::Result,
    generate::{clean::csv, decide, pool::Pool},
    mutate::{Attack, BLOCK},
};

/// Files of the ward, all of which are written anew each night.
const SHEETS: u64 = 230;
/// Nights in which the attacker waits to be noticed.
const DWELL: u64 = 28;
/// Nights between the notice and the restore: people look first.
const LOOK: u64 = 2;
/// The newest points that the attacker leaves at the primary.
const LEFT: usize = 3;
/// What is done to files under their old names.
const WAYS: [Attack; 3] = [Attack::HeaderSpared, Attack::EveryNth, Attack::Base64];

/// How much is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Dwellings {
    /// First seed.
    pub first_seed: u64,
    /// Sources of the busy ward.
    pub wards: u64,
    /// Sources of each department.
    pub sources: u64,
}

impl Dwellings {
    /// For every change.
    pub const SHORT: Self = Self { first_seed: 300, wards: 2, sources: 0 };
    /// For the record.
    pub const LONG: Self = Self { first_seed: 300, wards: 60, sources: 20 };
}

/// What became of the attacks on one kind of source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Sources.
    pub sources: u64,
    /// The last point without the attacker.
    pub right: u64,
    /// An older one than needed.
    pub too_old: u64,
    /// Nights given up needlessly, summed.
    pub nights_too_old: u64,
    /// Noticed, and yet a point with the attacker in it.
    pub poisoned: u64,
    /// Never noticed.
    pub unnoticed: u64,
    /// Without stepping back: noticed, and yet a point with the attacker in it.
    pub poisoned_without_stepping_back: u64,
    /// Nights from the first spoilt file to the notice, summed.
    pub nights_until_noticed: u64,
    /// Plans in which a verdict on an earlier point had changed.
    pub found_later: u64,
    /// Plans that had to take the vault's copy because the primary's was deleted.
    pub from_vault: u64,
}

/// The figures of a simulation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DwellEvidence {
    /// First seed.
    pub first_seed: u64,
    /// By kind of source.
    pub counts: BTreeMap<String, Counts>,
    /// Each that was not right, in words.
    pub others: Vec<String>,
    /// Simulated nights.
    pub nights: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

impl DwellEvidence {
    /// Over all kinds but those without.
    pub fn total(&self, without: &[&str]) -> Counts {
        let kinds = self.counts.iter().filter(|(kind, _)| !without.contains(&kind.as_str()));
        kinds.fold(Counts::default(), |all, (_, one)| Counts {
            sources: all.sources + one.sources,
            right: all.right + one.right,
            too_old: all.too_old + one.too_old,
            nights_too_old: all.nights_too_old + one.nights_too_old,
            poisoned: all.poisoned + one.poisoned,
            unnoticed: all.unnoticed + one.unnoticed,
            poisoned_without_stepping_back: all.poisoned_without_stepping_back
                + one.poisoned_without_stepping_back,
            nights_until_noticed: all.nights_until_noticed + one.nights_until_noticed,
            found_later: all.found_later + one.found_later,
            from_vault: all.from_vault + one.from_vault,
        })
    }
}

/// Simulates. `say` is told how far it is.
///
/// # Errors
/// Programs that are missing, disk errors.
pub fn dwell(folder: &Path, amount: Dwellings, say: &mut dyn FnMut(&str)) -> Result<DwellEvidence> {
    let clock = SystemClock;
    let begin = clock.boot();
    let mut evidence = DwellEvidence { first_seed: amount.first_seed, ..DwellEvidence::default() };
    for number in 0..amount.wards {
        say(&format!("ward {number}"));
        let ward = Ward::new(amount.first_seed + number);
        siege(folder, "busy_ward", Place::Ward(ward), amount.first_seed + number, &mut evidence)?;
    }
    if amount.sources > 0 {
        let pool = Pool::make(folder, amount.first_seed, 24)?;
        for department in Department::ALL {
            for number in 0..amount.sources {
                say(&format!("{} {number}", department.as_str()));
                let seed = amount.first_seed + number;
                let place = Place::Department(Source::new(department, &pool, seed));
                siege(folder, department.as_str(), place, seed, &mut evidence)?;
            }
        }
    }
    evidence.seconds = clock.boot().saturating_sub(begin).as_secs_f64();
    Ok(evidence)
}

/// A ward whose program writes every sheet anew each night, so that one spoilt file does not stand out.
struct Ward {
    random: SeededRandom,
    files: Files,
    spoilt: Vec<String>,
    day: i64,
}

impl Ward {
    fn new(seed: u64) -> Self {
        let mut ward = Self {
            random: SeededRandom::new(decide(seed, 120, 0)),
            files: Files::new(),
            spoilt: Vec::new(),
            day: 0,
        };
        ward.pass();
        ward
    }

    fn pass(&mut self) {
        self.day += 1;
        for sheet in 0..SHEETS {
            let path = format!("病棟{}/温度板-{sheet:03}.csv", sheet % 6 + 1);
            // The ward's program cannot open what is spoilt, and leaves it.
            if !self.spoilt.contains(&path) {
                let bytes = Arc::new(csv(&self.random, 200).into_bytes());
                self.files.insert(path, File { bytes, time: 1_775_000_000 + self.day * 86_400 });
            }
        }
    }

    /// One sheet, by the vendor's maintenance account.
    fn spoil(&mut self, attack: Attack) -> Result<()> {
        let sound: Vec<String> = self
            .files
            .iter()
            // What spares the first block would hardly touch one that is little longer.
            .filter(|(path, file)| !self.spoilt.contains(*path) && file.bytes.len() > BLOCK * 3 / 2)
            .map(|(path, _)| path.clone())
            .collect();
        let at = usize::try_from(self.random.below(sound.len() as u64)).unwrap_or(0);
        let Some(path) = sound.get(at) else { return Ok(()) };
        if let Some(file) = self.files.get_mut(path) {
            file.bytes = Arc::new(attack.bytes(file.bytes.to_vec(), &self.random)?);
            file.time += 3600;
        }
        self.spoilt.push(path.clone());
        Ok(())
    }
}

/// Where the attacker sits.
enum Place<'a> {
    Ward(Ward),
    Department(Source<'a>),
}

impl Place<'_> {
    fn files(&self) -> &Files {
        match self {
            Self::Ward(ward) => &ward.files,
            Self::Department(source) => &source.files,
        }
    }

    fn pass(&mut self) {
        match self {
            Self::Ward(ward) => ward.pass(),
            Self::Department(source) => source.pass(),
        }
    }

    /// Spoils one file; gives what was written, to know it again.
    fn spoil(&mut self, attack: Attack, seed: u64) -> Result<Vec<Arc<Vec<u8>>>> {
        let before: Vec<Arc<Vec<u8>>> = self.files().values().map(|file| file.bytes.clone()).collect();
        match self {
            Self::Ward(ward) => ward.spoil(attack)?,
            Self::Department(source) => drop(source.attack(attack, 1, seed)?),
        }
        let known = |bytes: &Arc<Vec<u8>>| before.iter().any(|old| Arc::ptr_eq(old, bytes) || old == bytes);
        Ok(self.files().values().map(|file| &file.bytes).filter(|bytes| !known(bytes)).cloned().collect())
    }
}

/// One night as both receivers remember it.
struct Night {
    primary: Timestamp,
    vault: Timestamp,
    verdict: Verdict,
    later: bool,
    /// Holds something that the attacker wrote.
    spoilt: bool,
}

fn candidates(nights: &[Night], stepping_back: bool) -> Vec<Candidate> {
    let left = nights.len().saturating_sub(LEFT);
    let of = |copy: Copy, number: usize, night: &Night| Candidate {
        copy,
        sequence: Sequence(number as u64 + 1),
        received: if copy == Copy::Primary { night.primary } else { night.vault },
        snapshot: format!("{number:064x}"),
        complete: true,
        verdict: match copy {
            Copy::Primary => Verdict::Unknown,
            Copy::Vault if night.later && !stepping_back => Verdict::Clean,
            Copy::Vault => night.verdict,
        },
        later: copy == Copy::Vault && night.later && stepping_back,
        drilled: None,
        // The attacker has deleted the old generations here; the vault follows no deletion.
        gone: copy == Copy::Primary && number < left,
        bytes: 1,
        files: 1,
    };
    let both = nights.iter().enumerate();
    both.flat_map(|(number, night)| [of(Copy::Primary, number, night), of(Copy::Vault, number, night)])
        .collect()
}

fn siege(
    folder: &Path,
    kind: &str,
    mut place: Place<'_>,
    seed: u64,
    evidence: &mut DwellEvidence,
) -> Result<()> {
    let home = tempfile::Builder::new().prefix("dwell").tempdir_in(folder)?;
    let mut rig = Rig::new(home.path(), seed)?;
    let clock = ManualClock::new("2026-03-31T17:00:00Z".parse().unwrap_or(Timestamp::UNIX_EPOCH));
    let quiet = 6 + decide(seed, 121, 0) % 8;
    let attack = WAYS[usize::try_from(decide(seed, 122, 0) % WAYS.len() as u64).unwrap_or(0)];
    // Every night, or only some nights.
    let every = 1 + decide(seed, 123, 0) % 2;
    let (mut nights, mut written): (Vec<Night>, Vec<Arc<Vec<u8>>>) = (Vec::new(), Vec::new());
    let (mut first, mut noticed): (Option<u64>, Option<u64>) = (None, None);
    for day in 0..quiet + DWELL {
        if day > 0 {
            place.pass();
        }
        if day >= quiet && noticed.is_none() && (day - quiet).is_multiple_of(every) {
            written.extend(place.spoil(attack, seed + day)?);
            first = first.or((!written.is_empty()).then_some(day));
        }
        let spoilt =
            place.files().values().any(|file| written.iter().any(|bad| Arc::ptr_eq(bad, &file.bytes)));
        let report = rig.day(place.files())?;
        let vault = SignedDuration::from_mins(90);
        nights.push(Night {
            primary: clock.now(),
            vault: clock.now() + vault,
            verdict: match report.verdict {
                None => Verdict::Unknown,
                Some(Found::Clean) => Verdict::Clean,
                Some(Found::Suspect) => Verdict::Suspect,
                Some(Found::Corrupt) => Verdict::Corrupt,
            },
            later: false,
            spoilt,
        });
        for (number, night) in (1_u64..).zip(nights.iter_mut()) {
            if night.verdict == Verdict::Clean && report.condemns(number) {
                (night.verdict, night.later) = (Verdict::Suspect, true);
            }
        }
        clock.advance(Duration::from_hours(24));
        evidence.nights += 1;
        if first.is_some() && report.verdict == Some(Found::Suspect) {
            noticed = noticed.or(Some(day));
        }
        if noticed.is_some_and(|at| day >= at + LOOK) {
            break;
        }
    }
    count(kind, seed, &nights, first.zip(noticed), evidence);
    Ok(())
}

fn count(kind: &str, seed: u64, nights: &[Night], noticed: Option<(u64, u64)>, evidence: &mut DwellEvidence) {
    let counts = evidence.counts.entry(kind.to_owned()).or_default();
    counts.sources += 1;
    let best = nights.iter().rposition(|night| !night.spoilt);
    let chosen = |stepping_back: bool| {
        let choice = choose(kind, &candidates(nights, stepping_back), &Wish::default()).ok()?;
        let number = usize::try_from(choice.point.sequence.0).ok()? - 1;
        Some((number, choice))
    };
    let Some((first, at)) = noticed else {
        counts.unnoticed += 1;
        evidence.others.push(format!("{kind} seed {seed}: never noticed in {} nights", nights.len()));
        return;
    };
    counts.nights_until_noticed += at - first;
    let naive = chosen(false);
    counts.poisoned_without_stepping_back +=
        u64::from(naive.is_some_and(|(number, _)| nights[number].spoilt));
    let Some((number, choice)) = chosen(true) else {
        counts.too_old += 1;
        evidence.others.push(format!("{kind} seed {seed}: nothing was left to choose"));
        return;
    };
    let back: Option<&StepBack> = choice.step_back.as_ref();
    counts.found_later += u64::from(back.is_some_and(|back| back.found_later > 0));
    counts.from_vault += u64::from(choice.point.copy == Copy::Vault);
    let told = back.map(|back| (back.first_bad.0, back.lost_s / 3600));
    if nights[number].spoilt {
        counts.poisoned += 1;
        evidence.others.push(format!(
            "{kind} seed {seed}: night {number} was chosen, but night {first} was spoilt first, noticed in night \
             {at} (first bad and hours lost, as told: {told:?})"
        ));
    } else if best.is_some_and(|best| best > number) {
        let nights = best.unwrap_or(number) - number;
        counts.too_old += 1;
        counts.nights_too_old += nights as u64;
        evidence.others.push(format!(
            "{kind} seed {seed}: night {number} was chosen, {nights} nights older than needed (told: {told:?})"
        ));
    } else {
        counts.right += 1;
    }
}
