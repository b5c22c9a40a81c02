//! The client against the real server, over TLS.

use std::{io::Write, process::Command, sync::Arc, time::Duration};

use kuramori_model::{
    clock::{Clock, Random, SeededRandom, SystemClock, SystemRandom},
    fault::Fault,
};
use kuramori_repo::{
    Cancel,
    mirror::mirror,
    progress::Progress,
    store::{FileId, FileKind, LocalStore, Payload, RestOptions, RestStore, Spool, Store},
};
use kuramori_serve::{
    Config, Ignore, Limits, Login, MemoryLogins, Mode, Repositories, Role, password::PasswordHash, tls,
};

struct Served {
    folder: tempfile::TempDir,
    port: u16,
    authority: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        fs_err::create_dir(&root).unwrap();
        let (now, day) = (SystemClock.now(), Duration::from_hours(24));
        let authority = tls::authority("test", now, day, &SystemRandom).unwrap();
        let server = tls::issue(&authority, &["127.0.0.1"], now, day, &SystemRandom).unwrap();
        let login = |name: &str, role| Login {
            name: name.to_owned(),
            password: PasswordHash::new("p@ss/word", &SystemRandom),
            role,
        };
        let pacs = Role::Append { repository: "pacs".parse().unwrap(), quota: None };
        let vault = Role::Read { repositories: Repositories::All };
        let config = Config {
            root,
            mode: Mode::Store,
            tls: tls::server_config(&server.certificate, &server.key).unwrap(),
            logins: Arc::new(MemoryLogins::new([login("pacs", pacs), login("vault", vault)])),
            watch: Arc::new(Ignore),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            limits: Limits::default(),
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (bound, port) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap().port()).unwrap();
                let stopped = async {
                    let _ = stopped.await;
                };
                kuramori_serve::run(config, listener, stopped).await.unwrap();
            });
        });
        let port = port.recv().unwrap();
        Self { folder, port, authority: authority.certificate, stop: Some(stop), thread: Some(thread) }
    }

    fn options(&self) -> RestOptions {
        RestOptions { root: Some(self.authority.clone().into_bytes()), ..RestOptions::default() }
    }

    fn store(&self, login: &str) -> RestStore {
        let url = format!("rest:https://{login}:p%40ss%2Fword@127.0.0.1:{}/pacs/", self.port);
        RestStore::new(&url, self.options()).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    SeededRandom::new(seed).fill(&mut bytes);
    bytes
}

fn list(store: &RestStore, kind: FileKind) -> Vec<(FileId, u64)> {
    let mut files = Vec::new();
    store
        .list(kind, &mut |id, size| {
            files.push((id, size));
            Ok(())
        })
        .unwrap();
    files.sort_unstable();
    files
}

#[test]
fn keeps_the_promises_of_a_store() {
    let served = Served::new();
    let store = served.store("pacs");
    assert_eq!(store.read_config().unwrap_err().code(), "repo.not-found");
    assert!(list(&store, FileKind::Pack).is_empty(), "no repository is an empty list");
    store.create().unwrap();
    store.create().unwrap();
    assert!(list(&store, FileKind::Pack).is_empty());

    store.write_config(b"first").unwrap();
    store.write_config(b"first").unwrap();
    assert_eq!(store.write_config(b"second").unwrap_err().code(), "repo.exists");
    assert_eq!(store.read_config().unwrap(), b"first");

    let small = noise(1, 40_000);
    let mut spool = Spool::new_in(served.folder.path()).unwrap();
    let large = noise(2, 20_000_000);
    spool.write_all(&large).unwrap();
    let (small_id, large_id) = (FileId::of(&small), FileId::of(&large));
    for _ in 0..2 {
        store.write(FileKind::Pack, small_id, Payload::Bytes(&small)).unwrap();
        store.write(FileKind::Pack, large_id, Payload::Spool(&spool)).unwrap();
    }
    let mut expected = vec![(small_id, 40_000), (large_id, 20_000_000)];
    expected.sort_unstable();
    assert_eq!(list(&store, FileKind::Pack), expected);
    assert_eq!(store.size(FileKind::Pack, large_id).unwrap(), 20_000_000);
    assert!(store.read(FileKind::Pack, large_id, 20_000_000).unwrap() == large);
    assert_eq!(store.read(FileKind::Pack, large_id, 19_999_999).unwrap_err().code(), "repo.damaged");
    assert!(
        store.read_range(FileKind::Pack, large_id, 1_234_567, 3_000_000).unwrap()
            == large[1_234_567..4_234_567]
    );
    assert_eq!(store.read_range(FileKind::Pack, large_id, 19_999_999, 2).unwrap_err().code(), "repo.damaged");
    let mut out = large[..7_654_321].to_vec();
    store.fetch_to(FileKind::Pack, large_id, &mut out, 7_654_321).unwrap();
    assert!(out == large);

    let wrong = store.write(FileKind::Index, small_id, Payload::Bytes(b"not that")).unwrap_err();
    assert_eq!(wrong.code(), "repo.damaged");
    assert_eq!(store.size(FileKind::Index, small_id).unwrap_err().code(), "repo.missing");
    let lock = FileId::of(b"lock");
    store.write(FileKind::Lock, lock, Payload::Bytes(b"lock")).unwrap();
    store.remove(FileKind::Lock, lock).unwrap();
    store.remove(FileKind::Lock, lock).unwrap();
    assert_eq!(store.remove(FileKind::Pack, small_id).unwrap_err().code(), "repo.login");

    let vault = served.store("vault");
    assert!(vault.read(FileKind::Pack, small_id, 1 << 20).unwrap() == small);
    assert_eq!(
        vault.write(FileKind::Pack, FileId::of(b"x"), Payload::Bytes(b"x")).unwrap_err().code(),
        "repo.login"
    );
    assert_eq!(vault.create().unwrap_err().code(), "repo.login");
    let server = format!("https://vault:p%40ss%2Fword@127.0.0.1:{}/", served.port);
    assert_eq!(RestStore::new(&server, served.options()).unwrap().repositories().unwrap(), ["pacs"]);
}

