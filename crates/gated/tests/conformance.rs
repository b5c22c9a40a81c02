//! One suite for every driver of a layer, by what the driver declares; and the four families of outlets.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod rig;

use std::time::Duration;

use kuramori_gate::{
    Actuator, Lease, Reading,
    driver::{
        link::{Hardware, Link, LinkConfig},
        netconf::{Netconf, NetconfConfig},
        nft::{Nft, NftConfig},
        openflow::{OpenFlow, OpenFlowConfig},
        power::{Family, Power, PowerConfig},
        redfish::{Redfish, RedfishConfig},
        ssh::{Ssh, SshConfig},
        switch::{Switch, SwitchConfig},
    },
};
use kuramori_model::gate::LayerState;
use rig::{
    Rig,
    bmc::Controller,
    console::Console,
    inside,
    netconf::Agent,
    power::Outlet,
    suite::{conforms, conforms_looked_at, lease, reads},
    vswitch::Vswitch,
};

#[test]
fn the_packet_filter_conforms() {
    let rig = Rig::new();
    let (program, dead) = (rig.path("nft"), rig.path("dead"));
    let text = format!("#!/bin/sh\ntest -e {} && exit 1\nexec nft \"$@\"\n", dead.display());
    fs_err::write(&program, text).unwrap();
    rig::sh(&format!("chmod 755 {}", program.display()));
    // A thread that enters a namespace still sees the host's /sys: the index is shown where it looks.
    let shown = rig.path("net");
    fs_err::create_dir_all(shown.join("v0")).unwrap();
    fs_err::write(shown.join("v0/ifindex"), rig.index("vlt", "v0")).unwrap();
    let config: NftConfig = toml::from_str(&format!(
        "inside = \"pul0\"\noutside = \"v0\"\nprogram = \"{}\"\nsys_class_net = \"{}\"\n",
        program.display(),
        shown.display()
    ))
    .unwrap();
    inside(&rig.ns("vlt"), move || {
        conforms(&mut Nft::new(config, 1), || fs_err::write(dead, "").unwrap());
    })
    .join()
    .unwrap();
}

/// Seconds that the lease's element still lives, as the kernel shows it.
fn lease_left(rig: &Rig) -> u64 {
    let (ok, shown) = rig.exec("vlt", "nft -j list set inet gate lease");
    assert!(ok, "{shown}");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let sets = shown["nftables"].as_array().unwrap().iter();
    let elements = sets.filter_map(|one| one["set"]["elem"].as_array()).flatten();
    elements.filter_map(|one| one["elem"]["expires"].as_u64()).max().unwrap_or(0)
}

#[test]
fn adding_the_lease_again_does_not_renew_it_and_our_batch_does() {
    let rig = Rig::new();
    let shown = rig.path("net");
    fs_err::create_dir_all(shown.join("v0")).unwrap();
    fs_err::write(shown.join("v0/ifindex"), rig.index("vlt", "v0")).unwrap();
    let text = format!("inside = \"pul0\"\noutside = \"v0\"\nsys_class_net = \"{}\"\n", shown.display());
    let config: NftConfig = toml::from_str(&text).unwrap();
    // Thirty seconds, so that a busy machine cannot blur what is renewed and what is not.
    let long = Lease { ttl_s: 30, ..lease() };
    let ns = rig.ns("vlt");
    let mut driver = inside(&ns, move || {
        let mut driver = Nft::new(config, 30);
        driver.open(&long).unwrap();
        driver
    })
    .join()
    .unwrap();
    rig::wait("some seconds of the lease", Duration::from_secs(20), || lease_left(&rig) <= 28);
    rig.nft("vlt", "add element inet gate lease { 10.77.10.2 . 10.77.1.2 . 8443 timeout 30s }\n");
    assert!(lease_left(&rig) <= 28, "accepted, and not renewed");
    inside(&ns, move || driver.renew(&long).unwrap()).join().unwrap();
    assert!(lease_left(&rig) > 28, "renewed");
}

