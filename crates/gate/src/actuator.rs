//! What every layer can do, whatever it is made of.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use kuramori_model::gate::{Layer, LayerState};

use crate::fault::ActuatorFault;

/// The one flow that may pass, and for how long without a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// Renews the lease where the layer has one. Never opens what was closed.
    fn renew(&mut self, lease: &Lease) -> Result<(), ActuatorFault>;
    /// Reads back.
    fn observe(&mut self) -> Reading;
    /// Somebody tests whether the layer closes by itself: a read-back must know which flow it may find, and
    /// that a lease which has ended is what is waited for.
    fn expect(&mut self, _lease: &Lease) {}
    /// After how long the layer closes by itself when all of us is dead; none if it does not. A layer that
    /// declares this is renewed while a window is open, three times within it.
    fn deadman(&self) -> Option<Duration>;
}

/// A layer that is configured but cannot be used, for example because its secret cannot be read. It keeps
/// the others from nothing, and never reads closed.
#[derive(Debug)]
pub struct Broken {
    layer: Layer,
    source: String,
    why: String,
}

impl Broken {
    /// A layer that says why.
    pub fn new(layer: Layer, source: impl Into<String>, why: impl Into<String>) -> Self {
        Self { layer, source: source.into(), why: why.into() }
    }
}

impl Actuator for Broken {
    fn layer(&self) -> Layer {
        self.layer
    }

    fn source(&self) -> String {
        self.source.clone()
    }

    fn close(&mut self) -> Result<(), ActuatorFault> {
        Err(ActuatorFault::Unusable(self.why.clone()))
    }

    fn open(&mut self, _lease: &Lease) -> Result<(), ActuatorFault> {
        Err(ActuatorFault::Unusable(self.why.clone()))
    }

    fn renew(&mut self, _lease: &Lease) -> Result<(), ActuatorFault> {
        Err(ActuatorFault::Unusable(self.why.clone()))
    }

    fn observe(&mut self) -> Reading {
        Reading::unknown(self.why.clone())
    }

    fn deadman(&self) -> Option<Duration> {
        None
    }
}
