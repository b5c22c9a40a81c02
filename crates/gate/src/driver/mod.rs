//! The layers that we can drive, outside of the trusted core: whatever one of these does wrong, the machine
//! believes only what was read back, and every driver passes one suite by what it declares
//! (`crates/gated/tests`).

mod dialogue;
pub mod nft;
pub mod power;
mod program;
pub mod redfish;
mod snmp;
pub mod ssh;
pub mod switch;
