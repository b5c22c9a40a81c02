//! Which restore points go back, why these, and how long that takes: shown before anything is asked of anybody.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    str::FromStr,
};

use jiff::{ToSpan, civil::Date, tz::TimeZone};
use kuramori_judge::retention::Verdict;
use kuramori_model::approval::{Action, Budget};
use kuramori_repo::{
    Indexed, Repository,
    format::{
        blob::{BlobId, BlobKind},
        index::IndexedPack,
        node::NodeKind,
    },
    store::{FileId, FileKind, LocalStore, Store},
};
use serde::{Deserialize, Serialize};

use crate::{
    approval::Wanted,
    config::Peer,
    error::{Error, Result},
    register::{Point, PointState},
    vault::Vault,
};

/// What is counted for opening, closing and each system's own handshakes, in seconds.
const OVERHEAD_S: u64 = 20;
/// Bytes a second that are expected before any window has been measured.
const RATE: u64 = 50_000_000;
/// A restore window is never asked for longer than this.
const LONGEST_S: u64 = 6 * 3600;

/// Which point of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Which {
    /// The newest that was not found to be poisoned.
    #[default]
    LatestClean,
    /// The one with this number of the vault.
    Number(u64),
    /// The newest that had come by the end of this day (the vault's own, local).
    Day(Date),
    /// Every complete one.
    All,
}

impl FromStr for Which {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "latest-clean" | "latest" => Ok(Self::LatestClean),
            "all" => Ok(Self::All),
            _ => {
                if let Ok(number) = text.parse() {
                    return Ok(Self::Number(number));
                }
                text.parse().map(Self::Day).map_err(|_| {
                    Error::Invalid(format!(
                        "`{text}` is no restore point; give `latest-clean`, a number, a day such as 2026-04-01, or `all`"
                    ))
                })
            }
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LatestClean => f.write_str("latest-clean"),
            Self::Number(number) => number.fmt(f),
            Self::Day(day) => day.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

impl TryFrom<String> for Which {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Which> for String {
    fn from(which: Which) -> Self {
        which.to_string()
    }
}

/// What goes back, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// To which receiver of the configuration.
    pub receiver: String,
    /// Its address.
    pub address: String,
    /// SHA-256 of the certificate that was pinned for it.
    pub certificate: String,
    /// What goes, in restore order.
    pub systems: Vec<Chosen>,
    /// All bytes.
    pub bytes: u64,
    /// Seconds that sending should take, by what earlier windows managed.
    pub expected_s: u64,
    /// Seconds that are asked for.
    pub max_seconds: u32,
    /// Why points that are suspect or damaged go too.
    pub reason: Option<String>,
    /// Bytes that are asked for: what is sent, and a sixteenth for TLS and repeats.
    pub max_bytes: u64,
}

/// What goes back of one system.
#[derive(Debug, Clone, Serialize)]
pub struct Chosen {
    /// Whose.
    pub repository: String,
    /// The points, oldest first.
    pub points: Vec<Point>,
    /// Why these.
    pub why: Why,
    /// Newer points that are left out, because they were found suspect or corrupt.
    pub left_out: u32,
    /// Packs that they need, and no others.
    pub packs: u64,
    /// Their bytes, with keys and lists.
    pub bytes: u64,
    #[serde(skip)]
    pub(crate) index: Vec<IndexedPack>,
    #[serde(skip)]
    pub(crate) sizes: HashMap<FileId, u64>,
}

/// Why a point was chosen; the sentence is the reader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Inspected and clean, and the newest of these.
    NewestClean,
    /// Nothing here was inspected; it is the newest complete one.
    NewestNotInspected,
    /// Somebody named it.
    Named,
    /// The newest by that day.
    NewestOfDay,
    /// Everything was asked for.
    Everything,
}

