//! Locks, beside restic's own.

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use kuramori_model::{
    clock::ManualClock,
    fault::{Exit, Fault},
};
use kuramori_repo::{Context, Error, Repository, lock::LockMode, store::FileKind};

use crate::common::{Place, restic, secret};

#[test]
fn restic_and_we_respect_each_others_locks() {
    let place = Place::new();
    let repo = place.create();
    let shared = repo.lock(LockMode::Shared, Duration::ZERO).unwrap();
    repo.lock(LockMode::Shared, Duration::ZERO).unwrap();
    let error = repo.lock(LockMode::Exclusive, Duration::ZERO).unwrap_err();
    assert_eq!((error.code(), error.exit()), ("repo.locked", Exit::Locked));
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    let refused = restic(&place.repo(), &["prune"]).unwrap_err();
    assert!(refused.contains("locked"), "{refused}");
    drop(shared);
    restic(&place.repo(), &["prune"]).unwrap();
    let exclusive = repo.lock(LockMode::Exclusive, Duration::ZERO).unwrap();
    assert!(repo.lock(LockMode::Shared, Duration::ZERO).is_err());
    assert!(restic(&place.repo(), &["stats"]).is_err());
    drop(exclusive);
    assert_eq!(repo.list(FileKind::Lock).unwrap(), []);
}

#[test]
fn what_a_dead_process_of_this_machine_left_is_removed_and_a_foreign_one_is_not() {
    let place = Place::new();
    let repo = place.create();
    let leave = |hostname: &str| {
        let context = Context { hostname: hostname.to_owned(), ..Context::system() };
        let other = Repository::open(place.store(), &secret(), context).unwrap();
        let guard = other.lock(LockMode::Exclusive, Duration::ZERO).unwrap();
        let name = place.repo().join("locks").join(guard.id().to_string());
        let bytes = fs_err::read(&name).unwrap();
        drop(guard);
        fs_err::write(name, bytes).unwrap();
    };
    // Our own process id with nobody behind it, as after a restart in a container.
    leave(&Context::system().hostname);
    drop(repo.lock(LockMode::Exclusive, Duration::ZERO).unwrap());
    assert_eq!(repo.list(FileKind::Lock).unwrap(), []);
    leave("another-host");
    assert!(
        matches!(repo.lock(LockMode::Shared, Duration::ZERO), Err(Error::Locked { holder }) if holder.contains("another-host"))
    );
    assert_eq!(repo.remove_all_locks().unwrap(), 1);
    // A lock of restic itself, killed.
    let mut restic = Command::new("restic")
        .args(["--no-cache", "backup", "--stdin", "-r"])
        .arg(place.repo())
        .env("RESTIC_PASSWORD", crate::common::PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let input = restic.stdin.take();
    while repo.list(FileKind::Lock).unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let error = repo.lock(LockMode::Exclusive, Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains(&restic.id().to_string()), "{error}");
    restic.kill().unwrap();
    restic.wait().unwrap();
    drop(input);
    assert_eq!(repo.list(FileKind::Lock).unwrap().len(), 1);
    drop(repo.lock(LockMode::Exclusive, Duration::ZERO).unwrap());
    assert_eq!(repo.list(FileKind::Lock).unwrap(), []);
}

#[test]
fn a_lock_is_renewed_and_a_lost_one_stops_the_writer() {
    let place = Place::new();
    place.create();
    let clock = Arc::new(ManualClock::new("2026-03-01T00:00:00Z".parse().unwrap()));
    let context = Context { clock: Arc::<ManualClock>::clone(&clock), ..Context::system() };
    let repo = Repository::open(place.store(), &secret(), context).unwrap();
    let guard = repo.lock(LockMode::Shared, Duration::ZERO).unwrap();
    let first = guard.id();
    clock.advance(Duration::from_mins(6));
    while guard.id() == first {
        std::thread::sleep(Duration::from_millis(20));
    }
    guard.check().unwrap();
    let listed = repo.list(FileKind::Lock).unwrap();
    assert!(listed.contains(&guard.id()));
    // Now it cannot be renewed: a file stands where the folder was.
    let locks = place.repo().join("locks");
    fs_err::remove_dir_all(&locks).unwrap();
    fs_err::write(&locks, b"").unwrap();
    clock.advance(Duration::from_mins(23));
    assert!(matches!(guard.check(), Err(Error::LockLost { .. })));
}
