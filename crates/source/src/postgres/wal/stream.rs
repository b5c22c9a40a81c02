//! One connection that streams log into the spool, timeline after timeline.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use kuramori_model::wal::Lsn;
use postgres_protocol::message::{backend::Message, frontend};

use super::{
    super::session::Session,
    place::{bytes, identify},
    spool::{Growing, Spool, State},
};
use crate::{
    Control, Error,
    config::{PostgresConfig, WalConfig},
};

/// How long written bytes may wait until they are made durable.
const SYNC: Duration = Duration::from_secs(1);
/// How often the server is told where we are and asked where it is.
const STATUS: Duration = Duration::from_secs(2);
/// How long the end of a stream is waited for when we end it.
const FAREWELL: Duration = Duration::from_secs(5);
/// The last commits before the server's word may still have been on their way to its disk.
const MARGIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);
/// Microseconds between 1970 and PostgreSQL's year 2000.
const EPOCH: i64 = 946_684_800_000_000;

/// Streams into the folder until cancelled, or until everything before `goal` is durable. Gives false if
/// somebody else is at work there.
///
/// # Errors
/// Whatever ended the stream; it is also noted in the folder's state. The caller tries again.
pub fn stream(
    config: &PostgresConfig,
    wal: &WalConfig,
    control: &Control,
    goal: Option<Lsn>,
) -> Result<bool, Error> {
    let spool = Spool::open(&wal.spool)?;
    let Some(_alone) = spool.alone()? else { return Ok(false) };
    let outcome = Stream::begin(config, wal, control, &spool, goal).and_then(Stream::run);
    match outcome {
        Err(Error::Cancelled(_)) if goal.is_none() => Ok(true),
        Err(error) => {
            if !matches!(error, Error::Spool(_)) {
                spool.trouble(&error, control.clock.now())?;
            }
            Err(error)
        }
        Ok(()) => Ok(true),
    }
}

/// Where a stream goes on.
pub(super) enum Next {
    /// The goal is reached.
    Done,
    /// The timeline ended here and another begins.
    Timeline,
}

pub(super) struct Stream<'a> {
    pub(super) wal: &'a WalConfig,
    pub(super) control: &'a Control,
    pub(super) spool: Spool,
    pub(super) session: Session,
    pub(super) goal: Option<Lsn>,
    pub(super) state: State,
    /// Behind the last byte that was written, durable or not.
    pub(super) written: Lsn,
    pub(super) growing: Option<Growing>,
    /// Everything committed before this time lies before this position.
    pub(super) claim: Option<(Lsn, Timestamp)>,
    /// Whether this stream has put a new time to what is durable.
    pub(super) promised: bool,
    /// Whether the server was asked for its time at the goal.
    pub(super) asked: bool,
    pub(super) synced: Duration,
    pub(super) told: Duration,
}

impl<'a> Stream<'a> {
    fn begin(
        config: &PostgresConfig,
        wal: &'a WalConfig,
        control: &'a Control,
        spool: &'a Spool,
        goal: Option<Lsn>,
    ) -> Result<Self, Error> {
        let mut session = Session::login(config, control)?;
        session.line.what = "the write-ahead log".into();
        let (identifier, timeline, position) = identify(&mut session)?;
        if let Some(expected) = &config.expect.system_identifier
            && *expected != identifier
        {
            return Err(Error::WrongInstance {
                server: session.line.server.clone(),
                what: "the system identifier",
                expected: expected.clone(),
                found: identifier,
            });
        }
        let size = session.setting("wal_segment_size")?;
        let segment_bytes = bytes(&size)
            .filter(|size| size.is_power_of_two() && (1 << 20..=1 << 30).contains(size))
            .ok_or_else(|| session.line.broken(format!("segments of `{size}`")))?;
        let keeps = bytes(&session.setting("max_slot_wal_keep_size")?);
        let now = control.clock.now();
        let known = spool.state()?;
        if let Some(known) = &known
            && known.system_identifier != identifier
        {
            return Err(Error::WrongInstance {
                server: session.line.server.clone(),
                what: "the system identifier of the log in the spool folder",
                expected: known.system_identifier.clone(),
                found: identifier,
            });
        }
        let fresh = known.is_none();
        // It counts as heard only with its log: a server that lets us in and sends nothing must not look well.
        let state = known.unwrap_or(State {
            system_identifier: identifier,
            segment_bytes,
            timeline,
            flushed: position.aligned(segment_bytes),
            until: None,
            server_end: position,
            seen: now,
            keeps,
            gaps: Vec::new(),
            trouble: None,
            past: 0,
        });
        let written = state.flushed;
        let boot = control.clock.boot();
        let mut stream = Self {
            wal,
            control,
            spool: spool.of(state.past)?,
            session,
            goal,
            state: State { server_end: position, keeps, ..state },
            written,
            growing: None,
            claim: None,
            promised: false,
            asked: false,
            synced: boot,
            told: boot,
        };
        stream.make_slot()?;
        if fresh && timeline > 1 {
            stream.fetch_history(timeline)?;
        }
        stream.meet(timeline, position)?;
        stream.spool.set_state(&stream.state)?;
        Ok(stream)
    }

