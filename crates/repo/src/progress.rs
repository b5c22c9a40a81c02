//! How far long work has come: counters that the worker adds to and anybody may read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one piece of work. The totals grow while the work is still being planned.
#[derive(Debug, Default)]
pub struct Progress {
    items: AtomicU64,
    total_items: AtomicU64,
    bytes: AtomicU64,
    total_bytes: AtomicU64,
}

/// One look at a [`Progress`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stand {
    /// Files, packs or other things that are done.
    pub items: u64,
    /// How many there are, as far as known.
    pub total_items: u64,
    /// Bytes that are done.
    pub bytes: u64,
    /// How many there are, as far as known.
    pub total_bytes: u64,
}

impl Progress {
    /// Adds to what is planned.
    pub fn plan(&self, items: u64, bytes: u64) {
        self.total_items.fetch_add(items, Ordering::Relaxed);
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds to what is done.
    pub fn done(&self, items: u64, bytes: u64) {
        self.items.fetch_add(items, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Where the work stands.
    pub fn stand(&self) -> Stand {
        Stand {
            items: self.items.load(Ordering::Relaxed),
            total_items: self.total_items.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            total_bytes: self.total_bytes.load(Ordering::Relaxed),
        }
    }
}
