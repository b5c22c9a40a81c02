//! What gets through: nothing while closed, one flow while open. Every check first sees an open path.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod rig;

use std::{
    net::SocketAddrV4,
    path::{Path, PathBuf},
    time::Duration,
};

use kuramori_model::{clock::SeededRandom, gate::Request};
use rig::{PRIMARY, Rig, VAULT, gate::Setup, long, wait};

/// Ports to scan: all of them in the long form, else the well-known and 80 drawn ones.
fn ports(seed: u64) -> Vec<SocketAddrV4> {
    let random = SeededRandom::new(seed);
    let mut ports: Vec<u16> = if long() {
        (1..=u16::MAX).collect()
    } else {
        let drawn = (0..80).map(|_| u16::try_from(random.below(65535) + 1).unwrap());
        [7, 22, 80, 111, 161, 443, 445, 2049, 3389, 8080, 8443, 9100].into_iter().chain(drawn).collect()
    };
    ports.sort_unstable();
    ports.dedup();
    ports.into_iter().map(|port| SocketAddrV4::new(VAULT, port)).collect()
}

fn ping(rig: &Rig, target: &str) -> bool {
    rig.exec("prd", &format!("ping -c1 -W1 {target}")).0
}

/// Whether production can find the vault's hardware address by asking the wire.
fn arp(rig: &Rig) -> bool {
    rig.exec("prd", &format!("ip neigh del {VAULT} dev gat0"));
    ping(rig, &VAULT.to_string());
    let (_, shown) = rig.exec("prd", &format!("ip neigh show {VAULT} dev gat0"));
    rig.neighbours();
    shown.contains("lladdr")
}

fn link_local(rig: &Rig) -> String {
    let mut address = String::new();
    wait("an IPv6 address that is not tentative", Duration::from_secs(10), || {
        let (_, shown) = rig.exec("vlt", "ip -6 -o addr show dev v0 scope link");
        let found = shown.split_whitespace().nth(3).and_then(|text| text.split('/').next());
        found.unwrap_or_default().clone_into(&mut address);
        !address.is_empty() && !shown.contains("tentative")
    });
    address
}

/// Who answers production's call to all nodes of the wire.
fn neighbours6(rig: &Rig) -> String {
    rig.exec("prd", "ping -6 -c2 -i0.3 -W1 ff02::1%gat0").1
}

#[test]
fn closed_lets_nothing_through_that_the_open_path_let_through() {
    const SEED: u64 = 20_261_122;
    println!("seed {SEED}");
    let rig = Rig::new();
    rig.serve_primary();
    rig.witness();
    rig.spoof();
    let ports = ports(SEED);
    let address = link_local(&rig);
    let v6 = format!("{address}%gat0");

    // Positive control: without the gate's tables the witness is reached in every way.
    // A busy machine loses some first packets; every port must have answered in the end.
    let mut silent = ports.clone();
    wait("TCP", Duration::from_mins(1), || {
        let answered = rig.scan_tcp("prd", &silent);
        silent.retain(|port| !answered.contains(port));
        silent.is_empty()
    });
    wait("UDP", Duration::from_secs(15), || rig.scan_udp(&ports) * 100 >= ports.len() * 95);
    wait("ICMP", Duration::from_secs(5), || ping(&rig, &VAULT.to_string()));
    wait("ARP", Duration::from_secs(5), || arp(&rig));
    wait("IPv6", Duration::from_secs(5), || ping(&rig, &v6));
    let soon = Duration::from_secs(5);
    wait("IPv6 multicast", soon, || neighbours6(&rig).contains(&address));
    wait("from the service's port", soon, || rig.reaches_from(18443, SocketAddrV4::new(VAULT, 443)));
    wait("the puller behind it", soon, || rig.reaches_from(0, "10.77.10.2:22".parse().unwrap()));
    wait("the puller's way out", soon, || rig.scan_tcp("pul", &[PRIMARY]) == [PRIMARY]);

    let _gated = rig.gated(&Setup { foreign: vec!["inet witness"], ..Setup::default() });
    let _observed = rig.observed(&["10.77.1.2:22"]);
    rig.wait_state("closed_verified", 15);
    let closed = || {
        assert_eq!(rig.scan_tcp("prd", &ports), [], "TCP");
        assert_eq!(rig.scan_udp(&ports), 0, "UDP");
        assert!(!ping(&rig, &VAULT.to_string()), "ICMP");
        assert!(!arp(&rig), "ARP");
        assert!(!ping(&rig, &v6), "IPv6");
        assert!(!neighbours6(&rig).contains(&address), "IPv6 multicast");
        assert!(!rig.reaches_from(18443, SocketAddrV4::new(VAULT, 443)), "from the service's port");
        assert!(!rig.reaches_from(0, "10.77.10.2:22".parse().unwrap()), "the puller behind it");
        assert_eq!(rig.scan_tcp("pul", &[PRIMARY]), [], "the puller's way out");
    };
    closed();

    // While open: the one flow and nothing else, and nobody begins from the production side.
    rig.open(60);
    wait("the one flow", Duration::from_secs(5), || rig.scan_tcp("pul", &[PRIMARY]) == [PRIMARY]);
    let others = ["10.77.1.2:22", "10.77.1.2:8444", "10.77.9.1:8443"].map(|text| text.parse().unwrap());
    assert_eq!(rig.scan_tcp("pul", &others), [], "another flow of the puller");
    assert_eq!(rig.scan_tcp("vlt", &[PRIMARY]), [], "the vault host itself");
    assert_eq!(rig.scan_tcp("prd", &ports), [], "TCP while open");
    assert!(!rig.reaches_from(18443, SocketAddrV4::new(VAULT, 443)), "a SYN from the service's port");
    assert!(!rig.reaches_from(18443, "10.77.10.2:22".parse().unwrap()), "a SYN to the puller");
    assert!(!ping(&rig, &VAULT.to_string()), "ICMP while open");
    assert_eq!(rig.state(), "open");
    rig.close();
    rig.wait_state("closed_verified", 15);
    closed();

    let record = rig.history().remove(0);
    assert!(record.closed_verified && record.renewals > 0, "{record:#?}");
    rig::agree(&record);
    println!("{:?}", record.exposure);
}

