//! Makes stored files immutable, and decides what may be removed.
//!
//! **In** come names of files that are durable, with the days for which they stay, and plans of what is to go.
//! **Out** come immutable files (`FS_IMMUTABLE_FL`) in folders to which names can only be added
//! (`FS_APPEND_FL`), and the removal of what has expired.
//!
//! Three parts. [`keeper`] is pure: rules over a ledger and a clock. [`ledger`] keeps what was promised, so
//! that a restart promises the same. [`guard`] does it to files. A promise is durable before the flag is set,
//! and a file is only removed after the ledger says that it may: whatever a kill leaves is put right at the
//! next start by setting the flag of every file that the ledger names.
//!
//! **What can go wrong:** a file system without the flags (it says so and locks nothing, never pretends), a
//! missing capability (the same), a clock that jumps (removal stops, locking goes on), a caller that is owned
//! (it can lock and extend, and have removed what has expired, a few a day; it cannot shorten anything).
//!
//! **Invariant:** uses no network; takes no path from a caller; retention only grows, unless officers signed
//! and their delay has passed; age is accumulated running time, never the wall clock and never a sender's.

pub mod error;
pub mod guard;
pub mod keeper;
pub mod ledger;
pub mod time;

pub use error::{Error, Result};
pub use guard::Guard;
pub use keeper::{Keeper, Rules};
