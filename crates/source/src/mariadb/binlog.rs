//! The binary log beside the dump: a run takes a dump when one is due, else the one before unread, and every
//! log file since the dump before, by Debian's own `mariadb-binlog` over the same login.
//!
//! Nothing is held back at the server for us. Log that it removed before we read it, or that it began to count
//! anew (`RESET MASTER`, a server that was built anew: the file that we read last then begins with other bytes),
//! is a hole: it is written down, a new dump is taken at once, and log from before is never joined with log from
//! after it. So is a change of the server's time zone: statements in the log mean the zone that they ran in.

mod head;
mod list;

use std::{
    fmt::Write as _,
    io::{self, Read},
};

use aws_lc_rs::digest::{Context, SHA256};
use jiff::Timestamp;
use kuramori_model::{
    binlog::{FOLDER, FORMAT, INDEX, Index, Mark, Place, number},
    tree::{Entry, EntryKind, FileTime, Meta, Sink, TreePath},
};
use tempfile::TempDir;

use self::{
    head::{Head, place_in},
    list::{Before, Inventory, NAMES, broken, usable},
};
use super::MariadbSource;
use crate::{
    Control, Error, Report,
    config::BinlogConfig,
    postgres::wal::{Item, Spool},
    report::{BinlogOrigin, MariadbOrigin, Origin, Statement},
};

/// A dump is due a little before its time, so that a daily job takes one every day.
const SLACK: std::time::Duration = std::time::Duration::from_mins(6);
/// How long one log file may take; the client says nothing meanwhile.
const ONE_FILE: std::time::Duration = std::time::Duration::from_hours(2);
/// What every log file begins with.
const MAGIC: &[u8] = b"\xfebin";

/// Where the server's log is now.
struct Now {
    mark: Mark,
    /// Names and sizes of what it still has.
    files: Vec<(String, u64)>,
    /// Seconds that its zone `SYSTEM` is ahead of UTC.
    utc_offset: i32,
}