#[test]
fn an_open_window_ends_by_order_within_moments_and_its_figures_agree() {
    let rig = Rig::new();
    rig.serve_primary();
    let _gated = rig.gated(&Setup::default());
    let _observed = rig.observed(&[]);
    rig.wait_state("closed_verified", 15);
    let cycles = if long() { 1000 } else { 6 };
    let (mut stops, mut proofs, mut above, mut spread) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut disturbed = 0;
    while stops.len() < cycles {
        assert!(disturbed <= 2 * cycles + 40, "the machine is too busy to measure: {} cycles", stops.len());
        rig.calm();
        let window = rig.open(60);
        let stream = rig.pull();
        wait("bytes", Duration::from_secs(10), || stream.bytes() > 100_000);
        std::thread::sleep(Duration::from_millis(150));
        let before = rig.call_ms();
        let start = rig::now_ms();
        rig.close();
        let after = rig.call_ms();
        let proof = rig.wait_state("closed_verified", 10);
        let record = rig.record(window);
        assert!(record.bytes_in > 100_000 && record.closed_verified, "{record:#?}");
        let exposure = record.exposure;
        let probe = exposure.probe_s.unwrap();
        let figures = [exposure.commanded_s, exposure.actuator_s, probe];
        let differ =
            figures.iter().copied().fold(0.0, f64::max) - figures.iter().copied().fold(1e9, f64::min);
        // Whatever the machine does: the probes' span is never shorter than the truth, and figures that
        // differ are said to differ.
        assert!(probe >= exposure.actuator_s - 0.1, "{exposure:?}");
        assert!(record.disagreement || differ <= 1.0, "{exposure:?}");
        if before.max(after) > 20 {
            disturbed += 1;
            continue;
        }
        stops.push(stream.last().saturating_sub(start) as f64 / 1000.0);
        proofs.push(proof.as_secs_f64());
        above.push(probe - exposure.commanded_s);
        spread.push(differ);
    }
    let most = |values: &[f64]| values.iter().fold(0.0f64, |most, one| most.max(*one));
    let (late, apart) = (most(&stops), most(&spread));
    println!("{disturbed} cycles were disturbed and done again");
    Rig::evidence(
        "gate-ordered-close-last-byte",
        &rig::figures("last byte after the order to close", 0, stops),
    );
    Rig::evidence("gate-ordered-close-proof", &rig::figures("closed proven after the order", 0, proofs));
    Rig::evidence("gate-exposure-difference", &rig::figures("probe-observed minus commanded", 0, above));
    Rig::evidence(
        "gate-exposure-spread",
        &rig::figures("largest difference of a window's three exposures", 0, spread),
    );
    assert!(late <= 0.05, "last byte {late} s after the order");
    assert!(apart <= 0.5, "the three exposures of a window differ by {apart} s");
}

