//! The two processes under test, and the way to talk to them.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use jiff::Timestamp;
use kuramori_model::{
    clock::SystemRandom,
    gate::{
        GateState, GateStatus, Nonce, Purpose, ReleaseToken, Reply, Request, SignedRelease, SignedToken,
        WindowRecord, WindowToken,
    },
    ids::WindowId,
};

use super::{PRIMARY, PULLER, Rig, now_ms, target, wait};

/// How gated is configured.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) switch: bool,
    /// The table `[switch_ssh]`, with the switch's ping-poll.
    pub(crate) switch_ssh: Option<String>,
    pub(crate) if_name: &'static str,
    pub(crate) sys_name: &'static str,
    pub(crate) foreign: Vec<&'static str>,
    pub(crate) nft: String,
    pub(crate) ttl: u32,
    pub(crate) state: Option<PathBuf>,
    pub(crate) allowed_uid: u32,
    /// Further tables of the file.
    pub(crate) more: String,
    /// `dead_man_tested` as the file declares it.
    pub(crate) declared: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            switch: false,
            switch_ssh: None,
            if_name: "port2",
            sys_name: "sw-test",
            foreign: Vec::new(),
            nft: "nft".to_owned(),
            ttl: 3,
            state: None,
            allowed_uid: 0,
            more: String::new(),
            declared: "[\"A\"]",
        }
    }
}

