//! SIGKILL at seeded moments, and a disk that is full: what was acknowledged is there.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test may stop it, and says its figures"
)]

mod common;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    sync::Arc,
};

use common::{Engine, House, house, id, on_both_engines, point};
use kuramori_catalog::{Catalog, Database, Place};
use kuramori_model::{
    clock::{SeededRandom, SystemClock},
    fault::Fault,
};

const URL: &str = "KURAMORI_CRASH_CATALOG";

on_both_engines! {
    a_kill_at_any_moment_loses_nothing_that_was_acknowledged,
}

/// The other side of the next test: commits points and says so, until it is killed.
#[tokio::test]
#[ignore = "started by the test below"]
async fn writes_until_it_is_killed() {
    let Ok(url) = std::env::var(URL) else { return };
    let catalog = Catalog::open(url.parse::<Database>().unwrap(), Arc::new(SystemClock)).await.unwrap();
    let mut number = catalog.points(&id("billing"), Place::Primary).await.unwrap().len();
    loop {
        number += 1;
        let point = catalog.commit_point(&point("billing", &format!("{number}"))).await.unwrap();
        println!("\ncommitted {}", point.sequence.0);
    }
}

async fn a_kill_at_any_moment_loses_nothing_that_was_acknowledged(engine: Engine) {
    let House { catalog, dir, .. } = house(engine).await;
    let url = dir.url("catalog");
    catalog.close().await;
    let random = SeededRandom::new(7);
    let mut acknowledged = 0;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writes_until_it_is_killed", "--ignored", "--nocapture"])
            .env(URL, &url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let wanted = 1 + random.below(25);
        let mut seen = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let Ok(line) = line else { break };
            if let Some(number) = line.strip_prefix("committed ") {
                acknowledged = number.parse::<u64>().unwrap();
                seen += 1;
                if seen == wanted {
                    break;
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen, wanted, "round {round}: the writer worked");
        let catalog = Catalog::open(url.parse::<Database>().unwrap(), Arc::new(SystemClock)).await.unwrap();
        let newest = catalog.newest_point(&id("billing"), Place::Primary).await.unwrap().unwrap();
        assert!(newest.sequence.0 >= acknowledged, "round {round}: {newest:?} < {acknowledged}");
        let count = catalog.points(&id("billing"), Place::Primary).await.unwrap().len();
        assert_eq!(count as u64, newest.sequence.0, "round {round}: every number was used once");
        catalog.close().await;
    }
    println!("seed 7: {acknowledged} points acknowledged over 12 kills");
    drop(dir);
}

/// A small file system of its own; root only.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=3m", "kuramori-test"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_nothing_committed_is_lost() {
    let Some(small) = Small::mount() else {
        println!("skipped: mounting needs root");
        return;
    };
    let clock = Arc::new(SystemClock);
    let catalog = Catalog::open(small.0.path().join("catalog.db"), clock.clone()).await.unwrap();
    catalog.add_system(&common::system("billing", "one", 1)).await.unwrap();
    let filler = "x".repeat(20_000);
    let mut events = 0;
    let error = loop {
        match catalog.add_event("test", "fill", None, &serde_json::json!(filler)).await {
            Ok(_) => events += 1,
            Err(error) => break error,
        }
        assert!(events < 1000, "the disk has 3 MiB");
    };
    assert_eq!(error.code(), "catalog.disk-full", "{error:?}");
    catalog.close().await;
    let grown = Command::new("mount").args(["-o", "remount,size=16m"]).arg(small.0.path()).status().unwrap();
    assert!(grown.success());
    let catalog = Catalog::open(small.0.path().join("catalog.db"), clock).await.unwrap();
    assert_eq!(catalog.events(2000).await.unwrap().len(), events);
    catalog.add_event("test", "again", None, &serde_json::json!(1)).await.unwrap();
    catalog.close().await;
}