#[test]
fn a_path_that_somebody_makes_by_hand_is_found_and_closed() {
    let rig = Rig::new();
    rig.serve_primary();
    let _gated = rig.gated(&Setup::default());
    let _observed = rig.observed(&["10.77.1.2:22"]);
    let (mut found, mut closed) = (Vec::new(), Vec::new());
    for rules in [
        // Straight through, and through the interface's own table.
        "insert rule inet gate gatefwd ip saddr 10.77.10.2 accept
\
         insert rule inet gate gatefwd ip daddr 10.77.10.2 accept
delete table netdev vaultgate
",
        // The approved flow's elements, for an hour.
        "add element inet gate lease { 10.77.10.2 . 10.77.1.2 . 8443 timeout 1h }
\
         add element inet gate window { 10.77.10.2 . 10.77.1.2 . 8443 timeout 1h }
\
         add element netdev vaultgate lease { 10.77.1.2 . 8443 timeout 1h }
\
         add element netdev vaultgate window { 10.77.1.2 . 8443 timeout 1h }
",
    ] {
        rig.wait_state("closed_verified", 20);
        let begun = rig::now_ms();
        rig.nft("vlt", rules);
        let stream = rig.pull();
        wait("bytes pass without any token", Duration::from_secs(4), || stream.bytes() > 0);
        wait("found", Duration::from_secs(15), || rig.left("closed_verified", begun));
        found.push((rig::now_ms() - begun) as f64 / 1000.0);
        wait("closed", Duration::from_secs(20), || stream.pause() > 2500);
        closed.push(stream.last().saturating_sub(begun) as f64 / 1000.0);
        rig.wait_state("closed_verified", 20);
        assert_eq!(rig.scan_tcp("pul", &[PRIMARY]), []);
    }
    Rig::evidence("gate-unapproved-path-found", &rig::figures("a path made by hand, until found", 0, found));
    Rig::evidence(
        "gate-unapproved-path-closed",
        &rig::figures("a path made by hand, last byte", 0, closed.clone()),
    );
    assert!(closed.iter().all(|seconds| *seconds <= 20.0), "{closed:?}");
    // The log names it.
    let log = fs_err::read_to_string(rig.path("state/gate.jsonl")).unwrap();
    assert!(log.contains("accidental_path") || log.contains("layer_fault"), "{log}");
}

#[test]
fn a_second_wire_around_the_gate_is_found_and_never_called_closed() {
    let rig = Rig::new();
    rig.serve_primary();
    let _gated = rig.gated(&Setup::default());
    // From the production side toward the puller, which listens on the port.
    let listener =
        rig::inside(&rig.ns("pul"), || std::net::TcpListener::bind("0.0.0.0:2222").unwrap()).join().unwrap();
    let _observed = rig.observed_also(&[("10.77.10.2:2222", "prd")]);
    rig.wait_state("closed_verified", 15);
    let (prd, pul) = (rig.ns("prd"), rig.ns("pul"));
    rig::sh(&format!(
        "ip link add sneak0 netns {prd} type veth peer name sneak1 netns {pul} && ip -n {prd} link set sneak0 up && \
         ip -n {pul} link set sneak1 up && ip -n {prd} addr add 10.78.0.1/24 dev sneak0 && \
         ip -n {pul} addr add 10.78.0.2/24 dev sneak1"
    ));
    let begun = rig::now_ms();
    // The way in only, then the way out too: each by itself must be seen.
    rig::sh(&format!("ip -n {prd} route replace 10.77.10.0/24 via 10.78.0.2 dev sneak0 src 10.78.0.1"));
    wait("found", Duration::from_secs(15), || rig.state() != "closed_verified");
    let seconds = (rig::now_ms() - begun) as f64 / 1000.0;
    wait("it cannot be closed from here, and that is said", Duration::from_secs(20), || {
        rig.status().is_some_and(|status| status.gate.name() == "fault_open" && !status.claim.offline)
    });
    let seen = rig.status().unwrap().seen.unwrap();
    assert!(seen.unapproved.iter().any(|what| what.contains("10.77.10.2:2222")), "{seen:?}");
    Rig::evidence(
        "gate-second-wire-found",
        &rig::figures("a second wire from production into the vault, until found", 0, vec![seconds]),
    );
    drop(listener);
}

