//! The wires: namespaces, links, addresses, routes, and the switch that joins the vault to the hospital.
//!
//! ```text
//!  srv dir bil pac oph .. mai cln     192.0.2.0/28 (management)
//!   └───┴───┴──┬┴───┴──────┘         mgt0 ─────────── mgt0
//!             lan ── gat0 ── port1 [ sw ] port2 ── v0 [ vlt ] pul0 ── eth0 [ pul ]
//!              └──── sw0 ─── lan0 ───┘
//! ```
//! The kernel of a small machine may have no bridge; two netdev chains with `fwd to` join the switch's
//! ports as well, below everything that the switch's own address hears. `port2` starts down, as the
//! startup configuration of a real switch must have it.

use std::{net::Ipv4Addr, os::fd::AsFd, path::PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    error::{LabError, Result},
    program::Program,
    role::{Role, SWITCH_MANAGEMENT, VAULT, VAULT_MANAGEMENT},
};

/// The alias of the guarded port: what `ifAlias` answers.
pub const GUARDED_ALIAS: &str = "vault";

const SWITCH: &str = "table netdev sw {
 chain a {
  type filter hook ingress device \"port1\" priority 0;
  fwd to \"port2\"
 }
 chain b {
  type filter hook ingress device \"port2\" priority 0;
  fwd to \"port1\"
 }
}
";

/// The name of a role's namespace.
pub(crate) fn namespace(prefix: &str, role: Role) -> String {
    format!("{prefix}-{role}")
}

/// The namespaces of the machine whose names begin with `<prefix>-`.
pub(crate) fn namespaces_of(prefix: &str) -> Result<Vec<String>> {
    let begin = format!("{prefix}-");
    Ok(Program::new("ip")
        .args(["netns", "list"])
        .text()?
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| name.starts_with(&begin))
        .map(str::to_owned)
        .collect())
}

/// The ids of all processes in a namespace.
pub(crate) fn processes_in(namespace: &str) -> Result<Vec<u32>> {
    let text = Program::new("ip").args(["netns", "pids", namespace]).text()?;
    Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
}

/// Deletes a namespace and with it its links, tables and addresses.
pub(crate) fn delete(namespace: &str) -> Result<()> {
    Program::new("ip").args(["netns", "delete", namespace]).run().map(drop)
}

