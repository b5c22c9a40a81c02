//! What every layer can do, whatever it is made of.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use kuramori_model::gate::{Layer, LayerState};

use crate::fault::ActuatorFault;

/// The one flow that may pass, and for how long without a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Who may begin the flow.
    pub source: Ipv4Addr,
    /// The only address and TCP port that it may reach.
    pub peer: SocketAddrV4,
    /// Seconds after which the layer closes by itself, renewed or not.
    pub window_s: u32,
    /// Seconds after which the layer closes by itself unless renewed.
    pub ttl_s: u32,
}

/// One read-back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What it says; `Unknown` counts as open.
    pub state: LayerState,
    /// The reading in words, for evidence.
    pub detail: String,
}

impl Reading {
    /// A reading that says nothing, and why.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self { state: LayerState::Unknown, detail: why.into() }
    }
}

/// One layer. Calls block; each layer has a thread of its own.
///
/// `Ok` of a command means that it was sent and taken, nothing more: only [`observe`](Self::observe) counts.
pub trait Actuator: Send {
    /// Which layer this is.
    fn layer(&self) -> Layer;
    /// Whom it asks, for evidence.
    fn source(&self) -> String;
    /// Commands closed; safe to repeat, needs no disk and no name service.
    fn close(&mut self) -> Result<(), ActuatorFault>;
    /// Commands open for this flow.
    fn open(&mut self, lease: &Lease) -> Result<(), ActuatorFault>;
    /// Renews the lease where the layer has one.
    fn renew(&mut self, lease: &Lease) -> Result<(), ActuatorFault>;
    /// Reads back.
    fn observe(&mut self) -> Reading;
    /// After how long the layer closes by itself when all of us is dead; none if it does not.
    fn deadman(&self) -> Option<Duration>;
}
