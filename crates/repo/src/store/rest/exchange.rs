//! One request and its answer, tried again as long as that makes sense.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use reqwest::{
    Method,
    blocking::{Body, RequestBuilder, Response},
};

use super::{RestStore, options::untrusted, transfer::Outgoing};
use crate::{
    Error, Result,
    error::file_name,
    store::{FileId, FileKind, Payload, Store},
};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Pieces in which data passes the brake.
const PIECE: usize = 256 << 10;

/// Why one try failed.
pub(super) enum Trouble {
    /// It will fail again.
    Final(Error),
    /// It may pass.
    Again(Box<dyn std::error::Error + Send + Sync>),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// What came of one try.
pub(super) type Tried<T> = std::result::Result<T, Trouble>;

pub(super) fn again(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Trouble {
    Trouble::Again(error.into())
}

/// An answer that this client has no use for.
#[derive(Debug, thiserror::Error)]
#[error("it answered {0}")]
struct Answered(String);

impl RestStore {
    pub(super) fn send(&self, request: RequestBuilder) -> Tried<Response> {
        self.options.cancel.check()?;
        request.send().map_err(|error| {
            if self.options.cancel.is_cancelled() {
                return Error::Cancelled.into();
            }
            // A server with another authority's certificate will not get a better one in a moment.
            if untrusted(&error) {
                return Trouble::Final(Error::Remote {
                    place: self.place(),
                    action: "show a certificate that can be trusted".to_owned(),
                    source: Box::new(error.without_url()),
                    retry: false,
                });
            }
            again(error.without_url())
        })
    }

    /// Tries until it works, until it cannot work, or until the tries are used up.
    pub(super) fn tries<T>(&self, action: &str, mut once: impl FnMut(u32) -> Tried<T>) -> Result<T> {
        let mut pause = FIRST_PAUSE;
        let mut number = 0;
        loop {
            self.options.cancel.check()?;
            let source = match once(number) {
                Ok(value) => return Ok(value),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Again(source)) => source,
            };
            number += 1;
            if number >= self.options.tries {
                return Err(Error::Remote {
                    place: self.place(),
                    action: action.to_owned(),
                    source,
                    retry: true,
                });
            }
            tracing::debug!(place = %self.place(), action, number, error = %source, "trying again");
            self.options.rest(pause)?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// What an answer means that is not the one hoped for.
    pub(super) fn unfit(&self, response: &Response, kind: FileKind, id: FileId, action: &str) -> Trouble {
        let status = response.status();
        let answered = Answered(status.to_string());
        match status.as_u16() {
            401 | 403 => Trouble::Final(Error::Login { place: self.place(), action: action.to_owned() }),
            404 => Error::missing(kind, id).into(),
            413 | 507 => Error::Full {
                file: file_name(kind, id),
                source: io::Error::new(io::ErrorKind::StorageFull, answered),
            }
            .into(),
            408 | 429 | 500..=599 => again(answered),
            _ => self.remote(answered, action).into(),
        }
    }

    pub(super) fn remote(
        &self,
        why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
        action: &str,
    ) -> Error {
        Error::Remote { place: self.place(), action: action.to_owned(), source: why.into(), retry: false }
    }

    /// The whole body, at most `limit` bytes of it.
    pub(super) fn take_all(&self, response: Response, limit: u64, action: &str) -> Tried<Vec<u8>> {
        let announced = response.content_length();
        let too_large = || self.remote(format!("it sends more than {limit} bytes"), action).into();
        if announced.is_some_and(|size| size > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        self.pour(&mut response.take(limit.saturating_add(1)), &mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(too_large());
        }
        match announced {
            Some(size) if size != bytes.len() as u64 => {
                Err(again(io::Error::from(io::ErrorKind::UnexpectedEof)))
            }
            _ => Ok(bytes),
        }
    }

    /// Moves bytes from the network to `out`, piece by piece past brake and cancel.
    pub(super) fn pour(&self, from: &mut dyn Read, out: &mut dyn Write) -> Tried<u64> {
        let mut piece = vec![0; PIECE];
        let mut sum = 0;
        loop {
            self.options.cancel.check()?;
            let got = match from.read(&mut piece) {
                Ok(0) => return Ok(sum),
                Ok(got) => got,
                Err(error) => return Err(again(error)),
            };
            self.options.brake.pass(got as u64);
            out.write_all(&piece[..got]).map_err(|error| Error::io("write", "what was fetched", error))?;
            sum += got as u64;
        }
    }

    /// Sends a file once.
    pub(super) fn upload_once(
        &self,
        kind: FileKind,
        id: FileId,
        payload: Payload<'_>,
        action: &str,
    ) -> Tried<Response> {
        let length = payload.len();
        let body = Body::sized(Outgoing::new(payload, &self.options)?, length);
        let patience = self.options.stall + Duration::from_secs(length / self.options.floor.max(1));
        let response =
            self.send(self.request(Method::POST, self.url(kind, id)?).timeout(patience).body(body))?;
        match response.status().as_u16() {
            200..=299 | 403 => Ok(response),
            // What was sent is not what its name says: a damaged spool file, or memory.
            400 => {
                Err(Error::damaged(kind, id, "the server received bytes that do not have this hash").into())
            }
            _ => Err(self.unfit(&response, kind, id, action)),
        }
    }
}