impl Plan {
    /// What the officers approve: the receiver with its certificate, the very points, the window's seconds.
    pub fn wanted(&self) -> Wanted {
        let mut params = BTreeMap::from([
            ("address".to_owned(), self.address.clone()),
            ("certificate".to_owned(), self.certificate.clone()),
        ]);
        for chosen in &self.systems {
            let ids: Vec<String> = chosen.points.iter().map(|point| point.snapshot.to_string()).collect();
            params.insert(format!("points.{}", chosen.repository), ids.join(","));
        }
        if let Some(reason) = &self.reason {
            params.insert("reason".to_owned(), reason.clone());
        }
        Wanted {
            action: Action::Restore,
            target: self.receiver.clone(),
            params,
            window: Some(Budget { seconds: self.max_seconds, bytes: self.max_bytes }),
        }
    }
}

impl Vault {
    pub(crate) fn receiver(&self, name: &str) -> Result<&Peer> {
        self.config
            .receivers
            .get(name)
            .ok_or_else(|| Error::Invalid(format!("no receiver `{name}` is configured at the vault")))
    }

    /// Every repository with a complete point, in restore order.
    fn restorable(&self) -> Result<Vec<String>> {
        let points = self.register.points(None)?;
        let complete = points.into_iter().filter(|point| point.state == PointState::Complete);
        let names: std::collections::BTreeSet<String> = complete.map(|point| point.repository).collect();
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort_by_key(|name| {
            let place = self.config.order.iter().position(|known| known == name);
            (name != kuramori_model::ids::CONTROL_REPOSITORY, place.unwrap_or(usize::MAX))
        });
        Ok(names)
    }

    /// Plans a restore; nothing is opened or asked.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a receiver or a point that is not there, [`Error::UnknownRepository`].
    pub fn plan_restore(
        &self,
        receiver: &str,
        systems: &[String],
        which: Which,
        max_seconds: Option<u32>,
        reason: Option<String>,
    ) -> Result<Plan> {
        let reason = reason.map(|reason| reason.trim().to_owned()).filter(|reason| !reason.is_empty());
        let names = if systems.is_empty() { self.restorable()? } else { systems.to_vec() };
        let mut chosen = Vec::new();
        for name in names {
            let (points, why, left_out) = self.choose(&name, which, reason.is_some())?;
            chosen.push((name, points, why, left_out));
        }
        self.plan_of(receiver, chosen, max_seconds, reason)
    }

    /// The plan that a request names, point by point.
    pub(crate) fn plan_of_request(&self, request: u64) -> Result<Plan> {
        let asked = self.asked(request, Action::Restore)?;
        let mut chosen = Vec::new();
        for (key, ids) in &asked.params {
            let Some(name) = key.strip_prefix("points.") else { continue };
            let here = self.register.points(Some(name))?;
            let mut points = Vec::new();
            for id in ids.split(',') {
                let point = here
                    .iter()
                    .find(|point| point.snapshot.to_string() == id && point.state == PointState::Complete);
                points.push(point.cloned().ok_or_else(|| {
                    Error::Invalid(format!(
                        "the point {id} of `{name}` is not complete at the vault any more"
                    ))
                })?);
            }
            chosen.push((name.to_owned(), points, Why::Named, 0));
        }
        let order = self.restorable()?;
        chosen.sort_by_key(|(name, ..)| order.iter().position(|known| known == name));
        let mut plan = self.plan_of(
            &asked.target,
            chosen,
            asked.window.map(|window| window.seconds),
            asked.params.get("reason").cloned(),
        )?;
        // The very bytes may lie in other packs by now; what was approved is the limit.
        let approved = asked.window.map_or(0, |window| window.bytes);
        if plan.bytes > approved {
            return Err(kuramori_model::approval::Refusal::Changed(request).into());
        }
        plan.max_bytes = approved;
        Ok(plan)
    }

