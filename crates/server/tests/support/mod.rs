//! A hospital's facts as the console would gather them, made by hand.
#![allow(clippy::unwrap_used, reason = "a helper of a test may stop it")]
#![allow(dead_code, reason = "each test file uses its own part")]

use std::{future::Future, pin::Pin};

use jiff::{SignedDuration, Timestamp};
use kuramori_drill::runbook::Answer;
use kuramori_model::{
    class::Protection,
    finding::{Finding, Severity, Value},
    ids::{RunId, SystemId},
    units::Bytes,
};
use kuramori_server::{
    config::Language,
    console::Facts,
    facts::{
        Alarm, Drill, Gate, LastRun, Look, Notices, Point, Report, Running, SCHEMA, Seen, State, Status,
        System, Window, verdict::verdict,
    },
    lang::Catalogue,
};

pub(crate) const NOW: &str = "2026-11-22T00:12:00Z";

pub(crate) fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn ago(minutes: i64) -> Timestamp {
    now() - SignedDuration::from_mins(minutes)
}

pub(crate) fn point(minutes: i64, gib: u64) -> Point {
    Point {
        sequence: 40,
        received: ago(minutes),
        bytes: Bytes(gib << 30),
        snapshot: "ab".repeat(32),
        verdict: "clean".into(),
    }
}

pub(crate) fn system(id: &str, ja: &str, en: &str, order: u32, state: State, age: i64) -> System {
    System {
        id: SystemId::new(id).unwrap(),
        name_ja: ja.into(),
        name_en: en.into(),
        protection: if order == 1 { Protection::Critical } else { Protection::Important },
        restore_order: order,
        state,
        primary: Some(point(age, 12 * u64::from(order))),
        vault: Some(point(age + 34, 12 * u64::from(order))),
        rpo_s: 24 * 3600,
        rpo_actual_s: Some(u64::try_from(age).unwrap() * 60),
        next_due: Some(now() + SignedDuration::from_hours(16)),
        last_run: Some(LastRun {
            run: RunId(17),
            state: if state == State::Failed { "failed" } else { "complete" }.into(),
            ended: Some(ago(age.min(420))),
            error_code: (state == State::Failed).then(|| "source.refused".into()),
            error: (state == State::Failed).then(|| "10.77.4.2:445 does not answer".into()),
        }),
        foreign: None,
        drill: (order < 3).then(|| Drill {
            number: 70 + u64::from(order),
            at: ago(2000),
            passed: order == 1,
            rto_s: 250.0,
            target_s: 4 * 3600,
            met: order == 1,
        }),
    }
}

/// Three systems, all well.
pub(crate) fn good() -> Status {
    let systems = vec![
        system("billing", "医事会計", "Billing", 1, State::Ok, 430),
        system("pacs", "画像診断(PACS)", "PACS", 2, State::Ok, 415),
        system("ophthalmology", "眼科", "Ophthalmology", 3, State::Ok, 424),
    ];
    let gate = Gate {
        probe: Some(Look {
            seen: Seen::Closed,
            source: "probe from the production side".into(),
            detail: "no answer (TCP, 1 s)".into(),
            answered: Vec::new(),
            at: now() - SignedDuration::from_secs(3),
            stale_after_s: 30,
        }),
        port: Some(Look {
            seen: Seen::Closed,
            source: "SNMP sw port2".into(),
            answered: Vec::new(),
            detail: "ifAdminStatus 2 (down), ifOperStatus 2 (down)".into(),
            at: now() - SignedDuration::from_secs(4),
            stale_after_s: 30,
        }),
    };
    let report = Some(Report {
        vault: "vault".into(),
        number: 128,
        made: ago(377),
        received: ago(377),
        verified: true,
        due_s: 26 * 3600,
    });
    let windows = (0..4)
        .map(|n| Window {
            id: 131 - n,
            purpose: "pull".into(),
            opened: ago(384 + 1440 * i64::try_from(n).unwrap()),
            closed: Some(ago(377)),
            commanded_s: Some(61.25),
            actuator_s: Some(62.5),
            probe_s: Some(62.0),
            bytes: Bytes(21 << 30),
            closed_verified: Some(true),
            outcome: String::new(),
        })
        .collect();
    let mut status = Status {
        schema: SCHEMA,
        at: now(),
        hospital: "湊総合病院".into(),
        verdict: verdict(now(), &systems, &gate, report.as_ref()),
        systems,
        gate,
        report,
        windows,
        running: Vec::new(),
        alarms: Vec::new(),
        notices: Notices { mail: true, failing: 0, last_error: None, last_heartbeat: Some(ago(102)) },
        answer: Answer {
            systems: 3,
            back_to: Some(ago(464)),
            oldest: Some("billing".into()),
            seconds: Some(8130.0),
            lost: Vec::new(),
            unmeasured: vec!["ophthalmology".into()],
        },
        upkeep: Vec::new(),
    };
    judge(&mut status);
    status
}

