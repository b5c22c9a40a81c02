//! Bringing restored data up and asking it questions, one file a kind of service. Each takes the restored
//! folder, starts the real server on it in the cell, and notes what each probe said. What a probe finds is
//! in the notes; an error is only what keeps the rest from being asked.

mod dump;
mod mariadb;
mod orthanc;
mod postgres;
mod share;

use std::{path::Path, process::Child, time::Duration};

use kuramori_model::clock::Clock;
use serde::{Deserialize, Serialize};

use crate::{
    DrillError, Result,
    cell::{As, Cell, failed},
    profile::{Profile, Service},
};

/// What one probe asked and heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Stable name: `pg_verifybackup`, `query`, `manifest`.
    pub name: String,
    /// What was asked.
    pub asked: String,
    /// What came back.
    pub answer: String,
    /// What had to come back, where that was known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// Whether it is as it has to be.
    pub good: bool,
}

/// What every service is given.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) profile: &'a Profile,
    /// The restored data.
    pub(crate) data: &'a Path,
    /// Sockets, configuration, logs.
    pub(crate) run: &'a Path,
    /// Answers of the last drill that passed, by question.
    pub(crate) before: &'a [Probe],
    /// Boot time at which the service answered.
    pub(crate) answered: std::cell::Cell<Option<Duration>>,
    pub(crate) probes: std::cell::RefCell<Vec<Probe>>,
}

impl Stage<'_> {
    /// Notes a probe.
    pub(crate) fn note(&self, name: &str, asked: impl Into<String>, answer: impl Into<String>, good: bool) {
        self.probe(name, asked, answer, None, good);
    }

    /// Notes a probe whose answer was known before.
    pub(crate) fn probe(
        &self,
        name: &str,
        asked: impl Into<String>,
        answer: impl Into<String>,
        expected: Option<String>,
        good: bool,
    ) {
        let (name, asked, answer) = (name.to_owned(), asked.into(), answer.into());
        self.probes.borrow_mut().push(Probe { name, asked, answer, expected, good });
    }

    /// Waits until the service answers, but not longer than the profile allows, and not for a dead one.
    pub(crate) fn wait(
        &self,
        name: &str,
        child: &mut Child,
        log: &Path,
        mut answers: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = self.clock.boot() + Duration::from_secs(self.profile.patience_s);
        loop {
            if answers()? {
                self.answered.set(Some(self.clock.boot()));
                return Ok(());
            }
            let ended = child.try_wait().map_err(DrillError::file("look at a service"))?;
            let said = || {
                let text = fs_err::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let end = lines[lines.len().saturating_sub(3)..].join(" / ");
                end.chars().take(600).collect::<String>()
            };
            if let Some(status) = ended {
                let how = format!("ended with {status} instead of answering: {}", said());
                return Err(DrillError::Program { program: name.to_owned(), how });
            }
            if self.clock.boot() > deadline {
                let how = format!("did not answer within {} s: {}", self.profile.patience_s, said());
                return Err(DrillError::Program { program: name.to_owned(), how });
            }
            self.clock.sleep(Duration::from_millis(100));
        }
    }

    /// Runs a program in the cell; its answer, or why not.
    pub(crate) fn ask(&self, who: As<'_>, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.cell.run(who, program, arguments)?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(failed(program, &output))
        }
    }

    /// The last passed drill's answer to the same question.
    pub(crate) fn last(&self, name: &str, asked: &str) -> Option<&str> {
        self.before
            .iter()
            .find(|probe| probe.name == name && probe.asked == asked && probe.good)
            .map(|probe| probe.answer.as_str())
    }
}

/// Brings the data up and asks everything. An error is noted as a bad probe by the caller.
pub(crate) fn bring_up(stage: &Stage<'_>, service: &Service) -> Result<()> {
    match service {
        Service::Files => {
            stage.answered.set(Some(stage.clock.boot()));
            Ok(())
        }
        Service::Share => share::bring_up(stage),
        Service::Postgres { superuser } => postgres::bring_up(stage, superuser),
        Service::PostgresDump { file, database } => dump::bring_up(stage, file, database),
        Service::MariadbDump { file } => mariadb::bring_up(stage, file),
        Service::Orthanc { folder } => orthanc::bring_up(stage, folder),
    }
}

