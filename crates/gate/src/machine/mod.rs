//! The gate as a pure function: `(gate, event) → (gate, actions)`.
//!
//! No clock, no device, no disk in here; time comes with each event. The same function runs in the daemon
//! and in the simulation that lies, loses, repeats and crashes (`tests/simulation.rs`).
//!
//! What holds, by number of the specification: **I1** nothing opens without a verified, unexpired, unused
//! token and a lease; **I2** a window ends at the least of its deadline and both budgets, on boot time;
//! **I3** a renewal carries the time after which it must not be done, and only a layer that was commanded open
//! in this window is renewed; **I6** `Done` only paces, evidence is
//! what was *read back after* the closing command; **I7** closed is proven by every layer's read-back and a
//! failed probe and flat counters, all fresher than 15 s; **I8** closing waits for nothing; **I9** boot is
//! closed; **I12** no layer is commanded open before `Logged`; **I14** a lower epoch or a used window number
//! is refused.

mod admit;
mod open;
mod proof;
mod step;
mod window;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
};

use jiff::Timestamp;
use kuramori_model::{
    gate::{
        BootId, CloseReason, GateState, Layer, LayerObservation, Purpose, Seen, SignedRelease, SignedToken,
        VerifyingKey, WindowRecord, WindowToken,
    },
    ids::WindowId,
};
use serde::{Deserialize, Serialize};

use crate::{actuator::Lease, fault::Refusal};
pub use step::transition;
use window::Trace;

/// A flow that may ever be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// What for.
    pub purpose: Purpose,
    /// Who begins it.
    pub source: Ipv4Addr,
    /// Whom it reaches.
    pub peer: SocketAddrV4,
}

/// What does not change while the gate runs. Times are milliseconds of boot time.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The configured layers, from the inside out.
    pub layers: Vec<Layer>,
    /// Those whose dead-man was tested on this very device.
    pub dead_man_tested: Vec<Layer>,
    /// The vault's keys.
    pub keys: Vec<VerifyingKey>,
    /// The officers' keys.
    pub officers: Vec<VerifyingKey>,
    /// How many officers a release needs.
    pub quorum: usize,
    /// The flows that a token may name.
    pub flows: Vec<Flow>,
    /// This boot.
    pub boot_id: BootId,
    /// The lease's time to live in seconds, at most 3.
    pub ttl_s: u32,
    /// Every layer that closes by itself unless it is renewed, and the time between its renewals.
    pub renewals: BTreeMap<Layer, u64>,
    /// The observer's "ok" must be younger.
    pub seen_ms: u64,
    /// Opening takes at most this long.
    pub opening_ms: u64,
    /// Proof of closed takes at most this long.
    pub verify_ms: u64,
    /// Evidence must be younger.
    pub fresh_ms: u64,
    /// Read-backs of a gate at rest come this often.
    pub recheck_ms: u64,
    /// The exposures may differ by this much.
    pub grain_ms: u64,
    /// Seconds of open path within 24 hours.
    pub daily_budget_s: u64,
}

impl Policy {
    /// The specification's numbers, with nothing and nobody allowed yet.
    pub fn new(boot_id: BootId) -> Self {
        Self {
            layers: vec![Layer::A],
            dead_man_tested: Vec::new(),
            keys: Vec::new(),
            officers: Vec::new(),
            quorum: 2,
            flows: Vec::new(),
            boot_id,
            ttl_s: 3,
            renewals: BTreeMap::from([(Layer::A, 1000)]),
            seen_ms: 2000,
            opening_ms: 30_000,
            verify_ms: 10_000,
            fresh_ms: 15_000,
            recheck_ms: 4000,
            grain_ms: 500,
            daily_budget_s: 3600,
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Boot time in milliseconds.
    pub at: u64,
    /// Wall clock, for records.
    pub wall: Timestamp,
    /// What.
    pub what: What,
}

/// A latch that outlives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Latch {
    /// The incident's number.
    pub incident: u64,
    /// True: somebody locked the gate. False: closed could not be proven.
    pub lockdown: bool,
    /// Why.
    pub reason: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// The program started, and this is what its log remembers.
    Start {
        /// The highest epoch taken.
        epoch: u64,
        /// The highest window taken.
        last_window: WindowId,
        /// The highest incident.
        incident: u64,
        /// The latch that nobody released.
        latch: Option<Latch>,
    },
    /// Time passed.
    Tick,
    /// The observer spoke.
    Seen(Seen),
    /// A layer was read back.
    Observed(LayerObservation),
    /// A command was taken. Paces, proves nothing.
    Done(Layer, Kind),
    /// A command failed.
    Failed(Layer, Kind, String),
    /// The entry of a taken token is on the disk, or could not be written.
    Logged(WindowId, Result<(), String>),
    /// A token, and the milliseconds of open path within the last 24 hours.
    Open(Box<SignedToken>, u64),
    /// No new files.
    Drain,
    /// Close.
    Close(CloseReason),
    /// Close and latch.
    Lockdown(String),
    /// Unlatch.
    Release(Option<Box<SignedRelease>>),
}

/// The kind of a command, for its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`Command::Close`].
    Close,
    /// [`Command::Open`].
    Open,
    /// [`Command::Renew`].
    Renew,
}

