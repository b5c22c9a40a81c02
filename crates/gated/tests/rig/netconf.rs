//! A switch with NETCONF: Debian's netconfd behind Debian's OpenSSH server. Its module for interfaces shows the
//! kernel's link, and a small module of ours lets the leaf `enabled` really set it.

use std::{
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{Rig, sh, wait};

/// The switch.
#[derive(Debug)]
pub(crate) struct Agent {
    folder: PathBuf,
    ns: String,
    server: Option<Child>,
    door: Option<Child>,
}

impl Agent {
    /// Starts it at the switch's management address; the port is on. `protocols`: `netconf1.0`, or both.
    pub(crate) fn start(rig: &Rig, protocols: &str) -> Self {
        let folder = rig.path("netconf");
        fs_err::create_dir_all(&folder).unwrap();
        let mut agent = Self { folder, ns: rig.ns("sw"), server: None, door: None };
        for name in ["host", "other", "client"] {
            sh(&format!("ssh-keygen -q -t ed25519 -N '' -C '' -f {}", agent.at(name)));
        }
        fs_err::write(agent.file("port.c"), include_str!("port.c")).unwrap();
        fs_err::write(
            agent.file("test-port.yang"),
            "module test-port {\n namespace \"urn:test-port\";\n prefix tp;\n revision 2026-01-01;\n}\n",
        )
        .unwrap();
        sh(&format!(
            "cc -w -shared -fPIC -o {} {} -I/usr/include/yuma/agt -I/usr/include/yuma/ncx -I/usr/include/yuma/platform \
             -I/usr/include/libxml2 2>&1",
            agent.at("libtest-port.so"),
            agent.at("port.c")
        ));
        // Its module for interfaces runs this for each of them.
        fs_err::write(agent.file("get-interface-ipv4"), "#!/bin/sh\n").unwrap();
        sh(&format!("chmod 755 {}", agent.at("get-interface-ipv4")));
        let interface = "<interface><name>port2</name><description>kuramori-vault</description>\
             <type xmlns:t=\"urn:ietf:params:xml:ns:yang:iana-if-type\">t:ethernetCsmacd</type><enabled>false</enabled></interface>";
        fs_err::write(
            agent.file("startup.xml"),
            format!(
                "<?xml version=\"1.0\"?><config xmlns=\"urn:ietf:params:xml:ns:netconf:base:1.0\">\
                 <interfaces xmlns=\"urn:ietf:params:xml:ns:yang:ietf-interfaces\">{interface}</interfaces></config>"
            ),
        )
        .unwrap();
        let line = [
            "netconfd".to_owned(),
            "--superuser=root".to_owned(),
            "--target=candidate".to_owned(),
            "--module=ietf-interfaces".to_owned(),
            "--module=iana-if-type".to_owned(),
            "--module=test-port".to_owned(),
            format!("--modpath={}:/usr/share/yuma/modules", agent.folder.display()),
            format!("--runpath={}:/usr/lib/x86_64-linux-gnu/yuma", agent.folder.display()),
            format!("--startup={}", agent.at("startup.xml")),
            format!("--ncxserver-sockname={}", agent.at("ncx.sock")),
            "--port=830".to_owned(),
            "--log-level=info".to_owned(),
            format!("--log={}", agent.at("netconfd.log")),
            format!("--protocols={protocols}"),
        ];
        agent.server = Some(agent.spawn(&line.iter().map(String::as_str).collect::<Vec<_>>()));
        let socket = agent.file("ncx.sock");
        wait("netconfd", Duration::from_secs(30), || socket.exists());
        agent.serve("host");
        agent.turn_on();
        agent
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn at(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn spawn(&self, line: &[&str]) -> Child {
        Command::new("ip")
            .args(["netns", "exec", &self.ns])
            .args(line)
            .env("HOME", &self.folder)
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.folder.display()))
            .env("PORT_SPOIL", self.file("spoil"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap()
    }

    /// Starts its SSH server, with this host key.
    pub(crate) fn serve(&mut self, key: &str) {
        self.shut();
        let config = format!(
            "Port 830\nListenAddress 192.0.2.2\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nPidFile none\n\
             PrintMotd no\nPrintLastLog no\n\
             Subsystem netconf \"/usr/sbin/netconf-subsystem --ncxserver-sockname=830@{}\"\n",
            self.at(key),
            self.at("client.pub"),
            self.at("ncx.sock")
        );
        fs_err::write(self.file("sshd.conf"), config).unwrap();
        let script = format!(
            "mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -E {} -f {}",
            self.at("sshd.log"),
            self.at("sshd.conf")
        );
        self.door = Some(self.spawn(&["unshare", "--mount", "sh", "-c", &script]));
        let ns = self.ns.clone();
        wait("sshd", Duration::from_secs(20), || {
            super::attempt(&format!(
                "ip netns exec {ns} ssh-keyscan -p 830 -T 2 192.0.2.2 2>/dev/null | grep -q ssh-"
            ))
            .0
        });
    }

    /// Its configuration has the port on, for good: as somebody at its console would do it.
    fn turn_on(&self) {
        let port = "<interfaces xmlns=\"urn:ietf:params:xml:ns:yang:ietf-interfaces\"><interface><name>port2</name>\
                    <enabled>true</enabled></interface></interfaces>";
        let operations = [
            format!("<edit-config><target><candidate/></target><config>{port}</config></edit-config>"),
            "<commit/>".to_owned(),
            "<close-session/>".to_owned(),
        ];
        let base = "urn:ietf:params:xml:ns:netconf:base:1.0";
        let hello = format!(
            "<hello xmlns=\"{base}\"><capabilities><capability>urn:ietf:params:netconf:base:1.0</capability>\
             </capabilities></hello>]]>]]>"
        );
        let request =
            |operation: String| format!("<rpc message-id=\"1\" xmlns=\"{base}\">{operation}</rpc>]]>]]>");
        let text = hello + &operations.map(request).concat();
        fs_err::write(self.file("turn-on.xml"), text).unwrap();
        let said = sh(&format!(
            "ip netns exec {} ssh -F /dev/null -Ts -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
             -i {} -p 830 -l root 192.0.2.2 netconf <{}",
            self.ns,
            self.at("client"),
            self.at("turn-on.xml")
        ));
        assert!(!said.contains("rpc-error"), "{said}");
    }

    /// From now on it takes every change and does nothing, or does again what it is told.
    pub(crate) fn spoil(&self, spoiled: bool) {
        if spoiled {
            fs_err::write(self.file("spoil"), "").unwrap();
        } else {
            fs_err::remove_file(self.file("spoil")).unwrap();
        }
    }

    fn shut(&mut self) {
        if let Some(mut door) = self.door.take() {
            let _ = door.kill();
            let _ = door.wait();
        }
        // A session has a group of its own.
        let pids = super::attempt(&format!("ip netns pids {}", self.ns)).1;
        for pid in pids.split_whitespace() {
            let command = fs_err::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command.contains("sshd") || command.contains("netconf-subsystem") {
                let _ = Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
            }
        }
    }

    /// The server's process does not answer from now on.
    pub(crate) fn freeze(&self) {
        let pid = self.server.as_ref().unwrap().id();
        sh(&format!("kill -STOP {pid}"));
    }

    /// The table `[netconf]`'s values.
    pub(crate) fn config(&self, lease: u32) -> String {
        let key = fs_err::read_to_string(self.file("host.pub")).unwrap();
        format!(
            "address = \"192.0.2.2:830\"\nuser = \"root\"\nkey_file = \"{}\"\nhost_keys = [\"{}\"]\ninterface = \"port2\"\n\
             description = \"kuramori-vault\"\nlease_seconds = {lease}\ntimeout_ms = 15000\n",
            self.at("client"),
            key.trim()
        )
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shut();
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
