//! A data line against a door that a test opens and shuts, by a clock that the test moves.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its door may stop")]

use std::{
    net::TcpListener,
    sync::{RwLock, mpsc},
};

use kuramori_model::clock::{ManualClock, SeededRandom, SystemClock};
use kuramori_wire::{
    frame::{Frame, FrameReader},
    identity,
    line::{self, Reader, Writer},
    tls,
};

use super::*;
use crate::state::State;

const YEAR: Duration = Duration::from_hours(24 * 365);

struct Door {
    listener: TcpListener,
    tls: tls::Server,
}

impl Door {
    /// A door and an agent that may come in.
    fn open() -> (Self, Endpoint, Arc<ManualClock>) {
        let (random, now) = (SeededRandom::new(4), SystemClock.now());
        let authority = identity::authority(1, now, YEAR, &random).unwrap();
        let own = identity::issue_server(&authority, now, YEAR, &random).unwrap();
        let (key, request) = identity::request("x").unwrap();
        let certificate = identity::issue_agent(&authority, &request, "ward", now, YEAR, &random).unwrap();
        let state = State::new(identity::Pair { certificate, key }, authority.certificate.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tls = tls::server(&[(authority.certificate.clone(), own)]).unwrap();
        let clock = Arc::new(ManualClock::new(now));
        let endpoint = Endpoint {
            server: listener.local_addr().unwrap().to_string(),
            clock: clock.clone(),
            state: Arc::new(RwLock::new(state)),
        };
        (Self { listener, tls }, endpoint, clock)
    }

    /// The next data line.
    fn lane(&self) -> (FrameReader<Reader>, Writer) {
        let (reader, writer, _) = line::accept(self.listener.accept().unwrap().0, &self.tls).unwrap();
        let mut reader = FrameReader::new(reader, true);
        let first = reader.message(&mut |_| Ok(())).unwrap();
        assert!(matches!(first, Message::Lane { .. }), "{first:?}");
        (reader, writer)
    }
}

fn queue() -> Arc<Queue> {
    Arc::new(Queue::new(1 << 20, 1 << 20, 1, Cancel::default()))
}

/// Runs a data line on a thread; the receiver hears when it has ended.
fn lane(endpoint: &Endpoint, queue: &Arc<Queue>) -> mpsc::Receiver<()> {
    let (endpoint, queue) = (endpoint.clone(), queue.clone());
    let (said, ended) = mpsc::channel();
    spawn("lane", move || {
        data_line(&endpoint, &queue, [1; 16], 0);
        let _ = said.send(());
    })
    .unwrap();
    ended
}

#[test]
fn a_data_line_that_stood_idle_for_long_is_brought_back_when_it_breaks() {
    let (door, endpoint, clock) = Door::open();
    let queue = queue();
    let ended = lane(&endpoint, &queue);
    // Nothing is stored on it, again and again, for longer than a line may be away.
    for _ in 0..3 {
        let (mut reader, writer) = door.lane();
        for idle in [PING, SILENT * 2] {
            clock.advance(idle);
            let sign = reader.message(&mut |_| {
                clock.advance(PING);
                Ok(())
            });
            assert!(matches!(sign, Ok(Message::Ping)), "an idle line gives signs of life: {sign:?}");
        }
        writer.close();
    }
    let last = door.lane();
    assert!(queue.going(), "{:?}", queue.failure());
    queue.fail(WireError::Cancelled.into());
    drop(last);
    ended.recv().unwrap();
}

#[test]
fn a_data_line_that_is_only_refused_is_given_up() {
    let (door, endpoint, _clock) = Door::open();
    let queue = queue();
    let ended = lane(&endpoint, &queue);
    // The clock moves by the pauses alone: a minute and a half is a few dozen of them.
    let mut refused = 0;
    while queue.going() {
        let (_reader, mut writer) = door.lane();
        let (code, why) = ("no-session".to_owned(), "there is none".to_owned());
        send(&mut writer, &Message::Refused { code, why }).unwrap();
        refused += 1;
        assert!(refused < 200, "it is never given up");
        // It comes again or gives up; either is an event, and none of them takes long.
        while queue.going() && !knocks(&door.listener) {}
    }
    assert!(refused > 10, "{refused}");
    assert!(queue.failure().is_some());
    ended.recv().unwrap();
}

/// Whether somebody waits at the door; looks for a short while.
fn knocks(listener: &TcpListener) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let wait = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&wait)).unwrap() > 0
}

#[test]
fn a_chunk_whose_answer_does_not_come_goes_out_again_over_another_line() {
    let (door, endpoint, clock) = Door::open();
    let queue = queue();
    queue.offer(vec![7; 1000]);
    let ended = lane(&endpoint, &queue);
    let chunk = |reader: &mut FrameReader<Reader>| loop {
        match reader.read(&mut |_| Ok(())).unwrap() {
            Frame::Message(Message::Ping) => {}
            Frame::Chunk { number, bytes } => break (number, bytes.len()),
            other @ Frame::Message(_) => panic!("{other:?}"),
        }
    };
    let (mut reader, _first) = door.lane();
    assert_eq!(chunk(&mut reader), (0, 1000));
    while !knocks(&door.listener) {
        clock.advance(PING);
    }
    let (mut reader, _second) = door.lane();
    assert_eq!(chunk(&mut reader), (0, 1000));
    queue.fail(WireError::Cancelled.into());
    ended.recv().unwrap();
}
