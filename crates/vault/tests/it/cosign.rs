//! Checkpoints across the gate: what was cosigned cannot be cut off, on either side, without being found.

use std::path::PathBuf;

use kuramori_audit::{Consistency, Log, SignedNote, Signer, Witness, verify};
use kuramori_model::clock::SystemClock;
use kuramori_vault::{Vault, report::SignedReport};
use serde_json::Value;

use crate::world::{World, alarms, pull};

/// What a site server does with a report, by the log's own means.
struct Site {
    folder: PathBuf,
    reports: PathBuf,
}

impl Site {
    fn new(world: &World) -> Self {
        Self { folder: world.path("site"), reports: world.primary("vault-report") }
    }

    fn signer() -> Signer {
        Signer::from_seed("kuramori/server", &[5; 32]).unwrap()
    }

    fn log(&self) -> Log {
        let clock = std::sync::Arc::new(SystemClock);
        Log::open(&self.folder.join("log"), Self::signer(), clock).unwrap()
    }

    /// The newest report that was delivered.
    fn report(&self, vault: &Vault) -> Value {
        let key = vault.public_key().1;
        let folder = self.reports.join("snapshots");
        // By their arrival: windows of a test follow each other within the second that a report counts in.
        let newest = fs_err::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .max_by_key(|entry| entry.metadata().unwrap().modified().unwrap());
        SignedReport::verify(&fs_err::read(newest.unwrap().path()).unwrap(), &key).unwrap()
    }

    /// Cosigns and answers. The error is what the witness says.
    fn answer(&self, vault: &Vault) -> kuramori_audit::Result<()> {
        let report = self.report(vault);
        let key = vault.public_key().1;
        let witness = Witness::open(&self.folder.join("witness"), Self::signer()).unwrap();
        let seen = witness.seen(key.name())?;
        let note = SignedNote::parse(report["checkpoint"].as_str().unwrap())?;
        let old = seen.as_ref().map_or(0, |note| note.checkpoint.size);
        let proofs = report["witness"]["proofs"].as_array().unwrap();
        let proof = proofs.iter().find(|proof| proof["old"] == old);
        let proof: Option<Consistency> =
            proof.map(|proof| serde_json::from_value(proof["consistency"].clone()).unwrap());
        let cosigned = witness.cosign(&note, &key, proof.as_ref(), &SystemClock);
        let mut log = self.log();
        log.append("catalog.event", &serde_json::json!({ "event": log.size() })).unwrap();
        let server_seen = report["witness"]["server_seen"].as_u64().unwrap();
        let proof = (server_seen > 0 && server_seen <= log.size()).then(
            || serde_json::json!({ "old": server_seen, "consistency": log.prove(server_seen).unwrap() }),
        );
        let document = serde_json::json!({
            "vault": "vault", "cosigned": cosigned.as_ref().ok().map(SignedNote::text),
            "seen": seen.map(|note| note.text()), "checkpoint": log.note().text(), "proof": proof,
        });
        self.put(&document);
        cosigned.map(drop)
    }

    fn put(&self, document: &Value) {
        let bytes = document.to_string().into_bytes();
        let index = self.reports.join("index");
        fs_err::create_dir_all(&index).unwrap();
        fs_err::write(index.join(kuramori_repo::store::FileId::of(&bytes).to_string()), bytes).unwrap();
    }
}

fn vault(world: &World) -> Vault {
    let more = format!(
        "[report]\nlogin = \"vault-report\"\npassword_file = \"{}\"\n",
        world.path("login").display()
    );
    let file = world.configure(world.address(), &more);
    let text = fs_err::read_to_string(&file).unwrap();
    let witness = format!("[vault]\nwitness = \"{}\"\n", Site::signer().verifier());
    fs_err::write(&file, text.replace("[vault]\n", &witness)).unwrap();
    let config = kuramori_vault::Config::read(&file).unwrap();
    let random = std::sync::Arc::new(kuramori_model::clock::SystemRandom);
    Vault::open(config, std::sync::Arc::new(SystemClock), random).unwrap()
}

