//! Whoever owns the primary holds its keys. What they can do: withhold. What they cannot: change, remove,
//! or make the vault believe.

use kuramori_repo::{
    format::{blob::PackedBlob, index::IndexedPack},
    store::{FileId, FileKind, LocalStore},
};

use crate::world::{World, alarms, check, complete, noise, pull, restic, tree};

#[test]
fn nothing_that_is_destroyed_at_the_primary_is_destroyed_here() {
    let world = World::with(&["billing", "pacs"]);
    let vault = world.vault();
    pull(&vault);
    let before = (tree(&world.copy("billing")), tree(&world.copy("pacs")));
    // Encrypted in place, deleted, the other repository gone as a whole.
    for (number, pack) in World::packs(&world.primary("billing")).into_iter().enumerate() {
        fs_err::remove_file(&pack).unwrap();
        if number % 2 == 0 {
            fs_err::write(&pack, noise(number as u64, 5000)).unwrap();
        }
    }
    fs_err::remove_file(world.primary("billing").join("config")).unwrap();
    for (name, _) in tree(&world.primary("billing").join("snapshots")) {
        fs_err::remove_file(world.primary("billing").join("snapshots").join(name)).unwrap();
    }
    fs_err::remove_dir_all(world.primary("pacs")).unwrap();
    pull(&vault);
    assert_eq!(alarms(&vault), ["vault.config-missing", "vault.repository-vanished"]);
    assert_eq!((tree(&world.copy("billing")), tree(&world.copy("pacs"))), before);
    check(&world.copy("billing"));
    check(&world.copy("pacs"));
}

#[test]
fn new_files_that_are_not_what_their_names_say_are_left_out_and_the_rest_comes() {
    let world = World::with(&["billing"]);
    let vault = world.vault();
    pull(&vault);
    world.write("billing", "fresh", &noise(90, 800_000));
    world.backup("billing");
    fs_err::write(world.primary("billing").join("data/00").join("0".repeat(64)), noise(4, 100_000)).unwrap();
    let (finished, _) = pull(&vault);
    let brought = &finished.pulled.unwrap().repositories[0];
    assert_eq!((brought.backlog_files, brought.finished), (1, false));
    assert_eq!(alarms(&vault), ["vault.wrong-bytes"]);
    assert_eq!(complete(&vault, "billing"), 2);
}

#[test]
fn junk_keys_and_a_swapped_config_are_never_taken() {
    let world = World::with(&["billing"]);
    let vault = world.vault();
    pull(&vault);
    let before = (
        tree(&world.copy("billing").join("keys")),
        fs_err::read(world.copy("billing").join("config")).unwrap(),
    );
    for junk in 0..40 {
        world.plant("billing", FileKind::Key, &noise(junk, 400));
    }
    let config = world.primary("billing").join("config");
    fs_err::remove_file(&config).unwrap();
    fs_err::write(&config, noise(1, 155)).unwrap();
    pull(&vault);
    assert_eq!(alarms(&vault), ["vault.config-changed", "vault.keys-changed"]);
    let after = (
        tree(&world.copy("billing").join("keys")),
        fs_err::read(world.copy("billing").join("config")).unwrap(),
    );
    assert_eq!(before, after);
    check(&world.copy("billing"));
}