/// The profile's own checks of the restored files.
pub(crate) fn own_checks(stage: &Stage<'_>, user: &str) -> Result<()> {
    for path in &stage.profile.must_exist {
        let there = fs_err::symlink_metadata(stage.data.join(path)).is_ok();
        stage.note("must_exist", path, if there { "there" } else { "missing" }, there);
    }
    if stage.profile.sums.is_empty() && stage.profile.command.is_empty() {
        return Ok(());
    }
    stage.cell.give(user, stage.data)?;
    let data = stage.data.display().to_string();
    for sums in &stage.profile.sums {
        let script = "cd \"$1\" && exec sha256sum --quiet --strict --check \"$2\"";
        let output = stage.cell.run(As::User(user), "sh", &["-c", script, "sh", &data, sums])?;
        let answer =
            if output.status.success() { "OK".to_owned() } else { failed("sha256sum", &output).to_string() };
        stage.note("sums", sums, answer, output.status.success());
    }
    for command in &stage.profile.command {
        let words: Vec<String> = command.run.iter().map(|word| word.replace("{data}", &data)).collect();
        let Some((program, arguments)) = words.split_first() else { continue };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (answer, good) = match stage.ask(As::User(user), program, &arguments) {
            Ok(answer) => (answer.chars().take(400).collect(), true),
            Err(error) => (error.to_string(), false),
        };
        stage.note("command", format!("{}: {}", command.name, words.join(" ")), answer, good);
    }
    Ok(())
}

/// Asks the profile's questions of a database and notes what came back.
fn questions(stage: &Stage<'_>, ask: &dyn Fn(&str, &str) -> Result<String>) {
    for query in &stage.profile.query {
        let asked = format!("{}: {}", query.database, query.sql);
        let answer = match ask(&query.database, &query.sql) {
            Ok(answer) => answer,
            Err(error) => {
                stage.note("query", asked, error.to_string(), false);
                continue;
            }
        };
        let number = |text: &str| text.trim().parse::<i64>().ok();
        let mut good = true;
        let mut expected = Vec::new();
        if let Some(equals) = &query.equals {
            good &= *equals == answer;
            expected.push(format!("= {equals}"));
        }
        if let Some(least) = query.at_least {
            good &= number(&answer).is_some_and(|number| number >= least);
            expected.push(format!(">= {least}"));
        }
        if query.grows {
            match stage.last("query", &asked).and_then(number) {
                Some(last) => {
                    good &= number(&answer).is_some_and(|number| number >= last);
                    expected.push(format!(">= {last}"));
                }
                // The first drill has nothing to compare with, but a number it must be.
                None => good &= number(&answer).is_some(),
            }
        }
        let expected = (!expected.is_empty()).then(|| expected.join(", "));
        stage.probe("query", asked, answer, expected, good);
    }
}

/// Loads a dump and its binary log into an empty server, and ends it in order.
pub(crate) fn mariadb_recover(
    stage: &Stage<'_>,
    second: &crate::binlog::Second,
) -> Result<crate::moment::Proven> {
    mariadb::recover(stage, second)
}

/// Starts PostgreSQL on restored data until it has recovered, and ends it in order.
pub(crate) fn postgres_recover(stage: &Stage<'_>, superuser: &str) -> Result<crate::moment::Proven> {
    postgres::recover(stage, superuser)
}

/// Starts PostgreSQL on restored data and gives one table of it as a dump.
pub(crate) fn postgres_table(
    stage: &Stage<'_>,
    superuser: &str,
    database: &str,
    table: &str,
) -> Result<String> {
    postgres::open(stage, superuser)?.dump_table(database, table)
}
