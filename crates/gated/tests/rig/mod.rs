//! A small guarded site in network namespaces of its own: production, a switch whose port a real snmpd owns,
//! the vault host with `kuramori-gated` and `kuramori-observed`, and the puller behind it.
//!
//! `prd` 10.77.1.2 — gat0 10.77.9.1 ═ port1 [sw] port2 ═ v0 10.77.9.2 [vlt] 10.77.10.1 — 10.77.10.2 `pul`

#![allow(dead_code, reason = "each test file uses its part of the rig")]
#![allow(clippy::unwrap_used, reason = "a rig that cannot be built fails its test")]
#![allow(clippy::print_stdout, reason = "seeds and figures of a test")]

pub(crate) mod bmc;
pub(crate) mod console;
pub(crate) mod gate;
pub(crate) mod load;
pub(crate) mod netconf;
pub(crate) mod power;
pub(crate) mod suite;
pub(crate) mod traffic;
pub(crate) mod vswitch;

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use kuramori_model::{
    clock::{Clock, SystemClock},
    gate::{Exposure, SigningKey, VerifyingKey, WindowRecord},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) const PRIMARY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 77, 1, 2), 8443);
pub(crate) const PULLER: Ipv4Addr = Ipv4Addr::new(10, 77, 10, 2);
pub(crate) const VAULT: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 2);

/// Runs a shell line and gives its output; panics with its words when it fails.
pub(crate) fn sh(line: &str) -> String {
    let (ok, out) = attempt(line);
    assert!(ok, "`{line}` failed: {out}");
    out
}

/// Runs a shell line; whether it succeeded, and all that it said.
pub(crate) fn attempt(line: &str) -> (bool, String) {
    let done = Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), text)
}

/// Waits on a condition; panics with `what` after the limit.
/// The limit is for an idle machine, and a busy one may take four times as long: a promise about time is asserted
/// on what was measured, not here.
pub(crate) fn wait(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let (limit, start) = (4 * limit, SystemClock.boot());
    loop {
        if done() {
            return SystemClock.boot().saturating_sub(start);
        }
        assert!(SystemClock.boot().saturating_sub(start) < limit, "waited {limit:?} in vain: {what}");
        SystemClock.sleep(Duration::from_millis(20));
    }
}

/// Prints into the test's output.
pub(crate) fn say(text: &str) {
    println!("{text}");
}

pub(crate) fn now_ms() -> u64 {
    u64::try_from(SystemClock.boot().as_millis()).unwrap()
}

pub(crate) fn long() -> bool {
    std::env::var_os("KURAMORI_LONG").is_some()
}

/// Runs a closure in a network namespace, on a thread of its own.
pub(crate) fn inside<T: Send + 'static>(
    namespace: &str,
    act: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let path = format!("/run/netns/{namespace}");
    std::thread::spawn(move || {
        let file = fs_err::File::open(path).unwrap();
        move_into_link_name_space(file.file().as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        act()
    })
}