impl MariadbSource {
    /// One run with the log.
    pub(super) fn read_log(
        &self,
        log: &BinlogConfig,
        options: &TempDir,
        origin: MariadbOrigin,
        weak: usize,
        sink: &mut dyn Sink,
        control: &Control,
    ) -> Result<Report, Error> {
        let (begun, started) = (control.clock.now(), control.clock.boot());
        let spool = Spool::open(&log.spool)?;
        let mut now = self.place(options, control)?;
        let (old, stays) = match usable(&spool, &origin.identity, sink) {
            Some((old, stays)) => (Ok(old), stays),
            // It does not fit to the newest restore point, but its log may go on all the same.
            None => {
                let last: Option<Inventory> = spool.load(NAMES.0).ok().flatten();
                (Err(last.filter(|last| last.identity == origin.identity)), false)
            }
        };
        let last = old.as_ref().map_or_else(Option::as_ref, Some);
        let mut at_hand = None;
        let mut hole = last.and_then(|last| broken(last, &now));
        if let (None, Some(last)) = (&hole, last) {
            let (file, why) = self.overwritten(last, &spool, options, control)?;
            (hole, at_hand) = (why, file);
        }
        if let (None, Err(Some(last))) = (&hole, &old)
            && !now.files.iter().any(|(name, _)| number(name) == Some(last.keep_from))
        {
            hole = Some(format!("the server no longer has file {:06} of its log", last.keep_from));
        }
        let aged = |old: &Inventory| {
            let age = std::time::Duration::try_from(control.clock.now().duration_since(old.taken));
            age.unwrap_or_default() + SLACK >= log.dump_every.0
        };
        let mut report = Report {
            items: 0,
            files: 0,
            bytes: 0,
            kept: 0,
            newest: None,
            begun,
            seconds: 0.0,
            waited_seconds: 0.0,
            fault_count: 0,
            felt: None,
            faults: Vec::new(),
            reconnects: 0,
            consistency: Self::consistency(0),
            origin: Origin::Mariadb(MariadbOrigin::default()),
        };
        let mut inventory = match old {
            Ok(old) if hole.is_none() && !aged(&old) => {
                if !old.dump.again(sink)? {
                    return Err(Error::Manifest("the previous restore point has lost its dump".into()));
                }
                report.kept += 1;
                report.bytes += old.dump.size();
                old
            }
            old => {
                let mut head = Head { inner: sink, begin: Vec::new(), item: None };
                report.bytes += self.dump(options, true, &mut head, control)?.bytes;
                let (at, item) = (place_in(&head.begin), head.item);
                let (Some(at), Some(dump)) = (at, item) else {
                    return Err(Error::Protocol {
                        server: self.server(),
                        why: "the dump does not name its place in the binary log".into(),
                    });
                };
                // Whatever the dump has was committed before this; and the log has to reach behind it.
                let zone = now.utc_offset;
                now = self.place(options, control)?;
                if now.utc_offset != zone {
                    hole = Some("the server's time zone changed while it was dumped".to_owned());
                }
                let mark = Mark { at, time: now.mark.time + jiff::SignedDuration::from_secs(1) };
                let first = number(&mark.at.file).unwrap_or(0);
                let before = if hole.is_none() { Before::of(old) } else { None };
                let before = before.unwrap_or_else(|| Before {
                    chain: begun.to_string(),
                    keep_from: first,
                    files: Vec::new(),
                });
                let index = dump.clone();
                Inventory {
                    identity: origin.identity.clone(),
                    taken: control.clock.now(),
                    keep_from: before.keep_from.min(first),
                    dump,
                    files: before.files,
                    grown: None,
                    index,
                    list: Index {
                        format: FORMAT.to_owned(),
                        identity: origin.identity.clone(),
                        chain: before.chain,
                        dump: mark.clone(),
                        end: mark,
                        files: Vec::new(),
                        lost: hole,
                        utc_offset: Some(now.utc_offset),
                    },
                    origin,
                }
            }
        };
        (report.items, report.files) = (1, 1);
        inventory.list.utc_offset = Some(now.utc_offset);
        self.files(&mut inventory, &now, &spool, options, at_hand, sink, control, &mut report)?;
        let list = &inventory.list;
        // Right after a dump there may be nothing between the two yet.
        let (from, until) = (list.dump.time, list.end.time.max(list.dump.time));
        report.consistency = Statement {
            ja: format!(
                "論理ダンプと、その後のバイナリログ。{from} から {until} までの任意の時刻に復旧できる(秒単位、時刻はサーバーの時計)。"
            ),
            en: format!(
                "A logical dump and the binary log since: recovers to any second from {from} until {until} by the server's clock."
            ),
        };
        if weak > 0 {
            let _ = write!(
                report.consistency.ja,
                "ただしトランザクション非対応の表が{weak}個あり、ダンプの実行中にそれらへ書かれた行は、復旧後に二重になるか、ログの適用を止めることがある。"
            );
            let _ = write!(
                report.consistency.en,
                " But {weak} tables have no transactions: rows written to these while the dump ran may come back twice, or stop the log's play."
            );
        }
        inventory.origin.binlog = Some(BinlogOrigin {
            earliest: from,
            latest: list.end.time,
            end: format!("{}:{}", list.end.at.file, list.end.at.position),
            files: list.files.len() as u64,
            lost: list.lost.clone(),
        });
        report.newest = Some(list.end.time);
        report.origin = Origin::Mariadb(inventory.origin.clone());
        report.seconds = control.clock.boot().saturating_sub(started).as_secs_f64();
        spool.replace(NAMES.0, NAMES.1, stays, &inventory)?;
        Ok(report)
    }

