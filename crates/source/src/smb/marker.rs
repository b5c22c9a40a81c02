//! Decides whether tonight's dump is whole.
//!
//! The vendor writes a marker file last. It vouches for the dump if it is newer than the one of the
//! previous restore point, not older than the dumps' rhythm allows, and if no file of the dump is newer
//! than it or still changing. Until then we look again, up to a deadline; the last reason is the error.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use aws_lc_rs::digest::{Context, SHA256};
use jiff::{SignedDuration, Timestamp};
use kuramori_model::tree::FileTime;

use super::{
    super::set,
    fetch::Piece,
    io::Io,
    link::{Failure, Trouble},
    names::{self, Wide},
    walk::Filter,
    wire::{Listed, Look},
};
use crate::{Error, Phase, Progress, config::MarkerConfig, report::MarkerSeen};

/// A marker that vouches, and how to know it again.
#[derive(Debug, Clone)]
pub(super) struct Vouched {
    pub(super) seen: MarkerSeen,
    /// No file of the dump may be newer than this.
    pub(super) limit: FileTime,
    look: Look,
}

/// All files at one glance, without keeping their names: memory stays at some 20 bytes per file.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) items: u64,
    pub(super) bytes: u64,
    newest: Option<(FileTime, String)>,
    looks: HashMap<u64, u64>,
    /// Sizes by name in small letters, of the folder's own files and those below; only where the marker
    /// names files (a backup product's folder holds few).
    sizes: Option<HashMap<String, Vec<u64>>>,
}

/// A marker's content that is looked into; a larger one only counts by its digest.
const CONTENT: u64 = 16 << 20;

/// Waits for a marker that vouches for the dump.
pub(super) fn await_vouched(
    io: &Io,
    root: &[u16],
    filter: &Filter,
    config: &MarkerConfig,
) -> Result<(Vouched, Survey), Error> {
    let clock = &io.control().clock;
    let deadline = clock.boot() + config.wait.0;
    loop {
        let reason = match look(io, root, filter, config)? {
            Ok(found) => return Ok(found),
            Err(reason) => reason,
        };
        let left = deadline.saturating_sub(clock.boot());
        if left.is_zero() {
            return Err(reason);
        }
        tracing::info!(%reason, "the dump is not ready yet");
        (io.control().progress)(&Progress {
            phase: Phase::Waiting,
            items: 0,
            bytes: 0,
            total: None,
            path: &config.pattern,
        });
        io.sleep(config.poll.0.min(left).max(Duration::from_millis(10)), &config.pattern)?;
    }
}

/// Whether the marker is still the one that vouched.
pub(super) fn still_vouched(
    io: &Io,
    root: &[u16],
    config: &MarkerConfig,
    vouched: &Vouched,
) -> Result<(), Error> {
    match newest(io, root, config)? {
        Some(listed) if names::shown(&listed.name) == vouched.seen.name && listed.look == vouched.look => {
            Ok(())
        }
        Some(listed) => Err(Error::DumpChanged(format!(
            "the marker `{}` was replaced by `{}` of {}",
            vouched.seen.name,
            names::shown(&listed.name),
            timestamp(listed.look.written)
        ))),
        None => Err(Error::DumpChanged(format!("the marker `{}` was removed", vouched.seen.name))),
    }
}

