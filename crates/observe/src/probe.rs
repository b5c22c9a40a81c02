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
#[derive(Debug, Clone, Default)]
pub struct From {
    /// A network namespace to enter (`/run/netns/puller`); none for this process's own.
    pub namespace: Option<PathBuf>,
    /// The source address; none for the kernel's choice.
    pub source: Option<Ipv4Addr>,
}

/// Probes all targets at once and waits at most `patience`. Answers come in the order of the targets.
pub fn probe(from: &From, targets: &[SocketAddrV4], patience: Duration, clock: &dyn Clock) -> Vec<Answer> {
    let Some(path) = &from.namespace else {
        return here(from.source, targets, patience, clock);
    };
    // A thread of its own each time: a namespace cannot be left again, and its path may be made anew.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| match enter(path) {
            Ok(()) => here(from.source, targets, patience, clock),
            Err(error) => {
                let what = kuramori_model::fault::chain(&error);
                targets.iter().map(|_| Answer::Unknown(what.clone())).collect()
            }
        });
        thread
            .join()
            .unwrap_or_else(|_| targets.iter().map(|_| Answer::Unknown("the probe failed".into())).collect())
    })
}

fn enter(path: &Path) -> Result<(), ObserveFault> {
    let fault = |source| ObserveFault::Namespace { path: path.display().to_string(), source };
    let file = fs_err::File::open(path).map_err(fault)?;
    move_into_link_name_space(file.file().as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| fault(error.into()))
}

fn here(
    source: Option<Ipv4Addr>,
    targets: &[SocketAddrV4],
    patience: Duration,
    clock: &dyn Clock,
) -> Vec<Answer> {
    let end = clock.boot() + patience;
    let mut probes: Vec<Result<OwnedFd, Answer>> =
        targets.iter().map(|target| begin(source, *target)).collect();
    loop {
        let left = end.saturating_sub(clock.boot());
        let waiting: Vec<usize> = (0..probes.len()).filter(|i| probes[*i].is_ok()).collect();
        if waiting.is_empty() || left.is_zero() {
            break;
        }
        let ready: Vec<usize> = {
            let mut fds: Vec<PollFd<'_>> = waiting
                .iter()
                .filter_map(|i| probes[*i].as_ref().ok())
                .map(|fd| PollFd::new(fd, PollFlags::OUT))
                .collect();
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()).max(1_000_000) };
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
            waiting.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(i, _)| *i).collect()
        };
        for i in ready {
            let answer = match &probes[i] {
                Ok(fd) => match sockopt::socket_error(fd) {
                    Ok(Ok(())) => Answer::Answered,
                    Ok(Err(error)) | Err(error) => judge(error),
                },
                Err(answer) => answer.clone(),
            };
            probes[i] = Err(answer);
        }
    }
    probes.into_iter().map(|probe| probe.err().unwrap_or(Answer::Silent)).collect()
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