    fn run(mut self) -> Result<(), Error> {
        loop {
            match self.copy()? {
                Next::Done => {
                    self.session.bye();
                    return Ok(());
                }
                Next::Timeline => {}
            }
        }
    }

    /// Streams the current timeline to its end, or for ever.
    fn copy(&mut self) -> Result<Next, Error> {
        let timeline = self.state.timeline;
        let from = self.state.flushed.aligned(self.state.segment_bytes);
        self.session.ask(&format!(
            "START_REPLICATION SLOT \"{}\" PHYSICAL {from} TIMELINE {timeline}",
            self.wal.slot
        ))?;
        match self.session.receive() {
            Ok(Message::CopyOutResponse(_)) => {}
            // Nothing is left on this timeline.
            Ok(Message::RowDescription(_)) => return self.turn(),
            Ok(other) => return Err(self.session.unexpected(&other, "the start of the log")),
            Err(error) => return self.refused(error),
        }
        self.written = from;
        self.growing = None;
        loop {
            let left = SYNC.saturating_sub(self.control.clock.boot().saturating_sub(self.synced));
            match self.session.receive_within(left.max(Duration::from_millis(10))) {
                Ok(Some(Message::CopyData(body))) => {
                    if !self.take(&body.into_bytes())? {
                        return self.overwritten();
                    }
                }
                Ok(Some(Message::CopyDone)) => {
                    self.sync()?;
                    self.done()?;
                    return self.turn();
                }
                Ok(Some(other)) => return Err(self.session.unexpected(&other, "log")),
                Ok(None) => self.session.line.cancelled()?,
                Err(error) => {
                    // What came before the end is worth keeping, and nobody is there to be told.
                    if let Some(growing) = &self.growing {
                        growing.sync()?;
                    }
                    self.note()?;
                    return self.refused(error);
                }
            }
            let now = self.control.clock.boot();
            if now.saturating_sub(self.synced) >= SYNC {
                self.sync()?;
            }
            if self.goal.is_some_and(|goal| goal <= self.written) && (self.claim.is_some() || !self.asked) {
                self.asked = true;
                self.sync()?;
            }
            if self.reached() {
                return self.leave();
            }
            if now.saturating_sub(self.told) >= STATUS {
                self.tell(true)?;
            }
        }
    }

    /// A position alone is not enough: a point also says until which time it has everything.
    fn reached(&self) -> bool {
        self.promised && self.goal.is_some_and(|goal| goal <= self.state.flushed)
    }

    /// One message of the stream; false if it brought other bytes than were here.
    fn take(&mut self, data: &[u8]) -> Result<bool, Error> {
        let short = || "a short message in the log's stream".to_owned();
        let number =
            |at: usize| -> Option<u64> { Some(u64::from_be_bytes(data.get(at..at + 8)?.try_into().ok()?)) };
        let now = self.control.clock.now();
        match data.first() {
            Some(b'w') => {
                let (Some(start), Some(end), Some(sent)) = (number(1), number(9), number(17)) else {
                    return Err(self.session.line.broken(short()));
                };
                if start != self.written.0 {
                    let (found, wanted) = (Lsn(start), self.written);
                    return Err(self
                        .session
                        .line
                        .broken(format!("log from {found} where {wanted} has to follow")));
                }
                if !self.write(&data[25..])? {
                    return Ok(false);
                }
                self.state.seen = now;
                self.state.server_end = self.state.server_end.max(Lsn(end));
                if self.written.0 >= end {
                    self.claim = time(sent).map(|time| (self.written, time - MARGIN));
                }
                Ok(true)
            }
            Some(b'k') => {
                let (Some(end), Some(sent), Some(wanted)) = (number(1), number(9), data.get(17)) else {
                    return Err(self.session.line.broken(short()));
                };
                self.state.seen = now;
                self.state.server_end = self.state.server_end.max(Lsn(end));
                // A stream that has only begun has sent everything, too: up to its own start.
                if end <= self.written.0 && self.state.server_end <= self.written {
                    self.claim = time(sent).map(|time| (self.written, time - MARGIN));
                }
                if *wanted != 0 {
                    self.sync()?;
                    self.tell(false)?;
                }
                Ok(true)
            }
            _ => Err(self.session.line.broken("an unknown message in the log's stream".into())),
        }
    }

