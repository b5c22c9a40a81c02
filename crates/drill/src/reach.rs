//! What times in the log of a database have in common, whichever database keeps it: the restore points that may be
//! used, the way among them that begins nearest before the wished time, and the log of another point.

use std::path::Path;

use jiff::Timestamp;
use kuramori_judge::retention::Verdict;
use kuramori_model::tree::TreePath;
use kuramori_repo::{
    Cancel, Indexed, Repository, format::blob::BlobKind, progress::Progress, restore::RestoreOptions,
};

use crate::{
    DrillError, Result,
    choose::{Candidate, Choice, Copy, Why, Wish, behind_bad, choose, verdicts},
    plan::{root, snapshot_id, subpath},
    profile::Profile,
};

/// No index is bigger: a name is 27 bytes.
const INDEX_MAX: u64 = 64 << 20;

/// What a time is chosen from.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Of which system.
    pub system: &'a str,
    /// All restore points in all places.
    pub candidates: &'a [Candidate],
    /// Which copy the repository is.
    pub copy: Copy,
    /// What else is wished.
    pub wish: &'a Wish,
    /// To when.
    pub to: Timestamp,
    /// How the system is brought up.
    pub profile: &'a Profile,
}

/// A restore point with the log that brings it forward.
#[derive(Debug)]
pub(crate) struct Way<'a, T> {
    /// What recovery begins with.
    pub(crate) point: &'a Candidate,
    /// The later point whose log is used besides.
    pub(crate) log: Option<&'a Candidate>,
    /// From here on every time can be reached.
    pub(crate) earliest: Timestamp,
    /// Until here.
    pub(crate) latest: Timestamp,
    /// What the database's own recovery needs to know.
    pub(crate) with: T,
}

/// The restore points that keep a log and may be used, with their indexes.
///
/// # Errors
/// None keeps a log, or an index cannot be read.
pub(crate) fn known<'a, T>(
    asked: &Asked<'a>,
    mut index: impl FnMut(&str) -> Result<Option<T>>,
) -> Result<Vec<(&'a Candidate, T)>> {
    let worst = verdicts(asked.candidates);
    let behind = behind_bad(asked.candidates);
    let mut known = Vec::new();
    for candidate in asked.candidates {
        let named = asked.wish.point == Some(candidate.sequence);
        let verdict = worst.get(candidate.snapshot.as_str()).copied().unwrap_or(Verdict::Unknown);
        let trusted = candidate.complete
            && !matches!(verdict, Verdict::Suspect | Verdict::Corrupt)
            && !behind.contains(candidate.snapshot.as_str());
        // A named one that is not trusted is refused by `best`, with its reason.
        if candidate.copy == asked.copy
            && !candidate.gone
            && (trusted || named)
            && let Some(index) = index(&candidate.snapshot)?
        {
            known.push((candidate, index));
        }
    }
    if known.is_empty() {
        return Err(DrillError::NoLog { system: asked.system.to_owned() });
    }
    Ok(known)
}

/// The way that begins nearest before the wished time.
///
/// # Errors
/// The time cannot be reached: with the nearest times that can. The point may not be used.
pub(crate) fn best<'w, 'a, T>(asked: &Asked<'_>, ways: &'w [Way<'a, T>]) -> Result<(Choice, &'w Way<'a, T>)> {
    let fits = |way: &&Way<'_, T>| way.earliest <= asked.to && asked.to <= way.latest;
    // A later log may have gone another way than the time that is meant: the earliest one that reaches it has not.
    let nearest = |way: &&Way<'_, T>| {
        let log = way.log.map(|point| point.sequence);
        (way.earliest, log.is_none(), std::cmp::Reverse((log, way.point.sequence)))
    };
    let Some(way) = ways.iter().filter(fits).max_by_key(nearest) else {
        return Err(DrillError::Moment {
            system: asked.system.to_owned(),
            wanted: asked.to,
            before: ways.iter().map(|way| way.latest).filter(|time| *time < asked.to).max(),
            after: ways.iter().map(|way| way.earliest).filter(|time| *time > asked.to).min(),
        });
    };
    let exact = Wish {
        point: Some(way.point.sequence),
        before: None,
        copy: Some(asked.copy),
        reason: asked.wish.reason.clone(),
    };
    let mut choice = choose(asked.system, asked.candidates, &exact)?;
    if asked.wish.point.is_none() {
        for why in &mut choice.why {
            if *why == Why::AskedFor {
                *why = Why::ForTime;
            }
        }
    }
    Ok((choice, way))
}

/// A list of ours in a restore point's folder.
pub(crate) fn read_list<T: serde::de::DeserializeOwned>(
    repository: &Repository<Indexed>,
    snapshot: &str,
    folder: &str,
    name: &str,
) -> Result<Option<T>> {
    let document = repository.snapshot(snapshot_id(snapshot)?)?;
    let root = root(repository, &document)?.map(|path| path.to_string());
    let Some(path) = subpath(root.as_deref(), Some(&format!("{folder}/{name}")))? else { return Ok(None) };
    let node = match repository.find_node(&document.tree, &path) {
        Ok(node) => node,
        Err(kuramori_repo::Error::Invalid { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let unreadable = |how: String| DrillError::Program { program: name.to_owned(), how };
    if node.size > INDEX_MAX {
        return Err(unreadable("is too big to be one".to_owned()));
    }
    let mut json = Vec::new();
    for blob in node.content.iter().flatten() {
        json.extend(repository.load_blob(BlobKind::Data, blob)?);
    }
    serde_json::from_slice(&json).map(Some).map_err(|error| unreadable(format!("cannot be read: {error}")))
}

/// Brings the log's folder of another restore point beside what is there.
///
/// # Errors
/// It cannot be restored whole.
pub(crate) fn bring(
    repository: &Repository<Indexed>,
    snapshot: &str,
    folder: &str,
    data: &Path,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<()> {
    let snapshot = repository.snapshot(snapshot_id(snapshot)?)?;
    let mut options = RestoreOptions::to(data.join(folder));
    options.subpath = TreePath::new(folder).ok();
    options.overwrite = true;
    let restored = repository.restore(&snapshot, &options, progress, cancel)?;
    match restored.shortfalls.first() {
        None => Ok(()),
        Some(first) => Err(DrillError::Short {
            count: restored.shortfalls.len(),
            staging: data.to_owned(),
            damaged: first.damaged,
        }),
    }
}
