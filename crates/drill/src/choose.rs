//! Which copy and which generation: the newest that is known clean, from the nearest copy that has it.
//!
//! A verdict belongs to the restore point's content, which its snapshot's id names; so what the vault found
//! counts for the primary's copy of the same snapshot too, and the worst word of all places wins. A point
//! that nobody inspected is taken only where no clean one exists, and the choice says so. Every newer point
//! that is passed over is named with its reason: people must see what they give up.
//!
//! **Behind a bad point nothing is trusted but what was inspected and found clean.** Somebody who poisons
//! slowly is found late, and then a later inspection says of earlier points that they are bad, although they
//! were found clean when they came. So the choice steps back before the first bad point by itself, and says
//! which one that is, that the verdict came later, and how many hours of work this costs ([`StepBack`]).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kuramori_judge::retention::Verdict;
use kuramori_model::ids::Sequence;
use serde::{Deserialize, Serialize};

use crate::{DrillError, Result};

/// Whose copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Copy {
    /// The consolidated store; at hand.
    Primary,
    /// The isolated second copy; through a restore window or on its carried disk.
    Vault,
}

/// A restore point in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Where it lies.
    pub copy: Copy,
    /// That receiver's number.
    pub sequence: Sequence,
    /// That receiver's time.
    pub received: Timestamp,
    /// The snapshot's id.
    pub snapshot: String,
    /// Whether everything was read (primary) or is proven whole (vault).
    pub complete: bool,
    /// What inspection found there.
    pub verdict: Verdict,
    /// It was found clean when it came; a later inspection found that it was bad already.
    #[serde(default)]
    pub later: bool,
    /// When a drill last brought it up.
    pub drilled: Option<Timestamp>,
    /// Whether its repository was looked at and does not have it any more.
    #[serde(default)]
    pub gone: bool,
    /// Bytes that it restores to.
    pub bytes: u64,
    /// Files that it restores to.
    pub files: u64,
}

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Exactly this point, by the receiver's number (`copy` tells whose; the primary's by default).
    pub point: Option<Sequence>,
    /// The newest received before this time: the moment of the attack, as far as it is known.
    pub before: Option<Timestamp>,
    /// Only from this copy.
    pub copy: Option<Copy>,
    /// Why an untrusted point is used all the same.
    pub reason: Option<String>,
}

/// Why this point, as stable names; the sentences are the speaker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// A person named it.
    AskedFor,
    /// The newest that an inspection found clean.
    NewestClean,
    /// The newest whole one; none was inspected and found clean.
    NewestNotInspected,
    /// Only points before the given time were looked at.
    BeforeTime,
    /// The primary has it, and is nearest.
    PrimaryIsNearest,
    /// Only the vault has it (or the vault was asked for).
    OnlyVault,
    /// Its base backup is the newest before the wished time, and its log reaches that.
    ForTime,
    /// Untrusted; used for the given reason.
    ForAReason,
}

/// Why a newer point was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// Not everything was read, or not all of it is proven.
    Incomplete,
    /// 汚染の疑い
    Suspect,
    /// Damaged.
    Corrupt,
    /// Not inspected, while an older one is known clean.
    NotInspected,
    /// Received after the given time.
    TooLate,
    /// The catalog knows it, but its repository does not have it any more.
    Gone,
    /// Found clean when it came; a later inspection found that it was poisoned already.
    FoundLater,
    /// Not inspected, and received behind one that is bad.
    BehindBad,
}

/// How far the choice had to go back because newer points are bad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepBack {
    /// The first bad point behind the chosen one: the trouble is in it.
    pub first_bad: Sequence,
    /// Whose number and time that is.
    pub copy: Copy,
    /// When it was received.
    pub first_bad_received: Timestamp,
    /// Bad points behind the chosen one.
    pub bad: u64,
    /// Of these, found clean when they came and bad only by a later inspection.
    pub found_later: u64,
    /// The newest point that there is, whatever its state: what was entered between the chosen one and it is
    /// given up.
    pub newest_received: Timestamp,
    /// Seconds between the two.
    pub lost_s: u64,
}

/// A newer point that was passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// Whose copy.
    pub copy: Copy,
    /// Its number.
    pub sequence: Sequence,
    /// When it was received.
    pub received: Timestamp,
    /// Why it was not taken.
    pub against: Against,
}

