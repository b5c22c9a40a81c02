//! The truth, its comparison with restored services, and the attack that makes both necessary.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use std::path::Path;

use common::Stage;
use kuramori_lab::{
    Attacked, Lab, LabError, Manifest, Program, Role, Service, Targets, Try, attack, compare,
    services::{billing::REPLICATOR, billing::REPLICATOR_SECRET, ophthalmology::HELD},
};
use kuramori_model::clock::SeededRandom;

fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to.parent().unwrap()).unwrap();
    Program::new("cp").args(["-a", "--"]).arg(from).arg(to).run().unwrap();
}

fn flip(path: &Path) {
    let mut bytes = fs_err::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs_err::write(path, bytes).unwrap();
}

fn one_file(folder: &Path, filter: &[&str]) -> std::path::PathBuf {
    let found = Program::new("find").arg(folder).args(["-type", "f"]).args(filter).text().unwrap();
    let mut files: Vec<&str> = found.lines().collect();
    files.sort_unstable();
    Path::new(files[files.len() / 2]).to_owned()
}

#[test]
fn a_flipped_byte_in_a_restored_tree_is_found() {
    let stage = Stage::new('l');
    let lab = stage.up(&[Service::Ophthalmology]);
    let manifest = Manifest::make(&lab, "night0").unwrap();
    assert_eq!(
        (manifest.held.as_slice(), Manifest::read(&lab, "night0").unwrap()),
        (&[HELD.to_owned()][..], manifest.clone())
    );
    let restored = lab.host(Role::Cln).folder().join("dump");
    copy(&lab.ophthalmology().folder(), &restored);
    let same = compare::ophthalmology(&manifest, &restored).unwrap();
    assert!(same.identical && same.compared == 402, "{same:?}");
    // Nobody could read the held file over the network.
    fs_err::remove_file(restored.join(HELD)).unwrap();
    let without = compare::ophthalmology(&manifest, &restored).unwrap();
    assert!(without.identical && without.held == 1, "{without:?}");
    let victim = one_file(&restored, &["-size", "+1k"]);
    flip(&victim);
    let changed = compare::ophthalmology(&manifest, &restored).unwrap();
    assert!(!changed.identical && changed.changed == 1, "{changed:?}");
    fs_err::remove_file(&victim).unwrap();
    fs_err::write(restored.join("readme_to_decrypt.txt"), "x").unwrap();
    let other = compare::ophthalmology(&manifest, &restored).unwrap();
    assert_eq!((other.identical, other.missing, other.added), (false, 1, 1));
    assert!(matches!(Manifest::read(&lab, "../lab"), Err(LabError::Outside { .. })));
}

#[test]
fn a_restored_database_runs_and_one_changed_yen_is_found() {
    let stage = Stage::new('m');
    let lab = stage.up(&[Service::Billing]);
    let manifest = Manifest::make(&lab, "night0").unwrap();
    let restored = lab.host(Role::Cln).folder().join("base");
    let password = lab.secret(REPLICATOR_SECRET).unwrap();
    let backup = Program::new("/usr/lib/postgresql/15/bin/pg_basebackup")
        .env("PGPASSWORD", &password)
        .args([
            "-h",
            &Role::Bil.address().to_string(),
            "-U",
            REPLICATOR,
            "-w",
            "-X",
            "stream",
            "-c",
            "fast",
            "-D",
        ])
        .arg(&restored);
    lab.host(Role::Srv).run(&backup).unwrap();
    let spare = restored.with_extension("flipped");
    copy(&restored, &spare);

    let same = compare::billing(&lab, &manifest, Role::Cln, &restored).unwrap();
    assert!(same.running && same.identical && same.compared == 6, "{same:?}");
    assert!(lab.process("postgres-restored").unwrap().is_none(), "it is stopped again");

    flip(&one_file(&spare.join("base"), &["-size", "+100k"]));
    let damaged = compare::billing(&lab, &manifest, Role::Cln, &spare).unwrap();
    assert!(!damaged.running && damaged.failure.is_some(), "pg_verifybackup looks first: {damaged:?}");

    lab.billing().ask("billing", "UPDATE orders SET yen = yen + 1 WHERE id = 77").unwrap();
    let later = Manifest::make(&lab, "night1").unwrap();
    fs_err::remove_file(restored.join("backup_manifest")).unwrap();
    let changed = compare::billing(&lab, &later, Role::Cln, &restored).unwrap();
    assert!(changed.running && !changed.identical && changed.changed == 3, "{changed:?}");
}

