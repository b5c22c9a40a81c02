//! TCP probes: does anything answer? A refusal is an answer too, because a packet came back.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use kuramori_model::clock::Clock;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::fault::ObserveFault;

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A connection or a refusal: packets pass in both directions.
    Answered,
    /// Nothing within the time: closed at the moment when the probe began.
    Silent,
    /// The probe could not be made. Counts as open.
    Unknown(String),
}

/// Where probes start.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct From {
    /// A network namespace to enter (`/run/netns/puller`); none for this process's own.
    pub namespace: Option<PathBuf>,
    /// The source address; none for the kernel's choice.
    pub source: Option<Ipv4Addr>,
}

/// Something to probe.
#[derive(Debug, Clone)]
pub struct Target {
    /// Whom.
    pub address: SocketAddrV4,
    /// Where the probe starts.
    pub from: From,
}

/// Probes that began at the same moment and are waited for together with others.
#[derive(Debug)]
pub struct Round {
    /// Boot time at which they began.
    pub begun: Duration,
    end: Duration,
    probes: Vec<Result<OwnedFd, Answer>>,
}

impl Round {
    /// Begins to probe all targets; each is silent when it has not answered after `patience`.
    pub fn begin(targets: &[Target], patience: Duration, clock: &dyn Clock) -> Self {
        let begun = clock.boot();
        let mut probes: Vec<Result<OwnedFd, Answer>> =
            targets.iter().map(|_| Err(Answer::Unknown("not probed".into()))).collect();
        let mut places: Vec<&From> = targets.iter().map(|target| &target.from).collect();
        places.sort_unstable();
        places.dedup();
        for place in places {
            let here: Vec<usize> = (0..targets.len()).filter(|i| targets[*i].from == *place).collect();
            let addresses: Vec<SocketAddrV4> = here.iter().map(|i| targets[*i].address).collect();
            for (i, probe) in here.into_iter().zip(start(place, &addresses)) {
                probes[i] = probe;
            }
        }
        Self { begun, end: begun + patience, probes }
    }

    /// Whether every answer is in or the time is up.
    pub fn finished(&self, clock: &dyn Clock) -> bool {
        clock.boot() >= self.end || self.probes.iter().all(Result::is_err)
    }

    /// When its time is up.
    pub const fn end(&self) -> Duration {
        self.end
    }

    /// The answers in the order of the targets; what has not answered was silent.
    pub fn answers(mut self) -> Vec<Answer> {
        // One more look: who waits too long because the machine is busy must not miss what has come.
        advance(&mut [&mut self], Duration::ZERO);
        self.probes.into_iter().map(|probe| probe.err().unwrap_or(Answer::Silent)).collect()
    }
}

/// Waits at most `patience` until something answers in one of the rounds, and notes what did.
pub fn advance(rounds: &mut [&mut Round], patience: Duration) {
    let mut places = Vec::new();
    let ready: Vec<(usize, usize)> = {
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        for (r, round) in rounds.iter().enumerate() {
            for (i, probe) in round.probes.iter().enumerate() {
                if let Ok(fd) = probe {
                    fds.push(PollFd::new(fd, PollFlags::OUT));
                    places.push((r, i));
                }
            }
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(patience.subsec_nanos()),
        };
        if poll(&mut fds, Some(&timeout)).is_err() {
            return;
        }
        places.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(place, _)| *place).collect()
    };
    for (r, i) in ready {
        let answer = match &rounds[r].probes[i] {
            Ok(fd) => match sockopt::socket_error(fd) {
                Ok(Ok(())) => Answer::Answered,
                Ok(Err(error)) | Err(error) => judge(error),
            },
            Err(answer) => answer.clone(),
        };
        rounds[r].probes[i] = Err(answer);
    }
}

/// Probes all targets at once and waits at most `patience`. Answers come in the order of the targets.
pub fn probe(from: &From, targets: &[SocketAddrV4], patience: Duration, clock: &dyn Clock) -> Vec<Answer> {
    let targets: Vec<Target> =
        targets.iter().map(|address| Target { address: *address, from: from.clone() }).collect();
    let mut round = Round::begin(&targets, patience, clock);
    while !round.finished(clock) {
        let left = round.end().saturating_sub(clock.boot());
        advance(&mut [&mut round], left);
    }
    round.answers()
}

/// Begins probes from one place. A thread of its own each time: a namespace cannot be left again, and its
/// path may be made anew. The sockets stay in the namespace in which they were made.
fn start(from: &From, targets: &[SocketAddrV4]) -> Vec<Result<OwnedFd, Answer>> {
    let all = || targets.iter().map(|target| begin(from.source, *target)).collect();
    let Some(path) = &from.namespace else { return all() };
    let unknown = |what: &str| targets.iter().map(|_| Err(Answer::Unknown(what.to_owned()))).collect();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| match enter(path) {
            Ok(()) => all(),
            Err(error) => unknown(&kuramori_model::fault::chain(&error)),
        });
        thread.join().unwrap_or_else(|_| unknown("the probe failed"))
    })
}

fn enter(path: &Path) -> Result<(), ObserveFault> {
    let fault = |source| ObserveFault::Namespace { path: path.display().to_string(), source };
    let file = fs_err::File::open(path).map_err(fault)?;
    move_into_link_name_space(file.file().as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| fault(error.into()))
}

fn begin(source: Option<Ipv4Addr>, target: SocketAddrV4) -> Result<OwnedFd, Answer> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
        .map_err(|error| Answer::Unknown(error.to_string()))?;
    if let Some(source) = source {
        bind(&fd, &SocketAddrV4::new(source, 0)).map_err(|error| Answer::Unknown(error.to_string()))?;
    }
    match connect(&fd, &target) {
        Ok(()) => Err(Answer::Answered),
        Err(Errno::INPROGRESS) => Ok(fd),
        Err(error) => Err(judge(error)),
    }
}

/// "Unreachable" is not "closed": it says that no probe was made, or that somebody answered for the target.
fn judge(error: Errno) -> Answer {
    match error {
        Errno::CONNREFUSED | Errno::CONNRESET => Answer::Answered,
        Errno::TIMEDOUT => Answer::Silent,
        other => Answer::Unknown(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kuramori_model::clock::SystemClock;

    fn one(target: SocketAddrV4, from: &From) -> Answer {
        probe(from, &[target], Duration::from_millis(300), &SystemClock).remove(0)
    }

    #[test]
    fn listening_and_refusing_both_answer() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("IPv4") };
        assert_eq!(one(address, &From::default()), Answer::Answered);
        drop(listener);
        assert_eq!(one(address, &From::default()), Answer::Answered, "refused");
    }

    #[test]
    fn what_cannot_be_probed_is_unknown() {
        let target = "127.0.0.1:9".parse().unwrap();
        let from = From { namespace: Some("/no/such/namespace".into()), source: None };
        assert!(matches!(one(target, &from), Answer::Unknown(_)));
        let from = From { namespace: None, source: Some(Ipv4Addr::new(203, 0, 113, 77)) };
        assert!(matches!(one(target, &from), Answer::Unknown(_)));
    }
}