/// The choice with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The restore point and the copy to take it from.
    pub point: Candidate,
    /// The worst word of all places on this content.
    pub verdict: Verdict,
    /// Why.
    pub why: Vec<Why>,
    /// Newer ones that were not taken, newest first.
    pub passed_over: Vec<PassedOver>,
    /// How far it went back, if newer points are bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_back: Option<StepBack>,
    /// The reason that a person gave.
    pub reason: Option<String>,
}

/// The worst known word on each snapshot.
pub(crate) fn verdicts(candidates: &[Candidate]) -> BTreeMap<&str, Verdict> {
    let weight = |verdict: Verdict| match verdict {
        Verdict::Unknown => 0,
        Verdict::Clean => 1,
        Verdict::Suspect => 2,
        Verdict::Corrupt => 3,
    };
    let mut worst: BTreeMap<&str, Verdict> = BTreeMap::new();
    for candidate in candidates {
        let slot = worst.entry(&candidate.snapshot).or_insert(candidate.verdict);
        if weight(candidate.verdict) > weight(*slot) {
            *slot = candidate.verdict;
        }
    }
    worst
}

/// When each content was first received, by whichever receiver had it first: a vault receives the same later.
fn first_received(candidates: &[Candidate]) -> BTreeMap<&str, Timestamp> {
    let mut first: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for candidate in candidates {
        let slot = first.entry(&candidate.snapshot).or_insert(candidate.received);
        *slot = candidate.received.min(*slot);
    }
    first
}

/// The snapshots that nobody inspected and that lie behind a bad one in either receiver's order, with no clean
/// one in between: what poisoned that one may be in them.
pub(crate) fn behind_bad(candidates: &[Candidate]) -> BTreeSet<&str> {
    let verdicts = verdicts(candidates);
    let mut behind = BTreeSet::new();
    for copy in [Copy::Primary, Copy::Vault] {
        let mut points: Vec<&Candidate> = candidates.iter().filter(|point| point.copy == copy).collect();
        points.sort_by_key(|point| point.sequence);
        let mut bad = false;
        for point in points {
            match verdicts.get(point.snapshot.as_str()).copied().unwrap_or(Verdict::Unknown) {
                Verdict::Suspect | Verdict::Corrupt => bad = true,
                Verdict::Clean => bad = false,
                Verdict::Unknown if bad => {
                    behind.insert(point.snapshot.as_str());
                }
                Verdict::Unknown => {}
            }
        }
    }
    behind
}

/// What the step back costs; none if no bad point lies behind the chosen one.
fn step_back(candidates: &[Candidate], point: &Candidate) -> Option<StepBack> {
    let verdicts = verdicts(candidates);
    // The primary received everything first: its times say best what was entered when.
    let copy = [Copy::Primary, point.copy]
        .into_iter()
        .find(|copy| candidates.iter().any(|one| one.copy == *copy && one.snapshot == point.snapshot))?;
    let own = candidates.iter().find(|one| one.copy == copy && one.snapshot == point.snapshot)?;
    let mut behind: Vec<&Candidate> =
        candidates.iter().filter(|one| one.copy == copy && one.sequence > own.sequence).collect();
    behind.sort_by_key(|one| one.sequence);
    let later: BTreeSet<&str> =
        candidates.iter().filter(|one| one.later).map(|one| one.snapshot.as_str()).collect();
    let bad: Vec<&&Candidate> = behind
        .iter()
        .filter(|one| {
            matches!(verdicts.get(one.snapshot.as_str()), Some(Verdict::Suspect | Verdict::Corrupt))
        })
        .collect();
    let (first, newest) = (bad.first()?, behind.iter().map(|one| one.received).max()?);
    let lost = newest.duration_since(own.received).as_secs();
    Some(StepBack {
        first_bad: first.sequence,
        copy,
        first_bad_received: first.received,
        bad: bad.len() as u64,
        found_later: bad.iter().filter(|one| later.contains(one.snapshot.as_str())).count() as u64,
        newest_received: newest,
        lost_s: u64::try_from(lost).unwrap_or(0),
    })
}

