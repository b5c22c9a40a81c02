//! What a server is started with.

use std::{path::PathBuf, sync::Arc, time::Duration};

use kuramori_model::{
    clock::{Clock, Random},
    units::Bytes,
};

use crate::{Logins, Watch};

/// What the folder is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A primary's or vault's repositories, for `append` and `read` logins.
    Store,
    /// The receiver of one restore window, for `receive` logins only. Starts only on an empty folder.
    Receiver,
}

/// A server: where, for whom, within which limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// The folder that holds one folder per repository.
    pub root: PathBuf,
    /// What the folder is for.
    pub mode: Mode,
    /// Certificate and key, see [`crate::tls::server_config`].
    pub tls: Arc<rustls::ServerConfig>,
    /// Who may come in.
    pub logins: Arc<dyn Logins>,
    /// Who is told what happened.
    pub watch: Arc<dyn Watch>,
    /// Times in events, age of usage counts.
    pub clock: Arc<dyn Clock>,
    /// The key under which checked credentials are remembered in memory.
    pub random: Arc<dyn Random>,
    /// How much one client and all of them together may ask for.
    pub limits: Limits,
}

/// How much one client and all of them together may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at the same time, in all.
    pub connections: usize,
    /// Connections at the same time from one address, so that one host cannot take them all.
    pub connections_per_address: usize,
    /// Time for a TLS handshake.
    pub handshake: Duration,
    /// Time for a request's header, and for a kept connection without a request.
    pub idle: Duration,
    /// Longest time without a byte, in an upload or in a download that the client does not take.
    pub stall: Duration,
    /// An upload slower than this on average, after a first grace of [`stall`](Self::stall), is cut.
    /// Bytes per second.
    pub floor: u64,
    /// Size of a request's header in bytes, give or take one read; at least 8192.
    pub header: usize,
    /// Largest pack; restic's format cannot go above 4 GiB.
    pub pack: Bytes,
    /// Largest index or snapshot.
    pub document: Bytes,
    /// Largest `config`, key or lock.
    pub small: Bytes,
    /// Space that uploads leave free on the file system, so that locks and housekeeping still fit.
    pub keep_free: Bytes,
    /// Time that running requests get to end when the server is stopped.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            connections_per_address: 64,
            handshake: Duration::from_secs(10),
            idle: Duration::from_mins(1),
            stall: Duration::from_mins(1),
            floor: 1024,
            header: 64 << 10,
            pack: Bytes(4 << 30),
            document: Bytes(1 << 30),
            small: Bytes(1 << 20),
            keep_free: Bytes(256 << 20),
            drain: Duration::from_secs(10),
        }
    }
}