#[test]
fn trusts_one_authority_and_says_who_is_wrong() {
    let (served, other) = (Served::new(), Served::new());
    let url = |login: &str| format!("rest:https://{login}@127.0.0.1:{}/pacs/", served.port);
    let wrong = RestStore::new(&url("pacs:wrong"), served.options()).unwrap();
    assert_eq!(wrong.read_config().unwrap_err().code(), "repo.login");
    let none = RestStore::new(&url(""), served.options());
    assert_eq!(none.unwrap().read_config().unwrap_err().code(), "repo.login");
    for root in [Some(other.authority.clone().into_bytes()), None] {
        let stranger =
            RestStore::new(&url("pacs:p%40ss%2Fword"), RestOptions { root, ..RestOptions::default() });
        let error = stranger.unwrap().read_config().unwrap_err();
        let text = kuramori_model::fault::chain(&error);
        assert!(text.contains("certificate"), "{text}");
        assert!(matches!(error, kuramori_repo::Error::Remote { retry: false, .. }), "{error:?}");
    }
    assert!(
        RestStore::new(&url("x"), RestOptions { root: Some(Vec::new()), ..RestOptions::default() }).is_err()
    );
}

#[test]
fn many_threads_share_one_client() {
    let served = Served::new();
    let store = served.store("pacs");
    store.create().unwrap();
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for turn in 0..4 {
                    let bytes = noise(100 * seed + turn, 700_000);
                    let id = FileId::of(&bytes);
                    store.write(FileKind::Pack, id, Payload::Bytes(&bytes)).unwrap();
                    assert!(store.read(FileKind::Pack, id, 1 << 20).unwrap() == bytes);
                }
            });
        }
    });
    assert_eq!(list(&store, FileKind::Pack).len(), 32);
}

#[test]
fn a_restic_repository_travels_to_the_server_and_back_whole() {
    let served = Served::new();
    let dir = served.folder.path();
    let source = dir.join("source");
    fs_err::create_dir(&source).unwrap();
    for number in 0..30 {
        fs_err::write(source.join(format!("{number}")), noise(number, 300_000)).unwrap();
    }
    let restic = |place: &std::path::Path, arguments: &[&str]| {
        let output = Command::new("restic")
            .arg("--no-cache")
            .args(arguments)
            .env("RESTIC_REPOSITORY", place)
            .env("RESTIC_PASSWORD", "geheim")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let there = dir.join("there");
    restic(&there, &["init"]);
    restic(&there, &["backup", source.to_str().unwrap()]);
    let (progress, cancel) = (Progress::default(), Cancel::default());
    mirror(&LocalStore::new(&there), &served.store("pacs"), &progress, &cancel).unwrap();
    restic(&dir.join("store/pacs"), &["check", "--read-data"]);
    let back = dir.join("back");
    let copied = mirror(&served.store("vault"), &LocalStore::new(&back), &progress, &cancel).unwrap();
    assert!(copied.bytes > 9_000_000, "{copied:?}");
    restic(&back, &["check", "--read-data"]);
}

/// Bytes per second through TLS on one machine; printed, not judged: `KURAMORI_LONG=1 … --no-capture`.
#[test]
fn throughput() {
    let megabytes = if std::env::var_os("KURAMORI_LONG").is_some() { 1024 } else { 256 };
    let served = Served::new();
    let store = served.store("pacs");
    store.create().unwrap();
    let mut spool = Spool::new_in(served.folder.path()).unwrap();
    let bytes = noise(5, 64 << 20);
    spool.write_all(&bytes).unwrap();
    let id = FileId::of(&bytes);
    let start = SystemClock.boot();
    store.write(FileKind::Pack, id, Payload::Spool(&spool)).unwrap();
    println!("one upload of 64 MiB: {:?}", SystemClock.boot().saturating_sub(start));
    for threads in [1, 4] {
        let start = SystemClock.boot();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let store = &store;
                scope.spawn(move || {
                    for _ in 0..megabytes / 64 / threads {
                        assert_eq!(
                            store.fetch_to(FileKind::Pack, id, &mut std::io::sink(), 0).unwrap(),
                            64 << 20
                        );
                    }
                });
            }
        });
        let seconds = (SystemClock.boot().saturating_sub(start)).as_secs_f64();
        println!(
            "{megabytes} MiB down with {threads} threads: {:.0} MB/s",
            f64::from(megabytes) * 1.048_576 / seconds
        );
    }
}
