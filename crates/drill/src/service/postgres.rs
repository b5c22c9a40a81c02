//! PostgreSQL on a restored base backup: `pg_verifybackup` against the sums that the server itself recorded
//! while it was backed up, then the server on the data, then every row of every table, then the profile's
//! questions.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{Stage, questions};
use crate::{
    DrillError, Result,
    cell::{As, failed},
    moment::{self, Proven},
};

/// The user that the server runs as; it refuses root.
pub(super) const USER: &str = "postgres";
const PORT: &str = "5432";
/// The server's log in the stage's folder.
const LOG: &str = "postgres.log";
/// A drill's data is thrown away: nothing of it has to survive a power cut.
pub(super) const DRILL: &[(&str, &str)] = &[("fsync", "off")];

/// A running server.
#[derive(Debug)]
pub(super) struct Running<'a> {
    stage: &'a Stage<'a>,
    programs: PathBuf,
    superuser: String,
}

/// The restored cluster's programs; its data belongs to its service afterwards.
fn prepare(stage: &Stage<'_>) -> Result<PathBuf> {
    let version = fs_err::read_to_string(stage.data.join("PG_VERSION")).map_err(|_| DrillError::Program {
        program: "postgres".to_owned(),
        how: "has no cluster to start: `PG_VERSION` is missing in the restored data".to_owned(),
    })?;
    let programs = programs(version.trim())?;
    stage.cell.give(USER, stage.data)?;
    Ok(programs)
}

/// Starts the server on the restored data, without any judgement.
pub(super) fn open<'a>(stage: &'a Stage<'a>, superuser: &str) -> Result<Running<'a>> {
    let programs = prepare(stage)?;
    start(stage, programs, stage.data, superuser, DRILL)
}

/// Recovers for good: what is left is the cluster that people will use, so everything is made durable.
pub(super) fn recover(stage: &Stage<'_>, superuser: &str) -> Result<Proven> {
    let programs = prepare(stage)?;
    let running = start(stage, programs, stage.data, superuser, &[])?;
    let recovering = running.ask("postgres", "SELECT pg_is_in_recovery()")?;
    let timeline = running.ask("postgres", "SELECT timeline_id FROM pg_control_checkpoint()")?;
    let data = stage.data.display().to_string();
    stage.ask(As::User(USER), &running.program("pg_ctl"), &["stop", "-w", "-m", "fast", "-D", &data])?;
    let log = fs_err::read_to_string(stage.run.join(LOG)).unwrap_or_default();
    let line = |what: &str| {
        log.lines().find_map(|line| {
            line.split_once("LOG:  ").map(|(_, said)| said).filter(|said| said.contains(what))
        })
    };
    if recovering != "f" {
        let how = format!("did not end its recovery: {}", line("recovery").unwrap_or_default());
        return Err(DrillError::Program { program: "postgres".to_owned(), how });
    }
    Ok(Proven {
        stopped: line("recovery stopping")
            .or_else(|| line("redo done"))
            .unwrap_or("at the end of the log")
            .to_owned(),
        end: moment::end_of_recovery(stage.data).map_or_else(String::new, |end| end.to_string()),
        last_transaction: line("last completed transaction").map(str::to_owned),
        timeline,
    })
}

pub(super) fn bring_up(stage: &Stage<'_>, superuser: &str) -> Result<()> {
    let programs = prepare(stage)?;
    if stage.data.join("backup_manifest").exists() {
        let program = programs.join("pg_verifybackup");
        let output = stage.cell.run(
            As::User(USER),
            &program.display().to_string(),
            // The log beside it came later than the manifest; recovery judges it.
            &["-q", "--ignore", kuramori_model::wal::FOLDER, &stage.data.display().to_string()],
        )?;
        let answer = if output.status.success() {
            "OK".to_owned()
        } else {
            failed("pg_verifybackup", &output).to_string()
        };
        stage.note(
            "pg_verifybackup",
            "every file against the sums in backup_manifest",
            answer,
            output.status.success(),
        );
    } else {
        stage.note("pg_verifybackup", "backup_manifest", "there is none; the files' sums are unknown", true);
    }
    let running = start(stage, programs, stage.data, superuser, DRILL)?;
    let recovering = running.ask("postgres", "SELECT pg_is_in_recovery()")?;
    stage.probe("query", "SELECT pg_is_in_recovery()", &recovering, Some("f".to_owned()), recovering == "f");
    if let Some(wanted) = moment::wanted_end(stage.data) {
        let end = moment::end_of_recovery(stage.data).map_or_else(String::new, |end| end.to_string());
        let good = moment::reached(stage.data, &stage.run.join(LOG), wanted);
        stage.probe("log", "where recovery ended in the kept log", end, Some(wanted.to_string()), good);
    }
    running.read_everything()?;
    running.questions();
    Ok(())
}

