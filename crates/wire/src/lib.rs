//! The protocol between an agent on a departmental server and the site server.
//!
//! ```text
//!  agent (connects outward)                                  server
//!  control ── Hello ─────────────────────────────────────▶  admitted by certificate, or Refused
//!          ◀─ Welcome · Begin {unit by name} · Cancel ────
//!  main    ── Open {session} ────────────────────────────▶
//!          ── Event 1, 2, 3 … (items of the tree) ───────▶  applied in order
//!          ── Have {ids} · Folder {path} ────────────────▶
//!          ◀─ Missing {bits} · Listing · Applied {number} ─
//!  lane n  ── chunk, chunk … under a byte credit ────────▶  hashed by the server
//!          ◀─ Stored {number, id} ─────────────────────────
//! ```
//!
//! **In** flow bytes of a TLS 1.3 connection, **out** come typed [`message`]s and chunks, never larger than their
//! limit. The server can only *name* a unit; no message carries a command or a path that the agent would open.
//! Every event has a number, so a line that was cut at any byte goes on where the server stands: what was not
//! acknowledged is sent again, what was is not applied twice.
//!
//! **What can go wrong:** a line that breaks or falls silent, a peer that speaks nonsense, a certificate that is
//! over, revoked or of another authority, two clocks that differ. Each is an [`Error`] with a code; a refusal
//! names both sides' times.
//!
//! **Invariant:** a peer's bytes allocate at most one frame and its limits; nothing here decides whom to trust or
//! what to store: that comes in through traits.

pub mod error;
pub mod frame;
pub mod identity;
pub mod line;
pub mod message;
pub mod receive;
pub mod tls;
pub mod token;

pub use error::{Error, Result};
