//! `vault.toml`. Unknown keys are errors; secrets are named by their files.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    time::Duration,
};

use kuramori_audit::Verifier;
use kuramori_judge::retention::Retention;
use kuramori_model::units::Bytes;
use serde::Deserialize;

use crate::error::{Error, Result};

/// Everything that the role is told at its start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where things lie.
    pub vault: Place,
    /// The gate; without one the vault says in every record that it is not offline.
    pub gate: Option<Gate>,
    /// The primary that is pulled from.
    pub primary: Peer,
    /// The process that alone speaks with the network.
    #[serde(default)]
    pub puller: Puller,
    /// When and how long.
    #[serde(default)]
    pub window: Window,
    /// What a server may ask of us.
    #[serde(default)]
    pub limits: Limits,
    /// Work with the gate closed.
    #[serde(default)]
    pub proof: Proof,
    /// Inspection of new restore points.
    #[serde(default)]
    pub inspect: Inspect,
    /// The lock; without one nothing is immutable, and every record says so.
    pub lock: Option<Lock>,
    /// What is kept.
    #[serde(default = "vault_retention")]
    pub retention: Retention,
    /// Where the signed reports go besides the folder.
    pub report: Option<Report>,
    /// Restore order: these first, in this order; the rest by name. `_control` is always the very first.
    #[serde(default)]
    pub order: Vec<String>,
    /// Quotas of single repositories.
    #[serde(default)]
    pub quota: BTreeMap<String, Bytes>,
    /// Clean, empty, create-only places for restore windows, by name.
    #[serde(default)]
    pub receivers: BTreeMap<String, Peer>,
}

/// Where things lie.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Name in records and signatures.
    #[serde(default = "vault_name")]
    pub name: String,
    /// The folder of repositories, one file system for itself.
    pub root: PathBuf,
    /// Register, log, keys, reports, socket.
    pub state: PathBuf,
    /// One file per repository with its password: `<name>` in plain text, mode 0600, or `<name>.age`.
    pub passwords: PathBuf,
    /// Public key of the host that cosigns our log (`kuramori/server+…`).
    pub witness: Option<Verifier>,
}

/// The gate's socket and what our tokens say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// `kuramori-gated`'s unix socket.
    pub socket: PathBuf,
    /// The puller's address, the only one that may begin a flow.
    pub source: Ipv4Addr,
    /// Seconds that the layers may take to open, or to be seen closed, before it is an alarm.
    #[serde(default = "gate_patience")]
    pub patience_s: u64,
}

/// A server that speaks restic's REST protocol over TLS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// The one address and port.
    pub address: SocketAddrV4,
    /// The name in its certificate; the address itself if absent.
    pub server_name: Option<String>,
    /// PEM of the only certificate, or the only authority, that is believed.
    pub ca_file: PathBuf,
    /// Login.
    pub login: String,
    /// File with its password.
    pub password_file: PathBuf,
}

/// The process that alone speaks with the network.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Puller {
    /// How to start it; this very program with `vault puller` if empty.
    pub command: Vec<String>,
    /// Network namespace to enter before it starts (`/run/netns/pull`); our own if absent.
    pub netns: Option<PathBuf>,
    /// User id that it drops to; stays as we are if absent.
    pub uid: Option<u32>,
    /// Group id that it drops to.
    pub gid: Option<u32>,
    /// Transfers at the same time, each in a process of its own. 1 to 32.
    pub processes: usize,
}

impl Default for Puller {
    fn default() -> Self {
        Self { command: Vec::new(), netns: None, uid: None, gid: None, processes: 4 }
    }
}

/// When windows open and what they may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Window {
    /// Times of day, local (`02:00`).
    pub at: Vec<jiff::civil::Time>,
    /// Or every so many seconds since the last one; 0 for never.
    pub every_s: u64,
    /// Each opening is later by a random part of this, in seconds, so that nobody can wait for it.
    pub jitter_s: u64,
    /// Longest window in seconds.
    pub max_seconds: u32,
    /// Most bytes in one window, both directions.
    pub max_bytes: Bytes,
    /// Most seconds of open path in any 24 hours.
    pub daily_budget_s: u64,
    /// The window opens only with at least this much free below `root`.
    pub keep_free: Bytes,
    /// Seconds before the window's end at which nothing new is started.
    pub drain_s: u32,
    /// An alarm if a repository's backlog is older than this, in seconds.
    pub backlog_alarm_s: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            at: Vec::new(),
            every_s: 0,
            jitter_s: 600,
            max_seconds: 900,
            max_bytes: Bytes(2 << 40),
            daily_budget_s: 3600,
            keep_free: Bytes(1 << 30),
            drain_s: 10,
            backlog_alarm_s: 2 * 86_400,
        }
    }
}