#[test]
fn the_switch_port_conforms() {
    let mut rig = Rig::new();
    rig.start_snmpd();
    let config = SwitchConfig {
        address: "192.0.2.2:161".parse().unwrap(),
        user: "gate".into(),
        auth_password_file: rig.path("gate-auth"),
        priv_password_file: rig.path("gate-priv"),
        sys_name: "sw-test".into(),
        if_name: "port2".into(),
        if_alias: None,
        timeout_ms: 500,
    };
    let ns = rig.ns("vlt");
    let pid = rig.snmpd_pid();
    inside(&ns, move || {
        conforms(&mut Switch::new(config).unwrap(), || {
            rig::sh(&format!("kill -STOP {pid}"));
        });
    })
    .join()
    .unwrap();
}

fn ssh(console: &Console) -> SshConfig {
    toml::from_str(&console.config()).unwrap()
}

#[test]
fn a_switch_port_by_ssh_conforms_in_both_dialects() {
    let rig = Rig::new();
    for dialect in ["alliedware_plus", "ios"] {
        let mut console = Console::start(&rig, dialect);
        let (config, ns) = (ssh(&console), rig.ns("vlt"));
        inside(&ns, move || conforms(&mut Ssh::new(config).unwrap(), || console.stop())).join().unwrap();
    }
}

/// What is wrong with the switch, what a read-back then is, and a word of it.
const WRONG: [(&str, LayerState, &str); 10] = [
    ("cuts its echo", LayerState::Closed, "disabled"),
    ("does nothing", LayerState::Open, "connected"),
    ("drops", LayerState::Open, "connected"),
    ("stale", LayerState::Unknown, "Link is UP"),
    ("err-disabled", LayerState::Unknown, "err-disabled"),
    ("renumbered", LayerState::Unknown, "0 ports are named `port1.0.5`"),
    ("is another", LayerState::Unknown, "not that of `sw-test`"),
    ("refuses", LayerState::Unknown, "may not configure"),
    ("hangs", LayerState::Unknown, "no prompt came in time"),
    ("description", LayerState::Unknown, "description is `another`"),
];

#[test]
fn a_switch_that_is_not_as_configured_or_does_nothing_is_never_closed_and_a_changed_host_key_is_named() {
    let rig = Rig::new();
    let mut console = Console::start(&rig, "alliedware_plus");
    let config = ssh(&console);
    let ns = rig.ns("vlt");
    for (how, state, word) in WRONG {
        rig.exec("sw", "ip link set port2 up");
        console.turn_on();
        if how == "description" {
            console.describe("another");
        } else {
            console.spoil(how);
        }
        let mut config = config.clone();
        // Only where it is the answer that must be given up.
        if ["is another", "hangs"].contains(&how) {
            config.timeout_ms = 2000;
        }
        let (ordered, reading) = inside(&ns, move || {
            let mut driver = Ssh::new(config).unwrap();
            // What is only shown wrongly is looked at as it stands; what is not understood is waited for once.
            match how {
                "stale" | "err-disabled" => (Ok(()), driver.observe()),
                "is another" | "hangs" => {
                    let error = driver.close().unwrap_err();
                    let said = Reading::unknown(error.to_string());
                    (Err(error), said)
                }
                _ => (driver.close(), driver.observe()),
            }
        })
        .join()
        .unwrap();
        assert_eq!(reading.state, state, "{how}: {reading:?}, {ordered:?}");
        assert!(reading.detail.contains(word), "{how}: {reading:?}");
        let (_, link) = rig.exec("sw", "ip -o link show port2");
        // Not even tried on what is not ours, nor reported as done where the session ended.
        assert_eq!(link.contains("LOWER_UP"), how != "cuts its echo", "{how}: {link}");
        let taken = ["cuts its echo", "stale", "err-disabled", "does nothing"].contains(&how);
        assert_eq!(ordered.is_ok(), taken, "{how}: {ordered:?}");
        console.describe("kuramori-vault");
        console.spoil("");
    }
    // Another dialect, other algorithms than it may ask for, a switch that is somebody else by its key.
    let other = SshConfig { dialect: kuramori_gate::driver::ssh::Dialect::Ios, ..config.clone() };
    let bad = SshConfig { legacy: vec!["ProxyCommand=sh".into()], ..config.clone() };
    assert!(Ssh::new(bad).is_err());
    console.turn_on();
    let kept = inside(&ns, move || {
        let mut driver = Ssh::new(other).unwrap();
        assert_eq!(driver.observe().state, LayerState::Unknown);
        let mut driver = Ssh::new(config).unwrap();
        driver.close().unwrap();
        assert_eq!(driver.observe().state, LayerState::Closed);
        driver
    })
    .join()
    .unwrap();
    console.serve("other");
    let mut driver = kept;
    let reading = inside(&ns, move || {
        // The old session has ended with its server; the new one is with a stranger.
        let _ = driver.observe();
        assert!(driver.close().is_err() && driver.open(&lease()).is_err());
        driver.observe()
    })
    .join()
    .unwrap();
    assert_eq!(reading.state, LayerState::Unknown);
    assert!(
        reading.detail.contains("host key SHA256:") && reading.detail.contains("own console"),
        "{reading:?}"
    );
}

