//! One run of one unit: the source on one thread, the lines on others.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use kuramori_model::{
    clock::Clock,
    fault::{Fault, chain},
};
use kuramori_repo::chunk::{Chunking, Cutter};
use kuramori_source::{Cancel, Config, Control};
use kuramori_wire::{
    Error as WireError,
    frame::{send, send_chunk},
    message::{Begin, Message, SessionId},
};

use crate::{
    AgentError, Result, files,
    link::{Endpoint, Link},
    queue::{Next, Queue},
    sink::Remote,
};

/// How long a line may be away before the session is given up.
const AWAY: Duration = Duration::from_secs(90);
/// How long the server may be silent on a line on which an answer is due.
const SILENT: Duration = Duration::from_mins(5);
/// A sign of life goes out after so long.
const PING: Duration = Duration::from_secs(10);
/// First and longest pause before a line is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// A session that runs.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

impl Session {
    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it from outside and waits.
    pub(crate) fn stop(self) {
        self.queue.fail(WireError::Cancelled.into());
        let _ = self.thread.join();
    }

    /// Whether the server takes it: its main line is there.
    pub(crate) fn stands(&self) -> bool {
        self.queue.stands()
    }

    /// Asks it to end.
    pub(crate) fn cancel(&self) {
        self.queue.fail(WireError::Cancelled.into());
    }
}

/// Begins to read a unit.
pub(crate) fn start(endpoint: &Endpoint, begin: Begin, unit: &Config, memory: usize) -> Result<Session> {
    let source = kuramori_source::open_with(unit, files::open)?;
    let cutter = match <[u64; 256]>::try_from(begin.table.as_slice()) {
        Ok(table) => Cutter::with_table(Chunking::Content, table),
        Err(_) if begin.table.is_empty() => Cutter::with_table(Chunking::Fixed, [0; 256]),
        Err(_) => {
            let why = format!("a table of {} numbers", begin.table.len());
            return Err(WireError::Protocol(why).into());
        }
    };
    let lanes = usize::from(begin.lanes.clamp(1, 8));
    let credit = (begin.credit as usize).clamp(1 << 20, 64 << 20);
    let cancel = Cancel::default();
    let queue = Arc::new(Queue::new(memory, credit, lanes, cancel.clone()));
    let id = begin.session;
    let control = Control { clock: endpoint.clock.clone(), cancel, ..Control::default() };
    let (line, queue_) = (endpoint.clone(), queue.clone());
    let thread = spawn("agent-session", move || {
        let mut threads = Vec::new();
        let keep = |thread: Result<JoinHandle<()>>, threads: &mut Vec<JoinHandle<()>>| match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => queue_.fail(error),
        };
        let (one, shared) = (line.clone(), queue_.clone());
        keep(spawn("agent-main", move || main_line(&one, &shared, id)), &mut threads);
        for lane in 0..lanes {
            let (one, shared) = (line.clone(), queue_.clone());
            keep(spawn("agent-lane", move || data_line(&one, &shared, id, lane)), &mut threads);
        }
        let mut sink = Remote::new(queue_.clone(), cutter, begin.parent);
        let outcome = source.read(&mut sink, &control);
        let said = match &outcome {
            Ok(report) => {
                let ended = serde_json::to_string(report).map(|report| sink.end(report));
                match ended {
                    Ok(Err(error @ AgentError::TooLarge { .. })) => {
                        sink.failed(error.code().to_owned(), &chain(&error))
                    }
                    Ok(said) => said,
                    Err(error) => sink.failed("agent.report".to_owned(), &error.to_string()),
                }
            }
            Err(error) => sink.failed(error.code().to_owned(), &chain(error)),
        };
        let (sent, read) = queue_.traffic();
        let unit = &begin.unit;
        match (outcome, said, queue_.failure()) {
            (_, _, Some(error)) => {
                tracing::error!(unit, code = error.code(), "the session failed: {}", chain(&error));
            }
            (Err(error), _, None) => {
                tracing::error!(unit, code = error.code(), "the source failed: {}", chain(&error));
            }
            (Ok(_), Err(error), None) => {
                tracing::error!(unit, code = error.code(), "the session failed: {}", chain(&error));
            }
            (Ok(report), Ok(()), None) => tracing::info!(
                unit,
                files = report.files,
                kept = report.kept,
                bytes = report.bytes,
                read,
                sent,
                "everything is with the server"
            ),
        }
        // Whoever still waits on a line sees that it is over.
        queue_.fail(WireError::Cancelled.into());
        for thread in threads {
            let _ = thread.join();
        }
    })?;
    Ok(Session { id, queue, thread })
}

pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(AgentError::Start)
}

/// How one connection of a line went.
#[derive(Debug, Default)]
struct Stand {
    /// It was there and was not refused: an idle line is away only from its end on.
    stood: bool,
    /// It did what it is for.
    worked: bool,
}

