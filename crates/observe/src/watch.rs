//! The vault-side observer: probes and counters, one word for each round of probes.
//!
//! **Rounds overlap.** The approved flows are probed every 100 ms, although a probe is called silent only
//! after 400 ms: the next ones begin meanwhile. So the exposure that probes see, which counts the whole span
//! between two failed ones, is at most two tenths of a second longer than the path was really open. What must
//! never answer is probed twice a second.
//!
//! Rounds speak in the order in which they began; each word holds for the moment when its round began.

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use jiff::Timestamp;
use kuramori_model::{clock::Clock, fault::chain, gate::Seen};

use crate::{
    counters::{self, Counters},
    exposure::Exposure,
    fault::ObserveFault,
    probe::{Answer, Round, Target, advance},
};

/// What must never answer is probed this often.
const NEVER_EVERY: Duration = Duration::from_millis(500);

/// What to watch.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The approved flows' other ends, each from where its flow begins; one answers while its window is
    /// open, all are silent otherwise.
    pub flows: Vec<Target>,
    /// What must never answer: other ports of the primary, other hosts, the vault from the other side.
    pub never: Vec<Target>,
    /// The guarded interface.
    pub interface: String,
    /// `/sys/class/net`.
    pub sys_class_net: PathBuf,
    /// How long an answer may take.
    pub patience: Duration,
    /// Time between two rounds.
    pub interval: Duration,
}

/// One round on its way.
#[derive(Debug)]
struct Under {
    round: Round,
    at: Timestamp,
    /// Counted when the probes begin: both speak of the same moment.
    counted: Result<Counters, ObserveFault>,
    with_never: bool,
}

/// The observer and its sum.
#[derive(Debug)]
pub struct Watcher {
    watched: Watched,
    run: u64,
    exposure: Exposure,
    last: Option<Counters>,
    /// What answered although it must not, in the newest round that asked.
    wrong: Vec<String>,
    wrong_unknown: bool,
    under: VecDeque<Under>,
    next: Duration,
    next_never: Duration,
}

impl Watcher {
    /// `run` must differ from the last start's.
    pub fn new(watched: Watched, run: u64, clock: &dyn Clock) -> Self {
        Self {
            watched,
            run,
            exposure: Exposure::new(milliseconds(clock.boot())),
            last: None,
            wrong: vec!["nothing was probed yet".to_owned()],
            wrong_unknown: true,
            under: VecDeque::new(),
            next: clock.boot(),
            next_never: clock.boot(),
        }
    }

    /// One whole round by itself.
    pub fn look(&mut self, clock: &dyn Clock) -> Seen {
        let mut under = self.begin(true, clock);
        while !under.round.finished(clock) {
            let left = under.round.end().saturating_sub(clock.boot());
            advance(&mut [&mut under.round], left);
        }
        self.judge(under, clock)
    }

    /// Begins what is due, waits for the next thing to happen, and gives the words that are ready.
    pub fn turn(&mut self, clock: &dyn Clock) -> Vec<Seen> {
        let now = clock.boot();
        if now >= self.next {
            // A late round is not made up for by a burst.
            self.next = (self.next + self.watched.interval).max(now);
            let with_never = now >= self.next_never;
            if with_never {
                self.next_never = (self.next_never + NEVER_EVERY).max(now);
            }
            let under = self.begin(with_never, clock);
            self.under.push_back(under);
        }
        let first = self.under.front().map_or(self.next, |under| under.round.end());
        let left = first.min(self.next).saturating_sub(clock.boot());
        let mut rounds: Vec<&mut Round> = self.under.iter_mut().map(|under| &mut under.round).collect();
        // A poll ends early for an answer; whole milliseconds are fine enough.
        advance(&mut rounds, left.max(Duration::from_millis(1)));
        let mut words = Vec::new();
        while self.under.front().is_some_and(|under| under.round.finished(clock)) {
            if let Some(under) = self.under.pop_front() {
                words.push(self.judge(under, clock));
            }
        }
        words
    }