fn power(rig: &Rig, family: Family, outlet: u32) -> PowerConfig {
    PowerConfig {
        address: "192.0.2.2:161".parse().unwrap(),
        user: "gate".into(),
        auth_password_file: rig.path("gate-auth"),
        priv_password_file: rig.path("gate-priv"),
        sys_name: "sw-test".into(),
        family,
        sys_object_id: (family == Family::Cpdu).then(|| "1.3.6.1.4.1.318.1.3.4.9".to_owned()),
        unit: 1,
        outlet,
        timeout_ms: 500,
    }
}

const FAMILIES: [(Family, &str); 4] = [
    (Family::Rpdu, "rpdu"),
    (Family::Rpdu2, "rpdu2"),
    (Family::Cpdu, "cpdu"),
    (Family::MasterSwitchPlus, "msp"),
];

#[test]
fn off_is_off_in_all_four_families_of_outlets() {
    let mut rig = Rig::new();
    for (family, name) in FAMILIES {
        rig.stop_snmpd();
        let outlet = Outlet::new(&rig, name, "");
        rig.start_outlet(&outlet);
        assert_eq!(outlet.power(), "on");
        let (config, pid) = (power(&rig, family, 3), rig.snmpd_pid());
        let (state, other) = (outlet.clone(), outlet.clone());
        inside(&rig.ns("vlt"), move || {
            let mut driver = Power::new(config).unwrap();
            driver.close().unwrap();
            assert_eq!(state.power(), "off", "{name}");
            driver.open(&lease()).unwrap();
            assert_eq!(state.power(), "on", "{name}");
            if family == Family::Rpdu || rig::long() {
                conforms(&mut driver, || {
                    rig::sh(&format!("kill -STOP {pid}"));
                });
                assert_eq!(state.power(), "off", "{name}");
            }
        })
        .join()
        .unwrap();
        assert!(!other.commands().is_empty());
    }
}

#[test]
fn an_outlet_of_another_family_or_without_a_state_is_refused_and_a_lying_one_is_not_closed() {
    let mut rig = Rig::new();
    for (device, spoil, driver) in [
        ("cpdu", "", Family::Rpdu),
        ("rpdu", "", Family::Cpdu),
        ("rpdu2", "", Family::MasterSwitchPlus),
        ("rpdu", "stateless", Family::Rpdu),
        ("rpdu", "strange", Family::Rpdu),
    ] {
        rig.stop_snmpd();
        let outlet = Outlet::new(&rig, device, spoil);
        rig.start_outlet(&outlet);
        let config = power(&rig, driver, 3);
        inside(&rig.ns("vlt"), move || {
            let mut driver = Power::new(config).unwrap();
            assert!(driver.close().is_err() && driver.open(&lease()).is_err());
            assert_eq!(driver.observe().state, LayerState::Unknown);
        })
        .join()
        .unwrap();
        assert_eq!(outlet.commands(), "", "nothing was ever set");
    }
    rig.stop_snmpd();
    let outlet = Outlet::new(&rig, "rpdu", "lying");
    rig.start_outlet(&outlet);
    let config = power(&rig, Family::Rpdu, 3);
    inside(&rig.ns("vlt"), move || {
        let mut driver = Power::new(config).unwrap();
        driver.close().unwrap();
        assert_eq!(driver.observe().state, LayerState::Open, "acknowledged is not off");
    })
    .join()
    .unwrap();
    assert!(!outlet.commands().is_empty());
}

