//! One connection: a socket that does not wait for ever, its places in the limits, and reading a body.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

/// A socket whose writes fail when the other side takes nothing for too long.
#[derive(Debug)]
pub(crate) struct Patient {
    stream: TcpStream,
    stall: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(crate) fn new(stream: TcpStream, stall: Duration) -> Self {
        Self { stream, stall, waiting: None }
    }

    fn watch<T>(&mut self, result: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waiting = None;
            return result;
        }
        let stall = self.stall;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(stall)));
        waiting.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.watch(result, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, bytes);
        this.watch(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_flush(context);
        this.watch(result, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_shutdown(context);
        this.watch(result, context)
    }
}

/// How many connections there are, in all and per address.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    per_address: usize,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _one: OwnedSemaphorePermit,
    addresses: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Places {
    pub(crate) fn new(all: usize, per_address: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), per_address, addresses: Arc::default() }
    }

    /// `None`: no place for this address now.
    pub(crate) fn take(&self, address: IpAddr) -> Option<Place> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.get(&address).is_some_and(|count| *count >= self.per_address) {
            return None;
        }
        let one = self.all.clone().try_acquire_owned().ok()?;
        *addresses.entry(address).or_default() += 1;
        Some(Place { _one: one, addresses: self.addresses.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// Why a body ended before its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The client went away.
    Gone,
    /// Nothing for too long, or too little on average.
    Slow,
    /// More than may be.
    TooLarge,
}

/// A request's body, read under limits.
#[derive(Debug)]
pub(crate) struct Intake {
    body: Incoming,
    stall: Duration,
    floor: u64,
    largest: u64,
    began: Instant,
    got: u64,
}

impl Intake {
    pub(crate) fn new(body: Incoming, stall: Duration, floor: u64, largest: u64) -> Self {
        Self { body, stall, floor: floor.max(1), largest, began: Instant::now(), got: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn got(&self) -> u64 {
        self.got
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        loop {
            let slowest = self.began + self.stall + Duration::from_secs(self.got / self.floor);
            let until = slowest.min(Instant::now() + self.stall);
            let frame = std::future::poll_fn(|context| Pin::new(&mut self.body).poll_frame(context));
            let frame = match tokio::time::timeout_at(until, frame).await.map_err(|_| Cut::Slow)? {
                None => return Ok(None),
                Some(frame) => frame.map_err(|_| Cut::Gone)?,
            };
            if let Ok(bytes) = frame.into_data() {
                self.got += bytes.len() as u64;
                if self.got > self.largest {
                    return Err(Cut::TooLarge);
                }
                return Ok(Some(bytes));
            }
        }
    }

    /// Reads the rest and throws it away, so that a client which sends before it listens gets its answer.
    pub(crate) async fn drain(&mut self, most: u64) {
        self.largest = self.got.saturating_add(most);
        while let Ok(Some(_)) = self.next().await {}
    }
}