/// Debian's programs of a major version.
pub(super) fn programs(version: &str) -> Result<PathBuf> {
    let folder = Path::new("/usr/lib/postgresql").join(version).join("bin");
    if folder.join("postgres").is_file() {
        return Ok(folder);
    }
    let how = format!("of version {version} is not installed here (Debian: postgresql-{version})");
    Err(DrillError::Program { program: "postgres".to_owned(), how })
}

/// Starts a server that speaks over a unix socket only, and waits until it answers.
pub(super) fn start<'a>(
    stage: &'a Stage<'a>,
    programs: PathBuf,
    data: &Path,
    superuser: &str,
    more: &[(&str, &str)],
) -> Result<Running<'a>> {
    let wrong = DrillError::file("prepare PostgreSQL");
    fs_err::set_permissions(data, std::fs::Permissions::from_mode(0o700)).map_err(&wrong)?;
    let (hba, log) = (stage.run.join("pg_hba.conf"), stage.run.join(LOG));
    // Nobody but us is in the cell, and the restored passwords are not ours to know.
    fs_err::write(&hba, "local all all trust\n").map_err(&wrong)?;
    let own = stage.run.join("postgresql.conf");
    // Debian keeps the configuration outside of the cluster, so a base backup may have none.
    let has_own = data.join("postgresql.conf").exists();
    if !has_own {
        fs_err::write(&own, "").map_err(&wrong)?;
    }
    stage.cell.give(USER, stage.run)?;
    let mut command = stage.cell.command(As::User(USER), &programs.join("postgres").display().to_string());
    command.arg("-D").arg(data).current_dir("/");
    let run = stage.run.display().to_string();
    for (name, value) in [
        ("hba_file", hba.display().to_string()),
        ("listen_addresses", String::new()),
        ("unix_socket_directories", run.clone()),
        ("port", PORT.to_owned()),
        ("ssl", "off".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("archive_mode", "off".to_owned()),
        ("shared_buffers", "64MB".to_owned()),
        ("huge_pages", "off".to_owned()),
        // Nobody asks before recovery has ended; and the original's numbers of connections need not be matched.
        ("hot_standby", "off".to_owned()),
        ("lc_messages", "C".to_owned()),
        ("log_min_messages", "log".to_owned()),
        ("log_line_prefix", String::new()),
        ("log_destination", "stderr".to_owned()),
    ] {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    for (name, value) in more {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    if !has_own {
        command.arg("-c").arg(format!("config_file={}", own.display()));
    }
    let mut child = stage.cell.start(command, "postgres", &log)?;
    let ready = programs.join("pg_isready").display().to_string();
    stage.wait("postgres", &mut child, &log, || {
        let output = stage.cell.run(As::User(USER), &ready, &["-q", "-h", &run, "-p", PORT])?;
        Ok(output.status.success())
    })?;
    Ok(Running { stage, programs, superuser: superuser.to_owned() })
}

impl Running<'_> {
    fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }

    /// Who and where, for every client program.
    pub(super) fn login(&self) -> [String; 6] {
        let run = self.stage.run.display().to_string();
        ["-h".to_owned(), run, "-p".to_owned(), PORT.to_owned(), "-U".to_owned(), self.superuser.clone()]
    }

    /// Runs one of PostgreSQL's client programs.
    pub(super) fn client(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let login = self.login();
        let all: Vec<&str> = login.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
        self.stage.ask(As::User(USER), &self.program(name), &all)
    }

    pub(super) fn ask(&self, database: &str, sql: &str) -> Result<String> {
        self.client("psql", &["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
    }

    /// Reads each row of each table once: `pg_dump` fails at the first page that cannot be read.
    pub(super) fn read_everything(&self) -> Result<()> {
        let databases = self.ask(
            "postgres",
            "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1",
        )?;
        for database in databases.lines() {
            let tables = self.ask(database, "SELECT count(*) FROM pg_stat_user_tables")?;
            let output = self.client("pg_dump", &["-d", database, "-f", "/dev/null"]);
            let (answer, good) = match output {
                Ok(_) => (format!("{tables} tables read"), true),
                Err(error) => (error.to_string(), false),
            };
            self.stage.note("read_everything", database, answer, good);
        }
        Ok(())
    }

    /// The profile's questions.
    pub(super) fn questions(&self) {
        questions(self.stage, &|database, sql| self.ask(database, sql));
    }

    /// One table with its content, as a dump.
    pub(super) fn dump_table(&self, database: &str, table: &str) -> Result<String> {
        self.client("pg_dump", &["-d", database, "-t", table])
    }
}
