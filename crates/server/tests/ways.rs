//! Further ways in, each from the register over the server's own job to a restore point that stock restic gives
//! back: SFTP, MariaDB, a declared command, and a command before and after.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

#[path = "support/hospital.rs"]
mod hospital;
#[path = "../../source/tests/common/mariadb.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the source's own tests")]
mod mariadb;
#[path = "../../source/tests/common/orthanc.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the source's own tests")]
mod orthanc;
#[path = "../../source/tests/common/sshd.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the source's own tests")]
mod sshd;

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use hospital::{Site, backup, free_port, restic, same};
use kuramori_server::run;
use serde_json::{Value, json};

fn digests(root: &Path) -> std::collections::BTreeMap<Vec<u8>, String> {
    let script = "find . -type f | LC_ALL=C sort | xargs -r sha256sum --";
    let out = std::process::Command::new("sh").arg("-c").arg(script).current_dir(root).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(|line| (line.as_bytes()[66..].to_vec(), line[..64].to_owned())).collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    hospital::until(what, || done().then_some(()));
}

fn secret(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs_err::write(&path, format!("{text}\n")).unwrap();
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_mariadb_and_declared_commands_become_restore_points_that_restic_gives_back() {
    let temp = tempfile::tempdir().unwrap();
    let site = Site::new(&temp.path().join("site"), "");
    site.init();
    let running = run::start(site.config()).await.unwrap();
    let work = move || {
        let client = site.client();
        let back = |system: &str| {
            let target = temp.path().join("restored").join(system);
            let repository = site.repository(system).display().to_string();
            let password = site.recovered_password(system);
            restic(&repository, &password, &[], &["check", "--read-data"]);
            restic(
                &repository,
                &password,
                &[],
                &["restore", "latest", "--target", &target.display().to_string()],
            );
            target
        };
        let add = |id: &str, source: Value| {
            client.post::<Value>("/v1/systems", &json!({ "id": id, "source": source })).unwrap()
        };
        let taken = |id: &str| {
            let run = backup(&client, id);
            assert_eq!(run["state"], "complete", "{run}");
            run
        };

        let sshd = sshd::Sshd::start();
        for n in 0..30 {
            fs_err::write(sshd.dump().join(format!("検査-{n}")), vec![n; 10_000]).unwrap();
        }
        let mut source = serde_json::to_value(sshd.config()).unwrap();
        source["kind"] = json!("sftp");
        add("lab", source);
        let run = taken("lab");
        assert_eq!(run["facts"]["files"], 30);
        assert!(same(&back("lab"), &sshd.dump()));
        fs_err::write(sshd.dump().join("検査-3"), b"new").unwrap();
        let run = taken("lab");
        assert!(run["facts"]["added"].as_u64().unwrap() < 20_000, "only what is new is stored: {run}");

        let server = mariadb::Mariadb::start(true);
        server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, x TEXT); INSERT INTO d.t VALUES (1, '薬')");
        let mut source = serde_json::to_value(server.config()).unwrap();
        source["kind"] = json!("mariadb");
        add("pharmacy", source);
        let run = taken("pharmacy");
        assert!(run["facts"]["identity"].as_str().unwrap().contains("/7/"), "{run}");
        let dump = back("pharmacy").join("dump.sql");
        server.sql("DROP DATABASE d");
        server.load(&dump);
        assert_eq!(server.sql("SELECT x FROM d.t"), "薬");

        let log = temp.path().join("order");
        let declared = temp.path().join("commands.toml");
        let text = format!(
            "[command.ward]\nrun = [\"sh\", \"-c\", \"echo run >> {0}; seq 1 1000; echo end\"]\nend = \"end\"\n\
             before = [\"sh\", \"-c\", \"echo before >> {0}\"]\nafter = [\"sh\", \"-c\", \"echo after >> {0}\"]\n\
             [command.broken]\nrun = [\"sh\", \"-c\", \"seq 1 1000; exit 9\"]\n",
            log.display()
        );
        fs_err::write(&declared, text).unwrap();
        let inner = json!({ "kind": "command", "server": "ward", "name": "ward", "file": "ward.txt", "declared_in": declared });
        add("ward", json!({ "kind": "around", "name": "ward", "declared_in": declared, "source": inner }));
        taken("ward");
        assert_eq!(fs_err::read_to_string(&log).unwrap(), "before\nrun\nafter\n");
        let lines = fs_err::read_to_string(back("ward").join("ward.txt")).unwrap();
        assert!(lines.starts_with("1\n2\n") && lines.ends_with("1000\nend\n"));
        add(
            "broken",
            json!({ "kind": "command", "server": "broken", "name": "broken", "declared_in": declared }),
        );
        let run = backup(&client, "broken");
        assert_eq!(
            (run["state"].as_str(), run["error_code"].as_str()),
            (Some("failed"), Some("source.command"))
        );
        let points: Vec<Value> = client.get("/v1/points?system=broken").unwrap();
        assert!(points.is_empty(), "a failing command leaves no restore point");
        drop((sshd, server, temp));
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_restic_repository_is_taken_over_with_its_history_and_the_senders_times() {
    let temp = tempfile::tempdir().unwrap();
    let site = Site::new(&temp.path().join("site"), "");
    site.init();
    let running = run::start(site.config()).await.unwrap();
    let work = move || {
        let client = site.client();
        let (old, data) = (temp.path().join("old"), temp.path().join("data"));
        fs_err::create_dir(&data).unwrap();
        let (old_, data_) = (old.display().to_string(), data.display().to_string());
        restic(&old_, "their-password", &[], &["init"]);
        for (day, time) in
            ["2024-03-01 02:00:00", "2024-03-02 02:00:00", "2025-01-05 02:00:00"].iter().enumerate()
        {
            fs_err::write(data.join("記録.txt"), format!("day {day}")).unwrap();
            restic(&old_, "their-password", &[], &["backup", "--host", "eye", "--time", time, &data_]);
        }
        let password_file = secret(temp.path(), "their-password", "their-password");
        let import = |password_file: &Path| {
            let entry = json!({ "id": "eye", "name_ja": "眼科" });
            json!({ "entry": entry, "from": old, "password_file": password_file })
        };
        let wrong = secret(temp.path(), "wrong", "wrong");
        let error = client.post::<Value>("/v1/imports", &import(&wrong)).unwrap_err();
        assert_eq!(
            kuramori_model::fault::Fault::exit(&error),
            kuramori_model::fault::Exit::Authentication,
            "{error}"
        );
        let before =
            std::process::Command::new("find").arg(&old).args(["-type", "f"]).output().unwrap().stdout;
        let imported: Value = client.post("/v1/imports", &import(&password_file)).unwrap();
        assert_eq!(imported["points"], 3);
        let after =
            std::process::Command::new("find").arg(&old).args(["-type", "f"]).output().unwrap().stdout;
        assert_eq!(before, after, "the original is only read");

        let points: Vec<Value> = client.get("/v1/points?system=eye&place=primary").unwrap();
        let numbers: Vec<u64> = points.iter().map(|point| point["sequence"].as_u64().unwrap()).collect();
        let mut sorted = numbers.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(numbers, sorted, "newest first, in the sender's order");
        let sent: Vec<&str> = points.iter().map(|point| point["facts"]["sent"].as_str().unwrap()).collect();
        assert!(sent[0].starts_with("2025-01-0") && sent[2].starts_with("2024-0"), "{sent:?}");
        for point in &points {
            assert_eq!(point["complete"], true);
            let received: jiff::Timestamp = point["received"].as_str().unwrap().parse().unwrap();
            assert!(received > "2026-01-01T00:00:00Z".parse().unwrap(), "{received}");
        }
        // Its own password still opens it, and so does the hospital's paper.
        let here = site.repository("eye").display().to_string();
        for password in ["their-password".to_owned(), site.recovered_password("eye")] {
            restic(&here, &password, &[], &["check", "--read-data"]);
        }
        let target = temp.path().join("restored");
        let oldest = points[2]["snapshot"].as_str().unwrap();
        restic(&here, "their-password", &[], &["restore", oldest, "--target", &target.display().to_string()]);
        let text =
            fs_err::read_to_string(target.join(data.strip_prefix("/").unwrap()).join("記録.txt")).unwrap();
        assert_eq!(text, "day 0");
        let again = client.post::<Value>("/v1/imports", &import(&password_file)).unwrap_err();
        assert_eq!(kuramori_model::fault::Fault::code(&again), "catalog.exists");
        drop(temp);
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_archive_is_copied_gently_and_comes_back_from_its_repository() {
    use kuramori_source::{Control, dicom::restore::give_back};

    let temp = tempfile::tempdir().unwrap();
    let site = Site::new(&temp.path().join("site"), "");
    site.init();
    let running = run::start(site.config()).await.unwrap();
    let work = move || {
        let client = site.client();
        let pacs = orthanc::Orthanc::start();
        for study in 1..=2 {
            for instance in 1..=3 {
                pacs.store(&orthanc::dicom(study, 1, instance, 200_000));
            }
        }
        let mut inner = serde_json::to_value(pacs.config()).unwrap();
        inner["kind"] = json!("dicom");
        let probe = json!({ "by": "http", "url": format!("http://127.0.0.1:{}/system", pacs.port), "bounds": { "every": "20ms" } });
        let limits = json!([{ "from": "00:00", "until": "00:00", "rate": "4 MB" }]);
        let source = json!({ "kind": "gentle", "limits": limits, "probe": probe, "source": inner });
        let added: Value = client.post("/v1/systems", &json!({ "id": "pacs", "source": source })).unwrap();
        assert_eq!(added["system"]["server"], "127.0.0.1", "one job at a time on that server");
        let run = backup(&client, "pacs");
        assert_eq!(
            (run["state"].as_str(), run["facts"]["files"].as_u64()),
            (Some("complete"), Some(2)),
            "{run}"
        );
        assert!(run["facts"]["felt"]["before_p50_us"].as_u64().unwrap() > 0, "{run}");
        let points: Vec<Value> = client.get("/v1/points?system=pacs").unwrap();
        assert!(
            points[0]["facts"]["felt"]["during_p99_us"].is_u64(),
            "the point says how much the system felt"
        );

        // The second run, with the engine's own memory of the first: one picture more, one study read again.
        pacs.store(&orthanc::dicom(2, 1, 9, 200_000));
        let again = backup(&client, "pacs");
        assert!(
            again["facts"]["added"].as_u64().unwrap() < run["facts"]["added"].as_u64().unwrap(),
            "{again}"
        );

        let target = temp.path().join("restored");
        let repository = site.repository("pacs").display().to_string();
        let password = site.recovered_password("pacs");
        restic(
            &repository,
            &password,
            &[],
            &["restore", "latest", "--target", &target.display().to_string()],
        );
        let fresh = orthanc::Orthanc::start();
        for study in ["2.25.1", "2.25.2"] {
            let path = target.join("studies").join(study).join("part-000.tar");
            let back =
                give_back(&mut fs_err::File::open(path).unwrap(), &fresh.config(), &Control::default())
                    .unwrap();
            assert!(back.wrong.is_empty(), "{back:?}");
        }
        assert_eq!(fresh.instances(), pacs.instances());
        drop((pacs, fresh, temp));
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    running.stop().await;
}