#[test]
fn a_restored_archive_runs_and_a_flipped_pixel_is_found() {
    let stage = Stage::new('n');
    let lab = stage.up(&[Service::Pacs]);
    let manifest = Manifest::make(&lab, "night0").unwrap();
    lab.pacs().stop().unwrap();
    let restored = lab.host(Role::Cln).folder().join("db");
    copy(&lab.pacs().data(), &restored);
    let same = compare::pacs(&lab, &manifest, Role::Cln, &restored).unwrap();
    assert!(same.running && same.identical && same.compared == 12, "{same:?}");
    flip(&one_file(&restored, &["-size", "+6k", "-not", "-name", "index*"]));
    let changed = compare::pacs(&lab, &manifest, Role::Cln, &restored).unwrap();
    assert!(changed.running && changed.changed == 1 && !changed.identical, "{changed:?}");
    fs_err::remove_dir_all(&restored).unwrap();
    fs_err::create_dir(&restored).unwrap();
    let empty = compare::pacs(&lab, &manifest, Role::Cln, &restored).unwrap();
    assert!(empty.running && empty.missing == 12 && !empty.identical, "{empty:?}");
}

fn restic(lab: &Lab, repository: &Path, arguments: &[&str]) -> kuramori_lab::Outcome {
    let program = Program::new("restic").env("RESTIC_PASSWORD", "x").env("HOME", lab.root());
    let program = program.args(["--no-cache", "-q", "-r"]).arg(repository).args(arguments);
    lab.host(Role::Srv).try_run(&program).unwrap()
}

#[test]
fn the_attack_ruins_departments_and_primary_and_nothing_else() {
    let stage = Stage::new('o');
    let lab = stage.up(&[Service::Billing, Service::Pacs, Service::Ophthalmology, Service::Witness]);
    let manifest = Manifest::make(&lab, "night0").unwrap();
    let repositories = lab.host(Role::Srv).folder().join("repositories");
    for name in ["ophthalmology", "billing"] {
        let repository = repositories.join(name);
        fs_err::create_dir_all(&repository).unwrap();
        assert_eq!(restic(&lab, &repository, &["init"]).status, Some(0));
        for _ in 0..2 {
            let dump = lab.ophthalmology().folder().join("検査データ");
            assert_eq!(
                restic(&lab, &repository, &["backup", "--force", &dump.to_string_lossy()]).status,
                Some(0)
            );
        }
        assert_eq!(restic(&lab, &repository, &["check", "--read-data"]).status, Some(0));
    }
    let vault = lab.host(Role::Vlt).folder().join("store");
    copy(&repositories, &vault);

    let seed = 77;
    println!("attack's seed {seed}");
    // Pointed at the vault or at the truth it refuses before it touches anything.
    for outside in [vault.clone(), lab.truth(), lab.root().to_owned(), Path::new("/etc").to_owned()] {
        let mut targets = Targets::of(&lab).unwrap();
        targets.repositories.push(outside.clone());
        let error = attack(&lab, &targets, &SeededRandom::new(seed)).unwrap_err();
        assert!(matches!(error, LabError::Outside { .. }), "{}: {error}", outside.display());
    }
    let untouched = compare::ophthalmology(&manifest, &lab.ophthalmology().folder()).unwrap();
    assert!(untouched.identical, "{untouched:?}");
    let vault_before = kuramori_lab::manifest::Tree::of(&vault).unwrap();

    let mut targets = Targets::of(&lab).unwrap();
    assert_eq!((targets.departments.len(), targets.repositories.len()), (3, 2));
    targets.passwords.insert(repositories.join("billing"), "x".to_owned());
    let done: Attacked = attack(&lab, &targets, &SeededRandom::new(seed)).unwrap();
    println!("{:?}", (done.files_encrypted, done.repository_files_destroyed, done.repository_files_forged));
    assert!(done.files_encrypted > 1_200 && done.withstood == 0, "{done:?}");
    assert!(done.repository_files_destroyed > 10 && done.repository_files_forged > 90, "{done:?}");
    assert_eq!((done.vault_connections_accepted, done.vault_arrivals), (0, Some(0)));
    assert!(done.scans.len() == 2 && done.scans.iter().all(|scan| !scan.reached));

    assert!(lab.billing().ask("billing", "SELECT 1").is_err());
    assert!(lab.pacs().instances().is_err());
    let ruined = compare::ophthalmology(&manifest, &lab.ophthalmology().folder()).unwrap();
    assert_eq!((ruined.missing, ruined.held, ruined.added), (401, 1, 402), "{ruined:?}");
    assert!(done.repositories.iter().any(|one| one.sealed.blobs > 0), "{done:?}");
    for one in &done.repositories {
        assert!(one.config_deleted && one.junk_keys == 40 && one.keys_swapped > 0, "{one:?}");
        assert_ne!(restic(&lab, &one.repository, &["check"]).status, Some(0));
    }
    assert_eq!(
        kuramori_lab::manifest::Tree::of(&vault).unwrap(),
        vault_before,
        "the vault's disk is untouched"
    );
    // The same attack with the port up is seen: the count above could have been another.
    lab.switch().set_port(true).unwrap();
    let scan =
        kuramori_lab::attack::scan_vault(&lab, &[Role::Srv], &Try { tcp: 1..=2_000, ..Try::default() })
            .unwrap();
    assert!(scan.vault_connections_accepted >= 2_000 && scan.scans[0].reached);
}
