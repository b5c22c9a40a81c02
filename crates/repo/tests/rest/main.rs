//! The REST client: against the real server over TLS, and against one that breaks in every way.

#![allow(clippy::unwrap_used, reason = "a test ends where its ground gives way")]

mod faults;
mod scripted;
mod served;