#[test]
fn power_by_redfish_conforms_late_answers_and_strangers_included() {
    let rig = Rig::new();
    let mut controller = Controller::start(&rig);
    let config: RedfishConfig = toml::from_str(&controller.config()).unwrap();
    let ns = rig.ns("vlt");
    // Another key, another system, a password that is not its own: refused, and nothing is switched.
    for (wrong, word) in [
        (RedfishConfig { public_key_sha256: "AAAA".repeat(11), ..config.clone() }, "not the pinned one"),
        (
            RedfishConfig { uuid: "00000000-0000-0000-0000-000000000000".into(), ..config.clone() },
            "0 systems have the UUID",
        ),
        (RedfishConfig { user: "nobody".into(), ..config.clone() }, "401"),
    ] {
        let (ordered, reading) = inside(&ns, move || {
            let mut driver = Redfish::new(wrong).unwrap();
            (driver.close(), driver.observe())
        })
        .join()
        .unwrap();
        assert!(ordered.is_err() && reading.state == LayerState::Unknown, "{reading:?}");
        assert!(reading.detail.contains(word), "{word}: {reading:?}");
    }
    inside(&ns, move || {
        let mut driver = Redfish::new(config).unwrap();
        assert_eq!(driver.observe().state, LayerState::Open, "none of them switched it off");
        // It acknowledges at once and acts some time later: only the read-back counts.
        driver.close().unwrap();
        let at_once = driver.observe().state;
        let took = reads(&mut driver, LayerState::Closed).unwrap();
        println!("acknowledged while {at_once:?}, off after {took} ms");
        // Called off while it is still on its way: what is said to be off must stay so.
        driver.open(&lease()).unwrap();
        driver.close().unwrap();
        let start = rig::now_ms();
        while driver.observe().state != LayerState::Closed {
            assert!(rig::now_ms() - start < 60_000, "it never reads closed again");
            std::thread::sleep(Duration::from_millis(300));
            // As the gate does until it reads closed.
            driver.close().unwrap();
        }
        for _ in 0..20 {
            assert_eq!(driver.observe().state, LayerState::Closed, "it came on after it was called off");
            std::thread::sleep(Duration::from_millis(100));
        }
        conforms(&mut driver, || controller.stop());
    })
    .join()
    .unwrap();
}

/// A flow tool between the gate and its switch that changes what it is given, or lets nothing through.
fn meddling(rig: &Rig, name: &str, change: &str) -> String {
    let program = rig.path(name);
    fs_err::write(
        &program,
        format!("#!/bin/bash\ncase \"$*\" in\n{change}\n*) exec ovs-ofctl \"$@\" ;;\nesac\n"),
    )
    .unwrap();
    rig::sh(&format!("chmod 755 {}", program.display()));
    program.display().to_string()
}

