//! What the register says about a source. Unknown keys are errors; secrets are only ever named by a file.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use kuramori_model::units::Bytes;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::Error;

/// One source of a system, told apart by `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Config {
    /// A dump folder on a share.
    Smb(SmbConfig),
    /// A PostgreSQL server.
    Postgres(PostgresConfig),
    /// Another backup product's jobs, and its folder if it may be read.
    Foreign(ForeignConfig),
    /// A folder on an SFTP server.
    Sftp(SftpConfig),
    /// A MariaDB or MySQL server.
    Mariadb(MariadbConfig),
    /// A picture archive.
    Dicom(DicomConfig),
    /// The output of a command that this machine's administrator declared.
    Command(CommandConfig),
    /// Another source with a declared command before and one after it.
    Around(AroundConfig),
    /// Another source, read no faster than its department can bear.
    Gentle(GentleConfig),
    /// Files of an agent's machine; only in an agent's own file.
    Files(FilesConfig),
    /// What an agent declares under a name.
    Agent(AgentConfig),
}

/// Files and folders of an agent's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesConfig {
    /// What is read, by absolute paths.
    pub paths: Vec<PathBuf>,
    /// What is left out: `*.tmp` for names anywhere, `/var/cache/**` for whole paths.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Do not go into other file systems.
    #[serde(default)]
    pub one_file_system: bool,
    /// Where a snapshot of the volume is mounted: files are read there and keep their own paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<PathBuf>,
}

/// A unit of an agent. The register can only name it; what it is stands in the agent's own file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// The agent's name, as it was enrolled.
    pub agent: String,
    /// The unit's name in the agent's file.
    pub unit: String,
    /// Data connections, 1 to 8.
    #[serde(default = "lanes")]
    pub lanes: u8,
}

/// A name that stands in files, certificates and folders: `a` to `z`, digits, `-`, at most 60 characters.
pub fn is_plain_name(name: &str) -> bool {
    (1..=60).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
}

/// Limits around another source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GentleConfig {
    /// Bytes per second by time of day; the strictest that applies holds.
    #[serde(default)]
    pub limits: Vec<HourLimit>,
    /// The zone of these times by name; by default the machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The service whose answers tell how much the department feels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// What is read.
    pub source: Box<Config>,
}

/// A limit for some hours of each day; `from` and `until` equal: always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HourLimit {
    /// From this time on: `08:00`.
    pub from: jiff::civil::Time,
    /// Until before this time; earlier than `from`: over midnight.
    pub until: jiff::civil::Time,
    /// Bytes per second: `2 MB`.
    pub rate: Bytes,
}

/// A question to the department's own service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Probe {
    /// A TCP connection that is opened and closed.
    Tcp {
        /// Host and port.
        address: String,
        /// When it counts as slow, as burdened, and for how long that is borne.
        #[serde(default)]
        bounds: ProbeBounds,
    },
    /// A page that is asked for; any answer but a server's error counts.
    Http {
        /// The page: `http://10.0.0.5:8042/patients?limit=1`.
        url: String,
        /// When it counts as slow, as burdened, and for how long that is borne.
        #[serde(default)]
        bounds: ProbeBounds,
    },
}

/// The bounds of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeBounds {
    /// Pause between questions.
    pub every: Span,
    /// From here on we read more slowly.
    pub slow: Span,
    /// From here on the department is burdened.
    pub limit: Span,
    /// So long it is borne before the run ends.
    pub give_up: Span,
}

impl Default for ProbeBounds {
    fn default() -> Self {
        Self {
            every: Span(Duration::from_secs(1)),
            slow: Span(Duration::from_millis(200)),
            limit: Span(Duration::from_secs(2)),
            give_up: Span(Duration::from_mins(10)),
        }
    }
}

impl Probe {
    const fn bounds(&self) -> ProbeBounds {
        match self {
            Self::Tcp { bounds, .. } | Self::Http { bounds, .. } => *bounds,
        }
    }

    /// What is asked, for people.
    pub fn shown(&self) -> &str {
        match self {
            Self::Tcp { address, .. } => address,
            Self::Http { url, .. } => url,
        }
    }

