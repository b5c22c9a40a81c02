//! A catalog with three systems on two departmental servers, and a clock that the test moves.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its own part, and may stop")]

use std::sync::Arc;

use kuramori_catalog::{Catalog, NewPoint, NewRun, Reason, RunKind, System, Writer};
use kuramori_judge::{expect::Expectations, facts::RunFacts, retention::Retention, schedule::Schedule};
use kuramori_model::{
    class::{DataClass, Protection},
    clock::ManualClock,
    ids::SystemId,
};
use tempfile::TempDir;

pub(crate) struct House {
    pub(crate) dir: TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) catalog: Catalog,
}

pub(crate) fn id(name: &str) -> SystemId {
    SystemId::new(name).unwrap()
}

pub(crate) fn system(name: &str, server: &str, order: u32) -> System {
    System {
        id: id(name),
        name_ja: format!("部門 {name}"),
        name_en: format!("Department {name}"),
        owner: "医療情報部 佐藤".to_owned(),
        vendor: "架空医療システムズ".to_owned(),
        contact: "03-0000-0000".to_owned(),
        protection: Protection::Important,
        data: DataClass::Other,
        rpo_s: 86_400,
        rto_s: 4 * 3600,
        restore_order: order,
        server: server.to_owned(),
        writer: Writer::Kuramori,
        source: serde_json::json!({"smb": {"share": "dump"}}),
        schedule: Schedule::nightly("0 1 * * *"),
        retention: Retention::default(),
        expect: Expectations::default(),
        enabled: true,
    }
}

pub(crate) fn job(name: &str) -> NewRun {
    NewRun { system: id(name), kind: RunKind::Backup, reason: Reason::Manual, due: None }
}

pub(crate) fn point(name: &str, snapshot: &str) -> NewPoint {
    NewPoint {
        system: id(name),
        snapshot: snapshot.to_owned(),
        run: None,
        complete: true,
        facts: RunFacts { bytes: 7, files: 1, ..RunFacts::default() },
    }
}

pub(crate) async fn house() -> House {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new("2026-11-20T00:00:00Z".parse().unwrap()));
    let catalog =
        Catalog::open_as_booted(&dir.path().join("catalog.db"), clock.clone(), "boot-1").await.unwrap();
    for (order, (name, server)) in [("billing", "one"), ("claims", "one"), ("pacs", "two")].iter().enumerate()
    {
        catalog.add_system(&system(name, server, u32::try_from(order).unwrap() + 1)).await.unwrap();
    }
    House { dir, clock, catalog }
}
