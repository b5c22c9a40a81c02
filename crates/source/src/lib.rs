//! Readers of departmental systems: agentless, with a read-only login, and gently.
//!
//! **In** flows one [`Config`] (from the register), the facts of the previous run and a [`Control`] (clock,
//! cancellation, rate limit, patience). **Out** flow the items of one system, one after the other, into a
//! [`Sink`](kuramori_model::tree::Sink), and then a [`Report`] of what a judge needs later: how much, how
//! new, from which server, under which promise of consistency.
//!
//! Kinds so far:
//! - [`smb`]: a vendor's nightly dump folder on a Windows or Samba share. The vendor's marker file says
//!   when the dump is whole.
//! - [`postgres`]: a physical base backup of a running PostgreSQL server by its replication protocol,
//!   unpacked on the fly into a plain data directory that `pg_verifybackup` accepts.
//! - [`sftp`]: a folder on any SFTP server, inside Debian's own `ssh` client, by the same marker rule.
//! - [`mariadb`]: a consistent logical dump of a running MariaDB or MySQL server by Debian's own client.
//! - [`dicom`]: a picture archive of any maker, study by study in bundles, while it goes on working.
//! - [`command`]: the output of a command that this machine's administrator declared; commands before and
//!   after another source.
//! - [`gentle`]: around another source: limits by time of day, and backing off by the department's own answers.
//! - [`remote`]: what an agent reads on the departmental server itself.
//! - [`foreign`]: another backup product's folder once its set is whole, or only what its result file says.
//!   What it says in words is understood by [`said`] and [`mail`].
//!
//! **What can go wrong.** An item cannot be read (in use, denied, changed under our eyes): it is tried
//! again, then told to the sink as a fault and listed in the report; the run goes on. The dump as a whole
//! is not fit (no marker, yesterday's marker, still growing), the server is not the one that is registered,
//! goes away, or hangs: the run ends with an [`Error`], and whatever the sink already holds must not become
//! a restore point.
//!
//! **Invariant:** `read` returns `Ok` only after the source itself said that it gave everything, and what it
//! gave did not change meanwhile; a cut connection is never a shorter backup. Nothing here writes to a
//! department or to a repository.

mod child;
pub mod command;
pub mod config;
pub mod control;
pub mod dicom;
pub mod error;
pub mod foreign;
pub mod gentle;
pub mod mail;
pub mod mariadb;
pub mod postgres;
pub mod remote;
pub mod report;
pub mod said;
mod set;
pub mod sftp;
pub mod smb;
mod socket;
pub mod syslog;
mod when;

pub use config::Config;
pub use control::{Bucket, Cancel, Control, Pace, Phase, Progress};
pub use error::Error;
pub use report::Report;

use kuramori_model::tree::Sink;

/// What a source is, without touching it: for lists, plans and logs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Description {
    /// `smb`, `postgres`, `sftp`, `mariadb`, `dicom`, `command`, `foreign`.
    pub kind: &'static str,
    /// Host and port.
    pub server: String,
    /// What is read there: `//server/share/folder`, `postgresql://user@host:port`.
    pub address: String,
    /// What the restore point will be able to promise, before anything was read.
    pub consistency: report::Statement,
}

/// One departmental system that can be read.
pub trait Source: std::fmt::Debug + Send {
    /// What this source is.
    fn describe(&self) -> Description;

    /// Reads everything into `sink`, blocking until done.
    ///
    /// # Errors
    /// See [`Error`]. After an error the sink's content must be thrown away.
    fn read(&self, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error>;
}

/// Makes the source that a configuration describes. Reads nothing yet.
pub fn open(config: &Config) -> Result<Box<dyn Source>, Error> {
    open_with(config, remote::no_files)
}

/// As [`open`], for an agent, which may also read the files that its own file declares.
pub fn open_with(config: &Config, files: remote::Files) -> Result<Box<dyn Source>, Error> {
    config.check()?;
    Ok(match config {
        Config::Files(config) => files(config)?,
        Config::Agent(config) => Box::new(remote::AgentSource::new(config.clone())),
        Config::Smb(config) => Box::new(smb::SmbSource::new(config.clone())),
        Config::Postgres(config) => Box::new(postgres::PostgresSource::new(config.clone())),
        Config::Sftp(config) => Box::new(sftp::SftpSource::new(config.clone())),
        Config::Dicom(config) => Box::new(dicom::DicomSource::new(config.clone())),
        Config::Mariadb(config) => Box::new(mariadb::MariadbSource::new(config.clone())),
        Config::Command(config) => Box::new(command::CommandSource::new(config.clone())),
        Config::Gentle(config) => Box::new(gentle::GentleSource::with_files(config.clone(), files)),
        Config::Around(config) => Box::new(command::AroundSource::with_files(config.clone(), files)),
        Config::Foreign(config) => Box::new(foreign::ForeignSource::new(config.clone())),
    })
}
