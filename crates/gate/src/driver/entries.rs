//! The flow entries of an OpenFlow switch: what we send, and what a read-back of them means. Written by hand on both
//! sides, in the words of `ovs-ofctl` (ovs-fields(7), ovs-actions(7)), so that what is shown is compared with what
//! was meant.

use std::collections::BTreeSet;

use kuramori_model::gate::LayerState;

use crate::actuator::Lease;

/// Marks our entries: "kuramori" in ASCII.
const COOKIE: &str = "0x6b7572616d6f7269";
const PRIORITY: &str = "priority=100";

/// The numbers of the two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) vault: u32,
    pub(super) production: u32,
}

/// The number in a line like ` 3(port1): addr:…` if the name is this one.
pub(super) fn numbered(line: &str, name: &str) -> Option<u32> {
    let (number, rest) = line.trim_start().split_once('(')?;
    let (shown, _) = rest.split_once("): addr:")?;
    if shown.trim_matches('"') == name { number.parse().ok() } else { None }
}

/// One flow entry as the switch shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    table: u8,
    ours: bool,
    hard_timeout: u32,
    packets: u64,
    /// Everything that selects packets, and the priority.
    matches: BTreeSet<String>,
    actions: String,
    text: String,
}

impl Entry {
    /// ` cookie=0x…, duration=1.2s, table=0, n_packets=0, …, priority=100,tcp,in_port=1,… actions=…`
    pub(super) fn parse(line: &str) -> Option<Self> {
        let text = line.trim();
        let (head, actions) = text.split_once(" actions=")?;
        let mut entry = Self {
            table: 0,
            ours: false,
            hard_timeout: 0,
            packets: 0,
            matches: BTreeSet::new(),
            actions: actions.to_owned(),
            text: text.to_owned(),
        };
        for word in head.split([',', ' ']).filter(|word| !word.is_empty()) {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "cookie" => entry.ours = value == COOKIE,
                // A table that we do not understand is not one of ours.
                "table" => entry.table = value.parse().unwrap_or(u8::MAX),
                "hard_timeout" => entry.hard_timeout = value.parse().unwrap_or(0),
                "n_packets" => entry.packets = value.parse().unwrap_or(0),
                "duration" | "n_bytes" | "hard_age" | "idle_age" | "reset_counts" | "importance" => {}
                _ => {
                    entry.matches.insert(word.to_owned());
                }
            }
        }
        Some(entry)
    }
}

/// What selects the flow's packets in each direction, and where they leave.
fn ways(lease: &Lease, ports: Ports) -> [(String, u32); 2] {
    let (source, peer, port) = (lease.source, lease.peer.ip(), lease.peer.port());
    let Ports { vault, production } = ports;
    [
        (format!("{PRIORITY},tcp,in_port={vault},nw_src={source},nw_dst={peer},tp_dst={port}"), production),
        // Without ACK a segment begins a connection; production begins none.
        (
            format!(
                "{PRIORITY},tcp,in_port={production},nw_src={peer},nw_dst={source},tp_src={port},tcp_flags=+ack"
            ),
            vault,
        ),
    ]
}

/// The entries of table 1: they end with the lease.
pub(super) fn lease_entries(lease: &Lease, ports: Ports, seconds: u32) -> String {
    let line = |(selects, out): (String, u32)| {
        format!("cookie={COOKIE},table=1,hard_timeout={seconds},{selects},actions=output:{out}\n")
    };
    ways(lease, ports).map(line).concat()
}

/// The entries of table 0: they end with the window.
pub(super) fn window_entries(lease: &Lease, ports: Ports) -> String {
    let seconds = lease.window_s.min(u32::from(u16::MAX));
    let line = |(selects, _): (String, u32)| {
        format!("cookie={COOKIE},table=0,hard_timeout={seconds},{selects},actions=goto_table:1\n")
    };
    ways(lease, ports).map(line).concat()
}

