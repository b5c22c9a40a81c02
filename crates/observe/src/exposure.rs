//! How long the path was open as probes saw it: never less than it was.
//!
//! A failed probe shows that the path was closed at the moment when it began. So the whole span between two
//! failed probes counts as open if any probe between them was answered or could not be made, or if the
//! guarded interface sent anything between them: an opening shorter than the interval is seen too.

/// The sum since the observer started. All times are milliseconds of boot time.
#[derive(Debug, Clone, Copy)]
pub struct Exposure {
    closed: u64,
    open: bool,
    sum: u64,
}

impl Exposure {
    /// Nothing is known yet, which counts as open since `start`.
    pub const fn new(start: u64) -> Self {
        Self { closed: start, open: true, sum: 0 }
    }

    /// Takes a probe that began at `begin`, and gives the sum up to `now`. `sent`: something was sent between
    /// the begin of the last one and of this.
    pub const fn take(&mut self, begin: u64, closed: bool, sent: bool, now: u64) -> u64 {
        if closed {
            if self.open || sent {
                self.sum += begin.saturating_sub(self.closed);
            }
            self.open = false;
            self.closed = begin;
            self.sum
        } else {
            self.open = true;
            self.sum + now.saturating_sub(self.closed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_between_two_failed_probes_counts_whole() {
        let mut exposure = Exposure::new(0);
        assert_eq!(exposure.take(100, true, false, 500), 100, "unknown before the first probe");
        assert_eq!(exposure.take(600, true, false, 1000), 100);
        assert_eq!(exposure.take(1100, false, false, 1110), 100 + 510, "open since the last failed probe");
        assert_eq!(exposure.take(1600, false, false, 1610), 100 + 1010);
        assert_eq!(exposure.take(2100, true, false, 2500), 100 + 1500);
        assert_eq!(exposure.take(2600, true, false, 3000), 100 + 1500);
        assert_eq!(exposure.take(3100, true, true, 3500), 100 + 2000, "something was sent in between");
    }
}
