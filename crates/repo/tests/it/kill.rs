//! `kill -9` in the middle of a backup: what was committed stays, and the next run goes on.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use kuramori_model::clock::SeededRandom;
use kuramori_repo::{Context, Repository, backup::Options, local::Selection, store::FileKind};

use crate::{
    backup::{content, draft, find_node, random},
    common::{Place, restic, secret},
};

const CHILD: &str = "KURAMORI_TEST_KILLED_CHILD";

/// What the killed process does, over and over.
#[test]
#[ignore = "is started and killed by the test below"]
fn child() {
    let Some(dir) = std::env::var_os(CHILD).map(std::path::PathBuf::from) else { return };
    let store = std::sync::Arc::new(kuramori_repo::store::LocalStore::new(dir.join("repo")));
    let repo = Repository::open(store, &secret(), Context::system()).unwrap().index().unwrap();
    println!("ready");
    for number in 0.. {
        fs_err::write(dir.join("source/new"), random(number ^ u64::from(std::process::id()), 3 << 20))
            .unwrap();
        let options = Options { pack_size: 4 << 20, patience: Duration::from_secs(5), ..Options::default() };
        let mut backup = repo.backup(options).unwrap();
        let paths = backup.add_paths(&[dir.join("source")], &Selection::default()).unwrap();
        let done = backup.commit(kuramori_repo::backup::Draft { paths, ..draft() }).unwrap();
        // The acknowledgement: from here on the restore point must survive.
        println!(
            "committed {} {}",
            done.id,
            find_node(&repo, done.id, dir.join("source/new").to_str().unwrap()).content.unwrap().len()
        );
    }
}

#[test]
fn a_killed_backup_loses_nothing_that_was_committed() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs_err::create_dir_all(&source).unwrap();
    for number in 0..200_u64 {
        fs_err::write(source.join(number.to_string()), random(number, 2000)).unwrap();
    }
    let repo = place.create();
    let rounds = if std::env::var_os("KURAMORI_LONG").is_some() { 50 } else { 8 };
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let seeded = SeededRandom::new(seed);
    let mut acknowledged = Vec::new();
    let mut round = 0_u64;
    // Longer from round to round on a machine on which none lived long enough.
    while round < rounds || (acknowledged.is_empty() && round < 8 * rounds) {
        round += 1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--nocapture", "--ignored"])
            .env(CHILD, place.dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || std::io::read_to_string(output).unwrap());
        // Anywhere: before the first lock, between packs and index, in a later run.
        std::thread::sleep(Duration::from_millis((500 + seeded.below(1500)) * round.div_ceil(rounds)));
        child.kill().unwrap();
        child.wait().unwrap();
        let text = reader.join().unwrap();
        // A line that was cut off acknowledges nothing.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        acknowledged.extend(whole.lines().filter_map(|line| {
            let mut words = line.strip_prefix("committed ")?.split(' ');
            Some((words.next()?.parse().unwrap(), words.next()?.parse::<usize>().unwrap()))
        }));
    }
    assert!(!acknowledged.is_empty(), "no run lived long enough to show anything");
    // Its locks are ours to remove; nothing else of it is in the way.
    drop(repo.lock(kuramori_repo::lock::LockMode::Exclusive, Duration::ZERO).unwrap());
    let snapshots = repo.list(FileKind::Snapshot).unwrap();
    let indexed = place.open().index().unwrap();
    for (id, chunks) in acknowledged {
        assert!(snapshots.contains(&id), "{id} is lost");
        let node = find_node(&indexed, id, source.join("new").to_str().unwrap());
        assert_eq!(content(&indexed, &node).len(), 3 << 20);
        assert_eq!(node.content.unwrap().len(), chunks);
    }
    restic(&place.repo(), &["check", "--read-data"]).unwrap();
}