/// Chooses among all points of a system.
///
/// # Errors
/// Nothing fits, or what was named is not trusted and no reason was given.
pub fn choose(system: &str, candidates: &[Candidate], wish: &Wish) -> Result<Choice> {
    let verdicts = verdicts(candidates);
    let verdict = |candidate: &Candidate| {
        verdicts.get(candidate.snapshot.as_str()).copied().unwrap_or(Verdict::Unknown)
    };
    let behind = behind_bad(candidates);
    let reason = wish.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty()).map(str::to_owned);
    let fits = |candidate: &&Candidate| wish.copy.is_none_or(|copy| copy == candidate.copy);
    let none = |why: &str| DrillError::NoPoint { system: system.to_owned(), why: why.to_owned() };

    if let Some(sequence) = wish.point {
        let copy = wish.copy.unwrap_or(Copy::Primary);
        let point = candidates
            .iter()
            .find(|candidate| candidate.copy == copy && candidate.sequence == sequence && !candidate.gone)
            .ok_or_else(|| none(&format!("{sequence} is not there")))?;
        let found = verdict(point);
        let state = match found {
            Verdict::Unknown if behind.contains(point.snapshot.as_str()) => Some("behind a bad one"),
            Verdict::Suspect => Some("suspect"),
            Verdict::Corrupt => Some("corrupt"),
            _ if !point.complete => Some("incomplete"),
            _ => None,
        };
        let mut why = vec![Why::AskedFor];
        match (state, &reason) {
            (Some(state), None) => {
                return Err(DrillError::NeedsReason { sequence: sequence.0, state });
            }
            (Some(_), Some(_)) => why.push(Why::ForAReason),
            (None, _) => {}
        }
        why.push(if copy == Copy::Primary { Why::PrimaryIsNearest } else { Why::OnlyVault });
        return Ok(Choice {
            point: point.clone(),
            verdict: found,
            why,
            passed_over: newer(candidates, &behind, point, &verdict, wish, None),
            step_back: step_back(candidates, point),
            reason,
        });
    }

    let usable = |candidate: &&Candidate| {
        fits(candidate)
            && !candidate.gone
            && candidate.complete
            && !matches!(verdict(candidate), Verdict::Suspect | Verdict::Corrupt)
            && !behind.contains(candidate.snapshot.as_str())
            && wish.before.is_none_or(|before| candidate.received < before)
    };
    // Newest by when it was first received; the nearest copy where both have it.
    let first = first_received(candidates);
    let order = |candidate: &&Candidate| {
        (first.get(candidate.snapshot.as_str()).copied(), std::cmp::Reverse(candidate.copy))
    };
    let clean = candidates
        .iter()
        .filter(usable)
        .filter(|candidate| verdict(candidate) == Verdict::Clean)
        .max_by_key(order);
    let (point, reason_first) = match clean {
        Some(clean) => (clean, Why::NewestClean),
        None => (
            candidates
                .iter()
                .filter(usable)
                .max_by_key(order)
                .ok_or_else(|| none("none is whole, unsuspected and old enough"))?,
            Why::NewestNotInspected,
        ),
    };
    // The vault's time of the same content is later than the primary's: it was received twice.
    let nearest = candidates
        .iter()
        .filter(usable)
        .filter(|candidate| candidate.snapshot == point.snapshot)
        .min_by_key(|candidate| candidate.copy)
        .unwrap_or(point);
    let mut why = vec![reason_first];
    if wish.before.is_some() {
        why.push(Why::BeforeTime);
    }
    why.push(if nearest.copy == Copy::Primary { Why::PrimaryIsNearest } else { Why::OnlyVault });
    let at_least = clean.is_some().then_some(Verdict::Clean);
    Ok(Choice {
        point: nearest.clone(),
        verdict: verdict(nearest),
        why,
        passed_over: newer(candidates, &behind, nearest, &verdict, wish, at_least),
        step_back: step_back(candidates, nearest),
        reason,
    })
}

