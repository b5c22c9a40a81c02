//! Debian's OpenSSH server on a port of its own, with all its files in a temporary folder. Its SFTP is
//! started read-only (`internal-sftp -R`), so a client that tried to write would be told.

use std::{
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use kuramori_source::config::{SftpConfig, Span};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

/// An account that every Debian has.
pub const USER: &str = "daemon";
pub const PASSWORD: &str = "pass word\"'$1";

pub struct Sshd {
    pub temp: TempDir,
    pub port: u16,
    pub host_key: String,
    server: Option<Child>,
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

impl Sshd {
    pub fn start() -> Self {
        let temp = TempDir::with_prefix("kuramori-ssh-").unwrap();
        fs_err::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut sshd = Self { temp, port: super::free_port(), host_key: String::new(), server: None };
        fs_err::create_dir(sshd.dump()).unwrap();
        for name in ["host", "client", "stranger"] {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
                .arg(sshd.path(name)));
        }
        fs_err::copy(sshd.path("client.pub"), sshd.path("authorized")).unwrap();
        fs_err::set_permissions(sshd.path("authorized"), std::fs::Permissions::from_mode(0o644)).unwrap();
        fs_err::read_to_string(sshd.path("host.pub")).unwrap().trim().clone_into(&mut sshd.host_key);
        // A password of this server alone: it sees another /etc/shadow than the machine.
        let hash = run(Command::new("openssl").args(["passwd", "-6", PASSWORD]));
        let shadow: String = fs_err::read_to_string("/etc/shadow")
            .unwrap()
            .lines()
            .map(|line| {
                if line.starts_with("daemon:") {
                    format!("daemon:{hash}:19000:0:99999:7:::\n")
                } else {
                    format!("{line}\n")
                }
            })
            .collect();
        fs_err::write(sshd.path("shadow"), shadow).unwrap();
        fs_err::set_permissions(sshd.path("shadow"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let config = format!(
            "Port {}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication yes\nKbdInteractiveAuthentication no\nPidFile none\nPrintMotd no\n\
             Subsystem sftp internal-sftp -R\nForceCommand internal-sftp -R\nAllowUsers {USER}\nMaxStartups 50\n",
            sshd.port,
            sshd.path("host").display(),
            sshd.path("authorized").display()
        );
        fs_err::write(sshd.path("config"), config).unwrap();
        sshd.serve();
        sshd
    }

    /// Starts the server (again).
    pub fn serve(&mut self) {
        self.kill();
        // sshd wants an empty folder of root's; a private one hides the machine's.
        let script = "mount -t tmpfs tmpfs /run && mkdir /run/sshd && mount --bind \"$1\" /etc/shadow && \
                      exec /usr/sbin/sshd -D -e -f \"$2\"";
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sshd"])
            .args([self.path("shadow"), self.path("config")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs_err::File::create(self.path("log")).unwrap().into_file())
            .process_group(0)
            .spawn()
            .expect("unshare of util-linux and sshd of Debian's openssh-server");
        self.server = Some(child);
        let port = self.port;
        super::until("sshd", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn dump(&self) -> PathBuf {
        self.path("dump")
    }

    pub fn pid(&self) -> u32 {
        self.server.as_ref().unwrap().id()
    }

    /// Ends every session and leaves the listener alone.
    pub fn cut(listener: u32) {
        for child in descendants(listener) {
            let _ = kill_process(Pid::from_raw(i32::try_from(child).unwrap()).unwrap(), Signal::KILL);
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            for child in descendants(server.id()) {
                let _ = kill_process(Pid::from_raw(i32::try_from(child).unwrap()).unwrap(), Signal::KILL);
            }
            let group = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
            let _ = kill_process_group(group, Signal::KILL);
            server.wait().unwrap();
        }
    }

    pub fn config(&self) -> SftpConfig {
        let second = Duration::from_secs(1);
        SftpConfig {
            server: "127.0.0.1".into(),
            port: self.port,
            user: USER.into(),
            folder: self.dump().display().to_string(),
            host_keys: vec![self.host_key.clone()],
            key_file: Some(self.path("client")),
            password_file: None,
            marker: None,
            exclude: Vec::new(),
            retries: 2,
            retry_pause: Span(second / 10),
            reconnects: 3,
            reconnect_within: Span(second * 60),
            connect_within: Span(second * 30),
        }
    }
}

fn children(of: u32) -> Vec<u32> {
    let path = format!("/proc/{of}/task/{of}/children");
    fs_err::read_to_string(path)
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn descendants(of: u32) -> Vec<u32> {
    let below = children(of);
    let deeper: Vec<u32> = below.iter().flat_map(|child| descendants(*child)).collect();
    [below, deeper].concat()
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}
