//! How far long work has come: counters that the workers add to and anybody may read. Backup, restore, check,
//! prune and mirror all count here.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one piece of work. The totals grow while the work is still being planned.
#[derive(Debug, Default)]
pub struct Progress {
    items: AtomicU64,
    total_items: AtomicU64,
    bytes: AtomicU64,
    total_bytes: AtomicU64,
    stored: AtomicU64,
    faults: AtomicU64,
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
    /// Bytes that were new and went into packs, as stored.
    pub stored: u64,
    /// Items that could not be done.
    pub faults: u64,
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

    /// Adds bytes that went into packs.
    pub fn stored(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds an item that could not be done.
    pub fn fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    /// How far it is now.
    pub fn stand(&self) -> Stand {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stand {
            items: get(&self.items),
            total_items: get(&self.total_items),
            bytes: get(&self.bytes),
            total_bytes: get(&self.total_bytes),
            stored: get(&self.stored),
            faults: get(&self.faults),
        }
    }
}
