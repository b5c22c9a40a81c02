//! The site server: it joins the rooms.
//!
//! *In* come requests on the admin socket, the schedule's hours, restic clients' commits, the vault's signed
//! reports and what the site's own probe sees of the gate. *Out* go restore points in the repositories, rows
//! in the catalog, alarms and mails, and one read-only page that says whether the hospital could come back,
//! and from when. What can go wrong here is mostly joining: a job whose owner died, a notice that nobody
//! could deliver, a report that never came; each of these is shown, none is smoothed over.
//!
//! **Invariant:** no logic that a room should hold, no SQL, no route on TCP that changes anything.

pub mod admin;
pub mod agents;
mod app;
pub mod client;
pub mod config;
pub mod console;
mod control;
pub mod drills;
mod ears;
pub mod enrol;
pub mod error;
pub mod facts;
mod gather;
pub mod import;
mod job;
pub mod keys;
pub mod lang;
pub mod logins;
mod look;
mod page;
mod post;
pub mod prune;
pub mod rebuild;
mod receive;
pub mod recover;
pub mod register;
pub mod report;
mod repositories;
mod results;
mod retention;
pub mod run;
mod runbook;
mod schedule;
pub mod seal;
mod wal;
mod watchman;
mod witness;
mod words;

pub use app::{AUDIT, App, audit_key};
pub use error::ServerError;
