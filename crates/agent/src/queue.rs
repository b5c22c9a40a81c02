//! What is under way in one session, shared by the thread that reads the source and those of the lines.
//!
//! ```text
//! chunk ─▶ batch ─Have?─▶ asked ─┬─ known ──────────────────────────▶ released
//!                                └─ missing ─▶ to send ─▶ lane n ─Stored─▶ released
//! event ─▶ queue, in order; ready when all its chunks are released ─▶ sent ─Applied─▶ forgotten
//! ```
//!
//! Nothing leaves before it is acknowledged, so a line that was cut goes on where the server stands. The bytes
//! that wait are bounded by the budget; who reads the source waits for room.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kuramori_wire::{
    Error as WireError,
    frame::encode,
    identity::fingerprint,
    message::{Event, FOLDER_MAX, HAVE_MAX, Id, Known, MESSAGE_MAX, Message, PART_MAX},
};

use crate::{AgentError, Result};

/// A batch of this many bytes is asked for at once.
const BATCH: usize = 4 << 20;
/// What a chunk costs besides its bytes.
const OVERHEAD: usize = 256;
/// Bytes of events that may wait.
const EVENTS: usize = 8 << 20;
/// Largest event before content is added to it.
const EVENT_MAX: usize = MESSAGE_MAX - PART_MAX * size_of::<Id>() - 64;
/// Bytes of one folder's listing that are kept: [`FOLDER_MAX`] names of the longest kind.
const LISTING_BYTES: usize = 72 << 20;
/// How long anybody sleeps without looking.
const TURN: Duration = Duration::from_millis(200);

/// A chunk that waits for the server.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) id: Id,
    pub(crate) bytes: Arc<Vec<u8>>,
}

#[derive(Debug)]
struct Queued {
    event: Event,
    cost: usize,
    /// Chunks that the server does not have yet.
    waiting: usize,
    /// More may be added.
    open: bool,
}

#[derive(Debug)]
struct Folder {
    number: u64,
    path: Vec<u8>,
    items: Vec<Known>,
    /// What they take.
    bytes: usize,
    done: bool,
}

#[derive(Debug, Default)]
struct Lane {
    under_way: VecDeque<(u64, Held)>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    failure: Option<AgentError>,
    failed: bool,
    held: usize,
    batch: Vec<Held>,
    batch_bytes: usize,
    asked: VecDeque<(u64, Vec<Held>)>,
    asked_count: u64,
    to_send: VecDeque<Held>,
    /// Of each chunk that is under way, the events that wait for it: equal content travels once.
    waiting: HashMap<Id, Vec<u64>>,
    events: VecDeque<Queued>,
    events_cost: usize,
    /// Number of the first event in the queue.
    first: u64,
    folder: Option<Folder>,
    folders: u64,
    lanes: Vec<Lane>,
    /// Whether the main line is there.
    stands: bool,
    /// What was sent over the main line that is there now.
    line: u64,
    sent_event: u64,
    sent_have: u64,
    sent_folder: u64,
    ended: bool,
    /// Bytes of chunks that were really sent.
    sent: u64,
    asked_bytes: u64,
}

/// The shared state of a session.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    budget: usize,
    credit: usize,
    /// Ends the source when the session cannot go on.
    cancel: kuramori_source::Cancel,
}

/// What the main line sends next.
#[expect(clippy::large_enum_variant, reason = "one of them exists per line")]
pub(crate) enum Next {
    Send(Message),
    Idle,
    /// Another line has taken over, or the session is over.
    Over,
}

impl Queue {
    pub(crate) fn new(budget: usize, credit: usize, lanes: usize, cancel: kuramori_source::Cancel) -> Self {
        let mut state = State { first: 1, ..State::default() };
        state.lanes.resize_with(lanes, Lane::default);
        Self { state: Mutex::new(state), wake: Condvar::new(), budget, credit, cancel }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.wake.wait_timeout(state, TURN).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Ends the session with its first cause.
    pub(crate) fn fail(&self, error: AgentError) {
        let mut state = self.lock();
        if !state.failed && !state.ended {
            state.failed = true;
            state.failure = Some(error);
        }
        drop(state);
        self.cancel.cancel();
        self.wake.notify_all();
    }

    /// What ended it, once.
    pub(crate) fn failure(&self) -> Option<AgentError> {
        self.lock().failure.take()
    }

    /// Whether lines are still needed.
    pub(crate) fn going(&self) -> bool {
        let state = self.lock();
        !state.failed && !state.ended
    }

    /// Whether the main line is there and the session goes on.
    pub(crate) fn stands(&self) -> bool {
        let state = self.lock();
        state.stands && !state.failed
    }

    /// Bytes of chunks that were sent and that were asked for.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        let state = self.lock();
        (state.sent, state.asked_bytes)
    }

