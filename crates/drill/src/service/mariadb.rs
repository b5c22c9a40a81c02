//! A dump of MariaDB or MySQL, loaded into an empty server in the cell, the binary log behind it played where
//! there is one, every table checked, then the profile's questions.

use std::{
    path::{Path, PathBuf},
    process::Child,
};

use jiff::{Timestamp, tz::TimeZone};
use kuramori_model::binlog::{FOLDER, INDEX, Index, Place, number};

use super::{Stage, dump::newest, questions};
use crate::{
    DrillError, Result,
    binlog::Second,
    cell::{As, failed, program},
    moment::Proven,
};

pub(super) const USER: &str = "mysql";
/// What the client writes last.
const TRAILER: &[u8] = b"-- Dump completed";
/// Plays the log's files through the client; the first is begun at the dump's place. Every part has to end well.
const PLAY: &str = "set -o pipefail; client=$1 socket=$2 log=$3; shift 3; \
    \"$log\" --no-defaults \"$@\" | \"$client\" --no-defaults --user=root \"$socket\" --binary-mode --max-allowed-packet=1G";

/// A server that was empty when it started.
struct Running<'a> {
    stage: &'a Stage<'a>,
    client: String,
    socket: String,
    child: Child,
}

fn named(name: &str) -> Result<String> {
    program(name).map(|path| path.display().to_string()).ok_or_else(|| DrillError::Program {
        program: name.to_owned(),
        how: "is not installed here (Debian: mariadb-server)".to_owned(),
    })
}

impl<'a> Running<'a> {
    /// In the zone that the source ran in, where the index says it.
    fn make(stage: &'a Stage<'a>, utc_offset: Option<i32>) -> Result<Self> {
        let install = named("mariadb-install-db")?;
        stage.cell.give(USER, stage.data)?;
        stage.cell.give(USER, stage.run)?;
        let cluster = format!("--datadir={}", stage.run.join("cluster").display());
        let output = stage
            .cell
            .command(As::User(USER), &install)
            // A server that starts removes what others left in a shared folder, and what they need.
            .env("TMPDIR", stage.run)
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", &cluster])
            .output()
            .map_err(DrillError::file("make an empty server"))?;
        if !output.status.success() {
            return Err(failed(&install, &output));
        }
        Self::start(stage, utc_offset, &[])
    }

    fn start(stage: &'a Stage<'a>, utc_offset: Option<i32>, more: &[&str]) -> Result<Self> {
        let (server, client) = (named("mariadbd")?, named("mariadb")?);
        let socket = format!("--socket={}", stage.run.join("mariadb.sock").display());
        let log = stage.run.join("mariadb.log");
        let mut command = stage.cell.command(As::User(USER), &server);
        command
            .args(["--no-defaults", "--skip-networking", "--innodb-buffer-pool-size=64M", "--skip-log-bin"])
            .arg(format!("--datadir={}", stage.run.join("cluster").display()))
            .arg(&socket)
            .arg(format!("--pid-file={}", stage.run.join("mariadb.pid").display()))
            .args(more)
            .env("TMPDIR", stage.run)
            .current_dir("/");
        if let Some(ahead) = utc_offset {
            command.env("TZ", zone(ahead));
        }
        let child = stage.cell.start(command, "mariadbd", &log)?;
        let mut running = Self { stage, client, socket, child };
        running.wait(&log)?;
        Ok(running)
    }

    fn wait(&mut self, log: &Path) -> Result<()> {
        let (stage, client, socket) = (self.stage, self.client.clone(), self.socket.clone());
        stage.wait("mariadbd", &mut self.child, log, || {
            Ok(stage
                .ask(As::User(USER), &client, &["--no-defaults", "--user=root", &socket, "-e", "SELECT 1"])
                .is_ok())
        })
    }

    fn ask(&self, database: &str, sql: &str) -> Result<String> {
        let words = ["--no-defaults", "--user=root", &self.socket, "--batch", "--skip-column-names"];
        let more = ["--database", database, "-e", sql];
        let answer = self.stage.ask(As::User(USER), &self.client, &[&words[..], &more].concat())?;
        Ok(answer.replace('\t', "|"))
    }

    fn load(&self, file: &Path) -> Result<()> {
        let dump = fs_err::File::open(file).map_err(DrillError::file("read the dump"))?.into_parts().0;
        let output = self
            .stage
            .cell
            .command(As::User(USER), &self.client)
            .args(["--no-defaults", "--user=root", &self.socket])
            .args(["--max-allowed-packet=1G", "--database", "mysql"])
            .stdin(dump)
            .output()
            .map_err(|error| DrillError::Program { program: "mariadb".to_owned(), how: error.to_string() })?;
        if output.status.success() { Ok(()) } else { Err(failed("mariadb", &output)) }
    }

    /// Plays the log from the dump's place to its end, or up to a time.
    fn play(&self, from: &Place, files: &[PathBuf], until: Option<Timestamp>) -> Result<()> {
        let log = named("mariadb-binlog").or_else(|_| named("mysqlbinlog"))?;
        let mut words = vec![format!("--start-position={}", from.position)];
        if let Some(until) = until {
            // It counts in whole seconds, in the zone of the environment.
            let until = until.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S");
            words.push(format!("--stop-datetime={until}"));
        }
        words.extend(files.iter().map(|file| file.display().to_string()));
        let output = self
            .stage
            .cell
            .command(As::User(USER), "bash")
            .env("TZ", "UTC")
            .args(["-c", PLAY, "bash", &self.client, &self.socket, &log])
            .args(&words)
            .output()
            .map_err(|error| DrillError::Program { program: log.clone(), how: error.to_string() })?;
        if output.status.success() { Ok(()) } else { Err(failed("mysqlbinlog", &output)) }
    }

