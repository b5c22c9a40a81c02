//! Everything that ends a run, with the words and the code that tell people and programs apart.

use jiff::Timestamp;
use kuramori_model::{
    fault::{Exit, Fault, Kind},
    foreign::JobResult,
    tree::SinkError,
};

/// Why a source could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration makes no sense; nothing was contacted.
    #[error("the source's configuration is not usable: {0}")]
    Config(String),
    /// The password file is missing, empty or open to everybody.
    #[error("the password file `{path}` cannot be used: {why}")]
    PasswordFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody answers at the address.
    #[error("`{server}` cannot be reached: {why}")]
    Unreachable {
        /// Host and port.
        server: String,
        /// What the network said.
        why: String,
    },
    /// User or password is wrong.
    #[error("`{server}` refused the login of `{user}`: wrong user name or password")]
    WrongPassword {
        /// Host and port.
        server: String,
        /// The login.
        user: String,
    },
    /// The login is known but not allowed in: locked, expired, no rule for this host, no right.
    #[error("`{server}` refused the login of `{user}`: {why}")]
    LoginRefused {
        /// Host and port.
        server: String,
        /// The login.
        user: String,
        /// What the server said.
        why: String,
    },
    /// TLS could not be set up as configured.
    #[error("no secure connection to `{server}`: {why}")]
    Tls {
        /// Host and port.
        server: String,
        /// What failed.
        why: String,
    },
    /// The server has no such share.
    #[error("`{server}` has no share `{share}`")]
    ShareMissing {
        /// Host and port.
        server: String,
        /// The share.
        share: String,
    },
    /// The share has no such folder.
    #[error("there is no folder `{folder}` on `{server}`")]
    FolderMissing {
        /// Host and share.
        server: String,
        /// The folder.
        folder: String,
    },
    /// The read-only login may not look at the share or its root folder.
    #[error("`{user}` may not read `{what}` on `{server}`")]
    AccessDenied {
        /// Host and port.
        server: String,
        /// The login.
        user: String,
        /// Share or folder.
        what: String,
    },
    /// The server is another one than the register says.
    #[error("`{server}` is not the registered instance: {what} is `{found}`, expected `{expected}`")]
    WrongInstance {
        /// Host and port.
        server: String,
        /// Which mark of identity differs.
        what: &'static str,
        /// What the register says.
        expected: String,
        /// What the server says.
        found: String,
    },
    /// The vendor's marker did not appear in time.
    #[error("no marker file `{pattern}` in `{folder}` after waiting {waited} s: the dump is not finished")]
    MarkerMissing {
        /// The marker's pattern.
        pattern: String,
        /// Where it was looked for.
        folder: String,
        /// Seconds.
        waited: u64,
    },
    /// The marker is the one of an earlier dump.
    #[error("the marker `{name}` is of {time}, {why}: this is an earlier dump, tonight's is missing")]
    MarkerOld {
        /// The marker's name.
        name: String,
        /// Its modification time.
        time: Timestamp,
        /// Older than what.
        why: String,
    },
    /// The marker is there although the dump is still being written.
    #[error("the marker `{name}` came too early: `{file}` {why}")]
    MarkerEarly {
        /// The marker's name.
        name: String,
        /// The file that gives it away.
        file: String,
        /// How.
        why: String,
    },
    /// The marker names files that are not there, or not in their full size.
    #[error("the backup set is not whole: `{name}` names `{file}`, which {why}")]
    SetIncomplete {
        /// The marker's name.
        name: String,
        /// The file that it names.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The other product itself says that its job failed.
    #[error("{} reports a failed job: {}", .0.title(), .0.message)]
    ForeignFailed(Box<JobResult>),
    /// A program of this machine did not do its work.
    #[error("`{name}` did not do its work: {why}")]
    Command {
        /// The program or the declared name.
        name: String,
        /// Its status and its words.
        why: String,
    },
    /// The department could not bear it.
    #[error("stopped before `{server}` came to its limit: {why}")]
    Burden {
        /// Host and port.
        server: String,
        /// What was measured.
        why: String,
    },
    /// The declarations of commands cannot be used.
    #[error("the declarations in `{path}` cannot be used: {why}")]
    Declaration {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A stream ended without its end line.
    #[error("the output of `{name}` is cut: it does not end with `{end}`")]
    Truncated {
        /// The program or the declared name.
        name: String,
        /// What has to be the last line.
        end: String,
    },
    /// A result file that cannot be used.
    #[error("the result file `{name}` cannot be used: {why}")]
    BadResult {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A new dump began while this one was being read.
    #[error("the dump changed while it was read: {0}")]
    DumpChanged(String),
    /// The connection broke and could not be brought back.
    #[error("the connection to `{server}` was lost while reading `{what}`: {why}")]
    ConnectionLost {
        /// Host and port.
        server: String,
        /// What was being read.
        what: String,
        /// What the network or the server said last.
        why: String,
    },
    /// The server keeps the connection open and sends nothing.
    #[error("`{server}` has sent nothing for {seconds} s while reading `{what}`")]
    Stalled {
        /// Host and port.
        server: String,
        /// What was being read.
        what: String,
        /// Patience, in seconds.
        seconds: u64,
    },
    /// Somebody cancelled the run.
    #[error("reading `{0}` was cancelled")]
    Cancelled(String),
    /// The repository's side failed.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The server's version is not supported.
    #[error("`{server}` runs {found}; {needed} is needed")]
    Version {
        /// Host and port.
        server: String,
        /// What it runs.
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// The server reported an error of its own.
    #[error("`{server}` reported {code}: {message}")]
    Server {
        /// Host and port.
        server: String,
        /// SQLSTATE or NTSTATUS.
        code: String,
        /// The server's words.
        message: String,
    },
    /// The server found damage in the database while reading it.
    #[error("`{server}` found damaged data while reading: {message}")]
    DatabaseDamaged {
        /// Host and port.
        server: String,
        /// The server's words.
        message: String,
    },
    /// The backup's own list of content does not fit what was sent.
    #[error("the backup's manifest does not fit its content: {0}")]
    Manifest(String),
    /// The server broke its protocol.
    #[error("`{server}` broke the protocol: {why}")]
    Protocol {
        /// Host and port.
        server: String,
        /// How.
        why: String,
    },
    /// The folder in which write-ahead log waits cannot be used.
    #[error("the spool folder of the write-ahead log cannot be used")]
    Spool(#[source] std::io::Error),
    /// The machine could not start the reader's thread.
    #[error("the reader could not be started")]
    Start(#[source] std::io::Error),
}

impl Fault for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Config(_) => "source.config",
            Self::PasswordFile { .. } => "source.password-file",
            Self::Unreachable { .. } => "source.unreachable",
            Self::WrongPassword { .. } => "source.wrong-password",
            Self::LoginRefused { .. } => "source.login-refused",
            Self::Tls { .. } => "source.tls",
            Self::ShareMissing { .. } => "source.share-missing",
            Self::FolderMissing { .. } => "source.folder-missing",
            Self::AccessDenied { .. } => "source.access-denied",
            Self::WrongInstance { .. } => "source.wrong-instance",
            Self::MarkerMissing { .. } => "source.marker-missing",
            Self::MarkerOld { .. } => "source.marker-old",
            Self::MarkerEarly { .. } => "source.marker-early",
            Self::SetIncomplete { .. } => "source.set-incomplete",
            Self::ForeignFailed(_) => "source.foreign-failed",
            Self::BadResult { .. } => "source.bad-result",
            Self::Command { .. } => "source.command",
            Self::Burden { .. } => "source.burden",
            Self::Declaration { .. } => "source.declaration",
            Self::Truncated { .. } => "source.truncated",
            Self::DumpChanged(_) => "source.dump-changed",
            Self::ConnectionLost { .. } => "source.connection-lost",
            Self::Stalled { .. } => "source.stalled",
            Self::Cancelled(_) => "source.cancelled",
            Self::Sink(_) => "source.store",
            Self::Version { .. } => "source.version",
            Self::Server { .. } => "source.server",
            Self::DatabaseDamaged { .. } => "source.database-damaged",
            Self::Manifest(_) => "source.manifest",
            Self::Protocol { .. } => "source.protocol",
            Self::Spool(_) => "source.spool",
            Self::Start(_) => "source.start",
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Config(_)
            | Self::PasswordFile { .. }
            | Self::WrongPassword { .. }
            | Self::LoginRefused { .. }
            | Self::Tls { .. }
            | Self::ShareMissing { .. }
            | Self::FolderMissing { .. }
            | Self::AccessDenied { .. }
            | Self::WrongInstance { .. }
            | Self::Version { .. }
            | Self::BadResult { .. }
            | Self::Declaration { .. }
            | Self::Server { .. } => Kind::Fix,
            Self::DatabaseDamaged { .. } | Self::Manifest(_) => Kind::Damaged,
            Self::Unreachable { .. }
            | Self::MarkerMissing { .. }
            | Self::MarkerOld { .. }
            | Self::MarkerEarly { .. }
            | Self::SetIncomplete { .. }
            | Self::ForeignFailed(_)
            | Self::Command { .. }
            | Self::Burden { .. }
            | Self::Truncated { .. }
            | Self::DumpChanged(_)
            | Self::ConnectionLost { .. }
            | Self::Stalled { .. }
            | Self::Cancelled(_)
            | Self::Sink(_)
            | Self::Protocol { .. }
            | Self::Spool(_)
            | Self::Start(_) => Kind::Retry,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::PasswordFile { .. } => {
                "put the password alone into the file and let only the server's own user read it (mode 0600)".into()
            }
            Self::Unreachable { .. } => "check that the system runs and that the firewall lets this server in".into(),
            Self::WrongPassword { .. } => {
                "ask the system's vendor for the read-only account's password and put it into `password_file`".into()
            }
            Self::LoginRefused { .. } => {
                "for PostgreSQL the account needs REPLICATION and a `host replication` line in pg_hba.conf; for \
                 a share, check that the account is neither locked nor expired"
                    .into()
            }
            Self::Tls { .. } => "check `tls.ca_file` and that `tls.server_name` is in the server's certificate".into(),
            Self::ShareMissing { .. } | Self::FolderMissing { .. } => {
                "compare `share` and `folder` with what the vendor set up".into()
            }
            Self::AccessDenied { .. } => "give the account the right to read this share and folder".into(),
            Self::WrongInstance { .. } => {
                "if the system was moved or rebuilt on purpose, change `expect`; otherwise the address points to \
                 another machine"
                    .into()
            }
            Self::MarkerMissing { .. } | Self::MarkerOld { .. } => {
                "ask the vendor why the nightly dump did not finish; the previous restore point stays the newest".into()
            }
            Self::SetIncomplete { .. } => {
                "see in the product whether the job or a merge still runs, and whether somebody removed files".into()
            }
            Self::ForeignFailed(_) => "open the job in the product's own console; our last restore point stays".into(),
            Self::Command { .. } | Self::Truncated { .. } => {
                "run it by hand as the server's user and read what it says".into()
            }
            Self::Burden { .. } => {
                "run it at a quieter hour; what was stored already is not read into the store again".into()
            }
            Self::Declaration { .. } => {
                "the file has to belong to root, be writable by nobody else, and name the command (docs/sources.md)".into()
            }
            Self::BadResult { .. } => "compare it with packaging/scripts and docs/sources.md".into(),
            Self::MarkerEarly { .. } | Self::DumpChanged(_) => {
                "let the vendor write the marker last, or move this job to a later hour".into()
            }
            Self::ConnectionLost { .. } | Self::Stalled { .. } => {
                "see whether the server restarted or is overloaded; the job may be run again".into()
            }
            Self::DatabaseDamaged { .. } => {
                "call the database's vendor: keep every older restore point until it is settled".into()
            }
            Self::Server { code, .. } if code == "58P01" => {
                "the server threw away write-ahead log that the backup needs: leave `hold_wal` on or raise \
                 wal_keep_size"
                    .into()
            }
            Self::Server { code, .. } if code == "55006" => {
                "another connection still uses the slot: wait for it to end, or give each server a slot of its own".into()
            }
            Self::Spool(_) => {
                "make room, or let the server's own user write there; until then the database keeps its log".into()
            }
            Self::Server { code, .. } if code == "53400" => {
                "no free replication slot: raise max_replication_slots or set `hold_wal = false`".into()
            }
            _ => return None,
        })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::WrongPassword { .. } | Self::LoginRefused { .. } => Exit::Authentication,
            Self::Cancelled(_) => Exit::Interrupted,
            _ => match self.kind() {
                Kind::Damaged => Exit::Damaged,
                Kind::Refused => Exit::Refused,
                Kind::Bug => Exit::Unexpected,
                Kind::Retry | Kind::Fix => Exit::Fix,
            },
        }
    }
}
