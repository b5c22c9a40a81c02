//! What must last: points in the receiver's order, alarms, notices, time, and the way out and back.

#![expect(clippy::unwrap_used, reason = "a helper of a test may stop it")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Engine, House, house, id, job, on_both_engines, point};
use kuramori_catalog::{Catalog, JumpKind, Place, VaultPoint, VaultReport, Verdict, Window};
use kuramori_model::{
    clock::ManualClock,
    fault::Fault,
    finding::{Finding, Severity},
    ids::{Sequence, WindowId},
};

on_both_engines! {
    order_comes_from_the_receiver_and_a_snapshot_counts_once,
    the_vaults_points_follow_its_reports,
    a_clock_jump_either_way_stops_removals_until_a_person_confirms,
    an_alarm_opens_once_gets_louder_once_and_closes,
    a_notice_is_owed_until_a_target_takes_it,
    an_empty_machine_gets_everything_back,
    a_damaged_export_changes_nothing,
}

async fn order_comes_from_the_receiver_and_a_snapshot_counts_once(engine: Engine) {
    let House { catalog, clock, dir: _dir } = house(engine).await;
    let billing = id("billing");
    let first = catalog.commit_point(&point("billing", "aa")).await.unwrap();
    clock.jump("2020-01-01T00:00:00Z".parse().unwrap());
    let second = catalog.commit_point(&point("billing", "bb")).await.unwrap();
    assert!(second.sequence > first.sequence && second.received < first.received);
    assert_eq!(catalog.commit_point(&point("billing", "aa")).await.unwrap(), first);
    assert_eq!(catalog.newest_point(&billing, Place::Primary).await.unwrap(), Some(second.clone()));
    clock.advance(Duration::from_hours(5));
    let held = catalog.held(&billing, Place::Primary).await.unwrap();
    assert_eq!(held.iter().map(|h| h.age.as_secs() / 3600).collect::<Vec<_>>(), [5, 5]);
    catalog.mark_removed(Place::Primary, &[first.sequence]).await.unwrap();
    assert_eq!(catalog.removed_today(&billing, Place::Primary).await.unwrap(), 1);
    clock.advance(Duration::from_hours(25));
    assert_eq!(catalog.removed_today(&billing, Place::Primary).await.unwrap(), 0);
    assert_eq!(catalog.points(&billing, Place::Primary).await.unwrap(), [second]);
    assert_eq!(catalog.history(&billing, 10).await.unwrap().len(), 2, "the judge still sees it");
}

async fn the_vaults_points_follow_its_reports(engine: Engine) {
    let House { catalog, dir: _dir, .. } = house(engine).await;
    let mut told = VaultPoint {
        system: id("pacs"),
        snapshot: "cc".to_owned(),
        sequence: Sequence(4),
        received: "2026-11-20T02:00:00Z".parse().unwrap(),
        complete: false,
        verdict: Verdict::Unknown,
        bytes: 1,
        files: 1,
        drilled: None,
    };
    catalog.record_vault_point(&told).await.unwrap();
    assert!(catalog.newest_point(&id("pacs"), Place::Vault).await.unwrap().is_none());
    (told.complete, told.verdict) = (true, Verdict::Clean);
    catalog.record_vault_point(&told).await.unwrap();
    let newest = catalog.newest_point(&id("pacs"), Place::Vault).await.unwrap().unwrap();
    assert_eq!((newest.verdict, newest.sequence), (Verdict::Clean, Sequence(4)));
}

