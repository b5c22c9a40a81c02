//! Hosts and wires: they carry what they should, and leave nothing behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common;

use common::Stage;
use kuramori_lab::{Files, Lab, Program, Role, Service, Try, down, probe};

fn ping(lab: &Lab, from: Role, to: &str) -> bool {
    lab.host(from).try_run(&Program::new("ping").args(["-c1", "-W1", to])).unwrap().status == Some(0)
}

#[test]
fn up_and_down_leave_the_machine_as_before() {
    let stage = Stage::new('a');
    let before = Lab::host_fingerprint(&stage.prefix, &stage.root()).unwrap();
    let lab = stage.up(&[]);
    lab.mount_disk(&lab.host(Role::Vlt).folder().join("store"), 16).unwrap();
    let during = before.differences(&Lab::host_fingerprint(&stage.prefix, &stage.root()).unwrap());
    assert!(
        during.iter().any(|line| line.starts_with("namespaces: +")),
        "the proof would notice: {during:?}"
    );
    assert!(during.iter().any(|line| line.starts_with("mounts: +")), "the proof would notice: {during:?}");
    let log = lab.root().join("logs/sleep.log");
    let mut sleep = lab.host(Role::Bil).spawn("sleep", &Program::new("sleep").arg("600"), &log).unwrap();
    assert!(sleep.alive());
    let done = lab.down(Files::Remove).unwrap();
    assert_eq!(done.differences, Vec::<String>::new());
    assert_eq!((done.ended, done.namespaces, done.mounts), (1, Role::ALL.len(), 1));
    assert!(!sleep.alive() && !stage.root().exists());
    assert_eq!(
        before.differences(&Lab::host_fingerprint(&stage.prefix, &stage.root()).unwrap()),
        Vec::<String>::new()
    );
}

#[test]
fn hosts_reach_each_other_and_the_vault_only_through_its_port() {
    let stage = Stage::new('b');
    let lab = stage.up(&[]);
    for (from, to) in [(Role::Srv, Role::Bil), (Role::Oph, Role::Mai), (Role::Cln, Role::Sw)] {
        assert!(ping(&lab, from, &to.address().to_string()), "{from} {to}");
    }
    assert!(
        ping(&lab, Role::Vlt, "192.0.2.2") && !ping(&lab, Role::Srv, "192.0.2.2"),
        "management is the vault's"
    );
    let way = |open: bool| {
        assert_eq!(ping(&lab, Role::Srv, &Role::Vlt.address().to_string()), open);
        assert_eq!(ping(&lab, Role::Pul, &Role::Srv.address().to_string()), open);
    };
    way(false);
    for _ in 0..2 {
        lab.switch().set_port(true).unwrap();
        way(true);
        lab.switch().set_port(false).unwrap();
        way(false);
    }
    lab.host(Role::Bil).plug(false).unwrap();
    assert!(!ping(&lab, Role::Srv, &Role::Bil.address().to_string()));
    lab.host(Role::Bil).plug(true).unwrap();
    assert!(ping(&lab, Role::Srv, &Role::Bil.address().to_string()));
}

#[test]
fn down_cleans_up_after_a_crash_and_again() {
    let stage = Stage::new('c');
    let mut lab = stage.up(&[]);
    let log = lab.root().join("logs/stray.log");
    // Started by something in the lab, unknown to its register.
    let stray = "setsid sleep 600 & setsid sh -c 'trap : TERM; sleep 600 & wait; wait' & wait";
    let mut parent =
        lab.host(Role::Pac).spawn("parent", &Program::new("sh").args(["-c", stray]), &log).unwrap();
    kuramori_lab::wait_for("the strays run", std::time::Duration::from_mins(2), || {
        lab.host(Role::Pac).processes().unwrap().len() >= 3
    })
    .unwrap();
    parent.signal(rustix::process::Signal::KILL);
    lab.keep();
    drop(lab);
    let done = down(&stage.root(), Files::Keep).unwrap();
    assert!(done.killed >= 2, "{done:?}");
    assert_eq!(done.differences, Vec::<String>::new());
    assert_eq!(done.namespaces, Role::ALL.len());
    let again = down(&stage.root(), Files::Keep).unwrap();
    assert_eq!(again, kuramori_lab::Down::default());
    assert!(Lab::open(&stage.root()).is_err());
    // The same root can be used again.
    drop(stage.up(&[]));
}