    // ---- the reading side ----

    /// Waits until there is room for so many bytes of content.
    fn room<'a>(&'a self, mut state: MutexGuard<'a, State>, cost: usize) -> Result<MutexGuard<'a, State>> {
        loop {
            if state.failed {
                return Err(WireError::Cancelled.into());
            }
            let full = state.held > 0 && state.held + cost > self.budget;
            if !full && state.events_cost < EVENTS {
                return Ok(state);
            }
            // Nobody else would ever ask for what lies in the batch.
            state.ask();
            self.wake.notify_all();
            state = self.wait(state);
        }
    }

    /// Puts a whole event.
    ///
    /// # Errors
    /// [`AgentError::TooLarge`] if no line could carry it; then nothing was put.
    pub(crate) fn put(&self, event: Event) -> Result<()> {
        self.begin(event).map(|number| self.close(number, true))
    }

    /// Puts an event to which content will be added; gives its number.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub(crate) fn begin(&self, event: Event) -> Result<u64> {
        let event = fitting(event)?;
        let mut state = self.room(self.lock(), 0)?;
        let number = state.first + state.events.len() as u64;
        let cost = cost(&event);
        state.events_cost += cost;
        state.events.push_back(Queued { event, cost, waiting: 0, open: true });
        Ok(number)
    }

    /// Adds a chunk to an open event; gives the event that the next chunk belongs to.
    pub(crate) fn chunk(&self, number: u64, bytes: Vec<u8>) -> Result<u64> {
        let id = fingerprint(&bytes);
        let cost = bytes.len() + OVERHEAD;
        let mut state = self.room(self.lock(), cost)?;
        state.asked_bytes += bytes.len() as u64;
        let waiting = state.waiting.entry(id).or_default();
        let fresh = waiting.is_empty();
        waiting.push(number);
        if fresh {
            state.held += cost;
            state.batch_bytes += cost;
            state.batch.push(Held { id, bytes: Arc::new(bytes) });
        }
        let mut part = 0;
        if let Some(queued) = state.event(number) {
            queued.waiting += 1;
            queued.cost += 32;
            if let Event::File { content, .. } | Event::Content { content, .. } = &mut queued.event {
                content.push(id);
                part = content.len();
            }
        }
        state.events_cost += 32;
        if state.batch_bytes >= BATCH || state.batch.len() >= HAVE_MAX {
            state.ask();
            self.wake.notify_all();
        }
        drop(state);
        if part < PART_MAX {
            return Ok(number);
        }
        self.close(number, false);
        self.begin(Event::Content { content: Vec::new(), done: false })
    }

    /// Nothing more is added to an event; `done` says that it ends its file.
    pub(crate) fn close(&self, number: u64, done: bool) {
        let mut state = self.lock();
        if let Some(queued) = state.event(number) {
            queued.open = false;
            if let Event::File { done: last, .. } | Event::Content { done: last, .. } = &mut queued.event {
                *last = done;
            }
        }
        drop(state);
        self.wake.notify_all();
    }

    /// Asks what the previous restore point holds in a folder, and waits for the answer.
    pub(crate) fn folder(&self, path: &[u8]) -> Result<Vec<Known>> {
        let mut state = self.lock();
        state.folders += 1;
        let number = state.folders;
        state.folder = Some(Folder { number, path: path.to_vec(), items: Vec::new(), bytes: 0, done: false });
        self.wake.notify_all();
        loop {
            if state.failed {
                return Err(WireError::Cancelled.into());
            }
            if state.folder.as_ref().is_some_and(|folder| folder.done) {
                return Ok(state.folder.take().map(|folder| folder.items).unwrap_or_default());
            }
            state = self.wait(state);
        }
    }

    /// Waits until the server has applied everything.
    pub(crate) fn finish(&self) -> Result<()> {
        let mut state = self.lock();
        state.ask();
        self.wake.notify_all();
        loop {
            if state.failed {
                return Err(WireError::Cancelled.into());
            }
            if state.ended {
                return Ok(());
            }
            state = self.wait(state);
        }
    }

    // ---- the main line ----

    /// A main line that the server greeted with what it has applied; gives the line's number.
    pub(crate) fn main_begins(&self, applied: u64) -> Result<u64> {
        let mut state = self.lock();
        state.forget(applied)?;
        state.line += 1;
        state.stands = true;
        // What was not answered on the line before is asked again.
        (state.sent_event, state.sent_have, state.sent_folder) = (applied, 0, 0);
        if let Some(folder) = &mut state.folder
            && !folder.done
        {
            folder.items.clear();
            folder.bytes = 0;
        }
        let line = state.line;
        drop(state);
        self.wake.notify_all();
        Ok(line)
    }

    /// A main line broke: whoever sends on it stops.
    pub(crate) fn line_over(&self, line: u64) {
        let mut state = self.lock();
        if state.line == line {
            state.line += 1;
            state.stands = false;
        }
        drop(state);
        self.wake.notify_all();
    }

    /// Takes what is to be sent next, waiting for at most `patience`.
    pub(crate) fn main_next(&self, line: u64, patience: Duration) -> Next {
        let mut state = self.lock();
        let mut turns = patience.as_millis().div_ceil(TURN.as_millis());
        loop {
            if state.failed || state.ended || state.line != line {
                return Next::Over;
            }
            if let Some(folder) = state.folder.as_ref().filter(|folder| folder.number > state.sent_folder) {
                let (number, path) = (folder.number, folder.path.clone());
                state.sent_folder = number;
                return Next::Send(Message::Folder { number, path });
            }
            let sent = state.sent_have;
            if let Some((number, held)) = state.asked.iter().find(|(number, _)| *number > sent) {
                let (number, ids) = (*number, held.iter().map(|held| held.id).collect());
                state.sent_have = number;
                return Next::Send(Message::Have { number, ids });
            }
            let number = state.sent_event + 1;
            if let Some(queued) = state.event(number).filter(|queued| !queued.open && queued.waiting == 0) {
                let event = queued.event.clone();
                state.sent_event = number;
                return Next::Send(Message::Event { number, event });
            }
            if turns == 0 {
                return Next::Idle;
            }
            turns -= 1;
            // What lies in the batch must not wait for the next file.
            if state.asked.is_empty() && state.to_send.is_empty() {
                state.ask();
                if !state.asked.is_empty() {
                    continue;
                }
            }
            state = self.wait(state);
        }
    }

    /// Takes an answer.
    pub(crate) fn main_heard(&self, message: Message) -> Result<()> {
        let mut state = self.lock();
        match message {
            Message::Applied { number } => {
                if number > state.sent_event {
                    return Err(protocol(format!("event {number} is acknowledged and was never sent")));
                }
                state.forget(number)?;
            }
            Message::Missing { number, bits } => {
                let sent = state.sent_have;
                let expected = state.asked.front().filter(|(asked, _)| *asked == number && number <= sent);
                let Some(length) = expected.map(|(_, held)| held.len()) else {
                    return Err(protocol("an answer about chunks that were not asked for".to_owned()));
                };
                if bits.len() != length.div_ceil(8) {
                    return Err(protocol(format!("{} bytes of bits for {length} chunks", bits.len())));
                }
                let Some((_, held)) = state.asked.pop_front() else { return Ok(()) };
                for (place, held) in held.into_iter().enumerate() {
                    if bits[place / 8] & (1 << (place % 8)) == 0 {
                        state.release(&held);
                    } else {
                        state.to_send.push_back(held);
                    }
                }
            }
            Message::Listing { number, items, more } => {
                let Some(folder) =
                    state.folder.as_mut().filter(|folder| folder.number == number && !folder.done)
                else {
                    return Err(protocol("a listing that was not asked for".to_owned()));
                };
                folder.bytes += items.iter().map(|item| item.name.len() + size_of::<Known>()).sum::<usize>();
                let most = folder.items.len() + items.len() > FOLDER_MAX || folder.bytes > LISTING_BYTES;
                if most || (items.is_empty() && more) {
                    return Err(protocol("a listing without end".to_owned()));
                }
                folder.items.extend(items);
                folder.done = !more;
            }
            Message::Ping => {}
            other => {
                return Err(protocol(format!("{} in a session", kuramori_wire::receive::name(&other))));
            }
        }
        drop(state);
        self.wake.notify_all();
        Ok(())
    }

    // ---- data lines ----

    /// A data line is there anew: what was under way on it goes out again.
    pub(crate) fn lane_begins(&self, lane: usize) {
        let mut state = self.lock();
        let Some(place) = state.lanes.get_mut(lane) else { return };
        place.bytes = 0;
        let back = std::mem::take(&mut place.under_way);
        for (_, held) in back.into_iter().rev() {
            state.to_send.push_front(held);
        }
        drop(state);
        self.wake.notify_all();
    }

    /// The next chunk for a data line, within its credit; none when it is over or nothing came for `patience`.
    pub(crate) fn lane_next(&self, lane: usize, number: u64, patience: Duration) -> Option<Held> {
        let mut state = self.lock();
        let mut turns = patience.as_millis().div_ceil(TURN.as_millis());
        loop {
            if state.failed || state.ended || turns == 0 {
                return None;
            }
            let length = state.to_send.front().map(|held| held.bytes.len());
            let free = state.lanes.get(lane).map(|lane| (lane.bytes, lane.under_way.is_empty()));
            if let (Some(length), Some((bytes, empty))) = (length, free)
                && (empty || bytes + length <= self.credit)
                && let Some(held) = state.to_send.pop_front()
            {
                state.sent += length as u64;
                let place = &mut state.lanes[lane];
                place.bytes += length;
                place.under_way.push_back((number, held.clone()));
                return Some(held);
            }
            turns -= 1;
            state = self.wait(state);
        }
    }

    /// Whether an answer is due on a data line.
    pub(crate) fn lane_waits(&self, lane: usize) -> bool {
        self.lock().lanes.get(lane).is_some_and(|lane| !lane.under_way.is_empty())
    }

    /// The server has stored a chunk and says under which id.
    pub(crate) fn lane_stored(&self, lane: usize, number: u64, id: Id) -> Result<()> {
        let mut state = self.lock();
        let Some(place) = state.lanes.get_mut(lane) else { return Ok(()) };
        match place.under_way.front() {
            Some((expected, held)) if *expected == number => {
                if held.id != id {
                    return Err(AgentError::WrongHash);
                }
            }
            _ => return Err(protocol(format!("chunk {number} is acknowledged out of turn"))),
        }
        if let Some((_, held)) = place.under_way.pop_front() {
            place.bytes = place.bytes.saturating_sub(held.bytes.len());
            state.release(&held);
        }
        drop(state);
        self.wake.notify_all();
        Ok(())
    }
}

