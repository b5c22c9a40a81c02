//! The primary changes between listing and fetching.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use kuramori_model::clock::SystemClock;
use kuramori_repo::{
    Cancel,
    store::{FileId, FileKind},
};
use kuramori_vault::{
    Result, Vault,
    pull::{Pull, Pulled, Stop},
    puller::Source,
    seed::Disk,
};

use crate::world::{World, check, complete, noise, restic};

type Act = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A source that lets something happen when the lists are frozen, before the first pack is fetched.
#[derive(Clone)]
struct Hooked {
    disk: Disk,
    on: FileKind,
    act: Act,
    vanished: Arc<AtomicU32>,
}

impl Source for Hooked {
    fn repositories(&mut self) -> Result<Vec<String>> {
        self.disk.repositories()
    }

    fn list(
        &mut self,
        repository: &str,
        kind: FileKind,
        each: &mut dyn FnMut(FileId, u64) -> Result<()>,
    ) -> Result<()> {
        self.disk.list(repository, kind, each)
    }

    fn fetch(
        &mut self,
        repository: &str,
        kind: FileKind,
        id: FileId,
        offset: u64,
        most: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if kind == self.on
            && let Some(act) = self.act.lock().unwrap().take()
        {
            act();
        }
        let outcome = self.disk.fetch(repository, kind, id, offset, most, each);
        if matches!(outcome, Err(kuramori_vault::Error::Vanished(_))) {
            self.vanished.fetch_add(1, Ordering::SeqCst);
        }
        outcome
    }
}

/// One pull during which `act` happens, before the first pack is fetched.
fn pull_while(world: &World, vault: &Vault, act: impl FnOnce() + Send + 'static) -> (Pulled, u32) {
    pull_when(world, vault, FileKind::Pack, act)
}

fn pull_when(
    world: &World,
    vault: &Vault,
    on: FileKind,
    act: impl FnOnce() + Send + 'static,
) -> (Pulled, u32) {
    let stop = Stop::default();
    let clock = Arc::new(SystemClock);
    let mut pull =
        Pull::prepare(vault.folder(), vault.register(), vault.config(), clock, None, &stop).unwrap();
    let hooked = Hooked {
        disk: Disk::new(&world.path("primary"), 10),
        on,
        act: Arc::new(Mutex::new(Some(Box::new(act)))),
        vanished: Arc::default(),
    };
    let pulled = pull.run(2, &|| Ok(Box::new(hooked.clone()) as Box<dyn Source>)).unwrap();
    assert!(hooked.act.lock().unwrap().is_none(), "it happened");
    vault.work(&Cancel::default()).unwrap();
    (pulled, hooked.vanished.load(Ordering::SeqCst))
}

#[test]
fn a_commit_between_listing_and_fetching_comes_whole_or_next_time() {
    let world = World::with(&["billing"]);
    let vault = world.vault();
    let (primary, source) = (world.primary("billing"), world.source("billing"));
    let (pulled, vanished) = pull_while(&world, &vault, move || {
        fs_err::write(source.join("late"), noise(8, 400_000)).unwrap();
        restic(&primary, &["backup", "--host", "billing", source.to_str().unwrap()]);
    });
    assert!(pulled.repositories[0].finished && vanished == 0);
    assert_eq!(complete(&vault, "billing"), 1, "the late one was not in the frozen list");
    check(&world.copy("billing"));
    pull_while(&world, &vault, || {});
    assert_eq!(complete(&vault, "billing"), 2);
    check(&world.copy("billing"));
}

#[test]
fn what_came_before_a_repository_is_listed_anew_does_not_come_twice() {
    let world = World::with(&["billing"]);
    let vault = world.vault();
    let primary = world.primary("billing");
    let size: u64 = World::packs(&primary).iter().map(|pack| fs_err::metadata(pack).unwrap().len()).sum();
    // All packs are here when the index file that was listed is replaced by another one.
    let (pulled, vanished) = pull_when(&world, &vault, FileKind::Index, move || {
        restic(&primary, &["rebuild-index", "--read-all-packs"]);
    });
    let brought = &pulled.repositories[0];
    assert!(vanished > 0 && brought.relists > 0 && brought.finished, "{brought:?}");
    assert!(pulled.bytes < size + 50_000, "{} bytes came for {size} of packs", pulled.bytes);
    assert_eq!(complete(&vault, "billing"), 1);
}

#[test]
fn a_repack_during_the_pull_lists_anew_and_leaves_the_copy_whole() {
    let world = World::with(&["billing"]);
    for round in 0..3 {
        world.write("billing", &format!("file-{round}"), &noise(60 + round, 700_000));
        world.backup("billing");
    }
    let vault = world.vault();
    let primary = world.primary("billing");
    let before = World::packs(&primary);
    let act = move || {
        // Only the newest stays, everything is packed anew, the old packs and index files go.
        restic(&primary, &["forget", "--keep-last", "1", "--prune", "--max-unused", "0"]);
    };
    let (pulled, vanished) = pull_while(&world, &vault, act);
    let after = World::packs(&world.primary("billing"));
    assert!(before.iter().any(|pack| !after.contains(pack)), "the repack removed packs");
    let brought = &pulled.repositories[0];
    assert!(vanished > 0 && brought.relists > 0 && brought.finished, "{brought:?}");
    assert!(complete(&vault, "billing") >= 1);
    check(&world.copy("billing"));
    // What the vault had stays when the primary forgets it in the next round.
    let had = complete(&vault, "billing");
    world.write("billing", "file-1", &noise(99, 700_000));
    world.backup("billing");
    restic(&world.primary("billing"), &["forget", "--keep-last", "1", "--prune", "--max-unused", "0"]);
    pull_while(&world, &vault, || {});
    assert_eq!(complete(&vault, "billing"), had + 1);
    check(&world.copy("billing"));
}