#[test]
fn a_dropped_lab_is_down_and_a_strange_folder_is_refused() {
    let stage = Stage::new('d');
    drop(stage.up(&[]));
    assert!(Lab::host_fingerprint(&stage.prefix, &stage.root()).unwrap().namespaces.is_empty());
    let strange = stage.folder.path().join("strange");
    fs_err::create_dir(&strange).unwrap();
    fs_err::write(strange.join("thesis.odt"), "x").unwrap();
    let error = Lab::up(&stage.prefix, &strange, kuramori_lab::What::network()).unwrap_err();
    assert!(error.to_string().contains("no lab"), "{error}");
    let closed = tempfile::tempdir().unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs_err::set_permissions(closed.path(), private).unwrap();
    let error =
        Lab::up(&stage.prefix, &closed.path().join("lab"), kuramori_lab::What::network()).unwrap_err();
    assert!(error.to_string().contains("closed to other users"), "{error}");
}

#[test]
fn the_witness_sees_an_open_path_and_nobody_through_a_closed_one() {
    let stage = Stage::new('w');
    let lab = stage.up(&[Service::Witness]);
    // Every port once from the vault's own wire, and a part of them from behind the router.
    let tries = [(Role::Lan, Try::default()), (Role::Srv, Try { tcp: 1..=2_000, ..Try::default() })];
    lab.switch().set_port(true).unwrap();
    for (from, what) in &tries {
        let contacts = lab.witness().contacts().unwrap().len();
        let found = probe(&lab, *from, what).unwrap();
        println!("{found:?}");
        assert_eq!((found.tcp.accepted, found.udp.len()), (found.tcp.tried, 14), "{found:?}");
        assert!(found.icmp && found.reached && found.forged.len() == 5, "{found:?}");
        assert_eq!(
            (found.arp, !found.ipv6.is_empty()),
            (*from == Role::Lan, *from == Role::Lan),
            "{found:?}"
        );
        // What it met it writes down a little later.
        kuramori_lab::wait_for("the witness's notes", std::time::Duration::from_mins(2), || {
            lab.witness().contacts().unwrap().len() >= contacts + found.tcp.tried as usize
        })
        .unwrap();
    }
    kuramori_lab::wait_for("every port in the notes", std::time::Duration::from_mins(2), || {
        let contacts = lab.witness().contacts().unwrap();
        let ports: std::collections::BTreeSet<_> =
            contacts.iter().filter_map(|contact| contact.port).collect();
        ports.len() == 65_535
    })
    .unwrap();

    lab.switch().set_port(false).unwrap();
    let (contacts, arrivals) = (lab.witness().contacts().unwrap().len(), lab.witness().arrivals().unwrap());
    assert!(
        arrivals.tcp > 0 && arrivals.udp > 0 && arrivals.icmp > 0 && arrivals.arp > 0 && arrivals.ip6 > 0
    );
    for (from, what) in &tries {
        let found = probe(&lab, *from, what).unwrap();
        assert!(!found.reached, "{found:?}");
    }
    assert_eq!(lab.witness().contacts().unwrap().len(), contacts);
    assert_eq!(lab.witness().arrivals().unwrap(), arrivals);
}

#[test]
fn the_witness_puts_its_tables_back() {
    let stage = Stage::new('v');
    let lab = stage.up(&[Service::Witness]);
    lab.switch().set_port(true).unwrap();
    let few = Try { tcp: 440..=450, ..Try::default() };
    lab.host(Role::Vlt).run(&Program::new("nft").args(["flush", "ruleset"])).unwrap();
    kuramori_lab::wait_for("the tables are back", std::time::Duration::from_mins(2), || {
        lab.witness().arrivals().is_ok()
    })
    .unwrap();
    assert_eq!(probe(&lab, Role::Srv, &few).unwrap().tcp.accepted, 11);
}
