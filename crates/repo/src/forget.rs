//! Which snapshots to keep: restic's `--keep-*` rules, for a repository that stands alone.
//!
//! In a hospital the server and the vault decide by *their* order and clock (`judge::retention`) and name
//! the snapshots to [`Repository::remove_snapshots`]; here the snapshot's own time counts, as in restic.

use std::collections::{BTreeMap, HashSet};

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    Error, Result,
    format::snapshot::Snapshot,
    lock::LockMode,
    repository::Repository,
    store::{FileId, FileKind},
};

/// How many snapshots of each kind stay. A period without a snapshot does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest ones.
    pub last: u32,
    /// The newest of each hour.
    pub hourly: u32,
    /// The newest of each day.
    pub daily: u32,
    /// The newest of each ISO week.
    pub weekly: u32,
    /// The newest of each month.
    pub monthly: u32,
    /// The newest of each year.
    pub yearly: u32,
    /// Those with one of these tags.
    pub tags: Vec<String>,
}

impl Policy {
    /// A policy that keeps nothing would empty the repository; it is refused.
    pub fn is_empty(&self) -> bool {
        self.last + self.hourly + self.daily + self.weekly + self.monthly + self.yearly == 0
            && self.tags.is_empty()
    }
}

/// What a policy means for the snapshots of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The source's host.
    pub hostname: String,
    /// The source's paths.
    pub paths: Vec<String>,
    /// What stays, newest first, with the rules that keep it.
    pub keep: Vec<(FileId, Timestamp, Vec<&'static str>)>,
    /// What goes, newest first.
    pub remove: Vec<(FileId, Timestamp)>,
}

/// Applies the policy to each source (host and paths) by itself. Removes nothing.
///
/// # Errors
/// [`Error::Invalid`] for a policy that keeps nothing.
pub fn plan(snapshots: &[(FileId, Snapshot)], policy: &Policy, zone: &TimeZone) -> Result<Vec<Group>> {
    if policy.is_empty() {
        return Err(Error::Invalid {
            what: "the policy keeps no snapshot at all".to_owned(),
            hint: "say what to keep, for example `--keep-daily 14`".to_owned(),
        });
    }
    let mut groups = BTreeMap::<_, Vec<&(FileId, Snapshot)>>::new();
    for entry in snapshots {
        groups.entry((entry.1.hostname.clone(), entry.1.paths.clone())).or_default().push(entry);
    }
    Ok(groups
        .into_iter()
        .map(|((hostname, paths), members)| group(hostname, paths, members, policy, zone))
        .collect())
}

fn group(
    hostname: String,
    paths: Vec<String>,
    mut members: Vec<&(FileId, Snapshot)>,
    policy: &Policy,
    zone: &TimeZone,
) -> Group {
    members.sort_by_key(|(id, snapshot)| std::cmp::Reverse((snapshot.time, *id)));
    let mut rules = [
        Rule::new("last", policy.last),
        Rule::new("hourly", policy.hourly),
        Rule::new("daily", policy.daily),
        Rule::new("weekly", policy.weekly),
        Rule::new("monthly", policy.monthly),
        Rule::new("yearly", policy.yearly),
    ];
    let mut group = Group { hostname, paths, keep: Vec::new(), remove: Vec::new() };
    for (position, (id, snapshot)) in members.into_iter().enumerate() {
        let time = snapshot.time.to_zoned(zone.clone());
        let date = time.date();
        let week = date.iso_week_date();
        let (year, month, day) = (i64::from(date.year()), i64::from(date.month()), i64::from(date.day()));
        let periods = [
            i64::try_from(position).unwrap_or(i64::MAX),
            ((year * 100 + month) * 100 + day) * 100 + i64::from(time.hour()),
            (year * 100 + month) * 100 + day,
            i64::from(week.year()) * 100 + i64::from(week.week()),
            year * 100 + month,
            year,
        ];
        let mut reasons: Vec<_> =
            rules.iter_mut().zip(periods).filter_map(|(rule, period)| rule.keeps(period)).collect();
        if policy.tags.iter().any(|tag| snapshot.tags.contains(tag)) {
            reasons.push("tag");
        }
        if reasons.is_empty() {
            group.remove.push((*id, snapshot.time));
        } else {
            group.keep.push((*id, snapshot.time, reasons));
        }
    }
    group
}

struct Rule {
    name: &'static str,
    left: u32,
    last: Option<i64>,
}

impl Rule {
    const fn new(name: &'static str, left: u32) -> Self {
        Self { name, left, last: None }
    }

    fn keeps(&mut self, period: i64) -> Option<&'static str> {
        if self.left == 0 || self.last == Some(period) {
            return None;
        }
        self.left -= 1;
        self.last = Some(period);
        Some(self.name)
    }
}

impl<State> Repository<State> {
    /// Removes these snapshots under the exclusive lock. Their data stays until a prune. One that is not
    /// there counts as removed.
    ///
    /// # Errors
    /// [`Error::Locked`] while somebody works in the repository.
    pub fn remove_snapshots(&self, ids: &[FileId], patience: std::time::Duration) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let lock = self.lock(LockMode::Exclusive, patience)?;
        let ids: HashSet<_> = ids.iter().collect();
        for id in ids {
            lock.confirm()?;
            self.store().remove(FileKind::Snapshot, *id)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::blob::BlobId;

    fn snapshot(time: &str, number: u8) -> (FileId, Snapshot) {
        let json =
            format!(r#"{{"time":"{time}","tree":"{}","paths":["/data"],"hostname":"h"}}"#, BlobId::default());
        (FileId([number; 32]), crate::format::snapshot::decode(json.as_bytes()).unwrap())
    }

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        let all = [
            snapshot("2026-01-01T01:00:00Z", 1),
            snapshot("2026-01-01T23:00:00Z", 2),
            snapshot("2026-01-02T01:00:00Z", 3),
            snapshot("2026-02-01T01:00:00Z", 4),
        ];
        let policy = Policy { daily: 2, monthly: 5, ..Policy::default() };
        let groups = plan(&all, &policy, &TimeZone::UTC).unwrap();
        let kept: Vec<_> = groups[0].keep.iter().map(|(id, _, why)| (id.0[0], why.clone())).collect();
        assert_eq!(kept, [(4, vec!["daily", "monthly"]), (3, vec!["daily", "monthly"])]);
        assert_eq!(groups[0].remove.iter().map(|(id, _)| id.0[0]).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn a_policy_that_keeps_nothing_is_refused() {
        assert!(matches!(plan(&[], &Policy::default(), &TimeZone::UTC), Err(Error::Invalid { .. })));
    }
}