    /// Pause between questions.
    pub fn every(&self) -> Duration {
        self.bounds().every.0.max(Duration::from_millis(20))
    }

    /// From here on we read more slowly.
    pub const fn slow(&self) -> Duration {
        self.bounds().slow.0
    }

    /// From here on the department is burdened.
    pub const fn limit(&self) -> Duration {
        self.bounds().limit.0
    }

    /// So long it is borne.
    pub const fn give_up(&self) -> Duration {
        self.bounds().give_up.0
    }

    /// How long an answer is waited for.
    pub fn patience(&self) -> Duration {
        (self.limit() * 2).clamp(Duration::from_millis(100), Duration::from_secs(30))
    }
}

/// A folder that is read over SFTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftpConfig {
    /// Host name or address.
    pub server: String,
    /// TCP port.
    #[serde(default = "port_ssh")]
    pub port: u16,
    /// The account.
    pub user: String,
    /// Folder; without a `/` in front below the account's own one.
    #[serde(default)]
    pub folder: String,
    /// The server's public keys as `ssh-keyscan` shows them, without the address: `ssh-ed25519 AAAA…`.
    pub host_keys: Vec<String>,
    /// The private key with which we log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Or the file that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// When the dump is whole. Without it each file is taken as it is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<MarkerConfig>,
    /// Names (or, with a `/`, paths inside the folder) that are left out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// How often a file that is changing or vanished is tried again.
    #[serde(default = "tries")]
    pub retries: u32,
    /// Pause between those tries.
    #[serde(default = "pause")]
    pub retry_pause: Span,
    /// How often a broken line is brought back in one run.
    #[serde(default = "reconnects")]
    pub reconnects: u32,
    /// How long one attempt to bring it back may take.
    #[serde(default = "reconnect_within")]
    pub reconnect_within: Span,
    /// How long connecting may take.
    #[serde(default = "connect_within")]
    pub connect_within: Span,
}

/// A MariaDB or MySQL server that is dumped over the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MariadbConfig {
    /// Host name or address.
    pub server: String,
    /// TCP port.
    #[serde(default = "port_mariadb")]
    pub port: u16,
    /// An account that may read everything (see `docs/sources.md`).
    pub user: String,
    /// File that holds the password.
    pub password_file: PathBuf,
    /// Which databases; empty for all.
    #[serde(default)]
    pub databases: Vec<String>,
    /// Encrypt and check the server's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Write the position in the binary log into the dump; needs the right BINLOG MONITOR and a short lock.
    #[serde(default)]
    pub binlog_position: bool,
    /// Keep the binary log, too, so that any second between two dumps can be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binlog: Option<BinlogConfig>,
    /// How long connecting may take.
    #[serde(default = "connect_within")]
    pub connect_within: Span,
    /// Which server it has to be.
    #[serde(default)]
    pub expect: MariadbExpect,
}

/// The binary log beside a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinlogConfig {
    /// Folder of this system alone, for the list of the newest restore point and a file under way. Several
    /// servers that share a catalog have to share it, too.
    pub spool: PathBuf,
    /// How old the dump is at most; younger, a run takes the log alone.
    #[serde(default = "base_every")]
    pub dump_every: Span,
}

/// How a picture archive is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DicomBy {
    /// Orthanc's own REST interface, which tells sizes and changes.
    #[default]
    Orthanc,
    /// DICOMweb: QIDO-RS, WADO-RS, STOW-RS.
    Dicomweb,
    /// C-FIND, C-GET, C-STORE.
    Dimse,
}

/// The names of both sides of an association: at most 16 characters each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DimseNames {
    /// The archive's AE title.
    pub called: String,
    /// Ours, as the archive has it in its table.
    #[serde(default = "our_title")]
    pub calling: String,
}

