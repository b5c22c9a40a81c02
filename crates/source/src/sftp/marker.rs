//! Decides whether tonight's dump is whole: the same rule as for a share (see [`crate::smb`]), on a server
//! whose times have whole seconds.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use jiff::SignedDuration;
use kuramori_model::tree::FileTime;

use super::{
    fetch::Flight,
    link::{Link, Slip, Trouble},
    walk::{Filter, join, list},
    wire::{Listed, Look},
};
use crate::{
    Error, Phase, Progress,
    config::MarkerConfig,
    report::MarkerSeen,
    smb::{later, named, names::fits, timestamp},
};

/// A marker that vouches, and how to know it again.
#[derive(Debug, Clone)]
pub(super) struct Vouched {
    pub(super) seen: MarkerSeen,
    /// No file of the dump may be newer than this.
    pub(super) limit: FileTime,
    look: Look,
}

/// All files at one glance.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) items: u64,
    pub(super) bytes: u64,
    newest: Option<(u32, String)>,
    looks: HashMap<u64, u64>,
    sizes: Option<HashMap<String, Vec<u64>>>,
}

/// Waits for a marker that vouches for the dump.
pub(super) fn await_vouched(
    link: &mut Link,
    root: &[u8],
    filter: &Filter<'_>,
    config: &MarkerConfig,
) -> Result<(Vouched, Survey), Error> {
    let clock = link.control().clock.clone();
    let deadline = clock.boot() + config.wait.0;
    loop {
        let reason = match look(link, root, filter, config)? {
            Ok(found) => return Ok(found),
            Err(reason) => reason,
        };
        let left = deadline.saturating_sub(clock.boot());
        if left.is_zero() {
            return Err(reason);
        }
        tracing::info!(%reason, "the dump is not ready yet");
        (link.control().progress)(&Progress {
            phase: Phase::Waiting,
            items: 0,
            bytes: 0,
            total: None,
            path: &config.pattern,
        });
        sleep(link, config.poll.0.min(left).max(Duration::from_millis(10)), &config.pattern)?;
    }
}

/// Sleeps on purpose; ends early when the run is cancelled.
fn sleep(link: &Link, time: Duration, what: &str) -> Result<(), Error> {
    let control = link.control();
    let until = control.clock.boot() + time;
    loop {
        if control.cancel.is_cancelled() {
            return Err(Error::Cancelled(what.to_owned()));
        }
        let left = until.saturating_sub(control.clock.boot());
        if left.is_zero() {
            return Ok(());
        }
        control.clock.sleep(left.min(Duration::from_millis(200)));
    }
}

/// Whether the marker is still the one that vouched.
pub(super) fn still_vouched(
    link: &mut Link,
    root: &[u8],
    config: &MarkerConfig,
    vouched: &Vouched,
) -> Result<(), Error> {
    match newest(link, root, config)? {
        Some(listed) if shown(&listed.name) == vouched.seen.name && listed.look.same(&vouched.look) => Ok(()),
        Some(listed) => Err(Error::DumpChanged(format!(
            "the marker `{}` was replaced by `{}` of {}",
            vouched.seen.name,
            shown(&listed.name),
            timestamp(Look::time(listed.look.written))
        ))),
        None => Err(Error::DumpChanged(format!("the marker `{}` was removed", vouched.seen.name))),
    }
}

