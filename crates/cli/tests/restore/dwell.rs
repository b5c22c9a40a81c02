//! A slow attacker through the binary: a ward writes every sheet anew each night, one spoilt sheet a night is
//! nothing among them, so a real inspection finds the attack only after some nights. Then the old generations
//! at the primary are deleted. The vault's clock is moved; nobody waits for nights.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kuramori_model::clock::{Clock, ManualClock, Random, SeededRandom, SystemClock, SystemRandom};
use kuramori_repo::{Cancel, store::FileId};
use kuramori_vault::{Config, Vault};
use serde_json::{Value, json};

use crate::{
    PROGRAM,
    support::{
        Server,
        hospital::{Share, Site, backup, same, until},
        lines, text,
    },
};

/// Enough that one spoilt sheet is less than the share that decides by itself.
const SHEETS: u64 = 210;
/// Nights before the attacker comes.
const QUIET: u64 = 2;
/// From so many spoilt sheets on the sum over the nights decides.
const NIGHTS: u64 = QUIET + 4;

fn sheet(night: u64, number: u64) -> Vec<u8> {
    let row = |row: u64| {
        let pulse = 60 + (night * 7 + number * 3 + row) % 40;
        format!("2026-04-{:02},TEST{number:04}{row:03},120,80,{pulse},異常なし\r\n", 1 + night)
    };
    (0..110).map(row).collect::<String>().into_bytes()
}

/// A vault that is filled from a carried disk, and its enrolment at the server.
fn enrolled(root: &Path, site: &Site, clock: &Arc<ManualClock>) -> (Vault, impl Fn(&[u8]) + use<>) {
    let at = |name: &str| root.join(name).display().to_string();
    let out = root.join("enrolment");
    let listen = site.config().serve.listen;
    let config = format!(
        "[vault]\nname = \"vault\"\nroot = \"{}\"\nstate = \"{}\"\npasswords = \"{}\"\n\
         [primary]\naddress = \"{listen}\"\nca_file = \"{2}/../ca.pem\"\nlogin = \"vault-vault\"\n\
         password_file = \"{2}/../pull.password\"\n[window]\nkeep_free = \"1 MiB\"\n",
        at("vault"),
        at("state"),
        out.join("passwords").display(),
    );
    let file = root.join("vault.toml");
    fs_err::write(&file, config).unwrap();
    // The vault makes its keys before the server knows it.
    let vault = Vault::open(Config::read(&file).unwrap(), clock.clone(), Arc::new(SystemRandom)).unwrap();
    let (_, recipient) = kuramori_server::seal::generate();
    let introduction = json!({ "name": "vault", "report_key": vault.public_key().1.to_string(), "out": out,
                               "recipient": recipient });
    let _: Value = site.client().post("/v1/vaults", &introduction).unwrap();
    let password = fs_err::read_to_string(out.join("report.password")).unwrap();
    let (ca, file) = (out.join("ca.pem"), root.join("report.json"));
    let hand_over = move |report: &[u8]| {
        fs_err::write(&file, report).unwrap();
        let status = Command::new("curl")
            .args(["--silent", "--fail", "--cacert"])
            .arg(&ca)
            .args(["--user", &format!("report-vault:{}", password.trim()), "--data-binary"])
            .arg(format!("@{}", file.display()))
            .arg(format!("https://{listen}/vault-report/snapshots/{}", FileId::of(report)))
            .status()
            .unwrap();
        assert!(status.success());
    };
    (vault, hand_over)
}

/// Puts the primary's times a night apart, as if the nights had passed.
fn spread(site: &Site) {
    let done = Command::new("sqlite3")
        .arg(site.root.join("data/catalog.db"))
        .arg(
            "PRAGMA busy_timeout = 10000; UPDATE points SET received_at = \
             (SELECT MAX(received_at) FROM points WHERE place = 'primary') - 86400000000 * \
             ((SELECT MAX(sequence) FROM points WHERE place = 'primary') - sequence) WHERE place = 'primary'",
        )
        .status()
        .expect("Debian's sqlite3");
    assert!(done.success());
}

