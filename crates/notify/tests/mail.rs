//! Notices against a real SMTP server that writes a Maildir.

#![expect(clippy::unwrap_used, reason = "a helper of a test may stop it")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use jiff::Timestamp;
use kuramori_model::{
    fault::{Fault, Kind},
    finding::{Finding, Severity, Value},
    ids::{RunId, SystemId},
};
use kuramori_notify::{
    Item, Language, Notice, Notify, NotifyError, Occasion, Security, Smtp, Target, TargetState, deliver,
    next_try, route, speechless,
};
use tempfile::TempDir;

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(dir: &Path, port: u16, mode: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server.py");
        let mut child = Command::new("/usr/bin/python3")
            .arg(script)
            .arg(dir.join("mail"))
            .arg(port.to_string())
            .args(mode)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Debian's python3-aiosmtpd is needed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("the server listens (Debian: python3-aiosmtpd)");
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn target(port: u16) -> Target {
    Target {
        name: "office".to_owned(),
        language: Language::Both,
        smtp: Smtp {
            host: "127.0.0.1".to_owned(),
            port: Some(port),
            security: Security::Plain,
            ca: None,
            certificate_name: None,
            login: None,
            from: "蔵守 <kuramori@hospital.example>".to_owned(),
            to: vec!["duty@hospital.example".to_owned(), "chief@hospital.example".to_owned()],
            timeout_s: 20,
        },
    }
}

fn house(targets: Vec<Target>) -> Notify {
    Notify {
        hospital: "蔵守病院".to_owned(),
        zone: "Asia/Tokyo".to_owned(),
        console: Some("https://kuramori.hospital.example/".to_owned()),
        digest_over: 3,
        targets,
        matchers: Vec::new(),
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn missed(system: &str, severity: Severity) -> Item {
    let finding = Finding::new("judge.missed", severity, "check-job")
        .of(&SystemId::new(system).unwrap())
        .with("due", at("2026-11-21T16:00:00Z"))
        .with("deadline", at("2026-11-21T20:00:00Z"))
        .seen_in(RunId(12));
    Item {
        finding,
        opened: at("2026-11-21T20:00:30Z"),
        closed: None,
        name_ja: "医事会計".to_owned(),
        name_en: "Billing".to_owned(),
    }
}

fn alarm() -> Notice {
    Notice::of_alarm(12, Occasion::Opened, at("2026-11-21T20:00:31Z"), missed("billing", Severity::Alarm))
}

/// What Python's own mail reader makes of each mail in the Maildir: headers and text.
fn mails(dir: &Path) -> Vec<BTreeMap<String, String>> {
    let script = "import sys, json, mailbox, email, email.policy\n\
        box = mailbox.Maildir(sys.argv[1], factory=lambda f: email.message_from_binary_file(f, policy=email.policy.default))\n\
        out = [dict({k.lower(): str(v) for k, v in m.items()}, body=m.get_content()) for m in box]\n\
        print(json.dumps(sorted(out, key=lambda m: m['message-id'])))";
    let output =
        Command::new("/usr/bin/python3").args(["-c", script]).arg(dir.join("mail")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn an_alarm_names_system_and_next_action_in_both_languages_and_its_end_lies_below_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 0, &["plain"]);
    let target = target(server.port);
    let house = house(vec![target.clone()]);
    deliver(&house, &target, &alarm()).await.unwrap();
    let mut over = missed("billing", Severity::Alarm);
    over.closed = Some(at("2026-11-21T22:00:00Z"));
    deliver(&house, &target, &Notice::of_alarm(12, Occasion::Recovered, at("2026-11-21T22:00:01Z"), over))
        .await
        .unwrap();
    let mails = mails(dir.path());
    let [closed, opened] = &mails[..] else { panic!("two mails: {mails:?}") };
    assert_eq!(opened["message-id"], "<alarm-12.opened.office@hospital.example>");
    assert_eq!(closed["in-reply-to"], opened["message-id"]);
    assert_eq!(
        opened["subject"],
        "[蔵守] 警報: 医事会計 (billing) バックアップ未取得 / [Kuramori] Alarm: Billing (billing) no backup"
    );
    assert_eq!(opened["date"], "Sat, 21 Nov 2026 20:00:31 +0000");
    for text in [
        "医事会計 (billing) のバックアップが、期限(2026-11-22 05:00 JST)までに取得されませんでした。",
        "次の対応: サーバーと部門システムの間の通信",
        "No backup of Billing (billing) was taken by the deadline (2026-11-22 05:00 JST).",
        "Next action: Check the network",
        "run-12, judge.missed",
        "https://kuramori.hospital.example/",
    ] {
        assert!(opened["body"].contains(text), "{text} in {}", opened["body"]);
    }
    assert!(closed["body"].contains("次の異常は解消しました"));
    assert!(!closed["body"].contains("次の対応"), "nothing is to be done any more");
}

#[tokio::test]
async fn a_server_that_goes_away_gets_the_notice_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 0, &["plain"]);
    let port = server.port;
    drop(server);
    let target = target(port);
    let house = house(vec![target.clone()]);
    let error = deliver(&house, &target, &alarm()).await.unwrap_err();
    assert_eq!((error.code(), error.kind(), error.permanent()), ("notify.away", Kind::Retry, false));
    let server = Server::start(dir.path(), port, &["plain"]);
    deliver(&house, &target, &alarm()).await.unwrap();
    assert_eq!(mails(dir.path()).len(), 1);
    drop(server);
    let server = Server::start(dir.path(), 0, &["refuse"]);
    let error = deliver(&house, &self::target(server.port), &alarm()).await.unwrap_err();
    assert_eq!((error.code(), error.permanent()), ("notify.refused", true));
    let server = Server::start(dir.path(), 0, &["later"]);
    let error = deliver(&house, &self::target(server.port), &alarm()).await.unwrap_err();
    assert_eq!((error.code(), error.permanent()), ("notify.later", false));
}

struct Authority {
    ca: PathBuf,
    certificate: String,
    key: String,
}

fn authority(dir: &Path, name: &str) -> Authority {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = parameters.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&parameters, &ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf =
        rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let path = |file: &str| dir.join(file);
    fs_err::write(path("ca.pem"), ca.pem()).unwrap();
    fs_err::write(path("leaf.pem"), leaf.pem()).unwrap();
    fs_err::write(path("key.pem"), key.serialize_pem()).unwrap();
    let text = |file: &str| path(file).to_str().unwrap().to_owned();
    Authority { ca: path("ca.pem"), certificate: text("leaf.pem"), key: text("key.pem") }
}

#[tokio::test]
async fn tls_and_starttls_believe_the_hospitals_own_ca_and_no_other() {
    for (mode, security) in [("tls", Security::Tls), ("starttls", Security::StartTls)] {
        let dir = tempfile::tempdir().unwrap();
        let own = authority(dir.path(), "mail.hospital.example");
        let server = Server::start(dir.path(), 0, &[mode, &own.certificate, &own.key]);
        let mut target = target(server.port);
        target.smtp.security = security;
        target.smtp.certificate_name = Some("mail.hospital.example".to_owned());
        let house = house(vec![target.clone()]);
        for (ca, name) in [(None, "mail.hospital.example"), (Some(own.ca.clone()), "other.example")] {
            target.smtp.ca = ca;
            target.smtp.certificate_name = Some(name.to_owned());
            let error = deliver(&house, &target, &alarm()).await.unwrap_err();
            assert_eq!(error.code(), "notify.tls", "{mode}: {error:?}");
        }
        let strangers = TempDir::new().unwrap();
        target.smtp.certificate_name = Some("mail.hospital.example".to_owned());
        target.smtp.ca = Some(authority(strangers.path(), "mail.hospital.example").ca);
        assert_eq!(deliver(&house, &target, &alarm()).await.unwrap_err().code(), "notify.tls");
        target.smtp.ca = Some(own.ca.clone());
        deliver(&house, &target, &alarm()).await.unwrap();
        assert_eq!(mails(dir.path()).len(), 1);
    }
}

#[tokio::test]
async fn a_wrong_configuration_is_named() {
    let mut bad = target(25);
    bad.smtp.from = "nobody".to_owned();
    let config = house(vec![bad.clone()]);
    assert!(matches!(deliver(&config, &bad, &alarm()).await, Err(NotifyError::BadAddress { .. })));
    let mut bad = target(25);
    bad.smtp.to.clear();
    assert_eq!(deliver(&config, &bad, &alarm()).await.unwrap_err().code(), "notify.no-reader");
    let dir = tempfile::tempdir().unwrap();
    let mut bad = target(25);
    bad.smtp.security = Security::Tls;
    bad.smtp.ca = Some(dir.path().join("ca.pem"));
    assert_eq!(deliver(&config, &bad, &alarm()).await.unwrap_err().code(), "notify.file");
    fs_err::write(dir.path().join("ca.pem"), "not a certificate").unwrap();
    assert_eq!(deliver(&config, &bad, &alarm()).await.unwrap_err().code(), "notify.bad-ca");
    let json = r#"{"hospital":"x","targets":[]}"#;
    assert!(serde_json::from_str::<Notify>(json).unwrap_err().to_string().contains("targets"));
}

#[tokio::test]
async fn daily_test_and_digest_mails_are_read_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 0, &["plain"]);
    let mut target = target(server.port);
    target.language = Language::Ja;
    let house = house(vec![target.clone()]);
    let now = at("2026-11-22T00:00:00Z");
    let figures = BTreeMap::from([("systems".to_owned(), Value::Number(3))]);
    let many: Vec<Notice> = (1..=5)
        .map(|n| Notice::of_alarm(n, Occasion::Opened, now, missed(&format!("s{n}"), Severity::Alarm)))
        .collect();
    let outgoing = route(&house, &many);
    assert_eq!(outgoing.len(), 1);
    for notice in [
        Notice::daily("2026-11-22", now, Vec::new(), figures),
        Notice::test(1, now, "sato"),
        outgoing[0].notice.clone(),
    ] {
        deliver(&house, &target, &notice).await.unwrap();
    }
    let mails = mails(dir.path());
    let subjects: Vec<&str> = mails.iter().map(|mail| mail["subject"].as_str()).collect();
    assert_eq!(
        subjects,
        [
            "[蔵守] 定時連絡: 異常なし",
            "[蔵守] まとめ 5 件: 医事会計 (s1) バックアップ未取得 ほか",
            "[蔵守] 通知の試験"
        ]
    );
    assert!(mails[0]["body"].contains("登録システム: 3") && !mails[0]["body"].contains("Daily"));
    assert_eq!(mails[1]["body"].matches("次の対応").count(), 5);
}