#[test]
fn a_window_is_refused_for_every_wrong_token() {
    let rig = Rig::new();
    rig.serve_primary();
    let _gated = rig.gated(&Setup::default());
    wait("the socket", Duration::from_secs(10), || rig.status().is_some());
    let open = |token| rig.refused(&Request::Open { token: Box::new(token) });
    assert_eq!(open(rig.token(60)), "gate.not-closed", "nobody observes: closed is not proven");
    let _observed = rig.observed(&[]);
    rig.wait_state("closed_verified", 15);
    let changed = |change: &dyn Fn(&mut kuramori_model::gate::WindowToken)| {
        let mut token = rig.token(60).token;
        change(&mut token);
        kuramori_model::gate::SignedToken::sign(token, &rig.key)
    };
    let mut forged = rig.token(60);
    forged.token.max_seconds = 9999;
    assert_eq!(open(forged), "gate.token-invalid");
    assert_eq!(open(changed(&|token| token.peer = "10.77.1.2:22".parse().unwrap())), "gate.flow-not-allowed");
    assert_eq!(
        open(changed(&|token| token.expires_boot_ms = token.issued_boot_ms - 1)),
        "gate.token-expired"
    );
    assert_eq!(open(changed(&|token| token.issued_boot_ms += 600_000)), "gate.token-expired");
    assert_eq!(open(changed(&|token| token.budget_left_s = 0)), "gate.budget");
    let other = kuramori_model::gate::BootId::new("another-boot").unwrap();
    assert_eq!(open(changed(&|token| token.boot_id = other.clone())), "gate.token-expired");
    assert_eq!(rig.refused(&Request::Drain {}), "gate.no-window");
    assert_eq!(rig.refused(&Request::Release { release: None }), "gate.nothing-to-release");
    let token = rig.token(60);
    rig.ask(&Request::Open { token: Box::new(token.clone()) }).unwrap();
    rig.wait_state("open", 10);
    assert_eq!(open(rig.token(60)), "gate.not-closed", "one window at a time");
    rig.close();
    rig.wait_state("closed_verified", 10);
    assert_eq!(open(token), "gate.token-used");

    // Locked: only enough officers open it again.
    rig.ask(&Request::Lockdown { reason: "drill".into() }).unwrap();
    assert_eq!(rig.state(), "lockdown");
    assert_eq!(open(rig.token(60)), "gate.locked");
    assert_eq!(rig.refused(&Request::Release { release: None }), "gate.release-invalid");
    assert_eq!(rig.refused(&rig.release(1)), "gate.release-invalid");
    wait("closed is proven under the lock", Duration::from_secs(10), || {
        rig.status().is_some_and(|status| status.gate.is_verified_closed())
    });
    rig.ask(&rig.release(2)).unwrap();
    assert_eq!(rig.state(), "closed_verified");
}

/// The vault host's package as it is installed, unpacked into a folder.
fn installed(rig: &Rig) -> PathBuf {
    for program in ["kuramori-observed", "kuramori-lockd"] {
        rig::gate::sibling(program);
    }
    let (out, root) = (rig.path("out"), rig.path("root"));
    let binaries = PathBuf::from(env!("CARGO_BIN_EXE_kuramori-gated"));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/package");
    rig::sh(&format!(
        "{script} --binaries {} --out {} --compression none kuramori-vault",
        binaries.parent().unwrap().display(),
        out.display()
    ));
    rig::sh(&format!("dpkg-deb -x {}/kuramori-vault_*.deb {}", out.display(), root.display()));
    root
}

/// The values of a unit's key, without systemd's marks before a command.
fn unit(root: &Path, name: &str, key: &str) -> Vec<String> {
    let text = fs_err::read_to_string(root.join("usr/lib/systemd/system").join(name)).unwrap();
    text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned).collect()
}

