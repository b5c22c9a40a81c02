//! What a person sees while the job runs: one line a step, in both languages, with the time since the start.

use std::{io::Write, time::Duration};

use kuramori_model::clock::{Clock, SystemClock};

/// Tells the steps on standard error.
#[derive(Debug)]
pub struct Story {
    begin: Duration,
    japanese: bool,
    quiet: bool,
}

impl Story {
    /// Begins now; in Japanese if the environment asks for it.
    pub fn new(quiet: bool) -> Self {
        let language = ["KURAMORI_LANG", "LC_ALL", "LANG"].iter().find_map(|name| std::env::var(name).ok());
        let japanese = language.is_some_and(|language| language.starts_with("ja"));
        Self { begin: SystemClock.boot(), japanese, quiet }
    }

    /// A step and what it showed.
    pub fn tell(&self, ja: &str, en: &str) {
        if !self.quiet {
            let text = if self.japanese { ja } else { en };
            let _ = writeln!(std::io::stderr(), "{:7.1} s  {text}", self.seconds());
        }
    }

    /// Where the console can be seen.
    pub fn console(&self, address: &str) {
        self.tell(&format!("画面: {address}"), &format!("console: {address}"));
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        seconds_since(self.begin)
    }
}

/// Seconds of boot time since `begin`.
pub(super) fn seconds_since(begin: Duration) -> f64 {
    SystemClock.boot().saturating_sub(begin).as_secs_f64()
}
