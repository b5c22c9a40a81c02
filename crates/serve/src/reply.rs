//! Bodies of answers: none, a short text, or pieces that a thread reads from the disk while they are sent.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, SizeHint},
    header::{CONTENT_TYPE, HeaderValue},
};
use kuramori_model::clock::Clock;
use tokio::sync::mpsc;

use crate::{Event, Outcome, Verb, Watch};

/// Tells the owner about one request, once.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) watch: Arc<dyn Watch>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) event: Event,
}

impl Report {
    /// An event without a client's request.
    pub(crate) fn about(watch: &Arc<dyn Watch>, clock: &Arc<dyn Clock>, verb: Verb) -> Self {
        let event = Event {
            at: clock.now(),
            peer: None,
            login: None,
            repository: None,
            verb,
            kind: None,
            name: None,
            bytes: 0,
            outcome: Outcome::Done,
        };
        Self { watch: watch.clone(), clock: clock.clone(), event }
    }

    /// Tells that all went well, and hands the answer through.
    pub(crate) fn done(self, response: Response<Reply>) -> Response<Reply> {
        self.send(Outcome::Done, 0);
        response
    }

    pub(crate) fn send(mut self, outcome: Outcome, bytes: u64) {
        self.event.at = self.clock.now();
        self.event.outcome = outcome;
        self.event.bytes = bytes;
        self.watch.event(self.event);
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Reply {
    Empty,
    Text(Option<Bytes>),
    Pieces(Pieces),
}

/// A body that is read while it is sent. Reports itself when it ends, however it ends.
#[derive(Debug)]
pub(crate) struct Pieces {
    queue: mpsc::Receiver<io::Result<Bytes>>,
    /// Bytes still to come, if the length was announced.
    left: Option<u64>,
    sent: u64,
    report: Option<Report>,
}

impl Pieces {
    pub(crate) fn new(queue: mpsc::Receiver<io::Result<Bytes>>, length: Option<u64>, report: Report) -> Self {
        Self { queue, left: length, sent: 0, report: Some(report) }
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some(report) = self.report.take() {
            report.send(outcome, self.sent);
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        let outcome = if self.left == Some(0) { Outcome::Done } else { Outcome::Broken };
        self.finish(outcome);
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Pieces(pieces) => {
                let piece = ready!(pieces.queue.poll_recv(context));
                let error = match (piece, pieces.left) {
                    (Some(Ok(bytes)), left) => {
                        let length = bytes.len() as u64;
                        pieces.sent += length;
                        pieces.left = left.map(|left| left.saturating_sub(length));
                        return Poll::Ready(Some(Ok(Frame::data(bytes))));
                    }
                    (None, None | Some(0)) => {
                        pieces.finish(Outcome::Done);
                        return Poll::Ready(None);
                    }
                    (None, Some(_)) => io::Error::from(io::ErrorKind::UnexpectedEof),
                    (Some(Err(error)), _) => error,
                };
                // An error ends the connection, so a client never takes the part for the whole.
                pieces.finish(Outcome::Failed(error.to_string()));
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_none(),
            Self::Pieces(pieces) => pieces.left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Self::Pieces(Pieces { left: Some(left), .. }) => SizeHint::with_exact(*left),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

/// An answer without a body.
pub(crate) fn plain(status: StatusCode) -> Response<Reply> {
    let mut response = Response::new(Reply::Empty);
    *response.status_mut() = status;
    response
}

/// An answer with one line for a person who reads the client's log.
pub(crate) fn text(status: StatusCode, line: &str) -> Response<Reply> {
    let mut response = Response::new(Reply::Text(Some(Bytes::from(format!("{line}\n")))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
