//! One run of a system whose log is kept: a base backup if one is due, else the one before; and all log.

use std::{
    io::{self, Read},
    time::Duration,
};

use jiff::Timestamp;
use kuramori_model::{
    tree::{Entry, EntryKind, FileTime, Meta, Sink, TreePath},
    wal::{Base, End, FOLDER, FORMAT, INDEX, Index, Lsn, forks, parse_history, parse_segment, segment_name},
};

use super::{
    super::{backup::Backup, session::Session},
    inventory::{BEFORE, Inventory, Item, NAME, Recorder},
    place::{identify, left, lsn},
    spool::{PARTIAL, Spool, State},
    stream::stream,
};
use crate::{
    Control, Error, Phase, Progress,
    config::{PostgresConfig, WalConfig},
    report::{PostgresOrigin, WalOrigin},
};

/// A base backup is due a little before its time, so that a daily job takes one every day.
const SLACK: Duration = Duration::from_mins(6);
/// How often somebody else's stream is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What came.
#[derive(Debug, Default)]
pub(in super::super) struct Tally {
    pub(in super::super) items: u64,
    pub(in super::super) files: u64,
    pub(in super::super) bytes: u64,
    pub(in super::super) kept: u64,
}

/// Makes the restore point's tree in `sink`.
pub(in super::super) fn read(
    config: &PostgresConfig,
    wal: &WalConfig,
    sink: &mut dyn Sink,
    control: &Control,
) -> Result<(PostgresOrigin, Tally), Error> {
    let spool = Spool::open(&wal.spool)?;
    let mut session = Session::login(config, control)?;
    let (identifier, _, position) = identify(&mut session)?;
    // The log comes first: a base backup has to begin inside of it, or there would be a hole between the two.
    let state = catch_up(config, wal, control, &spool, position)?;
    if state.system_identifier != identifier {
        return Err(Error::WrongInstance {
            server: session.line.server.clone(),
            what: "the system identifier of the log in the spool folder",
            expected: state.system_identifier,
            found: identifier,
        });
    }
    let spool = spool.of(state.past)?;
    let old = usable(&spool, &state, sink);
    // Neither list of the two may push out the one that the newest restore point fits to.
    let stays = old.as_ref().is_some_and(|(name, _)| *name == BEFORE);
    let old = old.map(|(_, list)| list);
    let due = |old: &Inventory| {
        let age = Duration::try_from(control.clock.now().duration_since(old.taken)).unwrap_or_default();
        age + SLACK >= wal.base_every.0
            || state.past != old.base.past
            || state.gaps.last().is_some_and(|gap| gap.past == state.past && gap.to > old.base.end)
            // A base backup of what the old server wrote behind the fork leads nowhere.
            || left(&spool, state.timeline, old.base.timeline).is_some_and(|left| left < old.base.end)
    };
    let mut tally = Tally::default();
    let (mut inventory, state) = match old {
        Some(old) if !due(&old) => {
            session.bye();
            follow(&old, sink, control, &mut tally)?;
            (old, state)
        }
        old => {
            let mut inventory = base(config, control, sink, &mut session, (&spool, &state, old), &mut tally)?;
            session.bye();
            let past = state.past;
            let state = catch_up(config, wal, control, &spool, inventory.base.end)?;
            if state.past != past {
                let why = "the server went back in its past while its base backup was taken";
                return Err(Error::Manifest(why.to_owned()));
            }
            // The first time that is known to lie behind the base backup's end.
            inventory.base.time = state.until.unwrap_or(inventory.taken) + jiff::SignedDuration::from_secs(1);
            (inventory, state)
        }
    };
    let base_taken = tally.kept == 0;
    let index = log(&mut inventory, &spool, &state, sink, control, &mut tally)?;
    inventory.origin.wal = Some(WalOrigin {
        base_taken,
        earliest: index.base.time,
        latest: index.end.time,
        lsn: index.end.lsn.to_string(),
        timeline: index.end.timeline,
        segments: index.segments.len() as u64,
        gaps: index.gaps.len() as u64,
    });
    spool.replace(NAME, BEFORE, stays, &inventory)?;
    Ok((inventory.origin, tally))
}

