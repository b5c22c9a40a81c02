//! What the lab must not change on the machine that carries it.

use std::{collections::BTreeSet, path::Path};

use serde::{Deserialize, Serialize};

use crate::{error::Result, network::namespaces_of, program::Program};

/// Programs whose presence in the machine's own network means a service is running there.
const DAEMONS: [&str; 8] = ["postgres", "smbd", "nmbd", "Orthanc", "snmpd", "aiosmtpd", "master", "mariadbd"];

/// The machine as seen from outside of any lab. Two of them can be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFingerprint {
    /// `nft -s list ruleset`: tables, chains and rules without their counters.
    pub ruleset: BTreeSet<String>,
    /// Links, addresses, routes and policy rules.
    pub links: BTreeSet<String>,
    /// Well-known daemons outside of the labs, and listening ports below the range of ephemeral ones.
    pub services: BTreeSet<String>,
    /// Mounted folders, but for the namespaces' own files.
    pub mounts: BTreeSet<String>,
    /// Files behind loop devices.
    pub loops: BTreeSet<String>,
    /// Kernel settings that a router in a namespace might be thought to change.
    pub settings: BTreeSet<String>,
    /// Namespaces of this lab; those of others come and go.
    pub namespaces: BTreeSet<String>,
}

impl HostFingerprint {
    /// Looks at the machine that carries the lab of this prefix and folder. Temporary folders of others, such as
    /// those of tests that run beside it, are not looked at.
    ///
    /// # Errors
    /// `ip`, `nft` or `ss` is missing or refuses.
    pub fn take(prefix: &str, root: &Path) -> Result<Self> {
        let strange = |path: &String| {
            Path::new(path).starts_with(std::env::temp_dir()) && !Path::new(path).starts_with(root)
        };
        let lines = |program: &Program| -> Result<BTreeSet<String>> {
            Ok(program
                .text()?
                .lines()
                .map(|line| line.trim().to_owned())
                .filter(|line| !line.is_empty())
                .collect())
        };
        let mut links = BTreeSet::new();
        for what in [["-o", "link"], ["-o", "address"], ["route", "show"], ["rule", "show"]] {
            let found = lines(&Program::new("ip").args(what))?;
            // Lifetimes of leased addresses count down.
            links.extend(
                found.iter().map(|line| line.split("valid_lft").next().unwrap_or(line).trim().to_owned()),
            );
        }
        let mut services = daemons();
        services.extend(listeners(&lines(&Program::new("ss").args(["-Hltun"]))?));
        let settings = ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/default/accept_dad"];
        Ok(Self {
            ruleset: lines(&Program::new("nft").args(["-s", "list", "ruleset"]))?,
            links,
            services,
            mounts: mounts()?
                .into_iter()
                .filter(|folder| !folder.starts_with("/run/netns") && !strange(folder))
                .collect(),
            loops: loops().into_iter().filter(|file| !strange(file)).collect(),
            settings: settings
                .into_iter()
                .filter_map(|name| {
                    let value = fs_err::read_to_string(format!("/proc/sys/net/{name}")).ok()?;
                    Some(format!("{name} = {}", value.trim()))
                })
                .collect(),
            namespaces: namespaces_of(prefix)?.into_iter().collect(),
        })
    }

    /// What is there in `after` and was not before (`+`), and the reverse (`-`), one line each.
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let parts = [
            ("ruleset", &self.ruleset, &after.ruleset),
            ("links", &self.links, &after.links),
            ("services", &self.services, &after.services),
            ("mounts", &self.mounts, &after.mounts),
            ("loop devices", &self.loops, &after.loops),
            ("settings", &self.settings, &after.settings),
            ("namespaces", &self.namespaces, &after.namespaces),
        ];
        let mut found = Vec::new();
        for (name, before, after) in parts {
            found.extend(after.difference(before).map(|line| format!("{name}: + {line}")));
            found.extend(before.difference(after).map(|line| format!("{name}: - {line}")));
        }
        found
    }
}

/// The mounted folders of this process's mount namespace, with the kernel's octal escapes undone.
pub(crate) fn mounts() -> Result<Vec<String>> {
    let text = fs_err::read_to_string("/proc/self/mounts")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|folder| folder.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        .collect())
}

fn loops() -> BTreeSet<String> {
    let Ok(devices) = fs_err::read_dir("/sys/block") else { return BTreeSet::new() };
    devices
        .flatten()
        .filter_map(|device| fs_err::read_to_string(device.path().join("loop/backing_file")).ok())
        .map(|file| file.trim().to_owned())
        .collect()
}

fn daemons() -> BTreeSet<String> {
    let own = fs_err::read_link("/proc/self/ns/net").ok();
    let Ok(processes) = fs_err::read_dir("/proc") else { return BTreeSet::new() };
    processes
        .flatten()
        .filter(|process| fs_err::read_link(process.path().join("ns/net")).ok() == own)
        .filter(|process| !another_tests(&fs_err::read(process.path().join("environ")).unwrap_or_default()))
        .filter_map(|process| fs_err::read_to_string(process.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| DAEMONS.contains(&name.as_str()))
        .collect()
}

/// Whether a process with this environment was started by a test of another name than the one we run in.
/// Tests that run beside a lab have peers in the machine's own network; those of ours stay ours.
fn another_tests(environment: &[u8]) -> bool {
    const MARKS: [&str; 2] = ["NEXTEST_RUN_ID", "NEXTEST_TEST_NAME"];
    let theirs = MARKS.map(|mark| {
        environment.split(|byte| *byte == 0).find_map(|line| {
            Some(std::str::from_utf8(line).ok()?.strip_prefix(mark)?.strip_prefix('=')?.to_owned())
        })
    });
    theirs[0].is_some() && theirs != MARKS.map(|mark| std::env::var(mark).ok())
}

/// Ports that a service would own. Ephemeral ones belong to whatever test runs beside us.
fn listeners(lines: &BTreeSet<String>) -> BTreeSet<String> {
    let begin = fs_err::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768_u16);
    lines
        .iter()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (protocol, address) = (words.next()?, words.nth(3)?);
            let port: u16 = address.rsplit_once(':')?.1.parse().ok()?;
            (port < begin).then(|| format!("{protocol} {address}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named_with_its_direction() {
        let line = |text: &str| BTreeSet::from([text.to_owned()]);
        let before = HostFingerprint { links: line("eth0"), ..Default::default() };
        let after = HostFingerprint { links: line("eth1"), ..Default::default() };
        assert_eq!(before.differences(&after), ["links: + eth1", "links: - eth0"]);
        assert!(before.differences(&before).is_empty());
    }

    #[test]
    fn what_another_test_started_is_not_the_machines() {
        assert!(!another_tests(b"PATH=/bin\0HOME=/\0"));
        assert!(another_tests(b"PATH=/bin\0NEXTEST_RUN_ID=other\0NEXTEST_TEST_NAME=other\0"));
        let own = fs_err::read("/proc/self/environ").unwrap();
        assert!(!another_tests(&own), "what we start is ours");
    }

    #[test]
    fn ephemeral_listeners_are_nobody_s_service() {
        let lines = ["tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:*", "tcp LISTEN 0 128 127.0.0.1:65000 0.0.0.0:*"];
        let found = listeners(&lines.iter().map(|l| (*l).to_owned()).collect());
        assert_eq!(found, BTreeSet::from(["tcp 0.0.0.0:22".to_owned()]));
    }
}
