//! An archive's web interface: few requests at a time, each tried again when the line breaks.

use std::{io::Read, sync::Arc, time::Duration};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use reqwest::{
    StatusCode,
    blocking::{Body, Client, RequestBuilder, Response},
    header::{ACCEPT, CONTENT_TYPE},
    redirect::Policy,
};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::{Control, Error, config::DicomConfig};

/// Answers in JSON, DICOM's own model of it first.
pub(super) const ACCEPT_JSON: &str = "application/dicom+json, application/json";
/// Tries of one request.
const TRIES: u32 = 4;
/// Pause between them; grows.
const PAUSE: Duration = Duration::from_millis(300);
/// The slowest line that is still waited for, in bytes per second.
const SLOWEST: u64 = 256 << 10;
/// The largest answer that is taken into memory.
const MOST: u64 = 512 << 20;

/// One archive.
#[derive(Clone)]
pub(super) struct Site {
    client: Client,
    base: String,
    user: String,
    password: Option<Arc<Zeroizing<String>>>,
    server: String,
    patience: Duration,
    control: Control,
}

impl Site {
    pub(super) fn new(config: &DicomConfig, control: &Control) -> Result<Self, Error> {
        let server = format!("{}:{}", config.server, config.port);
        let tls = |why: String| Error::Tls { server: server.clone(), why };
        let mut client = Client::builder()
            .user_agent(concat!("kuramori/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .no_proxy()
            .redirect(Policy::none())
            .referer(false)
            .https_only(config.ca_file.is_some())
            .connect_timeout(config.connect_within.0)
            // Orthanc closes idle connections after a second.
            .pool_idle_timeout(Duration::from_millis(600));
        if let Some(file) = &config.ca_file {
            let pem = fs_err::read(file).map_err(|error| tls(error.to_string()))?;
            let roots =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| tls(error.to_string()))?;
            client = client.tls_certs_only(roots);
        }
        let scheme = if config.ca_file.is_some() { "https" } else { "http" };
        Ok(Self {
            client: client.build().map_err(|error| tls(error.to_string()))?,
            base: format!("{scheme}://{server}{}", config.path.trim_end_matches('/')),
            user: config.user.clone(),
            password: match &config.password_file {
                Some(file) => Some(Arc::new(crate::config::password(file)?)),
                None => None,
            },
            server,
            patience: control.patience,
            control: control.clone(),
        })
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    fn failure(&self, what: &str, error: &reqwest::Error) -> Error {
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            why = format!("{why}: {inner}");
            cause = inner.source();
        }
        if error.is_timeout() && !error.is_connect() {
            return Error::Stalled {
                server: self.server.clone(),
                what: what.to_owned(),
                seconds: self.patience.as_secs(),
            };
        }
        if error.is_connect() {
            return Error::Unreachable { server: self.server.clone(), why };
        }
        Error::ConnectionLost { server: self.server.clone(), what: what.to_owned(), why }
    }

    fn refused(&self, what: &str, status: StatusCode) -> Error {
        match status {
            StatusCode::UNAUTHORIZED => {
                Error::WrongPassword { server: self.server.clone(), user: self.user.clone() }
            }
            StatusCode::FORBIDDEN => Error::AccessDenied {
                server: self.server.clone(),
                user: self.user.clone(),
                what: what.to_owned(),
            },
            status => Error::Server {
                server: self.server.clone(),
                code: status.as_u16().to_string(),
                message: format!("`{what}` was answered with {status}"),
            },
        }
    }

    /// With our name, if we have one.
    fn known(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.password {
            Some(password) => request.basic_auth(&self.user, Some(password.as_str())),
            None => request,
        }
    }

    /// Asks; again when the line breaks or the server is in trouble. `expected` bytes set the time limit.
    pub(super) fn open(&self, path: &str, expected: u64) -> Result<Response, Error> {
        self.open_as(path, expected, "*/*")
    }

    /// As [`open`](Self::open), for an answer of some kind.
    pub(super) fn open_as(&self, path: &str, expected: u64, accept: &str) -> Result<Response, Error> {
        let limit = self.patience + Duration::from_secs(expected / SLOWEST);
        let mut tries = 0;
        loop {
            if self.control.cancel.is_cancelled() {
                return Err(Error::Cancelled(path.to_owned()));
            }
            tries += 1;
            let request = self
                .known(self.client.get(format!("{}{path}", self.base)))
                .header(ACCEPT, accept)
                .timeout(limit);
            let error = match request.send() {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if response.status().is_server_error() => self.refused(path, response.status()),
                Ok(response) => return Err(self.refused(path, response.status())),
                Err(error) => self.failure(path, &error),
            };
            if tries >= TRIES || matches!(error, Error::Stalled { .. }) {
                return Err(error);
            }
            self.control.clock.sleep(PAUSE * tries);
        }
    }

    /// A whole answer in memory.
    pub(super) fn get(&self, path: &str, expected: u64) -> Result<Bytes, Error> {
        self.get_as(path, expected, "*/*")
    }

    /// As [`get`](Self::get), for an answer of some kind.
    pub(super) fn get_as(&self, path: &str, expected: u64, accept: &str) -> Result<Bytes, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let response = self.open_as(path, expected, accept)?;
            let announced = response.content_length();
            if announced.is_some_and(|length| length > MOST) {
                return Err(Error::Protocol {
                    server: self.server.clone(),
                    why: format!("`{path}` has {} bytes", announced.unwrap_or(0)),
                });
            }
            match response.bytes() {
                Ok(bytes) => return Ok(bytes),
                Err(error) if tries >= TRIES => return Err(self.failure(path, &error)),
                Err(_) => self.control.clock.sleep(PAUSE * tries),
            }
        }
    }

    /// A JSON answer.
    pub(super) fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let bytes = self.get(path, 0)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Protocol {
            server: self.server.clone(),
            why: format!("`{path}` is not what was expected: {error}"),
        })
    }

    /// Stores one instance; only ever called to give a backup back.
    pub(super) fn store(&self, content: Bytes) -> Result<serde_json::Value, Error> {
        let bytes = self.post("/instances", "application/dicom", content)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Protocol {
            server: self.server.clone(),
            why: format!("the answer to an upload is not what was expected: {error}"),
        })
    }

    /// Sends something; only ever called to give a backup back.
    pub(super) fn post(&self, path: &str, kind: &str, content: Bytes) -> Result<Bytes, Error> {
        let limit = self.patience + Duration::from_secs(content.len() as u64 / SLOWEST);
        let response = self
            .known(self.client.post(format!("{}{path}", self.base)))
            .header(CONTENT_TYPE, kind)
            .header(ACCEPT, ACCEPT_JSON)
            .timeout(limit)
            .body(Body::from(content))
            .send()
            .map_err(|error| self.failure(path, &error))?;
        if !response.status().is_success() {
            return Err(self.refused(path, response.status()));
        }
        response.bytes().map_err(|error| self.failure(path, &error))
    }
}

