//! Who is connected and which sessions run: what the door's threads and the jobs share.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    time::Duration,
};

use jiff::Timestamp;
use kuramori_wire::{
    frame::send,
    line::Writer,
    message::{Message, SessionId},
    receive::{Incoming, Shelf},
    tls,
};

use super::places::Places;

/// The shared table.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    state: Mutex<State>,
    changed: Condvar,
    /// One change of the register at a time.
    pub(super) register: tokio::sync::Mutex<()>,
    /// Connections that are served.
    pub(super) places: Arc<Places>,
}

#[derive(Debug, Default)]
struct State {
    controls: HashMap<String, Control>,
    sessions: HashMap<SessionId, Arc<Handle>>,
    /// Sessions that ended well, with their last event: an agent whose line was cut just then still asks.
    finished: VecDeque<(SessionId, String, u64)>,
    tls: Option<(tls::Server, Timestamp)>,
    next: u64,
}

/// Ended sessions that are remembered.
const FINISHED: usize = 64;

#[derive(Debug)]
struct Control {
    number: u64,
    start: [u8; 16],
    writer: Writer,
}

/// A session that a job waits for.
pub(crate) struct Handle {
    pub(super) agent: String,
    start: [u8; 16],
    pub(super) mains: Mutex<SyncSender<Incoming>>,
    pub(super) shelf: Arc<dyn Shelf>,
    lanes: Mutex<Lanes>,
    over: AtomicBool,
    restarted: AtomicBool,
    declined: Mutex<Option<(String, String)>>,
}

/// The data connections of a session; each may hold a whole chunk.
struct Lanes {
    most: usize,
    next: u64,
    open: VecDeque<(u64, Writer)>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("agent", &self.agent).finish_non_exhaustive()
    }
}

impl Handle {
    /// A data connection is there. One too many takes the place of the oldest: an agent that comes back over a new
    /// line must not wait until we notice that the old one is dead.
    pub(super) fn lane_arrives(&self, writer: Writer) -> u64 {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let number = lanes.next;
        lanes.next += 1;
        lanes.open.push_back((number, writer));
        let over = lanes.open.len().saturating_sub(lanes.most);
        let over: Vec<_> = lanes.open.drain(..over).collect();
        drop(lanes);
        for (_, writer) in over {
            writer.close();
        }
        number
    }

    pub(super) fn lane_leaves(&self, number: u64) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.open.retain(|(open, _)| *open != number);
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(super) fn was_restarted(&self) -> bool {
        self.restarted.load(Ordering::Acquire)
    }

    pub(super) fn declined(&self) -> Option<(String, String)> {
        self.declined.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_connected(&self, agent: &str) -> bool {
        self.lock().controls.contains_key(agent)
    }

    /// The door's TLS, if it was made since the authorities changed and is young enough by the same clock that its
    /// certificate names: one that was made while that clock was wrong is made anew as soon as it is set.
    pub(super) fn tls(&self, now: Timestamp, most: Duration) -> Option<tls::Server> {
        let state = self.lock();
        let (server, made) = state.tls.as_ref()?;
        let age = Duration::try_from(now.duration_since(*made)).ok()?;
        (age < most).then(|| server.clone())
    }

    pub(super) fn set_tls(&self, server: tls::Server, now: Timestamp) {
        self.lock().tls = Some((server, now));
    }

    pub(super) fn forget_tls(&self) {
        self.lock().tls = None;
    }

    /// A control connection is there; the one before is closed. An agent that was started anew knows nothing of
    /// the sessions of before.
    pub(super) fn arrive(&self, agent: &str, start: [u8; 16], writer: Writer) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        let before = state.controls.insert(agent.to_owned(), Control { number, start, writer });
        for handle in state.sessions.values() {
            if handle.agent == agent && handle.start != start {
                handle.restarted.store(true, Ordering::Release);
                handle.end();
            }
        }
        drop(state);
        if let Some(before) = before {
            before.writer.close();
        }
        self.changed.notify_all();
        number
    }

    /// Whether this control connection is still the agent's.
    pub(super) fn is_current(&self, agent: &str, number: u64) -> bool {
        self.lock().controls.get(agent).is_some_and(|control| control.number == number)
    }

    pub(super) fn leave(&self, agent: &str, number: u64) {
        let mut state = self.lock();
        if state.controls.get(agent).is_some_and(|control| control.number == number) {
            state.controls.remove(agent);
        }
    }