    fn choose(&self, name: &str, which: Which, stated: bool) -> Result<(Vec<Point>, Why, u32)> {
        if !self.register.repositories()?.iter().any(|row| row.name == name) {
            return Err(Error::UnknownRepository(name.to_owned()));
        }
        let mut points = self.register.points(Some(name))?;
        points.retain(|point| point.state == PointState::Complete);
        let none = |what: &str| {
            Error::Invalid(format!("`{name}` has no complete restore point {what} at the vault"))
        };
        let bad = |point: &Point| matches!(point.verdict, Verdict::Suspect | Verdict::Corrupt);
        let suspect = || {
            Error::Preflight(format!(
                "the restore points of `{name}` are suspect or damaged; state a reason to send them"
            ))
        };
        match which {
            Which::All if points.is_empty() => Err(none("")),
            Which::All => {
                let all = points.len();
                points.retain(|point| stated || !bad(point));
                if points.is_empty() {
                    return Err(suspect());
                }
                let left_out = u32::try_from(all - points.len()).unwrap_or(u32::MAX);
                Ok((points, Why::Everything, left_out))
            }
            Which::Number(number) => {
                let point = points.into_iter().find(|point| point.sequence.0 == number);
                let point = point.ok_or_else(|| none(&format!("with number {number}")))?;
                if bad(&point) && !stated { Err(suspect()) } else { Ok((vec![point], Why::Named, 0)) }
            }
            Which::Day(day) => {
                let end = day.checked_add(1.day()).and_then(|next| next.to_zoned(TimeZone::system()));
                let end = end.map_err(|error| Error::Invalid(error.to_string()))?.timestamp();
                let (point, left_out) = newest(&points, |point| point.received < end && !bad(point));
                Ok((vec![point.ok_or_else(|| none(&format!("by {day}")))?], Why::NewestOfDay, left_out))
            }
            Which::LatestClean => {
                let (clean, left_out) = newest(&points, |point| point.verdict == Verdict::Clean);
                if let Some(clean) = clean {
                    return Ok((vec![clean], Why::NewestClean, left_out));
                }
                // Nobody found any clean: what came after the first bad one is not trusted either.
                let first_bad = points.iter().find(|point| bad(point)).map(|point| point.sequence);
                let before = |point: &Point| first_bad.is_none_or(|first| point.sequence < first);
                let (point, left_out) = newest(&points, before);
                Ok((
                    vec![point.ok_or_else(|| none("that is not suspect"))?],
                    Why::NewestNotInspected,
                    left_out,
                ))
            }
        }
    }

    fn plan_of(
        &self,
        receiver: &str,
        chosen: Vec<(String, Vec<Point>, Why, u32)>,
        max_seconds: Option<u32>,
        reason: Option<String>,
    ) -> Result<Plan> {
        let peer = self.receiver(receiver)?;
        if chosen.is_empty() {
            return Err(Error::Invalid("the vault has no complete restore point".to_owned()));
        }
        let ca = fs_err::read(&peer.ca_file)
            .map_err(|error| Error::Config { file: peer.ca_file.clone(), what: error.to_string() })?;
        let mut systems = Vec::new();
        for (repository, points, why, left_out) in chosen {
            systems.push(self.closure(repository, points, why, left_out)?);
        }
        let bytes = systems.iter().map(|one| one.bytes).sum::<u64>();
        let expected_s = bytes / self.rate()? + OVERHEAD_S;
        // Twice what is expected, and a minute: a second approval in the middle of a restore helps nobody.
        let asked = max_seconds.map_or((expected_s * 2 + 60).min(LONGEST_S), u64::from);
        Ok(Plan {
            receiver: receiver.to_owned(),
            address: peer.address.to_string(),
            certificate: FileId::of(&ca).to_string(),
            systems,
            bytes,
            reason,
            max_bytes: bytes + bytes / 16 + (16 << 20),
            expected_s,
            max_seconds: u32::try_from(asked).unwrap_or(u32::MAX),
        })
    }

    /// Bytes a second of the newest window that moved enough to tell.
    fn rate(&self) -> Result<u64> {
        let windows = self.register.windows(30)?;
        let measured = windows.iter().filter(|row| row.bytes > 16 << 20).find_map(|row| {
            let seconds = row.seconds.filter(|seconds| *seconds > 0.5)?;
            std::time::Duration::try_from_secs_f64(seconds).ok().map(|time| {
                row.bytes.saturating_mul(1000) / u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
            })
        });
        Ok(measured.unwrap_or(RATE).max(1_000_000))
    }