    fn begin(&self, with_never: bool, clock: &dyn Clock) -> Under {
        let watched = &self.watched;
        let mut targets = watched.flows.clone();
        if with_never {
            targets.extend(watched.never.iter().cloned());
        }
        let at = clock.now();
        // The round's own time is taken before its first packet leaves.
        let counted = counters::read(&watched.sys_class_net, &watched.interface);
        Under { round: Round::begin(&targets, watched.patience, clock), at, counted, with_never }
    }

    fn judge(&mut self, under: Under, clock: &dyn Clock) -> Seen {
        let begun = milliseconds(under.round.begun);
        let before = self.last;
        if let Ok(counters) = &under.counted {
            self.last = Some(*counters);
        }
        let answers = under.round.answers();
        let (flows, never) = answers.split_at(self.watched.flows.len().min(answers.len()));
        let mut path_open = flows.is_empty();
        let mut unapproved = Vec::new();
        let mut unknown = false;
        for (target, answer) in self.watched.flows.iter().zip(flows) {
            match answer {
                Answer::Silent => {}
                Answer::Answered => path_open = true,
                Answer::Unknown(why) => {
                    unknown = true;
                    unapproved.push(format!("{} cannot be probed: {why}", target.address));
                }
            }
        }
        if under.with_never {
            (self.wrong, self.wrong_unknown) = (Vec::new(), false);
            for (target, answer) in self.watched.never.iter().zip(never) {
                match answer {
                    Answer::Silent => {}
                    Answer::Answered => self.wrong.push(target.address.to_string()),
                    Answer::Unknown(why) => {
                        self.wrong_unknown = true;
                        self.wrong.push(format!("{} cannot be probed: {why}", target.address));
                    }
                }
            }
        }
        unapproved.extend(self.wrong.iter().cloned());
        unknown |= self.wrong_unknown;
        if let Err(error) = &under.counted {
            unknown = true;
            unapproved.push(chain(error));
        }
        path_open |= unknown;
        // A port that must never answer is as open as the path itself.
        let closed = !path_open && unapproved.is_empty();
        let sent = before.is_some_and(|before| self.last.is_some_and(|now| now.tx_bytes != before.tx_bytes));
        let exposed_ms = self.exposure.take(begun, closed, sent, milliseconds(clock.boot()));
        let Counters { rx_bytes, tx_bytes } = self.last.unwrap_or(Counters { rx_bytes: 0, tx_bytes: 0 });
        let ok = unapproved.is_empty();
        Seen {
            at: under.at,
            boot_ms: begun,
            run: self.run,
            path_open,
            unknown,
            unapproved,
            rx_bytes,
            tx_bytes,
            exposed_ms,
            ok,
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use kuramori_model::clock::SystemClock;

    use super::*;
    use crate::probe::From;

    fn target(address: SocketAddr) -> Target {
        let SocketAddr::V4(address) = address else { panic!("IPv4") };
        Target { address, from: From::default() }
    }

    #[test]
    fn words_come_in_order_and_more_often_than_a_probe_takes() {
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let watched = Watched {
            flows: vec![target(open.local_addr().unwrap())],
            never: vec![target("127.0.0.1:1".parse().unwrap())],
            interface: "lo".into(),
            sys_class_net: "/sys/class/net".into(),
            patience: Duration::from_millis(400),
            interval: Duration::from_millis(100),
        };
        let clock = SystemClock;
        let mut watcher = Watcher::new(watched, 1, &clock);
        let (start, mut words) = (clock.boot(), Vec::new());
        // One beginning soon after another's is enough: a busy machine lets some of them wait.
        let overlap = |words: &[Seen]| words.windows(2).any(|two| two[1].boot_ms - two[0].boot_ms < 400);
        while words.len() < 6 || !overlap(&words) {
            let took = clock.boot().saturating_sub(start);
            assert!(took < Duration::from_mins(1), "{} words in {took:?}", words.len());
            words.extend(watcher.turn(&clock));
        }
        assert!(words.is_sorted_by_key(|word| word.boot_ms));
        assert!(words.iter().all(|word| word.path_open && !word.ok), "port 1 refuses, which is an answer");
        assert!(words.iter().all(|word| word.unapproved == ["127.0.0.1:1"]), "{words:#?}");
    }
}