/// One late with an alarm, one failed, one running, the report late, the switch silent.
pub(crate) fn bad() -> Status {
    let mut status = good();
    status.systems[1] = system("pacs", "画像診断(PACS)", "PACS", 2, State::Late, 1915);
    status.systems[2] = system("ophthalmology", "眼科", "Ophthalmology", 3, State::Failed, 1864);
    status.systems[2].vault = None;
    status.gate.port.as_mut().unwrap().at = ago(9);
    status.running.push(Running {
        run: RunId(18),
        system: SystemId::new("billing").unwrap(),
        state: "running".into(),
        phase: "reading".into(),
        since: ago(4),
        bytes: Bytes(5 << 30),
        bytes_total: Some(Bytes(12 << 30)),
        items: 800,
        items_total: None,
    });
    status.running.push(Running {
        run: RunId(19),
        state: "queued".into(),
        bytes_total: None,
        ..status.running[0].clone()
    });
    let pacs = SystemId::new("pacs").unwrap();
    status.alarms.push(Alarm {
        id: 3,
        finding: Finding::new("judge.missed", Severity::Alarm, "check-source").of(&pacs),
        opened: ago(95),
        taken_by: None,
        notified: Some(ago(95)),
    });
    status.alarms.push(Alarm {
        id: 4,
        finding: Finding::new("judge.small", Severity::Warning, "check-source")
            .of(&pacs)
            .with("bytes", Value::Number(7)),
        opened: ago(15),
        taken_by: None,
        notified: None,
    });
    status.notices.failing = 2;
    status.notices.last_error = Some("10.77.5.2:25 <refused> the connection".into());
    status.windows[0].closed_verified = Some(false);
    status.windows[1].probe_s = None;
    judge(&mut status);
    status
}

/// Nothing registered, nothing set up.
pub(crate) fn empty() -> Status {
    let mut status = good();
    status.systems.clear();
    status.windows.clear();
    status.gate = Gate::default();
    status.report = None;
    status.answer = Answer::default();
    status.notices = Notices::default();
    judge(&mut status);
    status
}

pub(crate) fn judge(status: &mut Status) {
    status.verdict = verdict(status.at, &status.systems, &status.gate, status.report.as_ref());
}

/// Facts that stand still.
#[derive(Debug)]
pub(crate) struct Fixed(pub(crate) Option<Status>);

impl Facts for Fixed {
    fn status(&self) -> Pin<Box<dyn Future<Output = Result<Status, String>> + Send + '_>> {
        Box::pin(async { self.0.clone().ok_or_else(|| "secret path /var/lib/kuramori".to_owned()) })
    }

    fn word(&self, finding: &Finding, _: &[System], catalogue: &Catalogue) -> (String, String) {
        match catalogue.language {
            Language::Ja => (
                format!("画像診断(PACS)のバックアップが期限までに取れていません <{}>", finding.code),
                "送信元のサーバーを確認し、`kuramori backup run pacs` を実行してください。".to_owned(),
            ),
            Language::En => (
                format!("PACS has no backup by its deadline <{}>", finding.code),
                "Check the source and run `kuramori backup run pacs`.".to_owned(),
            ),
        }
    }
}
