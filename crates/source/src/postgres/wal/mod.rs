//! The write-ahead log of a PostgreSQL cluster, continuously.
//!
//! The story. A [`stream`] speaks the streaming replication protocol with a named slot and writes what comes
//! into the server's own [`Spool`] folder, in files that have PostgreSQL's own names. It tells the department's
//! server that log may be dropped only after the bytes, and the note of how far they go, are durable there. A
//! run of the system's job ([`point`]) then makes a restore point: a base backup when one is due, otherwise the
//! previous base backup taken over unread, and beside it all log since the base backup before. Each such point
//! restores by itself, to any time between the end of its base backup and its own end.
//!
//! A standby that is promoted, or a server that comes back on another timeline, is followed: the old timeline
//! is read to the position where the new one left it, and the new one's history file is fetched.
//!
//! **What can go wrong.** The server or the line goes away: the next attempt begins at the start of the
//! unfinished segment and writes the same bytes again. The slot was removed or overtaken: what is lost is
//! written down as a [gap](kuramori_model::wal::Gap), and the next run takes a base backup at once. The server
//! is put back to an earlier state of its machine: it stands before what it had sent, or sends other bytes than
//! before; what was here is its old past, which is never joined with what comes. A run is not committed: the list
//! that it began with stays, and no segment leaves the spool that no committed point holds. A full
//! disk: nothing more is acknowledged, the server keeps its log, and its growth is told as an alarm.
//!
//! **Invariant:** a position is acknowledged only when every byte before it is durable in the spool or in a
//! restore point. A hole is a gap on record, never silence.

pub(super) mod inventory;
mod place;
pub(super) mod point;
mod spool;
mod stream;

pub(crate) use inventory::Item;
pub use spool::{Spool, State, Trouble};
pub use stream::stream;
