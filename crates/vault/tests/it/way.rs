//! The plain way: in, proven, and back.

use kuramori_audit::verify;
use kuramori_model::clock::SystemRandom;
use kuramori_repo::Cancel;
use kuramori_serve::{Login, Mode, Repositories, Role, password::PasswordHash};
use kuramori_vault::{Error, Vault, report::SignedReport, restore::Which};

use crate::world::{Server, World, alarms, check, complete, noise, pull, restic, tree};

#[test]
fn what_the_primary_has_comes_once_is_proven_and_restores() {
    let world = World::with(&["billing", "pacs"]);
    let report = format!(
        "[report]\nlogin = \"vault-report\"\npassword_file = \"{}\"\n",
        world.path("login").display()
    );
    let vault = world.vault_at(world.address(), &report);
    let (finished, work) = pull(&vault);
    let pulled = finished.pulled.unwrap();
    assert_eq!(pulled.repositories.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["billing", "pacs"]);
    assert!(pulled.repositories.iter().all(|r| r.finished && r.new && r.snapshots == 1), "{pulled:?}");
    assert!(!finished.closed_verified && finished.claim.contains("NOT offline"), "there is no gate here");
    assert_eq!(work.proven.iter().map(|p| p.complete).sum::<u64>(), 2, "{work:?}");
    assert_eq!(alarms(&vault), ["vault.new-repository"]);

    // The next window knows them, and nothing comes twice.
    let (finished, _) = pull(&vault);
    assert_eq!(finished.bytes, 0);
    assert_eq!(alarms(&vault), Vec::<String>::new());
    world.write("billing", "file-1", &noise(77, 900_000));
    world.backup("billing");
    let (finished, _) = pull(&vault);
    assert!((900_000..1_200_000).contains(&finished.bytes), "{}", finished.bytes);
    assert_eq!((complete(&vault, "billing"), complete(&vault, "pacs")), (2, 1));
    let points = vault.register().points(None).unwrap();
    assert!(points.is_sorted_by_key(|point| point.sequence) && points[2].repository == "billing");

    // A stock restic restores from the vault's own folder.
    for name in ["billing", "pacs"] {
        check(&world.copy(name));
        let target = world.path(&format!("back-{name}"));
        restic(&world.copy(name), &["restore", "latest", "--no-lock", "--target", target.to_str().unwrap()]);
        let restored = target.join(world.source(name).strip_prefix("/").unwrap());
        assert_eq!(tree(&restored), tree(&world.source(name)));
    }

    // Each window handed a signed report to the primary; the newest tells of the window before.
    let reports = tree(&world.primary("vault-report").join("snapshots"));
    assert_eq!(reports.len(), 3);
    let key = vault.public_key().1;
    let mut read: Vec<_> =
        reports.iter().map(|(_, bytes)| SignedReport::verify(bytes, &key).unwrap()).collect();
    read.sort_by_key(|report| report["windows"].as_array().unwrap().len());
    assert_eq!(read[2]["repositories"][0]["complete"], 1);
    let mut forged = reports[0].1.clone();
    let at = forged.windows(8).position(|w| w == b"\"offline").unwrap();
    forged[at + 4] ^= 1;
    assert!(SignedReport::verify(&forged, &key).is_err());

    drop(vault);
    let log = verify(&world.path("state").join("log"), &key, &[], &[]).unwrap();
    assert!(log.clean() && log.entries > 9, "{log:?}");
}

#[test]
fn a_restore_window_fills_a_clean_receiver_and_nothing_comes_back() {
    let world = World::with(&["billing", "pacs"]);
    let login = Login {
        name: "clean-room".to_owned(),
        password: PasswordHash::new("login-password", &SystemRandom),
        role: Role::Receive { repositories: Repositories::All },
    };
    let receiver = Server::start(&world.path("receiver"), Mode::Receiver, [login]);
    fs_err::write(world.path("receiver.pem"), &receiver.ca).unwrap();
    let entry = |name: &str, ca: &str| {
        format!(
            "[receivers.{name}]\naddress = \"{}\"\nserver_name = \"localhost\"\nca_file = \"{}\"\n\
             login = \"clean-room\"\npassword_file = \"{}\"\n",
            receiver.address,
            world.path(ca).display(),
            world.path("login").display(),
        )
    };
    let more = entry("cln", "receiver.pem") + &entry("other", "ca.pem");
    let vault = world.vault_at(world.address(), &more);
    pull(&vault);
    // The primary is gone: what follows needs only the vault.
    fs_err::remove_dir_all(world.path("primary")).unwrap();
    crate::back::enrol(&vault);
    let names = ["billing".to_owned(), "pacs".to_owned()];
    let asked = |receiver: &str| {
        let plan = vault.plan_restore(receiver, &names, Which::LatestClean, None, None).unwrap();
        let request = vault.request(&plan.wanted(), "night").unwrap().row.request;
        crate::back::approve(&vault, request);
        (plan, request)
    };
    // A receiver with another certificate than the pinned one gets nothing.
    let (plan, request) = asked("other");
    let refused = vault.restore(&plan, request, &Cancel::default());
    assert!(matches!(refused, Err(Error::WindowOver(_))), "{refused:?}");
    assert!(!world.path("receiver").join("billing").exists());

    let (plan, request) = asked("cln");
    let finished = vault.restore(&plan, request, &Cancel::default()).unwrap();
    let sent = finished.sent.unwrap();
    assert_eq!(sent.repositories, names);
    assert!(sent.bytes > 5_600_000, "{sent:?}");
    for name in ["billing", "pacs"] {
        let arrived = world.path("receiver").join(name);
        check(&arrived);
        let target = world.path(&format!("back-{name}"));
        restic(&arrived, &["restore", "latest", "--no-lock", "--target", target.to_str().unwrap()]);
        let restored = target.join(world.source(name).strip_prefix("/").unwrap());
        assert_eq!(tree(&restored), tree(&world.source(name)));
    }
}

