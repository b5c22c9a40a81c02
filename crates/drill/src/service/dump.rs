//! A database dump, loaded into an empty PostgreSQL server in the cell: a dump that only looks like one, or
//! that ends too early, does not load.

use std::{
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    Stage,
    postgres::{DRILL, USER, programs, start},
};
use crate::{DrillError, Result, cell::As};

/// What the end of a plain dump says.
const TRAILER: &[u8] = b"PostgreSQL database dump complete";

pub(super) fn bring_up(stage: &Stage<'_>, pattern: &str, database: &str) -> Result<()> {
    let Some(file) = newest(stage.data, pattern) else {
        stage.note("dump", pattern, "there is no such file in the restore point", false);
        return Ok(());
    };
    let version = installed().ok_or_else(|| DrillError::Program {
        program: "postgres".to_owned(),
        how: "is not installed here (Debian: postgresql)".to_owned(),
    })?;
    let programs = programs(&version)?;
    stage.cell.give(USER, stage.data)?;
    stage.cell.give(USER, stage.run)?;
    let cluster = stage.run.join("cluster");
    let cluster_text = cluster.display().to_string();
    stage.ask(
        As::User(USER),
        &programs.join("initdb").display().to_string(),
        &[
            "-D",
            &cluster_text,
            "-U",
            "postgres",
            "-A",
            "trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ],
    )?;
    let running = start(stage, programs, &cluster, "postgres", DRILL)?;
    if database != "postgres" {
        running.client("createdb", &[database])?;
    }
    let (name, custom, whole) = look(&file)?;
    let path = file.display().to_string();
    let loaded = if custom {
        running.client(
            "pg_restore",
            &["--exit-on-error", "--no-owner", "--no-privileges", "-d", database, &path],
        )
    } else {
        stage.note("trailer", &name, if whole { "complete" } else { "the dump ends too early" }, whole);
        running.client("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", &path])
    };
    match loaded {
        Ok(_) => stage.note("load", &name, "loaded", true),
        Err(error) => stage.note("load", &name, error.to_string(), false),
    }
    let tables = running.ask(
        database,
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'",
    )?;
    stage.note("tables", database, &tables, tables.parse::<u64>().is_ok_and(|count| count > 0));
    running.questions();
    Ok(())
}

/// Its name, whether it is a custom archive, and for a plain dump whether its end is there.
fn look(file: &Path) -> Result<(String, bool, bool)> {
    let wrong = DrillError::file("read the dump");
    let mut handle = fs_err::File::open(file).map_err(&wrong)?;
    let mut magic = [0; 5];
    let custom = handle.read_exact(&mut magic).is_ok() && &magic == b"PGDMP";
    drop(handle);
    let whole = ends_with(file, TRAILER)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, custom, whole))
}

/// Whether a mark stands in the last 4 KiB of a file.
pub(super) fn ends_with(file: &Path, mark: &[u8]) -> Result<bool> {
    let wrong = DrillError::file("read the dump");
    let mut handle = fs_err::File::open(file).map_err(&wrong)?;
    let length = handle.metadata().map_err(&wrong)?.len();
    handle.seek(SeekFrom::Start(length.saturating_sub(4096))).map_err(&wrong)?;
    let mut end = Vec::new();
    handle.read_to_end(&mut end).map_err(&wrong)?;
    Ok(end.windows(mark.len()).any(|window| window == mark))
}

/// The file that fits the pattern and whose name is the last in order: dumps carry their date in it.
pub(super) fn newest(data: &Path, pattern: &str) -> Option<PathBuf> {
    let (folder, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let mut fitting: Vec<PathBuf> = fs_err::read_dir(data.join(folder))
        .ok()?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter(|entry| fits(name, &entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    fitting.sort();
    fitting.pop()
}

/// `*` matches any run of characters.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last_is_open = false;
    let parts: Vec<&str> = parts.collect();
    for (at, part) in parts.iter().enumerate() {
        if at + 1 == parts.len() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(found) => rest = &rest[found + part.len()..],
            None => return false,
        }
        last_is_open = true;
    }
    !last_is_open && rest.is_empty()
}

/// The newest installed major version.
fn installed() -> Option<String> {
    fs_err::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .map(|version| version.to_string())
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_pattern_fits_what_it_says() {
        assert!(fits("dump_*.sql", "dump_20261122.sql") && fits("a.sql", "a.sql") && fits("*", "x"));
        assert!(
            !fits("dump_*.sql", "dump_20261122.sql.part")
                && !fits("a.sql", "a.sql2")
                && !fits("a*b*c", "acb")
        );
    }
}
