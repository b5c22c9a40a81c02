//! What a second look found: ways to fill the vault's disk, to stop its proof, or to fail in silence.

use std::{
    io::Write,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use kuramori_repo::{
    Cancel,
    format::{
        blob::{BlobId, BlobKind, PackedBlob},
        compress, crypto, key, pack, unpacked,
    },
    store::{FileId, FileKind},
};
use kuramori_vault::{
    Config, Vault,
    config::Limits,
    register::{FileState, Register},
};

use crate::{
    liar::{LIST, Liar},
    world::{PASSWORD, World, alarms, check, complete, noise, pull, tree},
};

/// The repository's own cipher, as whoever owns the primary has it.
fn cipher(world: &World, name: &str) -> crypto::Cipher {
    let (file, _) = tree(&world.primary(name).join("keys")).remove(0);
    let json = fs_err::read(world.primary(name).join("keys").join(file)).unwrap();
    let bytes = key::open(&key::decode(&json).unwrap(), PASSWORD.as_bytes()).unwrap().unwrap();
    crypto::Cipher::new(&bytes).unwrap()
}

fn seal(cipher: &crypto::Cipher, plain: &[u8]) -> Vec<u8> {
    cipher.seal(noise(plain.len() as u64, 16).try_into().unwrap(), plain).unwrap()
}

/// A pack with one sealed blob that unfolds to `size` zeros.
fn bomb(cipher: &crypto::Cipher, size: usize) -> Vec<u8> {
    let plain = vec![0; size];
    let mut bytes = seal(cipher, &compress::compress(3, &plain).unwrap());
    let blob = PackedBlob {
        id: BlobId::of(&plain),
        kind: BlobKind::Data,
        offset: 0,
        length: u32::try_from(bytes.len()).unwrap(),
        plain_length: Some(u32::try_from(size).unwrap()),
    };
    let header = seal(cipher, &pack::encode_header(&[blob]));
    bytes.extend(&header);
    bytes.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
    bytes
}

#[test]
fn a_pack_and_a_snapshot_that_unfold_to_gigabytes_are_not_opened() {
    let world = World::with(&["billing"]);
    let vault = world.vault_at(world.address(), "[proof]\npiece = \"8 MiB\"\n");
    let cipher = cipher(&world, "billing");
    let small = world.plant("billing", FileKind::Pack, &bomb(&cipher, 8 << 20));
    let bytes = bomb(&cipher, 200 << 20);
    assert!(bytes.len() < 100_000, "{} bytes unfold to 200 MiB", bytes.len());
    let large = world.plant("billing", FileKind::Pack, &bytes);
    let tags = "\"\",".repeat(20 << 20);
    let json = format!(
        "{{\"time\":\"2026-04-01T00:00:00Z\",\"tree\":\"{}\",\"tags\":[{}\"\"]}}",
        "0".repeat(64),
        tags
    );
    let snapshot = seal(&cipher, &unpacked::encode(json.as_bytes()).unwrap());
    assert!(snapshot.len() < 100_000);
    let snapshot = world.plant("billing", FileKind::Snapshot, &snapshot);
    let (_, work) = pull(&vault);
    assert_eq!(work.proven[0].quarantined, [format!("snapshots/{snapshot}")], "{work:?}");
    let files = vault.register().files("billing", FileKind::Pack).unwrap();
    assert_eq!((files[&small].state, files[&large].state), (FileState::Verified, FileState::Fetched));
    assert!(alarms(&vault).contains(&"vault.too-large-blob".to_owned()));
    assert_eq!(complete(&vault, "billing"), 1, "the honest point is not held up");
    check(&world.copy("billing"));
}

#[test]
fn a_pack_that_the_vaults_disk_lost_is_not_taken_for_forged() {
    let world = World::with(&["billing"]);
    let config = world.configure(world.address(), "");
    // Killed after the pull and before the proof.
    let vault = world.vault();
    pull(&vault);
    let pack = World::packs(&world.copy("billing")).remove(0);
    let id: FileId = pack.file_name().unwrap().to_str().unwrap().parse().unwrap();
    drop(vault);
    let register = Register::open(&world.path("state")).unwrap();
    register.set_files("billing", FileKind::Pack, &[id], FileState::Fetched, None).unwrap();
    drop(register);
    fs_err::remove_file(&pack).unwrap();
    let clock = Arc::new(kuramori_model::clock::SystemClock);
    let random = Arc::new(kuramori_model::clock::SystemRandom);
    let vault = Vault::open(Config::read(&config).unwrap(), clock, random).unwrap();
    let work = vault.work(&Cancel::default()).unwrap();
    assert_eq!((work.proven[0].damaged, work.proven[0].quarantined.len()), (1, 0), "{work:?}");
    assert_eq!(complete(&vault, "billing"), 0);
    let believed = world.copy("billing").join("snapshots");
    assert!(tree(&believed).is_empty(), "what is not complete does not lie among the complete ones");
    pull(&vault);
    assert_eq!(complete(&vault, "billing"), 1, "it was fetched again");
    check(&world.copy("billing"));
}

#[test]
fn index_files_and_what_was_put_aside_count_for_the_quota() {
    let world = World::with(&["billing"]);
    let vault = world.vault_at(world.address(), "[quota]\nbilling = \"5 MiB\"\n");
    pull(&vault);
    assert_eq!(complete(&vault, "billing"), 1);
    // 2.8 MiB are here. Two forged packs fit, and are put aside.
    for seed in 0..2 {
        world.plant("billing", FileKind::Pack, &noise(40 + seed, 900_000));
    }
    let (_, work) = pull(&vault);
    assert_eq!(work.proven[0].quarantined.len(), 2);
    // They still take their room: nothing more comes.
    for seed in 0..4 {
        world.plant("billing", FileKind::Pack, &noise(50 + seed, 900_000));
    }
    let (finished, _) = pull(&vault);
    assert!(finished.bytes <= 900_000, "{} bytes came", finished.bytes);
    assert!(alarms(&vault).contains(&"vault.quota".to_owned()));
    for seed in 0..40 {
        world.plant("billing", FileKind::Index, &noise(70 + seed, 200_000));
    }
    let (finished, _) = pull(&vault);
    assert_eq!(finished.bytes, 0, "index files have no way around it");
    check(&world.copy("billing"));
}

#[test]
fn a_primary_that_lies_in_its_first_answer_is_heard() {
    let world = World::new();
    let liar = Liar::start(|path, stream| {
        path == "/" && {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{{}}");
            true
        }
    });
    fs_err::write(world.path("ca.pem"), &liar.ca).unwrap();
    let vault = world.vault_at(liar.address, "");
    let (finished, _) = pull(&vault);
    assert!(finished.why.is_some());
    assert_eq!(alarms(&vault), ["vault.primary-misbehaves"]);
}

/// A liar with one repository whose names come from `names` by the number of the window.
fn each_night(list: impl Fn(u32) -> String + Send + Sync + 'static) -> Liar {
    let windows = AtomicU32::new(0);
    Liar::start(move |path, stream| match path {
        "/" => {
            windows.fetch_add(1, Ordering::SeqCst);
            false
        }
        "/billing/data/" => {
            let _ = write!(stream, "{LIST}{}", list(windows.load(Ordering::SeqCst)));
            true
        }
        _ if path.starts_with("/billing/data/") => {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n");
            let _ = stream.write_all(&noise(1, 300_000));
            true
        }
        _ => false,
    })
}

#[test]
fn cut_off_transfers_do_not_fill_the_disk_night_after_night() {
    let world = World::new();
    let liar = each_night(|window| {
        let name = |n: u32| format!("{{\"name\":\"{}\",\"size\":500000}}", FileId::of(&n.to_le_bytes()));
        format!("[{},{}]", name(window * 2), name(window * 2 + 1))
    });
    fs_err::write(world.path("ca.pem"), &liar.ca).unwrap();
    let vault = world.vault_at(liar.address, "");
    for _ in 0..3 {
        pull(&vault);
        let partial = tree(&world.path("vault").join(".partial"));
        let bytes: usize = partial.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(partial.len() <= 2 && bytes <= 600_000, "{} files, {bytes} bytes", partial.len());
        assert!(bytes >= 300_000, "the transfers were really cut off");
    }
}

#[test]
fn unconfirmed_repositories_are_limited_over_all_nights_and_stay_named() {
    let world = World::new();
    let most = Limits::default().new_repositories;
    let night = Arc::new(AtomicU32::new(0));
    let counted = night.clone();
    let liar = Liar::start(move |path, stream| {
        path == "/" && {
            let night = counted.fetch_add(1, Ordering::SeqCst);
            let names: Vec<String> = (0..6 * (night + 1)).map(|n| format!("new-{n}")).collect();
            let body = serde_json::to_string(&names).unwrap();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            true
        }
    });
    fs_err::write(world.path("ca.pem"), &liar.ca).unwrap();
    let vault = world.vault_at(liar.address, "");
    for expected in [6, most, most] {
        pull(&vault);
        assert_eq!(vault.register().repositories().unwrap().len(), expected);
        assert!(alarms(&vault).contains(&"vault.new-repository".to_owned()));
    }
    assert!(alarms(&vault).contains(&"vault.too-many-new".to_owned()));
    assert!(vault.register().confirm("new-0").unwrap());
    pull(&vault);
    assert_eq!(
        vault.register().repositories().unwrap().len(),
        most + 1,
        "one was confirmed, one more may come"
    );
}

/// A small file system that really runs full.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(path: &std::path::Path, options: &str) -> Self {
        fs_err::create_dir_all(path).unwrap();
        let words = ["-t", "tmpfs", "-o", options, "tmpfs", path.to_str().unwrap()];
        assert!(Command::new("mount").args(words).status().unwrap().success(), "this test needs root");
        Self(path.to_owned())
    }

    fn grow(&self, options: &str) {
        let words = ["-o", &format!("remount,{options}"), self.0.to_str().unwrap()];
        assert!(Command::new("mount").args(words).status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_loses_nothing_is_named_and_heals_with_room() {
    let world = World::with(&["billing"]);
    let disk = Small::mount(&world.path("vault"), "size=4m");
    let file = world.configure(world.address(), "");
    let text = fs_err::read_to_string(&file).unwrap().replace("keep_free = \"1 MiB\"", "keep_free = \"0 B\"");
    fs_err::write(&file, text).unwrap();
    let clock = Arc::new(kuramori_model::clock::SystemClock);
    let random = Arc::new(kuramori_model::clock::SystemRandom);
    let vault = Vault::open(Config::read(&file).unwrap(), clock, random).unwrap();
    pull(&vault);
    assert_eq!(complete(&vault, "billing"), 1, "the first point fits");
    world.write("billing", "fresh", &noise(77, 3_000_000));
    world.backup("billing");
    pull(&vault);
    assert!(alarms(&vault).contains(&"vault.disk-full".to_owned()), "{:?}", alarms(&vault));
    assert_eq!(complete(&vault, "billing"), 1);
    check(&world.copy("billing"));
    disk.grow("size=64m");
    pull(&vault);
    assert_eq!(complete(&vault, "billing"), 2);
    assert!(!alarms(&vault).contains(&"vault.disk-full".to_owned()));
    check(&world.copy("billing"));
    drop(vault);
}

#[test]
fn a_proof_whose_time_is_up_goes_on_in_the_next_round() {
    let world = World::with(&["billing"]);
    let vault = world.vault_at(world.address(), "[proof]\nseconds = 0\n");
    let (_, work) = pull(&vault);
    assert!(work.proven[0].unfinished && complete(&vault, "billing") == 0, "{work:?}");
    assert!(alarms(&vault).contains(&"vault.proof-unfinished".to_owned()));
    drop(vault);
    let vault = world.vault();
    let work = vault.work(&Cancel::default()).unwrap();
    assert!(!work.proven[0].unfinished);
    assert_eq!(complete(&vault, "billing"), 1);
}
