//! What was seen of the layers, and what is kept of each window.

use std::net::{Ipv4Addr, SocketAddrV4};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Layer, Purpose};
use crate::ids::WindowId;

/// What a read-back says. There is no "probably closed".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerState {
    /// Read back as closed.
    Closed,
    /// Read back as open.
    Open,
    /// No answer, an error, or something that we do not understand: counts as open.
    Unknown,
}

/// One read-back of one layer. The reply to a command is never one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LayerObservation {
    /// Which layer.
    pub layer: Layer,
    /// Who was asked: `nftables`, `sw-b1 port1.0.5`.
    pub source: String,
    /// What it said.
    pub state: LayerState,
    /// The reading in words, for evidence: `ifAdminStatus 2, ifOperStatus 2`.
    pub detail: String,
    /// Wall clock, for people.
    pub at: Timestamp,
    /// Milliseconds of `CLOCK_BOOTTIME` at which the read-back *began*.
    pub boot_ms: u64,
}

/// How [`CloseReason::AccidentalPath`] is written in an alarm.
pub const ACCIDENTAL_PATH: &str = "accidental_path";

/// Why a window ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "because", rename_all = "snake_case")]
pub enum CloseReason {
    /// Somebody asked; normally the vault after its last file.
    Asked {
        /// The caller's words.
        reason: String,
    },
    /// The approved seconds were used up.
    Deadline {},
    /// The approved bytes were used up.
    Bytes {},
    /// The day's seconds were used up.
    Budget {},
    /// No "ok" of the observer within 2 s.
    ObserverSilent {},
    /// The observer saw something that must not be.
    ObserverAlarm {
        /// What it saw.
        what: String,
    },
    /// A path answered although the gate should be closed.
    AccidentalPath {
        /// What answered.
        what: String,
    },
    /// A layer failed, contradicted its command or gave no fresh reading.
    LayerFault {
        /// Which layer.
        layer: Layer,
        /// What it did.
        what: String,
    },
    /// The layers did not open in time.
    OpenTimeout {},
    /// The log could not be written, so nothing was opened.
    LogFailed {
        /// The error's text.
        what: String,
    },
    /// Somebody locked the gate.
    Lockdown {
        /// The caller's words.
        reason: String,
    },
    /// The gate's process was asked to end.
    Stopped {},
    /// The gate's process had died; the next one found the window unfinished.
    Crashed {},
}

/// How long the path was open, in seconds, by three witnesses that may disagree.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Exposure {
    /// From the command that completed the path to the first command that closed it.
    pub commanded_s: f64,
    /// From the first to the last read-back that was not closed, widened to the next closed one.
    pub actuator_s: f64,
    /// As the observer's probes saw it; none if the observer was away or restarted in between.
    pub probe_s: Option<f64>,
}

/// All that is kept of one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowRecord {
    /// Its number.
    pub window: WindowId,
    /// The fencing epoch of its token.
    pub epoch: u64,
    /// Pull or restore.
    pub purpose: Purpose,
    /// The puller's address.
    pub source: Ipv4Addr,
    /// The one address and port that it could reach.
    pub peer: SocketAddrV4,
    /// SHA-256 of the token's canonical bytes, in hex.
    pub token_hash: String,
    /// Wall clock at the opening command.
    pub opened: Timestamp,
    /// Wall clock when closed was verified, or given up.
    pub closed: Timestamp,
    /// Boot time of the opening command in milliseconds, with `boot_id`.
    pub opened_boot_ms: u64,
    /// The boot that `opened_boot_ms` belongs to.
    pub boot_id: super::BootId,
    /// The three figures.
    #[serde(flatten)]
    pub exposure: Exposure,
    /// True if the figures are upper bounds because the gate's process died while open.
    #[serde(default)]
    pub upper_bound: bool,
    /// Bytes that the guarded interface received meanwhile, by the observer's counters.
    pub bytes_in: u64,
    /// Bytes that it sent.
    pub bytes_out: u64,
    /// Lease renewals.
    pub renewals: u64,
    /// Why it ended.
    pub close_reason: CloseReason,
    /// Whether closed was proven afterwards.
    pub closed_verified: bool,
    /// Seconds from the closing command to the proof.
    pub verified_after_s: Option<f64>,
    /// The read-backs that the verdict rests on.
    pub observations: Vec<LayerObservation>,
    /// The figures differ by more than the probes' grain: an alarm.
    #[serde(default)]
    pub disagreement: bool,
}