#[test]
fn a_rule_sends_each_finding_where_it_belongs() {
    let mut pacs = target(25);
    "pacs-vendor".clone_into(&mut pacs.name);
    let mut config = house(vec![target(25), pacs]);
    let now = at("2026-11-22T00:00:00Z");
    let notice =
        |n, system: &str, severity| Notice::of_alarm(n, Occasion::Opened, now, missed(system, severity));
    let all = [
        notice(1, "billing", Severity::Alarm),
        notice(2, "pacs", Severity::Warning),
        notice(3, "pacs", Severity::Info),
        Notice::daily("2026-11-22", now, Vec::new(), BTreeMap::new()),
    ];
    let names =
        |config: &Notify| -> Vec<String> { route(config, &all).into_iter().map(|o| o.dedup).collect() };
    assert_eq!(names(&config).len(), 6, "without rules everything from warning on goes to everybody");
    config.matchers = serde_json::from_str(
        r#"[{"target":"office","from":"alarm"},
            {"target":"pacs-vendor","systems":["pacs"],"codes":["judge."],"daily":false}]"#,
    )
    .unwrap();
    assert_eq!(
        names(&config),
        ["office/alarm-1.opened", "office/daily-2026-11-22", "pacs-vendor/alarm-2.opened"]
    );
}

