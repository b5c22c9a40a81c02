//! One primary, one vault, in one temporary folder.

use std::{
    io::Write,
    net::SocketAddrV4,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use kuramori_model::{
    clock::{Clock, SeededRandom, SystemClock, SystemRandom},
    units::Bytes,
};
use kuramori_repo::{
    Cancel, Context, Repository, Secret,
    store::{FileId, FileKind, LocalStore, Store},
};
use kuramori_serve::{
    Config as Serve, Ignore, Limits, Login, MemoryLogins, Mode, Repositories, Role, ServeError,
    password::PasswordHash, tls,
};
use kuramori_vault::{
    Config, Vault, Work,
    window::{Finished, Options},
};

pub(crate) const PASSWORD: &str = "correct-horse-battery";
pub(crate) const EXERCISE: &str = env!("CARGO_BIN_EXE_kuramori-vault-exercise");

/// Bytes that nobody can compress, the same for the same seed.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    use kuramori_model::clock::Random;
    let mut bytes = vec![0; size];
    SeededRandom::new(seed).fill(&mut bytes);
    bytes
}

pub(crate) fn restic(repository: &Path, arguments: &[&str]) -> Output {
    let output = Command::new("restic")
        .args(["--no-cache", "-r", repository.to_str().unwrap()])
        .args(arguments)
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .unwrap();
    assert!(output.status.success(), "restic {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// restic's own full check.
pub(crate) fn check(repository: &Path) {
    restic(repository, &["check", "--read-data", "--no-lock"]);
}

/// Files below a folder with their content.
pub(crate) fn tree(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs_err::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                files.push((name, fs_err::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) server: Option<Server>,
    pub(crate) bounds: Bounds,
}

/// The puller's patience, in seconds: by default such that an honest server on the busiest machine keeps to it.
pub(crate) struct Bounds {
    pub(crate) connect: u32,
    pub(crate) stall: u32,
    pub(crate) list: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connect: 30, stall: 30, list: 60 }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["primary", "source", "passwords"] {
            fs_err::create_dir(folder.path().join(name)).unwrap();
        }
        let world = Self { folder, server: None, bounds: Bounds::default() };
        world.write_secret("login", "login-password");
        world
    }

    /// With these repositories, each with one restore point of a few files, and a running server.
    pub(crate) fn with(repositories: &[&str]) -> Self {
        let mut world = Self::new();
        for (number, name) in repositories.iter().enumerate() {
            world.init(name);
            for file in 0..4 {
                world.write(name, &format!("file-{file}"), &noise(number as u64 * 100 + file, 700_000));
            }
            world.write(name, "医事/台帳.txt", "テスト".repeat(20_000).as_bytes());
            world.backup(name);
        }
        world.serve();
        world
    }

    pub(crate) fn path(&self, part: &str) -> PathBuf {
        self.folder.path().join(part)
    }

    pub(crate) fn primary(&self, name: &str) -> PathBuf {
        self.path("primary").join(name)
    }

    pub(crate) fn copy(&self, name: &str) -> PathBuf {
        self.path("vault").join(name)
    }

    pub(crate) fn source(&self, name: &str) -> PathBuf {
        self.path("source").join(name)
    }

    pub(crate) fn write_secret(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs_err::write(&path, text).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn init(&self, name: &str) {
        fs_err::create_dir_all(self.source(name).join("医事")).unwrap();
        restic(&self.primary(name), &["init"]);
        self.write_secret(&format!("passwords/{name}"), PASSWORD);
    }

    pub(crate) fn write(&self, name: &str, file: &str, bytes: &[u8]) {
        let mut out = fs_err::File::create(self.source(name).join(file)).unwrap();
        out.write_all(bytes).unwrap();
    }

    pub(crate) fn backup(&self, name: &str) {
        restic(&self.primary(name), &["backup", "--host", name, self.source(name).to_str().unwrap()]);
    }

    /// The primary's repository, opened with its key, as whoever owns the primary can.
    pub(crate) fn own(&self, name: &str) -> Repository {
        let store: Arc<dyn Store> = Arc::new(LocalStore::new(self.primary(name)));
        Repository::open(store, &Secret::new(PASSWORD.as_bytes()), Context::system()).unwrap()
    }

    pub(crate) fn packs(repository: &Path) -> Vec<PathBuf> {
        tree(&repository.join("data"))
            .into_iter()
            .map(|(name, _)| repository.join("data").join(name))
            .collect()
    }

    /// Puts bytes under the name that their hash gives.
    pub(crate) fn plant(&self, name: &str, kind: FileKind, bytes: &[u8]) -> FileId {
        let id = FileId::of(bytes);
        let path = LocalStore::new(self.primary(name)).path(kind, id);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, bytes).unwrap();
        id
    }

    pub(crate) fn serve(&mut self) {
        let login = |name: &str, role| Login {
            name: name.to_owned(),
            password: PasswordHash::new("login-password", &SystemRandom),
            role,
        };
        let report =
            Role::Append { repository: "vault-report".parse().unwrap(), quota: Some(Bytes(64 << 20)) };
        let logins =
            [login("vault", Role::Read { repositories: Repositories::All }), login("vault-report", report)];
        self.server = Some(Server::start(&self.path("primary"), Mode::Store, logins));
        let server = self.server.as_ref().unwrap();
        fs_err::write(self.path("ca.pem"), &server.ca).unwrap();
    }

    pub(crate) fn address(&self) -> SocketAddrV4 {
        self.server.as_ref().unwrap().address
    }

    /// The configuration, pointing at `address`, with `more` at its end.
    pub(crate) fn configure(&self, address: SocketAddrV4, more: &str) -> PathBuf {
        let at = |name: &str| self.path(name).display().to_string();
        let text = format!(
            r#"order = ["_control", "billing", "pacs"]
[vault]
root = "{root}"
state = "{state}"
passwords = "{passwords}"
[primary]
address = "{address}"
server_name = "localhost"
ca_file = "{ca}"
login = "vault"
password_file = "{login}"
[puller]
command = ["{EXERCISE}", "puller"]
processes = 3
[window]
keep_free = "1 MiB"
jitter_s = 0
daily_budget_s = 1000000
[limits]
connect_s = {connect}
stall_s = {stall}
list_s = {list}
{more}
"#,
            connect = self.bounds.connect,
            stall = self.bounds.stall,
            list = self.bounds.list,
            root = at("vault"),
            state = at("state"),
            passwords = at("passwords"),
            ca = at("ca.pem"),
            login = at("login"),
        );
        let file = self.path("vault.toml");
        fs_err::write(&file, text).unwrap();
        file
    }

    pub(crate) fn vault_at(&self, address: SocketAddrV4, more: &str) -> Vault {
        let config = Config::read(&self.configure(address, more)).unwrap();
        Vault::open(config, Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap()
    }

    pub(crate) fn vault(&self) -> Vault {
        self.vault_at(self.address(), "")
    }
}

pub(crate) fn pull(vault: &Vault) -> (Finished, Work) {
    vault.pull(&Options::default(), &Cancel::default()).unwrap()
}

/// Codes of the alarms that are true now.
pub(crate) fn alarms(vault: &Vault) -> Vec<String> {
    let mut codes: Vec<String> =
        vault.register().alarms().unwrap().into_iter().map(|a| a.finding.code).collect();
    codes.sort();
    codes.dedup();
    codes
}

/// Complete points of a repository.
pub(crate) fn complete(vault: &Vault, name: &str) -> usize {
    let points = vault.register().points(Some(name)).unwrap();
    points.iter().filter(|point| point.state == kuramori_vault::register::PointState::Complete).count()
}

/// A REST server in threads of this process.
pub(crate) struct Server {
    pub(crate) address: SocketAddrV4,
    pub(crate) ca: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Server {
    pub(crate) fn start(root: &Path, mode: Mode, logins: impl IntoIterator<Item = Login>) -> Self {
        fs_err::create_dir_all(root).unwrap();
        let now = SystemClock.now();
        let year = Duration::from_hours(24 * 365);
        let authority = tls::authority("Kuramori test", now, year, &SystemRandom).unwrap();
        let server = tls::issue(&authority, &["localhost", "127.0.0.1"], now, year, &SystemRandom).unwrap();
        let config = Serve {
            root: root.to_owned(),
            mode,
            tls: tls::server_config(&server.certificate, &server.key).unwrap(),
            logins: Arc::new(MemoryLogins::new(logins)),
            watch: Arc::new(Ignore),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            limits: Limits { keep_free: Bytes(0), ..Limits::default() },
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
        let std::net::SocketAddr::V4(address) = address.recv().unwrap() else { panic!("not IPv4") };
        Self { address, ca: authority.certificate, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