#[test]
fn an_openflow_switch_conforms_and_a_stranger_a_liar_or_a_foreign_entry_is_never_closed() {
    let rig = Rig::new();
    let switch = Vswitch::start(&rig);
    let config: OpenFlowConfig = toml::from_str(&switch.config(3)).unwrap();
    let ns = rig.ns("vlt");
    let ask = |config: OpenFlowConfig, open: bool| {
        inside(&ns, move || {
            let mut driver = OpenFlow::new(config).unwrap();
            let done = if open { driver.open(&lease()) } else { driver.close() };
            (done, driver.observe())
        })
        .join()
        .unwrap()
    };
    // Another switch, a port that is not there any more: nothing is done to it.
    switch.ofctl("add-flow", "priority=7,actions=drop");
    for (wrong, word) in [
        (
            OpenFlowConfig { datapath_id: "00000000000000b2".into(), ..config.clone() },
            "the datapath id is 00000000000000a1",
        ),
        (OpenFlowConfig { vault_port: "port9".into(), ..config.clone() }, "0 ports are named `port9`"),
        (
            OpenFlowConfig { timeout_ms: 700, address: "192.0.2.9:6653".parse().unwrap(), ..config.clone() },
            "",
        ),
    ] {
        let (done, reading) = ask(wrong, false);
        assert!(
            done.is_err() && reading.state == LayerState::Unknown && reading.detail.contains(word),
            "{reading:?}"
        );
    }
    assert!(switch.ofctl("dump-flows", "").contains("priority=7"), "it was not touched");
    // An entry of somebody else is never closed, and goes with the order to close.
    let other = config.clone();
    let reading = inside(&ns, move || OpenFlow::new(other).unwrap().observe()).join().unwrap();
    assert_eq!(reading.state, LayerState::Unknown, "{reading:?}");
    let (done, reading) = ask(config.clone(), false);
    assert!(done.is_ok() && reading.state == LayerState::Closed, "{reading:?}");
    // What acknowledges and does nothing never reads open; what forgets the timeout, or sends elsewhere, neither.
    for (name, change, state) in [
        ("nothing", "*add-flows*) cat >/dev/null; exit 0 ;;", LayerState::Closed),
        ("endless", "*add-flows*) sed 's/hard_timeout=3,//' | exec ovs-ofctl \"$@\" ;;", LayerState::Unknown),
        (
            "elsewhere",
            "*add-flows*) sed 's/output:1/output:LOCAL/' | exec ovs-ofctl \"$@\" ;;",
            LayerState::Unknown,
        ),
    ] {
        let (done, reading) =
            ask(OpenFlowConfig { program: meddling(&rig, name, change), ..config.clone() }, true);
        assert!(done.is_ok() && reading.state == state, "{name}: {reading:?}");
    }
    // A deletion that is acknowledged and not done.
    let program = meddling(&rig, "keeps", "*del-flows*) exit 0 ;;");
    assert_eq!(ask(config.clone(), true).1.state, LayerState::Open);
    assert_eq!(ask(OpenFlowConfig { program, ..config.clone() }, false).1.state, LayerState::Unknown);
    // Empty tables, and yet something leaves toward the vault.
    let (before, counted) =
        (config.clone(), "*dump-ports*) ovs-ofctl \"$@\" | sed \"s/tx pkts=/tx pkts=$SECONDS$RANDOM/\" ;;");
    let counting = OpenFlowConfig { program: meddling(&rig, "sends", counted), ..config.clone() };
    let reading = inside(&ns, move || {
        OpenFlow::new(before).unwrap().close().unwrap();
        let mut driver = OpenFlow::new(counting).unwrap();
        driver.observe();
        driver.observe()
    })
    .join()
    .unwrap();
    assert!(reading.state == LayerState::Unknown && reading.detail.contains("has sent since"), "{reading:?}");
    // Fail mode `standalone`: the switch lets everything through by itself, and that is seen.
    switch.vsctl("set bridge br0 fail_mode=standalone");
    let at = config.clone();
    inside(&ns, move || {
        let mut driver = OpenFlow::new(at).unwrap();
        let reading = reads(&mut driver, LayerState::Unknown);
        assert!(reading.is_ok() && driver.observe().detail.contains("NORMAL"), "{:?}", driver.observe());
    })
    .join()
    .unwrap();
    switch.vsctl("set bridge br0 fail_mode=secure");
    let at = config.clone();
    let pid = switch.pid();
    inside(&ns, move || {
        conforms(&mut OpenFlow::new(at).unwrap(), || {
            rig::sh(&format!("kill -STOP {pid}"));
        });
    })
    .join()
    .unwrap();
    rig::sh(&format!("kill -CONT {pid}"));
    // Somebody else answers at its address.
    switch.certify("other");
    let (done, reading) = ask(config, false);
    assert!(done.is_err() && reading.detail.contains("our authority did not sign"), "{reading:?}");
}

#[test]
fn a_port_by_netconf_conforms_in_both_framings_and_a_stranger_or_a_liar_is_never_closed() {
    for protocols in ["netconf1.0", "netconf1.0 netconf1.1"] {
        let rig = Rig::new();
        let mut agent = Agent::start(&rig, protocols);
        let config: NetconfConfig = toml::from_str(&agent.config(3)).unwrap();
        let ns = rig.ns("vlt");
        let both = protocols.contains("1.1");
        if both {
            strangers_and_liars(&rig, &mut agent, &config);
        }
        inside(&ns, move || {
            let mut driver = Netconf::new(NetconfConfig { timeout_ms: 6000, ..config }).unwrap();
            // This server looks at its timer only when nothing was asked for a second.
            if both || rig::long() {
                conforms_looked_at(&mut driver, 1600, || agent.freeze());
            } else {
                driver.close().unwrap();
                reads(&mut driver, LayerState::Closed).unwrap();
                driver.open(&lease()).unwrap();
                driver.renew(&lease()).unwrap();
                reads(&mut driver, LayerState::Open).unwrap();
                // The end of the session alone closes it.
                drop(driver);
                let mut next = Netconf::new(toml::from_str(&agent.config(3)).unwrap()).unwrap();
                reads(&mut next, LayerState::Closed).unwrap();
            }
        })
        .join()
        .unwrap();
    }
}

