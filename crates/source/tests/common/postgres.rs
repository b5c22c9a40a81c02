//! Debian's PostgreSQL on a port of its own, run as the user `postgres`, with its data in a temporary folder.

use std::{
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use kuramori_source::config::{Checkpoint, PostgresConfig, PostgresExpect, Span};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

pub const REPLICATOR: &str = "kuramori";
pub const PASSWORD: &str = "ひみつ-replication-1";

/// Debian keeps the server's programs out of PATH.
fn program(name: &str) -> PathBuf {
    let versions = fs_err::read_dir("/usr/lib/postgresql").expect("Debian's postgresql-15");
    let newest = versions.map(|v| v.unwrap().path()).max().unwrap();
    newest.join("bin").join(name)
}

fn id(flag: &str) -> u32 {
    let out = Command::new("id").args([flag, "postgres"]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim().parse().expect("the user postgres")
}

/// A command as the server's user.
pub fn as_postgres(name: &str) -> Command {
    let mut command = Command::new(program(name));
    command.uid(id("-u")).gid(id("-g")).stdin(Stdio::null()).env("LC_ALL", "C").current_dir("/tmp");
    command
}

pub fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {text}");
    text
}

pub struct Postgres {
    pub temp: TempDir,
    pub port: u16,
    server: Option<Child>,
}

impl Postgres {
    /// A new cluster.
    pub fn start(settings: &str) -> Self {
        Self::start_with(&[], settings)
    }

    /// A new cluster with more words for `initdb`.
    pub fn start_with(words: &[&str], settings: &str) -> Self {
        let mut postgres = Self::empty();
        run(as_postgres("initdb")
            .args(words)
            .args([
                "--no-sync",
                "--data-checksums",
                "--auth=trust",
                "--encoding=UTF8",
                "--username=postgres",
                "-D",
            ])
            .arg(postgres.data()));
        let at = postgres.data();
        let mut config = fs_err::read_to_string(at.join("postgresql.conf")).unwrap();
        config.push_str("\nfsync = off\nshared_buffers = 32MB\nmax_wal_size = 256MB\nwal_level = replica\n");
        config.push_str(settings);
        fs_err::write(at.join("postgresql.conf"), config).unwrap();
        let hba = "local all all trust\nhost all postgres 127.0.0.1/32 trust\n\
                   host replication trusted 127.0.0.1/32 trust\nhost replication old 127.0.0.1/32 md5\n\
                   hostssl replication plain 127.0.0.1/32 password\nhost replication kuramori 127.0.0.1/32 scram-sha-256\n";
        fs_err::write(at.join("pg_hba.conf"), hba).unwrap();
        postgres.serve(&[]);
        postgres.sql(
            "postgres",
            &format!(
                "CREATE ROLE {REPLICATOR} LOGIN REPLICATION PASSWORD '{PASSWORD}'; CREATE ROLE trusted LOGIN REPLICATION; \
                 CREATE ROLE plain LOGIN REPLICATION PASSWORD '{PASSWORD}'; \
                 SET password_encryption = md5; CREATE ROLE old LOGIN REPLICATION PASSWORD '{PASSWORD}'"
            ),
        );
        postgres
    }

    /// A folder for a restored cluster.
    pub fn empty() -> Self {
        let temp = TempDir::with_prefix("kuramori-pg-").unwrap();
        fs_err::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let postgres = Self { temp, port: super::free_port(), server: None };
        for folder in ["data", "socket", "space"] {
            let path = postgres.temp.path().join(folder);
            fs_err::create_dir_all(&path).unwrap();
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
            chown(&path, Some(id("-u")), Some(id("-g"))).unwrap();
        }
        postgres
    }

    pub fn data(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    pub fn serve(&mut self, options: &[String]) {
        let child = as_postgres("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-k"])
            .arg(self.temp.path().join("socket"))
            .args(options)
            .stdout(Stdio::null())
            .stderr(fs_err::File::create(self.temp.path().join("log")).unwrap().into_parts().0)
            .process_group(0)
            .spawn()
            .unwrap();
        self.server = Some(child);
        super::until("PostgreSQL", || {
            let log = fs_err::read_to_string(self.temp.path().join("log")).unwrap();
            let ended = self.server.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the server ended: {log}");
            log.contains("database system is ready to accept ")
        });
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.server.as_ref().unwrap().id()).unwrap()).unwrap()
    }

    pub fn sql(&self, database: &str, sql: &str) -> String {
        run(self.client("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]))
    }

    /// A client program, set up for this server.
    pub fn client(&self, name: &str) -> Command {
        let mut command = as_postgres(name);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres"]);
        command
    }

    pub fn config(&self) -> PostgresConfig {
        PostgresConfig {
            server: "127.0.0.1".into(),
            port: self.port,
            user: REPLICATOR.into(),
            password_file: Some(super::secret(self.temp.path(), "password", PASSWORD)),
            tls: None,
            checkpoint: Checkpoint::Fast,
            max_rate: None,
            hold_wal: true,
            wal: None,
            connect_within: Span(std::time::Duration::from_secs(30)),
            expect: PostgresExpect::default(),
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
            // A frozen server would not hear the signal; an immediate stop also ends all of its children.
            let _ = kill_process_group(pid, Signal::CONT);
            let _ = kill_process(pid, Signal::QUIT);
            server.wait().unwrap();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Gives a restored tree to the server's user.
pub fn own(path: &Path) {
    let done = Command::new("chown").args(["-R", "postgres:postgres"]).arg(path).status().unwrap();
    assert!(done.success());
}

/// PostgreSQL's own judgement of a restored tree.
pub fn verify(data: &Path) -> std::process::Output {
    as_postgres("pg_verifybackup").arg(data).output().unwrap()
}
