//! Layer C against a real agent: net-snmp's snmpd that owns the switch port.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod rig;

use std::time::Duration;

use kuramori_model::gate::{CloseReason, Layer, LayerState};
use kuramori_observe::site::{PortReader, Site, look};
use rig::{
    Rig, VAULT,
    console::Console,
    gate::{Process, Setup},
    inside,
    netconf::Agent,
    traffic::Stream,
    vswitch::Vswitch,
    wait,
};

fn layer(rig: &Rig, layer: Layer) -> Option<(LayerState, String)> {
    rig.status()?.layers.iter().find(|read| read.layer == layer).map(|read| (read.state, read.detail.clone()))
}

/// Whether the kernel of the switch has the port up, whatever its agent says.
fn port_up(rig: &Rig) -> bool {
    rig.exec("sw", "cat /sys/class/net/port2/flags")
        .1
        .trim()
        .strip_prefix("0x")
        .is_some_and(|hex| u32::from_str_radix(hex, 16).is_ok_and(|flags| flags & 1 == 1))
}

fn look_from_site(rig: &Rig) -> kuramori_observe::site::SiteView {
    let reader = PortReader {
        address: "10.77.8.2:161".parse().unwrap(),
        user: "site".into(),
        auth_password_file: rig.path("site-auth"),
        priv_password_file: rig.path("site-priv"),
        sys_name: "sw-test".into(),
        if_name: "port2".into(),
        timeout_ms: 500,
    };
    let site = Site {
        vault: vec![std::net::SocketAddrV4::new(VAULT, 22), std::net::SocketAddrV4::new(VAULT, 8443)],
        from: kuramori_observe::probe::From::default(),
        patience: Duration::from_millis(400),
        port: Some(reader),
    };
    inside(&rig.ns("prd"), move || look(&site, &kuramori_model::clock::SystemClock)).join().unwrap()
}

#[test]
fn the_port_opens_and_closes_with_the_window_and_a_dead_agent_is_never_closed() {
    let mut rig = Rig::new();
    rig.serve_primary();
    rig.start_snmpd();
    assert!(port_up(&rig), "the port is up before anybody seals it");
    assert_eq!(
        rig.scan_tcp("prd", &[std::net::SocketAddrV4::new(VAULT, 22)]).len(),
        1,
        "and the path is open"
    );
    let _gated = rig.gated(&Setup { switch: true, ..Setup::default() });
    let _observed = rig.observed(&["10.77.1.2:22"]);
    let sealed = rig.wait_state("closed_verified", 10);
    assert!(!port_up(&rig));
    let status = rig.status().unwrap();
    assert!(status.claim.offline, "{:?}", status.claim);
    assert_eq!(status.claim.closed_layers, [Layer::A, Layer::C]);
    let view = look_from_site(&rig);
    assert!(view.port.as_ref().unwrap().value.unwrap().is_down(), "{view:#?}");
    assert_eq!(view.answered.value, Some(vec![]));

    let (mut opens, mut closes) = (Vec::new(), Vec::new());
    for _ in 0..if rig::long() { 10 } else { 1 } {
        let start = rig::now_ms();
        let window = rig.open(60);
        opens.push((rig::now_ms() - start) as f64 / 1000.0);
        assert!(port_up(&rig));
        assert!(!rig.status().unwrap().claim.offline);
        assert_eq!(look_from_site(&rig).port.unwrap().value.unwrap().admin, 1);
        let stream = rig.pull();
        wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
        rig.close();
        closes.push(rig.wait_state("closed_verified", 10).as_secs_f64());
        assert!(!port_up(&rig));
        let record = rig.record(window);
        rig::agree(&record);
        assert!(record.closed_verified && record.observations.len() == 2, "{record:#?}");
    }
    println!("sealed after {sealed:?}");
    Rig::evidence("gate-switch-open", &rig::figures("open after the token, layers A and C", 0, opens));
    Rig::evidence(
        "gate-switch-close",
        &rig::figures("closed proven after the order, layers A and C", 0, closes),
    );

    // The agent dies while a window is open: that closes it, and C is never called closed.
    let window = rig.open(60);
    let stream = rig.pull();
    wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
    rig.stop_snmpd();
    wait("closing", Duration::from_secs(15), || rig.state() != "open");
    wait("not proven", Duration::from_secs(20), || rig.state() == "fault_open");
    let status = rig.status().unwrap();
    assert!(!status.claim.offline && status.claim.closed_layers == [Layer::A], "{:?}", status.claim);
    let (state, detail) = layer(&rig, Layer::C).unwrap();
    assert_eq!(state, LayerState::Unknown, "{detail}");
    let record = rig.record(window);
    assert!(matches!(record.close_reason, CloseReason::LayerFault { layer: Layer::C, .. }), "{record:#?}");
    assert!(!record.closed_verified);
    assert!(stream.pause() > 5000, "layer A closed all the same");
    let view = look_from_site(&rig);
    assert!(view.port.as_ref().unwrap().value.is_none() && view.port.unwrap().missing.is_some());

    // It comes back: proven, but latched until two officers release it.
    rig.start_snmpd();
    wait("proven, latched", Duration::from_secs(15), || {
        rig.status().is_some_and(|status| status.gate.is_verified_closed())
    });
    assert_eq!(rig.state(), "fault_open");
    assert!(!port_up(&rig));
    rig.ask(&rig.release(2)).unwrap();
    assert_eq!(rig.state(), "closed_verified");

    // Somebody opens the port behind our back: found and shut again.
    let sw = rig.ns("sw");
    rig::sh(&format!("ip -n {sw} link set port2 up"));
    let took = wait("shut again", Duration::from_secs(20), || !port_up(&rig));
    println!("shut {took:?} after somebody opened it");
}