/// What a layer is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Close.
    Close,
    /// Open for this flow.
    Open {
        /// The flow.
        lease: Lease,
        /// Not done after this boot time in milliseconds.
        not_after: u64,
    },
    /// Renew the lease.
    Renew {
        /// The flow.
        lease: Lease,
        /// Not done after this boot time in milliseconds.
        not_after: u64,
    },
    /// Read back.
    Observe,
}

/// A line of the gate's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// A token was taken; on the disk before anything opens.
    Accepted {
        /// The token.
        token: Box<WindowToken>,
        /// Its hash.
        hash: String,
    },
    /// The state changed.
    Transition {
        /// From.
        from: String,
        /// To.
        to: Box<GateState>,
    },
    /// A latch that outlives a restart.
    Latched(Latch),
    /// Officers released it.
    Released {
        /// The incident.
        incident: u64,
        /// Their words.
        reason: String,
        /// Their keys.
        officers: Vec<VerifyingKey>,
    },
    /// A window ended.
    Window {
        /// All that is kept of it. Nested, because it has a `boot_id` of its own.
        record: Box<WindowRecord>,
    },
    /// Something that a person must know.
    Alarm {
        /// In words.
        text: String,
    },
}

/// What to do now, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Tell a layer.
    Command(Layer, Command),
    /// Write to the log. If the window is given, answer with [`What::Logged`].
    Log(Entry, Option<WindowId>),
    /// The request is taken.
    Accept,
    /// The request changed nothing.
    Refuse(Refusal),
}

/// The gate: its state and what it remembers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gate {
    /// Where it is.
    pub phase: GateState,
    /// The newest read-back of each layer.
    pub layers: BTreeMap<Layer, LayerObservation>,
    /// The observer's newest word.
    pub seen: Option<Seen>,
    /// The run of the observer that spoke before the present one.
    former_observer: Option<u64>,
    /// Another observer that speaks at the same time: its run, and the boot time of its last word.
    other_observer: Option<(u64, u64)>,
    /// Alarms since the last window was taken or the last release.
    pub alarms: Vec<String>,
    /// The highest epoch taken.
    pub epoch: u64,
    /// The highest window taken.
    pub last_window: WindowId,
    /// The highest incident.
    pub incident: u64,
    /// Boot time of the newest closing: only what was seen after it proves anything.
    closed_at: u64,
    /// Since when the observer's counters stand still.
    still: Option<proof::Still>,
    /// The window in progress, until its record is written.
    window: Option<Trace>,
    /// Layers that have not yet reported on their closing command.
    pending: BTreeSet<Layer>,
    next_look: u64,
    next_retry: u64,
    /// When each layer with a lease that was commanded open in this window is renewed next.
    next_renew: BTreeMap<Layer, u64>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            phase: GateState::Boot {},
            layers: BTreeMap::new(),
            seen: None,
            former_observer: None,
            other_observer: None,
            alarms: Vec::new(),
            epoch: 0,
            last_window: WindowId(0),
            incident: 0,
            closed_at: 0,
            still: None,
            window: None,
            pending: BTreeSet::new(),
            next_look: 0,
            next_retry: 0,
            next_renew: BTreeMap::new(),
        }
    }
}
