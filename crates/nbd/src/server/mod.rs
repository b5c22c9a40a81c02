//! The server: listens, gives every connection a few threads, ends in order.
//!
//! ```text
//! accept ─▶ negotiate (bounded time) ─▶ a few threads a connection, each: take a request ─ do it ─ answer
//! ```
//!
//! Requests of one connection are done side by side, and answered in the order in which they are done, as the
//! protocol allows; the number of threads is the number of requests under way. A thread holds one buffer of
//! [`crate::wire::PIECE`] bytes, whatever a client asks for, and longer requests go through it piece by piece. A
//! client may be silent between requests for as long as it likes, in the middle of one only for a while.

mod negotiate;
mod serve;

use std::{
    collections::HashMap,
    fmt, io,
    net::TcpListener,
    os::{
        fd::AsFd,
        unix::{fs::FileTypeExt, fs::PermissionsExt, net::UnixListener, net::UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use kuramori_model::{blocks::Blocks, clock::Clock};
use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    Error, Result,
    stream::{Address, Stream},
};

/// A disk under a name.
#[derive(Debug, Clone)]
pub struct Export {
    /// Its name; at most [`crate::wire::NAME_MAX`] bytes. The first export also answers to the empty name.
    pub name: String,
    /// Words for people.
    pub description: String,
    /// The disk.
    pub blocks: Arc<dyn Blocks>,
}

/// What a server allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at one time; more are closed at once.
    pub connections: usize,
    /// Requests of one connection that are under way.
    pub requests: usize,
    /// How long a client may take for its whole negotiation.
    pub negotiation: Duration,
    /// How long it may be silent in the middle of a request, or not take an answer.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16,
            requests: 4,
            negotiation: Duration::from_secs(30),
            patience: Duration::from_mins(1),
        }
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// What all threads of a server share.
struct Shared {
    exports: Vec<Export>,
    limits: Limits,
    clock: Arc<dyn Clock>,
    stopping: AtomicBool,
    /// Connections by number, so that stopping can wake whoever waits in one.
    open: Mutex<HashMap<u64, Stream>>,
    served: AtomicU64,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, Stream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The export of a name; the empty one is the first.
    fn export(&self, name: &[u8]) -> Option<&Export> {
        if name.is_empty() {
            return self.exports.first();
        }
        self.exports.iter().find(|export| export.name.as_bytes() == name)
    }
}

/// A server that listens and does not answer yet.
pub struct Server {
    listener: Listener,
    address: Address,
    shared: Arc<Shared>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens. A unix socket is for this user only; one that a dead server left behind is replaced.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn bind(
        address: &Address,
        exports: Vec<Export>,
        limits: Limits,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let failed = |source| Error::Address { action: "listen on", address: address.to_string(), source };
        let (listener, address) = match address {
            Address::Unix(path) => {
                let listener = bind_unix(path).map_err(failed)?;
                (Listener::Unix(listener), Address::Unix(path.clone()))
            }
            Address::Tcp(wanted) => {
                let listener = TcpListener::bind(wanted).map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                (Listener::Tcp(listener), Address::Tcp(bound))
            }
        };
        let shared = Shared {
            exports,
            limits,
            clock,
            stopping: AtomicBool::new(false),
            open: Mutex::default(),
            served: AtomicU64::new(0),
        };
        Ok(Self { listener, address, shared: Arc::new(shared) })
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Answers from now on.
    ///
    /// # Errors
    /// [`Error::Address`] if no thread can be started.
    pub fn start(self) -> Result<Handle> {
        let failed =
            |source| Error::Address { action: "serve on", address: self.address.to_string(), source };
        let (wake, woken) = UnixStream::pair().map_err(failed)?;
        let (shared, listener) = (Arc::clone(&self.shared), self.listener);
        let thread = std::thread::Builder::new()
            .name("nbd-accept".to_owned())
            .spawn(move || accept(&shared, &listener, &woken))
            .map_err(|source| Error::Address {
                action: "serve on",
                address: self.address.to_string(),
                source,
            })?;
        Ok(Handle { shared: self.shared, address: self.address, wake: Some(wake), thread: Some(thread) })
    }
}

/// A server at work. Dropping it stops the server: connections end, what was answered is made durable.
pub struct Handle {
    shared: Arc<Shared>,
    address: Address,
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Handle {
    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.shared.open().len()
    }

    /// Connections that got past negotiation since the start.
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Relaxed)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        // The accepting thread sees the closed pair.
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Address::Unix(path) = &self.address {
            let _ = fs_err::remove_file(path);
        }
        for export in self.shared.exports.iter().filter(|export| export.blocks.is_writable()) {
            if let Err(error) = export.blocks.flush() {
                tracing::error!(
                    export = export.name,
                    "cannot make the last writes durable: {}",
                    kuramori_model::fault::chain(&error)
                );
            }
        }
    }
}

/// Binds under a name that nobody knows, so that the socket is never open to others, not even for a moment.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Ok(meta) = fs_err::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket stands there",
            ));
        }
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs_err::remove_file(path)?,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let hidden: PathBuf = path.with_file_name(name);
    let listener = UnixListener::bind(&hidden)?;
    let placed = fs_err::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600)).and_then(|()| {
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            &hidden,
            rustix::fs::CWD,
            path,
            rustix::fs::RenameFlags::NOREPLACE,
        )
        .map_err(io::Error::from)
    });
    if let Err(error) = placed {
        let _ = fs_err::remove_file(&hidden);
        return Err(error);
    }
    Ok(listener)
}

/// Takes connections until the server stops; then ends them and waits for their threads.
fn accept(shared: &Arc<Shared>, listener: &Listener, woken: &UnixStream) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut number = 0;
    while !shared.stopping.load(Ordering::Acquire) {
        let mut fds =
            [PollFd::new(listener, PollFlags::IN), PollFd::new(woken, PollFlags::IN | PollFlags::HUP)];
        if poll(&mut fds, None).is_err() || fds[0].revents().is_empty() {
            continue;
        }
        let stream = match listener.accept() {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, or a client that is gone already: others must not suffer for it.
                tracing::warn!("cannot take a connection: {error}");
                shared.clock.sleep(Duration::from_millis(50));
                continue;
            }
        };
        threads.retain(|thread| !thread.is_finished());
        if shared.open().len() >= shared.limits.connections {
            tracing::warn!(limit = shared.limits.connections, "refuses a connection: there are too many");
            stream.shut();
            continue;
        }
        let Ok(again) = stream.again() else { continue };
        number += 1;
        shared.open().insert(number, again);
        let (held, key) = (Arc::clone(shared), number);
        let thread = std::thread::Builder::new().name("nbd".to_owned()).spawn(move || {
            let _listed = Listed(&held, key);
            if let Err(error) = serve::connection(&held, stream) {
                tracing::info!("a connection ended: {}", kuramori_model::fault::chain(&error));
            }
        });
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                shared.open().remove(&number);
                tracing::warn!("cannot serve a connection: {error}");
            }
        }
    }
    for stream in shared.open().values() {
        stream.shut();
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// Takes a connection out of the list, whatever happened in it.
struct Listed<'a>(&'a Shared, u64);

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        if let Some(stream) = self.0.open().remove(&self.1) {
            stream.shut();
        }
    }
}
