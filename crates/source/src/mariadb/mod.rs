//! Dumps a running MariaDB or MySQL server over the network with Debian's own client: no agent, one account
//! that can read.
//!
//! The story of a run: ask the server who it is, how much it holds and which tables cannot be dumped
//! consistently (engines without transactions); have `mariadb-dump --single-transaction` write everything as
//! one stream, which becomes the file `dump.sql`; believe it only when the client ended with status 0 *and*
//! the stream ends with the client's own trailer. A server that is shut down, a connection that is cut or a
//! killed client therefore never makes a restore point.
//!
//! The dump carries no date, so that two nights with the same content are the same bytes.
//!
//! **Invariant:** nothing is locked for writers of transactional tables, and the password is in no argument
//! and no environment: it goes by a file that only we can read.

mod binlog;

use std::{fmt::Write as _, io::Write as _, os::unix::fs::OpenOptionsExt, time::Duration};

use kuramori_model::tree::Sink;
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::{
    Control, Description, Error, Phase, Progress, Report, Source,
    child::Program,
    command::Stream,
    config::MariadbConfig,
    report::{MariadbOrigin, Origin, Statement},
};

/// What the client writes last (`--skip-dump-date`).
const TRAILER: &str = "-- Dump completed";
/// The file in the tree.
pub const FILE: &str = "dump.sql";
/// How long a question may take.
const QUESTION: Duration = Duration::from_mins(2);
/// Tables without transactions that are listed by name.
const LISTED: usize = 50;

/// Databases that belong to the server itself.
const OWN: &str = "('information_schema','performance_schema','sys','mysql')";

/// A MariaDB or MySQL server.
#[derive(Debug)]
pub struct MariadbSource {
    config: MariadbConfig,
}

impl MariadbSource {
    /// Contacts nobody yet.
    pub fn new(config: MariadbConfig) -> Self {
        Self { config }
    }

