//! Studies back into a picture archive, through the binary, against a real Orthanc.

#[path = "../../../source/tests/common/orthanc.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the source's own tests")]
mod orthanc;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

use crate::support::{
    PROGRAM, Server,
    hospital::{self, Site, backup},
    lines,
};

fn until(what: &str, mut done: impl FnMut() -> bool) {
    hospital::until(what, || done().then_some(()));
}

fn digests(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let script = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -r sha256sum --";
    let out = Command::new("sh").arg("-c").arg(script).current_dir(root).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(|line| (line.as_bytes()[66..].to_vec(), line[..64].to_owned())).collect()
}

fn free_port() -> u16 {
    hospital::free_port()
}

fn secret(folder: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    fs_err::write(&path, format!("{text}\n")).unwrap();
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn one_study_alone_and_a_whole_archive_go_back_and_a_changed_picture_is_an_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(&dir.path().join("site"), "");
    site.init();
    let _server = Server::start(&site);
    let client = site.client();
    let pacs = orthanc::Orthanc::open();
    for study in 1..=3 {
        for instance in 1..=2 {
            pacs.store(&orthanc::dicom(study, 1, instance, 30_000));
        }
    }
    let mut source = serde_json::to_value(pacs.dimse()).unwrap();
    source["kind"] = json!("dicom");
    source["recheck"] = json!("1h");
    let entry = json!({ "id": "pacs", "source": source, "expect": { "changes_daily": false } });
    let _: Value = client.post("/v1/systems", &entry).unwrap();
    let run = backup(&client, "pacs");
    assert_eq!((run["state"].as_str(), run["facts"]["files"].as_u64()), (Some("complete"), Some(3)), "{run}");
    // With the engine's own memory of the first run: nothing changed, nothing is added; then one study.
    let run = backup(&client, "pacs");
    assert!(run["facts"]["added"].as_u64().unwrap() < 4000, "{run}");
    let truth = pacs.instances();

    let fresh = orthanc::Orthanc::open();
    let target = dir.path().join("archive.toml");
    let by = |config: &kuramori_source::config::DicomConfig| {
        let config = kuramori_source::Config::Dicom(config.clone());
        fs_err::write(&target, toml::to_string(&config).unwrap()).unwrap();
    };
    let give = |more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["--json", "restore", "studies", "pacs", "--socket"]).arg(site.config().socket);
        command.arg("--archive").arg(&target).arg("--to").arg(dir.path().join("work")).args(more);
        lines(&command.env_remove("SUDO_USER").stdin(Stdio::null()).output().unwrap())
    };
    by(&fresh.dimse());
    let (code, said) = give(&["--study", "2.25.2"]);
    assert_eq!((code, said.len()), (Some(130), 1), "without a yes nothing is sent: {said:?}");
    assert!(fresh.instances().is_empty());
    let (code, said) = give(&["--study", "2.25.2", "--yes"]);
    assert_eq!((code, &said[1]["given"]["identical"]), (Some(0), &json!(2)), "{said:?}");
    assert!(fresh.instances().iter().all(|(sop, _)| sop.starts_with("2.25.2.")));
    let (code, said) = give(&["--study", "2.25.99", "--yes"]);
    assert_eq!(code, Some(1), "{said:?}");
    by(&fresh.web());
    let (code, said) = give(&["--yes"]);
    let given = &said[1]["given"];
    assert_eq!(
        (code, &given["studies"], &given["identical"], &given["already"]),
        (Some(0), &json!(3), &json!(6), &json!(2)),
        "{said:?}"
    );
    let names = |of: Vec<(String, String)>| of.into_iter().map(|(sop, _)| sop).collect::<Vec<_>>();
    assert_eq!(names(fresh.instances()), names(truth));
    assert_eq!(fs_err::read_dir(dir.path().join("work")).unwrap().count(), 0, "nothing stays behind");

    // Another picture under an old name, in an archive whose list shows nothing of it: one more study makes this
    // one be read again, too, because it is looked at by the hour here.
    pacs.store(&orthanc::changed(3, 1, 1, 30_000, 5));
    pacs.store(&orthanc::dicom(3, 1, 9, 30_000));
    let run = backup(&client, "pacs");
    assert_eq!(run["facts"]["replaced"], 1, "{run}");
    let alarm = hospital::until("the alarm", || {
        let alarms: Vec<Value> = client.get("/v1/alarms").unwrap();
        alarms.into_iter().find(|alarm| alarm["finding"]["code"] == "judge.replaced")
    });
    assert_eq!(alarm["finding"]["system"], "pacs");
    // The archive that has the first one keeps it; the second one is told.
    let (code, said) = give(&["--yes"]);
    let given = &said[1]["given"];
    assert_eq!((code, &given["wrong_count"], &given["older"]), (Some(4), &json!(1), &json!(1)), "{said:?}");

    // Ctrl-C ends it while an archive that answers nothing is waited for.
    by(&fresh.dimse());
    kill_process_group(fresh.group(), Signal::STOP).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["--json", "restore", "studies", "pacs", "--yes", "--socket"]).arg(site.config().socket);
    command.arg("--archive").arg(&target).arg("--to").arg(dir.path().join("work"));
    let mut waiting =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // Its plan comes first, then it connects.
    let mut plan = String::new();
    BufReader::new(waiting.stdout.as_mut().unwrap()).read_line(&mut plan).unwrap();
    let sockets = format!("/proc/{}/net/tcp", waiting.id());
    let port = format!(":{:04X} 01 ", fresh.dimse().port);
    until("the connection", || fs_err::read_to_string(&sockets).unwrap().contains(&port));
    kill_process(Pid::from_child(&waiting), Signal::INT).unwrap();
    assert_eq!(waiting.wait().unwrap().code(), Some(130), "{plan}");
    kill_process_group(fresh.group(), Signal::CONT).unwrap();

    // One picture whose file the archive lost, for ever. What else is new is not read anew each night, and what is
    // changed in it is seen: the incomplete restore point is what the next one is compared with.
    pacs.store(&orthanc::dicom(4, 1, 1, 30_000));
    let lost = pacs.store(&orthanc::dicom(4, 1, 2, 30_000));
    pacs.lose(&lost);
    pacs.store(&orthanc::dicom(5, 1, 1, 3_000_000));
    let run = backup(&client, "pacs");
    assert_eq!(run["state"], "complete_with_errors", "{run}");
    assert!(run["facts"]["added"].as_u64().unwrap() > 3_000_000, "{run}");
    let run = backup(&client, "pacs");
    assert_eq!(
        (run["state"].as_str(), run["facts"]["replaced"].as_u64()),
        (Some("complete_with_errors"), Some(0)),
        "{run}"
    );
    assert!(run["facts"]["added"].as_u64().unwrap() < 100_000, "{run}");
    pacs.store(&orthanc::changed(5, 1, 1, 30_000, 5));
    pacs.store(&orthanc::dicom(5, 1, 9, 30_000));
    let run = backup(&client, "pacs");
    assert_eq!(
        (run["state"].as_str(), run["facts"]["replaced"].as_u64()),
        (Some("complete_with_errors"), Some(1)),
        "{run}"
    );
    let run = backup(&client, "pacs");
    assert_eq!(run["facts"]["replaced"], 0, "told once: {run}");
    assert!(run.to_string().contains("studies/2.25.4"), "{run}");
    // The file is found again: whole from now on.
    pacs.find(&lost);
    assert_eq!(backup(&client, "pacs")["state"], "complete");
}
