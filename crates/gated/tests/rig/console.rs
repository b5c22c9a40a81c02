//! A switch with a command line: Debian's OpenSSH server whose every login is a program that behaves like an
//! AlliedWare Plus or IOS console, keeps its configuration in files, and really sets the port's link.

use std::{
    fmt::Write as _,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{Rig, sh, wait};

/// One line at a time, echoed by the device itself as real ones do. `spoil` names what is wrong with it.
const CONSOLE: &str = include_str!("console.py");

/// The switch's ping-poll: up after one answer, down after three missing ones, and then its trigger's script.
const PING_POLL: &str = "host=unreachable missed=0\nwhile :; do\n\
     if ping -c1 -W0.3 192.0.2.1 >/dev/null 2>&1; then host=up missed=0; else missed=$((missed+1)); fi\n\
     if [ $host = up ] && [ $missed -ge 3 ]; then host=down; ip link set port2 down; printf down >\"$1/running\"; fi\n\
     sleep 0.2\ndone\n";

/// The switch.
#[derive(Debug)]
pub(crate) struct Console {
    folder: PathBuf,
    port: &'static str,
    dialect: &'static str,
    children: Vec<Child>,
    ns: String,
}

impl Console {
    /// Starts it at the switch's management address.
    pub(crate) fn start(rig: &Rig, dialect: &'static str) -> Self {
        let folder = rig.path("console");
        fs_err::create_dir_all(&folder).unwrap();
        let port = if dialect == "ios" { "Gi1/0/5" } else { "port1.0.5" };
        let mut console = Self { folder, port, dialect, children: Vec::new(), ns: rig.ns("sw") };
        for name in ["host", "other", "client"] {
            if !console.file(name).exists() {
                sh(&format!("ssh-keygen -q -t ed25519 -N '' -C '' -f {}", console.file(name).display()));
            }
        }
        fs_err::write(console.file("console.py"), CONSOLE).unwrap();
        console.set("running", "up");
        console.serve("host");
        console
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn set(&self, file: &str, text: &str) {
        fs_err::write(self.file(file), text).unwrap();
    }

    /// What is wrong with it from now on.
    pub(crate) fn spoil(&self, how: &str) {
        self.set("spoil", how);
    }

    /// Its configuration has the port on, whatever it is.
    pub(crate) fn turn_on(&self) {
        self.set("running", "up");
    }

    pub(crate) fn describe(&self, description: &str) {
        self.set("description", description);
    }

    /// Starts its SSH server, with this host key.
    pub(crate) fn serve(&mut self, key: &str) {
        self.stop();
        let at = |name: &str| self.file(name).display().to_string();
        let config = format!(
            "Port 22\nListenAddress 192.0.2.2\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nPidFile none\n\
             PrintMotd no\nPrintLastLog no\nForceCommand exec python3 -u {} {} {} sw-test {}\n",
            at(key),
            at("client.pub"),
            at("console.py"),
            self.folder.display(),
            self.dialect,
            self.port
        );
        fs_err::write(self.file("sshd.conf"), config).unwrap();
        let script = format!(
            "mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -E {} -f {}",
            at("sshd.log"),
            at("sshd.conf")
        );
        self.spawn(&["unshare", "--mount", "sh", "-c", &script]);
        let ns = self.ns.clone();
        wait("sshd", Duration::from_secs(10), || {
            super::attempt(&format!(
                "ip netns exec {ns} ssh-keyscan -T 2 192.0.2.2 2>/dev/null | grep -q ssh-"
            ))
            .0
        });
    }

    /// From now on it watches the gate's host by ping.
    pub(crate) fn ping_poll(&mut self) {
        self.set("ping-poll.sh", PING_POLL);
        let (script, folder) =
            (self.file("ping-poll.sh").display().to_string(), self.folder.display().to_string());
        self.spawn(&["sh", &script, &folder]);
    }

    fn spawn(&mut self, line: &[&str]) {
        let child = Command::new("ip")
            .args(["netns", "exec", &self.ns])
            .args(line)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    /// Ends it with all its sessions.
    pub(crate) fn stop(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = Command::new("kill")
                .args(["-KILL", "--", &format!("-{}", child.id())])
                .stderr(Stdio::null())
                .status();
            let _ = child.wait();
        }
        // A session has a group of its own.
        let pids = super::attempt(&format!("ip netns pids {}", self.ns)).1;
        for pid in pids.split_whitespace() {
            let command = fs_err::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command.contains("sshd") || command.contains("console.py") {
                let _ = Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
            }
        }
    }

    /// The table `[switch_ssh]`, or its values alone.
    pub(crate) fn config(&self) -> String {
        let key = fs_err::read_to_string(self.file("host.pub")).unwrap();
        let mut text = String::new();
        write!(
            text,
            "address = \"192.0.2.2:22\"\nuser = \"root\"\nkey_file = \"{}\"\nhost_keys = [\"{}\"]\ndialect = \"{}\"\n\
             sys_name = \"sw-test\"\nport = \"{}\"\ndescription = \"kuramori-vault\"\ntimeout_ms = 15000\n",
            self.file("client").display(),
            key.trim(),
            self.dialect,
            self.port
        )
        .unwrap();
        text
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.stop();
    }
}
