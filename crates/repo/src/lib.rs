//! The repository engine: restic's repository format v2, strict, with synchronous threads.
//!
//! **In** come items of a source ([`kuramori_model::tree::Sink`]), streams, and local folders. They are cut
//! into chunks, hashed, compressed, sealed, gathered into packs on disk and stored. **Out** come restore
//! points: listed, walked, loaded blob by blob, each blob hashed again before anybody sees it.
//!
//! **What can go wrong:** a full or failing store, damaged or forged files, a password that opens nothing, a
//! foreign lock, a source that changes while it is read. Each is an [`Error`] that names the file; what was
//! committed before stays whole, because a restore point exists only once its snapshot file is durable, and
//! that is written last.
//!
//! **Invariant:** this crate never reads the wall clock or the machine's random source itself (they are handed
//! in), never serves a blob whose hash is not its id, and does not know what a hospital is.

pub mod backup;
mod bits;
pub mod check;
pub mod chunk;
mod context;
pub mod disk;
pub mod error;
pub mod forget;
pub mod format;
pub mod index;
mod live;
pub mod local;
pub mod lock;
pub mod mirror;
pub mod progress;
pub mod prune;
pub mod reading;
pub mod repository;
pub mod restore;
pub mod store;
pub mod walk;

pub use context::{Cancel, Context};
pub use error::{Error, Result};
pub use repository::{Indexed, Opened, Repository, Secret};
