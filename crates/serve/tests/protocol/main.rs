//! The server as its clients see it: over TLS, with the real restic and with clients that do not behave.

#![allow(clippy::unwrap_used, reason = "a test ends where its ground gives way")]

mod disk;
mod hall;
mod limits;
mod logins;
mod paths;
mod read;
mod receiver;
mod restic;
mod upload;
