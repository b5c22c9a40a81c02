//! An agent of ours as a process, and a line to the server that a test can watch and cut.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::support::{
    PROGRAM, Server,
    hospital::{Site, free_port, until},
    lines,
};

/// A relay between agent and server: counts what the agent sends, and cuts when it is told to.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: SocketAddr,
    up: AtomicU64,
    /// Cut everything when `up` reaches it.
    cut_at: AtomicU64,
    cuts: AtomicU64,
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    pub(crate) fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to,
            up: AtomicU64::new(0),
            cut_at: AtomicU64::new(u64::MAX),
            cuts: AtomicU64::new(0),
            over: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let one = shared.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if one.over.load(Ordering::Acquire) {
                    return;
                }
                let Ok(agent) = socket else { continue };
                let Ok(server) = TcpStream::connect(one.to) else { continue };
                for socket in [&agent, &server] {
                    one.open.lock().unwrap().push(socket.try_clone().unwrap());
                }
                let (agent_, server_) = (agent.try_clone().unwrap(), server.try_clone().unwrap());
                let shared = one.clone();
                std::thread::spawn(move || shared.copy(agent, server, true));
                let shared = one.clone();
                std::thread::spawn(move || shared.copy(server_, agent_, false));
            }
        });
        Self { address, shared }
    }

    /// Bytes that the agent sent so far, TLS and all.
    pub(crate) fn up(&self) -> u64 {
        self.shared.up.load(Ordering::Acquire)
    }

    /// Cuts every line once so many more bytes have passed.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.shared.cut_at.store(self.up() + bytes, Ordering::Release);
    }

    /// Whether a cut is still to come.
    pub(crate) fn pending(&self) -> bool {
        self.shared.cut_at.load(Ordering::Acquire) != u64::MAX
    }

    pub(crate) fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Acquire)
    }
}

impl Shared {
    fn copy(&self, mut from: TcpStream, mut to: TcpStream, counted: bool) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let mut pass = length;
            if counted {
                let before = self.up.fetch_add(length as u64, Ordering::AcqRel);
                let cut = self.cut_at.load(Ordering::Acquire);
                if before + length as u64 >= cut {
                    // The last bytes pass in part: a cut in the middle of a frame.
                    pass = usize::try_from(cut.saturating_sub(before)).unwrap().min(length);
                    let _ = to.write_all(&buffer[..pass]);
                    self.cut_at.store(u64::MAX, Ordering::Release);
                    self.cuts.fetch_add(1, Ordering::AcqRel);
                    for socket in self.open.lock().unwrap().drain(..) {
                        let _ = socket.shutdown(Shutdown::Both);
                    }
                    return;
                }
            }
            if to.write_all(&buffer[..pass]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

/// A site with a door for agents.
pub(crate) struct Ward {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) site: Site,
    pub(crate) door: SocketAddr,
    pub(crate) server: Server,
    pub(crate) relay: Relay,
}

impl Ward {
    /// Starts the server; `more` are lines of `[agents]`.
    pub(crate) fn start(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let door: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
        let site = Site::new(&dir.path().join("site"), &format!("[agents]\nlisten = \"{door}\"\n{more}"));
        site.init();
        let server = Server::start(&site);
        let relay = Relay::start(door);
        Self { dir, site, door, server, relay }
    }

    /// A verb on the site server.
    pub(crate) fn say(&self, words: &[&str]) -> (Option<i32>, Vec<Value>) {
        let mut command = Command::new(PROGRAM);
        command.arg("--json").args(words).arg("--socket").arg(self.site.config().socket);
        lines(&command.env("LANG", "C.UTF-8").stdin(Stdio::null()).output().unwrap())
    }

    /// Registers a system that an agent reads; gives the token if one was made.
    pub(crate) fn add(&self, id: &str, agent: &str) -> Option<String> {
        let (code, said) = self.say(&["system", "add", "--id", id, "--agent", agent, "--rpo", "24h"]);
        assert_eq!(code, Some(0), "{said:?}");
        said.last().unwrap()["invitation"]["token"].as_str().map(str::to_owned)
    }

    /// The agent's folder with its own file.
    pub(crate) fn machine(&self, name: &str, units: &str) -> Machine {
        Machine::new(&self.dir.path().join(name), &self.relay.address.to_string(), units)
    }

    /// The agents' register.
    pub(crate) fn agent(&self, name: &str) -> Value {
        let agents: Vec<Value> = self.site.client().get("/v1/agents").unwrap();
        agents.into_iter().find(|agent| agent["name"] == name).unwrap_or_default()
    }

    pub(crate) fn connected(&self, name: &str) {
        until("the agent's connection", || (self.agent(name)["connected"] == true).then_some(()));
    }

    pub(crate) fn log(&self) -> String {
        fs_err::read_to_string(self.site.root.join("server.log")).unwrap()
    }
}

/// A departmental server.
pub(crate) struct Machine {
    pub(crate) root: PathBuf,
    pub(crate) toml: PathBuf,
}

impl Machine {
    pub(crate) fn new(root: &Path, server: &str, units: &str) -> Self {
        fs_err::create_dir_all(root).unwrap();
        let toml = root.join("agent.toml");
        let state = root.join("state");
        let text = format!("server = \"{server}\"\nstate = \"{}\"\n{units}", state.display());
        fs_err::write(&toml, text).unwrap();
        Self { root: root.to_owned(), toml }
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--json").arg("agent").args(words).arg("--config").arg(&self.toml);
        command.env("LANG", "C.UTF-8").env_remove("KURAMORI_AGENT_TOKEN").stdin(Stdio::null());
        command
    }

    pub(crate) fn enrol(&self, token: &str) -> (Option<i32>, Vec<Value>) {
        lines(&self.command(&["enrol", "--token", token]).output().unwrap())
    }

    pub(crate) fn start(&self) -> Agent {
        let log = self.root.join("agent.log");
        let mut options = fs_err::OpenOptions::new();
        let file = options.create(true).append(true).open(&log).unwrap();
        let child = self.command(&[]).stdout(Stdio::null()).stderr(file.into_parts().0).spawn().unwrap();
        Agent { child, log }
    }
}

/// Runs an agent until it ends by itself.
pub(crate) fn run_to_end(command: &mut Command) -> (Output, String) {
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

/// A running agent; ended when it goes out of sight.
pub(crate) struct Agent {
    pub(crate) child: Child,
    log: PathBuf,
}

impl Agent {
    pub(crate) fn log(&self) -> String {
        fs_err::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn kill(mut self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it ends by itself; gives its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        until("the agent's end", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
            let _ = self.child.wait();
        }
    }
}
