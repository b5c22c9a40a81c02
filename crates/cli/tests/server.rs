//! The server's verbs through the binary: configuration and log, in both languages and as JSON.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

#[path = "../../source/tests/common/port.rs"]
mod port;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use port::free_port;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn kuramori(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kuramori"))
        .args(arguments)
        .env_remove("KURAMORI_SERVER_DATA")
        .env("LANG", "C.UTF-8")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A configuration with free ports in a folder of its own.
fn site(folder: &Path, more: &str) -> PathBuf {
    let file = folder.join("server.toml");
    let text = format!(
        "hospital = \"湊総合病院\"\n[store]\ndata = \"{}\"\n[console]\nlisten = \"127.0.0.1:{}\"\n\
         [serve]\nlisten = \"127.0.0.1:{}\"\n{more}",
        folder.join("data").display(),
        free_port(),
        free_port()
    );
    fs_err::write(&file, text).unwrap();
    file
}

#[test]
fn every_value_is_shown_with_its_origin_and_a_mistake_with_its_line() {
    let temp = tempfile::tempdir().unwrap();
    let file = site(temp.path(), "[prune]\nhours = \"09:00-17:00\"\n");
    let at = file.display().to_string();
    let checked = kuramori(&["--json", "config", "check", "--config", &at]);
    assert!(checked.status.success() && json(&checked)["valid"] == true, "{checked:?}");
    let shown = json(&kuramori(&[
        "--json",
        "config",
        "show",
        "--origin",
        "--config",
        &at,
        "--set",
        "schedule.jobs=3",
    ]));
    let value = |key: &str| {
        let all = shown["values"].as_array().unwrap();
        let row = all.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("{key} in {shown}"));
        (row["value"].as_str().unwrap().to_owned(), row["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(value("prune.hours"), ("\"09:00-17:00\"".to_owned(), at.clone()));
    assert_eq!(value("schedule.jobs"), ("3".to_owned(), "--set".to_owned()));
    assert_eq!(value("schedule.lease"), ("\"1min\"".to_owned(), "default".to_owned()));
    let lines = text(&kuramori(&["config", "show", "--origin", "--config", &at]).stdout);
    assert!(lines.contains("prune.repack_share") && lines.contains("# default"), "{lines}");

    fs_err::write(&file, "[store]\ndata = \"/x\"\n[prune]\nhour = \"09:00-17:00\"\n").unwrap();
    let wrong = kuramori(&["--lang", "ja", "config", "check", "--config", &at]);
    let said = text(&wrong.stderr);
    assert_eq!(wrong.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("{at}:4")) && said.contains("`hours`") && said.contains("エラー"),
        "{said}"
    );
    let secret = "postgres://kuramori:geheim@db/catalog";
    fs_err::write(&file, format!("[store]\ndata = \"/x\"\ncatalog = \"{secret}\"\n")).unwrap();
    let wrong = kuramori(&["config", "check", "--config", &at]);
    let said = text(&wrong.stderr);
    assert!(wrong.status.code() == Some(1) && said.contains("catalog.bad-url"), "{said}");
    assert!(!said.contains("geheim"), "{said}");
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_a_server_did_is_proven_and_a_change_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let at = site(temp.path(), "").display().to_string();
    let recovery = temp.path().join("recovery.txt").display().to_string();
    let init = kuramori(&["server", "--config", &at, "init", "--recovery-out", &recovery]);
    assert!(init.status.success(), "{init:?}");
    let early = kuramori(&["--json", "audit", "verify", "--config", &at]);
    assert_eq!(early.status.code(), Some(1), "no server ever ran here: {early:?}");
    let mut server = Server(
        Command::new(env!("CARGO_BIN_EXE_kuramori"))
            .args(["server", "--config", &at])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let socket = temp.path().join("data/admin.sock").display().to_string();
    let mut tries = 0;
    while !kuramori(&["--json", "server", "status", "--socket", &socket]).stdout.starts_with(b"{") {
        tries += 1;
        assert!(tries < 600 && server.0.try_wait().unwrap().is_none(), "the server does not answer");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let added = kuramori(&["system", "add", "--id", "pacs", "--socket", &socket]);
    assert!(added.status.success(), "{added:?}");
    kill_process(Pid::from_child(&server.0), Signal::TERM).unwrap();
    server.0.wait().unwrap();

    let proven = kuramori(&["--json", "audit", "verify", "--config", &at]);
    let verdict = json(&proven);
    assert!(proven.status.success() && verdict["clean"] == true, "{verdict}");
    assert!(verdict["verification"]["entries"].as_u64().unwrap() >= 2, "{verdict}");
    let exported = text(&kuramori(&["audit", "export", "--config", &at]).stdout);
    let entries: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = entries.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert!(kinds[0] == "server.started" && kinds.contains(&"system.added"), "{kinds:?}");
    assert!(entries.iter().any(|entry| entry["data"]["system"] == "pacs"), "{exported}");

    let log = temp.path().join("data/audit/log");
    let honest = fs_err::read_to_string(&log).unwrap();
    fs_err::write(&log, honest.replacen("system.added", "system.edited", 1)).unwrap();
    let found = kuramori(&["--lang", "ja", "audit", "verify", "--config", &at]);
    assert_eq!(found.status.code(), Some(4), "{found:?}");
    assert!(text(&found.stdout).contains("書き換えられた記録"), "{found:?}");
    let key = verdict["key"].as_str().unwrap();
    fs_err::write(&log, honest).unwrap();
    let folder = temp.path().join("data/audit").display().to_string();
    let elsewhere = kuramori(&["--json", "audit", "verify", &folder, "--key", key]);
    assert!(elsewhere.status.success(), "with nothing but the public key: {elsewhere:?}");
}
