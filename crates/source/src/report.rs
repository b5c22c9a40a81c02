//! What a finished run knows, for the judge and for the evidence. Stored as JSON beside the restore point.

use jiff::Timestamp;
use kuramori_model::foreign::JobResult;
use serde::{Deserialize, Serialize};

/// The same sentence for Japanese and English readers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// 日本語.
    pub ja: String,
    /// English.
    pub en: String,
}

/// The outcome of one complete run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Items handed to the sink, folders included, faults not.
    pub items: u64,
    /// Files among them.
    pub files: u64,
    /// Bytes of content, kept files included.
    pub bytes: u64,
    /// Files whose content was taken over unread from the previous restore point.
    pub kept: u64,
    /// Newest modification time among the files; by the source's clock.
    pub newest: Option<Timestamp>,
    /// When reading began, by our wall clock.
    pub begun: Timestamp,
    /// Seconds from begin to end on the boot clock, waiting for a marker included.
    pub seconds: f64,
    /// Seconds of these spent waiting for the marker and looking whether the dump is whole.
    pub waited_seconds: f64,
    /// Items that could not be read: the restore point is incomplete unless this is 0.
    pub fault_count: u64,
    /// The first of them, at most [`LISTED`].
    pub faults: Vec<ItemFault>,
    /// Connections that had to be brought back.
    pub reconnects: u32,
    /// What the restore point can promise.
    pub consistency: Statement,
    /// Which server this came from.
    pub origin: Origin,
    /// How much the department felt; none if nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub felt: Option<Felt>,
}

/// How long the department's own service took to answer, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Felt {
    /// What was asked.
    pub probe: String,
    /// The median before the run.
    pub before_p50_ms: f64,
    /// 99 of 100 before the run.
    pub before_p99_ms: f64,
    /// The median during the run.
    pub during_p50_ms: f64,
    /// 99 of 100 during the run.
    pub during_p99_ms: f64,
    /// Questions during the run.
    pub asked: u64,
    /// Questions that were not answered.
    pub unanswered: u64,
    /// Seconds in which we slowed down for it.
    pub slowed_s: u64,
}

/// How many faults a report lists by name.
pub const LISTED: usize = 100;

/// An item that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemFault {
    /// Its path in the tree.
    pub path: String,
    /// Why.
    pub why: String,
}

/// Where a restore point came from, with the marks by which the same server is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Origin {
    /// A share.
    Smb(SmbOrigin),
    /// A PostgreSQL cluster.
    Postgres(PostgresOrigin),
    /// Another product's folder or result.
    Foreign(ForeignOrigin),
    /// A folder on an SFTP server.
    Sftp(SftpOrigin),
    /// A MariaDB or MySQL server.
    Mariadb(MariadbOrigin),
    /// A picture archive.
    Dicom(DicomOrigin),
    /// A declared command.
    Command(CommandOrigin),
    /// Files of an agent's machine.
    Files(FilesOrigin),
}

/// Facts about files of an agent's machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesOrigin {
    /// The machine's own id (`/etc/machine-id`, hashed), by which it is known again.
    pub machine: String,
    /// What was read.
    pub paths: Vec<String>,
    /// Where a snapshot was read instead, if one was.
    pub snapshot: Option<String>,
    /// Files that changed while they were read.
    pub restless: u64,
}

/// Facts about an SFTP server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SftpOrigin {
    /// Host and port.
    pub server: String,
    /// Folder.
    pub folder: String,
    /// The host key that was registered and proven.
    pub host_key: String,
    /// The marker that vouched for the dump.
    pub marker: Option<MarkerSeen>,
}

/// Facts about a MariaDB server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MariadbOrigin {
    /// Host and port.
    pub server: String,
    /// `@@version`.
    pub version: String,
    /// Name, number and data folder.
    pub identity: String,
    /// Databases that are not the server's own.
    pub databases: u64,
    /// Tables in them.
    pub tables: u64,
    /// Their size as the server estimates it, in bytes.
    pub database_bytes: u64,
    /// Tables (and engines) between which nothing is promised; the first fifty.
    pub without_transactions: Vec<String>,
    /// What the client said beside the dump.
    pub words: String,
    /// What the binary log beside the dump reaches, if it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binlog: Option<BinlogOrigin>,
}

