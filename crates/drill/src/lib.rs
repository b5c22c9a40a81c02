//! Restore as a working system, and its rehearsal.
//!
//! **In** come a system's restore points with what is known of them, an opened repository, and a profile
//! that says how the system is brought up and how one sees that it works. **Out** come a choice with its
//! reasons ([`choose`]), a plan that is shown first ([`plan`]), restored data in its place ([`restore`]), and
//! for a rehearsal ([`drill`]) a record: what was restored, that the place had no way out, what each probe
//! said, and how long it took against the target.
//!
//! **What can go wrong:** the point is not trusted; the target is full, taken or not ours; the work is cut
//! off in the middle; the data restores and yet the service does not come up. The first three end with an
//! error before anything was touched or with everything still there; the last is what drills are for: it is
//! a failed drill, never an error that somebody may overlook.
//!
//! **Invariant:** never touches production: a drill reads repositories, writes below its own work folder,
//! runs in a network namespace with no way out, and is refused where that cannot be had. A restore never
//! deletes what stood at its target.

pub mod binlog;
pub mod cell;
pub mod choose;
pub mod compare;
pub mod drill;
mod error;
pub mod estimate;
pub mod exercise;
mod group;
pub mod moment;
pub mod page;
pub mod plan;
pub mod profile;
pub mod reach;
pub mod restore;
pub mod runbook;
pub mod service;
pub mod study;
pub mod table;
pub mod target;

pub use error::{DrillError, Result};
