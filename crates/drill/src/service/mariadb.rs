//! A dump of MariaDB or MySQL, loaded into an empty server in the cell, every table checked, then the
//! profile's questions.

use super::{Stage, dump::newest, questions};
use crate::{
    DrillError, Result,
    cell::{As, failed, program},
};

pub(super) const USER: &str = "mysql";
/// What the client writes last.
const TRAILER: &[u8] = b"-- Dump completed";

pub(super) fn bring_up(stage: &Stage<'_>, pattern: &str) -> Result<()> {
    let Some(file) = newest(stage.data, pattern) else {
        stage.note("dump", pattern, "there is no such file in the restore point", false);
        return Ok(());
    };
    let named = |name: &str| -> Result<String> {
        program(name).map(|path| path.display().to_string()).ok_or_else(|| DrillError::Program {
            program: name.to_owned(),
            how: "is not installed here (Debian: mariadb-server)".to_owned(),
        })
    };
    let (server, install, client, check) =
        (named("mariadbd")?, named("mariadb-install-db")?, named("mariadb")?, named("mariadb-check")?);
    stage.cell.give(USER, stage.data)?;
    stage.cell.give(USER, stage.run)?;
    let (cluster, socket) = (stage.run.join("cluster"), stage.run.join("mariadb.sock"));
    let (cluster, socket) = (cluster.display().to_string(), socket.display().to_string());
    stage.ask(
        As::User(USER),
        &install,
        &[
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            &format!("--datadir={cluster}"),
        ],
    )?;
    let log = stage.run.join("mariadb.log");
    let mut command = stage.cell.command(As::User(USER), &server);
    command
        .args(["--no-defaults", "--skip-networking", "--innodb-buffer-pool-size=64M", "--skip-log-bin"])
        .args([format!("--datadir={cluster}"), format!("--socket={socket}")])
        .arg(format!("--pid-file={}", stage.run.join("mariadb.pid").display()))
        .current_dir("/");
    let mut child = stage.cell.start(command, "mariadbd", &log)?;
    let socket = format!("--socket={socket}");
    let login = ["--no-defaults", "--user=root", &socket];
    let ask = |database: &str, sql: &str| {
        let words = ["--batch", "--skip-column-names", "--database", database, "-e", sql];
        let answer = stage.ask(As::User(USER), &client, &[&login[..], &words].concat())?;
        Ok(answer.replace('\t', "|"))
    };
    stage.wait("mariadbd", &mut child, &log, || Ok(ask("mysql", "SELECT 1").is_ok()))?;

    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let whole = super::dump::ends_with(&file, TRAILER)?;
    stage.note("trailer", &name, if whole { "complete" } else { "the dump ends too early" }, whole);
    let dump = fs_err::File::open(&file).map_err(DrillError::file("read the dump"))?.into_parts().0;
    let output = stage
        .cell
        .command(As::User(USER), &client)
        .args(login)
        .args(["--max-allowed-packet=1G", "--database", "mysql"])
        .stdin(dump)
        .output()
        .map_err(|error| DrillError::Program { program: "mariadb".to_owned(), how: error.to_string() })?;
    let loaded = output.status.success();
    let answer = if loaded { "loaded".to_owned() } else { failed("mariadb", &output).to_string() };
    stage.note("load", &name, answer, loaded);
    let own = "('information_schema','performance_schema','sys','mysql')";
    let tables = ask(
        "mysql",
        &format!("SELECT count(*) FROM information_schema.tables WHERE table_schema NOT IN {own}"),
    )?;
    stage.note("tables", "all databases", &tables, tables.parse::<u64>().is_ok_and(|count| count > 0));
    let checked = stage.ask(As::User(USER), &check, &[&login[..], &["--all-databases", "--silent"]].concat());
    let (answer, good) = match checked {
        Ok(text) if text.trim().is_empty() => ("OK".to_owned(), true),
        Ok(text) => (text.chars().take(400).collect(), false),
        Err(error) => (error.to_string(), false),
    };
    stage.note("read_everything", "mariadb-check of every table", answer, good);
    questions(stage, &ask);
    Ok(())
}
