//! Which copy and which generation: the newest that is known clean, from the nearest copy that has it.
//!
//! A verdict belongs to the restore point's content, which its snapshot's id names; so what the vault found
//! counts for the primary's copy of the same snapshot too, and the worst word of all places wins. A point
//! that nobody inspected is taken only where no clean one exists, and the choice says so. Every newer point
//! that is passed over is named with its reason: people must see what they give up.

use std::collections::BTreeMap;

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

/// Chooses among all points of a system.
///
/// # Errors
/// Nothing fits, or what was named is not trusted and no reason was given.
pub fn choose(system: &str, candidates: &[Candidate], wish: &Wish) -> Result<Choice> {
    let verdicts = verdicts(candidates);
    let verdict = |candidate: &Candidate| {
        verdicts.get(candidate.snapshot.as_str()).copied().unwrap_or(Verdict::Unknown)
    };
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
            passed_over: newer(candidates.iter().filter(fits), point, &verdict, wish, None),
            reason,
        });
    }

    let usable = |candidate: &&Candidate| {
        fits(candidate)
            && !candidate.gone
            && candidate.complete
            && !matches!(verdict(candidate), Verdict::Suspect | Verdict::Corrupt)
            && wish.before.is_none_or(|before| candidate.received < before)
    };
    // Newest by when it was received; the nearest copy where both have it.
    let order = |candidate: &&Candidate| (candidate.received, std::cmp::Reverse(candidate.copy));
    let clean = candidates
        .iter()
        .filter(usable)
        .filter(|candidate| verdict(candidate) == Verdict::Clean)
        .max_by_key(order);
    let (point, first) = match clean {
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
    let mut why = vec![first];
    if wish.before.is_some() {
        why.push(Why::BeforeTime);
    }
    why.push(if nearest.copy == Copy::Primary { Why::PrimaryIsNearest } else { Why::OnlyVault });
    let at_least = clean.is_some().then_some(Verdict::Clean);
    Ok(Choice {
        point: nearest.clone(),
        verdict: verdict(nearest),
        why,
        passed_over: newer(candidates.iter().filter(fits), nearest, &verdict, wish, at_least),
        reason,
    })
}

/// The newer ones, each content once, and why not.
fn newer<'a>(
    candidates: impl Iterator<Item = &'a Candidate>,
    point: &Candidate,
    verdict: &dyn Fn(&Candidate) -> Verdict,
    wish: &Wish,
    at_least: Option<Verdict>,
) -> Vec<PassedOver> {
    let mut newer: Vec<&Candidate> = candidates
        .filter(|candidate| candidate.received > point.received && candidate.snapshot != point.snapshot)
        .collect();
    newer.sort_by_key(|candidate| (std::cmp::Reverse(candidate.received), candidate.copy));
    let mut seen = std::collections::BTreeSet::new();
    newer
        .into_iter()
        .filter(|candidate| seen.insert(candidate.snapshot.as_str()))
        .filter_map(|candidate| {
            let against = match verdict(candidate) {
                Verdict::Suspect => Against::Suspect,
                Verdict::Corrupt => Against::Corrupt,
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
        assert_eq!(over, [(4, Against::NotInspected), (3, Against::Suspect)]);
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
