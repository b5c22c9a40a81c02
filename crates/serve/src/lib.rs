//! restic's REST protocol over TLS, for the clients that a hospital has: stock `restic` on departmental
//! servers, the vault, the other site, and the receiver of a restore window.
//!
//! **In** come HTTPS requests with a login. **Out** go files, lists and events. One folder holds one
//! repository per system (`/<repository>/…`). The server holds no repository key and parses nothing of what
//! it stores: it knows names, sizes and hashes. Every request passes three steps, each in one place: who
//! asks ([`Logins`]), may this role do that (module `policy`, one table), and do it on disk.
//!
//! | login | may | may not |
//! |---|---|---|
//! | `append` | create, read, list and upload in one repository under a quota; delete locks | overwrite; delete anything else |
//! | `read` | read and list all or some repositories | change anything |
//! | `receive` | only on a receiver ([`Mode::Receiver`]): create and upload, ask for sizes | read content, list, delete |
//!
//! An upload is streamed into a nameless place of its repository, hashed on the way, compared with its name,
//! made durable and only then given the name; whatever breaks before leaves nothing. The same bytes under
//! the same name succeed again, so a client whose answer was lost can repeat; other bytes never replace a
//! file.
//!
//! **What can go wrong:** a full disk or quota (507), wrong bytes (400), a refused verb (403, and an
//! [`Event`] for the alarm), slow or greedy clients (time limits, a rate floor, connection limits per
//! address and in all), a login file that cannot be read (the last good one stays in force, and an event).
//!
//! **Invariant:** nothing but a lock is ever removed or overwritten through this crate; no name from the
//! network reaches the file system except as 64 hexadecimal digits or a repository's checked name.

mod config;
mod connection;
mod content;
mod door;
mod error;
mod event;
mod handler;
mod listing;
pub mod login;
mod name;
pub mod password;
mod policy;
mod reply;
mod run;
mod shelf;
pub mod tls;
mod upload;
mod usage;

pub use config::{Config, Limits, Mode};
pub use error::ServeError;
pub use event::{Event, Ignore, Outcome, Verb, Watch};
pub use login::{FileLogins, Login, Logins, MemoryLogins, Repositories, Role};
pub use name::{BadRepositoryName, FileName, Kind, RepositoryName};
pub use run::run;
