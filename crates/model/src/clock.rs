//! Time and randomness as things that are handed in, so that a simulation can replay a night.
//!
//! Two clocks, because each lies in its own way: the *wall* clock jumps (NTP, an attacker, a dead battery)
//! and is good for telling people when; the *boot* clock (`CLOCK_BOOTTIME`) only runs forward, also while
//! the machine sleeps, and is the one that leases, deadlines and budgets use.

use std::{
    fmt::Debug,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;

/// Where the time comes from.
pub trait Clock: Debug + Send + Sync {
    /// The wall clock: for display and records, never for a deadline.
    fn now(&self) -> Timestamp;
    /// Time since boot (`CLOCK_BOOTTIME`): never goes backward, goes on while the machine sleeps.
    fn boot(&self) -> Duration;
    /// Waits; a simulated clock returns at once and moves itself forward.
    fn sleep(&self, time: Duration);
}

/// Where unpredictable bytes come from: keys, IVs, nonces.
pub trait Random: Debug + Send + Sync {
    /// Fills the whole buffer.
    ///
    /// # Panics
    /// When the kernel gives no random bytes: nothing that is sealed afterwards could be trusted.
    fn fill(&self, buffer: &mut [u8]);
}

/// The machine's own clocks.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn boot(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// The kernel's random source, by way of aws-lc.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) {
        aws_lc_rs::rand::fill(buffer).expect("the kernel gives random bytes");
    }
}

/// A clock that stands until a test or a simulation moves it.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    /// Starts at the given wall time, with a boot clock of one hour.
    pub fn new(now: Timestamp) -> Self {
        Self { state: Mutex::new((now, Duration::from_hours(1))) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, time: Duration) {
        let mut state = self.lock();
        state.0 = state
            .0
            .saturating_add(jiff::SignedDuration::try_from(time).unwrap_or_default())
            .unwrap_or(state.0);
        state.1 += time;
    }

    /// Sets the wall clock alone: what an attacker or NTP does.
    pub fn jump(&self, now: Timestamp) {
        self.lock().0 = now;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Timestamp, Duration)> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().0
    }

    fn boot(&self) -> Duration {
        self.lock().1
    }

    fn sleep(&self, time: Duration) {
        self.advance(time);
    }
}

/// A random source that a seed replays (SplitMix64, Steele et al. 2014). For tests and generators only:
/// whoever knows the seed knows every byte.
#[derive(Debug)]
pub struct SeededRandom {
    state: AtomicU64,
}

impl SeededRandom {
    /// Starts the sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    /// The next 64 bits.
    pub fn next(&self) -> u64 {
        let mut z = self
            .state
            .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)
            .wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 for a limit of 0. The slight bias of a remainder does not matter here.
    pub fn below(&self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.next() % limit }
    }
}

impl Random for SeededRandom {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_its_bytes() {
        let (mut a, mut b) = ([0; 37], [0; 37]);
        SeededRandom::new(7).fill(&mut a);
        SeededRandom::new(7).fill(&mut b);
        assert_eq!(a, b);
        SeededRandom::new(8).fill(&mut b);
        assert_ne!(a, b);
    }

    #[test]
    fn a_wall_clock_jump_leaves_the_boot_clock_alone() {
        let clock = ManualClock::new(Timestamp::UNIX_EPOCH);
        let boot = clock.boot();
        clock.jump("2036-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(clock.boot(), boot);
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.boot(), boot + Duration::from_secs(5));
    }
}
