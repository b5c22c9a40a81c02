//! Ending a pull, from whichever thread sees the reason first.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use super::lock;
use crate::puller::process::Kill;

/// Ends a pull: gently, or at once.
#[derive(Debug, Default)]
pub struct Stop {
    drain: AtomicBool,
    abort: AtomicBool,
    kills: Mutex<Vec<Kill>>,
}

impl Stop {
    /// Nothing new is started; what is under way may end.
    pub fn drain(&self) {
        self.drain.store(true, Ordering::SeqCst);
    }

    /// Every puller is killed now.
    pub fn abort(&self) {
        self.drain();
        self.abort.store(true, Ordering::SeqCst);
        let kills = std::mem::take(&mut *lock(&self.kills));
        for kill in kills {
            kill.kill();
        }
    }

    /// Whether nothing new may be started.
    pub fn draining(&self) -> bool {
        self.drain.load(Ordering::SeqCst)
    }

    /// Whether everything must end.
    pub fn aborted(&self) -> bool {
        self.abort.load(Ordering::SeqCst)
    }

    /// Takes a puller in charge.
    pub fn watch(&self, kill: &Kill) {
        lock(&self.kills).push(kill.clone());
        if self.aborted() {
            kill.kill();
        }
    }
}
