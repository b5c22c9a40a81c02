//! Copies a running PostgreSQL cluster by its replication protocol: no agent, one account with the
//! REPLICATION attribute, no file system access.
//!
//! The story of a run: log in over a [`line`] (TLS where configured); [`session`] answers the server's
//! password question; make sure that it is the registered cluster; ask for `BASE_BACKUP` with the
//! write-ahead log that makes it consistent and with a manifest ([`backup`]); unpack each tar archive on
//! the fly into the sink ([`archive`]); compare the manifest with what came ([`manifest`]); and believe it
//! only when the server has sent its end position and is ready for the next command.
//!
//! Where the register says so, the log that follows is kept as well, without a hole: [`wal`].
//!
//! Formats: PostgreSQL documentation, chapters "Frontend/Backend Protocol", "Streaming Replication
//! Protocol", "Backup Manifest Format".
//!
//! **Invariant:** a stream that ends early is an error; nothing of the database is staged on our disk, and
//! memory does not grow with its size.

mod archive;
mod backup;
mod copy;
mod line;
mod manifest;
mod session;
pub mod wal;

use kuramori_model::tree::Sink;

use crate::{
    Control, Description, Error, Phase, Progress, Report, Source,
    config::PostgresConfig,
    report::{Origin, Statement, WalOrigin},
};

/// A PostgreSQL server of version 13 or later.
#[derive(Debug)]
pub struct PostgresSource {
    config: PostgresConfig,
}

impl PostgresSource {
    /// Contacts nobody yet.
    pub fn new(config: PostgresConfig) -> Self {
        Self { config }
    }
}

/// What a point with log promises.
fn reach(wal: &WalOrigin) -> Statement {
    // Right after a base backup there may be nothing between the two yet.
    let (from, until) = (wal.earliest, wal.latest.max(wal.earliest));
    Statement {
        ja: format!(
            "稼働中の PostgreSQL の物理ベースバックアップと、その後の WAL。{from} から {until} までの任意の時刻に復旧できる(時刻はサーバーの時計)。"
        ),
        en: format!(
            "A physical base backup of the running PostgreSQL cluster and the write-ahead log since: recovers to any \
             time from {from} until {until} by the server's clock."
        ),
    }
}

fn consistency() -> Statement {
    Statement {
        ja: "稼働中の PostgreSQL の物理ベースバックアップ。必要な WAL を含み、終了時点の状態に一貫して復旧できる。マニフェスト照合済み。".into(),
        en: "A physical base backup of the running PostgreSQL cluster with the write-ahead log it needs: it recovers to \
             the consistent state at its end. Compared with its manifest."
            .into(),
    }
}

impl Source for PostgresSource {
    fn describe(&self) -> Description {
        let c = &self.config;
        Description {
            kind: "postgres",
            server: format!("{}:{}", c.server, c.port),
            address: format!("postgresql://{}@{}:{}", c.user, c.server, c.port),
            consistency: consistency(),
        }
    }

    fn read(&self, sink: &mut dyn Sink, control: &Control) -> Result<Report, Error> {
        let (begun, started) = (control.clock.now(), control.clock.boot());
        (control.progress)(&Progress { phase: Phase::Connecting, items: 0, bytes: 0, total: None, path: "" });
        if let Some(wal) = &self.config.wal {
            let (origin, tally) = wal::point::read(&self.config, wal, sink, control)?;
            return Ok(Report {
                items: tally.items,
                files: tally.files,
                bytes: tally.bytes,
                kept: tally.kept,
                newest: origin.wal.as_ref().map(|wal| wal.latest),
                begun,
                seconds: control.clock.boot().saturating_sub(started).as_secs_f64(),
                waited_seconds: 0.0,
                fault_count: 0,
                felt: None,
                faults: Vec::new(),
                reconnects: 0,
                consistency: origin.wal.as_ref().map_or_else(consistency, reach),
                origin: Origin::Postgres(origin),
            });
        }
        let mut session = session::Session::login(&self.config, control)?;
        let backup = backup::Backup::new(&self.config, control);
        let (origin, tally) = backup.run(&mut session, sink)?;
        session.bye();
        Ok(Report {
            items: tally.items,
            files: tally.files,
            bytes: tally.bytes,
            kept: 0,
            newest: tally.newest,
            begun,
            seconds: control.clock.boot().saturating_sub(started).as_secs_f64(),
            waited_seconds: 0.0,
            fault_count: 0,
            felt: None,
            faults: Vec::new(),
            reconnects: 0,
            consistency: consistency(),
            origin: Origin::Postgres(origin),
        })
    }
}
