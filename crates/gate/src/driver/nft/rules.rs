//! The rules as text for the kernel, and the same rules as `nft -j` shows them. Both are written by hand so
//! that the read-back is compared with what was meant, not with what was loaded.

use std::fmt::Write;

use serde_json::{Value, json};

use super::NftConfig;

/// Seconds that an element of `window` lives if somebody adds one without a timeout.
pub(super) const WINDOW_DEFAULT_S: u32 = 60;

/// Replaces whatever is there by closed tables. One transaction: there is no moment without rules.
pub(super) fn closed(config: &NftConfig, ttl_s: u32, with_interface: bool) -> String {
    let (inside, outside) = (config.inside.as_str(), config.outside.as_str());
    let (alive, asked, answered) = config.ping_poll.as_ref().map_or_else(Default::default, |poll| {
        let name = poll.interface.as_str();
        (
            format!(" set alive {{ type ipv4_addr; flags timeout; timeout {ttl_s}s; size 4; }}\n"),
            format!("  iifname \"{name}\" ip saddr @alive icmp type echo-request accept\n"),
            format!("  oifname \"{name}\" ip daddr @alive icmp type echo-reply accept\n"),
        )
    });
    let mut text = String::new();
    if config.foreign_tables.is_empty() {
        text.push_str("flush ruleset\n");
    } else {
        // `delete` of a table that is not there would fail the transaction; `add` first never does.
        text.push_str("add table inet gate\ndelete table inet gate\n");
        text.push_str("add table netdev vaultgate\ndelete table netdev vaultgate\n");
    }
    let _ = write!(
        text,
        r#"table inet gate {{
 set lease {{ type ipv4_addr . ipv4_addr . inet_service; flags timeout; timeout {ttl_s}s; size 16; }}
 set window {{ type ipv4_addr . ipv4_addr . inet_service; flags timeout; timeout {WINDOW_DEFAULT_S}s; size 16; }}
{alive} chain gatefwd {{
  type filter hook forward priority 0; policy drop;
  iifname "{inside}" oifname "{outside}" ip saddr . ip daddr . tcp dport @lease ip saddr . ip daddr . tcp dport @window counter accept
  iifname "{outside}" oifname "{inside}" ip daddr . ip saddr . tcp sport @lease ip daddr . ip saddr . tcp sport @window ct direction reply ct state established counter accept
  counter drop
 }}
 chain gatein {{
  type filter hook input priority 0; policy drop;
  iifname "lo" accept
"#
    );
    for network in &config.management {
        let (interface, addresses) = (network.interface.as_str(), cidr(network.network));
        let _ = writeln!(
            text,
            r#"  iifname "{interface}" ip saddr {addresses} ct direction reply ct state established accept"#
        );
    }
    text.push_str(&asked);
    text.push_str(
        "  counter drop\n }\n chain gateout {\n  type filter hook output priority 0; policy drop;\n  oifname \"lo\" accept\n",
    );
    for network in &config.management {
        let (interface, addresses) = (network.interface.as_str(), cidr(network.network));
        for (protocol, ports) in [("udp", &network.udp), ("tcp", &network.tcp)] {
            let ports = sorted(ports);
            if !ports.is_empty() {
                let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
                let list = if ports.len() == 1 { list } else { format!("{{ {list} }}") };
                let _ = writeln!(
                    text,
                    r#"  oifname "{interface}" ip daddr {addresses} {protocol} dport {list} accept"#
                );
            }
        }
    }
    text.push_str(&answered);
    text.push_str("  counter drop\n }\n}\n");
    if with_interface {
        let _ = write!(
            text,
            r#"table netdev vaultgate {{
 set lease {{ type ipv4_addr . inet_service; flags timeout; timeout {ttl_s}s; size 8; }}
 set window {{ type ipv4_addr . inet_service; flags timeout; timeout {WINDOW_DEFAULT_S}s; size 8; }}
 chain ing {{
  type filter hook ingress device "{outside}" priority -500; policy drop;
  ip saddr . tcp sport @lease ip saddr . tcp sport @window tcp flags & (syn|ack) != syn counter accept
 }}
 chain egr {{
  type filter hook egress device "{outside}" priority -500; policy drop;
  ip daddr . tcp dport @lease ip daddr . tcp dport @window counter accept
 }}
}}
"#
        );
    }
    text
}

fn cidr(network: super::Network) -> String {
    format!("{}/{}", network.address, network.bits)
}

