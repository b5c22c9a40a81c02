//! What other backup products say about their jobs: received by post or read from a result file, kept in the
//! receiver's order, judged like our own.
//!
//! A post is an upload to the repository server: `POST https://ADDRESS/job-SYSTEM/snapshots/<sha256>` with
//! the system's own login, which reaches its own shelf and no other. So nothing new listens, an upload that was cut is not stored, the same document
//! twice is one, and nobody can take a document back. A vault's login can read the shelves in its next window;
//! that is the only way in which a wish to open the gate ever travels.

use std::io::Read;

use kuramori_catalog::System;
use kuramori_judge::foreign::{self, Recorded};
use kuramori_model::{
    finding::{Finding, Severity},
    foreign::{JobResult, JobState, MOST_BYTES},
    ids::SystemId,
    tree::{Entry, Sink, SinkError, TreePath},
    units::Bytes,
};
use kuramori_serve::FileName;
use kuramori_source::config::{ForeignConfig, Pull};

use crate::{
    App, ServerError,
    error::Result,
    logins::{Grant, SHELF},
};

/// Most that a shelf may hold.
const QUOTA: u64 = 256 << 20;

/// The entry's other product, if one protects the system.
pub(crate) fn of(system: &System) -> Option<ForeignConfig> {
    let config: kuramori_source::Config = serde_json::from_value(system.source.clone()).ok()?;
    match config.innermost() {
        kuramori_source::Config::Foreign(foreign) => Some(foreign.clone()),
        _ => None,
    }
}

/// Whether our scheduler has anything to read there: a product may only post.
pub(crate) fn only_posts(system: &System) -> bool {
    of(system).is_some_and(|config| config.share.is_none())
}

/// Whether restore points of ours are made of it.
pub(crate) fn is_pulled(config: &ForeignConfig) -> bool {
    config.share.is_some() && config.pull == Pull::Folder
}

/// A sink for runs that take no data.
#[derive(Debug)]
pub(crate) struct Nothing;

impl Sink for Nothing {
    fn known(&mut self, _: &Entry) -> bool {
        false
    }

    fn keep(&mut self, _: Entry) -> std::result::Result<(), SinkError> {
        Err(SinkError("this run takes no data".into()))
    }

    fn put(&mut self, _: Entry, _: &mut dyn Read) -> std::result::Result<(), SinkError> {
        Err(SinkError("this run takes no data".into()))
    }

    fn seal(&mut self, _: &TreePath) -> std::result::Result<(), SinkError> {
        Ok(())
    }

    fn fault(&mut self, _: &TreePath, _: String) {}
}

impl App {
    /// The recorded results of a system, oldest first.
    pub(crate) async fn results(&self, system: &SystemId) -> Result<Vec<Recorded>> {
        Ok(self.catalog.results(system).await?)
    }

    /// Records a result under our number and time. One that is known changes nothing.
    pub(crate) async fn record_result(&self, result: JobResult, way: &str) -> Result<bool> {
        let system = result.system.clone();
        let data = serde_json::json!({
            "product": result.product, "job": result.job, "state": result.state, "ended": result.ended, "way": way,
        });
        let kind = if result.state == JobState::Request { "gate.requested" } else { "foreign.result" };
        if self.catalog.add_result(&result, way).await?.is_none() {
            return Ok(false);
        }
        self.event("product", kind, Some(&system), &data).await?;
        self.work.notify_one();
        Ok(true)
    }

    /// A login with which a product's script may post; gives its password.
    pub(crate) async fn grant_results(&self, system: &SystemId) -> Result<String> {
        let name = shelf(system);
        let shelf = self.repository_folder(&name);
        for kind in ["snapshots", "data", "index", "keys", "locks"] {
            fs_err::create_dir_all(shelf.join(kind)).map_err(ServerError::file("make the results' shelf"))?;
        }
        let grant = Grant::Append { repository: name.clone(), quota: Some(Bytes(QUOTA)) };
        self.logins.grant(&self.catalog, &name, grant, self.random.as_ref()).await
    }
}

/// A system's shelf, and the login that reaches it.
pub(crate) fn shelf(system: &SystemId) -> String {
    format!("{SHELF}{system}")
}

/// Reads a document that has just arrived on a system's shelf. What it says about another system is refused
/// and told.
pub(crate) async fn read(app: &App, system: &SystemId, name: FileName) -> Result<()> {
    let path = app.repository_folder(&shelf(system)).join("snapshots").join(name.to_string());
    let wrong = ServerError::file("read a job's result");
    if fs_err::metadata(&path).map_err(&wrong)?.len() > MOST_BYTES {
        refuse(app, system, "it is too large");
        return Ok(());
    }
    let result = match JobResult::parse(&fs_err::read(path).map_err(&wrong)?) {
        Ok(result) => result,
        Err(error) => {
            refuse(app, system, &error.to_string());
            return Ok(());
        }
    };
    if result.system != *system {
        refuse(app, system, &format!("it speaks about `{}`", result.system));
        return Ok(());
    }
    app.record_result(result, "post").await.map(drop)
}

/// Reads again what lies there: the ear may have missed some.
pub(crate) async fn catch_up(app: &App) -> Result<()> {
    for registered in app.catalog.systems().await? {
        let system = registered.system.id;
        let folder = app.repository_folder(&shelf(&system)).join("snapshots");
        if !folder.is_dir() {
            continue;
        }
        let mut found = Vec::new();
        for entry in fs_err::read_dir(folder).map_err(ServerError::file("list the results"))? {
            let entry = entry.map_err(ServerError::file("list the results"))?;
            let written = entry.metadata().and_then(|about| about.modified()).ok();
            found.extend(FileName::parse(&entry.file_name().to_string_lossy()).map(|name| (written, name)));
        }
        found.sort_unstable_by_key(|(written, _)| *written);
        // Older ones were read when they came; the records hold no more than these.
        let skip = found.len().saturating_sub(foreign::HISTORY / 2);
        for (_, name) in found.into_iter().skip(skip) {
            if let Err(error) = read(app, &system, name).await {
                tracing::warn!(%name, "a job's result cannot be used: {}", kuramori_model::fault::chain(&error));
            }
        }
    }
    Ok(())
}

pub(crate) fn refuse(app: &App, system: &SystemId, why: &str) {
    tracing::warn!(%system, why, "a posted result cannot be used");
    app.refused.note(
        Finding::new("foreign.bad-result", Severity::Warning, "check-login").of(system).with("why", why),
    );
}
