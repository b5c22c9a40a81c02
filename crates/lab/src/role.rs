//! The hosts of the hospital and their addresses.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// One host, each in a network namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The hospital's core switch: a router with one link to each host.
    Lan,
    /// The site server, which holds the primary store.
    Srv,
    /// The directory: a Samba domain controller.
    Dir,
    /// Billing: PostgreSQL.
    Bil,
    /// The picture archive: Orthanc.
    Pac,
    /// Ophthalmology: a Samba share.
    Oph,
    /// The laboratory: MariaDB.
    Lis,
    /// Pathology: OpenSSH's SFTP.
    Pat,
    /// The ward system, which another backup product protects.
    War,
    /// The mail server.
    Mai,
    /// The clean room, where a restore arrives.
    Cln,
    /// The guarded switch in front of the vault.
    Sw,
    /// The vault host.
    Vlt,
    /// The puller's own namespace inside the vault host.
    Pul,
}

/// A name that is no role.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is no host of the lab; there are lan, srv, dir, bil, pac, oph, lis, pat, war, mai, cln, sw, vlt and pul"
)]
pub struct UnknownRole(String);

impl Role {
    /// All hosts, in the order in which they are raised.
    pub const ALL: [Self; 14] = [
        Self::Lan,
        Self::Srv,
        Self::Dir,
        Self::Bil,
        Self::Pac,
        Self::Oph,
        Self::Lis,
        Self::Pat,
        Self::War,
        Self::Mai,
        Self::Cln,
        Self::Sw,
        Self::Vlt,
        Self::Pul,
    ];

    /// The hosts of the hospital's production side that hang on the core switch by `eth0`.
    pub const PRODUCTION: [Self; 10] = [
        Self::Srv,
        Self::Dir,
        Self::Bil,
        Self::Pac,
        Self::Oph,
        Self::Lis,
        Self::Pat,
        Self::War,
        Self::Mai,
        Self::Cln,
    ];

    /// The short name: part of the namespace's name, and the host's folder under the lab's root.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Srv => "srv",
            Self::Dir => "dir",
            Self::Bil => "bil",
            Self::Pac => "pac",
            Self::Oph => "oph",
            Self::Lis => "lis",
            Self::Pat => "pat",
            Self::War => "war",
            Self::Mai => "mai",
            Self::Cln => "cln",
            Self::Sw => "sw",
            Self::Vlt => "vlt",
            Self::Pul => "pul",
        }
    }

    /// The address under which other hosts know it.
    pub const fn address(self) -> Ipv4Addr {
        match self {
            Self::Lan => Ipv4Addr::new(10, 77, 9, 1),
            Self::Srv => Ipv4Addr::new(10, 77, 1, 2),
            Self::Bil => Ipv4Addr::new(10, 77, 2, 2),
            Self::Pac => Ipv4Addr::new(10, 77, 3, 2),
            Self::Oph => Ipv4Addr::new(10, 77, 4, 2),
            Self::Lis => Ipv4Addr::new(10, 77, 11, 2),
            Self::Pat => Ipv4Addr::new(10, 77, 12, 2),
            Self::War => Ipv4Addr::new(10, 77, 13, 2),
            Self::Dir => Ipv4Addr::new(10, 77, 14, 2),
            Self::Mai => Ipv4Addr::new(10, 77, 5, 2),
            Self::Cln => Ipv4Addr::new(10, 77, 6, 2),
            Self::Sw => Ipv4Addr::new(10, 77, 8, 2),
            Self::Vlt => VAULT,
            Self::Pul => Ipv4Addr::new(10, 77, 10, 2),
        }
    }

    /// The router's address on this host's own network.
    pub(crate) const fn gateway(self) -> Ipv4Addr {
        let [a, b, c, _] = self.address().octets();
        Ipv4Addr::new(a, b, c, 1)
    }
}

/// The vault's address on the gated path.
pub const VAULT: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 2);
/// The switch's address on the management network, which only the vault reaches.
pub const SWITCH_MANAGEMENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The vault's address on the management network.
pub const VAULT_MANAGEMENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(name: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.name() == name).ok_or_else(|| UnknownRole(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_addresses_differ() {
        let mut addresses: Vec<_> = Role::ALL.into_iter().map(Role::address).collect();
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
        }
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), Role::ALL.len());
        assert!("icu".parse::<Role>().is_err());
    }
}