    /// The server's time first, then its place: what was committed before that time lies before that place.
    fn place(&self, options: &TempDir, control: &Control) -> Result<Now, Error> {
        let odd = |what: &str| Error::Protocol { server: self.server(), why: what.to_owned() };
        let time = self.ask(options, control, "SELECT FLOOR(UNIX_TIMESTAMP(NOW(6)))")?;
        let time = time.first().and_then(|row| Timestamp::from_second(row.first()?.parse().ok()?).ok());
        let time = time.ok_or_else(|| odd("no time"))?;
        let zone = "SET time_zone = 'SYSTEM'; SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW())";
        let zone = self.ask(options, control, zone)?;
        let zone = zone.first().and_then(|row| row.first()?.parse().ok());
        let utc_offset = zone.ok_or_else(|| odd("no time zone"))?;
        let status = self.ask(options, control, "SHOW MASTER STATUS")?;
        let Some([file, position, ..]) = status.first().map(Vec::as_slice) else {
            return Err(Error::Server {
                server: self.server(),
                code: "log_bin".into(),
                message: "the binary log is off".into(),
            });
        };
        let position = position.parse().map_err(|_| odd("no place in the binary log"))?;
        let files = self.ask(options, control, "SHOW BINARY LOGS")?;
        let files =
            files.into_iter().filter_map(|row| Some((row.first()?.clone(), row.get(1)?.parse().ok()?)));
        let files: Vec<(String, u64)> = files.filter(|(name, _)| number(name).is_some()).collect();
        Ok(Now { mark: Mark { at: Place { file: file.clone(), position }, time }, files, utc_offset })
    }

    /// The server's file under the name of the one that still grew when we read it last, and why it is another
    /// one: its beginning is what we have, or the log was begun anew.
    fn overwritten(
        &self,
        last: &Inventory,
        spool: &Spool,
        options: &TempDir,
        control: &Control,
    ) -> Result<(Option<Fetched>, Option<String>), Error> {
        let Some(grown) = &last.grown else { return Ok((None, None)) };
        let Place { file, position } = &last.list.end.at;
        let path = self.fetch(file, spool, options, control)?;
        let mut content = fs_err::File::open(&path).map_err(Error::Spool)?.take(*position);
        let mut digest = Digest { inner: &mut content, context: Context::new(&SHA256) };
        io::copy(&mut digest, &mut io::sink()).map_err(Error::Spool)?;
        let same = digest.hex() == *grown;
        let why = format!("{file} is another one than it was: the log was begun anew");
        Ok((Some((file.clone(), path)), (!same).then_some(why)))
    }