/// A picture archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DicomConfig {
    /// How it is spoken to.
    #[serde(default)]
    pub by: DicomBy,
    /// Host name or address.
    pub server: String,
    /// TCP port.
    #[serde(default = "port_orthanc")]
    pub port: u16,
    /// Path in front of the interface: `/dicom-web`, or `/orthanc` where a proxy stands before it.
    #[serde(default)]
    pub path: String,
    /// The account; none with DIMSE.
    #[serde(default)]
    pub user: String,
    /// File that holds the password; none with DIMSE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The names of both sides; with DIMSE only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub titles: Option<DimseNames>,
    /// After so long each study is read again though its list is the same: only so is a picture seen that was
    /// changed under its old name. Not needed with Orthanc's own interface, which shows that by itself.
    #[serde(default = "recheck")]
    pub recheck: Span,
    /// Somebody made sure that the archive has no study without a date. Such a one is not found where the archive
    /// has a limit for its answers, and without this word the restore point counts as incomplete there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_dated: bool,
    /// PEM file with the authorities to trust; with it the connection is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Requests that may be under way, 1 to 8: fewer are gentler.
    #[serde(default = "lanes")]
    pub lanes: u8,
    /// How long connecting may take.
    #[serde(default = "connect_within")]
    pub connect_within: Span,
    /// Which archive it has to be.
    #[serde(default)]
    pub expect: DicomExpect,
}

/// Marks of an archive's identity; what is absent is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DicomExpect {
    /// The archive's `Name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Marks of a MariaDB server's identity; what is absent is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MariadbExpect {
    /// Name, number and data folder as the report shows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// A declared command's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// Whose data it is: for the register and for one job per departmental server.
    pub server: String,
    /// Which entry of the declarations.
    pub name: String,
    /// The file that the output becomes.
    #[serde(default = "output")]
    pub file: String,
    /// The declarations: a file of root's that nobody else can write.
    #[serde(default = "declarations")]
    pub declared_in: PathBuf,
}

/// Declared commands around another source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AroundConfig {
    /// Which entry of the declarations.
    pub name: String,
    /// The declarations: a file of root's that nobody else can write.
    #[serde(default = "declarations")]
    pub declared_in: PathBuf,
    /// What is read in between.
    pub source: Box<Config>,
}

/// A length of time as people write it: `30s`, `5 min`, `2h 30m`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A folder on an SMB share that is read without an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmbConfig {
    /// Host name or address.
    pub server: String,
    /// TCP port.
    #[serde(default = "port_smb")]
    pub port: u16,
    /// The share's name.
    pub share: String,
    /// Folder inside the share, `/` between the parts; empty for the whole share.
    #[serde(default)]
    pub folder: String,
    /// The read-only account.
    pub user: String,
    /// The account's domain or workgroup; empty for a local account.
    #[serde(default)]
    pub domain: String,
    /// File that holds the password and nothing else.
    pub password_file: PathBuf,
    /// When the dump is whole. Without it each file is taken as it is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<MarkerConfig>,
    /// Names (or, with a `/`, paths inside the folder) that are left out; `*` and `?` match, case does not.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// How often a file that is in use, changing or vanished is tried again before it counts as unreadable.
    #[serde(default = "tries")]
    pub retries: u32,
    /// Pause between those tries.
    #[serde(default = "pause")]
    pub retry_pause: Span,
    /// How often a broken connection is brought back in one run.
    #[serde(default = "reconnects")]
    pub reconnects: u32,
    /// How long one attempt to bring it back may take, waiting for the server included.
    #[serde(default = "reconnect_within")]
    pub reconnect_within: Span,
    /// Which server it has to be.
    #[serde(default)]
    pub expect: SmbExpect,
}

/// The vendor's sign that the nightly dump is finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MarkerConfig {
    /// Name of the marker, `*` and `?` match: `DUMP_OK_*.txt`.
    pub pattern: String,
    /// Folder that holds it, inside the dump folder; empty for the dump folder itself.
    #[serde(default)]
    pub folder: String,
    /// How long to wait for a fitting marker before the run fails.
    #[serde(default)]
    pub wait: Span,
    /// Pause between looks while waiting.
    #[serde(default = "poll")]
    pub poll: Span,
    /// Two looks this far apart must show the same files; `0s` trusts the first look.
    #[serde(default = "settle")]
    pub settle: Span,
    /// A marker older than this is of an earlier dump.
    #[serde(default = "max_age")]
    pub max_age: Span,
    /// How much newer than the marker a file may be (clocks with coarse steps).
    #[serde(default = "slack")]
    pub slack: Span,
    /// The marker's content names the files of the dump: each of them must be there, in its announced size.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub names_files: bool,
}

