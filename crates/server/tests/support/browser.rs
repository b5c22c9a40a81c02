//! Debian's chromium without a screen, with a profile of its own.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

use std::{net::SocketAddr, path::Path, process::Command};

/// Runs chromium on the console's page; `None` if it is not installed.
pub(crate) fn chromium(address: SocketAddr, path: &str, profile: &Path, extra: &[&str]) -> Option<String> {
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
    ]);
    command.arg(format!("--user-data-dir={}", profile.display()));
    command.args(extra).arg(format!("http://{address}{path}"));
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("chromium does not start: {error}"),
    };
    assert!(output.status.success(), "chromium failed: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
