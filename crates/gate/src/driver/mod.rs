//! The layers that we can drive, outside of the trusted core: whatever one of these does wrong, the machine
//! believes only what was read back, and every driver passes one suite by what it declares
//! (`crates/gated/tests`).

mod client;
mod dialogue;
mod entries;
pub mod link;
pub mod netconf;
mod netlink;
pub mod nft;
pub mod openflow;
pub mod power;
mod program;
pub mod redfish;
mod rpc;
mod snmp;
pub mod ssh;
pub mod switch;
mod xml;
