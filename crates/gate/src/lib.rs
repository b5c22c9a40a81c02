//! The gate between the primary and the vault: decides nothing, opens for what was approved, and closes.
//!
//! **In:** a signed window token from the vault; the observer's word every half second; read-backs of the
//! layers. **Out:** commands to the layers (A: the kernel's packet filter with a lease of 3 s; C: the
//! switch port; D: the power outlet), one log entry for each transition, one record for each window.
//!
//! **Story of a window.** Closed is proven, a token comes. Its entry is on the disk before anything else
//! happens (*arming*). The layers open from the outside in, each read back before the next (*opening*).
//! Once a second the kernel's lease is renewed, only while the observer's last "ok" is younger than 2 s and
//! the deadline has not come (*open*). Then the layers close from the inside out (*closing*), and every one
//! is read back, the observer's probe must fail and its counters must stand still (*verifying*), until
//! closed is proven again. If all of this program is dead or frozen, the kernel forgets the lease by itself.
//!
//! **What can go wrong.** A layer lies, loses or repeats commands; a read-back is stale; the observer dies;
//! the log's disk is full; somebody else opens a path. Each of these closes, and what cannot be proven
//! closed is `fault_open` until officers release it. Unknown counts as open.
//!
//! **Invariant:** never reads backup data, never approves anything; no layer opens before its entry is
//! logged; the reply to a command is never evidence.
//!
//! [`machine`] is the pure state machine; [`keeper`] runs it against real layers ([`driver`]). What is trusted (machine,
//! keeper, latch, ledger, lease) stays small enough to be read in an afternoon; a test counts it.

pub mod actuator;
pub mod driver;
pub mod fault;
pub mod keeper;
pub mod latch;
pub mod ledger;
pub mod machine;

pub use actuator::{Actuator, Lease, Reading};
pub use fault::{ActuatorFault, Refusal};
pub use machine::{Action, Command, Event, Gate, Policy, What, transition};
