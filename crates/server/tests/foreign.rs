//! Other backup products under the same view: posted results, result files, and their folder as restore points.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

#[path = "support/hospital.rs"]
mod hospital;

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use hospital::{Share, Site, backup, restic, same, until};
use kuramori_server::{client::Client, run};
use serde_json::{Value, json};

async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// The folder that `kuramori system add --credentials` writes.
fn credentials(folder: &Path, granted: &Value) {
    fs_err::create_dir_all(folder).unwrap();
    for (name, key) in
        [("url", "url"), ("login", "login"), ("login.password", "login_password"), ("ca.pem", "authority")]
    {
        let file = folder.join(name);
        fs_err::write(&file, granted[key].as_str().unwrap()).unwrap();
        fs_err::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// The shipped script.
fn script(arguments: &[&str]) -> std::process::Output {
    let script = format!("{}/../../packaging/scripts/kuramori-job.sh", env!("CARGO_MANIFEST_DIR"));
    Command::new("sh").arg(script).args(arguments).output().unwrap()
}

fn system(client: &Client, id: &str) -> Value {
    let status: Value = client.get("/v1/status").unwrap();
    status["systems"].as_array().unwrap().iter().find(|system| system["id"] == id).unwrap().clone()
}

fn alarm(client: &Client, code: &str) -> Value {
    until(code, || {
        let alarms: Vec<Value> = client.get("/v1/alarms").unwrap();
        alarms.into_iter().find(|alarm| alarm["finding"]["code"] == code)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_products_posted_results_are_seen_judged_and_alarmed_and_never_called_a_way_back() {
    let temp = tempfile::tempdir().unwrap();
    let site = Site::new(&temp.path().join("site"), "");
    site.init();
    let running = run::start(site.config()).await.unwrap();
    beside(move || {
        let client = site.client();
        let add = |id: &str| -> Value {
            let source = json!({ "kind": "foreign", "server": "10.0.0.9", "product": "veeam" });
            client.post("/v1/systems", &json!({ "id": id, "name_ja": "病棟", "source": source })).unwrap()
        };
        let (added, other) = (add("ward"), add("clinic"));
        assert!(added["client"].is_null(), "it gets no repository to write into");
        let (folder, theirs) = (temp.path().join("ward"), temp.path().join("clinic"));
        credentials(&folder, &added["product"]);
        credentials(&theirs, &other["product"]);
        let (folder, theirs) = (folder.display().to_string(), theirs.display().to_string());
        assert_eq!(system(&client, "ward")["state"], "waiting");
        let error = client.post::<Value>("/v1/runs", &json!({ "system": "ward" })).unwrap_err();
        assert!(error.to_string().contains("posts its results"), "{error}");

        let data = temp.path().join("data");
        fs_err::create_dir(&data).unwrap();
        fs_err::write(data.join("ward.vbk"), vec![1; 4096]).unwrap();
        let data = data.display().to_string();
        let post = |folder: &str, state: &[&str], message: &str| {
            let common = [
                "--credentials",
                folder,
                "--system",
                "ward",
                "--product",
                "veeam",
                "--job",
                "Ward nightly",
                "--folder",
                &data,
                "--message",
                message,
            ];
            script(&[state, &common].concat())
        };
        let done = post(&folder, &["post", "success"], "");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let seen = until("the result", || {
            let seen = system(&client, "ward");
            (seen["foreign"]["state"] == "success").then_some(seen)
        });
        assert_eq!((seen["state"].as_str(), &seen["primary"]), (Some("ok"), &Value::Null));
        assert_eq!(
            (seen["foreign"]["bytes"].as_u64(), &seen["foreign"]["pulled"]),
            (Some(4096), &json!(false))
        );
        let status: Value = client.get("/v1/status").unwrap();
        assert_eq!(
            (status["verdict"]["recoverable"].as_u64(), status["verdict"]["level"].as_str()),
            (Some(0), Some("attention")),
            "somebody else's backup is no way back of ours: {}",
            status["verdict"]
        );

        // What another system's login says about this one is refused and told, and changes nothing.
        let done = post(&theirs, &["post", "failed"], "false");
        assert!(done.status.success(), "the shelf takes any document");
        let told = alarm(&client, "foreign.bad-result");
        assert_eq!(told["finding"]["system"], "clinic");
        assert_eq!(system(&client, "ward")["foreign"]["state"], "success");
        let url = added["product"]["url"].as_str().unwrap().replace("job-ward", "job-clinic");
        let refused = Command::new("curl")
            .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--user"])
            .arg(format!("job-ward:{}", added["product"]["login_password"].as_str().unwrap()))
            .args(["--cacert", &format!("{folder}/ca.pem"), "--data-binary", "x"])
            .arg(format!("{url}{}", "0".repeat(64)))
            .output()
            .unwrap();
        assert_eq!(refused.stdout, b"403", "nobody reaches another system's shelf");

        // A wish for the gate is recorded, and is neither a backup nor a failure.
        assert!(post(&folder, &["request"], "").status.success());
        until("the wish", || {
            let events: Vec<Value> = client.get("/v1/events").unwrap();
            events.into_iter().find(|event| event["kind"] == "gate.requested" && event["system"] == "ward")
        });
        assert_eq!(system(&client, "ward")["state"], "ok");

        assert!(post(&folder, &["post", "failed"], "保存先が満杯です").status.success());
        let told = alarm(&client, "judge.failed");
        assert_eq!(told["finding"]["system"], "ward");
        assert!(
            told["finding"]["params"]["error"]["text"].as_str().unwrap().contains("保存先が満杯"),
            "{told}"
        );
        let seen = system(&client, "ward");
        assert_eq!(
            (seen["state"].as_str(), seen["last_run"]["error_code"].as_str()),
            (Some("failed"), Some("foreign.failed"))
        );

        // Without a folder the script measures nothing and so tells no size; an empty folder is measured.
        let bare = |more: &[&str]| {
            let common =
                ["post", "success", "--credentials", &theirs, "--system", "clinic", "--product", "veeam"];
            let done = script(&[&common, more].concat());
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        let empty = || {
            let alarms: Vec<Value> = client.post("/v1/judge", &json!({})).unwrap();
            alarms.iter().any(|alarm| alarm["finding"]["code"] == "judge.empty")
        };
        bare(&["--job", "unmeasured"]);
        until("the result", || (system(&client, "clinic")["foreign"]["job"] == "unmeasured").then_some(()));
        assert_eq!(system(&client, "clinic")["foreign"]["bytes"], Value::Null);
        assert_eq!((system(&client, "clinic")["state"].as_str(), empty()), (Some("ok"), false));
        let nothing = temp.path().join("nothing");
        fs_err::create_dir(&nothing).unwrap();
        bare(&["--job", "empty", "--folder", &nothing.display().to_string()]);
        until("the result", || (system(&client, "clinic")["foreign"]["job"] == "empty").then_some(()));
        assert_eq!((&system(&client, "clinic")["foreign"]["bytes"], empty()), (&json!(0), true));
        drop(temp);
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_products_folder_becomes_a_restore_point_that_restic_gives_back() {
    let temp = tempfile::tempdir().unwrap();
    let share = Share::start(temp.path());
    let site = Site::new(&temp.path().join("site"), "");
    site.init();
    let running = run::start(site.config()).await.unwrap();
    beside(move || {
        let client = site.client();
        share.fill(5, 3, 50_000);
        for n in 0..3 {
            fs_err::rename(share.folder.join(format!("検査-{n}.dat")), share.folder.join(format!("ward{n}.vib")))
                .unwrap();
        }
        let names = "<Storage FilePath=\"ward0.vib\"/><Storage FilePath=\"ward1.vib\"/><Storage FilePath=\"ward2.vib\"/>";
        fs_err::write(share.folder.join("ward.vbm"), format!("<B>{names}</B>")).unwrap();
        let mut entry = share.entry("ward");
        let mut inner = entry["source"].take();
        inner.as_object_mut().unwrap().remove("kind");
        inner["marker"] = json!({ "pattern": "*.vbm", "names_files": true, "settle": "200ms" });
        entry["source"] =
            json!({ "kind": "foreign", "server": "127.0.0.1", "product": "veeam", "share": inner });
        client.post::<Value>("/v1/systems", &entry).unwrap();

        fs_err::rename(share.folder.join("ward1.vib"), temp.path().join("ward1.vib")).unwrap();
        let run = backup(&client, "ward");
        assert_eq!((run["state"].as_str(), run["error_code"].as_str()), (Some("failed"), Some("source.set-incomplete")));
        fs_err::rename(temp.path().join("ward1.vib"), share.folder.join("ward1.vib")).unwrap();
        let run = backup(&client, "ward");
        assert_eq!((run["state"].as_str(), run["facts"]["files"].as_u64()), (Some("complete"), Some(4)), "{run}");
        let target = temp.path().join("restored");
        restic(
            &site.repository("ward").display().to_string(),
            &site.recovered_password("ward"),
            &[],
            &["restore", "latest", "--target", &target.display().to_string()],
        );
        assert!(same(&target, &share.folder), "what the vault will get is the product's own folder");
        let seen = system(&client, "ward");
        assert_eq!((seen["state"].as_str(), &seen["foreign"]["pulled"]), (Some("ok"), &json!(true)));
        drop((share, temp));
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_come_by_mail_and_syslog_and_what_is_forged_or_unknown_is_never_a_success() {
    let temp = tempfile::tempdir().unwrap();
    let [mail, tcp, udp] = [hospital::free_port(), hospital::free_port(), hospital::free_port()];
    let more = format!(
        "[results]\nmail = \"127.0.0.1:{mail}\"\nmail_bytes = \"64 kB\"\nsyslog_tcp = \"127.0.0.1:{tcp}\"\n\
         syslog_udp = \"127.0.0.1:{udp}\"\n"
    );
    let site = Site::new(&temp.path().join("site"), &more);
    site.init();
    let running = run::start(site.config()).await.unwrap();
    beside(move || {
        let client = site.client();
        let add = |id: &str, product: &str, hear: Value| {
            let source = json!({ "kind": "foreign", "server": "127.0.0.1", "product": product, "hear": hear });
            let _: Value = client.post("/v1/systems", &json!({ "id": id, "source": source })).unwrap();
        };
        let from = "veeam@hospital.example";
        add("ward", "veeam", json!([{ "by": "mail", "host": "127.0.0.1", "from": from, "job": "病棟 夜間" }]));
        add("eye", "veeam", json!([{ "by": "mail", "host": "127.0.0.1", "from": from, "job": "Eye" }]));
        add("files", "windows-server-backup", json!([{ "by": "syslog-tcp", "host": "127.0.0.1", "zone": "Asia/Tokyo" }]));
        add("meal", "other", json!([{ "by": "syslog-udp", "host": "127.0.0.1", "zone": "Asia/Tokyo",
            "sentences": [{ "means": "success", "text": "meal {job} ok" }, { "means": "failed", "text": "meal {job} broken{*}" }] }]));
        // The register's word is remembered for two seconds.
        let state = |id: &str| system(&client, id)["foreign"]["state"].as_str().unwrap().to_owned();
        let events = |kind: &str| {
            let events: Vec<Value> = client.get("/v1/events").unwrap();
            events.into_iter().filter(|event| event["kind"] == kind).count()
        };
        let ca = site.config().data.join("tls/ca.pem");
        let post = |from: &str, subject: &str, body: &str, tls: bool, date: Option<&str>| {
            let path = temp.path().join("mail");
            let now = Command::new("date").arg("-R").output().unwrap().stdout;
            let date = date.map_or_else(|| String::from_utf8(now).unwrap(), str::to_owned);
            let text = format!("From: {from}\r\nSubject: {subject}\r\nDate: {}\r\n\r\n{body}\r\n", date.trim());
            fs_err::write(&path, text).unwrap();
            let mut command = Command::new("curl");
            command.args(["--silent", "--show-error", "--max-time", "20", &format!("smtp://127.0.0.1:{mail}")]);
            command.args(["--mail-from", from, "--mail-rcpt", "jobs@kuramori", "--upload-file"]).arg(&path);
            if tls {
                command.arg("--ssl-reqd").arg("--cacert").arg(&ca);
            }
            command.output().unwrap()
        };
        let send = |from: &str, subject: &str, body: &str, tls: bool| post(from, subject, body, tls, None);

        // Two jobs of one product, each for its own system; in the clear and by TLS.
        let subject = "=?utf-8?B?W+aIkOWKn10g55eF5qOfIOWknOmWkyAoMyDjgqrjg5bjgrjjgqfjgq/jg4gp?=";
        let sent = send(from, subject, "Backup size\r\n 12.5 GB", true);
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        until("the result", || (state("ward") == "success").then_some(()));
        assert_eq!(system(&client, "ward")["foreign"]["bytes"].as_u64(), Some(12_800 << 20));
        assert_eq!(state("eye"), "");
        assert!(send(from, "[Failed] Eye (1 objects) 1 failed", "", false).status.success());
        until("the failure", || (state("eye") == "failed").then_some(()));
        let told = alarm(&client, "judge.failed");
        assert_eq!(told["finding"]["system"], "eye");

        // Nothing of this is a success.
        let before = events("foreign.result");
        assert!(!send("boss@hospital.example", "[Success] Eye", "", false).status.success(), "another sender");
        assert!(!send(from, "[Success] Eye", &"x".repeat(80 << 10), false).status.success(), "too large");
        assert!(send(from, "Re: [Success] Eye", "", false).status.success(), "taken, and not understood");
        let told = alarm(&client, "foreign.bad-result");
        assert!(told["finding"]["params"]["why"]["text"].as_str().unwrap().contains("no sentence"), "{told}");
        // A queue that was stopped over the weekend; and a mail that does not say when it was written.
        let friday = Command::new("date").args(["-R", "--date=3 days ago"]).output().unwrap().stdout;
        for date in [String::from_utf8(friday).unwrap().trim(), "gestern"] {
            let sent = post(from, "[Success] Eye (1 objects)", "", false, Some(date));
            assert!(sent.status.success(), "taken, and not believed");
        }
        assert_eq!((state("eye").as_str(), events("foreign.result")), ("failed", before));

        let log = |port: u16, way: &[&str], text: &str| {
            let out = Command::new("logger")
                .args(["--server", "127.0.0.1", "--port", &port.to_string(), "--tag", "Backup"])
                // The older form does not say its zone: the entry does.
                .env("TZ", "Asia/Tokyo")
                .args(way)
                .args(["--", text])
                .output()
                .unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        };
        log(tcp, &["--tcp", "--rfc3164"], "The backup operation has finished successfully.");
        until("syslog", || (state("files") == "success").then_some(()));
        // Syslog tells no size: that is not a size of zero. A mail that says 0 is.
        assert_eq!((&system(&client, "files")["foreign"]["bytes"], system(&client, "files")["state"].as_str()), (&Value::Null, Some("ok")));
        assert!(send(from, "[Success] Eye (1 objects)", "Backup size 0 B", false).status.success());
        until("the empty one", || (system(&client, "eye")["foreign"]["bytes"] == 0).then_some(()));
        let empty: Vec<String> = client
            .post::<Vec<Value>>("/v1/judge", &json!({}))
            .unwrap()
            .iter()
            .filter(|alarm| alarm["finding"]["code"] == "judge.empty")
            .map(|alarm| alarm["finding"]["system"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(empty, ["eye"]);
        log(tcp, &["--tcp", "--rfc5424"], "'2026-11-22' に開始したバックアップ操作は失敗しました。");
        until("syslog", || (state("files") == "failed").then_some(()));
        // What another host sent on three days late, word for word.
        let late = "LC_ALL=C TZ=Asia/Tokyo date --date='3 days ago' '+%b %e %H:%M:%S'";
        let late = String::from_utf8(Command::new("sh").args(["-c", late]).output().unwrap().stdout).unwrap();
        let line = format!("<13>{} srv Backup: The backup operation has finished successfully.\n", late.trim());
        std::io::Write::write_all(&mut std::net::TcpStream::connect(("127.0.0.1", tcp)).unwrap(), line.as_bytes()).unwrap();
        until("the word about it", || {
            let alarms: Vec<Value> = client.get("/v1/alarms").unwrap();
            alarms.into_iter().find(|alarm| alarm["finding"]["code"] == "foreign.bad-result" && alarm["finding"]["system"] == "files")
        });
        assert_eq!(state("files"), "failed");
        // Anybody can put any address into a datagram: a success does not count, a failure is told.
        log(udp, &["--udp", "--rfc5424"], "meal lunch ok");
        until("the forged one", || {
            let alarms: Vec<Value> = client.get("/v1/alarms").unwrap();
            alarms.into_iter().find(|alarm| alarm["finding"]["code"] == "foreign.bad-result" && alarm["finding"]["system"] == "meal")
        });
        assert_eq!(state("meal"), "");
        log(udp, &["--udp", "--rfc3164"], "meal lunch broken: disk");
        until("the failure", || (state("meal") == "failed").then_some(()));
        assert_eq!(events("foreign.result"), before + 4);
        drop(temp);
    })
    .await;
    running.stop().await;
}