/// A running process in the vault's namespace.
#[derive(Debug)]
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, name: &str) {
        let done =
            Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status().unwrap();
        assert!(done.success());
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Rig {
    pub(crate) fn write_config(&self, setup: &Setup) -> PathBuf {
        let mut text = format!(
            "state_dir = \"{state}\"\nsocket = \"{socket}\"\nallowed_uids = [{uid}]\n\
             observer_socket = \"{observer}\"\nobserver_uids = [0]\nvault_keys = [\"{key}\"]\n\
             officer_keys = [\"{one}\", \"{two}\"]\nrelease_quorum = 2\nttl_seconds = {ttl}\nverify_seconds = 10\n\
             dead_man_tested = {declared}\n\n[[flow]]\npurpose = \"pull\"\nsource = \"{PULLER}\"\npeer = \"{PRIMARY}\"\n\n\
             [packet_filter]\n{poll}inside = \"pul0\"\noutside = \"v0\"\nprogram = \"{nft}\"\nforeign_tables = {foreign:?}\n\n\
             [[packet_filter.management]]\ninterface = \"mgt0\"\nnetwork = \"192.0.2.0/28\"\nudp = [161]\n\
             tcp = [830, 22, 443, 6653]\n",
            state = setup.state.clone().unwrap_or_else(|| self.path("state")).display(),
            socket = self.path("gate.sock").display(),
            uid = setup.allowed_uid,
            observer = self.path("observer.sock").display(),
            key = self.vault_key(),
            one = self.officers[0].public(),
            two = self.officers[1].public(),
            ttl = setup.ttl,
            declared = setup.declared,
            nft = setup.nft,
            foreign = setup.foreign,
            poll = if setup.switch_ssh.is_some() {
                "ping_poll = { interface = \"mgt0\", switch = \"192.0.2.2\" }\n"
            } else {
                ""
            },
        );
        if setup.switch {
            write!(
                text,
                "\n[switch]\naddress = \"192.0.2.2:161\"\nuser = \"gate\"\nauth_password_file = \"{}\"\n\
                 priv_password_file = \"{}\"\nsys_name = \"{}\"\nif_name = \"{}\"\ntimeout_ms = 500\n",
                self.path("gate-auth").display(),
                self.path("gate-priv").display(),
                setup.sys_name,
                setup.if_name
            )
            .unwrap();
        }
        if let Some(table) = &setup.switch_ssh {
            write!(text, "\n[switch_ssh]\n{table}").unwrap();
        }
        text.push_str(&setup.more);
        let file = self.path("gated.toml");
        fs_err::write(&file, text).unwrap();
        file
    }

    pub(crate) fn gated(&self, setup: &Setup) -> Process {
        self.gated_with(setup, &[])
    }

    /// With variables of the environment.
    pub(crate) fn gated_with(&self, setup: &Setup, variables: &[(&str, String)]) -> Process {
        let config = self.write_config(setup);
        self.process(env!("CARGO_BIN_EXE_kuramori-gated").into(), &config, "gated.log", variables)
    }

    pub(crate) fn observed(&self, never: &[&str]) -> Process {
        self.observed_with(never, "")
    }

    /// Also watches addresses that must never answer, each from a role's own side.
    pub(crate) fn observed_also(&self, never: &[(&str, &str)]) -> Process {
        let mut text = String::new();
        for (address, role) in never {
            writeln!(
                text,
                "[[also]]\naddress = \"{address}\"\nnever = true\nnamespace = \"/run/netns/{}\"",
                self.ns(role)
            )
            .unwrap();
        }
        self.observed_with(&[], &text)
    }

    fn observed_with(&self, never: &[&str], more: &str) -> Process {
        let config = self.path("observed.toml");
        let text = format!(
            "socket = \"{}\"\ntarget = \"{PRIMARY}\"\nnever = {never:?}\nnamespace = \"/run/netns/{}\"\n\
             interface = \"v0\"\n{more}",
            self.path("observer.sock").display(),
            self.ns("pul")
        );
        fs_err::write(&config, text).unwrap();
        self.process(sibling("kuramori-observed"), &config, "observed.log", &[])
    }

    fn process(
        &self,
        program: PathBuf,
        config: &std::path::Path,
        log: &str,
        variables: &[(&str, String)],
    ) -> Process {
        let log = fs_err::OpenOptions::new().create(true).append(true).open(self.path(log)).unwrap();
        // `ip netns exec` becomes the program itself, so the pid is the program's.
        let child = Command::new("ip")
            .args(["netns", "exec", &self.ns("vlt")])
            .arg(program)
            .arg("--config")
            .arg(config)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log.into_parts().0))
            .spawn()
            .unwrap();
        Process(child)
    }

    pub(crate) fn ask(&self, request: &Request) -> Option<Reply> {
        let mut stream = UnixStream::connect(self.path("gate.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        stream.write_all(&line).ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        serde_json::from_str(&answer).ok()
    }

    pub(crate) fn status(&self) -> Option<GateStatus> {
        match self.ask(&Request::Status {})? {
            Reply::Status(status) => Some(*status),
            _ => None,
        }
    }

    pub(crate) fn state(&self) -> String {
        self.status().map_or("no answer".to_owned(), |status| status.gate.name().to_owned())
    }

    /// Whether the gate has left a state since that boot time in milliseconds, however short the time was that it
    /// was elsewhere: by its log.
    pub(crate) fn left(&self, state: &str, since: u64) -> bool {
        let log = fs_err::read_to_string(self.path("state/gate.jsonl")).unwrap_or_default();
        log.lines()
            .rev()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .any(|line| line["from"] == state && line["boot_ms"].as_u64().is_some_and(|at| at >= since))
    }

    pub(crate) fn wait_state(&self, name: &str, limit: u64) -> Duration {
        let (limit, start) = (4 * limit, now_ms());
        while now_ms() - start < limit * 1000 {
            if self.state() == name {
                return Duration::from_millis(now_ms() - start);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let log = fs_err::read_to_string(self.path("gated.log")).unwrap_or_default();
        let seen = fs_err::read_to_string(self.path("observed.log")).unwrap_or_default();
        panic!("no `{name}` within {limit} s: {:#?}\n{log}\n{seen}", self.status());
    }

    pub(crate) fn token(&self, seconds: u32) -> SignedToken {
        let status = self.status().unwrap();
        let token = WindowToken {
            window: WindowId(status.last_window.0 + 1),
            epoch: status.epoch.max(1),
            purpose: Purpose::Pull,
            source: PULLER,
            peer: PRIMARY,
            max_seconds: seconds,
            max_bytes: 1 << 50,
            budget_left_s: 3600,
            nonce: Nonce::draw(&SystemRandom),
            boot_id: status.boot_id,
            issued_boot_ms: status.boot_ms,
            expires_boot_ms: status.boot_ms + 30_000,
            issued: Timestamp::UNIX_EPOCH,
        };
        SignedToken::sign(token, &self.key)
    }

    /// Opens, and waits until it is open.
    pub(crate) fn open(&self, seconds: u32) -> WindowId {
        let token = self.token(seconds);
        let window = token.token.window;
        match self.ask(&Request::Open { token: Box::new(token) }) {
            Some(Reply::Status(_)) => {}
            other => {
                let log = fs_err::read_to_string(self.path("gated.log")).unwrap_or_default();
                panic!("not taken: {other:#?}\n{log}")
            }
        }
        self.wait_state("open", 30);
        window
    }

    pub(crate) fn refused(&self, request: &Request) -> String {
        match self.ask(request) {
            Some(Reply::Refused { code, .. }) => code,
            other => panic!("not refused: {other:#?}"),
        }
    }

    pub(crate) fn close(&self) {
        self.ask(&Request::Close { reason: "test".into() }).unwrap();
    }

    pub(crate) fn history(&self) -> Vec<WindowRecord> {
        match self.ask(&Request::History { limit: 50 }) {
            Some(Reply::History { windows }) => windows,
            other => panic!("no history: {other:?}"),
        }
    }

    pub(crate) fn record(&self, window: WindowId) -> WindowRecord {
        let mut found = None;
        wait("the window's record", Duration::from_secs(15), || {
            found = self.history().into_iter().find(|record| record.window == window);
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn release(&self, officers: usize) -> Request {
        let status = self.status().unwrap();
        let (GateState::Lockdown { incident, .. } | GateState::FaultOpen { incident, .. }) = status.gate
        else {
            panic!("nothing to release: {:?}", status.gate)
        };
        let mut release = SignedRelease::new(ReleaseToken {
            incident,
            reason: "looked at it".into(),
            nonce: Nonce::draw(&SystemRandom),
            boot_id: status.boot_id,
            expires_boot_ms: status.boot_ms + 30_000,
        });
        for officer in &self.officers[..officers] {
            release.countersign(officer);
        }
        Request::Release { release: Some(Box::new(release)) }
    }
}

/// Another program of ours lies beside the gate's; it is built if somebody runs only this package's tests.
pub(crate) fn sibling(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_kuramori-gated")).with_file_name(name);
    if !path.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let done = Command::new(cargo)
            .args(["build", "-q", "-p", name, "--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .env("CARGO_TARGET_DIR", target())
            .status()
            .unwrap();
        assert!(done.success());
    }
    path
}