/// The site. Everything that it made is gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) prefix: String,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) key: SigningKey,
    pub(crate) officers: Vec<SigningKey>,
    snmpd: Option<Child>,
    children: Vec<u32>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Rig {
    pub(crate) fn new() -> Self {
        let prefix = format!("kt{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let key = |seed: u8| SigningKey::from_seed(&[seed; 32]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let rig = Self {
            prefix,
            folder,
            key: key(1),
            officers: vec![key(2), key(3)],
            snmpd: None,
            children: Vec::new(),
        };
        let (prd, sw, vlt, pul) = (rig.ns("prd"), rig.ns("sw"), rig.ns("vlt"), rig.ns("pul"));
        for ns in [&prd, &sw, &vlt, &pul] {
            sh(&format!("ip netns add {ns} && ip -n {ns} link set lo up"));
        }
        for (a, name_a, b, name_b) in [
            (&prd, "gat0", &sw, "port1"),
            (&sw, "port2", &vlt, "v0"),
            (&sw, "mgt0", &vlt, "mgt0"),
            (&sw, "lan0", &prd, "lan0"),
            (&vlt, "pul0", &pul, "eth0"),
        ] {
            sh(&format!("ip link add {name_a} netns {a} type veth peer name {name_b} netns {b}"));
            sh(&format!("ip -n {a} link set {name_a} up && ip -n {b} link set {name_b} up"));
        }
        for (ns, interface, address) in [
            (&prd, "lo", "10.77.1.2/32"),
            (&prd, "gat0", "10.77.9.1/24"),
            (&vlt, "v0", "10.77.9.2/24"),
            (&vlt, "pul0", "10.77.10.1/24"),
            (&pul, "eth0", "10.77.10.2/24"),
            (&vlt, "mgt0", "192.0.2.1/28"),
            (&sw, "mgt0", "192.0.2.2/28"),
            (&sw, "lan0", "10.77.8.2/24"),
            (&prd, "lan0", "10.77.8.1/24"),
        ] {
            sh(&format!("ip -n {ns} addr add {address} dev {interface}"));
        }
        sh(&format!("ip -n {prd} route add 10.77.10.0/24 via 10.77.9.2 dev gat0"));
        sh(&format!("ip -n {vlt} route add default via 10.77.9.1 dev v0"));
        sh(&format!("ip -n {pul} route add default via 10.77.10.1"));
        sh(&format!("ip netns exec {vlt} sysctl -qw net.ipv4.ip_forward=1"));
        rig.neighbours();
        rig.nft(
            "sw",
            "table netdev sw {\n chain a { type filter hook ingress device \"port1\" priority 0; fwd to \"port2\"\n }\n \
             chain b { type filter hook ingress device \"port2\" priority 0; fwd to \"port1\"\n }\n}",
        );
        rig
    }

    pub(crate) fn ns(&self, role: &str) -> String {
        format!("{}-{role}", self.prefix)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn exec(&self, role: &str, line: &str) -> (bool, String) {
        attempt(&format!("ip netns exec {} {line}", self.ns(role)))
    }

    pub(crate) fn nft(&self, role: &str, rules: &str) {
        let file = self.path(&format!("{role}.nft"));
        fs_err::write(&file, rules).unwrap();
        sh(&format!("ip netns exec {} nft -f {}", self.ns(role), file.display()));
    }

    pub(crate) fn mac(&self, role: &str, interface: &str) -> String {
        let (ok, text) = self.exec(role, &format!("cat /sys/class/net/{interface}/address"));
        assert!(ok, "{text}");
        text.trim().to_owned()
    }

    /// Both ends know each other without ARP.
    pub(crate) fn neighbours(&self) {
        let (prd, vlt) = (self.ns("prd"), self.ns("vlt"));
        let (v0, gat0) = (self.mac("vlt", "v0"), self.mac("prd", "gat0"));
        sh(&format!("ip -n {prd} neigh replace {VAULT} lladdr {v0} dev gat0 nud permanent"));
        sh(&format!("ip -n {vlt} neigh replace 10.77.9.1 lladdr {gat0} dev v0 nud permanent"));
    }

    /// The table `[link]`'s values.
    pub(crate) fn link_config(&self) -> String {
        let (v0, gat0) = (self.mac("vlt", "v0"), self.mac("prd", "gat0"));
        format!(
            "hardware_address = \"{v0}\"\nneighbour = [{{ address = \"10.77.9.1\", hardware_address = \"{gat0}\" }}]\n\
             route = [{{ network = \"0.0.0.0/0\", via = \"10.77.9.1\" }}]\n"
        )
    }

    /// A child that is ended with the rig, if it lives that long.
    pub(crate) fn adopt(&mut self, pid: u32) {
        self.children.push(pid);
    }

    pub(crate) fn index(&self, role: &str, interface: &str) -> String {
        let (ok, text) = self.exec(role, &format!("cat /sys/class/net/{interface}/ifindex"));
        assert!(ok, "{text}");
        text.trim().to_owned()
    }

    /// Starts net-snmp's agent in the switch; user `gate` may set `port2` only, user `site` may only read.
    pub(crate) fn start_snmpd(&mut self) {
        self.start_snmpd_with("");
    }

    /// The same agent, which takes every SET, shows the port as closed and does nothing.
    pub(crate) fn start_lying_snmpd(&mut self) {
        let index = self.index("sw", "port2");
        let column = ".1.3.6.1.2.1.2.2.1";
        self.start_snmpd_with(&format!(
            "override -rw {column}.7.{index} integer 2\noverride {column}.8.{index} integer 2\n"
        ));
    }

    fn start_snmpd_with(&mut self, more: &str) {
        let index = self.index("sw", "port2");
        let mut text = String::from(
            "agentaddress udp:161\nsysName sw-test\ncreateUser gate SHA-256 \"gate-auth-pass\" AES \"gate-priv-pass\"\n\
             createUser site SHA-256 \"site-auth-pass\" AES \"site-priv-pass\"\n\
             group gg usm gate\ngroup sg usm site\naccess gg \"\" usm priv exact gr gw none\n\
             access sg \"\" usm priv exact gr none none\nview gr included .1.3.6.1.2.1.1.5\n",
        );
        for column in ["2.2.1.7", "2.2.1.8", "31.1.1.1.1", "31.1.1.1.18", "31.1.1.1.6", "31.1.1.1.10"] {
            writeln!(text, "view gr included .1.3.6.1.2.1.{column}.{index}").unwrap();
        }
        writeln!(text, "view gw included .1.3.6.1.2.1.2.2.1.7.{index}").unwrap();
        text.push_str(more);
        let file = self.path("snmpd.conf");
        fs_err::write(&file, text).unwrap();
        for user in ["gate", "site"] {
            for kind in ["auth", "priv"] {
                fs_err::write(self.path(&format!("{user}-{kind}")), format!("{user}-{kind}-pass\n")).unwrap();
            }
        }
        let child = Command::new("ip")
            .args(["netns", "exec", &self.ns("sw"), "snmpd", "-f", "-Lf"])
            .arg(self.path("snmpd.log"))
            .args(["-C", "-c"])
            .arg(&file)
            .env("SNMP_PERSISTENT_DIR", self.path("snmpd"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.snmpd = Some(child);
        let get = "snmpget -r0 -t1 -v3 -l authPriv -u site -a SHA-256 -A site-auth-pass -x AES -X site-priv-pass \
                   127.0.0.1 .1.3.6.1.2.1.1.5.0";
        wait("snmpd answers", Duration::from_secs(20), || self.exec("sw", get).0);
    }

    /// `ip netns exec` becomes the program itself, so the pid is the agent's.
    pub(crate) fn snmpd_pid(&self) -> u32 {
        self.snmpd.as_ref().unwrap().id()
    }

    pub(crate) fn stop_snmpd(&mut self) {
        if let Some(mut child) = self.snmpd.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn vault_key(&self) -> VerifyingKey {
        self.key.public()
    }

    /// Writes the figures of a test beside the build, for the evidence.
    pub(crate) fn evidence(name: &str, text: &str) {
        let folder = target().join("evidence");
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::write(folder.join(format!("{name}.json")), text).unwrap();
        println!("{name}: {text}");
    }
}

/// The build's own folder.
pub(crate) fn target() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_kuramori-gated")).parent().unwrap().parent().unwrap().to_owned()
}

/// n, min, median, p95 and max of some seconds, as JSON.
pub(crate) fn figures(what: &str, seed: u64, mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index of a short list"
        )]
        let index = ((values.len() - 1) as f64 * share).round() as usize;
        (values[index] * 1000.0).round() / 1000.0
    };
    format!(
        r#"{{"what":"{what}","unit":"s","seed":{seed},"n":{},"min":{},"median":{},"p95":{},"max":{}}}"#,
        values.len(),
        at(0.0),
        at(0.5),
        at(0.95),
        at(1.0)
    )
}

impl Drop for Rig {
    fn drop(&mut self) {
        for pid in &self.children {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        self.stop_snmpd();
        for role in ["prd", "sw", "vlt", "pul"] {
            let ns = self.ns(role);
            let _ = Command::new("ip").args(["netns", "del", &ns]).stderr(Stdio::null()).status();
        }
    }
}

/// The record says of its three figures what they show: a busy machine may truthfully make them differ.
pub(crate) fn agree(record: &WindowRecord) {
    let Exposure { commanded_s, actuator_s, probe_s } = record.exposure;
    let differ =
        [Some(actuator_s), probe_s].map(|other| other.is_none_or(|other| (other - commanded_s).abs() > 0.5));
    assert_eq!(record.disagreement, differ.contains(&true), "{record:#?}");
}
