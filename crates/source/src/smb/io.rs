//! The bridge between the caller's thread, which drives the sink, and one thread of our own, which keeps
//! requests in flight. Down go requests, up come answers; the caller waits with patience and an eye on
//! cancellation, and dropping the bridge ends everything that is still in flight.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, unbounded};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::{
    fetch::{self, Piece},
    link::{Failure, Link},
    names::Wide,
    wire::Listed,
};
use crate::{
    Control, Error,
    config::SmbConfig,
    control::{Bucket, Pulse},
    report::SmbOrigin,
};

enum Request {
    Origin(Sender<Result<(SmbOrigin, u32), Failure>>),
    List(Wide, Sender<Result<Vec<Listed>, Failure>>),
    File(Wide, u64, Sender<Piece>),
}

/// The caller's end.
pub(super) struct Io {
    requests: Option<UnboundedSender<Request>>,
    thread: Option<std::thread::JoinHandle<()>>,
    verdict: Arc<Mutex<Option<Error>>>,
    pulse: Arc<Pulse>,
    control: Control,
    server: String,
    user: String,
}

impl Io {
    pub(super) fn start(config: &SmbConfig, control: &Control) -> Result<Self, Error> {
        let password = crate::config::password(&config.password_file)?;
        let verdict = Arc::new(Mutex::new(None));
        let pulse = Arc::new(Pulse::new(Arc::clone(&control.clock)));
        let link = Link::new(
            config.clone(),
            password,
            control.patience,
            Arc::clone(&control.clock),
            Arc::clone(&pulse),
            Bucket::new(control),
            Arc::clone(&verdict),
        );
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
        let (requests, inbox) = tokio::sync::mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("source-smb".into())
            .spawn(move || {
                runtime.block_on(serve(Arc::new(link), inbox));
                // Requests to a server that hangs would never end by themselves.
                runtime.shutdown_background();
            })
            .map_err(Error::Start)?;
        Ok(Self {
            requests: Some(requests),
            thread: Some(thread),
            verdict,
            pulse,
            control: control.clone(),
            server: format!("{}:{}", config.server, config.port),
            user: config.user.clone(),
        })
    }

    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    pub(super) fn origin(&self) -> Result<(SmbOrigin, u32), Error> {
        let (to, answer) = unbounded();
        self.send(Request::Origin(to));
        match self.wait(&answer, "the login")? {
            Ok(origin) => Ok(origin),
            Err(_) => Err(self.fatal("the login")),
        }
    }

    /// Asks for a listing; the answer comes later.
    pub(super) fn list(&self, path: Wide) -> Receiver<Result<Vec<Listed>, Failure>> {
        let (to, answer) = unbounded();
        self.send(Request::List(path, to));
        answer
    }

    /// Asks for a file; its pieces come later.
    pub(super) fn file(&self, path: Wide, size: u64) -> Receiver<Piece> {
        let (to, answer) = unbounded();
        self.send(Request::File(path, size, to));
        answer
    }

    fn send(&self, request: Request) {
        // If the thread is gone, the answer's channel is closed at once and `wait` says so.
        if let Some(requests) = &self.requests {
            let _ = requests.send(request);
        }
    }

    /// Waits for one answer: until it comes, the run is cancelled, or the server is silent for too long.
    pub(super) fn wait<T>(&self, answer: &Receiver<T>, what: &str) -> Result<T, Error> {
        match answer.try_recv() {
            Ok(value) => return Ok(value),
            Err(TryRecvError::Disconnected) => return Err(self.fatal(what)),
            Err(TryRecvError::Empty) => {}
        }
        let since = self.control.clock.boot();
        loop {
            if self.control.cancel.is_cancelled() {
                return Err(Error::Cancelled(what.to_owned()));
            }
            match answer.recv_timeout(Duration::from_millis(50)) {
                Ok(value) => return Ok(value),
                Err(RecvTimeoutError::Disconnected) => return Err(self.fatal(what)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.pulse.silence(since) >= self.control.patience {
                return Err(Error::Stalled {
                    server: self.server.clone(),
                    what: what.to_owned(),
                    seconds: self.control.patience.as_secs(),
                });
            }
        }
    }

    /// Sleeps on purpose; ends early when the run is cancelled.
    pub(super) fn sleep(&self, time: Duration, what: &str) -> Result<(), Error> {
        let until = self.control.clock.boot() + time;
        loop {
            if self.control.cancel.is_cancelled() {
                return Err(Error::Cancelled(what.to_owned()));
            }
            let left = until.saturating_sub(self.control.clock.boot());
            if left.is_zero() {
                return Ok(());
            }
            self.control.clock.sleep(left.min(Duration::from_millis(200)));
        }
    }

    /// Why everything stopped.
    pub(super) fn fatal(&self, during: &str) -> Error {
        match self.verdict.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(Error::ConnectionLost { server, why, .. }) => {
                Error::ConnectionLost { server, what: during.to_owned(), why }
            }
            Some(error) => error,
            None => Error::ConnectionLost {
                server: self.server.clone(),
                what: during.to_owned(),
                why: "the reader stopped".into(),
            },
        }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(link: Arc<Link>, mut inbox: UnboundedReceiver<Request>) {
    while let Some(request) = inbox.recv().await {
        let link = Arc::clone(&link);
        match request {
            Request::Origin(to) => {
                tokio::spawn(async move {
                    let _ = to.send(link.origin().await);
                });
            }
            Request::List(path, to) => {
                tokio::spawn(async move {
                    let _ = to.send(fetch::list(&link, &path).await);
                });
            }
            Request::File(path, size, to) => {
                tokio::spawn(fetch::file(link, path, size, to));
            }
        }
    }
}