#[test]
fn another_device_or_port_is_refused() {
    let mut rig = Rig::new();
    rig.serve_primary();
    rig.start_snmpd();
    for (setup, words) in [
        (Setup { switch: true, if_name: "port9", ..Setup::default() }, "ifName `port9`"),
        (Setup { switch: true, sys_name: "other", ..Setup::default() }, "sysName is `sw-test`"),
    ] {
        let gated = rig.gated(&setup);
        let observed = rig.observed(&[]);
        wait("layer C says why", Duration::from_secs(10), || {
            layer(&rig, Layer::C)
                .is_some_and(|(state, detail)| state == LayerState::Unknown && detail.contains(words))
        });
        assert!(port_up(&rig), "nothing was done to a port that is not ours");
        assert_eq!(rig.state(), "sealing");
        gated.kill();
        observed.kill();
    }
}

#[test]
fn the_agent_itself_lets_the_gate_touch_only_its_port() {
    let mut rig = Rig::new();
    rig.start_snmpd();
    let user = |user: &str| {
        format!(
            "-r0 -t2 -v3 -l authPriv -u {user} -a SHA-256 -A {user}-auth-pass -x AES -X {user}-priv-pass 127.0.0.1"
        )
    };
    let set = |who: &str, port: &str| {
        let index = rig.index("sw", port);
        rig.exec("sw", &format!("snmpset {} .1.3.6.1.2.1.2.2.1.7.{index} i 2", user(who)))
    };
    assert!(set("gate", "port2").0, "the gate sets its own port");
    assert!(!set("gate", "port1").0, "but no other");
    assert!(!set("site", "port2").0, "and the site only reads");
}

#[test]
fn a_port_by_ssh_opens_and_closes_with_the_window_and_a_changed_host_key_closes_and_is_said() {
    let rig = Rig::new();
    rig.serve_primary();
    let mut console = Console::start(&rig, "ios");
    console.ping_poll();
    let _gated = rig.gated(&Setup { switch_ssh: Some(console.config()), ttl: 2, ..Setup::default() });
    let _observed = rig.observed(&[]);
    rig.wait_state("closed_verified", 15);
    assert!(!port_up(&rig));
    assert!(rig.status().unwrap().claim.offline);
    let answers = || rig.exec("sw", "ping -c1 -W1 192.0.2.1").0;
    assert!(!answers(), "the switch's ping is not answered at rest");
    rig.wait_state("closed_verified", 15);
    let window = rig.open(60);
    assert!(port_up(&rig) && answers());
    let stream = rig.pull();
    wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
    rig.close();
    rig.wait_state("closed_verified", 15);
    assert!(!port_up(&rig) && !answers());
    let record = rig.record(window);
    rig::agree(&record);
    assert!(record.closed_verified, "{record:#?}");
    // Somebody else answers in the switch's place while a window is open.
    rig.open(60);
    console.serve("other");
    wait("closed", Duration::from_secs(15), || rig.state() != "open");
    wait("the reason", Duration::from_secs(20), || {
        layer(&rig, Layer::C)
            .is_some_and(|(state, why)| state == LayerState::Unknown && why.contains("host key"))
    });
    let status = rig.status().unwrap();
    assert!(!status.claim.offline);
    let named = |alarm: &String| alarm.contains("layer_fault") && alarm.contains("\"C\"");
    assert!(status.alarms.iter().any(named), "{status:#?}");
}