impl MarkerConfig {
    /// A marker of this name with the usual times.
    pub fn new(pattern: &str) -> Self {
        Self {
            pattern: pattern.to_owned(),
            folder: String::new(),
            wait: Span::default(),
            poll: poll(),
            settle: settle(),
            max_age: max_age(),
            slack: slack(),
            names_files: false,
        }
    }
}

/// A system that another backup product protects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignConfig {
    /// The host on which the product runs.
    pub server: String,
    /// Which product: sets the rule by which its folder counts as whole.
    pub product: Product,
    /// Where its folder, or at least its result file, can be read. Without it results only come by post.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<SmbConfig>,
    /// What is read there.
    #[serde(default)]
    pub pull: Pull,
    /// Name of the result file in the folder, `*` and `?` match; the newest one counts. By default
    /// `kuramori-result.json`, and none for Veeam's folder, whose `.vbm` says the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Who may say in words how its jobs ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hear: Vec<crate::said::Hear>,
}

/// A backup product that we know the folder of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Product {
    /// Veeam Backup & Replication: `.vbk`, `.vib`, `.vrb` and the metadata `.vbm`, written last.
    Veeam,
    /// Arcserve.
    Arcserve,
    /// Windows Server Backup.
    WindowsServerBackup,
    /// A vendor's own.
    Other,
}

impl Product {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Veeam => "veeam",
            Self::Arcserve => "arcserve",
            Self::WindowsServerBackup => "windows-server-backup",
            Self::Other => "other",
        }
    }
}

/// What is read of a foreign product.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pull {
    /// The whole folder becomes a restore point.
    #[default]
    Folder,
    /// Only the result file; there is no restore point of ours.
    Result,
}

/// Marks of an SMB server's identity; what is absent is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmbExpect {
    /// The server's GUID as the report shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_guid: Option<String>,
    /// The volume's serial number as the report shows it, eight hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_serial: Option<String>,
}

/// A PostgreSQL server that is copied by the replication protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// Host name or address.
    pub server: String,
    /// TCP port.
    #[serde(default = "port_postgres")]
    pub port: u16,
    /// An account with the REPLICATION attribute.
    pub user: String,
    /// File that holds the password; absent where the server trusts the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Encrypt and check the server's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// How the server prepares: `fast` at once, `spread` gently over its checkpoint time.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// Highest rate at which the *server* reads its disk for us, per second: `20 MB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate: Option<Bytes>,
    /// Hold the write-ahead log that the backup needs by a temporary slot, so that a busy server does not
    /// throw it away meanwhile.
    #[serde(default = "yes")]
    pub hold_wal: bool,
    /// Keep the write-ahead log, too, so that any time between two base backups can be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<WalConfig>,
    /// How long connecting may take.
    #[serde(default = "connect_within")]
    pub connect_within: Span,
    /// Which server it has to be.
    #[serde(default)]
    pub expect: PostgresExpect,
}

/// Continuous write-ahead log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalConfig {
    /// The replication slot's name; made if it is not there.
    #[serde(default = "slot")]
    pub slot: String,
    /// Folder of this system alone, where log waits until a restore point has it. Several servers that share
    /// a catalog have to share it, too.
    pub spool: PathBuf,
    /// How old the base backup is at most; younger, a run takes the log alone.
    #[serde(default = "base_every")]
    pub base_every: Span,
    /// How far the log may be behind before it is an alarm.
    #[serde(default = "late")]
    pub late: Span,
    /// How much log may pile up on the database's own disk before it is an alarm.
    #[serde(default = "slot_limit")]
    pub slot_limit: Bytes,
}

/// TLS with a certificate authority of the hospital's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the authorities to trust, and no others.
    pub ca_file: PathBuf,
    /// Name in the server's certificate, if it is not `server`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// How PostgreSQL makes the checkpoint that a backup starts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checkpoint {
    /// At once, with a burst of writes.
    #[default]
    Fast,
    /// Over the server's usual checkpoint time.
    Spread,
}

