//! A server for one test: own folder, own authority, port 0, events written down.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use kuramori_model::{
    clock::{Clock, SystemClock, SystemRandom},
    units::Bytes,
};
use kuramori_serve::{
    Config, Event, Limits, Login, Logins, MemoryLogins, Mode, Repositories, Role, ServeError, Watch,
    password::PasswordHash, tls,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

/// Long enough for the slowest machine; only a failing test waits it out.
pub(crate) const PATIENCE: Duration = Duration::from_mins(4);
pub(crate) const PASSWORD: &str = "correct-horse";

/// Writes events down and lets a test wait for one.
#[derive(Debug, Default)]
pub(crate) struct Book {
    events: Mutex<Vec<Event>>,
    more: Condvar,
}

impl Watch for Book {
    fn event(&self, event: Event) {
        self.events.lock().unwrap().push(event);
        self.more.notify_all();
    }
}

impl Book {
    /// Waits for an event that fits.
    pub(crate) fn wait(&self, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
        self.wait_many(what, 1, fits)
    }

    /// Waits until so many events fit, and gives the last of them.
    pub(crate) fn wait_many(&self, what: &str, many: usize, fits: impl Fn(&Event) -> bool) -> Event {
        let few = |events: &mut Vec<Event>| events.iter().filter(|event| fits(event)).count() < many;
        let (events, _) = self.more.wait_timeout_while(self.events.lock().unwrap(), PATIENCE, few).unwrap();
        let fitting: Vec<_> = events.iter().filter(|event| fits(event)).collect();
        assert!(fitting.len() >= many, "no event `{what}` among {events:#?}");
        fitting[fitting.len() - 1].clone()
    }

    pub(crate) fn count(&self, fits: impl Fn(&Event) -> bool) -> usize {
        self.events.lock().unwrap().iter().filter(|event| fits(event)).count()
    }
}

pub(crate) struct Hall {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) root: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) book: Arc<Book>,
    pub(crate) authority: tls::Pair,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

pub(crate) fn append(name: &str, quota: Option<u64>) -> Login {
    let role = Role::Append { repository: name.parse().unwrap(), quota: quota.map(Bytes) };
    Login { name: name.to_owned(), password: PasswordHash::new(PASSWORD, &SystemRandom), role }
}

pub(crate) fn reader(name: &str, repositories: Repositories) -> Login {
    Login {
        name: name.to_owned(),
        password: PasswordHash::new(PASSWORD, &SystemRandom),
        role: Role::Read { repositories },
    }
}

pub(crate) fn receiver(name: &str) -> Login {
    let role = Role::Receive { repositories: Repositories::All };
    Login { name: name.to_owned(), password: PasswordHash::new(PASSWORD, &SystemRandom), role }
}

/// No space is kept free, so that a test's small disk can be filled.
pub(crate) fn limits() -> Limits {
    Limits { keep_free: Bytes(0), ..Limits::default() }
}

impl Hall {
    /// A store with the login `pacs` (append) and `vault` (read all).
    pub(crate) fn open() -> Self {
        Self::with(Mode::Store, limits(), [append("pacs", None), reader("vault", Repositories::All)])
    }

    pub(crate) fn with(mode: Mode, limits: Limits, logins: impl IntoIterator<Item = Login>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        fs_err::create_dir(&root).unwrap();
        Self::at(folder, root, mode, limits, Arc::new(MemoryLogins::new(logins))).unwrap()
    }

    pub(crate) fn at(
        folder: tempfile::TempDir,
        root: PathBuf,
        mode: Mode,
        limits: Limits,
        logins: Arc<dyn Logins>,
    ) -> Result<Self, ServeError> {
        let now = SystemClock.now();
        let year = Duration::from_hours(24 * 365);
        let authority = tls::authority("Kuramori test", now, year, &SystemRandom)?;
        let server = tls::issue(&authority, &["localhost", "127.0.0.1"], now, year, &SystemRandom)?;
        fs_err::write(folder.path().join("ca.pem"), &authority.certificate).unwrap();
        let book = Arc::new(Book::default());
        let config = Config {
            root: root.clone(),
            mode,
            tls: tls::server_config(&server.certificate, &server.key)?,
            logins,
            watch: book.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            limits,
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (bound, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                kuramori_serve::run(config, listener, async {
                    let _ = stopped.await;
                })
                .await
            })
        });
        let address = address.recv().unwrap();
        let mut hall =
            Self { folder, root, address, book, authority, stop: Some(stop), thread: Some(thread) };
        // Either it answers, or it has ended with an error.
        match hall.client().get(hall.url("")).send() {
            Ok(_) => Ok(hall),
            Err(error) => {
                let thread = hall.thread.take().unwrap();
                Err(thread.join().unwrap().expect_err(&format!("a server that runs answers: {error}")))
            }
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}/{path}", self.address.port())
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A client that trusts the test's authority alone.
    pub(crate) fn client(&self) -> reqwest::blocking::Client {
        let root = reqwest::Certificate::from_pem(self.authority.certificate.as_bytes()).unwrap();
        reqwest::blocking::Client::builder()
            .tls_certs_only([root])
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .unwrap()
    }

    /// A request with the test's password.
    pub(crate) fn ask(&self, method: &str, login: &str, path: &str) -> reqwest::blocking::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        self.client().request(method, self.url(path)).basic_auth(login, Some(PASSWORD))
    }

    /// The status of a request without a body.
    pub(crate) fn status(&self, method: &str, login: &str, path: &str) -> u16 {
        self.ask(method, login, path).send().unwrap().status().as_u16()
    }

    /// The status of an upload.
    pub(crate) fn put(&self, login: &str, path: &str, body: impl Into<reqwest::blocking::Body>) -> u16 {
        self.ask("POST", login, path).body(body).send().unwrap().status().as_u16()
    }

    pub(crate) fn create(&self, login: &str, repository: &str) {
        assert_eq!(self.status("POST", login, &format!("{repository}/?create=true")), 200);
    }

    /// A TLS connection without an HTTP client on it, for requests that none would send.
    pub(crate) fn raw(&self) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
    }

    /// Sends a request as it stands and gives the answer's status.
    pub(crate) fn raw_status(&self, request: &str) -> u16 {
        let mut connection = self.raw();
        connection.write_all(request.as_bytes()).unwrap();
        connection.flush().unwrap();
        let mut answer = vec![0; 12];
        connection.read_exact(&mut answer).unwrap();
        std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap()
    }

    /// Every file below the root, relative, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        walk(&self.root, &self.root, &mut files);
        files.sort();
        files
    }

    pub(crate) fn stop(mut self) -> (tempfile::TempDir, PathBuf) {
        self.end();
        (std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap()), self.root.clone())
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

impl Drop for Hall {
    fn drop(&mut self) {
        self.end();
    }
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<String>) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, files);
        } else {
            files.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}

/// The name that these bytes must have.
pub(crate) fn id(bytes: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes))
}

/// `Authorization` of a raw request.
pub(crate) fn authorization(login: &str) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{login}:{PASSWORD}"));
    format!("Authorization: Basic {text}\r\n")
}

/// Bytes that do not compress, from a seed.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    use kuramori_model::clock::{Random, SeededRandom};
    let mut bytes = vec![0; size];
    SeededRandom::new(seed).fill(&mut bytes);
    bytes
}