#[test]
fn forged_packs_are_put_aside_by_name_and_their_points_never_become_complete() {
    let world = World::with(&["billing"]);
    let vault = world.vault();
    pull(&vault);

    // A transplant: two sealed blobs of equal length change places. Every MAC holds, no id does.
    for file in 0..6 {
        world.write("billing", &format!("twin-{file}"), &noise(500 + file, 300_000));
    }
    world.backup("billing");
    let own = world.own("billing").index().unwrap();
    let store = LocalStore::new(world.primary("billing"));
    let packs = own.with_index(|index| index.packs().to_vec());
    let (victim, a, b) = packs
        .iter()
        .find_map(|pack| {
            let blobs = own.pack_header(*pack).unwrap();
            // Of this backup and of no other; noise stays as long as it was, packed or not.
            let of_now = |blob: &PackedBlob| (300_032..300_200).contains(&blob.length);
            let twins: Vec<PackedBlob> = blobs.into_iter().filter(of_now).collect();
            (twins.len() >= 2 && twins[0].length == twins[1].length).then(|| (*pack, twins[0], twins[1]))
        })
        .expect("two blobs of equal length in one pack of six");
    let mut bytes = fs_err::read(store.path(FileKind::Pack, victim)).unwrap();
    let take = |blob: &PackedBlob, bytes: &[u8]| {
        let start = blob.offset as usize;
        bytes[start..start + blob.length as usize].to_vec()
    };
    let (first, second) = (take(&a, &bytes), take(&b, &bytes));
    bytes[a.offset as usize..][..first.len()].copy_from_slice(&second);
    bytes[b.offset as usize..][..second.len()].copy_from_slice(&first);
    let transplanted = world.plant("billing", FileKind::Pack, &bytes);
    // The honest pack is gone, and an index file says that the forged one holds its blobs.
    let blobs = own.pack_header(victim).unwrap();
    own.save_index(&[IndexedPack { id: transplanted, blobs }]).unwrap();
    fs_err::remove_file(store.path(FileKind::Pack, victim)).unwrap();
    // And rubbish with an honest name.
    let rubbish = world.plant("billing", FileKind::Pack, &noise(9, 50_000));
    let no_snapshot = world.plant("billing", FileKind::Snapshot, &noise(10, 300));

    let (finished, work) = pull(&vault);
    assert!(finished.pulled.unwrap().repositories[0].finished, "their names are honest, so they come");
    let proven = &work.proven[0];
    let mut quarantined = proven.quarantined.clone();
    quarantined.sort();
    let mut expected =
        vec![format!("data/{transplanted}"), format!("data/{rubbish}"), format!("snapshots/{no_snapshot}")];
    expected.sort();
    assert_eq!(quarantined, expected);
    assert_eq!((proven.complete, proven.incomplete), (0, 1), "{proven:?}");
    assert_eq!(alarms(&vault), ["vault.forged", "vault.point-incomplete"]);
    assert_eq!(complete(&vault, "billing"), 1);
    check(&world.copy("billing"));

    // They are remembered: the next window does not fetch them again.
    let (finished, _) = pull(&vault);
    assert_eq!(finished.bytes, 0);
    for file in expected {
        let aside = world.path("vault").join(".quarantine/billing").join(file.replace('/', "-"));
        assert!(aside.is_file(), "{}", aside.display());
    }

    // The honest pack comes back: now the point is whole.
    let index = fs_err::read_dir(world.primary("billing").join("index")).unwrap().count();
    assert!(index > 0);
    let mut honest = bytes;
    honest[a.offset as usize..][..first.len()].copy_from_slice(&first);
    honest[b.offset as usize..][..second.len()].copy_from_slice(&second);
    assert_eq!(world.plant("billing", FileKind::Pack, &honest), victim);
    let (_, work) = pull(&vault);
    assert_eq!((work.proven[0].complete, complete(&vault, "billing")), (1, 2));
    check(&world.copy("billing"));
}

#[test]
fn a_false_index_is_named_and_changes_nothing() {
    let world = World::with(&["billing"]);
    let vault = world.vault();
    let own = world.own("billing").index().unwrap();
    let pack = own.with_index(|index| index.packs()[0]);
    let mut blobs = own.pack_header(pack).unwrap();
    for blob in &mut blobs {
        blob.offset += 32;
    }
    let entries = blobs.len() as u64;
    own.save_index(&[IndexedPack { id: pack, blobs }]).unwrap();
    let (_, work) = pull(&vault);
    assert_eq!(work.proven[0].false_entries, entries);
    assert!(alarms(&vault).contains(&"vault.false-index".to_owned()));
    assert_eq!(complete(&vault, "billing"), 1);
    check(&world.copy("billing"));
    restic(&world.copy("billing"), &["snapshots", "--no-lock"]);
}

#[test]
fn damage_by_the_vaults_own_disk_is_found_and_healed_from_the_primary() {
    let world = World::with(&["billing"]);
    let vault = world.vault();
    pull(&vault);
    world.write("billing", "fresh", &noise(91, 600_000));
    world.backup("billing");
    // The new pack comes, and a bit of it flips before it is opened: seen as ours, not as forged.
    let (_, before) = (tree(&world.copy("billing").join("data")), World::packs(&world.copy("billing")));
    let victim = &before[0];
    let mut bytes = fs_err::read(victim).unwrap();
    bytes[1000] ^= 4;
    fs_err::remove_file(victim).unwrap();
    pull(&vault);
    assert!(victim.is_file(), "a lost pack is fetched again");
    assert_eq!(complete(&vault, "billing"), 2);
    drop(vault);
    fs_err::remove_file(victim).unwrap();
    fs_err::write(victim, &bytes).unwrap();
    let id: FileId = victim.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let register = kuramori_vault::register::Register::open(&world.path("state")).unwrap();
    let state = kuramori_vault::register::FileState::Fetched;
    register.set_files("billing", FileKind::Pack, &[id], state, None).unwrap();
    drop(register);
    let vault = world.vault();
    let work = vault.work(&kuramori_repo::Cancel::default()).unwrap();
    assert_eq!((work.proven[0].damaged, work.proven[0].quarantined.len()), (1, 0), "{work:?}");
    assert_eq!(complete(&vault, "billing"), 0, "both rest on that pack");
    pull(&vault);
    assert_eq!(complete(&vault, "billing"), 2);
    check(&world.copy("billing"));
}