    /// Exactly what these points need: every blob below their roots, from the first proven pack that holds it.
    fn closure(&self, name: String, points: Vec<Point>, why: Why, left_out: u32) -> Result<Chosen> {
        let failed = || Error::repository(&name);
        let indexed = crate::proof::open(&self.folder, &self.config, &name)?.index().map_err(failed())?;
        let wanted = packs_of(&indexed, points.iter().map(|point| point.tree)).map_err(failed())?;
        let mut index: HashMap<FileId, Vec<_>> = wanted.iter().map(|id| (*id, Vec::new())).collect();
        indexed.with_index(|all| {
            for place in all.entries(BlobKind::Data).chain(all.entries(BlobKind::Tree)) {
                if let Some(blobs) = index.get_mut(&place.pack) {
                    blobs.push(place.blob);
                }
            }
        });
        let mut index: Vec<IndexedPack> = index
            .into_iter()
            .map(|(id, mut blobs)| {
                blobs.sort_unstable_by_key(|blob| blob.offset);
                IndexedPack { id, blobs }
            })
            .collect();
        index.sort_unstable_by_key(|pack| pack.id);
        let store = LocalStore::new(self.folder.repository(&name));
        let mut sizes = HashMap::new();
        for id in wanted {
            sizes.insert(id, store.size(FileKind::Pack, id).map_err(failed())?);
        }
        let small: u64 =
            4096 * (points.len() as u64 + 4) + index.iter().map(|p| p.blobs.len() as u64 * 60).sum::<u64>();
        let bytes = sizes.values().sum::<u64>() + small;
        Ok(Chosen { packs: index.len() as u64, repository: name, points, why, left_out, bytes, index, sizes })
    }
}

/// The newest that fits, and how many newer ones do not.
fn newest(points: &[Point], fits: impl Fn(&Point) -> bool) -> (Option<Point>, u32) {
    let left_out = points.iter().rev().take_while(|point| !fits(point)).count();
    (points.iter().rev().find(|point| fits(point)).cloned(), u32::try_from(left_out).unwrap_or(u32::MAX))
}

/// The packs that hold everything below these roots.
fn packs_of(
    indexed: &Repository<Indexed>,
    roots: impl Iterator<Item = BlobId>,
) -> kuramori_repo::Result<HashSet<FileId>> {
    let mut packs: HashSet<FileId> = HashSet::new();
    let mut seen: HashSet<BlobId> = HashSet::new();
    let mut open: Vec<BlobId> = roots.collect();
    let mut need = |kind, id: &BlobId| -> kuramori_repo::Result<()> {
        let places = indexed.with_index(|index| index.locations(kind, id));
        // One that goes already is as good as any.
        let place = places.iter().find(|place| packs.contains(&place.pack)).or_else(|| places.first());
        let Some(place) = place else {
            return Err(kuramori_repo::Error::Missing { file: format!("{kind} blob {id}") });
        };
        packs.insert(place.pack);
        Ok(())
    };
    while let Some(tree) = open.pop() {
        if !seen.insert(tree) {
            continue;
        }
        need(BlobKind::Tree, &tree)?;
        for node in indexed.load_tree(&tree)?.nodes {
            for id in node.content.iter().flatten() {
                need(BlobKind::Data, id)?;
            }
            if let (NodeKind::Dir, Some(subtree)) = (node.kind, node.subtree) {
                open.push(subtree);
            }
        }
    }
    Ok(packs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_by_number_day_or_word() {
        for text in ["latest-clean", "41", "2026-04-01", "all"] {
            assert_eq!(text.parse::<Which>().unwrap().to_string(), text);
        }
        assert!("yesterday".parse::<Which>().is_err());
        assert_eq!(serde_json::to_string(&Which::Number(7)).unwrap(), "\"7\"");
    }
}
