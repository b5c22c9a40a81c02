//! The worst-day pages, done exactly as they say: their commands are taken out of the page and typed into a
//! shell on a machine that has only Debian's programs, the vault's disk and three sheets.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its hospital may stop")]

mod support;

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use kuramori_catalog::{Catalog, VaultPoint, Verdict};
use kuramori_model::{
    clock::SystemClock,
    ids::{Sequence, SystemId},
};
use serde_json::{Value, json};
use support::{
    PROGRAM, Server,
    hospital::{Site, backup, free_port, until},
    lines, text,
};

const POSTGRES: &str = "/usr/lib/postgresql/15/bin";
const TRUTH: &str = "SELECT count(*), sum(yen), md5(string_agg(o::text, '|' ORDER BY id)) FROM orders o";

fn page(language: &str) -> String {
    let name = if language == "ja" { "worst-day.ja.md" } else { "worst-day.md" };
    fs_err::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)).unwrap()
}

/// The page's boxes: what stands after `sh`, and the lines.
fn boxes(page: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                open = Some((info.trim_start_matches("sh").trim().to_owned(), String::new()));
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some((_, lines)), None) => {
                lines.push_str(line);
                lines.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// The commands of the first system in the runbook: "without Kuramori", then "start and look".
fn first_system(runbook: &str) -> String {
    let first = runbook.split("\n1. ").last().unwrap().split("\n2. ").next().unwrap();
    let mut commands = String::new();
    let mut wanted = false;
    for line in first.lines() {
        if let Some(head) = line.strip_prefix('[') {
            wanted = head.starts_with("蔵守なしで戻す") || head.starts_with("起動と確認");
        }
        if let Some(command) = line.strip_prefix("    ").filter(|_| wanted) {
            commands.push_str(command);
            commands.push('\n');
        }
    }
    commands
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).current_dir("/").output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// As the postgres user.
fn postgres(words: &[&str]) -> String {
    let user = ["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"];
    run("setpriv", &[&user[..], words].concat())
}

fn kuramori(words: &[&str]) -> Vec<Value> {
    let output = Command::new(PROGRAM).arg("--json").args(words).stdin(Stdio::null()).output().unwrap();
    let (code, said) = lines(&output);
    assert_eq!(code, Some(0), "{words:?}: {said:?} {}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Billing's database, running; stopped when it goes out of sight.
struct Billing {
    data: PathBuf,
    port: u16,
}

impl Billing {
    fn start(root: &Path) -> Self {
        let home = root.join("billing");
        fs_err::create_dir(&home).unwrap();
        run("chown", &["postgres:postgres", text(&home)]);
        let (data, port) = (home.join("data"), free_port());
        let program = |name: &str| format!("{POSTGRES}/{name}");
        postgres(&[
            &program("initdb"),
            "-D",
            text(&data),
            "-A",
            "trust",
            "--data-checksums",
            "--no-sync",
            "--locale=C.UTF-8",
        ]);
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={} -c fsync=off",
            home.display()
        );
        postgres(&[
            &program("pg_ctl"),
            "-D",
            text(&data),
            "-w",
            "-o",
            &options,
            "-l",
            text(&home.join("log")),
            "start",
        ]);
        let billing = Self { data, port };
        billing.ask("CREATE TABLE orders AS SELECT n AS id, n * 10 AS yen, '医事会計 ' || n AS item FROM generate_series(1, 5000) n");
        billing
    }

    fn ask(&self, sql: &str) -> String {
        let port = self.port.to_string();
        postgres(&[
            "psql",
            "-X",
            "-q",
            "-At",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-c",
            sql,
        ])
    }
}

impl Drop for Billing {
    fn drop(&mut self) {
        let stop = ["pg_ctl", "-D", text(&self.data), "-m", "immediate", "-w", "stop"].map(str::to_owned);
        let _ = Command::new("setpriv")
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
            .arg(format!("{POSTGRES}/{}", stop[0]))
            .args(&stop[1..])
            .current_dir("/")
            .stdout(Stdio::null())
            .status();
    }
}

/// A hospital with a server and a vault; gives the truth of its database and leaves the vault's disk and the
/// sheets behind.
fn hospital(root: &Path) -> (String, PathBuf, Vec<PathBuf>) {
    let billing = Billing::start(root);
    let truth = billing.ask(TRUTH);
    let site = Site::new(&root.join("site"), "");
    site.init();
    let server = Server::start(&site);
    let socket = site.config().socket;
    let entry = json!({
        "id": "billing", "name_ja": "医事会計", "name_en": "Billing", "restore_order": 1, "contact": "内線 100",
        "protection": "critical", "rto": "4h",
        "source": { "kind": "postgres", "server": "127.0.0.1", "port": billing.port, "user": "postgres" },
    });
    let _: Value = site.client().post("/v1/systems", &entry).unwrap();
    assert_eq!(backup(&site.client(), "billing")["state"], "complete");

    // The vault with all it has on one disk, filled by its own verb from a carried copy.
    let disk = root.join("disk");
    for folder in ["store", "state", "enrolment"] {
        fs_err::create_dir_all(disk.join(folder)).unwrap();
    }
    let (at, toml) = (disk.display(), root.join("vault.toml"));
    let serve = site.config().serve.listen;
    fs_err::write(
        &toml,
        format!(
            "[vault]\nroot = \"{at}/store\"\nstate = \"{at}/state\"\npasswords = \"{at}/enrolment/passwords\"\n\
             [primary]\naddress = \"{serve}\"\nca_file = \"{at}/enrolment/ca.pem\"\nlogin = \"vault-vault\"\n\
             password_file = \"{at}/enrolment/pull.password\"\n"
        ),
    )
    .unwrap();
    let vault = |words: &[&str]| kuramori(&[&["vault", "--config", text(&toml)], words].concat());
    let public = vault(&["identity"]).pop().unwrap();
    let key = |name: &str| public[name].as_str().unwrap().to_owned();
    kuramori(&[
        "server",
        "enroll-vault",
        "--socket",
        text(&socket),
        "--report-key",
        &key("verifier"),
        "--recipient",
        &key("recipient"),
        "--out",
        text(&disk.join("enrolment")),
    ]);
    let repositories = site.config().repositories;
    vault(&["seed", "--from", text(&repositories)]);

    // What the vault's signed report would tell the server.
    let points: Vec<Value> = site.client().get("/v1/points?system=billing").unwrap();
    drop(server);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let database = site.config().data.join("catalog.db");
        let catalog = Catalog::open(&database, Arc::new(SystemClock)).await.unwrap();
        let point = VaultPoint {
            system: SystemId::new("billing").unwrap(),
            snapshot: points[0]["snapshot"].as_str().unwrap().to_owned(),
            sequence: Sequence(1),
            received: points[0]["received"].as_str().unwrap().parse().unwrap(),
            complete: true,
            verdict: Verdict::Clean,
            bytes: points[0]["bytes"].as_u64().unwrap(),
            files: 1,
            drilled: None,
        };
        catalog.record_vault_point(&point).await.unwrap();
        catalog.close().await;
    });
    let server = Server::start(&site);
    let _: Value = site.client().post("/v1/export", &json!({})).unwrap();
    drop(server);
    vault(&["seed", "--from", text(&repositories)]);

    let paper = root.join("paper");
    kuramori(&[
        "--lang",
        "ja",
        "escrow",
        "split",
        "--identity",
        text(&site.root.join("recovery.txt")),
        "--out",
        text(&paper),
    ]);
    let sheets: Vec<PathBuf> = (1..=5).map(|n| paper.join(format!("sheet-{n}.txt"))).collect();
    // Our own way back from paper gives the same identity.
    let joined = root.join("joined.txt");
    kuramori(&[
        "escrow",
        "join",
        "--sheet",
        text(&sheets[1]),
        "--sheet",
        text(&sheets[4]),
        "--sheet",
        text(&sheets[0]),
        "--out",
        text(&joined),
    ]);
    let identity = fs_err::read_to_string(&joined).unwrap();
    assert!(site.recovery().contains(identity.trim()));
    fs_err::remove_file(&joined).unwrap();

    let image = root.join("vault.img");
    run("/usr/sbin/mkfs.ext4", &["-q", "-d", text(&disk), text(&image), "512M"]);
    drop(billing);
    for gone in ["site", "billing", "disk", "vault.toml"] {
        let gone = root.join(gone);
        if gone.is_dir() { fs_err::remove_dir_all(gone).unwrap() } else { fs_err::remove_file(gone).unwrap() }
    }
    (truth, image, sheets)
}

