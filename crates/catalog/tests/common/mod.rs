//! A catalog with three systems on two departmental servers, and a clock that the test moves.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its own part, and may stop")]

pub(crate) mod postgres;

use std::{path::Path, sync::Arc};

use kuramori_catalog::{Catalog, Database, NewPoint, NewRun, Reason, RunKind, System, Writer};
use kuramori_judge::{expect::Expectations, facts::RunFacts, retention::Retention, schedule::Schedule};
use kuramori_model::{
    class::{DataClass, Protection},
    clock::ManualClock,
    ids::SystemId,
};
use postgres::Postgres;
use tempfile::TempDir;

/// On which engine a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// Runs each of these on both engines.
macro_rules! on_both_engines {
    ($($name:ident,)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::common::Engine::Sqlite).await; })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::common::Engine::Postgres).await; })*
        }
    };
}
#[allow(unused_imports, reason = "each test file uses its own part")]
pub(crate) use on_both_engines;

/// Where the catalogs of a test lie.
pub(crate) struct Place {
    // First, so that the server has ended when its folder goes.
    pub(crate) postgres: Option<Postgres>,
    temp: TempDir,
}

impl Place {
    pub(crate) fn new(engine: Engine) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let postgres = (engine == Engine::Postgres).then(|| Postgres::start(temp.path()));
        Self { postgres, temp }
    }

    pub(crate) fn path(&self) -> &Path {
        self.temp.path()
    }

    /// The URL of a database of this engine; made if it is not there.
    pub(crate) fn url(&self, name: &str) -> String {
        let Some(postgres) = &self.postgres else {
            return format!("sqlite:{}", self.path().join(name).with_extension("db").display());
        };
        let known = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
        if postgres.sql("postgres", &known) == "0" {
            postgres.sql("postgres", &format!("CREATE DATABASE {name}"));
        }
        postgres.url(name)
    }

    pub(crate) fn database(&self, name: &str) -> Database {
        self.url(name).parse().unwrap()
    }
}

pub(crate) struct House {
    pub(crate) dir: Place,
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

pub(crate) async fn house(engine: Engine) -> House {
    let dir = Place::new(engine);
    let clock = Arc::new(ManualClock::new("2026-11-20T00:00:00Z".parse().unwrap()));
    let catalog = Catalog::open_as_booted(dir.database("catalog"), clock.clone(), "boot-1").await.unwrap();
    for (order, (name, server)) in [("billing", "one"), ("claims", "one"), ("pacs", "two")].iter().enumerate()
    {
        catalog.add_system(&system(name, server, u32::try_from(order).unwrap() + 1)).await.unwrap();
    }
    House { dir, clock, catalog }
}