/// The list of the previous restore point, if the sink's previous restore point is that one, and its name.
fn usable(spool: &Spool, state: &State, sink: &mut dyn Sink) -> Option<(&'static str, Inventory)> {
    for name in [NAME, BEFORE] {
        // The newer list is of no use if its run did not come to its end.
        let Ok(Some(inventory)) = spool.load::<Inventory>(name) else { continue };
        if inventory.origin.system_identifier == state.system_identifier
            && inventory.index.entry().is_some_and(|entry| sink.known(&entry))
        {
            return Some((name, inventory));
        }
    }
    None
}

/// Waits until everything before `goal` is durable in the spool, streaming it ourselves if nobody else does.
fn catch_up(
    config: &PostgresConfig,
    wal: &WalConfig,
    control: &Control,
    spool: &Spool,
    goal: Lsn,
) -> Result<State, Error> {
    let before = spool.state()?;
    let newer = |state: &State| {
        state.flushed >= goal
            && state.until.is_some()
            && before.as_ref().is_none_or(|before| state.until > before.until)
    };
    let begun = control.clock.boot();
    (control.progress)(&Progress { phase: Phase::Waiting, items: 0, bytes: 0, total: None, path: FOLDER });
    loop {
        if stream(config, wal, control, Some(goal))?
            && let Some(state) = spool.state()?.filter(|state| state.flushed >= goal)
        {
            return Ok(state);
        }
        if let Some(state) = spool.state()?
            && newer(&state)
        {
            return Ok(state);
        }
        if control.cancel.is_cancelled() {
            return Err(Error::Cancelled(FOLDER.to_owned()));
        }
        if control.clock.boot().saturating_sub(begun) > control.patience {
            return Err(Error::Stalled {
                server: format!("{}:{}", config.server, config.port),
                what: "the write-ahead log".to_owned(),
                seconds: control.patience.as_secs(),
            });
        }
        control.clock.sleep(LOOK);
    }
}

/// The base backup before, unread.
fn follow(old: &Inventory, sink: &mut dyn Sink, control: &Control, tally: &mut Tally) -> Result<(), Error> {
    for item in &old.items {
        if control.cancel.is_cancelled() {
            return Err(Error::Cancelled("the previous base backup".to_owned()));
        }
        if !item.again(sink)? {
            let name = item.name().unwrap_or_default();
            return Err(Error::Manifest(format!("the previous restore point has lost `{name}`")));
        }
        count(item, tally);
    }
    Ok(())
}

fn count(item: &Item, tally: &mut Tally) {
    if let Some(entry) = item.entry() {
        tally.items += 1;
        if matches!(entry.kind, EntryKind::File { .. }) {
            tally.files += 1;
            tally.kept += 1;
            tally.bytes += item.size();
        }
    }
}

