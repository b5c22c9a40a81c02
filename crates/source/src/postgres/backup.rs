//! One `BASE_BACKUP`: what is asked, and what has to come before it counts as done.

use std::{collections::HashSet, io};

use jiff::Timestamp;
use kuramori_model::tree::{Entry, EntryKind, FileTime, Meta, Sink, TreePath};

use super::{
    archive::{self, Content, Kind},
    copy::{Copy, Part, begin_copy},
    manifest::{Checker, Files},
    session::{Row, Session},
};
use crate::{
    Control, Error, Phase, Progress,
    config::{Checkpoint, PostgresConfig},
    control::Bucket,
    report::{PostgresOrigin, Tablespace},
};

/// The first version that gives a manifest.
const OLDEST: u32 = 13;
/// The first version with the grammar in parentheses and one stream for everything.
const ONE_STREAM: u32 = 15;

/// What came.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) items: u64,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) newest: Option<Timestamp>,
}

pub(super) struct Backup<'a> {
    config: &'a PostgresConfig,
    control: &'a Control,
    tally: Tally,
    received: Files,
    total: Option<(u64, u64)>,
    /// Folders that are open and may be sealed when the archive leaves them.
    open: Vec<TreePath>,
    /// Folders that were sealed; a server that enters one again is not to be trusted.
    sealed: HashSet<TreePath>,
}

impl<'a> Backup<'a> {
    pub(super) fn new(config: &'a PostgresConfig, control: &'a Control) -> Self {
        Self {
            config,
            control,
            tally: Tally::default(),
            received: Files::default(),
            total: None,
            open: Vec::new(),
            sealed: HashSet::new(),
        }
    }

    pub(super) fn run(
        mut self,
        session: &mut Session,
        sink: &mut dyn Sink,
    ) -> Result<(PostgresOrigin, Tally), Error> {
        let mut origin = PostgresOrigin {
            server: session.line.server.clone(),
            version: session.parameter("server_version").to_owned(),
            encrypted: session.line.is_encrypted(),
            ..PostgresOrigin::default()
        };
        session.line.what = "the server's identity".into();
        let system = session.command("IDENTIFY_SYSTEM")?;
        field(&system, 0, 0).clone_into(&mut origin.system_identifier);
        if let Some(expected) = &self.config.expect.system_identifier
            && *expected != origin.system_identifier
        {
            return Err(Error::WrongInstance {
                server: origin.server,
                what: "the system identifier",
                expected: expected.clone(),
                found: origin.system_identifier,
            });
        }
        let major = major(&origin.version);
        if major < OLDEST {
            return Err(Error::Version {
                server: origin.server,
                found: format!("PostgreSQL {}", origin.version),
                needed: "PostgreSQL 13 or later",
            });
        }
        origin.data_checksums = session.setting("data_checksums")? == "on";
        if self.config.hold_wal {
            // Without it a busy server may recycle log that the backup still has to include at its end.
            let name = format!("kuramori_{}", session.process.unsigned_abs());
            session.command(&format!("CREATE_REPLICATION_SLOT \"{name}\" TEMPORARY PHYSICAL RESERVE_WAL"))?;
        }
        session.line.what = "the checkpoint".into();
        session.ask(&self.request(major))?;
        let start = session.rows()?;
        field(&start, 0, 0).clone_into(&mut origin.lsn_start);
        origin.timeline = field(&start, 0, 1).parse().unwrap_or(0);
        let spaces = session.rows()?;
        let kilobytes: u64 = spaces.iter().filter_map(|row| row.get(2)?.as_ref()?.parse::<u64>().ok()).sum();
        origin.database_bytes = kilobytes << 10;
        self.total = Some((0, origin.database_bytes));
        for row in &spaces {
            if let (Some(Some(oid)), Some(Some(path))) = (row.first(), row.get(1)) {
                let oid =
                    oid.parse().map_err(|_| session.line.broken(format!("tablespace number `{oid}`")))?;
                origin.tablespaces.push(Tablespace { oid, path: path.clone() });
            }
        }
        let bucket = Bucket::new(self.control);
        let manifest = if major >= ONE_STREAM {
            self.one_stream(session, sink, &bucket, &origin.tablespaces)?
        } else {
            self.many_streams(session, sink, &bucket, &spaces)?
        };
        session.line.what = "the end of the backup".into();
        let end = session.rows()?;
        field(&end, 0, 0).clone_into(&mut origin.lsn_end);
        origin.timeline_end = field(&end, 0, 1).parse().unwrap_or(0);
        session.ready()?;
        if origin.lsn_end.is_empty() || origin.lsn_start.is_empty() {
            return Err(session.line.broken("the backup has no start or end position".into()));
        }
        origin.manifest_sha256 = manifest;
        origin.manifest_files = self.received.count;
        if !origin.tablespaces.is_empty() && major >= ONE_STREAM {
            // Since version 15 recovery refuses real folders in pg_tblspc unless told that they are meant.
            origin.start_options = vec!["-c".into(), "allow_in_place_tablespaces=on".into()];
        }
        Ok((origin, self.tally))
    }

