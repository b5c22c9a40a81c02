//! The words between the gate and those who talk to it: the vault (opens, drains, closes), the console
//! (looks), the observer (says what it sees).
//!
//! **Transport.** A unix socket, one JSON object per line in each direction; for each [`Request`] exactly
//! one [`Reply`], in order. A line is at most [`LINE_LIMIT`] bytes. Who may connect is decided by the
//! kernel's peer credentials, not by anything in a line. The observer has a socket of its own on which it
//! only writes [`Seen`] lines and reads nothing.
//!
//! **What can go wrong.** An unknown verb, an unknown key or a token that does not verify is refused with a
//! stable code and changes nothing. `close` and `lockdown` need no token, ever.
//!
//! **Invariant:** a token names one flow, one window, one boot of one machine; it can be used once.

pub mod acceptance;
mod record;
mod token;

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use record::{ACCIDENTAL_PATH, CloseReason, Exposure, LayerObservation, LayerState, WindowRecord};
pub use token::{
    BadToken, BootId, Countersignature, Nonce, Purpose, ReleaseToken, Signature, SignedRelease, SignedToken,
    SigningKey, VerifyingKey, WindowToken,
};

use crate::ids::WindowId;

/// The protocol's number; only grows. Carried in every [`GateStatus`].
pub const PROTOCOL: u32 = 1;

/// The longest line that either side accepts, in bytes.
pub const LINE_LIMIT: usize = 64 * 1024;

/// The fixed verb list of the gate's socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What is the gate's state, what do its layers and its observer say?
    Status {},
    /// Open for the one flow that the token names. Answered at once when the token is taken
    /// ([`GateState::Arming`]) or refused; poll `status` until `open` or closed again.
    Open {
        /// The approved window.
        token: Box<SignedToken>,
    },
    /// No new files from now on; the path stays open for what is under way, until `close` or the deadline.
    Drain {},
    /// Close. Needs nothing, always works, also when nothing is open.
    Close {
        /// Why, in the caller's words.
        reason: String,
    },
    /// Close and stay closed until a signed release.
    Lockdown {
        /// Why, in the caller's words.
        reason: String,
    },
    /// Leave `lockdown` or a latched `fault_open`; refused without a release that enough officers signed.
    Release {
        /// The signed release; absent means refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        release: Option<Box<SignedRelease>>,
    },
    /// The newest windows, newest first.
    History {
        /// At most this many; the gate never returns more than 200.
        #[serde(default = "twenty")]
        limit: u32,
    },
}

const fn twenty() -> u32 {
    20
}

/// The answer to one [`Request`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Taken; this is how things stand now.
    Status(Box<GateStatus>),
    /// The windows that were asked for, newest first.
    History {
        /// Finished windows.
        windows: Vec<WindowRecord>,
    },
    /// Refused; nothing changed.
    Refused {
        /// Stable code such as `gate.token-expired`.
        code: String,
        /// One sentence for a person.
        message: String,
        /// What to do next, where we know it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

/// The layers that can cut a guarded path, from the inside out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Layer {
    /// The kernel's packet filter on the gate host, with a lease that expires by itself.
    A,
    /// The link of the gate host's own interface.
    B,
    /// The switch port.
    C,
    /// Power.
    D,
    /// A medium that is carried away.
    E,
}

impl Layer {
    /// Whether this layer alone is what people mean by "offline"; A and B are only logical.
    pub const fn is_outer(self) -> bool {
        matches!(self, Self::C | Self::D | Self::E)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::D => "D",
            Self::E => "E",
        })
    }
}

/// What a window in progress holds. All `_boot_ms` are milliseconds of `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OpenWindow {
    /// The approved window, as it was signed.
    pub token: WindowToken,
    /// When the path was commanded open (the last layer's command).
    pub opened_boot_ms: u64,
    /// After this the lease is never renewed.
    pub deadline_boot_ms: u64,
    /// Lease renewals that the kernel took so far.
    pub renewals: u64,
}

/// Where the gate is. Each state holds only what it has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum GateState {
    /// Just started; nothing was commanded yet.
    Boot {},
    /// Closing every layer, whatever was before, until the closed state is verified.
    Sealing {
        /// Since when, in milliseconds of boot time.
        since_boot_ms: u64,
        /// Longer than 10 s: somebody must look.
        overdue: bool,
    },
    /// Closed by read-back of every layer, a failed probe and flat counters, all fresh.
    ClosedVerified {
        /// Since when without interruption, in milliseconds of boot time.
        since_boot_ms: u64,
    },
    /// A token was taken; the entry in the log comes before anything else.
    Arming {
        /// The window to come.
        token: WindowToken,
    },
    /// Layers open from the outside in.
    Opening {
        /// The window to come.
        token: WindowToken,
        /// The layer that is being opened.
        layer: Layer,
        /// Not open by then: closed again.
        until_boot_ms: u64,
    },
    /// The one flow passes.
    Open(OpenWindow),
    /// As `open`, but the puller starts nothing new.
    Draining(OpenWindow),
    /// Layers are commanded closed from the inside out.
    Closing {
        /// The window that ends, if one was open.
        window: Option<WindowId>,
        /// Why.
        reason: CloseReason,
    },
    /// All were commanded closed; waiting for evidence.
    Verifying {
        /// The window that ends, if one was open.
        window: Option<WindowId>,
        /// Why it was closed.
        reason: CloseReason,
        /// Without evidence by then: `fault_open`.
        until_boot_ms: u64,
    },
    /// Closed could not be proven. Latched: needs a release even after it is proven.
    FaultOpen {
        /// What was missing or contradicted.
        why: String,
        /// The number that a release must name.
        incident: u64,
        /// Whether everything reads closed by now.
        verified: bool,
    },
    /// Somebody locked the gate.
    Lockdown {
        /// Their words.
        reason: String,
        /// The number that a release must name.
        incident: u64,
        /// Whether everything reads closed.
        verified: bool,
    },
}