#[test]
fn the_vaults_package_installs_into_a_folder_and_its_units_are_understood_and_seal_first() {
    let rig = Rig::new();
    let root = installed(&rig);
    let control = rig::sh(&format!("dpkg-deb -f {}/kuramori-vault_*.deb Depends", rig.path("out").display()));
    assert!(control.contains("nftables") && control.contains("kuramori (= "), "{control}");
    let scripts =
        rig::sh(&format!("dpkg-deb -I {}/kuramori-vault_*.deb postinst prerm", rig.path("out").display()));
    assert!(scripts.contains("kuramori-gated.service") && !scripts.contains('@'), "{scripts}");
    let seal = "kuramori-gate-seal.service";
    assert!(unit(&root, seal, "Before").iter().any(|value| value.contains("network-pre.target")));
    // Who brings the network up orders itself after network-pre.target, but does not require it.
    for starts in ["systemd-networkd.service", "networking.service", "NetworkManager.service"] {
        for key in ["RequiredBy", "Before"] {
            let named = unit(&root, seal, key).iter().any(|value| value.split(' ').any(|one| one == starts));
            assert!(named, "without the seal no network: {key} {starts}");
        }
    }
    assert_eq!(unit(&root, seal, "DefaultDependencies"), ["no"], "and not after it");
    for (later, how) in [("kuramori-gated.service", "Wants"), ("kuramori-puller.service", "Requires")] {
        assert!(unit(&root, later, how).contains(&seal.to_owned()), "{later}");
        assert!(unit(&root, later, "After").iter().any(|value| value.contains(seal)), "{later}");
    }
    if !rig::attempt("command -v systemd-analyze").0 {
        println!("systemd-analyze is not here: the units were not verified");
        return;
    }
    // What every host has besides.
    let units = root.join("usr/lib/systemd/system");
    rig::sh(&format!(
        "cp -a /lib/systemd/system/*.target {} && mkdir -p {root}/usr/bin {root}/usr/sbin && \
         cp -L \"$(command -v ip)\" {root}/usr/sbin/ip && cp -L /bin/true {root}/usr/bin/kuramori",
        units.display(),
        root = root.display()
    ));
    let verify =
        format!("cd {} && systemd-analyze verify --root={} kuramori-*", units.display(), root.display());
    let (ok, said) = rig::attempt(&verify);
    assert!(ok && !said.contains("kuramori"), "{said}");
    // It would notice.
    let gated = units.join("kuramori-gated.service");
    let text = fs_err::read_to_string(&gated).unwrap();
    fs_err::write(&gated, text.replace("kuramori-gated --config", "kuramori-gone --config")).unwrap();
    let (ok, said) = rig::attempt(&verify);
    assert!(!ok && said.contains("kuramori-gone"), "{said}");
}

#[test]
fn a_boot_lets_no_packet_pass_before_the_first_token() {
    let rig = Rig::new();
    rig.serve_primary();
    let (vlt, prd) = (rig.ns("vlt"), rig.ns("prd"));
    // Counts what the vault's interface sends, where production receives it.
    let sender = rig.mac("vlt", "v0");
    let listen = || {
        rig.nft(
            "prd",
            &format!(
                "table netdev count {{\n chain c {{\n  type filter hook ingress device \"gat0\" priority 0;\n  \
                 ether saddr {sender} counter\n }}\n}}"
            ),
        );
    };
    listen();
    let count = || {
        let (_, shown) = rig.exec("prd", "nft list chain netdev count c");
        let packets = shown.split("packets ").nth(1).and_then(|text| text.split_whitespace().next());
        packets.and_then(|text| text.parse::<u64>().ok()).unwrap_or(u64::MAX)
    };
    let boot = || {
        rig::sh(&format!("ip -n {vlt} link set v0 down"));
        rig::sh(&format!("ip netns exec {vlt} nft flush ruleset"));
    };
    let up = || {
        rig::sh(&format!(
            "ip -n {vlt} link set v0 up && ip -n {vlt} route replace default via 10.77.9.1 dev v0"
        ));
        rig.neighbours();
    };
    let knock = || {
        let _ = arp(&rig);
        let _ = neighbours6(&rig);
        rig.scan_tcp("prd", &ports(7));
        let _ = rig.scan_tcp("pul", &[PRIMARY]);
    };
    // Positive control: a boot without the seal is heard.
    boot();
    up();
    knock();
    let control = count();
    assert!(control > 10, "the counter hears an open boot: {control}");
    boot();
    let config = rig.write_config(&Setup::default());
    // As the package's unit says it, before any interface is up.
    let root = installed(&rig);
    let [seal] = unit(&root, "kuramori-gate-seal.service", "ExecStart").try_into().unwrap();
    let seal = seal.replace("/etc/kuramori/gated.toml", &config.display().to_string());
    let (ok, said) = rig.exec("vlt", &format!("{}{seal}", root.display()));
    assert!(ok, "{said}");
    rig::sh(&format!("ip netns exec {prd} nft flush ruleset"));
    listen();
    up();
    knock();
    let _gated = rig.gated(&Setup::default());
    let _observed = rig.observed(&[]);
    rig.wait_state("closed_verified", 15);
    knock();
    let packets = count();
    Rig::evidence(
        "gate-boot-packets",
        &format!(
            r#"{{"what":"packets out of the vault during a boot, before the first token","unit":"packets","seed":7,"n":1,"min":{packets},"median":{packets},"p95":{packets},"max":{packets},"control":{control}}}"#
        ),
    );
    assert_eq!(packets, 0);
    rig.open(20);
    let stream = rig.pull();
    wait("bytes", Duration::from_secs(10), || stream.bytes() > 10_000);
    assert!(count() > 0, "the same counter hears the window");
    rig.close();
}
