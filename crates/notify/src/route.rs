//! Which notice goes where, when several become one, and when a failed one is tried again. Pure.

use jiff::{SignedDuration, Timestamp};
use kuramori_model::finding::Severity;

use crate::{Matcher, Notice, Notify, Occasion};

/// A notice for one target: a row of the caller's outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The target's name.
    pub target: String,
    /// The same again is not sent twice.
    pub dedup: String,
    /// What to send.
    pub notice: Notice,
}

/// Sorts the notices of one moment to their targets.
pub fn route(config: &Notify, notices: &[Notice]) -> Vec<Outgoing> {
    let mut outgoing = Vec::new();
    for target in &config.targets {
        let rules: Vec<&Matcher> = config.matchers.iter().filter(|rule| rule.target == target.name).collect();
        let all = config.matchers.is_empty();
        let mut here: Vec<Notice> =
            notices.iter().filter_map(|notice| fitting(notice, &rules, all)).collect();
        let (alarms, others): (Vec<Notice>, Vec<Notice>) = here
            .drain(..)
            .partition(|n| matches!(n.occasion, Occasion::Opened | Occasion::Raised | Occasion::Recovered));
        let alarms = if alarms.len() > config.digest_over.max(1) { vec![digest(alarms)] } else { alarms };
        outgoing.extend(alarms.into_iter().chain(others).map(|notice| Outgoing {
            target: target.name.clone(),
            dedup: format!("{}/{}", target.name, notice.id),
            notice,
        }));
    }
    outgoing
}

/// The part of a notice that this target hears; none if nothing of it.
fn fitting(notice: &Notice, rules: &[&Matcher], all: bool) -> Option<Notice> {
    let of_life = matches!(notice.occasion, Occasion::Daily | Occasion::Test);
    if of_life {
        return (all || rules.iter().any(|rule| rule.daily)).then(|| notice.clone());
    }
    let mut part = notice.clone();
    part.items.retain(|item| {
        let finding = &item.finding;
        let fits = |rule: &&Matcher| {
            finding.severity >= rule.from
                && (rule.codes.is_empty()
                    || rule.codes.iter().any(|code| finding.code.starts_with(code.as_str())))
                && (rule.systems.is_empty()
                    || finding.system.as_ref().is_some_and(|s| rule.systems.contains(s)))
        };
        (all && finding.severity >= Severity::Warning) || rules.iter().any(fits)
    });
    (!part.items.is_empty()).then_some(part)
}

/// One notice for many. Its id is made of theirs, so that the same many give the same one.
fn digest(notices: Vec<Notice>) -> Notice {
    let at = notices.iter().map(|notice| notice.at).max().unwrap_or(Timestamp::UNIX_EPOCH);
    let (first, last) = (notices.first(), notices.last());
    let name = |notice: Option<&Notice>| notice.map_or_else(String::new, |notice| notice.id.clone());
    let id = format!("digest-{}-{}-{}", notices.len(), name(first), name(last));
    let mut items: Vec<_> = notices.into_iter().flat_map(|notice| notice.items).collect();
    items.sort_by_key(|item| (item.closed.is_some(), std::cmp::Reverse(item.finding.severity)));
    Notice {
        id,
        answers: None,
        at,
        occasion: Occasion::Digest,
        items,
        figures: std::collections::BTreeMap::new(),
    }
}

/// When to try again after so many attempts: 1, 2, 4, 8, 16, then every 30 minutes; hourly where the server
/// said no for good, since a person may have put it right.
pub fn next_try(now: Timestamp, attempts: u32, permanent: bool) -> Timestamp {
    let minutes = if permanent { 60 } else { (1_i64 << attempts.saturating_sub(1).min(5)).min(30) };
    now.saturating_add(SignedDuration::from_mins(minutes)).unwrap_or(now)
}
