//! Drills, the runbook and the one-line answer through the binary, on a real share and a real server.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its hospital may stop")]

mod support;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use support::{
    PROGRAM, Server,
    hospital::{Share, Site, backup},
    lines, text,
};

struct Bench {
    dir: tempfile::TempDir,
    site: Site,
}

impl Bench {
    fn say(&self, words: &[&str]) -> (Option<i32>, Vec<Value>) {
        let mut command = Command::new(PROGRAM);
        command.arg("--json").args(words).arg("--socket").arg(self.site.config().socket);
        lines(&command.env_remove("SUDO_USER").stdin(Stdio::null()).output().unwrap())
    }

    fn print(&self, words: &[&str]) -> String {
        let mut command = Command::new(PROGRAM);
        command.args(words).arg("--socket").arg(self.site.config().socket);
        String::from_utf8(command.stdin(Stdio::null()).output().unwrap().stdout).unwrap()
    }

    fn alarms(&self) -> Vec<String> {
        let alarms: Vec<Value> = self.site.client().post("/v1/judge", &json!({})).unwrap();
        alarms.iter().map(|alarm| alarm["finding"]["code"].as_str().unwrap().to_owned()).collect()
    }
}

/// The largest file below a folder.
fn largest(folder: PathBuf) -> PathBuf {
    let (mut found, mut open) = ((0, PathBuf::new()), vec![folder]);
    while let Some(folder) = open.pop() {
        for entry in fs_err::read_dir(folder).unwrap().flatten() {
            let about = entry.metadata().unwrap();
            if about.is_dir() {
                open.push(entry.path());
            } else if about.len() > found.0 {
                found = (about.len(), entry.path());
            }
        }
    }
    found.1
}

#[test]
fn a_drill_is_recorded_with_its_page_and_a_failed_one_is_an_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let share = Share::start(dir.path());
    share.fill(5, 4, 200_000);
    let site = Site::new(&dir.path().join("site"), "");
    site.init();
    let _server = Server::start(&site);
    let _: Value = site.client().post("/v1/systems", &share.entry("ophthalmology")).unwrap();
    assert_eq!(backup(&site.client(), "ophthalmology")["state"], "complete");
    let bench = Bench { dir, site };

    let answer = bench.print(&["--lang", "en", "drill", "list"]);
    assert!(answer.starts_with("If everything were lost now: nothing could come back"), "{answer}");

    let profile = bench.dir.path().join("profile.toml");
    fs_err::write(&profile, "must_exist = [\"検査-0.dat\"]\n[service]\nkind = \"share\"\n").unwrap();
    let (code, said) = bench.say(&["drill", "profile", "ophthalmology", "--set", text(&profile)]);
    assert_eq!((code, &said[0]["every_days"]), (Some(0), &json!(7)), "{said:?}");
    fs_err::write(&profile, "must_exist = [\"../../etc/passwd\"]\n").unwrap();
    assert_eq!(bench.say(&["drill", "profile", "ophthalmology", "--set", text(&profile)]).0, Some(1));

    let (code, said) = bench.say(&["drill", "run", "ophthalmology", "--by", "中山"]);
    assert_eq!(code, Some(0), "{said:#?}");
    let record = &said[0]["record"];
    let names: Vec<&str> =
        record["probes"].as_array().unwrap().iter().map(|probe| probe["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["manifest", "recorded", "samba", "samba-read", "must_exist"], "{record:#}");
    assert_eq!((&record["by"], &record["isolation"]["interfaces"]), (&json!("中山"), &json!(["lo"])));
    let number = said[0]["number"].as_u64().unwrap();
    for language in ["ja", "en"] {
        let page = bench.site.config().data.join(format!("drills/drill-{number}.{language}.html"));
        assert!(fs_err::read_to_string(page).unwrap().contains("検査-"), "{language}");
    }
    let points: Vec<Value> = bench.site.client().get("/v1/points?system=ophthalmology").unwrap();
    assert!(points[0]["drilled"].is_string(), "the point is drilled: {points:?}");
    assert!(bench.alarms().iter().all(|code| !code.starts_with("drill.")));
    let status: Value = bench.site.client().get("/v1/status").unwrap();
    assert_eq!(status["systems"][0]["drill"]["passed"], true);

    // The share's disk at the primary loses a byte: the next drill fails, and that is an alarm.
    let pack = largest(bench.site.repository("ophthalmology").join("data"));
    let mut bytes = fs_err::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs_err::remove_file(&pack).unwrap();
    fs_err::write(&pack, bytes).unwrap();
    let (code, said) = bench.say(&["drill", "run", "ophthalmology"]);
    assert_eq!(code, Some(4), "{said:#?}");
    assert!(bench.alarms().contains(&"drill.failed".to_owned()));
    let html = bench.dir.path().join("page.html");
    let shown = bench.print(&[
        "--lang",
        "ja",
        "drill",
        "show",
        &format!("drill-{}", said[0]["number"]),
        "--html",
        text(&html),
    ]);
    assert!(shown.contains("稼働を確認できませんでした") && shown.contains("✕"), "{shown}");
    assert!(fs_err::read_to_string(&html).unwrap().starts_with("<!DOCTYPE html>"));
    let left: Vec<_> = fs_err::read_dir(bench.dir.path().join("site/data-drill"))
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(left, ["lock"]);

    // The yearly exercise as people write it down.
    let record = bench.dir.path().join("exercise.toml");
    let example = Command::new(PROGRAM).args(["drill", "record", "--example"]).output().unwrap();
    fs_err::write(&record, example.stdout).unwrap();
    let (code, said) = bench.say(&["drill", "record", text(&record)]);
    assert_eq!(code, Some(0), "{said:?}");
    let listed = bench.print(&["--lang", "ja", "drill", "record"]);
    assert!(listed.contains("未承認") && listed.starts_with("2026-11-20"), "{listed}");
    fs_err::write(&record, "date = 2026-01-01\n").unwrap();
    assert_eq!(bench.say(&["drill", "record", text(&record)]).0, Some(1));

    // The runbook: on the screen, to print, and in the copy that the vault pulls.
    let out = bench.dir.path().join("runbook.html");
    let said = bench.print(&["--lang", "ja", "runbook", "print", "--out", text(&out)]);
    assert!(said.contains("戻せません"), "{said}");
    let html = fs_err::read_to_string(&out).unwrap();
    for wanted in ["復旧順序", "鍵のありか", "眼科", "不合格"] {
        assert!(html.contains(wanted), "{wanted}");
    }
    let _: Value = bench.site.client().post("/v1/export", &json!({})).unwrap();
    let listed = Command::new("restic")
        .args(["--no-cache", "-r"])
        .arg(bench.site.repository("_control"))
        .args(["ls", "latest"])
        .env("RESTIC_PASSWORD", bench.site.recovered_password("_control"))
        .output()
        .unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for file in ["/runbook/runbook.ja.html", "/runbook/runbook.en.txt", "/wraps/ophthalmology/recovery.age"] {
        assert!(listed.contains(file), "{file}: {listed}");
    }
}
