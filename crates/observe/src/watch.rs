//! The vault-side observer: one round of probes and counters, one word.

use std::{net::SocketAddrV4, path::PathBuf, time::Duration};

use kuramori_model::{clock::Clock, fault::chain, gate::Seen};

use crate::{
    counters,
    exposure::Exposure,
    probe::{Answer, From, probe},
};

/// What to watch.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The approved flow's other end; answered while a window is open, silent otherwise.
    pub target: SocketAddrV4,
    /// What must never answer: other ports of the primary, other hosts.
    pub never: Vec<SocketAddrV4>,
    /// Where the probes start: the puller's namespace or address.
    pub from: From,
    /// The guarded interface.
    pub interface: String,
    /// `/sys/class/net`.
    pub sys_class_net: PathBuf,
    /// How long an answer may take. Shorter than the interval between rounds.
    pub patience: Duration,
}

/// The observer and its sum.
#[derive(Debug)]
pub struct Watcher {
    watched: Watched,
    run: u64,
    exposure: Exposure,
    last: Option<(u64, u64)>,
}

impl Watcher {
    /// `run` must differ from the last start's.
    pub fn new(watched: Watched, run: u64, clock: &dyn Clock) -> Self {
        Self { watched, run, exposure: Exposure::new(milliseconds(clock)), last: None }
    }

    /// One round.
    pub fn look(&mut self, clock: &dyn Clock) -> Seen {
        let watched = &self.watched;
        let (at, begin) = (clock.now(), milliseconds(clock));
        // Counted when the probes begin: both speak of the same moment.
        let counted = counters::read(&watched.sys_class_net, &watched.interface);
        let before = self.last;
        if let Ok(counters) = &counted {
            self.last = Some((counters.rx_bytes, counters.tx_bytes));
        }
        let mut targets = vec![watched.target];
        targets.extend(&watched.never);
        let answers = probe(&watched.from, &targets, watched.patience, clock);
        let mut unapproved = Vec::new();
        let mut unknown = false;
        let mut path_open = answers.first() != Some(&Answer::Silent);
        for (i, (target, answer)) in targets.iter().zip(&answers).enumerate() {
            match answer {
                Answer::Answered if i > 0 => unapproved.push(target.to_string()),
                Answer::Unknown(why) => {
                    unknown = true;
                    unapproved.push(format!("{target} cannot be probed: {why}"));
                }
                _ => {}
            }
        }
        if let Err(error) = &counted {
            unknown = true;
            unapproved.push(chain(error));
        }
        path_open |= unknown;
        // A port that must never answer is as open as the path itself.
        let closed = !path_open && unapproved.is_empty();
        let sent = before.is_some_and(|(_, tx)| self.last.is_some_and(|(_, now)| now != tx));
        let exposed_ms = self.exposure.take(begin, closed, sent, milliseconds(clock));
        let (rx_bytes, tx_bytes) = self.last.unwrap_or_default();
        let ok = unapproved.is_empty();
        Seen {
            at,
            boot_ms: begin,
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

fn milliseconds(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.boot().as_millis()).unwrap_or(u64::MAX)
}
