//! Reads another source no faster than its department can bear.
//!
//! Beside the read runs one governor. It knows the limits by time of day, asks the department's own service how
//! long it takes to answer (a TCP connection, an HTTP question), and sets the pace that every reader obeys:
//!
//! | the service's answer | the pace |
//! |---|---|
//! | within `slow` | a quarter faster each time, up to the limit of the hour |
//! | slower than `slow`, or none | half as fast each time, down to [`FLOOR`] |
//! | slower than `limit`, or none, for longer than `give_up` although we hardly read | the run ends |
//!
//! What was stored of a run that ended is found again by the next one, so a job that is stopped resumes where
//! the repository stands. The report says what the service's answers took before and during the run: how much
//! the department felt.
//!
//! **Invariant:** the governor only ever slows down; a limit of the register is never exceeded.

use std::{
    net::{TcpStream, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{Timestamp, civil::Time, tz::TimeZone};
use kuramori_model::tree::Sink;

use crate::{
    Cancel, Control, Description, Error, Report, Source,
    config::{GentleConfig, HourLimit, Probe},
    report::Felt,
};

/// The slowest pace, in bytes per second: hardly felt, and a sign of life for the connection.
pub const FLOOR: u64 = 64 << 10;
/// The pace from which backing off begins where no limit is set.
const FAST: u64 = 256 << 20;
/// Questions before the run.
const BEFORE: usize = 12;
/// Pause between these.
const BEFORE_PAUSE: Duration = Duration::from_millis(50);
/// Answers that are kept for the figures.
const KEPT: usize = 100_000;

/// Another source, read gently.
#[derive(Debug)]
pub struct GentleSource {
    config: GentleConfig,
    files: crate::remote::Files,
}

impl GentleSource {
    /// Contacts nobody yet.
    pub fn new(config: GentleConfig) -> Self {
        Self::with_files(config, crate::remote::no_files)
    }

    /// As [`new`](Self::new), where files may be read too.
    pub fn with_files(config: GentleConfig, files: crate::remote::Files) -> Self {
        Self { config, files }
    }

    fn zone(&self) -> Result<TimeZone, Error> {
        match &self.config.zone {
            Some(name) => TimeZone::get(name).map_err(|error| Error::Config(error.to_string())),
            None => Ok(TimeZone::system()),
        }
    }
}

/// The limit at a time; the strictest of those that apply.
pub fn limit_at(limits: &[HourLimit], now: Timestamp, zone: &TimeZone) -> Option<u64> {
    let clock = now.to_zoned(zone.clone()).time();
    let within = |from: Time, until: Time| {
        if from <= until { (from..until).contains(&clock) } else { clock >= from || clock < until }
    };
    limits
        .iter()
        .filter(|limit| within(limit.from, limit.until) || limit.from == limit.until)
        .map(|limit| limit.rate.0)
        .min()
}

/// One question to the service; how long its answer took. None if it gave none.
fn ask(probe: &Probe, control: &Control, client: Option<&reqwest::blocking::Client>) -> Option<Duration> {
    let begun = control.clock.boot();
    match (probe, client) {
        (Probe::Tcp { address, .. }, _) => {
            let timeout = probe.patience();
            let address = address.to_socket_addrs().ok()?.next()?;
            TcpStream::connect_timeout(&address, timeout).ok()?;
        }
        (Probe::Http { url, .. }, Some(client)) => {
            let answer = client.get(url).send().ok()?;
            let fine = !answer.status().is_server_error();
            answer.bytes().ok()?;
            if !fine {
                return None;
            }
        }
        (Probe::Http { .. }, None) => return None,
    }
    Some(control.clock.boot().saturating_sub(begun))
}

fn client(probe: &Probe) -> Result<Option<reqwest::blocking::Client>, Error> {
    let Probe::Http { .. } = probe else { return Ok(None) };
    reqwest::blocking::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(probe.patience())
        .pool_max_idle_per_host(0)
        .build()
        .map(Some)
        .map_err(|error| Error::Config(format!("the probe: {error}")))
}

/// What the governor has seen.
#[derive(Debug, Default)]
struct Seen {
    during: Vec<Option<Duration>>,
    slowed: Duration,
    gave_up: Option<String>,
}

/// The value below which so many of a hundred lie; unanswered questions count as the longest.
fn percentile(answers: &[Option<Duration>], percent: usize, unanswered: Duration) -> f64 {
    let mut all: Vec<Duration> = answers.iter().map(|answer| answer.unwrap_or(unanswered)).collect();
    all.sort_unstable();
    let at = (all.len() * percent).div_ceil(100).max(1) - 1;
    all.get(at).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}

impl Source for GentleSource {
    fn describe(&self) -> Description {
        match crate::open_with(&self.config.source, self.files) {
            Ok(inner) => inner.describe(),
            Err(error) => Description {
                kind: "gentle",
                server: String::new(),
                address: error.to_string(),
                consistency: crate::report::Statement { ja: String::new(), en: String::new() },
            },
        }
    }

    fn read(&self, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
        let zone = self.zone()?;
        let inner = crate::open_with(&self.config.source, self.files)?;
        let pace = control.pace.clone();
        let limit = |now| limit_at(&self.config.limits, now, &zone);
        pace.set(limit(control.clock.now()));
        let asking = self.config.probe.as_ref().map(client).transpose()?.flatten();
        let mut before = Vec::new();
        if let Some(probe) = &self.config.probe {
            for _ in 0..BEFORE {
                before.push(ask(probe, control, asking.as_ref()));
                control.clock.sleep(BEFORE_PAUSE);
            }
            if before.iter().all(Option::is_none) {
                return Err(Error::Unreachable {
                    server: probe.shown().to_owned(),
                    why: "the service that tells how much the department feels does not answer".into(),
                });
            }
        }
        let (seen, over) = (Arc::new(Mutex::new(Seen::default())), Cancel::default());
        let governor = {
            let (seen, over, control, zone) =
                (Arc::clone(&seen), over.clone(), control.clone(), zone.clone());
            let config = self.config.clone();
            std::thread::Builder::new()
                .name("source-governor".into())
                .spawn(move || govern(&config, &control, &zone, asking.as_ref(), &seen, &over))
                .map_err(Error::Start)?
        };
        let outcome = inner.read(sink, control);
        over.cancel();
        let _ = governor.join();
        pace.set(None);
        let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(why) = seen.gave_up {
            return Err(Error::Burden { server: self.describe().server, why });
        }
        let mut report = outcome?;
        report.felt = self.config.probe.as_ref().map(|probe| Felt {
            probe: probe.shown().to_owned(),
            before_p50_ms: percentile(&before, 50, probe.patience()),
            before_p99_ms: percentile(&before, 99, probe.patience()),
            during_p50_ms: percentile(&seen.during, 50, probe.patience()),
            during_p99_ms: percentile(&seen.during, 99, probe.patience()),
            asked: seen.during.len() as u64,
            unanswered: seen.during.iter().filter(|answer| answer.is_none()).count() as u64,
            slowed_s: seen.slowed.as_secs(),
        });
        Ok(report)
    }
}

fn govern(
    config: &GentleConfig,
    control: &Control,
    zone: &TimeZone,
    client: Option<&reqwest::blocking::Client>,
    seen: &Mutex<Seen>,
    over: &Cancel,
) {
    let clock = &control.clock;
    let every = config.probe.as_ref().map_or(Duration::from_secs(5), Probe::every);
    let mut pace: Option<u64> = None;
    let mut burdened: Option<Duration> = None;
    while !over.is_cancelled() {
        let most = limit_at(&config.limits, clock.now(), zone);
        if let Some(probe) = &config.probe {
            let answer = ask(probe, control, client);
            if over.is_cancelled() {
                return;
            }
            let now = pace.or(most).unwrap_or(FAST);
            let slow = answer.is_none_or(|time| time > probe.slow());
            pace = if slow {
                Some((now / 2).max(FLOOR))
            } else {
                // Back to what the hour allows; where nothing is limited, to no limit at all.
                Some(now + now / 4).filter(|faster| *faster < most.unwrap_or(FAST))
            };
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.during.len() < KEPT {
                seen.during.push(answer);
            }
            if slow {
                seen.slowed += every;
            }
            if answer.is_none_or(|time| time > probe.limit()) {
                let since = *burdened.get_or_insert(clock.boot());
                let length = clock.boot().saturating_sub(since);
                if length >= probe.give_up() {
                    seen.gave_up = Some(format!(
                        "`{}` took longer than {} ms for {} s, although we hardly read",
                        probe.shown(),
                        probe.limit().as_millis(),
                        length.as_secs()
                    ));
                    control.cancel.cancel();
                    return;
                }
            } else {
                burdened = None;
            }
        }
        control.pace.set(match (pace, most) {
            (Some(pace), Some(most)) => Some(pace.min(most)),
            (pace, most) => pace.or(most),
        });
        let until = clock.boot() + every;
        while !over.is_cancelled() && clock.boot() < until {
            clock.sleep(Duration::from_millis(20).min(every));
        }
    }
}

#[cfg(test)]
mod tests {
    use kuramori_model::units::Bytes;

    use super::*;

    #[test]
    fn the_strictest_limit_of_the_hour_applies_also_over_midnight() {
        let zone = TimeZone::get("Asia/Tokyo").unwrap();
        let limit = |from: &str, until: &str, rate| HourLimit {
            from: from.parse().unwrap(),
            until: until.parse().unwrap(),
            rate: Bytes(rate),
        };
        let limits = [limit("08:00", "18:00", 5), limit("22:00", "02:00", 7), limit("00:00", "00:00", 90)];
        let at = |time: &str| {
            let time: Time = time.parse().unwrap();
            let now = jiff::civil::date(2026, 11, 22).to_datetime(time).to_zoned(zone.clone()).unwrap();
            limit_at(&limits, now.timestamp(), &zone)
        };
        for (time, rate) in [
            ("07:59", 90),
            ("08:00", 5),
            ("17:59", 5),
            ("18:00", 90),
            ("23:00", 7),
            ("01:59", 7),
            ("02:00", 90),
        ] {
            assert_eq!(at(time), Some(rate), "{time}");
        }
        assert_eq!(limit_at(&limits[..1], at_noon(&zone), &zone), Some(5));
        assert_eq!(limit_at(&[], at_noon(&zone), &zone), None);
    }

    fn at_noon(zone: &TimeZone) -> Timestamp {
        jiff::civil::date(2026, 11, 22).at(12, 0, 0, 0).to_zoned(zone.clone()).unwrap().timestamp()
    }

    #[test]
    fn an_unanswered_question_is_the_longest_answer() {
        let answers: Vec<Option<Duration>> =
            (1..=99).map(|n| Some(Duration::from_millis(n))).chain([None]).collect();
        let long = Duration::from_secs(5);
        assert!((percentile(&answers, 50, long) - 50.0).abs() < 0.01);
        assert!((percentile(&answers, 99, long) - 99.0).abs() < 0.01);
        assert!((percentile(&answers, 100, long) - 5000.0).abs() < 0.01);
        assert!(percentile(&[], 99, long).abs() < 0.01);
    }
}
