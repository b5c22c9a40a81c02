//! May a window open now, and for how long?

use std::time::Duration;

use super::{Options, SHORTEST};
use crate::{
    error::{Error, Result},
    vault::Vault,
};

impl Vault {
    /// Whether a window may open now, and for how many seconds at most.
    ///
    /// # Errors
    /// [`Error::Preflight`] with the reason.
    pub fn preflight(&self, options: &Options) -> Result<u32> {
        self.settle_pending()?;
        let now = self.register.tick(&*self.clock)?;
        let window = &self.config.window;
        let used = self.register.used_today(&now, f64::from(window.max_seconds))?;
        let gate_used = match &self.gate {
            None => 0.0,
            Some(gate) => {
                let status = gate.status()?;
                if !matches!(status.gate, kuramori_model::gate::GateState::ClosedVerified { .. }) {
                    return Err(Error::Preflight(format!(
                        "the gate is `{}`, not seen closed",
                        status.gate.name()
                    )));
                }
                status.used_today_s
            }
        };
        let granted = options.granted.as_ref().and_then(|granted| granted.window);
        let wanted = match (granted, options.max_seconds) {
            (Some(granted), _) => granted.seconds,
            (None, Some(seconds)) => seconds.min(window.max_seconds),
            (None, None) => window.max_seconds,
        };
        let left = if granted.is_some() {
            // The approval carries its own budget; it stands in the log, in the window's record and in the report.
            u64::from(wanted)
        } else {
            let used = Duration::try_from_secs_f64(used.max(gate_used)).unwrap_or(Duration::MAX);
            window
                .daily_budget_s
                .saturating_sub(used.as_secs().saturating_add(u64::from(used.subsec_nanos() > 0)))
        };
        if left < SHORTEST {
            return Err(Error::Preflight(format!("the day's {} s are used up", window.daily_budget_s)));
        }
        let free = self.folder.free()?;
        if free < window.keep_free.0 {
            let free = kuramori_model::units::Bytes(free);
            return Err(Error::Preflight(format!(
                "only {free} are free in the vault, {} must be",
                window.keep_free
            )));
        }
        Ok(u32::try_from(left).unwrap_or(u32::MAX).min(wanted))
    }

    /// Windows whose end this process did not see, because it was killed: the gate's history knows.
    fn settle_pending(&self) -> Result<()> {
        for row in self.register.windows(20)?.into_iter().filter(|row| row.verified.is_none()) {
            let (record, verified) = match &self.gate {
                None => (None, false),
                Some(gate) => {
                    let record = gate.history(200)?.into_iter().find(|record| record.window == row.window);
                    let verified = record.as_ref().is_some_and(|record| record.closed_verified)
                        || (record.is_none() && gate.status()?.gate.is_verified_closed());
                    (record, verified)
                }
            };
            let seconds = record
                .as_ref()
                .map_or(f64::from(self.config.window.max_seconds), |record| record.exposure.commanded_s);
            let kept = serde_json::json!({ "interrupted": true, "record": record });
            self.register.closed(row.window, seconds, row.bytes, verified, &kept)?;
            self.note(
                "window.interrupted",
                &serde_json::json!({ "window": row.window, "verified": verified }),
            )?;
        }
        Ok(())
    }
}