    /// False if other bytes were durable there. From a segment's beginning to there they come again.
    fn write(&mut self, mut data: &[u8]) -> Result<bool, Error> {
        let bytes = self.state.segment_bytes;
        while !data.is_empty() {
            let at = self.written.0 % bytes;
            if self.growing.is_none() {
                let number = self.written.segment(bytes);
                self.growing = Some(self.spool.grow(self.state.timeline, number, bytes)?);
            }
            let Some(growing) = &self.growing else { break };
            let most = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(data.len());
            let again = self.state.flushed.0.saturating_sub(self.written.0);
            let again = usize::try_from(again).unwrap_or(usize::MAX).min(most);
            if !growing.has(at, &data[..again])? {
                return Ok(false);
            }
            growing.write(at, &data[..most])?;
            self.written = Lsn(self.written.0 + most as u64);
            data = &data[most..];
            if self.written.0.is_multiple_of(bytes) {
                if let Some(growing) = self.growing.take() {
                    self.spool.finish(&growing)?;
                }
                self.durable()?;
            }
        }
        Ok(true)
    }

    /// Makes everything that was written durable, then the note of it, and only then says so.
    fn sync(&mut self) -> Result<(), Error> {
        self.synced = self.control.clock.boot();
        if let Some(growing) = &self.growing
            && self.written > self.state.flushed
        {
            growing.sync()?;
        }
        self.durable()
    }

    fn durable(&mut self) -> Result<(), Error> {
        let new = self.note()?;
        if new || !self.promised {
            self.tell(!self.promised)?;
        }
        Ok(())
    }

    /// Writes down how far everything is durable; whether that changed.
    fn note(&mut self) -> Result<bool, Error> {
        let (mut new, until) = (self.state.flushed < self.written, self.state.until);
        self.state.flushed = self.state.flushed.max(self.written);
        if let Some((at, time)) = self.claim
            && at <= self.state.flushed
        {
            new |= self.state.until != Some(time);
            // A clock that was set back must not make what was promised smaller.
            self.state.until = self.state.until.max(Some(time));
            self.promised = true;
            self.claim = None;
        }
        // It is over when log comes again, not already when somebody lets us in.
        if (new || self.state.until > until) && self.state.trouble.take().is_some() {
            new = true;
        }
        if new {
            self.spool.set_state(&self.state)?;
        }
        Ok(new)
    }

    /// A standby's status update: written, durable, applied (nothing), our time, whether to answer.
    fn tell(&mut self, answer: bool) -> Result<(), Error> {
        self.told = self.control.clock.boot();
        let mut body = BytesMut::with_capacity(34);
        body.put_u8(b'r');
        body.put_u64(self.written.max(self.state.flushed).0);
        body.put_u64(self.state.flushed.0);
        body.put_u64(0);
        body.put_i64(self.control.clock.now().as_microsecond() - EPOCH);
        body.put_u8(u8::from(answer));
        let mut out = BytesMut::new();
        frontend::CopyData::new(body.freeze())
            .map_err(|error| Error::Config(error.to_string()))?
            .write(&mut out);
        self.session.line.send(&out)
    }

    fn done(&mut self) -> Result<(), Error> {
        let mut out = BytesMut::new();
        frontend::copy_done(&mut out);
        self.session.line.send(&out)
    }

    /// Ends the stream in order, so that the slot is free at once.
    fn leave(&mut self) -> Result<Next, Error> {
        self.farewell()?;
        Ok(Next::Done)
    }

    /// Ends the stream; whether the server is ready for the next command.
    pub(super) fn farewell(&mut self) -> Result<bool, Error> {
        self.done()?;
        let until = self.control.clock.boot() + FAREWELL;
        while self.control.clock.boot() < until {
            match self.session.receive_within(Duration::from_millis(200))? {
                Some(Message::ReadyForQuery(_)) => return Ok(true),
                _ => self.session.line.cancelled()?,
            }
        }
        Ok(false)
    }
}

/// The server's microseconds since 2000.
fn time(sent: u64) -> Option<Timestamp> {
    Timestamp::from_microsecond(i64::try_from(sent).ok()?.checked_add(EPOCH)?).ok()
}