fn verdicts(site: &Site, place: &str) -> Vec<String> {
    let points: Vec<Value> =
        site.client().get(&format!("/v1/points?system=ophthalmology&place={place}")).unwrap();
    points.iter().rev().map(|point| point["verdict"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_slow_attacker_is_stepped_back_from_and_the_plan_says_to_where_why_and_what_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let share = Share::start(dir.path());
    let site = Site::new(&dir.path().join("site"), "");
    site.init();
    let _server = Server::start(&site);
    let nights = SignedDuration::from_hours(24 * i64::try_from(NIGHTS - 1).unwrap());
    let begin: Timestamp = SystemClock.now() - nights + SignedDuration::from_mins(90);
    let clock = Arc::new(ManualClock::new(begin));
    let _: Value = site.client().post("/v1/systems", &share.entry("ophthalmology")).unwrap();
    let (vault, hand_over) = enrolled(dir.path(), &site, &clock);
    let last_good = dir.path().join("last-good");

    for night in 0..NIGHTS {
        for number in 0..SHEETS {
            // The ward's program leaves what it cannot open: one more sheet a night.
            let mut bytes = sheet(night, number);
            if night >= QUIET && number < night - QUIET {
                continue;
            }
            if night >= QUIET && number == night - QUIET {
                SeededRandom::new(night).fill(&mut bytes[1024..3072]);
            }
            fs_err::write(share.folder.join(format!("温度板-{number:03}.csv")), bytes).unwrap();
        }
        assert_eq!(backup(&site.client(), "ophthalmology")["state"], "complete");
        vault.seed(&site.config().repositories, &Cancel::default()).unwrap();
        hand_over(&vault.write_report().unwrap());
        let wanted = usize::try_from(night + 1).unwrap();
        until("the report", || (verdicts(&site, "vault").len() == wanted).then_some(()));
        if night + 1 < NIGHTS {
            assert_eq!(verdicts(&site, "vault"), vec!["clean"; wanted], "nobody notices it yet");
        }
        if night + 1 == QUIET {
            assert!(
                Command::new("cp").arg("-a").arg(&share.folder).arg(&last_good).status().unwrap().success()
            );
        }
        clock.advance(Duration::from_hours(24));
    }
    // The last inspection tells of all of them, and the server takes it over.
    let quiet = usize::try_from(QUIET).unwrap();
    let wanted = [vec!["clean"; quiet], vec!["suspect"; 4]].concat();
    assert_eq!(verdicts(&site, "vault"), wanted);
    spread(&site);

    let plan = |language: &str, more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["--lang", language]);
        if language == "en" && more.contains(&"--json") {
            command.arg("--json");
        }
        command.args([
            "restore",
            "plan",
            "ophthalmology",
            "--to",
            text(&dir.path().join("back")),
            "--socket",
        ]);
        command.arg(site.config().socket).args(more.iter().filter(|word| **word != "--json"));
        command.env_remove("SUDO_USER").output().unwrap()
    };
    let points: Vec<Value> = site.client().get("/v1/points?system=ophthalmology&place=primary").unwrap();
    let snapshot = |night: usize| points[points.len() - night]["snapshot"].as_str().unwrap().to_owned();
    let (code, said) = lines(&plan("en", &["--json"]));
    assert_eq!(code, Some(0), "{said:?}");
    let choice = &said[0]["plan"]["choice"];
    assert_eq!(choice["point"]["snapshot"], snapshot(quiet), "the last before the first bad one: {choice}");
    let back = &choice["step_back"];
    assert_eq!((&back["bad"], &back["found_later"]), (&json!(4), &json!(3)), "{back}");
    assert_eq!(back["lost_s"].as_u64().unwrap() / 3600, 96, "four nights: {back}");
    assert_eq!(back["first_bad"], points[points.len() - quiet - 1]["sequence"], "{back}");

    // In plain words, in both languages.
    let said = String::from_utf8(plan("en", &[]).stdout).unwrap();
    for words in ["the last one before it", "3 of them were found clean when they came", "96.0 hours of work"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    let said = String::from_utf8(plan("ja", &[]).stdout).unwrap();
    for words in ["その前の復元点まで戻ります", "うち 3 件は取得した時点の検査では清浄", "96.0 時間分の入力"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }

    // One that was found clean when it came needs a reason now, and the reason is in the history.
    let poisoned = points[points.len() - quiet - 1]["sequence"].to_string();
    let (code, said) = lines(&plan("en", &["--json", "--point", &poisoned]));
    assert_eq!((code, &said[0]["code"]), (Some(5), &json!("drill.needs-reason")), "{said:?}");
    let (code, said) =
        lines(&plan("en", &["--json", "--point", &poisoned, "--reason", "処方の一覧だけを見る"]));
    assert_eq!(code, Some(0), "{said:?}");
    let events: Vec<Value> = site.client().get("/v1/events").unwrap();
    let logged = |kind: &str, text: &str| {
        events.iter().any(|event| event["kind"] == kind && event["data"].to_string().contains(text))
    };
    assert!(logged("restore.planned", "処方の一覧だけを見る"), "{events:?}");
    assert!(logged("points.condemned", &snapshot(quiet + 1)), "{events:?}");

    // The attacker deletes the old generations at the primary: the same point comes from the vault's copy.
    for night in 1..=quiet + 2 {
        let gone = site.repository("ophthalmology").join("snapshots").join(snapshot(night));
        fs_err::remove_file(gone).unwrap();
    }
    let target = dir.path().join("restored");
    let output = Command::new(PROGRAM)
        .args(["--json", "restore", "run", "ophthalmology", "--yes", "--to", text(&target), "--from"])
        .arg(dir.path().join("vault/ophthalmology"))
        .arg("--socket")
        .arg(site.config().socket)
        .env_remove("SUDO_USER")
        .output()
        .unwrap();
    let (code, said) = lines(&output);
    assert_eq!(code, Some(0), "{said:?}");
    let choice = &said[0]["plan"]["choice"];
    assert_eq!(
        (&choice["point"]["copy"], &choice["step_back"]["lost_s"]),
        (&json!("vault"), &back["lost_s"])
    );
    assert!(same(&last_good, &target), "nothing of the attacker came back, and nothing else is missing");
}