/// Marks of a PostgreSQL cluster's identity; what is absent is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresExpect {
    /// The cluster's system identifier, given at `initdb`. Text, because the number does not fit TOML's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
}

fn slot() -> String {
    "kuramori".to_owned()
}
fn base_every() -> Span {
    Span(Duration::from_hours(24))
}
fn late() -> Span {
    Span(Duration::from_mins(10))
}
fn slot_limit() -> Bytes {
    Bytes(4 << 30)
}
fn port_smb() -> u16 {
    445
}
fn port_postgres() -> u16 {
    5432
}
fn port_ssh() -> u16 {
    22
}
fn port_mariadb() -> u16 {
    3306
}
fn port_orthanc() -> u16 {
    8042
}
fn our_title() -> String {
    "KURAMORI".into()
}
fn recheck() -> Span {
    Span(Duration::from_hours(30 * 24))
}
fn lanes() -> u8 {
    2
}
fn output() -> String {
    "output".to_owned()
}
fn declarations() -> PathBuf {
    PathBuf::from("/etc/kuramori/commands.toml")
}
fn yes() -> bool {
    true
}
fn tries() -> u32 {
    3
}
fn reconnects() -> u32 {
    5
}
fn pause() -> Span {
    Span(Duration::from_secs(1))
}
fn reconnect_within() -> Span {
    Span(Duration::from_mins(1))
}
fn connect_within() -> Span {
    Span(Duration::from_secs(10))
}
fn poll() -> Span {
    Span(Duration::from_secs(30))
}
fn settle() -> Span {
    Span(Duration::from_secs(10))
}
fn max_age() -> Span {
    Span(Duration::from_hours(20))
}
fn slack() -> Span {
    Span(Duration::from_secs(2))
}

impl Config {
    /// What is read in the end, inside of whatever stands around it.
    pub fn innermost(&self) -> &Self {
        match self {
            Self::Around(around) => around.source.innermost(),
            Self::Gentle(gentle) => gentle.source.innermost(),
            other => other,
        }
    }