impl GateState {
    /// The state's stable name, as in the JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Boot {} => "boot",
            Self::Sealing { .. } => "sealing",
            Self::ClosedVerified { .. } => "closed_verified",
            Self::Arming { .. } => "arming",
            Self::Opening { .. } => "opening",
            Self::Open(_) => "open",
            Self::Draining(_) => "draining",
            Self::Closing { .. } => "closing",
            Self::Verifying { .. } => "verifying",
            Self::FaultOpen { .. } => "fault_open",
            Self::Lockdown { .. } => "lockdown",
        }
    }

    /// Whether closed is proven right now. Every other state counts as open for whoever asks.
    pub const fn is_verified_closed(&self) -> bool {
        matches!(
            self,
            Self::ClosedVerified { .. }
                | Self::Lockdown { verified: true, .. }
                | Self::FaultOpen { verified: true, .. }
        )
    }
}

/// What may be said about "offline" right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// True only with two layers read back closed, one of them C, D or E, and a dead-man that was tested.
    pub offline: bool,
    /// The layers whose closed state was read back within the last 15 s.
    pub closed_layers: Vec<Layer>,
    /// The layers whose dead-man the configuration declares as tested on this very device.
    pub dead_man_tested: Vec<Layer>,
    /// One English sentence for logs and evidence; screens compose their own from the fields.
    pub sentence: String,
}

/// How things stand at the gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateStatus {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The state and what it holds.
    pub gate: GateState,
    /// When this was said, wall clock, for people.
    pub at: Timestamp,
    /// This boot of this machine; tokens must name it.
    pub boot_id: BootId,
    /// When this was said, milliseconds of `CLOCK_BOOTTIME`; tokens count from here.
    pub boot_ms: u64,
    /// The highest fencing epoch ever taken; a token with a lower one is refused.
    pub epoch: u64,
    /// The highest window number ever taken; a token must have a higher one.
    pub last_window: WindowId,
    /// What each layer said last.
    pub layers: Vec<LayerObservation>,
    /// The observer's last word.
    pub seen: Option<Seen>,
    /// Age of the observer's last word in milliseconds.
    pub seen_age_ms: Option<u64>,
    /// Seconds of open path within the last 24 hours, the running window included.
    pub used_today_s: f64,
    /// The gate's own limit for that, in seconds.
    pub daily_budget_s: u64,
    /// What may be said about "offline".
    pub claim: Claim,
    /// Alarms that are still true, one English sentence each, newest last.
    pub alarms: Vec<String>,
}

/// One word of the observer, every 0.5 s. The gate renews the lease only while the last one that says
/// `ok` is younger than 2 s.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// Wall clock, for people.
    pub at: Timestamp,
    /// Milliseconds of `CLOCK_BOOTTIME` at which the probes *began*: what they say holds from then on.
    pub boot_ms: u64,
    /// A number that the observer draws when it starts; `exposed_ms` restarts with it.
    pub run: u64,
    /// A probe of the approved flow got any answer, or its result is unknown. Unknown counts as open.
    pub path_open: bool,
    /// Some probe could not be made; `path_open` is then true as well.
    #[serde(default)]
    pub unknown: bool,
    /// What must never answer and did (`10.77.1.2:22`), or could not be probed.
    pub unapproved: Vec<String>,
    /// Received bytes of the guarded interface since it exists.
    pub rx_bytes: u64,
    /// Sent bytes of the guarded interface since it exists.
    pub tx_bytes: u64,
    /// Probe-observed exposure since the observer started, in milliseconds: each span between two failed
    /// probes with an answered or unknown one between them counts whole.
    pub exposed_ms: u64,
    /// The observer sees nothing that must close the gate. Silence means no.
    pub ok: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_of_the_verbs_is_fixed() {
        for (line, request) in [
            (r#"{"verb":"status"}"#, Request::Status {}),
            (r#"{"verb":"drain"}"#, Request::Drain {}),
            (r#"{"verb":"close","reason":"done"}"#, Request::Close { reason: "done".into() }),
            (r#"{"verb":"release"}"#, Request::Release { release: None }),
        ] {
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
        }
        assert_eq!(
            serde_json::from_str::<Request>(r#"{"verb":"history"}"#).unwrap(),
            Request::History { limit: 20 }
        );
        for bad in [r#"{"verb":"shell"}"#, r#"{"verb":"status","x":1}"#, r#"{"verb":"open"}"#, "{}", "1"] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }
}
