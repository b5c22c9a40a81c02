//! A small hospital on loopback: a real Samba share, a server of ours, Debian's restic.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]
#![allow(dead_code, reason = "each test file uses its own part")]

#[path = "../../../source/tests/common/port.rs"]
mod port;

use std::{
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use kuramori_model::clock::{Clock, SystemClock, SystemRandom};
use kuramori_server::{
    client::Client,
    config::Config,
    keys::Initialised,
    run::{self, Running},
};
pub(crate) use port::free_port;
use serde_json::{Value, json};

const READER: &str = "daemon";
const PASSWORD: &str = "read-only-1";

/// Waits until something holds; what is waited for goes into the failure. The limit is for whole backups on the
/// slowest machine; only a failing test waits it out.
#[expect(clippy::disallowed_methods, reason = "a test waits on the machine's own time")]
pub(crate) fn until<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = holds() {
            return value;
        }
        assert!(begin.elapsed() < Duration::from_mins(4), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Debian's Samba with one share `dump`.
pub(crate) struct Share {
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    password: PathBuf,
    server: Child,
}

impl Share {
    pub(crate) fn start(root: &Path) -> Self {
        let at = root.join("samba");
        for folder in ["private", "lock", "state", "cache", "pid", "ncalrpc", "dump"] {
            fs_err::create_dir_all(at.join(folder)).unwrap();
        }
        let mut here = root.to_owned();
        while here != std::env::temp_dir() {
            fs_err::set_permissions(&here, std::fs::Permissions::from_mode(0o755)).unwrap();
            here.pop();
        }
        let (port, at_) = (free_port(), at.display());
        let config = format!(
            "[global]\nserver role = standalone server\ninterfaces = lo\nbind interfaces only = yes\n\
             smb ports = {port}\ndisable netbios = yes\nprivate dir = {at_}/private\nlock directory = {at_}/lock\n\
             state directory = {at_}/state\ncache directory = {at_}/cache\npid directory = {at_}/pid\n\
             ncalrpc dir = {at_}/ncalrpc\npassdb backend = tdbsam:{at_}/private/passdb.tdb\nlog file = {at_}/log\n\
             load printers = no\nprinting = bsd\nprintcap name = /dev/null\n\
             [dump]\npath = {at_}/dump\nread only = yes\nvalid users = {READER}\n"
        );
        fs_err::write(at.join("smb.conf"), config).unwrap();
        let mut child = Command::new("pdbedit")
            .args(["--create", "--password-from-stdin", "--user", READER, "--configfile"])
            .arg(at.join("smb.conf"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("pdbedit of Debian's samba-common-bin");
        write!(child.stdin.take().unwrap(), "{PASSWORD}\n{PASSWORD}\n").unwrap();
        assert!(child.wait().unwrap().success());
        let server = Command::new("smbd")
            .args(["--foreground", "--no-process-group", "--configfile"])
            .arg(at.join("smb.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("smbd of Debian's samba");
        until("smbd", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        let password = at.join("password");
        fs_err::write(&password, PASSWORD).unwrap();
        fs_err::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self { folder: at.join("dump"), port, password, server }
    }

    /// Writes files whose content follows from `seed`.
    pub(crate) fn fill(&self, seed: u64, files: u64, bytes: usize) {
        use kuramori_model::clock::{Random, SeededRandom};
        let random = SeededRandom::new(seed);
        for n in 0..files {
            let mut content = vec![0; bytes];
            random.fill(&mut content);
            fs_err::write(self.folder.join(format!("検査-{n}.dat")), content).unwrap();
        }
    }

    /// The register's entry for this share. Its daily time is half a day away in Tokyo, so that the only runs are
    /// those that a test asks for.
    pub(crate) fn entry(&self, id: &str) -> Value {
        let hour = (SystemClock.now().as_second() / 3600 + 9 + 12) % 24;
        json!({
            "id": id, "name_ja": "眼科", "name_en": "Ophthalmology", "protection": "important", "rpo": "24h", "rto": "4h",
            "schedule": format!("30 {hour} * * *"),
            "source": {
                "kind": "smb", "server": "127.0.0.1", "port": self.port, "share": "dump", "user": READER,
                "password_file": self.password,
            },
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.server);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.server.wait();
    }
}

/// Blocking work beside the server that runs in this test's runtime.
pub(crate) async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A running server with a share to read.
pub(crate) struct Night {
    pub(crate) site: Arc<Site>,
    pub(crate) share: Arc<Share>,
    pub(crate) running: Running,
    pub(crate) temp: tempfile::TempDir,
}

/// A server in this process, initialised and started, beside a share.
pub(crate) async fn night(more: &str) -> Night {
    let temp = tempfile::tempdir().unwrap();
    let share = Arc::new(Share::start(temp.path()));
    let (site, running) = server(&temp, more).await;
    Night { site, share, running, temp }
}

/// A server in this process, initialised and started.
pub(crate) async fn server(temp: &tempfile::TempDir, more: &str) -> (Arc<Site>, Running) {
    let site = Arc::new(Site::new(&temp.path().join("site"), more));
    site.init();
    let running = run::start(site.config()).await.unwrap();
    (site, running)
}

/// The first screen in a language.
pub(crate) fn page(site: &Site, language: &str) -> String {
    let evidence: Value = site.client().get(&format!("/v1/evidence?lang={language}")).unwrap();
    evidence["html"].as_str().unwrap().to_owned()
}

/// A server's folder with its configuration.
pub(crate) struct Site {
    pub(crate) root: PathBuf,
    pub(crate) toml: PathBuf,
}

impl Site {
    pub(crate) fn new(root: &Path, more: &str) -> Self {
        Self::with(root, "", "", more)
    }

    /// With more lines in `[store]` and `[schedule]`.
    pub(crate) fn with(root: &Path, store: &str, schedule: &str, more: &str) -> Self {
        fs_err::create_dir_all(root).unwrap();
        let text = format!(
            "hospital = \"湊総合病院\"\nlanguage = \"ja\"\ntime_zone = \"Asia/Tokyo\"\n[store]\ndata = \"{}\"\n{store}\
             [console]\nlisten = \"127.0.0.1:{}\"\n[serve]\nlisten = \"127.0.0.1:{}\"\nnames = [\"127.0.0.1\"]\n\
             [schedule]\ntick = \"200ms\"\n{schedule}[judge]\nevery = \"300ms\"\n{more}",
            root.join("data").display(),
            free_port(),
            free_port(),
        );
        let toml = root.join("server.toml");
        fs_err::write(&toml, text).unwrap();
        Self { root: root.to_owned(), toml }
    }

    pub(crate) fn config(&self) -> Config {
        Config::load(Some(&self.toml), &[], &[]).unwrap()
    }

    pub(crate) fn init(&self) -> Initialised {
        let recovery = self.root.join("recovery.txt");
        kuramori_server::keys::init(&self.config(), None, Some(&recovery), &SystemClock, &SystemRandom)
            .unwrap()
    }

    /// Tells the catalog that points are gone, as the retention does after their days.
    pub(crate) fn forgotten(&self, sequences: &[u64]) {
        let list = sequences.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let done = Command::new("sqlite3")
            .arg(self.root.join("data/catalog.db"))
            .arg(format!("PRAGMA busy_timeout = 10000; UPDATE points SET removed_at = 1, removed_age = 1 WHERE place = 'primary' AND sequence IN ({list})"))
            .status()
            .expect("Debian's sqlite3");
        assert!(done.success());
    }

    pub(crate) fn recovery(&self) -> String {
        fs_err::read_to_string(self.root.join("recovery.txt")).unwrap()
    }

    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.config().repositories.join(name)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.config().socket).unwrap()
    }

    /// What the hospital does with the paper in its hand and no software of ours running.
    pub(crate) fn recovered_password(&self, repository: &str) -> String {
        let wrap = fs_err::read(self.repository(repository).join("wraps/recovery.age")).unwrap();
        String::from_utf8(kuramori_server::seal::unwrap(&wrap, &self.recovery()).unwrap()).unwrap()
    }
}

/// Runs a backup and waits for its end.
pub(crate) fn backup(client: &Client, system: &str) -> Value {
    let queued: Value = client.post("/v1/runs", &json!({ "system": system })).unwrap();
    let run = queued["run"].as_u64().unwrap();
    until("the run's end", || {
        let run: Value = client.get(&format!("/v1/runs/{run}")).unwrap();
        run["ended_at"].is_string().then_some(run)
    })
}

/// Debian's restic.
pub(crate) fn restic(
    repository: &str,
    password: &str,
    environment: &[(&str, &str)],
    arguments: &[&str],
) -> Output {
    let cache = tempfile::tempdir().unwrap();
    let output = Command::new("restic")
        .args(["-r", repository, "--cache-dir"])
        .arg(cache.path())
        .args(arguments)
        .env("RESTIC_PASSWORD", password)
        .envs(environment.iter().copied())
        .output()
        .expect("Debian's restic");
    assert!(
        output.status.success(),
        "restic {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Whether two folders hold the same names and bytes.
pub(crate) fn same(a: &Path, b: &Path) -> bool {
    Command::new("diff").arg("-rq").args([a, b]).status().unwrap().success()
}
