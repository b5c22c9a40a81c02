//! The watcher of an open window: it looks at clock and gate, and ends the work in time.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use kuramori_repo::Cancel;

use crate::{
    error::{Error, Result},
    gate::is_open,
    pull::Stop,
    vault::Vault,
};

impl Vault {
    /// Runs the work; a watcher ends it in time.
    pub(super) fn watched(
        &self,
        seconds: u32,
        stop: &Stop,
        cancel: &Cancel,
        work: &mut dyn FnMut() -> Result<u64>,
    ) -> Result<u64> {
        let begin = self.clock.boot();
        let deadline = begin + Duration::from_secs(u64::from(seconds));
        let drain = deadline.saturating_sub(Duration::from_secs(
            u64::from(self.config.window.drain_s).min(u64::from(seconds) / 4),
        ));
        let done = AtomicBool::new(false);
        let why = std::sync::Mutex::new(None);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut asked = begin;
                let mut drained = false;
                while !done.load(Ordering::SeqCst) {
                    let now = self.clock.boot();
                    let end = |text: String| {
                        stop.abort();
                        // At once, and not only when the last worker has come back from a slow disk.
                        let mut why = crate::pull::lock(&why);
                        if why.is_none()
                            && let Some(gate) = &self.gate
                        {
                            let _ = gate.close(&text);
                        }
                        why.get_or_insert(text);
                    };
                    if cancel.is_cancelled() {
                        end("somebody asked for it".to_owned());
                    } else if now >= deadline {
                        end("its seconds are used up".to_owned());
                    } else if now >= drain && !drained {
                        drained = true;
                        stop.drain();
                        if let Some(gate) = &self.gate {
                            let _ = gate.drain();
                        }
                    }
                    if now >= asked + Duration::from_millis(400)
                        && let Some(gate) = &self.gate
                    {
                        asked = now;
                        match gate.status() {
                            Ok(status) if is_open(&status.gate) => {}
                            Ok(status) => end(format!("the gate went to `{}`", status.gate.name())),
                            Err(error) => end(kuramori_model::fault::chain(&error)),
                        }
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            let outcome = work();
            done.store(true, Ordering::SeqCst);
            outcome
        });
        match (outcome, crate::pull::lock(&why).take()) {
            (Ok(bytes), None) => Ok(bytes),
            (Ok(bytes), Some(text)) => {
                tracing::warn!(text, "the window ended before its work");
                Ok(bytes)
            }
            (Err(_), Some(text)) => Err(Error::WindowOver(text)),
            (Err(error), None) => Err(error),
        }
    }
}