/// A shell on a machine whose /etc, /root, /srv, /mnt and /var/lib are its own.
struct Machine {
    shell: Child,
    root: PathBuf,
    log: PathBuf,
}

impl Machine {
    fn boot(root: &Path) -> Self {
        for folder in ["root", "srv", "mnt", "lib"] {
            let folder = root.join("bare").join(folder);
            fs_err::create_dir_all(&folder).unwrap();
            fs_err::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let (bare, log) = (root.join("bare"), root.join("typed.log"));
        run("cp", &["-a", "/etc", text(&bare)]);
        let _ = fs_err::remove_dir_all(bare.join("etc/kuramori"));
        let at = bare.display();
        let script = format!(
            "mount --make-rprivate / && for d in root srv mnt etc; do mount --bind {at}/$d /$d; done && \
             mount --bind {at}/lib /var/lib && ip link set lo up && cd /root && exec bash -x -e -o pipefail"
        );
        let file = fs_err::File::create(&log).unwrap().into_parts().0;
        let path =
            format!("{}:{}", Path::new(PROGRAM).parent().unwrap().display(), std::env::var("PATH").unwrap());
        let shell = Command::new("unshare")
            .args([
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "bash",
                "-c",
                &script,
            ])
            .env("PATH", path)
            .env("HOME", "/root")
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { shell, root: bare, log }
    }

    /// Types lines and waits until the shell has done them.
    fn type_in(&mut self, commands: &str, mark: &str) {
        let done = self.root.join("root").join(mark);
        let input = self.shell.stdin.as_mut().unwrap();
        let _ = write!(input, "{commands}\ntouch /root/{mark}\n").and_then(|()| input.flush());
        until(mark, || {
            let ended = self.shell.try_wait().unwrap();
            let said = || fs_err::read_to_string(&self.log).unwrap_or_default();
            assert!(ended.is_none() || done.exists(), "the shell ended before `{mark}`:\n{}", said());
            done.exists().then_some(())
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// What a tired person types from a sheet: small letters, spaces and line breaks as they come.
fn typed(sheet: &Path) -> String {
    let text = fs_err::read_to_string(sheet).unwrap();
    let lines = text.lines().filter_map(|line| line.trim().split_once(" = "));
    let lines = lines.filter_map(|(left, _)| left.split_once(' '));
    let lines = lines.filter(|(number, _)| number.parse::<u8>().is_ok());
    let lines: Vec<String> = lines.map(|(_, letters)| letters.to_lowercase()).collect();
    lines.join("\n")
}

#[test]
fn both_pages_say_the_same_commands() {
    let english: Vec<_> = boxes(&page("en"))
        .into_iter()
        .map(|(info, lines)| (info, lines.replace("runbook.en", "runbook.ja")))
        .collect();
    assert_eq!(boxes(&page("ja")), english);
    assert!(english.iter().any(|(info, _)| info == "runbook 1"));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test measures in the machine's own time")]
fn the_worst_day_page_leads_to_the_first_running_system() {
    let dir = tempfile::tempdir().unwrap();
    fs_err::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (truth, image, sheets) = hospital(dir.path());

    let begin = Instant::now();
    let mut machine = Machine::boot(dir.path());
    let mut first = Duration::ZERO;
    for (number, (info, commands)) in boxes(&page("ja")).into_iter().enumerate() {
        let commands = match info.as_str() {
            // The test installs nothing; scripts/setup has.
            "setup" => "command -v restic age gfcombine psql".to_owned(),
            "disk" => format!("DISK={}", image.display()),
            "type" => {
                for n in [1, 3, 4] {
                    let letters = machine.root.join(format!("root/recovery/letters.{n:03}"));
                    fs_err::write(letters, typed(&sheets[n - 1])).unwrap();
                }
                "ls letters.001 letters.003 letters.004".to_owned()
            }
            "runbook 1" => {
                let runbook = machine.root.join("root/recovery/control/runbook/runbook.ja.txt");
                let commands = first_system(&fs_err::read_to_string(runbook).unwrap());
                assert!(
                    commands.contains("restic -r /mnt/vault/store/billing") && commands.contains("pg_ctl"),
                    "{commands}"
                );
                commands
            }
            "" => commands,
            other => panic!("the page has a box that nobody knows: {other}"),
        };
        machine.type_in(&commands, &format!("done-{number}"));
        if info == "runbook 1" {
            first = begin.elapsed();
            let ask = format!(
                "setpriv --reuid=postgres --regid=postgres --clear-groups psql -X -At -h /srv/restored/billing -U postgres -d postgres -c \"{TRUTH}\" > /srv/answer"
            );
            machine.type_in(&ask, "asked");
            let answer = fs_err::read_to_string(machine.root.join("srv/answer")).unwrap();
            assert_eq!(answer.trim(), truth, "the first system runs and is what it was");
        }
    }
    // The register is back too, and our own restore plans from it.
    machine.type_in(
        "kuramori --json restore run billing --direct /etc/kuramori/server.toml --copy vault --from /mnt/vault/store/billing --to /srv/restored/again --yes --verify > /srv/plan",
        "planned",
    );
    let plan = fs_err::read_to_string(machine.root.join("srv/plan")).unwrap();
    assert!(plan.contains("newest-clean") && plan.contains("only-vault"), "{plan}");
    assert!(first < Duration::from_mins(5), "{first:?}");
    eprintln!(
        "first system after {:.1} s of typing, everything after {:.1} s",
        first.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    );
}
