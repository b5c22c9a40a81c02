//! NBD, the network block device: a disk over a socket, as QEMU, the Linux kernel and libnbd speak it.
//!
//! **In** comes a disk ([`kuramori_model::blocks::Blocks`]) and, over a unix socket or TCP, the requests of
//! clients ([`Server`]); or the address of somebody else's server ([`Client`]). **Out** go the disk's bytes,
//! which of them are holes, and which of them changed. An [`Overlay`] makes a disk writable that must never
//! change: what is written goes into a file beside it.
//!
//! **What can go wrong:** a peer that sends nonsense, stops in the middle of a message, or asks for more than
//! there is; a disk that cannot be read (the client gets an I/O error for that request and goes on); a full
//! file system under an overlay (the client gets "no space", a guest can be paused); a crash. Whatever was
//! written and flushed is there after a crash, and nothing of what was not there before it is torn.
//!
//! The protocol is the NBD project's `doc/proto.md`: fixed newstyle negotiation, structured replies, block
//! status, several connections to one disk. There is no TLS and no login in it: whoever can connect reads the
//! disk. So a server belongs on a unix socket or on the loopback address, or into a tunnel.
//!
//! **Invariant:** knows neither what a virtual machine nor what a repository is; bytes of a peer allocate at
//! most [`wire::PIECE`] for each request under way.

mod client;
mod error;
mod overlay;
mod server;
mod stream;
pub mod wire;

pub use client::{Client, Listed, Run};
pub use error::{Error, Result};
pub use overlay::{BaseId, Overlay};
pub use server::{Export, Handle, Limits, Server};
pub use stream::{Address, Stream};
