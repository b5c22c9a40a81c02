//! Restores of registered systems through the binary, against a real share, a real server and its files.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its hospital may stop")]

mod support;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use kuramori_catalog::{Catalog, Place, VaultPoint, Verdict};
use kuramori_model::{
    clock::SystemClock,
    ids::{Sequence, SystemId},
};
use serde_json::{Value, json};
use support::{
    PROGRAM, Server,
    hospital::{Share, Site, backup, same, until},
    lines, text,
};

struct Bench {
    dir: tempfile::TempDir,
    share: Share,
    site: Site,
}

impl Bench {
    /// A share with a backup of it.
    fn new(files: u64, bytes: usize) -> (Self, Server) {
        let dir = tempfile::tempdir().unwrap();
        let share = Share::start(dir.path());
        share.fill(11, files, bytes);
        let site = Site::new(&dir.path().join("site"), "");
        site.init();
        let server = Server::start(&site);
        let _: Value = site.client().post("/v1/systems", &share.entry("ophthalmology")).unwrap();
        let run = backup(&site.client(), "ophthalmology");
        assert_eq!(run["state"], "complete", "{run}");
        (Self { dir, share, site }, server)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["--json", "restore", verb, "ophthalmology", "--socket"]);
        command.arg(self.site.config().socket).args(arguments).env_remove("SUDO_USER");
        command.stdin(Stdio::null());
        command
    }

    fn restore(&self, verb: &str, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
        lines(&self.command(verb, arguments).output().unwrap())
    }
}

#[test]
fn a_plan_is_shown_first_and_what_stood_there_is_kept() {
    let (bench, _server) = Bench::new(6, 70_000);
    let target = bench.path("restored");
    fs_err::create_dir(&target).unwrap();
    fs_err::write(target.join("encrypted.lock"), "give us money").unwrap();
    let to = ["--to", text(&target)];

    let (code, said) = bench.restore("plan", &to);
    assert_eq!(code, Some(0), "{said:?}");
    let plan = &said[0]["plan"];
    assert_eq!((&plan["files"], &plan["bytes"]), (&json!(6), &json!(420_000)), "{plan}");
    assert_eq!(plan["choice"]["why"], json!(["newest-not-inspected", "primary-is-nearest"]));
    assert_eq!(plan["target"]["standing"]["state"], "occupied");
    assert_eq!(plan["expected"], Value::Null, "nothing was measured yet: {plan}");
    for quiet in [vec!["--dry-run"], vec![]] {
        // Without --yes and without a terminal nothing happens.
        let (code, said) = bench.restore("run", &[&to[..], &quiet].concat());
        assert_eq!(code, Some(if quiet.is_empty() { 130 } else { 0 }), "{said:?}");
        assert!(target.join("encrypted.lock").exists() && fs_err::read_dir(&target).unwrap().count() == 1);
    }

    let (code, said) = bench.restore("run", &["--to", text(&target), "--yes", "--verify", "--by", "中山"]);
    assert_eq!(code, Some(0), "{said:?}");
    let done = &said[1]["done"];
    assert!(same(&bench.share.folder, &target));
    let kept = PathBuf::from(done["kept"].as_str().unwrap());
    assert_eq!(fs_err::read_to_string(kept.join("encrypted.lock")).unwrap(), "give us money");
    assert_eq!(done["verified"]["files"], 6, "{done}");

    // A file alone, and now there is a measurement to expect from.
    let alone = bench.path("alone");
    let (code, said) = bench.restore("run", &["--to", text(&alone), "--file", "検査-3.dat", "--yes"]);
    assert_eq!(code, Some(0), "{said:?}");
    assert!(said[0]["plan"]["expected"]["seconds"].as_f64().unwrap() > 0.0, "{said:?}");
    let one = fs_err::read(alone.join("検査-3.dat")).unwrap();
    assert_eq!(one, fs_err::read(bench.share.folder.join("検査-3.dat")).unwrap());
    assert_eq!(fs_err::read_dir(&alone).unwrap().count(), 1);

    let events: Vec<Value> = bench.site.client().get("/v1/events").unwrap();
    let of = |kind: &str| events.iter().filter(|event| event["kind"] == kind).count();
    assert_eq!((of("restore.planned"), of("restore.begun"), of("restore.ended")), (2, 3, 2), "{events:?}");
    assert!(events.iter().any(|event| event["kind"] == "restore.ended" && event["actor"] == "中山"));
}