    /// Finds what serde cannot: empty names, impossible patterns.
    pub fn check(&self) -> Result<(), Error> {
        // What would be read as an option, or as more than one line of an option file.
        let odd =
            |text: &str| text.is_empty() || text.starts_with('-') || text.contains(['"', '\n', '\r', '\\']);
        let empty: Vec<(&str, bool)> = match self {
            Self::Sftp(c) => [
                ("server", odd(&c.server)),
                ("user", odd(&c.user)),
                ("folder", c.folder.split('/').any(|part| part == "..")),
                ("host_keys", c.host_keys.is_empty() || !c.host_keys.iter().all(|key| is_host_key(key))),
                ("key_file", c.key_file.is_some() == c.password_file.is_some()),
            ]
            .into(),
            Self::Dicom(c) => [
                ("server", odd(&c.server) || c.server.contains(['/', '@', '?', '#'])),
                ("path", !c.path.is_empty() && (!c.path.starts_with('/') || c.path.contains(['?', '#']))),
                ("user", c.by == DicomBy::Orthanc && c.user.is_empty()),
                ("password_file", c.by == DicomBy::Orthanc && c.password_file.is_none()),
                ("password_file", c.by == DicomBy::Dimse && c.password_file.is_some()),
                ("titles", (c.by == DicomBy::Dimse) != c.titles.is_some()),
                ("titles", c.titles.as_ref().is_some_and(|t| !is_title(&t.called) || !is_title(&t.calling))),
                ("path", c.by == DicomBy::Dimse && !c.path.is_empty()),
                ("expect.name", c.by != DicomBy::Orthanc && c.expect.name.is_some()),
                ("recheck", c.recheck.0 < Duration::from_hours(1)),
                ("lanes", !(1..=8).contains(&c.lanes)),
            ]
            .into(),
            Self::Mariadb(c) => [
                ("server", odd(&c.server)),
                ("user", odd(&c.user)),
                ("databases", c.databases.iter().any(|name| odd(name))),
                // The log knows nothing of a choice of databases.
                (
                    "binlog",
                    c.binlog.as_ref().is_some_and(|log| !log.spool.is_absolute() || !c.databases.is_empty()),
                ),
            ]
            .into(),
            Self::Files(c) => [
                ("paths", c.paths.is_empty() || !c.paths.iter().all(|path| path.is_absolute())),
                ("snapshot", c.snapshot.as_ref().is_some_and(|path| !path.is_absolute())),
            ]
            .into(),
            Self::Agent(c) => [
                ("agent", !is_plain_name(&c.agent)),
                ("unit", !is_plain_name(&c.unit)),
                ("lanes", !(1..=8).contains(&c.lanes)),
            ]
            .into(),
            Self::Command(c) => [
                ("server", c.server.is_empty()),
                ("name", c.name.is_empty()),
                ("file", kuramori_model::tree::TreePath::new(c.file.as_str()).is_err()),
            ]
            .into(),
            Self::Gentle(c) => {
                c.source.check()?;
                let zone = c.zone.as_ref();
                [
                    // An agent's limits stand in the agent's own file; here they would not hold.
                    ("source", matches!(*c.source, Self::Gentle(_) | Self::Agent(_))),
                    ("limits", c.limits.iter().any(|limit| limit.rate.0 < 1024)),
                    ("zone", zone.is_some_and(|name| no_zone(name))),
                    ("probe.bounds", c.probe.as_ref().is_some_and(|probe| probe.slow() > probe.limit())),
                ]
                .into()
            }
            Self::Around(c) => {
                c.source.check()?;
                [
                    ("name", c.name.is_empty()),
                    ("source", matches!(*c.source, Self::Around(_) | Self::Agent(_))),
                ]
                .into()
            }
            Self::Foreign(c) => {
                if let Some(share) = &c.share {
                    Self::Smb(share.clone()).check()?;
                }
                [
                    ("server", c.server.is_empty()),
                    ("share", c.share.is_none() && (c.result.is_some() || c.pull == Pull::Result)),
                    ("result", c.result.as_ref().is_some_and(|r| r.is_empty() || r.contains(['/', '\\']))),
                    (
                        "hear.zone",
                        c.hear.iter().filter_map(|hear| hear.zone.as_ref()).any(|name| no_zone(name)),
                    ),
                ]
                .into()
            }
            Self::Smb(c) => [
                ("server", c.server.is_empty()),
                ("share", c.share.is_empty() || c.share.contains(['/', '\\'])),
                ("user", c.user.is_empty()),
                ("folder", c.folder.split('/').any(|part| part == ".." || part.contains('\\'))),
                (
                    "marker.pattern",
                    c.marker.as_ref().is_some_and(|m| m.pattern.is_empty() || m.pattern.contains('/')),
                ),
                (
                    "marker.folder",
                    c.marker
                        .as_ref()
                        .is_some_and(|m| m.folder.split('/').any(|p| p == ".." || p.contains('\\'))),
                ),
            ]
            .into(),
            Self::Postgres(c) => [
                ("server", c.server.is_empty()),
                ("user", c.user.is_empty()),
                // The server's own limits for MAX_RATE: 32 kB/s to 1 GB/s.
                ("max_rate", c.max_rate.is_some_and(|r| !(32 << 10..=1 << 30).contains(&r.0))),
                // The server's own rule for names of slots.
                (
                    "wal.slot",
                    c.wal.as_ref().is_some_and(|wal| {
                        wal.slot.is_empty()
                            || wal.slot.len() > 63
                            || !wal
                                .slot
                                .bytes()
                                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                    }),
                ),
                ("wal.spool", c.wal.as_ref().is_some_and(|wal| !wal.spool.is_absolute())),
            ]
            .into(),
        };
        match empty.into_iter().find(|(_, bad)| *bad) {
            Some((key, _)) => Err(Error::Config(format!("`{key}` is empty or out of bounds"))),
            None => Ok(()),
        }
    }
}

impl DicomConfig {
    /// The names of both sides.
    pub(crate) fn dimse(&self) -> DimseNames {
        self.titles.clone().unwrap_or_else(|| DimseNames { called: "ANY-SCP".into(), calling: our_title() })
    }
}