async fn a_clock_jump_either_way_stops_removals_until_a_person_confirms(engine: Engine) {
    let House { catalog, clock, dir } = house(engine).await;
    clock.advance(Duration::from_hours(500));
    catalog.tick().await.unwrap();
    catalog.removals_allowed().await.unwrap();
    for (to, kind) in
        [("2036-01-01T00:00:00Z", JumpKind::Forward), ("2026-12-11T00:00:00Z", JumpKind::Backward)]
    {
        let age = catalog.tick().await.unwrap().age;
        clock.jump(to.parse().unwrap());
        assert_eq!(catalog.tick().await.unwrap().age, age, "the wall clock does not age anything");
        assert_eq!(catalog.suspended().await.unwrap().unwrap().kind, kind);
        assert_eq!(catalog.removals_allowed().await.unwrap_err().code(), "catalog.time-suspended");
        assert_eq!(catalog.high_water().await.unwrap(), "2036-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(catalog.confirm_time("sato").await.unwrap(), 1);
        catalog.removals_allowed().await.unwrap();
        if kind == JumpKind::Forward {
            // The confirmation was a mistake; going back is a jump again.
            assert_eq!(catalog.jumps().await.unwrap()[0].confirmed_by.as_deref(), Some("sato"));
        }
    }
    // A restart with a moved clock is found as well, and the time switched off never ages anything.
    let age = catalog.tick().await.unwrap().age;
    catalog.close().await;
    let later = Arc::new(ManualClock::new("2027-06-01T00:00:00Z".parse().unwrap()));
    let catalog = Catalog::open_as_booted(dir.database("catalog"), later, "boot-2").await.unwrap();
    assert_eq!(catalog.suspended().await.unwrap().unwrap().kind, JumpKind::Gap);
    assert_eq!(catalog.tick().await.unwrap().age, age + Duration::from_hours(1), "only the hour since boot");
}

async fn an_alarm_opens_once_gets_louder_once_and_closes(engine: Engine) {
    let House { catalog, dir: _dir, .. } = house(engine).await;
    let billing = id("billing");
    let late = Finding::new("judge.missed", Severity::Warning, "check-source").of(&billing);
    let other = Finding::new("vault.backlog", Severity::Alarm, "open-window").about("vault-1");
    let changes = catalog.reconcile("judge", std::slice::from_ref(&late)).await.unwrap();
    assert_eq!(changes.opened.len(), 1);
    catalog.reconcile("vault", std::slice::from_ref(&other)).await.unwrap();
    let again = catalog.reconcile("judge", &[late.clone(), late.clone()]).await.unwrap();
    assert_eq!(again, kuramori_catalog::AlarmChanges::default());
    let loud = Finding { severity: Severity::Alarm, ..late };
    assert_eq!(catalog.reconcile("judge", &[loud]).await.unwrap().raised.len(), 1);
    assert_eq!(catalog.open_alarms().await.unwrap().len(), 2);
    let gone = catalog.reconcile("judge", &[]).await.unwrap();
    assert_eq!(gone.closed[0].finding.severity, Severity::Alarm);
    let open = catalog.open_alarms().await.unwrap();
    assert_eq!(open[0].finding, other, "another judge's alarm stays");
    assert_eq!(catalog.alarms(Some(&billing), 10).await.unwrap().len(), 1);
}

async fn a_notice_is_owed_until_a_target_takes_it(engine: Engine) {
    let House { catalog, clock, dir } = house(engine).await;
    let now = "2026-11-20T00:00:00Z".parse().unwrap();
    let lease = Duration::from_mins(1);
    assert!(catalog.owe("mail", "alarm-1", &"text", now).await.unwrap());
    assert!(!catalog.owe("mail", "alarm-1", &"text", now).await.unwrap());
    let notice = catalog.next_owed("a", lease).await.unwrap().unwrap();
    assert!(catalog.next_owed("b", lease).await.unwrap().is_none(), "it is being sent");
    let again = "2026-11-20T00:05:00Z".parse().unwrap();
    catalog.unsent(&notice, "no route to host", again).await.unwrap();
    assert!(catalog.next_owed("a", lease).await.unwrap().is_none(), "not yet due");
    clock.advance(Duration::from_mins(6));
    catalog.close().await;
    let catalog = Catalog::open_as_booted(dir.database("catalog"), clock.clone(), "boot-1").await.unwrap();
    let lost = catalog.next_owed("a", lease).await.unwrap().unwrap();
    assert_eq!(lost.owed.last_error.as_deref(), Some("no route to host"));
    clock.advance(Duration::from_mins(2));
    let retaken = catalog.next_owed("b", lease).await.unwrap().unwrap();
    catalog.sent(&lost).await.unwrap();
    assert_eq!(catalog.all_owed().await.unwrap().len(), 1, "the first owner's word does not count any more");
    catalog.sent(&retaken).await.unwrap();
    assert!(catalog.all_owed().await.unwrap().is_empty());
    assert!(catalog.last_sent("mail").await.unwrap().is_some());
}

async fn fill(catalog: &Catalog) {
    catalog.put_secret("repository/billing", &[0, 255, 7]).await.unwrap();
    catalog.set_setting("hospital", &"蔵守病院").await.unwrap();
    catalog.enqueue(&job("billing")).await.unwrap();
    catalog.claim("a", Duration::from_mins(2)).await.unwrap().unwrap();
    catalog.commit_point(&point("billing", "aa")).await.unwrap();
    let at = "2026-11-20T02:00:00Z".parse().unwrap();
    let window = Window {
        vault: "vault-1".to_owned(),
        id: WindowId(3),
        purpose: "pull".to_owned(),
        opened: at,
        closed: Some(at),
        commanded: Some(Duration::from_millis(41_250)),
        actuator: None,
        probe: None,
        bytes: 9,
        closed_verified: Some(true),
        outcome: "complete".to_owned(),
        detail: serde_json::json!({}),
    };
    catalog.record_window(&window).await.unwrap();
    let report = VaultReport {
        vault: "vault-1".to_owned(),
        number: 1,
        made: at,
        received: at,
        verified: true,
        body: serde_json::json!({"ok": true}),
    };
    assert!(catalog.record_report(&report).await.unwrap());
    assert!(!catalog.record_report(&report).await.unwrap());
    catalog.add_event("scheduler", "run.queued", Some(&id("billing")), &serde_json::json!({})).await.unwrap();
    catalog
        .reconcile("judge", &[Finding::new("judge.empty", Severity::Alarm, "check-source")])
        .await
        .unwrap();
    catalog.owe("mail", "alarm-1", &"text", at).await.unwrap();
    catalog.beat("scheduler", &serde_json::json!({"queued": 1})).await.unwrap();
}

async fn an_empty_machine_gets_everything_back(engine: Engine) {
    let House { catalog, clock, dir } = house(engine).await;
    fill(&catalog).await;
    let (one, two) = (dir.path().join("one.jsonl"), dir.path().join("two.jsonl"));
    let wrote = catalog.export(&one).await.unwrap();
    catalog.export(&two).await.unwrap();
    let text = fs_err::read_to_string(&one).unwrap();
    assert_eq!(text, fs_err::read_to_string(&two).unwrap(), "equal content is equal bytes");
    assert_eq!(wrote.bytes, text.len() as u64);
    assert!(!dir.path().join("one.partial").exists());

    clock.advance(Duration::from_hours(8));
    let new = dir.database("new");
    let restored = Catalog::import(&one, &new, clock.clone()).await.unwrap();
    assert_eq!(restored.systems().await.unwrap(), catalog.systems().await.unwrap());
    assert_eq!(restored.secret("repository/billing").await.unwrap(), [0, 255, 7]);
    assert_eq!(restored.setting::<String>("hospital").await.unwrap().unwrap(), "蔵守病院");
    assert_eq!(restored.windows(None, 9).await.unwrap(), catalog.windows(Some("vault-1"), 9).await.unwrap());
    assert_eq!(
        restored.newest_report("vault-1").await.unwrap(),
        catalog.newest_report("vault-1").await.unwrap()
    );
    assert_eq!(restored.events_after(0, 9).await.unwrap(), catalog.events(9).await.unwrap());
    assert_eq!(restored.heartbeats().await.unwrap()[0].name, "scheduler");
    let points = restored.points(&id("billing"), Place::Primary).await.unwrap();
    assert_eq!(points, catalog.points(&id("billing"), Place::Primary).await.unwrap());
    let run = &restored.runs(&kuramori_catalog::RunFilter::default()).await.unwrap()[0];
    assert_eq!(run.error_code.as_deref(), Some("catalog.rebuilt"));
    let next = restored.commit_point(&point("billing", "bb")).await.unwrap();
    assert!(next.sequence > points[0].sequence, "numbers go on");
    assert_eq!(restored.held(&id("billing"), Place::Primary).await.unwrap()[0].age, Duration::ZERO);
    restored.removals_allowed().await.unwrap();
    restored.close().await;
    assert_eq!(Catalog::import(&one, &new, clock).await.unwrap_err().code(), "catalog.not-empty");
}

async fn a_damaged_export_changes_nothing(engine: Engine) {
    let House { catalog, clock, dir } = house(engine).await;
    fill(&catalog).await;
    let good = dir.path().join("good.jsonl");
    catalog.export(&good).await.unwrap();
    let text = fs_err::read_to_string(&good).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let without = |n: usize| [&lines[..n], &lines[n + 1..]].concat().join("\n");
    let cases = [
        String::new(),
        without(0),
        without(lines.len() - 1),
        without(4),
        text.replace("\"table\":\"systems\"", "\"table\":\"sqlite_master\""),
        text.replace("\"name_ja\"", "\"name_ja) --\""),
        text.replace("\"protection\":\"important\"", "\"protection\":\"great\""),
        text[..text.len() / 2].to_owned(),
    ];
    let bad = dir.path().join("bad.jsonl");
    let database = dir.database("new");
    for (n, case) in cases.iter().enumerate() {
        fs_err::write(&bad, case).unwrap();
        let error = Catalog::import(&bad, &database, clock.clone()).await.unwrap_err();
        assert_eq!(error.code(), "catalog.bad-export", "case {n}: {error}");
    }
    fs_err::write(&bad, text.replacen("\"migration\":3", "\"migration\":99", 1)).unwrap();
    assert_eq!(Catalog::import(&bad, &database, clock.clone()).await.unwrap_err().code(), "catalog.newer");
    Catalog::import(&good, &database, clock).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let rubbish = vec![b'x'; 8192];
    fs_err::write(&path, &rubbish).unwrap();
    let clock = Arc::new(ManualClock::new("2026-11-20T00:00:00Z".parse().unwrap()));
    let error = Catalog::open(&path, clock).await.unwrap_err();
    assert_eq!(error.code(), "catalog.damaged");
    assert!(error.to_string().contains("catalog.db"), "{error}");
    assert_eq!(fs_err::read(&path).unwrap(), rubbish);
}
