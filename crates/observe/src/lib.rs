//! Watches from outside whether the guarded path is open, and believes nobody.
//!
//! **At the vault** ([`watch`]): ten times a second a TCP probe of each approved flow, twice a second probes
//! of what must never answer, in both directions, and the guarded interface's counters. **Out:** one [`Seen`](kuramori_model::gate::Seen)
//! each time, with the exposure that the probes saw. The gate renews its lease only while that says ok:
//! whoever stops the observer closes the gate.
//!
//! **At the site** ([`site`]): a probe from the production side toward the vault and the switch port by
//! read-only SNMP, for the console; every figure with its source and its time.
//!
//! **What can go wrong:** a probe that cannot be made, a counter that cannot be read, a namespace that is
//! gone. Each is *unknown*, and unknown counts as open.
//!
//! **Invariant:** opens nothing, holds no credential that could; shares no code with the gate.

pub mod counters;
pub mod exposure;
pub mod fault;
pub mod probe;
pub mod site;
pub mod watch;

pub use fault::ObserveFault;