#[test]
fn not_being_able_to_speak_is_a_finding() {
    let (now, since) = (at("2026-11-22T12:00:00Z"), at("2026-11-20T00:00:00Z"));
    let codes = |config: &Notify, states: &[TargetState]| -> Vec<String> {
        speechless(config, now, since, states).into_iter().map(|f| f.code).collect()
    };
    assert_eq!(codes(&house(Vec::new()), &[]), ["notify.no-target"]);
    let config = house(vec![target(25)]);
    let mut state = TargetState {
        name: "office".to_owned(),
        last_ok: Some(at("2026-11-22T00:00:00Z")),
        failing_since: None,
        error: None,
    };
    assert!(codes(&config, std::slice::from_ref(&state)).is_empty());
    state.failing_since = Some(at("2026-11-22T11:50:00Z"));
    assert!(codes(&config, std::slice::from_ref(&state)).is_empty(), "not yet");
    state.failing_since = Some(at("2026-11-22T11:40:00Z"));
    assert_eq!(codes(&config, std::slice::from_ref(&state)), ["notify.target-fails", "notify.speechless"]);
    state.failing_since = None;
    state.last_ok = Some(at("2026-11-21T09:00:00Z"));
    assert_eq!(codes(&config, &[state]).len(), 2, "the daily mail did not go either");
    assert_eq!(codes(&config, &[]).len(), 2, "never since it was set up");
}

#[test]
fn tries_come_slower_but_never_stop() {
    let now = at("2026-11-22T00:00:00Z");
    let minutes = |attempts| next_try(now, attempts, false).duration_since(now).as_mins();
    assert_eq!([1, 2, 3, 5, 6, 40, u32::MAX].map(minutes), [1, 2, 4, 16, 30, 30, 30]);
    assert_eq!(next_try(now, 1, true).duration_since(now).as_mins(), 60);
}