/// A new base backup.
fn base(
    config: &PostgresConfig,
    control: &Control,
    sink: &mut dyn Sink,
    session: &mut Session,
    (spool, state, old): (&Spool, &State, Option<Inventory>),
    tally: &mut Tally,
) -> Result<Inventory, Error> {
    let mut recorder = Recorder::new(sink);
    let (origin, _) = Backup::new(config, control).run(session, &mut recorder)?;
    recorder.finish(stamp(control.clock.now()))?;
    let (items, files, bytes) = (recorder.items, recorder.files, recorder.bytes);
    tally.items = items.iter().filter(|item| item.entry().is_some()).count() as u64;
    (tally.files, tally.bytes) = (files, bytes);
    let taken = control.clock.now();
    let base = Base {
        timeline: origin.timeline_end,
        start: lsn(session, &origin.lsn_start)?,
        end: lsn(session, &origin.lsn_end)?,
        time: taken,
        past: state.past,
    };
    let old = match old {
        Some(old) if old.base.past != state.past => {
            // What a restore point holds of the old past need not stay in the spool as well.
            let spool = spool.of(old.base.past)?;
            for item in &old.wal {
                if let (Some(name), Some(entry)) = (item.name(), item.entry())
                    && sink.known(&entry)
                {
                    spool.drop_file(&name)?;
                }
            }
            None
        }
        old => old,
    };
    let keep_from = match &old {
        // That base backup leads nowhere any more; the one before it needs this log.
        Some(old) if left(spool, state.timeline, old.base.timeline).is_some_and(|at| at < old.base.end) => {
            old.keep_from
        }
        Some(old) => old.base.end,
        None => contiguous(spool, state, base.start)?,
    };
    let keep_from = keep_from.min(base.start);
    let wal = old.map(|old| old.wal).unwrap_or_default();
    let path = TreePath::new(format!("{FOLDER}/{INDEX}")).map_err(|e| session.line.broken(e.to_string()))?;
    let index = Item::of(&path, &EntryKind::File { size: 0 }, &Meta::default())
        .ok_or_else(|| session.line.broken("no index".into()))?;
    Ok(Inventory { taken, base, keep_from, origin, items, wal, index })
}

/// Where the log that the spool has without a hole up to this position begins: where it is not known which
/// restore points there are, it has to go on from all of them.
fn contiguous(spool: &Spool, state: &State, to: Lsn) -> Result<Lsn, Error> {
    let bytes = state.segment_bytes;
    let there: std::collections::BTreeSet<u64> =
        spool.names(bytes)?.iter().filter_map(|name| parse_segment(name, bytes)).map(|(_, n)| n).collect();
    let holes = state.gaps.iter().filter(|gap| gap.past == state.past && gap.to <= to);
    let hole = holes.map(|gap| gap.to).max().unwrap_or_default();
    let mut first = to.segment(bytes);
    while first > hole.segment(bytes) && there.contains(&(first - 1)) {
        first -= 1;
    }
    Ok(Lsn(first * bytes))
}