/// What a server may ask of us before it is cut off.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Seconds to connect and to shake hands.
    pub connect_s: u64,
    /// Longest time without a byte, in seconds.
    pub stall_s: u64,
    /// Slowest average of a transfer in bytes per second, after the first `stall_s`.
    pub floor: u64,
    /// Longest time for one list, in seconds.
    pub list_s: u64,
    /// Most files of one kind in one repository.
    pub list_entries: u64,
    /// Most repositories.
    pub repositories: usize,
    /// New repositories that one window accepts.
    pub new_repositories: usize,
    /// Most bytes that a repository may bring if `[quota]` does not name it.
    pub quota: Bytes,
    /// How often one window lists a repository anew because files vanished.
    pub relists: u32,
    /// Largest pack.
    pub pack: Bytes,
    /// Largest index or snapshot.
    pub document: Bytes,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_s: 10,
            stall_s: 15,
            floor: 4096,
            list_s: 60,
            list_entries: 4_000_000,
            repositories: 256,
            new_repositories: 8,
            quota: Bytes(4 << 40),
            relists: 5,
            pack: Bytes((4 << 30) - 1),
            document: Bytes(128 << 20),
        }
    }
}

impl Limits {
    /// Longest time without a byte.
    pub fn stall(&self) -> Duration {
        Duration::from_secs(self.stall_s)
    }
}

/// Work with the gate closed.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proof {
    /// Packs that are opened at the same time.
    pub threads: usize,
    /// Blobs in memory at the same time, in bytes; a single larger blob still passes, alone.
    pub memory: Bytes,
    /// Largest piece of a file that is opened. restic's have at most 8 MiB.
    pub piece: Bytes,
    /// Largest folder listing that is opened: about 1 MiB for 3,000 files in one folder.
    pub folder: Bytes,
    /// Seconds that the proof of one repository may take before the others have their turn; it goes on in the
    /// next round.
    pub seconds: u64,
}

impl Default for Proof {
    fn default() -> Self {
        Self {
            threads: 2,
            memory: Bytes(256 << 20),
            piece: Bytes(64 << 20),
            folder: Bytes(256 << 20),
            seconds: 4 * 3600,
        }
    }
}

/// Inspection of new restore points.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inspect {
    /// No inspection at all: every point stays without a verdict.
    pub disabled: bool,
    /// What the hospital says about single repositories.
    pub policy: BTreeMap<String, kuramori_inspect::Policy>,
}

/// `kuramori-lockd` on this host.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Its socket.
    pub socket: PathBuf,
    /// Days for which what a new point needs is locked; the lock's own least days hold in any case.
    #[serde(default = "lock_days")]
    pub days: u32,
}

const fn lock_days() -> u32 {
    90
}

/// The signed report's way to the primary: a repository of role `append` in which each report is a file
/// `snapshots/<sha256 of its bytes>`, which any REST server takes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The repository's name at the primary; never pulled.
    #[serde(default = "report_repository")]
    pub repository: String,
    /// The append-only login.
    pub login: String,
    /// File with its password.
    pub password_file: PathBuf,
}

const fn gate_patience() -> u64 {
    45
}

fn vault_name() -> String {
    "vault".to_owned()
}

fn report_repository() -> String {
    "vault-report".to_owned()
}

/// 14 daily, 8 weekly, 12 monthly generations, nothing younger than 90 days is removed.
pub fn vault_retention() -> Retention {
    Retention { daily: 14, weekly: 8, monthly: 12, min_days: 90, ..Retention::default() }
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Config`] with the line and the key.
    pub fn read(file: &Path) -> Result<Self> {
        let bad = |what: String| Error::Config { file: file.to_owned(), what };
        let text = fs_err::read_to_string(file).map_err(|error| bad(error.to_string()))?;
        let config: Self = toml::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if !(1..=32).contains(&config.puller.processes) {
            return Err(bad("`puller.processes` must be 1 to 32".to_owned()));
        }
        if config.window.max_seconds <= config.window.drain_s {
            return Err(bad("`window.max_seconds` must be more than `window.drain_s`".to_owned()));
        }
        if let Some(report) = config.report.as_ref().filter(|report| !is_repository(&report.repository)) {
            return Err(bad(format!("`report.repository`: `{}` cannot be a repository", report.repository)));
        }
        Ok(config)
    }
}

impl Config {
    /// Whether the configuration names a repository, so that it needs nobody to confirm it.
    pub fn knows(&self, name: &str) -> bool {
        name == kuramori_model::ids::CONTROL_REPOSITORY
            || self.order.iter().any(|known| known == name)
            || self.quota.contains_key(name)
    }
}

/// Whether a name from the network or a person may become a folder: a system's name or `_control`.
pub fn is_repository(name: &str) -> bool {
    name == kuramori_model::ids::CONTROL_REPOSITORY || kuramori_model::ids::SystemId::new(name).is_ok()
}

/// Reads a secret file: one line, not readable for others.
///
/// # Errors
/// [`Error::Config`] if others could read it.
pub fn secret(file: &Path) -> Result<zeroize::Zeroizing<String>> {
    use std::os::unix::fs::PermissionsExt;
    let bad = |what: String| Error::Config { file: file.to_owned(), what };
    let mode = fs_err::metadata(file).map_err(|error| bad(error.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(bad("others can read this secret; make it mode 0600".to_owned()));
    }
    let text =
        fs_err::read_to_string(file).map(zeroize::Zeroizing::new).map_err(|error| bad(error.to_string()))?;
    Ok(zeroize::Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}
