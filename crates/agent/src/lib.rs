//! The agent on a departmental server: reads what its own file declares, and sends it.
//!
//! ```text
//!  agent.toml (root's) ─▶ unit ─▶ source ─▶ cut ─▶ hash ─▶ Have? ─▶ what is missing, over n lines
//!  server: "begin `ward`" ─┘        │                                      │
//!                                   └── items, in order ───────────────────┴─▶ the system's repository
//! ```
//!
//! **In** comes an order that *names* a unit. **Out** go items and chunks of exactly what [`File`] declares
//! under that name. The agent connects outward only and listens nowhere; the server hashes everything again and
//! gives the restore point its number and time.
//!
//! **What can go wrong:** the declarations are open to others (then nothing starts), the server is not the enrolled
//! one, a line breaks (it goes on where it was), the source cannot be read (then nothing becomes visible), the
//! certificate ended (enrol again; name and history stay).
//!
//! **Invariant:** no command, path or pattern ever comes from the wire; what a stolen server can reach is what the
//! administrator of this machine wrote down. Memory is bounded by the budget of one session.

pub mod enrol;
pub mod error;
pub mod file;
pub mod files;
mod link;
mod queue;
pub mod run;
mod session;
mod sink;
pub mod state;

pub use error::{AgentError, Result};
pub use file::File;