    fn request(&self, major: u32) -> String {
        let rate = self.config.max_rate.map(|rate| (rate.0 >> 10).clamp(32, 1 << 20));
        let fast = self.config.checkpoint == Checkpoint::Fast;
        if major >= ONE_STREAM {
            let checkpoint = if fast { "fast" } else { "spread" };
            let rate = rate.map(|rate| format!(", MAX_RATE {rate}")).unwrap_or_default();
            format!(
                "BASE_BACKUP (LABEL 'kuramori', PROGRESS true, CHECKPOINT '{checkpoint}', WAL true, WAIT false, \
                 MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', TABLESPACE_MAP false{rate})"
            )
        } else {
            let checkpoint = if fast { "FAST " } else { "" };
            let rate = rate.map(|rate| format!("MAX_RATE {rate} ")).unwrap_or_default();
            format!(
                "BASE_BACKUP LABEL 'kuramori' PROGRESS {checkpoint}WAL NOWAIT {rate}MANIFEST 'yes' \
                 MANIFEST_CHECKSUMS 'CRC32C'"
            )
        }
    }

    /// Version 15 and later: archives and manifest follow one another in a single stream.
    fn one_stream(
        &mut self,
        session: &mut Session,
        sink: &mut dyn Sink,
        bucket: &Bucket,
        tablespaces: &[Tablespace],
    ) -> Result<String, Error> {
        begin_copy(session)?;
        let mut copy = Copy::new(session, bucket, true);
        let mut manifest = None;
        let mut archives = 0;
        loop {
            // Nothing may lie between the parts.
            if io::copy(&mut copy, &mut io::sink()).is_ok_and(|stray| stray > 0) {
                return Err(copy.session.line.broken("data outside of any part".into()));
            }
            match copy.part()? {
                Part::Archive(name) if manifest.is_none() => {
                    archives += 1;
                    let oid = name.strip_suffix(".tar").and_then(|name| name.parse().ok());
                    match oid {
                        Some(oid) if tablespaces.iter().any(|space| space.oid == oid) => {
                            self.unpack(&mut copy, sink, Some(oid))?;
                        }
                        None if name == "base.tar" => self.unpack(&mut copy, sink, None)?,
                        _ => return Err(copy.session.line.broken(format!("an archive named `{name}`"))),
                    }
                }
                Part::Manifest if manifest.is_none() => manifest = Some(self.manifest(&mut copy, sink)?),
                Part::End => break,
                _ => return Err(copy.session.line.broken("something after the manifest".into())),
            }
        }
        if archives != tablespaces.len() + 1 {
            return Err(Error::Manifest(format!("{archives} of {} archives came", tablespaces.len() + 1)));
        }
        manifest.ok_or_else(|| Error::Manifest("the server sent none".into()))
    }

    /// Versions 13 and 14: a stream for each tablespace in the announced order, then one for the manifest.
    fn many_streams(
        &mut self,
        session: &mut Session,
        sink: &mut dyn Sink,
        bucket: &Bucket,
        spaces: &[Row],
    ) -> Result<String, Error> {
        for space in spaces {
            let oid = space.first().and_then(Option::as_ref).and_then(|oid| oid.parse().ok());
            begin_copy(session)?;
            let mut copy = Copy::new(session, bucket, false);
            self.unpack(&mut copy, sink, oid)?;
            copy.end()?;
        }
        begin_copy(session)?;
        let mut copy = Copy::new(session, bucket, false);
        let sha256 = self.manifest(&mut copy, sink)?;
        copy.end()?;
        Ok(sha256)
    }

