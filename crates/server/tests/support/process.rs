//! The server as a process of its own, started from the test's own program, so that it can be killed.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::process::{Child, Command, ExitStatus, Stdio};

use kuramori_server::client::Client;
use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::hospital::{Site, until};

const CONFIG: &str = "KURAMORI_TEST_SERVER_CONFIG";

/// Not a test: the server's process.
#[test]
#[ignore = "the server's own process"]
fn server_process() {
    let Some(config) = std::env::var_os(CONFIG) else { return };
    let config = kuramori_server::config::Config::load(Some(config.as_ref()), &[], &[]).unwrap();
    kuramori_server::run::run(config).unwrap();
}

pub(crate) struct Process(Child);

impl Process {
    /// Starts it and waits until it answers.
    pub(crate) fn start(site: &Site) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["process::server_process", "--exact", "--ignored", "--nocapture"])
            .env(CONFIG, &site.toml)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = Self(child);
        until("the server", || Client::new(&site.config().socket).ok()?.get::<Value>("/v1/status").ok());
        process
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends a signal and goes on.
    pub(crate) fn send(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn signal(mut self, signal: Signal) -> ExitStatus {
        self.send(signal);
        self.0.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