impl State {
    fn event(&mut self, number: u64) -> Option<&mut Queued> {
        let place = number.checked_sub(self.first)?;
        self.events.get_mut(usize::try_from(place).ok()?)
    }

    /// Moves the batch to what is asked for.
    fn ask(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.batch_bytes = 0;
        self.asked_count += 1;
        let batch = std::mem::take(&mut self.batch);
        self.asked.push_back((self.asked_count, batch));
    }

    /// The server has this chunk.
    fn release(&mut self, held: &Held) {
        self.held = self.held.saturating_sub(held.bytes.len() + OVERHEAD);
        for number in self.waiting.remove(&held.id).unwrap_or_default() {
            if let Some(queued) = self.event(number) {
                queued.waiting = queued.waiting.saturating_sub(1);
            }
        }
    }

    /// Everything up to `number` is applied.
    fn forget(&mut self, number: u64) -> Result<()> {
        if number + 1 < self.first || number >= self.first + self.events.len() as u64 {
            return Err(protocol(format!("event {number} is acknowledged and is not under way")));
        }
        while self.first <= number {
            let Some(queued) = self.events.pop_front() else { break };
            self.first += 1;
            self.events_cost = self.events_cost.saturating_sub(queued.cost);
            self.ended |= matches!(queued.event, Event::End { .. } | Event::Failed { .. });
        }
        Ok(())
    }
}

fn cost(event: &Event) -> usize {
    match event {
        Event::Keep { folder, places } => 200 + folder.len() + places.len() * 8,
        Event::Item(_) | Event::File { .. } => 1000,
        _ => 200,
    }
}

/// The event, if a message can carry it together with the content that may be added.
fn fitting(event: Event) -> Result<Event> {
    let message = Message::Event { number: u64::MAX, event };
    let bytes = encode(&message).map_or(usize::MAX, |frame| frame.len());
    match message {
        Message::Event { event, .. } if bytes <= EVENT_MAX => Ok(event),
        _ => Err(AgentError::TooLarge { most: EVENT_MAX }),
    }
}

fn protocol(why: String) -> AgentError {
    WireError::Protocol(why).into()
}

#[cfg(test)]
mod tests;