/// Milliseconds from the moment at which the process that renews layer C got this signal to the stream's last
/// byte. No other layer is loaded: what ends the bytes is the switch alone.
fn last_byte(rig: &Rig, setup: &Setup, signal: &str, lease: u64) -> u64 {
    let config = rig.write_config(setup);
    let child = std::process::Command::new("ip")
        .args([
            "netns",
            "exec",
            &rig.ns("vlt"),
            env!("CARGO_BIN_EXE_kuramori-gated"),
            "--hold",
            "C",
            "--config",
        ])
        .arg(config)
        // It ends with its standard input.
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let holder = Process(child);
    let mut stream: Option<Stream> = None;
    wait("bytes through the switch", Duration::from_secs(30), || {
        if stream.as_ref().is_none_or(|stream| stream.bytes() == 0 && stream.age() > 2000) {
            stream = Some(rig.pull());
        }
        stream.as_ref().is_some_and(|stream| stream.bytes() > 100_000)
    });
    let stream = stream.unwrap();
    // It is renewed: the bytes go on for longer than the lease.
    std::thread::sleep(Duration::from_millis(lease + 700));
    wait("they go on while somebody renews", Duration::from_secs(10), || stream.pause() < 300);
    let signalled = rig::now_ms();
    holder.signal(signal);
    if setup.more.contains("endless") {
        std::thread::sleep(Duration::from_millis(2 * lease));
    } else {
        wait("the last byte", Duration::from_secs(20), || stream.pause() > 1500);
    }
    stream.last().saturating_sub(signalled)
}

#[test]
fn an_openflow_switch_forgets_the_way_when_the_gate_is_killed_or_frozen() {
    let tries = [("KILL", false), ("STOP", false), ("STOP", true)].map(|(signal, endless)| {
        std::thread::spawn(move || {
            let rig = Rig::new();
            rig.serve_primary();
            let switch = Vswitch::start(&rig);
            let mut table = format!("\n[openflow]\n{}", switch.config(3));
            if endless {
                // The broken variant: what the switch is told has no end.
                let program = rig.path("endless");
                let text = "#!/bin/bash\ncase \"$*\" in\n*add-flows*) sed 's/hard_timeout=[0-9]*,//' | ovs-ofctl \"$@\" ;;\n\
                            *) exec ovs-ofctl \"$@\" ;;\nesac\n";
                fs_err::write(&program, text).unwrap();
                rig::sh(&format!("chmod 755 {}", program.display()));
                table = format!("{table}program = \"{}\"\n", program.display());
            }
            let setup = Setup { more: table, ..Setup::default() };
            last_byte(&rig, &setup, signal, 3000)
        })
    });
    let [killed, frozen, endless] = tries.map(|one| one.join().unwrap());
    assert!(endless > 5200, "the measurement sees a flow without end: {endless} ms");
    let seconds = vec![killed as f64 / 1000.0, frozen as f64 / 1000.0];
    Rig::evidence(
        "gate-openflow",
        &rig::figures("last byte after the signal, layer C alone by OpenFlow, lease 3 s", 0, seconds),
    );
    // The switch looks at its timers about once a second.
    assert!(killed.max(frozen) <= 5000, "killed {killed} ms, frozen {frozen} ms");
}