    fn unpack(
        &mut self,
        copy: &mut Copy<'_>,
        sink: &mut dyn Sink,
        tablespace: Option<u32>,
    ) -> Result<(), Error> {
        let prefix = tablespace.map(|oid| format!("pg_tblspc/{oid}"));
        if let Some(prefix) = &prefix {
            let path =
                TreePath::new(prefix.as_bytes()).map_err(|e| copy.session.line.broken(e.to_string()))?;
            let now = self.control.clock.now();
            let now = FileTime { seconds: now.as_second(), nanos: 0 };
            let meta = Meta { mode: 0o700, mtime: now, atime: now, ctime: now, ..Meta::default() };
            self.tally.items += 1;
            sink.put(Entry { path, kind: EntryKind::Dir, meta }, &mut io::empty())?;
        }
        loop {
            let item = archive::next(copy).map_err(|error| copy.error(&error))?;
            let Some(item) = item else { break };
            let name = match &prefix {
                Some(prefix) => [prefix.as_bytes(), &item.name].join(&b'/'),
                None => item.name,
            };
            let path = TreePath::new(name).map_err(|e| copy.session.line.broken(e.to_string()))?;
            copy.session.line.what = path.to_string();
            self.leave(sink, Some(&path))?;
            if self.is_below_sealed(&path) {
                return Err(copy.session.line.broken(format!("`{path}` comes after its folder was left")));
            }
            match item.kind {
                // The folder behind it comes in an archive of its own.
                Kind::Link(_) if path.as_bytes().starts_with(b"pg_tblspc/") => {}
                Kind::Link(_) => {
                    return Err(copy.session.line.broken(format!("a link at `{path}`, where none may be")));
                }
                Kind::Folder => {
                    self.tally.items += 1;
                    if is_closed_once_left(&path) {
                        self.open.push(path.clone());
                    }
                    sink.put(Entry { path, kind: EntryKind::Dir, meta: item.meta }, &mut io::empty())?;
                }
                Kind::File(size) => {
                    let mtime = Timestamp::from_second(item.meta.mtime.seconds).ok();
                    let entry = Entry { path: path.clone(), kind: EntryKind::File { size }, meta: item.meta };
                    self.show(&path);
                    let mut content = Content::new(copy, size);
                    let taken = sink.put(entry, &mut content);
                    let finished = content.finish();
                    if let Some(error) = copy.failed.take() {
                        return Err(error);
                    }
                    let finished = finished.map_err(|error| copy.error(&error))?;
                    taken?;
                    if !finished {
                        let why = format!("it did not read `{path}` to its end");
                        return Err(Error::Protocol { server: "the store".into(), why });
                    }
                    self.received.add(path.as_bytes(), size);
                    self.tally.items += 1;
                    self.tally.files += 1;
                    self.tally.bytes += size;
                    self.tally.newest = self.tally.newest.max(mtime);
                }
            }
        }
        self.leave(sink, None)
    }

    /// Seals the folders that the next path is not in.
    fn leave(&mut self, sink: &mut dyn Sink, next: Option<&TreePath>) -> Result<(), Error> {
        while let Some(folder) = self.open.last() {
            let inside = next.is_some_and(|next| {
                next.as_bytes().strip_prefix(folder.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
            });
            if inside {
                break;
            }
            sink.seal(folder)?;
            self.sealed.extend(self.open.pop());
        }
        Ok(())
    }

    fn is_below_sealed(&self, path: &TreePath) -> bool {
        let bytes = path.as_bytes();
        let ends = bytes
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| at)
            .chain([bytes.len()]);
        ends.into_iter()
            .any(|end| TreePath::new(&bytes[..end]).is_ok_and(|folder| self.sealed.contains(&folder)))
    }

    fn manifest(&mut self, copy: &mut Copy<'_>, sink: &mut dyn Sink) -> Result<String, Error> {
        copy.session.line.what = "backup_manifest".into();
        let path = TreePath::new("backup_manifest").map_err(|e| copy.session.line.broken(e.to_string()))?;
        let now = self.control.clock.now();
        let now = FileTime { seconds: now.as_second(), nanos: 0 };
        let meta = Meta { mode: 0o600, mtime: now, atime: now, ctime: now, links: 1, ..Meta::default() };
        self.show(&path);
        let mut checker = Checker::new(&mut *copy);
        // The server does not announce its size.
        let taken = sink.put(Entry { path, kind: EntryKind::File { size: 0 }, meta }, &mut checker);
        let verdict = checker.finish(self.received);
        if let Some(error) = copy.failed.take() {
            return Err(error);
        }
        taken?;
        let (sha256, size) = verdict?;
        self.tally.items += 1;
        self.tally.files += 1;
        self.tally.bytes += size;
        Ok(sha256)
    }

    fn show(&self, path: &TreePath) {
        (self.control.progress)(&Progress {
            phase: Phase::Reading,
            items: self.tally.items,
            bytes: self.tally.bytes,
            total: self.total,
            path: &path.to_string(),
        });
    }
}

/// Whether the server sends such a folder in one go. `global` and `pg_wal` are entered again at the end.
fn is_closed_once_left(path: &TreePath) -> bool {
    let depth = path.parts().count();
    match path.parts().next() {
        Some(b"base") => depth >= 2,
        Some(b"pg_tblspc") => depth >= 3,
        _ => false,
    }
}

fn field(rows: &[Row], row: usize, column: usize) -> &str {
    rows.get(row).and_then(|row| row.get(column)).and_then(Option::as_deref).unwrap_or_default()
}

fn major(version: &str) -> u32 {
    version.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