fn no_zone(name: &str) -> bool {
    jiff::tz::TimeZone::get(name).is_err()
}

/// An application's title (PS3.5, 6.2): 1 to 16 printable characters without a backslash.
fn is_title(text: &str) -> bool {
    let text = text.trim();
    (1..=16).contains(&text.len()) && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'\\')
}

/// `type base64`, with or without a comment.
fn is_host_key(key: &str) -> bool {
    let mut parts = key.split(' ');
    let kind = parts.next().unwrap_or_default();
    let blob = parts.next().unwrap_or_default();
    (kind.starts_with("ssh-") || kind.starts_with("ecdsa-sha2-") || kind.starts_with("sk-"))
        && blob.len() > 40
        && blob.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
        && !key.contains(['\n', '\r'])
}

/// Reads a password file: one line, not readable by everybody.
pub(crate) fn password(path: &PathBuf) -> Result<Zeroizing<String>, Error> {
    use std::os::unix::fs::PermissionsExt;
    let bad = |why: String| Error::PasswordFile { path: path.display().to_string(), why };
    let meta = fs_err::metadata(path).map_err(|error| bad(error.to_string()))?;
    if meta.permissions().mode() & 0o004 != 0 {
        return Err(bad("everybody on this machine may read it".into()));
    }
    let text = Zeroizing::new(fs_err::read_to_string(path).map_err(|error| bad(error.to_string()))?);
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Err(bad("it is empty".into()));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

impl FromStr for Span {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        let span: jiff::SignedDuration = text.trim().parse()?;
        Ok(Self(Duration::try_from(span)?))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(span) => write!(f, "{span:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| {
            serde::de::Error::custom(format!(
                "`{text}` is not a length of time; write for example `30s` or `2h`: {error}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_entry_reads_and_refuses_unknown_keys() {
        let text = r#"
            kind = "smb"
            server = "10.77.4.2"
            share = "dump"
            user = "kuramori"
            password_file = "/etc/kuramori/oph.secret"
            [marker]
            pattern = "DUMP_OK_*"
            wait = "2h 30m"
        "#;
        let config: Config = toml::from_str(text).unwrap();
        let Config::Smb(smb) = &config else { panic!("{config:?}") };
        assert_eq!(smb.marker.as_ref().unwrap().wait, Span(Duration::from_mins(150)));
        assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
        assert!(toml::from_str::<Config>(&format!("{text}\nwiat = \"2h\"")).is_err());
        assert!(toml::from_str::<Config>(&text.replace("2h 30m", "90")).is_err());
        assert!(toml::from_str::<Config>(&text.replace("2h 30m", "-1h")).is_err());
    }

    #[test]
    fn what_stands_around_a_source_may_be_nested_and_is_looked_through() {
        let text = r#"
            kind = "gentle"
            limits = [{ from = "08:00", until = "18:00", rate = "2 MB" }]
            probe = { by = "tcp", address = "10.0.0.9:1433", bounds = { slow = "50ms" } }
            [source]
            kind = "around"
            name = "ward"
            source = { kind = "foreign", server = "10.0.0.9", product = "veeam" }
        "#;
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap();
        assert!(matches!(config.innermost(), Config::Foreign(foreign) if foreign.product == Product::Veeam));
        assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
        for (from, to) in [
            ("2 MB", "2 B"),
            ("\"around\"", "\"gentle\""),
            ("50ms", "5s"),
            ("10.0.0.9\", product", "\", product"),
        ] {
            let bad = text.replace(from, to);
            assert!(toml::from_str::<Config>(&bad).map_or(true, |config| config.check().is_err()), "{to}");
        }
    }

    #[test]
    fn a_folder_cannot_climb_out_of_the_share() {
        let text =
            "kind=\"smb\"\nserver=\"a\"\nshare=\"s\"\nuser=\"u\"\npassword_file=\"/p\"\nfolder=\"a/../..\"";
        assert!(toml::from_str::<Config>(text).unwrap().check().is_err());
        assert!(toml::from_str::<Config>(&text.replace("a/../..", "a/b")).unwrap().check().is_ok());
    }
}
