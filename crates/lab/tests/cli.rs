//! The lab's command line, through the binary.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::process::Output;

use common::{Stage, program};
use serde_json::Value;

fn run(stage: &Stage, arguments: &[&str]) -> Output {
    let root = stage.root();
    std::process::Command::new(program())
        .args(["--root", &root.to_string_lossy()])
        .args(arguments)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn the_help_names_every_verb() {
    let help = std::process::Command::new(program()).arg("--help").output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    for verb in [
        "needs", "up", "down", "status", "attack", "cut", "witness", "probe", "exec", "dump", "manifest",
        "compare", "mails",
    ] {
        assert!(text.contains(&format!("\n  {verb} ")), "{verb} is missing in {text}");
    }
}

#[test]
fn a_lab_lives_through_its_verbs() {
    let stage = Stage::new('p');
    let none = run(&stage, &["--json", "status"]);
    assert_eq!((none.status.code(), json(&none)["error"]["code"].as_str()), (Some(1), Some("lab.not-up")));
    let up = run(
        &stage,
        &["--json", "up", "--small", "--prefix", &stage.prefix, "--only", "ophthalmology,witness"],
    );
    assert_eq!(up.status.code(), Some(0), "{up:?}");
    assert_eq!(
        (json(&up)["port_up"].as_bool(), json(&up)["prefix"].as_str()),
        (Some(false), Some(&*stage.prefix))
    );
    let again = run(&stage, &["up", "--small", "--prefix", &stage.prefix]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("hint: take it down"), "{again:?}");

    let exec = run(&stage, &["exec", "bil", "--", "sh", "-c", "ip -br addr show eth0; exit 7"]);
    assert!(String::from_utf8_lossy(&exec.stdout).contains("10.77.2.2/24"));
    assert_eq!(exec.status.code(), Some(7));

    let manifest = run(&stage, &["--json", "manifest", "night0"]);
    assert_eq!(json(&manifest)["files"], 402);
    let share = stage.root().join("oph/dump").to_string_lossy().into_owned();
    let same = run(&stage, &["--json", "compare", "night0", "ophthalmology", &share]);
    assert_eq!((same.status.code(), json(&same)["identical"].as_bool()), (Some(0), Some(true)));
    let dump = run(&stage, &["--json", "dump", "1", "--spoil", "empty"]);
    assert_eq!(json(&dump)["files"], 0);
    let differs = run(&stage, &["compare", "night0", "ophthalmology", &share]);
    assert_eq!(differs.status.code(), Some(4), "{differs:?}");

    assert_eq!(run(&stage, &["cut", "vlt", "--restore"]).status.code(), Some(0));
    let open = run(&stage, &["--json", "probe", "--from", "srv", "--ports", "50"]);
    assert_eq!(
        (json(&open)["reached"].as_bool(), json(&open)["tcp"]["accepted"].as_u64()),
        (Some(true), Some(50))
    );
    assert_eq!(json(&run(&stage, &["--json", "witness"]))["contacts"].as_u64().map(|n| n >= 50), Some(true));

    let plan = run(&stage, &["attack"]);
    assert_eq!(plan.status.code(), Some(5), "without --yes only the plan is shown: {plan:?}");
    assert!(stage.root().join("oph/dump").exists());
    let down = run(&stage, &["--json", "down", "--remove"]);
    assert_eq!(
        (down.status.code(), json(&down)["differences"].as_array().map(Vec::len)),
        (Some(0), Some(0)),
        "{down:?}"
    );
    assert!(!stage.root().exists());
}