/// The folder with the log and its index.
fn log(
    inventory: &mut Inventory,
    spool: &Spool,
    state: &State,
    sink: &mut dyn Sink,
    control: &Control,
    tally: &mut Tally,
) -> Result<Index, Error> {
    let bytes = state.segment_bytes;
    let now = stamp(control.clock.now());
    let folder = TreePath::new(FOLDER).map_err(|error| Error::Config(error.to_string()))?;
    let meta = |mode| Meta { mode, mtime: now, atime: now, ctime: now, links: 1, ..Meta::default() };
    sink.put(Entry { path: folder.clone(), kind: EntryKind::Dir, meta: meta(0o700) }, &mut io::empty())?;
    tally.items += 1;
    let first = inventory.keep_from.segment(bytes);
    let needed = |name: &str| {
        parse_history(name).is_some() || parse_segment(name, bytes).is_some_and(|(_, number)| number >= first)
    };
    let whole = state.flushed.segment(bytes);
    let mut wal = Vec::new();
    for item in std::mem::take(&mut inventory.wal) {
        let Some(name) = item.name() else { continue };
        if !needed(&name) {
            if item.entry().is_some_and(|entry| sink.known(&entry)) {
                spool.drop_file(&name)?;
            }
            continue;
        }
        if item.again(sink)? {
            // A restore point holds it; the spool need not any more. History is small, and asked again.
            if parse_history(&name).is_none() {
                spool.drop_file(&name)?;
            }
            count(&item, tally);
            wal.push(item);
        } else if !spool.has(&name) {
            return Err(Error::Manifest(format!("the previous restore point has lost `{name}`")));
        }
    }
    let had: std::collections::BTreeSet<String> = wal.iter().filter_map(Item::name).collect();
    for name in spool.names(bytes)? {
        // What grew behind the state that we promise comes with the next run.
        let later = match parse_segment(&name, bytes) {
            Some((timeline, number)) => {
                timeline > state.timeline || (timeline == state.timeline && number >= whole)
            }
            None => parse_history(&name).is_some_and(|timeline| timeline > state.timeline),
        };
        // Whatever else is here is in no restore point yet, whether our own base backup needs it or not.
        if had.contains(&name) || later {
            continue;
        }
        let file = fs_err::File::open(spool.path(&name)).map_err(Error::Spool)?;
        let about = file.metadata().map_err(Error::Spool)?;
        let time = about.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
        let time = stamp(time.unwrap_or_else(|| control.clock.now()));
        let path = folder.join(name.as_bytes()).map_err(|error| Error::Config(error.to_string()))?;
        let kind = EntryKind::File { size: about.len() };
        let meta = Meta { mtime: time, atime: time, ctime: time, ..meta(0o600) };
        wal.extend(Item::of(&path, &kind, &meta));
        put(sink, Entry { path, kind, meta }, file, about.len(), tally)?;
        show(control, tally, &name);
    }
    let mut segments: Vec<String> =
        wal.iter().filter_map(Item::name).filter(|name| parse_segment(name, bytes).is_some()).collect();
    if !state.flushed.0.is_multiple_of(bytes) {
        // The one that grows, as far as it is promised, filled up to the size that recovery wants.
        let name = segment_name(state.timeline, whole, bytes);
        let open = |name: &str| fs_err::File::open(spool.path(name));
        let file = open(&format!("{name}{PARTIAL}")).or_else(|_| open(&name)).map_err(Error::Spool)?;
        let path = folder.join(name.as_bytes()).map_err(|error| Error::Config(error.to_string()))?;
        let have = state.flushed.0 % bytes;
        let content = file.take(have).chain(io::repeat(0).take(bytes - have));
        let kind = EntryKind::File { size: bytes };
        put(sink, Entry { path, kind, meta: meta(0o600) }, content, bytes, tally)?;
        segments.push(name);
    }
    segments.sort();
    let time = state.until.ok_or_else(|| Error::Config("the log has no time".into()))?;
    let index = Index {
        format: FORMAT.to_owned(),
        system_identifier: state.system_identifier.clone(),
        segment_bytes: bytes,
        base: inventory.base.clone(),
        end: End { timeline: state.timeline, lsn: state.flushed, time },
        gaps: state.gaps.clone(),
        segments,
        past: state.past,
        forks: fs_err::read_to_string(spool.path(&format!("{:08X}.history", state.timeline)))
            .map(|history| forks(&history))
            .unwrap_or_default(),
    };
    let json = serde_json::to_vec_pretty(&index).map_err(|error| Error::Config(error.to_string()))?;
    let path = folder.join(INDEX.as_bytes()).map_err(|error| Error::Config(error.to_string()))?;
    let kind = EntryKind::File { size: json.len() as u64 };
    if let Some(item) = Item::of(&path, &kind, &meta(0o600)) {
        inventory.index = item;
    }
    let length = json.len() as u64;
    put(sink, Entry { path, kind, meta: meta(0o600) }, io::Cursor::new(json), length, tally)?;
    sink.seal(&folder)?;
    inventory.wal = wal;
    Ok(index)
}

fn put(
    sink: &mut dyn Sink,
    entry: Entry,
    content: impl Read,
    size: u64,
    tally: &mut Tally,
) -> Result<(), Error> {
    let name = entry.path.to_string();
    let mut counted = content.take(size);
    sink.put(entry, &mut counted)?;
    if counted.limit() > 0 {
        return Err(Error::Manifest(format!("`{name}` is shorter than it has to be")));
    }
    tally.items += 1;
    tally.files += 1;
    tally.bytes += size;
    Ok(())
}

fn show(control: &Control, tally: &Tally, path: &str) {
    let (items, bytes) = (tally.items, tally.bytes);
    (control.progress)(&Progress { phase: Phase::Reading, items, bytes, total: None, path });
}

fn stamp(time: Timestamp) -> FileTime {
    let nanos = u32::try_from(time.subsec_nanosecond().max(0)).unwrap_or(0);
    FileTime { seconds: time.as_second(), nanos }
}
