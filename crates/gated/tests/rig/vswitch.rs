//! An OpenFlow switch: Open vSwitch's own programs with its datapath in user space, between the ports `port1` and
//! `port2`, with a database, a socket and a folder of its own.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{Rig, sh, wait};

const DATAPATH: &str = "00000000000000a1";

/// The running switch.
#[derive(Debug)]
pub(crate) struct Vswitch {
    folder: PathBuf,
    ns: String,
    children: Vec<Child>,
}

impl Vswitch {
    /// Puts it into the place of the rig's own switch.
    pub(crate) fn start(rig: &Rig) -> Self {
        let folder = rig.path("ovs");
        fs_err::create_dir_all(&folder).unwrap();
        rig.exec("sw", "nft delete table netdev sw");
        // Without an agent of its own, its ports send nothing by themselves.
        for port in ["port1", "port2"] {
            sh(&format!("ip netns exec {} sysctl -qw net.ipv6.conf.{port}.disable_ipv6=1", rig.ns("sw")));
        }
        // A switch in user space forwards a frame as it stands: whole segments, with their checksums.
        for (role, interface) in [
            ("prd", "gat0"),
            ("vlt", "v0"),
            ("vlt", "pul0"),
            ("pul", "eth0"),
            ("sw", "port1"),
            ("sw", "port2"),
        ] {
            let (done, words) =
                rig.exec(role, &format!("ethtool -K {interface} tx off gso off gro off tso off"));
            assert!(done, "{words}");
        }
        let mut switch = Self { folder, ns: rig.ns("sw"), children: Vec::new() };
        switch.keys("ca", &[("switch", "switch"), ("gate", "gate")]);
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        sh(&format!("ovsdb-tool create {} {schema}", switch.file("conf.db").display()));
        let at = |name: &str| switch.file(name).display().to_string();
        let (database, socket, log) = (at("conf.db"), format!("--remote=punix:{}", at("db.sock")), at("log"));
        switch.spawn("ovsdb-server", &[&database, &socket, "--unixctl", &format!("{log}.db.ctl")]);
        let socket = switch.file("db.sock");
        wait("the switch's database", Duration::from_secs(20), || socket.exists());
        switch.vsctl("--no-wait init");
        let database = format!("unix:{}", socket.display());
        switch.spawn("ovs-vswitchd", &[&database, "--unixctl", &format!("{log}.sw.ctl")]);
        switch.vsctl(&format!(
            "add-br br0 -- set bridge br0 datapath_type=netdev fail_mode=secure protocols=OpenFlow13 \
             other_config:datapath-id={DATAPATH} other_config:disable-in-band=true -- add-port br0 port1 -- add-port br0 port2"
        ));
        switch.certify("ca");
        switch.vsctl("set-controller br0 pssl:6653:192.0.2.2");
        let list = format!("ip netns exec {} ss -Hltn", switch.ns);
        wait("the switch listens", Duration::from_secs(20), || super::attempt(&list).1.contains(":6653"));
        switch
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// An authority, and certificates by it.
    fn keys(&self, authority: &str, names: &[(&str, &str)]) {
        let new = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        let folder = self.folder.display();
        sh(&format!(
            "cd {folder} && {new} -x509 -days 30 -subj /CN={authority} -keyout {authority}.key -out {authority}.pem 2>&1"
        ));
        for (file, name) in names {
            sh(&format!(
                "cd {folder} && {new} -subj /CN={name} -keyout {file}.key -out {file}.csr 2>&1 && \
                 openssl x509 -req -in {file}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days 30 \
                 -out {file}.pem 2>&1"
            ));
        }
    }

    /// From now on the switch shows a certificate by this authority.
    pub(crate) fn certify(&self, authority: &str) {
        if authority != "ca" {
            self.keys(authority, &[("stranger", "switch")]);
        }
        let name = if authority == "ca" { "switch" } else { "stranger" };
        let at = |name: &str| self.file(name).display().to_string();
        self.vsctl(&format!(
            "set-ssl {} {} {}",
            at(&format!("{name}.key")),
            at(&format!("{name}.pem")),
            at("ca.pem")
        ));
    }

    /// The switch's own configuration tool.
    pub(crate) fn vsctl(&self, line: &str) {
        let socket = self.file("db.sock").display().to_string();
        sh(&format!("ip netns exec {} ovs-vsctl --timeout=30 --db=unix:{socket} {line} 2>&1", self.ns));
    }

    /// Its flow tool, at the switch itself.
    pub(crate) fn ofctl(&self, verb: &str, more: &str) -> String {
        let bridge = self.file("br0.mgmt").display().to_string();
        sh(&format!("ovs-ofctl -O OpenFlow13 {verb} {bridge} {more} 2>&1"))
    }

    fn spawn(&mut self, program: &str, arguments: &[&str]) {
        let folder = self.folder.display().to_string();
        let log = fs_err::File::create(self.file(&format!("{program}.log"))).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.ns, "env"])
            .args(
                ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"]
                    .map(|name| format!("{name}={folder}")),
            )
            .arg(program)
            .args(arguments)
            .args(["-vsyslog:off", "-vconsole:warn", "--no-chdir"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log.into_parts().0))
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    /// `ip netns exec` and `env` become the program itself: the pid is the switch's.
    pub(crate) fn pid(&self) -> u32 {
        self.children[1].id()
    }

    /// The table `[openflow]`'s values.
    pub(crate) fn config(&self, lease: u32) -> String {
        let at = |name: &str| self.file(name).display().to_string();
        format!(
            "address = \"192.0.2.2:6653\"\ndatapath_id = \"{DATAPATH}\"\nvault_port = \"port2\"\nproduction_port = \"port1\"\n\
             lease_seconds = {lease}\ntimeout_ms = 6000\n\
             tls = {{ private_key_file = \"{}\", certificate_file = \"{}\", ca_file = \"{}\" }}\n",
            at("gate.key"),
            at("gate.pem"),
            at("ca.pem")
        )
    }
}

impl Drop for Vswitch {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