/// One judgement; the inner error is a reason to wait.
fn look(
    link: &mut Link,
    root: &[u8],
    filter: &Filter<'_>,
    config: &MarkerConfig,
) -> Result<Result<(Vouched, Survey), Error>, Error> {
    let Some(marker) = newest(link, root, config)? else {
        return Ok(Err(Error::MarkerMissing {
            pattern: config.pattern.clone(),
            folder: shown(&folder(root, config)),
            waited: config.wait.0.as_secs(),
        }));
    };
    let name = shown(&marker.name);
    let time = timestamp(Look::time(marker.look.written));
    let old = |why: String| Ok(Err(Error::MarkerOld { name: name.clone(), time, why }));
    if let Some(previous) = &link.control().previous
        && time <= previous.time
    {
        return old(format!(
            "and the last restore point was already made with `{}` of {}",
            previous.name, previous.time
        ));
    }
    let age = link.control().clock.now().duration_since(time);
    if age > SignedDuration::try_from(config.max_age.0).unwrap_or(SignedDuration::MAX) {
        return old(format!("{} min ago, where at most {} are allowed", age.as_mins(), config.max_age));
    }
    let early =
        |file: String, why: &str| Error::MarkerEarly { name: name.clone(), file, why: why.to_owned() };
    let limit = later(Look::time(marker.look.written), config.slack.0);
    let first = survey(link, root, filter, config.names_files)?;
    if let Some((written, file)) = &first.newest
        && Look::time(*written) > limit
    {
        let why = format!("was written at {}, after it", timestamp(Look::time(*written)));
        return Ok(Err(early(file.clone(), &why)));
    }
    if !config.settle.0.is_zero() {
        sleep(link, config.settle.0, &config.pattern)?;
        let second = survey(link, root, filter, false)?;
        if second.items != first.items || second.looks != first.looks {
            return Ok(Err(early("a file".into(), "is still changing")));
        }
        match newest(link, root, config)? {
            Some(again) if again.name == marker.name && again.look.same(&marker.look) => {}
            _ => return Ok(Err(early(name.clone(), "is still changing"))),
        }
    }
    let content = match content(link, &join(&folder(root, config), &marker.name), marker.look.size, &name)? {
        Ok(content) => content,
        Err(trouble) => return Ok(Err(early(name.clone(), &trouble.text()))),
    };
    let count = match named(&name, Some(&content), first.sizes.as_ref()) {
        Ok(count) => count,
        Err(reason) => return Ok(Err(reason)),
    };
    let sha256 = hex::encode(digest(&SHA256, &content));
    let seen = MarkerSeen { name, time, size: marker.look.size, sha256, named: count };
    Ok(Ok((Vouched { seen, limit, look: marker.look }, first)))
}

fn folder(root: &[u8], config: &MarkerConfig) -> Vec<u8> {
    config
        .folder
        .split('/')
        .filter(|part| !part.is_empty())
        .fold(root.to_vec(), |at, part| join(&at, part.as_bytes()))
}

/// The newest file that fits the marker's pattern.
fn newest(link: &mut Link, root: &[u8], config: &MarkerConfig) -> Result<Option<Listed>, Error> {
    let folder = folder(root, config);
    let listed = match list(link, &folder)? {
        Ok(listed) => listed,
        // The vendor may make the folder together with the dump.
        Err(Trouble::Gone) if !config.folder.is_empty() => Vec::new(),
        Err(trouble) => return Err(super::root_error(link, &folder, trouble)),
    };
    Ok(listed
        .into_iter()
        .filter(|item| item.look.is_file() && fits(&config.pattern, &shown(&item.name)))
        .max_by_key(|item| (item.look.written, item.name.clone())))
}

/// Looks at every item that a run would read.
fn survey(link: &mut Link, root: &[u8], filter: &Filter<'_>, sizes: bool) -> Result<Survey, Error> {
    let mut survey = Survey { sizes: sizes.then(HashMap::new), ..Survey::default() };
    let mut folders = vec![root.to_vec()];
    while let Some(folder) = folders.pop() {
        (link.control().progress)(&Progress {
            phase: Phase::Looking,
            items: survey.items,
            bytes: survey.bytes,
            total: None,
            path: &shown(&folder),
        });
        let listed = match list(link, &folder)? {
            Ok(listed) => listed,
            Err(trouble) if folder == root => return Err(super::root_error(link, root, trouble)),
            // The walk will meet it again and report it.
            Err(_) => continue,
        };
        for item in listed {
            let path = join(&folder, &item.name);
            if filter.leaves_out(&path) {
                continue;
            }
            survey.items += 1;
            if item.look.is_folder() {
                folders.push(path);
                continue;
            }
            survey.bytes += item.look.size;
            if let Some(sizes) = &mut survey.sizes {
                sizes.entry(shown(&item.name).to_lowercase()).or_default().push(item.look.size);
            }
            if survey.newest.as_ref().is_none_or(|(time, _)| item.look.written > *time) {
                survey.newest = Some((item.look.written, shown(&path)));
            }
            survey.looks.insert(hash(&path), hash(&(item.look.size, item.look.written)));
        }
    }
    Ok(survey)
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A marker's content; markers are small.
fn content(
    link: &mut Link,
    path: &[u8],
    size: u64,
    what: &str,
) -> Result<Result<bytes::Bytes, Trouble>, Error> {
    loop {
        let outcome = Flight::launch(link, path, size).and_then(|mut flight| flight.whole(link));
        match outcome {
            Ok(Some((_, content))) => return Ok(Ok(content)),
            Ok(None) => return Ok(Err(Trouble::Other("is too large for a marker".into()))),
            Err(Slip::Item(trouble)) => return Ok(Err(trouble)),
            Err(Slip::Broken(error)) => link.again(error, what)?,
        }
    }
}

pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