    /// Closes an agent's control connection; a living agent comes back and is looked at anew.
    pub(super) fn drop_control(&self, agent: &str) {
        let control = self.lock().controls.remove(agent);
        if let Some(control) = control {
            control.writer.close();
        }
    }

    /// The same for all.
    pub(super) fn drop_controls(&self) {
        let all = std::mem::take(&mut self.lock().controls);
        for control in all.into_values() {
            control.writer.close();
        }
    }

    /// Ends an agent's sessions.
    pub(super) fn end_sessions(&self, agent: &str) {
        for handle in self.lock().sessions.values().filter(|handle| handle.agent == agent) {
            handle.end();
        }
    }

    /// Waits a little until the agent is there, and gives its start.
    pub(super) fn find(&self, agent: &str, wait: Duration) -> Option<[u8; 16]> {
        let state = self.lock();
        let found = |state: &State| state.controls.get(agent).map(|control| control.start);
        found(&state).or_else(|| {
            let (state, _) = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            found(&state)
        })
    }

    /// Puts a session up, before the agent is asked to begin it.
    pub(super) fn put_up(
        &self,
        session: SessionId,
        agent: &str,
        start: [u8; 16],
        lanes: u8,
        mains: SyncSender<Incoming>,
        shelf: Arc<dyn Shelf>,
    ) -> Arc<Handle> {
        let handle = Arc::new(Handle {
            agent: agent.to_owned(),
            start,
            mains: Mutex::new(mains),
            shelf,
            lanes: Mutex::new(Lanes { most: usize::from(lanes.max(1)), next: 0, open: VecDeque::new() }),
            over: AtomicBool::new(false),
            restarted: AtomicBool::new(false),
            declined: Mutex::default(),
        });
        self.lock().sessions.insert(session, handle.clone());
        handle
    }

    /// Takes a session down.
    pub(super) fn take_down(&self, session: SessionId) {
        if let Some(handle) = self.lock().sessions.remove(&session) {
            handle.end();
        }
    }

    /// A session ended well.
    pub(super) fn finish(&self, session: SessionId, agent: &str, applied: u64) {
        let mut state = self.lock();
        if state.finished.len() >= FINISHED {
            state.finished.pop_front();
        }
        state.finished.push_back((session, agent.to_owned(), applied));
    }

    /// The last event of a session of this agent that ended well.
    pub(super) fn finished(&self, session: SessionId, agent: &str) -> Option<u64> {
        let state = self.lock();
        let found = state.finished.iter().find(|(id, whose, _)| *id == session && whose == agent);
        found.map(|(_, _, applied)| *applied)
    }

    /// The session of this agent; none of another one's.
    pub(super) fn session(&self, session: SessionId, agent: &str) -> Option<Arc<Handle>> {
        self.lock().sessions.get(&session).filter(|handle| handle.agent == agent).cloned()
    }

    /// The agent does not begin it.
    pub(super) fn decline(&self, session: SessionId, agent: &str, code: String, why: String) {
        if let Some(handle) = self.session(session, agent) {
            *handle.declined.lock().unwrap_or_else(PoisonError::into_inner) = Some((code, why));
            handle.end();
        }
    }

    /// Says something to an agent; whether it could be said.
    pub(super) fn say(&self, agent: &str, message: &Message) -> bool {
        let writer = self.lock().controls.get(agent).map(|control| control.writer.clone());
        writer.is_some_and(|mut writer| send(&mut writer, message).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::{Clock, SeededRandom, SystemClock};
    use kuramori_wire::identity;

    use super::*;

    #[test]
    fn a_certificate_of_a_wrong_clock_is_made_anew_when_the_clock_is_set() {
        let (now, random) = (SystemClock.now(), SeededRandom::new(3));
        let day = Duration::from_hours(24);
        let (half, own) = (30 * day, 60 * day);
        let authority = identity::authority(1, now, 100 * day, &random).unwrap();
        let shown = identity::issue_server(&authority, now, own, &random).unwrap();
        let desk = Desk::default();
        assert!(desk.tls(now, half).is_none());
        desk.set_tls(tls::server(&[(authority.certificate, shown)]).unwrap(), now);
        for (at, good) in [
            (now, true),
            (now + 29 * day, true),
            (now + 31 * day, false),
            (now + 1000 * day, false),
            (now - day, false),
            (now - 1000 * day, false),
        ] {
            assert_eq!(desk.tls(at, half).is_some(), good, "{at}");
        }
    }
}
