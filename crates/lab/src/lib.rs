//! The lab: a small real hospital on one Linux machine.
//!
//! What flows in: a prefix, a folder, a seed. What comes out: fourteen hosts in network namespaces, wired
//! as a hospital is; real servers with generated data in seven departments; a switch that really owns the
//! vault's port; a witness behind the gate that answers everything, so that every test of closedness first
//! shows that it would see an open gate; a manifest of the truth, made by other people's tools; an attack;
//! and the comparison of a restored, running service with the truth.
//!
//! What can go wrong: a program is missing (`needs` says which), a step fails half-way (the guard takes
//! down what was raised), this process dies (`down` finds everything by `lab.json` and by the namespaces'
//! names), an attack is pointed at the wrong folder (it refuses whatever is not a department's or the
//! primary's folder of a lab).
//!
//! **Invariant:** nothing of the machine itself is changed: no file outside the lab's root, no rule, link,
//! address or service outside its namespaces. [`Down::differences`] shows it.

pub mod attack;
pub mod compare;
pub mod down;
pub mod error;
pub mod fingerprint;
pub mod generate;
mod http;
pub mod inspection;
pub mod job;
pub mod lab;
pub mod manifest;
pub mod mutate;
pub mod needs;
mod network;
pub mod probe;
pub mod process;
pub mod program;
mod register;
pub mod role;
pub mod services;
pub mod wait;

pub use attack::{Attacked, Targets, attack};
pub use compare::Compared;
pub use down::{Down, Files, down};
pub use error::{LabError, Result};
pub use fingerprint::HostFingerprint;
pub use lab::{Host, Lab, Scale, Service, What};
pub use manifest::Manifest;
pub use needs::{Lack, needs};
pub use network::GUARDED_ALIAS;
pub use probe::{Probed, Try, probe};
pub use process::{Process, ProcessRecord, StopBy};
pub use program::{Outcome, Program};
pub use register::LabRecord;
pub use role::{Role, SWITCH_MANAGEMENT, VAULT, VAULT_MANAGEMENT};
pub use wait::{wait_for, wait_until};