#[test]
fn a_window_through_an_openflow_switch_is_renewed_and_closes_and_a_lost_lease_is_noticed() {
    let rig = Rig::new();
    rig.serve_primary();
    let switch = Vswitch::start(&rig);
    let setup = Setup { more: format!("\n[openflow]\n{}", switch.config(3)), ..Setup::default() };
    let _gated = rig.gated(&setup);
    let _observed = rig.observed(&[]);
    rig.wait_state("closed_verified", 20);
    let claim = rig.status().unwrap().claim;
    assert_eq!(claim.closed_layers, [Layer::A, Layer::C], "{claim:?}");
    let window = rig.open(60);
    let stream = rig.pull();
    wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
    std::thread::sleep(Duration::from_millis(3700));
    wait("they go on", Duration::from_secs(10), || stream.pause() < 300);
    assert_eq!(rig.state(), "open");
    rig.close();
    rig.wait_state("closed_verified", 20);
    let record = rig.record(window);
    rig::agree(&record);
    assert!(record.closed_verified, "{record:#?}");
    assert!(!switch.ofctl("dump-flows", "").contains("cookie"), "nothing is left");
    // Somebody removes the way behind our back: the window closes and says which layer it was.
    let window = rig.open(60);
    switch.ofctl("del-flows", "");
    let record = rig.record(window);
    assert!(matches!(record.close_reason, CloseReason::LayerFault { layer: Layer::C, .. }), "{record:#?}");
    rig.wait_state("closed_verified", 20);
}

#[test]
fn a_window_through_a_netconf_switch_is_renewed_and_the_session_or_the_timer_ends_it() {
    let rig = Rig::new();
    rig.serve_primary();
    let agent = Agent::start(&rig, "netconf1.0 netconf1.1");
    let setup = Setup { more: format!("\n[netconf]\n{}", agent.config(3)), ..Setup::default() };
    let gated = rig.gated(&setup);
    let _observed = rig.observed(&[]);
    rig.wait_state("closed_verified", 20);
    assert!(!port_up(&rig));
    let window = rig.open(60);
    let stream = rig.pull();
    wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
    std::thread::sleep(Duration::from_millis(4500));
    wait("they go on", Duration::from_secs(10), || stream.pause() < 300);
    assert!(rig.state() == "open" && port_up(&rig), "{}", rig.state());
    rig.close();
    rig.wait_state("closed_verified", 20);
    assert!(!port_up(&rig));
    let record = rig.record(window);
    rig::agree(&record);
    assert!(record.closed_verified, "{record:#?}");
    // Killed: the end of its session closes the port.
    rig.open(60);
    assert!(port_up(&rig));
    let start = rig::now_ms();
    gated.kill();
    wait("the session's end closes it", Duration::from_secs(20), || !port_up(&rig));
    let killed = (rig::now_ms() - start) as f64 / 1000.0;
    // Frozen: the session lives on, and the device's own timer closes the port.
    let gated = rig.gated(&setup);
    rig.wait_state("closed_verified", 30);
    rig.open(60);
    let start = rig::now_ms();
    gated.signal("STOP");
    wait("the timer closes it", Duration::from_secs(30), || !port_up(&rig));
    let frozen = (rig::now_ms() - start) as f64 / 1000.0;
    Rig::evidence(
        "gate-netconf",
        &rig::figures("port down after the signal, NETCONF, lease 3 s", 0, vec![killed, frozen]),
    );
    gated.kill();
}

#[test]
fn with_the_guarded_link_as_a_layer_a_window_opens_from_the_port_inward_and_all_three_close() {
    let mut rig = Rig::new();
    rig.serve_primary();
    rig.start_snmpd();
    let link = format!("\n[link]\n{}", rig.link_config());
    let _gated = rig.gated(&Setup { switch: true, more: link, ..Setup::default() });
    let _observed = rig.observed(&[]);
    rig.wait_state("closed_verified", 20);
    let claim = rig.status().unwrap().claim;
    assert_eq!(claim.closed_layers, [Layer::A, Layer::B, Layer::C], "{claim:?}");
    let window = rig.open(60);
    let stream = rig.pull();
    wait("bytes", Duration::from_secs(20), || stream.bytes() > 100_000);
    rig.close();
    rig.wait_state("closed_verified", 20);
    assert!(!port_up(&rig));
    let record = rig.record(window);
    assert!(record.closed_verified && record.observations.len() == 3, "{record:#?}");
    // Somebody takes the link up behind our back: found and taken down again.
    let vlt = rig.ns("vlt");
    rig::sh(&format!("ip -n {vlt} link set v0 up"));
    wait("down again", Duration::from_secs(20), || !rig.exec("vlt", "ip link show v0").1.contains(",UP"));
}
