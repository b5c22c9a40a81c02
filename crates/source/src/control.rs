//! How a running job is steered from outside: time, cancellation, patience, rate, progress.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use kuramori_model::clock::{Clock, SystemClock};

use crate::report::MarkerSeen;

/// A switch that ends a run soon after it is thrown. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the run.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether somebody did.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A limit of bytes per second that may change while a run goes on. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Pace(Arc<AtomicU64>);

impl Pace {
    /// From now on so many bytes per second; `None` for as fast as it goes.
    pub fn set(&self, rate: Option<u64>) {
        self.0.store(rate.map_or(0, |rate| rate.max(1)), Ordering::Relaxed);
    }

    /// The limit that holds now.
    pub fn now(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }
}

/// What a run is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Login and checks of identity.
    Connecting,
    /// Waiting for the vendor's marker.
    Waiting,
    /// Looking at names, sizes and times.
    Looking,
    /// Reading content.
    Reading,
    /// Last checks.
    Finishing,
}

/// How far a run is.
#[derive(Debug, Clone)]
pub struct Progress<'a> {
    /// What it is doing.
    pub phase: Phase,
    /// Items handed to the sink so far.
    pub items: u64,
    /// Bytes of content read or kept so far.
    pub bytes: u64,
    /// Items and bytes to expect, where the source announced them.
    pub total: Option<(u64, u64)>,
    /// The item in work.
    pub path: &'a str,
}

/// Everything that steers one run.
#[derive(Clone)]
pub struct Control {
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// The switch that ends the run.
    pub cancel: Cancel,
    /// Called for each item and at least each few megabytes, on the thread that called `read`.
    pub progress: Arc<dyn Fn(&Progress<'_>) + Send + Sync>,
    /// Bytes of content per second; `None` for as fast as it goes.
    pub rate: Option<u64>,
    /// A second limit that may change while the run goes on.
    pub pace: Pace,
    /// How long the server may be silent before the run counts as hanging.
    pub patience: Duration,
    /// The marker of the last committed restore point of this source.
    pub previous: Option<MarkerSeen>,
}

impl Default for Control {
    /// The machine's clock, nobody watching, no limit, five minutes of patience.
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            cancel: Cancel::default(),
            progress: Arc::new(|_| ()),
            rate: None,
            pace: Pace::default(),
            patience: Duration::from_mins(5),
            previous: None,
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("cancel", &self.cancel)
            .field("rate", &self.rate)
            .field("patience", &self.patience)
            .field("previous", &self.previous)
            .finish_non_exhaustive()
    }
}

/// Remembers when the server last gave a sign of life, on the boot clock.
#[derive(Debug)]
pub(crate) struct Pulse {
    clock: Arc<dyn Clock>,
    last: AtomicU64,
}

impl Pulse {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let last = AtomicU64::new(millis(clock.boot()));
        Self { clock, last }
    }

    /// The server answered, or silence is ours (we wait on purpose).
    pub(crate) fn beat(&self) {
        self.last.fetch_max(millis(self.clock.boot()), Ordering::Relaxed);
    }

    /// How long it has been silent, counted from `since` at the earliest: before that nobody was waiting.
    pub(crate) fn silence(&self, since: Duration) -> Duration {
        let from = self.last.load(Ordering::Relaxed).max(millis(since));
        Duration::from_millis(millis(self.clock.boot()).saturating_sub(from))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A token bucket on the boot clock: says how long to wait before the next bytes may be asked for.
#[derive(Debug)]
pub struct Bucket {
    clock: Arc<dyn Clock>,
    rate: Option<u64>,
    pace: Pace,
    /// The boot time at which everything granted so far is paid for.
    paid: Mutex<Duration>,
}

/// How far behind the clock the bucket may fall: a short burst after a pause.
const BURST: Duration = Duration::from_millis(250);

impl Bucket {
    /// With the limits of a run.
    pub fn new(control: &Control) -> Self {
        let clock = Arc::clone(&control.clock);
        let paid = Mutex::new(clock.boot());
        Self { clock, rate: control.rate.filter(|rate| *rate > 0), pace: control.pace.clone(), paid }
    }

    /// The stricter of both limits.
    fn rate(&self) -> Option<u64> {
        match (self.rate, self.pace.now()) {
            (Some(rate), Some(pace)) => Some(rate.min(pace)),
            (rate, pace) => rate.or(pace),
        }
    }

    /// Takes `bytes` and returns how long to wait before using them.
    pub fn take(&self, bytes: u64) -> Duration {
        let Some(rate) = self.rate() else { return Duration::ZERO };
        let now = self.clock.boot();
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let from = (*paid).max(now.saturating_sub(BURST));
        let cost = Duration::from_nanos(
            u64::try_from(u128::from(bytes) * 1_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX),
        );
        *paid = from.saturating_add(cost);
        from.saturating_sub(now)
    }

    /// Takes `bytes` if nothing is owed now; else says how long to wait at least before asking again. For many
    /// who wait side by side: a pace that changes holds at once for all that were not granted yet.
    pub(crate) fn try_take(&self, bytes: u64) -> Result<(), Duration> {
        if self.rate().is_some() {
            let owed = *self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = owed.saturating_sub(self.clock.boot());
            if !wait.is_zero() {
                return Err(wait);
            }
        }
        self.take(bytes);
        Ok(())
    }

    /// The largest piece to ask for at once, so that a slow limit does not come in bursts.
    pub(crate) fn piece(&self, most: u32) -> u32 {
        match self.rate() {
            Some(rate) => most.min(u32::try_from(rate / 8).unwrap_or(u32::MAX).max(64 << 10)),
            None => most,
        }
    }
}

#[cfg(test)]
mod tests {
    use kuramori_model::clock::ManualClock;

    use super::*;

    #[test]
    fn the_bucket_holds_its_rate_over_time_and_forgives_a_pause_only_shortly() {
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let control = Control { clock: clock.clone(), rate: Some(1_000_000), ..Control::default() };
        let bucket = Bucket::new(&control);
        let begun = clock.boot();
        for _ in 0..100 {
            let wait = bucket.take(100_000);
            clock.advance(wait);
        }
        let seconds = clock.boot().saturating_sub(begun).as_secs_f64();
        assert!((9.5..=10.1).contains(&seconds), "{seconds}");
        clock.advance(Duration::from_hours(1));
        assert_eq!(bucket.take(1_000_000), Duration::ZERO);
        assert!(bucket.take(1) >= Duration::from_millis(700), "an hour's silence is no credit");
        clock.advance(Duration::from_hours(1));
        control.pace.set(Some(1000));
        assert_eq!(bucket.take(10_000), Duration::ZERO);
        assert!(bucket.take(1) >= Duration::from_secs(9), "the stricter limit holds at once");
        control.pace.set(None);
        clock.advance(Duration::from_hours(1));
        bucket.take(1_000_000);
        assert!(bucket.take(1) <= Duration::from_secs(1), "and no longer than it is set");
    }

    #[test]
    fn silence_counts_only_while_somebody_waits() {
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let pulse = Pulse::new(clock.clone());
        clock.advance(Duration::from_mins(10));
        assert_eq!(pulse.silence(clock.boot()), Duration::ZERO);
        let since = clock.boot();
        clock.advance(Duration::from_secs(7));
        assert_eq!(pulse.silence(since), Duration::from_secs(7));
        pulse.beat();
        assert_eq!(pulse.silence(since), Duration::ZERO);
    }
}
