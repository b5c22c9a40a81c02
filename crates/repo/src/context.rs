//! What a repository is told about the world: clock, random source, who works here, and how to stop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use kuramori_model::clock::{Clock, Random, SystemClock, SystemRandom};

use crate::{Error, Result};

/// The world as the engine sees it.
#[derive(Debug, Clone)]
pub struct Context {
    /// Time for records, leases and waits.
    pub clock: Arc<dyn Clock>,
    /// Keys, IVs and the choice of packs.
    pub random: Arc<dyn Random>,
    /// This machine's name, in locks and keys.
    pub hostname: String,
    /// The user that this process works for, in locks and keys.
    pub username: String,
}

impl Context {
    /// The machine's own clock, random source and host name.
    pub fn system() -> Self {
        let hostname = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            hostname: hostname.trim().to_owned(),
            username: std::env::var("USER").unwrap_or_else(|_| "kuramori".to_owned()),
        }
    }

    pub(crate) fn iv(&self) -> [u8; 16] {
        let mut iv = [0; 16];
        self.random.fill(&mut iv);
        iv
    }

    pub(crate) fn number(&self) -> u64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// Stops long work: whoever holds a clone may cancel, every loop asks.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the work to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// [`Error::Cancelled`] if it was asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}
