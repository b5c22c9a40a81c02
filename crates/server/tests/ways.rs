//! Further ways in, each from the register over the server's own job to a restore point that stock restic gives
//! back: SFTP, MariaDB, a declared command, and a command before and after.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]

#[path = "support/hospital.rs"]
mod hospital;
#[path = "../../source/tests/common/mariadb.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the source's own tests")]
mod mariadb;
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
