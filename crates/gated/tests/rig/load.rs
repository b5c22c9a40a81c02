//! How busy the machine is: a measurement of milliseconds says nothing about the gate while other programs
//! take the processor. A disturbed cycle is done again; the bounds stay as they are.

use std::{process::Command, time::Duration};

use super::{Rig, inside, now_ms};

/// On an idle machine a call of `nft` takes about 8 ms.
const QUIET_MS: u64 = 16;

impl Rig {
    /// Milliseconds that a small call of `nft` takes at this moment.
    pub(crate) fn call_ms(&self) -> u64 {
        inside(&self.ns("sw"), || {
            let start = now_ms();
            let done = Command::new("nft").args(["list", "tables"]).output().unwrap();
            assert!(done.status.success());
            now_ms() - start
        })
        .join()
        .unwrap()
    }

    /// Whether the machine has time for us right now.
    pub(crate) fn is_quiet(&self) -> bool {
        self.call_ms() <= QUIET_MS
    }

    /// Waits for a quiet moment, at most a little while.
    pub(crate) fn calm(&self) {
        for _ in 0..40 {
            if self.is_quiet() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
