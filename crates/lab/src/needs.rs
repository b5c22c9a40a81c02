//! What the lab needs from the machine, and what to do where it lacks.

use rustix::fs::statvfs;
use serde::Serialize;
use std::path::Path;

use crate::program::Program;

/// Free disk that a full lab takes with primary, vault and clean room.
const DISK: u64 = 12 << 30;
/// Memory that build, servers and product take together.
const MEMORY: u64 = 4 << 30;

/// Programs of others, and the Debian package that brings each.
const PROGRAMS: [(&str, &str); 34] = [
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("arping", "iputils-arping"),
    ("mkfs.ext4", "e2fsprogs"),
    ("chattr", "e2fsprogs"),
    ("mount", "mount"),
    ("setpriv", "util-linux"),
    ("sha256sum", "coreutils"),
    ("/usr/bin/python3", "python3"),
    ("/usr/lib/postgresql/15/bin/postgres", "postgresql-15"),
    ("/usr/lib/postgresql/15/bin/pgbench", "postgresql-15"),
    ("psql", "postgresql-client-15"),
    ("smbd", "samba"),
    ("samba", "samba"),
    ("samba-tool", "samba-common-bin"),
    ("winbindd", "winbind"),
    ("tdbbackup", "tdb-tools"),
    ("/usr/share/samba/setup/provision.ldif", "samba-ad-provision"),
    ("pdbedit", "samba"),
    ("smbclient", "smbclient"),
    ("Orthanc", "orthanc"),
    ("snmpd", "snmpd"),
    ("snmpget", "snmp"),
    ("snmpset", "snmp"),
    ("aiosmtpd", "python3-aiosmtpd"),
    ("dcmdump", "dcmtk"),
    ("restic", "restic"),
    ("mariadbd", "mariadb-server"),
    ("mariadb-dump", "mariadb-client"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("borg", "borgbackup"),
];

/// Parts of Samba that stand in the machine's own folder of libraries.
const LIBRARIES: [(&str, &str); 2] =
    [("samba/ldb/samba_dsdb.so", "samba-dsdb-modules"), ("samba/vfs/acl_xattr.so", "samba-vfs-modules")];

/// Python modules of Debian's own Python, and their packages.
const MODULES: [(&str, &str); 2] = [("aiosmtpd", "python3-aiosmtpd"), ("samba", "python3-samba")];

/// One thing that the machine lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lack {
    /// What is missing, in a few words.
    pub what: String,
    /// What to do about it, in one line.
    pub remedy: String,
    /// The Debian package that would bring it, if one does.
    pub package: Option<&'static str>,
}

impl Lack {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), package: None }
    }
}

/// Everything that this machine lacks for a full lab with its files under `root`. Empty is good.
pub fn needs(root: &Path) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        lacks.push(Lack::new("root", "run it with sudo: network namespaces and mounts need root"));
    }
    for (program, package) in PROGRAMS {
        if !found(program) {
            lacks.push(of_package(program, package));
        }
    }
    for (file, package) in LIBRARIES {
        let path = format!("/usr/lib/{}-linux-gnu/{file}", std::env::consts::ARCH);
        if !found(&path) {
            lacks.push(of_package(&path, package));
        }
    }
    for (module, package) in MODULES {
        let imports = Program::new("/usr/bin/python3").args(["-c", &format!("import {module}")]);
        if imports.run().is_err() {
            lacks.push(of_package(&format!("Python's module {module}"), package));
        }
    }
    if is_root {
        lacks.extend(kernel());
    }
    let folder = root.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    if let Ok(disk) = statvfs(folder) {
        let free = disk.f_bavail * disk.f_frsize;
        if free < DISK {
            lacks.push(Lack::new(
                format!("disk: {} GiB free at {}, {} needed", free >> 30, folder.display(), DISK >> 30),
                "free some, or name another folder with --root",
            ));
        }
    }
    if let Some(memory) = memory().filter(|memory| *memory < MEMORY) {
        lacks.push(Lack::new(
            format!("memory: {} MiB available, {} needed", memory >> 20, MEMORY >> 20),
            "close something, or give the machine more",
        ));
    }
    lacks
}

fn of_package(what: &str, package: &'static str) -> Lack {
    Lack {
        what: what.to_owned(),
        remedy: format!("apt-get install --no-install-recommends {package}"),
        package: Some(package),
    }
}

fn found(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}

/// Tries each kernel feature in a namespace that lives as long as the trial.
fn kernel() -> Vec<Lack> {
    let mut lacks = Vec::new();
    let try_in_namespace =
        |script: &str| Program::new("unshare").args(["-n", "sh", "-ec", script]).run().is_ok();
    if !try_in_namespace("ip link set lo up") {
        lacks.push(Lack::new(
            "network namespaces",
            "use a kernel with CONFIG_NET_NS; a container needs --privileged",
        ));
        return lacks;
    }
    if !try_in_namespace("ip link add name veth-a type veth peer name veth-b") {
        lacks.push(Lack::new("veth links", "modprobe veth, or use a kernel with CONFIG_VETH"));
    }
    let table =
        "table netdev t { chain c { type filter hook ingress device \"lo\" priority 0; fwd to \"lo\"\n}\n}";
    if !try_in_namespace(&format!("nft '{table}'")) {
        lacks.push(Lack::new(
            "nftables netdev chains with fwd",
            "modprobe nf_tables nft_fwd_netdev, or use a kernel with CONFIG_NFT_FWD_NETDEV",
        ));
    }
    if !try_in_namespace(
        "nft 'table ip t { chain c { type nat hook prerouting priority 0; tcp dport 1 redirect to :2\n}\n}'",
    ) {
        lacks.push(Lack::new(
            "nftables redirect",
            "modprobe nft_redir, or use a kernel with CONFIG_NFT_REDIR",
        ));
    }
    if !Path::new("/dev/loop-control").exists() {
        lacks.push(Lack::new("loop devices", "modprobe loop"));
    }
    lacks
}

/// Available memory in bytes.
fn memory() -> Option<u64> {
    let text = fs_err::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
}