fn strangers_and_liars(rig: &Rig, agent: &mut Agent, config: &NetconfConfig) {
    let ns = rig.ns("vlt");
    let ask = |config: NetconfConfig, open: bool| {
        inside(&ns, move || {
            let mut driver = Netconf::new(config).unwrap();
            let done = if open { driver.open(&lease()) } else { driver.close() };
            (done, driver.observe())
        })
        .join()
        .unwrap()
    };
    let up = || rig.exec("sw", "ip -o link show port2").1.contains("LOWER_UP");
    assert!(up(), "the port is on before anybody closes it");
    for (wrong, word) in [
        (NetconfConfig { interface: "port9".into(), ..config.clone() }, "0 interfaces are named `port9`"),
        (NetconfConfig { description: Some("another".into()), ..config.clone() }, "not `another`"),
        (NetconfConfig { user: "no-such-user".into(), ..config.clone() }, "Permission denied"),
    ] {
        let (done, reading) = ask(wrong, false);
        assert!(
            done.is_err() && reading.state == LayerState::Unknown && reading.detail.contains(word),
            "{word}: {reading:?} {done:?}"
        );
    }
    assert!(up(), "nothing was done to it");
    let (done, reading) = ask(config.clone(), false);
    assert!(done.is_ok() && reading.state == LayerState::Closed && !up(), "{reading:?} {done:?}");
    // It takes the change, says that it runs, and does nothing.
    agent.spoil(true);
    rig.exec("sw", "ip link set port2 up");
    // The server looks at its interfaces now and then, not at each question.
    rig::wait("the lie is seen", Duration::from_secs(10), || {
        let (done, reading) = ask(config.clone(), false);
        done.is_ok() && reading.state == LayerState::Unknown
    });
    agent.spoil(false);
    rig.exec("sw", "ip link set port2 down");
    agent.serve("other");
    let (done, reading) = ask(config.clone(), false);
    assert!(done.is_err() && reading.detail.contains("host key SHA256:"), "{reading:?}");
    agent.serve("host");
}

#[test]
fn the_guarded_link_conforms_and_comes_back_with_its_routes_and_another_card_is_never_closed() {
    let rig = Rig::new();
    let config: LinkConfig = toml::from_str(&rig.link_config()).unwrap();
    let stranger = LinkConfig {
        hardware_address: Hardware::try_from(rig.mac("prd", "gat0")).unwrap(),
        ..config.clone()
    };
    let vlt = rig.ns("vlt");
    let up = || rig.exec("vlt", "ip -o link show v0").1.contains("LOWER_UP");
    let reaches = || rig.exec("vlt", "ping -c1 -W2 10.77.1.2").0;
    assert!(up() && reaches(), "the path is open before anybody closes it");
    let reading = inside(&vlt, move || {
        let mut driver = Link::new(stranger, "v0");
        assert!(driver.close().is_err() && driver.open(&lease()).is_err());
        driver.observe()
    });
    let reading = reading.join().unwrap();
    assert!(reading.state == LayerState::Unknown && reading.detail.contains("another card"), "{reading:?}");
    assert!(up(), "nothing was done to it");
    let at = config.clone();
    inside(&vlt, move || Link::new(at, "v0").close().unwrap()).join().unwrap();
    assert!(!up() && !reaches());
    let at = config.clone();
    inside(&vlt, move || {
        let mut driver = Link::new(at, "v0");
        driver.open(&lease()).unwrap();
        reads(&mut driver, LayerState::Open).unwrap();
    })
    .join()
    .unwrap();
    assert!(reaches(), "{}", rig.exec("vlt", "ip route; ip neigh").1);
    inside(&vlt.clone(), move || {
        conforms(&mut Link::new(config, "v0"), || {
            rig::sh(&format!("ip -n {vlt} link set v0 name v9"));
        });
    })
    .join()
    .unwrap();
}