/// What can be reached with the binary log of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinlogOrigin {
    /// The earliest time, by the server's clock.
    pub earliest: Timestamp,
    /// The latest time, by the server's clock.
    pub latest: Timestamp,
    /// The end of the log.
    pub end: String,
    /// Files of the log in the restore point.
    pub files: u64,
    /// Why the log before the dump does not go on in this one.
    pub lost: Option<String>,
}

/// Facts about a picture archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DicomOrigin {
    /// Host and port.
    pub server: String,
    /// The archive's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Studies in the restore point.
    pub studies: u64,
    /// Instances in them.
    pub instances: u64,
    /// Number of the archive's last change before the run.
    pub changes_before: u64,
    /// And after it: what came in between may be missing and comes with the next run.
    pub changes_after: u64,
    /// Instances that are not what the archive had under their UID before. Both are in the restore point.
    #[serde(default)]
    pub replaced_count: u64,
    /// The first of them, at most [`LISTED`].
    #[serde(default)]
    pub replaced: Vec<Replaced>,
}

/// A picture that was changed under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// Study Instance UID.
    pub study: String,
    /// SOP Instance UID.
    pub sop: String,
    /// SHA-256 of what the archive had before.
    pub was: String,
    /// And of what it has now.
    pub now: String,
}

/// Facts about a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandOrigin {
    /// Whose data it is.
    pub server: String,
    /// Which entry of the declarations.
    pub name: String,
    /// What it said beside its output.
    pub words: String,
}

/// Facts about another product's backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignOrigin {
    /// `veeam`, `arcserve`, `windows-server-backup`, `other`.
    pub product: String,
    /// The share that was read.
    pub share: SmbOrigin,
    /// What the product's result file said, if there is one.
    pub result: Option<JobResult>,
    /// Whether the folder itself was read: only then is there something to restore.
    pub pulled: bool,
}

/// Facts about a share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmbOrigin {
    /// Host and port.
    pub server: String,
    /// Share.
    pub share: String,
    /// Folder in the share.
    pub folder: String,
    /// The server's GUID.
    pub server_guid: String,
    /// The volume's serial number, eight hexadecimal digits.
    pub volume_serial: String,
    /// The volume's label.
    pub volume_label: String,
    /// Dialect, e.g. `SMB 3.1.1`.
    pub dialect: String,
    /// Whether the connection was encrypted (it is always signed unless the server cannot).
    pub encrypted: bool,
    /// The marker that vouched for the dump.
    pub marker: Option<MarkerSeen>,
}

/// The vendor's marker as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkerSeen {
    /// Its name.
    pub name: String,
    /// Its modification time, by the file server's clock.
    pub time: Timestamp,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of its content in hexadecimal.
    pub sha256: String,
    /// How many files it named, all of which were there; none if it names none that can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<u64>,
}

/// Facts about a PostgreSQL cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresOrigin {
    /// Host and port.
    pub server: String,
    /// The cluster's system identifier.
    pub system_identifier: String,
    /// Timeline at the start.
    pub timeline: u32,
    /// Timeline at the end; another one than at the start only on a standby that was promoted.
    pub timeline_end: u32,
    /// Where the backup starts in the write-ahead log.
    pub lsn_start: String,
    /// The backup is consistent from here on.
    pub lsn_end: String,
    /// `server_version` as the server says it.
    pub version: String,
    /// Size of all tablespaces as the server estimated it, in bytes.
    pub database_bytes: u64,
    /// Whether the cluster has page checksums; with them the server checked each page while sending it.
    pub data_checksums: bool,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// Files that the manifest lists, all of which were received.
    pub manifest_files: u64,
    /// SHA-256 of the manifest, as the manifest itself states and we recomputed.
    pub manifest_sha256: String,
    /// Settings that a server needs on the command line for its first start on the restored tree.
    pub start_options: Vec<String>,
    /// Whether the connection was encrypted.
    pub encrypted: bool,
    /// What the log beside the base backup reaches, if log is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<WalOrigin>,
}

/// What can be reached with the log of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalOrigin {
    /// Whether this run took the base backup.
    pub base_taken: bool,
    /// The earliest time, by the server's clock.
    pub earliest: Timestamp,
    /// The latest time, by the server's clock.
    pub latest: Timestamp,
    /// The end of the log.
    pub lsn: String,
    /// Its timeline.
    pub timeline: u32,
    /// Segments in the restore point.
    pub segments: u64,
    /// Holes on record.
    pub gaps: u64,
}

/// A tablespace outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its number; the restored content is in `pg_tblspc/<oid>`.
    pub oid: u32,
    /// Where it lay on the source.
    pub path: String,
}
