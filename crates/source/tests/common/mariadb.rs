//! Debian's MariaDB on a port of its own, with all its files in a temporary folder.

use std::{
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use kuramori_source::config::{MariadbConfig, MariadbExpect, Span};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

pub const READER: &str = "kuramori";
pub const PASSWORD: &str = "pa\"ss\\word #1";

pub struct Mariadb {
    pub temp: TempDir,
    pub port: u16,
    server: Option<Child>,
}

impl Mariadb {
    /// An empty server; `reader` adds the account that we read with.
    pub fn start(reader: bool) -> Self {
        let temp = TempDir::with_prefix("kuramori-maria-").unwrap();
        fs_err::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut server = Self { temp, port: super::free_port(), server: None };
        fs_err::create_dir(server.path("data")).unwrap();
        let done =
            Command::new("chown").arg("mysql:").arg(server.path("data")).arg(server.temp.path()).status();
        assert!(done.unwrap().success());
        let out = Command::new("mariadb-install-db")
            .args([
                "--no-defaults",
                "--user=mysql",
                "--skip-test-db",
                "--auth-root-authentication-method=socket",
            ])
            .arg(format!("--datadir={}", server.path("data").display()))
            // A server that starts removes what others left in a shared folder, and what they need.
            .env("TMPDIR", server.temp.path())
            .output()
            .expect("mariadb-install-db of Debian's mariadb-server");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        server.serve();
        if reader {
            let password = PASSWORD.replace('\\', "\\\\");
            server.sql(&format!(
                "CREATE USER '{READER}'@'127.0.0.1' IDENTIFIED BY '{password}';\
                 GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES, RELOAD, BINLOG MONITOR, REPLICATION SLAVE ON *.* TO '{READER}'@'127.0.0.1';"
            ));
        }
        server
    }

    pub fn serve(&mut self) {
        self.kill();
        let child = Command::new("mariadbd")
            .args(["--no-defaults", "--user=mysql", "--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args([
                "--innodb-buffer-pool-size=32M",
                "--character-set-server=utf8mb4",
                "--log-bin=bin",
                "--server-id=7",
            ])
            .args(["--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=64M"])
            .arg(format!("--port={}", self.port))
            .arg(format!("--datadir={}", self.path("data").display()))
            .arg(format!("--socket={}", self.path("socket").display()))
            .arg(format!("--pid-file={}", self.path("pid").display()))
            .arg(format!("--log-error={}", self.path("log").display()))
            .env("TMPDIR", self.temp.path())
            // Another zone than ours: what means the server's own time must not come to mean ours.
            .env("TZ", "JST-9")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("mariadbd of Debian's mariadb-server");
        self.server = Some(child);
        super::until("mariadbd", || {
            self.client().args(["-e", "SELECT 1"]).output().unwrap().status.success()
        });
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.server.as_ref().unwrap().id()).unwrap()).unwrap()
    }

    pub fn kill(&mut self) {
        if self.server.is_some() {
            let _ = kill_process_group(self.group(), Signal::KILL);
        }
        if let Some(mut server) = self.server.take() {
            server.wait().unwrap();
        }
    }

    fn client(&self) -> Command {
        let mut client = Command::new("mariadb");
        client.args([
            "--no-defaults",
            "--user=root",
            "--batch",
            "--skip-column-names",
            "--default-character-set=utf8mb4",
        ]);
        client.arg(format!("--socket={}", self.path("socket").display()));
        client
    }

    /// What the server answers to its administrator.
    pub fn sql(&self, text: &str) -> String {
        let out = self.client().args(["-e", text]).output().unwrap();
        assert!(out.status.success(), "{text}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
    }

    /// Plays a dump in.
    pub fn load(&self, dump: &Path) {
        let out = self.client().stdin(fs_err::File::open(dump).unwrap().into_file()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    pub fn config(&self) -> MariadbConfig {
        MariadbConfig {
            server: "127.0.0.1".into(),
            port: self.port,
            user: READER.into(),
            password_file: super::secret(self.temp.path(), "password", PASSWORD),
            databases: Vec::new(),
            tls: None,
            binlog_position: false,
            binlog: None,
            connect_within: Span(Duration::from_secs(30)),
            expect: MariadbExpect::default(),
        }
    }
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        self.kill();
    }
}
