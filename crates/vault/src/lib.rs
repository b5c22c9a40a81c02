//! The vault's own role.
//!
//! **In** come files of the primary, by name and hash, through a puller process that alone speaks with the
//! network and only while the gate is open. **Out** come restore points that are *proven*: every blob of
//! every pack opened and compared with its id, every tree walked whole, with the vault's own number and time;
//! and, in a restore window, the proven files to a clean receiver. Nothing else leaves, but a signed report.
//!
//! A window: [`window`] plans and checks, [`gate`] opens with a token that only the vault can sign,
//! [`pull`] lists, freezes and fetches, the gate closes and is seen closed; then, with no path to anywhere,
//! [`proof`] opens what came, [`inspect`] judges it, [`locks`] makes it immutable, [`keep`] applies the retention, [`report`] says what happened.
//!
//! What can go wrong, and what then: the primary is owned (it can withhold and it can send rubbish, it cannot
//! change or remove anything here); the window ends in the middle of a byte (the next one goes on there);
//! this process is killed at any point (the folder is the truth about what is here, the register about what
//! was proven, both durable in that order); the clock jumps (nothing is removed until a person confirms it);
//! two vault processes (the second is refused).
//!
//! **Invariant:** holds no credential that can delete at the primary; listens on no network; parses nothing
//! while the window is open; never follows a deletion.

pub mod approval;
pub mod config;
pub mod control;
pub mod error;
mod examine;
pub mod folder;
pub mod gate;
pub mod inspect;
pub mod keep;
pub mod keys;
pub mod locks;
mod obey;
pub mod proof;
pub mod pull;
pub mod puller;
pub mod register;
pub mod release;
pub mod report;
pub mod restore;
pub mod retention;
pub mod role;
pub mod seed;
mod vault;
pub mod window;
pub mod witness;

pub use config::Config;
pub use error::{Error, Result};
/// Printed pages and recovery sheets.
pub use kuramori_escrow as escrow;
pub use vault::{Vault, Work};