type Job = Box<dyn FnOnce(&Site) + Send>;

/// A few threads that ask side by side.
pub(super) struct Lanes {
    jobs: Sender<Job>,
    control: Control,
}

impl Lanes {
    pub(super) fn start(site: &Site, count: u8) -> Result<Self, Error> {
        let (jobs, work) = unbounded::<Job>();
        for _ in 0..count.max(1) {
            let (work, site): (Receiver<Job>, Site) = (work.clone(), site.clone());
            // Ends when the lanes are dropped, after its last answer.
            std::thread::Builder::new()
                .name("source-dicom".into())
                .spawn(move || work.into_iter().for_each(|job| job(&site)))
                .map_err(Error::Start)?;
        }
        Ok(Self { jobs, control: site.control().clone() })
    }

    /// Has something asked; the answer comes later.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Site) -> Result<T, Error> + Send + 'static,
    ) -> Receiver<Result<T, Error>> {
        let (to, answer) = bounded(1);
        // If every lane died, the answer's channel is closed and `wait` says so.
        let _ = self.jobs.send(Box::new(move |site| drop(to.send(work(site)))));
        answer
    }

    pub(super) fn wait<T>(&self, answer: &Receiver<Result<T, Error>>, what: &str) -> Result<T, Error> {
        loop {
            if self.control.cancel.is_cancelled() {
                return Err(Error::Cancelled(what.to_owned()));
            }
            match answer.recv_timeout(Duration::from_millis(50)) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::ConnectionLost {
                        server: "the archive".into(),
                        what: what.to_owned(),
                        why: "the reader stopped".into(),
                    });
                }
            }
        }
    }
}

/// Reads exactly the next bytes of a streamed answer.
pub(super) fn piece(response: &mut Response, most: usize) -> std::io::Result<Bytes> {
    let mut piece = vec![0; most];
    let length = response.read(&mut piece)?;
    piece.truncate(length);
    Ok(piece.into())
}
