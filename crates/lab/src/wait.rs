//! Waiting on conditions, never on time.

use std::time::Duration;

use kuramori_model::clock::{Clock, SystemClock};

use crate::error::{LabError, Result};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(25);

/// Waits until `ready` gives something, and gives that back.
///
/// # Errors
/// [`LabError::Timeout`] after `limit`, naming `what`; and whatever `ready` fails with.
pub fn wait_until<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = SystemClock.boot();
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        let waited = SystemClock.boot().saturating_sub(begin);
        if waited >= limit {
            return Err(LabError::Timeout { what: what.to_owned(), waited });
        }
        SystemClock.sleep(STEP);
    }
}

/// [`wait_until`] for a plain yes or no.
pub fn wait_for(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    wait_until(what, limit, || Ok(ready().then_some(())))
}