/// Brings a line back as long as the session goes on. `once` runs over one connection.
fn keep_up(endpoint: &Endpoint, queue: &Queue, once: &mut dyn FnMut(&mut Stand) -> Result<()>) {
    let mut since = endpoint.clock.boot();
    let mut pause = PAUSE.0;
    while queue.going() {
        let mut stand = Stand::default();
        let outcome = once(&mut stand);
        if stand.stood {
            since = endpoint.clock.boot();
        }
        if stand.worked {
            pause = PAUSE.0;
        }
        let Err(error) = outcome else { continue };
        let line = matches!(&error, AgentError::Wire(error) if error.is_line());
        if !line || endpoint.clock.boot().saturating_sub(since) >= AWAY {
            return queue.fail(error);
        }
        if queue.going() {
            tracing::warn!("a line is brought back: {}", chain(&error));
            endpoint.clock.sleep(pause);
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

fn patient<'a>(queue: &'a Queue, clock: &'a dyn Clock) -> impl FnMut(bool) -> kuramori_wire::Result<()> + 'a {
    let mut heard = clock.boot();
    move |came| {
        if !queue.going() {
            return Err(WireError::Cancelled);
        }
        if came {
            heard = clock.boot();
        }
        let silent = clock.boot().saturating_sub(heard);
        if silent >= SILENT { Err(WireError::Silent { seconds: silent.as_secs() }) } else { Ok(()) }
    }
}

fn main_line(endpoint: &Endpoint, queue: &Arc<Queue>, session: SessionId) {
    keep_up(endpoint, queue, &mut |stand| {
        let Link { mut reader, mut writer } = endpoint.open(&Message::Main { session })?;
        let mut tick = patient(queue, endpoint.clock.as_ref());
        let applied = match reader.message(&mut tick)? {
            Message::Applied { number } => number,
            other => {
                let why = format!("{} at the beginning", kuramori_wire::receive::name(&other));
                return Err(WireError::Protocol(why).into());
            }
        };
        *stand = Stand { stood: true, worked: true };
        let line = queue.main_begins(applied)?;
        let shared = queue.clone();
        let closer = writer.clone();
        let sender = spawn("agent-main-send", move || {
            loop {
                let message = match shared.main_next(line, PING) {
                    Next::Send(message) => message,
                    Next::Idle => Message::Ping,
                    Next::Over => break,
                };
                if let Err(error) = send(&mut writer, &message) {
                    if !error.is_line() {
                        // No other line would take it either.
                        shared.fail(error.into());
                    }
                    break;
                }
            }
            // The reading end notices.
            writer.close();
        })?;
        let outcome = loop {
            match reader.message(&mut tick) {
                Ok(message) => {
                    if let Err(error) = queue.main_heard(message) {
                        break Err(error);
                    }
                    if !queue.going() {
                        break Ok(());
                    }
                }
                Err(error) => break Err(error.into()),
            }
        };
        closer.close();
        // What was sent on this line and not answered is sent on the next one.
        queue.line_over(line);
        let _ = sender.join();
        if queue.going() { outcome } else { Ok(()) }
    });
}

fn data_line(endpoint: &Endpoint, queue: &Arc<Queue>, session: SessionId, lane: usize) {
    keep_up(endpoint, queue, &mut |stand| {
        queue.lane_begins(lane);
        let Link { mut reader, mut writer } = endpoint.open(&Message::Lane { session })?;
        stand.stood = true;
        let (shared, clock) = (queue.clone(), endpoint.clock.clone());
        let closer = writer.clone();
        let over = kuramori_source::Cancel::default();
        let stop = over.clone();
        let sender = spawn("agent-lane-send", move || {
            let mut number = 0;
            let mut said = clock.boot();
            while shared.going() && !stop.is_cancelled() {
                let sent = match shared.lane_next(lane, number, Duration::from_millis(400)) {
                    Some(held) => {
                        number += 1;
                        said = clock.boot();
                        let length = u32::try_from(held.bytes.len()).unwrap_or(u32::MAX);
                        if held.bytes.iter().all(|byte| *byte == 0) {
                            send(&mut writer, &Message::Zeros { number: number - 1, length })
                        } else {
                            send_chunk(&mut writer, number - 1, &held.bytes)
                        }
                    }
                    // A firewall forgets a connection on which nothing moves.
                    None if clock.boot().saturating_sub(said) >= PING => {
                        said = clock.boot();
                        send(&mut writer, &Message::Ping)
                    }
                    None => Ok(()),
                };
                if sent.is_err() {
                    break;
                }
            }
            writer.close();
        })?;
        let mut tick = patient(queue, endpoint.clock.as_ref());
        let outcome = loop {
            // Nothing has to come while nothing is under way.
            match reader.message(&mut |came| tick(came || !queue.lane_waits(lane))) {
                Ok(Message::Stored { number, id }) => {
                    stand.worked = true;
                    if let Err(error) = queue.lane_stored(lane, number, id) {
                        break Err(error);
                    }
                }
                Ok(Message::Ping) => {}
                Ok(other) => {
                    let why = format!("{} on a data line", kuramori_wire::receive::name(&other));
                    break Err(WireError::Protocol(why).into());
                }
                // Whether the session is over is the main line's to say.
                Err(WireError::Refused { code, why }) if code == "no-session" => {
                    stand.stood = false;
                    break Err(WireError::Broken(why).into());
                }
                Err(error) => break Err(error.into()),
            }
        };
        over.cancel();
        closer.close();
        let _ = sender.join();
        if queue.going() { outcome } else { Ok(()) }
    });
}

#[cfg(test)]
mod tests;