#[test]
fn a_carried_disk_fills_the_vault_and_a_window_brings_only_the_rest() {
    let mut world = World::with(&["billing"]);
    let vault = world.vault();
    let disk = world.path("disk");
    let status =
        std::process::Command::new("cp").arg("-a").arg(world.path("primary")).arg(&disk).status().unwrap();
    assert!(status.success());
    let (pulled, work) = vault.seed(&disk, &Cancel::default()).unwrap();
    assert!(pulled.repositories[0].finished && work.proven[0].complete == 1, "{work:?}");
    let windows = vault.register().windows(9).unwrap();
    assert_eq!((windows[0].purpose.as_str(), windows[0].seconds), ("seed", Some(0.0)));
    world.init("pacs");
    world.write("pacs", "image", &noise(5, 300_000));
    world.backup("pacs");
    let (finished, _) = pull(&vault);
    assert!((300_000..350_000).contains(&finished.bytes), "{}", finished.bytes);
    assert_eq!((complete(&vault, "billing"), complete(&vault, "pacs")), (1, 1));
    // A disk that holds less than the vault knows of is no alarm; a disk with nothing is refused.
    fs_err::remove_dir_all(disk.join("billing")).unwrap();
    assert!(matches!(vault.seed(&disk, &Cancel::default()), Err(Error::Invalid(_))));
    world.server = None;
}

#[test]
fn a_vault_whose_log_was_changed_does_not_open() {
    let world = World::with(&["billing"]);
    drop(world.vault());
    let log = world.path("state").join("log/log");
    let text = fs_err::read_to_string(&log).unwrap();
    fs_err::write(&log, text.replace("\"epoch\":1", "\"epoch\":2")).unwrap();
    let config = kuramori_vault::Config::read(&world.configure(world.address(), "")).unwrap();
    let clock = std::sync::Arc::new(kuramori_model::clock::SystemClock);
    let opened = Vault::open(config, clock, std::sync::Arc::new(SystemRandom));
    assert!(matches!(opened, Err(Error::Log(kuramori_audit::Error::Tampered { .. }))), "{opened:?}");
}

#[test]
fn a_mistyped_configuration_names_the_key() {
    let world = World::with(&[]);
    let file = world.configure(world.address(), "[retention]\ndayly = 3\n");
    let error = kuramori_vault::Config::read(&file).unwrap_err();
    assert!(kuramori_model::fault::chain(&error).contains("dayly"), "{error}");
}

#[test]
fn the_passwords_of_later_systems_come_with_the_control_export() {
    let mut world = World::new();
    for name in ["_control", "billing"] {
        world.init(name);
        world.write(name, "file", &noise(31, 200_000));
    }
    world.backup("billing");
    world.serve();
    let config = kuramori_vault::Config::read(&world.configure(world.address(), "")).unwrap();
    let public = kuramori_vault::keys::public(&config, &SystemRandom).unwrap();
    // The vault was given the key of `_control` at its enrolment; the rest is wrapped to it there.
    fs_err::remove_file(world.path("passwords").join("billing")).unwrap();
    let sealed =
        kuramori_escrow::wrap(crate::world::PASSWORD.as_bytes(), &[public.recipient.parse().unwrap()]);
    let line = format!(
        "{{\"table\":\"secrets\",\"row\":{{\"name\":\"repository/billing\",\"sealed\":{{\"hex\":\"{}\"}}}}}}\n",
        hex::encode(sealed.unwrap())
    );
    let export = format!("{{\"kuramori_catalog\":1}}\n{line}{}", line.replace("billing", "../x"));
    world.write("_control", "catalog.jsonl", export.as_bytes());
    world.backup("_control");
    let vault = world.vault();
    let (_, work) = pull(&vault);
    assert_eq!(work.failed, [], "{work:?}");
    assert_eq!((complete(&vault, "_control"), complete(&vault, "billing")), (1, 1));
    assert_eq!(alarms(&vault), ["vault.new-repository"]);
    assert_eq!(tree(&world.path("passwords")).len(), 2);
}