/// One judgement; the inner error is a reason to wait.
fn look(
    io: &Io,
    root: &[u16],
    filter: &Filter,
    config: &MarkerConfig,
) -> Result<Result<(Vouched, Survey), Error>, Error> {
    let Some(marker) = newest(io, root, config)? else {
        return Ok(Err(Error::MarkerMissing {
            pattern: config.pattern.clone(),
            folder: names::shown(&folder(root, config)),
            waited: config.wait.0.as_secs(),
        }));
    };
    let name = names::shown(&marker.name);
    let time = timestamp(marker.look.written);
    let old = |why: String| Ok(Err(Error::MarkerOld { name: name.clone(), time, why }));
    if let Some(previous) = &io.control().previous
        && time <= previous.time
    {
        return old(format!(
            "and the last restore point was already made with `{}` of {}",
            previous.name, previous.time
        ));
    }
    let age = io.control().clock.now().duration_since(time);
    if age > SignedDuration::try_from(config.max_age.0).unwrap_or(SignedDuration::MAX) {
        return old(format!("{} min ago, where at most {} are allowed", age.as_mins(), config.max_age));
    }
    let early =
        |file: String, why: &str| Error::MarkerEarly { name: name.clone(), file, why: why.to_owned() };
    let limit = later(marker.look.written, config.slack.0);
    let first = Survey { sizes: config.names_files.then(HashMap::new), ..Survey::default() };
    let first = survey_against(io, root, filter, first, None)?.map_err(Error::DumpChanged)?;
    if let Some((written, file)) = &first.newest
        && *written > limit
    {
        return Ok(Err(early(file.clone(), &format!("was written at {}, after it", timestamp(*written)))));
    }
    if !config.settle.0.is_zero() {
        io.sleep(config.settle.0, &config.pattern)?;
        let second = survey_against(io, root, filter, Survey::default(), Some(&first))?;
        match second {
            Ok(again) if again.items == first.items => {}
            Ok(_) => return Ok(Err(early("a file".into(), "vanished between two looks"))),
            Err(file) => return Ok(Err(early(file, "is still changing"))),
        }
        match newest(io, root, config)? {
            Some(again) if again == marker => {}
            _ => return Ok(Err(early(name.clone(), "is still changing"))),
        }
    }
    let path = names::join(&folder(root, config), &marker.name);
    match content(io, path, marker.look.size, &name)? {
        Ok((sha256, text)) => {
            let named = match named(&name, text.as_deref(), first.sizes.as_ref()) {
                Ok(named) => named,
                Err(reason) => return Ok(Err(reason)),
            };
            let seen = MarkerSeen { name, time, size: marker.look.size, sha256, named };
            Ok(Ok((Vouched { seen, limit, look: marker.look }, first)))
        }
        Err(trouble) => Ok(Err(early(name.clone(), &trouble.text()))),
    }
}

fn folder(root: &[u16], config: &MarkerConfig) -> Wide {
    let below = names::wide_path(&config.folder);
    if below.is_empty() { root.to_vec() } else { names::join(root, &below) }
}

/// The newest file that fits the marker's pattern.
fn newest(io: &Io, root: &[u16], config: &MarkerConfig) -> Result<Option<Listed>, Error> {
    let folder = folder(root, config);
    let listed = match io.wait(&io.list(folder.clone()), &config.pattern)? {
        Ok(listed) => listed,
        // The vendor may make the folder together with the dump.
        Err(Failure::Item(Trouble::Gone)) if !config.folder.is_empty() => Vec::new(),
        Err(failure) => return Err(super::folder_error(io, &folder, failure)),
    };
    Ok(listed
        .into_iter()
        .filter(|item| !item.is_folder() && names::fits(&config.pattern, &names::shown(&item.name)))
        .max_by_key(|item| (item.look.written, item.name.clone())))
}