/// What the entries mean. Closed: none leads to a port. Open: ours, whole, each with its end.
pub(super) fn judge(entries: &[Entry], flow: Option<(&Lease, Ports)>, lease_s: u32) -> (LayerState, String) {
    let Some((lease, ports)) = flow else {
        return match entries {
            [] => (LayerState::Closed, "no entries".to_owned()),
            [first, ..] => {
                (LayerState::Unknown, format!("an entry that this process did not make: {}", first.text))
            }
        };
    };
    let expected = |entry: &Entry| {
        ways(lease, ports).into_iter().any(|(selects, out)| {
            let matches: BTreeSet<String> = selects.split(',').map(str::to_owned).collect();
            let (actions, most) = match entry.table {
                0 => ("goto_table:1".to_owned(), lease.window_s),
                1 => (format!("output:{out}"), lease_s),
                _ => return false,
            };
            entry.ours
                && entry.matches == matches
                && entry.actions == actions
                && (1..=most).contains(&entry.hard_timeout)
        })
    };
    if let Some(foreign) = entries.iter().find(|entry| !expected(entry)) {
        return (LayerState::Unknown, format!("an entry that is not as we made it: {}", foreign.text));
    }
    let of = |table| entries.iter().filter(move |entry| entry.table == table);
    let packets: u64 = of(1).map(|entry| entry.packets).sum();
    match (of(0).count(), of(1).count()) {
        (0, 0) => (LayerState::Closed, "no entries".to_owned()),
        (window, 0) => {
            (LayerState::Closed, format!("the lease has ended; {window} entries of the window lead nowhere"))
        }
        (0, lease) => (
            LayerState::Closed,
            format!("the window has ended; nothing leads to {lease} entries of the lease"),
        ),
        (2, 2) => (LayerState::Open, format!("2 ways, {packets} packets")),
        (window, lease) => {
            (LayerState::Unknown, format!("half of it: {window} entries of the window, {lease} of the lease"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease {
            source: "10.77.10.2".parse().unwrap(),
            peer: "10.77.1.2:8443".parse().unwrap(),
            window_s: 60,
            ttl_s: 3,
        }
    }

    const PORTS: Ports = Ports { vault: 2, production: 1 };

    /// As a switch shows what we sent it.
    fn shown() -> Vec<String> {
        let sent = lease_entries(&lease(), PORTS, 3) + &window_entries(&lease(), PORTS);
        sent.lines()
            .map(|line| {
                let (head, actions) = line.split_once(",actions=").unwrap();
                let (head, selects) = head.split_once(",priority").unwrap();
                let head = head.replace(',', ", ");
                format!(" {head}, duration=1.2s, n_packets=4, n_bytes=9, priority{selects} actions={actions}")
            })
            .collect()
    }

    fn judged(lines: &[String]) -> LayerState {
        let entries: Vec<Entry> = lines.iter().filter_map(|line| Entry::parse(line)).collect();
        assert_eq!(entries.len(), lines.len());
        judge(&entries, Some((&lease(), PORTS)), 3).0
    }

    #[test]
    fn open_is_exactly_what_was_sent_and_anything_else_is_never_closed() {
        let all = shown();
        assert_eq!(judged(&all), LayerState::Open, "{all:?}");
        assert_eq!(judged(&[]), LayerState::Closed);
        assert_eq!(judged(&all[2..]), LayerState::Closed, "the lease has ended");
        assert_eq!(judged(&all[..2]), LayerState::Closed, "the window has ended");
        assert_eq!(judged(&all[1..]), LayerState::Unknown, "half");
        for (from, to) in [
            ("hard_timeout=3, ", ""),
            ("hard_timeout=3", "hard_timeout=30"),
            ("hard_timeout=60, ", ""),
            ("output:1", "output:7"),
            ("output:1", "NORMAL"),
            (COOKIE, "0x0"),
            (",nw_dst=10.77.1.2", ""),
            (",tcp_flags=+ack", ""),
            ("table=1", "table=2"),
            ("in_port=2", "in_port=3"),
        ] {
            let changed: Vec<String> = all.iter().map(|line| line.replace(from, to)).collect();
            assert_ne!(changed, all, "{from}");
            assert_eq!(judged(&changed), LayerState::Unknown, "{from} -> {to}");
        }
        let normal = " cookie=0x0, duration=1s, table=0, n_packets=0, n_bytes=0, priority=0 actions=NORMAL";
        assert_eq!(judged(&[normal.to_owned()]), LayerState::Unknown);
        let (state, _) = judge(&[Entry::parse(&all[0]).unwrap()], None, 3);
        assert_eq!(state, LayerState::Unknown, "left behind by a predecessor");
    }

    #[test]
    fn a_port_is_found_by_its_whole_name() {
        assert_eq!(numbered(" 1(port1): addr:00:00:00:00:00:01", "port1"), Some(1));
        assert_eq!(numbered(" 11(port11): addr:00:00:00:00:00:01", "port1"), None);
        assert_eq!(numbered(" LOCAL(br0): addr:00:00:00:00:00:01", "br0"), None);
    }
}