    /// The log's files and the index.
    #[expect(clippy::too_many_arguments, reason = "one step of a run, with everything that the run has")]
    fn files(
        &self,
        inventory: &mut Inventory,
        now: &Now,
        spool: &Spool,
        options: &TempDir,
        mut at_hand: Option<Fetched>,
        sink: &mut dyn Sink,
        control: &Control,
        report: &mut Report,
    ) -> Result<(), Error> {
        let odd = |error: kuramori_model::tree::BadPath| Error::Config(error.to_string());
        let folder = TreePath::new(FOLDER).map_err(odd)?;
        let stamp = control.clock.now();
        let stamp = FileTime {
            seconds: stamp.as_second(),
            nanos: u32::try_from(stamp.subsec_nanosecond().max(0)).unwrap_or(0),
        };
        let meta =
            |mode| Meta { mode, mtime: stamp, atime: stamp, ctime: stamp, links: 1, ..Meta::default() };
        sink.put(Entry { path: folder.clone(), kind: EntryKind::Dir, meta: meta(0o700) }, &mut io::empty())?;
        report.items += 1;
        let last = number(&now.mark.at.file).unwrap_or(0);
        let mut complete = Vec::new();
        let mut names = Vec::new();
        for item in std::mem::take(&mut inventory.files) {
            let Some(name) = item.name() else { continue };
            if number(&name).is_some_and(|number| number >= inventory.keep_from) && item.again(sink)? {
                (report.items, report.files, report.kept) =
                    (report.items + 1, report.files + 1, report.kept + 1);
                report.bytes += item.size();
                names.push(name);
                complete.push(item);
            }
        }
        let mut end = now.mark.clone();
        for (name, size) in &now.files {
            let this = number(name).unwrap_or(0);
            if this < inventory.keep_from || this > last || names.contains(name) {
                continue;
            }
            let wanted = if this == last { now.mark.at.position } else { *size };
            let there = at_hand.take_if(|(there, _)| there == name).map(|(_, path)| path);
            let long = |path: &tempfile::TempPath| fs_err::metadata(path).map(|about| about.len());
            let file = match there.filter(|path| long(path).is_ok_and(|length| length >= wanted)) {
                Some(path) => path,
                // It has grown meanwhile.
                None => self.fetch(name, spool, options, control)?,
            };
            let length = long(&file).map_err(Error::Spool)?;
            let mut content = fs_err::File::open(&file).map_err(Error::Spool)?;
            let mut magic = [0; 4];
            let whole = length >= wanted && content.read_exact(&mut magic).is_ok() && magic == *MAGIC;
            if !whole {
                let end = format!("byte {wanted} of {name}");
                return Err(Error::Truncated { name: "mariadb-binlog".into(), end });
            }
            // The growing one ends where the promise ends.
            let content = MAGIC.chain(content.take(wanted - MAGIC.len() as u64));
            let path = folder.join(name.as_bytes()).map_err(odd)?;
            let kind = EntryKind::File { size: wanted };
            if this == last {
                end.at.position = wanted;
            } else {
                complete.extend(Item::of(&path, &kind, &meta(0o600)));
            }
            let mut content = Digest { inner: content, context: Context::new(&SHA256) };
            sink.put(Entry { path, kind, meta: meta(0o600) }, &mut content)?;
            if this == last {
                inventory.grown = Some(content.hex());
            }
            (report.items, report.files) = (report.items + 1, report.files + 1);
            report.bytes += wanted;
            names.push(name.clone());
        }
        names.sort_by_key(|name| number(name));
        let list = Index { end, files: names, ..inventory.list.clone() };
        if let Err(missing) = list.reach(&list) {
            return Err(Error::Manifest(format!("the binary log's file {missing} is missing")));
        }
        let json = serde_json::to_vec_pretty(&list).map_err(|error| Error::Config(error.to_string()))?;
        let path = folder.join(INDEX.as_bytes()).map_err(odd)?;
        let kind = EntryKind::File { size: json.len() as u64 };
        if let Some(item) = Item::of(&path, &kind, &meta(0o600)) {
            inventory.index = item;
        }
        sink.put(Entry { path, kind, meta: meta(0o600) }, &mut json.as_slice())?;
        sink.seal(&folder)?;
        (report.items, report.files) = (report.items + 1, report.files + 1);
        report.bytes += json.len() as u64;
        (inventory.list, inventory.files) = (list, complete);
        Ok(())
    }

    /// One file of the log, as the server has it; gone again with the handle.
    fn fetch(
        &self,
        name: &str,
        spool: &Spool,
        options: &TempDir,
        control: &Control,
    ) -> Result<tempfile::TempPath, Error> {
        let to = spool.path("fetch-");
        let path = spool.path(&format!("fetch-{name}"));
        let result = format!("--result-file={}", to.display());
        let arguments = ["--read-from-remote-server", "--raw", &result, name];
        // It writes files, and nothing to us: its silence says nothing.
        let silent = Control { patience: ONE_FILE, ..control.clone() };
        Self::program("mariadb-binlog", options, &arguments)
            .text(&silent, ONE_FILE, 1 << 20)
            .map_err(|error| self.said(error))?;
        tempfile::TempPath::try_from_path(path).map_err(Error::Spool)
    }
}

/// Looks at what is read from a file of the log.
struct Digest<R> {
    inner: R,
    context: Context,
}

impl<R> Digest<R> {
    fn hex(self) -> String {
        hex::encode(self.context.finish())
    }
}

impl<R: Read> Read for Digest<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.inner.read(buffer)?;
        self.context.update(&buffer[..taken]);
        Ok(taken)
    }
}

/// A file of the server's log, by its name there.
type Fetched = (String, tempfile::TempPath);