    /// A folder with the client's option file.
    fn options(&self) -> Result<TempDir, Error> {
        let c = &self.config;
        let password = crate::config::password(&c.password_file)?;
        let quoted = Zeroizing::new(password.replace('\\', "\\\\").replace('"', "\\\""));
        let folder = TempDir::with_prefix("kuramori-mariadb-").map_err(Error::Start)?;
        let mut text = Zeroizing::new(format!(
            "[client]\nhost=\"{}\"\nport={}\nuser=\"{}\"\npassword=\"{}\"\nprotocol=tcp\n",
            c.server,
            c.port,
            c.user,
            quoted.as_str()
        ));
        if let Some(tls) = &c.tls {
            let _ = write!(text, "ssl\nssl-ca=\"{}\"\nssl-verify-server-cert\n", tls.ca_file.display());
        }
        // The dump client does not know this one.
        let _ = write!(text, "[mariadb]\nconnect-timeout={}\n", c.connect_within.0.as_secs().max(1));
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.path().join("client.cnf"))
            .map_err(Error::Start)?;
        file.write_all(text.as_bytes()).map_err(Error::Start)?;
        Ok(folder)
    }

    fn program(name: &str, options: &TempDir, more: &[&str]) -> Program {
        let file = format!("--defaults-file={}", options.path().join("client.cnf").display());
        Program::new([name, &file].into_iter().chain(more.iter().copied()))
    }

    fn ask(&self, options: &TempDir, control: &Control, question: &str) -> Result<Vec<Vec<String>>, Error> {
        let arguments = ["--batch", "--skip-column-names", "--execute", question];
        let text = Self::program("mariadb", options, &arguments)
            .text(control, QUESTION, 4 << 20)
            .map_err(|error| self.said(error))?;
        Ok(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// The client's words as an error that names what is wrong.
    fn said(&self, error: Error) -> Error {
        let Error::Command { why, .. } = &error else { return error };
        let (server, user) = (self.server(), self.config.user.clone());
        let has = |text: &str| why.contains(text);
        // Error numbers of the server and the client library.
        if has("ERROR 1045") || has("error: 1045") {
            Error::WrongPassword { server, user }
        } else if has("ERROR 2002")
            || has("ERROR 2003")
            || has("ERROR 2005")
            || has("error: 2002")
            || has("error: 2003")
        {
            Error::Unreachable { server, why: why.clone() }
        } else if has("ERROR 2026") || has("error: 2026") {
            Error::Tls { server, why: why.clone() }
        } else if has("ERROR 1130") || has("1698") {
            Error::LoginRefused { server, user, why: why.clone() }
        } else if has("1044") || has("1142") || has("1227") || has("1370") {
            Error::AccessDenied { server, user, what: why.clone() }
        } else if has("2013") || has("2006") || has("1927") || has("1053") {
            Error::ConnectionLost { server, what: FILE.into(), why: why.clone() }
        } else {
            Error::Server { server, code: "client".into(), message: why.clone() }
        }
    }

    fn server(&self) -> String {
        format!("{}:{}", self.config.server, self.config.port)
    }

    fn consistency(weak: usize) -> Statement {
        let mut statement = Statement {
            ja: "論理ダンプ。トランザクション対応の表(InnoDB)はダンプ開始時点の一貫した内容。クライアントの終了コードと末尾行で完了を確認済み。"
                .into(),
            en: "A logical dump: tables with transactions (InnoDB) as they were when the dump began. The client's exit \
                 status and its last line say that it is whole."
                .into(),
        };
        if weak > 0 {
            let _ = write!(
                statement.ja,
                "トランザクション非対応の表が{weak}個あり、それらの間の整合性は保証されない。"
            );
            let _ = write!(
                statement.en,
                " {weak} tables have no transactions: nothing is promised between these."
            );
        }
        statement
    }
}

impl Source for MariadbSource {
    fn describe(&self) -> Description {
        let c = &self.config;
        Description {
            kind: "mariadb",
            server: self.server(),
            address: format!("mariadb://{}@{}:{}", c.user, c.server, c.port),
            consistency: Self::consistency(0),
        }
    }

    fn read(&self, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
        (control.progress)(&Progress { phase: Phase::Connecting, items: 0, bytes: 0, total: None, path: "" });
        let options = self.options()?;
        let first = |rows: Vec<Vec<String>>| rows.into_iter().next().unwrap_or_default();
        let about =
            first(self.ask(&options, control, "SELECT @@version, @@hostname, @@server_id, @@datadir")?);
        let cell = |n: usize| about.get(n).cloned().unwrap_or_default();
        let identity = format!("{}/{}/{}", cell(1), cell(2), cell(3));
        if let Some(expected) = &self.config.expect.identity
            && *expected != identity
        {
            return Err(Error::WrongInstance {
                server: self.server(),
                what: "the server's name, number and data folder",
                expected: expected.clone(),
                found: identity,
            });
        }
        let sizes = first(self.ask(
            &options,
            control,
            &format!(
                "SELECT COUNT(DISTINCT table_schema), COUNT(*), COALESCE(SUM(data_length + index_length), 0) \
                 FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND table_schema NOT IN {OWN}"
            ),
        )?);
        let number = |n: usize| sizes.get(n).and_then(|text| text.parse().ok()).unwrap_or(0);
        let weak = self.ask(
            &options,
            control,
            &format!(
                "SELECT CONCAT(table_schema, '.', table_name), engine FROM information_schema.tables \
                 WHERE table_type = 'BASE TABLE' AND table_schema NOT IN {OWN} \
                 AND COALESCE(engine, '') NOT IN ('InnoDB', 'ROCKSDB', 'SEQUENCE')"
            ),
        )?;
        let mut origin = MariadbOrigin {
            server: self.server(),
            version: cell(0),
            identity,
            databases: number(0),
            tables: number(1),
            database_bytes: number(2),
            without_transactions: weak.iter().take(LISTED).map(|row| row.join(" ")).collect(),
            words: String::new(),
            binlog: None,
        };
        if let Some(log) = &self.config.binlog {
            return self.read_log(log, &options, origin, weak.len(), sink, control);
        }
        let mut report = self.dump(&options, self.config.binlog_position, sink, control)?;
        report.consistency = Self::consistency(weak.len());
        if let Origin::Mariadb(dump) = &report.origin {
            origin.words.clone_from(&dump.words);
        }
        report.origin = Origin::Mariadb(origin);
        Ok(report)
    }
}

impl MariadbSource {
    /// The dump itself; its report's origin holds only the client's words.
    fn dump(
        &self,
        options: &TempDir,
        position: bool,
        sink: &mut dyn Sink,
        control: &Control,
    ) -> Result<Report, Error> {
        let mut arguments = vec![
            "--single-transaction",
            "--quick",
            "--routines",
            "--events",
            "--triggers",
            "--hex-blob",
            "--skip-dump-date",
            "--default-character-set=utf8mb4",
            "--max-allowed-packet=1G",
            "--tz-utc",
        ];
        if position {
            arguments.push("--master-data=2");
        }
        let databases: Vec<&str> = self.config.databases.iter().map(String::as_str).collect();
        if databases.is_empty() {
            arguments.push("--all-databases");
        } else {
            arguments.push("--databases");
            arguments.extend(&databases);
        }
        let running = Self::program("mariadb-dump", options, &arguments).start(control, None)?;
        let stream = Stream { name: "mariadb-dump", file: FILE, end: Some(TRAILER) };
        let (mut report, words) = stream.take(running, sink, control).map_err(|error| self.said(error))?;
        if !words.trim().is_empty() {
            tracing::warn!(server = self.server(), "mariadb-dump said: {}", words.trim());
        }
        let words = words.chars().take(2000).collect();
        report.origin = Origin::Mariadb(MariadbOrigin { words, ..MariadbOrigin::default() });
        Ok(report)
    }
}
