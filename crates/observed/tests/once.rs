//! The observer's program on its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

use std::{
    net::TcpListener,
    process::{Command, Output},
};

use kuramori_model::gate::Seen;

fn once(lines: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("observed.toml");
    fs_err::write(&config, lines).unwrap();
    Command::new(env!("CARGO_BIN_EXE_kuramori-observed"))
        .arg("--once")
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap()
}

#[test]
fn it_says_what_answers_and_what_it_cannot_see() {
    let open = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let never = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = |interface: &str, never: &str| {
        format!(
            "socket = \"/nowhere\"\ntarget = \"{open}\"\ninterface = \"{interface}\"\nnever = [{never}]\n"
        )
    };
    let look = |text: String| serde_json::from_slice::<Seen>(&once(&text).stdout).unwrap();
    let seen = look(config("lo", ""));
    assert!(seen.path_open && seen.ok && !seen.unknown, "an open path is for the gate to judge: {seen:?}");
    let seen = look(config("lo", &format!("\"{never}\"")));
    assert!(!seen.ok && seen.unapproved == [never.to_string()], "{seen:?}");
    let also = format!("[[also]]\naddress = \"{never}\"\nnever = true\n");
    let seen = look(config("lo", "") + &also);
    assert!(!seen.ok && seen.unapproved == [never.to_string()], "{seen:?}");
    let also = format!("[[also]]\naddress = \"{never}\"\nnever = false\nnamespace = \"/no/such\"\n");
    let seen = look(config("lo", "") + &also);
    assert!(seen.unknown && !seen.ok, "a place that cannot be entered is unknown: {seen:?}");
    let seen = look(config("nosuch0", ""));
    assert!(seen.unknown && seen.path_open && !seen.ok, "{seen:?}");
}

#[test]
fn a_wrong_configuration_names_its_key() {
    let good = "socket = \"/nowhere\"\ntarget = \"127.0.0.1:1\"\ninterface = \"lo\"\n";
    for (line, named) in [
        ("intervall_ms = 500", "intervall_ms"),
        ("interval_ms = 5000", "interval_ms"),
        ("never = [\"127.0.0.1:1\"]", "never"),
        ("[[also]]\naddress = \"127.0.0.1:1\"\nnever = true\nfrom = \"x\"", "from"),
    ] {
        let output = once(&format!("{good}{line}\n"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(named), "{said}");
    }
}