/// The newer ones, each content once, and why not.
fn newer(
    candidates: &[Candidate],
    behind: &BTreeSet<&str>,
    point: &Candidate,
    verdict: &dyn Fn(&Candidate) -> Verdict,
    wish: &Wish,
    at_least: Option<Verdict>,
) -> Vec<PassedOver> {
    let later: BTreeSet<&str> =
        candidates.iter().filter(|one| one.later).map(|one| one.snapshot.as_str()).collect();
    let first = first_received(candidates);
    let first = |candidate: &Candidate| first.get(candidate.snapshot.as_str()).copied();
    let mut newer: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| wish.copy.is_none_or(|copy| copy == candidate.copy))
        .filter(|candidate| first(candidate) > first(point) && candidate.snapshot != point.snapshot)
        .collect();
    newer.sort_by_key(|candidate| (std::cmp::Reverse(candidate.received), candidate.copy));
    let mut seen = std::collections::BTreeSet::new();
    newer
        .into_iter()
        .filter(|candidate| seen.insert(candidate.snapshot.as_str()))
        .filter_map(|candidate| {
            let against = match verdict(candidate) {
                Verdict::Suspect if later.contains(candidate.snapshot.as_str()) => Against::FoundLater,
                Verdict::Suspect => Against::Suspect,
                Verdict::Corrupt => Against::Corrupt,
                _ if behind.contains(candidate.snapshot.as_str()) => Against::BehindBad,
                _ if candidate.gone => Against::Gone,
                _ if !candidate.complete => Against::Incomplete,
                _ if wish.before.is_some_and(|before| candidate.received >= before) => Against::TooLate,
                Verdict::Unknown if at_least == Some(Verdict::Clean) => Against::NotInspected,
                // A person named an older one.
                _ => return None,
            };
            Some(PassedOver {
                copy: candidate.copy,
                sequence: candidate.sequence,
                received: candidate.received,
                against,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(minute * 60).unwrap()
    }

    fn point(copy: Copy, sequence: u64, minute: i64, snapshot: &str, verdict: Verdict) -> Candidate {
        Candidate {
            copy,
            sequence: Sequence(sequence),
            received: at(minute),
            snapshot: snapshot.to_owned(),
            complete: true,
            verdict,
            later: false,
            drilled: None,
            gone: false,
            bytes: 1,
            files: 1,
        }
    }

    #[test]
    fn the_newest_clean_point_is_taken_from_the_primary_although_only_the_vault_inspected_it() {
        use Verdict::{Clean, Suspect, Unknown};
        let mut all = vec![
            point(Copy::Primary, 1, 10, "a", Unknown),
            point(Copy::Vault, 1, 40, "a", Clean),
            point(Copy::Primary, 2, 20, "b", Unknown),
            point(Copy::Vault, 2, 41, "b", Clean),
            point(Copy::Primary, 3, 30, "c", Unknown),
            point(Copy::Vault, 3, 42, "c", Suspect),
            point(Copy::Primary, 4, 50, "d", Unknown),
        ];
        let choice = choose("billing", &all, &Wish::default()).unwrap();
        assert_eq!((choice.point.copy, choice.point.sequence), (Copy::Primary, Sequence(2)));
        assert_eq!(choice.verdict, Clean);
        assert_eq!(choice.why, [Why::NewestClean, Why::PrimaryIsNearest]);
        let over: Vec<_> = choice.passed_over.iter().map(|p| (p.sequence.0, p.against)).collect();
        assert_eq!(over, [(4, Against::BehindBad), (3, Against::Suspect)]);
        // The primary is destroyed: the vault's copy of the same content.
        all.retain(|candidate| candidate.copy == Copy::Vault);
        let choice = choose("billing", &all, &Wish::default()).unwrap();
        assert_eq!((choice.point.copy, choice.point.sequence), (Copy::Vault, Sequence(2)));
        assert_eq!(choice.why, [Why::NewestClean, Why::OnlyVault]);
    }

    #[test]
    fn without_any_inspection_the_newest_whole_one_is_taken_and_said_to_be_uninspected() {
        let mut all: Vec<_> = (1..4)
            .map(|n| point(Copy::Primary, n, i64::try_from(n).unwrap(), &n.to_string(), Verdict::Unknown))
            .collect();
        all[2].complete = false;
        let choice = choose("billing", &all, &Wish::default()).unwrap();
        assert_eq!(choice.point.sequence, Sequence(2));
        assert_eq!(choice.why[0], Why::NewestNotInspected);
        assert_eq!(choice.passed_over[0].against, Against::Incomplete);
        let wish = Wish { before: Some(at(2)), ..Wish::default() };
        let choice = choose("billing", &all, &wish).unwrap();
        assert_eq!(choice.point.sequence, Sequence(1));
        assert_eq!(choice.passed_over[1].against, Against::TooLate);
    }

    #[test]
    fn the_choice_steps_back_before_the_first_bad_point_also_where_it_was_found_later() {
        use Verdict::{Clean, Suspect, Unknown};
        // One point an hour. The vault took every second one; 4 to 8 were found clean until 10 was inspected.
        let mut all: Vec<Candidate> = (1..=12)
            .map(|n| point(Copy::Primary, n, 60 * i64::try_from(n).unwrap(), &n.to_string(), Unknown))
            .collect();
        for (number, snapshot) in (1_u64..).zip(["2", "4", "6", "8", "10"]) {
            let mut at = point(Copy::Vault, number, 2000 + i64::try_from(number).unwrap(), snapshot, Clean);
            (at.verdict, at.later) = match snapshot {
                "2" => (Clean, false),
                "10" => (Suspect, false),
                _ => (Suspect, true),
            };
            all.push(at);
        }
        let choice = choose("billing", &all, &Wish::default()).unwrap();
        assert_eq!((choice.point.copy, choice.point.sequence), (Copy::Primary, Sequence(2)));
        let back = choice.step_back.clone().unwrap();
        assert_eq!(
            (back.copy, back.first_bad, back.first_bad_received),
            (Copy::Primary, Sequence(4), at(240))
        );
        assert_eq!((back.bad, back.found_later, back.lost_s), (4, 3, 10 * 3600));
        let against = |sequence: u64| {
            let over = choice
                .passed_over
                .iter()
                .find(|over| over.sequence == Sequence(sequence) && over.copy == Copy::Primary);
            over.map(|over| over.against)
        };
        let vault: Vec<_> = choice.passed_over.iter().filter(|over| over.copy == Copy::Vault).collect();
        assert!(vault.iter().any(|over| over.against == Against::FoundLater), "{vault:?}");
        assert_eq!((against(11), against(3)), (Some(Against::BehindBad), Some(Against::NotInspected)));

        // Without any clean one: the last before the first bad one, never one behind it.
        for one in &mut all {
            if one.verdict == Clean {
                one.verdict = Unknown;
            }
        }
        let choice = choose("billing", &all, &Wish::default()).unwrap();
        assert_eq!((choice.point.sequence, choice.why[0]), (Sequence(3), Why::NewestNotInspected));
        assert_eq!(choice.step_back.unwrap().lost_s, 9 * 3600);
        let wish = Wish { point: Some(Sequence(11)), ..Wish::default() };
        let refused = choose("billing", &all, &wish).unwrap_err();
        assert!(matches!(refused, DrillError::NeedsReason { sequence: 11, .. }), "{refused}");
        let wish = Wish { reason: Some("only this one has the orders".to_owned()), ..wish };
        assert!(choose("billing", &all, &wish).unwrap().why.contains(&Why::ForAReason));

        // The primary's old generations are deleted: the vault's copy of the same content.
        for one in all.iter_mut().filter(|one| one.copy == Copy::Primary && one.sequence.0 < 9) {
            one.gone = true;
        }
        all.iter_mut().find(|one| one.copy == Copy::Vault).unwrap().verdict = Clean;
        let choice = choose("billing", &all, &Wish::default()).unwrap();
        assert_eq!((choice.point.copy, choice.point.snapshot.as_str()), (Copy::Vault, "2"));
        assert_eq!(choice.step_back.unwrap().lost_s, 10 * 3600, "by the primary's times");
    }

    #[test]
    fn what_was_found_clean_behind_a_bad_point_is_trusted_again() {
        use Verdict::{Clean, Suspect, Unknown};
        let all: Vec<Candidate> = [Clean, Suspect, Clean, Unknown]
            .into_iter()
            .zip(1..)
            .map(|(verdict, n)| {
                let minute = i64::try_from(n).unwrap();
                point(Copy::Primary, n, minute, &n.to_string(), verdict)
            })
            .collect();
        let choice = choose("billing", &all, &Wish::default()).unwrap();
        assert_eq!((choice.point.sequence, choice.step_back), (Sequence(3), None));
        let wish = Wish { point: Some(Sequence(4)), ..Wish::default() };
        assert!(choose("billing", &all, &wish).is_ok());
    }

    #[test]
    fn an_untrusted_point_needs_a_reason() {
        let all = vec![
            point(Copy::Primary, 1, 1, "a", Verdict::Clean),
            point(Copy::Primary, 2, 2, "b", Verdict::Suspect),
        ];
        let mut wish = Wish { point: Some(Sequence(2)), ..Wish::default() };
        let refused = choose("billing", &all, &wish).unwrap_err();
        assert!(matches!(refused, DrillError::NeedsReason { state: "suspect", .. }), "{refused}");
        wish.reason = Some("  ".to_owned());
        assert!(choose("billing", &all, &wish).is_err(), "an empty reason is none");
        wish.reason = Some("the only copy of the orders of the 21st".to_owned());
        let choice = choose("billing", &all, &wish).unwrap();
        assert!(choice.why.contains(&Why::ForAReason));
        wish.point = Some(Sequence(9));
        assert!(matches!(choose("billing", &all, &wish), Err(DrillError::NoPoint { .. })));
        let only = &all[1..];
        assert!(
            choose("billing", only, &Wish::default()).is_err(),
            "a suspect point is never taken by itself"
        );
    }
}