#[test]
fn a_killed_restore_goes_on_where_it_stopped() {
    let (bench, _server) = Bench::new(120, 1 << 20);
    let target = bench.path("restored");
    let mut child = bench
        .command("run", &["--to", text(&target), "--yes", "--workers", "1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let staging = until("staging", || {
        fs_err::read_dir(bench.dir.path()).unwrap().flatten().map(|entry| entry.path()).find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".restored.restore-"))
        })
    });
    until("some files", || (fs_err::read_dir(&staging).unwrap().count() >= 10).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!target.exists(), "killed before it was whole");
    // Somebody damages a piece and adds bytes to another file meanwhile: neither may come into the target.
    let some: Vec<PathBuf> =
        fs_err::read_dir(&staging).unwrap().flatten().map(|entry| entry.path()).collect();
    fs_err::write(&some[0], vec![7; 1 << 20]).unwrap();
    fs_err::write(&some[1], vec![7; 3 << 20]).unwrap();

    let (code, said) = bench.restore("run", &["--to", text(&target), "--yes"]);
    assert_eq!(code, Some(0), "{said:?}");
    let done = &said[1]["done"];
    assert_eq!(done["resumed"], true);
    assert!(done["found_there"].as_u64().unwrap() > 1 << 20, "{done}");
    assert!(same(&bench.share.folder, &target));
    assert!(!staging.exists());
}

#[test]
fn a_suspect_point_needs_a_reason_and_a_lost_primary_leads_to_the_vault() {
    let (bench, server) = Bench::new(3, 5000);
    let first: Vec<Value> = bench.site.client().get("/v1/points?system=ophthalmology").unwrap();
    bench.share.fill(12, 3, 6000);
    assert_eq!(backup(&bench.site.client(), "ophthalmology")["state"], "complete");
    let points: Vec<Value> = bench.site.client().get("/v1/points?system=ophthalmology").unwrap();
    assert_eq!((first.len(), points.len()), (1, 2));
    drop(server);

    // The inspection suspects the newer one; the vault holds both.
    let disk = bench.path("disk");
    assert!(
        Command::new("cp")
            .arg("-a")
            .arg(bench.site.repository("ophthalmology"))
            .arg(&disk)
            .status()
            .unwrap()
            .success()
    );
    let sequence = Sequence(points[0]["sequence"].as_u64().unwrap());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let database = bench.site.config().data.join("catalog.db");
        let catalog = Catalog::open(&database, Arc::new(SystemClock)).await.unwrap();
        catalog.set_verdict(Place::Primary, sequence, Verdict::Suspect).await.unwrap();
        for (number, point) in points.iter().rev().enumerate() {
            let new = VaultPoint {
                system: SystemId::new("ophthalmology").unwrap(),
                snapshot: point["snapshot"].as_str().unwrap().to_owned(),
                sequence: Sequence(number as u64 + 1),
                received: point["received"].as_str().unwrap().parse().unwrap(),
                complete: true,
                verdict: if number == 0 { Verdict::Clean } else { Verdict::Unknown },
                bytes: 0,
                files: 3,
                drilled: None,
            };
            catalog.record_vault_point(&new).await.unwrap();
        }
        catalog.close().await;
    });

    let direct = ["--direct", text(&bench.site.toml)];
    let (target, other) = (bench.path("restored"), bench.path("other"));
    let (code, said) = bench.restore("plan", &[&direct[..], &["--to", text(&target)]].concat());
    assert_eq!(code, Some(0), "{said:?}");
    let choice = &said[0]["plan"]["choice"];
    assert_eq!(choice["point"]["sequence"], first[0]["sequence"], "the older, clean one: {choice}");
    assert_eq!(choice["why"], json!(["newest-clean", "primary-is-nearest"]));
    assert_eq!(choice["passed_over"][0]["against"], "suspect");

    let named = sequence.0.to_string();
    let ask = [&direct[..], &["--to", text(&target), "--yes", "--point", &named]].concat();
    let (code, said) = bench.restore("run", &ask);
    assert_eq!((code, &said[0]["code"]), (Some(5), &json!("drill.needs-reason")), "{said:?}");
    assert!(!target.exists());
    let (code, said) = bench.restore("run", &[&ask[..], &["--reason", "比較のため"]].concat());
    assert_eq!(code, Some(0), "{said:?}");
    assert!(same(&bench.share.folder, &target));

    // The attacker removes the primary's snapshots: only the vault's copy is left.
    fs_err::remove_dir_all(bench.site.repository("ophthalmology").join("snapshots")).unwrap();
    let to = [&direct[..], &["--to", text(&other), "--yes"]].concat();
    let (code, said) = bench.restore("run", &to);
    assert_eq!((code, &said[0]["code"]), (Some(1), &json!("drill.not-at-hand")), "{said:?}");
    let (code, said) = bench.restore("run", &[&to[..], &["--from", text(&disk)]].concat());
    assert_eq!(code, Some(0), "{said:?}");
    assert_eq!(said[0]["plan"]["choice"]["point"]["copy"], "vault");
    assert_eq!(fs_err::metadata(other.join("検査-0.dat")).unwrap().len(), 5000, "the clean one");
    // Both are in the history with the reason.
    let server = Server::start(&bench.site);
    let events: Vec<Value> = bench.site.client().get("/v1/events").unwrap();
    assert!(
        events
            .iter()
            .any(|event| event["kind"] == "restore.begun" && event["data"]["reason"] == "比較のため")
    );
    drop(server);
}
