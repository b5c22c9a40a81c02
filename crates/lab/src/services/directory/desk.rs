//! A host of the domain: whom it asks for names, and where Samba's programs meet on it.
//!
//! Samba's programs find each other below `/run/samba`, a path that is built in. Each host has that folder for
//! itself: `ip netns exec` gives every program mounts of its own, and what is mounted there is this host's.

use std::{net::Ipv4Addr, path::PathBuf};

use super::REALM;
use crate::{
    error::Result,
    lab::{Host, Lab},
    program::Program,
    role::Role,
};

/// `/run` with this host's `samba` alone, this host's name server, then the program. A link in the place of
/// `/etc/resolv.conf` may point into `/run`, where nothing is left to point to.
const SCRIPT: &str = "mount -t tmpfs tmpfs /run && mkdir /run/samba && mount --bind \"$1\" /run/samba || exit 125; \
    if [ -L /etc/resolv.conf ] && [ ! -e /etc/resolv.conf ]; then \
    file=$(readlink -m /etc/resolv.conf); mkdir -p \"${file%/*}\" && : >\"$file\" || exit 125; fi; \
    [ ! -e /etc/resolv.conf ] || mount --bind \"$2\" /etc/resolv.conf || exit 125; shift 2; exec \"$@\"";

/// One host of the domain.
#[derive(Debug, Clone, Copy)]
pub(in crate::services) struct Desk<'lab> {
    pub(in crate::services) lab: &'lab Lab,
    pub(in crate::services) role: Role,
    /// The domain controller.
    pub(in crate::services) controller: Ipv4Addr,
}

impl<'lab> Desk<'lab> {
    fn host(self) -> Host<'lab> {
        self.lab.host(self.role)
    }

    fn folder(self) -> PathBuf {
        self.host().folder().join("domain")
    }

    /// Writes the host's own files.
    pub(in crate::services) fn prepare(self) -> Result<()> {
        fs_err::create_dir_all(self.folder().join("run"))?;
        let controller = self.controller;
        fs_err::write(
            self.folder().join("resolv.conf"),
            format!("nameserver {controller}\nsearch {}\n", REALM.to_lowercase()),
        )?;
        let krb5 = format!(
            "[libdefaults]\n default_realm = {REALM}\n dns_lookup_realm = false\n dns_lookup_kdc = false\n\
             [realms]\n {REALM} = {{\n  kdc = {controller}\n }}\n"
        );
        Ok(fs_err::write(self.folder().join("krb5.conf"), krb5)?)
    }

    /// A program as it runs on this host.
    pub(in crate::services) fn program(self, name: impl AsRef<std::ffi::OsStr>) -> Program {
        Program::new("sh")
            .env("KRB5_CONFIG", self.folder().join("krb5.conf"))
            .env("KRB5CCNAME", format!("FILE:{}", self.folder().join("tickets").display()))
            .args(["-c", SCRIPT, "sh"])
            .arg(self.folder().join("run"))
            .arg(self.folder().join("resolv.conf"))
            .arg(name)
    }
}
