//! The vault against real peers: repositories by Debian's `restic`, our REST server over TLS, a gate on a
//! socket, and servers that lie.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod attack;
mod back;
mod cosign;
mod cut;
mod gate;
mod inspect;
mod keep;
mod kill;
mod liar;
mod officers;
mod repack;
mod siege;
mod way;
mod world;
