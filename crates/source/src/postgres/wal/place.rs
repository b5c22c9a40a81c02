//! Where a stream stands in the log: its slot, its timeline, and what is done when the server has another one.

use kuramori_model::wal::{Gap, Lsn, forks};

use super::{
    super::session::Session,
    spool::Spool,
    stream::{Next, Stream},
};
use crate::Error;

impl Stream<'_> {
    /// The slot is there afterwards.
    pub(super) fn make_slot(&mut self) -> Result<(), Error> {
        let command = format!("CREATE_REPLICATION_SLOT \"{}\" PHYSICAL RESERVE_WAL", self.wal.slot);
        match self.session.command(&command) {
            Ok(_) => Ok(()),
            // It is there already.
            Err(Error::Server { code, .. }) if code == "42710" => self.session.ready(),
            Err(error) => Err(error),
        }
    }

    /// Finds our place on the timeline that the server is on now.
    pub(super) fn meet(&mut self, theirs: u32, position: Lsn) -> Result<(), Error> {
        let ours = self.state.timeline;
        if theirs == ours {
            return self.same_timeline(position);
        }
        if theirs < ours {
            let why = format!("the server went back from timeline {ours} to {theirs}");
            return self.lose(theirs, position, why);
        }
        for timeline in ours + 1..=theirs {
            self.fetch_history(timeline)?;
        }
        match left(&self.spool, theirs, ours) {
            Some(left) if self.state.flushed <= left => Ok(()),
            // The old server wrote on behind the fork: that part of the log leads nowhere.
            Some(left) => {
                self.spool.close(ours, self.state.flushed, self.state.segment_bytes)?;
                self.state.flushed = left.aligned(self.state.segment_bytes);
                self.state.timeline = theirs;
                self.forget_place();
                Ok(())
            }
            None => {
                let why = format!("timeline {theirs} does not come from timeline {ours}");
                self.lose(theirs, position, why)
            }
        }
    }

    /// A server that stands before what it has sent went back in its past, unless it has only begun to replay.
    fn same_timeline(&mut self, position: Lsn) -> Result<(), Error> {
        let (flushed, timeline) = (self.state.flushed, self.state.timeline);
        if position >= flushed {
            return Ok(());
        }
        if self.standby()? {
            let why = format!("the standby has replayed only to {position} and had sent log to {flushed}");
            return Err(self.session.line.lost(&why));
        }
        let why = format!("the server stands at {position} and had sent log to {flushed}: it was put back");
        self.another_past(timeline, position, why)
    }

    fn standby(&mut self) -> Result<bool, Error> {
        match self.session.setting("in_hot_standby") {
            Ok(on) => Ok(on == "on"),
            // PostgreSQL 13 has only this sign.
            Err(Error::Server { code, .. }) if code == "42704" => {
                self.session.ready()?;
                Ok(self.session.setting("transaction_read_only")? == "on")
            }
            Err(error) => Err(error),
        }
    }

    /// The server has other log under the same positions: what lies here is the end of its old past, and
    /// nothing of it is ever joined with what comes now.
    pub(super) fn another_past(&mut self, timeline: u32, position: Lsn, why: String) -> Result<(), Error> {
        let bytes = self.state.segment_bytes;
        let (from, to) = (self.state.flushed, position.aligned(bytes));
        tracing::error!(server = self.session.line.server, %from, %to, why, "the server went back in its past");
        self.spool.close(self.state.timeline, from, bytes)?;
        self.state.gaps.push(Gap {
            from,
            to,
            reached: self.state.until.take(),
            found: self.control.clock.now(),
            why,
            past: self.state.past,
        });
        self.state.past += 1;
        self.state.timeline = timeline;
        self.state.flushed = to;
        self.spool = self.spool.of(self.state.past)?;
        if timeline > 1 {
            self.fetch_history(timeline)?;
        }
        self.forget_place();
        self.spool.set_state(&self.state)
    }

    /// Everything between what we have and the server's position is lost: write it down and begin anew.
    pub(super) fn lose(&mut self, timeline: u32, position: Lsn, why: String) -> Result<(), Error> {
        let bytes = self.state.segment_bytes;
        let to = position.aligned(bytes);
        if to < self.state.flushed || timeline < self.state.timeline {
            return self.another_past(timeline, position, why);
        }
        tracing::error!(server = self.session.line.server, from = %self.state.flushed, %to, why, "write-ahead log is lost");
        self.spool.close(self.state.timeline, self.state.flushed, bytes)?;
        self.state.gaps.push(Gap {
            from: self.state.flushed,
            to,
            reached: self.state.until.take(),
            found: self.control.clock.now(),
            why,
            past: self.state.past,
        });
        self.state.timeline = timeline;
        self.state.flushed = to;
        self.forget_place();
        self.spool.set_state(&self.state)
    }

    /// The stream begins anew at the durable position, and nothing is claimed of it yet.
    pub(super) fn forget_place(&mut self) {
        self.written = self.state.flushed;
        self.growing = None;
        self.claim = None;
        self.state.until = None;
        (self.promised, self.asked) = (false, false);
    }

    /// A timeline's history file, durable. A server may have thrown away those of its ancestors.
    pub(super) fn fetch_history(&mut self, timeline: u32) -> Result<(), Error> {
        let name = format!("{timeline:08X}.history");
        if self.spool.has(&name) {
            return Ok(());
        }
        let rows = self.session.command(&format!("TIMELINE_HISTORY {timeline}"))?;
        let Some([Some(found), Some(content)]) = rows.first().map(Vec::as_slice) else {
            return Err(self.session.line.broken(format!("no history of timeline {timeline}")));
        };
        if *found != name {
            return Err(self.session.line.broken(format!("`{found}` instead of `{name}`")));
        }
        self.spool.place(&name, content.as_bytes())
    }

    /// What the server's refusal means for the log: a segment that was removed, or a slot that was overtaken,
    /// is a gap; everything else ends the stream.
    pub(super) fn refused(&mut self, error: Error) -> Result<Next, Error> {
        let Error::Server { code, message, .. } = &error else { return Err(error) };
        if !(code == "58P01" || code == "55000" && message.contains("slot")) {
            return Err(error);
        }
        let why = message.clone();
        self.session.ready()?;
        // Such a slot holds nothing any more, even where it can still be used.
        self.session.ask(&format!("DROP_REPLICATION_SLOT \"{}\"", self.wal.slot))?;
        self.session.ready()?;
        self.make_slot()?;
        self.restart(why)
    }

    pub(super) fn restart(&mut self, why: String) -> Result<Next, Error> {
        let (_, timeline, position) = identify(&mut self.session)?;
        // Twice at the same place leads nowhere.
        if self.state.gaps.last().is_some_and(|gap| gap.to == position.aligned(self.state.segment_bytes)) {
            return Err(self.session.line.lost(&why));
        }
        self.state.server_end = position;
        self.lose(timeline, position, why)?;
        Ok(Next::Timeline)
    }

    /// The stream brought other bytes than were durable here: ends it, and begins a new past.
    pub(super) fn overwritten(&mut self) -> Result<Next, Error> {
        let why = format!(
            "the server sends other log before {} than it had sent: it was put back",
            self.state.flushed
        );
        if !self.farewell()? {
            return Err(self.session.line.lost(&why));
        }
        let (_, timeline, position) = identify(&mut self.session)?;
        self.state.server_end = position;
        self.another_past(timeline, position, why)?;
        Ok(Next::Timeline)
    }

    /// The timeline that follows.
    pub(super) fn turn(&mut self) -> Result<Next, Error> {
        let rows = self.session.rows()?;
        self.session.ready()?;
        let Some([Some(next), Some(at)]) = rows.first().map(Vec::as_slice) else {
            return Err(self.session.line.lost("the server ended the stream"));
        };
        let timeline: u32 =
            next.parse().map_err(|_| self.session.line.broken(format!("timeline `{next}`")))?;
        let at = lsn(&self.session, at)?;
        if at < self.state.flushed.aligned(self.state.segment_bytes) {
            return Err(self.session.line.broken(format!("timeline {timeline} begins in the past, at {at}")));
        }
        if self.written < at {
            return Err(self.session.line.broken(format!("the log ends at {} before {at}", self.written)));
        }
        self.fetch_history(timeline)?;
        (_, _, self.state.server_end) = identify(&mut self.session)?;
        tracing::warn!(server = self.session.line.server, timeline, %at, "the server is on a new timeline");
        self.state.timeline = timeline;
        // The new timeline's segment begins with a copy of the old one's; it has to come first.
        self.state.flushed = at.aligned(self.state.segment_bytes);
        self.forget_place();
        self.spool.set_state(&self.state)?;
        Ok(Next::Timeline)
    }
}

/// Where a timeline left one of its ancestors, by its history file; none if it is none.
pub(super) fn left(spool: &Spool, timeline: u32, ancestor: u32) -> Option<Lsn> {
    let history = fs_err::read_to_string(spool.path(&format!("{timeline:08X}.history"))).ok()?;
    forks(&history).into_iter().find(|fork| fork.timeline == ancestor).map(|fork| fork.at)
}

/// The cluster's identifier, its timeline and where its log ends.
pub(super) fn identify(session: &mut Session) -> Result<(String, u32, Lsn), Error> {
    let rows = session.command("IDENTIFY_SYSTEM")?;
    let cell = |n: usize| rows.first().and_then(|row| row.get(n)?.clone()).unwrap_or_default();
    let timeline = cell(1).parse().map_err(|_| session.line.broken("no timeline".into()))?;
    Ok((cell(0), timeline, lsn(session, &cell(2))?))
}

pub(super) fn lsn(session: &Session, text: &str) -> Result<Lsn, Error> {
    text.parse().map_err(|error: kuramori_model::wal::BadLsn| session.line.broken(error.to_string()))
}

/// A setting's size as `SHOW` writes it; none for `-1`, without limit.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().ok()?;
    let shift = match text[split..].trim() {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}
