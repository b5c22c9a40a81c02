//! A server of ours as a process, and what the binary said.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]
#![allow(dead_code, reason = "each test file uses its own part")]

#[path = "../../../server/tests/support/hospital.rs"]
pub(crate) mod hospital;

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use hospital::{Site, until};
use serde_json::Value;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_kuramori");

/// A server of ours as a process; ended when it goes out of sight.
pub(crate) struct Server {
    child: Child,
}

impl Server {
    pub(crate) fn start(site: &Site) -> Self {
        let log = fs_err::File::create(site.root.join("server.log")).unwrap();
        let child = Command::new(PROGRAM)
            .args(["server", "--config"])
            .arg(&site.toml)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.into_parts().0)
            .spawn()
            .unwrap();
        let socket = site.config().socket;
        until("the server", || std::os::unix::net::UnixStream::connect(&socket).ok());
        Self { child }
    }
}

impl Server {
    /// As a power cut does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Exit code, and every JSON line on both outputs.
pub(crate) fn lines(output: &Output) -> (Option<i32>, Vec<Value>) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8(text).unwrap();
    let values = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    (output.status.code(), values)
}

/// A path as text.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