/// Looks at every item that a run would read, and names the first one that differs from an earlier survey.
fn survey_against(
    io: &Io,
    root: &[u16],
    filter: &Filter,
    mut survey: Survey,
    earlier: Option<&Survey>,
) -> Result<Result<Survey, String>, Error> {
    let mut folders = vec![root.to_vec()];
    while let Some(folder) = folders.pop() {
        let shown = names::shown(&folder);
        (io.control().progress)(&Progress {
            phase: Phase::Looking,
            items: survey.items,
            bytes: survey.bytes,
            total: None,
            path: &shown,
        });
        let listed = match io.wait(&io.list(folder.clone()), &shown)? {
            Ok(listed) => listed,
            Err(Failure::Fatal) => return Err(io.fatal(&shown)),
            Err(failure) if folder == root => return Err(super::folder_error(io, root, failure)),
            // The walk will meet it again and report it.
            Err(Failure::Item(_)) => continue,
        };
        for item in listed {
            let path = names::join(&folder, &item.name);
            if filter.leaves_out(&path) {
                continue;
            }
            survey.items += 1;
            if item.is_folder() {
                if !item.is_link {
                    folders.push(path);
                }
                continue;
            }
            let shown = || names::shown(&path);
            survey.bytes += item.look.size;
            if let Some(sizes) = &mut survey.sizes {
                sizes.entry(names::shown(&item.name).to_lowercase()).or_default().push(item.look.size);
            }
            if survey.newest.as_ref().is_none_or(|(time, _)| item.look.written > *time) {
                survey.newest = Some((item.look.written, shown()));
            }
            let (key, value) = (hash(&path), hash(&(item.look.size, item.look.written, item.id)));
            if earlier.is_some_and(|earlier| earlier.looks.get(&key) != Some(&value)) {
                return Ok(Err(shown()));
            }
            survey.looks.insert(key, value);
        }
    }
    Ok(Ok(survey))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A digest in hexadecimal, and the content if it is not too large.
type Hashed = (String, Option<Vec<u8>>);

/// SHA-256 of a small file's content, and the content itself if it is not too large.
fn content(io: &Io, path: Wide, size: u64, what: &str) -> Result<Result<Hashed, Trouble>, Error> {
    let pieces = io.file(path, size);
    let mut hash = Context::new(&SHA256);
    let mut text = (size <= CONTENT).then(Vec::new);
    loop {
        match io.wait(&pieces, what)? {
            Piece::Opened(_) => {}
            Piece::Data(data, _) => {
                hash.update(&data);
                if text.as_ref().is_some_and(|text| (text.len() + data.len()) as u64 > CONTENT) {
                    text = None;
                }
                if let Some(text) = &mut text {
                    text.extend_from_slice(&data);
                }
            }
            Piece::End => return Ok(Ok((hex::encode(hash.finish()), text))),
            Piece::Failed(Failure::Item(trouble)) => return Ok(Err(trouble)),
            Piece::Failed(Failure::Fatal) => return Err(io.fatal(what)),
        }
    }
}

/// The newest file that fits a pattern in the folder, whole.
pub(super) fn newest_content(
    io: &Io,
    root: &[u16],
    pattern: &str,
) -> Result<Option<(String, Vec<u8>)>, Error> {
    let config = MarkerConfig::new(pattern);
    let Some(found) = newest(io, root, &config)? else { return Ok(None) };
    let name = names::shown(&found.name);
    let path = names::join(root, &found.name);
    match content(io, path, found.look.size, &name)? {
        Ok((_, Some(content))) => Ok(Some((name, content))),
        Ok((_, None)) => Err(Error::BadResult { name, why: format!("it has {} bytes", found.look.size) }),
        Err(trouble) => Err(Error::BadResult { name, why: trouble.text() }),
    }
}

/// Compares what a marker names with what is there. The count, none if it names nothing that can be read.
pub(crate) fn named(
    marker: &str,
    text: Option<&[u8]>,
    there: Option<&HashMap<String, Vec<u64>>>,
) -> Result<Option<u64>, Error> {
    let Some(there) = there else { return Ok(None) };
    let files = text.map(set::names).unwrap_or_default();
    let incomplete = |file: &str, why: String| Error::SetIncomplete {
        name: marker.to_owned(),
        file: file.to_owned(),
        why,
    };
    for (file, size) in &files {
        match (there.get(&file.to_lowercase()), size) {
            (None, _) => return Err(incomplete(file, "is not there".to_owned())),
            (Some(sizes), Some(size)) if !sizes.contains(size) => {
                let found = sizes.first().copied().unwrap_or(0);
                return Err(incomplete(file, format!("has {found} bytes instead of {size}")));
            }
            _ => {}
        }
    }
    Ok((!files.is_empty()).then_some(files.len() as u64))
}

pub(crate) fn timestamp(time: FileTime) -> Timestamp {
    Timestamp::new(time.seconds, i32::try_from(time.nanos).unwrap_or(0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A time and a length after it.
pub(crate) fn later(time: FileTime, by: Duration) -> FileTime {
    let nanos = u64::from(time.nanos) + u64::from(by.subsec_nanos());
    FileTime {
        seconds: time
            .seconds
            .saturating_add(i64::try_from(by.as_secs()).unwrap_or(i64::MAX))
            .saturating_add(i64::try_from(nanos / 1_000_000_000).unwrap_or(0)),
        nanos: u32::try_from(nanos % 1_000_000_000).unwrap_or(0),
    }
}