/// Runs `work` on a thread of its own inside a namespace. Only its sockets and `/proc/sys/net` are the
/// namespace's; files are the machine's.
pub(crate) fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let wrong = |source| LabError::Namespace { name: namespace.to_owned(), source };
    let file = fs_err::File::open(PathBuf::from("/run/netns").join(namespace)).map_err(wrong)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok::<_, std::io::Error>(work())
        });
        match thread.join() {
            Ok(outcome) => outcome.map_err(wrong),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A fixed hardware address for each end of each link, so that neighbours can be written down beforehand.
fn hardware(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:4b:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// One cable: (role, interface, address) at each end. The switch's two ports have no address of their own.
struct Cable {
    ends: [(Role, String, Ipv4Addr, u8); 2],
}

fn cables() -> Vec<Cable> {
    let end = |role, name: &str, address, bits| (role, name.to_owned(), address, bits);
    let mut cables: Vec<Cable> = Role::PRODUCTION
        .into_iter()
        .map(|role| Cable {
            ends: [end(Role::Lan, role.name(), role.gateway(), 24), end(role, "eth0", role.address(), 24)],
        })
        .collect();
    let port = |d| Ipv4Addr::new(0, 0, 0, d);
    cables.extend([
        Cable {
            ends: [
                end(Role::Lan, "sw0", Role::Sw.gateway(), 24),
                end(Role::Sw, "lan0", Role::Sw.address(), 24),
            ],
        },
        Cable { ends: [end(Role::Lan, "gat0", Role::Lan.address(), 24), end(Role::Sw, "port1", port(1), 0)] },
        Cable { ends: [end(Role::Sw, "port2", port(2), 0), end(Role::Vlt, "v0", VAULT, 24)] },
        Cable {
            ends: [
                end(Role::Sw, "mgt0", SWITCH_MANAGEMENT, 28),
                end(Role::Vlt, "mgt0", VAULT_MANAGEMENT, 28),
            ],
        },
        Cable {
            ends: [
                end(Role::Vlt, "pul0", Role::Pul.gateway(), 24),
                end(Role::Pul, "eth0", Role::Pul.address(), 24),
            ],
        },
    ]);
    cables
}

fn batch(namespace: Option<&str>, lines: &[String]) -> Result<()> {
    let program = Program::new("ip");
    let program = match namespace {
        Some(name) => program.args(["-n", name]),
        None => program,
    };
    program.args(["-batch", "-"]).input(lines.join("\n") + "\n").run().map(drop)
}

fn sysctl(name: &str, value: &str) -> Result<()> {
    Ok(fs_err::write(format!("/proc/sys/net/{name}"), value)?)
}

/// Makes the namespaces one by one and tells `made` of each before it exists, so that a crash leaves a trace.
pub(crate) fn raise(prefix: &str, mut made: impl FnMut(&str) -> Result<()>) -> Result<()> {
    for role in Role::ALL {
        let name = namespace(prefix, role);
        made(&name)?;
        Program::new("ip").args(["netns", "add", &name]).run()?;
        inside(&name, || {
            sysctl("ipv4/ip_forward", if matches!(role, Role::Lan | Role::Vlt) { "1" } else { "0" })?;
            // Link-local addresses are there at once: the probes need them, nobody else is on these wires.
            sysctl("ipv6/conf/default/accept_dad", "0")?;
            sysctl("ipv6/conf/all/accept_dad", "0")
        })??;
    }
    let cables = cables();
    let links: Vec<String> = cables
        .iter()
        .map(|Cable { ends: [a, b] }| {
            format!(
                "link add name {} address {} netns {} type veth peer name {} address {} netns {}",
                a.1,
                hardware(a.2),
                namespace(prefix, a.0),
                b.1,
                hardware(b.2),
                namespace(prefix, b.0)
            )
        })
        .collect();
    batch(None, &links)?;
    for role in Role::ALL {
        let mut lines = vec!["link set lo up".to_owned()];
        for (_, name, address, bits) in cables.iter().flat_map(|c| &c.ends).filter(|end| end.0 == role) {
            if *bits > 0 {
                lines.push(format!("addr add {address}/{bits} dev {name}"));
            }
            if name != "port2" {
                lines.push(format!("link set {name} up"));
            }
        }
        lines.extend(routes(role));
        batch(Some(&namespace(prefix, role)), &lines)?;
    }
    let switch = namespace(prefix, Role::Sw);
    Program::new("ip").args(["netns", "exec", &switch, "nft", "-f", "-"]).input(SWITCH).run().map(drop)
}

fn routes(role: Role) -> Vec<String> {
    let neighbour = |address, device: &str| {
        format!("neigh replace {address} lladdr {} dev {device} nud permanent", hardware(address))
    };
    match role {
        Role::Lan => vec![
            // The vault's interface hears no ARP while the gate is closed, and none is needed.
            neighbour(VAULT, "gat0"),
            format!("route add 10.77.10.0/24 via {VAULT} dev gat0"),
        ],
        Role::Vlt => {
            let router = Role::Lan.address();
            vec![neighbour(router, "v0"), format!("route add default via {router} dev v0")]
        }
        Role::Sw => vec![
            format!("link set port2 alias {GUARDED_ALIAS}"),
            "link set port1 alias core".to_owned(),
            format!("route add 10.77.0.0/16 via {} dev lan0", role.gateway()),
        ],
        _ => vec![format!("route add default via {} dev eth0", role.gateway())],
    }
}

/// Sets a link up or down, as a person at the device would.
pub(crate) fn set_link(prefix: &str, role: Role, device: &str, up: bool) -> Result<()> {
    let name = namespace(prefix, role);
    let state = if up { "up" } else { "down" };
    Program::new("ip").args(["-n", &name, "link", "set", device, state]).run()?;
    // A link that goes down takes its permanent neighbours and routes with it.
    if up {
        batch(
            Some(&name),
            &routes(role).iter().map(|r| r.replace("route add", "route replace")).collect::<Vec<_>>(),
        )
    } else {
        Ok(())
    }
}