    /// Ends the server in order: by its signal, because the loaded accounts need not let us in any more.
    fn stop(mut self) -> Result<()> {
        let pid = self.stage.run.join("mariadb.pid").display().to_string();
        let script =
            "p=$(cat \"$1\") && kill -TERM \"$p\" && while kill -0 \"$p\" 2>/dev/null; do sleep 0.1; done";
        self.stage.ask(As::User(USER), "sh", &["-c", script, "sh", &pid])?;
        self.child.wait().map_err(DrillError::file("end a service"))?;
        Ok(())
    }
}

/// A zone so many seconds ahead of UTC, as POSIX writes it: with the sign of the way back.
fn zone(ahead: i32) -> String {
    let (sign, back) = if ahead < 0 { ('+', ahead.unsigned_abs()) } else { ('-', ahead.unsigned_abs()) };
    format!("<SRC>{sign}{:02}:{:02}:{:02}", back / 3600, back / 60 % 60, back % 60)
}

/// The restore point's index, if its log is kept.
fn index(data: &Path) -> Option<Index> {
    serde_json::from_slice(&fs_err::read(data.join(FOLDER).join(INDEX)).ok()?).ok()
}

/// Loads and plays for good; the folder of the server is `cluster` below the run folder.
pub(super) fn recover(stage: &Stage<'_>, second: &Second) -> Result<Proven> {
    let file = stage.data.join("dump.sql");
    if !super::dump::ends_with(&file, TRAILER)? {
        let how = "is not a whole dump".to_owned();
        return Err(DrillError::Program { program: "dump.sql".to_owned(), how });
    }
    let running = Running::make(stage, second.utc_offset)?;
    running.load(&file)?;
    let files: Vec<PathBuf> = second.files.iter().map(|name| stage.data.join(FOLDER).join(name)).collect();
    running.play(&second.dump.at, &files, Some(second.to))?;
    // Nothing can be asked any more: accounts that the log changed need not let us in.
    running.stop()?;
    let last = second.files.last().cloned().unwrap_or_default();
    Ok(Proven {
        stopped: format!("dump loaded, binary log played up to {}", second.to),
        end: format!("{last} up to the time"),
        last_transaction: None,
        timeline: String::new(),
    })
}

pub(super) fn bring_up(stage: &Stage<'_>, pattern: &str) -> Result<()> {
    let Some(file) = newest(stage.data, pattern) else {
        stage.note("dump", pattern, "there is no such file in the restore point", false);
        return Ok(());
    };
    let check = named("mariadb-check")?;
    let index = index(stage.data);
    let utc_offset = index.as_ref().and_then(|index| index.utc_offset);
    let mut running = Running::make(stage, utc_offset)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let whole = super::dump::ends_with(&file, TRAILER)?;
    stage.note("trailer", &name, if whole { "complete" } else { "the dump ends too early" }, whole);
    match running.load(&file) {
        Ok(()) => stage.note("load", &name, "loaded", true),
        Err(error) => stage.note("load", &name, error.to_string(), false),
    }
    if let Some(index) = index {
        let files: Vec<PathBuf> = index
            .files
            .iter()
            .filter(|file| number(file) >= number(&index.dump.at.file))
            .map(|name| stage.data.join(FOLDER).join(name))
            .collect();
        let asked =
            format!("the binary log from the dump to {}:{}", index.end.at.file, index.end.at.position);
        match running.play(&index.dump.at, &files, None) {
            Ok(()) => stage.note("log", asked, "played", true),
            Err(error) => stage.note("log", asked, error.to_string(), false),
        }
        // Accounts that the log changed may not let us in; the questions are asked without them.
        running.stop()?;
        running = Running::start(stage, utc_offset, &["--skip-grant-tables"])?;
    }
    let own = "('information_schema','performance_schema','sys','mysql')";
    let tables = running.ask(
        "mysql",
        &format!("SELECT count(*) FROM information_schema.tables WHERE table_schema NOT IN {own}"),
    )?;
    stage.note("tables", "all databases", &tables, tables.parse::<u64>().is_ok_and(|count| count > 0));
    let words = ["--no-defaults", "--user=root", &running.socket, "--all-databases", "--silent"];
    let (answer, good) = match stage.ask(As::User(USER), &check, &words) {
        Ok(text) if text.trim().is_empty() => ("OK".to_owned(), true),
        Ok(text) => (text.chars().take(400).collect(), false),
        Err(error) => (error.to_string(), false),
    };
    stage.note("read_everything", "mariadb-check of every table", answer, good);
    questions(stage, &|database, sql| running.ask(database, sql));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::zone;

    #[test]
    fn a_zone_is_written_as_posix_wants_it() {
        assert_eq!(zone(9 * 3600), "<SRC>-09:00:00");
        assert_eq!(zone(0), "<SRC>-00:00:00");
        assert_eq!(zone(-(3 * 3600 + 1800)), "<SRC>+03:30:00");
    }
}