#[test]
fn each_window_cosigns_both_logs_and_a_cut_of_either_is_found() {
    let world = World::with(&["billing"]);
    let site = Site::new(&world);
    let mut house = vault(&world);
    let key = house.public_key().1;
    pull(&house);
    site.answer(&house).unwrap();
    // The next window brings the cosignature, and with it the server's own checkpoint.
    let mut last = 0;
    for _ in 0..3 {
        pull(&house);
        let state = house.cosigned().unwrap();
        assert!(state.size.unwrap() > last && state.missed == 0, "{state:?}");
        last = state.size.unwrap();
        // The server answers what the vault had seen before this window, so it is at most two windows behind.
        assert!(state.server_size.unwrap() + 2 >= site.log().size(), "{state:?}");
        site.answer(&house).unwrap();
    }
    let shown = serde_json::to_value(house.report().unwrap()).unwrap();
    assert_eq!(shown["cosigned"]["size"], last, "the vault's status says so");
    // A process that ended between two windows changes nothing.
    drop(house);
    house = vault(&world);
    assert!(!alarms(&house).contains(&"vault.log-cut".to_owned()));
    pull(&house);
    assert!(house.cosigned().unwrap().size.unwrap() > last);
    last = house.cosigned().unwrap().size.unwrap();
    assert!(alarms(&house).iter().all(|code| code != "vault.cosign-missing"));

    // The server's log is rewritten from its beginning: the vault does not go along.
    let kept = world.path("kept");
    fs_err::rename(site.folder.join("log"), &kept).unwrap();
    let mut other = site.log();
    for _ in 0..20 {
        other.append("catalog.event", &serde_json::json!({ "nothing": "happened" })).unwrap();
    }
    drop(other);
    for _ in 0..3 {
        let _ = site.answer(&house);
        pull(&house);
    }
    assert!(alarms(&house).contains(&"vault.server-log-forked".to_owned()), "{:?}", alarms(&house));
    let known = house.cosigned().unwrap().server_size;
    fs_err::remove_dir_all(site.folder.join("log")).unwrap();
    fs_err::rename(&kept, site.folder.join("log")).unwrap();

    // Whoever owns the vault cuts its log's end off. The notes beside it find that at the next start …
    last = last.max(house.cosigned().unwrap().size.unwrap());
    drop(house);
    let log = world.path("state").join("log/log");
    let whole = fs_err::read_to_string(&log).unwrap();
    let cut: String = whole.split_inclusive('\n').take(usize::try_from(last).unwrap() - 3).collect();
    fs_err::write(&log, &cut).unwrap();
    house = vault(&world);
    assert!(alarms(&house).contains(&"vault.log-cut".to_owned()));
    house.register().clear("vault.log-cut||", &house.register().tick(&SystemClock).unwrap()).unwrap();
    drop(house);
    // … and if they are removed too, the server does: it cosigns no other history, and shows what it had.
    fs_err::write(&log, &cut).unwrap();
    fs_err::remove_dir_all(world.path("state").join("log/cosigned")).unwrap();
    house = vault(&world);
    pull(&house);
    let refused = site.answer(&house);
    assert!(matches!(refused, Err(kuramori_audit::Error::Forked { .. })), "{refused:?}");
    pull(&house);
    assert!(alarms(&house).contains(&"vault.log-cut".to_owned()), "{:?}", alarms(&house));
    assert!(house.cosigned().unwrap().server_size >= known);
    drop(house);
    let note = Witness::open(&site.folder.join("witness"), Site::signer()).unwrap().seen(key.name()).unwrap();
    let found =
        verify(&world.path("state").join("log"), &key, &[Site::signer().verifier()], &[note.unwrap()]);
    assert!(!found.unwrap().clean());
}

#[test]
fn a_server_that_withholds_its_cosignature_is_an_alarm_after_three_windows() {
    let world = World::with(&["billing"]);
    let house = vault(&world);
    let site = Site::new(&world);
    for window in 1..=3 {
        pull(&house);
        assert_eq!(alarms(&house).contains(&"vault.cosign-missing".to_owned()), window == 3);
    }
    // Rubbish, another vault's answer and a gigantic one are no cosignature, and no harm.
    site.put(&serde_json::json!({ "vault": "other", "checkpoint": "x" }));
    site.put(&serde_json::json!(["rubbish"]));
    site.put(&serde_json::json!({ "vault": "vault", "checkpoint": "y".repeat(100_000) }));
    pull(&house);
    assert!(alarms(&house).contains(&"vault.cosign-missing".to_owned()));
    site.answer(&house).unwrap();
    pull(&house);
    assert!(!alarms(&house).contains(&"vault.cosign-missing".to_owned()), "{:?}", house.cosigned());
    let page = house.obey(
        serde_json::from_value(serde_json::json!({ "verb": "audit_root" })).unwrap(),
        &kuramori_repo::Cancel::default(),
    );
    let page = page.unwrap();
    let read = crate::officers::read_qr(&world.path("root.png"), page["page"].as_str().unwrap());
    let note = SignedNote::parse(&format!("{}\n", read.trim_end())).unwrap();
    assert!(note.signed_by(&house.public_key().1), "a camera reads the whole signed checkpoint");
}
