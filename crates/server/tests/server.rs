//! A night in a small hospital, by the library: init, register, pull, a restic client, a vault's report, a
//! second server, and the way back on an empty machine.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

#[path = "support/hospital.rs"]
mod hospital;

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command, sync::Arc};

use hospital::{Night, Site, backup, beside, night, restic, same, server, until};
use kuramori_audit::Signer;
use kuramori_model::{
    clock::{SystemClock, SystemRandom},
    fault::{Exit, Fault},
};
use kuramori_server::{client::Client, run};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_share_is_pulled_and_the_paper_alone_brings_it_back() {
    let Night { site, share, running, temp } = night("").await;
    share.fill(1, 40, 50_000);
    beside(move || {
        let client = site.client();
        let mode = fs_err::metadata(site.config().socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "only the server's user may act");
        let added: Value = client.post("/v1/systems", &share.entry("ophthalmology")).unwrap();
        assert!(added["client"].is_null());
        let again = client.post::<Value>("/v1/systems", &share.entry("ophthalmology")).unwrap_err();
        assert_eq!((again.code(), again.exit()), ("catalog.exists", Exit::Fix));
        let wrong = client.post::<Value>("/v1/runs", &json!({ "system": "nobody" })).unwrap_err();
        assert_eq!(wrong.code(), "catalog.no-such");

        let run = backup(&client, "ophthalmology");
        assert_eq!(run["state"], "complete", "{run}");
        assert_eq!(
            (run["facts"]["files"].as_u64(), run["facts"]["bytes"].as_u64()),
            (Some(40), Some(2_000_000))
        );
        share.fill(2, 3, 70_000);
        let run = backup(&client, "ophthalmology");
        assert!(
            run["facts"]["added"].as_u64().unwrap() < 500_000,
            "the second run stores only what is new: {run}"
        );
        let points: Vec<Value> = client.get("/v1/points?system=ophthalmology&place=primary").unwrap();
        assert_eq!(points.len(), 2);
        let status: Value = client.get("/v1/status").unwrap();
        assert_eq!(status["systems"][0]["state"], "ok");
        assert_eq!(status["verdict"]["cause"], "no_report");

        let (repository, password) =
            (site.repository("ophthalmology"), site.recovered_password("ophthalmology"));
        let repository = repository.display().to_string();
        restic(&repository, &password, &[], &["check", "--read-data"]);
        let target = temp.path().join("restored");
        restic(
            &repository,
            &password,
            &[],
            &["restore", "latest", "--target", &target.display().to_string()],
        );
        assert!(same(&target, &share.folder), "restic restores what the share holds");
        let control = site.recovered_password("_control");
        restic(&site.repository("_control").display().to_string(), &control, &[], &["check", "--read-data"]);
        let snapshots = restic(&repository, &password, &[], &["snapshots", "--json"]);
        let snapshots: Value = serde_json::from_slice(&snapshots.stdout).unwrap();
        let tags = snapshots[1]["tags"].to_string();
        assert!(tags.contains("kuramori.seq=") && tags.contains("kuramori.recv="), "{tags}");
        drop((share, temp));
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_be_read_fails_by_name_and_is_never_green() {
    let temp = tempfile::tempdir().unwrap();
    let (site, running) = server(&temp, "").await;
    beside(move || {
        let client = site.client();
        let secret = temp.path().join("secret");
        fs_err::write(&secret, "x").unwrap();
        fs_err::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let port = hospital::free_port();
        let source = json!({ "kind": "smb", "server": "127.0.0.1", "port": port, "share": "dump", "user": "a",
                             "password_file": secret, "reconnects": 0, "reconnect_within": "1s" });
        client.post::<Value>("/v1/systems", &json!({ "id": "eye", "source": source })).unwrap();
        let run = backup(&client, "eye");
        assert_eq!(run["state"], "failed", "{run}");
        assert!(run["error_text"].as_str().unwrap().contains(&port.to_string()), "{run}");
        let status: Value = client.get("/v1/status").unwrap();
        assert_eq!(status["systems"][0]["state"], "failed");
        assert_eq!(status["systems"][0]["primary"], Value::Null);
        assert_eq!(status["verdict"]["level"], "danger");
        let alarm = until("the judge's alarm", || {
            let alarms: Vec<Value> = client.get("/v1/alarms").unwrap();
            alarms.into_iter().find(|alarm| alarm["finding"]["code"] == "judge.failed")
        });
        assert_eq!(alarm["finding"]["system"], "eye");
        let missing = json!({ "id": "typo", "source": { "kind": "smb", "server": "x", "share": "y", "user": "z", "pasword_file": "/x" } });
        let error = client.post::<Value>("/v1/systems", &missing).unwrap_err();
        assert!(error.code() == "server.entry" && error.to_string().contains("pasword_file"), "{error}");
        drop(temp);
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restic_client_fills_its_own_repository_and_its_point_is_registered() {
    let temp = tempfile::tempdir().unwrap();
    let (site, running) = server(&temp, "").await;
    beside(move || {
        let client = site.client();
        let added: Value =
            client.post("/v1/systems", &json!({ "id": "pacs", "name_ja": "画像診断" })).unwrap();
        let granted = &added["client"];
        let authority = temp.path().join("ca.pem");
        fs_err::write(&authority, granted["authority"].as_str().unwrap()).unwrap();
        let text = |key: &str| granted[key].as_str().unwrap().to_owned();
        let url = text("url").replace("pacs@", &format!("pacs:{}@", text("login_password")));
        let authority = authority.display().to_string();
        let data = temp.path().join("study");
        fs_err::create_dir(&data).unwrap();
        fs_err::write(data.join("image.dcm"), vec![7; 100_000]).unwrap();
        let data = data.display().to_string();
        restic(
            &url,
            &text("repository_password"),
            &[],
            &["--cacert", &authority, "backup", "--host", "pacs", &data],
        );
        let point = until("the point", || {
            let points: Vec<Value> = client.get("/v1/points?system=pacs").unwrap();
            points.into_iter().next()
        });
        assert_eq!(
            (point["complete"].as_bool(), point["facts"]["bytes"].as_u64()),
            (Some(true), Some(100_000))
        );
        assert_eq!(point["facts"]["identity"], "pacs");
        let snapshot = point["snapshot"].as_str().unwrap();
        let refused = Command::new("curl")
            .args([
                "--silent",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
                "--request",
                "DELETE",
                "--cacert",
                &authority,
            ])
            .arg(format!("{}snapshots/{snapshot}", url.trim_start_matches("rest:")))
            .output()
            .expect("curl");
        assert_eq!(refused.stdout, b"403", "the client cannot take its point away");
        let alarm = until("the alarm about the attempt", || {
            let alarms: Vec<Value> = client.get("/v1/alarms").unwrap();
            alarms.into_iter().find(|alarm| alarm["finding"]["code"] == "serve.refused")
        });
        assert_eq!(alarm["finding"]["system"], "pacs");
        let evidence: Value = client.get("/v1/evidence?lang=en").unwrap();
        let html = evidence["html"].as_str().unwrap();
        assert!(
            html.contains("<style>")
                && !html.contains("live.js")
                && html.contains("tried and is not allowed"),
            "{html}"
        );
        let error = client.post::<Value>("/v1/runs", &json!({ "system": "pacs" })).unwrap_err();
        assert!(error.to_string().contains("restic client"), "{error}");
        drop(temp);
    })
    .await;
    running.stop().await;
}

/// A report in the vault's form, signed with this key.
fn report(signer: &Signer, number: u64, snapshot: &str) -> Vec<u8> {
    let window = json!({ "window": number, "purpose": "pull", "opened": "2026-11-22T02:10:00Z", "seconds": 60.5,
        "bytes": 1_000_000, "verified": true, "record": { "gate": { "commanded_s": 60.5, "actuator_s": 61.0, "probe_s": 60.8,
        "closed": "2026-11-22T02:11:02Z", "close_reason": { "because": "deadline" } } } });
    let body = json!({ "format": 1, "vault": "vault", "at": "2026-11-22T02:14:07Z", "accumulated_s": number,
        "windows": [window],
        "repositories": [{ "name": "pacs", "newest": [{ "sequence": 4, "repository": "pacs", "snapshot": snapshot,
            "received": "2026-11-22T02:12:00Z", "received_s": 5, "state": "complete", "partial": false,
            "verdict": "clean" }] }] })
    .to_string();
    let signature = hex::encode(signer.sign(body.as_bytes()));
    format!("{{\"report\":{body},\"key\":\"{}\",\"signature\":\"{signature}\"}}", signer.verifier())
        .into_bytes()
}

/// The checkpoints that go with reports are cosigned while the vault's log continues, and not when it was cut.
fn cosigned(folder: &Path, reports: &Path, enrolment: &Value, put: &dyn Fn(&[u8])) {
    use kuramori_audit::{Log, SignedNote, Verifier};
    let signer = || Signer::from_seed("kuramori/vault", &[3; 32]).unwrap();
    let clock = std::sync::Arc::new(kuramori_model::clock::SystemClock);
    let server: Verifier = enrolment["witness"].as_str().unwrap().parse().unwrap();
    let send = |number: u64, log: &Log, proofs: Value| {
        let body =
            json!({ "format": 1, "vault": "vault", "at": "2026-11-22T03:00:00Z", "accumulated_s": number,
            "checkpoint": log.note().text(), "witness": { "proofs": proofs, "server_seen": 0 } })
            .to_string();
        let signature = hex::encode(signer().sign(body.as_bytes()));
        let key = signer().verifier();
        put(format!("{{\"report\":{body},\"key\":\"{key}\",\"signature\":\"{signature}\"}}").as_bytes());
    };
    let answer = |size: u64| {
        until("the server's answer", || {
            let entries = fs_err::read_dir(reports.join("index")).ok()?;
            let read = entries
                .flatten()
                .filter_map(|entry| serde_json::from_slice::<Value>(&fs_err::read(entry.path()).ok()?).ok());
            read.filter_map(|document| SignedNote::parse(document["cosigned"].as_str()?).ok())
                .find(|note| note.checkpoint.size == size && note.cosigned_by(&server).is_some())
        })
    };
    let mut log = Log::open(folder, signer(), clock.clone()).unwrap();
    for number in 0..3 {
        log.append("window.opened", &json!({ "window": number })).unwrap();
    }
    send(600, &log, json!([]));
    answer(3);
    log.append("window.closed", &json!({})).unwrap();
    send(700, &log, json!([{ "old": 3, "consistency": log.prove(3).unwrap() }]));
    answer(4);
    // The server's own log holds the catalog's events, and its checkpoint comes along.
    let newest = fs_err::read_dir(reports.join("index")).unwrap().flatten().any(|entry| {
        let document: Value = serde_json::from_slice(&fs_err::read(entry.path()).unwrap()).unwrap();
        let note = SignedNote::parse(document["checkpoint"].as_str().unwrap()).unwrap();
        note.signed_by(&server) && note.checkpoint.size > 0
    });
    assert!(newest);
    drop(log);
    fs_err::remove_dir_all(folder).unwrap();
    let mut cut = Log::open(folder, signer(), clock).unwrap();
    cut.append("window.opened", &json!({ "window": 0 })).unwrap();
    send(800, &cut, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vaults_report_counts_only_with_its_own_signature() {
    let temp = tempfile::tempdir().unwrap();
    let (site, running) = server(&temp, "").await;
    beside(move || {
        let client = site.client();
        client.post::<Value>("/v1/systems", &json!({ "id": "pacs" })).unwrap();
        let signer = Signer::from_seed("kuramori/vault", &[3; 32]).unwrap();
        let thief = Signer::from_seed("kuramori/vault", &[4; 32]).unwrap();
        let out = temp.path().join("enrolment");
        let (identity, recipient) = kuramori_server::seal::generate();
        let introduction = json!({ "name": "vault", "report_key": signer.verifier().to_string(), "out": out,
                                   "recipient": recipient });
        let enrolment: Value = client.post("/v1/vaults", &introduction).unwrap();
        assert!(enrolment["pins"]["pacs"]["config"].is_string() && enrolment["pins"]["_control"].is_object());
        for file in [
            "ca.pem",
            "pull.password",
            "report.password",
            "passwords/pacs",
            "passwords/_control",
            "wraps/pacs.recovery.age",
        ] {
            assert_eq!(fs_err::metadata(out.join(file)).unwrap().permissions().mode() & 0o077, 0, "{file}");
        }
        // A system that comes later: its password reaches the vault inside `_control`, wrapped to it.
        client.post::<Value>("/v1/systems", &json!({ "id": "later" })).unwrap();
        let target = temp.path().join("control");
        let control = site.recovered_password("_control");
        let repository = site.repository("_control").display().to_string();
        restic(&repository, &control, &[], &["restore", "latest", "--target", &target.display().to_string()]);
        let export = fs_err::read_to_string(target.join("catalog.jsonl")).unwrap();
        let line = export.lines().find(|line| line.contains("repository/later")).unwrap();
        let line: Value = serde_json::from_str(line).unwrap();
        let sealed = hex::decode(line["row"]["sealed"]["hex"].as_str().unwrap()).unwrap();
        let learned = kuramori_server::seal::unwrap(&sealed, &identity).unwrap();
        assert_eq!(String::from_utf8(learned).unwrap(), site.recovered_password("later"));

        let password = fs_err::read_to_string(out.join("report.password")).unwrap();
        let address = site.config().serve.listen;
        let put = |content: &[u8]| {
            use aws_lc_rs::digest::{SHA256, digest};
            let file = temp.path().join("report.json");
            fs_err::write(&file, content).unwrap();
            let name = hex::encode(digest(&SHA256, content));
            let status = Command::new("curl")
                .args(["--silent", "--fail", "--cacert"])
                .arg(out.join("ca.pem"))
                .arg("--user")
                .arg(format!("report-vault:{}", password.trim()))
                .arg("--data-binary")
                .arg(format!("@{}", file.display()))
                .arg(format!("https://{address}/vault-report/snapshots/{name}"))
                .status()
                .expect("curl");
            assert!(status.success());
        };
        let snapshot = "cd".repeat(32);
        put(&report(&thief, 900, &snapshot));
        until("the alarm about the forged report", || {
            let alarms: Vec<Value> = client.get("/v1/alarms").unwrap();
            alarms.into_iter().find(|alarm| alarm["finding"]["code"] == "report.forged")
        });
        let status: Value = client.get("/v1/status").unwrap();
        assert_eq!(status["report"], Value::Null);
        put(&report(&signer, 500, &snapshot));
        let status = until("the report", || {
            let status: Value = client.get("/v1/status").unwrap();
            status["report"].is_object().then_some(status)
        });
        assert_eq!(status["report"]["made"], "2026-11-22T02:14:07Z");
        let pacs =
            status["systems"].as_array().unwrap().iter().find(|system| system["id"] == "pacs").unwrap();
        assert_eq!(pacs["vault"]["verdict"], "clean");
        assert_eq!(status["windows"][0]["probe_s"], 60.8);
        assert_eq!(status["windows"][0]["outcome"], "deadline");
        // An older one that was kept back changes nothing.
        put(&report(&signer, 400, &"ef".repeat(32)));
        std::thread::sleep(std::time::Duration::from_millis(500));
        let points: Vec<Value> = client.get("/v1/points?place=vault").unwrap();
        assert_eq!(points.len(), 1, "{points:?}");
        cosigned(&temp.path().join("vault-log"), &site.repository("vault-report"), &enrolment, &put);
        until("the alarm about the vault's log", || {
            let alarms: Vec<Value> = client.get("/v1/alarms").unwrap();
            alarms.into_iter().find(|alarm| alarm["finding"].to_string().contains("cosigned before"))
        });
        drop(temp);
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_and_a_machine_without_keys_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let site = Site::new(&temp.path().join("site"), "");
    let error = run::start(site.config()).await.unwrap_err();
    assert_eq!(error.code(), "server.not-initialised");
    site.init();
    let recovery = temp.path().join("other.txt");
    let again =
        kuramori_server::keys::init(&site.config(), None, Some(&recovery), &SystemClock, &SystemRandom);
    assert_eq!(again.unwrap_err().code(), "server.exists");
    let running = run::start(site.config()).await.unwrap();
    let error = run::start(site.config()).await.unwrap_err();
    assert_eq!((error.code(), error.exit()), ("catalog.second-server", Exit::Locked));
    running.stop().await;
    assert!(!site.config().socket.exists());
    let error =
        beside(move || Client::new(&site.config().socket).unwrap().get::<Value>("/v1/status").unwrap_err())
            .await;
    assert_eq!(error.code(), "client.no-server");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_machine_gets_register_history_and_secrets_back() {
    let Night { site, share, running, temp } = night("").await;
    share.fill(3, 5, 10_000);
    let (there, entry) = (site.clone(), share.entry("ophthalmology"));
    let before = beside(move || {
        let client = there.client();
        client.post::<Value>("/v1/systems", &entry).unwrap();
        client.post::<Value>("/v1/systems", &json!({ "id": "pacs", "rpo": "12h" })).unwrap();
        assert_eq!(backup(&client, "ophthalmology")["state"], "complete");
        client.post::<Value>("/v1/export", &json!({})).unwrap();
        let systems: Vec<Value> = client.get("/v1/systems").unwrap();
        (systems, client.get::<Vec<Value>>("/v1/points").unwrap())
    })
    .await;
    running.stop().await;

    let copy = temp.path().join("vault-copy");
    assert!(
        Command::new("cp").arg("-a").args([&site.repository("_control"), &copy]).status().unwrap().success()
    );
    let recovery = site.recovery();
    fs_err::remove_dir_all(site.root.join("data")).unwrap();

    let new = Arc::new(Site::new(&temp.path().join("new"), ""));
    let wrong = kuramori_server::seal::generate().0;
    let clock = || Arc::new(SystemClock);
    let random = || Arc::new(SystemRandom);
    let error = kuramori_server::rebuild::rebuild(&new.config(), &copy, &wrong, None, clock(), random())
        .await
        .unwrap_err();
    assert_eq!((error.code(), error.exit()), ("escrow.not-for-us", Exit::Authentication));
    let rebuilt = kuramori_server::rebuild::rebuild(&new.config(), &copy, &recovery, None, clock(), random())
        .await
        .unwrap();
    assert_eq!((rebuilt.systems, rebuilt.points, rebuilt.secrets), (2, 1, 3));
    let again =
        kuramori_server::rebuild::rebuild(&new.config(), &copy, &recovery, None, clock(), random()).await;
    assert_eq!(again.unwrap_err().code(), "server.exists");

    let running = run::start(new.config()).await.unwrap();
    let there = new.clone();
    let after = beside(move || {
        let client = there.client();
        (client.get::<Vec<Value>>("/v1/systems").unwrap(), client.get::<Vec<Value>>("/v1/points").unwrap())
    })
    .await;
    assert_eq!(before, after);
    running.stop().await;
    drop(share);
}