fn sorted(ports: &[u16]) -> Vec<u16> {
    let mut ports = ports.to_vec();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// One chain as it must be read back: family, table, name, hook, priority, and its rules' expressions.
pub(super) struct Chain {
    pub(super) family: &'static str,
    pub(super) table: &'static str,
    pub(super) name: &'static str,
    pub(super) hook: &'static str,
    pub(super) priority: i64,
    pub(super) rules: Vec<Value>,
}

fn same(left: &Value, right: &Value) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right}})
}

fn meta(key: &str, name: &str) -> Value {
    same(&json!({"meta": {"key": key}}), &json!(name))
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn in_set(fields: &[(&str, &str)], set: &str) -> Value {
    let fields: Vec<Value> = fields.iter().map(|(protocol, field)| payload(protocol, field)).collect();
    same(&json!({"concat": fields}), &json!(set))
}

fn established_reply() -> [Value; 2] {
    [
        same(&json!({"ct": {"key": "direction"}}), &json!("reply")),
        json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "established"}}),
    ]
}

fn network(field: &str, network: super::Network) -> Value {
    let address = network.address.to_string();
    let right = if network.bits == 32 {
        json!(address)
    } else {
        json!({"prefix": {"addr": address, "len": network.bits}})
    };
    same(&payload("ip", field), &right)
}

/// All chains that must exist, as `nft -j list ruleset` shows them, without handles and counts.
pub(super) fn expected(config: &NftConfig) -> Vec<Chain> {
    let (inside, outside) = (config.inside.as_str(), config.outside.as_str());
    let (accept, drop, counter) = (json!({"accept": null}), json!({"drop": null}), json!({"counter": null}));
    let out = [("ip", "saddr"), ("ip", "daddr"), ("tcp", "dport")];
    let back = [("ip", "daddr"), ("ip", "saddr"), ("tcp", "sport")];
    let [direction, state] = established_reply();
    let forward = vec![
        json!([
            meta("iifname", inside),
            meta("oifname", outside),
            in_set(&out, "@lease"),
            in_set(&out, "@window"),
            counter,
            accept
        ]),
        json!([
            meta("iifname", outside),
            meta("oifname", inside),
            in_set(&back, "@lease"),
            in_set(&back, "@window"),
            direction,
            state,
            counter,
            accept
        ]),
        json!([counter, drop]),
    ];
    let mut input = vec![json!([meta("iifname", "lo"), accept])];
    let mut output = vec![json!([meta("oifname", "lo"), accept])];
    for management in &config.management {
        let interface = management.interface.as_str();
        let saddr = network("saddr", management.network);
        input.push(json!([meta("iifname", interface), saddr, direction, state, accept]));
        for (protocol, ports) in [("udp", &management.udp), ("tcp", &management.tcp)] {
            let ports = match sorted(ports).as_slice() {
                [] => continue,
                [one] => json!(one),
                many => json!({"set": many}),
            };
            let daddr = network("daddr", management.network);
            let port = same(&payload(protocol, "dport"), &ports);
            output.push(json!([meta("oifname", interface), daddr, port, accept]));
        }
    }
    if let Some(poll) = &config.ping_poll {
        let name = poll.interface.as_str();
        let icmp = |direction, kind| {
            [same(&payload("ip", direction), &json!("@alive")), same(&payload("icmp", "type"), &json!(kind))]
        };
        let [from, request] = icmp("saddr", "echo-request");
        let [to, reply] = icmp("daddr", "echo-reply");
        input.push(json!([meta("iifname", name), from, request, accept]));
        output.push(json!([meta("oifname", name), to, reply, accept]));
    }
    input.push(json!([counter, drop]));
    output.push(json!([counter, drop]));
    let from = [("ip", "saddr"), ("tcp", "sport")];
    let to = [("ip", "daddr"), ("tcp", "dport")];
    let flags = json!({"match": {"op": "!=", "left": {"&": [payload("tcp", "flags"), ["syn", "ack"]]}, "right": "syn"}});
    let ingress = vec![json!([in_set(&from, "@lease"), in_set(&from, "@window"), flags, counter, accept])];
    let egress = vec![json!([in_set(&to, "@lease"), in_set(&to, "@window"), counter, accept])];
    let inet = |name, hook, rules| Chain { family: "inet", table: "gate", name, hook, priority: 0, rules };
    let netdev =
        |name, hook, rules| Chain { family: "netdev", table: "vaultgate", name, hook, priority: -500, rules };
    vec![
        inet("gatefwd", "forward", forward),
        inet("gatein", "input", input),
        inet("gateout", "output", output),
        netdev("ing", "ingress", ingress),
        netdev("egr", "egress", egress),
    ]
}
