//! Debian's PostgreSQL on a unix socket in a folder of its own, run by an unprivileged user.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its own part, and may stop")]

use std::{
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// Debian keeps the server's programs out of PATH.
fn program(name: &str) -> PathBuf {
    let versions = fs_err::read_dir("/usr/lib/postgresql").expect("Debian's postgresql-15");
    let newest = versions.map(|version| version.unwrap().path()).max().unwrap();
    newest.join("bin").join(name)
}

fn id(flag: &str) -> u32 {
    let out = Command::new("id").args([flag, "postgres"]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim().parse().expect("the user postgres")
}

/// A command as the server's user; as ourselves where we are not root.
fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    if rustix::process::geteuid().is_root() {
        command.uid(id("-u")).gid(id("-g"));
    }
    command.stdin(Stdio::null()).env("LC_ALL", "C.UTF-8").current_dir("/tmp");
    command
}

pub(crate) struct Postgres {
    at: PathBuf,
    server: Option<Child>,
}

impl Postgres {
    /// A new cluster in a folder below `root`.
    pub(crate) fn start(root: &Path) -> Self {
        let at = root.join("postgres");
        fs_err::create_dir_all(&at).unwrap();
        let mut above = root.to_owned();
        while above != std::env::temp_dir() && above.parent().is_some() {
            let mode = fs_err::metadata(&above).unwrap().permissions().mode();
            fs_err::set_permissions(&above, std::fs::Permissions::from_mode(mode | 0o055)).unwrap();
            above.pop();
        }
        if rustix::process::geteuid().is_root() {
            chown(&at, Some(id("-u")), Some(id("-g"))).unwrap();
        }
        // Names are sorted as a Japanese hospital's system might do it, to show that nothing rests on it.
        let done = command("initdb")
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--username=kuramori", "-D"])
            .arg(at.join("data"))
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let mut postgres = Self { at, server: None };
        postgres.serve();
        postgres
    }

    /// Starts the server; the data are as it left them.
    pub(crate) fn serve(&mut self) {
        let log = self.at.join("log");
        let server = command("postgres")
            .arg("-D")
            .arg(self.at.join("data"))
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-k"])
            .arg(&self.at)
            .stdout(Stdio::null())
            .stderr(fs_err::File::create(&log).unwrap().into_parts().0)
            .process_group(0)
            .spawn()
            .unwrap();
        self.server = Some(server);
        loop {
            let text = fs_err::read_to_string(&log).unwrap();
            let ended = self.server.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "PostgreSQL ended: {text}");
            if text.contains("database system is ready to accept connections") {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Ends the server at once, as a crash does; nothing of it stays.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = kill_process(Pid::from_child(&server), Signal::QUIT);
            server.wait().unwrap();
        }
    }

    /// The URL of a database.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://kuramori@localhost/{database}?host={}", self.at.display())
    }

    /// Runs SQL as an administrator.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let out = command("psql")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "kuramori", "-h"])
            .arg(&self.at)
            .args(["-d", database, "-c", sql])
            .output()
            .unwrap();
        assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}
